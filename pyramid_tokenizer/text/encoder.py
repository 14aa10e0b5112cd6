"""`TextEncoder`: phrases -> prompts -> unit embeddings, remembered in memory and, if asked to, on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_kind
from pyramid_tokenizer.errors import BackboneError, ConfigError, did_you_mean
from pyramid_tokenizer.text.cache import EmbeddingCache, text_fingerprint
from pyramid_tokenizer.text.embeddings import VocabularyEmbeddings
from pyramid_tokenizer.text.names import as_list, clean_text, parse_names

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}",),
    "default": ("a photo of a {}", "an image of {}", "a photo of the {}", "a photo of the {} in the scene"),
}
"""Sets of prompt templates by name; "{}" is where a phrase goes."""

Templates = str | Sequence[str]
"""The name of a set in `TEMPLATES`, or templates of your own with one "{}" each."""

# What is held beside the answer does not grow with the number of names; large enough to fill a backbone's batch.
_PROMPTS_PER_CALL = 256
_MEMO_PHRASES = 20_000  # 40 MB at 512 dimensions

_Key = tuple[tuple[str, ...], str]  # templates, phrase


class TextNetwork(Protocol):
    """The part of a `Backbone` that a `TextEncoder` uses."""

    embedding_dim: int
    """D, dimensions of the space that images and words share."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 of unit norm, one row per text."""
        ...


class TextEncoder:
    """Turns phrases into embeddings, each the mean over prompt templates, and remembers every phrase it has encoded.

    The memory holds for the weights that the backbone had at first use: make a new encoder when they change. Embeddings of
    the same phrase may differ in the last bits between batches and machines; a remembered one comes back bit for bit.
    Threads may share an encoder.

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
        cache_dir: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        """Encodes nothing yet.

        Args:
            backbone: A loaded backbone; see `load_backbone`.
            cache_dir: Folder to keep embeddings in, "auto" for one in the user's cache folder (see `EmbeddingCache`), None
                to keep them in memory only.
            progress: Called as progress(256, 1000) while the backbone reads phrases, after each batch of them.
        """
        self.backbone = backbone
        self._progress = progress
        self._cache_dir = cache_dir
        self._fingerprint = ""
        self._memo: dict[_Key, Tensor] = {}

    def encode_names(
        self, names: Sequence[str], *, background: Sequence[str] | None = None, templates: Templates = "default"
    ) -> VocabularyEmbeddings:
        """The embeddings of classes; `parse_names` says what names may be, `encode` how embeddings are made.

        Args:
            names: One entry per class; synonyms as "car|automobile".
            background: Words for everything that is of no class.
            templates: As `encode` takes them.

        Raises:
            ConfigError: As for `parse_names` and `encode`.
            BackboneError: As for `encode`.
        """
        classes = parse_names(names, background=background)
        rows = self.encode(classes.phrases, templates=templates)
        return VocabularyEmbeddings(names=classes.names, embeddings=rows, owner=classes.owner)

    def encode(self, phrases: Sequence[str], *, templates: Templates = "default") -> Tensor:
        """(P, D) float32 on the CPU: unit rows, each the mean of a phrase's prompts, in the order given.

        Args:
            phrases: Texts, each read as it is (a "|" is a character of it); repeated ones are encoded once.
            templates: The name of a set in `TEMPLATES`, or prompts of your own with one "{}" each.

        Raises:
            ConfigError: `phrases` is a single string or has an entry that is empty or not a text; there is no set of
                templates of that name, no template, or one without exactly one "{}"; or a prompt is longer than the
                backbone's text network can read, often 77 tokens.
            BackboneError: NaN or infinite embeddings.
        """
        prompts = _read_templates(templates)
        listed = as_list(phrases, what="phrases")
        wanted = [clean_text(phrase, where=f"phrases[{i}]") for i, phrase in enumerate(listed)]
        if not wanted:
            return torch.zeros(0, self.backbone.embedding_dim)
        known = self._memo
        if any((prompts, phrase) not in known for phrase in wanted):
            # sorted: the order of names is not part of the key on disk
            found = self._read_or_embed(sorted(set(wanted)), prompts, known)
            known = {**found, **known}
            # The dictionary is never written to, only replaced: another thread sees the old one or the new one.
            self._memo = dict(list({**self._memo, **known}.items())[-_MEMO_PHRASES:])
        return torch.stack([known[prompts, phrase] for phrase in wanted])

    def _read_or_embed(
        self, phrases: list[str], templates: tuple[str, ...], known: dict[_Key, Tensor]
    ) -> dict[_Key, Tensor]:
        cache = self._open_cache(templates)
        rows = None if cache is None else cache.read(phrases, dim=self.backbone.embedding_dim)
        if rows is None:
            missing = [phrase for phrase in phrases if (templates, phrase) not in known]
            made = dict(zip(missing, self._embed(missing, templates), strict=True))
            rows = torch.stack([made[p] if p in made else known[templates, p] for p in phrases])
            if cache is not None:
                cache.write(phrases, rows)
        # copies, for views would keep all rows alive
        return {(templates, phrase): row.clone() for phrase, row in zip(phrases, rows, strict=True)}

    def _open_cache(self, templates: tuple[str, ...]) -> EmbeddingCache | None:
        if self._cache_dir is None:
            return None
        # at first use: hashing the weights of a large backbone takes seconds
        self._fingerprint = self._fingerprint or text_fingerprint(self.backbone)
        return EmbeddingCache(self._cache_dir, facts=[self._fingerprint, templates])

    def _embed(self, phrases: list[str], templates: tuple[str, ...]) -> Tensor:
        rows = [torch.zeros(0, self.backbone.embedding_dim)]
        step = max(1, _PROMPTS_PER_CALL // len(templates))
        for start in range(0, len(phrases), step):
            chunk = phrases[start : start + step]
            prompts = [template.replace("{}", phrase) for phrase in chunk for template in templates]
            each = self.backbone.encode_text(prompts).float().unflatten(0, (len(chunk), -1))  # (phrases, templates, D)
            rows.append(F.normalize(each.mean(1), dim=-1).cpu())
            if self._progress is not None:
                self._progress(start + len(chunk), len(phrases))
        whole = torch.cat(rows)
        if not torch.isfinite(whole).all():
            raise BackboneError(
                "expected finite text embeddings, got NaN or infinite ones: load the backbone's weights again, and use float32 "
                "or bfloat16, for float16 overflows in some backbones"
            )
        return whole


def _read_templates(templates: Templates) -> tuple[str, ...]:
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            own = f"write [{templates!r}] for a template of your own"
            known = ", ".join(map(repr, TEMPLATES))
            hint = did_you_mean(templates, TEMPLATES, otherwise=own)
            raise ConfigError(f"expected {known} or a list of templates, got {templates!r}: {hint}")
        return TEMPLATES[templates]
    check_kind(templates, Iterable, name="templates", fix='write a list such as ["a photo of a {}"]')
    chosen = tuple(templates)
    wrong = [template for template in chosen if not isinstance(template, str) or template.count("{}") != 1]
    if wrong or not chosen:
        got = repr(wrong[0]) if wrong else "no template"
        raise ConfigError(f'expected templates with exactly one "{{}}", got {got}: write e.g. "a photo of a {{}}"')
    return chosen
