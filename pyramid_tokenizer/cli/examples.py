"""A command line for each command, which its `--help` ends with."""

from __future__ import annotations

EXAMPLES = {
    "encode": "pyramid-tokenizer encode photos --size 256 --quality 0.5 --out tokens",
    "decode": "pyramid-tokenizer decode tokens --levels 2 --out decoded",
    "reconstruct": "pyramid-tokenizer reconstruct photo.jpg --size 256 --out reconstructed",
    "segment": 'pyramid-tokenizer segment photo.jpg --classes "sky,tree,car|automobile" --out masks',
    "classify": 'pyramid-tokenizer classify --tokens photo.tokens --names "dog,cat,bicycle|bike"',
    "info": "pyramid-tokenizer info tiny",
    "train": "pyramid-tokenizer train --images photos --backbone ViT-B-16 --pretrained openai --out my-model",
    "finetune": "pyramid-tokenizer finetune tiny --images photos --out my-tiny",
    "tokenize": "pyramid-tokenizer tokenize --images photos --out tokens --columns label",
    "search": 'pyramid-tokenizer search tokens "a red flower" --sheet found.png',
    "inspect": "pyramid-tokenizer inspect photo.jpg --out inspected",
    "atlas": "pyramid-tokenizer atlas tiny --images photos --out atlas",
    "app": "pyramid-tokenizer app --model tiny --dataset tokens --port 7860",
    "export": "pyramid-tokenizer export tiny --to onnx --out exported",
    "selfcheck": "pyramid-tokenizer selfcheck tiny --device cuda",
    "demo": "pyramid-tokenizer demo --out demo",
    "segmentation": "pyramid-tokenizer evaluate segmentation --data VOC2012 --protocol voc-20",
    "reconstruction": "pyramid-tokenizer evaluate reconstruction --images photos --out report",
    "semantics": "pyramid-tokenizer evaluate semantics --images photos --labels labels.csv --out report",
}
"""By the name of the command, of all groups; `tests/cli/test_help.py` parses each."""
