"""Training: `train` runs the closed-form fit, stage 1 (adapters and codebooks) and stage 2 (trunk and pixel decoder)."""

from pyramid_tokenizer.training.config import TrainConfig
from pyramid_tokenizer.training.train import train

__all__ = ["TrainConfig", "train"]
