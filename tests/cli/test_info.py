"""`info`: what a model, a token file or a new model on a backbone holds."""

from __future__ import annotations

import dataclasses
import email.message
import importlib.metadata

import pytest
import torch

from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_model_shows_its_levels_sizes_and_fingerprint(run, model, tok):
    done = run("info", model)
    assert done.exit_code == 0, done.stderr
    shown = rows(done.stdout)
    assert ["fingerprint", tok.fingerprint] in shown
    assert ["vocabulary", str(tok.vocabulary.size), "integers"] in shown
    assert ["0", "32", "8x8", "64", "4", "4", "2.00", "0.0020"] in shown
    assert ["1", "8", "32x32", "1,024", "16", "6", "4.00", "0.0625"] in shown
    assert ["all", "1,088", "20", "0.0645"] in shown
    for part in ("trunk", "pixel decoder"):
        count = sum(tensor.numel() for tensor in getattr(tok, part.replace(" ", "_")).state_dict().values())
        assert [*part.split(), f"{count:,}"] in shown
    for path in model.iterdir():
        assert [path.name, f"{path.stat().st_size:,}"] in shown


def test_a_segmentation_head_is_shown_where_there_is_one(run, model, head_model):
    head = Segmenter.from_pretrained(head_model).head
    count = sum(tensor.numel() for tensor in head.state_dict().values())
    assert ["segmentation", "head", f"{count:,}"] in rows(run("info", head_model).stdout)
    assert "segmentation head" not in run("info", model).stdout


@pytest.mark.parametrize("size", [1, 32, 33])
def test_tokens_are_counted_for_an_image_of_the_given_size(run, model, tok, size):
    tokens = tok.encode(torch.zeros(3, size, size))
    last = next(row for row in rows(run("info", model, "--size", size).stdout) if row[:1] == ["all"])
    assert last == ["all", str(tokens.num_tokens), "20", f"{tokens.bits_per_pixel:.4f}"]


def test_a_token_file_shows_its_images_levels_and_fingerprint_without_a_model(run, tok, photos, here):
    tokens = tok.encode([photos / "b.png", photos / "trip" / "a.png"])
    tokens.save(here / "x.tokens")
    dataclasses.replace(tokens, precision=None).save(here / "y.tokens")
    done = run("info", "x.tokens")
    assert done.exit_code == 0, done.stderr
    shown = rows(done.stdout)
    assert ["images", "2", "of", "48x48", "px"] in shown
    assert ["fingerprint", tok.fingerprint] in shown
    assert ["precision", "of", "the", "backbone:", "float32"] in shown
    assert any(row[:2] == ["precision", "none:"] for row in rows(run("info", "y.tokens").stdout))
    assert ["0", "2x2", "4", "4", "2.00", "0.0035"] in shown
    assert ["1", "8x8", "64", "16", "4.00", "0.1146"] in shown


def test_a_sparse_token_file_shows_what_is_present_of_each_level(run, detailed_tokenizer, smooth, here):
    images = smooth(2, 64, 64, seed=3)
    images[0] = 0.5
    tokens = detailed_tokenizer.encode(images, quality=0.2)
    tokens.save(here / "x.tokens")
    shown = rows(run("info", "x.tokens").stdout)
    flat, rich = sorted(tokens.token_counts.tolist())
    assert flat < rich < 336
    rate = f"{tokens.bits_per_pixel:.4f}"
    assert ["tokens", str(flat), "to", str(rich), "an", "image,", "of", "336,", rate, "bits", "per", "pixel"] in shown
    share = (tokens.ids[2] >= 0).double().mean().item()
    assert ["0", "4x4", "16", "100.0%", "8", "3.00", f"{tokens[:1].bits_per_pixel:.4f}"] in shown
    assert ["2", "16x16", f"{256 * share:g}", f"{share:.1%}", "16", "4.00", rate] in shown


def test_detail_levels_of_a_model_are_marked_and_left_out_of_the_sums(run, detailed_model, detailed_tokenizer):
    shown = rows(run("info", detailed_model, "--size", 64).stdout)
    full = detailed_tokenizer.encode(torch.zeros(3, 64, 64))
    assert ["2", "detail", "4", "16x16", "256", "16", "6", "4.00", "0.2500"] in shown
    assert ["all", "without", "detail", str(full.num_tokens), "40", f"{full.bits_per_pixel:.4f}"] in shown


def test_a_missing_or_damaged_token_file_is_one_line(run, tok, here):
    (here / "x.tokens").write_bytes(b"nothing")
    for name in ("x.tokens", "y.tokens"):
        done = run("info", name)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert name in done.stderr


def test_a_backbone_shows_its_blocks_and_the_command_that_trains_it(run):
    done = run("info", "--backbone", "ViT-B-32", "--size", 224)
    assert done.exit_code == 0, done.stderr
    shown = rows(done.stdout)
    assert ["family", "VisionTransformer,", "87,849,216", "parameters,", "frozen"] in shown
    assert ["blocks", "2,", "5,", "8,", "11", "of", "12"] in shown
    assert ["text-aligned", "features", "of", "every", "location:", "kk_gaussian,", "vv,", "kk,", "qq,", "v"] in shown
    command = "pyramid-tokenizer train --images FOLDER --backbone ViT-B-32 --pretrained openai --out my-tokenizer"
    assert ["train", "it", *command.split()] in shown


@pytest.mark.parametrize("size", [64, 100])
def test_a_backbones_tokens_are_those_of_a_new_model_on_it(run, size):
    tok = PyramidTokenizer.from_backbone("toy")
    for index in range(3):
        tok.quantizer.level(index).codebook.normal_()
    tokens = tok.encode(torch.zeros(3, size, size))
    shown = rows(run("info", "--backbone", "toy", "--size", size).stdout)
    assert ["all", str(tokens.num_tokens), "15,360", f"{tokens.bits_per_pixel:.4f}"] in shown
    assert [level[2] for level in shown if level[:1] in (["0"], ["1"], ["2"])] == [f"{w}x{h}" for h, w in tokens.grids]
    assert ("padded to 128x128" in " ".join(map(" ".join, shown))) == (size == 100)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("toy", ""),
        ("coca_base", "--pretrained FILE --crop 144 "),
    ],
)
def test_the_command_that_trains_it_names_weights_and_a_crop_where_they_are_needed(run, name, options):
    last = run("info", "--backbone", name).stdout.splitlines()[-1]
    assert last.split(maxsplit=2)[2] == (
        f"pyramid-tokenizer train --images FOLDER --backbone {name} {options}--out my-tokenizer"
    )


def test_the_command_that_trains_on_a_local_backbone_keeps_its_path(run, here):
    from tests.backbones.conftest import MODEL_CONFIGS, make_model, write_directory

    config = MODEL_CONFIGS["vit"]
    write_directory(here / "my backbone", config, make_model(config).state_dict())
    last = run("info", "--backbone", "my backbone").stdout.splitlines()[-1]
    assert last.endswith("--images FOLDER --backbone 'my backbone' --out my-tokenizer")


def test_a_model_beside_a_backbone_or_an_unknown_backbone_is_one_line(run):
    both = run("info", "tiny", "--backbone", "toy")
    unknown = run("info", "--backbone", "vit-b16")
    for done, message in ((both, "got both, tiny and toy"), (unknown, "did you mean 'ViT-B-16'")):
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert message in done.stderr


@pytest.fixture
def installed(monkeypatch):
    """What pip would have installed: the library with the extras `eval` and `data`, and one of their packages."""
    lines = [
        "numpy>=1.26",
        "torchmetrics<2,>=1.7; extra == 'eval'",
        'there[all]==2; python_version > "3" and extra == "eval"',
    ]
    library = email.message.Message()
    for name in ("data", "eval"):
        library["Provides-Extra"] = name

    def version(package):
        if package != "there":
            raise importlib.metadata.PackageNotFoundError(package)
        return "2"

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: library)
    monkeypatch.setattr(importlib.metadata, "version", version)


def test_an_extra_shows_its_packages_and_the_command_for_what_is_missing(run, installed, monkeypatch):
    done = run("info", "--extra", "eval")
    assert done.exit_code == 0, done.stderr
    assert rows(done.stdout)[2:4] == [["torchmetrics", "<2,>=1.7", "no"], ["there", "==2", "2"]]
    assert done.stdout.splitlines()[-1] == 'pip install "pyramid-tokenizer[eval]"'
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.9")
    assert "pip install" not in run("info", "--extra", "eval").stdout


def test_a_mistyped_extra_gives_the_nearest(run, installed):
    done = run("info", "--extra", "evla")
    assert done.exit_code == 1 and "'evla'" in done.stderr and "did you mean 'eval'?" in done.stderr
    assert run("info", "tiny", "--extra", "eval").exit_code == 1


def test_the_extras_of_the_readme_are_those_that_pip_knows():
    from pyramid_tokenizer.cli.extras import requirements

    assert "torchmetrics" in requirements("eval") and "pyarrow" in requirements("data")
