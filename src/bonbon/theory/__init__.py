"""Theory of best-of-n: tilts, rank targets, ties and estimators; needs only numpy."""

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.compare import kl_between, win_rate_between
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.parse import parse_tilt
from bonbon.theory.tilt import ShapedTilt, Tilt
from bonbon.theory.top_fraction import TopFraction

__all__ = [
    "BestOf",
    "BestOfPoisson",
    "OptimalTilt",
    "ShapedTilt",
    "Tilt",
    "TopFraction",
    "WorstOf",
    "kl_between",
    "parse_tilt",
    "win_rate_between",
]
