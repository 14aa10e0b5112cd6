"""Images to train on: where they are and how crops are drawn from them."""

from pyramid_tokenizer.data.crops import RandomCrops, find_images

__all__ = ["RandomCrops", "find_images"]
