"""The colours of figures and page: told apart by colour-blind readers, on paper and at night."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

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
INDIGO = Colour("indigo", "#5646b8", "#b3a9ff")
CRIMSON = Colour("crimson", "#ad1f45", "#ff8ba3")
TEAL = Colour("teal", "#17707f", "#5fc8d8")
OLIVE = Colour("olive", "#5c6a00", "#b9c84a")
BROWN = Colour("brown", "#6e4b3a", "#c7a893")

COLOURS = (
    *(PAPER, PANEL, INK, MUTED, RULE, GREY, BLUE, ORANGE, GREEN, PURPLE, OCHRE),
    *(INDIGO, CRIMSON, TEAL, OLIVE, BROWN),
)


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """How one method looks everywhere; the marker tells it apart where colour cannot."""

    colour: Colour
    marker: str


_BASE_STYLE = MethodStyle(GREY, "o")
_BEST_OF_STYLE = MethodStyle(BLUE, "s")
_TRAINED_COLOURS = (ORANGE, GREEN, PURPLE, OCHRE, INDIGO, CRIMSON, TEAL, OLIVE, BROWN)
_TRAINED_MARKERS = "D^vPXd<>p"


def is_best_of(method: str) -> bool:
    """Tell selection at inference, which costs n draws, from methods that draw once."""
    return re.match(r"best-of-\d", method) is not None


def method_styles(
    methods: Sequence[str], families: Mapping[str, str] | None = None
) -> dict[str, MethodStyle]:
    """Give each method its style; trained ones take markers and colours in turn.

    Args:
        methods: their names, in the order of their turns.
        families: of the trained methods; one family shares a colour. By default each is its own.
    """
    trained = [method for method in methods if method != BASE and not is_best_of(method)]
    family = {method: (families or {}).get(method, method) for method in trained}
    colours = dict(zip(dict.fromkeys(family.values()), cycle(_TRAINED_COLOURS), strict=False))
    markers = dict(zip(trained, cycle(_TRAINED_MARKERS), strict=False))
    own = {name: MethodStyle(colours[family[name]], markers[name]) for name in trained}
    own[BASE] = _BASE_STYLE
    return {method: own.get(method, _BEST_OF_STYLE) for method in methods}


def theme_css(theme: str) -> str:
    """Write the custom properties of the `light` or `dark` theme as CSS declarations."""
    return " ".join(f"--{colour.name}: {getattr(colour, theme)};" for colour in COLOURS)
