"""What a reward's scores depend on, however deep in a combination it stands."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.pipeline.cache_keys import scoring_settings
from bonbon.recipe import make_recipe
from bonbon.records import Prompt

Settings = dict[str, Any]


def nested(inner: object, **changes: object) -> Settings:
    """Return what the scores of a sum with this reward deep in it depend on."""
    penalised = {"kind": "length-penalty", "reward": inner, "penalty": 1.0, **changes}
    parts = [{"reward": "vader"}, {"reward": {"kind": "z-score", "reward": penalised}}]
    recipe = make_recipe({"reward": {"kind": "sum", "parts": parts}})
    return scoring_settings(recipe, {"n": 4}, prompts=())


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        sys.modules.pop(file.stem, None)
        return file

    return write


def test_a_functions_source(write: Callable[[str, str], Path]) -> None:
    write("deep_reward.py", "def score(p, c): return [1.0 for _ in c]\n")
    before = nested("deep_reward:score")
    assert nested("deep_reward:score") == before
    write("deep_reward.py", "def score(p, c): return [2.0 for _ in c]\n")
    assert nested("deep_reward:score") != before


@pytest.mark.parametrize("kind", ["classifier", "pairwise"])
def test_a_models_files_and_not_where_it_runs(write: Callable[[str, str], Path], kind: str) -> None:
    weights = write("model/model.safetensors", "weights")
    model = {"kind": kind, "model": str(weights.parent)}
    before = nested(model)
    assert nested({**model, "device": "cpu", "batch_tokens": 7}) == before
    assert nested({**model, "max_length": 7}) != before
    write("model/model.safetensors", "others!")
    assert nested(model) != before


def test_a_fitted_scorers_files(write: Callable[[str, str], Path]) -> None:
    file = write("scorer/tfidf.safetensors", "weights")
    before = nested({"kind": "tfidf", "path": str(file.parent)})
    write("scorer/tfidf.safetensors", "others!")
    assert nested({"kind": "tfidf", "path": str(file.parent)}) != before


def test_a_tokenizers_files(write: Callable[[str, str], Path]) -> None:
    file = write("model/tokenizer.json", "{}")
    changes = {"unit": "tokens", "tokenizer": str(file.parent)}
    before = nested("vader", **changes)
    write("model/tokenizer.json", "[]")
    assert nested("vader", **changes) != before


def test_settings_and_weights_of_the_parts() -> None:
    assert nested("vader") != nested("vader", penalty=2.0)
    assert nested("vader") != nested("vader", unit="characters")
    both = [
        scoring_settings(
            make_recipe(
                {"reward": {"kind": "sum", "parts": [{"reward": "vader", "weight": weight}]}}
            ),
            {"n": 4},
            prompts=(),
        )
        for weight in (1.0, 2.0)
    ]
    assert both[0] != both[1]


def test_how_a_judge_is_reached_does_not_matter_but_what_it_is_asked_does() -> None:
    judge = {"kind": "judge", "model": "m"}
    before = nested(judge)
    reached = {"concurrency": 2, "max_retries": 1, "timeout_s": 5, "api_key_env": "KEY"}
    assert nested({**judge, **reached}) == before
    assert nested({**judge, "scale": 7}) != before


def test_sets_that_are_scored_as_one_depend_on_each_other() -> None:
    recipe = make_recipe({"reward": "vader"})
    alone, other = {"set": "a"}, {"set": "b"}
    one, two, others = (
        scoring_settings(recipe, *sets, prompts=())
        for sets in ([alone], [alone, other], [alone, {"set": "c"}])
    )
    assert two != one
    assert two != others


def test_the_columns_that_a_function_reads_and_no_others(
    write: Callable[[str, str], Path],
) -> None:
    write(
        "columns_reward.py",
        "def right(prompts, completions, answer): return completions\n"
        "def maybe(prompts, completions, answer=None): return completions\n"
        "def every(prompts, completions, **columns): return completions\n"
        "def none(prompts, completions): return completions\n",
    )

    def settings(function: str, **columns: object) -> Settings:
        prompts = [Prompt(id="a", content="Why?", split="train", columns=columns)]
        summed = {"kind": "sum", "parts": [{"reward": f"columns_reward:{function}"}]}
        return scoring_settings(make_recipe({"reward": summed}), {"n": 4}, prompts=prompts)

    for function in ("right", "maybe", "every"):
        assert settings(function, answer=1) != settings(function, answer=2)
        assert settings(function, answer=[1]) == settings(function, answer=[1])
    assert settings("right", answer=1, topic="x") == settings("right", answer=1, topic="y")
    assert settings("every", answer=1, topic="x") != settings("every", answer=1, topic="y")
    assert settings("none", answer=1) == settings("none") == settings("none", answer=2)
    assert "columns" not in settings("none", answer=1)
