"""Every page as a reader opens it: in a real browser, without a network."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.terminal import wafer
from wafer.reporting.display import show_table
from wafer.shown import facts_html

pytestmark = pytest.mark.slow

PAGES = (
    "ingest-training.html",
    "ingest-prediction.html",
    "prediction.html",
    "data_quality.html",
    "exploration.html",
    "training.html",
)
PROBE = """<script>
window.troubles = [];
addEventListener('error', event => troubles.push(event.message || event.target.outerHTML.slice(0, 200)), true);
addEventListener('load', () => {
  const boxes = what => Array.from(document.querySelectorAll(what), one => one.getBoundingClientRect());
  const seen = what => boxes(what).filter(box => box.width > 0);
  const style = getComputedStyle(document.body);
  const found = {troubles, widths: Array.from(document.images, image => image.naturalWidth),
    cut: Array.from(document.querySelectorAll('.listing'), one => one.scrollWidth - one.clientWidth),
    graphics: document.querySelectorAll('svg').length, needs: document.documentElement.scrollWidth, window: innerWidth,
    left: seen('main > *').map(box => box.left), column: seen('main')[0]?.width,
    plots: seen('.figure img').map(box => box.width), advice: seen('.now').map(box => box.bottom),
    switches: boxes('#code').length, code: seen('.code').length, paper: style.backgroundColor, ink: style.color};
  document.body.setAttribute('data-found', JSON.stringify(found));
});
</script>"""


class Facts:
    """An object that shows itself with a table within its table."""

    def facts(self) -> dict[str, object]:
        """One fact: a list."""
        return {"alarms": [{"sensor": "S-1", "wafers": 1}]}


@pytest.fixture(scope="module")
def browser() -> str:
    """The installed Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on the path (Debian's package: chromium)")
    return found


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, small_params: Path) -> Path:
    """The reports of a whole small study, made as `make notebooks` makes them."""
    storage = tmp_path_factory.mktemp("study")
    done = wafer("study", "--storage", storage, "--params", small_params, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return storage / "runs" / "study"


def visit(browser: str, page: Path, profile: Path, *options: str) -> str:
    """Open `page` with no host but this file reachable; what the browser prints."""
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--hide-scrollbars",
    ]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def measure(browser: str, page: Path, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What the probe finds in a page, such as where its parts stand, and the page as the browser has it."""
    probed = folder / "page.html"
    probed.write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
    shown = visit(browser, probed, folder / "profile", "--dump-dom", *options)
    found: dict[str, Any] = json.loads(unescape(re.search(r'data-found="([^"]*)"', shown).group(1)))  # type: ignore[union-attr]
    return found, shown


def test_every_page_is_looked_at(reports: Path) -> None:
    """No page of a study escapes these tests."""
    assert sorted(str(p.relative_to(reports)) for p in reports.rglob("*.html")) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_its_plots_offline(name: str, browser: str, reports: Path, tmp_path: Path) -> None:
    """Every picture is drawn, no script fails, nothing is asked of a network, and the page stays below 6 MB."""
    text = (reports / name).read_text()
    assert len(text.encode()) < 6e6
    found, shown = measure(browser, reports / name, tmp_path)
    assert found["troubles"] == []
    notebook = (reports / name).with_suffix(".ipynb")
    if notebook.exists():
        outputs = [output for cell in json.loads(notebook.read_text())["cells"] for output in cell.get("outputs", [])]
        assert len(found["widths"]) == sum("image/png" in output.get("data", {}) for output in outputs) > 0
    else:
        assert found["graphics"] + len(found["widths"]) > 0
    assert min(found["widths"], default=1) > 0
    assert "Traceback" not in shown


@pytest.mark.parametrize("width", [1200, 800])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_column(name: str, width: int, browser: str, reports: Path, tmp_path: Path) -> None:
    """Nothing reaches beyond the window, all parts of a report begin at one left edge, plots fill the column."""
    found, _ = measure(browser, reports / name, tmp_path, f"--window-size={width},900")
    assert found["needs"] <= found["window"] == width
    assert max(found["cut"], default=0) <= 1, "a table of an ingest hides columns"
    if (reports / name).with_suffix(".ipynb").exists():
        assert len(set(found["left"])) == 1
        assert set(found["plots"]) == {found["column"]}


@pytest.mark.parametrize("width", [1200, 800])
@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith("ingest")])
def test_the_first_screen_says_what_to_do(name: str, width: int, browser: str, reports: Path, tmp_path: Path) -> None:
    """The advice ends within the first screen, all code is hidden by one switch, and dark paper has light ink."""
    found, _ = measure(browser, reports / name, tmp_path, f"--window-size={width},900")
    assert found["advice"] and max(found["advice"]) <= 900
    assert (found["switches"], found["code"]) == (1, 0)
    dark, _ = measure(browser, reports / name, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (found["paper"], dark["paper"]) == ("rgb(255, 255, 255)", "rgb(21, 24, 28)")
    assert dark["ink"] == "rgb(228, 231, 235)"


def test_jupyterlab_leaves_text_at_the_left(browser: str, tmp_path: Path) -> None:
    """JupyterLab sets all cells of a table at the right; ours stand at the left, with their numbers at the right."""
    ways = "Array.from(document.querySelectorAll('td, th'), one => getComputedStyle(one).textAlign)"
    script = f"<script>document.body.setAttribute('data-found', JSON.stringify({ways}))</script>"
    rule = ":not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon"
    table = show_table(pd.DataFrame({"said": ["so"], "long": ["x" * 40], "count": [1]}, index=["name"])).data
    for shown, expected in (
        (table, ["left", "left", "left", "right"] * 2),
        (facts_html(Facts()), ["left"] * 3 + ["right", "left", "right"]),
    ):
        page = tmp_path / "cell.html"
        style = f"<style>{rule} td, {rule} th {{text-align: right}}</style>"
        page.write_text(f'{style}<div class="jp-RenderedHTMLCommon">{shown}</div>{script}')
        found = re.search(r'data-found="([^"]*)"', visit(browser, page, tmp_path / "profile", "--dump-dom"))
        assert json.loads(unescape(found.group(1))) == expected  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_not_blank(name: str, browser: str, reports: Path, tmp_path: Path) -> None:
    """A screenshot of the first screens has ink from top to bottom: in most bands not all points are alike."""
    picture = tmp_path / "page.png"
    visit(browser, reports / name, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1100,2400")
    points = matplotlib.image.imread(picture)[..., :3]
    bands = np.array_split(points, 12)
    assert sum(float(band.std()) > 0.01 for band in bands) >= 8
