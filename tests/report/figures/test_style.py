from itertools import combinations

import pytest

from bonbon.report.figures.style import (
    COLOURS,
    PANEL,
    PAPER,
    RULE,
    Colour,
    is_best_of,
    method_styles,
    theme_css,
)

TEXT_COLOURS = [colour for colour in COLOURS if colour not in (PAPER, PANEL, RULE)]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("background", [PAPER, PANEL], ids=lambda colour: colour.name)
@pytest.mark.parametrize("colour", TEXT_COLOURS, ids=lambda colour: colour.name)
def test_text_is_legible_in_every_colour(colour: Colour, background: Colour, theme: str) -> None:
    assert contrast(getattr(colour, theme), getattr(background, theme)) >= 4.5


def test_every_role_has_a_colour_of_its_own() -> None:
    for theme in ("light", "dark"):
        values = [getattr(colour, theme) for colour in COLOURS]
        assert len(set(values)) == len(values)


def test_methods_differ_in_marker_as_well_as_colour() -> None:
    styles = method_styles(["base", "best-of-8", "bonbon", "pair", "sft", "dpo"])
    for first, second in combinations(styles.values(), 2):
        assert first.marker != second.marker
        assert first.colour != second.colour


def test_one_family_has_one_colour_and_each_member_a_marker() -> None:
    styles = method_styles(["rank", "dpo 0.1", "dpo 0.5"], {"dpo 0.1": "dpo", "dpo 0.5": "dpo"})
    assert styles["dpo 0.1"].colour == styles["dpo 0.5"].colour != styles["rank"].colour
    assert len({style.marker for style in styles.values()}) == 3


def test_selection_at_inference_is_one_family() -> None:
    styles = method_styles(["best-of-2", "bonbon", "best-of-16"])
    assert styles["best-of-2"] == styles["best-of-16"] != styles["bonbon"]
    assert is_best_of("best-of-16")
    assert not is_best_of("bonbon")


def test_themes_define_the_same_properties() -> None:
    light, dark = (
        [part.split(":")[0] for part in theme_css(t).split(";")] for t in ("light", "dark")
    )
    assert light == dark
    assert "--paper" in light
