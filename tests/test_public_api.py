"""The public API fits one screen; this pins it, and keeps it light to import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import bonbon

PUBLIC = [
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


def test_the_public_names_are_these() -> None:
    assert sorted(bonbon.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_loads_from_the_module_that_defines_it(name: str) -> None:
    value = getattr(bonbon, name)
    assert value.__name__ == name
    assert value.__module__.startswith("bonbon.")
    assert getattr(sys.modules[value.__module__], name) is value


def test_dir_lists_every_public_name() -> None:
    assert set(PUBLIC) <= set(dir(bonbon))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BestOff'"):
        _ = bonbon.BestOff  # pyright: ignore[reportAttributeAccessIssue]


def test_what_type_checkers_read_is_what_python_loads() -> None:
    tree = ast.parse(Path(bonbon.__file__).read_text(encoding="utf-8"))
    declared = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == bonbon._HOMES  # pyright: ignore[reportPrivateUsage]


def test_import_is_light() -> None:
    code = "import bonbon, json, sys; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    heavy = {"torch", "transformers", "matplotlib", "scipy", "pyarrow", "pydantic", "typer"}
    assert "bonbon" in loaded
    assert heavy.intersection(loaded) == set()
