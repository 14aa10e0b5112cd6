import dataclasses
import pickle

import pytest

from pyramid_tokenizer.errors import ConfigError
from pyramid_tokenizer.images.labelled.class_names import VOC_20, split_name
from pyramid_tokenizer.images.labelled.protocols import PROTOCOLS, find_protocol


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_agrees_with_itself(name):
    protocol = find_protocol(name)
    assert protocol.name == name
    assert protocol.description.endswith(".")
    assert protocol.source
    classes = range(protocol.num_classes or 255)
    forms = [(protocol.label_map, protocol.ignore_ids)]
    forms += [(f.label_map, (*protocol.ignore_ids, *f.ignore_ids)) for f in protocol.layout.label_files if f.label_map]
    for label_map, ignored in forms:
        assert sorted(label_map.values()) == list(classes) or not label_map
        assert not set(label_map or classes) & set(ignored)
    assert not protocol.names or len(protocol.names) == protocol.num_classes
    assert (protocol.background_class is not None) == (protocol.background in ("class", "words"))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_can_be_sent_to_another_process(name):
    assert pickle.loads(pickle.dumps(PROTOCOLS[name])) == PROTOCOLS[name]


def test_the_three_ways_to_measure_voc_treat_background_as_their_papers_do():
    twenty, words, threshold = (find_protocol(f"voc-{x}") for x in ("20", "20b", "21"))
    assert (twenty.names, 0 in twenty.ignore_ids, twenty.label_map[1]) == (VOC_20, True, 0)
    assert (words.label_map[0], words.label_map[20], words.background_class) == (20, 19, 20)
    assert (threshold.names[0], threshold.names[1:], threshold.background_class) == ("background", VOC_20, 0)
    others = split_name(words.names[20])
    assert len(others) == 39
    assert not set(others) & set(VOC_20)
    assert words.display_names == (*VOC_20, "background")


def test_255_is_a_class_where_there_are_more_than_255():
    assert find_protocol("ade20k-847").ignore_ids == (65535,)
    assert find_protocol("pascal-context-459").ignore_ids == (459, 65535)


def test_an_unknown_protocol_is_answered_with_the_near_names():
    with pytest.raises(ConfigError, match="'ADE20k-15'.*'ade20k-150'"):
        find_protocol("ADE20k-15")
    with pytest.raises(ConfigError, match="'xyz'.*'folder'"):
        find_protocol("xyz")


def test_protocols_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_protocol("voc-20").num_classes = 21
    with pytest.raises(TypeError):
        PROTOCOLS["voc-20"] = find_protocol("voc-21")  # type: ignore[index]
