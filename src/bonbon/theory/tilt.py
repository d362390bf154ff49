"""The tilt: a density on the reward quantile, the central concept of the theory."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import (
    PanelMass,
    Quantiles,
    check_count,
    check_quantiles,
    kl_integrand,
    unit_grid,
)
from bonbon.theory.rank_targets import fit_targets, quadrature_weights, read_only

_NORMALISED_TO = 1e-6


class Tilt(ABC):
    """A density f on the reward quantile u in [0, 1]; it defines π_f(y|x) = π0(y|x) · f(u(x, y)).

    Rewards are assumed continuous, so that u is uniform under π0; `bonbon.theory.ties` treats
    rewards with ties. Methods take one quantile or an array of any shape, and return an array of
    that shape.

    A tilt of your own needs only `log_density`, normalised so that f integrates to 1 (and
    `breaks`, if f jumps); everything else is computed by quadrature. `ShapedTilt` takes a function
    that is not normalised. The tilts of this package override the defaults with closed forms.
    """

    @abstractmethod
    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return log f(u), −inf where the tilt has no mass."""

    @property
    def name(self) -> str:
        """A short label such as `best-of-8`."""
        return type(self).__name__

    @property
    def breaks(self) -> tuple[float, ...]:
        """Quantiles strictly inside (0, 1) where the density jumps."""
        return ()

    @property
    def win_rate(self) -> float:
        """W = ∫ u f(u) du: the chance to beat one draw from π0, ties counted one half."""
        return float(self._mass.grid.integrate(self._mass.grid.nodes * self._mass.density_at_nodes))

    @property
    def kl(self) -> float:
        """KL(π_f ‖ π0) = ∫ f log f du, in nats."""
        grid = self._mass.grid
        return float(grid.integrate(kl_integrand(self.log_density(grid.nodes))))

    def density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return f(u)."""
        return np.asarray(np.exp(self.log_density(check_quantiles(u))))

    def cdf(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return the mass that the tilt puts below the quantile u."""
        return self._mass.cdf(check_quantiles(u))

    def quantile(self, p: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return the u with cdf(u) = p."""
        return self._mass.quantile(check_quantiles(p))

    def sample(self, size: int, rng: np.random.Generator) -> Float[np.ndarray, " {size}"]:
        """Draw quantiles u from the tilt."""
        return self.quantile(rng.random(check_count("size", size, 0)))

    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return the target of log π_θ − log π0 for each rank, lowest reward first, in nats.

        The targets t satisfy Σ_i t_i · Binomial(N−1, u)(i−1) ≈ log f(u) + constant: exactly where a
        closed form is known, else by least squares under f. The array is read-only; its lowest
        value is 0 if f increases with u. `bonbon.theory.minimiser` computes the tilt that training
        on them leads to.

        Raises:
            ValueError: the density is 0 somewhere, so there are no finite targets.
        """
        nodes = unit_grid(self.breaks).nodes
        if not np.isfinite(self.log_density(nodes)).all():
            empty = nodes[~np.isfinite(self.log_density(nodes))][0]
            raise ValueError(
                f"rank targets need a density above 0 on all of (0, 1), got 0 at u = {empty:g}; "
                "train such a tilt with its rank weights"
            )
        targets = fit_targets(self.log_density, self.density, num_draws, breaks=self.breaks)
        return read_only(targets)

    def rank_weights(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return each rank's weight, lowest reward first, in an average under the tilt.

        The array is read-only and sums to 1. Each weight is E[f(U_(i))] / N, the expected density
        at the rank's quantile, with U_(i) ~ Beta(i, N−i+1). Best-of-n with N ≥ n has the unbiased
        weights instead.
        """
        return read_only(quadrature_weights(self.density, num_draws, breaks=self.breaks))

    @cached_property
    def _mass(self) -> PanelMass:
        mass = PanelMass(self.density, self.breaks)
        if not abs(mass.total - 1) < _NORMALISED_TO:
            raise ValueError(
                f"the density of {self.name} must integrate to 1, got {mass.total:g}; "
                "ShapedTilt normalises a function for you"
            )
        return mass


@dataclass(frozen=True)
class ShapedTilt(Tilt):
    """The tilt with f(u) proportional to exp(log_shape(u)), normalised by quadrature.

    Attributes:
        log_shape: maps a flat array of quantiles to log f up to a constant; −inf means no mass.
        label: its name.
        jumps: quantiles where the function jumps.
    """

    log_shape: Callable[[np.ndarray], np.ndarray]
    label: str = "shaped"
    jumps: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Return the label."""
        return self.label

    @property
    def breaks(self) -> tuple[float, ...]:
        """Return the jumps."""
        return self.jumps

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return log_shape(u) less the log of its normalising constant."""
        u = check_quantiles(u)
        return (self.log_shape(u.ravel()) - self._log_total).reshape(u.shape)

    @cached_property
    def _log_total(self) -> float:
        grid = unit_grid(self.jumps)
        values = self.log_shape(grid.nodes)
        peak = float(values.max())
        if not np.isfinite(peak) or np.isnan(values).any():
            raise ValueError(f"log_shape must be a number or −inf on (0, 1), got a peak of {peak}")
        return peak + float(np.log(grid.integrate(np.exp(values - peak))))
