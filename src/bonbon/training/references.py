"""Reference log-probabilities: the stored ones if they are the policy's, else recomputed ones."""

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
from bonbon.training.objectives import RankedExample

REFERENCE_FILE = "reference.json"
"""The run directory's file of recomputed references, by prompt and sample index."""

CHECKED_GROUPS = 8
"""How many prompts' candidates are scored again to check the stored references."""

NOISE = 1.0
"""Largest variance within a prompt, in nats², at which stored references are used: a few per cent
of the targets' variance. Sampling 64 tokens in bfloat16 gives 0.2."""

STRANGE = 0.1
"""Nats per token above which the candidates are another policy's: rounding gives 0.01."""

FOUR_BIT_STRANGE = 1.0
"""The same with weights in 4 bits: rounding gives 0.6 on a model of 135M parameters."""

SCATTERED = 2.0
"""Nats per completion, of either sign, that rounding of a few tokens may add to the above."""

_log = logging.getLogger(__name__)

Score = Callable[[Sequence[PromptGroup]], list[tuple[float, ...]]]


def resolve_references(
    examples: Sequence[RankedExample],
    score: Score,
    *,
    config: TrainingConfig,
    file: Path,
    fresh: bool,
    writes: bool = True,
) -> list[RankedExample]:
    """Return the examples with the references to train against.

    Args:
        examples: examples with stored references, NaN where unknown.
        score: gives groups' log-probabilities under the current policy.
        config: says whether to use or to recompute stored references.
        file: keeps recomputed references for resumed training and later rounds.
        fresh: the policy has not been trained yet.
        writes: this process writes the file; only one process does.

    Raises:
        TrainingError: the candidates are another policy's.
    """
    if not fresh:
        return with_references(examples, file)
    if writes:
        file.unlink(missing_ok=True)
    if not _must_recompute(examples, score, config):
        return list(examples)
    logprobs = score([example.group for example in examples])
    resolved = [
        replace(example, reference=tuple(reference))
        for example, reference in zip(examples, logprobs, strict=True)
    ]
    if writes:
        by_prompt: dict[str, dict[int, float]] = {}
        for example in resolved:
            references = zip(example.sample_indices, example.reference, strict=True)
            by_prompt.setdefault(example.prompt_id, {}).update(references)
        replace_text(file, json.dumps(by_prompt))
    return resolved


def with_references(examples: Sequence[RankedExample], file: Path) -> list[RankedExample]:
    """Return the examples with the references in a file that `resolve_references` wrote.

    If there is no file the stored references are kept: they passed the check.
    """
    if not file.is_file():
        return list(examples)
    by_prompt: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return [
        replace(
            example,
            reference=tuple(
                by_prompt[example.prompt_id][str(index)] for index in example.sample_indices
            ),
        )
        for example in examples
    ]


def _must_recompute(
    examples: Sequence[RankedExample], score: Score, config: TrainingConfig
) -> bool:
    if any(math.isnan(logprob) for example in examples for logprob in example.reference):
        return True
    sample = examples[:: max(1, len(examples) // CHECKED_GROUPS)][:CHECKED_GROUPS]
    differences = [
        np.array(logprobs) - np.array(example.reference)
        for logprobs, example in zip(
            score([example.group for example in sample]), sample, strict=True
        )
    ]
    four_bit = config.lora is not None and config.lora.four_bit
    tokens = sum(len(tokens) for example in sample for tokens in example.group.completions)
    _check(np.concatenate(differences), tokens, FOUR_BIT_STRANGE if four_bit else STRANGE)
    if four_bit and config.reference == "auto":  # training starts at the rounded weights
        return True
    noise = float(np.mean([np.var(group) for group in differences]))
    if config.reference == "auto" and noise > NOISE:
        _log.warning(
            "The stored reference log-probabilities differ from the policy's by a variance of "
            "%.2f nats² within a prompt, so they are recomputed; "
            "training.reference = stored keeps them.",
            noise,
        )
        return True
    return config.reference == "recomputed"


def _check(differences: Float[np.ndarray, " completions"], num_tokens: int, limit: float) -> None:
    """Refuse candidates of another policy.

    If another policy drew the candidates, its log-probabilities are higher than this policy's on
    average. If the stored numbers belong to other candidates, the differences have both signs, so
    their size is checked too.

    Args:
        differences: the policy's log-probability of each completion minus the stored one.
        num_tokens: total number of tokens of the completions.
        limit: largest allowed difference, in nats per token.
    """
    per_token = float(differences.sum()) / num_tokens
    size = float(np.abs(differences).mean())
    if abs(per_token) > limit or size > max(limit * num_tokens / len(differences), SCATTERED):
        raise TrainingError(
            f"the candidates' stored log-probabilities differ from the policy's by "
            f"{per_token:+.2f} nats per token on average, and by {size:.1f} per completion "
            "in absolute value; expected candidates of this policy, with its tokenizer and this "
            "temperature, and without truncation: draw them again"
        )
