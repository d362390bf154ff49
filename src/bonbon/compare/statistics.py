"""The comparison of methods on the same held-out prompts: every number of its report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError
from bonbon.evaluation.bootstrap import (
    Resampler,
    detectable_difference,
    detectable_from,
    effective_number,
    lead_at_equal_kl,
    measured_nearest,
)
from bonbon.records import ScoredGroup
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.selection.mbr import chrf_matrix
from bonbon.theory.estimators import (
    Estimate,
    average_over_ties,
    best_of_n_mean,
    best_of_n_win_rate,
    tie_bounds,
)
from bonbon.theory.overoptimisation import Form, fit_overoptimisation
from bonbon.theory.ties import tie_corrected, tie_corrected_kl
from bonbon.theory.tilt import Tilt


@dataclass(frozen=True)
class PromptAnswers:
    """One method's independent answers to one prompt.

    Attributes:
        group: the answers and their rewards.
        extra: other scores of the same answers by name, nan where there is none.
        kl: KL(method ‖ base) in nats by the Rao-Blackwell form.
        kl_monte_carlo: the same by Monte Carlo.
        log_ratios: log π_θ/π0 of the first of the base's answers to this prompt, in nats.
    """

    group: ScoredGroup
    extra: Mapping[str, Float[np.ndarray, " draws"]]
    kl: float = 0.0
    kl_monte_carlo: float = 0.0
    log_ratios: Float[np.ndarray, " base_draws"] | None = None

    @cached_property
    def rewards(self) -> Float[np.ndarray, " draws"]:
        """The rewards."""
        return np.array(self.group.rewards, dtype=float)

    @cached_property
    def lengths(self) -> Float[np.ndarray, " draws"]:
        """Tokens of each answer."""
        return np.array([len(one.token_ids) for one in self.group.candidates], dtype=float)

    @cached_property
    def cut(self) -> Float[np.ndarray, " draws"]:
        """1 where the length limit cut the answer, 0 elsewhere."""
        return np.array([one.finish_reason == "length" for one in self.group.candidates], float)

    @property
    def is_complete(self) -> bool:
        """Whether every answer has every other score."""
        return all(bool(np.isfinite(scores).all()) for scores in self.extra.values())

    def distinct(self, n: int, count: int) -> float:
        """Return the share of different word n-grams among the first `count` answers."""
        grams = [
            tuple(words[start : start + n])
            for one in self.group.candidates[:count]
            for words in [one.text.lower().split()]
            for start in range(len(words) - n + 1)
        ]
        return len(set(grams)) / len(grams) if grams else 1.0

    def self_similarity(self, count: int) -> float:
        """Return the mean chrF between two of the first `count` ≥ 2 answers, in [0, 1].

        What self-BLEU asks (arXiv 1802.01886), with a measure that serves short answers too.
        """
        matrix = chrf_matrix([one.text for one in self.group.candidates[:count]], beta=1)
        return float(matrix[np.triu_indices(count, k=1)].mean())


def beaten(
    rewards: Float[np.ndarray, " draws"], opponents: Float[np.ndarray, " others"]
) -> Float[np.ndarray, " draws"]:
    """Return for each reward the share of opponents below it, ties one half."""
    below = (opponents[None] < rewards[:, None]).mean(axis=1)
    return below + (opponents[None] == rewards[:, None]).mean(axis=1) / 2


def best_of_beats(
    base: Float[np.ndarray, " draws"], n: int, opponents: Float[np.ndarray, " others"]
) -> float:
    """Return best-of-n's unbiased win rate against independent opponents.

    Args:
        base: rewards of at least n draws that best-of-n chooses among.
        n: how many it chooses among at a time.
        opponents: rewards of another policy's draws.
    """
    return float(best_of_n_mean(base[None], beaten(base, opponents)[None], n)[0])


def best_of_duel(base: Float[np.ndarray, " draws"], m: int, n: int) -> float:
    """Return the win rate of best-of-m against best-of-n, of independent draws.

    Rewards that occur once stand for continuous ones: without ties it is m / (m + n). Those that
    occur more often are atoms, as in `tie_corrected`.
    """
    draws = len(base)
    below, through = (one[0] for one in tie_bounds(np.sort(base)[None]))
    size = through - below
    low, high = below / draws, through / draws
    smooth = m / (m + n) * (high ** (m + n) - low ** (m + n))
    atom = (high**m - low**m) * (high**n + low**n) / 2
    return float((np.where(size == 1, smooth, atom) / size).sum())


Contender = int | Float[np.ndarray, " _"]
"""The n of a best-of-n (1 is the base itself), or the rewards of another policy's draws."""


def duel(base: Float[np.ndarray, " draws"], one: Contender, other: Contender) -> float:
    """Return the win rate of one contender against the other on a prompt, ties one half.

    Args:
        base: rewards that any best-of-n chooses among.
        one: whose win rate it is.
        other: its opponent, whose draws are independent.
    """
    if isinstance(one, int):
        if isinstance(other, int):
            return _best_ofs(base, one, other)
        return best_of_beats(base, one, other)
    if isinstance(other, int):
        return 1 - best_of_beats(base, other, one)
    return float(beaten(one, other).mean())


def _best_ofs(base: Float[np.ndarray, " draws"], m: int, n: int) -> float:
    """Return best-of-m's win rate against best-of-n: without bias if one is the base itself."""
    if m == 1:
        return 1 - _best_ofs(base, n, m)
    return float(best_of_n_win_rate(base[None], m)[0]) if n == 1 else best_of_duel(base, m, n)


def base_quantiles(
    rewards: Float[np.ndarray, " draws"], base: Float[np.ndarray, " others"], num_bins: int
) -> Float[np.ndarray, " {num_bins}"]:
    """Return the density of the rewards' quantiles under the base, on equal bins of [0, 1].

    A draw that beats K of the base's N lies between K/(N+1) and (K+1)/(N+1), and is spread over
    that; one that ties is spread over all its places. So the base's own draws are uniform.
    """
    ordered, places = np.sort(base), len(base) + 1
    low = np.searchsorted(ordered, rewards, side="left") / places
    high = (np.searchsorted(ordered, rewards, side="right") + 1) / places
    edges = np.linspace(0, 1, num_bins + 1)
    through = np.clip((edges[None] - low[:, None]) / (high - low)[:, None], 0, 1)
    return np.diff(through, axis=1).mean(axis=0) * num_bins


NUM_BINS = 16
STRENGTH_RESAMPLES = 200
"""Resamples of prompts for the intervals of strengths, each of which is fitted anew."""
PerPrompt = Float[np.ndarray, " prompts"]
Triple = tuple[float, float, float]
"""Value, low and high of an estimate."""
Value = Callable[[PromptAnswers], np.ndarray]
"""Something of each answer: its reward, its length."""
MeanOf = Callable[[Value], PerPrompt]
"""A method's mean of something, by prompt."""


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
        goal: Tilt,
        leader: str,
        num_resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        """Take what was measured.

        Args:
            base: the base's answers by prompt.
            methods: trained methods.
            best_of: which n to evaluate at inference.
            goal: the tilt of the base that methods mimic.
            leader: the method whose lead is tested.
            num_resamples: bootstrap resamples of prompts.
            seed: of the bootstrap.

        Raises:
            ConfigError: there are fewer than two prompts on which all can be compared.
        """
        fewest = 1 + max([1, *best_of])
        answers = [base, *(method.answers for method in methods)]
        self.prompts = [
            prompt
            for prompt, own in base.items()
            if len(own.rewards) >= fewest
            and all(prompt in each and each[prompt].is_complete for each in answers)
        ]
        self.num_left_out = len(base) - len(self.prompts)
        if len(self.prompts) < 2:
            raise ConfigError(
                f"got {len(self.prompts)} held-out prompts with at least {fewest} scored answers "
                "of the base, answers of every method, and no answer without gold or off-target "
                "score, expected 2; raise evaluation.base_samples or prompts.num_eval"
            )
        self.base = [base[prompt] for prompt in self.prompts]
        self.methods = list(methods)
        self.best_of, self.goal, self.leader = tuple(best_of), goal, leader
        self.resampler = Resampler(len(self.prompts), num_resamples=num_resamples, seed=seed)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return each method's numbers, estimates as (value, low, high)."""
        still = np.zeros(len(self.prompts))
        rows = {
            "base": self._row("base", still + 0.5, still, still, _means(self.base))
            | self._diversity(self.base)
        }
        rows |= {f"best-of-{n}": self._best_of_row(n) for n in self.best_of}
        return rows | {method.name: self._trained_row(method) for method in self.methods}

    def quantiles(self) -> dict[str, list[float]]:
        """Return the density of each trained method's reward quantiles under the base."""
        return {
            method.name: np.mean(
                [
                    base_quantiles(own.rewards, base.rewards, NUM_BINS)
                    for own, base in zip(self._own(method), self.base, strict=True)
                ],
                axis=0,
            ).tolist()
            for method in self.methods
        }

    def point(self, method: Compared) -> tuple[float, float]:
        """Return KL and win rate of another training run of a method, on the same prompts."""
        pairs = [
            (method.answers[prompt], base)
            for prompt, base in zip(self.prompts, self.base, strict=True)
            if prompt in method.answers
        ]
        wins = [beaten(own.rewards, base.rewards).mean() for own, base in pairs]
        return float(np.mean([own.kl for own, _ in pairs])), float(np.mean(wins))

    def leads(self) -> dict[str, dict[str, Any]]:
        """Return the leader's lead over every other family at equal KL, with paired intervals."""
        families = self._families()
        own = next(each.family for each in self.methods if each.name == self.leader)
        leading = families.pop(own)
        return {family: self._lead(leading, points) for family, points in families.items()}

    def duels(self) -> dict[str, Any]:
        """Return win rates of all methods against each other, and their Bradley–Terry strengths.

        `win_rates` is a matrix of the row's against the column's, with `low` and `high`;
        `strengths` are (value, low, high), in nats above the base's.
        """
        contenders: dict[str, Sequence[Contender]] = {
            name: [n] * len(self.base)
            for name, n in [("base", 1), *((f"best-of-{n}", n) for n in self.best_of)]
        }
        contenders |= {
            method.name: [own.rewards for own in self._own(method)] for method in self.methods
        }
        names = list(contenders)
        won = np.full((len(names), len(names), len(self.prompts)), 0.5)
        for row, column in combinations(range(len(names)), 2):
            pairs = zip(self.base, contenders[names[row]], contenders[names[column]], strict=True)
            shares = np.array([duel(base.rewards, one, other) for base, one, other in pairs])
            won[row, column], won[column, row] = shares, 1 - shares
        matrix, resampled = won.mean(axis=2), self.resampler.means(won)
        low, high = self.resampler.bounds(resampled)
        return {
            "methods": names,
            "win_rates": matrix.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "strengths": self._strengths(matrix, resampled),
        }

    def over_optimisation(self, gold: str) -> dict[str, Any]:
        """Return proxy and gold reward, above the base's, against KL, with fits of the gold one.

        Args:
            gold: which of the extra scores is the gold reward.
        """
        most = min(len(one.rewards) for one in self.base)
        proxy_before = _means(self.base)(lambda one: one.rewards)
        before = _means(self.base)(lambda one: one.extra[gold])

        def point(kl: PerPrompt, mean_of: MeanOf, **names: Any) -> dict[str, Any]:  # noqa: ANN401
            return {
                **names,
                "kl": float(np.mean(kl)),
                "proxy": self._mean(mean_of(lambda one: one.rewards) - proxy_before),
                "gold": self._mean(mean_of(lambda one: one.extra[gold]) - before),
            }

        numbers = [2**k for k in range(1, 7) if 2**k <= most]
        points = [point(self._best_of_kl(n), self._best_of_means(n), n=n) for n in numbers]
        trained = [
            point(_kls(own), _means(own), name=method.name)
            for method in self.methods
            for own in [self._own(method)]
        ]
        fits = {"best-of-n": _fit(points, "best-of-n"), "rl": _fit(trained, "rl")}
        return {
            "base_gold": float(before.mean()),
            "best_of": points,
            "trained": trained,
            "fits": fits,
        }

    def tied_curve(self) -> list[tuple[float, float]]:
        """Return KL and win rate of best-of-n for n from 1 up, for this reward with its ties."""
        return [
            (
                float(np.mean(self._best_of_kl(n))),
                float(np.mean(self._of_base(lambda rewards, n=n: tie_corrected(rewards, n)[0]))),
            )
            for n in np.geomspace(1, 64, 25).tolist()
        ]

    def _best_of_row(self, n: int) -> dict[str, Any]:
        win = self._of_base(lambda rewards: best_of_n_win_rate(rewards, n))
        kl = self._best_of_kl(n)
        row = self._row("best-of-n", win, kl, kl, self._best_of_means(n))
        # A plug-in of the draws' ties, without an interval: its bias is larger than its spread.
        value = (float(kl.mean()),) * 3
        return row | {"kl": value, "kl_monte_carlo": value}

    def _trained_row(self, method: Compared) -> dict[str, Any]:
        own = self._own(method)
        monte_carlo = np.array([one.kl_monte_carlo for one in own])
        row = self._row(method.family, self._wins(own), _kls(own), monte_carlo, _means(own))
        row |= self._diversity(own)
        if all(one.log_ratios is not None for one in own):
            reached = [self._goal_log_ratio(*pair) for pair in zip(own, self.base, strict=True)]
            kl = self._of_base(lambda rewards: tie_corrected_kl(rewards, self.goal))
            row["kl_from_goal"] = self._mean(kl - np.array(reached))
        return row

    def _row(
        self, family: str, win: PerPrompt, kl: PerPrompt, monte_carlo: PerPrompt, mean_of: MeanOf
    ) -> dict[str, Any]:
        lengths = mean_of(lambda one: one.lengths)
        both = np.stack([lengths, _means(self.base)(lambda one: one.lengths)])
        ratio = self.resampler.statistic(both, lambda means: float(means[0] / means[1]))
        return {
            "family": family,
            "win_rate": self._mean(win),
            "kl": self._mean(kl),
            "kl_monte_carlo": self._mean(monte_carlo),
            "kl_from_goal": None,
            "reward": self._mean(mean_of(lambda one: one.rewards)),
            "length": self._mean(lengths),
            "length_ratio": _triple(ratio),
            "cut_share": self._mean(mean_of(lambda one: one.cut)),
            "distinct_2": None,
            "self_chrf": None,
            "extra": {
                name: self._mean(mean_of(lambda one, name=name: one.extra[name]))
                for name in self.base[0].extra
            },
            "effective_prompts": effective_number(win),
            "detectable": detectable_difference(win),
        }

    def _strengths(
        self, matrix: Float[np.ndarray, "n n"], resampled: Float[np.ndarray, "resamples n n"]
    ) -> list[Triple]:
        """Return Bradley–Terry strengths above the first one's, with intervals."""
        won = np.concatenate([matrix[None], resampled[:STRENGTH_RESAMPLES]])
        strengths = bradley_terry(won * len(self.prompts))
        above = strengths - strengths[:, :1]
        return [
            _triple(self.resampler.estimate(float(column[0]), column[1:])) for column in above.T
        ]

    def _best_of_means(self, n: int) -> MeanOf:
        def mean_of(value: Value) -> PerPrompt:
            return np.array(
                [best_of_n_mean(one.rewards[None], value(one)[None], n)[0] for one in self.base]
            )

        return mean_of

    def _best_of_kl(self, n: int | float) -> PerPrompt:
        return self._of_base(lambda rewards: tie_corrected(rewards, n)[1])

    def _of_base(self, estimate: Callable[[np.ndarray], PerPrompt]) -> PerPrompt:
        """Return an estimate from the base's rewards, of all prompts with as many draws at once."""
        counts = np.array([len(one.rewards) for one in self.base])
        found = np.empty(len(self.base))
        for count in np.unique(counts):
            (places,) = np.nonzero(counts == count)
            found[places] = estimate(np.stack([self.base[place].rewards for place in places]))
        return found

    def _diversity(self, own: Sequence[PromptAnswers]) -> dict[str, Triple]:
        """Return how different the answers to a prompt are, among as many as every method has."""
        everyone = [self.base, *(self._own(method) for method in self.methods)]
        fewest = min(len(one.rewards) for each in everyone for one in each)
        found = {"distinct_2": self._mean([one.distinct(2, fewest) for one in own])}
        if fewest > 1:
            found["self_chrf"] = self._mean([one.self_similarity(fewest) for one in own])
        return found

    def _goal_log_ratio(self, own: PromptAnswers, base: PromptAnswers) -> float:
        """Return the goal's mean of log π/π0 on a prompt, from the base's draws, weighted."""
        assert own.log_ratios is not None
        rewards = base.rewards[: len(own.log_ratios)]
        order = np.argsort(rewards)
        ordered, moved = rewards[order][None], own.log_ratios[order][None]
        return float((average_over_ties(moved, ordered) @ self.goal.rank_weights(len(order)))[0])

    def _lead(
        self,
        leading: Float[np.ndarray, "2 points prompts"],
        other: Float[np.ndarray, "2 others prompts"],
    ) -> dict[str, Any]:
        """Return the lead at the largest KL that both families reach, and who was measured near."""
        points = leading.shape[1]

        def apart(means: Float[np.ndarray, "2 all"]) -> tuple[np.ndarray, np.ndarray]:
            return means[:, :points], means[:, points:]

        both = np.concatenate([leading, other], axis=1)
        lead = self.resampler.statistic(both, lambda means: lead_at_equal_kl(*apart(means)))
        ours, theirs = apart(both.mean(axis=2))
        kl = float(min(ours[0].max(), theirs[0].max()))
        return {
            "lead": _triple(lead),
            "kl": kl,
            "within_noise": lead.low <= 0 <= lead.high,
            "detectable": detectable_from(lead),
            "nearest": {
                "leader": measured_nearest(ours[0], kl),
                "other": measured_nearest(theirs[0], kl),
            },
        }

    def _families(self) -> dict[str, Float[np.ndarray, "2 points prompts"]]:
        """Return KLs and win rates by prompt of the points of each family."""
        found: dict[str, list[tuple[PerPrompt, PerPrompt]]] = {}
        for method in self.methods:
            own = self._own(method)
            found.setdefault(method.family, []).append((_kls(own), self._wins(own)))
        return {family: np.array(points).swapaxes(0, 1) for family, points in found.items()}

    def _own(self, method: Compared) -> list[PromptAnswers]:
        return [method.answers[prompt] for prompt in self.prompts]

    def _wins(self, own: Sequence[PromptAnswers]) -> PerPrompt:
        pairs = zip(own, self.base, strict=True)
        return np.array([beaten(one.rewards, base.rewards).mean() for one, base in pairs])

    def _mean(self, values: Sequence[float] | PerPrompt) -> Triple:
        return _triple(self.resampler.mean(np.asarray(values, dtype=float)))


def _means(own: Sequence[PromptAnswers]) -> MeanOf:
    return lambda value: np.array([value(one).mean() for one in own])


def _kls(own: Sequence[PromptAnswers]) -> PerPrompt:
    return np.array([one.kl for one in own])


def _triple(estimate: Estimate) -> Triple:
    return estimate.mean, estimate.low, estimate.high


def _fit(points: Sequence[Mapping[str, Any]], form: Form) -> dict[str, float] | None:
    kls, golds = np.array([(one["kl"], one["gold"][0]) for one in points]).reshape(-1, 2).T
    if len(np.unique(kls[kls > 0])) < 2:
        return None
    fit = fit_overoptimisation(kls, golds, form=form)
    peak = fit.peak_kl
    return {"a": fit.a, "b": fit.b, "residual": fit.residual, "peak_kl": min(peak, 1e9)}
