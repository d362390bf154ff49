"""Figures as SVG: text stays text, and colours follow the light or dark theme."""

import html
import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

from bonbon.report.figures.style import COLOURS, theme_css

FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """Return an `<svg>` element for a page that defines the CSS properties of the colours.

    Args:
        name: unique in the page; it prefixes every id and class.
        description: text for screen readers.
    """
    drawing = _drawing(figure, name)
    opening = (
        f'<svg class="{name}" role="img" aria-label="{html.escape(description)}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{_view_box(drawing)}">'
    )
    body = drawing[drawing.index(">", drawing.index("<svg")) + 1 :]
    return opening + _themed(_unique(body, name))


def svg_document(figure: Figure, *, description: str) -> str:
    """Return an SVG file that follows the reader's preference for light or dark."""
    style = (
        f"<style>svg {{ {theme_css('light')} font-family: {FONT_STACK}; }} "
        f"svg * {{ stroke-linejoin: round; stroke-linecap: butt; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {theme_css('dark')} }} }}</style>"
    )
    element = inline_svg(figure, name="figure", description=description)
    start = element.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{element[:start]}{style}{element[start:]}'


def _drawing(figure: Figure, name: str) -> str:
    """Draw without a date and with ids that depend only on the figure: same data, same file."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _view_box(drawing: str) -> str:
    match = re.search(r'viewBox="([^"]*)"', drawing)
    assert match is not None, "matplotlib writes a viewBox"
    return match.group(1)


def _unique(body: str, name: str) -> str:
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.DOTALL)  # it styles the whole page
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))

    def prefixed(match: re.Match[str]) -> str:
        """Keep the first occurrence of an id that something refers to; markers repeat theirs."""
        if match[1] not in wanted:
            return ""
        wanted.remove(match[1])
        return f' id="{name}-{match[1]}"'

    body = re.sub(r'\s+id="([^"]*)"', prefixed, body)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)


def _themed(body: str) -> str:
    """Leave typeface and colours to the page; sizes and positions stay."""
    body = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font-size: \2", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour in COLOURS:
        body = body.replace(colour.light, f"var(--{colour.name})")
    return body
