"""What all pages look like."""

from pathlib import Path

TEMPLATES = Path(__file__).parent


def look() -> str:
    """Style sheet of every page: one set of colours, light and dark by the reader's own choice, light on paper."""
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")
