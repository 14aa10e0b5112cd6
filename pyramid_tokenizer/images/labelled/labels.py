"""What the numbers in a map of labels mean, besides 0 to N - 1, which are indices into a list of N class names."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

NO_CLASS = -1
"""In predicted maps: the pixel shows none of the classes; it belongs to the background."""

IGNORED = -1
"""In labelled sets: it is not known what the pixel shows, so that it counts neither in training nor in a score. Files of sets
write 255, 65535, 459 or 0 for it.

Both are -1 and never meet: one stands in what a model predicts, the other in what it is compared with.
"""


def label_image(labels: Tensor, num_classes: int) -> Image.Image:
    """Labels as an image of 8 bits per pixel, or of 16 for more than 255 classes; `NO_CLASS` becomes the highest value.

    Args:
        labels: (H, W) int64 on the CPU: the index of each pixel's class, or `NO_CLASS`.
        num_classes: How many classes there are, at most 65,535.

    Example:
        >>> import torch
        >>> np.asarray(label_image(torch.tensor([[0, 2, -1]]), 3)).tolist()
        [[0, 2, 255]]
    """
    # unsigned integers wrap -1 around to their highest value
    return Image.fromarray(labels.numpy().astype(np.uint8 if num_classes <= 255 else np.uint16))


def size_mismatch(image: tuple[int, ...], labels: tuple[int, ...], name: str) -> str:
    """The message of an error about an image and labels of different sizes, with where each size comes from.

    Args:
        image: Height and width of the image file, upright.
        labels: Height and width of the label file.
        name: Name of the sample.

    Example:
        >>> size_mismatch((4, 6), (6, 4), "a").split(": ")[1]
        'the sides are swapped, so apply the EXIF orientation of the image to the labels'
    """
    if labels == image[::-1]:
        fix = "the sides are swapped, so apply the EXIF orientation of the image to the labels"
    else:
        fix = (
            "make the labels at the image's own size (`segment` does so without --output-size resized), or resize them"
        )
    return (
        f"expected labels of the size of their image, got {image[1]}x{image[0]} px from the image file and "
        f"{labels[1]}x{labels[0]} px from the label file of {name!r}: {fix}"
    )
