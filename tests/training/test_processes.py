"""Two processes train one model, and it is the one that a single process trains with twice the batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import TrainConfig, train

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.training import TrainConfig, train

torch.set_num_threads(1)
start, photos, out, settings = (json.loads(argument) for argument in sys.argv[1:])
tok = PyramidTokenizer.from_pretrained(start)
train(tok, photos, out=out, config=TrainConfig(**settings))
save_file(tok.own_tensors(), Path(out) / f"rank{os.environ['RANK']}.safetensors")
"""
SETTINGS = {"codebooks": "continue", "codebook_steps": 6, "decoder_steps": 6, "crop_px": 32, "level_dropout": 0.5}
SETTINGS |= {"log_every": 3, "save_every": 4, "warmup_steps": 2, "fit_images": 16}


@pytest.fixture(scope="module")
def start(tmp_path_factory, toy_tokenizer):
    return toy_tokenizer.save_pretrained(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def pair(start, photos, tmp_path_factory):
    """The folder that two processes of batch 4 made, and what they printed."""
    import json

    folder = tmp_path_factory.mktemp("pair")
    (folder / "run.py").write_text(SCRIPT)
    repository = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = str(start), str(photos[0].parent), str(folder / "model"), SETTINGS | {"batch_size": 4}
    result = subprocess.run(
        [*torchrun, folder / "run.py", *map(json.dumps, arguments)],
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "model", result.stdout


@pytest.mark.slow
def test_two_processes_end_with_one_model_and_one_log(pair, smooth):
    folder, printed = pair
    lines = [line.split()[:2] for line in printed.splitlines()]
    assert lines == [
        *(["codebooks", f"{step}/6"] for step in (3, 6)),
        *(["refit", f"{level}/3"] for level in (1, 2, 3)),
        *(["decoder", f"{step}/6"] for step in (3, 6)),
    ]
    first, second = (load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1))
    loaded = PyramidTokenizer.from_pretrained(folder)
    for name, tensor in loaded.own_tensors().items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], tensor), name
    assert loaded.reconstruct(smooth(1)).shape == (1, 3, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("split", [{"batch_size": 8}, {"batch_size": 4, "accumulate": 2}])
def test_they_match_one_process_that_sees_the_same_crops(pair, start, photos, split):
    folder, _ = pair
    alone = train(
        PyramidTokenizer.from_pretrained(start),
        photos,
        config=TrainConfig(**SETTINGS | split),
        log=lambda figures: None,
    )
    before = PyramidTokenizer.from_pretrained(start).own_tensors()
    both = load_file(folder / "rank0.safetensors")
    for name, tensor in alone.own_tensors().items():
        moved = (tensor - before[name]).abs().max()
        assert (tensor - both[name]).abs().max() <= 1e-4 + 0.02 * moved, name
