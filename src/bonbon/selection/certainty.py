"""Self-certainty: how far from uniform the policy's next-token distributions are."""

import math

import numpy as np
from jaxtyping import Float

from bonbon.errors import RewardError

TokenLogprobs = Float[np.ndarray, "tokens vocabulary"]


def token_certainties(logprobs: TokenLogprobs) -> Float[np.ndarray, " tokens"]:
    """Return KL(uniform ‖ p) at every token: −log V − mean over the vocabulary of log p.

    Args:
        logprobs: of the whole vocabulary at every token of one completion, in nats, nothing
            truncated.

    Raises:
        RewardError: a token of the vocabulary has no probability at all.
    """
    means = logprobs.mean(axis=-1, dtype=np.float64)
    if not np.isfinite(means).all():
        raise RewardError(
            "a log-probability is not finite, expected the whole distribution; self-certainty is "
            "not defined where top-k or top-p removed tokens"
        )
    return -math.log(logprobs.shape[-1]) - means


def self_certainty(logprobs: TokenLogprobs) -> float:
    """Return a completion's self-certainty, the mean of `token_certainties` (arXiv 2502.18581).

    −1/(TV) Σ_t Σ_v log(V · p(v|x, y_<t)): 0 if every distribution is uniform, and otherwise more.

    Raises:
        RewardError: no tokens, or a token of the vocabulary has no probability at all.
    """
    if not logprobs.shape[0]:
        raise RewardError("got a completion of 0 tokens, expected at least 1")
    return float(token_certainties(logprobs).mean())
