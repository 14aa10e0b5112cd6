"""What a segmenter refuses, and how it is saved, loaded and sent."""

import dataclasses
import os

import pytest
import torch

from pyramid_tokenizer import PyramidTokenizer, Segmenter, hub
from pyramid_tokenizer.config.models import SegmentationConfig
from pyramid_tokenizer.errors import (
    CapabilityError,
    CheckpointError,
    ConfigError,
    ImageError,
    TokenMismatchError,
    TokenRangeError,
)
from pyramid_tokenizer.segmentation.head import build_head
from tests.segmentation.conftest import NAMES, WORDS


class TestErrors:
    @pytest.mark.parametrize(
        ("names", "options", "message"),
        [
            (NAMES, {"mode": "best"}, r"expected mode in \('auto', 'lookup', 'decoder', 'dense'\), got 'best'"),
            (NAMES, {"resolution": "px"}, r"expected resolution in \('pixels', 'cells'\), got 'px'"),
            (
                NAMES,
                {"mode": "decoder"},
                'expected a segmentation head for mode "decoder", got a tokenizer without one',
            ),
            ("sky", {}, "names as a list of texts, got the single one 'sky'"),
            ([], {}, "at least one entry in names, got none"),
            (["sky", "Sky"], {}, "each word once, whatever its case"),
            (["sky", " "], {}, "a word in names"),
            (NAMES, {"background": 0.5}, "0.5"),
            (NAMES, {"background": "wall"}, "background as a list of texts, got the single one 'wall'"),
            (NAMES, {"background": ["wall", "dog"]}, r"got 'dog' in names\[4\] 'dog' and in background\[1\]"),
        ],
    )
    def test_what_cannot_be_asked_is_told(self, seg, images, names, options, message):
        for source in (images, seg.tok.encode(images)):
            with pytest.raises(ConfigError, match=message):
                seg.segment(source, names, **options)

    def test_dense_needs_images_and_a_backbone_that_has_it(self, seg, images, monkeypatch):
        with pytest.raises(CapabilityError, match='expected images for mode "dense", got tokens'):
            seg.segment(seg.tok.encode(images), NAMES, mode="dense")
        monkeypatch.setattr(type(seg.tok.backbone), "has_dense", False)
        with pytest.raises(CapabilityError, match='mode "lookup"'):
            seg.segment(images, NAMES, mode="dense")

    def test_tokens_of_another_tokenizer_are_refused(self, headed, other_tokenizer, images):
        tokens = other_tokenizer.encode(images)
        for mode in ("lookup", "decoder"):
            with pytest.raises(TokenMismatchError, match="expected tokens of tokenizer"):
                headed.segment(tokens, NAMES, mode=mode)
        with pytest.raises(TokenMismatchError, match="expected tokens of tokenizer"):
            headed.guidance(tokens)

    def test_tokens_that_no_encoder_made_are_refused(self, headed, images):
        wrong = dataclasses.replace(headed.tok.encode(images), image_size=(99, 99))
        for mode in ("lookup", "decoder"):
            with pytest.raises(TokenRangeError, match=r"for images of \(99, 99\) px"):
                headed.segment(wrong, NAMES, mode=mode)

    def test_what_is_no_image_is_refused(self, seg):
        for mode in ("lookup", "dense"):
            with pytest.raises(ImageError):
                seg.segment(torch.full((3, 8, 8), float("nan")), NAMES, mode=mode)


class TestFiles:
    def test_pushing_sends_the_head_too(self, headed, images, monkeypatch):
        sent = {}

        def push(directory, repo_id, **options):
            sent["model"], sent["options"] = Segmenter.from_pretrained(directory), options
            return f"https://example.test/{repo_id}"

        monkeypatch.setattr("pyramid_tokenizer.hub.upload.push", push)
        assert headed.push_to_hub("user/repo", private=True) == "https://example.test/user/repo"
        found, wanted = sent["model"].segment(images, NAMES), headed.segment(images, NAMES)
        assert torch.equal(found.labels, wanted.labels)
        assert sent["options"] == {"private": True}

    def test_a_model_with_a_head_comes_back_the_same_bit_for_bit(self, headed, images, tmp_path):
        folder = headed.save_pretrained(tmp_path / "model")
        assert "segmentation_head.safetensors" in os.listdir(folder)
        loaded = Segmenter.from_pretrained(folder)
        assert loaded.tok.config.segmentation == headed.tok.config.segmentation
        for rule in ({}, {"background": WORDS}, {"threshold": 0.2}):
            found, wanted = loaded.segment(images, NAMES, **rule), headed.segment(images, NAMES, **rule)
            assert torch.equal(found.labels, wanted.labels)
            assert torch.equal(found.scores, wanted.scores)
        again = loaded.save_pretrained(tmp_path / "again")
        for name in os.listdir(folder):
            assert (again / name).read_bytes() == (folder / name).read_bytes(), name

    def test_half_is_smaller_and_segments_nearly_the_same(self, headed, images, tmp_path):
        whole, half = headed.save_pretrained(tmp_path / "whole"), headed.save_pretrained(tmp_path / "half", half=True)
        sizes = [(folder / "segmentation_head.safetensors").stat().st_size for folder in (whole, half)]
        assert sizes[1] < 0.8 * sizes[0]
        found, wanted = Segmenter.from_pretrained(half).segment(images, NAMES), headed.segment(images, NAMES)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=0.005)
        assert (found.labels == wanted.labels).float().mean() > 0.99

    def test_it_loads_in_another_precision(self, headed, images, tmp_path):
        loaded = Segmenter.from_pretrained(headed.save_pretrained(tmp_path / "model"), dtype=torch.bfloat16)
        assert loaded.tok.dtype == loaded.head.bias.dtype == torch.bfloat16
        found, wanted = loaded.segment(headed.tok.encode(images), NAMES), headed.segment(images, NAMES)
        assert (found.labels == wanted.labels).float().mean() > 0.95

    def test_the_tokenizer_of_that_directory_does_not_see_the_head(self, headed, toy_tokenizer, images, tmp_path):
        tok = PyramidTokenizer.from_pretrained(headed.save_pretrained(tmp_path / "model"))
        tokens = toy_tokenizer.encode(images)
        assert tok.fingerprint == toy_tokenizer.fingerprint
        assert tok.encode(images) == tokens
        for n in (1, 2, 3):
            assert torch.equal(tok.decode(tokens[:n]), toy_tokenizer.decode(tokens[:n]))

    def test_a_tokenizer_without_a_head_that_is_saved_over_it_takes_the_head_away(self, headed, images, tmp_path):
        folder = headed.save_pretrained(tmp_path / "model")
        headed.tok.save_pretrained(folder)  # it was never loaded with one: tests/hub/test_head.py has those that were
        assert "segmentation_head.safetensors" not in os.listdir(folder)
        assert hub.read_config(folder).segmentation is None
        loaded = Segmenter.from_pretrained(folder)
        assert loaded.head is None
        wanted = headed.segment(images, NAMES, mode="lookup")
        assert torch.equal(loaded.segment(images, NAMES).labels, wanted.labels)

    def test_a_segmenter_without_a_head_saves_the_tokenizer(self, seg, tmp_path):
        folder = seg.save_pretrained(tmp_path / "model", evaluation={"rows": []})
        assert sorted(os.listdir(folder)) == ["README.md", "config.json", "evaluation.json", "model.safetensors"]

    def test_a_missing_or_foreign_head_is_an_error(self, headed, tmp_path):
        folder = headed.save_pretrained(tmp_path / "model")
        data = (folder / "config.json").read_text()
        (folder / "config.json").write_text(data.replace('"width": 8', '"width": 9'))
        with pytest.raises(CheckpointError, match="wrong shape: .*bias"):
            Segmenter.from_pretrained(folder)
        (folder / "config.json").write_text(data)
        (folder / "segmentation_head.safetensors").unlink()
        with pytest.raises(CheckpointError, match="segmentation_head.safetensors"):
            Segmenter.from_pretrained(folder)

    def test_the_saved_config_describes_the_head_whatever_the_tokenizers_config_says(self, toy_tokenizer, tmp_path):
        head = build_head(toy_tokenizer.trunk, embedding_dim=16, width=12, depth=3, shared_decoder=False)
        folder = Segmenter(toy_tokenizer, head).save_pretrained(tmp_path / "model")
        loaded = Segmenter.from_pretrained(folder)
        assert loaded.tok.config.segmentation == SegmentationConfig(width=12, depth=3, shared_decoder=False)
        assert {n: t.shape for n, t in loaded.head.state_dict().items()} == {
            n: t.shape for n, t in head.state_dict().items()
        }

    def test_text_embeddings_are_kept_where_asked(self, headed, images, tmp_path):
        folder = headed.save_pretrained(tmp_path / "model")
        first = Segmenter.from_pretrained(folder, text_cache=tmp_path / "words").segment(images, NAMES)
        assert len(os.listdir(tmp_path / "words")) == 1
        second = Segmenter.from_pretrained(folder, text_cache=tmp_path / "words").segment(images, NAMES)
        assert torch.equal(first.scores, second.scores)
