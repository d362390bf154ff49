"""Best-of-n when rewards tie: discrete reward levels, and samples with atoms."""

import math

import numpy as np
from jaxtyping import Float

from bonbon.theory.estimators import check_draws, tie_bounds
from bonbon.theory.numerics import (
    check_at_least,
    check_between,
    check_finite,
    kl_integrand,
    unit_grid,
)
from bonbon.theory.tilt import Tilt


def level_masses(rewards: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " levels"]:
    """Return the share of each different reward among one prompt's draws, lowest reward first."""
    check_finite("rewards", rewards)
    if rewards.size == 0:
        raise ValueError("rewards must hold at least 1 draw, got 0")
    return np.unique(rewards, return_counts=True)[1] / rewards.size


def best_of_n_levels(
    masses: Float[np.ndarray, " levels"], n: int | float
) -> Float[np.ndarray, " levels"]:
    """Return best-of-n's chance of each reward level: π_n(k) = F_k^n − F_{k−1}^n.

    Args:
        masses: π0's chance of each level, in increasing order of reward.
        n: any real number of at least 1; ties are broken uniformly at random.
    """
    check_at_least("n", n, 1)
    through = _cumulative(masses)[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        # F_k^n − F_{k−1}^n without the cancellation.
        share = np.where(through > 0, masses / masses.sum() / through, 0.0)
        return through**n * -np.expm1(n * np.log1p(-np.minimum(share, 1.0)))


def discrete_win_rate(masses: Float[np.ndarray, " levels"], n: int | float) -> float:
    """Return best-of-n's win rate against one draw from level masses; ties count one half."""
    chosen = best_of_n_levels(masses, n)
    cumulative = _cumulative(masses)
    return float(chosen @ (cumulative[:-1] + cumulative[1:])) / 2


def discrete_kl(masses: Float[np.ndarray, " levels"], n: int | float) -> float:
    """Return KL(best-of-n ‖ π0) in nats from level masses; log n − (n−1)/n bounds it above."""
    chosen = best_of_n_levels(masses, n)
    kept = chosen > 0
    ratio = chosen[kept] / (masses / masses.sum())[kept]
    return max(0.0, float(chosen[kept] @ np.log(ratio)))


def beirami_kl(
    chosen_probability: Float[np.ndarray, "*points"], n: int | float
) -> Float[np.ndarray, "*points"]:
    """Return the KL estimate of arXiv 2401.01879 from ε, π0's probability of the chosen response.

    (1−ε)^n [log n + (n−1) log(1−ε) − (n−1)/n] + (1−(1−ε)^n) log((1−(1−ε)^n)/ε); its mean over
    the responses that best-of-n chooses estimates KL(best-of-n ‖ π0).
    """
    check_at_least("n", n, 1)
    epsilon = check_finite("chosen_probability", chosen_probability)
    if not ((epsilon > 0) & (epsilon <= 1)).all():
        wrong = epsilon[~((epsilon > 0) & (epsilon <= 1))].flat[0]
        raise ValueError(f"chosen_probability must be in (0, 1], got {wrong}")
    rest = np.log1p(-np.minimum(epsilon, 1 - 1e-16))
    missed = np.exp(n * rest)
    hit = -np.expm1(n * rest)
    continuous = math.log(n) + (n - 1) * rest - (n - 1) / n
    return missed * continuous + hit * np.log(hit / epsilon)


def tie_corrected(
    rewards: Float[np.ndarray, "prompts draws"], n: int | float
) -> tuple[Float[np.ndarray, " prompts"], Float[np.ndarray, " prompts"]]:
    """Return each prompt's win rate and KL of best-of-n for rewards that may have atoms.

    This is a plug-in estimate on the empirical distribution of the N draws. A value that occurs
    once is treated as continuous, with a quantile interval of width 1/N. A value that occurs k ≥ 2
    times is an atom of mass k/N, within which best-of-n does not choose. Without ties both are the
    closed forms n/(n+1) and log n − (n−1)/n; with all rewards equal, ½ and 0.

    Args:
        rewards: draws from π0.
        n: any real number from 1 on.
    """
    check_draws("rewards", rewards, at_least=1)
    check_at_least("n", n, 1)
    below, through = tie_bounds(np.sort(rewards, axis=1))
    draws = rewards.shape[1]
    single = through - below == 1
    share = 1 / (through - below)
    low, high = below / draws, through / draws
    chosen = high**n - low**n
    atom_win = chosen * (low + high) / 2
    atom_kl = _atom_kl(chosen, high - low)
    win_steps, kl_steps = _continuous_steps(draws, n)
    win = np.where(single, win_steps[through] - win_steps[below], atom_win * share)
    kl = np.where(single, kl_steps[through] - kl_steps[below], atom_kl * share)
    return win.sum(axis=1), np.maximum(kl.sum(axis=1), 0.0)


def tie_corrected_kl(
    rewards: Float[np.ndarray, "prompts draws"], tilt: Tilt
) -> Float[np.ndarray, " prompts"]:
    """Return each prompt's KL(π_f ‖ π0) in nats of any tilt, for rewards that may have atoms.

    The plug-in of `tie_corrected`, by quadrature: the tilt does not choose within an atom.

    Args:
        rewards: draws from π0.
        tilt: its f.
    """
    check_draws("rewards", rewards, at_least=1)
    below, through = tie_bounds(np.sort(rewards, axis=1))
    size = through - below
    steps = np.arange(rewards.shape[1] + 1) / rewards.shape[1]
    grid = unit_grid(tuple(sorted({*steps[1:-1].tolist(), *tilt.breaks})))
    panels = grid.panel_integrals(kl_integrand(tilt.log_density(grid.nodes)))
    summed = np.interp(steps, grid.edges, np.concatenate([[0.0], np.cumsum(panels)]))
    mass = tilt.cdf(steps)
    kl_steps = summed + mass - steps  # the integrand is f log f − f + 1, without cancellation
    atoms = _atom_kl(mass[through] - mass[below], size / rewards.shape[1])
    kl = np.where(size == 1, kl_steps[through] - kl_steps[below], atoms / size)
    return np.maximum(kl.sum(axis=1), 0.0)


def _atom_kl(chosen: np.ndarray, mass: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chosen > 0, chosen * np.log(chosen / mass), 0.0)


def _continuous_steps(draws: int, n: int | float) -> tuple[np.ndarray, np.ndarray]:
    """Return ∫_0^u v f(v) dv and ∫_0^u f log f dv at u = 0, 1/N, …, 1, f best-of-n's density."""
    u = np.arange(draws + 1) / draws
    with np.errstate(divide="ignore", invalid="ignore"):
        log_u = np.where(u > 0, np.log(u), 0.0)
    win = n / (n + 1) * u ** (n + 1)
    kl = u**n * (math.log(n) + (n - 1) * log_u - (n - 1) / n)
    return win, kl


def _cumulative(masses: np.ndarray) -> np.ndarray:
    check_finite("masses", masses)
    if masses.size == 0 or masses.min() < 0:
        raise ValueError(f"masses must be at least 1 number, none below 0, got {masses}")
    check_between("the sum of masses", float(masses.sum()), 1 - 1e-6, 1 + 1e-6)
    cumulative = np.concatenate([[0.0], np.cumsum(masses)])
    return cumulative / cumulative[-1]
