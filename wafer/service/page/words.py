"""How a time is shown on a page."""

from datetime import UTC, datetime

from markupsafe import Markup


def moment(when: datetime | str | None) -> Markup:
    """A time, which the reader's browser shows in the reader's own zone."""
    if when is None:
        return Markup("–")
    found = datetime.fromisoformat(when) if isinstance(when, str) else when
    found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(found.isoformat(), f"{found:%Y-%m-%d %H:%M}")
