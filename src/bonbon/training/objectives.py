"""Training objectives: the losses, what each objective needs of the candidates, and their registry.

The losses are pure functions of log-probabilities *summed* over a completion's tokens. Averaging
over tokens instead would be another objective: every token would have to reach the target.

Notation: h(y) = log πθ(y|x) − log π0(y|x), in nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from bonbon.models.packed.layout import PromptGroup
from bonbon.registry import Registry
from bonbon.theory.numerics import harmonic_number
from bonbon.theory.rank_targets import in_group_targets
from bonbon.theory.tilt import Tilt

RANK_ALPHA, PAIR_ALPHA = 0.05, 0.005
DEFAULT_BETA = 0.1


@dataclass(frozen=True, slots=True)
class RankedExample:
    """One prompt's completions in increasing order of reward: what a loss is computed on.

    Attributes:
        prompt_id: the prompt; several examples may have the same one.
        sample_indices: each completion's number among the draws of the prompt.
        group: the token ids of all completions.
        reference: each completion's summed log-probability under the base policy, in nats.
        targets: the tilt's target log-ratio for each completion.
        weights: the tilt's SFT weight for each completion.
        trained: indices, from 0, of the completions that the objective trains on.
        from_base: the completions were drawn from the policy that `reference` belongs to.
    """

    prompt_id: str
    sample_indices: tuple[int, ...]
    group: PromptGroup
    reference: tuple[float, ...]
    targets: tuple[float, ...]
    weights: tuple[float, ...]
    trained: tuple[int, ...]
    from_base: bool = True

    @property
    def trained_group(self) -> PromptGroup:
        """The prompt with the completions that are trained on."""
        kept = tuple(self.group.completions[index] for index in self.trained)
        return PromptGroup(self.group.prompt, kept)

    def trained_values(self, values: tuple[float, ...], like: Tensor) -> Float[Tensor, "1 trained"]:
        """Return the values of the trained completions, in another tensor's precision."""
        kept = torch.tensor([values[index] for index in self.trained], device=like.device)
        return kept[None].to(like.dtype)


@dataclass(frozen=True, slots=True)
class RankGoal:
    """What a tilt asks of candidates in increasing order of reward.

    Attributes:
        targets: the target log-ratio of each rank.
        weights: the SFT weight of each rank.
        trained: indices, from 0, of the ranks that are trained on.
    """

    targets: tuple[float, ...]
    weights: tuple[float, ...]
    trained: tuple[int, ...]


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
    target: float | Float[Tensor, " pairs"],
    alpha: float = PAIR_ALPHA,
) -> Float[Tensor, " pairs"]:
    """Return the published BoNBoN loss, α · SFT-BoN + (1 − α) · IPO-BoN, of every pair.

    SFT-BoN is −log πθ(best); IPO-BoN is `ipo_loss`. α = 1 is best-of-n fine-tuning alone, α = 0 is
    IPO-BoN alone. Source: arXiv 2406.00832, section 4.

    Args:
        policy_chosen: summed log-probability of the best completion under the trained policy.
        policy_rejected: the same of the worst completion.
        reference_chosen: summed log-probability of the best completion under the base policy.
        reference_rejected: the same of the worst completion.
        target: the log-ratio to reach, in nats: `log_ratio_target(n)` for best-of-n.
        alpha: weight of the SFT term.
    """
    ipo = ipo_loss(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, target=target
    )
    return alpha * -policy_chosen + (1 - alpha) * ipo


def ipo_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    *,
    target: float | Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """Return IPO-BoN, (h(best) − h(worst) − target)², of every pair, in nats².

    For best-of-n the target is `log_ratio_target(n)`, (n−1) H_{n−1}. Sources: arXiv 2406.00832,
    section 4; arXiv 2310.12036 (IPO).
    """
    margin = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    return (margin - target).square()


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

    The variance needs no normalising constant, so targets count up to an additive constant.
    """
    return torch.var(policy - reference - targets, dim=-1, correction=0)


def rank_loss(
    policy: Float[Tensor, "*groups ranks"],
    reference: Float[Tensor, "*groups ranks"],
    *,
    targets: Float[Tensor, "*#groups ranks"],
    weights: Float[Tensor, "*#groups ranks"],
    alpha: float = RANK_ALPHA,
) -> Float[Tensor, "*groups"]:
    """Return the rank-regression loss of every group: residual variance + α · SFT.

    All N candidates of a prompt are used, in increasing order of reward. For best-of-n the
    targets are t_i = (n−1) H_{i−1}; any tilt gives its own by `rank_targets`. This loss goes
    beyond the paper; the theory page derives it.

    Args:
        policy: summed log-probabilities under the trained policy.
        reference: the same under the base policy.
        targets: a tilt's `rank_targets`, one per rank; shape [ranks] serves all groups. If the N
            candidates are ranked among themselves, as in training, pass the targets through
            `bonbon.theory.rank_targets.in_group_targets`, or the loss leads to f^(N/(N−1))
            instead of f.
        weights: a tilt's `rank_weights`, likewise, for the SFT term.
        alpha: weight of the SFT term.
    """
    variance = residual_variance(policy, reference, targets=targets)
    return variance + alpha * sft_loss(policy, weights=weights)


OBJECTIVES: "Registry[type[Objective]]" = Registry(
    "bonbon.objectives",
    "objective",
    {
        "rank": "bonbon.training.objectives:RankObjective",
        "pair": "bonbon.training.objectives:PairObjective",
        "sft": "bonbon.training.objectives:SftObjective",
        "ipo": "bonbon.training.objectives:IpoObjective",
        "dpo": "bonbon.training.objectives:DpoObjective",
        "rloo": "bonbon.training.objectives:RlooObjective",
        "grpo": "bonbon.training.objectives:GrpoObjective",
    },
)
"""All objectives; other packages add theirs through the entry point `bonbon.objectives`."""


@dataclass(frozen=True)
class Objective:
    """A training objective with its settings; each objective is a subclass.

    An objective of your own needs `description` and `example_loss`. By default it trains on the
    best and the worst candidate, with the tilt's rank targets and SFT weights.

    Attributes:
        alpha: weight of the SFT term; None for the objective's default.
        beta: β of an objective that has one.
        ranks: the ranks to train on, 1 the worst, −1 the best; None for the objective's own choice.
    """

    alpha: float | None = None
    beta: float = DEFAULT_BETA
    ranks: tuple[int, ...] | None = None

    description: ClassVar[str]
    """One sentence that says what the objective does with the candidates."""
    learning_rate: ClassVar[float] = 2e-5
    """Default peak learning rate of full fine-tuning."""
    lora_learning_rate: ClassVar[float] = 2.5e-4
    """Default peak learning rate of adapters."""
    default_alpha: ClassVar[float | None] = None
    """Default weight of the SFT term; None if the objective has no α."""
    max_alpha: ClassVar[float] = 1000.0
    """Largest α that makes sense."""
    has_beta: ClassVar[bool] = False
    """The objective has a β that is set by hand; otherwise the tilt sets the strength."""
    needs_reference: ClassVar[bool] = True
    """The loss reads the candidates' log-probabilities under the base policy."""
    has_targets: ClassVar[bool] = True
    """The examples carry the tilt's rank targets, from which a residual is measured."""
    fits_targets: ClassVar[bool] = True
    """The loss is lowest where the log-ratios equal the targets. Early stopping then watches the
    residual variance, and draws of a later policy can be trained on."""
    takes_ranks: ClassVar[bool] = False
    """`training.ranks` may choose the ranks to train on."""
    takes_preferences: ClassVar[bool] = False
    """The objective can train on pairs from a file, which have no rank among n draws."""
    online: ClassVar[bool] = False
    """The objective draws its own completions while it trains, through TRL."""

    def trained_ranks(self, number: int) -> tuple[int, ...]:
        """Return the indices, from 0, of the candidates to train on; () if some are not there."""
        return (0, number - 1)

    def rank_goal(self, tilt: Tilt, number: int) -> RankGoal:
        """Return what a tilt asks of this number of candidates, ranked among themselves.

        Raises:
            ValueError: the tilt has no finite rank targets, and the objective needs them.
        """
        return RankGoal(
            tuple(tilt.rank_targets(number).tolist()),
            tuple(tilt.rank_weights(number).tolist()),
            self.trained_ranks(number),
        )

    def example_loss(
        self, example: RankedExample, policy: Float[Tensor, " trained"]
    ) -> Float[Tensor, ""]:
        """Return the loss of one example.

        Args:
            example: what is trained on.
            policy: summed log-probabilities of the trained completions under the trained policy.
        """
        raise NotImplementedError

    @property
    def sft_weight(self) -> float:
        """The α in force."""
        return (self.default_alpha or 0.0) if self.alpha is None else self.alpha

    def example_alpha(self, example: RankedExample) -> float:
        """Return the α of one example: an example without SFT weights has no SFT term."""
        return self.sft_weight if any(example.weights) else 0.0


class RankObjective(Objective):
    """Regression of all candidates' log-ratios on the tilt's rank targets: `rank_loss`."""

    description = (
        "Theory sets how much likelier each rank should become; the base's log-probabilities "
        "are stored, so no reference model is needed."
    )
    default_alpha = RANK_ALPHA
    takes_ranks = True

    def trained_ranks(self, number: int) -> tuple[int, ...]:
        """Return all ranks, or those that the settings name."""
        if self.ranks is None:
            return tuple(range(number))
        # −1 is the best, as in Python.
        indices = sorted({rank - 1 if rank > 0 else number + rank for rank in self.ranks})
        return tuple(indices) if indices[0] >= 0 and indices[-1] < number else ()

    def rank_goal(self, tilt: Tilt, number: int) -> RankGoal:
        """Return targets that are corrected for ranking within the group, and SFT weights."""
        trained = self.trained_ranks(number)
        # Draws that are ranked among themselves lead N/(N−1) too far without this correction.
        targets = in_group_targets(tilt.rank_targets(number))
        weights = _weights_of(tilt.rank_weights(number), trained)
        return RankGoal(tuple(targets.tolist()), tuple(weights.tolist()), trained)

    def example_loss(
        self, example: RankedExample, policy: Float[Tensor, " trained"]
    ) -> Float[Tensor, ""]:
        """Return `rank_loss`."""
        return rank_loss(
            policy[None],
            example.trained_values(example.reference, policy),
            targets=example.trained_values(example.targets, policy),
            weights=example.trained_values(example.weights, policy),
            alpha=self.example_alpha(example),
        )[0]


class PairObjective(Objective):
    """The published BoNBoN loss on the best and the worst candidate: `pair_loss`."""

    description = (
        "Theory sets how much likelier the best should become than the worst; the base's "
        "log-probabilities are stored, so no reference model is needed."
    )
    default_alpha = PAIR_ALPHA
    max_alpha = 1.0

    def example_loss(
        self, example: RankedExample, policy: Float[Tensor, " trained"]
    ) -> Float[Tensor, ""]:
        """Return `pair_loss`."""
        return pair_loss(
            *_pair(example, policy),
            target=_pair_target(example, policy),
            alpha=self.example_alpha(example),
        )[0]


class IpoObjective(Objective):
    """The contrastive half of the published loss: `ipo_loss`."""

    description = PairObjective.description

    def example_loss(
        self, example: RankedExample, policy: Float[Tensor, " trained"]
    ) -> Float[Tensor, ""]:
        """Return `ipo_loss`."""
        return ipo_loss(*_pair(example, policy), target=_pair_target(example, policy))[0]


class SftObjective(Objective):
    """Maximum likelihood on the candidates, weighted as the tilt draws them: `sft_loss`."""

    description = "Every answer is imitated, with the weight that the goal gives its rank."
    needs_reference = False
    has_targets = False
    fits_targets = False

    def rank_goal(self, tilt: Tilt, number: int) -> RankGoal:
        """Return SFT weights only: a tilt may have no finite targets."""
        weights = tilt.rank_weights(number)
        trained = tuple(int(index) for index in np.flatnonzero(weights))
        return RankGoal((0.0,) * number, tuple(weights.tolist()), trained)

    def example_loss(
        self, example: RankedExample, policy: Float[Tensor, " trained"]
    ) -> Float[Tensor, ""]:
        """Return `sft_loss`."""
        weights = example.trained_values(example.weights, policy)
        return sft_loss(policy[None], weights=weights)[0]


class DpoObjective(Objective):
    """DPO on the best and the worst candidate, or on pairs from a file: `dpo_loss`."""

    description = (
        "DPO's own β decides how far training goes; the base's log-probabilities are stored, "
        "so no reference model is needed."
    )
    has_beta = True
    fits_targets = False
    takes_preferences = True

    def example_loss(
        self, example: RankedExample, policy: Float[Tensor, " trained"]
    ) -> Float[Tensor, ""]:
        """Return `dpo_loss`."""
        return dpo_loss(*_pair(example, policy), beta=self.beta)[0]


class TrlObjective(Objective):
    """RLHF through one of TRL's trainers, which draws and scores completions while it trains."""

    description = "The model is trained on rewards of its own answers, with a KL penalty (TRL)."
    has_beta = True
    fits_targets = False
    online = True
    trl_name: ClassVar[str]
    """TRL's name of the method, as in `RLOOTrainer` and `RLOOConfig`."""
    trl_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of TRL's config that the method needs."""


class RlooObjective(TrlObjective):
    """REINFORCE with a leave-one-out baseline. Source: arXiv 2402.14740."""

    trl_name = "RLOO"


class GrpoObjective(TrlObjective):
    """Group relative policy optimisation. Source: arXiv 2402.03300."""

    trl_name = "GRPO"
    # Advantages divided by a group's standard deviation would make β differ between prompts.
    trl_settings: ClassVar[Mapping[str, Any]] = {"scale_rewards": "none"}


def is_online(name: str) -> bool:
    """Return whether an objective draws its own completions; an unknown one does not."""
    return name in OBJECTIVES and OBJECTIVES[name].online


def _pair(example: RankedExample, policy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-probabilities of best and worst under the policy, then under the base."""
    reference = example.trained_values(example.reference, policy)
    return policy[-1:], policy[:1], reference[:, -1], reference[:, 0]


def _pair_target(example: RankedExample, policy: Tensor) -> Float[Tensor, " pairs"]:
    targets = example.trained_values(example.targets, policy)
    return targets[:, -1] - targets[:, 0]


def _weights_of(
    weights: Float[np.ndarray, " ranks"], trained: tuple[int, ...]
) -> Float[np.ndarray, " ranks"]:
    """Return the SFT weights of the trained ranks, with sum 1 so that α keeps its meaning.

    If the tilt draws none of these ranks all weights are 0: there is nothing to imitate.
    """
    kept = np.zeros_like(weights)
    kept[list(trained)] = weights[list(trained)]
    return kept / kept.sum() if kept.any() else kept
