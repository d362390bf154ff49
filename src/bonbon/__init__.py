"""Best-of-n alignment for language models: `import bonbon` is light, each name loads when used."""

from importlib import import_module
from typing import TYPE_CHECKING

from bonbon.records import Candidate, Message, Prompt, ScoredGroup

# Type checkers read these imports, Python reads the table below; a test keeps the two equal.
if TYPE_CHECKING:
    from bonbon.comparison.recipe import load_comparison
    from bonbon.comparison.run import compare
    from bonbon.comparison.schema import read_comparison
    from bonbon.data.prompts import PromptsConfig, load_prompts
    from bonbon.data.store import CandidateStore
    from bonbon.errors import BonbonError
    from bonbon.evaluation.evaluator import Evaluator
    from bonbon.evaluation.metrics import Metrics, read_metrics
    from bonbon.models.policy import Policy, PolicyConfig, load_policy
    from bonbon.pipeline.best_of_n import BestOfN, best_of_n
    from bonbon.pipeline.export import export_run
    from bonbon.pipeline.report import report_run
    from bonbon.pipeline.run import evaluate, run, sample, score, train
    from bonbon.recipe import Recipe, load_recipe, load_run_recipe, make_recipe
    from bonbon.rewards.base import Reward, RewardConfig, checked_scores, load_reward
    from bonbon.rewards.function import FunctionReward
    from bonbon.rewards.lexicon import LexiconReward
    from bonbon.rewards.models.classifier import ClassifierReward
    from bonbon.sampling.config import EngineConfig, SamplingConfig
    from bonbon.sampling.native.sampler import TransformersSampler
    from bonbon.sampling.speculative_rejection import SpeculativeRejection, rejection_lengths
    from bonbon.sampling.vllm import load_vllm_sampler
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
    "BestOfN",
    "BestOfPoisson",
    "BonbonError",
    "Candidate",
    "CandidateStore",
    "ClassifierReward",
    "EngineConfig",
    "Evaluator",
    "FunctionReward",
    "LexiconReward",
    "Message",
    "Metrics",
    "OptimalTilt",
    "Policy",
    "PolicyConfig",
    "PreferenceTrainer",
    "Prompt",
    "PromptsConfig",
    "Recipe",
    "Reward",
    "RewardConfig",
    "SamplingConfig",
    "ScoredGroup",
    "SpeculativeRejection",
    "Tilt",
    "TopFraction",
    "TrainingConfig",
    "TransformersSampler",
    "WorstOf",
    "best_of_n",
    "checked_scores",
    "compare",
    "evaluate",
    "export_run",
    "load_comparison",
    "load_policy",
    "load_prompts",
    "load_recipe",
    "load_reward",
    "load_run_recipe",
    "load_vllm_sampler",
    "make_recipe",
    "pair_loss",
    "parse_tilt",
    "rank_loss",
    "read_comparison",
    "read_metrics",
    "rejection_lengths",
    "report_run",
    "run",
    "sample",
    "score",
    "train",
]

_HOMES = {
    "BestOf": "bonbon.theory.best_of",
    "BestOfN": "bonbon.pipeline.best_of_n",
    "BestOfPoisson": "bonbon.theory.best_of",
    "BonbonError": "bonbon.errors",
    "CandidateStore": "bonbon.data.store",
    "ClassifierReward": "bonbon.rewards.models.classifier",
    "EngineConfig": "bonbon.sampling.config",
    "Evaluator": "bonbon.evaluation.evaluator",
    "FunctionReward": "bonbon.rewards.function",
    "LexiconReward": "bonbon.rewards.lexicon",
    "Metrics": "bonbon.evaluation.metrics",
    "OptimalTilt": "bonbon.theory.optimal",
    "Policy": "bonbon.models.policy",
    "PolicyConfig": "bonbon.models.policy",
    "PreferenceTrainer": "bonbon.training.trainer",
    "PromptsConfig": "bonbon.data.prompts",
    "Recipe": "bonbon.recipe",
    "Reward": "bonbon.rewards.base",
    "RewardConfig": "bonbon.rewards.base",
    "SamplingConfig": "bonbon.sampling.config",
    "SpeculativeRejection": "bonbon.sampling.speculative_rejection",
    "Tilt": "bonbon.theory.tilt",
    "TopFraction": "bonbon.theory.top_fraction",
    "TrainingConfig": "bonbon.training.config",
    "TransformersSampler": "bonbon.sampling.native.sampler",
    "WorstOf": "bonbon.theory.best_of",
    "best_of_n": "bonbon.pipeline.best_of_n",
    "checked_scores": "bonbon.rewards.base",
    "compare": "bonbon.comparison.run",
    "evaluate": "bonbon.pipeline.run",
    "export_run": "bonbon.pipeline.export",
    "load_comparison": "bonbon.comparison.recipe",
    "load_policy": "bonbon.models.policy",
    "load_prompts": "bonbon.data.prompts",
    "load_recipe": "bonbon.recipe",
    "load_reward": "bonbon.rewards.base",
    "load_run_recipe": "bonbon.recipe",
    "load_vllm_sampler": "bonbon.sampling.vllm",
    "make_recipe": "bonbon.recipe",
    "pair_loss": "bonbon.training.objectives",
    "parse_tilt": "bonbon.theory.parse",
    "rank_loss": "bonbon.training.objectives",
    "read_comparison": "bonbon.comparison.schema",
    "read_metrics": "bonbon.evaluation.metrics",
    "rejection_lengths": "bonbon.sampling.speculative_rejection",
    "report_run": "bonbon.pipeline.report",
    "run": "bonbon.pipeline.run",
    "sample": "bonbon.pipeline.run",
    "score": "bonbon.pipeline.run",
    "train": "bonbon.pipeline.run",
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
