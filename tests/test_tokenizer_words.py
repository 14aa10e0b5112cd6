"""The tokenizer and words: embeddings of images from tokens, similarities and classes."""

import dataclasses

import pytest
import torch

from pyramid_tokenizer.errors import (
    ConfigError,
    TokenError,
    TokenMismatchError,
    TokenRangeError,
)
from pyramid_tokenizer.text import TextEncoder
from pyramid_tokenizer.tokenizer import PyramidTokenizer


def test_embeddings_have_unit_norm_for_every_prefix_and_differ_between_images(toy_tokenizer, smooth):
    tokens = toy_tokenizer.encode(smooth(4, seed=2))
    for n in (1, 2, 3):
        embedding = toy_tokenizer.embedding(tokens[:n])
        assert embedding.shape == (4, 16)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
        assert len(embedding.round(decimals=4).unique(dim=0)) == 4


def test_ids_without_image_tokens_decode_but_have_no_embedding(toy_tokenizer, smooth):
    tokens = toy_tokenizer.encode(smooth(2, seed=2))
    assert tokens.image_ids.shape == (2, 2) and tokens[:1].image_codebook_sizes == (5, 3)
    levels = [level.numpy() for level in tokens.ids]
    bare = toy_tokenizer.tokens(levels, image_size=tokens.image_size)
    assert torch.equal(toy_tokenizer.decode(bare), toy_tokenizer.decode(tokens))
    for refused in (toy_tokenizer.embedding, toy_tokenizer.vocabulary.flatten):
        with pytest.raises((TokenError, TokenMismatchError), match="image"):
            refused(bare)
    whole = toy_tokenizer.tokens(levels, image_size=tokens.image_size, image_ids=tokens.image_ids.tolist())
    assert whole == dataclasses.replace(tokens, precision=None)
    assert torch.equal(toy_tokenizer.embedding(whole), toy_tokenizer.embedding(tokens))
    with pytest.raises(TokenRangeError, match=r"image token 1 in \[0, 3\), got 3"):
        toy_tokenizer.tokens(levels, image_size=tokens.image_size, image_ids=[[0, 0], [0, 3]])


def test_embeddings_of_tokens_lie_near_the_backbones_own(toy_config, smooth):
    tok = PyramidTokenizer.from_config(toy_config)
    tok.fit([smooth(32)])
    images = smooth(8, seed=4)
    embedding = tok.embedding(tok.encode(images))
    own = torch.nn.functional.normalize(tok.features(images, with_dense=True).embedding, dim=1)
    similarity = embedding @ own.T  # (8, 8)
    assert similarity.diagonal().mean() > similarity.mean() + 0.1


def test_similarities_are_cosines_of_the_embedding_with_the_texts_as_they_stand(toy_tokenizer, smooth):
    tokens, texts = toy_tokenizer.encode(smooth(4, seed=2)), ["a dog", "dog|cat", "a photo of the sea"]
    words = toy_tokenizer.backbone.encode_text(texts)
    for n in (1, 2, 3):
        found = toy_tokenizer.similarity(tokens[:n], texts)
        assert found.shape == (4, 3)
        torch.testing.assert_close(found, toy_tokenizer.embedding(tokens[:n]) @ words.T)
        assert found.abs().max() <= 1 + 1e-6


def test_an_image_is_of_the_class_whose_best_synonym_is_nearest(toy_tokenizer, smooth):
    tokens, names = toy_tokenizer.encode(smooth(6, seed=2)), ["car|automobile|bus", "dog", "sea|lake"]
    encoder = TextEncoder(toy_tokenizer.backbone)
    for n in (1, 2, 3):
        embedding = toy_tokenizer.embedding(tokens[:n])
        columns = [(embedding @ encoder.encode(name.split("|")).T).amax(1) for name in names]
        found = toy_tokenizer.classify(tokens[:n], names)
        torch.testing.assert_close(found.scores, torch.stack(columns, 1))
        assert torch.equal(found.labels, found.scores.argmax(1))
        assert found.names == ("car", "dog", "sea")
        order = [2, 0, 1]
        other = toy_tokenizer.classify(tokens[:n], [names[i] for i in order])
        assert torch.equal(torch.tensor(order)[other.labels], found.labels)


def test_plain_names_are_classified_as_their_similarities_say(toy_tokenizer, smooth):
    tokens, names = toy_tokenizer.encode(smooth(4, seed=2)), ["dog", "cat", "sea"]
    found = toy_tokenizer.classify(tokens, names, templates="plain")
    torch.testing.assert_close(found.scores, toy_tokenizer.similarity(tokens, names))
    assert not torch.allclose(found.scores, toy_tokenizer.classify(tokens, names).scores)


def test_words_that_cannot_be_asked_and_foreign_tokens_are_refused(toy_tokenizer, other_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    for call in (toy_tokenizer.classify, toy_tokenizer.similarity):
        with pytest.raises(ConfigError, match="as a list of texts, got the single one 'dog'"):
            call(tokens, "dog")
        with pytest.raises(ConfigError, match="a word in .*, got an empty one"):
            call(tokens, ["dog", ""])
        with pytest.raises(TokenMismatchError, match="expected tokens of tokenizer"):
            call(other_tokenizer.encode(photo), ["dog"])
    for names in ([], ["dog", "Dog"]):
        with pytest.raises(ConfigError):
            toy_tokenizer.classify(tokens, names)


def test_size_for_tokens_is_ignored_with_a_warning_at_the_callers_line(toy_tokenizer, photo):
    tokens = toy_tokenizer.encode(photo)
    for call in (toy_tokenizer.classify, toy_tokenizer.similarity):
        with pytest.warns(UserWarning, match="size=64 is ignored") as caught:
            call(tokens, ["dog"], size=64)
        assert caught[0].filename == __file__
