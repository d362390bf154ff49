import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from bonbon.evaluation.metrics import Metrics
from bonbon.report.figures.frontier import frontier
from bonbon.report.figures.style import COLOURS, inline_svg, svg_document


@pytest.fixture
def figure(metrics: Metrics) -> Figure:
    return frontier(metrics)


def test_text_is_text_in_the_page_s_typeface(figure: Figure) -> None:
    root = ElementTree.fromstring(inline_svg(figure, name="a", description="win rate"))
    texts = {
        "".join(element.itertext()).strip() for element in root.iter() if "text" in element.tag
    }
    assert {"bonbon", "win rate against the base", "0.5"} <= texts
    assert "DejaVu" not in ElementTree.tostring(root, encoding="unicode")


def test_every_colour_comes_from_the_theme(figure: Figure) -> None:
    drawing = inline_svg(figure, name="a", description="")
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", drawing)) == set()
    used = set(re.findall(r"var\(--(\w+)\)", drawing))
    assert {"ink", "blue", "orange", "rule"} <= used <= {colour.name for colour in COLOURS}


def test_figures_on_one_page_share_no_ids(figure: Figure) -> None:
    first, second = (inline_svg(figure, name=name, description="") for name in ("a", "b"))
    ids = [set(re.findall(r'\bid="([^"]+)"', drawing)) for drawing in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', first)) <= ids[0]


def test_a_reader_who_cannot_see_it_hears_the_description(figure: Figure) -> None:
    root = ElementTree.fromstring(inline_svg(figure, name="a", description='<"rate" & KL>'))
    assert root.get("role") == "img"
    assert root.get("aria-label") == '<"rate" & KL>'


def test_the_same_data_give_the_same_file(metrics: Metrics) -> None:
    first, second = (inline_svg(frontier(metrics), name="a", description="") for _ in range(2))
    assert first == second


def test_a_file_of_its_own_is_light_and_dark(figure: Figure) -> None:
    document = svg_document(figure, description="frontier")
    root = ElementTree.fromstring(document.encode())
    style = next(element.text or "" for element in root if element.tag.endswith("style"))
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for colour in COLOURS:
        assert f"--{colour.name}: {colour.light};" in light
        assert f"--{colour.name}: {colour.dark};" in dark
