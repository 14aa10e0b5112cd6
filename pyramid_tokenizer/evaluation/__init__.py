"""Measures reconstructions and masks: metrics, confusion matrices, bootstrap intervals and the semantics of codes."""

from pyramid_tokenizer.evaluation.bootstrap import bootstrap_interval
from pyramid_tokenizer.evaluation.confusion import ConfusionMatrix, ConfusionScores
from pyramid_tokenizer.evaluation.metrics import psnr, ssim
from pyramid_tokenizer.evaluation.segmentation import SegmentationScores, evaluate_segmentation
from pyramid_tokenizer.evaluation.segmenting import check_background, label_images
from pyramid_tokenizer.evaluation.token_figures import TokenFigures, token_figures
from pyramid_tokenizer.evaluation.token_semantics import LevelSemantics, TokenSemantics, oracle_scores
from pyramid_tokenizer.evaluation.windows import at_short_side, sliding_window

__all__ = [
    "ConfusionMatrix",
    "ConfusionScores",
    "LevelSemantics",
    "SegmentationScores",
    "TokenFigures",
    "TokenSemantics",
    "at_short_side",
    "bootstrap_interval",
    "check_background",
    "evaluate_segmentation",
    "label_images",
    "oracle_scores",
    "psnr",
    "sliding_window",
    "ssim",
    "token_figures",
]
