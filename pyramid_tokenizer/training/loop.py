"""The training loop of every stage: AdamW with a cosine schedule, averaged weights, and a state to resume from."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import CheckpointError, PyramidTokenizerError
from pyramid_tokenizer.training import distributed
from pyramid_tokenizer.training.interrupt import StopRequest, leave_signals_to_the_parent
from pyramid_tokenizer.training.process import reseed
from pyramid_tokenizer.training.reports import Log
from pyramid_tokenizer.training.state import load_state, save_state

_LOGGER = logging.getLogger(__name__)
Sheet = Callable[[str, int], None]
"""Writes a sheet of reconstructions, given the stage's name and the number of steps done."""


class Stage(Protocol):
    """A stage of training: an `nn.Module` that is called with (crops, step) and gives a loss and figures, and these."""

    name: str
    steps: int
    lr: float
    ema_decay: float

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer changes."""
        ...

    def after_step(self, step: int) -> None:
        """Further changes at the end of a step, e.g. to codebooks."""
        ...

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors that a resumed run needs in addition to the module's own state."""
        ...

    def load_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Takes over what `extra_state` returned."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state of the module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any:
        """Takes over the state of the module."""
        ...


def run_stage(
    stage: Stage,
    crops: Dataset[Any],
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    state_path: Path,
    log: Log,
    sheet: Sheet | None = None,
) -> None:
    """Trains one stage to its end, from where its state file left off.

    At the end the averaged weights replace the stage's own. A step's crops and random numbers depend on the seed and the
    step's number alone, so a resumed run equals an uninterrupted one. Torch's global generators are reseeded at every step:
    call this inside `process.accelerated`, which restores them.

    Args:
        stage: What is trained; changed in place.
        crops: Batches by number. Item `step * accumulate + k` is pass k of that step; a batch has `len` and `to(device)`.
        config: Learning rates, decay and intervals.
        accelerator: Device, precision and processes.
        state_path: File of the run's state; the caller removes it once the stage's result is saved.
        log: Called every `log_every` steps in the main process.
        sheet: Called every `sheet_every` steps and at the end, in the main process.

    Raises:
        CheckpointError: The state belongs to another stage or other settings, is damaged, or cannot be written.
        DataError: The images of a step cannot be read.
        PyramidTokenizerError: The loss is not finite.
        KeyboardInterrupt: Ctrl-C was pressed; the state is saved.
        SystemExit: SIGTERM came; the state is saved.
    """
    optimizer = _optimizer(stage, config)
    averaged = AveragedModel(stage_parameters(stage), multi_avg_fn=get_ema_multi_avg_fn(stage.ema_decay))
    start = _resume(stage, optimizer, averaged, load_state(state_path))
    model, optimizer = accelerator.prepare(stage, optimizer)
    passes = _passes(crops, config, start, stage.steps)
    meter = _Meter(config, stage, log if accelerator.is_main_process else None)
    with StopRequest() as stop:
        for step in range(start, stage.steps):
            _set_rate(optimizer, stage, config, step)
            _add_gradients(model, stage, passes, step, config, accelerator, meter)
            accelerator.clip_grad_norm_(stage.trainable(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            stage.after_step(step)
            averaged.update_parameters(stage_parameters(stage))
            meter.tell(step)
            done, asked = step + 1, distributed.any_true(stop.signal is not None, device=accelerator.device)
            if accelerator.is_main_process and (asked or _due(done, config.save_every, stage.steps)):
                save_state(state_path, _state(stage, optimizer, averaged, done))
            if accelerator.is_main_process and sheet and _due(done, config.sheet_every, stage.steps):
                sheet(stage.name, done)
            if asked:
                accelerator.wait_for_everyone()  # the state is not whole before
                _LOGGER.warning("stage %s stopped after step %d, saved: the same call goes on", stage.name, done)
                stop.leave()
    if stop.signal is not None:  # the signal came after the last step
        stop.leave()
    with torch.no_grad():
        for parameter, mean in zip(stage.trainable(), averaged.module.parameters(), strict=True):
            parameter.copy_(mean)


def _add_gradients(
    model: Any,
    stage: Stage,
    passes: Iterator[Any],
    step: int,
    config: TrainConfig,
    accelerator: Accelerator,
    meter: _Meter,
) -> None:
    """Runs all passes of one step and leaves their mean gradient on the stage's parameters."""
    for k in range(config.accumulate):
        # the same seed in every pass and process, so that all crops of a step decode the same prefix of levels
        reseed(hash((config.seed, step)) % 2**63, accelerator.device)
        last = k + 1 == config.accumulate
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            images = next(passes).to(accelerator.device)
            with accelerator.autocast():
                loss, figures = model(images, step)
            if not math.isfinite(loss.item()):
                raise PyramidTokenizerError(
                    f"expected a finite loss, got {loss.item()} at step {step} of stage {stage.name}: "
                    "lower the learning rate"
                )
            accelerator.backward(loss / config.accumulate)
        meter.add(loss.item(), figures, len(images) * accelerator.num_processes)


def _passes(crops: Dataset[Any], config: TrainConfig, start: int, steps: int) -> Iterator[Any]:
    order = range(start * config.accumulate, steps * config.accumulate)
    settle = leave_signals_to_the_parent if config.workers else None
    return iter(DataLoader(crops, batch_size=None, sampler=order, num_workers=config.workers, worker_init_fn=settle))


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def stage_parameters(stage: Stage) -> nn.ParameterList:
    """The stage's trainable parameters as a module of their own, of which the moving average is kept."""
    return nn.ParameterList(stage.trainable())


def _optimizer(stage: Stage, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = stage.trainable()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.99))


def _set_rate(optimizer: Any, stage: Stage, config: TrainConfig, step: int) -> None:
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * rise * (0.5 + 0.5 * math.cos(math.pi * step / stage.steps))


def _state(stage: Stage, optimizer: Any, averaged: AveragedModel, step: int) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "step": step,
        "steps": stage.steps,
        "module": stage.state_dict(),
        "extra": stage.extra_state(),
        "optimizer": optimizer.state_dict(),
        "averaged": averaged.state_dict(),
    }


def _resume(stage: Stage, optimizer: Any, averaged: AveragedModel, state: dict[str, Any] | None) -> int:
    if state is None:
        return 0
    if (state.get("stage"), state.get("steps")) != (stage.name, stage.steps):
        raise CheckpointError(
            f"expected a state of stage {stage.name} over {stage.steps} steps, got {state.get('stage')} over "
            f"{state.get('steps')}: resume with the same settings, or delete the state file to start anew"
        )
    try:
        stage.load_state_dict(state["module"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        stage.load_extra_state(state["extra"])
        return int(state["step"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"expected a state of this architecture, got another ({error!r}): delete the state file to start anew"
        ) from error


class _Meter:
    """Collects a stage's figures and logs their means."""

    def __init__(self, config: TrainConfig, stage: Stage, log: Log | None):
        self.every, self.stage, self.log = config.log_every, stage, log
        self.sums: dict[str, list[float]] = {}
        self.images, self.began = 0, time.perf_counter()

    def add(self, loss: float, figures: dict[str, float], images: int) -> None:
        """Adds the figures of one pass."""
        for name, value in {"loss": loss, **figures}.items():
            self.sums.setdefault(name, []).append(value)
        self.images += images

    def tell(self, step: int) -> None:
        """Logs the means since the last line, where a line is due."""
        if self.log is None or not _due(step + 1, self.every, self.stage.steps):
            return
        place = {"stage": self.stage.name, "step": step + 1, "steps": self.stage.steps}
        rate = self.images / (time.perf_counter() - self.began)
        means = {name: sum(values) / len(values) for name, values in self.sums.items()}
        self.log({**place, "images_per_second": rate, **means})
        self.sums, self.images, self.began = {}, 0, time.perf_counter()
