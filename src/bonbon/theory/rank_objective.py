"""The rank regression's objective over unrestricted tilts, and the equation of its minimum."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.theory.quadrature import legendre_rule
from bonbon.theory.ranks import log_joint_rank_densities, log_rank_densities

_NODES = 240
_AT_ONCE = 2000
_NEWTON_STEPS = 200
_HALVINGS = 64
_SETTLED = 1e-9
_MAX_EXPONENT = 600.0


@dataclass(frozen=True)
class RankObjective:
    """(1/K) E Σ (e_i − ē)² − α E Σ w_i h(U_(i)) over the K kept ranks, e_i = h(U_(i)) − t_i.

    Over log densities h it is convex. Where it is least, with p(u) = Σ p_i(u) the density of the
    kept draws' quantiles, k(v|u) that of the others given one at u, t̂(u) the mean centred target
    at u and s(u) = Σ w_i p_i(u):

        (2/K) [(1 − 1/K) h(u) − (1/K) ∫ k(v|u) h(v) dv − t̂(u)] + α [e^h(u) − s(u)] / p(u) = 0

    It is a Fredholm equation of the second kind. It is solved on Gauss-Legendre nodes and
    continued between them by itself (Nyström's method).
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
        """Solve for h at the nodes: at once if α = 0, else by Newton's method."""
        nodes, mass = legendre_rule(_NODES)
        kernel, pull, drive = self._equation(nodes)
        share, one = 1 / len(self.kept), np.eye(_NODES)
        # Subtracting 1 from the kernel settles the constant that h is free to have: ∫ h = 0.
        linear = 2 * share * ((1 - share) * one - share * (kernel - 1) * mass)
        if self.alpha == 0:
            return np.linalg.solve(linear, pull)
        h = _solve_pointwise(2 * share * (1 - share), drive, pull)
        for _ in range(_NEWTON_STEPS):
            density = np.exp(h - h.max())
            density /= density @ mass
            pushed = drive * density
            residual = linear @ h + pushed - pull
            step = np.linalg.solve(linear + pushed[:, None] * (one - density * mass), residual)
            h = h - step * min(1.0, 1 / np.abs(step).max())
            if np.ptp(step) < _SETTLED * (1 + np.ptp(h)):  # a constant does not count
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
