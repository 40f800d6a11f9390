"""The pages as people have them: the service of a real stack, whose deployments work on real batches."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect, sync_playwright

from bench.nights import BIN, QUICK, Project
from tests.stack.servers import free_base

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
PATIENT, A_RUN = 120_000, 900_000  # milliseconds, for what a busy machine and a run take
LEFT = 1
"""Batch that is not predicted."""


@pytest.fixture
def stack(tmp_path: Path, real_wafers: Path) -> Iterator[Project]:
    """A project with a stack, its deployments, and a version that was trained on the real batches."""
    folder, base = tmp_path / "fab", free_base()
    subprocess.run([BIN / "wafer", "init", folder], check=True, stdout=subprocess.DEVNULL)
    params = folder / "params.yaml"
    content = yaml.safe_load(params.read_text())
    params.write_text(yaml.safe_dump({**content, **{name: content[name] | some for name, some in QUICK.items()}}))
    project = Project(folder, base)
    try:
        project.run("wafer", "stack", "up")
        project.run("prefect", "deploy", "--all")
        project.run("wafer", "deliver", real_wafers / "training")
        for name in ("ingest", "train"):
            assert project.end(project.start(name)) == "Completed"
        some = tmp_path / "prediction"
        some.mkdir()
        for file in sorted((real_wafers / "prediction").glob("*.csv"))[:-LEFT]:
            (some / file.name).write_bytes(of_later_wafers(file))
        project.run("wafer", "deliver", some, "--kind", "prediction")
        yield project
    finally:
        project.run("wafer", "stack", "down", statuses=(0, 1))


def of_later_wafers(file: Path) -> bytes:
    """The readings of a batch under ids that nobody has a label of, as those of the training's wafers have."""
    return re.sub(rb"(?m)^Wafer-(\d+)", lambda found: b"Wafer-%d" % (int(found[1]) + 10_000), file.read_bytes())


@pytest.fixture
def page(stack: Project) -> Iterator[Page]:
    """A tab in which an error of a script fails the test."""
    base = int(stack.environment["WAFER_PORT_BASE"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=f"http://127.0.0.1:{base + 5}")
        page.set_default_timeout(PATIENT)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        yield page
        browser.close()
    assert wrong == []


def test_the_way_of_a_day(page: Page, stack: Project, real_wafers: Path, tmp_path: Path) -> None:
    """A prediction is started and followed, an alarm looked at and closed, a file delivered and turned away."""
    page.goto("/runs")
    page.get_by_role("button", name="Score what is new").click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("State: finished")).to_be_visible(timeout=A_RUN)
    expect(page.get_by_text("wafers scored by version 1")).to_be_visible()
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_role("heading", name="What to do now")).to_be_visible()

    page.goto("/")
    row = page.locator("tr[data-alarm]").first
    wafer = row.get_attribute("data-alarm")
    row.get_by_role("link", name=str(wafer)).click()
    page.wait_for_url(f"**/wafers/{wafer}")
    page.get_by_label("Comment").fill("seen at the probe station")
    page.get_by_role("button", name=f"Close {wafer} as faulty").click()
    expect(page.get_by_text("Faulty, as tested.")).to_be_visible()

    bad = tmp_path / "wafer_01022026_083000.csv"
    last = sorted((real_wafers / "prediction").glob("*.csv"))[-LEFT]
    first, second, rest = of_later_wafers(last).split(b"\n", 2)
    name, _, readings = second.split(b",", 2)
    bad.write_bytes(b"\n".join([first, b",".join([name, b"oops", readings]), rest]))
    page.goto("/deliver")
    page.get_by_label("Batch file").set_input_files(bad)
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_role("heading", name="Not accepted")).to_be_visible()
    expect(page.locator("#verdict li").first).to_contain_text("line 2")
    page.goto("/quarantine")
    expect(page.get_by_text(bad.name).first).to_be_visible()

    page.goto("/quality")
    expect(page.locator("#worth td").first).to_be_visible()
    assert stack.run("wafer", "doctor").count("failure") == 0
