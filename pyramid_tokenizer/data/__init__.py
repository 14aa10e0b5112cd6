"""Images to train on: where they are and how crops are drawn from them."""

from pyramid_tokenizer.data.crops import RandomCrops, read_skip_log
from pyramid_tokenizer.data.files import find_images
from pyramid_tokenizer.data.sources import ImageSource, open_images

__all__ = ["ImageSource", "RandomCrops", "find_images", "open_images", "read_skip_log"]
