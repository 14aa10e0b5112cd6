"""What a training shows on a terminal and in a pipe."""

import io
import re

from rich.console import Console

from pyramid_tokenizer.cli.progress import show_steps

REPORTS = [
    {"stage": "fit", "step": 1, "steps": 1, "vectors": 640, "pixels_explained": 0.5},
    {"stage": "decoder", "step": 5, "steps": 20, "loss": -4.5, "psnr": 22.0, "psnr@1": 17.5, "images_per_second": 60.4},
    {"stage": "decoder", "step": 10, "steps": 20, "loss": -4.75, "psnr": 23.0, "usage@1": 1.0, "usage@0": 0.5,
     "images_per_second": 61.0},
]  # fmt: skip


def shown(width, terminal):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, highlight=False, soft_wrap=True)
    with show_steps(console) as log:
        for figures in REPORTS:
            log(figures)
    return file.getvalue()


def test_a_pipe_gets_a_line_for_each_report():
    assert shown(200, terminal=False).splitlines() == [
        "fit 1/1: pixels explained 0.5, vectors 640",
        "decoder 5/20: loss -4.5, psnr 22, psnr@1 17.5, 60 images/s",
        "decoder 10/20: loss -4.75, psnr 23, codes in use 50 / 100 %, 61 images/s",
    ]


def test_a_terminal_keeps_one_bar_a_stage_and_the_last_of_every_figure():
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(80, terminal=True))
    assert "fit 1/1: pixels explained 0.5, vectors 640" in plain
    lines = [line.strip() for line in plain.replace("\r", "\n").splitlines() if line.strip()]
    assert re.match(r"decoder \S+ 10/20 steps, 61 images/s, left: ", lines[-2])
    assert lines[-1] == "loss -4.75, psnr 23, psnr@1 17.5, codes in use 50 / 100 %"
