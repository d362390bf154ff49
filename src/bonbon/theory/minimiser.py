"""Where a training objective leads: the tilt that minimises it with unlimited data and capacity."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from bonbon.theory.best_of import BestOf
from bonbon.theory.checks import check_at_least, check_between, check_count, check_finite
from bonbon.theory.numerics import harmonic_number
from bonbon.theory.rank_objective import RankObjective
from bonbon.theory.ranks import rank_probabilities
from bonbon.theory.shaped_tilt import ShapedTilt
from bonbon.theory.tilt import Tilt


def bernstein_tilt(targets: Float[np.ndarray, " ranks"], *, label: str = "bernstein") -> ShapedTilt:
    """Return the tilt with log f(u) = Σ_i t_i · Binomial(N−1, u)(i−1) + constant.

    A regression on these targets leads to it if each draw is ranked among N − 1 draws that are
    not themselves regressed on, such as the stored base draws that rank a fresh one.
    """
    check_finite("targets", targets)
    return ShapedTilt(lambda u: rank_probabilities(u, len(targets)) @ targets, label)


def population_minimiser(
    targets: Float[np.ndarray, " kept"],
    *,
    num_draws: int,
    ranks: Sequence[int] | None = None,
    alpha: int | float = 0.0,
    weights: Float[np.ndarray, " kept"] | None = None,
) -> Tilt:
    """Return the tilt that minimises the variance of log f − t over the kept ranks.

    The objective is that of theory's rank regression: (1/K) Σ (e_i − ē)² over the K kept ranks
    of N draws ranked among themselves, e_i = log f(U_(i)) − t_i, plus α times the SFT term
    −Σ w_i log f(U_(i)).

    With all ranks and α = 0 it is the Bernstein tilt of N/(N−1) · targets: a draw's own part
    in ē lets it move by that much more. `in_group_targets` undoes it.

    Args:
        targets: one per kept rank, lowest reward first.
        num_draws: N, at least 2.
        ranks: the kept ranks, 1 the lowest, increasing, at least two; all N if None.
        alpha: weight of the SFT term, at least 0.
        weights: the SFT weights of the kept ranks, summing to 1; needed if alpha > 0.

    Raises:
        ArithmeticError: the equation is too stiff, as with the top 2 of 1,000 ranks and α > 0.
    """
    check_count("num_draws", num_draws, 2)
    check_at_least("alpha", alpha, 0)
    kept = _check_ranks(ranks, num_draws)
    _check_length("targets", targets, kept)
    if alpha == 0 and len(kept) == num_draws:
        return bernstein_tilt(targets * (num_draws / (num_draws - 1)), label="rank minimiser")
    if alpha == 0:
        weights = np.zeros(len(kept))
    elif weights is None:
        raise ValueError(f"weights must be given with alpha > 0, got None with alpha = {alpha}")
    _check_length("weights", weights, kept)
    objective = RankObjective(num_draws, kept, targets, weights, float(alpha))
    return ShapedTilt(objective.minimiser(), "rank minimiser")


def pair_minimiser(n: int, *, alpha: int | float = 0.0) -> Tilt:
    """Return the tilt that the published loss leads to: α · SFT-BoN + (1 − α) · IPO-BoN.

    Args:
        n: draws per prompt, of which best and worst are kept; at least 2.
        alpha: in [0, 1]; 0 is IPO-BoN, and 1 is SFT-BoN, which leads to best-of-n itself.
    """
    check_count("n", n, 2)
    check_between("alpha", alpha, 0, 1)
    if alpha == 1:
        return BestOf(n)
    # IPO-BoN is four times the variance of two residuals.
    relative = alpha / (4 * (1 - alpha))
    targets = np.array([0.0, (n - 1) * harmonic_number(n - 1)])
    return population_minimiser(
        targets, num_draws=n, ranks=(1, n), alpha=relative, weights=np.array([0.0, 1.0])
    )


def _check_ranks(ranks: Sequence[int] | None, num_draws: int) -> tuple[int, ...]:
    kept = tuple(range(1, num_draws + 1)) if ranks is None else tuple(ranks)
    rising = all(low < high for low, high in pairwise(kept))
    if len(kept) < 2 or not rising or kept[0] < 1 or kept[-1] > num_draws:
        raise ValueError(f"ranks must be at least 2, increasing, in [1, {num_draws}], got {ranks}")
    return kept


def _check_length(name: str, values: np.ndarray, kept: tuple[int, ...]) -> None:
    check_finite(name, values)
    if len(values) != len(kept):
        raise ValueError(f"{name} must hold {len(kept)} numbers, one per rank, got {len(values)}")
