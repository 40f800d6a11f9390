"""What every test may use: real small things, started here and stopped again."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pymongo
import pytest
import yaml

from wafer.settings import Settings
from wafer.store.embedded import embedded_server, wait_until_stopped

# the same examples each time, so that no run fails by chance; HYPOTHESIS_SEARCH=1 looks for new ones
hypothesis.settings.register_profile("steady", derandomize=not os.environ.get("HYPOTHESIS_SEARCH"))
hypothesis.settings.load_profile("steady")

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = tuple(field.alias for field in Settings.model_fields.values() if field.alias)
S3_KEYS = {
    "AWS_ACCESS_KEY_ID": os.environ.get("WAFER_TEST_S3_USER") or "test",
    "AWS_SECRET_ACCESS_KEY": os.environ.get("WAFER_TEST_S3_PASSWORD") or "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="session")
def real_wafers() -> Path:
    """The folder of real batches: training/, prediction/, malformed/, agreement/; skips where there is none.

    Found through WAFER_REAL_DATA, else beside the checkout.
    """
    beside = REPOSITORY.parent / "shared" / "wafers"
    folder = Path(os.environ.get("WAFER_REAL_DATA") or beside)
    if not (folder / "training").is_dir():
        pytest.skip(f"no real batches: {folder}/training is not there (set WAFER_REAL_DATA)")
    return folder


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the places that the user's environment names."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def refuse_used(variable: str, names: set[str]) -> None:
    """Tests write under names of their own and leave what they wrote: no server that somebody uses gets that."""
    if names:
        pytest.exit(f"{variable} names a server that is in use ({sorted(names)[0]}): tests need an empty one", 2)


@pytest.fixture(scope="session")
def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real database server for the whole run of tests; take a database name of your own.

    The embedded one, or that of WAFER_TEST_MONGODB_URL, which is thrown away afterwards by whoever has started it.
    """
    if outside := os.environ.get("WAFER_TEST_MONGODB_URL"):
        with pymongo.MongoClient(outside, serverSelectionTimeoutMS=10_000) as client:
            refuse_used("WAFER_TEST_MONGODB_URL", set(client.list_database_names()) - {"admin", "config", "local"})
        yield outside
        return
    folder = tmp_path_factory.mktemp("mongodb")
    with embedded_server(folder) as url:
        yield url
    assert wait_until_stopped(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server for the whole run of tests; take a bucket name of your own.

    Moto's, or that of WAFER_TEST_S3_URL with WAFER_TEST_S3_USER and WAFER_TEST_S3_PASSWORD, which is thrown away
    afterwards by whoever has started it.
    """
    if outside := os.environ.get("WAFER_TEST_S3_URL"):
        import boto3

        keys = {name.lower(): value for name, value in S3_KEYS.items() if name != "AWS_DEFAULT_REGION"}
        client = boto3.client("s3", endpoint_url=outside, region_name=S3_KEYS["AWS_DEFAULT_REGION"], **keys)
        refuse_used("WAFER_TEST_S3_URL", {one["Name"] for one in client.list_buckets()["Buckets"]})
        yield outside
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_address(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same with keys for it in the environment."""
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's database without content: making its tables takes MLflow some seconds, a copy nothing."""
    from wafer.registry import Registry

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Registry(f"sqlite:///{file}").champion()
    return file


@pytest.fixture
def settings(mongodb_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings with a storage folder and a database of the test's own."""
    name = f"test_{abs(hash(request.node.nodeid)):x}"
    return Settings.read(storage_url=str(tmp_path / "data"), mongodb_url=mongodb_url, mongodb_database=name, jobs=1)


@pytest.fixture(scope="session")
def small_params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parameter file with which the whole job takes seconds: small batches, few trees, few folds."""
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    content["deliver"] |= {"training_batches": 6, "prediction_batches": 2, "wafers": 40}
    content["fit"] |= {"trees": 20, "search_budget": 1, "search_folds": 2, "calibration_folds": 2, "max_clusters": 3}
    content["fit"] |= {"reference_window": 40, "min_cluster_faults": 4}
    content["evaluate"] |= {"folds": 2, "repeats": 1, "permutations": 1}
    content["gate"] |= {"minimum_auc": 0.0, "canary_z": 100.0, "maximum_calibration_error": 1.0}
    file = tmp_path_factory.mktemp("params") / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def pytest_configure() -> None:
    """Let Ctrl-C be heard by what tests start, also where these run in a shell's background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


SECONDS_OF_A_SLOW_TEST = 1800  # on a machine that does much else; whatever hangs is found out by it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each slow test the time that it may need."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS_OF_A_SLOW_TEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what came of the odd fabs, over all processes that trained on them."""
    outcomes: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        outcomes.update(dict(report.user_properties).get("odd fabs", {}))
    if outcomes:
        terminalreporter.section("trainings on odd fabs")
        for outcome, fabs in outcomes.most_common():
            terminalreporter.write_line(f"{fabs:4}  {outcome}")
