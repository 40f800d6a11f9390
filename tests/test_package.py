"""What is installed from the project's wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import REPOSITORY


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """Templates and scripts of pages are in the wheel as the modules are, so that an installed `wafer` has them."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {file for package in ("wafer", "flows") for file in (REPOSITORY / package).rglob("*") if file.is_file()}
    assert held == {str(f.relative_to(REPOSITORY)) for f in files if "__pycache__" not in f.parts}
    assert {"wafer/reporting/ingest_page.html.j2", "wafer/reporting/ingest_page.js"} <= held
