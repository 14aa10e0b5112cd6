"""Output of the commands: results and (on a terminal) progress go to stdout, errors to stderr."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pyramid_tokenizer.cli.files import OutputError, Sources
from pyramid_tokenizer.cli.group import printable, tell_error
from pyramid_tokenizer.cli.json_output import collected
from pyramid_tokenizer.errors import ImageError, PyramidTokenizerError, TokenError, TokenRangeError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pyramid_tokenizer.segmentation.segmenter import Segmenter
    from pyramid_tokenizer.tokenizer import PyramidTokenizer
    from pyramid_tokenizer.tokens.pyramid import TokenPyramid


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """While it is entered, a warning is one line on stderr, as an error is, without a place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        typer.echo(f"warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=UserWarning)
        warnings.showwarning = show
        yield


def make_console() -> Console:
    """Makes a console that prints text unchanged: names may contain [brackets] and :colons:, and lines are not broken.

    What the terminal's encoding does not have, such as a file name of undecodable bytes, is printed as an escape sequence.
    """
    from rich.console import Console

    in_json = collected()
    if in_json is not None:
        return in_json  # type: ignore[return-value]  # it has what commands use of a console
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a table in a file or a pipe does not have to fit a screen
    return console


def make_table(title: str | None, *columns: str) -> Table:
    """Makes a table whose first column is text and whose other columns are figures."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


@contextmanager
def show_progress(console: Console, what: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar with rate and time left on a terminal; the block calls the function that it gets after each step.

    The function takes a number of steps, 1 if none is given.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.is_terminal or total < 2:
        yield _nothing
        return
    rate, left = TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), rate, left
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(steps: int = 1) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=steps, rate="" if speed is None else f"{speed:.2g}/s, left:")

        yield advance


class Stages:
    """The bars of a command that does one thing after another: a new one takes the place of the one before."""

    def __init__(self, console: Console):
        self._console, self._bar, self._ended = console, ExitStack(), False

    def begin(self, what: str, total: int) -> Callable[..., None]:
        """Shows a bar as `show_progress` does, and returns the function to call after each step."""
        self._bar.close()
        return self._bar.enter_context(show_progress(self._console, what, total))

    def share(self, what: str) -> Callable[[int, int], None]:
        """For work that tells how many of its steps are done, as in tell(3000, 10000): it has a bar from its first call on.

        After the last step the next call begins another bar.
        """
        advance: Callable[..., None] | None = None
        before = 0

        def tell(done: int, total: int) -> None:
            nonlocal advance, before
            if self._ended:
                return
            if advance is None:
                advance, before = self.begin(what, total), 0
            advance(done - before)
            advance, before = (None, 0) if done >= total else (advance, done)

        return tell

    def end(self) -> None:
        """Closes the last bar; from here on nothing is shown."""
        self._ended = True
        self._bar.close()


@contextmanager
def show_stages(console: Console) -> Iterator[Stages]:
    """Yields the bars of the stages of a command, one at a time."""
    stages = Stages(console)
    try:
        yield stages
    finally:
        stages.end()


@contextmanager
def show_share(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """The bar of one stage that tells its share; see `Stages.share`. The block passes on the function that it gets."""
    with show_stages(console) as stages:
        yield stages.share(what)


@contextmanager
def show_waiting(console: Console, what: str) -> Iterator[None]:
    """Shows on a terminal that one step of unknown length is under way."""
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def _nothing(steps: int = 1) -> None:
    """Takes the place of a bar's function."""


# A full disk, a closed pipe or a spent limit meets the next file as well, so that going on would only repeat the error.
_ENDS_THE_RUN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPIPE, errno.EMFILE, errno.ENFILE, errno.EIO})


class Failures:
    """Keeps one bad file from ending a run: collects errors, lists them on stderr at the end, and sets the exit code 1.

    Args:
        total: How many files the run is about to try.
        unlisted: Folders that could not be listed, with the error; each counts as a file that could not be used.

    Example:
        >>> with Failures(2) as failures:
        ...     for path in (Path("a.png"), Path("b.png")):
        ...         with failures.item(path):
        ...             pass
        >>> failures.tried, failures.done
        (2, 2)
    """

    def __init__(self, total: int, unlisted: Mapping[Path, OSError] | None = None) -> None:
        unlisted = unlisted or {}
        self.total, self.tried, self.kept = total + len(unlisted), len(unlisted), 0
        self.messages: list[str] = []
        for path, error in unlisted.items():
            self.add(path, error)

    @property
    def done(self) -> int:
        """How many files were tried without an error; those whose result was there already do not count."""
        return self.tried - len(self.messages) - self.kept

    def keep(self) -> None:
        """Counts the file of this `item` as one whose result is there already."""
        self.kept += 1

    def tell_kept(self, console: Console) -> None:
        """Says how many results were there already, if any."""
        if self.kept:
            console.print(f"{self.kept} of {self.tried} files have their results already, see --skip-existing")

    @contextmanager
    def item(self, path: Path) -> Iterator[None]:
        """Counts a file as tried, and notes the error of the block if the file is to blame; see `guard`."""
        self.tried += 1
        with self.guard(path):
            yield

    @contextmanager
    def guard(self, path: Path) -> Iterator[None]:
        """Notes the error of the block if this file is to blame. Errors that would meet every file are raised."""
        try:
            yield
        except Exception as error:
            if not concerns_one_file(error):
                raise
            self.add(path, error)

    def add(self, path: Path, error: Exception) -> None:
        """Adds a file and its error."""
        message = str(error) or type(error).__name__
        named = str(path) in message or repr(str(path)) in message
        self.messages.append(message if named else f"{path}: {message}")

    def __enter__(self) -> Failures:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        in_json = collected()
        for message in self.messages:
            tell_error(message)
            if in_json is not None:
                in_json.errors.append(message)
        if self.messages and self.total > 1:
            tell_error(f"{len(self.messages)} of {self.tried} files could not be used; the lines above say why")
        if kind is not None and self.tried < self.total:
            tell_error(f"the run ended after {self.tried} of {self.total} files")
        if self.messages and kind is None:
            raise typer.Exit(1)


def concerns_one_file(error: Exception) -> bool:
    """Whether an error is about the file that is being worked on (its bytes, name, rights or size) and not about the run.

    Example:
        >>> concerns_one_file(FileNotFoundError(errno.ENOENT, "vanished")), concerns_one_file(OSError(errno.ENOSPC, "full"))
        (True, False)
    """
    cause: BaseException | None = error
    while cause is not None:  # the package's own errors wrap those of the file system
        if isinstance(cause, OSError) and cause.errno in _ENDS_THE_RUN:
            return False
        cause = cause.__cause__
    if isinstance(error, PyramidTokenizerError):
        return isinstance(error, (ImageError, TokenError, OutputError))
    # a single image can be too large for the memory; torch's own classes cannot be named without importing it
    no_memory = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return no_memory or isinstance(error, (OSError, UnicodeError, MemoryError))


def tell_passed_over(console: Console, sources: Sources, *, by_name: bool) -> None:
    """Says how many files of the folders that were given are passed over, and which, if asked for."""
    from pyramid_tokenizer.images.folders import count_reasons

    if by_name:
        for path, reason in sources.passed_over.items():
            console.print(f"{printable(path)}: passed over, {reason}")
    if sources.passed_over:
        console.print(f"{count_reasons(sources.passed_over)}{'' if by_name else '; --list-passed-over names them'}")


def load_tokenizer(name: str, device: str = "cpu") -> PyramidTokenizer:
    """Loads the tokenizer of that name on that device.

    Raises:
        ConfigError: The machine has no such device.
        PyramidTokenizerError: `PyramidTokenizer.from_pretrained` cannot load the model.
    """
    from pyramid_tokenizer.checks.devices import check_device
    from pyramid_tokenizer.tokenizer import PyramidTokenizer

    check_device(device)
    return PyramidTokenizer.from_pretrained(name, device=device)


def load_segmenter(name: str, device: str = "cpu", *, text_cache: str | None = None) -> Segmenter:
    """Loads the model of that name on that device, with its segmentation head if it has one.

    Raises:
        ConfigError: The machine has no such device.
        PyramidTokenizerError: `Segmenter.from_pretrained` cannot load the model.
    """
    from pyramid_tokenizer.checks.devices import check_device
    from pyramid_tokenizer.segmentation.segmenter import Segmenter

    check_device(device)
    return Segmenter.from_pretrained(name, text_cache=text_cache, device=device)


def cut_levels(tokens: TokenPyramid, levels: int | None) -> TokenPyramid:
    """Returns the coarsest `levels` levels, or all levels for None.

    Raises:
        TokenRangeError: The tokens have fewer levels.
    """
    check_levels(levels, len(tokens))
    return tokens if levels is None else tokens[:levels]


def check_levels(levels: int | None, available: int) -> None:
    """Raises TokenRangeError if `--levels` asks for more levels than there are."""
    if levels is not None and levels > available:
        raise TokenRangeError(f"expected --levels of at most {available}, got {levels}: the tokens have no more levels")


def count_tokens(tokens: TokenPyramid) -> str:
    """Formats the numbers of tokens of one image by level: "64+256+1024", or "64+88+140 of 64+256+1024" if it is sparse."""
    from pyramid_tokenizer.tokens.summary import level_counts

    cells = "+".join(str(height * width) for height, width in tokens.grids)
    if not tokens.is_sparse:
        return cells
    return f"{'+'.join(map(str, level_counts(tokens)[:, 0].tolist()))} of {cells}"


def count_levels(levels: int) -> str:
    """Formats a number of levels, such as "2 levels"."""
    return f"{levels} level{'s' if levels > 1 else ''}"


def describe_size(image_size: tuple[int, int]) -> str:
    """Formats a size as width x height, the order that image viewers use."""
    height, width = image_size
    return f"{width}x{height}"
