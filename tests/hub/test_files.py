"""Model directories on disk: config, weights, whole saves. Finding and pushing models is in test_hub.py."""

import errno
import os
import stat

import pytest
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from pyramid_tokenizer import hub
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.errors import CheckpointError, ConfigError, ModelNotFoundError


def config(codebook_size=16):
    return TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(levels=(LevelConfig(stride=8, maps=(2,), codebook_size=codebook_size, dim=4),)),
        decoder=DecoderConfig(widths=(8,), depths=(1,)),
    )


def tensors():
    return {
        "codes": torch.arange(12.0).view(3, 4) / 7,
        "count": torch.tensor(3, dtype=torch.int64),
        "half": torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
        "mask": torch.tensor([True, False]),
    }


def test_a_config_comes_back_as_written(tmp_path):
    hub.write_config(config(), tmp_path)
    assert hub.read_config(tmp_path) == config()
    assert sorted(os.listdir(tmp_path)) == ["config.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"backbone": ', "expected JSON in .*config.json"),
        (b"\xff\xfe\x00", "expected JSON in .*config.json"),
        (b"[]", "as a mapping"),
        (b'{"backbones": {}}', "got 'backbones': did you mean 'backbone'"),
        (b"", "expected JSON"),
    ],
)
def test_a_broken_config_is_refused(text, says, tmp_path):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ConfigError, match=says):
        hub.read_config(tmp_path)


def test_a_missing_config_is_a_missing_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="got no such file"):
        hub.read_config(tmp_path)


def same(left, right):
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_weights_come_back_exactly_in_the_order_of_the_expected(tmp_path):
    path = tmp_path / "model.safetensors"
    hub.write_weights(path, dict(reversed(tensors().items())))
    assert same(hub.read_weights(path, tensors()), tensors())


def test_the_same_weights_give_the_same_bytes(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        hub.write_weights(path, dict(reversed(tensors().items())) if path == paths[1] else tensors())
    assert len({path.read_bytes() for path in paths}) == 1
    assert same(dict(sorted(from_safetensors(paths[0].read_bytes()).items())), dict(sorted(tensors().items())))


def test_views_shared_and_transposed_tensors_are_stored_each_on_its_own(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    views = {"base": base, "same": base, "transposed": base.T, "row": base[1], "expanded": base[:1].expand(4, 3)}
    hub.write_weights(tmp_path / "w.safetensors", views)
    assert same(hub.read_weights(tmp_path / "w.safetensors", views), views)


def test_parameters_are_written_without_their_gradient(tmp_path):
    layer = torch.nn.Linear(2, 3)
    hub.write_weights(tmp_path / "w.safetensors", dict(layer.named_parameters()))
    assert same(hub.read_weights(tmp_path / "w.safetensors", layer.state_dict()), layer.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_returned_in_the_expected_dtype(dtype, tmp_path):
    weights = torch.linspace(-3, 3, 11)
    hub.write_weights(tmp_path / "w.safetensors", {"w": weights.to(dtype)})
    read = hub.read_weights(tmp_path / "w.safetensors", {"w": weights})
    assert same(read, {"w": weights.to(dtype).float()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("codes"), "missing: codes: the file"),
        (lambda t: t.update(new=torch.ones(1)), "unexpected: new: the file"),
        (lambda t: t.update(codes=torch.zeros(4, 3)), "wrong shape: codes"),
        (lambda t: t.update(codes=torch.zeros(12)), "wrong shape: codes"),
        (lambda t: t.update(codes=torch.zeros(3, 4, dtype=torch.int32)), "wrong dtype: codes"),
        (lambda t: t.update(count=torch.tensor(3.0)), "wrong dtype: count"),
        (lambda t: t.update(mask=torch.tensor([1, 0], dtype=torch.uint8)), "wrong dtype: mask"),
        (lambda t: t["codes"].view(-1)[5].fill_(float("nan")), "NaN or infinite values: codes"),
        (lambda t: t["half"][2].fill_(float("-inf")), "NaN or infinite values: half"),
        (lambda t: t.update(half=torch.full((5,), 3.4e38, dtype=torch.float64) * 1e3), "NaN or infinite values: half"),
        (lambda t: (t.pop("half"), t.update(halb=torch.ones(5))), "missing: half; unexpected: halb"),
    ],
)
def test_weights_that_are_not_those_expected_are_refused_by_name(change, says, tmp_path):
    stored = tensors()
    change(stored)
    hub.write_weights(tmp_path / "model.safetensors", stored)
    with pytest.raises(CheckpointError, match=says):
        hub.read_weights(tmp_path / "model.safetensors", tensors())


def test_an_integer_that_does_not_fit_is_refused(tmp_path):
    hub.write_weights(tmp_path / "w.safetensors", {"n": torch.tensor([2**31])})
    with pytest.raises(CheckpointError, match="values that do not fit the dtype: n"):
        hub.read_weights(tmp_path / "w.safetensors", {"n": torch.zeros(1, dtype=torch.int32)})


def test_a_long_list_of_names_is_cut_at_five(tmp_path):
    hub.write_weights(tmp_path / "w.safetensors", {})
    with pytest.raises(CheckpointError, match="missing: a0, a1, a2, a3, a4 and 3 more: "):
        hub.read_weights(tmp_path / "w.safetensors", {f"a{i}": torch.ones(1) for i in range(8)})


def test_every_truncation_is_refused_and_names_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    hub.write_weights(path, {"w": torch.ones(3)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="model.safetensors"):
            hub.read_weights(path, {"w": torch.ones(3)})


@pytest.mark.parametrize(
    "content", [b"not a safetensors file, but long enough", b"\xff" * 64, to_safetensors({"w": torch.ones(3)}) + b"x"]
)
def test_a_foreign_file_is_refused(content, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a readable safetensors file, got .*w.safetensors"):
        hub.read_weights(tmp_path / "w.safetensors", {"w": torch.ones(3)})


def test_a_missing_file_or_a_directory_is_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="expected a readable safetensors file"):
            hub.read_weights(path, {})


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_written_files_are_readable_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        with hub.save_directory(tmp_path / "model") as part:
            hub.write_config(config(), part)
            hub.write_weights(part / "model.safetensors", {"w": torch.ones(1)})
    finally:
        os.umask(before)
    if os.name == "posix":
        modes = [
            stat.S_IMODE((tmp_path / "model" / name).stat().st_mode)
            for name in (".", "config.json", "model.safetensors")
        ]
        assert modes == [0o755, 0o644, 0o644]


def tree(directory):
    return {path.relative_to(directory).as_posix(): path.read_text() for path in directory.rglob("*") if path.is_file()}


def fill(part, text):
    (part / "backbone").mkdir()
    for name in ("config.json", "model.safetensors", "backbone/open_clip_config.json"):
        (part / name).write_text(text)


@pytest.mark.parametrize("target", ["new", "deep/new", "empty", "a space"])
def test_a_new_or_empty_target_appears_whole(target, tmp_path):
    (tmp_path / "empty").mkdir()
    with hub.save_directory(tmp_path / target) as part:
        fill(part, "new")
        assert not (tmp_path / target / "config.json").exists()
    names = {"config.json", "model.safetensors", "backbone/open_clip_config.json"}
    assert tree(tmp_path / target) == dict.fromkeys(names, "new")
    assert list(tmp_path.rglob("*.part")) == []


def test_a_save_over_a_model_replaces_its_files_and_keeps_others(tmp_path):
    with hub.save_directory(tmp_path / "m") as part:
        fill(part, "old")
    (tmp_path / "m" / ".git").mkdir()
    (tmp_path / "m" / ".git" / "HEAD").write_text("mine")
    with hub.save_directory(str(tmp_path / "m")) as part:
        fill(part, "new")
    names = {"config.json", "model.safetensors", "backbone/open_clip_config.json"}
    assert tree(tmp_path / "m") == {**dict.fromkeys(names, "new"), ".git/HEAD": "mine"}
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("existing", [True, False])
def test_an_error_inside_the_block_leaves_everything_as_it_was(existing, tmp_path):
    if existing:
        with hub.save_directory(tmp_path / "m") as part:
            fill(part, "old")
    before = tree(tmp_path)
    with pytest.raises(OSError, match="No space"), hub.save_directory(tmp_path / "m") as part:
        fill(part, "new")
        full_disk()
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == (["m"] if existing else [])


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_crash_while_moving_never_leaves_a_mixture_that_loads(moved, tmp_path, monkeypatch):
    with hub.save_directory(tmp_path / "m") as part:
        fill(part, "old")
    replace, calls = os.replace, []

    def crash(source, target):
        if len(calls) == moved:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt), hub.save_directory(tmp_path / "m") as part:
        fill(part, "new")
    with pytest.raises(ModelNotFoundError, match="saving was interrupted"):
        hub.resolve_model(tmp_path / "m")


def test_a_symbolic_link_to_a_directory_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with hub.save_directory(tmp_path / "link") as part:
        fill(part, "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").read_text() == "new"


def test_a_file_is_no_target(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(CheckpointError, match="got the file"), hub.save_directory(tmp_path / "f"):
        raise AssertionError("not reached")
