"""Files are whole or absent, whichever part of the package writes them and whatever goes wrong."""

import errno
import os
import shutil
import stat
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from pyramid_tokenizer import PyramidTokenizer, TokenPyramid, hub
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.cli.evaluation_report import write_json
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.config.training import TrainConfig
from pyramid_tokenizer.errors import CheckpointError, ConfigError, DataError, ImageFileError, TokenFileError
from pyramid_tokenizer.files import replacing, temporary_name, write_bytes, write_text
from pyramid_tokenizer.hub.resolve import bundled_models
from pyramid_tokenizer.images.files import save_image
from pyramid_tokenizer.images.packed import read_encoded
from pyramid_tokenizer.images.read import read_image
from pyramid_tokenizer.images.tables import ParquetImages
from pyramid_tokenizer.text.cache import EmbeddingCache
from pyramid_tokenizer.tokens.format import write_file
from pyramid_tokenizer.training.resume import check_settings
from pyramid_tokenizer.training.state import save_state

LONG = "n" * 236
"""With a suffix of four bytes, a name of 240; most file systems end at 255."""


def write_config(path, version):
    levels = (LevelConfig(stride=8, maps=(2,), codebook_size=16 * version, dim=4),)
    decoder = DecoderConfig(widths=(8,), depths=(1,), pixel_widths=(), pixel_depth=1)
    config = TokenizerConfig(
        backbone=BackboneConfig(kind="toy"), quantizer=QuantizerConfig(levels=levels), decoder=decoder
    )
    hub.write_config(config, path.parent)


def write_settings(path, version):
    path.unlink(missing_ok=True)  # an existing file is compared, never replaced
    tok = type("Tokenizer", (), {"config": BackboneConfig(kind="toy")})()
    check_settings(path, tok, version, TrainConfig())


def write_embeddings(path, version):
    EmbeddingCache(path.parent, facts=[]).write(["dog"], torch.full((1, 4000), float(version)))


def write_column(path, version):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = path.parent.parent / f"{version}.parquet"
    if not table.exists():
        pq.write_table(pa.table({"image": [bytes([version]) * 9000]}), table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYRAMID_TOKENIZER_CACHE", str(path.parent))
        ParquetImages([table])


WRITERS = {
    "bytes": ("a.bin", lambda path, version: write_bytes(path, [b"%d" % version, b"0" * 9000]), OSError),
    "text": ("a.txt", lambda path, version: write_text(path, f"{version}" * 9000), OSError),
    "image": ("a.png", lambda path, version: save_image(Image.effect_noise((99, 99), version), path), OSError),
    "weights": (
        "a.safetensors",
        lambda path, version: hub.write_weights(path, {"w": torch.full((9000,), version)}),
        OSError,
    ),
    "config": ("config.json", write_config, OSError),
    "tokens": ("a.tokens", lambda path, version: write_file(path, bytes([version]) * 9000), TokenFileError),
    "state": (
        "a.pt",
        lambda path, version: save_state(path, {"w": torch.full((9000,), version)}),
        CheckpointError,
    ),
    "report": ("a.json", lambda path, version: write_json(path, {"x": f"{version}" * 9000}), OSError),
}
"""File name, what writes version 1 or 2 of its content, and the error it raises where that fails."""


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_, **__):
    raise KeyboardInterrupt


@contextmanager
def no_room():
    """Lets no file grow beyond 100 bytes, so that a write fails after some bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:  # before pytest writes its own output, which may be a longer file
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["fsync", "replace", "full disk", "interrupt"])
def fault(request, monkeypatch):
    """fault.make() is a context in which every write fails; `fault.interrupts` says whether by an interrupt."""

    @contextmanager
    def failing():
        with monkeypatch.context() as patch:
            name = "fsync" if request.param == "interrupt" else request.param
            patch.setattr(os, name, interrupted if request.param == "interrupt" else disk_full)
            yield

    arm = no_room if request.param == "full disk" else failing
    return SimpleNamespace(make=arm, interrupts=request.param == "interrupt")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_failed_write_leaves_the_old_file_whole_and_nothing_else(kind, fault, tmp_path):
    name, write, error = WRITERS[kind]
    write(tmp_path / name, 1)
    before = (tmp_path / name).read_bytes()
    with fault.make(), pytest.raises(KeyboardInterrupt if fault.interrupts else error):
        write(tmp_path / name, 2)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("write", [write_settings, write_column, write_embeddings])
def test_a_failed_first_write_leaves_nothing(write, fault, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "settings.json", 1)
    assert [path.unlink() for path in folder.iterdir()]
    if write is write_embeddings and not fault.interrupts:
        # a cache that cannot be written costs time alone
        with fault.make(), pytest.warns(UserWarning, match="not kept on disk"):
            write(folder / "settings.json", 1)
    else:
        with fault.make(), pytest.raises((OSError, DataError, KeyboardInterrupt)):
            write(folder / "settings.json", 1)
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


@pytest.fixture(scope="module")
def backbone():
    directory = hub.resolve_model("tiny")
    return load_backbone(hub.read_config(directory).backbone, directory=directory / "backbone")


def test_a_backbone_that_cannot_be_saved_leaves_the_one_that_was_there(backbone, fault, tmp_path):
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_text("old")
    with fault.make(), pytest.raises((OSError, SafetensorError, KeyboardInterrupt)):
        backbone.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "config"])
def test_a_name_of_240_bytes_can_be_written(kind, tmp_path):
    name, write, _ = WRITERS[kind]
    path = tmp_path / f"{'n' * (240 - len(Path(name).suffix))}{Path(name).suffix}"
    write(path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_a_folder_and_a_parquet_file_may_have_long_names_too(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with hub.save_directory(tmp_path / LONG) as part:
        (part / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == [LONG]
    table = tmp_path / f"{LONG}.parquet"
    pq.write_table(pa.table({"image": [b"bytes"]}), table)
    monkeypatch.setenv("PYRAMID_TOKENIZER_CACHE", str(tmp_path / "cache"))
    assert len(ParquetImages([table])) == 1


def test_the_file_appears_when_the_block_ends_and_not_before(tmp_path):
    with replacing(tmp_path / "a") as part:
        part.write_text("new")
        assert part.parent == tmp_path and not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as part:
        part.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass  # nothing was written, so there is nothing that could become the file
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "new"


def test_writers_of_one_name_at_once_leave_one_of_their_files(tmp_path):
    contents = [bytes([letter]) * 50_000 for letter in b"abcdefgh"]
    threads = [threading.Thread(target=write_bytes, args=(tmp_path / "a", [content])) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_are_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_temporary_names_are_hidden_short_and_never_the_same():
    names = {temporary_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".") and len(name.encode()) < 30 for name in names)


def test_an_image_of_no_known_suffix_is_refused_before_anything_is_written(tmp_path):
    for name in ("a", "a.xyz"):
        with pytest.raises(ImageFileError, match=name):
            save_image(Image.new("RGB", (2, 2)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_other_module_renames_or_flushes_files_by_itself():
    package = Path(hub.__file__).parents[1]
    own = {path for path in package.rglob("*.py") if "os.fsync" in path.read_text(encoding="utf-8")}
    assert own == {package / "files.py"}


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("config.json", ConfigError),
        ("model.safetensors", CheckpointError),
        pytest.param("segmentation_head.safetensors", CheckpointError, marks=pytest.mark.slow),
        ("backbone/open_clip_config.json", CheckpointError),
        pytest.param("backbone/open_clip_model.safetensors", CheckpointError, marks=pytest.mark.slow),
    ],
)
def test_a_pointer_of_git_lfs_among_the_files_of_a_model_is_named(tmp_path, name, error):
    model = shutil.copytree(bundled_models()["tiny"], tmp_path / "tiny")
    (model / name).write_text(POINTER)
    with pytest.raises(error, match=f"{Path(name).name}.*git lfs pull"):
        PyramidTokenizer.from_pretrained(model)


@pytest.mark.parametrize(("read", "error"), [(TokenPyramid.load, TokenFileError), (read_image, ImageFileError)])
def test_a_pointer_of_git_lfs_in_place_of_tokens_or_an_image_is_named(tmp_path, read, error):
    file = tmp_path / "cat.jpg"
    file.write_text(POINTER)
    with pytest.raises(error, match="cat.jpg.*git lfs pull"):
        read(file)


@pytest.mark.parametrize(
    ("read", "error"),
    [(read_image, ImageFileError), (read_encoded, ImageFileError), (TokenPyramid.from_bytes, TokenFileError)],
)
def test_the_bytes_of_a_pointer_of_git_lfs_are_named(read, error):
    with pytest.raises(error, match="git lfs pull"):
        read(POINTER.encode())
