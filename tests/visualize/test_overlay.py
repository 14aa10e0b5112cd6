"""`overlay`: the photo where there is no class, the class's colour elsewhere, and a legend of what occurs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.tokens.palette import PALETTE, class_colour
from pyramid_tokenizer.visualize import lettering, overlay

NAMES = ["cat", "dog", "grass"]


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def labels():
    """(60, 80): half nothing, a quarter dog, an eighth grass, an eighth cat."""
    labels = np.full((60, 80), -1)
    labels[:, 40:60], labels[:, 60:70], labels[:, 70:] = 1, 2, 0
    return labels


def has(image, colour):
    return bool((np.asarray(image) == colour).all(axis=-1).any())


def legend_of(image, photo):
    return image.crop((0, photo.height, image.width, image.height))


def swatches(legend):
    """Colours down the first column of a legend."""
    column = np.asarray(legend)[:, 12 + 6]  # the middle of a swatch of 12 px behind the margin
    runs = [tuple(int(v) for v in key) for key, _ in itertools.groupby(column.tolist())]
    return [colour for colour in runs if len(set(colour)) > 1]


def drawn_texts(draw):
    """All texts in the order in which they were drawn."""
    texts, original = [], ImageDraw.ImageDraw.text
    with pytest.MonkeyPatch.context() as patch:

        def text(self, xy, text, *args, **kwargs):
            texts.append(text)
            return original(self, xy, text, *args, **kwargs)

        patch.setattr(ImageDraw.ImageDraw, "text", text)
        draw()
    return texts


def test_pixels_without_a_class_stay_as_in_the_photo(photo, labels):
    image = overlay(photo, labels, NAMES, legend=False)
    assert image.size == photo.size
    unlabelled = labels == -1
    assert (np.asarray(image)[unlabelled] == np.asarray(photo)[unlabelled]).all()


def test_inside_a_class_its_colour_covers_the_photo_by_alpha(photo, labels):
    image = np.asarray(overlay(photo, labels, NAMES, alpha=0.25, legend=False))
    inside = np.s_[:, 42:58]
    expected = 0.75 * np.asarray(photo)[inside] + 0.25 * np.array(class_colour(1))
    assert np.abs(image[inside] - expected).max() < 2


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_extremes_of_alpha_are_the_photo_and_the_colours(photo, labels, alpha):
    image = np.asarray(overlay(photo, labels, NAMES, alpha=alpha, legend=False))[:, 42:58]
    assert (image == (class_colour(1) if alpha else np.asarray(photo)[:, 42:58])).all()


def test_borders_are_in_full_colour_on_the_classes_side(photo, labels):
    image = np.asarray(overlay(photo, labels, NAMES, legend=False))
    for column, index in ((40, 1), (59, 1), (60, 2), (69, 2), (70, 0)):
        assert (image[:, column] == class_colour(index)).all()
    assert (image[:, 39] == np.asarray(photo)[:, 39]).all()


def test_borders_run_along_both_axes_and_grow_with_the_photo():
    def width(side):
        labels = np.zeros((side, side), dtype=np.int64)
        labels[side // 2 :] = 1
        image = np.asarray(overlay(Image.new("RGB", (side, side)), labels, NAMES, alpha=0, legend=False))
        return int(image[:, 3].any(axis=1).sum())

    assert width(64) == 2
    assert width(1500) == 6


def test_arrays_and_tensors_of_any_integer_dtype_give_the_same_image(photo, labels):
    expected = overlay(photo, labels, NAMES)
    tensor = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1) / 255
    assert overlay(tensor, torch.from_numpy(labels), NAMES) == expected
    assert overlay(np.asarray(photo), labels.astype(np.int8), NAMES) == expected
    there = np.abs(labels)
    assert overlay(photo, there.astype(np.uint8), NAMES) == overlay(photo, there, NAMES)


def test_a_class_keeps_its_colour_whatever_else_there_is(photo):
    for row, names in (([1, 1], NAMES), ([1, 4], [*NAMES, "x", "y"]), ([-1, 1], ["a", "b"])):
        labels = np.repeat([row], 40, axis=1).repeat(60, axis=0)
        assert has(overlay(photo, labels, names, alpha=1, legend=False), class_colour(1))


def test_a_palette_of_ones_own_takes_names_and_numbers(photo, labels):
    image = overlay(photo, labels, NAMES, alpha=1, palette=["red", (1, 2, 3), "#00ff00", "blue"])
    assert [has(image, colour) for colour in ((255, 0, 0), (1, 2, 3), (0, 255, 0), (0, 0, 255))] == [1, 1, 1, 0]


def test_the_legend_is_below_the_photo_and_changes_nothing_of_it(photo, labels):
    plain, whole = overlay(photo, labels, NAMES, legend=False), overlay(photo, labels, NAMES)
    assert whole.height > plain.height
    assert whole.crop((0, 0, *plain.size)) == plain


def test_the_legend_is_as_wide_as_a_photo_that_has_room_for_it():
    whole = overlay(Image.new("RGB", (300, 50)), np.zeros((50, 300), dtype=int), NAMES)
    assert whole.width == 300


def test_the_legend_lists_the_classes_that_occur_the_most_frequent_first(photo, labels):
    legend = legend_of(
        overlay(photo, labels, ["unused", "b", "c", "d"], palette=["red", "lime", "blue", "cyan"]), photo
    )
    assert swatches(legend) == [(0, 255, 0), (255, 0, 0), (0, 0, 255)]  # "unused" and "c" are equal: by index
    labels[labels == 0] = 3
    legend = legend_of(
        overlay(photo, labels, ["unused", "b", "c", "d"], palette=["red", "lime", "blue", "cyan"]), photo
    )
    assert swatches(legend) == [(0, 255, 0), (0, 0, 255), (0, 255, 255)]


def test_the_legend_says_how_much_has_no_class(photo, labels):
    texts = drawn_texts(lambda: overlay(photo, labels, NAMES))
    assert texts == ["dog", "25%", "cat", "12%", "grass", "12%", "no class", "50%"]
    assert drawn_texts(lambda: overlay(photo, np.full((60, 80), -1), NAMES)) == ["no class", "100%"]


def test_a_share_that_rounds_to_nothing_is_not_shown_as_nothing(photo):
    labels = np.zeros((60, 80), dtype=int)
    labels[0, 0] = 1
    assert drawn_texts(lambda: overlay(photo, labels, NAMES)) == ["cat", "100%", "dog", "<1%"]


def test_thirty_classes_stand_in_columns_no_higher_than_the_photo():
    photo = Image.new("RGB", (400, 300))
    labels = np.arange(300 * 400).reshape(300, 400) % 30
    whole = overlay(photo, labels, [f"thing {i}" for i in range(30)])
    assert whole.size[0] == 400
    assert whole.height <= 2 * photo.height
    texts = drawn_texts(lambda: overlay(photo, labels, [f"thing {i}" for i in range(30)]))
    assert texts[::2] == [f"thing {i}" for i in range(30)]


def test_classes_without_room_are_counted_with_their_common_share(photo):
    labels = np.arange(60 * 80).reshape(60, 80) % 100
    labels[:30] = -1
    texts = drawn_texts(lambda: overlay(photo, labels, [f"thing {i}" for i in range(100)]))
    listed = [text for text in texts if text.startswith("thing")]
    left_out = 100 - len(listed)
    assert texts[-4:] == [f"and {left_out} more", f"{left_out / 200:.0%}", "no class", "50%"]
    assert 4 <= len(listed) < 30


def test_nothing_of_the_legend_touches_its_edges(photo, labels):
    legend = legend_of(overlay(photo, labels, ["a name that is much longer than fits into a legend", "b", "c"]), photo)
    ink = (np.asarray(legend) < 255).any(axis=2)
    assert not ink[[0, -1]].any()
    assert not ink[:, [0, -1]].any()


def test_long_names_are_cut_with_an_ellipsis(photo, labels):
    texts = drawn_texts(
        lambda: overlay(photo, labels, ["a name that is much longer than fits into a legend", "b", "c"])
    )
    (cut,) = [text for text in texts if text.endswith("…")]
    assert "a name that is much longer".startswith(cut[:-1])


def test_white_space_in_names_is_one_space(photo, labels):
    assert "big dog" in drawn_texts(lambda: overlay(photo, labels, ["cat", "big\n dog", "grass"]))


def test_names_in_letters_that_no_font_has_become_their_index(photo, labels, monkeypatch):
    monkeypatch.setattr(lettering, "_SYSTEM_FONTS", ("no such font",))
    with pytest.warns(UserWarning, match="letters of 'кот', got none on this machine: shown as 'class 0'; install"):
        texts = drawn_texts(lambda: overlay(photo, labels, ["кот", "dog", "grass"]))
    assert "class 0" in texts
    with pytest.warns(UserWarning, match="shown as 'class 1', and 1 more names likewise"):
        overlay(photo, labels, ["кот", "犬", "grass"])


def test_names_in_letters_of_another_font_are_set_in_it(photo, labels):
    if lettering.find_font("кот", px=12) is None:
        pytest.skip("this machine has no font with Cyrillic letters")
    assert "кот" in drawn_texts(lambda: overlay(photo, labels, ["кот", "dog", "grass"]))


def test_the_legends_text_grows_with_the_photo():
    def height(side):
        return overlay(Image.new("RGB", (side, side)), np.zeros((side, side), dtype=int), ["cat"]).height - side

    assert height(50) == height(200)
    assert height(1200) > 2 * height(200)


def test_the_first_colours_and_the_generated_ones_are_all_different():
    colours = [class_colour(index) for index in range(1000)]
    assert colours[: len(PALETTE)] == [tuple(bytes.fromhex(value[1:])) for value in PALETTE]
    assert len(set(colours)) == 1000
    assert np.array(colours).min() >= 0
    assert np.array(colours).max() <= 255


def zeros(dtype: Any = int, shape: tuple[int, ...] = (60, 80)) -> Any:
    return np.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (zeros(float), {}, "integer labels, got float64"),
        (zeros(bool), {}, "integer labels, got bool"),
        (torch.zeros(60, 80), {}, "integer labels, got float32"),
        (zeros(shape=(80, 60)), {}, r"photo's height and width \(60, 80\), got \(80, 60\): resize"),
        (zeros(shape=(1, 60, 80)), {}, "without batch axis"),
        (zeros() + 3, {}, "labels from -1 to 2 for 3 names, got 3 to 3: add the names"),
        (zeros() - 2, {}, "got -2 to -2"),
        (zeros(np.uint8) + 255, {}, "to -1"),
        (zeros(), {"names": "cat"}, "expected names as a list of str, got str"),
        (zeros(), {"alpha": 1.5}, r"expected alpha in \[0, 1\], got 1.5"),
        (zeros(), {"alpha": float("nan")}, "got nan"),
        (zeros(), {"palette": ["red", "blue"]}, "a colour for each of 3 names, got 2"),
        (zeros(), {"palette": ["red", "blue", "reed"]}, "got 'reed'"),
        (zeros(), {"palette": ["red", "blue", (1, 2)]}, r"got \(1, 2\)"),
        (zeros(), {"palette": ["red", "blue", (1, 2, 256)]}, r"three numbers in 0..255, got \(1, 2, 256\)"),
    ],
)
def test_what_does_not_belong_together_is_refused(photo, labels, options, message):
    with pytest.raises(ImageValueError, match=message):
        overlay(photo, labels, **{"names": NAMES, **options})


def test_an_image_that_is_none_is_refused_as_everywhere(labels):
    with pytest.raises(ImageValueError, match="PIL image"):
        overlay(3, labels, NAMES)
