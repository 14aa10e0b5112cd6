"""The files that the page offers: tokens, the decoded image, and masks."""

from __future__ import annotations

from pathlib import Path

from pyramid_tokenizer.app.views import Decoded, Masks
from pyramid_tokenizer.app.workbench import TOKEN_SUFFIX, Opened
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.labelled.labels import label_image


def save_decoded(decoded: Decoded, opened: Opened, folder: Path) -> tuple[Path, Path]:
    """Writes the tokens of a prefix, NAME.tokens, and what they decode to, NAME.decoded.png; returns both paths.

    Args:
        decoded: The prefix.
        opened: The image.
        folder: Exists; older files of these names are replaced.
    """
    tokens, image = (folder / f"{opened.name}{suffix}" for suffix in (TOKEN_SUFFIX, ".decoded.png"))
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
    image, labels = (folder / f"{opened.name}{suffix}" for suffix in (".masks.png", ".labels.png"))
    save_image(masks.image, image)
    save_image(label_image(masks.labels, len(masks.names)), labels)
    return image, labels
