"""One stage: the loop's promises on a stage of three numbers, then what the two real stages do in a step."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import CheckpointError, PyramidTokenizerError
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.training.loop import run_stage
from pyramid_tokenizer.training.stages import CodebookStage, DecoderStage
from pyramid_tokenizer.training.state import load_state, save_state


class Batches(Dataset):
    """Item i is a (2, 3) tensor that depends on i alone; counts what was asked for."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, step):
        self.asked.append(step)
        return torch.randn(2, 3, generator=torch.Generator().manual_seed(step))


class Toy(nn.Module):
    """Pulls three weights to the batch and to a random number."""

    name, lr, ema_decay = "toy", 0.1, 0.5

    def __init__(self, steps=8, fail_at=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3))
        self.steps, self.fail_at = steps, fail_at
        self.after, self.history, self.chance = [], [], []

    def forward(self, images, step):
        self.history.append(self.weight.detach().clone())
        self.chance.append(float(torch.rand(())))
        loss = (self.weight - images).square().mean() + (self.weight - self.chance[-1]).square().mean()
        return loss * (math.nan if step == self.fail_at else 1), {"seen": float(step)}

    def after_step(self, step):
        self.after.append(step)

    def extra_state(self):
        return {"after": {"steps": torch.tensor(self.after)}}

    def load_extra_state(self, state):
        self.after = state["after"]["steps"].tolist()

    def trainable(self):
        return [self.weight]


def run(stage, path, log=lambda figures: None, batches=None, sheet=None, **changes):
    few = {"warmup_steps": 2, "log_every": 1, "save_every": 3}
    stage.ema_decay = changes.pop("ema_decay", stage.ema_decay)
    config = TrainConfig(**few | changes)
    batches = batches or Batches()
    run_stage(stage, batches, config, accelerator=Accelerator(), state_path=path, log=log, sheet=sheet)
    return batches


def test_batches_come_in_order_once_each(tmp_path):
    stage = Toy()
    assert run(stage, tmp_path / "s.pt").asked == list(range(8))
    assert stage.after == list(range(8))


def test_the_averaged_weights_are_the_ones_kept(tmp_path):
    stage = Toy()
    run(stage, tmp_path / "s.pt", ema_decay=0.7)
    # the weights after each step are those before the next; the last ones are in the saved state
    after = [*stage.history[1:], load_state(tmp_path / "s.pt")["module"]["weight"]]
    mean = after[0]
    for weight in after[1:]:
        mean = 0.7 * mean + 0.3 * weight
    torch.testing.assert_close(stage.weight.detach(), mean)
    assert not torch.allclose(stage.weight.detach(), after[-1], atol=1e-3)


def test_without_decay_the_last_weights_are_kept(tmp_path):
    stage = Toy()
    run(stage, tmp_path / "s.pt", ema_decay=0.0)
    torch.testing.assert_close(stage.weight.detach(), load_state(tmp_path / "s.pt")["module"]["weight"])


def test_a_resumed_stage_repeats_neither_batches_nor_chance(tmp_path):
    whole = Toy()
    run(whole, tmp_path / "whole.pt")

    def stop(figures):
        if figures["step"] == 5:
            raise KeyboardInterrupt

    first = Toy()
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path / "cut.pt", stop)
    torch.rand(11)
    second = Toy()
    assert run(second, tmp_path / "cut.pt").asked == [3, 4, 5, 6, 7]  # saved after three steps
    assert second.chance == whole.chance[3:]
    assert second.after == list(range(8))
    assert torch.equal(second.weight, whole.weight)
    third = Toy()
    assert run(third, tmp_path / "cut.pt").asked == []  # nothing is left to do
    assert torch.equal(third.weight, whole.weight)


def test_a_state_that_was_interrupted_while_saved_is_the_one_before(tmp_path, monkeypatch):
    save, saved = torch.save, []

    def save_twice_then_fail(state, file):
        saved.append(state["step"])
        if len(saved) == 2:
            file.write_bytes(b"half of it")
            raise KeyboardInterrupt
        save(state, file)

    monkeypatch.setattr(torch, "save", save_twice_then_fail)
    with pytest.raises(KeyboardInterrupt):
        run(Toy(), tmp_path / "s.pt")
    assert saved == [3, 6]
    assert load_state(tmp_path / "s.pt")["step"] == 3


def test_the_rate_rises_then_falls_to_zero(tmp_path, monkeypatch):
    rates = []
    stage = Toy(steps=10)
    adamw = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return adamw(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(stage, tmp_path / "s.pt", warmup_steps=4)
    expected = [0.1 * min(1, (i + 1) / 4) * (0.5 + 0.5 * math.cos(math.pi * i / 10)) for i in range(10)]
    assert rates == pytest.approx(expected)


def test_passes_of_one_step_share_its_chance_and_give_their_mean_gradient(tmp_path):
    class Pairs(Batches):
        """Both passes of a step in one batch."""

        def __getitem__(self, step):
            passes = super().__getitem__(2 * step), super().__getitem__(2 * step + 1)
            return torch.cat(passes)

    apart, together = Toy(), Toy()
    batches = run(apart, tmp_path / "apart.pt", accumulate=2)
    assert batches.asked == list(range(16))
    run(together, tmp_path / "together.pt", batches=Pairs())
    assert apart.chance[::2] == apart.chance[1::2] == together.chance
    assert apart.after == together.after == list(range(8))
    torch.testing.assert_close(apart.weight, together.weight)


def test_sheets_are_due_at_intervals_and_at_the_end(tmp_path):
    shown = []
    run(Toy(), tmp_path / "s.pt", sheet=lambda name, step: shown.append((name, step)), sheet_every=3)
    assert shown == [("toy", 3), ("toy", 6), ("toy", 8)]


def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_no_state(tmp_path):
    stage = Toy(fail_at=4)
    with pytest.raises(PyramidTokenizerError, match="expected a finite loss, got nan at step 4 of stage toy: lower"):
        run(stage, tmp_path / "s.pt")
    assert load_state(tmp_path / "s.pt")["step"] == 3
    assert torch.isfinite(stage.weight).all()


def test_the_log_has_means_since_its_last_line(tmp_path):
    lines = []
    run(Toy(), tmp_path / "s.pt", lines.append, log_every=3)
    assert [(line["step"], line["steps"], line["stage"], line["seen"]) for line in lines] == [
        (3, 8, "toy", 1.0),
        (6, 8, "toy", 4.0),
        (8, 8, "toy", 6.5),
    ]
    assert all(line["images_per_second"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "other"}, "expected a state of stage toy over 8 steps, got other over 8"),
        ({"steps": 99}, "got toy over 99: resume with the same settings"),
        ({"module": {"weight": torch.zeros(1, 4)}}, "expected a state of this architecture"),
        ({"module": {"other": torch.zeros(1, 3)}}, "expected a state of this architecture"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "expected a state of this architecture"),
        ({"extra": {}}, "expected a state of this architecture"),
        ({"step": None}, "expected a state of this architecture"),
    ],
)
def test_a_foreign_state_is_refused(tmp_path, change, message):
    path = tmp_path / "s.pt"
    run(Toy(), path)
    save_state(path, load_state(path) | change)
    with pytest.raises(CheckpointError, match=message):
        run(Toy(), path)


def test_a_state_without_its_parts_is_refused(tmp_path):
    save_state(tmp_path / "s.pt", {"stage": "toy", "steps": 8})
    with pytest.raises(CheckpointError, match="expected a state of this architecture"):
        run(Toy(), tmp_path / "s.pt")
    save_state(tmp_path / "s.pt", {})
    with pytest.raises(CheckpointError, match="got None over None"):
        run(Toy(), tmp_path / "s.pt")


@pytest.fixture(scope="module")
def fitted_once(make_unfitted, smooth):
    """fitted_once(composition) -> two fitted levels. Never changed."""

    @functools.cache
    def fit(composition):
        tok = make_unfitted()
        quantizer = dataclasses.replace(tok.config.quantizer, composition=composition)
        tok = PyramidTokenizer.from_config(dataclasses.replace(tok.config, quantizer=quantizer))
        tok.fit([smooth(16)])
        return tok

    return fit


@pytest.fixture
def fitted(fitted_once):
    return copy.deepcopy(fitted_once("residual"))


def train_mode(stage):
    for parameter in stage.trainable():
        parameter.requires_grad_(True)
    return stage


def test_stage_two_decodes_every_prefix_from_frozen_ids(fitted, smooth, settings):
    images = smooth(3, 32, 32)
    before = copy.deepcopy(fitted.quantizer.state_dict())
    names = set()
    stage = train_mode(DecoderStage(fitted, settings(level_dropout=0.6, thinning=0.0)))
    for step in range(12):
        torch.manual_seed(step)
        loss, figures = stage(images, step)
        assert loss.requires_grad
        names |= set(figures)
        n = 1 if "psnr@1" in figures else 2
        linear_reconstruction = fitted.quantizer.linear_reconstruction(fitted.codes(fitted.encode(images)[:n]))
        errors = (linear_reconstruction - images).square().flatten(1).mean(1)
        assert float(loss.detach()) == pytest.approx(
            float((errors + 1e-4).log().mean()), abs=1e-4
        )  # untrained: the linear reconstruction
    assert names - {"usage@0", "usage@1"} == {"psnr", "psnr@1", "gain"}
    for name, tensor in fitted.quantizer.state_dict().items():
        assert torch.equal(tensor, before[name])


def drawn_prefix(stage: DecoderStage) -> int:
    """How many levels a step decodes."""
    ids = [torch.zeros(1, 1, 1, dtype=torch.int64)] * stage.num_levels
    return len(stage._part(ids, torch.zeros(1, 3, 32, 32))[1])


@pytest.mark.parametrize(("dropout", "prefixes"), [(0.0, {2}), (0.999999, {1})])
def test_level_dropout_is_the_share_of_shorter_prefixes(fitted, smooth, settings, dropout, prefixes):
    stage = DecoderStage(fitted, settings(level_dropout=dropout, thinning=0.0))
    assert {drawn_prefix(stage) for _ in range(20)} == prefixes


def test_shorter_prefixes_are_drawn_evenly(toy_tokenizer, settings):
    stage = DecoderStage(copy.deepcopy(toy_tokenizer), settings(level_dropout=0.6, thinning=0.0))
    drawn = torch.bincount(torch.tensor([drawn_prefix(stage) for _ in range(3000)]), minlength=4) / 3000
    torch.testing.assert_close(drawn, torch.tensor([0, 0.3, 0.3, 0.4]), rtol=0, atol=0.04)


def test_stage_two_holds_what_trains_and_nothing_else(fitted, settings):
    stage = DecoderStage(fitted, settings())
    own = {id(p) for part in (fitted.trunk, fitted.pixel_decoder) for p in part.parameters()}
    assert {id(p) for p in stage.parameters()} == own == {id(p) for p in stage.trainable()}


@pytest.fixture(params=["residual", "bottom_up", "none"])
def composed(request, fitted_once):
    """Of each composition."""
    return copy.deepcopy(fitted_once(request.param))


def test_the_loss_of_stage_one_is_of_pixels_commitment_and_alignment(composed, smooth, settings):
    images = smooth(3, 32, 32)
    stage = train_mode(CodebookStage(composed, settings(commit_weight=0.3, align_weight=0.2)))
    loss, figures = stage(images, 0)
    codes, features = composed.codes(composed.encode(images)), composed.features(images, with_dense=True)
    targets = [F.avg_pool2d(images, 2), images]
    linear_reconstructions = composed.quantizer.linear_reconstructions(codes)
    pixels = sum(float(F.mse_loss(s.detach(), t)) for s, t in zip(linear_reconstructions, targets, strict=True))
    commit = alignment = 0.0
    # text embeddings of residual levels add up, and each comes nearer to the dense features
    sums = [text.detach() for text in composed.quantizer.text_embedding_maps(codes)]
    for index, projected in enumerate(encode_continuous_from(composed.quantizer, features, codes)):
        commit += float(F.mse_loss(projected, codes[index]))
        dense = F.interpolate(features.dense, sums[index].shape[-2:], mode="bilinear", align_corners=False)
        alignment += 1 - float((F.normalize(sums[index], dim=1) * F.normalize(dense, dim=1)).sum(1).mean())
    assert figures["commit"] == pytest.approx(commit, rel=1e-3)
    assert figures["alignment"] == pytest.approx(alignment, rel=1e-3)
    assert float(loss.detach()) == pytest.approx(pixels / 0.07 + 0.3 * commit + 0.2 * alignment, rel=1e-3)


def encode_continuous_from(quantizer, features, codes):
    """What each level projects its input to, where the other levels are these codes."""
    with torch.no_grad():
        known = dict(enumerate(codes))
        return [quantizer.level(i).project(quantizer.level_input(i, features, known)) for i in range(len(codes))]


def test_stage_one_reaches_every_parameter(composed, smooth, settings):
    stage = train_mode(CodebookStage(composed, settings()))
    stage(smooth(3, 32, 32), 0)[0].backward()
    for name, parameter in composed.quantizer.levels.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert composed.quantizer.to_embedding.weight.grad is None  # stage 1 does not see image embeddings
    assert {id(p) for p in stage.trainable()} == {id(p) for p in composed.quantizer.levels.parameters()}


def test_semantics_moves_an_adapter_by_its_levels_share_and_every_read_out(fitted, smooth, settings):
    def gradients(weight):
        config = settings(commit_weight=0.0, align_weight=weight)
        stage = train_mode(CodebookStage(copy.deepcopy(fitted), config))
        stage(smooth(3, 32, 32), 0)[0].backward()
        return {name: p.grad for name, p in stage.quantizer.named_parameters()}

    without, with_semantics = gradients(0.0), gradients(1.0)
    assert not torch.allclose(without["levels.0.adapter.weight"], with_semantics["levels.0.adapter.weight"])
    torch.testing.assert_close(without["levels.1.adapter.weight"], with_semantics["levels.1.adapter.weight"])
    for level in (0, 1):
        assert not without[f"levels.{level}.text_readout.weight"].any()
        assert with_semantics[f"levels.{level}.text_readout.weight"].any()


def test_codebooks_follow_the_projections_of_the_step(fitted, smooth, settings):
    stage = train_mode(CodebookStage(fitted, settings(batch_size=3)))
    before = [fitted.quantizer.level(i).codebook.clone() for i in (0, 1)]
    stage(smooth(3, 32, 32), 0)
    stage.after_step(0)
    for index, old in enumerate(before):
        codebook = fitted.quantizer.level(index).codebook
        assert not torch.equal(codebook, old)
        assert torch.equal(codebook, stage.ema[index].codebook)
    torch.testing.assert_close(fitted.quantizer.level(0).codebook.norm(dim=1), torch.ones(8))
    assert len(before[0]) == 8


def test_revival_stops_for_the_last_fifth(fitted, smooth, settings):
    stage = train_mode(CodebookStage(fitted, settings(codebook_steps=10)))
    stopped = []
    for ema in stage.ema.values():
        ema.stop_revival = lambda: stopped.append(True)
    for step in range(10):
        stage(smooth(3, 32, 32), step)
        stage.after_step(step)
        assert bool(stopped) == (step >= 8)
