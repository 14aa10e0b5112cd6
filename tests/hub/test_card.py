import dataclasses

import pytest
from huggingface_hub import ModelCard

from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.hub import bundled_models
from pyramid_tokenizer.hub.card import add_to_card, model_card, weight_terms

CONFIG = TokenizerConfig(
    backbone=BackboneConfig(name="ViT-B-16", pretrained="openai"),
    quantizer=QuantizerConfig(
        levels=(
            LevelConfig(stride=32, maps=(0,), codebook_size=512, dim=16, distance="cosine"),
            LevelConfig(stride=8, maps=(2,), codebook_size=4096, dim=24),
        )
    ),
    decoder=DecoderConfig(widths=(8, 8), depths=(1, 1)),
)
EVALUATION = {
    "fingerprint": "abc",
    "protocol": "200 photos at 256x256",
    "date": "2025-01-02",
    "rows": [
        {"what": "levels 0-1", "bits_per_pixel": 0.19634, "psnr": 23.456, "ssim": 0.6789},
        {"what": "features, not quantised", "bits_per_pixel": None, "psnr": 25.0, "ssim": 0.7},
    ],
}


def test_the_card_has_the_hubs_header_and_one_row_per_level():
    card = ModelCard(model_card(CONFIG, fingerprint="abc"))  # as the Hub's own client reads it
    assert card.data.library_name == "pyramid-tokenizer"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.tags == ["image-tokenizer", "vector-quantization", "clip"]
    assert card.data.license is None
    lines = card.text.splitlines()
    assert "| 0 | 32 | 512 | 16 | cosine | 0.0088 |" in lines
    assert "| 1 | 8 | 4096 | 24 | euclidean | 0.1875 |" in lines
    assert "- fingerprint: `abc`" in lines
    assert "- backbone: ViT-B-16 (openai)" in lines


def test_detail_levels_are_marked():
    first, last = CONFIG.quantizer.levels
    last = dataclasses.replace(last, semantic_weight=0.0, reads_dense=False)
    quantizer = dataclasses.replace(CONFIG.quantizer, levels=(first, last), detail_levels=1)
    decoder = DecoderConfig(widths=(8,), depths=(1,))
    rows = [
        line
        for line in model_card(
            dataclasses.replace(CONFIG, quantizer=quantizer, decoder=decoder), fingerprint="abc"
        ).splitlines()
        if line.startswith(("| 0", "| 1"))
    ]
    assert ["detail" in row for row in rows] == [False, True]


def test_the_figures_are_those_of_the_saved_evaluation():
    lines = model_card(CONFIG, fingerprint="abc", evaluation=EVALUATION).splitlines()
    assert "200 photos at 256x256, 2025-01-02" in lines
    assert "| levels 0-1 | 0.196 | 23.46 | 0.679 |" in lines
    assert "| features, not quantised | – | 25.00 | 0.700 |" in lines


@pytest.mark.parametrize("evaluation", [None, {}, {"rows": []}])
def test_without_an_evaluation_there_are_no_figures(evaluation):
    card = model_card(CONFIG, fingerprint="abc", evaluation=evaluation)
    assert "None measured yet." in card
    assert "PSNR" not in card


def test_figures_of_another_fingerprint_are_left_out():
    card = model_card(CONFIG, fingerprint="other", evaluation=EVALUATION)
    assert "None measured yet for this fingerprint." in card
    assert "23.46" not in card


def test_the_code_of_the_card_is_python():
    code = model_card(CONFIG, fingerprint="abc").split("```")[1].removeprefix("python\n")
    compile(code, "card", "exec")
    assert len(code.strip().splitlines()) == 4


def test_the_card_lists_the_metrics_that_it_has_figures_of_and_states_the_terms_apart():
    card = ModelCard(model_card(CONFIG, fingerprint="abc", evaluation=EVALUATION))
    assert card.data.metrics == ["psnr", "ssim"]
    assert ModelCard(model_card(CONFIG, fingerprint="other", evaluation=EVALUATION)).data.metrics is None
    terms = card.text.split("## Terms")[1]
    assert "Apache-2.0" in terms
    assert "weights" in terms


def test_the_terms_of_the_weights_are_those_of_the_cards_header(tmp_path):
    card = tmp_path / "README.md"
    assert "none named" in weight_terms(tmp_path)
    for header, expected in ({}, "none named"), ({"license": "mit"}, "mit"):
        card.write_text(add_to_card(model_card(CONFIG, fingerprint="abc"), **header))
        assert weight_terms(tmp_path).startswith(expected)
    card.write_text("---\nlicense: [\n---\n")
    assert "none named" in weight_terms(tmp_path)


def test_the_bundled_models_terms_are_not_those_of_the_code():
    folder = bundled_models()["tiny"]
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("other", "image-feature-extraction")
    assert card.data.metrics
    assert card.data.datasets
    assert "research" in weight_terms(folder)
    assert 'from_pretrained("tiny")' in card.text
