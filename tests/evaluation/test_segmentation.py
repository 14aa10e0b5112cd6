import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid_tokenizer.errors import ConfigError, DataError, ImageFileError
from pyramid_tokenizer.evaluation import ConfusionMatrix, evaluate_segmentation
from pyramid_tokenizer.evaluation.confusion import SCORES
from pyramid_tokenizer.images.labelled import Sample, open_segmentation_set


def samples(count=4, num_classes=3):
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        image = torch.rand(3, 8 + index, 9, generator=generator)
        labels = torch.randint(-1, num_classes, image.shape[1:], generator=generator)
        made.append(Sample(image=image, labels=labels, name=f"image {index}"))
    return made


def brightest(image):
    return image.argmax(0)


def test_pixels_are_summed_over_images_before_the_ratio():
    matrix = ConfusionMatrix(3, ignore=-1)
    for sample in samples():
        matrix.add(brightest(sample.image), sample.labels)
    result = evaluate_segmentation(brightest, samples(), num_classes=3)
    assert torch.equal(result.confusion.counts, matrix.counts)
    assert result.scores == matrix.scores()
    assert result.num_images == 4
    for name in SCORES:
        low, high = result.intervals[name]
        assert low <= getattr(result.scores, name) <= high


def test_a_perfect_prediction_scores_one_everywhere():
    wanted = iter(sample.labels for sample in samples())
    result = evaluate_segmentation(lambda _: next(wanted), samples(), num_classes=3)
    assert all(getattr(result.scores, name) == 1 for name in SCORES)
    assert result.intervals["miou_present"] == (1.0, 1.0)
    assert result.confusion.none_share == 0


def test_none_is_a_miss_unless_it_stands_for_a_class():
    nothing = {"predict": lambda image: torch.full(image.shape[1:], -1), "samples": samples(), "num_classes": 3}
    assert evaluate_segmentation(**nothing).scores.pixel_accuracy == 0
    assert evaluate_segmentation(**nothing).confusion.none_share == 1
    as_background = evaluate_segmentation(**nothing, none_class=0)
    labelled = torch.cat([sample.labels.flatten() for sample in samples()])
    assert as_background.scores.pixel_accuracy == pytest.approx(
        float((labelled == 0).sum() / (labelled >= 0).sum()), rel=1e-6
    )


def test_the_result_is_plain_json_without_nan():
    names = ("a", "a", "c", "never")
    with pytest.warns(UserWarning, match="1 of 4 classes, 'never'"):
        result = evaluate_segmentation(brightest, samples(), num_classes=4, names=names)
    saved = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert saved["miou_present"] == result.scores.miou_present
    assert [entry["name"] for entry in saved["classes"]] == list(names)
    assert saved["classes"][3] == {"name": "never", "iou": None, "pixels": 0}
    assert (saved["num_images"], saved["num_classes"], saved["num_classes_present"]) == (4, 4, 3)
    assert sum(entry["pixels"] for entry in saved["classes"]) == saved["num_pixels"]
    assert set(saved["intervals"]) == set(SCORES)
    assert all(low <= saved[name] <= high for name, (low, high) in saved["intervals"].items())


def test_labels_that_cannot_mean_what_the_classes_say_are_told_in_the_result_and_by_warnings():
    labels = torch.zeros(4, 4, dtype=torch.int64)
    labels[:3] = -1  # the value 255 of masks that hold 0 and 255
    sample = Sample(image=torch.zeros(3, 4, 4), labels=labels, name="person")
    options = {"samples": [sample], "num_classes": 2, "names": ("background", "person")}
    with pytest.warns(UserWarning, match="expected") as told:
        result = evaluate_segmentation(brightest, **options)
    assert result.warnings == tuple(str(warning.message) for warning in told)
    assert result.to_dict()["warnings"] == list(result.warnings)
    assert result.to_dict()["num_ignored"] == 12
    for facts in ("'person'", "only 'background'", "75 %"):
        assert sum(facts in warning for warning in result.warnings) == 1
    with pytest.warns(UserWarning, match="expected") as told:
        evaluate_segmentation(brightest, **options, largest_ignored_share=1.0)
    assert len(told) == 2


def test_labels_that_are_all_ignored_are_an_error():
    sample = Sample(image=torch.zeros(3, 4, 4), labels=torch.full((4, 4), -1), name="all")
    with pytest.raises(DataError, match="100 %"):
        evaluate_segmentation(brightest, [sample], num_classes=2)


def test_without_names_classes_are_numbered_and_without_draws_there_are_no_intervals():
    saved = evaluate_segmentation(brightest, samples(), num_classes=3, bootstrap_samples=0).to_dict()
    assert [entry["name"] for entry in saved["classes"]] == [0, 1, 2]
    assert saved["intervals"] == {}


def test_a_set_on_disk_is_measured_end_to_end(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for key in ("a", "b"):
        pixels = np.zeros((16, 16, 3), dtype=np.uint8)
        pixels[:, 8:] = 255
        Image.fromarray(pixels).save(tmp_path / f"images/{key}.png")
        labels = np.repeat([[0, 1]], 16, axis=0).repeat(8, axis=1).astype(np.uint8)
        labels[0, 0] = 255
        labels[1, 0] = 1
        Image.fromarray(labels).save(tmp_path / f"labels/{key}.png")
    (tmp_path / "classes.txt").write_text("dark\nbright\n")
    found = open_segmentation_set(tmp_path)
    result = evaluate_segmentation(
        lambda image: (image.mean(0) > 0.5).long(), found, num_classes=found.num_classes, names=found.names
    )
    assert result.confusion.counts.tolist() == [[2 * 126, 0, 0], [2, 2 * 128, 0]]


def test_wrong_settings_are_refused_before_an_image_is_read():
    unread = [Sample(image="nowhere.png", labels=torch.zeros(2, 2, dtype=torch.int64), name="x")]
    with pytest.raises(ConfigError, match="3 names, got 1"):
        evaluate_segmentation(brightest, unread, num_classes=3, names=("a",))
    with pytest.raises(ConfigError, match="none_class.* 2, got 3"):
        evaluate_segmentation(brightest, unread, num_classes=3, none_class=3)
    with pytest.raises(ConfigError, match="num_classes"):
        evaluate_segmentation(brightest, unread, num_classes=0)
    with pytest.raises(ImageFileError, match="nowhere.png"):
        evaluate_segmentation(brightest, unread, num_classes=3)


def test_what_does_not_fit_together_is_refused_by_the_samples_name():
    with pytest.raises(DataError, match="sample"):
        evaluate_segmentation(brightest, [], num_classes=3)
    turned = Sample(image=torch.zeros(3, 4, 6), labels=torch.zeros(6, 4, dtype=torch.int64), name="turned")
    with pytest.raises(DataError, match="6x4 px from the image .* 4x6 px from the label .*'turned'.*EXIF"):
        evaluate_segmentation(brightest, [turned], num_classes=3)
    with pytest.raises(DataError, match="'image 0'"):
        evaluate_segmentation(lambda image: brightest(image)[::2], samples(), num_classes=3)
    with pytest.raises(DataError, match="2 predicted in 'image 0'"):
        evaluate_segmentation(lambda image: brightest(image) * 0 + 2, samples(num_classes=2), num_classes=2)
