"""Nothing asks a network unless a repository, a published backbone or an address is named."""

from __future__ import annotations

import socket

import pytest
import torch

from pyramid_tokenizer.segmentation.segmenter import Segmenter
from pyramid_tokenizer.tokenizer import PyramidTokenizer
from pyramid_tokenizer.tokens.pyramid import TokenPyramid


@pytest.mark.slow
def test_the_whole_life_of_a_model_asks_no_network(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("expected no network, got a question to it")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    segmenter = Segmenter.from_pretrained("tiny")
    segmenter.save_pretrained(tmp_path / "model")
    tok = PyramidTokenizer.from_pretrained(tmp_path / "model")
    tokens = tok.encode(torch.rand(1, 3, 64, 64))
    tokens.save(tmp_path / "a.tokens")
    assert tok.decode(TokenPyramid.load(tmp_path / "a.tokens")).shape == (1, 3, 64, 64)
    assert segmenter.segment(tokens, ["cat", "sky"]).labels.shape == (1, 64, 64)
    assert len(tok.classify(tokens, ["cat", "dog"]).scores) == 1
