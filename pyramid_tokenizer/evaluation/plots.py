"""Plots of reports, by matplotlib: rate against distortion, the use of codebooks, and bars with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyramid_tokenizer.errors import MissingExtraError
from pyramid_tokenizer.files import replacing
from pyramid_tokenizer.tokens.palette import PALETTE

_FAMILIES = {
    "prefixes": ("prefixes of levels", PALETTE[0], "o-"),
    "by content": ("tokens by content", PALETTE[2], "D-"),
    "JPEG": ("JPEG", PALETTE[12], "s--"),
    "WebP": ("WebP", PALETTE[1], "^--"),
    "AVIF": ("AVIF", PALETTE[5], "v--"),
}
"""Label, colour and line of what a plot of rate and distortion may hold; the same in every plot."""
_METRICS = {"psnr": "PSNR, dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS (lower is better)"}


def check_plots() -> None:
    """Raises MissingExtraError if matplotlib is not installed."""
    _figure((1, 1))


def plot_rates(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws each metric against bits per pixel, a line for each way of coding, with 95 % intervals.

    Args:
        rows: "family", "bits_per_pixel", metrics and "intervals" of `evaluate_reconstruction`.
        path: The PNG file to write.
    """
    metrics = [name for name in _METRICS if any(row.get(name) is not None for row in rows)]
    figure = _figure((6 * len(metrics), 4.6))
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for family, (label, colour, line) in _FAMILIES.items():
            points = [
                (row["bits_per_pixel"], row[metric], row["intervals"][metric])
                for row in rows
                if row["family"] == family and row.get("bits_per_pixel") and row.get(metric) is not None
            ]
            if points:
                x, y, bounds = zip(*sorted(points), strict=True)
                around = [
                    [v - low for v, (low, _) in zip(y, bounds, strict=True)],
                    [high - v for v, (_, high) in zip(y, bounds, strict=True)],
                ]
                axes.errorbar(x, y, yerr=around, fmt=line, color=colour, label=label, capsize=2, markersize=5)
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(_METRICS[metric])
        axes.grid(color="#dedede")
        axes.set_axisbelow(True)
    figure.axes[0].legend(frameon=False)
    _save(figure, path)


def plot_usage(levels: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the used codes and the perplexity of every level, in per cent of its codebook.

    Args:
        levels: "codes", "usage" and "perplexity" of each level.
        path: The PNG file to write.
    """
    figure = _figure((1.6 * len(levels) + 2.5, 3.6))
    axes = figure.subplots()
    places = range(len(levels))
    for shift, what, colour, shares in (
        (-0.2, "used", PALETTE[0], [level["usage"] for level in levels]),
        (0.2, "perplexity", PALETTE[1], [level["perplexity"] / level["codes"] for level in levels]),
    ):
        bars = axes.bar(
            [place + shift for place in places], [100 * share for share in shares], 0.38, color=colour, label=what
        )
        axes.bar_label(bars, fmt="%.0f")
    axes.set_xticks(list(places), [f"level {i}\n{level['codes']:,} codes" for i, level in enumerate(levels)])
    axes.set_ylabel("% of the codes")
    axes.set_ylim(0, 112)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    _save(figure, path)


def plot_bars(
    bars: Sequence[tuple[str, float, Sequence[float] | None]], path: Path, *, label: str, kinds: Sequence[str] = ()
) -> None:
    """Draws a horizontal bar for each name, from the top, with its interval.

    Args:
        bars: Name, share in [0, 1] or below 0 for a difference, and lower and upper end of its interval or None.
        path: The PNG file to write.
        label: What the shares are, in per cent.
        kinds: A word for each bar; bars of one word have one colour, which a legend tells. () gives all bars one colour.
    """
    figure = _figure((9, 0.32 * len(bars) + 1.3))
    axes = figure.subplots()
    colours = dict(zip(dict.fromkeys(kinds), PALETTE, strict=False))
    for place, (_, value, interval) in enumerate(bars):
        around = None if interval is None else [[100 * (value - interval[0])], [100 * (interval[1] - value)]]
        colour = colours[kinds[place]] if kinds else PALETTE[0]
        axes.barh(place, 100 * value, 0.7, xerr=around, color=colour, ecolor="#212121", capsize=2)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    if kinds:
        handles = [axes.barh(0, 0, color=colour, label=kind) for kind, colour in colours.items()]
        figure.legend(handles=handles, frameon=False, ncols=len(handles), loc="outside upper center")
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#dedede")
    axes.set_axisbelow(True)
    _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'expected matplotlib for the plots of a report, got none: pip install "pyramid-tokenizer[viz]"'
        ) from error
    return Figure(figsize=size, dpi=120, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:
        figure.savefig(part, format="png")
