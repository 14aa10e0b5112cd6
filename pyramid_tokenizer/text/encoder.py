"""`TextEncoder`: phrases -> prompts -> unit embeddings, remembered in memory and on disk."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import BackboneError, ConfigError
from pyramid_tokenizer.text.cache import EmbeddingCache, text_fingerprint
from pyramid_tokenizer.text.embeddings import VocabularyEmbeddings
from pyramid_tokenizer.text.names import as_list, clean_text, parse_names

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}",),
    "default": ("a photo of a {}", "an image of {}", "a photo of the {}", "a photo of the {} in the scene"),
}
"""Sets of prompts by name; "{}" is where a phrase goes."""

# What is held beside the answer does not grow with the number of names; large enough to fill a backbone's batch.
_PROMPTS_PER_CALL = 256
_MEMO_PHRASES = 20_000  # 40 MB at 512 dimensions


class TextNetwork(Protocol):
    """What is needed of a `Backbone`."""

    embedding_dim: int
    """D, dimensions of the space that images and words share."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 of unit norm, one row a text."""
        ...


class TextEncoder:
    """Phrases -> embeddings, each the mean over prompt templates; remembers what it has encoded, on disk too if asked to.

    What is remembered holds for the backbone's weights at first use: make a new encoder when they change. Embeddings of the same
    phrase may differ in the last bits between batches and machines; a remembered one comes back bit for bit.

    Source:
        Prompt ensembling in the embedding space: CLIP (arXiv 2103.00020), section 3.1.4.

    Example:
        >>> from pyramid_tokenizer.backbones import ToyBackbone
        >>> encoder = TextEncoder(ToyBackbone())
        >>> words = encoder.encode_names(["car|automobile", "dog"], background=["road", "sky"])
        >>> words.names, words.embeddings.shape, words.has_background
        (('car', 'dog'), torch.Size([5, 16]), True)
    """

    def __init__(
        self,
        backbone: TextNetwork,
        *,
        templates: str | Sequence[str] = "default",
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        """Encodes nothing yet.

        Args:
            backbone: A loaded backbone; see `load_backbone`.
            templates: A name in `TEMPLATES`, or prompts of your own with one "{}" each.
            cache_dir: Folder to keep embeddings in, "auto" for the user's own (see `EmbeddingCache`), None for memory only.

        Raises:
            ConfigError: No set of that name, no template, or one without exactly one "{}".
        """
        self.backbone = backbone
        self.templates = _read_templates(templates)
        self._cache_dir = cache_dir
        self._memo: dict[str, Tensor] = {}

    def encode_names(self, names: Sequence[str], *, background: Sequence[str] | None = None) -> VocabularyEmbeddings:
        """The embeddings of classes; see `parse_names` for what names may be, `encode` for how they are made.

        Raises:
            ConfigError: As for `parse_names`.
            BackboneError: As for `encode`.
        """
        classes = parse_names(names, background=background)
        return VocabularyEmbeddings(names=classes.names, embeddings=self.encode(classes.phrases), owner=classes.owner)

    def encode(self, phrases: Sequence[str]) -> Tensor:
        """(P, D) float32 on the CPU: unit rows, each the mean of a phrase's prompts, in the order given.

        Args:
            phrases: Texts as they are, "|" among them; repeated ones are encoded once. Prompts beyond the model's context
                length are cut.

        Raises:
            ConfigError: One bare string, or an entry that is empty or no text.
            BackboneError: NaN or infinite embeddings.
        """
        listed = as_list(phrases, what="phrases")
        wanted = [clean_text(phrase, where=f"phrases[{i}]") for i, phrase in enumerate(listed)]
        if not wanted:
            return torch.zeros(0, self.backbone.embedding_dim)
        known = self._memo
        if not known.keys() >= set(wanted):
            found = self._read_or_embed(sorted(set(wanted)))  # sorted: the order of names is not part of the key
            known = {**known, **{phrase: row for phrase, row in found.items() if phrase not in known}}
            # assigned whole, so that a second thread sees the old one or the new one
            self._memo = dict(list(known.items())[-_MEMO_PHRASES:])
        return torch.stack([known[phrase] for phrase in wanted])

    def _read_or_embed(self, phrases: list[str]) -> dict[str, Tensor]:
        rows = self._cache.read(phrases, dim=self.backbone.embedding_dim) if self._cache is not None else None
        if rows is None:
            known = self._memo
            missing = [phrase for phrase in phrases if phrase not in known]
            known = {**known, **dict(zip(missing, self._embed(missing), strict=True))}
            rows = torch.stack([known[phrase] for phrase in phrases])
            if self._cache is not None:
                self._cache.write(phrases, rows)
        # copies, for views would keep all rows alive
        return {phrase: row.clone() for phrase, row in zip(phrases, rows, strict=True)}

    @cached_property
    def _cache(self) -> EmbeddingCache | None:
        # at first use: hashing the weights of a large backbone takes seconds
        if self._cache_dir is None:
            return None
        return EmbeddingCache(self._cache_dir, facts=[text_fingerprint(self.backbone), self.templates])

    def _embed(self, phrases: list[str]) -> Tensor:
        rows = [torch.zeros(0, self.backbone.embedding_dim)]
        step = max(1, _PROMPTS_PER_CALL // len(self.templates))
        for start in range(0, len(phrases), step):
            chunk = phrases[start : start + step]
            prompts = [template.replace("{}", phrase) for phrase in chunk for template in self.templates]
            each = self.backbone.encode_text(prompts).float().unflatten(0, (len(chunk), -1))  # (phrases, templates, D)
            rows.append(F.normalize(each.mean(1), dim=-1).cpu())
        whole = torch.cat(rows)
        if not torch.isfinite(whole).all():
            raise BackboneError(
                "expected finite text embeddings, got NaN or infinite ones: the backbone overflows in its dtype; use float32 "
                "or bfloat16"
            )
        return whole


def _read_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            near = difflib.get_close_matches(templates, TEMPLATES)
            hint = f"did you mean {near[0]!r}?" if near else f"write [{templates!r}] for a template of your own"
            known = ", ".join(map(repr, TEMPLATES))
            raise ConfigError(f"expected {known} or a list of templates, got {templates!r}: {hint}")
        return TEMPLATES[templates]
    chosen = tuple(templates)
    wrong = [template for template in chosen if not isinstance(template, str) or template.count("{}") != 1]
    if wrong or not chosen:
        got = repr(wrong[0]) if wrong else "no template"
        raise ConfigError(f'expected templates with exactly one "{{}}", got {got}: write e.g. "a photo of a {{}}"')
    return chosen
