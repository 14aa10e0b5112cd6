"""The progress of `train` and `finetune`: a bar with figures on a terminal, and a line per report elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_USAGE = "usage@"


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that shows the figures of a step: the rate, the time left, the losses and the usage of each level."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    def tell(figures: dict[str, Any]) -> None:
        console.print(f"{figures['stage']} {figures['step']}/{figures['steps']}: {in_words(figures)}{_rate(figures)}")

    if not console.is_terminal:
        yield tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("steps{task.fields[rate]}, left:"),
        TimeRemainingColumn(compact=True),
    )
    bars, tasks, latest = Progress(*columns, console=console), {}, {}
    with Live(bars, console=console) as live:

        def show(figures: dict[str, Any]) -> None:
            stage = figures["stage"]
            if stage.endswith("fit"):  # the fit reports one line per level
                tell(figures)
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=figures["steps"], rate="")
                latest.clear()
            bars.update(tasks[stage], completed=figures["step"], rate=_rate(figures))
            latest.update(figures)  # a figure that the latest step does not have keeps its last value
            live.update(Group(bars, Text(in_words(latest))))

        yield show


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
