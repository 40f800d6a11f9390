"""What a killed process left half written: hidden `.part` files and folders that nobody will ever finish."""

import shutil
import time
from pathlib import Path

from wafer.storage import AnyPath, is_local

HOUR = 3600.0


def remove_leftovers(folder: AnyPath, older_than: float = HOUR) -> int:
    """Remove what was being written in `folder` more than `older_than` seconds ago; how many there were.

    Use 0 only where a single process writes. A bucket has none: its files are put whole.
    """
    if not is_local(folder) or not folder.exists():
        return 0
    removed = 0
    for path in Path(str(folder)).iterdir():
        if path.name.startswith(".") and path.name.endswith((".part", ".part.old")) and _age(path) >= older_than:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
    return removed


def _age(path: Path) -> float:
    """Seconds since it was changed; negative if it is gone by now."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return -1.0
