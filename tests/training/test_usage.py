"""Usage while training."""

import pytest
import torch

from pyramid_tokenizer.training.usage import CodebookUsage


def test_a_code_counts_while_even_use_would_have_drawn_it_ten_times():
    usage = CodebookUsage([4, 8])
    for step in range(60):
        coarse = torch.tensor([[step % 2, 0]])  # two of four codes: a window of 20 steps
        fine = torch.tensor([[step % 8, 3, 4, 5]]) if step < 30 else torch.tensor([[7, 7, 7, 7]])
        usage.add(step, [coarse, fine])
        expected = {}
        if step >= 19:
            expected |= {"usage@0": 0.5, "usage@1": 1.0 if step < 30 else None}
        shares = usage.shares(step)
        assert set(shares) == set(expected)
        if expected:
            assert shares["usage@0"] == 0.5
            if step < 30:
                assert shares["usage@1"] == 1.0
    assert usage.shares(59)["usage@1"] == pytest.approx(1 / 8)  # the others were last seen 30 steps ago


def test_a_restored_one_goes_on_as_if_it_had_never_stopped():
    first, second = CodebookUsage([4]), CodebookUsage([4])
    for step in range(30):
        first.add(step, [torch.tensor([step % 3])])
    second.load_state(first.state())
    for usage in (first, second):
        usage.add(30, [torch.tensor([3])])
    assert first.shares(30) == second.shares(30) == {}  # 40 steps are needed
    for step in range(31, 45):
        for usage in (first, second):
            usage.add(step, [torch.tensor([0])])
    assert first.shares(44) == second.shares(44) == {"usage@0": 1.0}
