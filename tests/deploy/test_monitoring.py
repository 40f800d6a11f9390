"""Scrape config, alerts and dashboard: valid, explained, and on a real Prometheus that scrapes a real service."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.deploy.tools import DEPLOY, OWN, ran, tool
from wafer.service import metrics

MONITORING = DEPLOY / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
ALERTS = {rule["alert"] for group in RULES for rule in group["rules"]}
PANELS = [
    panel for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"] if panel["type"] != "row"
]
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
SECONDS = 900.0  # for whatever is waited for, on a machine that does much else


def marked(test: Callable[..., None]) -> Callable[..., None]:
    """A check of seconds that needs a tool."""
    return pytest.mark.slow(pytest.mark.invariant(test))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def queries() -> list[tuple[str, str]]:
    """Each query of the dashboard with the title of its panel."""
    return [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


@marked
def test_config_and_rules_are_valid(tmp_path: Path) -> None:
    """Prometheus' own tool reads both; the config names the rules and a token."""
    place = tmp_path / "monitoring"
    shutil.copytree(MONITORING, place)
    (place / "wafer.token").write_text("secret")
    told = ran(tool("promtool"), "check", "config", "prometheus.yml", cwd=place)
    assert f"{sum(len(group['rules']) for group in RULES)} rules found" in told


@marked
def test_each_alert_fires_where_it_should(tmp_path: Path) -> None:
    """`promtool test rules` passes, and fails where a rule asks for something else."""
    assert "SUCCESS" in ran(tool("promtool"), "test", "rules", "tests.yml", cwd=MONITORING)
    text = (MONITORING / "rules.yml").read_text()
    (tmp_path / "rules.yml").write_text(text.replace("(wafer_refused_versions) >= 2", "(wafer_refused_versions) >= 1"))
    shutil.copy(MONITORING / "tests.yml", tmp_path)
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1


def test_each_alert_is_tested_both_ways() -> None:
    """Somewhere it fires, and somewhere there is a case or a series in which it must stay silent."""
    cases = yaml.safe_load((MONITORING / "tests.yml").read_text())["tests"]
    told = [(one["alertname"], one["exp_alerts"], case) for case in cases for one in case["alert_rule_test"]]
    assert {name for name, expected, _ in told if expected} == ALERTS
    silent = {name for name, expected, _ in told if not expected}
    silent |= {name for name, _, case in told if any('job="calm"' in one["series"] for one in case["input_series"])}
    assert silent == ALERTS


def test_each_alert_has_its_line_in_the_runbook() -> None:
    """`runbook_url` leads to a row with symptom, cause and what to do; no row is of an alert that is gone."""
    rows = re.findall(r'^\| <a id="(\w+)"></a>`(\w+)` \| (.+) \| (.+) \| (.+) \|$', OPERATIONS, flags=re.MULTILINE)
    assert {name for _, name, *_ in rows} == ALERTS
    anchors = {f"docs/operations.md#{anchor}": name for anchor, name, *_ in rows}
    for group in RULES:
        for rule in group["rules"]:
            assert anchors[rule["annotations"]["runbook_url"]] == rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_rules_and_panels_ask_for_what_is_told() -> None:
    """Each metric of the service that a rule, a test or a panel names is one that it tells."""
    told = {name for name, *_ in (*metrics.COUNTERS, *metrics.FAMILIES, metrics.DURATION)}
    asked = json.dumps(queries()) + (MONITORING / "rules.yml").read_text() + (MONITORING / "tests.yml").read_text()
    assert {name.removesuffix("_bucket") for name in re.findall(r"\bwafer_[a-z0-9_]+", asked)} <= told


def test_no_panel_lies_on_another() -> None:
    """Each place of the grid belongs to one panel, and each panel has a description."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    places = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) == 23
    assert [panel["title"] for panel in PANELS if not panel["description"]] == []
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@marked
def test_the_dashboard_is_what_its_script_writes(tmp_path: Path) -> None:
    """The committed JSON is current, and the classes of Grafana's SDK read it and write the same."""
    assert (OWN / "python").exists(), "run `make deploy-test`, which installs the tools"
    shutil.copy(MONITORING / "dashboard.py", tmp_path)
    ran(OWN / "python", "dashboard.py", cwd=tmp_path)
    written = (tmp_path / "dashboard.json").read_text()
    assert written == (MONITORING / "dashboard.json").read_text()
    again = ran(
        OWN / "python",
        "-c",
        "import json, sys; from grafana_foundation_sdk.cog.encoder import JSONEncoder;"
        "from grafana_foundation_sdk.cog.plugins import register_default_plugins;"
        "from grafana_foundation_sdk.models.dashboard import Dashboard; register_default_plugins();"
        "print(json.dumps(Dashboard.from_json(json.load(open('dashboard.json'))), cls=JSONEncoder))",
        cwd=tmp_path,
    )
    assert json.loads(again) == json.loads(written)


def sequence() -> str:
    """The commands that the manual gives, from a clean clone to a drifted batch."""
    text = (DEPLOY / "README.md").read_text()
    (block,) = re.findall(
        r"<!-- drifted batch -->\n```console\n(.*?)```\n<!-- /drifted batch -->", text, flags=re.DOTALL
    )
    return str(block)


@contextmanager
def running(log: Path, *command: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process with all that it starts, which ends with the block."""
    with log.open("w") as told:
        process = subprocess.Popen(
            [str(one) for one in command],
            cwd=log.parent,
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end_all(process)


def end_all(process: "subprocess.Popen[str]") -> None:
    """Have a process and all of its group end, as a person would; what does not heed that is killed."""
    deadline = time.monotonic() + 60
    with suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(found: Callable[[], Any], what: str, log: Path) -> Any:
    """What is found at last."""
    deadline = time.monotonic() + SECONDS
    while not (now := found()):
        assert time.monotonic() < deadline, f"{what}:\n{log.read_text()[-4000:]}"
        time.sleep(1.0)
    return now


class Shown:
    """The Prometheus that the manual's commands have started, and the service that it asks."""

    def __init__(self, prometheus: str, service: str, project: Path, environment: dict[str, str]) -> None:
        self.prometheus = httpx.Client(base_url=f"{prometheus}/api/v1/", timeout=30)
        told = ran(
            "wafer", "token", "create", "line", "--scope", "score", "--scope", "operate", cwd=project, **environment
        )
        self.service = httpx.Client(base_url=service, timeout=60, headers={"Authorization": f"Bearer {told.strip()}"})

    def ask(self, expression: str, **more: float) -> list[list[float]]:
        """The values of each series that a query finds: now, or with start, end and step over time."""
        query = expression.replace("$__rate_interval", "1m")
        answer = self.prometheus.post("query_range" if more else "query", data={"query": query, **more})
        assert answer.status_code == 200, f"{query}: {answer.text}"
        found = answer.json()["data"]["result"]
        return [[float(value) for _, value in one.get("values", [one.get("value")])] for one in found]

    def empty(self) -> list[str]:
        """The queries of panels that find no number; meanwhile wafers are scored, one of which is asked for wrongly."""
        for sensors in 590, 590, 589:
            self.service.post("/v1/score", json={"wafers": [{"readings": [0.0] * sensors}]})
        return [
            f"{title}: {expression}"
            for title, expression in queries()
            if all(math.isnan(value) for values in self.ask(expression) for value in values)
        ]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, small_params: Path) -> Iterator[Shown]:
    """After the manual's commands on small models, with Prefect's server and node exporter beside them."""
    place = tmp_path_factory.mktemp("clone")
    exporter, log = tool("prometheus-node-exporter"), place / "log.txt"
    tool("prometheus"), tool("promtool")
    ports = {name: free_port() for name in ("wafer", "prometheus", "prefect", "node")}
    shutil.copytree(MONITORING, place / "deploy" / "monitoring")
    (place / ".venv").mkdir()
    (place / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for name, port in ports.items():
        (place / "deploy" / "monitoring" / "targets" / f"{name}.yml").write_text(f"- targets: ['127.0.0.1:{port}']\n")
    config = place / "deploy" / "monitoring" / "prometheus.yml"
    config.write_text(config.read_text().replace("interval: 15s", "interval: 5s"))
    commands = sequence().replace("wafer serve --tokens", f"wafer serve --tokens --port {ports['wafer']}")
    commands = commands.replace("127.0.0.1:9090", f"127.0.0.1:{ports['prometheus']}")
    commands = commands.replace("cd fab\n", f"cd fab\ncp {shlex.quote(str(small_params))} params.yaml\n")
    script = f"set -eu -o pipefail\n{commands}\necho the manual ends here\nread -r\n"
    own = {"PYTHONPATH": str(REPOSITORY), "WAFER_JOBS": "1"}
    prefect = {"PREFECT_HOME": str(place / "prefect"), "PREFECT_SERVER_METRICS_ENABLED": "true"}
    prefect["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    server = "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports["prefect"])
    with ExitStack() as stack:
        stack.enter_context(running(place / "prefect.txt", sys.executable, *server, **prefect))
        stack.enter_context(running(place / "node.txt", exporter, f"--web.listen-address=127.0.0.1:{ports['node']}"))
        process = stack.enter_context(running(log, "bash", "-c", script, **own))

        def ended() -> bool:
            assert process.poll() is None, log.read_text()[-4000:]
            return "the manual ends here" in log.read_text()

        until(ended, "the manual's commands do not end", log)
        addresses = (f"http://127.0.0.1:{ports[name]}" for name in ("prometheus", "wafer"))
        made = Shown(*addresses, place / "fab", own)
        with made.prometheus, made.service:
            yield made


@pytest.mark.slow
@pytest.mark.xdist_group("monitoring")
def test_every_panel_shows_something(shown: Shown) -> None:
    """After the commands, some requests and a file that is turned away, each query of each panel finds numbers."""
    cut = ",".join(["Wafer", *(f"Sensor-{number}" for number in range(1, 591)), "x"]).encode()
    sent = {"content": cut, "headers": {"Content-Type": "text/csv"}}
    told = shown.service.post("/v1/batches?kind=prediction&name=wafer_31012026_083000.csv", **sent)
    assert told.json()["verdict"] == "quarantined", told.text
    deadline = time.monotonic() + SECONDS
    while (empty := shown.empty()) and time.monotonic() < deadline:
        time.sleep(1.0)
    assert empty == []
    targets = shown.prometheus.get("targets").json()["data"]["activeTargets"]
    assert {one["labels"]["job"]: one["health"] for one in targets} == dict.fromkeys(
        ("node", "prefect", "prometheus", "wafer"), "up"
    )


@pytest.mark.slow
@pytest.mark.xdist_group("monitoring")
def test_the_panel_of_drift_shows_the_drifted_batch(shown: Shown) -> None:
    """Its score lies below the limit at first and above it at the end, and `WaferDrift` is what to do now."""
    (panel,) = [one for one in PANELS if one["title"] == "Drift"]
    now = time.time()
    score, limit = (
        values for target in panel["targets"] for values in shown.ask(target["expr"], start=now - 3600, end=now, step=5)
    )
    assert score[0] <= limit[0]
    assert score[-1] > limit[-1]
    (values,) = shown.ask('ALERTS{alertname="WaferDrift", alertstate="firing"}')
    assert values == [1.0]
