"""Models as files: finding them, reading and writing them strictly, and putting them on the Hugging Face Hub.

A model is a directory:

    config.json                       data only; its presence is what makes a directory a model
    model.safetensors                 our trained parts
    segmentation_head.safetensors     optional
    backbone/                         the frozen tower, when it has no public address
    README.md                         the model card

Nothing is pickled and no code is loaded. A file is written beside its final name and renamed, a directory likewise
(`save_directory`), so that no half-written model ever bears its final name.
"""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pyramid_tokenizer.config import TokenizerConfig, from_dict, to_dict
from pyramid_tokenizer.errors import CheckpointError, ConfigError, HubError, ModelNotFoundError

CONFIG_FILE = "config.json"
MODEL_FILES = (
    CONFIG_FILE,
    "*.safetensors",
    "backbone/*.json",
    "backbone/*.safetensors",
    "README.md",
    "evaluation.json",
)
"""All that is ever fetched from or sent to the Hub."""

_ASSETS = Path(__file__).parent / "assets"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_VERSIONED = re.compile(r"(?P<stem>.+)-v(?P<number>\d+)")
_NAMES_SHOWN = 5


def resolve(
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
        name: A directory, a bundled name ("tiny-v0", or "tiny" for the latest version), or "user/repo".
        revision: Branch, tag or commit of a Hub repository.
        cache_dir: Where Hub files are kept; the Hub client's own cache by default.
        local_files_only: Ask no network; a repository must already be in the cache.

    Raises:
        ModelNotFoundError: No such directory, bundled model, repository or revision, no network, or no config.json.

    Example:
        >>> try:
        ...     resolve("./no-such-directory")
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
    """Directory of every name that works offline: each version ("tiny-v0"), and each stem ("tiny") for its latest."""
    versions = []
    for path in _ASSETS.glob("*"):
        match = _VERSIONED.fullmatch(path.name)
        if match and (path / CONFIG_FILE).is_file():
            versions.append((match["stem"], int(match["number"]), path))
    models = {}
    for stem, _, path in sorted(versions):  # by number: v10 comes after v9
        models[path.name] = models[stem] = path
    return models


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


def read_config(directory: Path) -> TokenizerConfig:
    """The config of a model directory.

    Raises:
        ModelNotFoundError: There is no config.json.
        ConfigError: It is not JSON, or has an unknown, missing or wrong field.
    """
    path = directory / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"expected {path}, got no such file: give the directory of a saved model") from error
    except ValueError as error:  # JSON or UTF-8
        raise ConfigError(f"expected JSON in {path}, got: {error}: restore the file or save the model again") from error
    return from_dict(TokenizerConfig, data, where=str(path))


def write_config(config: TokenizerConfig, directory: Path) -> None:
    """Writes config.json; a file that was there stays whole until the new one is."""
    text = json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"
    _write_bytes(directory / CONFIG_FILE, [text.encode()])


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be exactly those expected.

    Args:
        path: The file.
        expected: Name -> a tensor of the wanted shape and dtype (its values are not read), e.g. a `state_dict()`.

    Returns:
        Name -> tensor on the CPU, in the order and the dtypes of `expected`. The file may hold another dtype of the same
        kind: half-precision weights come back as float32 where float32 is expected.

    Raises:
        CheckpointError: A missing or unreadable file; a missing or extra name; a wrong shape or kind of dtype; a value that
            is NaN, infinite, or does not fit the expected dtype.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"expected a readable safetensors file, got {path}: {error}: restore it or save the model again"
        ) from error
    problems = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
    }
    loaded = {}
    for name in expected.keys() & stored.keys():
        problem = _mismatch(stored[name], expected[name])
        if problem:
            problems.setdefault(problem, []).append(name)
        loaded[name] = stored[name].to(expected[name].dtype)
    found = [f"{problem}: {_first(names)}" for problem, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"expected the {len(expected)} tensors of this config in {path}, got {'; '.join(found)}: "
            "the file and its config.json do not belong together or one was altered"
        )
    return {name: loaded[name] for name in expected}


def _mismatch(stored: Tensor, expected: Tensor) -> str | None:
    """What is wrong with a stored tensor, or None."""
    if stored.shape != expected.shape:
        return "wrong shape"
    if _kind(stored) != _kind(expected):
        return "wrong dtype"
    cast = stored.to(expected.dtype)
    if _kind(stored) == "float":
        # checked after the cast: what fits float32 can be infinite in float16
        return None if bool(torch.isfinite(cast).all()) else "NaN or infinite values"
    return None if torch.equal(cast.to(stored.dtype), stored) else "values that do not fit the dtype"


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "int"


def _first(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _NAMES_SHOWN
    return ", ".join(ordered[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def write_weights(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors as a safetensors file; the same tensors and metadata give the same bytes.

    Tensors are copied to the CPU and made contiguous; those that share memory are stored each on its own. A file that was
    there stays whole until the new one is, e.g. when the disk is full.

    Raises:
        OSError: The file cannot be written.
    """
    whole = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    payload = memoryview(to_safetensors(whole, dict(metadata) if metadata else None))
    header_end = 8 + int.from_bytes(payload[:8], "little")
    header = json.loads(bytes(payload[8:header_end]))
    if "__metadata__" in header:  # safetensors writes it in the random order of a Rust HashMap
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data, whose offsets count from the header's end
    # not safetensors' own save_file: it leaves files that only their owner can read
    _write_bytes(path, [len(text).to_bytes(8, "little"), text, payload[header_end:]])


def _write_bytes(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def save_directory(directory: str | Path) -> Iterator[Path]:
    """A directory to write a model's files in; it becomes `directory` only when the block ends without an error.

    The block writes in a hidden sibling. Then: a target that is new or empty is replaced in one rename. In any other, first
    config.json is removed, then the files are moved in one by one, config.json last; so a reader finds the old model, none
    (`ModelNotFoundError`), or the new one, never a mixture. Moving takes no disk space, so only a crash in that moment can
    leave none. Other files of the target stay: a save into a working copy of a repository keeps its history.

    Raises:
        CheckpointError: `directory` is a file.
        OSError: It cannot be written; the target is as it was.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model"
        >>> with save_directory(target) as part:
        ...     _ = (part / "config.json").write_text("{}")
        ...     target.exists()
        False
        >>> [path.name for path in target.iterdir()]
        ['config.json']
    """
    target = Path(directory).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(
            f"expected a directory to save the model in, got the file {str(directory)!r}: choose another name"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part-{secrets.token_hex(4)}")
    part.mkdir()  # not tempfile.mkdtemp: its mode lets only the owner in, and would stay
    try:
        yield part
        _move_into(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move_into(part: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()  # Windows cannot rename onto an empty directory
        part.rename(target)
        return
    files = sorted((path for path in part.rglob("*") if path.is_file()), key=lambda path: path == part / CONFIG_FILE)
    if (part / CONFIG_FILE).exists():
        (target / CONFIG_FILE).unlink(missing_ok=True)
    for file in files:
        final = target / file.relative_to(part)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, final)


def push(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    commit_message: str = "Upload pyramid-tokenizer model",
    token: str | None = None,
    create_pr: bool = False,
    revision: str | None = None,
) -> str:
    """Uploads a model directory to the Hugging Face Hub; only files of a model (`MODEL_FILES`) leave the machine.

    Args:
        directory: A saved model.
        repo_id: "user/repo"; created if it does not exist.
        private: Visibility of a new repository; an existing one keeps its own.
        commit_message: First line of the commit.
        token: Access token; the one of `hf auth login` by default.
        create_pr: Open a pull request instead of committing.
        revision: Branch to commit to; the main one by default.

    Returns:
        Address of the commit, or of the pull request.

    Raises:
        ModelNotFoundError: `directory` is no model.
        HubError: The Hub cannot be reached or refuses.
    """
    import huggingface_hub

    directory = Path(directory).expanduser()
    read_config(directory)
    # spelled out, because a pattern's * also matches "/" there: "*.safetensors" would send those of every subdirectory
    files = [
        glob.escape(path.relative_to(directory).as_posix())
        for pattern in MODEL_FILES
        for path in sorted(directory.glob(pattern))
    ]
    try:
        huggingface_hub.create_repo(repo_id, private=private, exist_ok=True, token=token)
        commit = huggingface_hub.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            commit_message=commit_message,
            token=token,
            create_pr=create_pr,
            revision=revision,
            allow_patterns=files,
        )
    except Exception as error:  # see _download
        raise HubError(
            f"expected the Hub to take the model as {repo_id!r}, got {type(error).__name__}: {error}: "
            "check the network and the name, and log in with `hf auth login` or pass token="
        ) from error
    return str(commit.pr_url if create_pr else commit.commit_url)
