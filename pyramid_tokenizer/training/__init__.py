"""Training: `train` and `finetune` run the gradient-free fit, stage 1 (adapters and codebooks), stage 2 (trunk and pixel decoder)."""

from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import MissingExtraError

try:
    from pyramid_tokenizer.training.segmentation import train_segmentation
    from pyramid_tokenizer.training.train import finetune, train
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise MissingExtraError(
        'expected accelerate for training, got none: pip install "pyramid-tokenizer[train]"'
    ) from error

__all__ = ["TrainConfig", "finetune", "train", "train_segmentation"]
