"""What the page computes, without Gradio: opening files, prefixes, places, words, search, and the files it offers."""

from __future__ import annotations

import socket
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.app import downloads, texts, views, workbench
from pyramid_tokenizer.app.page import require_gradio
from pyramid_tokenizer.app.server import _listen
from pyramid_tokenizer.app.workbench import Opened, Workbench, open_file, open_row
from pyramid_tokenizer.datasets import TokenDataset, tokenize
from pyramid_tokenizer.errors import (
    ConfigError,
    ImageFileError,
    ImageTooLargeError,
    MissingExtraError,
    TokenFileError,
    TokenMismatchError,
)
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.segmentation import Segmenter
from pyramid_tokenizer.tokens.pyramid import TokenPyramid

WORDS = ["cat", "dog", "sky"]


@pytest.fixture(scope="module")
def bench(toy_tokenizer) -> Workbench:
    return Workbench.of(Segmenter(toy_tokenizer), title="toy", words=WORDS, size=64)


@pytest.fixture(scope="module")
def file(smooth, tmp_path_factory):
    """An image of 96 x 128 px."""
    path = tmp_path_factory.mktemp("photos") / "a photo.png"
    to_pil(smooth(1, 96, 128, seed=4))[0].save(path)
    return path


@pytest.fixture(scope="module")
def opened(bench, file) -> Opened:
    return open_file(bench, file)


def test_a_large_photo_is_shrunk_and_says_so(bench, file, opened):
    assert opened.tokens == bench.tok.encode(file, size=64)
    assert (opened.name, opened.photo.shape) == ("a photo", (3, 64, 85))
    assert "128 x 96 to 85 x 64 px" in texts.opened_line(opened)


def test_a_small_photo_keeps_its_size(bench, tmp_path):
    Image.new("RGB", (40, 33), "red").save(tmp_path / "small.png")
    opened = open_file(bench, tmp_path / "small.png")
    assert (opened.tokens.image_size, opened.notes) == ((33, 40), ())


def test_detail_levels_are_there_for_the_slider_and_leave_the_others_as_they_are(detailed_tokenizer, file):
    bench = Workbench.of(Segmenter(detailed_tokenizer), title="toy", words=WORDS, size=64)
    opened = open_file(bench, file)
    assert (len(opened.tokens), bench.num_levels) == (3, 3)
    assert opened.prefix(2) == detailed_tokenizer.encode(file, size=64)


@pytest.mark.parametrize(("name", "error"), [("a.png", ImageFileError), ("a.tokens", TokenFileError)])
def test_a_broken_file_is_an_error_that_names_it(bench, tmp_path, name, error):
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(error, match=name):
        open_file(bench, tmp_path / name)


def test_a_strip_that_stays_huge_is_refused_by_its_header(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(workbench, "MOST_PIXELS", 10_000)
    for size in ((70, 200), (3, 4000)):
        Image.new("1", size).save(tmp_path / "strip.png")
        with pytest.raises(ImageTooLargeError, match="10,000"):
            open_file(bench, tmp_path / "strip.png")


def test_a_token_file_needs_no_photo_and_the_same_model(bench, opened, other_tokenizer, file, tmp_path):
    TokenPyramid.cat([opened.tokens, opened.tokens]).save(tmp_path / "two.tokens")
    found = open_file(bench, tmp_path / "two.tokens")
    assert found.tokens == opened.tokens and found.photo is None
    assert "2 images" in found.notes[1]
    assert views.photo_of(bench, found) == to_pil(bench.tok.decode(opened.tokens))[0]
    other_tokenizer.encode(file).save(tmp_path / "other.tokens")
    with pytest.raises(TokenMismatchError):
        open_file(bench, tmp_path / "other.tokens")


def test_a_prefix_is_decoded_and_measured(bench, opened):
    first, all_of_it = (views.decode_prefix(bench, opened, levels) for levels in (1, 3))
    assert first.image == to_pil(bench.tok.decode(opened.tokens[:1]))[0]
    assert first.tokens == opened.tokens[:1] and first.psnr < all_of_it.psnr
    assert opened.prefix(0) == opened.prefix(1) and opened.prefix(99) == opened.tokens  # whatever a browser sends
    assert "6 + 24 + 96 tokens" in texts.decoded_line(all_of_it)
    without = Opened(name="a", tokens=opened.tokens, photo=None)
    assert "PSNR" not in texts.decoded_line(views.decode_prefix(bench, without, 2))


def test_a_place_has_a_token_of_each_level_with_its_words(bench, opened):
    place = views.look_at(bench, opened, 70, 20, levels=2)
    assert [(one.level, one.row, one.column) for one in place.tokens] == [(0, 0, 2), (1, 1, 4)]
    ids = [int(opened.tokens.ids[0][0, 0, 2]), int(opened.tokens.ids[1][0, 1, 4])]
    assert [one.id for one in place.tokens] == ids
    assert sorted(place.words[0].split(", ")) == WORDS  # level 1 of the toy has none
    html = texts.place_table(place)
    assert all(f">{number}<" in html for number in ids) and place.words[0] in html
    assert place.sheet.width > 2 * views.screen_scale((64, 85)) * 85


def test_words_give_the_masks_of_the_segmenter_with_a_legend(bench, opened):
    found = views.find_words(bench, opened, "cat, dog|puppy", background="sky", levels=3)
    expected = bench.segmenter.segment(opened.tokens, ["cat", "dog|puppy"], background=["sky"])
    assert torch.equal(found.labels, expected.labels[0]) and found.names == ("cat", "dog")
    scale = views.screen_scale((64, 85))
    assert found.image.width == 85 * scale and found.image.height > 64 * scale
    assert "Nowhere" in texts.masks_line(
        views.Masks(labels=torch.zeros(2, 2).long(), names=("cat", "dog"), image=found.image)
    )


@pytest.mark.parametrize("typed", ["", "cat,cat", ",".join(f"w{i}" for i in range(views.MOST_WORDS + 1))])
def test_words_that_cannot_be_used_are_an_error(bench, opened, typed):
    with pytest.raises(ConfigError):
        views.find_words(bench, opened, typed, levels=3)


def read_pil(path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.copy()


def test_a_long_name_is_cut(bench, opened, tmp_path):
    named = Opened(name="é" * 200, tokens=opened.tokens, photo=None)
    tokens, _ = downloads.save_decoded(views.decode_prefix(bench, named, 1), named, tmp_path)
    assert tokens.is_file()


def test_what_is_shown_can_be_kept(bench, opened, tmp_path):
    decoded, masks = views.decode_prefix(bench, opened, 2), views.find_words(bench, opened, "cat,dog", levels=3)
    tokens, image = downloads.save_decoded(decoded, opened, tmp_path)
    drawn, labels = downloads.save_masks(masks, opened, tmp_path)
    assert TokenPyramid.load(tokens) == opened.tokens[:2]
    shown = {path: np.asarray(read_pil(path)) for path in (image, drawn, labels)}
    assert np.array_equal(shown[image], decoded.image) and np.array_equal(shown[drawn], masks.image)
    assert np.array_equal(shown[labels], masks.labels)


@pytest.fixture(scope="module")
def dataset(bench, smooth, tmp_path_factory) -> TokenDataset:
    """Of three images."""
    folder = tmp_path_factory.mktemp("dataset")
    tokenize(smooth(3, 64, 64, seed=8), folder / "set", model=bench.tok, workers=0)
    return TokenDataset(folder / "set", cache_dir=folder / "cache")


def test_a_dataset_is_searched_by_words_and_by_the_open_image(bench, dataset, smooth):
    searching = Workbench.of(bench.segmenter, title="toy", words=WORDS, dataset=dataset)
    opened = open_row(searching, 1)
    assert opened.tokens == bench.tok.encode(smooth(3, 64, 64, seed=8)[1]) and opened.photo is None
    found = views.search_dataset(searching, opened, top=2)
    assert len(found) == 2 and found[0].row == 1
    assert found[0].image == to_pil(bench.tok.decode(opened.tokens))[0]
    assert len(views.search_dataset(searching, "a dog")) == 3
    with pytest.raises(ConfigError):
        views.search_dataset(searching, " ")


def test_a_dataset_of_another_model_is_refused_and_none_is_told(bench, dataset, other_tokenizer):
    with pytest.raises(TokenMismatchError):
        Workbench.of(Segmenter(other_tokenizer), title="toy", words=WORDS, dataset=dataset)
    with pytest.raises(ConfigError, match="--dataset"):
        views.search_dataset(bench, "a dog")


def test_what_was_typed_or_uploaded_cannot_become_markup(bench, opened, tmp_path):
    evil = Opened(name="<script>", tokens=opened.tokens, photo=None, notes=("<b>",))
    error = ConfigError(f"expected this, got '{tmp_path / '<i>.png'}'")
    lines = texts.opened_line(evil) + texts.error_line(error, tmp_path / "<i>.png")
    assert not any(tag in lines for tag in ("<script>", "<b>", "<i>"))
    assert str(tmp_path) not in lines and "&lt;i&gt;.png" in lines


def test_a_port_that_is_taken_or_an_address_of_another_machine_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            _listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="192.0.2.1"):  # kept for documentation: no machine has it
        _listen("192.0.2.1", 0)
    with _listen("127.0.0.1", 0) as free:
        assert free.getsockname()[1] > 0


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"pyramid-tokenizer\[app\]"):
        require_gradio()
