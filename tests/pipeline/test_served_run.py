"""Whole runs whose policy is served: what a server does wrong costs no paid answer, and is told."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from pydantic import ValidationError
from tests.pipeline.conftest import Runner

from bonbon.console import Console
from bonbon.data.prompts import load_prompts
from bonbon.data.store import CandidateStore
from bonbon.errors import EngineError, TrainingError
from bonbon.pipeline.best_of_n import answer_prompt
from bonbon.pipeline.run import Run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import Recipe
from bonbon.records import Prompt
from bonbon.selection.rule import Rule

PutModel = Callable[..., str]
RequestsFor = Callable[[str], list[dict[str, Any]]]
Serve = Callable[..., tuple[Recipe, str]]

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def serve(recipe: Recipe, openai_url: str, put_model: PutModel) -> Serve:
    """Return a function that has the toy's recipe served: answers of three digits, text alone."""

    def served(fault: dict[str, Any] | None = None, **engine: object) -> tuple[Recipe, str]:
        name = put_model(words=3, **(fault or {}))
        settings = {"kind": "openai", "base_url": openai_url, "model": name, "max_retries": 0}
        values = recipe.model_dump()
        values["sampling"]["engine"] = {**settings, **engine}
        values["sampling"]["temperature"] = 1.0
        return Recipe.model_validate(values), name

    return served


def put_again(openai_url: str, model: dict[str, Any]) -> None:
    """Put a model in the place of one that the server has."""
    address = openai_url.removesuffix("/v1") + "/put"
    with urlopen(Request(address, data=json.dumps(model).encode())):
        pass


def sample(recipe: Recipe, directory: Path) -> str:
    """Draw the training candidates, and return what the user is told."""
    said = io.StringIO()
    run_directory = RunDirectory(directory, recipe, Console(file=said, width=500))
    with run_directory.opened():
        Run(run_directory).sample()
    return said.getvalue()


def of_split(recipe: Recipe, split: str) -> list[Prompt]:
    return [prompt for prompt in load_prompts(recipe.prompts) if prompt.split == split]


def test_text_alone_is_rescored_and_trains(
    serve: Serve, bonbon_run: Runner, tmp_path: Path
) -> None:
    recipe, _ = serve()
    told = bonbon_run(recipe, tmp_path / "run")
    stored = CandidateStore(tmp_path / "run").read("train")
    assert len(stored) == 160
    assert all(-1e4 < candidate.logprob < 0 for candidate in stored)
    assert set(told.metrics.unanswered.values()) == {0}
    assert "NaN" not in (tmp_path / "run" / "metrics.json").read_text()


def test_prompts_without_an_answer_are_left_out_counted_and_not_paid_for_again(
    serve: Serve, bonbon_run: Runner, tmp_path: Path, requests_for: RequestsFor
) -> None:
    recipe, _ = serve()
    odd = [of_split(recipe, "train")[3], of_split(recipe, "eval")[0]]
    recipe, name = serve({"only": {str(prompt.text): "content_filter" for prompt in odd}})
    told = bonbon_run(recipe, tmp_path / "run")
    unanswered = told.metrics.unanswered
    texts = [prompt.text for prompt in odd]
    left = {
        split: [each.id for each in of_split(recipe, split) if each.text in texts]
        for split in ("train", "eval")
    }
    assert unanswered == {
        "train": len(left["train"]),
        "eval-base": len(left["eval"]),
        "eval-bonbon": 0,
    }
    assert "of the 40 prompts of train are left out, as they get no answer: " in told.text
    assert "(a completion ended with 'content_filter', expected 'stop' or 'length')" in told.text
    store = CandidateStore(tmp_path / "run")
    for set_name, split in (("train", "train"), ("eval-base", "eval"), ("eval-bonbon", "eval")):
        answered = {candidate.prompt_id for candidate in store.read(set_name)}
        expected = {each.id for each in of_split(recipe, split)} - set(left[split])
        assert answered == expected
    num_requests = len(requests_for(name))
    again = bonbon_run(recipe, tmp_path / "run")
    assert "Drawn already." in again.text
    assert len(requests_for(name)) == num_requests


@pytest.mark.parametrize(
    "fault", ["content_filter", "null", 400, 418, 500, "html", "error", "events", "cut", "bomb"]
)
def test_after_a_fault_only_what_is_missing_is_asked_for(
    serve: Serve,
    tmp_path: Path,
    requests_for: RequestsFor,
    openai_url: str,
    fault: str | int,
) -> None:
    """Seven requests are answered, and then none any more."""
    kind = {"ends_with_after": [7, fault]} if fault in {"content_filter", "null"} else {}
    recipe, name = serve(kind or {"fail": [200] * 7 + [fault] * 500}, concurrency=2)
    with pytest.raises(EngineError) as caught:
        sample(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    paid = len(requests_for(name))
    assert paid < 20

    put_again(openai_url, {"name": name, "words": 3})
    sample(recipe, tmp_path / "run")
    asked = [entry["body"]["prompt"] for entry in requests_for(name)[paid:]]
    assert len(asked) == 40 - 7
    assert len(CandidateStore(tmp_path / "run").read("train")) == 160


def test_too_many_prompts_without_an_answer_are_an_error_and_asked_again(
    serve: Serve, tmp_path: Path, openai_url: str
) -> None:
    recipe, _ = serve()
    texts = sorted({prompt.text for prompt in of_split(recipe, "train")} - {"0"})
    recipe, name = serve({"only": dict.fromkeys(texts[:30], "content_filter")}, concurrency=1)
    with pytest.raises(EngineError, match=r"prompts get no answer and .* do: .* expected answers"):
        sample(recipe, tmp_path / "run")
    put_again(openai_url, {"name": name, "words": 3})
    assert "are left out" not in sample(recipe, tmp_path / "run")
    assert len(CandidateStore(tmp_path / "run").read("train")) == 160


def test_more_requests_are_on_the_way_than_a_shard_has_prompts(
    serve: Serve, tmp_path: Path, requests_for: RequestsFor
) -> None:
    """The training set has three shards, of 16 prompts at most."""
    recipe, name = serve({"delay": 0.5}, concurrency=40)
    sample(recipe, tmp_path / "run")
    assert max(entry["in_flight"] for entry in requests_for(name)) > 24
    assert not (tmp_path / "run" / "candidates" / "train.journal").exists()


def test_all_answers_the_same_are_told(serve: Serve, tmp_path: Path) -> None:
    recipe, _ = serve({"same": True})
    told = sample(recipe, tmp_path / "run")
    assert "All 4 answers are the same for 40 of the 40 prompts of train" in told


def test_best_of_an_unanswered_prompt(serve: Serve) -> None:
    recipe, _ = serve({"only": {"1 2": "content_filter"}})
    prompt = Prompt(id="prompt", content="1 2", split="eval")
    with pytest.raises(EngineError, match="gets no answer, while others do: a completion ended"):
        answer_prompt(prompt, recipe, Rule("best"))


def test_unknown_log_probabilities_are_not_trained_on(
    serve: Serve, bonbon_run: Runner, tmp_path: Path
) -> None:
    """A user may draw without the weights at hand, and score and export; training takes more."""
    recipe, _ = serve()
    values = recipe.model_dump()
    values["sampling"]["logprobs"] = "sampler"
    with pytest.raises(TrainingError, match="160 candidates have no log-probability under the"):
        bonbon_run(Recipe.model_validate(values), tmp_path / "run")


@pytest.mark.parametrize("end", ["/chat/completions", "/completions/", "/models"])
def test_an_address_with_a_requests_own_path(serve: Serve, openai_url: str, end: str) -> None:
    with pytest.raises(ValidationError, match="which ends with the path of a request; expected"):
        serve(base_url=openai_url + end)
