"""Reports of the three evaluations: which tables, plots and sheets each has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pyramid_tokenizer.evaluation.plots import check_plots, plot_bars, plot_rates, plot_usage
from pyramid_tokenizer.evaluation.reconstruction import ReconstructionReport
from pyramid_tokenizer.evaluation.report import Report, number, with_interval
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.visualize.sheets import contact_sheet

_METRICS = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "ms_ssim": ("MS-SSIM", 3), "lpips": ("LPIPS", 3)}
_SCORES = {
    "miou_present": "mIoU of the classes in the labels",
    "miou_union": "mIoU of the classes in labels or predictions",
    "fwiou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
}


def reconstruction_report(result: ReconstructionReport, facts: Mapping[str, Any]) -> Report:
    """The report of `evaluate_reconstruction`.

    Args:
        result: What it returned.
        facts: Model, fingerprint, data, machine, date and so on.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_plots()
    data = result.data
    shown = dict(facts) | {"images": data["num_images"], "protocol": data["protocol"]}
    shown |= {"rFID": number(data["rfid"], 2)} if data["rfid"] is not None else {}
    shown |= {"not measured": "; ".join(data["left_out"])} if data["left_out"] else {}
    report = Report(title="Reconstruction", data=reconstruction_data(result, facts), facts=shown)
    metrics = [name for name in _METRICS if any(row.get(name) is not None for row in data["rows"])]
    head = "what", "bits per pixel", "entropy", *(_METRICS[name][0] for name in metrics), "Fréchet distance"
    report.tables.append(
        ("Rate and distortion, with 95 % intervals", head, [_row(row, metrics) for row in data["rows"]])
    )
    levels = [
        (
            i,
            f"{level['codes']:,}",
            f"{level['tokens']:,}",
            f"{level['usage']:.1%}",
            f"{level['perplexity']:,.0f}",
            f"{level['perplexity'] / level['codes']:.0%}",
            number(level["bits_per_pixel"], 4),
            number(level["entropy_bits_per_pixel"], 4),
        )
        for i, level in enumerate(data["levels"])
    ]
    head = "level", "codes", "tokens", "used", "perplexity", "of all codes", "bits per pixel", "entropy bits per pixel"
    report.tables.append(("Codebooks", head, levels))
    report.images += [
        ("rates.png", "Quality against bits per pixel", lambda path: plot_rates(data["rows"], path)),
        ("usage.png", "Use of the codebooks", lambda path: plot_usage(data["levels"], path)),
        ("images.png", "Originals and what prefixes decode to", lambda path: _save_sheet(result, path)),
    ]
    return report


def reconstruction_data(result: ReconstructionReport, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What report.json has; as evaluation.json of a saved model, its card shows it."""
    return {"kind": "reconstruction", **facts, **result.data}


def semantics_report(data: Mapping[str, Any], facts: Mapping[str, Any]) -> Report:
    """The report of `evaluate_semantics`.

    Args:
        data: What it returned.
        facts: Model, fingerprint, data, machine, date and so on.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_plots()
    shown = dict(facts) | {"images": data["num_images"], "protocol": data["protocol"]}
    report = Report(title="Semantics", data={"kind": "semantics", **facts, **data}, facts=shown)
    rows = data["rows"]
    table = [
        (row["what"], row["from"], with_interval(row["value"], row["interval"], 1, scale=100), f"{row['count']:,}")
        for row in rows
    ]
    report.tables.append(("Names and captions", ("what", "from", "% (95 % interval)", "of"), table))
    bars = [(row["what"], row["value"], row["interval"]) for row in rows]
    kinds = [row["from"] for row in rows]
    if bars:
        report.images.append(
            ("semantics.png", "All figures", lambda path: plot_bars(bars, path, label="%", kinds=kinds))
        )
    return report


def segmentation_report(data: Mapping[str, Any], facts: Mapping[str, Any], sheet: Image.Image | None = None) -> Report:
    """The report of `evaluate_segmentation`.

    Args:
        data: All figures: `SegmentationScores.to_dict()` and the settings.
        facts: Model, fingerprint, data, machine, date and so on.
        sheet: Some of the images with their masks.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_plots()
    shown = dict(facts) | {"images": data["num_images"]}
    report = Report(title="Segmentation", data={"kind": "segmentation", **facts, **data}, facts=shown)
    scores = [
        (words, with_interval(data[name], data["intervals"].get(name), 2, scale=100)) for name, words in _SCORES.items()
    ]
    report.tables.append(("Scores", ("score", "% (95 % interval)"), scores))
    classes = [one for one in data["classes"] if one["iou"] is not None]
    table = [(one["name"], number(100 * one["iou"], 2), f"{one['pixels']:,}") for one in classes]
    report.tables.append(("Classes", ("class", "IoU, %", "labelled pixels"), table))
    bars = [
        (str(one["name"]), one["iou"], None) for one in sorted(classes, key=lambda one: -one["iou"]) if one["pixels"]
    ]
    report.images.append(
        ("classes.png", "IoU of each class in the labels", lambda path: plot_bars(bars, path, label="IoU, %"))
    )
    if sheet is not None:
        report.images.append(("masks.png", "Images, labels and masks", lambda path: save_image(sheet, path)))
    return report


def _row(row: Mapping[str, Any], metrics: Sequence[str]) -> tuple[str, ...]:
    values = [with_interval(row.get(name), row["intervals"].get(name), _METRICS[name][1]) for name in metrics]
    entropy, rate = row["entropy_bits_per_pixel"], row.get("bits_per_pixel")
    return row["what"], number(rate, 3), number(entropy, 3), *values, number(row["frechet"], 4)


def _save_sheet(result: ReconstructionReport, path: Path) -> None:
    rows = [[_pil(image) for image in row] for row in result.shown]
    save_image(contact_sheet(rows, column_titles=result.shown_titles), path)


def _pil(image: Tensor) -> Image.Image:
    return to_pil(image.float() / 255)[0]
