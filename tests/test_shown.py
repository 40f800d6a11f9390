"""What is printed: escaped, cut and without secrets."""

import time
from pathlib import Path

import pytest

from wafer.settings import Settings
from wafer.shown import LONGEST_MESSAGE, LONGEST_VALUE, masked, shown_message, shown_number, shown_text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("Wafer-12 – Größe 晶圆", "Wafer-12 – Größe 晶圆"),
        ("a\x1b[31mred\x1b[0m", r"a\x1b[31mred\x1b[0m"),
        ("one\ntwo\r\tthree\x00", r"one\ntwo\r\tthree\x00"),
        ("abc\u202egnp.csv\u2028", r"abc\u202egnp.csv\u2028"),
        (b"caf\xe9.csv".decode(errors="surrogateescape"), r"caf\udce9.csv"),
        (Path("a/b"), "a/b"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_escaped(value: object, told: str) -> None:
    """Terminal sequences, line ends and marks of direction cannot forge a line; letters of all scripts stay."""
    assert shown_text(value) == told


@pytest.mark.parametrize("longest", [10, LONGEST_VALUE, LONGEST_MESSAGE])
def test_nothing_shown_grows_with_its_input(longest: int) -> None:
    """A value of any length, whatever it is made of, takes the stated number of characters and an ellipsis."""
    for character in ("x", "\x1b", "😀"):
        assert len(shown_text(character * longest, longest)) <= longest + 1
        assert len(shown_text(character * 3_000_000, longest)) == longest + 1
    assert shown_text("x" * longest, longest) == "x" * longest


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("at postgresql+psycopg2://me:se/c@r:e%t@host/db: no", "at postgresql+psycopg2://me:***@host/db: no"),
        ("mongodb+srv://me:p%40ss@[::1]:70000/?x=1", "mongodb+srv://me:***@[::1]:70000/?x=1"),
        ("https://ghp_0123@host/x", "https://***@host/x"),
        ("got 'http://:secret@host', expected", "got 'http://:***@host', expected"),
        ("http://host/p?user=me&Password=secret&x=1", "http://host/p?user=me&Password=***&x=1"),
        ("s3://b/k?X-Amz-Signature=ab12&X-Amz-Credential=c", "s3://b/k?X-Amz-Signature=***&X-Amz-Credential=***"),
        ("connection failed: host=db password=secret user=me", "connection failed: host=db password=*** user=me"),
        ("cut off: http://me:sec", "cut off: http://me:***"),
        ("nobody answers at http://host:5000", "nobody answers at http://host:5000"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("write to somebody@example.org: 12 = 12", "write to somebody@example.org: 12 = 12"),
    ],
)
def test_no_address_shows_its_password(text: str, told: str) -> None:
    """Passwords and parameters named like secrets become ***, wherever the address stands and however broken it is."""
    assert masked(text) == told


def test_the_secrets_of_the_environment_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Values of variables named like a secret and passwords of addresses, from the environment and .env, as spelt."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("MLFLOW_TRACKING_URI=http://me:from%2Fdot env@host\n")
    monkeypatch.setenv("MONGODB_URL", "mongodb://me:sp ace%40%2F'mark@host/")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc/def+0123")
    monkeypatch.setenv("PREFECT_API_KEY", "word")
    for secret in (
        "sp ace@/'mark",
        "sp ace%40%2F'mark",
        "from/dot env",
        "abc/def+0123",
        "abc%2Fdef%2B0123",
        "abc/def%2B0123",
        "sp ace@/&#x27;mark",
    ):
        assert masked(f"login with {secret} failed") == "login with *** failed", secret
    assert masked("a word of words: 'word'") == "a *** of words: '***'"
    assert shown_message("user\nabc/def+0123") == r"user\n***"


def test_the_secrets_of_a_projects_file_are_shown_nowhere_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The `.env` that settings were read from counts, wherever the command was typed."""
    (tmp_path / "expectations").mkdir()
    (tmp_path / "below").mkdir()
    (tmp_path / ".env").write_text(
        "AWS_SECRET_ACCESS_KEY=of-the/project\nMLFLOW_TRACKING_URI=http://me:w%40rd1234@host\n"
    )
    monkeypatch.chdir(tmp_path / "below")
    Settings.read()
    assert masked("of-the/project, of-the%2Fproject, w@rd1234") == "***, ***, ***"


def test_masking_takes_no_longer_than_reading() -> None:
    """A message of megabytes of what looks like addresses or parameters is masked in seconds."""
    start = time.perf_counter()
    for piece in ("http://", "a:" * 9, "key", "x", "@"):
        masked(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3.9862, "3.9862"), (2.0, "2"), (-1, "-1"), (1e16, "1e+16"), (0.1 + 0.2, "0.30000000000000004")],
)
def test_numbers_are_shown_in_the_fewest_digits(value: float, shown: str) -> None:
    """As it was delivered, and still enough to tell it from its neighbours; what is not there is missing."""
    assert shown_number(value) == shown
    assert float(shown) == value
    assert shown_number(None) == "missing"
