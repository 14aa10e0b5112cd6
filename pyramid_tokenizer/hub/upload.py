"""Uploading a model directory to the Hugging Face Hub."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyramid_tokenizer.errors import HubError
from pyramid_tokenizer.hub.card import add_to_card
from pyramid_tokenizer.hub.directory import read_config
from pyramid_tokenizer.hub.resolve import MODEL_FILES


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
        ModelNotFoundError: `directory` holds no model.
        HubError: The Hub cannot be reached or refuses the upload.
    """
    import huggingface_hub

    directory = Path(directory).expanduser()
    read_config(directory)
    # spelled out, because a pattern's * also matches "/" there: "backbone/*.json" would send those of every subfolder
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


def push_saved(
    save: Callable[[Path], Path],
    repo_id: str,
    *,
    license: str | None = None,
    license_name: str | None = None,
    datasets: Sequence[str] = (),
    **options: Any,
) -> str:
    """Saves a model into a temporary folder and uploads it; returns the address of the commit.

    Args:
        save: Writes the model's files into a folder, e.g. `tok.save_pretrained`.
        repo_id: "user/repo"; created if it does not exist.
        license: Terms of the weights, for the card: one of the Hub's words, such as "mit" or "other".
        license_name: Their name, beside license="other".
        datasets: What the model was trained on, for the card.
        options: As `push` takes them, which also lists the errors.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = save(Path(folder))
        header = {"license": license, "license_name": license_name, "datasets": list(datasets) or None}
        card = add_to_card((saved / "README.md").read_text(encoding="utf-8"), repo_id=repo_id, **header)
        (saved / "README.md").write_text(card, encoding="utf-8")
        return push(saved, repo_id, **options)
