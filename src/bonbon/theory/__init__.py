"""What theory says: tilts, ranks, ties and estimators; numpy only, light to import."""

from bonbon.theory.best_of import BestOf
from bonbon.theory.best_of_poisson import BestOfPoisson
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.parse import parse_tilt
from bonbon.theory.tilt import Tilt
from bonbon.theory.top_fraction import TopFraction
from bonbon.theory.worst_of import WorstOf

__all__ = [
    "BestOf",
    "BestOfPoisson",
    "OptimalTilt",
    "Tilt",
    "TopFraction",
    "WorstOf",
    "parse_tilt",
]
