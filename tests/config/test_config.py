import dataclasses
import itertools
import json
import math
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_tokenizer.config.models import (
    FORMAT_VERSION,
    BackboneConfig,
    DecoderConfig,
    LevelConfig,
    QuantizerConfig,
    SegmentationConfig,
    TokenizerConfig,
)
from pyramid_tokenizer.config.plain import from_dict, to_dict
from pyramid_tokenizer.errors import ConfigError

texts = st.text('aZ0-/:_ "\\é雪😀', max_size=8)
backbones = st.builds(
    BackboneConfig,
    kind=st.sampled_from(["open_clip", "toy"]),
    name=texts,
    pretrained=st.none() | texts,
    blocks=st.sets(st.integers(-9, 40), max_size=5).map(lambda blocks: tuple(sorted(blocks))),
    fingerprint=st.text("0123456789abcdef", max_size=64),
    dense_reading=st.sampled_from(["", "vv", "projection"]),
)


@st.composite
def codebooks(draw):
    """The fields of a level that say how it quantises."""
    fsq = tuple(draw(st.just([]) | st.lists(st.integers(2, 16), min_size=1, max_size=5)))
    if fsq:
        return {"fsq": fsq, "codebook_size": math.prod(fsq), "dim": len(fsq)}
    distance = draw(st.sampled_from(["euclidean", "cosine"]))
    return {"codebook_size": draw(st.integers(2, 2**17)), "dim": draw(st.integers(1, 64)), "distance": distance}


@st.composite
def quantizers(draw):
    ratios = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    levels = [
        LevelConfig(
            stride=stride,
            maps=tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))),
            semantic_weight=draw(st.floats(0, 1)),
            reads_dense=draw(st.booleans()),
            **draw(codebooks()),
        )
        for stride in reversed(list(itertools.accumulate([1, *ratios], operator.mul)))
    ]
    composition = draw(st.sampled_from(["residual", "bottom_up", "none"]))
    return QuantizerConfig(levels=tuple(levels), composition=composition)


@st.composite
def tokenizers(draw):
    quantizer = draw(quantizers())
    count = len(quantizer.levels)
    decoder = DecoderConfig(
        widths=tuple(draw(st.lists(st.integers(1, 300), min_size=count, max_size=count))),
        depths=tuple(draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))),
        pixel_widths=tuple(draw(st.lists(st.integers(1, 64), max_size=3))),
        pixel_depth=draw(st.integers(0, 4)),
    )
    head = st.builds(
        SegmentationConfig, width=st.integers(1, 300), depth=st.integers(0, 5), shared_decoder=st.booleans()
    )
    return TokenizerConfig(
        backbone=draw(backbones),
        quantizer=quantizer,
        decoder=decoder,
        segmentation=draw(st.none() | head),
        fingerprint="ab" * 32,
    )


def plain(**changes):
    """A whole config as JSON holds it; `path__to__field=value` changes one value."""
    levels = (
        LevelConfig(stride=16, maps=(1,), codebook_size=8, dim=4),
        LevelConfig(stride=8, maps=(2, 3), codebook_size=16, dim=4),
    )
    config = TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(levels=levels),
        decoder=DecoderConfig(widths=(8, 8), depths=(1, 1)),
    )
    data = json.loads(json.dumps(to_dict(config)))
    for path, value in changes.items():
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        place = data
        for key in parents:
            place = place[key]
        place[last] = value
    return data


@settings(max_examples=6)
@given(tokenizers())
def test_a_config_survives_json(config):
    assert from_dict(TokenizerConfig, to_dict(config)) == config
    assert from_dict(TokenizerConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_configs_are_frozen_and_hashable():
    config = from_dict(TokenizerConfig, plain())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.fingerprint = "x"
    assert hash(config) == hash(from_dict(TokenizerConfig, plain()))
    assert dataclasses.replace(config, fingerprint="x") != config


def test_defaults_fill_what_a_file_leaves_out():
    data = plain()
    del data["fingerprint"], data["quantizer"]["composition"], data["quantizer"]["levels"][0]["distance"]
    assert from_dict(TokenizerConfig, data) == from_dict(TokenizerConfig, plain())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantiser": {}}, "only known fields in config, got 'quantiser': did you mean 'quantizer'"),
        (
            {"quantizer__levels__1__codebok_size": 3},
            r"in config.quantizer.levels\[1\], got 'codebok_size': did you mean",
        ),
        ({"decoder__zzz": 1}, "in config.decoder, got 'zzz': known fields: widths, depths"),
    ],
)
def test_an_unknown_field_names_the_nearest_one(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(TokenizerConfig, plain(**changes))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backbone", "toy", "config.backbone as a mapping, got 'toy'"),
        ("backbone", None, "config.backbone as a mapping, got None"),
        ("backbone__kind", "clip", "config.backbone.kind as one of"),
        ("backbone__name", None, "config.backbone.name as str, got None"),
        ("backbone__pretrained", 3, "config.backbone.pretrained as str, got 3"),
        ("backbone__blocks", [1.0], r"config.backbone.blocks\[0\] as int, got 1.0"),
        ("backbone__blocks", 7, "config.backbone.blocks as a list, got 7"),
        ("backbone__blocks", "12", "config.backbone.blocks as a list, got '12'"),
        ("backbone__dense_reading", None, "config.backbone.dense_reading as str, got None"),
        ("quantizer__levels__0__stride", True, r"levels\[0\].stride as int, got True"),
        ("quantizer__levels__0__stride", "16", r"levels\[0\].stride as int, got '16'"),
        ("quantizer__levels__1__semantic_weight", True, r"levels\[1\].semantic_weight as float, got True"),
        ("quantizer__levels__1__semantic_weight", "0.5", r"levels\[1\].semantic_weight as float, got '0.5'"),
        ("quantizer__levels__0__distance", ["cosine"], r"levels\[0\].distance as one of"),
        ("quantizer__levels__0__reads_dense", 1, r"levels\[0\].reads_dense as bool, got 1"),
        ("segmentation", 8, "config.segmentation as a mapping, got 8"),
        ("segmentation", {"width": 8.0}, "config.segmentation.width as int, got 8.0"),
        ("segmentation", {"shared_decoder": 1}, "config.segmentation.shared_decoder as bool, got 1"),
        ("decoder__widths", [8, None], r"config.decoder.widths\[1\] as int, got None"),
        ("fingerprint", 12, "config.fingerprint as str, got 12"),
        ("format_version", True, "config.format_version as int, got True"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(path, value, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(TokenizerConfig, plain(**{path: value}))


def test_a_whole_number_is_a_float():
    config = from_dict(TokenizerConfig, plain(quantizer__levels__1__semantic_weight=1))
    assert config.quantizer.levels[1].semantic_weight == 1.0
    assert isinstance(config.quantizer.levels[1].semantic_weight, float)


def test_missing_fields_are_named():
    data = plain()
    del data["quantizer"]["levels"][1]["dim"], data["quantizer"]["levels"][1]["maps"]
    with pytest.raises(ConfigError, match=r"required fields in config.quantizer.levels\[1\], got none for maps, dim"):
        from_dict(TokenizerConfig, data)


@pytest.mark.parametrize("data", [None, [], "config", 3])
def test_what_is_no_mapping_is_an_error(data):
    with pytest.raises(ConfigError, match="expected my.json as a mapping"):
        from_dict(TokenizerConfig, data, where="my.json")


def test_a_newer_format_is_refused_before_its_new_fields():
    with pytest.raises(ConfigError, match=f"expected format_version {FORMAT_VERSION}, got 99: install the pyramid"):
        from_dict(TokenizerConfig, plain(format_version=99, brand_new={}))
    with pytest.raises(ConfigError, match="install the pyramid-tokenizer release that wrote it"):
        dataclasses.replace(from_dict(TokenizerConfig, plain()), format_version=0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backbone__blocks", [3, 1], "backbone.blocks in increasing order"),
        ("backbone__blocks", [1, 1], "backbone.blocks in increasing order"),
        ("quantizer__levels", [], "expected at least one level"),
        ("quantizer__levels__0__stride", 0, "stride >= 1, got 0"),
        ("quantizer__levels__0__stride", 12, r"each a multiple of the next, got \[12, 8\]"),
        ("quantizer__levels__1__stride", 32, r"strides from coarse to fine, .* got \[16, 32\]"),
        ("quantizer__levels__0__maps", [], "at least one map per level"),
        ("quantizer__levels__0__codebook_size", 1, "codebook_size >= 2, got 1"),
        ("quantizer__levels__0__dim", 0, "dim >= 1, got 0"),
        ("quantizer__levels__0__semantic_weight", 1.01, r"semantic_weight in \[0, 1\], got 1.01"),
        ("quantizer__levels__0__semantic_weight", -0.1, r"semantic_weight in \[0, 1\]"),
        ("quantizer__levels__0__semantic_weight", float("nan"), r"semantic_weight in \[0, 1\], got nan"),
        ("quantizer__levels__0__fsq", [8, 1], r"fsq of 2 entries or more per dimension, got \(8, 1\)"),
        ("quantizer__levels__0__fsq", [3, 3], r"fsq whose product is codebook_size 8, got \(3, 3\): set .* to 9, or"),
        ("quantizer__levels__0__fsq", [4, 2], r"as many fsq entries as dim 4, got \(4, 2\): set dim to 2"),
        ("quantizer__levels__0__fsq", [4.0, 2.0], r"levels\[0\].fsq\[0\] as int, got 4.0"),
        ("quantizer__composition", "sum", "composition as one of"),
        ("quantizer__detail_levels", 2, "detail_levels from 0 to 1, got 2"),
        ("quantizer__detail_levels", -1, "detail_levels from 0 to 1, got -1"),
        ("segmentation", {"width": 0}, "segmentation.width >= 1, got 0"),
        ("segmentation", {"depth": -1}, "segmentation.depth >= 0, got -1"),
        ("segmentation", {"widths": 8}, "in config.segmentation, got 'widths': did you mean 'width'"),
        ("decoder__widths", [8, 8, 8], "as many depths as widths"),
        ("decoder__widths", [8, 0], "widths of 1 or more"),
        ("decoder__pixel_widths", [-1], "widths of 1 or more"),
        ("decoder__depths", [1, -1], "depths of 0 or more"),
        ("decoder__pixel_depth", -1, "depths of 0 or more"),
        (
            "decoder",
            {"widths": [8], "depths": [1]},
            "expected 2 decoder widths, one per level that is no detail, got 1",
        ),
    ],
)
def test_a_value_out_of_its_range_is_an_error(path, value, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(TokenizerConfig, plain(**{path: value}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BackboneConfig(kind="clip"),
        lambda: LevelConfig(stride=8, maps=(0,), codebook_size=4, dim=2, distance="l1"),
        lambda: QuantizerConfig(levels=(LevelConfig(stride=8, maps=(0,), codebook_size=4, dim=2),), composition="sum"),
    ],
)
def test_names_are_checked_where_a_config_is_made_in_code(make):
    with pytest.raises(ConfigError, match="name one of"):
        make()


def test_a_grid_of_scalars_has_no_cosine_distance():
    with pytest.raises(ConfigError, match="distance \"euclidean\" for fsq, got 'cosine'"):
        LevelConfig(stride=8, maps=(0,), codebook_size=6, dim=2, fsq=(3, 2), distance="cosine")


def test_equal_strides_make_a_residual_stage():
    level = LevelConfig(stride=8, maps=(0,), codebook_size=4, dim=2)
    assert QuantizerConfig(levels=(level, level)).levels == (level, level)
