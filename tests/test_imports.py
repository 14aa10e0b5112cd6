"""What is imported when: libraries that take seconds wait until something needs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# One process for all: each pays for the import of torch.
SCRIPT = """
import sys

def loaded(*names):
    return sorted({*names} & {*sys.modules})

import pyramid_tokenizer
print(loaded("torch", "numpy", "PIL", "open_clip"))

import torch
from pyramid_tokenizer import PyramidTokenizer, Segmenter, ToyBackbone
from pyramid_tokenizer.backbones import OpenClipBackbone, load_backbone
from pyramid_tokenizer.config.models import LevelConfig

tok = PyramidTokenizer.from_backbone("toy", levels=[LevelConfig(stride=8, maps=(2, 3), codebook_size=4, dim=2)])
tok.fit([torch.rand(2, 3, 32, 32)])
Segmenter(tok).segment(tok.encode(torch.rand(3, 32, 32)), ["cat", "dog"])
unused = ["open_clip", "timm", "torchvision", "vector_quantize_pytorch", "accelerate", "datasets", "pyarrow", "skimage", "rich"]
unused += ["tokenizers", "transformers"]
print(loaded("huggingface_hub", *unused))
tok.save_pretrained(sys.argv[1])  # huggingface_hub writes the card
PyramidTokenizer.from_pretrained(sys.argv[1])
print(loaded(*unused))
"""


@pytest.mark.slow
def test_neither_the_package_nor_a_toy_models_whole_life_loads_a_library_it_does_not_use(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[]", "[]", "[]"]


COMMAND = """
import sys
from pyramid_tokenizer.cli import app
try:
    app(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done
assert "torch" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["encode", "--help"], ["info", "x.tokens"], ["info", "sparse.tokens"]])
def test_help_and_what_a_token_file_holds_are_shown_without_torch(words: list[str], tmp_path: Path) -> None:
    golden = REPOSITORY / "tests" / "golden"
    shutil.copy(golden / "tokens_v4.bin", tmp_path / "x.tokens")
    shutil.copy(golden / "tokens_v4_sparse.bin", tmp_path / "sparse.tokens")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", COMMAND, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
