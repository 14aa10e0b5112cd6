"""Texts with images as the ids of a language model, with tokenizers of three kinds that are made here."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyramid_tokenizer.errors import ConfigError, TokenError, TokenMismatchError, TokenSequenceError
from pyramid_tokenizer.text.language_model_state import LanguageModelState
from pyramid_tokenizer.text.language_models import LanguageModelTokenizer, to_language_model
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.vocabulary import Vocabulary
from tests.tokens.pyramids import prune
from tests.tokens.test_vocabulary import FINGERPRINT, random_tokens

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import decoders, models, pre_tokenizers, processors  # noqa: E402

KIND = {"codebook_sizes": (4, 8, 8), "strides": (4, 2, 1), "fingerprint": FINGERPRINT}
VOCABULARY = Vocabulary(**KIND, image_codebook_sizes=(5, 3))
TEXT = "a photo of 12*34 cats, \n ünd  1 döner"


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2's: every text comes back."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "12"]
    text = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[("1", "2")]))
    text.pre_tokenizer, text.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    text.add_special_tokens(["<s>", "</s>"])
    text.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return text


def metaspace() -> tokenizers.Tokenizer:
    """As Llama 2's: a space before each text, characters as pieces."""
    letters = ["<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz0123456789*,.", "▁1"]
    text = tokenizers.Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[("▁", "1")], unk_token="<unk>")
    )
    text.pre_tokenizer, text.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return text


def word_piece() -> tokenizers.Tokenizer:
    """As BERT's: words, cut into pieces."""
    pieces = ["[UNK]", "cat", "*", *"0123456789", *(f"##{i}" for i in range(10))]
    text = tokenizers.Tokenizer(models.WordPiece(vocab={c: i for i, c in enumerate(pieces)}, unk_token="[UNK]"))
    text.pre_tokenizer, text.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return text


def fast() -> object:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>")


PLAIN = to_language_model(byte_level(), VOCABULARY)
EMU3 = to_language_model(byte_level(), VOCABULARY, layout="emu3")


def image(seed: int, size: tuple[int, int] = (8, 8), levels: int = 3, *, sparse: bool = False) -> TokenPyramid:
    full = random_tokens(VOCABULARY, size, 1, seed)
    if sparse:
        full = dataclasses.replace(full, ids=prune(list(full.ids), torch.Generator().manual_seed(seed)))
    return full[:levels]


@st.composite
def images(draw: st.DrawFn, *, multiple: int = 1) -> TokenPyramid:
    size = draw(st.integers(1, 12 // multiple)) * multiple, draw(st.integers(1, 12 // multiple)) * multiple
    return image(draw(st.integers(0, 99)), size, draw(st.integers(1, 3)), sparse=draw(st.booleans()))


def merged(parts: list[str | TokenPyramid]) -> list[str | TokenPyramid]:
    """Adjacent texts as one, none that is empty."""
    out: list[str | TokenPyramid] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        elif part != "":
            out.append(part)
    return out


TEXTS = st.text("ab12*<|img> \nü猫", max_size=8)


@given(st.lists(TEXTS | images(), max_size=5))
def test_texts_and_images_of_any_size_come_back(parts):
    ids = PLAIN.encode(parts)
    assert PLAIN.decode(ids) == merged(parts)
    assert PLAIN.decode(torch.tensor(ids, dtype=torch.int64)) == merged(parts)


@given(st.lists(TEXTS | images(multiple=4), max_size=5))
def test_texts_and_images_come_back_in_emu3s_layout(parts):
    assert EMU3.decode(EMU3.encode(parts)) == merged(parts)


@pytest.mark.parametrize("layout", ["pyramid", "emu3"])
@pytest.mark.parametrize("make", [byte_level, metaspace, word_piece, pytest.param(fast, marks=pytest.mark.slow)])
def test_any_tokenizer_is_extended_by_one_block_and_stays_as_it_was(make, layout):
    text = make()
    before = dict(text.get_vocab())
    lm = to_language_model(text, VOCABULARY, layout=layout)
    assert text.get_vocab() == before
    assert type(lm.tokenizer) is type(text)
    vocabulary = lm.tokenizer.get_vocab()
    assert [vocabulary[name] for name in lm.names] == list(range(len(before), lm.size))
    assert len(vocabulary) == lm.size
    assert {i: n for n, i in vocabulary.items()}[lm.offset + VOCABULARY.level_offsets[1] + 3] == "<|img l1 0003|>"
    parts = ["cat", image(0), image(1, (4, 8), 1, sparse=True), "cat", image(2, (8, 40), 2), "cat 123"]
    ids = lm.encode(parts)
    assert lm.decode(ids) == parts
    assert lm.encode(["cat"]) == list(lm.encode_plain("cat"))
    written = lm.decode_plain(ids)  # names in a text are read as the same ids
    last = len(ids) - ids[::-1].index(lm.end) - 1
    names = written[written.index("<|img begin") : written.rindex("<|img end")]
    assert lm.encode_plain(names) == ids[ids.index(lm.begin) : last]


@given(images(), st.integers(0, 99), st.booleans())
def test_every_prefix_allows_what_follows(tokens, seed, is_demanded):
    demands = {"image_size": tokens.image_size, "levels": len(tokens)} if is_demanded else {}
    state = LanguageModelState(PLAIN, **demands)
    ids = PLAIN.encode([TEXT, tokens, tokens, "end"])
    state.extend(ids)
    stop = random.Random(seed).randrange(len(ids))
    assert ids[stop] in PLAIN.allowed_next(ids[:stop], **demands).tolist()


@pytest.mark.parametrize("make", [byte_level, metaspace, word_piece])
def test_every_prefix_allows_what_follows_in_emu3s_layout(make):
    lm = to_language_model(make(), VOCABULARY, layout="emu3")
    for size in ((4, 4), (48, 40), (4, 400)):
        tokens = image(0, size, 1)
        for demands in ({}, {"image_size": size, "levels": 1}):
            LanguageModelState(lm, **demands).extend(lm.encode([tokens, "cat", tokens]))


@pytest.mark.parametrize("lm", [PLAIN, EMU3], ids=["pyramid", "emu3"])
@pytest.mark.parametrize("seed", range(6))
def test_a_model_that_chooses_at_random_among_what_is_allowed_writes_images(lm, seed):
    draw, size = random.Random(seed), (8, 12)
    ids = lm.encode(["a cat"])
    state = LanguageModelState(lm, image_size=size, levels=seed % 3 + 1)
    state.extend([*ids, lm.begin])
    ids.append(lm.begin)
    while state.is_inside:
        ids.append(draw.choice(draw.choice(state.ranges)))
        state.append(ids[-1])
    text, made = lm.decode([*ids, *lm.encode(["."])])[:2]
    assert text == "a cat"
    assert (made.image_size, len(made)) == (size, seed % 3 + 1)


def test_emu3s_layout_is_begin_size_marker_rows_frame_end_and_end():
    tokens = image(5, (8, 12), 1)
    names = [EMU3.tokenizer.id_to_token(i) for i in EMU3.encode([tokens])]
    rows = [[f"<|img l0 {i:04d}|>" for i in row] for row in tokens.ids[0][0].tolist()]
    image_tokens = [f"<|img i{number} {i:04d}|>" for number, i in enumerate(tokens.image_ids[0].tolist())]
    begin = ["<|img begin|>", "2", "*", "3", *image_tokens, "<|img level 0|>"]
    body = [*rows[0], "<|img row|>", *rows[1], "<|img row|>"]
    assert names == [*begin, *body, "<|img frame end|>", "<|img end|>"]
    whole = [EMU3.tokenizer.id_to_token(i) for i in EMU3.encode([image(5, (8, 12), 2)])]
    assert whole[: len(names) - 1] == names[:-1]
    assert whole[len(names) - 1] == "<|img level 1|>"


def test_emu3s_layout_refuses_images_with_padding_and_sizes_that_it_cannot_write():
    with pytest.raises(TokenSequenceError, match=r"multiples of 4 px .* got \(8, 9\)"):
        EMU3.encode([image(0, (8, 9))])
    with pytest.raises(TokenError, match=r"multiples of 4 px .* got \(8, 9\)"):
        EMU3.allowed_next([], image_size=(8, 9))
    only_words = tokenizers.Tokenizer(models.WordLevel({"cat": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="emu3"):
        to_language_model(only_words, VOCABULARY, layout="emu3")


B = PLAIN.offset


@pytest.mark.parametrize(
    ("ids", "position", "expected", "got"),
    [
        ([5, B + 1], 1, "text or <|img begin|>", "<|img end|>"),
        ([5, B, 7], 2, "<|img crop 0|> to <|img crop 3|>", "7 of the text"),
        ([5, B, B + 9, B + 9, B + 13, B + 20, B + 4, B + 2], 7, "<|img l0 0000|> to <|img l0 0003|>", "<|img row|>"),
        ([5, B, B + 9, B + 9, B + 4], 4, "<|img i0 0000|> to <|img i0 0004|>", "<|img level 0|>"),
        ([5, B, B + 9], 3, "<|img crop 0|> to <|img crop 3|>", "the end of the sequence"),
        ([5, PLAIN.size], 1, "text or <|img begin|>", f"{PLAIN.size} (not an id"),
        ([-1], 0, "text or <|img begin|>", "-1 (not an id"),
    ],
)
def test_what_a_model_got_wrong_is_told_with_its_position(ids, position, expected, got):
    with pytest.raises(TokenSequenceError) as caught:
        PLAIN.decode(ids)
    assert re.search(
        rf"expected {re.escape(expected)}.* at position {position}, got .*{re.escape(got)}", str(caught.value)
    )


def test_a_wrong_size_and_a_missing_frame_end_are_told_in_emu3s_layout():
    ids = EMU3.encode([image(0, (8, 12), 1)])
    with pytest.raises(TokenSequenceError, match=r"position 2, got \d+ of the text"):
        EMU3.decode([*ids[:2], *EMU3.encode(["x"]), *ids[3:]])
    with pytest.raises(
        TokenSequenceError, match=rf"<\|img frame end\|> at position {len(ids) - 2}, got .*<\|img end\|>"
    ):
        EMU3.decode([*ids[:-2], ids[-1]])
    with pytest.raises(TokenSequenceError, match="position 1"):
        EMU3.allowed_next([ids[0], *EMU3.encode(["0"])])


def test_a_text_with_the_name_of_an_images_token_is_refused():
    with pytest.raises(TokenSequenceError, match=r"part 1, got '<\|img begin\|>' at character 2"):
        PLAIN.encode(["fine <|img begin", "a <|img begin|>"])
    with pytest.raises(ConfigError, match="got str"):
        PLAIN.encode("a text")
    with pytest.raises(TokenError, match="got int"):
        PLAIN.encode(["a", 3])


def test_the_omnimodal_config_tells_where_content_and_structure_are():
    for lm in (PLAIN, EMU3):
        config = lm.omnimodal_config()
        (vision,) = config["modalities"]
        assert config["omni_special_token_offset"] == lm.base_size
        assert set(vision) == {"name", "offset", "vocab_size", "start_token", "end_token", "structure_token_ids"}
        content = range(vision["offset"], vision["offset"] + vision["vocab_size"])
        structure = vision["structure_token_ids"]
        assert sorted([*structure.values(), *content]) == list(range(lm.base_size, lm.size))
        assert {vision["start_token"], vision["end_token"]} <= set(structure.values())
        assert all(lm.tokenizer.token_to_id(name) == i for name, i in structure.items())
        assert lm.tokenizer.id_to_token(content[0]) == "<|img i0 0000|>"


def test_a_saved_tokenizer_is_the_same_when_it_is_read_again(tmp_path):
    PLAIN.save(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert config["omnimodal_config"] == PLAIN.omnimodal_config()
    read = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    again = to_language_model(read, VOCABULARY)
    assert (again.base_size, again.size) == (PLAIN.base_size, PLAIN.size)
    ids = PLAIN.encode([TEXT, image(0)])
    assert again.decode(ids) == [TEXT, image(0)]
    with pytest.raises(TokenMismatchError):  # extended for another layout, or for another vocabulary
        to_language_model(read, VOCABULARY, layout="emu3")
    with pytest.raises(TokenMismatchError):
        to_language_model(read, dataclasses.replace(VOCABULARY, codebook_sizes=(4, 8, 9)))


@pytest.mark.slow
@pytest.mark.parametrize("make", [byte_level, fast])
def test_transformers_reads_what_was_saved(make, tmp_path):
    transformers = pytest.importorskip("transformers")
    lm = to_language_model(make(), VOCABULARY)
    lm.save(tmp_path)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(read) == lm.size
    assert read.init_kwargs["base_vocab_size"] == lm.base_size
    assert read.init_kwargs["omnimodal_config"] == lm.omnimodal_config()
    again = to_language_model(read, VOCABULARY)
    assert again.decode(lm.encode([TEXT, image(0)])) == [TEXT, image(0)]
    with pytest.raises(TokenMismatchError, match="fingerprint"):
        to_language_model(read, dataclasses.replace(VOCABULARY, fingerprint="1" * 64))


@pytest.mark.parametrize("wrong", ["gpt2", None, VOCABULARY])
def test_what_is_no_tokenizer_of_texts_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"got {type(wrong).__name__}"):
        to_language_model(wrong, VOCABULARY)


def test_an_unknown_layout_and_names_in_another_order_are_refused():
    with pytest.raises(ConfigError, match="'emu4'"):
        to_language_model(byte_level(), VOCABULARY, layout="emu4")
    shuffled = byte_level()
    shuffled.add_special_tokens(VOCABULARY.token_names()[::-1])
    with pytest.raises(ConfigError, match="one block of ids"):
        to_language_model(shuffled, VOCABULARY)


def test_the_function_for_generate_remembers_and_notices_other_rows():
    lm, size = PLAIN, (4, 8)
    allowed = lm.prefix_allowed_tokens_fn(image_size=size, levels=1)
    ids = [*lm.encode(["cat"]), *lm.encode([image(0, size, 1)])]
    for row, other in ((0, ids), (1, [*lm.encode(["dog!"]), *ids])):
        for stop in range(1, len(other)):
            expected = lm.allowed_next(other[:stop], image_size=size, levels=1)
            assert allowed(row, torch.tensor(other[:stop])) == expected.tolist()
    assert lm.begin in allowed(0, torch.tensor(ids[:2]))  # as in another search
    with pytest.raises(TokenSequenceError):
        allowed(0, torch.zeros(2, 2, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.parametrize("lm", [PLAIN, EMU3], ids=["pyramid", "emu3"])
def test_a_model_of_transformers_generates_images(lm: LanguageModelTokenizer):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=lm.base_size, n_embd=8, n_layer=1, n_head=1, n_positions=256)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.resize_token_embeddings(lm.size)
    prompt = torch.tensor([[*lm.encode(["a cat"]), lm.begin]] * 2)
    allowed = lm.prefix_allowed_tokens_fn(image_size=(8, 8))
    ends = {"eos_token_id": lm.end, "pad_token_id": lm.encode(["<s>"])[0]}
    made = model.generate(prompt, prefix_allowed_tokens_fn=allowed, do_sample=True, max_length=250, **ends)
    for row in made.tolist():
        text, image = lm.decode(row)[:2]
        assert (text, image.image_size) == ("a cat", (8, 8))
