"""What a training, and work that tells how much of it is done, show on a terminal and in a pipe."""

import io
import re

from rich.console import Console
from rich.live import Live

from pyramid_tokenizer.cli.progress import Shown, show_steps
from pyramid_tokenizer.cli.terminal import show_share, show_stages, show_waiting

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


FITS = (("backbone", 0.25), ("level 0: k-means", 0.6), ("image embeddings", 1.0)) * 2  # the second after stage 1


def test_a_terminal_shows_one_bar_for_each_fit_with_its_stage_and_time():
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        log = Shown(console, live)
        for stage, share in FITS:
            log.show_fit(stage, share)
            live.refresh()
    frames = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", file.getvalue())
    lines = [line.strip() for line in frames.replace("\r", "\n").splitlines() if line.strip()]
    seen = [re.fullmatch(r"fit \S+ +(\d+)% \d:\d\d:\d\d ?(.*)", line).groups() for line in lines]
    done = ("100", "")
    expected = [("25", "backbone"), ("60", "level 0: k-means"), done]
    assert seen[:6] == [*expected, done, expected[0], done]
    assert seen[-2:] == [done, done]


def test_a_pipe_shows_nothing_of_a_fit():
    file = io.StringIO()
    with show_steps(Console(file=file)) as log:
        for stage, share in FITS:
            log.show_fit(stage, share)
    assert file.getvalue() == ""


def share(console):
    with show_share(console, "words") as tell:
        at_first = console.file.getvalue()
        for done in (256, 512, 600):
            tell(done, 600)
    after = console.file.getvalue()
    tell(600, 600)
    assert console.file.getvalue() == after
    return at_first, after


def test_work_that_tells_its_share_has_a_bar_from_its_first_call_to_the_end_of_the_block():
    at_first, after = share(Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None))
    assert at_first == ""
    assert "words" in after and "600/600" in after


def test_a_pipe_has_no_bar():
    assert share(Console(file=io.StringIO(), width=80, force_terminal=False)) == ("", "")


def test_each_stage_has_a_bar_of_its_own_and_work_that_begins_anew_as_well():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with show_stages(console) as stages:
        tell = stages.share("texts")
        tell(3, 3)
        advance = stages.begin("images", 2)  # a second live display would be an error
        advance()
        advance()
        tell(256, 700)
        tell(700, 700)
    found = console.file.getvalue()
    places = [found.rindex(shown) for shown in ("3/3", "2/2", "700/700")]
    assert places == sorted(places)


def test_a_step_of_unknown_length_is_named_on_a_terminal_alone():
    files = []
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
        with show_waiting(console, "recording"):
            pass
        files.append(console.file.getvalue())
    assert "recording" in files[0] and files[1] == ""
