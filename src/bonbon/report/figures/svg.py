"""Figures as SVG whose text stays text and whose colours follow the reader's theme."""

import html
import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

from bonbon.report.figures.style import COLOURS, theme_css

FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """Return an `<svg>` element to stand inside a page that defines the palette's properties.

    Args:
        name: unique in the page; it prefixes every id and class, so that figures do not collide.
        description: what a screen reader says instead of the picture.
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
    """Return a file of its own that is light or dark as its reader prefers."""
    style = (
        f"<style>svg {{ {theme_css('light')} font-family: {FONT_STACK}; }} "
        f"svg * {{ stroke-linejoin: round; stroke-linecap: butt; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {theme_css('dark')} }} }}</style>"
    )
    element = inline_svg(figure, name="figure", description=description)
    start = element.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{element[:start]}{style}{element[start:]}'


def _drawing(figure: Figure, name: str) -> str:
    """Draw without a date and with ids that depend on the figure alone: same data, same file."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _view_box(drawing: str) -> str:
    found = re.search(r'viewBox="([^"]*)"', drawing)
    assert found is not None, "matplotlib writes a viewBox"
    return found.group(1)


def _unique(body: str, name: str) -> str:
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.DOTALL)  # it styles the whole page
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))

    def mark(found: re.Match[str]) -> str:
        """Keep an id that something refers to, the first time: matplotlib repeats markers."""
        if found[1] not in wanted:
            return ""
        wanted.remove(found[1])
        return f' id="{name}-{found[1]}"'

    body = re.sub(r'\s+id="([^"]*)"', mark, body)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)


def _themed(body: str) -> str:
    """Let the page choose typeface and colours: sizes and positions are the figure's."""
    body = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font-size: \2", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour in COLOURS:
        body = body.replace(colour.light, f"var(--{colour.name})")
    return body
