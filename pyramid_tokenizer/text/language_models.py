"""`to_language_model` adds the tokens of images to the tokenizer of a language model."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from pyramid_tokenizer.checks.arguments import check_path
from pyramid_tokenizer.errors import ConfigError, MissingExtraError, TokenMismatchError, TokenSequenceError
from pyramid_tokenizer.files import write_text
from pyramid_tokenizer.text.language_model_state import LanguageModelState, size_pieces, write_image
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.sequences import Integers, as_rows
from pyramid_tokenizer.tokens.vocabulary import Vocabulary
from pyramid_tokenizer.tokens.wrapping import check_pyramid

Layout: TypeAlias = Literal["pyramid", "emu3"]
_FRAME_END = "<|img frame end|>"
_OWN_KEY = "pyramid_tokenizer"


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelTokenizer:
    """A tokenizer of text that also has the tokens of images, made by `to_language_model`.

    The new ids are one block behind those of the text: the marks, the crops, the ids of image tokens and of each level, all
    in the order of `Vocabulary`; with the layout "emu3" the mark of a frame's end stands before them. The language model needs
    as many more embeddings: `model.resize_token_embeddings(lm.size)` with transformers.
    """

    tokenizer: Any
    """The extended tokenizer, of the class of the one that was given: a `tokenizers.Tokenizer` or a fast one of transformers. It
    reads names such as "<|img l0 0017|>" in a text as one id, so texts with images can also go through chat templates."""
    vocabulary: Vocabulary
    """Numbers the tokens of images; it has the grammar of their sequences."""
    layout: Layout
    """"pyramid": the grammar of `Vocabulary`. "emu3": Emu3's, in which level 0 is written as: begin, its "H*W" cells as text, the
    ids of image tokens, the marker, rows with their ends, the frame's end; finer levels follow as in the grammar of `Vocabulary`,
    then the end."""
    base_size: int
    """The first id of the block: one more than the largest of the tokenizer that was given."""
    size_pieces: dict[int, str] = field(default_factory=dict, repr=False)
    """For the layout "emu3": the ids of text that "H*W" may be made of, and what each of them writes."""

    @property
    def offset(self) -> int:
        """The id that stands for 0 of `vocabulary`; an integer i of the vocabulary is the id `offset + i`."""
        return self.base_size + (self.layout == "emu3")

    @property
    def size(self) -> int:
        """Number of ids, of text and images together."""
        return self.offset + self.vocabulary.size

    @property
    def begin(self) -> int:
        """The id that begins an image: what a prompt for an image ends with."""
        return self.offset + self.vocabulary.begin

    @property
    def end(self) -> int:
        """The id that ends an image."""
        return self.offset + self.vocabulary.end

    def encode(self, parts: Sequence[str | TokenPyramid]) -> list[int]:
        """The ids of texts and images, one after the other.

        Neither a begin nor an end of the text is added: add the ids that your model wants at the two ends.

        Args:
            parts: Texts, and tokens of one image or more, of all levels or of a prefix, sparse or not.

        Raises:
            TokenSequenceError: A text has the name of an image's token, which nobody could tell from an image; or an image
                has padding, which the layout "emu3" cannot write.
            TokenMismatchError: Tokens of another tokenizer.
            ConfigError: `parts` is no list of texts and tokens.
        """
        if not isinstance(parts, (list, tuple)):
            raise ConfigError(
                f"expected parts as a list of texts and tokens, got {type(parts).__name__}: write [text, tokens]"
            )
        ids: list[int] = []
        for index, part in enumerate(parts):
            if isinstance(part, str):
                ids += self._encode_text(part, index)
                continue
            check_pyramid(part)
            for image in part.unbind():
                ids += write_image(self, image)
        return ids

    def decode(self, ids: Integers) -> list[str | TokenPyramid]:
        """The texts and images that `encode` was given; adjacent texts come as one, and several images one by one.

        Args:
            ids: (N,), a tensor, an array or a list of integers.

        Raises:
            TokenSequenceError: An image breaks the grammar or is cut off; the message tells the position and what was expected.
        """
        state = LanguageModelState(self)
        state.extend(_one_row(ids))
        return state.parts()

    def allowed_next(
        self,
        prefix: Integers,
        *,
        image_size: tuple[int, int] | None = None,
        levels: int | None = None,
        sparse: bool = True,
    ) -> Tensor:
        """The ids that may come next: inside an image what its grammar allows, outside all of the text and the mark of the begin.

        Each call reads the whole prefix; `prefix_allowed_tokens_fn` and `LanguageModelState` remember it.

        Args:
            prefix: (N,), the ids so far.
            image_size: (H, W) in pixels that an image is to have. None: any.
            levels: How many levels it is to have. None: any number.
            sparse: Whether its levels may be sparse.

        Returns:
            (n,) int64 in ascending order, on the CPU.

        Raises:
            TokenSequenceError: The prefix breaks the grammar; the message tells the position.
            TokenError: A size or `levels` outside its range.
        """
        state = LanguageModelState(self, image_size=image_size, levels=levels, sparse=sparse)
        state.extend(_one_row(prefix))
        return state.allowed()

    def prefix_allowed_tokens_fn(
        self, *, image_size: tuple[int, int] | None = None, levels: int | None = None, sparse: bool = True
    ) -> Callable[[int, Any], list[int]]:
        """The function of this name that `model.generate` of transformers takes; arguments as for `allowed_next`.

        It remembers where each row of the batch stands, and reads a row anew where it is not the former one with more ids.
        """
        demands = {"image_size": image_size, "levels": levels, "sparse": sparse}
        known: dict[int, tuple[list[int], LanguageModelState]] = {}

        def allowed(batch_id: int, input_ids: Any) -> list[int]:
            ids = _one_row(input_ids)
            before, state = known.get(batch_id, ([], None))
            if state is None or ids[: len(before)] != before:
                before, state = [], LanguageModelState(self, **demands)
            state.extend(ids[len(before) :])
            known[batch_id] = ids, state
            return state.allowed().tolist()

        return allowed

    def omnimodal_config(self) -> dict[str, Any]:
        """Where the ids of images are, as the training code of Apertus reads it from `tokenizer_config.json`.

        A single modality, "vision": `offset` and `vocab_size` are of the ids of image tokens and levels, `start_token` and
        `end_token` of the marks, and `structure_token_ids` names all other new ids.
        """
        v = self.vocabulary
        first = self.offset + v.first_id
        structure = {name: self.base_size + i for i, name in enumerate(self.names[: first - self.base_size])}
        vision = {
            "name": "vision",
            "offset": first,
            "vocab_size": self.size - first,
            "start_token": self.begin,
            "end_token": self.end,
            "structure_token_ids": structure,
        }
        return {"omni_special_token_offset": self.base_size, "modalities": [vision]}

    @property
    def names(self) -> list[str]:
        """The names of all new ids, in order."""
        return [*([_FRAME_END] if self.layout == "emu3" else []), *self.vocabulary.token_names()]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tokenizer as `AutoTokenizer.from_pretrained` of transformers reads it, with its `omnimodal_config`.

        Args:
            folder: Made where it is missing; `to_language_model` takes what is read from it as it is.

        Raises:
            ConfigError: `folder` is no name of a folder.
        """
        check_path(folder, name="folder")
        Path(folder).mkdir(parents=True, exist_ok=True)
        if hasattr(self.tokenizer, "backend_tokenizer"):
            self.tokenizer.save_pretrained(os.fspath(folder))
            return
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config()}
        for name, text in (
            ("tokenizer.json", self.tokenizer.to_str()),
            ("tokenizer_config.json", json.dumps(config, indent=2)),
        ):
            write_text(Path(folder) / name, text)

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a text without a begin or an end, as the text's own tokenizer gives them."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        return list(encoded if isinstance(encoded, list) else encoded.ids)

    def decode_plain(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones included."""
        kept = {"clean_up_tokenization_spaces": False} if hasattr(self.tokenizer, "backend_tokenizer") else {}
        return self.tokenizer.decode(ids, skip_special_tokens=False, **kept)

    def _encode_text(self, text: str, index: int) -> list[int]:
        ids = self.encode_plain(text)
        inside = [i for i in ids if self.base_size <= i < self.size]
        if inside:
            name = self.names[inside[0] - self.base_size]
            raise TokenSequenceError(
                f"expected text without images' tokens in part {index}, got {name!r} at character {text.find(name)}: "
                "pass images as a TokenPyramid, and take such names out of texts that are not your own"
            )
        return ids

    def _config(self) -> dict[str, Any]:
        v = self.vocabulary
        own = {
            "layout": self.layout,
            "codebook_sizes": list(v.codebook_sizes),
            "strides": list(v.strides),
            "fingerprint": v.fingerprint,
            "image_codebook_sizes": list(v.image_codebook_sizes),
        }
        return {"base_vocab_size": self.base_size, "omnimodal_config": self.omnimodal_config(), _OWN_KEY: own}


def to_language_model(tokenizer: Any, vocabulary: Vocabulary, *, layout: Layout = "pyramid") -> LanguageModelTokenizer:
    """Adds the tokens of images to the tokenizer of a language model, as one block of ids behind those of its texts.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, or a fast tokenizer of transformers. It is copied and stays as it is. One that
            has the block already, because `LanguageModelTokenizer.save` wrote it, is taken as it is.
        vocabulary: Of the image tokenizer: `tok.vocabulary`.
        layout: How an image is written, "pyramid" or "emu3"; `LanguageModelTokenizer.layout` says more.

    Raises:
        ConfigError: Another kind of tokenizer, an unknown layout, names that the tokenizer has otherwise, or a tokenizer of
            words that cannot write numbers, which "emu3" needs.
        TokenMismatchError: The tokenizer has the tokens of another image tokenizer.
        MissingExtraError: tokenizers is not installed.

    Example:
        >>> import torch
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        >>> text = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
        >>> text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> text.decoder = decoders.ByteLevel()
        >>> vocabulary = Vocabulary(codebook_sizes=(4, 8), strides=(16, 8), fingerprint="0" * 64)
        >>> lm = to_language_model(text, vocabulary)
        >>> lm.begin, lm.size
        (256, 291)
        >>> ids = (torch.tensor([[[3, 1]]]), torch.tensor([[[0, 5, 2, 2], [7, 4, 4, 1]]]))
        >>> image = TokenPyramid(ids=ids, codebook_sizes=(4, 8), image_size=(15, 32), fingerprint="0" * 64)
        >>> mixed = lm.encode(["a photo ", image, " of a cat"])
        >>> [lm.tokenizer.id_to_token(i) for i in mixed[7:13]]
        ['Ġ', '<|img begin|>', '<|img crop 1|>', '<|img crop 0|>', '<|img level 0|>', '<|img l0 0003|>']
        >>> lm.decode(mixed) == ["a photo ", image, " of a cat"]
        True
    """
    if layout not in get_args(Layout):
        raise ConfigError(f"expected a layout of {list(get_args(Layout))}, got {layout!r}: name one of these")
    _check_tokenizer(tokenizer)
    known = tokenizer.get_vocab()
    names = LanguageModelTokenizer(tokenizer=tokenizer, vocabulary=vocabulary, layout=layout, base_size=0).names
    present = [name for name in names if name in known]
    if present:
        base_size = known.get(names[0], -1)
        _check_block(tokenizer, vocabulary, layout, known, base_size)
        extended = tokenizer
    else:
        base_size = max(known.values(), default=-1) + 1
        extended = _extended(tokenizer, names)
        _check_contiguous(extended.get_vocab(), names, base_size)
    lm = LanguageModelTokenizer(tokenizer=extended, vocabulary=vocabulary, layout=layout, base_size=base_size)
    if hasattr(extended, "init_kwargs"):
        extended.init_kwargs.update(lm._config())
    return lm if layout == "pyramid" else dataclasses.replace(lm, size_pieces=size_pieces(lm))


def _check_tokenizer(tokenizer: Any) -> None:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError('expected tokenizers, got none: pip install "pyramid-tokenizer[lm]"') from error
    if not isinstance(getattr(tokenizer, "backend_tokenizer", tokenizer), Tokenizer):
        raise ConfigError(
            f"expected a tokenizers.Tokenizer or a fast tokenizer of transformers, got {type(tokenizer).__name__}: load it "
            "with AutoTokenizer.from_pretrained(..., use_fast=True) or Tokenizer.from_file"
        )


def _extended(tokenizer: Any, names: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer

    added = [AddedToken(name, special=True, normalized=False) for name in names]
    if isinstance(tokenizer, Tokenizer):
        extended = Tokenizer.from_str(tokenizer.to_str())
        extended.add_special_tokens(added)
        return extended
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens(added, special_tokens=True)
    return extended


def _check_block(tokenizer: Any, vocabulary: Vocabulary, layout: Layout, known: dict[str, int], base_size: int) -> None:
    """Refuses a tokenizer whose tokens of images are not those of this vocabulary, in this layout."""
    names = [name for name in known if name.startswith("<|img ")]
    own = getattr(tokenizer, "init_kwargs", {}).get(_OWN_KEY, {})
    expected = {"layout": layout, "fingerprint": vocabulary.fingerprint}
    wrong = {key: own[key] for key, value in expected.items() if key in own and own[key] != value}
    whole = LanguageModelTokenizer(tokenizer=tokenizer, vocabulary=vocabulary, layout=layout, base_size=base_size).names
    if wrong or sorted(names) != sorted(whole):
        got = f"{wrong or len(names)}"
        raise TokenMismatchError(
            f"expected none of the tokens of images in the tokenizer, or all {len(whole)} of {expected}, got {got}: give "
            "the tokenizer of the texts alone, or the image tokenizer and the layout that it was extended for"
        )
    _check_contiguous(known, whole, base_size)


def _check_contiguous(known: dict[str, int], names: list[str], base_size: int) -> None:
    wrong = [name for i, name in enumerate(names) if known.get(name) != base_size + i]
    if wrong:
        raise ConfigError(
            f"expected the tokens of images as one block of ids from {base_size} on, got {known.get(wrong[0])} for "
            f"{wrong[0]!r}: give the tokenizer of the texts alone"
        )


def _one_row(ids: Integers) -> list[int]:
    rows, lengths = as_rows(ids)
    if len(rows) != 1:
        raise TokenSequenceError(f"expected one sequence (N,), got {len(rows)} of them: pass each one alone")
    return rows[0, : lengths[0]].tolist()
