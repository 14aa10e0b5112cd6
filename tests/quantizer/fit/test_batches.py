"""What `fit` may be given, and what becomes of a decoder that was trained before."""

import copy
import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images import RandomCrops, open_images
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.quantizer.fit.batches import image_batches
from pyramid_tokenizer.tokenizer import PyramidTokenizer


@pytest.fixture(scope="module")
def images(smooth):
    return list(smooth(6, 48, 40, seed=4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(to_pil(torch.stack(images))):
        image.save(folder / f"{i:02}.png")
    return folder


def crops_of(source, **options):
    settings = {"num_crops": 20, "crop_px": 32, "seed": 3} | options
    return image_batches(source, **settings)


def test_a_source_gives_the_same_number_of_crops_at_each_reading(folder):
    batches = crops_of(folder)
    first, second = list(batches()), list(batches())
    assert [tuple(batch.shape) for batch in first] == [(16, 3, 32, 32), (4, 3, 32, 32)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_kind_of_source_gives_the_crops_of_its_images(folder):
    expected = torch.cat(list(crops_of(str(folder))()))
    files = sorted(folder.iterdir())
    for source in (folder, files, [str(file) for file in files], open_images(folder), to_pil_list(files)):
        assert torch.equal(torch.cat(list(crops_of(source)())), expected)


def to_pil_list(files):
    from PIL import Image

    return [Image.open(file) for file in files]


def test_a_tensor_of_images_is_a_source_and_a_list_of_tensors_is_batches(images):
    stack = torch.stack(images)
    assert torch.equal(torch.cat(list(crops_of(stack)())), torch.cat(list(crops_of(images)())))
    batches = [stack[:4], stack[4:]]
    assert list(crops_of(batches)()) == batches


def test_the_seed_and_the_side_decide_the_crops(images):
    one, other = (next(iter(crops_of(images, seed=seed)())) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert next(iter(crops_of(images, crop_px=24)())).shape == (16, 3, 24, 24)


@pytest.mark.parametrize(
    "make",
    [
        lambda images: RandomCrops(images, batch_size=4, crop_px=32),
        lambda images: DataLoader(images, batch_size=4),
        lambda images: (images[:4], images[4:]),
        lambda images: lambda: iter([torch.stack(images[:4]), torch.stack(images[4:])]),
    ],
    ids=["RandomCrops", "DataLoader", "lists", "function"],
)
def test_batches_that_are_ready_are_used_whole_and_end(make, images):
    batches = crops_of(make(images))
    for _ in range(2):
        assert [len(batch) for batch in itertools.islice(batches(), 9)] in ([4, 4], [4, 2])


def test_an_iterator_is_refused(images):
    with pytest.raises(DataError, match="iterator"):
        crops_of(iter(images))


@pytest.mark.parametrize("given", [3, None, "photos", b"photos", {"image": 1}])
def test_a_function_that_gives_no_batches_is_refused(given):
    with pytest.raises(DataError, match="batches .* from the function") as error:
        list(crops_of(lambda: given)())
    assert type(given).__name__ in str(error.value) or repr(given) in str(error.value)


def test_a_function_that_needs_arguments_is_refused(images):
    with pytest.raises(DataError, match="without arguments, got .*'path'"):
        crops_of(lambda path, size=3: [])
    assert list(crops_of(lambda size=3: [size])()) == [3]


@pytest.mark.parametrize("source", [[], "no/such/folder", 7])
def test_what_open_images_refuses_is_refused(source):
    with pytest.raises(DataError):
        crops_of(source)


def test_no_crops_are_refused(images):
    with pytest.raises(ConfigError, match="num_crops.*at least 1, got 0"):
        crops_of(images, num_crops=0)


def test_a_tokenizer_is_fitted_on_the_crops_of_a_folder(toy_config, folder):
    one, other = (PyramidTokenizer.from_config(toy_config) for _ in range(2))
    reports = one.fit(folder, num_crops=24, crop_px=32, seed=3)
    assert [report.vectors for report in reports] == [24, 24 * 4, 24 * 16]
    assert other.fit(crops_of(folder, num_crops=24, crop_px=32), seed=3) == reports
    assert other.fingerprint == one.fingerprint


def test_without_a_side_crops_have_160_px_or_the_next_multiple(toy_config, folder):
    reports = PyramidTokenizer.from_config(toy_config).fit(folder, num_crops=2)
    assert [report.vectors for report in reports] == [2 * 25, 2 * 100, 2 * 400]


def decoder_of(tok):
    return {name: tensor.clone() for name, tensor in tok.own_tensors().items() if not name.startswith("quantizer")}


def test_a_fit_resets_a_trained_decoder_and_says_so(toy_tokenizer, smooth):
    tok, images = copy.deepcopy(toy_tokenizer), smooth(3, seed=9)
    assert tok.pixel_decoder.is_trained
    with pytest.warns(UserWarning, match="keep_adapters=True"):
        tok.fit([smooth(16, seed=8)])
    assert not tok.pixel_decoder.is_trained
    linear = tok.quantizer.linear_reconstruction(tok.codes(tok.encode(images)))
    assert torch.equal(tok.reconstruct(images), linear.clamp(0, 1))
    before = decoder_of(toy_tokenizer)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in decoder_of(tok).items() if tensor.any())
    assert not any(bool(constant.any()) for constant in tok.trunk.absent)


def test_a_refit_keeps_a_trained_decoder(toy_tokenizer, smooth):
    tok = copy.deepcopy(toy_tokenizer)
    tok.fit([smooth(16, seed=8)], keep_adapters=True)
    before, after = decoder_of(toy_tokenizer), decoder_of(tok)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_fit_that_fails_keeps_a_trained_decoder(toy_tokenizer, smooth):
    tok = copy.deepcopy(toy_tokenizer)
    with pytest.raises(DataError):
        tok.fit([torch.full((16, 3, 64, 64), 0.5)])
    assert all(torch.equal(tensor, toy_tokenizer.own_tensors()[name]) for name, tensor in tok.own_tensors().items())


def test_an_untrained_decoder_stays_as_it_is(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    before = decoder_of(tok)
    tok.fit([smooth(16)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder_of(tok).items())
