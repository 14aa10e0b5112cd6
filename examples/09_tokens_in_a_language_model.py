"""Put images among the texts of a language model: a batch for captioning, and one for generation.

    python examples/09_tokens_in_a_language_model.py --images photos/ --tokenizer tokenizer.json

The names of the files are the captions. Without --tokenizer, one id stands for one byte. It prints the two batches, and writes
made.png: what a model that knows nothing generates if it may only write what is allowed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.text import LanguageModelState


def bytes_tokenizer() -> Tokenizer:
    alphabet = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    text = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    text.pre_tokenizer, text.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--tokenizer", help="a tokenizer.json (default: one id per byte)")
    parser.add_argument("--size", type=int, default=128, help="short side in pixels (default: %(default)s)")
    args = parser.parse_args(argv)
    tok = PyramidTokenizer.from_pretrained("tiny")
    lm = tok.to_language_model(Tokenizer.from_file(args.tokenizer) if args.tokenizer else bytes_tokenizer())
    print(f"{lm.base_size} ids of text, then images: model.resize_token_embeddings({lm.size})")
    pairs = [(file.stem, tok.encode(file, size=args.size)) for file in sorted(args.images.iterdir())[:4]]
    for name, given, learned in (("captioning", 1, 0), ("generation", 0, 1)):
        parts = [[torch.tensor(lm.encode([pair[i]])) for i in (given, learned)] for pair in pairs]
        input_ids = pad_sequence([torch.cat(row) for row in parts], batch_first=True, padding_value=0)
        labels = [torch.cat([torch.full_like(a, -100), b]) for a, b in parts]  # -100: given, and not learned
        labels = pad_sequence(labels, batch_first=True, padding_value=-100)
        print(f"{name}: input_ids {tuple(input_ids.shape)}, of which {int((labels != -100).sum())} are learned")

    sequence = [*lm.encode([pairs[0][0]]), lm.begin]
    state = LanguageModelState(lm, image_size=(args.size, args.size), levels=2)
    state.extend(sequence)
    while state.is_inside:
        logits, allowed = torch.randn(lm.size), state.allowed()  # your model's logits, for `sequence`
        sequence.append(int(allowed[logits[allowed].argmax()]))
        state.append(sequence[-1])
    text, made = lm.decode(sequence)
    to_pil(tok.decode(made))[0].save("made.png")
    print(f"made.png: {text!r} and an image of {made.num_tokens} tokens")


if __name__ == "__main__":
    main()
