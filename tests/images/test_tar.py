import io
import tarfile

import pytest
import torch

from pyramid_tokenizer.errors import DataError, ImageError
from pyramid_tokenizer.images.tar import TarImages


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shards_that_webdataset_wrote_are_read_by_number(tmp_path, encoded, pixels):
    webdataset = pytest.importorskip("webdataset")
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for i in range(shard, 5, 2):
                writer.write(
                    {"__key__": f"train/{i:04d}", "json": {"i": i}, "png": encoded[i], "seg.png": b"mask", "cls": i}
                )
    images = TarImages([tmp_path / "0.tar", tmp_path / "1.tar"])
    order = [0, 2, 4, 1, 3]
    assert [images.name(i) for i in range(len(images))] == [f"{tmp_path}/{i % 2}.tar:train/{i:04d}.png" for i in order]
    assert all(torch.equal(images.read(place), pixels[i]) for place, i in enumerate(order))


def test_of_several_images_in_a_sample_the_one_with_the_plain_suffix_is_read_or_the_named_one(
    tmp_path, encoded, pixels, write_tar
):
    fields = ("seg.png", "PNG", "depth.png", "txt")
    members = {f"{key}.{field}": encoded[i] for key in "ab" for i, field in enumerate(fields)}
    shard = write_tar(tmp_path / "a.tar", members)
    plain, masks = TarImages([shard]), TarImages([shard], column="seg.png")
    assert (plain.name(1), masks.name(1)) == (f"{shard}:b.PNG", f"{shard}:b.seg.png")
    assert torch.equal(plain.read(1), pixels[1])
    assert torch.equal(masks.read(1), pixels[0])
    assert torch.equal(TarImages([shard], column=".TXT").read(0), pixels[3])  # whatever its suffix says


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("a.left.png", "a.right.png"), ("2020.01.png", "2020.02.png")])
def test_several_images_of_equal_standing_are_an_error(tmp_path, encoded, write_tar, names):
    shard = write_tar(tmp_path / "a.tar", dict.fromkeys(names, encoded[0]))
    fields = ", ".join(name.partition(".")[2] for name in names)
    with pytest.raises(DataError, match=fields):
        TarImages([shard])


def test_what_is_no_image_is_passed_over(tmp_path, encoded, write_tar):
    members = ("./x/a.png", "x/a.txt", "x/._a.png", "__meta__/b.png", "readme", "x.v2/c.png", ".hidden.png", "x.v2/c")
    shard = write_tar(tmp_path / "a.tar", dict.fromkeys(members, encoded[0]))
    with tarfile.open(shard, "a") as tar:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    images = TarImages([shard])
    assert [images.name(i) for i in range(len(images))] == [f"{shard}:./x/a.png", f"{shard}:x.v2/c.png"]


def test_long_and_foreign_names_are_kept(tmp_path, encoded, pixels):
    names = ["d/" * 120 + "brücke é.png", "e" * 90 + "/" + "f" * 90 + ".png"]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        wanted = names[1:] if form == tarfile.USTAR_FORMAT else names
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
            for name in wanted:
                member = tarfile.TarInfo(name)
                member.size = len(encoded[3])
                tar.addfile(member, io.BytesIO(encoded[3]))
        images = TarImages([tmp_path / "a.tar"])
        assert [images.name(i) for i in range(len(images))] == [f"{tmp_path}/a.tar:{name}" for name in wanted]
        assert all(torch.equal(images.read(i), pixels[3]) for i in range(len(images)))


def test_a_damaged_image_is_found_when_it_is_read(tmp_path, encoded, pixels, write_tar):
    images = TarImages(
        [write_tar(tmp_path / "a.tar", {"a.png": encoded[0], "b.png": b"", "c.png": b"text", "d.png": encoded[1]})]
    )
    assert len(images) == 4
    for i in (1, 2):
        with pytest.raises(ImageError):
            images.read(i)
    assert torch.equal(images.read(3), pixels[1])


def damaged_header(data):
    return data[:512] + data[512:].replace(b"ustar", b"USTAR", 1).replace(b"b.png", b"B.png", 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: data.index(b"b.png") + 700], "unexpected end of data"),
        (lambda data: data[: data.index(b"b.png") + 100], "damaged at byte"),
        (damaged_header, "damaged at byte"),
        (lambda _: b"", "empty file"),
        (lambda data: b"\x1f\x8b" + data[2:], "uncompressed"),
    ],
    ids=["cut in an image", "cut in a header", "damaged header", "empty", "compressed"],
)
def test_a_damaged_shard_is_an_error_and_loses_no_image_silently(tmp_path, encoded, write_tar, damage, message):
    shard = write_tar(tmp_path / "a.tar", {"a.png": encoded[0], "b.png": encoded[1]})
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(DataError, match=rf"{message}.*a\.tar"):
        TarImages([shard])


def test_shards_without_images_are_an_error(tmp_path, write_tar):
    shard = write_tar(tmp_path / "a.tar", {"a.txt": b"x"})
    with pytest.raises(DataError, match=r"\.jpg.*a\.tar"):
        TarImages([shard])
    with pytest.raises(DataError, match=r"\*\.seg.png"):
        TarImages([shard], column="seg.png")
    with pytest.raises(DataError, match="No such file"):
        TarImages([tmp_path / "b.tar"])


def test_a_shard_that_went_away_is_an_image_error(tmp_path, encoded, write_tar):
    shard = write_tar(tmp_path / "a.tar", {"a.png": encoded[0]})
    images = TarImages([shard])
    shard.unlink()
    with pytest.raises(ImageError, match=r"a\.tar"):
        images.read(0)
