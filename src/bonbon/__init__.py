"""Best-of-n alignment for language models: `import bonbon` is light, each name loads when used."""

from importlib import import_module
from typing import TYPE_CHECKING

from bonbon.records import Candidate, Prompt, ScoredGroup

# Type checkers read these imports, Python reads the table below; a test keeps the two equal.
if TYPE_CHECKING:
    from bonbon.evaluation.evaluator import Evaluator
    from bonbon.models.policy import Policy, PolicyConfig, load_policy
    from bonbon.pipeline.run import run
    from bonbon.recipe import Recipe
    from bonbon.rewards.function import FunctionReward
    from bonbon.rewards.lexicon import LexiconReward
    from bonbon.rewards.models.classifier import ClassifierReward
    from bonbon.sampling.config import SamplingConfig
    from bonbon.sampling.native.sampler import TransformersSampler
    from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
    from bonbon.theory.optimal import OptimalTilt
    from bonbon.theory.parse import parse_tilt
    from bonbon.theory.tilt import Tilt
    from bonbon.theory.top_fraction import TopFraction
    from bonbon.training.config import TrainingConfig
    from bonbon.training.objectives import pair_loss, rank_loss
    from bonbon.training.trainer import PreferenceTrainer

__version__ = "0.1.0"

__all__ = [
    "BestOf",
    "BestOfPoisson",
    "Candidate",
    "ClassifierReward",
    "Evaluator",
    "FunctionReward",
    "LexiconReward",
    "OptimalTilt",
    "Policy",
    "PolicyConfig",
    "PreferenceTrainer",
    "Prompt",
    "Recipe",
    "SamplingConfig",
    "ScoredGroup",
    "Tilt",
    "TopFraction",
    "TrainingConfig",
    "TransformersSampler",
    "WorstOf",
    "load_policy",
    "pair_loss",
    "parse_tilt",
    "rank_loss",
    "run",
]

_HOMES = {
    "BestOf": "bonbon.theory.best_of",
    "BestOfPoisson": "bonbon.theory.best_of",
    "ClassifierReward": "bonbon.rewards.models.classifier",
    "Evaluator": "bonbon.evaluation.evaluator",
    "FunctionReward": "bonbon.rewards.function",
    "LexiconReward": "bonbon.rewards.lexicon",
    "OptimalTilt": "bonbon.theory.optimal",
    "Policy": "bonbon.models.policy",
    "PolicyConfig": "bonbon.models.policy",
    "PreferenceTrainer": "bonbon.training.trainer",
    "Recipe": "bonbon.recipe",
    "SamplingConfig": "bonbon.sampling.config",
    "Tilt": "bonbon.theory.tilt",
    "TopFraction": "bonbon.theory.top_fraction",
    "TrainingConfig": "bonbon.training.config",
    "TransformersSampler": "bonbon.sampling.native.sampler",
    "WorstOf": "bonbon.theory.best_of",
    "load_policy": "bonbon.models.policy",
    "pair_loss": "bonbon.training.objectives",
    "parse_tilt": "bonbon.theory.parse",
    "rank_loss": "bonbon.training.objectives",
    "run": "bonbon.pipeline.run",
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
