"""Over-optimisation: fits of the gold reward against the KL (arXiv 2210.10760)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import check_finite

Form = Literal["best-of-n", "rl"]


@dataclass(frozen=True)
class OveroptimisationFit:
    """Gold reward above the base's, as a function of d = √KL.

    Best-of-n: d (a − b d). Reinforcement learning: d (a − b log d).

    Attributes:
        form: which of the two forms.
        a: gain per √nat at the start.
        b: how fast the gain decreases; at or below 0 it never does.
        residual: root of the mean squared difference from the data.
    """

    form: Form
    a: float
    b: float
    residual: float

    def gold(self, kl: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Return the fitted gold reward above the base's at each KL in nats."""
        return _features(self.form, _distance(kl)) @ np.array([self.a, self.b])

    @property
    def peak_kl(self) -> float:
        """The KL in nats where the fitted gold reward is highest; infinite without a maximum."""
        if self.b <= 0:
            return math.inf
        if self.form == "best-of-n":
            return max(0.0, self.a / (2 * self.b)) ** 2
        return math.exp(min(2 * (self.a / self.b - 1), 700.0))


def fit_overoptimisation(
    kl: Float[np.ndarray, " points"], gold: Float[np.ndarray, " values"], *, form: Form
) -> OveroptimisationFit:
    """Fit a and b by least squares.

    Args:
        kl: nats from the base, at least two different values above 0.
        gold: mean gold reward at each KL, minus the base's.
        form: `best-of-n` for d (a − b d), `rl` for d (a − b log d).
    """
    check_finite("gold", gold)
    if len(kl) != len(gold):
        raise ValueError(f"kl and gold must be equally long, got {len(kl)} and {len(gold)}")
    if len(np.unique(kl[kl > 0])) < 2:
        raise ValueError(f"kl must hold at least 2 different values above 0, got {kl.tolist()}")
    features = _features(form, _distance(kl))
    coefficients = np.linalg.lstsq(features, gold, rcond=None)[0]
    residual = math.sqrt(float(np.mean((features @ coefficients - gold) ** 2)))
    return OveroptimisationFit(form, float(coefficients[0]), float(coefficients[1]), residual)


def _distance(kl: np.ndarray) -> np.ndarray:
    check_finite("kl", kl)
    if kl.size and kl.min() < 0:
        raise ValueError(f"kl must be at least 0, got {kl.min()}")
    return np.sqrt(kl)


def _features(form: Form, distance: np.ndarray) -> np.ndarray:
    """Return the columns that a and b multiply."""
    bend = distance if form == "best-of-n" else np.log(np.where(distance > 0, distance, 1.0))
    return np.stack([distance, -distance * bend], axis=1)
