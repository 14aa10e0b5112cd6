"""Trains the text encoder of the bundled CLIP: any English words -> the shared space of text_teachers.py.

    python examples/research/train_tiny/train_text.py --data DATA --cache build/parts/cache --out build/parts/text

The CLIP is written to `clip` in --out; its backbone is still random, and train_image.py trains it. Stop it at any time; the same
command resumes to the same weights. About 20 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from common import MODEL_CONFIG, build_clip, export_clip, learning_rate, load_checkpoint, save_checkpoint
from open_clip.model import CLIP
from text_teachers import KINDS, TARGETS, make_text_targets, unit
from texts import PROMPTS, is_held_out
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SHARES = {"name": 0.25, "word": 0.2, "caption": 0.3, "group": 0.25}
TEMPERATURE = 0.05


def encode_tokens(model: CLIP, tokens: Tensor, *, parts: int = 1) -> Tensor:
    """`model.encode_text` for (N, 32) tokens, in parts of like length, each computed only up to its longest. (N, D)."""
    lengths = tokens.argmax(1) + 1  # the end token has the largest id
    embedded = model.token_embedding(tokens[:, : int(lengths.max())])
    order = lengths.argsort()
    rows = [_encode_part(model, embedded[part], lengths[part]) for part in order.tensor_split(parts)]
    return torch.cat(rows)[order.argsort()]


def _encode_part(model: CLIP, embedded: Tensor, lengths: Tensor) -> Tensor:
    longest = int(lengths.max())
    x = embedded[:, :longest] + model.positional_embedding[:longest]
    with sdpa_kernel(SDPBackend.MATH):  # the fused backward pass is slower on CPUs at these lengths
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:longest, :longest]))
    return x[torch.arange(len(x)), lengths - 1] @ model.text_projection


def text_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Cosine distance, and the divergence between the batch's similarity structure and the targets' own. (N, D) each."""
    embeddings = F.normalize(embeddings.float(), dim=-1)
    wanted = (targets @ targets.T / TEMPERATURE).softmax(1)
    logits = embeddings @ targets.T / TEMPERATURE
    structure = F.kl_div(logits.log_softmax(1), wanted, reduction="batchmean")
    return (1 - (embeddings * targets).sum(1)).mean() + 0.3 * structure


class TextBatches:
    """Tokens and targets of step s, by s alone."""

    def __init__(self, cache: Path, batch: int):
        texts = json.loads((cache / "texts.json").read_text())
        stored = np.load(cache / TARGETS)
        tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
        self.tokens: dict[str, list[Tensor]] = {}
        self.targets: dict[str, Tensor] = {}
        self.batch = batch
        for kind in KINDS:
            rows = [i for i, text in enumerate(texts[kind]) if kind not in ("name", "word") or not is_held_out(text)]
            self.targets[kind] = torch.from_numpy(stored[kind][rows].astype(np.float32))
            templates = PROMPTS if kind == "name" else ("{}",)
            self.tokens[kind] = [tokenizer([t.format(texts[kind][i]) for i in rows]).int() for t in templates]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((11, step))
        tokens, targets = [], []
        for kind, share in SHARES.items():
            rows = rng.integers(0, len(self.targets[kind]), round(self.batch * share))
            template = rng.integers(0, len(self.tokens[kind]), len(rows))
            tokens.append(torch.stack([self.tokens[kind][t][r] for t, r in zip(template, rows, strict=True)]))
            targets.append(self.targets[kind][torch.from_numpy(rows)])
        return torch.cat(tokens).long(), torch.cat(targets)


def start_embeddings(model: CLIP, batches: TextBatches) -> None:
    """Gives each whole word's row of the token table the leading components of its target."""
    tokens, targets = batches.tokens["word"][0], batches.targets["word"]
    whole = tokens[:, 3] == 0  # start, one piece, end
    _, _, components = torch.linalg.svd(targets[whole].T @ targets[whole])
    rows = targets[whole] @ components[: model.token_embedding.embedding_dim].T
    with torch.no_grad():
        model.token_embedding.weight[tokens[whole, 1].long()] = 0.05 * rows / rows.std()


def text_parameters(model: CLIP) -> dict[str, Tensor]:
    """The text encoder's own tensors by name."""
    return {name: p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_scale"))}


def neighbour_ranks(teacher: np.ndarray, student: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """Where the student ranks each held-out name's nearest neighbour of the teacher: mean and median, as shares of all."""
    teacher, student = unit(teacher - teacher.mean(0)), unit(student)
    truth, seen = teacher @ teacher.T, student @ student.T
    np.fill_diagonal(truth, -2)
    np.fill_diagonal(seen, -2)
    nearest = seen[np.arange(len(seen)), truth.argmax(1)]
    ranks = (seen > nearest[:, None]).sum(1)[held_out] + 1
    return float(ranks.mean() / len(seen)), float(np.median(ranks) / len(seen))


@torch.no_grad()
def encode(model: CLIP, texts: list[str], *, templates: Sequence[str] = PROMPTS) -> np.ndarray:
    """(N, D) unit rows, each text by the average of its prompts."""
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    total = torch.zeros(len(texts), MODEL_CONFIG["embed_dim"])
    for template in templates:
        tokens = tokenizer([template.format(text) for text in texts]).to(model.text_projection.device)
        total += torch.cat([F.normalize(encode_tokens(model, part), dim=-1).cpu() for part in tokens.split(512)])
    return F.normalize(total, dim=-1).numpy()


def report(model: CLIP, cache: Path) -> str:
    """Ranks of the sentence encoder's neighbours among all names, for the held-out names."""
    names = json.loads((cache / "texts.json").read_text())["name"]
    held_out = np.array([is_held_out(name) for name in names])
    student = encode(model, names)
    sentences = np.load(cache / "sentences.npz")["name"].astype(np.float32)
    mean, median = neighbour_ranks(sentences, student, held_out)
    return f"held-out names: neighbour at mean {mean:.2%} median {median:.2%} of {len(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the research data with weights/ and captions/")
    parser.add_argument("--cache", type=Path, required=True, help="where teachers' outputs are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    make_text_targets(args.data, args.cache)
    batches = TextBatches(args.cache, args.batch)
    model = build_clip()
    start_embeddings(model, batches)
    device = torch.device(args.device)
    model.to(device)
    parameters = text_parameters(model)
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    checkpoint = args.out / "checkpoint.pt"
    start = 0
    if (saved := load_checkpoint(checkpoint, args.device)) is not None:
        model.load_state_dict(saved["text"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
        print(f"resumed at step {start}", flush=True)
    began = time.time()
    for step in range(start, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=args.lr, steps=args.steps)
        tokens, targets = (part.to(device) for part in batches(step))
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = encode_tokens(model, tokens, parts=6)
        loss = text_loss(embeddings, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            rate = (step + 1 - start) * args.batch / (time.time() - began)
            print(f"step {step + 1} {rate:.0f} texts/s loss {loss.item():.4f}", flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            text = {name: p.detach() for name, p in parameters.items()}
            save_checkpoint({"text": text, "optimizer": optimizer.state_dict(), "step": step + 1}, checkpoint)
            print(report(model, args.cache), flush=True)
    export_clip(model, args.out / "clip")


if __name__ == "__main__":
    main()
