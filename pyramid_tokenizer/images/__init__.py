"""Images: from anything image-like to a batch and back, the sources that images come from, and labelled sets."""

from pyramid_tokenizer.images.crops import RandomCrops, read_skip_log
from pyramid_tokenizer.images.files import find_images
from pyramid_tokenizer.images.folders import FolderListing, list_folder
from pyramid_tokenizer.images.pixels import pad_to_multiple, to_pil, to_uint8
from pyramid_tokenizer.images.read import DEFAULT_MAX_PIXELS, IMAGE_RECIPE_VERSION, ImageLike, read_image, to_batch
from pyramid_tokenizer.images.sources import ImageSource, open_images, read_resized

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_RECIPE_VERSION",
    "FolderListing",
    "ImageLike",
    "ImageSource",
    "RandomCrops",
    "find_images",
    "list_folder",
    "open_images",
    "pad_to_multiple",
    "read_image",
    "read_resized",
    "read_skip_log",
    "to_batch",
    "to_pil",
    "to_uint8",
]
