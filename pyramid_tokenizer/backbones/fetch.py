"""`Download`: the files of published backbones, from the caches or from the network, as the caller allows."""

from __future__ import annotations

import functools
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUB_CONFIG = "open_clip_config.json"
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the weights in a Hub repository of open_clip's layout, the preferred one first."""

ANSWER_SECONDS = 4.5
"""How long an address may take to answer at all, unless the variable HF_HUB_ETAG_TIMEOUT of the Hub's client says otherwise.
Without a network that client tries a file for 25 seconds, and urllib waits without end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """How files are fetched; the arguments are those of the Hub's client.

    A pickle or a copy leaves the token out, so that no file or other process gets hold of it.
    """

    token: str | bool | None = None
    """Access token for private and gated repositories; None uses that of `hf auth login`, False none at all."""
    cache_dir: str | Path | None = None
    """Folder that keeps files; None for the default folders of the Hub's client and of open_clip."""
    local_files_only: bool = False
    """Take files from the cache alone, and never ask the network."""

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(Download, cache_dir=self.cache_dir, local_files_only=self.local_files_only)
        return make, ()

    def hub_file(self, repo_id: str, names: Sequence[str]) -> Path:
        """The first of some files that a Hub repository has; from the cache where the Hub does not answer within seconds.

        Raises:
            Exception: The error of the Hub's client for the last name, where no file can be had.
        """
        silence = None if self.local_files_only else hub_silence(repo_id, names[-1], token=self.token)
        try:
            return self._first_file(repo_id, names, local_files_only=self.local_files_only or silence is not None)
        except Exception as error:
            if silence is None:
                raise
            raise _unreachable(silence) from error

    def _first_file(self, repo_id: str, names: Sequence[str], *, local_files_only: bool) -> Path:
        from huggingface_hub import hf_hub_download

        options = {"token": self.token, "cache_dir": self.cache_dir, "local_files_only": local_files_only}
        for name in names[:-1]:
            try:
                return Path(hf_hub_download(repo_id, name, **options))
            # the client lets through its own errors, OSErrors and those of whichever HTTP library its version stands on
            except Exception:
                continue
        return Path(hf_hub_download(repo_id, names[-1], **options))

    def tagged_weights(self, tag: Mapping[str, Any]) -> Path:
        """The checkpoint file of one of open_clip's weight tags.

        Args:
            tag: What `open_clip.get_pretrained_cfg` returns for it, with a "file", an "hf_hub" address or a "url".

        Raises:
            Exception: As for `hub_file`, or an OSError for a file that is not in the cache or cannot be fetched.
        """
        from open_clip.pretrained import download_pretrained_from_url

        if tag.get("file"):
            return Path(tag["file"])
        if tag.get("hf_hub"):
            repo_id, name = os.path.split(tag["hf_hub"])
            return self.hub_file(repo_id, _alternatives(name))
        cached = Path(self.cache_dir or "~/.cache/clip").expanduser() / os.path.basename(tag["url"])
        if self.local_files_only:
            if not cached.is_file():
                raise FileNotFoundError(f"no file {str(cached)!r} in the cache, and the network must not be asked")
            return cached
        if not cached.is_file() and (silence := _address_silence(tag["url"])) is not None:
            raise _unreachable(silence)
        return Path(download_pretrained_from_url(tag["url"], cache_dir=str(cached.parent)))


def is_offline() -> bool:
    """Whether the variable HF_HUB_OFFLINE was set when the Hub's client was imported, so that it asks nobody."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def hub_silence(
    repo_id: str, name: str, *, revision: str | None = None, token: str | bool | None = None
) -> Exception | None:
    """Why the Hub gives no answer about a file, within seconds and by one question; None where it does, even if it refuses.

    Args:
        repo_id: The repository, "org/repo".
        name: The file in it.
        revision: Branch, tag or commit; None for the main branch.
        token: As in `Download`.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if is_offline():
        return None  # the client knows, and asks nobody
    seconds = _answer_seconds()

    def ask() -> None:
        url = huggingface_hub.hf_hub_url(repo_id, name, revision=revision)
        huggingface_hub.get_hf_file_metadata(url, token=token, timeout=seconds)

    error = _error_within(seconds, ask)
    if isinstance(error, errors.HfHubHTTPError):
        return error if error.response is not None and error.response.status_code >= 500 else None
    return None if isinstance(error, (errors.FileMetadataError, errors.HFValidationError)) else error


def _address_silence(url: str) -> Exception | None:
    """As `hub_silence`, for any address."""
    seconds = _answer_seconds()
    error = _error_within(seconds, lambda: urllib.request.urlopen(_head(url), timeout=seconds).close())
    return None if isinstance(error, urllib.error.HTTPError) and error.code < 500 else error


def _head(url: str) -> urllib.request.Request:
    return urllib.request.Request(url, method="HEAD")


def _answer_seconds() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ANSWER_SECONDS


def _error_within(seconds: float, ask: Callable[[], None]) -> Exception | None:
    """The error of a question, or a TimeoutError: a look-up of a host's name has no limit of its own, so that a thread asks."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            ask()
        # the Hub's client lets through the errors of whichever HTTP library its version stands on
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return TimeoutError(f"none within {seconds:g} s; HF_HUB_ETAG_TIMEOUT sets another limit")
    return errors[0] if errors else None


def _unreachable(silence: Exception) -> ConnectionError:
    reason = f"{type(silence).__name__}: {silence}"
    return ConnectionError(f"no answer from the network ({reason}) and no copy in the cache")


def _alternatives(name: str) -> tuple[str, ...]:
    """A published checkpoint's file and its safetensors counterpart, which comes first where it exists."""
    if name in ("", HUB_WEIGHTS[-1]):
        return HUB_WEIGHTS
    stem, suffix = os.path.splitext(name)
    return (f"{stem}.safetensors", name) if suffix in (".bin", ".pth") else (name,)
