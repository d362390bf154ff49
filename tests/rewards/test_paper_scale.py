"""The paper's comparison, every stage of it, on models of its architectures that are tiny."""

import json
import random
from pathlib import Path

import pytest
import torch
from tests.families import SIZES
from tests.rewards.conftest import MakeClassifier
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from bonbon.comparison.recipe import load_comparison
from bonbon.comparison.run import compare
from bonbon.console import Console
from bonbon.models.toy import toy_policy

ROOT = Path(__file__).parents[2]


def tiny_neox(directory: Path) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(**SIZES)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    toy_policy(num_words=7).tokenizer.save_pretrained(directory)


@pytest.mark.usefixtures("without_pictures")  # of the nine runs; the comparison has its own
def test_every_stage_of_the_paper_s_comparison_runs(
    make_classifier: MakeClassifier, tmp_path: Path
) -> None:
    tiny_neox(tmp_path / "policy")
    rng = random.Random(0)
    rows = [
        {
            "id": f"d{number}",
            "prompt": " ".join(str(rng.randrange(7)) for _ in range(4)),
            "split": "train" if number < 12 else "test",
        }
        for number in range(18)
    ]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = load_comparison(
        ROOT / "recipes" / "compare_paper.yaml",
        [
            f"policy.model={tmp_path / 'policy'}",
            "policy.device=cpu",
            f"prompts.path={tmp_path / 'hh.jsonl'}",
            f"reward.model={make_classifier('deberta-v2')}",
            "reward.revision=null",
            "sampling.max_new_tokens=6",
            "training.batch_size=4",
            "training.learning_rate=1e-3",
            "evaluation.num_resamples=100",
        ],
    )
    console = Console(quiet=True)
    result = compare(recipe, tmp_path / "run", console=console)

    assert list(result.methods) == [
        "base", "best-of-2", "best-of-4", "best-of-8", "best-of-16", *recipe.methods
    ]  # fmt: skip
    assert len(recipe.methods) == 9
    assert all(result.methods[name].kl.value > 0 for name in recipe.methods)
    assert result.methods["rank"].extra.keys() == recipe.compare.off_target.keys()
    assert (tmp_path / "run" / "comparison.html").is_file()
