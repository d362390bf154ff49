"""What theory says: tilts, ranks, ties and estimators; numpy only, light to import."""

from bonbon.theory.best_of import BestOf
from bonbon.theory.best_of_poisson import BestOfPoisson
from bonbon.theory.compare import kl_between, win_rate_between
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.parse import parse_tilt
from bonbon.theory.shaped_tilt import ShapedTilt
from bonbon.theory.tilt import Tilt
from bonbon.theory.top_fraction import TopFraction
from bonbon.theory.worst_of import WorstOf

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
