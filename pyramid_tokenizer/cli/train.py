"""`train`: images -> a model of one's own."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyramid_tokenizer.cli.terminal import make_console
from pyramid_tokenizer.errors import ConfigError, PyramidTokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from pyramid_tokenizer.config import TokenizerConfig
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

Source = Annotated[
    str, typer.Option("--images", metavar="PATH", help="A folder of images, or a .txt that lists files.")
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the model goes; the same command there resumes.")
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Layout and tower of a new model, in the format of a saved model's config.json."),
]
BackboneDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="With --config: the tower, in open_clip's local-directory layout."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Instead of --config: the model whose tower and layout are reused.  [default: tiny]"
    ),
]
Steps = Annotated[int, typer.Option(metavar="N", min=0, help="Steps of the decoder.")]
CodebookSteps = Annotated[
    int, typer.Option(metavar="N", min=0, help="Steps that refine the codebooks; 0 keeps their closed-form fit.")
]
FitImages = Annotated[int, typer.Option(metavar="N", min=1, help="Images of the closed-form fit, at most.")]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Crops per step and process.")]
Crop = Annotated[int, typer.Option(metavar="PIXELS", min=1, help="Side of a crop, a multiple of the coarsest stride.")]
Rate = Annotated[float, typer.Option("--lr", metavar="RATE", help="Peak learning rate of the decoder.")]
CodebookRate = Annotated[
    float, typer.Option("--codebook-lr", metavar="RATE", help="Peak learning rate of the codebooks.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="With a step's number, the only source of chance.")]
Workers = Annotated[
    int, typer.Option(metavar="N", min=0, help="Processes that load images; 0 loads in the training one.")
]
Half = Annotated[bool, typer.Option("--half", help="Store the decoder as float16: half the size.")]


def train(
    *,
    images: Source,
    out: Out,
    config: Config = None,
    backbone_dir: BackboneDir = None,
    model: Model = None,
    steps: Steps = 2000,
    codebook_steps: CodebookSteps = 0,
    fit_images: FitImages = 4000,
    batch_size: BatchSize = 32,
    crop: Crop = 128,
    lr: Rate = 7e-4,
    codebook_lr: CodebookRate = 3e-4,
    seed: Seed = 0,
    workers: Workers = 0,
    half: Half = False,
) -> None:
    """Train a model on images.

    Fits the codebooks, then trains the decoder; the tower stays frozen. Interrupt it at any time: the same command resumes.
    On several GPUs, run it with `accelerate launch -m pyramid_tokenizer.cli train ...`.
    """
    _check_out(out)
    from pyramid_tokenizer.data import find_images
    from pyramid_tokenizer.training import TrainConfig
    from pyramid_tokenizer.training import train as train_images

    settings = TrainConfig(
        decoder_steps=steps,
        codebook_steps=codebook_steps,
        fit_images=fit_images,
        batch_size=batch_size,
        crop_px=crop,
        decoder_lr=lr,
        codebook_lr=codebook_lr,
        seed=seed,
        workers=workers,
        log_every=max(1, min(50, max(steps, codebook_steps) // 20)),
    )
    console = make_console()
    files = find_images(images)
    tok = _make_tokenizer(config, backbone_dir, model)
    sizes = "+".join(str(size) for size in tok.quantizer.codebook_sizes)
    console.print(f"train: {len(files):,} images, codebooks of {sizes} entries -> {out}")
    with _show_steps(console) as log:
        train_images(tok, files, out=out, config=settings, half=half, log=log)
    console.print(f"model written to {out}")
    console.print(f"see what it does: pyramid-tokenizer reconstruct IMAGES --model {shlex.quote(str(out))}")


def _check_out(out: Path) -> None:
    if (out / "config.json").exists() and not (out / ".training").is_dir():
        raise PyramidTokenizerError(
            f"expected a new folder or one with a training to resume as --out, got the model {str(out)!r}: choose another"
        )


def _make_tokenizer(config: Path | None, backbone_dir: Path | None, model: str | None) -> PyramidTokenizer:
    """A tokenizer with a tower and empty codebooks."""
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    if config is None:
        if backbone_dir is not None:
            raise ConfigError(
                f"expected --config with --backbone-dir {backbone_dir}, got none: a model has its own tower"
            )
        base = PyramidTokenizer.from_pretrained(model or "tiny")
        return PyramidTokenizer.from_config(dataclasses.replace(base.config, fingerprint=""), backbone=base.backbone)
    if model is not None:
        raise ConfigError(f"expected --config or --model, got both, {config} and {model}: leave one out")
    return PyramidTokenizer.from_config(_read_config(config), directory=backbone_dir)


def _read_config(path: Path) -> TokenizerConfig:
    from pyramid_tokenizer.config import TokenizerConfig, from_dict

    try:
        data = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"{path}: {error}"
        raise ConfigError(
            f"expected a JSON file as --config, got {reason}: see config.json of a saved model"
        ) from error
    # of the model that the file was copied from; this one gets its own
    return dataclasses.replace(from_dict(TokenizerConfig, data, where=str(path)), fingerprint="")


@contextmanager
def _show_steps(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Takes the figures of a step: a bar for each stage on a terminal, else a line for each call."""
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
            if stage == "fit":  # three steps with figures of their own
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
