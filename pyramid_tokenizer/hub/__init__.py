"""Models as files: finding them, reading and writing them strictly, and uploading them to the Hugging Face Hub.

A model is a directory:

    config.json                       data only; its presence is what makes a directory a model
    model.safetensors                 our trained parts
    segmentation_head.safetensors     optional
    backbone/                         the frozen backbone, when it has no public address
    README.md                         the model card

Nothing is pickled and no code is loaded. Files and directories get their final name only when they are whole
(`files.replacing`, `save_directory`), so that no half-written model can be found.
"""

from pyramid_tokenizer.hub.card import add_to_card, model_card, weight_terms
from pyramid_tokenizer.hub.directory import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    backbone_folder,
    read_config,
    save_directory,
    save_model,
    write_config,
)
from pyramid_tokenizer.hub.head import (
    HEAD_FILE,
    KeptHead,
    StoredHead,
    fitting_head,
    keep_head,
    read_head,
    warn_of_lost_head,
)
from pyramid_tokenizer.hub.limits import check_head_size
from pyramid_tokenizer.hub.resolve import MODEL_FILES, bundled_models, resolve_model
from pyramid_tokenizer.hub.upload import push, push_saved
from pyramid_tokenizer.hub.weights import read_weights, write_weights

__all__ = [
    "CONFIG_FILE",
    "HEAD_FILE",
    "MODEL_FILES",
    "WEIGHTS_FILE",
    "KeptHead",
    "StoredHead",
    "add_to_card",
    "backbone_folder",
    "bundled_models",
    "check_head_size",
    "fitting_head",
    "keep_head",
    "model_card",
    "push",
    "push_saved",
    "read_config",
    "read_head",
    "read_weights",
    "resolve_model",
    "save_directory",
    "save_model",
    "warn_of_lost_head",
    "weight_terms",
    "write_config",
    "write_weights",
]
