"""What all pages look like."""

import base64
import hashlib
from pathlib import Path

TEMPLATES = Path(__file__).parent


def look() -> str:
    """Style sheet of every page: one set of colours, light and dark by the reader's own choice, light on paper."""
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """The one script that pages have, that of an ingest; they can be read without it."""
    return (TEMPLATES / "ingest_page.js").read_text(encoding="utf-8")


def script_source() -> str:
    """How a page's policy names that script, so that no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()}'"
