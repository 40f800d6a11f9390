"""Every command, given anything: exit status 0, 1 or 2, one line a problem, no traceback."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from wafer.cli.main import cli
from wafer.fab.simulate import simulate_batches
from wafer.shown import LONGEST_MESSAGE


def commands_below(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The name of each command that does something."""
    if not isinstance(command, click.Group):
        yield path
        return
    for name, below in command.commands.items():
        yield from commands_below(below, (*path, name))


COMMANDS = tuple(commands_below(cli))
# what would start servers, and take its time, finds that none answers; it is refused once all else was looked at
NEED_SERVERS = {"run", "ingest", "train", "predict", "models", "store"}
SILENT = {
    "PREFECT_API_URL": "http://127.0.0.1:9/api",
    "MONGODB_URL": "mongodb://127.0.0.1:9/",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
}
PLACES = (
    "good",
    "empty",
    "good/one.csv",
    "nowhere",
    "latin.yaml",
    "params.yaml",
    "link",
    "circle",
    "suites",
    ".",
    "..",
)
STEPS = ("fit", "evaluate", "report-training", "report-prediction")
words = st.one_of(
    st.sampled_from((*PLACES, "--kind", "--json", "-h", "training", "-1", "nan", "9" * 30, "")),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.text("./~?#%*[]{}\\'\"\n\x1b", max_size=300),
)
variables = st.dictionaries(
    st.sampled_from(["WAFER_STORAGE", "WAFER_STATE", "WAFER_JOBS", "PREFECT_HOME", "MONGODB_DATABASE", "WAFER_COMMIT"]),
    st.one_of(words, st.sampled_from(["s3://", "s3:///x", "gs://b/x", "file", "file/below", "/proc/x", "3"])),
    max_size=3,
)
addresses = st.dictionaries(
    st.sampled_from(["MONGODB_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL"]),
    st.one_of(
        words, st.sampled_from(["http://", "ftp://x", "mongodb://a:b@c:99999", "postgresql://a:b/c@d", "x://[", "://"])
    ),
    max_size=1,
)
environments = st.one_of(st.just({}), variables, addresses)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=10), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
parameters = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")),
    st.dictionaries(st.sampled_from(["deliver", "fit", "evaluate", "gate", "x"]), values, max_size=4),
    st.tuples(st.sampled_from(["deliver", "fit", "evaluate", "gate"]), st.integers(0, 20), values),
)


def value_of(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """What may be given for a parameter: mostly of its kind."""
    if isinstance(parameter.type, click.Choice):
        return st.one_of(st.sampled_from(parameter.type.choices), words)
    if isinstance(parameter.type, click.IntRange):
        return st.one_of(st.integers(-1, 3).map(str), words.filter(lambda word: not word.isdecimal()))
    known = STEPS if parameter.name == "steps" else PLACES
    return st.one_of(st.sampled_from(known), st.sampled_from(known), st.sampled_from(known), words)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its own options and arguments, and now and then one that it does not know."""
    path = draw(st.sampled_from(COMMANDS))
    command: click.Command = cli
    for name in path:
        command = cast(click.Group, command).commands[name]
    line: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            line += draw(
                st.lists(value_of(parameter), min_size=parameter.required, max_size=2 - (parameter.nargs == 1))
            )
        elif draw(st.booleans()) or parameter.required:
            line.append(parameter.opts[0])
            line += [] if cast(click.Option, parameter).is_flag else [draw(value_of(parameter))]
    if path == ("simulate",):
        line += ["--batches", "1", "--wafers", "2"]  # the last one counts; millions of them are no fault
    if path == ("study",) and not set(STEPS).intersection(line):
        line.append("fit")  # all steps take minutes
    if path == ("fetch",):
        line += ["--url", draw(st.sampled_from(["ftp://x", "http://", "", "http://127.0.0.1:99999/", "http://[/"]))]
    return [*path, *line, *draw(st.sampled_from([(), (), (), ("--json",), ("\x1b",)]))]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good files, bad ones, links and suites."""
    place = tmp_path_factory.mktemp("template")
    (file,) = simulate_batches(place / "good", batches=1, wafers=2, seed=1)
    file.with_name("one.csv").write_bytes(file.read_bytes()[:300])
    (place / "empty").mkdir()
    (place / "file").touch()
    (place / "latin.yaml").write_bytes("# Größe".encode("latin-1"))
    (place / "link").symlink_to("nowhere")
    (place / "circle").symlink_to("circle")
    shutil.copytree(REPOSITORY / "expectations", place / "suites")
    shutil.copytree(REPOSITORY / "expectations", place / "expectations")
    return place


@contextmanager
def inside(template: Path, params: object) -> Iterator[None]:
    """A copy of the template as the working folder, with a parameter file."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        place = shutil.copytree(template, Path(folder, "place"), symlinks=True)
        if isinstance(params, tuple):
            section, at, value = params
            content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
            content[section][list(content[section])[at % len(content[section])]] = value
            params = content
        written = params if isinstance(params, bytes) else yaml.safe_dump(params, allow_unicode=True).encode()
        (place / "params.yaml").write_bytes(written)
        os.chdir(place)
        try:
            yield
        finally:
            os.chdir(before)


def run_anything(template: Path, line: list[str], env: dict[str, str], params: object) -> None:
    silent = SILENT if line[0] in NEED_SERVERS else {}
    usable = silent | {name: value for name, value in env.items() if "\0" not in value}
    with inside(template, params), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(Path.cwd() / "empty"))
        done = CliRunner().invoke(cli, line, env=usable)
    assert done.exit_code in (0, 1, 2), (done.output, done.exception)
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert "Traceback" not in done.output
    assert all(line.isprintable() for line in done.output.splitlines())
    assert all(len(line) <= LONGEST_MESSAGE + 10 for line in done.stderr.splitlines())


ANYTHING = (command_lines(), environments, parameters)
unhurried = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=8, **unhurried)  # type: ignore[arg-type]
@given(*ANYTHING)
def test_no_command_shows_a_traceback(template: Path, line: list[str], env: dict[str, str], params: object) -> None:
    """A few random arguments, environments and parameter files."""
    run_anything(template, line, env, params)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=3000, **unhurried)  # type: ignore[arg-type]
@given(*ANYTHING)
def test_no_command_shows_a_traceback_in_thousands_of_cases(
    template: Path, line: list[str], env: dict[str, str], params: object
) -> None:
    """The same with a few thousand."""
    run_anything(template, line, env, params)
