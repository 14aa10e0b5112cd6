"""The codebook atlas: what is gathered of each code, and the page that shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pyramid_tokenizer.errors import DataError
from pyramid_tokenizer.images import open_images, to_pil
from pyramid_tokenizer.visualize.atlas import gather, nearest_codes, neighbours
from pyramid_tokenizer.visualize.atlas_page import write_atlas
from pyramid_tokenizer.visualize.words import NearestWords


@pytest.fixture(scope="module")
def images(smooth):
    return [*smooth(5, 40, 60, seed=6), smooth(1, 64, 64, seed=7)[0]]


@pytest.fixture(scope="module")
def found(toy_tokenizer, images):
    return gather(toy_tokenizer, open_images(images), size=None, patches=2)


def test_every_level_counts_the_ids_that_encode_gives(toy_tokenizer, images, found):
    tokens = [toy_tokenizer.encode(image) for image in images]
    for level, one in enumerate(found.levels):
        ids = torch.cat([t.ids[level].flatten() for t in tokens])
        assert one.counts.tolist() == torch.bincount(ids, minlength=len(one.counts)).tolist()
    assert found.num_images == 6 and not found.skipped


def test_the_patches_of_a_code_are_the_nearest_of_different_images(toy_tokenizer, images, found):
    level, every = found.levels[2], [nearest_codes(toy_tokenizer, image) for image in images]
    best: dict[int, dict[int, float]] = {}
    for index, image in enumerate(images):
        ids, distances = (
            x[2][0, : image.shape[1] // 8, : image.shape[2] // 8] for x in nearest_codes(toy_tokenizer, image)
        )
        for code, distance in zip(ids.flatten().tolist(), distances.flatten().tolist(), strict=True):
            of_code = best.setdefault(code, {})
            of_code[index] = min(of_code.get(index, np.inf), distance)
    for code in range(len(level.counts)):
        expected = sorted(best.get(code, {}).values())[:2]
        assert level.distances[code][np.isfinite(level.distances[code])] == pytest.approx(expected)
        for (index, row, column), distance in zip(level.places[code].tolist(), level.distances[code], strict=True):
            if index >= 0:
                ids, distances = every[index]
                assert int(ids[2][0, row, column]) == code
                assert float(distances[2][0, row, column]) == pytest.approx(float(distance))


def test_neighbours_are_the_nearest_other_codes():
    codes = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(codes, codes).fill_diagonal_(torch.inf)
    assert neighbours(codes, 5).tolist() == distances.topk(5, largest=False).indices.tolist()


def test_the_page_has_the_patch_of_each_code_where_it_says(toy_tokenizer, images, found, tmp_path):
    words = NearestWords.of(toy_tokenizer, ["dog", "sky", "</script>"])
    write_atlas(toy_tokenizer, open_images(images), tmp_path, title="toy", words=words, size=None, patches=2)
    text = (tmp_path / "data.js").read_text()
    data = json.loads(text.removeprefix("const ATLAS = ").rstrip(";\n"))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("index.html", "data.js", "level-0-0.webp", "level-1-0.webp", "level-2-0.webp")
    }
    level, shown = found.levels[1], data["levels"][1]
    assert shown["counts"] == level.counts.tolist() and shown["view"] == 32
    code = int(level.counts.argmax())
    index, row, column = level.places[code, 0].tolist()
    padded = F.pad(images[index][None], (8,) * 4, mode="replicate")
    wanted = np.asarray(to_pil(padded[..., row * 16 : row * 16 + 32, column * 16 : column * 16 + 32])[0])
    sheet = np.asarray(Image.open(tmp_path / "level-1-0.webp"))
    top, left = code // data["strips"] * 32, code % data["strips"] * 2 * 32
    assert np.abs(sheet[top : top + 32, left : left + 32].astype(int) - wanted).mean() < 6  # WebP is lossy
    best = [int(i) for i in words.similarities[0].argmax(0)]
    assert [codes[0] for codes in data["levels"][0]["wordCodes"]] == best
    assert data["levels"][2]["codeWords"] is None
    page = (tmp_path / "index.html").read_text()
    assert "http" not in page and '<script src="data.js">' in page


def test_an_atlas_needs_a_patch_and_an_image_that_can_be_read(toy_tokenizer, tmp_path):
    words = NearestWords.of(toy_tokenizer, ["dog", "sky"])
    kind = {"title": "toy", "words": words}
    with pytest.raises(DataError):
        write_atlas(toy_tokenizer, open_images([torch.rand(3, 32, 32)]), tmp_path, patches=0, **kind)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="bad.png"):
        write_atlas(toy_tokenizer, open_images(tmp_path), tmp_path, **kind)
    assert not (tmp_path / "index.html").exists()
