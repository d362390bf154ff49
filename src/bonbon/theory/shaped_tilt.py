"""A tilt from any function of the quantile."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from bonbon.theory.checks import Quantiles, check_quantiles
from bonbon.theory.quadrature import unit_grid
from bonbon.theory.tilt import Tilt


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
