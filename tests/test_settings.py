"""Places and secrets from the environment."""

import os
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from wafer.errors import DeliveryError, SettingsError
from wafer.settings import Settings, prepare_environment


def test_with_nothing_set_everything_is_embedded_below_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The defaults: outputs in the project's data/, embedded state in data/state, SQLite for MLflow."""
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations" / "training.json").touch()
    (tmp_path / "notebooks" / "of-mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "of-mine")
    settings = Settings.read()
    assert settings.project == tmp_path
    assert str(settings.storage.root) == str(tmp_path / "data")
    assert settings.state == tmp_path / "data" / "state"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/data/state/mlflow/mlflow.db"
    assert settings.mongodb_url is None


def test_the_environment_and_a_dotenv_file_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Variables come from the environment first, then from .env; an empty one counts as unset."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("WAFER_STORAGE=/from/dotenv\nMLFLOW_TRACKING_URI=http://mlflow:5000\n")
    monkeypatch.setenv("WAFER_STORAGE", "/from/environment")
    monkeypatch.setenv("MONGODB_URL", "")
    settings = Settings.read()
    assert settings.storage_url == "/from/environment"
    assert settings.tracking_uri == "http://mlflow:5000"
    assert settings.artifact_root is None
    assert settings.mongodb_url is None


def test_a_relative_path_is_of_the_place_where_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a project's .env relative to the project, in the environment to the working directory."""
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations" / "training.json").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / ".env").write_text("WAFER_STORAGE=out\nWAFER_STATE=state\nPREFECT_HOME=home\n")
    settings = Settings.read()
    assert settings.storage_url == str(tmp_path / "out")
    assert (settings.state_folder, settings.prefect_home) == (tmp_path / "state", tmp_path / "home")
    monkeypatch.setenv("WAFER_STORAGE", "out")
    assert Settings.read().storage_url == str(tmp_path / "here" / "out")


def test_without_a_project_outputs_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One sentence says what to do; with a storage, the library's own agreement and parameters are used."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"^no project lies in .* name a folder for all outputs by WAFER_STORAGE$"):
        Settings.read()
    monkeypatch.setenv("WAFER_STORAGE", "out")
    assert Settings.read().default("params.yaml") == REPOSITORY / "params.yaml"
    assert list(tmp_path.iterdir()) == []


def test_a_study_uses_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever servers the environment names, a study is embedded."""
    for name in ("MONGODB_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "http://production")
    settings = Settings.study(tmp_path, tmp_path / "state")
    assert (settings.mongodb_url, settings.mlflow_url, settings.prefect_url) == (None, None, None)


def test_a_value_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which variable, what was wrong and what came."""
    monkeypatch.setenv("WAFER_JOBS", "many")
    with pytest.raises(SettingsError, match=r"WAFER_JOBS: .*integer.*'many'"):
        Settings.read()


def test_folders_of_links_are_listed_as_a_path_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """WAFER_LINK_ROOTS names absolute folders, joined as PATH is; unset or empty it names none."""
    assert Settings.read().link_roots == ()
    for value, folders in {"": (), "/a": ("/a",), f"/a{os.pathsep}/b c{os.pathsep}": ("/a", "/b c")}.items():
        monkeypatch.setenv("WAFER_LINK_ROOTS", value)
        assert Settings.read().link_roots == tuple(Path(folder) for folder in folders)
    monkeypatch.setenv("WAFER_LINK_ROOTS", f"/a{os.pathsep}b")
    with pytest.raises(SettingsError, match=r"^WAFER_LINK_ROOTS: expected absolute folders"):
        Settings.read()


def test_the_commit_of_an_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """WAFER_COMMIT names the code, whatever git says; an empty one counts as unset."""
    monkeypatch.setenv("WAFER_COMMIT", "abc123")
    assert Settings.read().commit == "abc123"
    monkeypatch.setenv("WAFER_COMMIT", "")
    assert Settings.read().commit is None


def test_state_cannot_lie_in_a_bucket() -> None:
    """With storage in S3 a local folder for embedded state must be named."""
    with pytest.raises(SettingsError, match="WAFER_STATE must name a local folder"):
        _ = Settings.read(storage_url="s3://bucket/wafer").state


def test_prefects_home_follows_the_storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prefect's home lies with the other embedded state, unless it is set already."""
    monkeypatch.setenv("WAFER_STORAGE", str(tmp_path))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    prepare_environment()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "state" / "prefect")
    os.environ["PREFECT_HOME"] = "mine"
    prepare_environment()
    assert os.environ["PREFECT_HOME"] == "mine"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WAFER_STATE", "s3://fab/state"),
        ("PREFECT_HOME", "http://127.0.0.1/prefect"),
        ("MONGODB_DATABASE", "a\nb"),
        ("MONGODB_DATABASE", "fab.one"),
        ("WAFER_COMMIT", "x" * 9000),
        ("WAFER_COMMIT", "a\nb"),
    ],
)
def test_what_would_fail_later_or_elsewhere_is_refused_by_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address in the place of a folder, a database's name that no server takes, a commit that MLflow cannot keep."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}[: ]") as caught:
        Settings.read()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("address", ["gs://fab/x", "http://me:h1dden@fab/x", "s3:///x", "ftp://fab"])
def test_a_delivery_lies_in_a_folder_or_a_bucket(address: str) -> None:
    """Any other address is refused, without its password, before a library is asked for it."""
    with pytest.raises(DeliveryError, match=r": expected a folder, or s3://bucket/prefix$") as caught:
        Settings.read().opened(address)
    assert "h1dden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 5000, "File name too long; name one that is there"),
        ("nowhere", "No such file or directory; name one that is there"),
        ("file", "Not a directory; name one that is there"),
        ("a?b", "its name may hold neither `\\?`"),
        ("a\nb", "its name may hold neither `\\?`"),
        ("a\udcffb", "its name may hold neither `\\?`"),
        ("s3://fab/x", "expected a folder of this machine"),
    ],
)
def test_a_project_that_cannot_be_used_is_refused_by_its_own_name(
    name: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not by that of the storage, which lies in it by default; nothing is made, and the message does not grow."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setenv("WAFER_PROJECT", name)
    with pytest.raises(SettingsError, match=f"^WAFER_PROJECT is .*: {why}") as caught:
        Settings.read()
    assert len(str(caught.value)) < 500
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_tilde_is_the_home_folder_as_in_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In every variable, from the environment and from a `.env`, which no shell reads; no folder is called `~`."""
    home = tmp_path / "home"
    (home / "fab").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAFER_PROJECT", "~/fab")
    monkeypatch.setenv("WAFER_STATE", "~/state")
    (home / "fab" / ".env").write_text("WAFER_STORAGE=~/out\nPREFECT_HOME=~\nWAFER_LINK_ROOTS=~/a:/b\n")
    settings = Settings.read()
    assert (settings.project, settings.storage_url) == (home / "fab", str(home / "out"))
    assert (settings.state, settings.prefect_home) == (home / "state", home)
    assert settings.link_roots == (home / "a", Path("/b"))
    assert settings.of_project("~/raw") == home / "raw"  # deliver.folder of the parameters
    assert str(settings.opened("~/raw")) == str(home / "raw")
    assert Settings.read(storage_url="~nobody-of-this-name/x").storage_url == str(tmp_path / "~nobody-of-this-name/x")


def test_a_storage_that_lies_in_the_project_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has set the variable that the message names."""
    (tmp_path / "a?b" / "expectations").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a?b")
    with pytest.raises(
        SettingsError, match=r"^WAFER_STORAGE, by default data/ of the project, is the folder .*a\?b/data"
    ):
        Settings.read()
