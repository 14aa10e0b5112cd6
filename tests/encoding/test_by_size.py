import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.encoding import by_rows
from pyramid_tokenizer.encoding.by_size import WAITING_BATCHES, encode_by_size
from pyramid_tokenizer.errors import ConfigError, ImageFileError, ImageValueError
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


class Encoder:
    """Tokens that hold the image's brightest value, and a record of the batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(tuple(batch.shape))
        ids = (batch.amax((1, 2, 3)) * 255).round().long()[:, None, None]
        return TokenPyramid(ids=(ids,), codebook_sizes=(256,), image_size=tuple(batch.shape[-2:]), fingerprint="0" * 64)


def flat(value, height=4, width=4):
    return torch.full((3, height, width), value / 255)


def values(tokens):
    return [int(t.ids[0]) for t in tokens]


def test_images_of_one_size_go_together_and_come_back_in_order():
    encode = Encoder()
    images = [flat(0), flat(1, 6), flat(2), flat(3, 6), flat(4), flat(5), flat(6, 2)]
    tokens = encode_by_size(encode, iter(images), size=None, batch_size=2)
    assert values(tokens) == list(range(7))
    assert [t.image_size for t in tokens] == [tuple(i.shape[-2:]) for i in images]
    assert sorted(encode.batches) == [(1, 3, 2, 4), (2, 3, 4, 4), (2, 3, 4, 4), (2, 3, 6, 4)]


def test_large_images_wait_for_no_others(monkeypatch):
    monkeypatch.setattr(by_rows, "LARGE_PIXELS", 23)
    encode = Encoder()
    tokens = encode_by_size(encode, iter([flat(0), flat(1, 6), flat(2), flat(3, 6)]), size=None, batch_size=2)
    assert values(tokens) == list(range(4))
    assert encode.batches == [(1, 3, 6, 4), (2, 3, 4, 4), (1, 3, 6, 4)]


def test_sizes_are_compared_after_resizing():
    encode = Encoder()
    encode_by_size(encode, [flat(0, 4, 4), flat(1, 8, 8), flat(2, 12, 12)], size=4, batch_size=8)
    assert encode.batches == [(3, 3, 4, 4)]


def test_a_stream_of_ever_new_sizes_never_waits_in_memory_as_a_whole():
    encode, read = Encoder(), []

    def stream():
        for i in range(100):
            done = sum(shape[0] for shape in encode.batches)
            assert len(read) - done <= WAITING_BATCHES * 2
            read.append(i)
            yield flat(i, 1 + i)

    assert values(encode_by_size(encode, stream(), size=None, batch_size=2)) == list(range(100))


def test_when_too_many_wait_the_largest_group_leaves_first():
    encode = Encoder()
    images = [flat(9, 99), flat(0), *(flat(i, 10 + i) for i in range(WAITING_BATCHES * 3 - 3)), flat(1), flat(2)]
    encode_by_size(encode, images, size=None, batch_size=3)
    assert encode.batches[0] == (2, 3, 4, 4)
    assert {shape[0] for shape in encode.batches[1:]} == {1}


@pytest.mark.parametrize(
    "one", ["photo.jpg", Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), None, 3]
)
def test_one_image_in_place_of_many_is_an_error(one):
    with pytest.raises(ImageValueError, match="expected several images, got one .*: use encode"):
        encode_by_size(Encoder(), one, size=None, batch_size=2)


def test_a_batch_of_arrays_is_many_images():
    assert len(encode_by_size(Encoder(), np.zeros((3, 4, 4, 3), np.uint8), size=None, batch_size=2)) == 3


def test_a_bad_image_is_named_by_its_position(tmp_path):
    with pytest.raises(ImageFileError, match=r"^image 2: .*missing.png"):
        encode_by_size(Encoder(), [flat(0), flat(1), tmp_path / "missing.png"], size=None, batch_size=9)
    with pytest.raises(ImageValueError, match="^image 0: "):
        encode_by_size(Encoder(), [torch.full((3, 2, 2), float("nan"))], size=None, batch_size=9)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_an_error(batch_size):
    with pytest.raises(ConfigError, match=f"batch_size.*at least 1, got {batch_size}"):
        encode_by_size(Encoder(), [flat(0)], size=None, batch_size=batch_size)


def test_an_image_that_cannot_be_read_is_skipped_with_its_position_and_reason_logged(tmp_path, caplog):
    images = [flat(0), tmp_path / "missing.png", flat(2, 6), torch.full((3, 4, 4), float("nan")), flat(4)]
    with caplog.at_level("WARNING", logger="pyramid_tokenizer"):
        tokens = encode_by_size(Encoder(), iter(images), size=None, batch_size=2, on_error="skip")
    assert [t and int(t.ids[0]) for t in tokens] == [0, None, 2, None, 4]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "image 1 " in told[0]
    assert "missing.png" in told[0]
    assert "image 3 " in told[1]


def test_only_single_images_are_skipped():
    with pytest.raises(ImageValueError):
        encode_by_size(Encoder(), flat(0), size=None, batch_size=2, on_error="skip")

    def fail(batch):
        raise ImageValueError("of the encoder")

    with pytest.raises(ImageValueError, match="of the encoder"):
        encode_by_size(fail, [flat(0)], size=None, batch_size=2, on_error="skip")
    with pytest.raises(ConfigError, match="'ignore'"):
        encode_by_size(Encoder(), [flat(0)], size=None, batch_size=2, on_error="ignore")
