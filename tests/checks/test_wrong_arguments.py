"""Every public method or function that gets the wrong kind of object raises an error that says how the right one is made."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer import PyramidTokenizer, Segmenter, TokenPyramid
from pyramid_tokenizer.errors import ImageValueError, PyramidTokenizerError, TokenError, TokenRangeError
from pyramid_tokenizer.evaluation import psnr
from pyramid_tokenizer.images.files import find_images, save_image
from pyramid_tokenizer.images.labelled.sets import open_segmentation_set
from pyramid_tokenizer.images.pixels import to_pil
from pyramid_tokenizer.text import TextEncoder
from pyramid_tokenizer.tokens import Vocabulary
from pyramid_tokenizer.training import TrainConfig, finetune, train, train_segmentation
from pyramid_tokenizer.visualize import contact_sheet, overlay

TAKES_TOKENS = [
    "tok.decode",
    "tok.ids",
    "tok.codes",
    "tok.fused",
    "tok.embedding",
    "seg.guidance",
    "vocabulary.flatten",
]


@pytest.fixture(scope="module")
def tokens(toy_tokenizer, smooth):
    return toy_tokenizer.encode(smooth(1, 32, 32))


@pytest.fixture(scope="module")
def calls(toy_tokenizer, tokens, smooth):
    """Every public method with one argument left open, by name."""
    tok, seg, vocabulary, image = toy_tokenizer, Segmenter(toy_tokenizer), toy_tokenizer.vocabulary, smooth(1, 32, 32)
    kind = {"codebook_sizes": (8, 16, 64), "strides": (32, 16, 8), "fingerprint": "0" * 64}
    pyramid = {"ids": tokens.ids, "codebook_sizes": (8, 16, 64), "image_size": (32, 32), "fingerprint": "0" * 64}
    owners = {"tok": tok, "seg": seg, "vocabulary": vocabulary}
    methods = [*TAKES_TOKENS, "tok.encode", "tok.encode_many", "tok.reconstruct", "tok.reconstruct_continuous"]
    methods += [
        "tok.features",
        "tok.health",
        "tok.tokens_of",
        "tok.fit",
        "vocabulary.describe",
        "vocabulary.sequence_length",
    ]
    methods += ["vocabulary.unflatten", "tok.save_pretrained", "seg.save_pretrained"]
    made = {name: getattr(owners[name.split(".")[0]], name.split(".")[1]) for name in methods}
    return {
        **made,
        "similarity": lambda x: tok.similarity(x, ["a"]),
        "similarity texts": lambda x: tok.similarity(tokens, x),
        "classify": lambda x: tok.classify(x, ["a"]),
        "classify names": lambda x: tok.classify(tokens, x),
        "classify templates": lambda x: tok.classify(tokens, ["a"], templates=x),
        "encode size": lambda x: tok.encode(image, size=x),
        "encode_many on_error": lambda x: tok.encode_many([image[0]], on_error=x),
        "find offset": lambda x: vocabulary.find([1, 2], offset=x),
        "encode_many batch_size": lambda x: tok.encode_many([image[0]], batch_size=x),
        "fit num_crops": lambda x: tok.fit([image[0]], num_crops=x),
        "fit crop_px": lambda x: tok.fit([image[0]], crop_px=x),
        "fit vectors_per_code": lambda x: tok.fit([image[0]], vectors_per_code=x),
        "fit progress": lambda x: tok.fit([image[0]], progress=x),
        "fit seed": lambda x: tok.fit([image[0]], seed=x),
        "tokens": lambda x: tok.tokens(x, image_size=(32, 32)),
        "tokens image_size": lambda x: tok.tokens(tokens.ids, image_size=x),
        "from_pretrained": PyramidTokenizer.from_pretrained,
        "from_config": PyramidTokenizer.from_config,
        "from_backbone": PyramidTokenizer.from_backbone,
        "from_backbone pretrained": lambda x: PyramidTokenizer.from_backbone("ViT-B-16", pretrained=x),
        "from_backbone levels": lambda x: PyramidTokenizer.from_backbone("toy", levels=x),
        "Segmenter": Segmenter,
        "Segmenter head": lambda x: Segmenter(tok, x),
        "Segmenter.from_pretrained": Segmenter.from_pretrained,
        "segment": lambda x: seg.segment(x, ["a"]),
        "segment names": lambda x: seg.segment(tokens, x),
        "segment background": lambda x: seg.segment(tokens, ["a"], background=x),
        "segment threshold": lambda x: seg.segment(tokens, ["a"], threshold=x),
        "segment mode": lambda x: seg.segment(tokens, ["a"], mode=x),
        "class_scores": lambda x: seg.class_scores(x, ["a"]),
        "cat": TokenPyramid.cat,
        "load": TokenPyramid.load,
        "save": tokens.save,
        "from_bytes": TokenPyramid.from_bytes,
        "to": tokens.to,
        "prefix": lambda x: tokens[x],
        **{f"TokenPyramid {key}": lambda x, key=key: TokenPyramid(**{**pyramid, key: x}) for key in pyramid},
        **{
            f"Vocabulary {key}": lambda x, key=key: Vocabulary(**{**kind, key: x})
            for key in ("codebook_sizes", "strides")
        },
    }


@pytest.fixture(scope="module")
def functions(toy_tokenizer, tokens, smooth):
    """The same of documented functions, and of arguments that are seldom given."""
    tok, photo, labels = toy_tokenizer, to_pil(smooth(1, 32, 32))[0], torch.zeros(32, 32, dtype=torch.int64)
    images, config = [photo], TrainConfig(crop_px=32)
    return {
        "train": lambda x: train(x, images, config=config),
        "train config": lambda x: train(tok, images, config=x),
        "finetune": lambda x: finetune(x, images, steps=1, config=config),
        "finetune config": lambda x: finetune(tok, images, steps=1, config=x),
        "train_segmentation": lambda x: train_segmentation(x, [], config=config),
        "train_segmentation sets": lambda x: train_segmentation(tok, x, config=config),
        "overlay labels": lambda x: overlay(photo, x, ["a"]),
        "overlay names": lambda x: overlay(photo, labels, x),
        "contact_sheet": contact_sheet,
        "to_pil": to_pil,
        "psnr": lambda x: psnr(x, smooth(1, 32, 32)),
        "save_image": lambda x: save_image(x, "a.png"),
        "save_image path": lambda x: save_image(photo, x),
        "find_images": find_images,
        "open_segmentation_set": open_segmentation_set,
        "open_segmentation_set protocol": lambda x: open_segmentation_set("nowhere", x),
        "from_pretrained subfolder": lambda x: PyramidTokenizer.from_pretrained("tiny", subfolder=x),
        "from_backbone blocks": lambda x: PyramidTokenizer.from_backbone("toy", blocks=x),
        "from_backbone composition": lambda x: PyramidTokenizer.from_backbone("toy", composition=x),
        "Vocabulary fingerprint": lambda x: Vocabulary(codebook_sizes=(4,), strides=(8,), fingerprint=x),
        "TextEncoder cache_dir": lambda x: TextEncoder(tok.backbone, cache_dir=x).encode(["a"]),
    }


@pytest.mark.parametrize(
    "wrong",
    [object(), {1: 2}, 1.5, np.zeros((1, 2, 2, 2, 2)), torch.zeros(2, 2), [object()]],
    ids=["object", "dict", "float", "array", "tensor", "list"],
)
def test_no_call_ends_in_an_error_that_is_not_ours(calls, functions, wrong):
    foreign, accepted = {}, []
    for name, call in (calls | functions).items():
        if name == "segment threshold" and isinstance(wrong, float):
            continue  # a score
        try:
            call(wrong)
            accepted.append(name)
        except PyramidTokenizerError as error:
            if ", got " not in str(error) or ": " not in str(error):
                foreign[name] = error
        except Exception as error:
            foreign[name] = error
    assert (foreign, accepted) == ({}, [])


@pytest.mark.parametrize("name", TAKES_TOKENS)
def test_what_takes_tokens_says_how_they_are_made(calls, tokens, name):
    ways = {
        "TokenPyramid.cat": [tokens, tokens],
        "TokenPyramid.from_bytes": tokens.to_bytes(),
        "TokenPyramid.load": "photo.tokens",
        "tok.tokens": list(tokens.ids),
        "image_size": tokens.ids[0].numpy(),
        "unflatten": torch.arange(4),
        "wrap ids": [],
        "tok.encode": torch.rand(1, 3, 32, 32),
        "what tok.encode": None,
    }
    for way, given in ways.items():
        with pytest.raises(TokenError) as error:
            calls[name](given)
        assert way in str(error.value)


def test_ids_are_wrapped_with_every_check(toy_tokenizer, tokens):
    for n in (1, 2, 3):
        forms = (
            [x.numpy() for x in tokens.ids[:n]],
            [x.int() for x in tokens.ids[:n]],
            [x[0].tolist() for x in tokens.ids[:n]],
        )
        for ids in (tokens.ids[:n], *forms):
            wrapped = toy_tokenizer.tokens(ids, image_size=(32, 32), image_ids=tokens.image_ids)
            assert wrapped == tokens[:n] and wrapped.precision is None
            assert torch.equal(toy_tokenizer.decode(wrapped), toy_tokenizer.decode(tokens[:n]))
    with pytest.raises(TokenRangeError, match=r"\[0, 8\), got 8"):
        toy_tokenizer.tokens([[[8]]], image_size=(32, 32))
    with pytest.raises(TokenRangeError, match=r"for images of \(32, 64\) px"):
        toy_tokenizer.tokens([[[1]]], image_size=(32, 64))
    for ids in ([], [*tokens.ids, tokens.ids[2]], tokens.ids[0], [[[0.5]]], [[[1, 2], [3]]], [["a"]]):
        with pytest.raises(TokenError):
            toy_tokenizer.tokens(ids, image_size=(32, 32))


def test_one_image_in_bytes_is_encoded_and_is_no_list_of_images(toy_tokenizer, smooth, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray((smooth(1)[0].permute(1, 2, 0) * 255).byte().numpy()).save(path)
    expected, data = toy_tokenizer.encode(path), path.read_bytes()
    assert toy_tokenizer.encode(data) == toy_tokenizer.encode(io.BytesIO(data)) == expected
    assert toy_tokenizer.encode_many([data, io.BytesIO(data)]) == [expected, expected]
    for one in (data, io.BytesIO(data)):
        with pytest.raises(ImageValueError, match="expected several images, got one"):
            toy_tokenizer.encode_many(one)


def test_tokens_in_place_of_images_point_to_decode(toy_tokenizer, tokens):
    for given in (tokens, [tokens, tokens]):
        with pytest.raises(ImageValueError, match=r"tok\.decode"):
            toy_tokenizer.encode(given)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300], ids=["NUL", "long"])
def test_names_that_no_file_can_have_are_errors_of_ours(toy_tokenizer, tokens, name):
    calls = (TokenPyramid.load, tokens.save, PyramidTokenizer.from_pretrained)
    for call in (*calls, toy_tokenizer.encode, toy_tokenizer.fit):
        with pytest.raises(PyramidTokenizerError):
            call(name)


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda x: x.to("meta"), "meta"),
        (lambda x: x.to("meta", torch.int64), "meta"),
        (torch.Tensor.to_sparse, "to_dense"),
        (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
    ids=["meta", "meta integers", "sparse", "float8"],
)
def test_tensors_without_a_number_for_every_pixel_are_refused(toy_tokenizer, make, fact):
    odd = make(torch.zeros(1, 3, 32, 32))
    for call in (toy_tokenizer.encode, toy_tokenizer.features, lambda x: toy_tokenizer.encode_many([x])):
        with pytest.raises(ImageValueError, match=fact):
            call(odd)
