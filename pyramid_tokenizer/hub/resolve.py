"""The directory of a model by its name: a local folder, a bundled model, or a Hub repository."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from pathlib import Path

from pyramid_tokenizer.errors import ModelNotFoundError
from pyramid_tokenizer.hub.directory import CONFIG_FILE

MODEL_FILES = (
    CONFIG_FILE,
    "*.safetensors",
    "backbone/*.json",
    "backbone/*.safetensors",
    "README.md",
    "evaluation.json",
)
"""All that is ever fetched from or sent to the Hub."""


_ASSETS = Path(__file__).parents[1] / "assets"


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The directory of a model.

    The first that fits wins: an existing directory with a config.json, a bundled name, a Hub repository "user/repo". An
    existing directory without config.json is an error even if it looks like "user/repo": the Hub is not asked for it.

    Args:
        name: A directory, a bundled name ("tiny"), or "user/repo".
        revision: Branch, tag or commit of a Hub repository.
        cache_dir: Where Hub files are kept; the Hub client's own cache by default.
        local_files_only: Ask no network; a repository must already be in the cache.

    Raises:
        ModelNotFoundError: No such directory, bundled model, repository or revision, no network, or no config.json.

    Example:
        >>> try:
        ...     resolve_model("./no-such-directory")
        ... except ModelNotFoundError as error:
        ...     print(str(error).split(": ")[-1])
        there is no such directory; check the path
    """
    text = str(name)
    path = Path(name).expanduser()
    bundled = {} if isinstance(name, Path) else bundled_models()
    if (path / CONFIG_FILE).is_file() or text in bundled:
        if revision is not None:
            warnings.warn(f"revision={revision!r} is ignored: {text!r} is not a Hub repository", stacklevel=2)
        return path if (path / CONFIG_FILE).is_file() else bundled[text]
    if path.is_dir():
        raise ModelNotFoundError(
            f"expected a model directory with a {CONFIG_FILE}, got {text!r} without one: "
            "it is no saved model, or its saving was interrupted"
        )
    if path.is_file():
        raise ModelNotFoundError(f"expected a model directory, got the file {text!r}: give the directory that holds it")
    if isinstance(name, str) and _REPOSITORY.fullmatch(text):
        return _download(text, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    raise ModelNotFoundError(_unknown_name(text, list(bundled)))


def bundled_models() -> dict[str, Path]:
    """Directory of every model inside the package, by its name; all of them work offline."""
    return {path.name: path for path in sorted(_ASSETS.glob("*")) if (path / CONFIG_FILE).is_file()}


def _unknown_name(text: str, bundled: list[str]) -> str:
    near = difflib.get_close_matches(text, bundled)
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif os.sep in text or "/" in text or text.startswith("."):
        hint = "there is no such directory; check the path"
    else:
        hint = f"bundled models: {', '.join(sorted(bundled)) or 'none'}"
    return f'expected a directory, a bundled model or a Hub repository "user/repo", got {text!r}: {hint}'


def _download(repo_id: str, *, revision: str | None, cache_dir: str | Path | None, local_files_only: bool) -> Path:
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=list(MODEL_FILES),
        )
    # the client lets through its own errors, OSErrors and those of whichever HTTP library its version stands on
    except Exception as error:
        raise ModelNotFoundError(_why_not_downloaded(repo_id, revision, local_files_only, error)) from error
    if not (Path(path) / CONFIG_FILE).is_file():
        raise ModelNotFoundError(
            f"expected a {CONFIG_FILE} in the Hub repository {repo_id!r}, got none: it holds no pyramid-tokenizer model"
        )
    return Path(path)


def _why_not_downloaded(repo_id: str, revision: str | None, local_files_only: bool, error: Exception) -> str:
    from huggingface_hub import errors

    start = f"expected the Hub repository {repo_id!r} (there is no such directory)"
    if isinstance(error, errors.GatedRepoError):
        return f"{start}, got one with restricted access: ask for access on its page and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{start}, got none of that name: check the spelling; a private one needs `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{start} at revision {revision!r}, got no such branch, tag or commit: see the repository's history"
    if isinstance(error, errors.HFValidationError):
        return f"{start}, got a name that no repository can have: {error}"
    if local_files_only:
        hint = "call once without local_files_only, or give a directory"
        return f"{start} in the local cache, got no complete copy there: {hint}"
    cause = error.__cause__ or error  # the client wraps "offline" in three sentences
    return (
        f"{start}, got no answer from the Hub and no complete copy in the cache ({type(cause).__name__}: {cause}): "
        "check the network, use local_files_only=True with a copy downloaded before, or give a directory"
    )
