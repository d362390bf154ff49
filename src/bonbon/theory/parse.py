"""Parses the names of tilts in recipes."""

import re
from collections.abc import Callable

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.tilt import Tilt
from bonbon.theory.top_fraction import TopFraction

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*"
_FORMS: tuple[tuple[str, str, Callable[[float], Tilt]], ...] = (
    ("best-of-8", rf"best-of-{_NUMBER}", BestOf),
    ("worst-of-4", rf"worst-of-{_NUMBER}", WorstOf),
    ("optimal(kl=1.0)", rf"optimal\(\s*kl\s*={_NUMBER}\)", OptimalTilt.from_kl),
    (
        "optimal(win_rate=0.9)",
        rf"optimal\(\s*win_rate\s*={_NUMBER}\)",
        OptimalTilt.from_win_rate,
    ),
    ("optimal(c=9)", rf"optimal\(\s*c\s*={_NUMBER}\)", OptimalTilt),
    ("top-fraction(0.125)", rf"top-fraction\({_NUMBER}\)", TopFraction),
    ("best-of-poisson(7)", rf"best-of-poisson\({_NUMBER}\)", BestOfPoisson),
)


def parse_tilt(text: str) -> Tilt:
    """Read a tilt such as `best-of-8` or `optimal(kl=1.0)`.

    Raises:
        ValueError: the text has none of the accepted forms, or its number is out of range.
    """
    for _, pattern, make in _FORMS:
        match = re.fullmatch(pattern, text.strip(), flags=re.IGNORECASE)
        if match:
            return _make(make, match.group(1), text)
    accepted = ", ".join(example for example, _, _ in _FORMS)
    raise ValueError(f"tilt {text!r} is not understood; write one of {accepted}")


def _make(make: Callable[[float], Tilt], number: str, text: str) -> Tilt:
    value = float(number)
    try:
        return make(int(value) if value.is_integer() else value)
    except ValueError as error:
        raise ValueError(f"tilt {text!r}: {error}") from error
