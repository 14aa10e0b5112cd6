import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.data import RandomCrops, find_images
from pyramid_tokenizer.data.crops import ATTEMPTS
from pyramid_tokenizer.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five noise pictures: no two crops are alike."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def crops_of(folder, **options):
    return RandomCrops(find_images(folder), **{"batch_size": 4, "crop_px": 32} | options)


def test_images_are_found_below_a_folder_in_order(tmp_path):
    for name in ("b/2.JPG", "a/1.png", "c.webp", "notes.txt", "b/x.jpeg.bak", "d.avif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()  # a folder is no image, whatever its name
    assert find_images(tmp_path) == [tmp_path / name for name in ("a/1.png", "b/2.JPG", "c.webp", "d.avif")]
    assert find_images(str(tmp_path)) == find_images(tmp_path)


def test_a_list_names_files_from_its_own_folder_on(tmp_path):
    listing = tmp_path / "train.txt"
    listing.write_text("a/1.png\n\n  brücke.jpg \n/absolute/3.png\n", encoding="utf-8")
    assert [str(path) for path in find_images(listing)] == [
        str(tmp_path / "a/1.png"),
        str(tmp_path / "brücke.jpg"),
        "/absolute/3.png",
    ]


def test_a_source_without_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder or list"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(DataError, match="expected a folder of images or a .txt list"):
        find_images(tmp_path / "photo.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    for empty in ("empty", "empty.txt"):
        with pytest.raises(DataError, match="got none: check the path"):
            find_images(tmp_path / empty)


def test_a_batch_depends_on_seed_and_step_alone(folder):
    crops = crops_of(folder)
    third = crops[3]
    assert third.shape == (4, 3, 32, 32)
    assert third.dtype == torch.float32
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(crops_of(folder)[3], third)  # whatever was drawn before
    assert not torch.equal(crops[4], third)
    assert not torch.equal(crops_of(folder, seed=1)[3], third)


def test_each_process_draws_another_part_of_a_step(folder):
    parts = [crops_of(folder, rank=rank)[3] for rank in (0, 1)]
    assert not torch.equal(parts[0], parts[1])
    assert torch.equal(torch.cat(parts), crops_of(folder, batch_size=8)[3])


def test_pixels_are_those_of_the_picture_where_nothing_is_resized(folder):
    picture = torch.tensor(np.asarray(Image.open(folder / "0.png"))).permute(2, 0, 1).float() / 255
    crop = RandomCrops([folder / "0.png"], batch_size=1, crop_px=40, zoom=1.0)[0][0]
    windows = picture.unfold(2, 40, 1).permute(2, 0, 1, 3)
    found = [torch.equal(crop, w) or torch.equal(crop, w.flip(2)) for w in windows]
    assert sum(found) == 1


def test_crops_are_mirrored_half_of_the_time_and_reach_every_corner(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    Image.fromarray(np.stack([ramp, ramp.T, ramp * 0], 2)).save(tmp_path / "ramp.png")
    crops = RandomCrops([tmp_path / "ramp.png"], batch_size=200, crop_px=32, zoom=1.0)
    crops = crops[0] * 255  # (200, 3, 32, 32); zoom 1 halves the picture to 32 px
    mirrored = (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).float().mean()
    assert 0.35 < mirrored < 0.65
    wide = RandomCrops([tmp_path / "ramp.png"], batch_size=200, crop_px=32, zoom=2.0)[0] * 255
    assert wide[:, 1, 0, 0].min() < 2  # the top row
    assert wide[:, 1, -1, 0].max() > 61  # the bottom row
    heights = wide[:, 1, -1, 0] - wide[:, 1, 0, 0]  # 31 rows of a 64 px picture down to 63 of one resized to 32 px
    assert heights.min() < 35
    assert heights.max() > 58


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (200, 5), (16, 16), (33, 31)])
def test_pictures_smaller_than_the_crop_are_enlarged(tmp_path, size):
    Image.new("RGB", size, (255, 128, 0)).save(tmp_path / "small.png")
    crop = RandomCrops([tmp_path / "small.png"], batch_size=2, crop_px=32)[0]
    expected = torch.tensor([1, 128 / 255, 0])[None, :, None, None].expand(2, 3, 32, 32)
    torch.testing.assert_close(crop, expected)


def test_unreadable_files_are_skipped_named_once_and_remembered(folder, tmp_path, caplog):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    bad = [tmp_path / "empty.png", tmp_path / "cut.png", tmp_path / "missing.png"]
    crops = RandomCrops([*find_images(folder), *bad], batch_size=16, crop_px=32)
    batches = [crops[step] for step in range(3)]
    assert set(crops.skipped) == set(bad)
    assert sorted(record.args[0] for record in caplog.records) == sorted(bad)
    assert "missing.png" in crops.skipped[bad[2]]
    assert all(len(batch) == 16 and torch.isfinite(batch).all() for batch in batches)
    again = RandomCrops(crops.files, batch_size=16, crop_px=32)
    assert torch.equal(again[2], batches[2])  # skipping does not depend on earlier steps


def test_a_strip_that_would_grow_without_bound_is_skipped(folder, tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "strip.png")
    crops = RandomCrops([tmp_path / "strip.png", folder / "0.png"], batch_size=8, crop_px=64)
    assert crops[0].shape == (8, 3, 64, 64)
    assert "expected sides that can be cropped, got (1, 60000)" in crops.skipped[tmp_path / "strip.png"]


def test_only_unreadable_files_are_an_error(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"got {ATTEMPTS} unreadable ones in a row, the last .*empty.png"):
        RandomCrops([tmp_path / "empty.png"], batch_size=1, crop_px=32)[0]
    with pytest.raises(DataError, match="expected at least one image file, got none"):
        RandomCrops([], batch_size=1, crop_px=32)
