import errno
import types
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from pyramid_tokenizer import PyramidTokenizer, Segmenter, hub
from pyramid_tokenizer.backbones import load_backbone
from pyramid_tokenizer.config.models import BackboneConfig, DecoderConfig, LevelConfig, QuantizerConfig, TokenizerConfig
from pyramid_tokenizer.errors import BackboneError, ConfigError, HubError, ModelNotFoundError


def config(codebook_size=16):
    return TokenizerConfig(
        backbone=BackboneConfig(kind="toy"),
        quantizer=QuantizerConfig(levels=(LevelConfig(stride=8, maps=(2,), codebook_size=codebook_size, dim=4),)),
        decoder=DecoderConfig(widths=(8,), depths=(1,)),
    )


def save_model(directory):
    directory.mkdir(parents=True, exist_ok=True)
    hub.write_config(config(), directory)
    return directory


@pytest.fixture
def assets(tmp_path, monkeypatch):
    folder = tmp_path / "assets"
    for name in ("tiny", "large"):
        save_model(folder / name)
    (folder / "small").mkdir()  # no config.json: not a model
    monkeypatch.setattr("pyramid_tokenizer.hub.resolve._ASSETS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def download(monkeypatch):
    """Stands in for the Hub: records the call, then returns or raises what `result` says."""
    calls = types.SimpleNamespace(calls=[], result=None)

    def snapshot_download(repo_id, **options):
        calls.calls.append((repo_id, options))
        if isinstance(calls.result, Exception):
            raise calls.result
        return str(calls.result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


class ReadTimeout(Exception):
    """Stands in for an error of the HTTP library below the Hub client."""


def http_error(kind, status=404):
    return kind("refused", response=types.SimpleNamespace(status_code=status, headers={}, request=None))


def test_an_existing_directory_wins_over_a_bundled_name_and_a_repository(assets, tmp_path, download):
    save_model(tmp_path / "tiny")
    save_model(tmp_path / "runs" / "mine")
    assert hub.resolve_model("tiny") == Path("tiny")
    assert hub.resolve_model("runs/mine") == Path("runs/mine")
    assert hub.resolve_model(tmp_path / "runs" / "mine") == tmp_path / "runs" / "mine"
    assert download.calls == []


def test_a_directory_without_config_does_not_hide_a_bundled_name(assets, tmp_path):
    (tmp_path / "tiny").mkdir()
    assert hub.resolve_model("tiny") == assets / "tiny"


def test_a_home_path_is_expanded(assets, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_model(tmp_path / "mine")
    assert hub.resolve_model("~/mine") == tmp_path / "mine"


def test_a_path_object_is_never_a_bundled_name(assets):
    with pytest.raises(ModelNotFoundError):
        hub.resolve_model(Path("tiny"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tinny", r"got 'tinny': did you mean 'tiny'"),
        ("zzz", r"got 'zzz': bundled models: large, tiny$"),
        ("./no/such", "no such directory; check the path"),
        ("/no/such/place", "no such directory; check the path"),
        ("empty", "got 'empty' without one: it is no saved model, or its saving was interrupted"),
        ("user/empty", "got 'user/empty' without one"),
        ("a_file", "got the file 'a_file': give the directory that holds it"),
    ],
)
def test_a_name_that_is_nothing_says_what_to_do(name, says, assets, tmp_path, download):
    (tmp_path / "empty").mkdir()
    (tmp_path / "user" / "empty").mkdir(parents=True)
    (tmp_path / "a_file").touch()
    with pytest.raises(ModelNotFoundError, match=says):
        hub.resolve_model(name)
    assert download.calls == []


def test_a_repository_is_fetched_with_the_callers_options_and_only_files_of_a_model(assets, tmp_path, download):
    download.result = save_model(tmp_path / "snapshot")
    given = {"revision": "v1", "cache_dir": "cache", "local_files_only": True, "token": "hf_secret"}
    assert hub.resolve_model("user/repo", **given) == tmp_path / "snapshot"
    patterns = [
        "config.json",
        "model.safetensors",
        "segmentation_head.safetensors",
        "backbone/*.json",
        "backbone/*.safetensors",
        "README.md",
        "evaluation.json",
        "selfcheck.npz",
    ]
    assert download.calls == [("user/repo", given | {"allow_patterns": patterns})]


def test_a_subfolder_of_a_repository_is_fetched_alone(assets, tmp_path, download):
    save_model(tmp_path / "snapshot" / "models" / "small")
    download.result = tmp_path / "snapshot"
    found = hub.resolve_model("user/repo", subfolder="models/small")
    assert found == tmp_path / "snapshot" / "models" / "small"
    stored = ("config.json", "model.safetensors", "segmentation_head.safetensors", "backbone/open_clip_config.json")
    files = [f"{folder}{name}" for folder in ("", "models/", "models/small/", "models/large/") for name in stored]
    patterns = download.calls[0][1]["allow_patterns"]
    kept = list(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=patterns))
    assert kept == [f"models/small/{name}" for name in stored]
    with pytest.raises(ModelNotFoundError, match="'models/tiny' of the Hub repository 'user/repo'"):
        hub.resolve_model("user/repo", subfolder="models/tiny")


def test_a_subfolder_of_a_directory_is_found_and_a_wrong_one_tells_which_there_are(assets, tmp_path, download):
    for name in ("small", "large"):
        save_model(tmp_path / "user" / "models" / name)
    assert hub.resolve_model(tmp_path / "user" / "models", subfolder="small") == tmp_path / "user" / "models" / "small"
    with pytest.raises(ModelNotFoundError, match="'medium'.*'large', 'small'"):
        hub.resolve_model("user/models", subfolder="medium")
    with pytest.raises(ModelNotFoundError, match="'large', 'small'"):
        hub.resolve_model("user/models")
    with pytest.raises(ModelNotFoundError):
        hub.resolve_model("tiny", subfolder="small")  # a bundled model has none
    assert download.calls == []


@pytest.mark.parametrize("subfolder", ["..", "../other", "a/../../b", "/etc", "a\\b"])
def test_a_subfolder_that_leads_out_is_refused(subfolder, assets, tmp_path, download):
    save_model(tmp_path / "m")
    with pytest.raises(ConfigError, match="subfolder"):
        hub.resolve_model(tmp_path / "m", subfolder=subfolder)
    assert download.calls == []


def test_the_patterns_leave_pickles_and_code_on_the_hub():
    files = [
        "config.json",
        "model.safetensors",
        "backbone/open_clip_config.json",
        "model.py",
        "model.bin",
        "backbone/a.pt",
        "secrets.json",
    ]
    files.append("other/model.safetensors")
    kept = list(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=list(hub.MODEL_FILES)))
    assert kept == ["config.json", "model.safetensors", "backbone/open_clip_config.json"]


@pytest.mark.parametrize(
    ("error", "local_files_only", "says"),
    [
        (
            http_error(hub_errors.RepositoryNotFoundError),
            False,
            "got none of that name: check the spelling; a private one needs `hf auth login`",
        ),
        (http_error(hub_errors.GatedRepoError, 403), False, "got one with restricted access"),
        (http_error(hub_errors.RevisionNotFoundError), False, "at revision 'v1', got no such branch, tag or commit"),
        (hub_errors.HFValidationError("bad--name"), False, "a name that no repository can have: bad--name"),
        (
            hub_errors.LocalEntryNotFoundError("not cached"),
            True,
            "in the local cache, got no complete copy there: call once without local_files_only",
        ),
        (
            hub_errors.LocalEntryNotFoundError("no route"),
            False,
            "check the network, use local_files_only=True with .*, or give a directory",
        ),
        (ReadTimeout("slow"), False, r"got no answer .*\(ReadTimeout: slow\)"),
        (OSError(errno.ENOSPC, "No space left"), False, "OSError: .*No space left"),
    ],
)
def test_each_way_the_hub_fails_has_its_message(error, local_files_only, says, assets, download):
    download.result = error
    with pytest.raises(ModelNotFoundError, match=says) as caught:
        hub.resolve_model("user/repo", revision="v1", local_files_only=local_files_only)
    assert caught.value.__cause__ is error
    assert "expected the Hub repository 'user/repo'" in str(caught.value)


def test_a_repository_without_config_is_not_a_model(assets, tmp_path, download):
    download.result = tmp_path
    with pytest.raises(ModelNotFoundError, match="holds no pyramid-tokenizer model"):
        hub.resolve_model("user/repo")


def test_a_revision_of_something_local_is_warned_about(assets):
    with pytest.warns(UserWarning, match="revision='v1' is ignored: 'tiny' is not a Hub repository"):
        assert hub.resolve_model("tiny", revision="v1") == assets / "tiny"


@pytest.fixture
def uploads(monkeypatch):
    record = types.SimpleNamespace(created=None, uploaded=None, error=None)

    def create_repo(repo_id, **options):
        if record.error:
            raise record.error
        record.created = (repo_id, options)

    def upload_folder(**options):
        record.uploaded = options
        return types.SimpleNamespace(commit_url="https://hub/commit/1", pr_url="https://hub/discussions/2")

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    return record


def test_a_push_sends_only_the_files_of_a_model(tmp_path, uploads):
    model = save_model(tmp_path / "model")
    for name in (
        "model.safetensors",
        "README.md",
        "backbone/open_clip_config.json",
        "backbone/w[1].safetensors",
        ".env",
        "train.log",
        "optim.pt",
    ):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).touch()
    (model / "checkpoints").mkdir()
    (model / "checkpoints" / "model.safetensors").touch()
    url = hub.push(model, "user/repo", private=True, commit_message="say", token="t", revision="dev")
    assert url == "https://hub/commit/1"
    assert uploads.created == ("user/repo", {"private": True, "exist_ok": True, "token": "t"})
    patterns = uploads.uploaded.pop("allow_patterns")
    options = {
        "repo_id": "user/repo",
        "folder_path": model,
        "commit_message": "say",
        "token": "t",
        "create_pr": False,
        "revision": "dev",
    }
    assert uploads.uploaded == options
    every = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
    sent = set(huggingface_hub.utils.filter_repo_objects(every, allow_patterns=patterns))
    assert sent == {
        "config.json",
        "model.safetensors",
        "README.md",
        "backbone/open_clip_config.json",
        "backbone/w[1].safetensors",
    }


def test_a_push_as_pull_request_returns_its_address(tmp_path, uploads):
    assert hub.push(save_model(tmp_path / "model"), "user/repo", create_pr=True) == "https://hub/discussions/2"
    assert uploads.uploaded["create_pr"] is True


@pytest.mark.parametrize(
    "error",
    [http_error(hub_errors.HfHubHTTPError, 401), hub_errors.HFValidationError("bad"), ReadTimeout("offline")],
)
def test_a_refused_push_says_why(error, tmp_path, uploads):
    uploads.error = error
    with pytest.raises(HubError, match=f"'user/repo', got {type(error).__name__}: .*log in") as caught:
        hub.push(save_model(tmp_path / "model"), "user/repo")
    assert caught.value.__cause__ is error


def test_a_push_of_something_else_asks_the_hub_nothing(tmp_path, uploads):
    with pytest.raises(ModelNotFoundError):
        hub.push(tmp_path, "user/repo")
    assert uploads.created is None


def test_the_options_of_a_download_reach_the_model_and_its_backbone(toy_tokenizer, tmp_path, monkeypatch):
    folder = toy_tokenizer.save_pretrained(tmp_path / "snapshot" / "small")
    models, backbones = [], []

    def snapshot(repo_id, **options):
        models.append((repo_id, options))
        return str(tmp_path / "snapshot")

    def load(config, **options):
        backbones.append(options)
        return load_backbone(config, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("pyramid_tokenizer.hub.build.load_backbone", load)
    download = {"token": "secret", "cache_dir": tmp_path / "cache", "local_files_only": True}
    for kind in (PyramidTokenizer, Segmenter):
        kind.from_pretrained("user/repo", subfolder="small", revision="v1", **download)
        repo_id, options = models.pop()
        assert repo_id == "user/repo"
        assert options.pop("allow_patterns")[0] == "small/config.json"
        assert options == {"revision": "v1", **download}
        assert backbones.pop() == {"directory": None, **download}
    assert (folder / "config.json").is_file()


def test_the_options_of_a_download_reach_the_backbone_of_a_new_tokenizer(monkeypatch):
    asked = []

    def fetch(repo_id, name, **options):
        asked.append((repo_id, options))
        raise OSError("not there")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    download = {"token": "secret", "cache_dir": "somewhere", "local_files_only": True}
    with pytest.raises(BackboneError, match="someone/model"):
        PyramidTokenizer.from_backbone("hf-hub:someone/model", **download)
    assert asked == [("someone/model", download)]
