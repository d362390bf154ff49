"""Tilts as text."""

import pytest

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.parse import parse_tilt
from bonbon.theory.tilt import Tilt
from bonbon.theory.top_fraction import TopFraction


@pytest.mark.parametrize(
    ("text", "tilt"),
    [
        ("best-of-8", BestOf(8)),
        (" Best-of-2.5 ", BestOf(2.5)),
        ("best-of-1e6", BestOf(1e6)),
        ("worst-of-4", WorstOf(4)),
        ("optimal(c=9)", OptimalTilt(9)),
        ("optimal( kl = 1.0 )", OptimalTilt.from_kl(1.0)),
        ("optimal(win_rate=0.9)", OptimalTilt.from_win_rate(0.9)),
        ("top-fraction(0.125)", TopFraction(0.125)),
        ("best-of-poisson(7)", BestOfPoisson(7)),
    ],
)
def test_accepted_forms(text: str, tilt: Tilt) -> None:
    assert parse_tilt(text) == tilt


@pytest.mark.parametrize(
    "tilt",
    [
        BestOf(8),
        BestOf(2 / 3 + 1),
        WorstOf(1e17),
        TopFraction(1 / 3),
        BestOfPoisson(0),
        BestOfPoisson(1e-7 / 3),
    ],
)
def test_names_are_read_back(tilt: Tilt) -> None:
    assert parse_tilt(tilt.name) == tilt


def test_the_optimal_tilt_is_named_by_its_roundest_number() -> None:
    assert OptimalTilt.from_kl(1.0).name == "optimal(kl=1)"
    assert OptimalTilt.from_win_rate(0.9).name == "optimal(win_rate=0.9)"
    assert OptimalTilt(9).name == "optimal(c=9)"
    odd = OptimalTilt.from_kl(2 / 3)
    assert parse_tilt(odd.name).kl == pytest.approx(odd.kl, rel=1e-10)


@pytest.mark.parametrize("text", ["", "best-of-", "best of 8", "optimal(1)", "optimal(q=1)", "dpo"])
def test_unknown_forms_are_named_with_the_accepted_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"best-of-8, worst-of-4, .*best-of-poisson\(7\)") as error:
        parse_tilt(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best-of-0.5", r"'best-of-0.5': n must be in \[1, inf\), got 0.5"),
        ("top-fraction(2)", r"q must be in \(0, 1\], got 2"),
        ("optimal(win_rate=1.2)", r"win_rate must be in \(0.5, 1\)"),
        ("best-of--3", r"n must be in \[1, inf\), got -3"),
    ],
)
def test_numbers_out_of_range(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_tilt(text)
