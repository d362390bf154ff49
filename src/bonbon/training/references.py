"""The base's log-probabilities: whether those that were stored are the trained policy's own."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bonbon.data.atomic_file import replace_text
from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import RankedExample

REFERENCE_FILE = "reference.json"
"""Where a run directory keeps what was computed afresh, by prompt and sample index."""

CHECKED_GROUPS = 8
"""How many prompts' candidates are scored again to compare."""

NOISE = 1.0
"""Variance within a prompt, in nats², up to which stored numbers serve: a few per cent of that of
the targets. Sampling 64 tokens in bfloat16 leaves 0.2."""

STRANGE = 0.1
"""Nats per token beyond which the candidates are not this policy's: rounding leaves 0.01."""

FOUR_BIT_STRANGE = 1.0
"""The same under weights in 4 bits: rounding leaves 0.6 on a model of 135M parameters."""

SCATTERED = 2.0
"""Nats per completion, either sign, that a few tokens' rounding may take beyond the above."""

_log = logging.getLogger(__name__)

Scored = Callable[[Sequence[PromptGroup]], list[tuple[float, ...]]]


def settled(
    examples: Sequence[RankedExample],
    score: Scored,
    *,
    config: TrainingConfig,
    file: Path,
    fresh: bool,
    writes: bool = True,
) -> list[RankedExample]:
    """Return the examples with references to train against.

    Args:
        examples: with stored references, NaN where none is known.
        score: gives groups' log-probabilities under the policy as it is.
        config: what to do.
        file: where recomputed references are kept, for training that is resumed and later rounds.
        fresh: the policy has not been trained yet.
        writes: this process keeps the file; of several, one does.

    Raises:
        TrainingError: the candidates are another policy's.
    """
    if not fresh:
        return with_references(examples, file)
    if writes:
        file.unlink(missing_ok=True)
    if not _must_recompute(examples, score, config):
        return list(examples)
    numbers = score([example.group for example in examples])
    done = [
        replace(example, reference=tuple(reference))
        for example, reference in zip(examples, numbers, strict=True)
    ]
    if writes:
        _keep(done, file)
    return done


def with_references(examples: Sequence[RankedExample], file: Path) -> list[RankedExample]:
    """Return the examples with the references in a file that `settled` kept.

    Without the file the stored ones were good enough, and stay.
    """
    if not file.is_file():
        return list(examples)
    kept: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return [
        replace(
            example,
            reference=tuple(
                kept[example.prompt_id][str(index)] for index in example.sample_indices
            ),
        )
        for example in examples
    ]


def _keep(examples: Sequence[RankedExample], file: Path) -> None:
    kept: dict[str, dict[int, float]] = {}
    for example in examples:
        numbers = zip(example.sample_indices, example.reference, strict=True)
        kept.setdefault(example.prompt_id, {}).update(numbers)
    replace_text(file, json.dumps(kept))


def _must_recompute(
    examples: Sequence[RankedExample], score: Scored, config: TrainingConfig
) -> bool:
    if any(math.isnan(number) for example in examples for number in example.reference):
        return True
    sample = examples[:: max(1, len(examples) // CHECKED_GROUPS)][:CHECKED_GROUPS]
    differences = [
        np.array(ours) - np.array(example.reference)
        for ours, example in zip(score([example.group for example in sample]), sample, strict=True)
    ]
    four_bit = config.lora is not None and config.lora.four_bit
    tokens = sum(len(tokens) for example in sample for tokens in example.group.completions)
    _check(np.concatenate(differences), tokens, FOUR_BIT_STRANGE if four_bit else STRANGE)
    if four_bit and config.reference == "auto":  # adapters start from the rounded weights
        return True
    noise = float(np.mean([np.var(one) for one in differences]))
    if config.reference == "auto" and noise > NOISE:
        _log.warning(
            "The stored reference log-probabilities differ from the policy's by a variance of "
            "%.2f nats² within a prompt, so they are computed afresh; "
            "training.reference = stored keeps them.",
            noise,
        )
        return True
    return config.reference == "recomputed"


def _check(differences: Float[np.ndarray, " completions"], num_tokens: int, limit: float) -> None:
    """Refuse candidates of another policy.

    Drawn from it, their own log-probabilities are above this one's on average. Numbers of other
    candidates are above and below, so that only their size shows.

    Args:
        differences: of the completions' log-probabilities, the policy's less the stored ones.
        num_tokens: of all completions.
        limit: what may be, in nats per token.
    """
    per_token = float(differences.sum()) / num_tokens
    size = float(np.abs(differences).mean())
    if abs(per_token) > limit or size > max(limit * num_tokens / len(differences), SCATTERED):
        raise TrainingError(
            f"the candidates' stored log-probabilities differ from the policy's by "
            f"{per_token:+.2f} nats per token on average, and by {size:.1f} per completion "
            "whatever the sign; expected candidates of this policy, its tokenizer "
            "and this temperature, with nothing truncated: draw them again"
        )
