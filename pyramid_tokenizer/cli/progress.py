"""What `train` and `finetune` show while they work: a bar for each stage on a terminal, else a line for each report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that takes the figures of a step and shows them: rate and time left, losses by name, usage by level."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    def tell(figures: dict[str, Any]) -> None:
        console.print(f"{figures['stage']} {figures['step']}/{figures['steps']}: {_figures(figures)}")

    if not console.is_terminal:
        yield tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console) as bars:

        def show(figures: dict[str, Any]) -> None:
            stage = figures["stage"]
            if stage.endswith("fit"):  # a line a level, with figures of its own
                tell(figures)
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=figures["steps"], figures="")
            bars.update(tasks[stage], completed=figures["step"], figures=_figures(figures))

        yield show


def _figures(figures: dict[str, Any]) -> str:
    shown = {name.replace("_", " "): value for name, value in figures.items() if name not in ("stage", "step", "steps")}
    rate = shown.pop("images per second", None)
    words = [f"{name} {value:.4g}" for name, value in shown.items()]
    return ", ".join(words if rate is None else [*words, f"{rate:.0f} images/s"])
