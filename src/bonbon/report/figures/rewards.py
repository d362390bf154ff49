"""Histograms of rewards: the base, best-of-n and the trained model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bonbon.records import ScoredGroup
from bonbon.report.figures.style import (
    GREY,
    INK,
    MUTED,
    TEXT_SIZE,
    WIDE,
    Sheet,
    blank_figure,
    method_styles,
    name_axes,
)
from bonbon.theory.best_of import BestOf


@dataclass(frozen=True, slots=True)
class RewardSample:
    """Rewards with weights that sum to 1."""

    rewards: Float[np.ndarray, "draws"]
    weights: Float[np.ndarray, "draws"]

    @property
    def mean(self) -> float:
        """The weighted mean."""
        return float(self.rewards @ self.weights)


def drawn_rewards(groups: Sequence[ScoredGroup]) -> RewardSample:
    """Give every prompt the same weight, and every draw of a prompt the same weight."""
    weights = [np.full(len(group.rewards), 1 / len(group.rewards)) for group in groups]
    return _pooled([np.array(group.rewards) for group in groups], weights)


def best_of_rewards(groups: Sequence[ScoredGroup], n: int) -> RewardSample:
    """Return the rewards of best-of-n from these draws (theory section 6).

    With at least n draws in each group the weights are those of all subsets of size n: unbiased.
    """
    rewards = [np.sort(np.array(group.rewards)) for group in groups]
    return _pooled(rewards, [BestOf(n).rank_weights(num_draws=len(r)) for r in rewards])


def _pooled(
    rewards: Sequence[Float[np.ndarray, "_"]], weights: Sequence[Float[np.ndarray, "_"]]
) -> RewardSample:
    return RewardSample(np.concatenate(rewards), np.concatenate(weights) / len(rewards))


NUM_BINS = 40


def reward_histograms(samples: Mapping[str, RewardSample], *, sheet: Sheet = WIDE) -> Figure:
    """Plot the share of answers by reward, with a panel for each method and common axes.

    The first method is outlined behind the others. A vertical line marks each mean.
    """
    figure, panels = blank_figure(sheet, rows=len(samples))
    edges = _edges(samples)
    styles = method_styles(list(samples))
    shares = {name: _shares(sample, edges) for name, sample in samples.items()}
    ceiling = 1.18 * max(share.max() for share in shares.values())
    first = next(iter(shares.values()))
    for axes, (name, sample) in zip(panels, samples.items(), strict=True):
        axes.stairs(shares[name], edges, fill=True, color=styles[name].colour.light, label=name)
        axes.stairs(first, edges, color=GREY.light, linewidth=1)
        axes.set_ylim(0, ceiling)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        _mark_mean(axes, name, sample.mean, styles[name].colour.light)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    name_axes(panels[0], up="share of answers")
    name_axes(panels[-1], up="", along="reward")
    return figure


def _edges(samples: Mapping[str, RewardSample]) -> Float[np.ndarray, "edges"]:
    """Return bins over all rewards; a constant reward gets a bin around it."""
    rewards = np.concatenate([sample.rewards for sample in samples.values()])
    return np.histogram_bin_edges(rewards, bins=NUM_BINS)


def _shares(sample: RewardSample, edges: Float[np.ndarray, "edges"]) -> Float[np.ndarray, "bins"]:
    return np.histogram(sample.rewards, bins=edges, weights=sample.weights)[0]


def _mark_mean(axes: Axes, name: str, mean: float, colour: str) -> None:
    axes.axvline(mean, color=INK.light, linewidth=1.2)
    for height, text, shade in ((0.86, name, colour), (0.64, f"mean {mean:.2f}", MUTED.light)):
        line = axes.text(0.01, height, text, transform=axes.transAxes, color=shade)
        line.set(size=TEXT_SIZE, parse_math=False, in_layout=False)
