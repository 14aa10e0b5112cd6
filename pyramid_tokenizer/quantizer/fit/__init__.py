"""The gradient-free fit of a quantizer: whitening, reduced-rank regression, k-means."""

from pyramid_tokenizer.quantizer.fit.levels import LevelReport, fit_quantizer
from pyramid_tokenizer.quantizer.fit.sampling import Samples

__all__ = ["LevelReport", "Samples", "fit_quantizer"]
