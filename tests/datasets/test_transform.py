from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pyramid_tokenizer.datasets import ToTokens
from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.images import to_pil
from pyramid_tokenizer.tokens import TokenPyramid


class Sample(NamedTuple):
    image: object
    label: int


def test_images_become_tokens_and_all_else_passes(toy_tokenizer, smooth):
    images = smooth(2)
    photo, tensor = to_pil(images[:1])[0], torch.zeros(3, 4)
    tokens = toy_tokenizer.encode(photo)
    transform = ToTokens(toy_tokenizer)
    assert transform(photo) == tokens
    assert transform(photo, 3) == (tokens, 3)
    assert transform(Sample(photo, 3)) == Sample(tokens, 3)
    made = transform({"image": photo, "more": [tensor, (photo, "cat")], "none": None})
    assert (made["image"], made["more"][1], made["none"]) == (tokens, (tokens, "cat"), None)
    assert made["more"][0] is tensor
    first, second = transform(images[0], tensor)  # without other images, the first tensor is one
    assert isinstance(first, TokenPyramid)
    assert second is tensor
    assert transform(np.asarray(photo)) == tokens


def test_the_options_are_those_of_encode(toy_tokenizer, smooth):
    image = smooth(1, 64, 96)[0]
    made = ToTokens(toy_tokenizer, size=32, levels=2)(image)
    assert made == toy_tokenizer.encode(image, size=32, levels=2)
    made = ToTokens(toy_tokenizer, max_tokens=20)(image)
    assert made == toy_tokenizer.encode(image, max_tokens=20)
    shown = repr(ToTokens("tiny", size=256, quality=0.5))
    assert shown == "ToTokens('tiny', size=256, quality=0.5)"
    assert not list(ToTokens(toy_tokenizer).parameters())


@pytest.mark.slow
def test_it_works_in_a_compose_of_torchvision(toy_tokenizer, smooth):
    v2, tv = pytest.importorskip("torchvision.transforms.v2"), pytest.importorskip("torchvision.tv_tensors")
    image = tv.Image((smooth(1, 80, 70)[0] * 255).to(torch.uint8))
    mask = tv.Mask(torch.ones(80, 70, dtype=torch.uint8))
    made = v2.Compose([v2.CenterCrop(64), ToTokens(toy_tokenizer)])({"image": image, "mask": mask, "label": 1})
    assert made["image"] == toy_tokenizer.encode(v2.CenterCrop(64)(image).as_subclass(torch.Tensor))
    assert made["image"].image_size == made["mask"].shape == (64, 64)


def test_a_sample_without_an_image_and_a_wrong_model_are_refused(toy_tokenizer):
    with pytest.raises(ConfigError, match=r"\['int', 'str'\]"):
        ToTokens(toy_tokenizer)(3, "photo.jpg")
    with pytest.raises(ConfigError, match="got int"):
        ToTokens(3)
    with pytest.raises(ConfigError):
        ToTokens(toy_tokenizer, max_tokens=3, quality=0.5)


class _Images(Dataset):
    def __init__(self, images: torch.Tensor, transform: ToTokens):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[TokenPyramid, int]:
        return self.transform(self.images[index], index)


def test_a_data_loader_makes_batches_of_tokens(toy_tokenizer, smooth):
    loader = DataLoader(_Images(smooth(5), ToTokens(toy_tokenizer)), batch_size=2)
    batches = list(loader)
    assert [len(tokens.ids[0]) for tokens, _ in batches] == [2, 2, 1]
    assert TokenPyramid.cat([tokens for tokens, _ in batches]) == toy_tokenizer.encode(smooth(5))


@pytest.mark.slow
def test_workers_load_a_model_by_its_name(toy_tokenizer, smooth, tmp_path):
    toy_tokenizer.save_pretrained(tmp_path / "toy")
    transform = ToTokens(str(tmp_path / "toy"))
    expected = toy_tokenizer.encode(smooth(4))
    transform(smooth(1)[0])  # loaded here: it is not sent to the workers
    assert len(pickle.dumps(transform)) < 2000
    for start in ("fork", "spawn"):
        loader = DataLoader(
            _Images(smooth(4), transform), batch_size=2, num_workers=2, multiprocessing_context=start, timeout=100
        )
        assert TokenPyramid.cat([tokens for tokens, _ in loader]) == expected
