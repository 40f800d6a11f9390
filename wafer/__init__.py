"""Finds faulty semiconductor wafers from their sensor readings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wafer.workspace import Workspace, open

__version__ = "0.1.0"
__all__ = ["Workspace", "__version__", "open"]


def __getattr__(name: str) -> Any:
    """`wafer.open` and `wafer.Workspace`, imported when they are first asked for."""
    if name in ("Workspace", "open"):
        from wafer import workspace

        return getattr(workspace, name)
    raise AttributeError(f"module 'wafer' has no attribute {name!r}")
