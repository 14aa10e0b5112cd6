"""What a segmentation head reads in training: codes and text embeddings, of full, thinned and unquantised pyramids."""

import torch
import torch.nn.functional as F

from pyramid_tokenizer.quantizer.nearest import gather_rows
from pyramid_tokenizer.training.head_inputs import cell_inputs, training_inputs


def assert_reads(inputs, tok, tokens):
    assert all(torch.equal(a, b) for a, b in zip(inputs.codes, tok.codes(tokens), strict=True))
    rows = gather_rows(tok.quantizer.weighted_text_embeddings(), tokens.ids, tokens.present)
    assert torch.equal(inputs.lookup, rows)
    assert torch.equal(inputs.image, tok.embedding(tokens))


def test_inputs_of_cells_are_codes_and_their_text_embeddings(toy_tokenizer, smooth):
    images = smooth(2)
    inputs = cell_inputs(toy_tokenizer, images)
    assert inputs.present == ()
    assert_reads(inputs, toy_tokenizer, toy_tokenizer.encode(images))


def test_a_share_of_the_steps_is_sparse_in_codes_and_text_embeddings(toy_tokenizer, smooth):
    images = smooth(2)
    full = toy_tokenizer.encode(images)
    thin, whole = training_inputs(toy_tokenizer, images, thinning=1.0)
    ids = [
        own if mask is None else torch.where(mask, own, -1) for own, mask in zip(full.ids, thin.present, strict=True)
    ]
    assert_reads(thin, toy_tokenizer, toy_tokenizer.tokens(ids, image_size=(64, 64), image_ids=full.image_ids))
    assert_reads(whole, toy_tokenizer, full)
    read, none = training_inputs(toy_tokenizer, images)
    assert none is None
    assert_reads(read, toy_tokenizer, full)


def test_continuous_inputs_of_cells_are_what_the_codes_stand_for(toy_tokenizer, smooth):
    images = smooth(2)
    inputs, none = training_inputs(toy_tokenizer, images, continuous=True, thinning=1.0)
    assert none is None
    wanted = toy_tokenizer.quantizer.encode_continuous(toy_tokenizer.features(images))
    assert all(torch.equal(a, b) for a, b in zip(inputs.codes, wanted, strict=True))
    quantised = cell_inputs(toy_tokenizer, images)
    assert inputs.lookup.shape == quantised.lookup.shape
    assert not torch.equal(inputs.codes[1], quantised.codes[1])
    assert F.cosine_similarity(inputs.lookup, quantised.lookup, dim=1).mean() > 0.8
    assert F.cosine_similarity(inputs.image, quantised.image, dim=1).mean() > 0.8
