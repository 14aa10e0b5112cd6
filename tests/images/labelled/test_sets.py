import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import ConfigError, DataError
from pyramid_tokenizer.images.labelled.labels import IGNORED
from pyramid_tokenizer.images.labelled.layouts import FilePair
from pyramid_tokenizer.images.labelled.protocols import PROTOCOLS, find_protocol
from pyramid_tokenizer.images.labelled.sets import SegmentationSet, open_segmentation_set, read_label_values

SIDE = 16


def put(path, values=None, *, palette=False):
    """A label file of these values tiled to 16 x 16 px, or an image; says its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.new("RGB", (SIDE, SIDE), (200, 10, 30)).save(path)
        return None
    dtype = np.uint16 if max(values) > 255 else np.uint8
    array = np.resize(np.array(values, dtype=dtype), (SIDE, SIDE))
    image = Image.fromarray(array)
    if palette:
        image = Image.frombytes("P", (SIDE, SIDE), array.tobytes())
        image.putpalette([x for color in range(256) for x in (255 - color, color, 7)])
    image.save(path)
    return array


def put_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def numbered(count):
    return [f"thing {i}" for i in range(count)]


def ade_150(root):
    info = ["Idx\tRatio\tTrain\tVal\tName", *(f"{i}\t0.1\t1\t1\tname {i}, other {i}" for i in range(1, 151))]
    put_lines(root / "objectInfo150.txt", info)
    for key in ("ADE_val_00000001", "ADE_val_00000002"):
        put(root / f"images/validation/{key}.jpg")
        put(root / f"annotations/validation/{key}.png", [0, 1, 2, 150])
    return {"keys": ["ADE_val_00000001", "ADE_val_00000002"], "labels": [-1, 0, 1, 149], "first": "name 1|other 1"}


def ade_847(root):
    put_lines(root / "classes.txt", numbered(847))
    for key in ("a", "b"):
        put(root / f"images_detectron2/validation/{key}.jpg")
        put(root / f"annotations_detectron2/validation/{key}.tif", [0, 255, 846, 65535])
    return {"keys": ["a", "b"], "labels": [0, 255, 846, -1], "first": "thing 0"}


def context_59(root):
    for key in ("2008_000002", "2008_000003"):
        put(root / f"annotations_detectron2/pc59_val/{key}.png", [0, 58, 255, 1])
    for key in ("2008_000001", "2008_000002", "2008_000003"):  # one of another split
        put(root / f"JPEGImages/{key}.jpg")
    return {"keys": ["2008_000002", "2008_000003"], "labels": [0, 58, -1, 1], "first": "aeroplane"}


def context_459(root, suffix=".tif"):
    put_lines(root / "labels.txt", [f"{i}: thing {i}" for i in range(1, 460)])
    for key in ("2008_000002", "2008_000003"):
        put(root / f"annotations_detectron2/pc459_val/{key}{suffix}", [0, 255, 458, 459, 65535])
        put(root / f"JPEGImages/{key}.jpg")
    return {"keys": ["2008_000002", "2008_000003"], "labels": [0, 255, 458, -1, -1], "first": "thing 1"}


def context_459_png(root):
    return context_459(root, suffix=".png")


def voc(root, labels, first, folder="SegmentationClass"):
    put_lines(root / "ImageSets/Segmentation/val.txt", ["2007_000042", "2007_000033"])
    for key in ("2007_000033", "2007_000042", "2007_000061"):  # the last one of another split
        put(root / f"JPEGImages/{key}.jpg")
        put(root / f"{folder}/{key}.png", [0, 1, 20, 255], palette=folder == "SegmentationClass")
    return {"keys": ["2007_000042", "2007_000033"], "labels": labels, "first": first}


def voc_20(root):
    return voc(root, [-1, 0, 19, -1], "aeroplane")


def voc_20_augmented(root):
    return voc(root, [-1, 0, 19, -1], "aeroplane", folder="SegmentationClassAug")


def voc_20b(root):
    return voc(root, [20, 0, 19, -1], "aeroplane")


def voc_21(root):
    return voc(root, [0, 1, 20, -1], "background")


def coco_stuff(root, folder="annotations", suffix="_labelTrainIds.png"):
    put_lines(root / "labels.txt", ["0: unlabeled", *(f"{i}: thing {i}" for i in range(1, 183))])
    for key in ("000000000139", "000000000285"):
        put(root / f"images/val2017/{key}.jpg")
        put(root / f"{folder}/val2017/{key}{suffix}", [0, 170, 255])
        put(root / f"annotations/val2017/{key}.png", [181])  # the original values, not to be read
    return {"keys": ["000000000139", "000000000285"], "labels": [0, 170, -1], "first": "thing 1"}


def coco_stuff_detectron2(root):
    return coco_stuff(root, "annotations_detectron2", ".png")


def cityscapes(root, train_ids=True):
    keys = ["frankfurt/frankfurt_000000_000294", "lindau/lindau_000001_000019"]
    for key in keys:
        put(root / f"leftImg8bit/val/{key}_leftImg8bit.png")
        put(root / f"gtFine/val/{key}_gtFine_labelIds.png", [7, 33, 0, 29, 8, 255])
        if train_ids:
            put(root / f"gtFine/val/{key}_gtFine_labelTrainIds.png", [0, 18, 255, 255, 1, 255])
    return {"keys": keys, "labels": [0, 18, -1, -1, 1, -1], "first": "road"}


def cityscapes_ids(root):
    return cityscapes(root, train_ids=False)


def folder(root):
    put_lines(root / "classes.txt", ["background", "cow|cattle", "sky"])
    put(root / "images/a.jpg")
    put(root / "images/b.png")
    for key in ("a", "b"):
        put(root / f"labels/{key}.png", [0, 1, 2, 255])
    put_lines(root / "splits/test.txt", ["b"])
    return {"keys": ["a", "b"], "labels": [0, 1, 2, -1], "first": "background"}


LAYOUTS = [
    ("ade20k-150", ade_150),
    ("ade20k-847", ade_847),
    ("pascal-context-59", context_59),
    ("pascal-context-459", context_459),
    ("pascal-context-459", context_459_png),
    ("voc-20", voc_20),
    ("voc-20", voc_20_augmented),
    ("voc-20b", voc_20b),
    ("voc-21", voc_21),
    ("coco-stuff-171", coco_stuff),
    ("coco-stuff-171", coco_stuff_detectron2),
    ("cityscapes-19", cityscapes),
    ("cityscapes-19", cityscapes_ids),
    ("folder", folder),
]


def test_every_protocol_has_a_layout_here():
    assert {name for name, _ in LAYOUTS} == set(PROTOCOLS)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=[make.__name__ for _, make in LAYOUTS])
def test_every_layout_on_disk_is_read_as_its_protocol_says(tmp_path, name, make):
    expected = make(tmp_path)
    samples = open_segmentation_set(tmp_path, name)
    assert [sample.name for sample in samples] == expected["keys"]
    assert samples.num_classes == (find_protocol(name).num_classes or 3)
    assert samples.names[0] == expected["first"]
    wanted = torch.from_numpy(np.resize(np.array(expected["labels"]), (SIDE, SIDE)))
    for sample in samples:
        assert sample.labels.dtype == torch.int64
        assert torch.equal(sample.labels, wanted)
        assert isinstance(sample.image, Path)
        assert sample.image.is_file()
        assert Path(sample.name).name in sample.image.name
    assert len(samples) == 2
    assert samples[-1].name == expected["keys"][-1]


def test_coco_stuffs_own_list_loses_the_eleven_things_that_were_never_annotated(tmp_path):
    coco_stuff(tmp_path)
    names = open_segmentation_set(tmp_path, "coco-stuff-171").names
    assert names[10:13] == ("thing 11", "thing 13", "thing 14")
    assert names[79:81] == ("thing 90", "thing 92")


def test_a_split_is_a_list_in_a_plain_folder_and_a_name_elsewhere(tmp_path):
    folder(tmp_path / "own")
    assert [s.name for s in open_segmentation_set(tmp_path / "own", split="test")] == ["b"]
    put(tmp_path / "ade/images/training/x.jpg")
    put(tmp_path / "ade/annotations/training/x.png", [1])
    training = open_segmentation_set(tmp_path / "ade", "ade20k-150", split="training", classes=numbered(150))
    assert [s.name for s in training] == ["x"]


def test_line_0_called_background_is_the_background_class(tmp_path):
    folder(tmp_path)
    protocol = open_segmentation_set(tmp_path).protocol
    assert (protocol.background, protocol.background_class) == ("class", 0)
    put_lines(tmp_path / "classes.txt", ["sky", "cow", "background"])
    assert open_segmentation_set(tmp_path).protocol.background_class is None


def test_class_names_may_be_given_in_place_of_the_sets_own(tmp_path):
    voc_20(tmp_path)
    own = [f"a {i}" for i in range(20)]
    put_lines(tmp_path / "mine.txt", own)
    for classes in (own, tmp_path / "mine.txt", str(tmp_path / "mine.txt")):
        assert open_segmentation_set(tmp_path, "voc-20", classes=classes).names == tuple(own)
    with pytest.raises(DataError, match="20 .*got 2"):
        open_segmentation_set(tmp_path, "voc-20", classes=["a", "b"])
    with pytest.raises(DataError, match="20 .*got 1"):
        put_lines(tmp_path / "mine.txt", ["a"])
        open_segmentation_set(tmp_path, "voc-20", classes=tmp_path / "mine.txt")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_missing_folder_shows_the_layout_that_was_expected(tmp_path, name):
    layout = find_protocol(name).layout
    for root, got in ((tmp_path / "nowhere", "got no folder"), (tmp_path, "got no ")):
        with pytest.raises(DataError) as caught:
            open_segmentation_set(root, name)
        message = str(caught.value)
        assert got in message
        assert message.startswith("expected files laid out as\n  ")
        for files in layout.label_files:
            assert f"{files.folder.format(split=layout.default_split)}/*{files.suffix}" in message


def test_a_folder_one_too_high_is_answered_with_the_one_below(tmp_path):
    context_59(tmp_path / "VOC2010")
    with pytest.raises(DataError, match="'.*VOC2010'"):
        open_segmentation_set(tmp_path, "pascal-context-59")


def test_missing_files_are_named(tmp_path):
    voc_20(tmp_path)
    put_lines(tmp_path / "ImageSets/Segmentation/val.txt", ["2007_000033", "2009_1"])
    with pytest.raises(DataError, match=r"got no '.*SegmentationClass.2009_1.png'"):
        open_segmentation_set(tmp_path, "voc-20")
    with pytest.raises(DataError, match="trainval.txt'.* val"):
        open_segmentation_set(tmp_path, "voc-20", split="trainval")
    put_lines(tmp_path / "ImageSets/Segmentation/val.txt", [])
    with pytest.raises(DataError, match="empty '.*val.txt'"):
        open_segmentation_set(tmp_path, "voc-20")
    put_lines(tmp_path / "ImageSets/Segmentation/val.txt", ["2007_000033"])
    (tmp_path / "JPEGImages/2007_000033.jpg").unlink()
    with pytest.raises(DataError, match="2007_000033.jpg .*JPEGImages'"):
        open_segmentation_set(tmp_path, "voc-20")


def test_a_set_without_its_class_file_says_which_one(tmp_path):
    ade_150(tmp_path)
    (tmp_path / "objectInfo150.txt").unlink()
    with pytest.raises(DataError, match="objectInfo150.txt or classes.txt"):
        open_segmentation_set(tmp_path, "ade20k-150")


def test_hidden_files_of_macos_are_no_labels(tmp_path):
    folder(tmp_path)
    (tmp_path / "labels/._a.png").write_bytes(b"junk")
    assert len(open_segmentation_set(tmp_path)) == 2


def test_images_without_labels_are_counted_and_can_be_listed(tmp_path, caplog):
    put_lines(tmp_path / "classes.txt", ["a", "b"])
    for name in ("one", "two", "three"):
        put(tmp_path / f"images/{name}.jpg")
    put(tmp_path / "labels/one.png", [0, 1])
    with caplog.at_level("DEBUG"):
        assert len(open_segmentation_set(tmp_path)) == 1
    assert "2 images have no label file" in caplog.text
    assert all(f"{name}.jpg is left out" in caplog.text for name in ("two", "three"))


def test_values_of_no_class_name_the_file(tmp_path):
    folder(tmp_path)
    put(tmp_path / "labels/b.png", [0, 3, 9])
    samples = open_segmentation_set(tmp_path)
    assert samples[0].name == "a"
    with pytest.raises(DataError, match="3 classes, got 3, 9 in '.*b.png'"):
        samples[1]
    with pytest.raises(IndexError):
        samples[2]


def test_a_folder_of_more_than_255_classes_needs_another_ignore_id(tmp_path):
    folder(tmp_path)
    put_lines(tmp_path / "classes.txt", numbered(256))
    with pytest.raises(ConfigError, match="256 classes, got 255"):
        open_segmentation_set(tmp_path)


def test_a_set_needs_the_names_of_its_classes():
    with pytest.raises(ConfigError, match="150 .*'ade20k-150', got 0"):
        SegmentationSet([], find_protocol("ade20k-150"))


def test_a_set_can_be_sent_to_another_process(tmp_path):
    folder(tmp_path)
    samples = open_segmentation_set(tmp_path)
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy[0].labels, samples[0].labels)
    assert repr(samples) == "SegmentationSet(folder, 2 images, 3 classes)"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_labels_are_stored_values_in_every_kind_of_file(tmp_path, suffix):
    wide = np.array([[0, 300], [65535, 255]], dtype=np.uint16)
    for array in (wide, wide.astype(np.int32), wide.astype(np.uint8), wide == 300):
        if array.dtype == np.int32 and suffix == ".png":
            continue  # Pillow writes 32-bit pixels as 16-bit PNG
        path = tmp_path / f"x{suffix}"
        Image.fromarray(array).save(path)
        assert read_label_values(path).tolist() == array.astype(int).tolist()


def test_palette_files_give_indices_and_never_colours(tmp_path):
    put(tmp_path / "x.png", [0, 15, 255], palette=True)
    assert read_label_values(tmp_path / "x.png")[0, :3].tolist() == [0, 15, 255]


def test_files_that_are_no_labels_are_refused_by_name(tmp_path):
    put(tmp_path / "colours.png")
    with pytest.raises(DataError, match="RGB in '.*colours.png'"):
        read_label_values(tmp_path / "colours.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            read_label_values(tmp_path / name)
    Image.fromarray(np.array([[-1, 70000]], dtype=np.int32)).save(tmp_path / "huge.tif")
    with pytest.raises(DataError, match="65535, got -1 to 70000"):
        read_label_values(tmp_path / "huge.tif")


def test_ignored_is_the_value_that_the_metrics_leave_out():
    pair = FilePair("x", Path("x.jpg"), Path("x.png"))
    assert len(SegmentationSet([pair], find_protocol("voc-21"))) == 1
    assert IGNORED == -1
