"""`Download`: the files of published backbones, from the caches or from the network, as the caller allows."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUB_CONFIG = "open_clip_config.json"
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the weights in a Hub repository of open_clip's layout, the preferred one first."""


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
        """The first of some files that a Hub repository has.

        Raises:
            Exception: The error of the Hub's client for the last name, where no file can be had.
        """
        from huggingface_hub import hf_hub_download

        options = {"token": self.token, "cache_dir": self.cache_dir, "local_files_only": self.local_files_only}
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
        return Path(download_pretrained_from_url(tag["url"], cache_dir=str(cached.parent)))


def _alternatives(name: str) -> tuple[str, ...]:
    """A published checkpoint's file and its safetensors counterpart, which comes first where it exists."""
    if name in ("", HUB_WEIGHTS[-1]):
        return HUB_WEIGHTS
    stem, suffix = os.path.splitext(name)
    return (f"{stem}.safetensors", name) if suffix in (".bin", ".pth") else (name,)
