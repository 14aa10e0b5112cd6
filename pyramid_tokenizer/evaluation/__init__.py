"""How good a reconstruction is: metrics that say how they were computed."""

from pyramid_tokenizer.evaluation.metrics import psnr, ssim

__all__ = ["psnr", "ssim"]
