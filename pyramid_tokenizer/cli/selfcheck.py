"""`selfcheck`: tells whether this device computes what the model's own device did."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pyramid_tokenizer.cli.options import Device
from pyramid_tokenizer.cli.terminal import load_tokenizer, make_console, make_table, show_waiting


class Precision(StrEnum):
    """What `--dtype` takes."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help='The name of a bundled model, a directory, or a Hub repository "user/repo".'),
]
Dtype = Annotated[Precision, typer.Option(help="The precision of backbone and decoder.")]
Store = Annotated[
    bool,
    typer.Option(
        "--store",
        help="Instead of a check: write what this device computes into the model's directory, for later checks.",
    ),
]


def selfcheck(
    model: ModelArgument = "tiny", *, device: Device = "cpu", dtype: Dtype = Precision.FLOAT32, store: Store = False
) -> None:
    """Check that this device computes what the model's own device did.

    Synthetic images go through every stage of the model, and the results are compared with stored ones, or, for a model without
    stored ones, with float64 on the CPU. Stages that differ by more than rounding are named, and the exit code is then 1.
    """
    import torch

    from pyramid_tokenizer.evaluation.selfcheck import STAGES, make_reference
    from pyramid_tokenizer.evaluation.selfcheck import selfcheck as check
    from pyramid_tokenizer.hub.directory import SELFCHECK_FILE

    tok = load_tokenizer(model, device).to(dtype=getattr(torch, dtype.value))
    console = make_console()
    if store:
        assert tok.loaded_from is not None
        path = make_reference(tok, origin=f"{tok.device}, {dtype.value}, torch {torch.__version__}").save(
            tok.loaded_from / SELFCHECK_FILE
        )
        console.print(f"wrote {path}, {path.stat().st_size:,} bytes")
        return
    with show_waiting(console, "computing every stage"):
        found = check(tok)
    table = make_table(f"{found.device}, beside {found.origin}", "stage", "difference", "limit", "")
    for stage, difference in found.differences.items():
        limit = STAGES[stage][0]
        table.add_row(stage, f"{difference:.1e}", f"{limit:.0e}", "differs" if stage in found.differs else "agrees")
    console.print(table, soft_wrap=False)
    for stage in found.differs:
        console.print(f"{stage}: {STAGES[stage][1]}")
    if found.differs:
        raise typer.Exit(1)
