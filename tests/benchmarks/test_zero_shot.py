"""The figures of zero_shot.py on rankings worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import zero_shot


def test_top1_counts_right_names_and_shuffled_names_fall_to_chance() -> None:
    names = torch.eye(5)
    images = F.normalize(names[[0, 1, 2, 3, 4, 0]] + 0.1, dim=1)
    accuracy, control = zero_shot.top1(images, names, [0, 1, 2, 3, 4, 1])
    assert accuracy == pytest.approx(5 / 6)
    assert control == pytest.approx(1 / 5, abs=0.06)


def test_caption_recall_reads_both_directions() -> None:
    images = torch.eye(3)
    captions = torch.eye(3)[[0, 1, 1]]  # the third caption is of image 2 and looks like image 1
    owner = torch.tensor([0, 1, 2])
    to_image, to_caption = zero_shot.caption_recall(images, captions, owner, k=1)
    assert to_image == pytest.approx(2 / 3)
    assert to_caption == pytest.approx(2 / 3)
    assert zero_shot.caption_recall(images, captions, owner, k=3) == (1.0, 1.0)


def test_neighbour_rank_is_first_place_for_the_teacher_itself_and_last_for_its_opposite() -> None:
    teacher = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    teacher = F.normalize(teacher - teacher.mean(0), dim=1)
    held_out = torch.arange(40) < 10
    assert zero_shot.neighbour_rank(teacher, teacher, held_out)[0] < 1.2 / 40
    centred = F.normalize(teacher - teacher.mean(0), dim=1)
    scores = (centred @ centred.T).fill_diagonal_(-2)
    swapped = centred.clone()
    swapped[0] = -centred[scores[0].argmax()]  # the first name now stands opposite its nearest one
    only_first = torch.arange(40) == 0
    assert zero_shot.neighbour_rank(teacher, swapped, only_first) == pytest.approx((39 / 40, 39 / 40))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "recon").mkdir()
    rows = ["train/4.jpg,caltech101,Sea_Horse", "train/5.jpg,caltech101,ketch", "train/51.jpg,imagenet,tench"]
    (tmp_path / "recon" / "train.csv").write_text("\n".join(["file,source,label", *rows, "train/6.jpg,coco,"]) + "\n")
    folder = tmp_path / "seg" / "coco80"
    for part in ("images", "labels", "splits"):
        (folder / part).mkdir(parents=True)
    names = ["background", "person", "zebra", *(f"thing {i}" for i in range(30))]
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    (folder / "splits" / "test.txt").write_text("a\nb\nc\n")
    for stem, value in (("a", 2), ("b", 1), ("c", 0)):
        labels = np.zeros((8, 8), np.uint8)
        labels[:4] = value
        labels[0, 0] = 2  # a zebra's pixel in each: only in the first and last is it the largest
        Image.fromarray(labels).save(folder / "labels" / f"{stem}.png")
        Image.fromarray(labels).save(folder / "images" / f"{stem}.jpg")
    return tmp_path


def test_classification_takes_the_test_rows_of_its_sources(data: Path) -> None:
    found = zero_shot.classification(data, ("caltech101",))
    assert found == zero_shot.Images([data / "recon" / "train/4.jpg"], [1], ["ketch", "sea horse"])


def test_kept_out_images_are_named_by_label_or_by_their_largest_class(data: Path) -> None:
    found = zero_shot.kept_out(data)
    named = [(file.name, found.names[target]) for file, target in zip(found.files, found.targets, strict=True)]
    assert named == [("5.jpg", "boat"), ("a.jpg", "zebra"), ("c.jpg", "zebra")]
    assert len(set(found.names)) == len(found.names) == 26
    assert "person" not in found.names


def test_names_are_read_in_every_template_and_averaged_to_unit_length() -> None:
    class Reader:
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return F.one_hot(torch.tensor([len(text) % 7 for text in texts]), 7).float()

    rows = zero_shot.encode_names(Reader(), ["sea_horse"])
    counts = torch.zeros(7)
    for template in zero_shot.TEMPLATES:
        counts[len(template.format("sea horse")) % 7] += 1
    assert torch.allclose(rows[0], F.normalize(counts, dim=0))
