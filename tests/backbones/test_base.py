"""The fingerprint's definition and the check of block indices."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import torch

from pyramid_tokenizer.backbones.base import compute_fingerprint, resolve_blocks
from pyramid_tokenizer.errors import ConfigError


def test_the_fingerprint_hashes_names_shapes_little_endian_float32_and_facts_in_order() -> None:
    state = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(3, dtype=torch.int64)}
    expected = hashlib.sha256()
    expected.update(b"a()" + struct.pack("<f", 3.0))
    expected.update(b"b(1, 2)" + struct.pack("<2f", 1.5, -2.0))
    expected.update(json.dumps({"blocks": [1, 2], "mean": [0.5]}).encode())
    assert compute_fingerprint(state, mean=(0.5,), blocks=(1, 2)) == expected.hexdigest()


def test_the_fingerprint_does_not_see_layout_order_or_batch_counters() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    same = weight.to(memory_format=torch.channels_last)
    counted = {"bn.num_batches_tracked": torch.tensor(7), "w": same}
    assert compute_fingerprint(counted) == compute_fingerprint({"w": weight})
    assert compute_fingerprint({"w": weight, "v": weight}) == compute_fingerprint({"v": weight, "w": weight})


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.arange(6.0).reshape(3, 2)},
        {"v": torch.arange(6.0).reshape(2, 3)},
        {"w": torch.arange(6.0).reshape(2, 3) + 2.0**-20},
        {"w": torch.arange(6.0).reshape(2, 3), "v": torch.zeros(0)},
    ],
)
def test_another_shape_name_value_or_tensor_is_another_fingerprint(other: dict[str, torch.Tensor]) -> None:
    assert compute_fingerprint(other) != compute_fingerprint({"w": torch.arange(6.0).reshape(2, 3)})


def test_no_blocks_means_the_preset_and_negative_ones_count_from_the_end() -> None:
    assert resolve_blocks((), preset=(2, 5), count=6) == (2, 5)
    assert resolve_blocks((-6, 1, -1), preset=(2, 5), count=6) == (0, 1, 5)


@pytest.mark.parametrize("blocks", [(6,), (-7,), (-1, 5), (-1, 0)])
def test_blocks_that_do_not_exist_repeat_or_run_backwards_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"increasing indices below 6.*preset \(2, 5\)"):
        resolve_blocks(blocks, preset=(2, 5), count=6)
