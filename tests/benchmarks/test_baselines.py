import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import baselines
from pyramid_tokenizer.evaluation import codecs


def noisy_images(count=2, side=32):
    """Ramps with noise: enough detail for a file's size to grow with its quality."""
    ramp = torch.linspace(0, 200, side).view(1, 1, side, 1).expand(count, 3, side, side)
    noise = 20 * torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    return (ramp + noise).clamp(0, 255).round().to(torch.uint8)


def rate(files, pixels=32 * 32):
    return 8 * sum(map(len, files)) / (len(files) * pixels)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, (height, width) in {"b.jpg": (24, 40), "a.png": (40, 24), "c.PNG": (16, 16)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_images_are_centre_crops_in_the_order_of_their_names(folder):
    images = baselines.load_images(folder, side=24)
    assert (images.shape, images.dtype) == ((3, 3, 24, 24), torch.uint8)
    first = np.array(Image.open(folder / "a.png"))[8:32]  # 40x24: nothing to resize, 8 rows off each end
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), first)
    enlarged = Image.open(folder / "c.PNG").resize((24, 24), Image.Resampling.BICUBIC)
    assert np.array_equal(images[2].permute(1, 2, 0).numpy(), np.array(enlarged))
    assert torch.equal(baselines.load_images(folder, side=24, limit=2), images[:2])


def test_a_grey_image_becomes_rgb(tmp_path):
    Image.new("L", (16, 16), 7).save(tmp_path / "grey.png")
    assert torch.equal(baselines.load_images(tmp_path, side=16), torch.full((1, 3, 16, 16), 7, dtype=torch.uint8))


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="got none"):
        baselines.load_images(tmp_path)


def test_a_thumbnail_of_a_plain_image_is_the_image():
    plain = torch.tensor([9, 99, 199], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    coded = baselines.thumbnails(plain, 4)
    assert torch.equal(coded.images, plain)
    assert coded.bits_per_pixel == 24 * 16 / 1024


def test_patches_are_cut_from_the_images_and_repeatable(folder):
    patches = baselines.random_patches(folder, 10, seed=3)
    assert torch.equal(patches, baselines.random_patches(folder, 10, seed=3))
    assert not torch.equal(patches, baselines.random_patches(folder, 10, seed=4))
    files = [folder / name for name in ("a.png", "b.jpg", "c.PNG")]
    pixels = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]
    windows = torch.cat([p.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).reshape(-1, 192) for p in pixels])
    for patch in (patches * 255).round().to(torch.uint8):
        assert (windows == patch).all(1).any()


def test_a_codebook_of_a_images_own_patches_paints_it_exactly():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 16, 24), dtype=np.uint8))
    patches = [image[0, :, y : y + 8, x : x + 8].flatten() for y in (0, 8) for x in (0, 8, 16)]
    own = torch.stack([patches[i] for i in (3, 0, 5, 1, 4, 2, 0, 1)]).float() / 255
    coded = baselines.reconstruct_with_patches(image, own)
    assert torch.equal(coded.images, image)
    assert coded.bits_per_pixel == 3 / 64


def test_kmeans_finds_the_only_patches_there_are():
    patches = torch.cat([torch.full((20, 192), value) for value in (0.1, 0.5, 0.9)])
    codebook = baselines.patch_codebook(patches, 3)
    torch.testing.assert_close(codebook[:, 0].sort().values, torch.tensor([0.1, 0.5, 0.9]))


@pytest.mark.parametrize("codec", ["JPEG", "WebP", pytest.param("AVIF", marks=pytest.mark.slow)])
def test_the_nearest_rate_is_that_of_whole_files(codec):
    if not codecs.has_codec(codec):
        pytest.skip(f"this Pillow has no {codec}")
    images, tried = noisy_images(), {}
    qualities = baselines.CODECS[codec][1]
    rates = {q: rate(baselines.encode_files(images, codec, q)) for q in (qualities[0], *range(54, 67), qualities[-1])}
    target = rates[60] * 1.001
    quality, coded = baselines.nearest_rate(images, codec, target, report=tried.__setitem__)
    assert coded.bits_per_pixel == tried[quality] == rates[quality]
    # as near as the nearest of a full scan, but for the few bytes by which WebP's sizes dip as quality rises
    best = min(abs(r - target) for r in rates.values())
    assert abs(coded.bits_per_pixel - target) <= best + 0.002 * target
    files = baselines.encode_files(images, codec, quality)
    decoded = [np.array(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    assert np.array_equal(coded.images.permute(0, 2, 3, 1).numpy(), np.stack(decoded))
    assert (coded.images.float() - images.float()).square().mean() < 200
    assert len(tried) < 12
    assert baselines.nearest_rate(images, codec, 0.0)[1].bits_per_pixel == rates[qualities[0]]
    assert baselines.nearest_rate(images, codec, 99.0)[1].bits_per_pixel == rates[qualities[-1]]


def test_a_codec_that_pillow_lacks_is_told(monkeypatch):
    monkeypatch.setattr(codecs.features, "check", lambda name: name != "avif")
    assert [codecs.has_codec(codec) for codec in codecs.CODECS] == [True, True, False]
