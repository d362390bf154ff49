"""The tilt that minimises a training objective with unlimited data and capacity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from bonbon.theory.best_of import BestOf
from bonbon.theory.numerics import (
    check_at_least,
    check_between,
    check_count,
    check_finite,
    harmonic_number,
    legendre_rule,
)
from bonbon.theory.rank_targets import (
    log_joint_rank_densities,
    log_rank_densities,
    rank_probabilities,
)
from bonbon.theory.tilt import ShapedTilt, Tilt

_NODES = 240
_AT_ONCE = 2000
_NEWTON_STEPS = 200
_HALVINGS = 64
_SETTLED = 1e-9
_MAX_EXPONENT = 600.0


@dataclass(frozen=True)
class RankObjective:
    """(1/K) E Σ (e_i − ē)² − α E Σ w_i h(U_(i)) over the K kept ranks, e_i = h(U_(i)) − t_i.

    The objective is convex in the log density h. Let p(u) = Σ p_i(u) be the density of the kept
    draws' quantiles, k(v|u) the density of the others given one at u, t̂(u) the mean centred target
    at u, and s(u) = Σ w_i p_i(u). At the minimum

        (2/K) [(1 − 1/K) h(u) − (1/K) ∫ k(v|u) h(v) dv − t̂(u)] + α [e^h(u) − s(u)] / p(u) = 0

    This is a Fredholm equation of the second kind. It is solved on Gauss-Legendre nodes; between
    the nodes the equation itself interpolates (Nyström's method).
    """

    num_draws: int
    kept: tuple[int, ...]
    targets: Float[np.ndarray, " kept"]
    weights: Float[np.ndarray, " kept"]
    alpha: float

    def minimiser(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the log density, up to a constant, as a function of a flat array of quantiles."""
        _, mass = legendre_rule(_NODES)
        h = self._at_nodes()
        peak = h.max()
        h = h - peak - np.log(np.exp(h - peak) @ mass)
        slope = 2 / len(self.kept) * (1 - 1 / len(self.kept))

        def log_density(u: np.ndarray) -> np.ndarray:
            parts = np.array_split(u, 1 + len(u) // _AT_ONCE)
            return np.concatenate([part_of(part) for part in parts])

        def part_of(u: np.ndarray) -> np.ndarray:
            kernel, pull, drive = self._equation(u)
            goal = pull + 2 / len(self.kept) ** 2 * (kernel @ (mass * h))
            return _solve_pointwise(slope, drive, goal)

        return log_density

    def _at_nodes(self) -> np.ndarray:
        """Solve for h at the nodes: a linear equation if α = 0, else by Newton's method."""
        nodes, mass = legendre_rule(_NODES)
        kernel, pull, drive = self._equation(nodes)
        share, identity = 1 / len(self.kept), np.eye(_NODES)
        # h is determined up to a constant; subtracting 1 from the kernel sets ∫ h = 0.
        linear = 2 * share * ((1 - share) * identity - share * (kernel - 1) * mass)
        if self.alpha == 0:
            return np.linalg.solve(linear, pull)
        h = _solve_pointwise(2 * share * (1 - share), drive, pull)
        for _ in range(_NEWTON_STEPS):
            density = np.exp(h - h.max())
            density /= density @ mass
            pushed = drive * density
            residual = linear @ h + pushed - pull
            step = np.linalg.solve(linear + pushed[:, None] * (identity - density * mass), residual)
            h = h - step * min(1.0, 1 / np.abs(step).max())
            if np.ptp(step) < _SETTLED * (1 + np.ptp(h)):  # up to a constant
                return h
        raise ArithmeticError(f"no minimum found within {_NEWTON_STEPS} steps of Newton's method")

    def _equation(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return k(v|u) at the nodes v, (2/K) t̂(u) + α s(u)/p(u), and α/p(u)."""
        nodes, _ = legendre_rule(_NODES)
        log_each = log_rank_densities(u, self.num_draws)[:, np.array(self.kept) - 1]
        log_p = np.logaddexp.reduce(log_each, axis=1)
        log_joint = log_joint_rank_densities(u, nodes, self.num_draws, self.kept)
        centred = 2 / len(self.kept) * (self.targets - self.targets.mean())
        pull = np.exp(log_each - log_p[:, None]) @ (centred + self.alpha * self.weights)
        drive = self.alpha * np.exp(np.minimum(-log_p, _MAX_EXPONENT))
        return np.exp(log_joint - log_p[:, None]), pull, drive


def _solve_pointwise(slope: float, drive: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Solve slope · h + drive · e^h = goal, which grows with h, by halving a bracket."""
    high = goal / slope
    if not drive.any():
        return high
    # Above 0, drive · e^h alone stays below the goal; so nothing here can overflow.
    high = np.minimum(high, np.maximum(0.0, np.log(np.maximum(goal, 1e-300)) - np.log(drive)))
    low = np.minimum(high, -np.log(drive)) - max(1.0, 1 / slope)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = slope * middle + drive * np.exp(middle) > goal
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high


def bernstein_tilt(targets: Float[np.ndarray, " ranks"], *, label: str = "bernstein") -> ShapedTilt:
    """Return the tilt with log f(u) = Σ_i t_i · Binomial(N−1, u)(i−1) + constant.

    It minimises a regression on these targets if each draw is ranked among N − 1 draws that are not
    regressed on, such as the stored base draws that rank a new draw.
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

    The objective is rank regression: (1/K) Σ (e_i − ē)² over the K kept ranks
    of N draws ranked among themselves, e_i = log f(U_(i)) − t_i, plus α times the SFT term
    −Σ w_i log f(U_(i)).

    With all ranks and α = 0 the minimiser is the Bernstein tilt of N/(N−1) · targets, because each
    draw is part of the mean ē. `in_group_targets` corrects for this.

    Args:
        targets: one per kept rank, lowest reward first.
        num_draws: N, at least 2.
        ranks: the kept ranks, 1 the lowest, increasing, at least two; all N if None.
        alpha: weight of the SFT term, at least 0.
        weights: the SFT weights of the kept ranks, summing to 1; needed if alpha > 0.

    Raises:
        ArithmeticError: Newton's method fails, as with the top 2 of 1,000 ranks and α > 0.
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
    """Return the tilt that minimises the published loss, α · SFT-BoN + (1 − α) · IPO-BoN.

    Args:
        n: draws per prompt, of which best and worst are kept; at least 2.
        alpha: in [0, 1]; 0 is IPO-BoN, and 1 is SFT-BoN, which best-of-n itself minimises.
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
