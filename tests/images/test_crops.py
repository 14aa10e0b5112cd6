import multiprocessing
import operator

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config.models import LevelConfig
from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images import RandomCrops, find_images, open_images, read_skip_log
from pyramid_tokenizer.images.crops import ATTEMPTS, draw_crop


def crops_of(folder, **options):
    return RandomCrops(find_images(folder), **{"batch_size": 4, "crop_px": 32} | options)


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
    parts = [crops_of(folder, rank=rank, world_size=2)[3] for rank in (0, 1)]
    assert not torch.equal(parts[0], parts[1])
    assert torch.equal(torch.cat(parts), crops_of(folder, batch_size=8)[3])


@pytest.mark.parametrize(("batch", "world", "accumulate"), [(2, 4, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 1, 8)])
def test_a_step_has_the_same_crops_however_it_is_divided(folder, batch, world, accumulate):
    whole = crops_of(folder, batch_size=8)
    options = {"batch_size": batch, "world_size": world, "accumulate": accumulate}
    ranks = [crops_of(folder, rank=rank, **options) for rank in range(world)]
    for step in (0, 3):
        parts = [ranks[rank][step * accumulate + part] for part in range(accumulate) for rank in range(world)]
        assert torch.equal(torch.cat(parts), whole[step])


def test_crops_are_those_of_earlier_versions(folder):
    # stored trainings resume on them; the numbers are those of version 0.1's first RandomCrops
    crops = RandomCrops([*find_images(folder), folder / "9.png"], batch_size=8, crop_px=32, seed=3)
    firsts = torch.cat([crops[step][:, 0, 0, 0] for step in (0, 977)])
    first = [0.486632, 0.379492, 0.43529, 0.392535, 0.366417, 0.46519, 0.55073, 0.609425]
    late = [0.311008, 0.463107, 0.496746, 0.095754, 0.205519, 0.702152, 0.467781, 0.325721]
    torch.testing.assert_close(firsts, torch.tensor(first + late), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (2, 2)])
def test_a_rank_is_one_of_the_processes(folder, rank, world):
    with pytest.raises(ConfigError, match=f"world_size {world}, got {rank}"):
        crops_of(folder, rank=rank, world_size=world)


@pytest.mark.parametrize(("batch", "world", "passes"), [(1, 1, 4), (2, 1, 2), (3, 1, 2), (2, 2, 1), (9, 1, 1)])
def test_iteration_covers_one_pass_and_items_beyond_it_can_be_asked_for(folder, batch, world, passes):
    crops = RandomCrops(find_images(folder)[:4], crop_px=32, batch_size=batch, world_size=world)
    assert len(crops) == passes
    found = list(crops)
    assert len(found) == passes
    assert all(torch.equal(found[item], crops[item]) for item in range(passes))
    assert crops[passes + 100].shape == (batch, 3, 32, 32)
    with pytest.raises(IndexError, match="-1"):
        crops[-1]


def test_a_loader_without_a_sampler_reads_one_pass(folder):
    crops = RandomCrops(find_images(folder)[:4], crop_px=32, batch_size=2)
    loaded = list(DataLoader(crops, batch_size=None))
    assert [torch.equal(batch, crops[item]) for item, batch in enumerate(loaded)] == [True] * 2


def test_codebooks_are_fitted_on_one_pass(folder):
    crops = crops_of(folder, batch_size=1)
    tok = PyramidTokenizer.from_backbone("toy", levels=[LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4)])
    tok.fit(crops)
    assert tok.quantizer.is_fitted


@pytest.mark.parametrize("size", [(40, 60), (33, 90), (200, 100), (32, 32), (20, 50)])
def test_an_image_is_never_enlarged_beyond_its_own_size_unless_it_is_smaller_than_the_crop(size):
    rng, shorts = np.random.default_rng(0), set()
    for _ in range(400):
        crop = draw_crop(size, crop_px=32, zoom=1.6, rng=rng)
        shorts.add(min(crop.size))
        assert crop.top + 32 <= crop.size[0] and crop.left + 32 <= crop.size[1]
        assert crop.size[0] / crop.size[1] == pytest.approx(size[0] / size[1], rel=0.05)
    assert (min(shorts), max(shorts)) == (32, max(32, min(*size, 51)))


def test_pixels_are_those_of_the_image_where_nothing_is_resized(folder):
    picture = torch.tensor(np.asarray(Image.open(folder / "0.png"))).permute(2, 0, 1).float() / 255
    crop = RandomCrops([folder / "0.png"], batch_size=1, crop_px=40, zoom=1.0)[0][0]
    windows = picture.unfold(2, 40, 1).permute(2, 0, 1, 3)
    found = [torch.equal(crop, w) or torch.equal(crop, w.flip(2)) for w in windows]
    assert sum(found) == 1


def test_crops_are_mirrored_half_of_the_time_and_reach_every_corner(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    Image.fromarray(np.stack([ramp, ramp.T, ramp * 0], 2)).save(tmp_path / "ramp.png")
    crops = RandomCrops([tmp_path / "ramp.png"], batch_size=200, crop_px=32, zoom=1.0)
    crops = crops[0] * 255  # (200, 3, 32, 32); zoom 1 halves the image to 32 px
    mirrored = (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).float().mean()
    assert 0.35 < mirrored < 0.65
    wide = RandomCrops([tmp_path / "ramp.png"], batch_size=200, crop_px=32, zoom=2.0)[0] * 255
    assert wide[:, 1, 0, 0].min() < 2  # the top row
    assert wide[:, 1, -1, 0].max() > 61  # the bottom row
    heights = wide[:, 1, -1, 0] - wide[:, 1, 0, 0]  # 31 rows of a 64 px image down to 63 of one resized to 32 px
    assert heights.min() < 35
    assert heights.max() > 58


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (200, 5), (16, 16), (33, 31)])
def test_images_smaller_than_the_crop_are_enlarged(tmp_path, size):
    Image.new("RGB", size, (255, 128, 0)).save(tmp_path / "small.png")
    crop = RandomCrops([tmp_path / "small.png"], batch_size=2, crop_px=32, min_px=1)[0]
    expected = torch.tensor([1, 128 / 255, 0])[None, :, None, None].expand(2, 3, 32, 32)
    torch.testing.assert_close(crop, expected)


def test_unusable_images_are_skipped_named_once_and_remembered(folder, tmp_path, caplog):
    bad = [str(tmp_path / name) for name in ("empty.png", "cut.png", "missing.png", "tiny.png")]
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    Image.new("RGB", (200, 31)).save(tmp_path / "tiny.png")
    files = [*find_images(folder), *bad]
    crops = RandomCrops(files, batch_size=16, crop_px=32)
    batches = [crops[step] for step in range(3)]
    assert set(crops.skipped) == set(bad)
    assert sorted(record.args[0] for record in caplog.records) == sorted(bad)
    reasons = ("an empty file", "got OSError", "no file", "expected sides of at least 32 px, got (31, 200)")
    assert all(reason in crops.skipped[name] for reason, name in zip(reasons, bad, strict=True))
    assert all(len(batch) == 16 and torch.isfinite(batch).all() for batch in batches)
    assert torch.equal(RandomCrops(files, batch_size=16, crop_px=32)[2], batches[2])  # whatever earlier steps skipped


def test_a_image_just_large_enough_is_used(tmp_path):
    Image.new("RGB", (40, 32), (255, 0, 0)).save(tmp_path / "edge.png")
    crops = RandomCrops(tmp_path, batch_size=1, crop_px=16, min_px=32)
    torch.testing.assert_close(crops[0][0, :, 0, 0], torch.tensor([1.0, 0, 0]))
    assert not crops.skipped
    with pytest.raises(DataError, match=r"33 px, got \(32, 40\)"):
        RandomCrops(tmp_path, batch_size=1, crop_px=16, min_px=33)[0]


def test_a_strip_that_would_grow_without_bound_is_skipped(folder, tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "strip.png")
    crops = RandomCrops([tmp_path / "strip.png", folder / "0.png"], batch_size=8, crop_px=64, min_px=1)
    assert crops[0].shape == (8, 3, 64, 64)
    assert "(1, 60000)" in crops.skipped[str(tmp_path / "strip.png")]


def test_only_unusable_images_are_an_error(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"{ATTEMPTS} .*empty.png"):
        RandomCrops([tmp_path / "empty.png"], batch_size=1, crop_px=32)[0]
    with pytest.raises(DataError, match="empty list"):
        RandomCrops([], batch_size=1, crop_px=32)


def test_the_skip_log_has_each_image_once_with_its_reason(folder, tmp_path):
    odd = tmp_path / "a\tb\nc é\u2028.png"
    odd.write_bytes(b"no image")
    (tmp_path / "empty.png").write_bytes(b"")
    log = tmp_path / "skipped.tsv"
    files = [folder / "0.png", odd, tmp_path / "empty.png"]
    for _ in range(2):  # a second process, or a resumed run, adds its own lines
        crops = RandomCrops(files, batch_size=16, crop_px=32, skip_log=log)
        assert len(crops[0]) == len(crops[1]) == 16
    assert log.read_text(encoding="utf-8").count("\n") == 4
    names = {str(name).replace("\t", "\\t").replace("\n", "\\n"): crops.skipped[str(name)] for name in files[1:]}
    assert read_skip_log(log) == {name: reason.replace("\n", "\\n") for name, reason in names.items()}


def test_without_a_skipped_image_there_is_no_log(folder, tmp_path):
    log = tmp_path / "skipped.tsv"
    crops = crops_of(folder, skip_log=log)
    assert len(crops[0]) == 4 and not log.exists()
    assert read_skip_log(log) == {}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, encoded, write_tar, write_parquet):
    """The same five images and a damaged one, from each kind of source."""
    datasets = pytest.importorskip("datasets")
    place = tmp_path_factory.mktemp("sources")
    pictures = [*encoded, b"damaged"]
    named = {f"{i}.png": data for i, data in enumerate(pictures)}
    for name, data in named.items():
        (place / name).write_bytes(data)
    dataset = datasets.Dataset.from_dict({"image": [{"bytes": data, "path": None} for data in pictures]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRAMID_TOKENIZER_CACHE", str(place / "cache"))
        return {
            "folder": open_images(place),
            "tar": open_images(write_tar(place / "shards" / "a.tar", named)),
            "parquet": open_images(write_parquet(place / "tables" / "a.parquet", image=pictures)),
            "dataset": open_images(dataset.cast_column("image", datasets.Image())),
        }


def test_every_kind_of_source_gives_the_same_crops(sources):
    crops = {kind: RandomCrops(images, batch_size=16, crop_px=32) for kind, images in sources.items()}
    batches = {kind: crops[kind][0] for kind in crops}
    assert all(torch.equal(batch, batches["folder"]) for batch in batches.values())
    assert all(list(crops[kind].skipped) == [sources[kind].name(5)] for kind in crops)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "dataset"])
def test_forked_loader_workers_draw_the_same_crops_and_write_one_log(kind, sources, tmp_path):
    crops = RandomCrops(sources[kind], batch_size=8, crop_px=32, skip_log=tmp_path / "skipped.tsv")
    assert sources[kind].read(0).shape == (3, 40, 60)  # before the workers start: they must not share an open file
    steps = range(12)
    loader = DataLoader(crops, batch_size=None, sampler=steps, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    assert [torch.equal(batch, crops[step]) for step, batch in zip(steps, batches, strict=True)] == [True] * 12
    assert read_skip_log(tmp_path / "skipped.tsv") == crops.skipped
    assert list(crops.skipped) == [sources[kind].name(5)]


@pytest.mark.slow
def test_a_spawned_process_draws_the_same_crops(sources):
    crops = [RandomCrops(images, batch_size=4, crop_px=32) for images in sources.values()]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        batches = pool.starmap(operator.getitem, [(each, 2) for each in crops])
    assert [torch.equal(batch, crops[0][2]) for batch in batches] == [True] * 4
