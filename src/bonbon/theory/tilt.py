"""The tilt: a density on the reward quantile, the one idea that everything hangs on."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float

from bonbon.theory.checks import check_count


class Tilt(ABC):
    """A density f on the reward quantile u in [0, 1]; it defines π_f(y|x) = π0(y|x) · f(u(x, y)).

    Rewards are assumed continuous, so that u is uniform under π0; `bonbon.theory.ties` holds
    what changes when rewards tie. Arrays of quantiles may have any shape.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """A short label such as `best-of-8`; `parse_tilt` reads it back."""

    @abstractmethod
    def log_density(self, u: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
        """Return log f(u), −inf where the tilt has no mass."""

    @abstractmethod
    def cdf(self, u: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
        """Return the mass that the tilt puts below the quantile u."""

    @abstractmethod
    def quantile(self, p: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
        """Return the u with cdf(u) = p."""

    @property
    @abstractmethod
    def win_rate(self) -> float:
        """W = ∫ u f(u) du: the chance to beat one draw from π0, ties counted one half."""

    @property
    @abstractmethod
    def kl(self) -> float:
        """KL(π_f ‖ π0) = ∫ f log f du, in nats."""

    @abstractmethod
    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return what each rank, lowest reward first, should vote for log π_θ − log π0, in nats.

        They are the t with Σ_i t_i · Binomial(N−1, u)(i−1) ≈ log f(u) + constant: exactly where
        a closed form is known, else in the least-squares sense under f. Read-only.
        """

    @abstractmethod
    def rank_weights(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return each rank's weight, lowest reward first, in an average under the tilt.

        Read-only, sums to 1: the expected density at the rank's quantile, E[f(U_(i))] / N with
        U_(i) ~ Beta(i, N−i+1). Best-of-n with N ≥ n has the unbiased weights instead.
        """

    def density(self, u: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
        """Return f(u)."""
        return np.exp(self.log_density(u))

    def sample(self, size: int, rng: np.random.Generator) -> Float[np.ndarray, " {size}"]:
        """Draw quantiles u from the tilt."""
        return self.quantile(rng.random(check_count("size", size, 0)))
