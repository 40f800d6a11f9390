"""The pages' main ways in a real browser on a real server: by mouse and keyboard, light, dark and narrow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.service.conftest import batch_file, make_place
from tests.service.test_server import served
from wafer import steps
from wafer.service.tokens import Tokens
from wafer.settings import Settings
from wafer.workspace import Workspace

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
PAGES = ("/", "/deliver", "/runs", "/quality", "/quarantine", "/wafers/Wafer-1001", "/login", "/none")
PATIENT = 120_000  # milliseconds, for what a run or a busy machine takes
expect.set_options(timeout=PATIENT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, fitted: Path, mongodb_url: str) -> Settings:
    """A project whose champion has scored a batch with alarms."""
    settings = make_place(tmp_path_factory.mktemp("fab"), empty_database, fitted, mongodb_url, "browser")
    settings.storage.write_bytes("raw/prediction/wafer_01022026_083000.csv", batch_file(1001, 24))
    with Workspace(settings) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction")
        assert steps.predict(workspace, run, new_only=True) is not None
    return settings


@pytest.fixture(scope="module")
def address(place: Settings) -> Iterator[str]:
    with served(place) as (client, _):
        while client.get("/readyz").status_code != 200:
            pass
        yield str(client.base_url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A tab; an error of the script, or something that its policy forbids, fails the test."""
    page = browser.new_page(base_url=address)
    page.set_default_timeout(PATIENT)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    yield page
    page.close()
    assert wrong == []


def test_alarms_move_on_from_the_keyboard(page: Page) -> None:
    """j goes to the first, a acknowledges it, Enter opens the next, where it is closed with a comment."""
    page.goto("/")
    first, second = (row.get_attribute("data-alarm") for row in page.locator("tr[data-alarm]").all()[:2])
    page.keyboard.press("j")
    expect(page.locator(f"tr[data-alarm={first}]")).to_be_focused()
    page.keyboard.press("a")
    expect(page.get_by_role("link", name="acknowledged 1")).to_be_visible()
    page.wait_for_load_state()  # from then on its script listens
    page.keyboard.press("j")
    expect(page.locator(f"tr[data-alarm={second}]")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/wafers/{second}")
    page.get_by_label("Comment").fill("a particle")
    page.get_by_role("button", name=f"Close {second} as faulty").click()
    expect(page.get_by_text("a particle")).to_be_visible()
    expect(page.get_by_text("Faulty, as tested.")).to_be_visible()


def test_a_person_logs_in_and_out(browser: Browser, place: Settings) -> None:
    """By a form with a token, which leads to the page that was asked for; after the log-out it asks again."""
    _, token = Tokens(place.storage).create("night shift", ("read",))
    with served(place, "--tokens") as (client, _):
        page = browser.new_page(base_url=str(client.base_url))
        page.set_default_timeout(PATIENT)
        page.goto("/runs")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/runs")
        expect(page.get_by_text("night shift")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        page.goto("/runs")
        page.wait_for_url("**/login?next=/runs")
        page.close()


def test_a_file_is_delivered_and_scored(page: Page, tmp_path: Path) -> None:
    """A broken one is told by line and column, a sound one is accepted and then scored by a run that is followed."""
    bad = tmp_path / "wafer_02022026_083000.csv"
    bad.write_bytes(batch_file(1101).replace(b"\nWafer-1102,", b"\nWafer-1102,<b>oops</b>", 1))
    good = tmp_path / "wafer_03022026_083000.csv"
    good.write_bytes(batch_file(1201))
    page.goto("/deliver")
    page.get_by_label("Batch file").set_input_files(bad)
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_role("heading", name="Not accepted")).to_be_visible()
    expect(page.locator("#verdict li").first).to_contain_text("line 3")
    page.get_by_label("Batch file").set_input_files(good)
    page.get_by_role("button", name="Deliver").click()
    expect(page.get_by_role("heading", name="Accepted: 8 wafers")).to_be_visible()
    page.get_by_role("button", name="Score what is new").click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("State: finished")).to_be_visible(timeout=5 * PATIENT)
    expect(page.get_by_text("8 wafers scored by version 1")).to_be_visible()


def test_the_slider_tells_what_more_alarms_are_worth(page: Page) -> None:
    """Its answer changes with it, and asks for a reason before a retune."""
    page.goto("/quality")
    answer = page.locator("#worth td").first
    expect(answer).to_be_visible()
    before = page.locator("#worth").inner_text()
    slider = page.get_by_role("slider")
    slider.focus()
    for _ in range(25):
        slider.press("ArrowRight")
    expect(page.locator("#worth")).not_to_have_text(before)
    page.get_by_role("button", name="Retune").click()
    expect(page.locator("#told")).to_contain_text("why")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_each_page_can_be_used_by_everybody(browser: Browser, address: str, colours: str) -> None:
    """No violation that axe-core knows, at a desk and on a tablet, where nothing but a table is wider than the page."""
    page = browser.new_page(base_url=address, color_scheme=colours)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENT)
    for width in (1200, 800):
        page.set_viewport_size({"width": width, "height": 1000})
        for one in PAGES:
            page.goto(one)
            page.wait_for_load_state("networkidle")
            found = Axe().run(page)
            assert found.violations_count == 0, (one, found.generate_report())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, one
    page.close()
