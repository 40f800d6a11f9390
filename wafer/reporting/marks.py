"""Small pictures beside the numbers and names of a table, as SVG in its text.

Colours are attributes that stand out on white and on black, so that JupyterLab shows them as well; a page's own style
refines them by class.
"""

from markupsafe import Markup, escape

SHORT = 30  # signs of a text that is not broken
WIDE, HIGH, EDGE = 56, 10, 4  # points; `EDGE` is left free at both ends of a strip, for its dot
DOT = Markup('<span class="mark" style="color:#b8470f" role="img" aria-label="yes">●</span>')


def bar(share: float) -> Markup:
    """A bar filled to `share`, from 0 to 1; its number has to stand beside it."""
    filled = WIDE * min(max(share, 0.0), 1.0)
    track = f'<rect y="1" width="{WIDE}" height="8" fill="currentColor" opacity=".12"/>'
    return _svg("", f'{track}<rect class="bar" y="1" width="{filled:.1f}" height="8" fill="#4c8bc0"/>')


def strip(percentile: float, words: str) -> Markup:
    """Where a reading lies among others, from the lowest at the left to the highest; the middle half is shaded.

    Args:
        percentile: from 0 to 100; missing for a missing reading, which leaves the strip without its dot.
        words: the same for those who do not see it.
    """
    long = WIDE - 2 * EDGE
    line = f'<path d="M{EDGE} 5H{WIDE - EDGE}" stroke="currentColor" opacity=".45"/>'
    middle = f'<rect x="{EDGE + long / 4:g}" y="2" width="{long / 2:g}" height="6" fill="currentColor" opacity=".2"/>'
    at = EDGE + long * percentile / 100
    dot = f'<circle class="mark" cx="{at:.1f}" cy="5" r="{EDGE}" fill="#b8470f"/>' if percentile == percentile else ""
    return _svg(words, line + middle + dot)


def whole_names(text: str) -> Markup:
    """Text in which a name such as Sensor-60 is not broken at its hyphen."""
    kept = Markup('<span style="white-space:nowrap">{}</span>')
    words = [kept.format(word) if "-" in word and len(word) <= SHORT else escape(word) for word in text.split(" ")]
    return Markup(" ").join(words)


def _svg(words: str, drawn: str) -> Markup:
    said = f'role="img" aria-label="{escape(words)}"' if words else 'aria-hidden="true"'
    title = f"<title>{escape(words)}</title>" if words else ""
    return Markup(f'<svg width="{WIDE}" height="{HIGH}" {said}>{title}{drawn}</svg>')
