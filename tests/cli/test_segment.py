"""`segment`: images or token files and words -> overlays and label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.cli.segment import describe_shares
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.visualize import overlay

NAMES = ["cat|kitten", "dog", "tree"]
CLASSES = ",".join(NAMES)


@pytest.fixture(scope="module")
def segmenter(model) -> Segmenter:
    return Segmenter.from_pretrained(model)


@pytest.fixture
def segment(run, model, photos):
    def call(*arguments: object):
        return run("segment", *arguments, "--classes", CLASSES, "--model", model)

    return call


def read(path) -> np.ndarray:
    with Image.open(path) as stored:
        assert stored.format == "PNG"
        return np.asarray(stored)


def files_below(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_overlays_in_the_same_places_with_the_labels_of_the_library(segment, segmenter, photos, here):
    done = segment(photos)
    assert done.exit_code == 0, done.stderr
    assert files_below(here / "segmented") == ["a.png", "b.png", "trip/a.png"]
    for name in ("a.png", "b.png", "trip/a.png"):
        found = segmenter.segment(photos / name, NAMES)
        expected = overlay(photos / name, found.labels[0], ["cat", "dog", "tree"])
        assert np.array_equal(read(here / "segmented" / name), np.asarray(expected))


def test_the_overlay_is_the_photo_with_a_legend_below(segment, photos):
    with Image.open(photos / "b.png") as photo:
        photo.resize((200, 150)).save(photos / "wide.png")
    assert segment("photos/wide.png", "--out", "x.png").exit_code == 0
    height, width, channels = read("x.png").shape
    assert (width, channels) == (200, 3)
    assert height > 150
    assert read("x.png")[-1].tolist() == [[255, 255, 255]] * 200


def test_a_label_map_holds_the_labels_of_the_library(segment, segmenter, photos, here):
    done = segment(photos / "a.png", photos / "b.png", "--labels")
    assert done.exit_code == 0, done.stderr
    assert files_below(here / "segmented") == ["a.labels.png", "a.png", "b.labels.png", "b.png"]
    for name in ("a", "b"):
        stored = read(here / "segmented" / f"{name}.labels.png")
        assert (stored.dtype, stored.ndim) == (np.uint8, 2)
        assert np.array_equal(stored, segmenter.segment(photos / f"{name}.png", NAMES).labels[0].numpy())


@pytest.mark.parametrize("mode", ["auto", "lookup", "decoder"])
def test_tokens_have_the_labels_of_their_image(run, head_model, tokens, photos, mode):
    options = ["--classes", CLASSES, "--model", head_model, "--labels", "--mode", mode]
    image = run("segment", photos / "a.png", *options, "--out", "image")
    stored = run("segment", "--tokens", tokens / "a.tokens", *options, "--out", "stored")
    assert (image.exit_code, stored.exit_code) == (0, 0), image.stderr + stored.stderr
    assert np.array_equal(read("image/a.labels.png"), read("stored/a.labels.png"))


def test_auto_takes_the_head(run, head_model, photos):
    maps = {}
    for mode in ("auto", "lookup", "decoder"):
        run("segment", photos, "--classes", CLASSES, "--model", head_model, "--labels", "--mode", mode, "--out", mode)
        maps[mode] = read(f"{mode}/b.labels.png")
    assert np.array_equal(maps["auto"], maps["decoder"])
    assert not np.array_equal(maps["auto"], maps["lookup"])


def test_the_overlay_of_tokens_lies_on_the_decoded_image(segment, segmenter, tokens):
    done = segment("--tokens", tokens / "a.tokens", "--out", "x.png")
    assert done.exit_code == 0, done.stderr
    stored = TokenPyramid.load(tokens / "a.tokens")
    labels = segmenter.segment(stored, NAMES).labels[0]
    expected = overlay(segmenter.tok.decode(stored), labels, ["cat", "dog", "tree"])
    assert np.array_equal(read("x.png"), np.asarray(expected))


def test_a_file_of_several_images_becomes_numbered_overlays_and_label_maps(segment, segmenter, tokens, photos, here):
    both = segmenter.tok.encode([photos / "b.png", photos / "trip" / "a.png"])
    both.save("both.tokens")
    done = segment("--tokens", "both.tokens", "--labels")
    assert done.exit_code == 0, done.stderr
    names = ["both-0.labels.png", "both-0.png", "both-1.labels.png", "both-1.png"]
    assert files_below(here / "segmented") == names
    for i, labels in enumerate(segmenter.segment(both, NAMES).labels.numpy()):
        assert np.array_equal(read(here / "segmented" / f"both-{i}.labels.png"), labels)
    assert [line.split(" -> ")[1] for line in done.stdout.splitlines()] == [
        f"segmented/both-{i}.png, segmented/both-{i}.labels.png" for i in (0, 1)
    ]
    again = segment("--tokens", "both.tokens", "--labels")
    assert again.exit_code == 1
    assert "'segmented/both-0.png' and 3 more" in again.stderr


def test_each_image_gets_a_line_with_what_was_found(segment, segmenter, photos):
    done = segment("photos/a.png", "photos/b.png", "--verbose")
    shares = {
        name: describe_shares(segmenter.segment(photos / f"{name}.png", NAMES).labels, ["cat", "dog", "tree"])
        for name in ("a", "b")
    }
    assert done.stdout.splitlines() == [
        f"photos/a.png: 40x32 px, {shares['a']} -> segmented/a.png",
        f"photos/b.png: 48x48 px, {shares['b']} -> segmented/b.png",
        "2 of 2 files -> segmented",
    ]


def test_shares_are_told_most_frequent_first_with_the_background_behind_them():
    labels = torch.full((10, 100), 2)
    labels[:, :60] = -1
    labels[0, 0] = 0
    assert describe_shares(labels, ["cat", "dog", "tree"]) == "tree 40%, cat <1%, background 60%"


def test_words_of_the_background_are_no_class(segment, segmenter, photos):
    done = segment("photos/b.png", "--background", "wall, floor|ground", "--labels")
    assert done.exit_code == 0, done.stderr
    labels = segmenter.segment(photos / "b.png", NAMES, background=["wall", "floor|ground"]).labels[0].numpy()
    assert (labels == -1).any()
    assert np.array_equal(read("segmented/b.labels.png"), labels.astype(np.uint8))
    assert f"background {(labels == -1).mean():.0%} -> " in done.stdout


def test_what_scores_below_the_threshold_is_background(segment, segmenter, photos):
    scores = segmenter.segment(photos / "b.png", NAMES).scores
    threshold = round(scores.median().item(), 4)
    done = segment("photos/b.png", "--threshold", threshold, "--labels")
    assert done.exit_code == 0, done.stderr
    stored = read("segmented/b.labels.png")
    assert np.array_equal(stored == 255, (scores[0] < threshold).numpy())
    assert 0 < (stored == 255).mean() < 1


def test_many_classes_make_a_label_map_of_16_bits(run, model, segmenter, photos, here):
    for count, kind, background in ((255, np.uint8, 255), (256, np.uint16, 65535)):
        names = [f"thing {i}" for i in range(count)]
        (here / "names.txt").write_text("\n".join(["# things", "", *names]))
        options = ["--background", "wall", "--labels", "--force"]
        done = run("segment", photos / "b.png", "--classes-file", "names.txt", "--model", model, *options)
        assert done.exit_code == 0, done.stderr
        labels = segmenter.segment(photos / "b.png", names, background=["wall"]).labels[0].numpy()
        stored = read("segmented/b.labels.png")
        assert stored.dtype == kind
        assert np.array_equal(stored, np.where(labels < 0, background, labels))


def test_size_and_mode_are_those_of_the_library(segment, segmenter, photos):
    done = segment("photos/b.png", "--size", 24, "--mode", "dense", "--labels", "--output-size", "resized")
    assert done.exit_code == 0, done.stderr
    labels = segmenter.segment(photos / "b.png", NAMES, mode="dense", size=24).labels[0].numpy()
    assert labels.shape == (24, 24)
    assert np.array_equal(read("segmented/b.labels.png"), labels)
    expected = overlay(to_pil(read_image(photos / "b.png", size=24))[0], labels, ["cat", "dog", "tree"])
    assert np.array_equal(read("segmented/b.png"), np.asarray(expected))


def test_results_of_a_resized_photo_have_its_own_size(segment, segmenter, photos):
    done = segment("photos/b.png", "--size", 24, "--labels")
    assert done.exit_code == 0, done.stderr
    assert "48x48 px" in done.stdout
    labels = segmenter.segment(photos / "b.png", NAMES, size=24).labels[0].numpy()
    doubled = labels.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(read("segmented/b.labels.png"), doubled)
    assert np.array_equal(
        read("segmented/b.png"), np.asarray(overlay(photos / "b.png", doubled, ["cat", "dog", "tree"]))
    )
    again = segment("photos/b.png", "--size", 24, "--labels", "--skip-existing")
    assert (again.exit_code, "1 of 1 files" in again.stdout) == (0, True), again.stderr


def test_tokens_of_another_tokenizer_and_damaged_ones_are_passed_over(run, other_model, segment, tokens, here):
    (tokens / "a.tokens").write_bytes(b"no tokens")
    done = segment("--tokens", tokens)
    assert done.exit_code == 1
    assert files_below(here / "segmented") == ["trip/a.png"]
    assert str(tokens / "a.tokens") in done.stderr.splitlines()[0]

    other = run("segment", "--tokens", tokens / "trip/a.tokens", "--classes", "cat", "--model", other_model, "--force")
    assert (other.exit_code, other.stdout) == (1, "")
    assert other.stderr.startswith(f"error: {tokens / 'trip/a.tokens'}: ")
    assert other.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["a.png", "a.labels.png"])
def test_existing_files_are_replaced_by_force_alone(segment, photos, here, name):
    (here / "segmented").mkdir()
    (here / "segmented" / name).write_bytes(b"precious")
    refused = segment("photos/a.png", "--labels")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"'segmented/{name}'" in refused.stderr
    assert files_below(here / "segmented") == [name]
    assert (here / "segmented" / name).read_bytes() == b"precious"
    assert segment("photos/a.png", "--labels", "--force").exit_code == 0
    assert (here / "segmented" / name).read_bytes() != b"precious"


def test_a_label_map_never_takes_the_name_of_an_overlay(segment, photos):
    (photos / "b.png").rename(photos / "a.labels.png")
    done = segment("photos", "--labels")
    assert (done.exit_code, done.stdout) == (1, "2 of 3 files -> segmented\n")
    assert "'segmented/a.labels.png'" in done.stderr
    assert read("segmented/a.labels.png").ndim == 2
    assert segment("photos", "--out", "overlays").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--background", "wall", "--threshold", 0.5], "'wall' and 0.5"),
        (["--background", "wall,dog"], "names[1] 'dog' and in background[1] 'dog'"),
        (["--background", ""], "background[0]"),
        (["--threshold", 2], "[-1, 1], got 2.0"),
        (["--threshold", "nan"], "[-1, 1], got nan"),
        (["--mode", "decoder"], '"decoder"'),
        (["--out", "x.jpg"], "'x.jpg'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(segment, photos, here, options, message):
    done = segment("photos/a.png", *options)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: expected ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert files_below(here) == ["photos/a.png", "photos/b.png", "photos/trip/a.png"]


def test_the_backbone_s_own_map_needs_images(segment, tokens, here):
    done = segment("--tokens", tokens, "--mode", "dense")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert '"dense"' in done.stderr
    assert not (here / "segmented").exists()


def test_an_unknown_mode_is_a_usage_error(segment, photos):
    done = segment("photos/a.png", "--mode", "best")
    assert done.exit_code == 2
    assert "--mode" in done.stderr
