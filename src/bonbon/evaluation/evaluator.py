"""Win rate, KL and reward of each method on held-out prompts."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError
from bonbon.evaluation.config import EvaluationConfig
from bonbon.evaluation.kl import PromptKL
from bonbon.evaluation.metrics import MethodMetrics, WinRateAndKL
from bonbon.records import Candidate, ScoredGroup
from bonbon.theory.estimators import (
    Interval,
    best_of_n_mean,
    best_of_n_win_rate,
    bootstrap_mean,
    win_rate,
)
from bonbon.theory.ties import tie_corrected

Rewards = Float[np.ndarray, "1 draws"]


class Evaluator:
    """Compares methods with the base on the same prompts.

    Prompts are the independent unit: every interval comes from resampling them.
    """

    def __init__(
        self, base_groups: Sequence[ScoredGroup], config: EvaluationConfig, *, seed: int = 0
    ) -> None:
        """Take the base's scored draws; prompts with fewer than two scored draws are left out.

        Args:
            base_groups: the base's scored draws by prompt.
            config: how many resamples of the prompts intervals use.
            seed: of the resampling.

        Raises:
            ConfigError: no prompt is left.
        """
        self.base_groups = {
            group.prompt_id: group for group in base_groups if len(group.rewards) > 1
        }
        if not self.base_groups:
            raise ConfigError(
                f"got {len(base_groups)} held-out prompts with scored answers of the base, none "
                "with two; raise evaluation.base_samples or fix the reward"
            )
        self.config = config
        self.seed = seed

    def base(self) -> MethodMetrics:
        """Return the base against itself: win rate one half by symmetry, KL 0."""
        groups = list(self.base_groups.values())
        return self._result(groups, win=np.full(len(groups), 0.5), kl=np.zeros(len(groups)))

    def best_of_n(self, n: int) -> MethodMetrics:
        """Return best-of-n at inference, estimated without bias from the base's draws.

        Its KL follows from n and the ties of the rewards, without a model.

        Raises:
            ConfigError: no prompt has more than n draws.
        """
        groups = [group for group in self.base_groups.values() if len(group.rewards) > n]
        if not groups:
            raise ConfigError(
                f"best-of-{n} needs more than {n} scored answers of the base per held-out prompt; "
                f"raise evaluation.base_samples, now {self.config.base_samples}"
            )

        def best(value: Callable[[Candidate], float]) -> float:
            means = [
                best_of_n_mean(_rewards(group), _values(group, value), n)[0] for group in groups
            ]
            return float(np.mean(means))

        reward = [best_of_n_mean(_rewards(group), _rewards(group), n)[0] for group in groups]
        return MethodMetrics(
            win_rate=self.mean([best_of_n_win_rate(_rewards(group), n)[0] for group in groups]),
            kl=self.mean([tie_corrected(_rewards(group), n)[1][0] for group in groups]),
            mean_reward=self.mean(reward),
            mean_length=best(_length),
            cut_share=best(_is_cut),
            num_prompts=len(groups),
            samples_per_prompt=max(len(group.rewards) for group in groups),
        )

    def policy(self, groups: Sequence[ScoredGroup], kl: PromptKL) -> MethodMetrics:
        """Return a model that answers once, from several independent answers per prompt.

        Args:
            groups: the model's scored answers.
            kl: from `kl_from_samples`, one entry per group.

        Raises:
            ConfigError: no prompt has scored answers of both.
        """
        base = self.base_groups
        indices = [index for index, group in enumerate(groups) if group.prompt_id in base]
        if not indices:
            raise ConfigError(
                f"got {len(base)} held-out prompts with scored answers of the base and "
                f"{len(groups)} with scored answers of the trained model, none of them with both; "
                "fix the reward, or raise prompts.num_eval"
            )
        kept = [groups[index] for index in indices]
        win = [win_rate(_rewards(group), _rewards(base[group.prompt_id]))[0] for group in kept]
        return self._result(kept, win=np.array(win), kl=kl.rao_blackwell[indices])

    def tie_corrected(self, n: int | float) -> WinRateAndKL:
        """Return win rate and KL of best-of-n in theory, with the ties of this reward.

        The win rate is the unbiased estimate of every prompt that has more than n draws.
        """
        wins: list[float] = []
        kls: list[float] = []
        for group in self.base_groups.values():
            rewards = _rewards(group)
            win, kl = tie_corrected(rewards, n)
            unbiased = n == int(n) and n < rewards.shape[1]
            wins.append((best_of_n_win_rate(rewards, int(n)) if unbiased else win)[0])
            kls.append(kl[0])
        return WinRateAndKL(win_rate=self.mean(wins), kl=self.mean(kls))

    def mean(self, per_prompt: Sequence[float] | Float[np.ndarray, " prompts"]) -> Interval:
        """Return the mean over prompts with its 95 % interval."""
        return bootstrap_mean(
            np.asarray(per_prompt, dtype=float),
            seed=self.seed,
            num_resamples=self.config.num_resamples,
        )

    def _result(
        self,
        groups: Sequence[ScoredGroup],
        *,
        win: Float[np.ndarray, " prompts"],
        kl: Float[np.ndarray, " prompts"],
    ) -> MethodMetrics:
        return MethodMetrics(
            win_rate=self.mean(win),
            kl=self.mean(kl),
            mean_reward=self.mean([float(np.mean(group.rewards)) for group in groups]),
            mean_length=float(np.mean([_values(group, _length).mean() for group in groups])),
            cut_share=float(np.mean([_values(group, _is_cut).mean() for group in groups])),
            num_prompts=len(groups),
            samples_per_prompt=max(len(group.rewards) for group in groups),
        )


def _rewards(group: ScoredGroup) -> Rewards:
    return np.array([group.rewards], dtype=float)


def _values(group: ScoredGroup, value: Callable[[Candidate], float]) -> Rewards:
    return np.array([[value(candidate) for candidate in group.candidates]], dtype=float)


def _length(candidate: Candidate) -> int:
    return len(candidate.token_ids)


def _is_cut(candidate: Candidate) -> bool:
    return candidate.finish_reason == "length"
