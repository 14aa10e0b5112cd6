"""The files that the page offers: tokens, the decoded image, and masks."""

from __future__ import annotations

from pathlib import Path

from pyramid_tokenizer.app.views import Decoded, Masks
from pyramid_tokenizer.app.workbench import TOKEN_SUFFIX, Opened
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.labelled.labels import label_image

_LONGEST_NAME = 60  # characters; a file system counts 255 bytes


def save_decoded(decoded: Decoded, opened: Opened, folder: Path) -> tuple[Path, Path]:
    """Writes the tokens of a prefix, NAME.tokens, and what they decode to, NAME.decoded.png; returns both paths.

    Args:
        decoded: The prefix.
        opened: The image.
        folder: Exists; older files of these names are replaced.
    """
    tokens, image = _paths(opened, folder, TOKEN_SUFFIX, ".decoded.png")
    decoded.tokens.save(tokens)
    save_image(decoded.image, image)
    return tokens, image


def save_masks(masks: Masks, opened: Opened, folder: Path) -> tuple[Path, Path]:
    """Writes the masks over the photo, NAME.masks.png, and the labels, NAME.labels.png as `segment --labels` does.

    Args:
        masks: What was found.
        opened: The image.
        folder: Exists; older files of these names are replaced.
    """
    image, labels = _paths(opened, folder, ".masks.png", ".labels.png")
    save_image(masks.image, image)
    save_image(label_image(masks.labels, len(masks.names)), labels)
    return image, labels


def _paths(opened: Opened, folder: Path, *suffixes: str) -> list[Path]:
    return [folder / f"{opened.name[:_LONGEST_NAME]}{suffix}" for suffix in suffixes]
