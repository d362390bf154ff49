"""The training losses, as pure functions of log-probabilities *summed* over a completion's tokens.

Notation: h(y) = log πθ(y|x) − log π0(y|x), in nats. Averaging over tokens instead of summing would
be another objective: its target would be asked of every token.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from bonbon.theory.numerics import harmonic_number
from bonbon.training.config import DEFAULT_ALPHA


def log_ratio_target(n: int) -> float:
    """Return (n − 1) H_{n−1}: the best-against-worst log-ratio that best-of-n has on average.

    In IPO's own notation it is 1/(2β). Source: arXiv 2406.00832, section 4.
    """
    return (n - 1) * harmonic_number(n - 1)


def pair_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    *,
    n: int,
    alpha: float = DEFAULT_ALPHA["pair"],
) -> Float[Tensor, " pairs"]:
    """Return the published BoNBoN loss, α · SFT-BoN + (1 − α) · IPO-BoN, of every pair.

    SFT-BoN is −log πθ(best); IPO-BoN is (h(best) − h(worst) − (n−1) H_{n−1})². α = 1 is
    best-of-n fine-tuning alone, α = 0 is IPO-BoN alone. Source: arXiv 2406.00832, section 4.
    """
    target = torch.full_like(policy_chosen, log_ratio_target(n))
    return bonbon_loss(
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        target=target,
        alpha=alpha,
    )


def bonbon_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    *,
    target: Float[Tensor, " pairs"],
    alpha: float,
) -> Float[Tensor, " pairs"]:
    """Return `pair_loss` for a log-ratio target of any tilt, in nats."""
    margin = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return alpha * -policy_chosen + (1 - alpha) * (margin - target).square()


def ipo_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    *,
    n: int,
) -> Float[Tensor, " pairs"]:
    """Return IPO-BoN, (h(best) − h(worst) − (n−1) H_{n−1})², of every pair, in nats²."""
    return pair_loss(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, n=n, alpha=0.0
    )


def dpo_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    *,
    beta: float,
) -> Float[Tensor, " pairs"]:
    """Return −log σ(β (h(chosen) − h(rejected))) of every pair. Source: arXiv 2305.18290."""
    margin = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return -logsigmoid(beta * margin)


def sft_loss(
    policy: Float[Tensor, "*groups ranks"], *, weights: Float[Tensor, "*#groups ranks"]
) -> Float[Tensor, "*groups"]:
    """Return −Σ_i w_i log πθ(y_i) of every group.

    With a tilt's rank weights this is maximum likelihood on the tilted policy.
    """
    return -(weights * policy).sum(dim=-1)


def residual_variance(
    policy: Float[Tensor, "*groups ranks"],
    reference: Float[Tensor, "*groups ranks"],
    *,
    targets: Float[Tensor, "*#groups ranks"],
) -> Float[Tensor, "*groups"]:
    """Return (1/N) Σ_i (e_i − ē)², e_i = h(y_i) − t_i, of every group, in nats².

    The variance needs no normalising constant: targets count up to an additive constant.
    """
    return torch.var(policy - reference - targets, dim=-1, correction=0)


def rank_loss(
    policy: Float[Tensor, "*groups ranks"],
    reference: Float[Tensor, "*groups ranks"],
    *,
    targets: Float[Tensor, "*#groups ranks"],
    weights: Float[Tensor, "*#groups ranks"],
    alpha: float = DEFAULT_ALPHA["rank"],
) -> Float[Tensor, "*groups"]:
    """Return the rank-regression loss of every group: residual variance + α · SFT.

    All N candidates of a prompt are used, in increasing order of reward. For best-of-n the
    targets are t_i = (n−1) H_{i−1}; any tilt gives its own by `rank_targets`. Beyond the paper;
    derived on the theory page.

    Args:
        policy: summed log-probabilities under the policy in training.
        reference: the same under the base policy.
        targets: a tilt's `rank_targets`, one per rank; shape [ranks] serves all groups. Where
            the N candidates are ranked among themselves, as in training, pass them through
            `bonbon.theory.rank_targets.in_group_targets`, or the loss leads to f^(N/(N−1))
            instead of f.
        weights: a tilt's `rank_weights`, likewise, for the SFT term.
        alpha: weight of the SFT term.
    """
    variance = residual_variance(policy, reference, targets=targets)
    return variance + alpha * sft_loss(policy, weights=weights)
