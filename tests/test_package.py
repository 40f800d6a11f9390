"""What is installed from the project's wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import REPOSITORY

SUITES = [f"expectations/{name}.json" for name in ("prediction", "snapshot", "training")]
NOTEBOOKS = [
    f"notebooks/{name}.ipynb"
    for name in ("data_quality", "exploration", "first_steps", "prediction", "study", "training")
]
DEFAULTS = [*SUITES, *NOTEBOOKS, "params.yaml", "prefect.yaml", "dvc.yaml", ".dvcignore", ".env.example"]


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """Templates, scripts of pages and what a project starts from are in the wheel as the modules are."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {file for package in ("wafer", "flows") for file in (REPOSITORY / package).rglob("*") if file.is_file()}
    defaults = {f"wafer/defaults/{name}" for name in DEFAULTS}
    assert held == {str(f.relative_to(REPOSITORY)) for f in files if "__pycache__" not in f.parts} | defaults
    assert {"wafer/reporting/ingest_page.html.j2", "wafer/reporting/ingest_page.js", "wafer/project/README.md"} <= held
