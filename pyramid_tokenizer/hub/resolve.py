"""From the name of a model to the directory with its files: a local one, a bundled one, or a download from the Hub."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from pyramid_tokenizer.backbones.fetch import hub_silence
from pyramid_tokenizer.checks.arguments import check_kind, check_path, nearest_file
from pyramid_tokenizer.errors import ConfigError, ModelNotFoundError, did_you_mean
from pyramid_tokenizer.hub.directory import CONFIG_FILE, SELFCHECK_FILE, WEIGHTS_FILE
from pyramid_tokenizer.hub.head import HEAD_FILE

MODEL_FILES = (
    CONFIG_FILE,
    WEIGHTS_FILE,
    HEAD_FILE,
    "backbone/*.json",
    "backbone/*.safetensors",
    "README.md",
    "evaluation.json",
    SELFCHECK_FILE,
)
"""The files of a model, and all that is ever fetched from or sent to the Hub. Whole names where they are known, because the
Hub's * also matches "/" and would fetch the weights of every subfolder."""


_ASSETS = Path(__file__).parents[1] / "assets"


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str = "",
) -> Path:
    """The directory with the files of a model.

    The first that fits wins: an existing directory with a config.json, the name of a bundled model, a Hub repository
    "user/repo". An existing directory without a config.json is an error even if it looks like "user/repo": the Hub is not
    asked for it.

    Args:
        name: A directory, the name of a bundled model ("tiny"), or a Hub repository "user/repo".
        revision: Branch, tag or commit of a Hub repository.
        cache_dir: Folder that keeps downloaded files; the Hub client's own cache by default.
        local_files_only: Ask no network; a repository must already be in the cache.
        token: Access token for private and gated repositories; None uses that of `hf auth login`, False none at all.
        subfolder: Folder of the model inside the directory or the repository, with / between its parts; "" for the top.

    Raises:
        ConfigError: `subfolder` leads out of the directory.
        ModelNotFoundError: There is no such directory, bundled model, repository or revision, no network where one is needed,
            or no config.json.

    Example:
        >>> try:
        ...     resolve_model("./no-such-directory")
        ... except ModelNotFoundError as error:
        ...     print(str(error).split(": ")[-1])
        there is no such directory; check the path
    """
    _check_subfolder(subfolder)
    check_path(name, name="the model's name")
    text = str(name)
    path = Path(name).expanduser() / subfolder
    bundled = {} if isinstance(name, Path) or subfolder else bundled_models()
    here = os.path.isfile(path / CONFIG_FILE)  # unlike Path.is_file, it takes names that are too long
    if here or text in bundled:
        if revision is not None:
            warnings.warn(f"revision={revision!r} is ignored: {text!r} is not a Hub repository", stacklevel=2)
        return path if here else bundled[text]
    if os.path.isdir(Path(name).expanduser()):
        _refuse_directory(Path(name).expanduser(), text, subfolder)
    if os.path.isfile(Path(name).expanduser()):
        raise ModelNotFoundError(f"expected a model directory, got the file {text!r}: give the directory that holds it")
    if isinstance(name, str) and _REPOSITORY.fullmatch(text):
        options = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        return _download(text, subfolder, options)
    if subfolder and text in bundled_models():
        raise ModelNotFoundError(
            f"expected no subfolder with the bundled model {text!r}, got {subfolder!r}: leave it out"
        )
    raise ModelNotFoundError(_unknown_name(text, list(bundled_models())))


def _check_subfolder(subfolder: str) -> None:
    check_kind(subfolder, str, name="subfolder", fix='write e.g. "small", or "" for the top')
    parts = PurePosixPath(subfolder)
    if parts.is_absolute() or ".." in parts.parts or "\\" in subfolder:
        raise ConfigError(
            f'expected a subfolder inside the model\'s directory, e.g. "small", got {subfolder!r}: leave out /, .. and \\'
        )


def _refuse_directory(path: Path, text: str, subfolder: str) -> NoReturn:
    inside = sorted(config.parent.name for config in path.glob(f"*/{CONFIG_FILE}"))
    if subfolder:
        hint = f"choose a subfolder of {', '.join(map(repr, inside))}" if inside else "no subfolder of it holds a model"
        raise ModelNotFoundError(f"expected a {CONFIG_FILE} in {subfolder!r} of {text!r}, got none: {hint}")
    hint = (
        f"pass subfolder, one of {', '.join(map(repr, inside))}"
        if inside
        else "it is no saved model, or its saving was interrupted"
    )
    raise ModelNotFoundError(f"expected a model directory with a {CONFIG_FILE}, got {text!r} without one: {hint}")


def bundled_models() -> dict[str, Path]:
    """Directory of every model inside the package, by its name; all of them work offline."""
    return {path.name: path for path in sorted(_ASSETS.glob("*")) if (path / CONFIG_FILE).is_file()}


def _unknown_name(text: str, bundled: list[str]) -> str:
    if os.sep in text or "/" in text or text.startswith("."):
        hint = nearest_file(text, otherwise="there is no such directory; check the path")
    else:
        hint = f"bundled models: {', '.join(sorted(bundled)) or 'none'}"
    hint = did_you_mean(text, bundled, otherwise=hint)
    return f'expected a directory, a bundled model or a Hub repository "user/repo", got {text!r}: {hint}'


def _download(repo_id: str, subfolder: str, options: dict[str, Any]) -> Path:
    import huggingface_hub

    inside = PurePosixPath(subfolder)
    patterns = [str(inside / pattern) for pattern in MODEL_FILES]
    asked = {"revision": options["revision"], "token": options["token"]}
    silence = None if options["local_files_only"] else hub_silence(repo_id, str(inside / CONFIG_FILE), **asked)
    offline: dict[str, Any] = {"local_files_only": True} if silence is not None else {}
    try:
        path = Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=patterns, **options | offline)) / inside
    # the client lets through its own errors, OSErrors and those of whichever HTTP library its version stands on
    except Exception as error:
        reason = _why_not_downloaded(repo_id, options["revision"], options["local_files_only"], silence or error)
        raise ModelNotFoundError(reason) from error
    if not (path / CONFIG_FILE).is_file():
        place = f"folder {subfolder!r} of the Hub repository" if subfolder else "Hub repository"
        raise ModelNotFoundError(
            f"expected a {CONFIG_FILE} in the {place} {repo_id!r}, got none: it holds no pyramid-tokenizer model"
        )
    return path


def _why_not_downloaded(repo_id: str, revision: str | None, local_files_only: bool, error: Exception) -> str:
    from huggingface_hub import errors

    start = f"expected the Hub repository {repo_id!r} (there is no such directory)"
    if isinstance(error, errors.GatedRepoError):
        return f"{start}, got one with restricted access: ask for it on its page, then use `hf auth login` or token="
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{start}, got none of that name: check the spelling; a private one needs `hf auth login` or token="
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
