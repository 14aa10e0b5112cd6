"""What a dataset would take, told before it is made."""

from __future__ import annotations

import pytest

from pyramid_tokenizer.datasets import estimate
from pyramid_tokenizer.errors import DataError


def test_an_estimate_counts_all_images_and_samples_a_few(toy_tokenizer, shared_photos):
    found = estimate(shared_photos, model=toy_tokenizer, sample=4, shard_images=5, workers=1)
    assert (found.images, found.shards, found.sampled, found.unreadable) == (12, 3, 4, 0)
    assert found.images_per_second == pytest.approx(1 / (found.reading_seconds + found.encoding_seconds))
    assert found.seconds == pytest.approx(12 / found.images_per_second)


def test_the_size_that_is_told_is_that_of_the_shards(toy_tokenizer, shared_photos, write, tmp_path):
    found = estimate(shared_photos, model=toy_tokenizer, sample=12, size=64, workers=1)
    report = write(tmp_path / "tokens", size=64, shard_images=12)
    assert found.unreadable == report.errors == 1
    assert found.bytes * 11 / 12 == pytest.approx(report.bytes, rel=0.5)  # eleven images: names of columns weigh more


def test_a_sample_without_an_image_that_can_be_read_is_an_error(toy_tokenizer, tmp_path):
    with pytest.raises(DataError, match="sample of 1"):
        estimate([tmp_path / "gone.png"], model=toy_tokenizer)
