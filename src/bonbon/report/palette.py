"""The colours of figures and page: told apart by colour-blind readers, on paper and at night."""

from dataclasses import dataclass

from bonbon.report.metrics import BASE


@dataclass(frozen=True, slots=True)
class Colour:
    """One role in two themes, as hexadecimal RGB.

    Attributes:
        name: of the CSS custom property.
        light: on `PAPER.light`; figures that stand alone carry this one.
        dark: on `PAPER.dark`.
    """

    name: str
    light: str
    dark: str


PAPER = Colour("paper", "#fcfbf8", "#171614")
PANEL = Colour("panel", "#f4f1ea", "#211f1c")
INK = Colour("ink", "#1f1d1b", "#ece8e0")
MUTED = Colour("muted", "#655f57", "#a8a196")
RULE = Colour("rule", "#ddd7cc", "#3b3732")

GREY = Colour("grey", "#6b655d", "#aca598")
BLUE = Colour("blue", "#0066a6", "#6fb9ee")
ORANGE = Colour("orange", "#b4420a", "#ff9d68")
GREEN = Colour("green", "#00755a", "#4cc6a0")
PURPLE = Colour("purple", "#97477d", "#e29bc6")
OCHRE = Colour("ochre", "#86620a", "#deb14e")

COLOURS = (PAPER, PANEL, INK, MUTED, RULE, GREY, BLUE, ORANGE, GREEN, PURPLE, OCHRE)


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How one method looks everywhere; the marker tells it apart where colour cannot."""

    colour: Colour
    marker: str


_BASE_STYLE = MethodStyle(GREY, "o")
_BEST_OF_STYLE = MethodStyle(BLUE, "s")
_TRAINED_COLOURS = (ORANGE, GREEN, PURPLE, OCHRE)
_TRAINED_MARKERS = "D^vPXd<>p"
"""Four and nine in turn: the first 36 trained methods all look different."""


def is_best_of(method: str) -> bool:
    """Tell selection at inference, which costs n draws, from methods that draw once."""
    return method.startswith("best-of-")


def method_styles(methods: list[str]) -> dict[str, MethodStyle]:
    """Give each method its style; trained ones take the palette in turn."""
    trained = [method for method in methods if method != BASE and not is_best_of(method)]
    turn = {method: index for index, method in enumerate(trained)}
    return {method: _style(method, turn) for method in methods}


def _style(method: str, turn: dict[str, int]) -> MethodStyle:
    if method in turn:
        place = turn[method]
        marker = _TRAINED_MARKERS[place % len(_TRAINED_MARKERS)]
        return MethodStyle(_TRAINED_COLOURS[place % len(_TRAINED_COLOURS)], marker)
    return _BASE_STYLE if method == BASE else _BEST_OF_STYLE


def theme_css(theme: str) -> str:
    """Write the custom properties of the `light` or `dark` theme as CSS declarations."""
    return " ".join(f"--{colour.name}: {getattr(colour, theme)};" for colour in COLOURS)
