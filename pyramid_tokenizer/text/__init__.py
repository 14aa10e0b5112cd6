"""Class names -> text embeddings, for open-vocabulary segmentation and classification.

    names ─parse_names─▶ phrases ─templates─▶ prompts ─text encoder─▶ VocabularyEmbeddings ─class_scores─▶ a score a class

Legend, beside that of `pyramid.py`
    N            classes
    P            phrases: every synonym of every class, class by class, then the background words
    owner        (P,) int64, the class of each phrase; -1 is the background
"""

from pyramid_tokenizer.text.cache import text_fingerprint
from pyramid_tokenizer.text.embeddings import VocabularyEmbeddings
from pyramid_tokenizer.text.encoder import TEMPLATES, TextEncoder, TextNetwork
from pyramid_tokenizer.text.names import BACKGROUND, ClassNames, parse_names

__all__ = [
    "BACKGROUND",
    "TEMPLATES",
    "ClassNames",
    "TextEncoder",
    "TextNetwork",
    "VocabularyEmbeddings",
    "parse_names",
    "text_fingerprint",
]
