import ast
import re
import shutil
import sys
import textwrap
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wafer.errors import ReportError
from wafer.records import Predicted
from wafer.reporting.notebooks import LONGEST, _short, known_parameters, read_notebook, run_notebook
from wafer.runs import Runs
from wafer.storage import Storage

PARAMETERS = {
    "training": ("run", "storage"),
    "prediction": ("run", "storage", "batches"),
    "data_quality": ("run", "storage"),
    "exploration": ("run", "storage", "sensors_shown"),
    "first_steps": ("past", "new", "labelled"),
    "study": ("storage", "run", "files", "note", "hand_over"),
}
PICTURES = {"training": 5, "prediction": 8, "data_quality": 3, "exploration": 3}


@pytest.fixture
def write_notebook(tmp_path):
    def write(*cells: str, tagged: int = 1) -> Path:
        """A notebook `small` whose first `tagged` cells are tagged as parameters."""
        notebook = new_notebook(cells=[new_markdown_cell("# Small"), *map(new_code_cell, cells)])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        for cell in notebook.cells[1 : 1 + tagged]:
            cell.metadata["tags"] = ["parameters"]
        folder = tmp_path / "notebooks"
        folder.mkdir(exist_ok=True)
        (folder / "small.ipynb").write_text(nbformat.writes(notebook))
        return folder

    return write


def test_every_notebook_is_known_here(notebooks):
    """No notebook escapes these tests."""
    assert sorted(file.stem for file in notebooks.glob("*.ipynb")) == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_notebooks_are_stored_without_outputs(name, notebooks):
    """A notebook in git holds no output, no execution count, and names the kernel that papermill asks for."""
    notebook = read_notebook(name, notebooks)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    assert (notebook.metadata.kernelspec.name, notebook.metadata.kernelspec.language) == ("python3", "python")


@pytest.mark.parametrize("name", PARAMETERS)
def test_notebooks_have_one_parameters_cell(name, notebooks):
    """Exactly one cell is tagged `parameters`, and it assigns the documented names and nothing else."""
    assert known_parameters(read_notebook(name, notebooks), name) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_notebooks_define_nothing(name, notebooks):
    """Notebooks call the library: no function, no class, no lambda."""
    source = "\n".join(cell.source for cell in read_notebook(name, notebooks).cells if cell.cell_type == "code")
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert [type(node).__name__ for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)] == []


def test_an_unknown_parameter_is_refused_before_running(write_notebook, tmp_path):
    """A misspelt parameter is named with the known ones, and nothing is run or written."""
    folder = write_notebook("snapshot = ''\nmodel: str = ''", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    message = "notebook 'small' has no parameter 'snapshto', only: snapshot, model"
    with pytest.raises(ReportError, match=message):
        run_notebook("small", {"snapshto": "x"}, tmp_path / "out", notebooks=folder)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tagged", [0, 2])
def test_a_notebook_needs_exactly_one_parameters_cell(write_notebook, tmp_path, tagged):
    """Without a parameters cell, or with two, a notebook is refused: papermill would run it on its defaults."""
    folder = write_notebook("a = 1", "b = 2", tagged=tagged)
    with pytest.raises(ReportError, match=f"must have exactly one cell tagged `parameters`, got {tagged}"):
        run_notebook("small", {}, tmp_path / "out", notebooks=folder)


def test_an_unknown_notebook_names_those_there_are(write_notebook, tmp_path):
    """Asking for a notebook that is not there names those that are."""
    with pytest.raises(ReportError, match=r"there is no notebook 'smal' in .*, only: small"):
        run_notebook("smal", {}, tmp_path, notebooks=write_notebook("a = 1"))


def test_a_failing_notebook_is_kept(write_notebook, tmp_path, capfd):
    """When a cell fails the executed notebook stays, with what came before, and the error carries the cell's own."""
    folder = write_notebook("depth = 1", "print('so far')", "1 / 0", "print('never')")
    message = "notebook 'small' failed in the cell that starts with '1 / 0': ZeroDivisionError: division by zero"
    with pytest.raises(ReportError, match=message):
        run_notebook("small", {"depth": 2}, tmp_path / "out", notebooks=folder)
    kept = nbformat.read(tmp_path / "out" / "small.ipynb", as_version=4)
    texts = [output.get("text") or output.get("ename") for cell in kept.cells for output in cell.get("outputs", [])]
    assert "so far\n" in texts
    assert "ZeroDivisionError" in texts
    assert "never\n" not in texts
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_dead_kernel_is_one_clear_sentence(write_notebook, tmp_path, caplog, end):
    """A notebook whose process dies is reported as such, soon, and kept with its page as far as it came."""
    folder = write_notebook("a = 1", "print('so far')", f"import os, signal\n{end}")
    start = time.monotonic()
    with pytest.raises(ReportError, match="notebook 'small' failed because its kernel died") as caught:
        run_notebook("small", {}, tmp_path / "out", notebooks=folder)
    assert time.monotonic() - start < 60  # of which most is the start of a kernel on a busy machine
    assert "\n" not in str(caught.value)
    assert "so far" in (tmp_path / "out" / "small.ipynb").read_text()
    assert "so far" in (tmp_path / "out" / "small.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stuck", ["import time; time.sleep(600)", "import os; os.kill(os.getpid(), 19)"])
def test_a_notebook_that_takes_too_long_is_stopped(write_notebook, tmp_path, caplog, stuck):
    """A cell that never ends, and a kernel that answers no more, end with the time limit; what came is kept."""
    folder = write_notebook("a = 1", "print('so far')", stuck)
    message = "notebook 'small' failed because it took longer than 8 seconds"
    with pytest.raises(ReportError, match=message):
        run_notebook("small", {}, tmp_path / "out", notebooks=folder, time_limit=8)
    assert "so far" in (tmp_path / "out" / "small.html").read_text()


def test_a_missing_kernel_is_one_clear_sentence(write_notebook, tmp_path, monkeypatch):
    """Without a Python kernel the notebook is kept as it is, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "ipykernel.kernelspec", None)  # as where ipykernel is not installed
    with pytest.raises(ReportError, match=r"no Python kernel is installed here \(the package ipykernel brings it\)"):
        run_notebook("small", {}, tmp_path / "out", notebooks=write_notebook("a = 1"))
    assert (tmp_path / "out" / "small.ipynb").exists()


def test_a_long_error_is_told_in_short(write_notebook, tmp_path, monkeypatch):
    """However long and many-lined an error is, the message is one short line; the page holds all of it but secrets."""
    monkeypatch.setenv("PREFECT_API_KEY", "h1dden-key")
    folder = write_notebook("a = 1", "import os\nraise ValueError(os.environ['PREFECT_API_KEY'] + ' much\\n' * 10_000)")
    with pytest.raises(ReportError, match=r"ValueError: \*\*\* much much") as caught:
        run_notebook("small", {}, tmp_path / "out", notebooks=folder)
    assert len(str(caught.value)) < 800 and "\n" not in str(caught.value)
    for file in ("small.ipynb", "small.html"):
        kept = (tmp_path / "out" / file).read_text()
        assert kept.count("much") > 10_000
        assert "h1dden" not in kept


def test_no_half_of_a_secret_is_left_where_a_message_is_cut(monkeypatch):
    """It is masked first and cut then."""
    monkeypatch.setenv("PREFECT_API_KEY", "h1dden-key")
    assert _short("x" * (LONGEST - 7) + "h1dden-key and more") == "x" * (LONGEST - 7) + "*** and…"


def test_a_notebook_tells_no_secret(write_notebook, tmp_path, monkeypatch):
    """Neither what it prints, in one piece or several, nor any form of what it displays, nor a parameter; also where it
    succeeds. A picture's bytes stay as they are."""
    monkeypatch.setenv("PREFECT_API_KEY", "h1dden<key>&")
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    cell = f"""
        import html, os, sys
        from IPython.display import display
        secret = os.environ["PREFECT_API_KEY"]
        print("key", secret)
        print("warned of", where, file=sys.stderr)
        pieces = {{"text/html": f"<b>{{html.escape(secret)}}</b>", "application/json": {{"a": [secret, 1]}}}}
        display({{"text/plain": secret, "image/png": {picture!r}, **pieces}}, raw=True)
        secret"""
    folder = write_notebook("where = ''", textwrap.dedent(cell))
    run_notebook("small", {"where": "mongodb://me:h1dden2@host/"}, tmp_path / "out", notebooks=folder)
    kept = nbformat.read(tmp_path / "out" / "small.ipynb", as_version=4)
    outputs = [output for cell in kept.cells for output in cell.get("outputs", ())]
    printed, warned, shown, value = outputs
    assert printed["text"] == "key ***\n"
    assert warned["text"] == "warned of mongodb://me:***@host/\n"
    forms = {"text/plain": "***", "text/html": "<b>***</b>", "application/json": {"a": ["***", 1]}}
    assert shown["data"] == {**forms, "image/png": picture}
    assert value["data"] == {"text/plain": "'***'"}
    for file in ("small.ipynb", "small.html"):
        assert "h1dden" not in (tmp_path / "out" / file).read_text()


def test_parameters_reach_the_cells_and_progress_is_told(write_notebook, tmp_path, capfd, monkeypatch):
    """Parameters keep their types, files get the caller's name, each cell is counted, nobody's profile is used."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "home"))
    folder = write_notebook("names = []\nrate = 0.0", "print(sorted(names), rate * 2)")
    seen = []
    report = run_notebook(
        "small",
        {"names": ["b", "a"], "rate": 0.25},
        tmp_path / "out",
        stem="named",
        notebooks=folder,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["named.html", "named.ipynb"]
    assert "['a', 'b'] 0.5" in Path(str(report.notebook)).read_text()
    assert "['a', 'b'] 0.5" in re.sub(r"&#39;", "'", Path(str(report.page)).read_text())
    assert seen[-1] == (4, 4)
    assert capfd.readouterr() == ("", "")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_a_report_can_be_written_to_a_bucket(write_notebook):
    """The folder of a report may be remote."""
    from upath import UPath

    folder = UPath("memory://reports")
    report = run_notebook("small", {"a": 2}, folder, notebooks=write_notebook("a = 1", "a"))
    assert report.page == folder / "small.html"
    assert "<title>Small</title>" in report.page.read_text()


class Addresses(HTMLParser):
    """What a page would load, and its pictures' descriptions."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.descriptions: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag would load."""
        found = dict(attrs)
        address = found.get("src") or (found.get("href") if tag == "link" else None)
        if address:
            self.loaded.append(address[:30])
        if tag == "img":
            self.descriptions.append(found.get("alt") or "")


def check_page(page: Path, pictures: int) -> None:
    """The page loads nothing from anywhere, describes its pictures, shows no error, and is of a size to be mailed."""
    text = page.read_text()
    seen = Addresses()
    seen.feed(text)
    assert [address for address in seen.loaded if not address.startswith("data:")] == []
    assert re.findall(r"""(?:url\(\s*['"]?|@import\s+['"])(https?:[^'")]*)""", text) == []
    assert len(seen.descriptions) == pictures
    assert all(len(text) > 20 and "No description" not in text for text in seen.descriptions)
    assert "Traceback" not in text
    assert "Figure(" not in text
    assert len(text) < 6_000_000


@pytest.mark.slow
@pytest.mark.invariant
def test_the_training_report_runs_and_works_offline(outputs, notebooks, tmp_path):
    """The training notebook runs top to bottom on the newest run of a storage, and its page is self-contained."""
    report = run_notebook("training", {"storage": str(outputs)}, tmp_path, notebooks=notebooks)
    page = Path(str(report.page))
    check_page(page, PICTURES["training"])
    assert "Version 1 is <strong>in use</strong> from now on." in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_every_report_holds_its_plots(name, outputs, notebooks, tmp_path):
    """Each notebook runs top to bottom, and its page holds every plot and asks for nothing from elsewhere."""
    report = run_notebook(name, {"storage": str(outputs)}, tmp_path, notebooks=notebooks)
    check_page(Path(str(report.page)), PICTURES[name])


@pytest.mark.slow
def test_wafers_without_a_verdict_are_reported(outputs, notebooks, tmp_path):
    """Wafers that got no verdict are in the prediction report, and no figure of it says "nan"."""
    shutil.copytree(outputs, tmp_path / "outputs")
    run = Runs(Storage(str(tmp_path / "outputs"))).latest("prediction")
    for name in ("first", "second"):
        file = Path(str(run.place(f"predictions/{name}.csv")))
        part = pd.read_csv(file)
        silent = np.full(len(part), name == "first") | (np.arange(len(part)) < 3)
        part = part.assign(**{column: part[column].mask(silent) for column in ("Prediction", "probability", "cluster")})
        part.to_csv(file, index=False)
    file = Path(str(run.place("details/wafers.csv")))
    wafers = pd.read_csv(file)
    wafers["unknown"] = wafers["unknown"] | (wafers["batch"] == "first")
    wafers.loc[wafers["batch"] == "first", "p_value"] = np.nan
    wafers.to_csv(file, index=False)
    given = {"storage": str(tmp_path / "outputs")}
    page = Path(str(run_notebook("prediction", given, tmp_path, notebooks=notebooks).page))
    check_page(page, PICTURES["prediction"])
    assert not re.search(r"\bnan\b", re.sub("<[^>]*>", " ", page.read_text().partition("<body")[2]))


@pytest.mark.slow
def test_reports_can_be_made_without_decision_alarms_or_wafers(outputs, notebooks, tmp_path):
    """A study without decision, and a delivery of which nothing could be scored, give whole reports too."""
    shutil.copytree(outputs, tmp_path / "outputs")
    runs = Runs(Storage(str(tmp_path / "outputs")))
    training, prediction = runs.latest("training"), runs.latest("prediction")
    training.place("records/gate.json").unlink()
    prediction.write(replace(prediction.read(Predicted), files=(), wafers=0, alarms=0))
    given = {"storage": str(tmp_path / "outputs")}
    report = run_notebook("training", given, tmp_path, notebooks=notebooks)
    assert "No decision about its use was taken" in Path(str(report.page)).read_text()
    check_page(Path(str(run_notebook("prediction", given, tmp_path, notebooks=notebooks).page)), PICTURES["prediction"])


@pytest.mark.slow
def test_a_training_without_any_measure_is_reported(outputs, notebooks, tmp_path):
    """Where every protocol was left out the training report says why, and its plots say that there is nothing."""
    left_out = {"shuffled": "too few faults", "forward": "too few batches", "permuted": "too few faults"}
    shutil.copytree(outputs, tmp_path / "outputs")
    run = Runs(Storage(str(tmp_path / "outputs"))).latest("training")
    run.place("records/gate.json").unlink()
    run.storage.write_json(run.key("metrics.json"), {"wafers": 240, "faulty": 1, "left_out": left_out})
    scores = Path(str(run.place("scores.parquet")))
    pd.read_parquet(scores).head(0).to_parquet(scores, index=False)
    given = {"storage": str(tmp_path / "outputs")}
    page = Path(str(run_notebook("training", given, tmp_path, notebooks=notebooks).page))
    check_page(page, PICTURES["training"])
    assert "Not measured forward: too few batches." in page.read_text()
