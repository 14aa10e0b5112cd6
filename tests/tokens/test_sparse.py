"""Token pyramids with absent cells: what is derived from the ids, what is refused, and what is said about them."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from pyramid_tokenizer.errors import TokenRangeError
from pyramid_tokenizer.tokens.health import measure_health
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from pyramid_tokenizer.tokens.trusted import trusted_pyramid
from pyramid_tokenizer.tokens.wrapping import pyramid_of_ids
from tests.operations import WAITS, operations
from tests.tokens.pyramids import FIELDS, make, make_sparse, pyramids, same


def full_twin(tokens: TokenPyramid) -> TokenPyramid:
    return dataclasses.replace(tokens, ids=tuple(x.clamp(min=0) for x in tokens.ids))


def root_only(tokens: TokenPyramid) -> TokenPyramid:
    return dataclasses.replace(tokens, ids=(tokens.ids[0], *(torch.full_like(x, -1) for x in tokens.ids[1:])))


def test_presence_follows_from_the_ids_and_full_levels_have_no_mask():
    tokens = make_sparse()
    assert tokens.is_sparse
    assert tokens.present[0] is None
    assert [mask.dtype for mask in tokens.present[1:]] == [torch.bool] * 2
    assert tokens.present[1].int().tolist() == [[[0, 0, 1, 1]] * 2, [[1] * 4] * 2]
    assert tokens.present[2][0].int().tolist() == [[0] * 6 + [1] * 2] * 2 + [[0] * 8] * 2
    assert [x.tolist() for x in tokens.numpy()] == [x.tolist() for x in tokens.ids]
    assert tokens.numpy()[1][0, 0, 0] == -1
    for full in (make(), full_twin(tokens), tokens[:1]):
        assert full.present == (None,) * len(full)
        assert not full.is_sparse


def test_sizes_count_what_is_present_and_one_bit_per_split():
    tokens = make_sparse()
    full, log17 = 2 * 2 + 8 * math.log2(17) + 32 * 6, math.log2(17)
    sparse = 2 * 2 + 4 * log17 + 4 * 6 + 2 + 4  # two cells of level 0 and four of level 1 may be split
    assert len(tokens) == 3
    assert tokens.token_counts.tolist() == [2 + 4 + 4, 2 + 8 + 32]
    assert tokens.token_counts.dtype == torch.int64
    assert [x.num_tokens for x in (tokens, *tokens.unbind())] == [42, 10, 42]
    assert tokens.bits_per_pixel == pytest.approx((full + sparse) / 2 / 1800, rel=1e-12)
    assert tokens.unbind()[0].bits_per_pixel == pytest.approx(sparse / 1800, rel=1e-12)
    assert make().token_counts.tolist() == [10, 10]
    root = root_only(tokens)
    assert root.token_counts.tolist() == [2, 2]
    assert root.bits_per_pixel == pytest.approx((2 * 2 + 2) / 1800, rel=1e-12)


@given(pyramids())
def test_the_rate_of_a_batch_is_the_mean_of_its_images_and_that_of_a_slow_count(tokens):
    rates = []
    for single in tokens.unbind():
        bits, previous = sum(map(math.log2, single.image_codebook_sizes)), 0
        for ids, k in zip(single.ids, single.codebook_sizes, strict=True):
            present = sum(i >= 0 for i in ids.flatten().tolist())
            bits += present * math.log2(k) + (previous if present < ids.numel() else 0)
            previous = present
        rates.append(bits / math.prod(tokens.image_size))
    assert [x.bits_per_pixel for x in tokens.unbind()] == pytest.approx(rates)
    assert tokens.bits_per_pixel == pytest.approx(sum(rates) / len(rates))
    assert tokens.num_tokens == max(x.num_tokens for x in tokens.unbind())


def test_printing_tells_the_share_of_cells_that_are_present():
    levels = "3 levels: 1x2 of 4, 2x4 of 17 (75 % present), 4x8 of 64 (56.2 % present)"
    assert levels in repr(make_sparse())
    assert "2x4 of 17 (50 % present)" in repr(make_sparse().unbind()[0])
    assert "present" not in repr(full_twin(make_sparse()))


def accepted_by_hand(grids: list[np.ndarray]) -> bool:
    """Cell by cell: all children of a present cell are alike, and those of an absent one are absent."""
    for coarse, fine in itertools.pairwise(grids):
        ratio = fine.shape[1] // coarse.shape[1]
        for image, y, x in np.ndindex(coarse.shape):
            block = slice(y * ratio, (y + 1) * ratio), slice(x * ratio, (x + 1) * ratio)
            children = set((fine[image][block] >= 0).flatten().tolist())
            if len(children) > 1 or (coarse[image, y, x] < 0 and children != {False}):
                return False
    return True


@given(pyramids(), st.data())
def test_absent_cells_are_accepted_if_they_are_a_tree_of_splits(tokens, data):
    ids = [x.clone() for x in tokens.ids]
    for _ in range(data.draw(st.integers(1, 2))):
        level = ids[data.draw(st.integers(min(1, len(ids) - 1), len(ids) - 1))]
        level.view(-1)[data.draw(st.integers(0, level.numel() - 1))] = data.draw(st.sampled_from([-1, 1]))
    if accepted_by_hand([x.numpy() for x in ids]) and int(ids[0].min()) >= 0:
        assert [x.tolist() for x in dataclasses.replace(tokens, ids=ids).ids] == [x.tolist() for x in ids]
    else:
        with pytest.raises(TokenRangeError):
            dataclasses.replace(tokens, ids=ids)


def altered(level: int, place: tuple[int, ...], value: int) -> tuple[torch.Tensor, ...]:
    ids = tuple(x.clone() for x in make_sparse().ids)
    ids[level][place] = value
    return ids


@pytest.mark.parametrize(
    ("level", "place", "value", "facts"),
    [
        (0, (0, 0, 0), -1, ["level 0 in [0, 4), got -1", "level 0 has no absent cells"]),
        (1, (1, 0, 0), -2, ["level 1 in [0, 17), got -2", "-1 stands for an absent cell"]),
        (1, (0, 1, 1), 3, ["2x2 cells of level 1", "cell (0, 0) of level 0 in image 0", "some of each"]),
        (1, (1, 1, 2), -1, ["cell (0, 1) of level 0 in image 1", "some of each"]),
        (2, (1, 3, 5), -1, ["cell (1, 2) of level 1 in image 1", "some of each"]),
        (2, (0, slice(2, 4), slice(2, 4)), 7, ["of level 2", "absent cell (1, 1) of level 1 in image 0", "got ids"]),
        (1, (1, slice(0, 2), slice(0, 2)), -1, ["of level 2", "absent cell (0, 0) of level 1 in image 1", "got ids"]),
    ],
)
def test_absent_cells_that_are_no_tree_are_named_with_their_level_and_place(level, place, value, facts):
    with pytest.raises(TokenRangeError) as caught:
        make_sparse(ids=altered(level, place, value))
    assert all(fact in str(caught.value) for fact in facts), caught.value


def test_a_full_level_below_a_sparse_one_is_refused():
    ids = make_sparse().ids
    with pytest.raises(TokenRangeError, match=r"level 2 below the absent cell \(0, 0\) of level 1 in image 0"):
        make_sparse(ids=(*ids[:2], ids[2].clamp(min=0)))


def test_parts_of_a_sparse_batch_are_made_without_looking_at_it():
    """On a GPU, looking would make the CPU wait."""
    tokens = make_sparse()
    with operations() as counts:
        parts = [tokens[:2], tokens.to("cpu"), *tokens.unbind()]
        TokenPyramid.cat([tokens, parts[-1]])
    assert not {WAITS, "nonzero", "masked_select", "any", "all"} & set(counts)
    starts = [[None if mask is None else mask.data_ptr() for mask in part.present] for part in parts]
    whole = [mask.data_ptr() for mask in tokens.present[1:]]
    assert starts == [[None, whole[0]], [None, *whole], [None, *whole], [None, whole[0] + 8, whole[1] + 32]]
    assert parts[-1].is_sparse  # nobody has looked


def test_a_full_image_of_a_sparse_batch_is_like_one_that_never_was_in_it():
    single = make_sparse().unbind()[1]
    alone = full_twin(make_sparse()).unbind()[1]
    assert single.is_sparse and not alone.is_sparse
    assert single == alone
    assert single.to_bytes() == alone.to_bytes()
    assert repr(single) == repr(alone)
    assert single.bits_per_pixel == pytest.approx(alone.bits_per_pixel, rel=1e-12)
    assert single.num_tokens == alone.num_tokens
    assert not pickle.loads(pickle.dumps(single)).is_sparse


def test_sparse_and_full_images_are_joined_and_masks_made_only_where_one_has_them():
    tokens = make_sparse()
    full, middle = full_twin(tokens), make_sparse(ids=(*full_twin(tokens).ids[:2], tokens.ids[2]))
    assert middle.present[1] is None
    for join in (TokenPyramid.cat, default_collate):
        joined = join([full, tokens, full])
        assert same(TokenPyramid.cat(joined.unbind()), joined)
        assert [x.tolist() for x in joined.unbind()[2].ids] == [x.tolist() for x in tokens.unbind()[0].ids]
        assert joined.token_counts.tolist() == [42, 42, 10, 42, 42, 42]
        assert join([full, middle]).present[1] is None
        assert join([full, full]).present == (None,) * 3


def test_pinning_pins_ids_and_masks(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x.clone())
    tokens = make_sparse()
    assert same(tokens.pin_memory(), tokens)
    assert [x.data_ptr() for x in pinned] == [
        x.data_ptr() for x in (*tokens.present[1:], *tokens.ids, tokens.image_ids)
    ]


def test_a_pickle_with_absent_cells_that_are_no_tree_is_refused():
    def through_torch(content):
        file = io.BytesIO()
        torch.save(content, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    tokens = make_sparse()
    assert same(through_torch(tokens), tokens)
    forged = copy.copy(tokens)
    object.__setattr__(forged, "ids", altered(1, (1, 1, 2), -1))
    with pytest.raises(TokenRangeError, match="some of each"):
        through_torch(forged)


def test_a_trusted_pyramid_takes_masks_and_none_for_a_full_one():
    tokens = make_sparse()
    fields = {name: getattr(tokens, name) for name in ("codebook_sizes", "image_size", "fingerprint", "precision")}
    assert same(trusted_pyramid(ids=tokens.ids, present=list(tokens.present), **fields), tokens)
    full = full_twin(tokens)
    assert same(trusted_pyramid(ids=full.ids, **fields), full)
    masked = trusted_pyramid(ids=full.ids, present=[None, *(x >= 0 for x in full.ids[1:])], **fields)
    assert masked == full
    assert masked.to_bytes() == full.to_bytes()
    assert repr(masked) == repr(full)


def test_presence_cannot_be_given_from_outside():
    with pytest.raises(TypeError, match="present"):
        TokenPyramid(**FIELDS, present=(None, None))


def test_ids_without_the_rest_may_have_absent_cells_too():
    tokens = make_sparse()
    kind = {"strides": (32, 16, 8), "fingerprint": tokens.fingerprint, "codebook_sizes": tokens.codebook_sizes}
    assert pyramid_of_ids([x.tolist() for x in tokens.ids], image_size=(30, 60), **kind) == tokens
    with pytest.raises(TokenRangeError, match="some of each"):
        pyramid_of_ids(altered(1, (1, 1, 2), -1), image_size=(30, 60), **kind)


def test_health_counts_present_tokens_alone():
    tokens = make_sparse()
    for pyramid in (tokens, tokens.unbind(), full_twin(tokens), root_only(tokens)):
        measured = measure_health(pyramid)
        singles = pyramid if isinstance(pyramid, list) else [pyramid]
        for level, health in enumerate(measured.levels):
            ids = [i for single in singles for i in single.ids[level].flatten().tolist() if i >= 0]
            assert health.counts.tolist() == [ids.count(i) for i in range(tokens.codebook_sizes[level])]
    assert [level.num_tokens for level in measured.levels] == [4, 0, 0]
    assert measured.levels[2].verdict == "too few tokens to tell"
    assert "nan" not in str(measured)


@pytest.mark.gpu
def test_sparse_tokens_on_a_gpu_are_the_same():
    tokens = make_sparse()
    there = tokens.to("cuda")
    assert [mask.device.type for mask in there.present[1:]] == ["cuda", "cuda"]
    assert there == tokens
    assert there.to_bytes() == tokens.to_bytes()
    assert repr(there) == repr(tokens)
    assert there.bits_per_pixel == tokens.bits_per_pixel
    assert there.token_counts.tolist() == tokens.token_counts.tolist()
    assert dataclasses.replace(tokens, ids=there.ids).present[1].device.type == "cuda"
    assert measure_health(there).levels[1].counts.tolist() == measure_health(tokens).levels[1].counts.tolist()
    torch.cuda.set_sync_debug_mode("error")
    try:
        TokenPyramid.cat([there, *there[:3].unbind()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
