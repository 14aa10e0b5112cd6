"""Class names -> text embeddings, for segmentation and classification; and images among the texts of a language model.

    names ─parse_names─▶ phrases ─templates─▶ prompts ─text encoder─▶ VocabularyEmbeddings ─class_scores─▶ a score per class

Legend, besides that of `backbones/features.py`
    N            classes
    P            phrases: every synonym of every class, class by class, then the background words
    owner        (P,) int64, the class of each phrase; `NO_CLASS` (-1) is the background
"""

from pyramid_tokenizer.text.cache import text_fingerprint
from pyramid_tokenizer.text.embeddings import Classification, VocabularyEmbeddings
from pyramid_tokenizer.text.encoder import TEMPLATES, Templates, TextEncoder, TextNetwork
from pyramid_tokenizer.text.language_model_state import LanguageModelState
from pyramid_tokenizer.text.language_models import LanguageModelTokenizer, to_language_model
from pyramid_tokenizer.text.names import ClassNames, parse_names

__all__ = [
    "TEMPLATES",
    "ClassNames",
    "Classification",
    "LanguageModelState",
    "LanguageModelTokenizer",
    "Templates",
    "TextEncoder",
    "TextNetwork",
    "VocabularyEmbeddings",
    "parse_names",
    "text_fingerprint",
    "to_language_model",
]
