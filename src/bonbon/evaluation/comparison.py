"""The comparison of methods on the same held-out prompts: every number of its report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError
from bonbon.evaluation.answers import PromptAnswers
from bonbon.evaluation.duel import base_quantiles, beaten, best_of_beats, best_of_duel
from bonbon.evaluation.resampling import (
    Resampler,
    detectable_difference,
    effective_number,
    lead_at_equal_kl,
)
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.theory.estimators import Estimate, best_of_n_mean, best_of_n_win_rate
from bonbon.theory.overoptimisation import Form, fit_overoptimisation
from bonbon.theory.ties import tie_corrected

NUM_BINS = 16
PerPrompt = Float[np.ndarray, " prompts"]


@dataclass(frozen=True)
class Compared:
    """One method: what it is called, whose dial it is on, and its answers by prompt."""

    name: str
    family: str
    answers: Mapping[str, PromptAnswers]


class Comparison:
    """Base, best-of-n and trained methods on the prompts that all of them answered.

    Prompts are the independent unit, and every interval resamples the same prompts for all.
    """

    def __init__(
        self,
        base: Mapping[str, PromptAnswers],
        methods: Sequence[Compared],
        *,
        best_of: Sequence[int],
        goal: int,
        leader: str,
        num_resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        """Take what was measured.

        Args:
            base: the base's answers by prompt.
            methods: trained methods.
            best_of: which n to evaluate at inference.
            goal: the n of the best-of-n that methods mimic.
            leader: the method whose lead is tested.
            num_resamples: bootstrap resamples of prompts.
            seed: of the bootstrap.

        Raises:
            ConfigError: there are fewer than two prompts that all methods answered.
        """
        most = max([*best_of, goal])
        self.prompts = [
            prompt
            for prompt, one in base.items()
            if len(one.rewards) > most and all(prompt in each.answers for each in methods)
        ]
        if len(self.prompts) < 2:
            raise ConfigError(
                f"got {len(self.prompts)} held-out prompts with more than {most} scored answers of "
                "the base and answers of every method, expected 2 or more; raise "
                "evaluation.base_samples or prompts.num_eval"
            )
        self.base = [base[prompt] for prompt in self.prompts]
        self.methods = list(methods)
        self.best_of, self.goal, self.leader = tuple(best_of), goal, leader
        self.resampler = Resampler(len(self.prompts), num_resamples=num_resamples, seed=seed)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return each method's numbers, estimates as (value, low, high)."""
        rows = {"base": self._base_row()}
        rows |= {f"best-of-{n}": self._best_of_row(n) for n in self.best_of}
        return rows | {method.name: self._trained_row(method) for method in self.methods}

    def quantiles(self) -> dict[str, list[float]]:
        """Return the density of each trained method's reward quantiles under the base."""
        return {
            method.name: np.mean(
                [
                    base_quantiles(own.rewards, base.rewards, NUM_BINS)
                    for own, base in self._pairs(method)
                ],
                axis=0,
            ).tolist()
            for method in self.methods
        }

    def leads(self) -> dict[str, dict[str, Any]]:
        """Return the leader's lead over every other family at equal KL, with paired intervals."""
        families = self._families()
        own = next(each.family for each in self.methods if each.name == self.leader)
        found: dict[str, dict[str, Any]] = {}
        for family, points in families.items():
            if family == own:
                continue
            stacked = np.concatenate([families[own], points])
            half = len(families[own]) // 2

            def lead(means: Float[np.ndarray, " rows"], half: int = half) -> float:
                ours, theirs = means[: 2 * half], means[2 * half :]
                return lead_at_equal_kl(ours.reshape(2, -1), theirs.reshape(2, -1))

            estimate = self.resampler.statistic(stacked, lead)
            means = stacked.mean(axis=1)
            kl = min(means[:half].max(), means[2 * half :].reshape(2, -1)[0].max())
            found[family] = {
                "lead": _triple(estimate),
                "kl": float(kl),
                "within_noise": estimate.low <= 0 <= estimate.high,
            }
        return found

    def duels(self) -> dict[str, Any]:
        """Return win rates of all methods against each other, and their Bradley–Terry strengths."""
        names = ["base", *(f"best-of-{n}" for n in self.best_of)]
        names += [method.name for method in self.methods]
        matrix = np.full((len(names), len(names)), 0.5)
        for row, one in enumerate(names):
            for column in range(row):
                matrix[row, column] = self._duel(one, names[column])
                matrix[column, row] = 1 - matrix[row, column]
        games = matrix * len(self.prompts)
        strengths = bradley_terry(games - np.diag(np.diag(games)))
        return {
            "methods": names,
            "win_rates": matrix.tolist(),
            "strengths": (strengths - strengths[0]).tolist(),
        }

    def over_optimisation(self, gold: str) -> dict[str, Any]:
        """Return gold reward against KL, of best-of-n and of trained methods, with the fits.

        Args:
            gold: which of the extra scores is the gold reward.
        """
        most = min(len(one.rewards) for one in self.base)
        numbers = [2**k for k in range(1, 7) if 2**k <= most]
        start = float(np.mean([np.nanmean(one.extra[gold]) for one in self.base]))
        points = [self._gold_point(n, gold, start) for n in numbers]
        trained: list[dict[str, Any]] = [
            {
                "name": method.name,
                "kl": float(np.mean([own.kl for own, _ in self._pairs(method)])),
                "proxy": float(np.mean([own.rewards.mean() for own, _ in self._pairs(method)])),
                "gold": self._mean(
                    [float(np.nanmean(own.extra[gold])) - start for own, _ in self._pairs(method)]
                ),
            }
            for method in self.methods
        ]
        fits = {"best-of-n": _fit(points, "best-of-n"), "rl": _fit(trained, "rl")}
        return {"base_gold": start, "best_of": points, "trained": trained, "fits": fits}

    def tied_curve(self) -> list[tuple[float, float]]:
        """Return KL and win rate of best-of-n for n from 1 up, for this reward with its ties."""
        rewards = [one.rewards[None] for one in self.base]
        points: list[tuple[float, float]] = []
        for n in np.geomspace(1, 64, 25).tolist():
            pairs = [tie_corrected(each, n) for each in rewards]
            win, kl = (float(np.mean([pair[side][0] for pair in pairs])) for side in (0, 1))
            points.append((kl, win))
        return points

    def _base_row(self) -> dict[str, Any]:
        still = np.zeros(len(self.prompts))
        return self._row(still + 0.5, still, still, self.base) | {"family": "base"}

    def _best_of_row(self, n: int) -> dict[str, Any]:
        def best(value: Callable[[PromptAnswers], np.ndarray]) -> PerPrompt:
            return np.array(
                [best_of_n_mean(one.rewards[None], value(one)[None], n)[0] for one in self.base]
            )

        win = np.array([best_of_n_win_rate(one.rewards[None], n)[0] for one in self.base])
        kl = np.array([tie_corrected(one.rewards[None], n)[1][0] for one in self.base])
        return {
            "family": "best-of-n",
            "win_rate": self._mean(win),
            "kl": self._mean(kl),
            "kl_monte_carlo": self._mean(kl),
            "reward": self._mean(best(lambda one: one.rewards)),
            "length": self._mean(best(lambda one: one.lengths)),
            "length_ratio": self._ratio(best(lambda one: one.lengths)),
            "cut_share": self._mean(best(lambda one: one.cut)),
            "distinct_2": None,
            "extra": {
                name: self._mean(best(lambda one, name=name: one.extra[name]))
                for name in self.base[0].extra
                if all(np.isfinite(one.extra[name]).all() for one in self.base)
            },
            "kl_from_goal": None,
            "effective_prompts": effective_number(win),
            "detectable": detectable_difference(win),
        }

    def _trained_row(self, method: Compared) -> dict[str, Any]:
        pairs = self._pairs(method)
        win = np.array([beaten(own.rewards, base.rewards).mean() for own, base in pairs])
        kl = np.array([own.kl for own, _ in pairs])
        monte_carlo = np.array([own.kl_monte_carlo for own, _ in pairs])
        row = self._row(win, kl, monte_carlo, [own for own, _ in pairs])
        far = [self._kl_from_goal(own, base) for own, base in pairs if own.log_ratios is not None]
        row["kl_from_goal"] = self._mean(far) if len(far) == len(pairs) else None
        return row | {"family": method.family}

    def _row(
        self, win: PerPrompt, kl: PerPrompt, monte_carlo: PerPrompt, own: Sequence[PromptAnswers]
    ) -> dict[str, Any]:
        lengths = np.array([one.lengths.mean() for one in own])
        return {
            "win_rate": self._mean(win),
            "kl": self._mean(kl),
            "kl_monte_carlo": self._mean(monte_carlo),
            "reward": self._mean([one.rewards.mean() for one in own]),
            "length": self._mean(lengths),
            "length_ratio": self._ratio(lengths),
            "cut_share": self._mean([one.cut.mean() for one in own]),
            "distinct_2": self._mean([one.distinct(2, self._fewest) for one in own]),
            "extra": {
                name: self._mean([float(np.nanmean(one.extra[name])) for one in own])
                for name in own[0].extra
            },
            "kl_from_goal": None,
            "effective_prompts": effective_number(win),
            "detectable": detectable_difference(win),
        }

    @property
    def _fewest(self) -> int:
        """Answers per prompt that every method has: distinct n-grams get fewer with more."""
        counts = [len(one.rewards) for one in self.base]
        counts += [len(own.rewards) for each in self.methods for own, _ in self._pairs(each)]
        return min(counts)

    def _kl_from_goal(self, own: PromptAnswers, base: PromptAnswers) -> float:
        """Return KL(best-of-n ‖ π) of a prompt, from the base's draws weighted as best-of-n's."""
        assert own.log_ratios is not None
        moved = best_of_n_mean(base.rewards[None], own.log_ratios[None], self.goal)[0]
        return float(tie_corrected(base.rewards[None], self.goal)[1][0] - moved)

    def _gold_point(self, n: int, gold: str, start: float) -> dict[str, Any]:
        def best(value: Callable[[PromptAnswers], np.ndarray]) -> PerPrompt:
            return np.array(
                [best_of_n_mean(one.rewards[None], value(one)[None], n)[0] for one in self.base]
            )

        kl = [tie_corrected(one.rewards[None], n)[1][0] for one in self.base]
        return {
            "n": n,
            "kl": float(np.mean(kl)),
            "proxy": float(best(lambda one: one.rewards).mean()),
            "gold": self._mean(best(lambda one: np.nan_to_num(one.extra[gold])) - start),
        }

    def _duel(self, one: str, other: str) -> float:
        first, second = (self._numbers(name) for name in (one, other))
        shares: list[float] = []
        for place, base in enumerate(self.base):
            left, right = first, second
            if isinstance(left, int) and isinstance(right, int):
                shares.append(best_of_duel(base.rewards, left, right))
            elif isinstance(left, int) and not isinstance(right, int):
                shares.append(best_of_beats(base.rewards, left, right[place]))
            elif isinstance(right, int) and not isinstance(left, int):
                shares.append(1 - best_of_beats(base.rewards, right, left[place]))
            elif not isinstance(left, int) and not isinstance(right, int):
                shares.append(float(beaten(left[place], right[place]).mean()))
        return float(np.mean(shares))

    def _numbers(self, name: str) -> int | list[Float[np.ndarray, " draws"]]:
        """Return the n of best-of-n (1 for the base), or a trained method's rewards by prompt."""
        if name == "base":
            return 1
        for method in self.methods:
            if method.name == name:
                return [own.rewards for own, _ in self._pairs(method)]
        return int(name.removeprefix("best-of-"))

    def _families(self) -> dict[str, Float[np.ndarray, "rows prompts"]]:
        """Return each family's KLs, then win rates, of its points by prompt."""
        found: dict[str, tuple[list[PerPrompt], list[PerPrompt]]] = {}
        for method in self.methods:
            kls, wins = found.setdefault(method.family, ([], []))
            pairs = self._pairs(method)
            kls.append(np.array([own.kl for own, _ in pairs]))
            wins.append(np.array([beaten(own.rewards, base.rewards).mean() for own, base in pairs]))
        return {family: np.array([*kls, *wins]) for family, (kls, wins) in found.items()}

    def _pairs(self, method: Compared) -> list[tuple[PromptAnswers, PromptAnswers]]:
        own = [method.answers[prompt] for prompt in self.prompts]
        return list(zip(own, self.base, strict=True))

    def _mean(self, values: Sequence[float] | PerPrompt) -> tuple[float, float, float]:
        return _triple(self.resampler.mean(np.asarray(values, dtype=float)))

    def _ratio(self, lengths: PerPrompt) -> tuple[float, float, float]:
        own = np.array([one.lengths.mean() for one in self.base])
        both = np.stack([lengths, own])
        return _triple(self.resampler.statistic(both, lambda means: float(means[0] / means[1])))


def _triple(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.low, estimate.high


def _fit(points: Sequence[Mapping[str, Any]], form: Form) -> dict[str, float] | None:
    kls, golds = np.array([(one["kl"], one["gold"][0]) for one in points]).reshape(-1, 2).T
    if len(np.unique(kls[kls > 0])) < 2:
        return None
    fit = fit_overoptimisation(kls, golds, form=form)
    peak = fit.peak_kl
    return {"a": fit.a, "b": fit.b, "residual": fit.residual, "peak_kl": min(peak, 1e9)}
