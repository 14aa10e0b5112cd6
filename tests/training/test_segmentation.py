"""Stage 3: what it moves and what it leaves, that it learns, and that a run cut short ends as one that was not."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.errors import CheckpointError, ConfigError, DataError, NotFittedError
from pyramid_tokenizer.images.labelled.crops import LabelledBatch, LabelledCrops
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.training import train_segmentation
from pyramid_tokenizer.training.head_inputs import training_inputs
from pyramid_tokenizer.training.segmentation import (
    SegmentationStage,
    consistency_loss,
    new_segmenter,
    sigmoid_loss,
)
from tests.training.test_train import Interruption, assert_same, state_of, stop_at

FIVE = ["red", "green|lime", "blue", "yellow", "black"]


SMALL = SegmentationConfig(width=16, depth=1)


OWN_TRUNK = dataclasses.replace(SMALL, shared_decoder=False)


@pytest.fixture(scope="module")
def five(labelled):
    return labelled(FIVE, 6)


@pytest.fixture(scope="module")
def fitted(make_unfitted, five):
    """Fitted on the set's images, with a decoder that does something."""
    tok = make_unfitted()
    tok.fit([torch.stack([read_image(sample.image) for sample in five])])
    generator = torch.Generator().manual_seed(1)
    for part in (tok.trunk, tok.pixel_decoder):
        for parameter in part.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return tok


@pytest.fixture
def tok(fitted):
    return copy.deepcopy(fitted)


@pytest.fixture
def config(settings):
    """config(**changes) -> a run of six steps."""

    def make(**changes):
        return settings(**{"head_steps": 6, "head_lr": 1e-2, "codebook_steps": 0, "thinning": 0.0} | changes)

    return make


def run(tok, sets, config, log=lambda figures: None, **options):
    return train_segmentation(copy.deepcopy(tok), sets, config=config, log=log, **{"segmentation": SMALL} | options)


def head_of(seg):
    return {name: tensor.clone() for name, tensor in seg.head.state_dict().items()}


def changed(before, after):
    return {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}


class TestStage:
    def words_and_stage(self, tok, config, *names, **options):
        seg = new_segmenter(tok, SMALL)
        with torch.no_grad():
            seg.head.to_embedding.weight.normal_(std=0.1)
        words = [seg.text.encode_names(each).embeddings for each in names]
        return seg, words, SegmentationStage(seg, words, config, **options)

    def test_its_loss_and_accuracy_are_those_of_the_heads_logits(self, tok, config, five):
        batch = LabelledCrops([five], batch_size=3, crop_px=32)[0]
        seg, words, stage = self.words_and_stage(tok, config(), [f"thing {i}" for i in range(5)])
        loss, figures = stage(batch, 0)
        cells = seg.guidance(tok.encode(batch.images)).refined  # (3, D, 4, 4)
        logits = F.interpolate(
            seg.head.logits(cells, words[0]), scale_factor=2, mode="bilinear", align_corners=False
        )  # (3, 5, 8, 8)
        labels = batch.labels[:, 2::4, 2::4]
        torch.testing.assert_close(loss, sigmoid_loss(logits, labels))
        assert figures["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))

    def test_with_the_shares_of_its_classes_rare_ones_count_more(self, tok, config, five):
        crops = LabelledCrops([five], batch_size=3, crop_px=32)
        seg, words, plain = self.words_and_stage(tok, config(), [f"thing {i}" for i in range(5)])
        balanced = SegmentationStage(seg, words, config(class_balance=1.0), shares=crops.pixel_shares())
        alike = SegmentationStage(seg, words, config(class_balance=0.0), shares=crops.pixel_shares())
        losses = [float(stage(crops[0], 0)[0]) for stage in (plain, alike, balanced)]
        assert losses[0] == pytest.approx(losses[1])
        assert losses[2] != pytest.approx(losses[0], rel=1e-4)

    def test_images_of_several_sets_count_alike_each_among_its_own_names(self, tok, config, five):
        crops = LabelledCrops([five], batch_size=3, crop_px=32)[0]
        names = [f"thing {i}" for i in range(5)], [f"object {i}" for i in range(7)]
        _, _, stage = self.words_and_stage(tok, config(), *names)

        def loss_of(pictures, sets):
            batch = LabelledBatch(images=crops.images[pictures], labels=crops.labels[pictures], sets=torch.tensor(sets))
            return stage(batch, 0)[0]

        together = loss_of([0, 1, 2], [0, 1, 0])
        torch.testing.assert_close(together, (2 * loss_of([0, 2], [0, 0]) + loss_of([1], [1])) / 3)
        assert not torch.allclose(together, loss_of([0, 1, 2], [0, 0, 0]))

    def test_it_holds_what_trains_and_nothing_else(self, tok, config):
        _, _, stage = self.words_and_stage(tok, config(), ["a"])
        assert {name.split(".")[0] for name, _ in stage.named_parameters()} == {"head"}
        _, _, joint = self.words_and_stage(tok, config(decoupled=False), ["a"])
        assert {name.split(".")[0] for name, _ in joint.named_parameters()} == {"head", "joint"}

    def test_joint_training_learns_pixels_from_the_trunk_that_decodes_them(self, tok, config, five):
        batch = LabelledCrops([five], batch_size=2, crop_px=32)[0]
        seg = new_segmenter(tok, OWN_TRUNK)
        with torch.no_grad():
            seg.head.trunk.carry[0].weight.add_(1)
        stage = SegmentationStage(seg, [torch.eye(5, 16)], config(decoupled=False, pixel_loss="l1"))
        codes = tok.codes(tok.encode(batch.images))
        with torch.no_grad():
            decoded = tok.pixel_decoder(tok.trunk(codes)[-1], tok.quantizer.linear_reconstruction(codes))  # not clamped
        assert stage(batch, 0)[1]["pixels"] == pytest.approx(float((decoded - batch.images).abs().mean()))

    def test_a_sparse_step_also_learns_what_the_head_says_of_the_full_pyramid(self, tok, config, five):
        batch = LabelledCrops([five], batch_size=3, crop_px=32)[0]
        names = [f"thing {i}" for i in range(5)]
        seg, words, stage = self.words_and_stage(tok, config(thinning=0.99, level_dropout=0.0, consistency=2.0), names)
        stage.requires_grad_(True)
        torch.manual_seed(0)
        loss, figures = stage(batch, 0)
        torch.manual_seed(0)
        read, full = training_inputs(tok, batch.images, thinning=0.99)
        thin, goal = (
            F.interpolate(
                seg.head.logits(
                    seg.head(inputs.lookup, tok.trunk(inputs.codes, inputs.present), inputs.image), words[0]
                ),
                scale_factor=2,
                mode="bilinear",
                align_corners=False,
            )
            for inputs in (read, full)
        )
        apart = consistency_loss(thin, goal.detach())
        wanted = sigmoid_loss(thin, batch.labels[:, 2::4, 2::4]) + 2 * apart
        torch.testing.assert_close(loss, wanted)
        assert figures["apart"] == pytest.approx(float(apart.detach()))
        assert float(apart.detach()) > 0
        # the full pyramid's scores are a goal and learn nothing from it
        torch.testing.assert_close(*(torch.autograd.grad(each, seg.head.bias) for each in (loss, wanted)))


class TestWhatLearns:
    def test_a_trained_head_is_trained_on_and_stays_as_it_is(self, tok, config, five):
        seg = run(tok, [five], config())
        before = head_of(seg)
        resting = run(tok, [five], config(head_steps=1, head_lr=1e-9), head=seg.head)
        new = run(tok, [five], config(head_steps=1, head_lr=1e-9))
        for name, tensor in before.items():
            torch.testing.assert_close(resting.head.state_dict()[name], tensor)
            assert torch.equal(seg.head.state_dict()[name], tensor)
        assert changed(head_of(new), before)
        with pytest.raises(ConfigError, match="expected a head of .* got one that differs in "):
            run(tok, [five], config(), head=seg.head, segmentation=OWN_TRUNK)

    def test_a_fresh_head_on_a_shared_or_copied_trunk_gives_the_look_up(self, tok, five):
        image = read_image(five[0].image)
        for shape in (SMALL, OWN_TRUNK):
            seg = new_segmenter(copy.deepcopy(tok), shape)
            assert torch.equal(seg.segment(image, FIVE).labels, seg.segment(image, FIVE, mode="lookup").labels)
            assert seg.stored_head().config == shape
            assert seg.tok.config == tok.config
        assert_same(dict(seg.tok.trunk.state_dict()), dict(seg.head.trunk.state_dict()))
        assert not any(a is b for a, b in zip(seg.tok.trunk.parameters(), seg.head.trunk.parameters(), strict=True))

    def test_the_seed_decides_a_fresh_head_and_leaves_the_callers_chance(self, tok):
        state = torch.get_rng_state()
        first, again, other = (head_of(new_segmenter(copy.deepcopy(tok), SMALL, seed=seed)) for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), state)
        assert_same(first, again)
        assert not torch.equal(first["see.weight"], other["see.weight"])

    @pytest.mark.parametrize("shape", [SMALL, OWN_TRUNK])
    def test_decoupled_training_leaves_ids_trunk_and_every_decoded_pixel(self, tok, five, config, shape):
        images = torch.stack([read_image(sample.image) for sample in five])
        fresh = head_of(new_segmenter(copy.deepcopy(tok), shape))
        seg = run(tok, [five], config(), segmentation=shape)
        assert_same(state_of(tok), state_of(seg.tok))
        tokens = tok.encode(images)
        assert seg.tok.encode(images) == tokens
        for n in (1, 2):
            assert torch.equal(seg.tok.decode(tokens[:n]), tok.decode(tokens[:n]))
        parts = {"see", "see_image", "embed", "refine", "to_embedding", "log_scale", "bias"}
        assert changed(fresh, head_of(seg)) == parts | ({"trunk"} if shape is OWN_TRUNK else set())
        assert not any(parameter.requires_grad for parameter in seg.parameters())
        assert not seg.training

    @pytest.mark.parametrize("shape", [SMALL, pytest.param(OWN_TRUNK, marks=pytest.mark.slow)])
    def test_joint_training_moves_trunk_and_decoder_and_no_id(self, tok, five, config, shape):
        lines = []
        seg = run(tok, [five], config(decoupled=False), lines.append, segmentation=shape)
        assert changed(state_of(tok), state_of(seg.tok)) == {"trunk", "pixel_decoder"}
        assert seg.tok.fingerprint == tok.fingerprint
        assert all("pixels" in line for line in lines)

    def test_classes_left_out_are_not_learned_and_shared_words_by_one_class(
        self, tok, five, labelled, config, monkeypatch
    ):
        asked = []
        encode = type(new_segmenter(copy.deepcopy(tok), SMALL).text).encode_names
        monkeypatch.setattr(
            "pyramid_tokenizer.text.TextEncoder.encode_names",
            lambda self, names, **options: asked.append(names) or encode(self, names, **options),
        )
        shared = labelled(["screen|monitor", "blind|screen", "door"], 2)
        run(tok, [five, shared], config(head_steps=1), left_out=["green", "black"])
        names = [["red", "blue", "yellow"], ["screen|monitor", "blind", "door"]]
        assert [list(each) for each in asked] == names


def accuracy(seg, samples, mode):
    right = known = 0
    for sample in samples:
        labels = seg.segment(read_image(sample.image), list(samples.names), mode=mode).labels[0]
        right += int((labels == sample.labels).sum())
        known += sample.labels.numel()
    return right / known


@pytest.mark.slow
def test_a_few_dozen_steps_teach_a_head_what_colours_mean(tok, five, config, labelled):
    lines = []
    seg = run(tok, [five], config(head_steps=60, batch_size=6, ema_decay=0.8), lines.append)
    unseen = labelled(FIVE, 3, seed=9)
    before, after = accuracy(seg, unseen, "lookup"), accuracy(seg, unseen, "decoder")
    assert after > before + 0.3
    assert after > 0.7
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["accuracy"] > lines[0]["accuracy"] + 0.3


@pytest.mark.parametrize(
    "options", [pytest.param({"segmentation": OWN_TRUNK}, marks=pytest.mark.slow), {"continuous": True}]
)
def test_every_kind_of_run_logs_a_finite_loss_and_an_accuracy(tok, five, config, options):
    lines = []
    run(tok, [five], config(head_steps=2), lines.append, **options)
    assert [(line["stage"], line["step"]) for line in lines] == [("segmentation", 1), ("segmentation", 2)]
    assert all(0 < line["loss"] < 20 and 0 <= line["accuracy"] <= 1 for line in lines)


@pytest.mark.slow
def test_bfloat16_training_compares_classes_in_float32(tok, five, config):
    from accelerate.state import AcceleratorState

    exact, coarse = [], []
    run(tok, [five], config(), exact.append)
    AcceleratorState._reset_state(True)  # accelerate allows one precision per process
    try:
        seg = run(tok, [five], config(mixed_precision="bf16"), coarse.append)
    finally:
        AcceleratorState._reset_state(True)
    assert {tensor.dtype for tensor in seg.head.state_dict().values()} == {torch.float32}
    assert coarse[0]["loss"] == pytest.approx(exact[0]["loss"], rel=1e-3)  # a fresh head: the look-up alone
    assert coarse[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.1)


class TestFiles:
    def test_without_a_shape_the_head_has_the_usual_one(self, tok, five, config):
        seg = run(tok, [five], config(head_steps=1), segmentation=None)
        assert seg.stored_head().config == SegmentationConfig()

    @pytest.mark.parametrize("half", [False, True])
    def test_a_run_saves_what_it_returns(self, tok, five, config, tmp_path, half):
        seg = run(tok, [five], config(), out=tmp_path, half=half)
        loaded, image = Segmenter.from_pretrained(tmp_path), read_image(five[0].image)
        assert loaded.head is not None
        for mode in ("decoder", "lookup"):
            found, wanted = loaded.segment(image, FIVE, mode=mode), seg.segment(image, FIVE, mode=mode)
            assert torch.equal(found.scores, wanted.scores) != (half and mode == "decoder")
            torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=0.005)
        assert PyramidTokenizer.from_pretrained(tmp_path).fingerprint == tok.fingerprint
        seg.tok.save_pretrained(tmp_path / "again")  # the tokenizer has the new head, not one that it was loaded with
        assert_same(head_of(seg), head_of(Segmenter.from_pretrained(tmp_path / "again")))

    @pytest.mark.parametrize(
        ("decoupled", "options"),
        [
            (True, {}),
            pytest.param(False, {}, marks=pytest.mark.slow),
            pytest.param(True, {"segmentation": OWN_TRUNK}, marks=pytest.mark.slow),
            pytest.param(False, {"segmentation": OWN_TRUNK}, marks=pytest.mark.slow),
            pytest.param(True, {"continuous": True}, marks=pytest.mark.slow),
        ],
    )
    def test_a_resumed_run_equals_an_uninterrupted_one(self, tok, five, config, tmp_path, decoupled, options):
        settings = config(decoupled=decoupled)
        whole = run(tok, [five], settings, out=tmp_path / "whole", **options)
        with pytest.raises(Interruption):
            run(tok, [five], settings, stop_at("segmentation", 5), out=tmp_path / "cut", **options)
        torch.rand(7)
        lines = []
        resumed = run(
            tok, [five], config(decoupled=decoupled, log_every=1), lines.append, out=tmp_path / "cut", **options
        )
        assert [line["step"] for line in lines] == [5, 6]  # saved after the fourth, for save_every is 2
        for found in (resumed, Segmenter.from_pretrained(tmp_path / "cut")):
            assert_same(head_of(whole), head_of(found))
            assert_same(state_of(whole.tok), state_of(found.tok))

    def test_no_directory_leaves_no_file(self, tok, five, config, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run(tok, [five], config())
        assert list(tmp_path.iterdir()) == []

    def test_another_task_does_not_resume(self, tok, five, config, tmp_path, labelled):
        with pytest.raises(Interruption):
            run(tok, [five], config(), stop_at("segmentation", 3), out=tmp_path)
        for change, options, fact in (
            ({"head_lr": 1e-4}, {}, "head_lr"),
            ({"decoupled": False}, {}, "decoupled"),
            ({}, {"segmentation": OWN_TRUNK}, "shared_decoder"),
            ({}, {"left_out": ["red"]}, "classes"),
            ({}, {"continuous": True}, "inputs"),
        ):
            with pytest.raises(CheckpointError, match=fact):
                run(tok, [five], config(**change), out=tmp_path, **options)
        with pytest.raises(CheckpointError, match="6.*5"):
            run(tok, [labelled(FIVE, 5)], config(), out=tmp_path)
        with pytest.raises(CheckpointError, match="classes"):
            run(tok, [labelled([*FIVE[:4], "white"], 6)], config(), out=tmp_path)


class TestErrors:
    def test_empty_codebooks(self, unfitted, five, config):
        with pytest.raises(NotFittedError, match="expected a trained tokenizer, got empty codebooks"):
            run(unfitted, [five], config())

    def test_a_crop_that_does_not_fit(self, tok, five, config):
        with pytest.raises(ConfigError, match="expected crop_px in multiples of 32, got 48"):
            run(tok, [five], config(crop_px=48))

    def test_a_cast_tokenizer(self, tok, five, config):
        with pytest.raises(ConfigError, match="expected a float32 tokenizer, got torch.bfloat16: set mixed_precision"):
            run(tok.to(torch.bfloat16), [five], config())

    def test_no_images_or_classes(self, tok, five, config):
        own = copy.deepcopy(tok)
        with pytest.raises(DataError, match="expected labelled images, got none"):
            train_segmentation(own, [], config=config())
        with pytest.raises(ConfigError, match="expected classes of the sets to leave out, got 'grey'"):
            train_segmentation(own, [five], config=config(), left_out=["grey"])
        assert own.config == tok.config  # nothing was begun

    def test_no_steps(self, config):
        with pytest.raises(ConfigError, match="expected head_steps >= 1, got 0"):
            config(head_steps=0)

    @pytest.mark.parametrize("change", [{"sheet_every": 2}, {"tensorboard": True}])
    def test_settings_without_effect_are_told(self, tok, five, config, change):
        with pytest.warns(UserWarning, match="sheet_every and tensorboard are ignored"):
            run(tok, [five], config(head_steps=1, **change))


def test_labels_that_cannot_mean_what_the_classes_say_are_told_before_the_first_step(tok, labelled, config):
    steps = []
    binary = labelled(["background", "person"], 2, classes=[0, 255])
    with pytest.raises(DataError, match="'person'"):
        train_segmentation(tok, [binary], config=config(head_steps=1), segmentation=SMALL, log=steps.append)
    assert steps == []
    absent = labelled(["red", "green", "blue"], 2, classes=[0, 1])
    with pytest.warns(UserWarning, match="1 of 3 classes, 'blue'"):
        train_segmentation(tok, [absent], config=config(head_steps=1), segmentation=SMALL, log=steps.append)
    assert len(steps) == 1
