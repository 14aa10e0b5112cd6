"""The model card: README.md of a saved model, for people who find it on the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyramid_tokenizer.config.models import LevelConfig, TokenizerConfig

TAGS = ("image-tokenizer", "vector-quantization", "clip")
"""Words that the model is found by on the Hub."""
_PLACEHOLDER = "path/or/user/repo"
PIPELINE_TAG = "image-feature-extraction"
"""The Hub's task that is nearest to what a tokenizer does."""


def model_card(config: TokenizerConfig, *, fingerprint: str, evaluation: Mapping[str, Any] | None = None) -> str:
    """The text of README.md: how to use the model, its levels, and the figures of a saved evaluation.

    It names no licence, because that follows from the backbone and the training images: whoever publishes the model adds it,
    by `push_to_hub(license=...)` or `add_to_card`.

    Args:
        config: The model's config.
        fingerprint: The tokenizer's fingerprint.
        evaluation: The report.json of `pyramid-tokenizer evaluate reconstruction`, or what
            `benchmarks/reconstruction.py --json` wrote: "protocol", "date" and "rows" of "what", "bits_per_pixel", "psnr",
            "ssim". Figures of a tokenizer with another fingerprint are left out.

    Returns:
        Markdown that begins with the Hub's YAML header.
    """
    from huggingface_hub import ModelCard, ModelCardData

    rows = _rows(evaluation, fingerprint)
    measured = [name for name in ("psnr", "ssim") if any(row.get(name) is not None for row in rows)]
    header = ModelCardData(
        library_name="pyramid-tokenizer", pipeline_tag=PIPELINE_TAG, tags=list(TAGS), metrics=measured or None
    )
    return str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n{_body(config, fingerprint, evaluation)}"))


def add_to_card(card: str, *, repo_id: str | None = None, **header: Any) -> str:
    r"""The card with more in its header, and with the name that its example loads.

    Args:
        card: The text of README.md.
        repo_id: Where the model is published: "user/repo".
        header: Fields of the Hub's header, such as `license`, `license_name`, `datasets`, `metrics`; None leaves one out.

    Example:
        >>> add_to_card("---\nlibrary_name: a\n---\n# A card\n", license="mit", datasets=["coco"]).splitlines()[1:5]
        ['library_name: a', 'datasets:', '- coco', 'license: mit']
    """
    from huggingface_hub import ModelCard

    changed = ModelCard(card, ignore_metadata_errors=True)
    for name, value in header.items():
        if value is not None:
            setattr(changed.data, name, value)
    return str(changed) if repo_id is None else str(changed).replace(f'"{_PLACEHOLDER}"', f'"{repo_id}"')


def weight_terms(directory: Path) -> str:
    """The terms of a model's weights, as the header of its card names them, in a few words.

    Args:
        directory: Of a saved model.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError  # comes with huggingface_hub

    try:
        header = ModelCard.load(directory / "README.md", ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, YAMLError):
        return "none named: the model has no card that can be read"
    if not header.get("license"):
        return "none named; they follow from the backbone and the training images"
    name = header.get("license_name")
    return f"{header['license']}, {name} (see its card)" if name else str(header["license"])


def _body(config: TokenizerConfig, fingerprint: str, evaluation: Mapping[str, Any] | None) -> str:
    backbone = (
        f"{config.backbone.name} ({config.backbone.pretrained})" if config.backbone.name else "included in `backbone/`"
    )
    levels = "\n".join(
        _level_row(index, level, is_detail=index >= config.quantizer.base_levels)
        for index, level in enumerate(config.quantizer.levels)
    )
    image = config.quantizer.image_codebooks
    image_tokens = f"- image tokens: {len(image)}, of {', '.join(map(str, image))} codes\n" if image else ""
    return f"""# A pyramid-tokenizer model

Turns an image into a pyramid of discrete tokens over a frozen CLIP backbone, and tokens back into pixels.

```python
from pyramid_tokenizer import PyramidTokenizer
tok = PyramidTokenizer.from_pretrained("{_PLACEHOLDER}")
tokens = tok.encode("photo.jpg")   # ids of every level, coarse to fine
images = tok.decode(tokens)         # (1, 3, H, W) in [0, 1]
```

- backbone: {backbone}
- composition of the levels: {config.quantizer.composition}
{image_tokens}- fingerprint: `{fingerprint}`

| level | stride, px | codes | dimensions | distance | bits per pixel |
|---|---|---|---|---|---|
{levels}

## Figures

{_figures(evaluation, fingerprint)}

## Terms

The code of pyramid-tokenizer is under the Apache-2.0 licence. The terms of these weights are another matter: they follow from the
backbone and from the images that the model was trained on. Where the header of this card names no licence, nobody has named any.
"""


def _level_row(index: int, level: LevelConfig, *, is_detail: bool) -> str:
    rate = math.log2(level.codebook_size) / level.stride**2
    name = f"{index} (detail: left out unless asked for)" if is_detail else f"{index}"
    return f"| {name} | {level.stride} | {level.codebook_size} | {level.dim} | {level.distance} | {rate:.4f} |"


def _rows(evaluation: Mapping[str, Any] | None, fingerprint: str) -> list[Mapping[str, Any]]:
    """The figures that were measured for this fingerprint."""
    if not evaluation or evaluation.get("fingerprint", fingerprint) != fingerprint:
        return []
    return list(evaluation.get("rows") or [])


def _figures(evaluation: Mapping[str, Any] | None, fingerprint: str) -> str:
    if not evaluation or not evaluation.get("rows"):
        return "None measured yet."
    if evaluation.get("fingerprint", fingerprint) != fingerprint:
        return "None measured yet for this fingerprint."
    rows = [
        f"| {row['what']} | "
        + " | ".join(_number(row.get(key), digits) for key, digits in (("bits_per_pixel", 3), ("psnr", 2), ("ssim", 3)))
        + " |"
        for row in evaluation["rows"]
    ]
    source = ", ".join(str(evaluation[key]) for key in ("protocol", "date") if evaluation.get(key))
    return "\n".join(
        [*([source, ""] if source else []), "| what | bits per pixel | PSNR, dB | SSIM |", "|---|---|---|---|", *rows]
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
