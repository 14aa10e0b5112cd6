"""Token pyramids in memory: parts, joins, copies, comparisons and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import math
import pickle

import pytest
import torch
from hypothesis import given
from torch.utils.data import DataLoader, default_collate

from pyramid_tokenizer.errors import (
    PyramidTokenizerError,
    TokenError,
    TokenMismatchError,
    TokenRangeError,
)
from pyramid_tokenizer.tokens.pyramid import TokenPyramid
from tests.operations import operations
from tests.tokens.pyramids import FIELDS, PRECISIONS, make, pyramids, same


@given(pyramids())
def test_unbind_and_cat_are_inverse(tokens):
    singles = tokens.unbind()
    assert [p.batch_size for p in singles] == [1] * tokens.batch_size
    for i, single in enumerate(singles):
        assert all(torch.equal(a[0], b[i]) for a, b in zip(single.ids, tokens.ids, strict=True))
    assert same(TokenPyramid.cat(singles), tokens)
    assert same(TokenPyramid.cat(iter([tokens[:1], tokens[:1]]))[:1].unbind()[-1], singles[-1][:1])


@given(pyramids())
def test_a_prefix_equals_a_pyramid_that_never_had_the_finer_levels(tokens):
    for n in range(1, len(tokens) + 1):
        never = TokenPyramid(
            ids=tokens.ids[:n],
            codebook_sizes=tokens.codebook_sizes[:n],
            image_size=tokens.image_size,
            fingerprint=tokens.fingerprint,
            precision=tokens.precision,
            image_ids=tokens.image_ids,
            image_codebook_sizes=tokens.image_codebook_sizes,
        )
        prefix = tokens[:n]
        assert len(prefix) == n
        assert same(prefix, never)
        assert repr(prefix) == repr(never)
        assert prefix.to_bytes() == never.to_bytes()
        assert all(same(prefix[:m], tokens[:m]) for m in range(1, n + 1))


@pytest.mark.parametrize(
    "key", [0, -1, slice(0), slice(3), slice(-1), slice(1, 2), slice(None), slice(None, 2, 2), slice(True), "a", (0, 1)]
)
def test_anything_but_a_prefix_is_refused_with_a_hint(key):
    hint = "all coarser ones" if isinstance(key, slice) else r"tokens\.ids\[level\]"
    with pytest.raises(TokenRangeError, match=hint):
        make()[key]


def test_iterating_over_levels_is_refused_and_not_endless():
    with pytest.raises(TokenRangeError):
        list(make())


def test_zero_may_be_written_as_the_start_of_a_prefix():
    assert same(make()[0:1:1], make()[:1])


def test_numbers_follow_from_grids_and_codebooks():
    tokens = make()
    assert len(tokens) == 2
    assert tokens.batch_size == 2
    assert tokens.grids == ((1, 2), (2, 4))
    assert tokens.num_tokens == 10
    assert tokens.bits_per_pixel == pytest.approx((2 * 2 + 8 * math.log2(17)) / 1800, rel=1e-12)
    assert tokens[:1].bits_per_pixel == 4 / 1800
    assert tokens.device == torch.device("cpu")
    assert repr(tokens) == (
        "TokenPyramid(2 images of 30x60 px, 2 levels: 1x2 of 4, 2x4 of 17, 0.0204 bits per pixel, "
        "fingerprint 0f0f0f0f, precision float32)"
    )
    assert repr(tokens[:1].unbind()[0]) == (
        "TokenPyramid(1 image of 30x60 px, 1 level: 1x2 of 4, 0.00222 bits per pixel, "
        "fingerprint 0f0f0f0f, precision float32)"
    )
    assert repr(make(precision=None)).endswith("precision None)")
    assert "\n" not in repr(tokens) and "tensor" not in repr(tokens)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32])
def test_any_integer_dtype_becomes_int64(dtype):
    tokens = make(ids=tuple(x.to(dtype) for x in FIELDS["ids"]))
    assert [x.dtype for x in tokens.ids] == [torch.int64, torch.int64]
    assert tokens == make()


def test_lists_and_torch_sizes_are_taken_and_kept_as_tuples_of_int():
    size = torch.zeros(30, 60).shape
    tokens = make(ids=list(FIELDS["ids"]), codebook_sizes=[4, torch.tensor(17)], image_size=size)
    assert tokens == make()
    assert [type(x) for x in (tokens.ids, tokens.codebook_sizes, tokens.image_size)] == [tuple, tuple, tuple]
    assert type(tokens.codebook_sizes[1]) is int


def test_tokens_cannot_be_changed_from_outside():
    mine = torch.zeros(1, 2, 2, dtype=torch.int64)
    tokens = TokenPyramid(ids=(mine,), codebook_sizes=(4,), image_size=(2, 2), fingerprint="0" * 64)
    mine.fill_(99)
    assert tokens.ids[0].tolist() == [[[0, 0], [0, 0]]]
    for name in ("ids", "codebook_sizes", "image_size", "fingerprint", "precision", "more"):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
            setattr(tokens, name, ())


def test_strided_ids_and_inference_tensors_are_taken():
    with torch.inference_mode():
        ids = torch.arange(32).reshape(2, 4, 4).transpose(1, 2)
        tokens = TokenPyramid(ids=(ids,), codebook_sizes=(32,), image_size=(8, 8), fingerprint="0" * 64)
    assert tokens.ids[0].is_contiguous()
    assert tokens.ids[0].tolist() == torch.arange(32).reshape(2, 4, 4).transpose(1, 2).tolist()
    assert TokenPyramid.from_bytes(tokens.to_bytes()) == tokens


@pytest.mark.parametrize(
    "make_copy", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy], ids=["pickle", "deepcopy", "copy"]
)
@given(tokens=pyramids())
def test_copies_have_the_same_fields(make_copy, tokens):
    for part in (tokens, tokens[:1], tokens.unbind()[-1]):
        assert same(make_copy(part), part)


def test_the_loader_of_torch_that_runs_no_code_reads_tokens_with_every_check():
    def through_torch(content):
        file = io.BytesIO()
        torch.save(content, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    tokens = make()
    loaded = through_torch({"step": 3, "tokens": [tokens, tokens[:1]]})
    assert same(loaded["tokens"][0], tokens)
    assert same(loaded["tokens"][1], tokens[:1])
    for name, wrong, error in (
        ("ids", (tokens.ids[0] + 1000, *tokens.ids[1:]), TokenRangeError),
        ("image_size", (-3, 5), TokenError),
        ("fingerprint", "x", TokenError),
    ):
        forged = copy.copy(tokens)
        object.__setattr__(forged, name, wrong)
        with pytest.raises(error):
            through_torch(forged)


def test_what_was_taken_from_a_batch_is_pickled_without_the_rest_of_it():
    ids = (torch.zeros(500, 4, 4, dtype=torch.int64), torch.zeros(500, 8, 8, dtype=torch.int64))
    tokens = TokenPyramid(ids=ids, codebook_sizes=(4, 4), image_size=(8, 8), fingerprint="0" * 64)
    coarse, fine = (500 * cells * 8 for cells in (16, 64))
    assert len(pickle.dumps(tokens.unbind()[7])) < 4000
    assert len(pickle.dumps(tokens[:1])) < coarse + 4000 < fine
    single = copy.deepcopy(tokens.unbind()[7])
    assert [x.untyped_storage().nbytes() for x in single.ids] == [16 * 8, 64 * 8]


def test_parts_of_a_pyramid_share_its_memory_and_are_not_checked_again():
    tokens = make()
    with operations() as counts:
        parts = [tokens[:1], tokens.to("cpu"), *tokens.unbind()]
    assert counts == {"slice": 6}
    starts = [[x.data_ptr() for x in part.ids] for part in parts]
    whole = [x.data_ptr() for x in tokens.ids]
    assert starts == [whole[:1], whole, whole, [whole[0] + 2 * 8, whole[1] + 8 * 8]]
    with operations() as counts:
        TokenPyramid.cat([tokens, tokens])
    assert counts == {"cat": 3}


def test_what_comes_from_outside_is_checked_once_per_level():
    data = make().to_bytes()
    for build in (make, functools.partial(TokenPyramid.from_bytes, data)):
        with operations() as counts:
            build()
        assert counts["aminmax"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": (FIELDS["ids"][0] ^ 1, FIELDS["ids"][1])},
        {"ids": (FIELDS["ids"][0], FIELDS["ids"][1].flip(0))},
        {"ids": tuple(x[:1] for x in FIELDS["ids"])},
        {"ids": (FIELDS["ids"][0].transpose(1, 2), FIELDS["ids"][1].transpose(1, 2)), "image_size": (60, 30)},
        {"codebook_sizes": (5, 17)},
        {"codebook_sizes": (4, 16)},
        {"image_size": (30, 59)},
        {"fingerprint": "0e" * 32},
    ],
)
def test_a_difference_in_any_other_field_than_the_precision_makes_tokens_unequal(changes):
    assert make() == make()
    assert make(**changes) != make()


def test_the_precision_tells_how_ids_were_made_and_not_what_they_mean():
    made = [make(precision=precision) for precision in PRECISIONS]
    assert all(tokens == made[0] for tokens in made)
    assert len({tokens.to_bytes() for tokens in made}) == len(PRECISIONS)
    assert [TokenPyramid.from_bytes(tokens.to_bytes()).precision for tokens in made] == PRECISIONS
    assert [tokens[:1].to("cpu").unbind()[0].precision for tokens in made] == PRECISIONS
    assert [TokenPyramid.cat([tokens, tokens]).precision for tokens in made] == PRECISIONS


def test_tokens_equal_nothing_else_and_are_not_hashable():
    assert make() != "tokens"
    assert make() != FIELDS["ids"]
    assert make() != make()[:1]
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ids": ()}, TokenError, "1 to 255 tensors.*got 0 levels"),
        ({"ids": (), "codebook_sizes": ()}, TokenError, "got 0 levels"),
        ({"ids": FIELDS["ids"][0]}, TokenError, "tuple of 1 to 255 tensors.*got Tensor"),
        ({"ids": FIELDS["ids"][:1]}, TokenError, "one for each of 2 codebook_sizes, got 1 levels"),
        ({"ids": ([[[1, 2]]], FIELDS["ids"][1])}, TokenError, "level 0 as an integer tensor, got list"),
        (
            {"ids": tuple(x.float() for x in FIELDS["ids"])},
            TokenError,
            r"level 0 as an integer tensor, got torch\.float",
        ),
        ({"ids": (FIELDS["ids"][0] > 1, FIELDS["ids"][1])}, TokenError, r"got torch\.bool"),
        (
            {"ids": (FIELDS["ids"][0][0], FIELDS["ids"][1])},
            TokenRangeError,
            r"level 0 of shape \(B, h, w\).*got \(1, 2\)",
        ),
        ({"ids": tuple(x[:0] for x in FIELDS["ids"])}, TokenRangeError, r"got \(0, 1, 2\)"),
        (
            {"ids": (FIELDS["ids"][0][:1], FIELDS["ids"][1])},
            TokenError,
            "as many images on one device .*1 on cpu, 2 on",
        ),
        ({"ids": (FIELDS["ids"][0] + 1, FIELDS["ids"][1])}, TokenRangeError, r"level 0 in \[0, 4\), got 4"),
        ({"ids": (FIELDS["ids"][0], FIELDS["ids"][1] * 2)}, TokenRangeError, r"level 1 in \[0, 17\), got 30"),
        ({"ids": (FIELDS["ids"][0], FIELDS["ids"][1] - 3)}, TokenRangeError, r"level 1 in \[0, 17\), got -3"),
        ({"ids": (FIELDS["ids"][0], FIELDS["ids"][1][:, :, :3])}, TokenRangeError, "level 1 .* got 2x3 on 1x2"),
        ({"ids": (FIELDS["ids"][0], FIELDS["ids"][1][:, :1])}, TokenRangeError, "got 1x4 on 1x2"),
        ({"ids": FIELDS["ids"][::-1], "codebook_sizes": (17, 4)}, TokenRangeError, "got 1x2 on 2x4"),
        ({"image_size": (60, 30)}, TokenRangeError, r"some stride maps to grids .*got \(60, 30\)"),
        ({"image_size": (0, 60)}, TokenRangeError, "image_size of 1 or more"),
        ({"image_size": (30, 2**32)}, TokenRangeError, r"below 2\^32"),
        ({"image_size": (30,)}, TokenError, r"as \(height, width\)"),
        ({"image_size": 30}, TokenError, "image_size as a tuple of integers, got 30"),
        ({"image_size": (30.0, 60.0)}, TokenError, "image_size as a tuple of integers"),
        ({"codebook_sizes": (1, 17)}, TokenRangeError, "codebook_sizes of 2 or more"),
        ({"codebook_sizes": (4, 17.0)}, TokenError, "codebook_sizes as a tuple of integers"),
        ({"fingerprint": "abc"}, TokenError, "64 lower-case hexadecimal digits, got 'abc'"),
        ({"fingerprint": "AB" * 32}, TokenError, "64 lower-case"),
        ({"fingerprint": bytes(32)}, TokenError, "64 lower-case"),
        ({"precision": "fp16"}, TokenError, "float32, bfloat16.*got 'fp16'"),
        ({"precision": torch.float32}, TokenError, r"got torch\.float32"),
    ],
)
def test_each_wrong_field_is_named(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        make(**changes)
    assert type(caught.value) is error
    assert isinstance(caught.value, (PyramidTokenizerError, ValueError))


@pytest.mark.parametrize(
    ("grid", "image_size", "possible"),
    [
        ((1, 1), (1, 1), True),
        ((1, 1), (8000, 1), True),
        ((3, 3), (9, 7), True),  # stride 3
        ((3, 3), (9, 6), False),  # height needs a stride of 3 or 4, width one of 2
        ((2, 2), (3, 3), True),  # stride 2
        ((2, 2), (2, 2), True),  # stride 1
        ((2, 2), (1, 1), False),  # a row of cells without a pixel
        ((188, 250), (6000, 8000), True),
        ((188, 250), (8000, 6000), False),
    ],
)
def test_an_image_size_belongs_to_a_grid_if_some_stride_maps_one_to_the_other(grid, image_size, possible):
    fields = {"codebook_sizes": (2,), "image_size": image_size, "fingerprint": "0" * 64}
    h, w = grid
    by_trial = any((-(-image_size[0] // s), -(-image_size[1] // s)) == grid for s in range(1, 8001))
    assert by_trial == possible
    if possible:
        TokenPyramid(ids=(torch.zeros(1, h, w, dtype=torch.int64),), **fields)
    else:
        with pytest.raises(TokenRangeError, match="stride"):
            TokenPyramid(ids=(torch.zeros(1, h, w, dtype=torch.int64),), **fields)


def test_the_stride_of_a_coarse_cell_is_a_multiple_of_the_finer_grid():
    ids = (torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64))
    fields = {"codebook_sizes": (2, 2), "fingerprint": "0" * 64}
    TokenPyramid(ids=ids, image_size=(4, 3), **fields)
    with pytest.raises(TokenRangeError):
        TokenPyramid(ids=ids, image_size=(2, 2), **fields)  # stride 1 cannot hold two finer cells


def test_joining_what_does_not_belong_together_is_refused():
    a = make()
    wide = make(image_size=(30, 59))
    for others, error, message in (
        ([], TokenError, "got none"),
        (["a"], TokenError, "got \\['str'\\]"),
        ([a, make(fingerprint="11" * 32)], TokenMismatchError, "at 1, .*fingerprint 11111111"),
        ([a, a, make(codebook_sizes=(4, 16))], TokenMismatchError, "at 2, "),
        ([a, a[:1]], TokenMismatchError, "as many levels"),
        ([a, make(precision="bfloat16")], TokenMismatchError, "float32.* at 1, bfloat16.*replace"),
        ([a, a, make(precision=None)], TokenMismatchError, "float32.* at 2, None.*replace"),
        ([a, wide], TokenError, "image size.*30x59"),
    ):
        with pytest.raises(error, match=message):
            TokenPyramid.cat(others)
        if len(others) > 1:
            with pytest.raises(error, match=message):
                default_collate(others)
    assert TokenPyramid.cat([a, a]).batch_size == 4


class _Tokens(torch.utils.data.Dataset):
    """Four single images with a number each."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"tokens": make().unbind()[index % 2], "label": index}


@pytest.mark.parametrize("start", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_data_loader_joins_pyramids_to_a_batch(start):
    workers = {} if start is None else {"num_workers": 1, "multiprocessing_context": start}
    (batch,) = DataLoader(_Tokens(), batch_size=4, **workers)
    assert batch["label"].tolist() == [0, 1, 2, 3]
    assert same(batch["tokens"], TokenPyramid.cat([make(), make()]))


def test_pinning_pins_every_level(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda ids: pinned.append(ids) or ids.clone())
    tokens = make()
    assert same(tokens.pin_memory(), tokens)
    assert [x.data_ptr() for x in pinned] == [x.data_ptr() for x in (*tokens.ids, tokens.image_ids)]


@pytest.mark.gpu
def test_equality_and_bytes_do_not_depend_on_the_device():
    there = make().to("cuda")
    assert there.device.type == "cuda"
    assert there == make()
    assert there.to_bytes() == make().to_bytes()
    assert there[:1].device.type == there.unbind()[0].device.type == "cuda"
    with pytest.raises(TokenError, match="device"):
        TokenPyramid.cat([there, make()])
    with pytest.raises(TokenError, match="one device"):
        make(ids=(there.ids[0], make().ids[1]))
    loaded = [batch["tokens"] for batch in DataLoader(_Tokens(), batch_size=4, num_workers=1, pin_memory=True)]
    assert all(x.is_pinned() for x in loaded[0].ids)
    assert loaded[0].to("cuda", non_blocking=True) == TokenPyramid.cat([make(), make()])


def test_moving_to_the_same_device_changes_nothing():
    assert same(make().to("cpu"), make())
    assert same(make().to(torch.device("cpu")), make())


def test_numpy_gives_copies_of_the_ids_per_level():
    tokens = make()
    arrays = tokens.numpy()
    assert [a.tolist() for a in arrays] == [x.tolist() for x in tokens.ids]
    assert {str(a.dtype) for a in arrays} == {"int64"}
    arrays[0][:] = 99
    assert same(tokens, make())
