"""Tokenizers and segmenters that are shared, copied and sent: threads, copies, pickles, the workers of a DataLoader."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyramid_tokenizer import PyramidTokenizer, Segmenter
from pyramid_tokenizer.segmentation import build_head

LISTS = [["sky", f"thing {i}", "tree|bush", *(f"{i}-{j}" for j in range(i))] for i in range(8)]


@pytest.fixture(scope="module")
def seg(toy_tokenizer: PyramidTokenizer) -> Segmenter:
    """With a head that does something."""
    head = build_head(toy_tokenizer.trunk, embedding_dim=16, width=8, depth=1, shared_decoder=True)
    generator = torch.Generator().manual_seed(2)
    for parameter in head.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return Segmenter(copy.deepcopy(toy_tokenizer), head)


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads take turns a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("mode", ["lookup", "decoder"])
@pytest.mark.usefixtures("switching_often")
def test_eight_threads_with_eight_word_lists_find_what_one_thread_finds(
    seg: Segmenter, smooth: Callable[..., Tensor], mode: Any
) -> None:
    tokens = seg.tok.encode(smooth(1, 40, 56))
    serial = [seg.segment(tokens, names, mode=mode, resolution="cells") for names in LISTS]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            jobs = [pool.submit(seg.segment, tokens, names, mode=mode, resolution="cells") for names in LISTS]
            for job, wanted in zip(jobs, serial, strict=True):
                found = job.result()
                assert torch.equal(found.labels, wanted.labels)
                assert torch.equal(found.scores, wanted.scores)


@pytest.mark.usefixtures("switching_often")
def test_threads_that_classify_share_the_words(
    make_backbone: Any, toy_config: Any, smooth: Callable[..., Tensor]
) -> None:
    backbone = make_backbone()
    tok = PyramidTokenizer.from_config(toy_config, backbone=backbone)
    tok.fit([smooth(16)])
    tokens = tok.encode(smooth(2, 40, 56))
    serial = [tok.classify(tokens, names).scores for names in LISTS]
    asked = backbone.asked
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(tok.classify, tokens, names) for names in LISTS * 4]
        for job, wanted in zip(jobs, serial * 4, strict=True):
            assert torch.equal(job.result().scores, wanted)
    assert backbone.asked == asked


def test_words_are_encoded_once_for_classify_similarity_and_segment(
    make_backbone: Any, toy_config: Any, smooth: Callable[..., Tensor]
) -> None:
    backbone, names, images = make_backbone(), ["sky", "car|bus"], smooth(2, 40, 56)
    tok = PyramidTokenizer.from_config(toy_config, backbone=backbone)
    tok.fit([smooth(16)])
    seg, tokens = Segmenter(tok), tok.encode(images)
    tok.classify(tokens, names)
    assert len(backbone.calls) == 1
    tok.classify(images, names)
    seg.segment(images, names)
    seg.segment(tokens, ["car|bus", "sky"], mode="lookup")
    Segmenter(tok).class_scores(images, names, mode="dense")
    assert len(backbone.calls) == 1
    first = tok.similarity(tokens, ["a dog"])
    assert backbone.calls[1:] == [["a dog"]]
    assert torch.equal(tok.similarity(images, ["a dog"]), first)
    assert len(backbone.calls) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_does_the_same_and_shares_nothing(
    seg: Segmenter, smooth: Callable[..., Tensor], copied: Callable[[Segmenter], Segmenter]
) -> None:
    images = smooth(1, 40, 56)
    wanted = seg.segment(images, LISTS[3], mode="lookup")
    other = copied(seg)
    assert other.tok.fingerprint == seg.tok.fingerprint
    assert other.tok.encode(images) == seg.tok.encode(images)
    assert torch.equal(other.tok.reconstruct(images), seg.tok.reconstruct(images))
    found = other.segment(images, LISTS[3], mode="lookup")
    assert torch.equal(found.labels, wanted.labels)
    assert torch.equal(found.scores, wanted.scores)
    assert other.text.backbone is other.tok.backbone
    other.tok.quantizer.level(0).text_readout.weight.data.mul_(-1)
    assert torch.equal(seg.segment(images, LISTS[3], mode="lookup").scores, wanted.scores)


class Encoded(Dataset[Tensor]):
    """Ids of the finest level and labels, made by a worker."""

    def __init__(self, seg: Segmenter, images: Tensor):
        self.seg, self.images = seg, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        tokens = self.seg.tok.encode(self.images[index])
        return tokens.ids[-1][0], self.seg.segment(tokens, LISTS[1]).labels[0]


@pytest.fixture
def by_file_system() -> Iterator[None]:
    """What the docstring of `TokenPyramid` says of "forkserver"."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    yield
    torch.multiprocessing.set_sharing_strategy(before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_workers_of_a_dataloader_find_the_same(
    seg: Segmenter, smooth: Callable[..., Tensor], method: str, request: pytest.FixtureRequest
) -> None:
    if method == "forkserver":
        request.getfixturevalue("by_file_system")
    images = smooth(4, 40, 56)
    wanted_ids, wanted = seg.tok.encode(images).ids[-1], seg.segment(images, LISTS[1]).labels
    loader = DataLoader(Encoded(seg, images), batch_size=2, num_workers=1, multiprocessing_context=method)
    ids, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(ids, wanted_ids)
    assert torch.equal(labels, wanted)


def test_new_text_embeddings_of_codes_are_noticed(seg: Segmenter, smooth: Callable[..., Tensor]) -> None:
    own = copy.deepcopy(seg)
    tokens = own.tok.encode(smooth(1, 40, 56))
    before = own.segment(tokens, LISTS[0], mode="lookup")
    own.tok.quantizer.level(1).text_readout.weight.data.mul_(-1)  # the ids, and so the fingerprint, stay
    found, fresh = (each.segment(tokens, LISTS[0], mode="lookup") for each in (own, Segmenter(own.tok)))
    assert torch.equal(found.scores, fresh.scores)
    assert not torch.equal(found.scores, before.scores)
