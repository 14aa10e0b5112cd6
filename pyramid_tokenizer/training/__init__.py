"""Training: codebooks and decoder by `train` and `finetune`, a segmentation head by `train_segmentation`.

The gradient-free fit makes codebooks, stage 1 refines adapters and codebooks by gradients, stage 2 trains the trunk and the
pixel decoder on frozen ids, and stage 3 the segmentation head.
"""

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
