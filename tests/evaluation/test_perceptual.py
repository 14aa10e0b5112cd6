"""LPIPS and rFID: torchmetrics' own code with random weights where torch keeps downloaded ones, and what is told without."""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import nn

from pyramid_tokenizer.errors import MissingExtraError
from pyramid_tokenizer.evaluation import perceptual, reconstruction
from pyramid_tokenizer.evaluation.frechet import frechet_distance
from pyramid_tokenizer.evaluation.reconstruction import evaluate_reconstruction
from pyramid_tokenizer.evaluation.report_of import reconstruction_report
from pyramid_tokenizer.images import to_uint8

INCEPTION_PX = 32


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where torch keeps downloaded weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def any_checksum(monkeypatch):
    """Takes every file for the one of its name."""
    monkeypatch.setattr(perceptual, "_sha256", lambda path: path.stem.rpartition("-")[2].ljust(64, "0"))


@pytest.fixture
def alexnet(folder, any_checksum):
    """AlexNet with random weights. Its linear layers, which LPIPS leaves out, are one number in the file."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        shapes = alexnet(weights=None).state_dict()
    state = {
        name: torch.randn(x.shape) * (2 / x[0].numel()) ** 0.5
        if name.startswith("features")
        else torch.zeros(1).expand(x.shape)
        for name, x in shapes.items()
    }
    torch.save(state, folder / perceptual.LPIPS_FILE)


class SmallInception(nn.Module):
    """Has the interface of torch-fidelity's extractor that torchmetrics uses, and one convolution in place of its network."""

    INPUT_IMAGE_SIZE = INCEPTION_PX

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        self.features_list = features_list
        self.Conv2d_1a_3x3 = nn.Conv2d(3, 64, 3, stride=8)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3, self.MaxPool_1 = nn.Identity(), nn.Identity(), nn.Identity()
        assert feature_extractor_weights_path, "without a path, torch-fidelity downloads the weights"
        self.load_state_dict(torch.load(feature_extractor_weights_path))
        self.requires_grad_(False)


@pytest.fixture
def inception(folder, any_checksum, monkeypatch):
    """A stand-in of the package torch-fidelity, with its file of weights: the convolution, (64, 3, 3, 3) and (64,)."""
    import torchmetrics.utilities.imports

    def module(name, **content):
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("torch_fidelity")
    module("torch_fidelity.feature_extractor_inceptionv3", FeatureExtractorInceptionV3=SmallInception)
    module("torch_fidelity.helpers", vassert=lambda holds, message: None)
    module("torch_fidelity.interpolate_compat_tensorflow", interpolate_bilinear_2d_like_tensorflow1x=None)
    monkeypatch.setattr(torchmetrics.utilities.imports, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.delitem(
        sys.modules, "torchmetrics.image.fid", raising=False
    )  # it asks for torch-fidelity at its import
    weights = nn.Conv2d(3, 64, 3, stride=8).requires_grad_(False)
    state = {f"Conv2d_1a_3x3.{name}": value for name, value in weights.state_dict().items()}
    torch.save(state, folder / perceptual.INCEPTION_FILE)
    yield weights
    sys.modules.pop("torchmetrics.image.fid", None)


@pytest.fixture
def pairs(smooth):
    images = to_uint8(smooth(4, 64, 64, seed=3))
    return images, to_uint8((images / 255 + 0.1 * torch.randn(images.shape)).clamp(0, 1))


def features_of(weights, images):
    """(B, 64): what FID compares of these images."""
    small = nn.functional.interpolate(
        images.float(), (INCEPTION_PX, INCEPTION_PX), mode="bilinear", align_corners=False, antialias=True
    )
    return weights((small - 128) / 128).mean((2, 3))


@pytest.mark.slow  # torchmetrics takes seconds to import
@pytest.mark.filterwarnings("ignore:.*'pretrained'|Arguments other than a weight:UserWarning")  # lpips' own
def test_lpips_is_that_of_the_package_of_its_authors(alexnet, pairs):
    authors = pytest.importorskip("lpips").LPIPS(net="alex", verbose=False)
    a, b = pairs
    found = perceptual.load_lpips()(a, b)
    with torch.no_grad():
        expected = authors(a / 255, b / 255, normalize=True).flatten()
    assert found.dtype == torch.float64 and float(found.min()) > 0.001
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-6)
    assert perceptual.load_lpips()(a, a).tolist() == [0, 0, 0, 0]


@pytest.mark.slow
def test_lpips_takes_the_least_side_that_it_names(alexnet):
    lpips = perceptual.load_lpips()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    side = perceptual.LPIPS_LEAST_PX
    assert lpips(images[..., :side, :side], images[..., :side, :side]).tolist() == [0]
    with pytest.raises(RuntimeError):
        lpips(images[..., : side - 1, : side - 1], images[..., : side - 1, : side - 1])


@pytest.mark.slow
def test_rfid_is_the_frechet_distance_of_the_features_of_its_network(inception, pairs):
    a, b = pairs
    fid = perceptual.load_fid(64)
    for part in (slice(0, 3), slice(3, 4)):
        fid.update(a[part], real=True)
        fid.update(b[part], real=False)
    expected = frechet_distance(features_of(inception, a), features_of(inception, b))
    assert float(fid.compute()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_report_has_both_where_their_weights_are(alexnet, inception, pairs, toy_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(reconstruction, "load_fid", partial(perceptual.load_fid, 64))  # 2,048 take half a minute
    images, _ = pairs
    result = evaluate_reconstruction(toy_tokenizer, [images[:3], images[3:]], codecs=["JPEG"])
    decoded = to_uint8(toy_tokenizer.reconstruct(images / 255))
    rows = {row["what"]: row for row in result.data["rows"]}
    assert rows["levels 0-2"]["lpips"] == pytest.approx(float(perceptual.load_lpips()(images, decoded).mean()))
    assert rows["JPEG, quality 5"]["lpips"] > rows["JPEG, quality 40"]["lpips"] > 0
    expected = frechet_distance(features_of(inception, images), features_of(inception, decoded))
    assert result.data["rfid"] == pytest.approx(expected, rel=1e-3)
    assert not [line for line in result.data["left_out"] if line.startswith(("LPIPS", "rFID"))]
    reconstruction_report(result, {"model": "toy"}).write(tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| LPIPS |" in text and f"rFID: {result.data['rfid']:.2f}" in text


def test_without_weights_their_file_is_named_and_nothing_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(perceptual, "find_spec", lambda name: name)
    for load, name in (
        (perceptual.load_lpips, perceptual.LPIPS_FILE),
        (perceptual.load_fid, perceptual.INCEPTION_FILE),
    ):
        with pytest.raises(MissingExtraError) as caught:
            load()
        assert f"checkpoints/{name}" in str(caught.value) and str(folder) not in str(caught.value)


def test_a_file_of_other_weights_is_refused_with_both_checksums(folder):
    (folder / perceptual.LPIPS_FILE).write_bytes(b"half a download")
    found = hashlib.sha256(b"half a download").hexdigest()[:8]
    with pytest.raises(MissingExtraError, match=f"7be5be79.*{found}"):
        perceptual.load_lpips()


def test_without_torch_fidelity_the_pip_command_is_named(monkeypatch):
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install torch-fidelity"):
        perceptual.load_fid()


def test_small_images_have_no_lpips_and_are_told_so(toy_tokenizer):
    run = reconstruction._Run(tok=toy_tokenizer, perceptual=True)
    run._start(30)
    assert "lpips" not in run.metrics and "LPIPS: images of 30 px are too small" in run.left_out


@pytest.mark.slow  # so does torchvision
def test_the_file_of_lpips_is_the_one_that_torchvision_loads():
    from torchvision.models import AlexNet_Weights

    assert AlexNet_Weights.DEFAULT.url.endswith(f"/{perceptual.LPIPS_FILE}")
