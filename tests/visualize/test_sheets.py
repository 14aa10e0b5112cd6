"""`contact_sheet`: every image whole and in its place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pyramid_tokenizer.errors import ImageValueError
from pyramid_tokenizer.visualize import contact_sheet

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def plain(colour, width=30, height=20):
    return Image.new("RGB", (width, height), colour)


def box(sheet, colour):
    """(left, top, right, bottom) of a colour; fails unless it fills that rectangle."""
    where = (np.asarray(sheet) == COLOURS[colour]).all(axis=2)
    ys, xs = np.nonzero(where)
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    assert where[top:bottom, left:right].all()
    return left, top, right, bottom


def ink(sheet):
    """(H, W) bool: what is neither white nor one of the colours."""
    pixels = np.asarray(sheet)
    return ~np.any([(pixels == c).all(axis=2) for c in (*COLOURS.values(), (255, 255, 255))], axis=0)


def test_images_keep_their_size_and_stand_in_rows_and_columns():
    sheet = contact_sheet([[plain("red"), plain("lime", 50, 40)], [plain("blue", 10, 60)]])
    red, lime, blue = (box(sheet, colour) for colour in ("red", "lime", "blue"))
    for (left, top, right, bottom), size in ((red, (30, 20)), (lime, (50, 40)), (blue, (10, 60))):
        assert (right - left, bottom - top) == size
    assert red[2] < lime[0]
    assert red[3] < blue[1]
    assert lime[3] < blue[1]
    assert red[0] + red[2] == blue[0] + blue[2]  # one column: the same middle
    assert red[1] + red[3] == lime[1] + lime[3]  # one row
    assert sheet.width - lime[2] == red[0]  # the same margin left and right
    assert sheet.height - blue[3] == lime[1]  # and above and below
    assert np.asarray(sheet)[[0, -1]].min() == 255


def test_a_pixel_of_a_image_is_never_changed():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    sheet = contact_sheet(
        [[Image.fromarray(noise), plain("red", 50, 40)]], column_titles=["a", "b"], captions=[["c", "d"]]
    )
    left, top, _, _ = box(sheet, "red")
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(sheet), noise.shape)[:, :, 0]
    ys, xs = np.nonzero((windows == noise).all(axis=(2, 3, 4)))
    assert ys.tolist() == [top]
    assert xs[0] + 50 < left


@pytest.mark.parametrize(
    ("texts", "place"),
    [
        ({"column_titles": ["above", "above"]}, "above"),
        ({"row_titles": ["left"]}, "left"),
        ({"captions": [["below", "below\nand below"]]}, "below"),
    ],
)
def test_text_stands_beside_the_images_and_never_on_them_or_cut_off(texts, place):
    rows = [[plain("red", 90, 90), plain("lime", 90, 90)]]
    sheet = contact_sheet(rows, **texts)
    left, top, _, bottom = box(sheet, "red")
    assert box(sheet, "lime")[2] - box(sheet, "lime")[0] == 90
    marks = ink(sheet)
    marks[top - 1 : bottom + 1, left - 1 : box(sheet, "lime")[2] + 1] = False  # images and their frames
    ys, xs = np.nonzero(marks)
    outside = {"above": ys.max() < top, "left": xs.max() < left, "below": ys.min() >= bottom}
    assert [name for name, is_there in outside.items() if is_there] == [place]
    assert not marks[[0, -1]].any()
    assert not marks[:, [0, -1]].any()


def test_a_column_is_as_wide_as_its_caption():
    narrow = contact_sheet([[plain("red"), plain("lime")]])
    wide = contact_sheet([[plain("red"), plain("lime")]], captions=[["a very long caption for a small image", ""]])
    assert box(wide, "lime")[0] - box(wide, "red")[2] > box(narrow, "lime")[0] - box(narrow, "red")[2]
    assert wide.height > narrow.height


def test_text_grows_with_the_images():
    def height_of_title(side):
        image = plain("red", side, side)
        ys, _ = np.nonzero(ink(contact_sheet([[image]], column_titles=["Title"]))[: side // 3])
        return ys.max() - ys.min()

    assert height_of_title(1000) > 2 * height_of_title(250)


def test_transparency_is_white_and_grey_becomes_rgb():
    clear = Image.new("RGBA", (30, 20), (255, 0, 0, 0))
    sheet = contact_sheet([[clear, Image.new("L", (30, 20), 0)]])
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    assert not (pixels == COLOURS["red"]).all(axis=2).any()
    assert (pixels == 0).all(axis=2).sum() == 30 * 20


@pytest.mark.parametrize(
    ("rows", "texts", "message"),
    [
        ([], {}, "at least one image"),
        ([[]], {}, "at least one image"),
        ([["red", "lime"]], {"column_titles": ["one"]}, "expected 2 column titles, got 1"),
        ([["red"], ["lime"]], {"row_titles": ["one"]}, "expected 2 row titles, got 1"),
        ([["red", "lime"]], {"captions": [["one"]]}, r"rows of \[2\] captions, got \[1\]"),
        ([["red"]], {"captions": [["one"], ["two"]]}, r"rows of \[1\] captions, got \[1, 1\]"),
    ],
)
def test_titles_and_captions_that_do_not_match_are_refused(rows, texts, message):
    with pytest.raises(ImageValueError, match=message):
        contact_sheet([[plain(colour) for colour in row] for row in rows], **texts)
