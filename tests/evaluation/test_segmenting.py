"""A segmenter as the function that is measured: whole, in windows, at another size, with every rule for the background."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.evaluation import (
    TokenSemantics,
    check_background,
    label_images,
    oracle_scores,
    segmenting,
    token_figures,
)
from pyramid_tokenizer.images.labelled import Sample, find_protocol
from pyramid_tokenizer.segmentation import Segmenter, build_head

NAMES = ("sky", "tree|bush", "car", "road")


@pytest.fixture(scope="module")
def seg(toy_tokenizer):
    """With a head that changes what look-up finds, mildly: a sigmoid of 17 and more is 1, where classes are equal."""
    head = build_head(toy_tokenizer.trunk, embedding_dim=16, width=128, depth=2, shared_decoder=True)
    generator = torch.Generator().manual_seed(2)
    for parameter in head.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.02
    return Segmenter(toy_tokenizer, head)


@pytest.fixture(scope="module")
def image(smooth):
    return smooth(1, 40, 72, seed=3)[0]


def protocol(names=NAMES, **changes):
    return dataclasses.replace(find_protocol("folder"), names=names, num_classes=len(names), **changes)


WITH_CLASS = protocol(("background", *NAMES), background="class", background_class=0)
WITH_WORDS = protocol((*NAMES, "wall|floor"), background="words", background_class=4)


@pytest.mark.parametrize("mode", ["lookup", "decoder", "dense"])
def test_class_scores_are_those_that_masks_are_made_of(seg, smooth, mode):
    images = smooth(2, 40, 72, seed=3)
    scores, found = seg.class_scores(images, NAMES, mode=mode), seg.segment(images, NAMES, mode=mode)
    assert scores.shape == (2, 4, 40, 72)
    assert torch.equal(scores.argmax(1), found.labels)
    assert torch.equal(scores.amax(1), found.scores)


SHARED = ("sky|air", "tree|bush", "car|road", "road")
"""As some data sets name their classes: a word that two of them share is left to the one that has no other."""


@pytest.mark.parametrize(
    ("measured", "rule", "asked", "mode", "view"),
    [
        (protocol(SHARED), {}, {}, "lookup", {}),
        (WITH_CLASS, {"background": ["wall", "floor"]}, {"background": ["wall", "floor"]}, "decoder", {}),
        (WITH_CLASS, {"threshold": 0.3}, {"threshold": 0.3}, "lookup", {}),
        (WITH_WORDS, {}, {"background": ["wall", "floor"]}, "dense", {}),
        (WITH_CLASS, {"background": ["wall", "floor"]}, {"background": ["wall", "floor"]}, "lookup", {"window_px": 80}),
        (WITH_CLASS, {"threshold": 0.3}, {"threshold": 0.3}, "decoder", {"window_px": 80}),
        (WITH_CLASS, *2 * [{"background": ["wall"], "threshold": 0.3}], "lookup", {"window_px": 80}),
        (WITH_WORDS, {}, {"background": ["wall", "floor"]}, "lookup", {"short_side_px": 40}),
        (protocol(), {}, {}, "dense", {"short_side_px": 40}),
    ],
)
def test_labels_are_the_segmenters_in_every_view_that_shows_all(seg, image, mode, view, measured, rule, asked):
    names = ("sky|air", *NAMES[1:]) if measured.names == SHARED else NAMES
    wanted = seg.segment(image, names, **asked, mode=mode).labels[0]
    if measured is WITH_CLASS:  # its class 0 is the background, which is -1 here and there
        wanted = torch.where(wanted >= 0, wanted + 1, wanted)
    assert torch.equal(label_images(seg, measured, **rule, mode=mode, **view)(image), wanted)


def test_scores_and_not_labels_are_averaged_over_windows(seg, image):
    windows = [seg.class_scores(image[:, :, left : left + 40], NAMES)[0] for left in (0, 32)]
    total = torch.zeros(4, 40, 72)
    total[:, :, :40] += windows[0]
    total[:, :, 32:] += windows[1]
    total[:, :, 32:40] /= 2
    found = label_images(seg, protocol(), window_px=40, window_stride_px=32)(image)
    assert torch.equal(found, total.argmax(0))


def test_another_size_is_what_the_segmenter_sees(seg, image):
    found = label_images(seg, protocol(), short_side_px=64)(image)
    small = seg.class_scores(image, NAMES, size=64)
    wanted = torch.nn.functional.interpolate(small, (40, 72), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("rule", [{"threshold": 0.3}, {"background": ["wall", "floor"]}])
def test_classes_seen_some_at_a_time_give_the_same_labels(seg, image, monkeypatch, rule):
    whole = label_images(seg, WITH_CLASS, **rule, window_px=80)(image)
    monkeypatch.setattr(segmenting, "CHUNK_FLOATS", 2 * 40 * 72)
    assert torch.equal(label_images(seg, WITH_CLASS, **rule, window_px=80)(image), whole)


@pytest.mark.parametrize("floats", [1, 2**20])
def test_of_classes_with_one_score_the_first_is_taken_however_many_are_seen_at_a_time(monkeypatch, floats):
    class Undecided:
        def class_scores(self, image, names, **_):
            return torch.zeros(1, len(names), *image.shape[-2:])

    monkeypatch.setattr(segmenting, "CHUNK_FLOATS", floats)
    found = label_images(Undecided(), protocol(), window_px=8)(torch.zeros(3, 8, 8))
    assert torch.equal(found, torch.zeros(8, 8, dtype=torch.int64))


def test_a_background_that_nothing_finds_is_refused_and_a_rule_without_one_too():
    with pytest.raises(ConfigError, match="'voc-21'.* 0 .*--background .*--threshold"):
        check_background(find_protocol("voc-21"))
    with pytest.raises(ConfigError, match="'voc-20', got 0.5"):
        check_background(find_protocol("voc-20"), threshold=0.5)
    with pytest.raises(ConfigError, match="'voc-20b'"):
        check_background(find_protocol("voc-20b"), background=["wall"])
    check_background(find_protocol("voc-21"), threshold=0.0)


def test_settings_that_do_not_fit_are_refused_before_an_image_is_read(seg):
    with pytest.raises(ConfigError, match="16 px"):
        label_images(seg, protocol(), window_stride_px=16)
    with pytest.raises(ConfigError, match="'Car'"):
        label_images(seg, WITH_CLASS, background=["wall", "Car"])


def labelled(smooth, count=5):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(-1, 3, (count, 5, 9), generator=generator)
    labels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    pairs = zip(smooth(count, 40, 72, seed=4), labels, strict=True)
    return [Sample(image=image, labels=own, name=str(i)) for i, (image, own) in enumerate(pairs)]


def test_codes_are_named_on_the_even_samples_and_measured_on_the_odd(toy_tokenizer, smooth):
    samples = labelled(smooth)
    figures = token_figures(toy_tokenizer, samples, num_classes=3)
    sizes, strides = toy_tokenizer.quantizer.codebook_sizes, toy_tokenizer.quantizer.strides
    even, odd, both = (TokenSemantics(sizes, strides=strides, num_classes=3) for _ in range(3))
    for semantics, part in ((even, samples[::2]), (odd, samples[1::2]), (both, samples)):
        for sample in part:
            semantics.add(toy_tokenizer.encode(sample.image).ids, sample.labels[None])
    for index, level in enumerate(figures):
        oracle = oracle_scores(even.levels[index], odd.levels[index])
        assert (level.stride, level.codebook_size) == (strides[index], sizes[index])
        assert (level.oracle_miou, level.oracle_accuracy) == (oracle.miou_present, oracle.pixel_accuracy)
        assert (level.purity, level.num_seen) == (both.levels[index].mean_purity, both.levels[index].num_seen)
    assert figures[0].to_dict()["purity"] == figures[0].purity


def test_detail_levels_have_no_figures(detailed_tokenizer, smooth):
    figures = token_figures(detailed_tokenizer, labelled(smooth, count=2), num_classes=3)
    assert [level.stride for level in figures] == [16, 8]


def test_labels_follow_their_image_to_another_size(toy_tokenizer, smooth):
    samples = labelled(smooth, count=2)
    small = token_figures(toy_tokenizer, samples, num_classes=3, short_side_px=20)
    assert small != token_figures(toy_tokenizer, samples, num_classes=3)
    assert 0 < small[0].majority_share <= small[0].purity <= 1


def test_one_sample_names_codes_and_leaves_none_to_measure(toy_tokenizer, smooth):
    with pytest.raises(DataError, match="got 1"):
        token_figures(toy_tokenizer, labelled(smooth, count=1), num_classes=3)
    turned = Sample(image=torch.zeros(3, 16, 24), labels=torch.zeros(24, 16, dtype=torch.int64), name="turned")
    with pytest.raises(DataError, match="'turned'"):
        token_figures(toy_tokenizer, [turned], num_classes=3)
