"""The progress of `train` and `finetune`: a bar with figures on a terminal, and a line per report elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_USAGE = "usage@"


class Told:
    """What a run prints where there is no terminal: a line per report, and nothing while the codebooks are fitted."""

    def __init__(self, console: Console):
        self._console = console

    def __call__(self, figures: dict[str, Any]) -> None:
        """Prints the figures of a step, or of one level of the fit."""
        place = f"{figures['stage']} {figures['step']}/{figures['steps']}"
        self._console.print(f"{place}: {in_words(figures)}{_rate(figures)}")

    def show_fit(self, stage: str, share: float) -> None:
        """Prints nothing."""


class Shown(Told):
    """What a terminal shows of a run: a bar for each fit and each stage, and the latest figures."""

    def __init__(self, console: Console, live: Live):
        super().__init__(console)
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        name, bar = TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)
        rate, left = TextColumn("steps{task.fields[rate]}, left:"), TimeRemainingColumn(compact=True)
        spent = TimeElapsedColumn(), TextColumn("{task.fields[part]}", markup=False)
        self._fits = Progress(name, bar, TaskProgressColumn(), *spent, console=console)
        self._bars = Progress(name, bar, MofNCompleteColumn(), rate, left, console=console)
        self._live, self._tasks, self._latest = live, {}, {}

    def __call__(self, figures: dict[str, Any]) -> None:
        """Moves the bar of a stage and shows its figures; the fit's, one report per level, are printed above."""
        stage = figures["stage"]
        if stage.endswith("fit"):
            super().__call__(figures)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=figures["steps"], rate="")
            self._latest.clear()
        self._bars.update(self._tasks[stage], completed=figures["step"], rate=_rate(figures))
        self._latest.update(figures)  # a figure that the latest step does not have keeps its last value
        self._draw()

    def show_fit(self, stage: str, share: float) -> None:
        """Moves the bar of the fit."""
        if all(task.finished for task in self._fits.tasks):  # a run fits anew after stage 1
            self._fits.add_task("fit", total=1.0, part="")
        self._fits.update(self._fits.tasks[-1].id, completed=share, part="" if share >= 1 else stage)
        self._draw()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.text import Text

        bars = [bars for bars in (self._fits, self._bars) if bars.tasks]
        self._live.update(Group(*bars, Text(in_words(self._latest))) if self._latest else Group(*bars))


@contextmanager
def show_steps(console: Console) -> Iterator[Told]:
    """Yields a log that shows the figures of a step (rate, time left, losses, usage of each level) and how far a fit is."""
    from rich.live import Live

    if not console.is_terminal:
        yield Told(console)
        return
    with Live(console=console) as live:
        yield Shown(console, live)


def in_words(figures: dict[str, Any]) -> str:
    """Formats the figures as text: the loss first, and the usage of all levels together at the end.

    Example:
        >>> in_words({"stage": "decoder", "step": 1, "usage@0": 0.5, "usage@1": 1.0, "psnr": 22.75, "loss": -4.5678})
        'loss -4.568, psnr 22.75, codes in use 50 / 100 %'
    """
    usage = [f"{100 * figures[name]:.0f}" for name in sorted(figures) if name.startswith(_USAGE)]
    hidden = {"stage", "step", "steps", "images_per_second", "loss"}
    names = sorted(name for name in figures if name not in hidden and not name.startswith(_USAGE))
    names = ["loss", *names] if "loss" in figures else names
    words = [f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in names]
    return ", ".join([*words, f"codes in use {' / '.join(usage)} %"] if usage else words)


def _rate(figures: dict[str, Any]) -> str:
    return f", {figures['images_per_second']:.0f} images/s" if "images_per_second" in figures else ""
