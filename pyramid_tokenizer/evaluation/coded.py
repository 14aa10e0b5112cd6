"""Scores of coded images against their originals, collected image by image for one way of coding them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyramid_tokenizer.evaluation.bootstrap import mean_interval
from pyramid_tokenizer.evaluation.metrics import MS_SSIM_LEAST_PX, SSIM_WINDOW_PX, ms_ssim, psnr, ssim

Metric = Callable[[Tensor, Tensor], Tensor]
"""From two batches (B, 3, H, W) uint8 to a value (B,) float64 for each pair."""


def metrics_for(side: int) -> dict[str, Metric]:
    """The metrics that images of this short side are large enough for, by name."""
    found: dict[str, Metric] = {"psnr": psnr}
    found |= {"ssim": ssim} if side >= SSIM_WINDOW_PX else {}
    return found | ({"ms_ssim": ms_ssim} if side >= MS_SSIM_LEAST_PX else {})


@dataclass(kw_only=True, slots=True)
class CodedScores:
    """One way of coding images: its rate and its metrics on each image so far."""

    what: str
    """The way in words, e.g. "levels 0-2" or "JPEG, quality 10"."""
    family: str
    """What is joined by a line in a plot: "prefixes", "by content", "JPEG" and so on."""
    values: dict[str, list[float]] = field(default_factory=dict)
    """Name of a figure -> its value for each image; "bits_per_pixel" is the rate, and may be missing.

    Numbers, since small tensors that stay between large ones that go would split the heap: 9 MB more for each image.
    """

    def add(self, originals: Tensor, coded: Tensor, rate: Tensor | None, metrics: Mapping[str, Metric]) -> None:
        """Measures a batch, (B, 3, H, W) uint8 both; `rate` is (B,) bits per pixel, None where there is none."""
        if rate is not None:
            self.values.setdefault("bits_per_pixel", []).extend(rate.tolist())
        for name, metric in metrics.items():
            self.values.setdefault(name, []).extend(metric(originals, coded).tolist())

    def summary(self, *, samples: int) -> dict[str, Any]:
        """Means over images and their 95 % intervals, as plain data. Pairs that are equal have no finite PSNR and are counted."""
        means: dict[str, float | None] = {}
        intervals: dict[str, list[float] | None] = {}
        equal = 0
        for name, listed in self.values.items():
            values = torch.tensor(listed, dtype=torch.float64)
            finite = values[values.isfinite()]
            equal = max(equal, len(values) - len(finite))
            means[name] = float(finite.mean()) if len(finite) else None
            intervals[name] = list(mean_interval(finite, samples=samples)) if len(finite) else None
        return {"what": self.what, "family": self.family, **means, "equal": equal, "intervals": intervals}
