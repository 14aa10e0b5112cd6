"""Targets of the text encoder: one fixed shared space made of a sentence encoder and of CLIP's own text embeddings.

The sentence encoder reads any text; CLIP's embeddings, known for 1,612 names only, say which names *look* alike. A ridge
regression carries CLIP's structure over to every sentence embedding; the shared space is the first principal components
of both side by side. Each kind of text is centred by its own mean, which removes its style and spreads the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from common import MODEL_CONFIG
from sentence_encoder import embed_sentences
from texts import all_names, bpe_words, clip_names, is_held_out, is_kept_out, training_captions, word_groups

GROUPS = 60_000
KINDS = ("name", "word", "caption", "group")
TARGETS = f"text_targets_{MODEL_CONFIG['embed_dim']}.npz"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)


class SharedSpace:
    """Sentence embeddings -> the CLIP's shared space; fitted on the names that are not held out."""

    def __init__(self, mean: dict[str, np.ndarray], ridge: np.ndarray, components: np.ndarray):
        self.mean, self.ridge, self.components = mean, ridge, components

    @classmethod
    def fit(cls, sentences: np.ndarray, clip: np.ndarray, means: dict[str, np.ndarray]) -> SharedSpace:
        """From matching rows of `sentences` (N, 384) and CLIP's embeddings `clip` (N, 512) of the same names."""
        centred = sentences - means["name"]
        gram = centred.T @ centred + np.eye(centred.shape[1], dtype=centred.dtype)
        ridge = np.linalg.solve(gram, centred.T @ (clip - clip.mean(0)))
        both = np.concatenate([unit(centred), unit(centred @ ridge)], 1)
        _, _, components = np.linalg.svd(both, full_matrices=False)
        return cls(means, ridge, components[: MODEL_CONFIG["embed_dim"]].T)

    def __call__(self, sentences: np.ndarray, kind: str) -> np.ndarray:
        """(N, 384) -> (N, D) unit rows, float32."""
        centred = sentences - self.mean[kind]
        both = np.concatenate([unit(centred), unit(centred @ self.ridge)], 1)
        return unit(both @ self.components).astype(np.float32)


def training_texts(data: Path) -> dict[str, list[str]]:
    """Texts by kind.

    Held-out names and words stand only inside captions and groups; kept-out names are read by themselves, as any English
    word must be, but never in captions or groups.
    """
    names, words = all_names(data), bpe_words(data)
    groups = word_groups(
        [name for name in names if not is_kept_out(name)], [word for word in words if not is_kept_out(word)], GROUPS
    )
    return {
        "name": names,
        "word": [word for word in words if not is_held_out(word)],
        "caption": training_captions(data),
        "group": groups,
    }


def make_text_targets(data: Path, cache: Path) -> None:
    """Writes texts.json and `TARGETS` (one (N, D) fp16 array a kind) into `cache`, once."""
    if (cache / TARGETS).exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    texts = training_texts(data)
    sentences = {kind: embed_sentences(texts[kind]) for kind in KINDS}
    means = {kind: sentences["name" if kind == "word" else kind].mean(0) for kind in KINDS}
    rows = {name: i for i, name in enumerate(texts["name"])}
    clip: dict[str, np.ndarray] = {}
    stored = np.load(data / "weights" / "clip_text_embeddings.npz")
    for key, names in clip_names(data, "vitb32").items():
        for name, row in zip(names, stored[key].astype(np.float32), strict=True):
            clip.setdefault(name, row)
    known = [name for name in clip if not is_held_out(name)]
    space = SharedSpace.fit(sentences["name"][[rows[n] for n in known]], np.stack([clip[n] for n in known]), means)
    np.savez(cache / "sentences.npz", **{kind: value.astype(np.float16) for kind, value in sentences.items()})
    (cache / "texts.json").write_text(json.dumps(texts))
    targets = {kind: space(sentences[kind], kind).astype(np.float16) for kind in KINDS}
    with open(cache / f"{TARGETS}.part", "wb") as file:
        np.savez(file, **targets)
    (cache / f"{TARGETS}.part").rename(cache / TARGETS)
