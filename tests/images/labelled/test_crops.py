"""Crops with labels: the same for the same place in a run, and every label over its own pixel."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader

from pyramid_tokenizer.errors import ConfigError, DataError, ImageError
from pyramid_tokenizer.images import RandomCrops
from pyramid_tokenizer.images.labelled import open_segmentation_set
from pyramid_tokenizer.images.labelled.crops import LabelledCrops
from pyramid_tokenizer.images.read import read_image
from tests.labelled import COLOURS, IGNORED_VALUE, save_labelled

FIVE = ["red", "green|lime", "blue", "yellow", "black"]
IGNORED = len(COLOURS) - 1


@pytest.fixture(scope="module")
def five(labelled):
    """Six images of five classes and ignored pixels."""
    return labelled(FIVE, 6, classes=[0, 1, 2, 3, 4, IGNORED_VALUE])


def crops_of(*sets, **options):
    return LabelledCrops(sets, **{"batch_size": 4, "crop_px": 32} | options)


def assert_same(first, second):
    for name in ("images", "labels", "sets"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def joined(*batches):
    return {name: torch.cat([getattr(b, name) for b in batches]) for name in ("images", "labels", "sets")}


def inside(labels):
    """Where all labels within three pixels are the same."""
    near = F.pad(labels[:, None].float(), (3, 3, 3, 3), mode="replicate")
    return (F.max_pool2d(near, 7, 1) == -F.max_pool2d(-near, 7, 1))[:, 0]


def colour_classes(images):
    """(B, S, S): which colour a pixel has."""
    distances = (images[:, None] - (COLOURS / 255)[None, :, :, None, None]).abs().sum(2)  # (B, colours, S, S)
    return distances.argmin(1)


class TestPlaceInTheRun:
    def test_an_item_depends_on_its_number_and_the_seed_alone(self, five):
        crops, again = crops_of(five), crops_of(five)
        later = again[5]
        torch.rand(3)
        for item in (0, 1, 5):
            assert_same(crops[item], again[item])
        assert_same(crops[5], later)
        assert not torch.equal(crops[0].images, crops[1].images)
        assert not torch.equal(crops[0].images, crops_of(five, seed=1)[0].images)

    def test_processes_and_passes_share_the_crops_of_a_step(self, five):
        whole = crops_of(five, batch_size=8)
        ranks = [crops_of(five, rank=rank, world_size=2) for rank in (0, 1)]
        passes = crops_of(five, accumulate=2)
        both = [crops_of(five, batch_size=2, accumulate=2, rank=rank, world_size=2) for rank in (0, 1)]
        for step in (0, 3):
            wanted = joined(whole[step])
            for parts in (
                [crops[step] for crops in ranks],
                [passes[2 * step], passes[2 * step + 1]],
                [both[rank][2 * step + part] for part in (0, 1) for rank in (0, 1)],
            ):
                found = joined(*parts)
                assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    def test_loader_processes_change_nothing(self, five):
        crops = crops_of(five, batch_size=2)
        assert_same(pickle.loads(pickle.dumps(crops[1])), crops[1])
        loaded = list(DataLoader(crops, batch_size=None, sampler=range(2)))
        for item in (0, 1):
            assert_same(loaded[item], crops[item])

    def test_a_batch_moves_to_a_device_and_tells_its_length(self, five):
        batch = crops_of(five, batch_size=3)[0]
        assert len(batch) == 3
        moved = batch.to(torch.device("meta"))
        assert {moved.images.device.type, moved.labels.device.type, moved.sets.device.type} == {"meta"}


class TestLabelsAndPixels:
    def test_shapes_dtypes_and_ranges(self, five):
        batch = crops_of(five)[0]
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, 32, 32), torch.float32)
        assert (batch.labels.shape, batch.labels.dtype) == ((4, 32, 32), torch.int64)
        assert batch.sets.tolist() == [0] * 4
        assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1

    @pytest.mark.parametrize("zoom", [1.0, 1.6, 3.0])
    def test_every_label_lies_over_its_own_pixel(self, five, zoom):
        crops, seen = crops_of(five, zoom=zoom), set()
        for item in range(6):
            batch = crops[item]
            colours, there = colour_classes(batch.images), inside(batch.labels)
            wanted = torch.where(colours == IGNORED, -1, colours)
            assert torch.equal(batch.labels[there], wanted[there])
            assert there.float().mean() > 0.3
            seen |= set(batch.labels.unique().tolist())
        assert seen == {-1, 0, 1, 2, 3, 4}

    def test_a_image_of_the_crops_size_is_given_whole_or_mirrored_with_its_labels(self, labelled):
        small = labelled(FIVE, 1, size=(32, 32))
        image, labels = read_image(small[0].image), small[0].labels
        assert not torch.equal(labels, labels.flip(1))
        batch, turned = crops_of(small, batch_size=24, zoom=1.0)[0], []
        for found, own in zip(batch.images, batch.labels, strict=True):
            turned.append(not torch.allclose(found, image, atol=1e-6))
            torch.testing.assert_close(found, image.flip(2) if turned[-1] else image)
            assert torch.equal(own, labels.flip(1) if turned[-1] else labels)
        assert 4 < sum(turned) < 20

    def test_an_image_and_its_labels_are_cropped_as_images_without_labels_are(self, five, tmp_path):
        images = [sample.image for sample in five]
        wanted = RandomCrops(images, batch_size=4, crop_px=32, seed=7)
        found = crops_of(five, seed=7)
        assert len(found) == len(wanted) == len(list(found))
        for item in range(3):
            assert torch.equal(found[item].images, wanted[item])

    def test_short_sides_are_resized_to_between_one_and_zoom_crops_and_not_enlarged(self, tmp_path):
        # every other stripe of six columns is of class 1: how wide one is in a crop tells the scale
        values = torch.zeros(90, 90, dtype=torch.int64)
        values[:, torch.arange(90) // 6 % 2 == 1] = 1
        save_labelled(tmp_path, "a", values)
        (tmp_path / "classes.txt").write_text("a\nb\n")
        crops, widths = crops_of(open_segmentation_set(tmp_path), batch_size=16, crop_px=60, zoom=2.0), []
        for labels in crops[0].labels:
            changes = int((labels[0, 1:] != labels[0, :-1]).sum())
            widths.append(60 / changes / 6)
        assert 0.6 < min(widths) < 0.8
        assert 0.9 < max(widths) < 1.15

    def test_a_strip_is_enlarged_to_fill_the_crop(self, labelled):
        batch = crops_of(labelled(FIVE, 2, size=(9, 40)), crop_px=32)[0]
        assert batch.images.shape == (4, 3, 32, 32)


class TestClasses:
    def test_the_background_has_no_name_and_the_number_after_the_last_one(self, labelled):
        names = ["background", "green", "blue", "yellow", "black"]
        crops = crops_of(labelled(names, 4, classes=[0, 1, 2, 3, 4, IGNORED_VALUE]))
        assert crops.names == (("green", "blue", "yellow", "black"),)
        place = torch.tensor([4, 0, 1, 2, 3, -1])  # of colours
        for item in range(4):
            batch = crops[item]
            there = inside(batch.labels)
            assert torch.equal(batch.labels[there], place[colour_classes(batch.images)][there])

    @pytest.mark.parametrize("left_out", [["green", "yellow"], {"green|lime", "yellow"}])
    def test_classes_left_out_are_ignored_and_the_others_close_up(self, five, left_out):
        crops, place = crops_of(five, left_out=left_out), torch.tensor([0, -1, 1, -1, 2, -1])
        assert crops.names == (("red", "blue", "black"),)
        for item in range(4):
            batch = crops[item]
            labels, there = batch.labels, inside(colour_classes(batch.images))
            assert torch.equal(labels[there], place[colour_classes(batch.images)][there])

    def test_sets_have_names_and_numbers_of_their_own(self, five, labelled):
        two = labelled(["sun", "background|nothing", "sea"], 2, classes=[0, 1, 2], seed=3)
        crops = crops_of(five, two, left_out=["sea", "red"], batch_size=8)
        assert crops.names == (("green|lime", "blue", "yellow", "black"), ("sun", "background|nothing"))
        places = torch.tensor([[-1, 0, 1, 2, 3, -1], [0, 1, -1, -9, -9, -9]])
        seen = set()
        for item in range(4):
            batch = crops[item]
            for image, labels, which in zip(batch.images, batch.labels, batch.sets, strict=True):
                colours = colour_classes(image[None])
                there = inside(colours)
                assert torch.equal(labels[None][there], places[which][colours][there])
                seen.add(int(which))
        assert seen == {0, 1}

    def test_a_image_is_as_likely_as_any_other_whichever_set_it_is_in(self, labelled):
        three, one = (labelled(FIVE, count, size=(8, 8)) for count in (3, 1))
        sets = torch.cat([crops_of(three, one, crop_px=8, batch_size=50)[item].sets for item in range(8)])
        assert float(sets.float().mean()) == pytest.approx(0.25, abs=0.06)


class TestErrors:
    def test_labels_of_another_size_are_refused_by_name(self, labelled):
        own = labelled(FIVE, 1)
        Image.new("RGB", (60, 71)).save(own.files[0].image)
        with pytest.raises(DataError, match="60x71 px from the image .* 60x72 px from the label .*'00'"):
            crops_of(own)[0]

    def test_a_broken_image_is_an_error(self, labelled):
        own = labelled(FIVE, 1)
        own.files[0].image.write_bytes(b"no image")
        with pytest.raises(ImageError):
            crops_of(own)[0]

    def test_no_set_and_no_class_are_errors(self, five):
        with pytest.raises(DataError, match="labelled images"):
            crops_of()
        with pytest.raises(DataError, match="class .*SegmentationSet"):
            crops_of(five, left_out=["red", "green", "blue", "yellow", "black"])

    @pytest.mark.parametrize(
        ("left_out", "message"),
        [(["blu"], "got 'blu': did you mean 'blue'"), (["lime"], "got 'lime': write it"), ("red", "got 'r'")],
    )
    def test_a_class_to_leave_out_that_no_set_has_is_an_error(self, five, left_out, message):
        with pytest.raises(ConfigError, match=message):
            crops_of(five, left_out=left_out)


def test_pixel_shares_are_those_of_all_labelled_pixels(five):
    crops = crops_of(five, left_out=["blue"])
    counts = torch.zeros(len(FIVE))
    for sample in five:
        for index in range(len(FIVE)):
            counts[index] += int((sample.labels == index).sum())
    counts = torch.cat([counts[:2], counts[3:], torch.zeros(1)])  # "blue" is ignored, and nothing is of no class
    torch.testing.assert_close(crops.pixel_shares(), [(counts / counts.sum()).double()], rtol=1e-5, atol=1e-6)


class TestCheckOfLabels:
    def test_a_set_whose_labels_hold_all_classes_has_no_findings(self, five):
        assert crops_of(five).check_labels() == ()

    def test_a_class_that_never_occurs_and_ignored_areas_are_told(self, labelled):
        own = labelled(FIVE, 2, classes=[0, 1, *[IGNORED_VALUE] * 6])
        absent, ignored = crops_of(own, labelled(FIVE, 6)).check_labels()
        assert "3 of 5 classes, 'blue', 'yellow', 'black'" in absent
        assert "% of the pixels ignored" in ignored

    @pytest.mark.parametrize(
        ("names", "classes", "facts"),
        [
            (["background", "person"], [0, IGNORED_VALUE], "'none of them' alone.*'person'"),
            (["red", "green"], [1], "'green' alone.*'red'|'green' alone.*only 'green'"),
            (["red", "green"], [IGNORED_VALUE], "no pixel of any class"),
        ],
    )
    def test_a_set_that_teaches_nothing_is_an_error(self, labelled, five, names, classes, facts):
        with pytest.raises(DataError, match=facts):
            crops_of(five, labelled(names, 2, classes=classes)).check_labels()
