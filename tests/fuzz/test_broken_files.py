"""Files that were broken in every way: only errors of this package, no hang, bounded memory, no network.

pytest -m slow tests/fuzz       1,000 cases of small files, 100 of whole models and datasets
pytest -m long tests/fuzz       twenty times as many: more than 100,000 in all
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image, features

from pyramid_tokenizer.hub import bundled_models
from pyramid_tokenizer.images import open_images, read_image
from pyramid_tokenizer.images.labelled import open_segmentation_set, read_class_names
from pyramid_tokenizer.images.labelled.sets import read_label_values
from pyramid_tokenizer.numpy_reader import read_tokens
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.fuzz.limits import limits, outcome
from tests.fuzz.mutations import DECISIONS, Choices, Edit, edited, edited_json, edited_safetensors
from tests.tokens.pyramids import make, make_sparse


def tiers(cases: int) -> list[object]:
    """So many cases in the slow tier, and twenty times as many in the long one."""
    counts = ((cases, pytest.mark.slow), (20 * cases, pytest.mark.long))
    return [pytest.param(count, marks=mark, id=str(count)) for count, mark in counts]


SMALL, WHOLE = tiers(1_000), tiers(100)


def fuzz(cases: int, files: Sequence[bytes], edit: Edit, read: Callable[[bytes], object]) -> None:
    """Reads so many broken files. Some must be refused, or else the edits test nothing."""
    outcomes = set()

    @settings(max_examples=cases, suppress_health_check=list(HealthCheck))
    @given(DECISIONS)
    def run(decisions: bytes) -> None:
        choices = Choices(decisions)
        data = edit(choices.among(files), choices)
        outcomes.add(outcome(lambda: read(data)))

    with limits():
        run()
    assert outcomes - {"read"}


@pytest.mark.parametrize("cases", SMALL)
@pytest.mark.parametrize("is_forged", [False, True], ids=["altered", "forged"])
def test_token_bytes(cases, is_forged):
    def read(data: bytes) -> None:
        if is_forged:  # a checksum that is right again
            data = data[:-16] + hashlib.sha256(data[:-16]).digest()[:16]
        found = [outcome(lambda reader=reader: reader(data)) for reader in (TokenPyramid.from_bytes, read_tokens)]
        assert found[0] == found[1]
        if found[0] == "read":
            assert [x.tolist() for x in read_tokens(data).ids] == [
                x.tolist() for x in TokenPyramid.from_bytes(data).ids
            ]
        else:
            TokenPyramid.from_bytes(data)

    whole = [make().to_bytes(), make_sparse().to_bytes(), make(ids=make().ids[:1], codebook_sizes=(4,)).to_bytes()]
    fuzz(cases, whole, edited, read)


def encoded_images() -> list[bytes]:
    """A small image in every format that Pillow writes and this package reads, with palettes, alpha, 16 bits and EXIF."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, (5, 6), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    written = [(colour, "PNG", {}), (colour, "JPEG", {"exif": exif}), (colour, "BMP", {}), (colour, "TIFF", {})]
    written += [(wide, "PNG", {}), (wide, "TIFF", {}), (colour.convert("P"), "PNG", {"transparency": 3})]
    written += [(colour, "GIF", {}), (colour.convert("RGBA"), "PNG", {}), (colour.convert("CMYK"), "JPEG", {})]
    written += [(colour, "WEBP", {})] if features.check("webp") else []
    written += [(colour, "AVIF", {})] if features.check("avif") else []
    files = []
    for image, kind, options in written:
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
    return files


@pytest.mark.parametrize("cases", SMALL)
def test_image_files(cases):
    fuzz(cases, encoded_images(), edited, lambda data: read_image(data, size=8))


@pytest.mark.parametrize("cases", SMALL)
def test_label_images(cases, tmp_path):
    def read(data: bytes) -> None:
        (tmp_path / "labels.png").write_bytes(data)
        read_label_values(tmp_path / "labels.png")

    fuzz(cases, encoded_images(), edited, read)


@pytest.mark.parametrize("cases", SMALL)
def test_class_names(cases, tmp_path):
    def read(data: bytes) -> None:
        (tmp_path / "classes.txt").write_bytes(data)
        read_class_names(tmp_path / "classes.txt")

    fuzz(cases, [b"cat|kitten\ndog\n", "1: \u00fc\n2: b".encode()], edited, read)


@pytest.mark.parametrize("cases", WHOLE)
def test_tar_shards(cases, tmp_path, write_tar):
    images = encoded_images()[:2]
    whole = write_tar(tmp_path / "whole.tar", {"a.png": images[0], "../../b.jpg": images[1]}).read_bytes()

    def read(data: bytes) -> None:
        (tmp_path / "shard.tar").write_bytes(data)
        source = open_images(tmp_path / "shard.tar")
        for index in range(len(source)):
            outcome(lambda index=index: source.read(index))

    fuzz(cases, [whole], edited, read)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard.tar", "whole.tar"]


@pytest.fixture(scope="module")
def model(toy_tokenizer, tmp_path_factory) -> Path:
    """A saved toy model with a segmentation head."""
    from pyramid_tokenizer.segmentation.head import build_head

    folder = tmp_path_factory.mktemp("model")
    shape = {"width": 8, "depth": 1, "shared_decoder": True}
    head = build_head(toy_tokenizer.trunk, embedding_dim=toy_tokenizer.backbone.embedding_dim, **shape)
    Segmenter(toy_tokenizer, head).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("cases", WHOLE)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "segmentation_head.safetensors"])
def test_models(cases, name, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    whole = (folder / name).read_bytes()

    def read(data: bytes) -> None:
        (folder / name).write_bytes(data)
        Segmenter.from_pretrained(folder)

    fuzz(cases, [whole], edited_json if name == "config.json" else edited_safetensors, read)


@pytest.mark.parametrize("cases", WHOLE)
@pytest.mark.parametrize("name", ["manifest.json", "errors.jsonl"])
def test_manifests_of_token_datasets(cases, name, toy_tokenizer, tmp_path, smooth):
    pytest.importorskip("pyarrow")
    from pyramid_tokenizer.datasets import TokenDataset, tokenize

    folder, cache = tmp_path / "tokens", tmp_path / "cache"
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(smooth(3, 32, 32)):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"broken")
    tokenize(tmp_path / "photos", folder, model=toy_tokenizer, workers=0)
    whole = (folder / name).read_bytes()

    def read(data: bytes) -> None:
        (folder / name).write_bytes(data)
        shutil.rmtree(cache, ignore_errors=True)
        dataset = TokenDataset(folder, cache_dir=cache)
        [dataset[index] for index in range(len(dataset))]

    fuzz(cases, [whole], edited_json if name == "manifest.json" else edited, read)


@pytest.mark.parametrize("cases", WHOLE)
def test_segmentation_sets(cases, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (6, 5)).save(tmp_path / "images" / "a.png")
    Image.new("L", (6, 5), 1).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    whole = (tmp_path / "labels" / "a.png").read_bytes()

    def read(data: bytes) -> None:
        (tmp_path / "labels" / "a.png").write_bytes(data)
        _ = open_segmentation_set(tmp_path)[0]

    fuzz(cases, [whole], edited, read)


@pytest.mark.parametrize("cases", tiers(20))
def test_descriptions_of_backbones(cases, tmp_path):
    folder = shutil.copytree(bundled_models()["tiny"], tmp_path / "model")
    file = folder / "backbone" / "open_clip_config.json"
    whole = file.read_bytes()
    PyramidTokenizer.from_pretrained(folder)  # imports open_clip and timm, which is not a part of any case

    def read(data: bytes) -> None:
        file.write_bytes(data)
        PyramidTokenizer.from_pretrained(folder)

    fuzz(cases, [whole], edited_json, read)


def test_a_model_that_is_whole_is_read(model):
    assert outcome(lambda: PyramidTokenizer.from_pretrained(model)) == "read"


@pytest.mark.long
@pytest.mark.skipif("PILLOW_TEST_IMAGES" not in os.environ, reason="PILLOW_TEST_IMAGES names no folder of images")
def test_pillows_own_test_images():
    """Among them are files that once crashed Pillow or filled the memory."""
    files = sorted(path for path in Path(os.environ["PILLOW_TEST_IMAGES"]).rglob("*") if path.is_file())
    with limits():
        outcomes = [outcome(lambda file=file: read_image(file, size=32)) for file in files]
    assert outcomes.count("read") > len(files) / 2
