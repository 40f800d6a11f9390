"""The image: what is in it, that the same files make the same layers, and that it scores real batches read-only."""

import json
import re
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.deploy.composed import USER
from tests.deploy.containers import Engine
from tests.deploy.tools import DEPLOY, ran, tool

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("image")]
MOST_MB = 1400
LOCK = DEPLOY / "image.lock"
FREE_BESIDE = {
    "text-unidecode": "the Artistic License beside the GPL",
}
"""Libraries whose licence names the GPL as one of two to choose from."""


def locked() -> set[str]:
    """What the image installs."""
    return set(re.findall(r"^([a-z0-9._-]+)==", LOCK.read_text(), flags=re.MULTILINE))


@pytest.mark.invariant
def test_the_containerfile_is_clean() -> None:
    """hadolint has nothing to say, and only the lock and the wheel are sent to a build."""
    ran(tool("hadolint"), "Containerfile")
    assert (DEPLOY / "Containerfile.dockerignore").read_text().split() == [
        "*",
        "!deploy/image.lock",
        "!dist/wafer-*.whl",
    ]


@pytest.mark.invariant
def test_nothing_in_the_image_is_under_the_gpl() -> None:
    """The embedded database and DVC stay out; whatever names the GPL may be taken under another licence."""
    assert {"secantusdb", "dvc", "pygit2", "grandalf"} & locked() == set()
    here = {name for name in locked() if _installed(name)}
    assert len(here) > 0.9 * len(locked())  # others are of other platforms
    report = ran(
        tool("pip-licenses"),
        f"--python={sys.executable}",
        "--with-system",
        "--format=json",
        "--packages",
        *sorted(here),
    )
    named = {re.sub(r"[-_.]+", "-", row["Name"]).lower(): row["License"] for row in json.loads(report)}
    assert named.keys() >= here
    doubtful = {name for name, licence in named.items() if re.search(r"(?<!L)GPL|(?<!Lesser )General Public", licence)}
    assert doubtful == FREE_BESIDE.keys()


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.invariant
def test_the_bill_of_materials_names_every_library(tmp_path: Path) -> None:
    """With the version and the hashes of the lock, in CycloneDX's form."""
    target = tmp_path / "bill.json"
    ran("make", "deploy-sbom", f"SBOM={target}", cwd=REPOSITORY)
    bill = json.loads(target.read_text())
    assert {one["name"] for one in bill["components"]} == locked()
    assert all("version" in one and one["externalReferences"][0]["hashes"] for one in bill["components"])


@pytest.mark.invariant
def test_the_composed_stack_is_sound() -> None:
    """It keeps the Compose specification; every part waits for what it needs; each of ours is locked down."""
    ran(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            ends = services[other].get("healthcheck", {}).get("disable", False)
            awaited = "service_completed_successfully" if ends else "service_healthy"
            assert how["condition"] == awaited, (name, other)
        if service.get("image", "").startswith("${WAFER_IMAGE"):
            assert (service["read_only"], service["user"], service["cap_drop"]) == (True, f"{USER}:{USER}", ["ALL"])
            folder = Path(sys.executable).parent
            assert service["command"][0] == "sh" or (folder / service["command"][0]).exists(), name
        assert service.get("ports", []) == [port for port in service.get("ports", []) if port.startswith("127.0.0.1:")]


def test_the_image_is_small_plain_and_without_secrets(engine: Engine, image: str) -> None:
    """Neither root nor a shell's habits: a plain user, the commit, bytecode whose sources need not be looked at."""
    found = engine.inspect(image)
    config = found["Config"]
    assert isinstance(config, dict)
    assert config["User"] == f"{USER}:{USER}"
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    assert "WAFER_COMMIT=0123abc" in config["Env"]
    assert not any(re.search("SECRET|PASSWORD|TOKEN|KEY", one) for one in config["Env"])
    assert int(str(found["Size"])) / 1e6 < MOST_MB, "the image has grown"
    with engine.mounted(image) as root:
        (package,) = root.glob("opt/wafer/lib/python*/site-packages/wafer")
        compiled = {file.name.split(".")[0] for file in (package / "__pycache__").glob("*.pyc")}
        assert compiled == {file.stem for file in package.glob("*.py")}
        flags = next((package / "__pycache__").glob("steps.*.pyc")).read_bytes()[4:8]
        assert int.from_bytes(flags, "little") == 1  # by digest, unchecked
        assert not list(root.glob("opt/wafer/lib/python*/site-packages/pip"))
        assert (root / "srv" / "wafer" / "prefect.yaml").exists()


def test_the_same_files_make_the_same_layers(engine: Engine, image: str) -> None:
    """Built anew from nothing, the wheel too; so a registry is sent nothing that it has."""
    ran("make", "wheel", cwd=REPOSITORY)
    engine.build("wafer:again", "--no-cache", "--build-arg", "COMMIT=0123abc")
    assert engine.inspect("localhost/wafer:again")["RootFS"] == engine.inspect(image)["RootFS"]
