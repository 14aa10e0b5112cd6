"""Two processes train one model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pyramid_tokenizer import PyramidTokenizer

SCRIPT = """
import os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from pyramid_tokenizer import PyramidTokenizer
from pyramid_tokenizer.config import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.training import TrainConfig, train

torch.set_num_threads(1)
photos, out = (Path(argument) for argument in sys.argv[1:])
levels = (
    LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4, distance="cosine", semantic_weight=0.5),
    LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4),
)
tok = PyramidTokenizer.from_config(
    TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(levels=levels),
        decoder=DecoderConfig(widths=(8, 8), depths=(1, 1), pixel_widths=(8,), pixel_depth=1),
    )
)
config = TrainConfig(
    codebook_steps=6, decoder_steps=6, batch_size=4, crop_px=32, level_dropout=0.5, log_every=3, save_every=4
)
train(tok, sorted(photos.iterdir()), out=out, config=config)
save_file(tok.own_tensors(), out / f"rank{os.environ['RANK']}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_end_with_one_model_and_one_log(photos, tmp_path, smooth):
    (tmp_path / "run.py").write_text(SCRIPT)
    repository = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*torchrun, tmp_path / "run.py", photos[0].parent, tmp_path / "model"],
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert lines == [
        *(["fit", f"{level}/2"] for level in (1, 2)),
        *(["codebooks", f"{step}/6"] for step in (3, 6)),
        *(["decoder", f"{step}/6"] for step in (3, 6)),
    ]
    first, second = (load_file(tmp_path / "model" / f"rank{rank}.safetensors") for rank in (0, 1))
    loaded = PyramidTokenizer.from_pretrained(tmp_path / "model")
    for name, tensor in loaded.own_tensors().items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], tensor), name
    assert loaded.reconstruct(smooth(1)).shape == (1, 3, 64, 64)
