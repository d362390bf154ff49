"""Stored log-probabilities are held against the policy's before they are trained against."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.training.config import TrainingConfig
from bonbon.training.objectives import RankedExample
from bonbon.training.references import resolve_references

STORED = (-10.0, -12.0, -9.0, -11.0)
TOKENS = 30


def example(name: str) -> RankedExample:
    places = (0, 1, 2, 3)
    return RankedExample(
        prompt_id=name,
        sample_indices=places,
        group=PromptGroup((1, 2), ((3,) * TOKENS,) * len(STORED)),
        reference=STORED,
        targets=(0.0,) * 4,
        weights=(1.0,) * 4,
        trained=places,
    )


def settle(differences: Sequence[float], reference: str, file: Path) -> list[RankedExample]:
    """Settle two prompts' references under a policy that differs from them by so much."""

    def score(groups: Sequence[PromptGroup]) -> list[tuple[float, ...]]:
        assert len(groups) == 2
        return [tuple(np.array(STORED) + differences), tuple(np.array(STORED) - differences)]

    config = TrainingConfig.model_validate({"reference": reference})
    return resolve_references(
        [example("a"), example("b")], score, config=config, file=file, fresh=True
    )


def test_rounding_of_either_sign_is_left_alone(tmp_path: Path) -> None:
    kept = settle((0.5, -0.5, 0.5, -0.5), "auto", tmp_path / "reference.json")
    assert [one.reference for one in kept] == [STORED, STORED]


def test_noise_of_either_sign_is_computed_afresh(tmp_path: Path) -> None:
    fresh = settle((2.0, -2.0, 2.0, -2.0), "auto", tmp_path / "reference.json")
    assert fresh[0].reference == (-8.0, -14.0, -7.0, -13.0)


@pytest.mark.parametrize("reference", ["auto", "stored", "recomputed"])
@pytest.mark.parametrize("differences", [(5.0, -5.0, 5.0, -5.0), (5.0, 5.0, 5.0, 5.0)])
def test_differences_that_cancel_out_are_refused_as_well(
    differences: tuple[float, ...], reference: str, tmp_path: Path
) -> None:
    """Within a prompt, or from prompt to prompt: their sum over all tokens is nought."""
    with pytest.raises(TrainingError, match=r"by \+0.00 nats per token on average, and by 5.0 per"):
        settle(differences, reference, tmp_path / "reference.json")
