"""`export_model`: the parts of a tokenizer as files, each compared with the model before it gets its name."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from pyramid_tokenizer.checks.arguments import check_whole
from pyramid_tokenizer.errors import ConfigError, ExportError, MissingExtraError, NotFittedError
from pyramid_tokenizer.export.checking import Differences, Run, compare
from pyramid_tokenizer.export.programs import PARTS, Recording, plan_recording, record, run_program
from pyramid_tokenizer.export.reader import METADATA, WORDS_FILE
from pyramid_tokenizer.export.words import write_words
from pyramid_tokenizer.files import temporary_name
from pyramid_tokenizer.images import IMAGE_RECIPE_VERSION
from pyramid_tokenizer.text import Templates
from pyramid_tokenizer.tokenizer import PyramidTokenizer

OPSET = 18
"""The version of ONNX's operators that files use: the one that torch's exporter writes without converting."""

LARGEST_IN_ONE_FILE = 1_800_000_000
"""Bytes of weights; ONNX files end at 2 GB, and larger models get their weights in a file beside."""

Format = Literal["onnx", "torch"]
_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was written, and how far it is from the model."""

    files: tuple[Path, ...]
    """The files, the words' among them."""
    differences: tuple[Differences, ...]
    """One per part."""


def export_model(
    tok: PyramidTokenizer,
    directory: str | Path,
    *,
    to: Format = "onnx",
    size: int | tuple[int, int] | None = None,
    parts: Sequence[str] = PARTS,
    names: Sequence[str] = (),
    templates: Templates = "default",
) -> ExportReport:
    """Writes encode, decode and embed as files for another runtime, in float32, for any batch size.

    Each part is compared with the model in its own runtime, in batches of 1 and 8, before anything gets its final name. More
    than 1 in 10,000 ids that differ, a pixel that does by more than .001, or a number of an embedding by more than .0001 is an
    error, and then the directory stays as it was.

    Args:
        tok: A fitted tokenizer in float32 on the CPU.
        directory: Where the files go; it is made where it is missing, and files of the same names are replaced.
        to: "onnx" for encode.onnx, decode.onnx and embed.onnx; "torch" for `torch.export` programs, encode.pt2 and so on.
        size: The one size of images that the files take, a side in pixels or (H, W), in multiples of the tokenizer's
            `multiple_px`; None for all sizes, in which a ViT resamples its positions at each run.
        parts: Which parts, of "encode", "decode" and "embed".
        names: Classes whose text embeddings are written into words.npz, for `OnnxTokenizer.classify`.
        templates: Prompts that names are put into.

    Raises:
        ConfigError: Another format, part or size, or a tokenizer that is not in float32 on the CPU.
        NotFittedError: The codebooks are empty.
        ExportError: A part cannot be recorded, or does not give what the model gives.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    sides = _check(tok, to, size, parts)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    scratch = directory / temporary_name()
    scratch.mkdir()
    try:
        differences = tuple(_write_part(tok, scratch, to, part, sides) for part in parts)
        if names:
            write_words(tok, scratch / WORDS_FILE, names, templates=templates)
        # what a file refers to comes before the file
        made = sorted(scratch.iterdir(), key=lambda path: path.suffix in _SUFFIXES.values())
        for path in made:
            os.replace(path, directory / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ExportReport(files=tuple(directory / path.name for path in made), differences=differences)


def _check(
    tok: PyramidTokenizer, to: str, size: int | tuple[int, int] | None, parts: Sequence[str]
) -> tuple[int, int] | None:
    if to not in _SUFFIXES:
        raise ConfigError(f'expected to="onnx" or "torch", got {to!r}: choose one of them')
    wrong = [part for part in parts if part not in PARTS]
    if wrong or not parts:
        raise ConfigError(
            f"expected parts among {', '.join(PARTS)}, got {', '.join(wrong) or 'none'}: name some of them"
        )
    if tok.dtype != torch.float32 or tok.precision != "float32" or tok.device.type != "cpu":
        got = f"{tok.precision} and {tok.dtype} on {tok.device}"
        raise ConfigError(f"expected a tokenizer in float32 on the CPU, got {got}: load it without dtype and device")
    if not tok.quantizer.is_fitted:
        raise NotFittedError("expected fitted codebooks to export, got empty ones: call fit first")
    if to == "onnx":
        _require_onnx()
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    check_whole(height=height, width=width)
    if height % tok.multiple_px or width % tok.multiple_px:
        near = tuple(max(1, round(side / tok.multiple_px)) * tok.multiple_px for side in (height, width))
        raise ConfigError(
            f"expected a size in multiples of {tok.multiple_px} px, got {height} x {width}: use {near[0]} x {near[1]}"
        )
    return height, width


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f'expected onnx, onnxscript and onnxruntime, got no {error.name}: pip install "pyramid-tokenizer[export]"'
        ) from error


def _write_part(
    tok: PyramidTokenizer, directory: Path, to: Format, part: str, size: tuple[int, int] | None
) -> Differences:
    """Records a part, writes it, and compares what was written with the model."""
    recording = plan_recording(tok, part, size)
    program = record(recording)
    path, facts = directory / f"{part}{_SUFFIXES[to]}", json.dumps(facts_of(tok, part, size))
    if to == "onnx":
        _write_onnx(program, recording, path, facts)
        run = _onnx_runner(path, recording)
    else:
        torch.export.save(program, path, extra_files={f"{METADATA}.json": facts})
        run = _torch_runner(path)
    found = compare(tok, part, run, size)
    found.require()
    return found


def facts_of(tok: PyramidTokenizer, part: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """What a file says about itself, JSON-ready: model, image recipe, levels, and what it takes."""
    from pyramid_tokenizer import __version__

    quantizer = tok.quantizer
    grids = [[size[0] // stride, size[1] // stride] for stride in quantizer.strides] if size else None
    return {
        "format": 1,
        "part": part,
        "fingerprint": tok.fingerprint,
        "precision": "float32",
        "image_recipe": IMAGE_RECIPE_VERSION,
        "codebook_sizes": list(quantizer.codebook_sizes),
        "strides": list(quantizer.strides),
        "image_codebook_sizes": list(quantizer.image.codebook_sizes),
        "base_levels": quantizer.base_levels,
        "multiple_px": tok.multiple_px,
        "size": list(size) if size else None,
        "grids": grids,
        "embedding_dim": tok.backbone.embedding_dim,
        "opset": OPSET,
        "made_with": f"pyramid-tokenizer {__version__}, torch {torch.__version__}",
    }


def _write_onnx(program: ExportedProgram, recording: Recording, path: Path, facts: str) -> None:
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    weights += sum(v.numel() * v.element_size() for v in program.constants.values() if isinstance(v, torch.Tensor))
    names: dict[str, Any] = {"input_names": list(recording.inputs), "output_names": list(recording.outputs)}
    with _quiet():
        try:
            converted = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names)
        except Exception as error:  # torch's exporter raises many classes, most of them private
            reason = str(error).strip().split("\n")[0]
            raise ExportError(
                f"expected a graph that ONNX can hold, got {type(error).__name__} for {recording.part}: {reason}; export it "
                "to torch"
            ) from error
        assert converted is not None
        converted.model.metadata_props[METADATA] = facts
        converted.save(str(path), external_data=weights > LARGEST_IN_ONE_FILE)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress and its notes about operators that it leaves as they are from the terminal."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _onnx_runner(path: Path, recording: Recording) -> Run:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        return session.run(list(recording.outputs), dict(zip(recording.inputs, inputs, strict=True)))

    return run


def _torch_runner(path: Path) -> Run:
    program = torch.export.load(path)

    def run(inputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        return [found.numpy() for found in run_program(program, [torch.from_numpy(x) for x in inputs])]

    return run
