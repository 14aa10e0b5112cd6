"""How good reconstructions and masks are: metrics that say how they were computed, on sets read as their protocols say."""

from pyramid_tokenizer.evaluation.bootstrap import bootstrap_interval
from pyramid_tokenizer.evaluation.class_names import distinct_names, read_class_names
from pyramid_tokenizer.evaluation.confusion import ConfusionMatrix, ConfusionScores
from pyramid_tokenizer.evaluation.metrics import psnr, ssim
from pyramid_tokenizer.evaluation.protocols import PROTOCOLS, SegmentationProtocol, find_protocol
from pyramid_tokenizer.evaluation.segmentation import SegmentationScores, evaluate_segmentation
from pyramid_tokenizer.evaluation.segmentation_data import Sample, SegmentationSet, open_segmentation_set
from pyramid_tokenizer.evaluation.segmenting import check_background, label_images
from pyramid_tokenizer.evaluation.token_figures import TokenFigures, token_figures
from pyramid_tokenizer.evaluation.token_meaning import LevelMeaning, TokenMeaning, oracle_scores
from pyramid_tokenizer.evaluation.windows import at_short_side, sliding_window

__all__ = [
    "PROTOCOLS",
    "ConfusionMatrix",
    "ConfusionScores",
    "LevelMeaning",
    "Sample",
    "SegmentationProtocol",
    "SegmentationScores",
    "SegmentationSet",
    "TokenFigures",
    "TokenMeaning",
    "at_short_side",
    "bootstrap_interval",
    "check_background",
    "distinct_names",
    "evaluate_segmentation",
    "find_protocol",
    "label_images",
    "open_segmentation_set",
    "oracle_scores",
    "psnr",
    "read_class_names",
    "sliding_window",
    "ssim",
    "token_figures",
]
