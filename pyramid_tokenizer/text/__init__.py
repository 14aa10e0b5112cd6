"""Class names -> text embeddings, for open-vocabulary segmentation and classification.

    names ─parse_names─▶ phrases ─templates─▶ prompts ─text encoder─▶ VocabularyEmbeddings ─class_scores─▶ a score per class

Legend, besides that of `backbones/features.py`
    N            classes
    P            phrases: every synonym of every class, class by class, then the background words
    owner        (P,) int64, the class of each phrase; `NO_CLASS` (-1) is the background
"""

from pyramid_tokenizer.text.cache import text_fingerprint
from pyramid_tokenizer.text.embeddings import Classification, VocabularyEmbeddings
from pyramid_tokenizer.text.encoder import TEMPLATES, Templates, TextEncoder, TextNetwork
from pyramid_tokenizer.text.names import ClassNames, parse_names

__all__ = [
    "TEMPLATES",
    "ClassNames",
    "Classification",
    "Templates",
    "TextEncoder",
    "TextNetwork",
    "VocabularyEmbeddings",
    "parse_names",
    "text_fingerprint",
]
