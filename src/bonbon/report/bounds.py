"""The most that any policy can win at a KL: the optimal tilt's win rate (theory section 2)."""

from bonbon.theory.optimal import OptimalTilt

_MAX_KL = 33.0  # beyond, 1 − W is below the precision of a float


def highest_win_rate(kl: float) -> float:
    """Return the bound for any KL in nats; an estimate at or below 0 gets the base's one half."""
    return OptimalTilt.from_kl(min(kl, _MAX_KL)).win_rate if kl > 0 else 0.5
