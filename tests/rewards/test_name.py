"""Names made up for a reward are ones that a config would take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bonbon.rewards.base import RewardName, name_from


@given(st.text(max_size=120))
def test_every_derived_name_is_legal(source: str) -> None:
    name = name_from(source)
    assert TypeAdapter[str](RewardName).validate_python(name) == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("reward-model-deberta-v3-large-v2", "reward-model-deberta-v3-large-v2"),
        ("_private", "private"),
        ("<lambda>", "lambda"),
        ("größe der Antwort", "gr-e-der-Antwort"),
        ("质量", "reward"),
    ],
)
def test_names_stay_recognisable(source: str, name: str) -> None:
    assert name_from(source) == name
