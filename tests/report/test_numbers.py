import pytest

from bonbon.report.summary import (
    interval_text,
    nats,
    percent,
    percent_with_interval,
    setting,
    with_interval,
)
from bonbon.theory.estimators import Interval


def test_shares_are_whole_percent() -> None:
    assert percent(0.216) == "22\N{NO-BREAK SPACE}%"
    assert (
        percent_with_interval(Interval(0.51, 0.449, 0.57)).replace("\xa0", " ") == "51 % [45, 57]"
    )


@pytest.mark.parametrize(
    ("kl", "text"),
    [(1.2044, "1.20 nats"), (56.04, "56 nats"), (-0.002, "0.00 nats"), (-0.5, "-0.50 nats")],
)
def test_nats_have_the_digits_that_matter(kl: float, text: str) -> None:
    assert nats(kl) == text


def test_zero_has_no_sign() -> None:
    assert interval_text(Interval(0.0, -0.0001, 0.0001)).replace("\xa0", " ") == "[0.000, 0.000]"
    assert (
        with_interval(Interval(-0.0001, -0.1, 0.1)).replace("\xa0", " ") == "0.000 [-0.100, 0.100]"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-4, "5e-4"), (2.5e-4, "2.5e-4"), (2e-5, "2e-5"), (0.05, "0.05"), (1.0, "1"), (0, "0")],
)
def test_settings_are_written_as_people_write_them(value: float, text: str) -> None:
    assert setting(value) == text
