"""Best-of-n alignment for language models: `import bonbon` is light, each name loads when used."""

from importlib import import_module
from typing import TYPE_CHECKING

from bonbon.records import Candidate, Prompt, ScoredGroup

# Type checkers read these imports, Python reads the table below; a test keeps the two equal.
if TYPE_CHECKING:
    from bonbon.theory.best_of import BestOf
    from bonbon.theory.best_of_poisson import BestOfPoisson
    from bonbon.theory.optimal import OptimalTilt
    from bonbon.theory.parse import parse_tilt
    from bonbon.theory.tilt import Tilt
    from bonbon.theory.top_fraction import TopFraction
    from bonbon.theory.worst_of import WorstOf

__version__ = "0.1.0"

__all__ = [
    "BestOf",
    "BestOfPoisson",
    "Candidate",
    "OptimalTilt",
    "Prompt",
    "ScoredGroup",
    "Tilt",
    "TopFraction",
    "WorstOf",
    "parse_tilt",
]

_HOMES = {
    "BestOf": "bonbon.theory.best_of",
    "BestOfPoisson": "bonbon.theory.best_of_poisson",
    "OptimalTilt": "bonbon.theory.optimal",
    "Tilt": "bonbon.theory.tilt",
    "TopFraction": "bonbon.theory.top_fraction",
    "WorstOf": "bonbon.theory.worst_of",
    "parse_tilt": "bonbon.theory.parse",
}


def __getattr__(name: str) -> object:
    """Import the module that defines a public name on first use, and keep the name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bonbon' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
