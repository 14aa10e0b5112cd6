"""Every error this package raises for a user's input. Each is a `PyramidTokenizerError` and also a built-in kind.

PyramidTokenizerError
├── ImageError (ValueError)             pixels that are not an image
│   ├── ImageValueError                 NaN, wrong range, dtype or shape
│   ├── ImageFileError (OSError)        missing, empty, truncated or not an image
│   ├── ImageTooLargeError              more pixels than the limit: a decompression bomb
│   └── MixedSizesError                 one batch needs one size
├── TokenError (ValueError)             tokens that cannot be used
│   ├── TokenFileError (OSError)        flipped, missing or foreign bytes
│   ├── TokenRangeError                 an id outside its codebook, a grid of the wrong shape
│   ├── TokenMismatchError              tokens of another tokenizer, or of several where one is needed
│   └── TokenSequenceError              a flat sequence that breaks the grammar of `Vocabulary`
├── ConfigError (ValueError)            an unknown field or a value out of its range
├── ModelNotFoundError (OSError)        no bundled model, directory or hub repository of that name
├── HubError (OSError)                  the Hub cannot be reached or refuses an upload
├── CheckpointError (RuntimeError)      a missing, extra, misshapen or altered weight
├── BackboneError (RuntimeError)        a backbone that cannot be loaded or used, or has no weights
│   └── CapabilityError                 the backbone has no such output, e.g. no dense text-aligned map
├── ExportError (RuntimeError)          a model that cannot be exported, or a file of it that gives other ids
├── NotFittedError (RuntimeError)       codebooks that were never fitted
├── DataError (ValueError)              training data that cannot be used: none, or labels that teach nothing
│   └── TooFewCellsError                fewer different cells of images than a codebook has entries
├── DatasetError (RuntimeError)         a token dataset that cannot be written, continued or read
│   └── DatasetInUseError               another process writes it
└── MissingExtraError (ImportError)     an optional dependency; names the pip command
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PyramidTokenizerError(Exception):
    """Base of all errors below. The message says what was expected, what came, and what to do."""


class ImageError(PyramidTokenizerError, ValueError):
    """Pixels that are not an image."""


class ImageValueError(ImageError):
    """NaN or infinite pixels, a wrong range, dtype or shape."""


class ImageFileError(ImageError, OSError):
    """A file that is missing, empty, truncated or not an image."""


class ImageTooLargeError(ImageError):
    """More pixels than the limit, as in a decompression bomb."""


class MixedSizesError(ImageError):
    """Images of different sizes where one batch needs one size."""


class TokenError(PyramidTokenizerError, ValueError):
    """Tokens that cannot be used."""


class TokenFileError(TokenError, OSError):
    """Token bytes that are altered, cut short or not of this format."""


class TokenRangeError(TokenError):
    """An id outside its codebook, or grids that do not belong together."""


class TokenMismatchError(TokenError):
    """Tokens that another tokenizer made, or tokens of several tokenizers or precisions where one is needed."""


class TokenSequenceError(TokenError):
    """A flat sequence that breaks the grammar of `Vocabulary`."""


class ConfigError(PyramidTokenizerError, ValueError):
    """An unknown configuration field, or a value out of its range."""


class ModelNotFoundError(PyramidTokenizerError, OSError):
    """No bundled model, local directory or hub repository of that name."""


class HubError(PyramidTokenizerError, OSError):
    """The Hub cannot be reached or refuses an upload."""


class CheckpointError(PyramidTokenizerError, RuntimeError):
    """A checkpoint with a missing, extra, misshapen or altered weight."""


class BackboneError(PyramidTokenizerError, RuntimeError):
    """A backbone that cannot be loaded or used, or that has no weights."""


class CapabilityError(BackboneError):
    """The backbone has no such output, e.g. no dense text-aligned map."""


class ExportError(PyramidTokenizerError, RuntimeError):
    """A model that cannot be exported, or an exported file that does not give the ids of the model."""


class NotFittedError(PyramidTokenizerError, RuntimeError):
    """Codebooks that were never fitted."""


class DataError(PyramidTokenizerError, ValueError):
    """Training data that cannot be used: none at all, or too little of it."""


class TooFewCellsError(DataError):
    """Fewer cells of images, or fewer different ones, than a codebook has entries."""


class DatasetError(PyramidTokenizerError, RuntimeError):
    """A token dataset that cannot be written, continued or read."""


class DatasetInUseError(DatasetError):
    """A token dataset that another process is writing."""


class MissingExtraError(PyramidTokenizerError, ImportError):
    """An optional dependency that is not installed; the message names the pip command."""


def did_you_mean(name: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """The hint for a name that nobody knows: "did you mean 'x'?" with up to three near names, whatever their case.

    Args:
        name: What was given.
        known: What could have been given.
        otherwise: The hint where no known name is near.

    Example:
        >>> did_you_mean("vit-b16", ["ViT-B-16", "RN50"])
        "did you mean 'ViT-B-16'?"
        >>> did_you_mean("zzz", ["ViT-B-16"], otherwise="see open_clip.list_models()")
        'see open_clip.list_models()'
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = [repr(by_lower[match]) for match in difflib.get_close_matches(str(name).lower(), list(by_lower), n=3)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise
