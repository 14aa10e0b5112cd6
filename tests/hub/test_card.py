import dataclasses

import pytest
from huggingface_hub import ModelCard

from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.hub.card import model_card

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
