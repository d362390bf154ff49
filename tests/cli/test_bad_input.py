"""Bad input: one clear line, exit code 2, before work starts, and nothing is lost."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bonbon.data.store import CandidateStore
from bonbon.models.toy import toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, Progress
from bonbon.sampling.native.sampler import TransformersSampler


class Outcome(Protocol):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def refused(outcome: Outcome) -> str:
    """Check that a command ended with one line and exit code 2; return the line."""
    assert outcome.code == 2
    assert outcome.err.startswith("bonbon: ")
    assert outcome.err.count("\n") == 1
    return outcome.err.strip()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["sampling.temprature=1"], "did you mean 'sampling.temperature'?"),
        (["trainning.epochs=1"], "did you mean 'training'?"),
        (["training.lora.rank=4"], "unknown key 'training.lora.rank'"),
        (["reward={kind: function, function: 'digits:total', nam: x}"], "did you mean `name`?"),
        (["reward={kind: lexicn}"], "did you mean 'lexicon'?"),
        (["reward.name=x"], "reward is 'digits:total' and has no keys"),
        (["sampling.n=many"], "sampling.n: got 'many'; expected a whole number"),
        (["sampling.n=0"], "sampling.n: got 0; input should be greater than or equal to 1"),
        (["sampling.temperature=.inf"], "sampling.temperature: got inf"),
        (["policy=gpt2"], "policy: got 'gpt2'; expected keys and values"),
        (["policy.dtype=int8"], "policy.dtype: got 'int8'; input should be 'float32'"),
        (
            ["training.objective=ppo"],
            "objective: got objective 'ppo', expected one of rank",
        ),
        (["training.alpha=0.1", "training.objective=dpo"], "objective 'dpo' has no alpha"),
        (["tilt=best-of"], "tilt: tilt 'best-of' is not understood"),
        (["tilt=best-of-0.5"], "tilt: tilt 'best-of-0.5': "),
        (["evaluation.base_samples=4"], "must be more than sampling.n = 4"),
        (["name=a/b"], "name: got 'a/b', expected letters"),
        (["reward=3"], "reward: got 3, expected a name, or keys and values"),
        (["training.report_to=wandb"], "training.report_to: got 'wandb'; expected a list"),
        (["sampling.n"], "expected a key and a value"),
        (["sampling.n=[1"], "is not a YAML value"),
        (["sampling.n=1"], "sampling.n = 1, but training compares candidates"),
        (["policy.device=cuda"], "device 'cuda' cannot be used here"),
        (["policy.device=toaster"], "device 'toaster' cannot be used here"),
        (["policy.model=./nowhere"], "policy ./nowhere: no config.json there"),
        (["policy.model=nobody/nothing"], "cannot load the policy 'nobody/nothing'"),
        (["prompts.path=promts.jsonl"], "did you mean prompts.jsonl?"),
        (["prompts.prompt_column=question"], "has no column 'question'"),
        (["reward=digits:sum"], "digits:sum"),
        (["reward=figures:total"], "there is no module 'figures'"),
        (["reward=./no-classifier"], "reward model ./no-classifier: no config.json there"),
        (["training.report_to=[tensorbord]"], "did you mean 'tensorboard'?"),
        (["sampling.max_new_tokens=63"], "shorten the prompt or lower sampling.max_new_tokens"),
    ],
)
def test_a_setting_that_cannot_be(
    bonbon: Command, tmp_path: Path, overrides: Sequence[str], line: str
) -> None:
    options = [part for override in overrides for part in ("--set", override)]

    assert line in refused(bonbon("run", "recipe.yaml", *options))
    assert not (tmp_path / "runs" / "toy").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("polcy: {model: x}", "recipe recipe.yaml: unknown key 'polcy'; did you mean 'policy'?"),
        ("sampling: {n: 4\n", "recipe recipe.yaml is not YAML: while parsing a flow mapping"),
        ("- a\n- b\n", "recipe recipe.yaml holds a list, expected keys and values"),
        ("1: 2\n", "unknown key '1'; known keys here: name, seed, policy"),
        ("sampling: 3\n", "sampling: got 3; expected keys and values"),
    ],
)
def test_a_recipe_that_cannot_be(bonbon: Command, tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)

    assert line in refused(bonbon("run", "recipe.yaml"))


@pytest.mark.parametrize("name", ["recipes.yaml", "."])
def test_a_recipe_that_is_not_there(bonbon: Command, name: str) -> None:
    assert f"recipe {name} " in refused(bonbon("run", name))


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (['{"prompt": "1"}'] * 16 + ["{prompt: 2}"], "prompts.jsonl line 17 is not JSON"),
        ([], "prompts.jsonl is empty"),
        (['{"prompt": "1"}'], "leaves no prompt for the split 'eval'"),
        (['{"prompt": "1"}', '{"prompt": " "}'], "prompts.jsonl line 2 has an empty prompt"),
        (['{"prompt": "1"}', '{"text": "2"}'], "prompts.jsonl line 2 has no 'prompt'"),
    ],
)
def test_prompts_that_cannot_be(
    bonbon: Command, tmp_path: Path, lines: Sequence[str], line: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(f"{text}\n" for text in lines))

    assert line in refused(bonbon("run", "recipe.yaml", "--set", "prompts.path=prompts.jsonl"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_prompt_longer_than_the_context_is_found_before_any_sampling(
    bonbon: Command, tmp_path: Path, split: str
) -> None:
    asked = {"train": "1 2", "eval": "2 1"}
    rows = [{"id": place, "prompt": text, "split": place} for place, text in asked.items()]
    rows.append({"id": "long", "prompt": "3 " * 60, "split": split})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "prompts.jsonl").write_text(text)
    outcome = bonbon("run", "recipe.yaml", "--set", "prompts.path=prompts.jsonl")

    assert "prompt 'long' has 60 tokens" in refused(outcome)
    assert "policy takes 64" in outcome.err
    assert not (tmp_path / "runs" / "toy").exists()


BROKEN_REWARDS = {
    "nan": ("[float('nan')] * len(completions)", "returned nan for completion 0"),
    "too few": ("[1.0]", "returned 1 scores for 160 completions"),
    "raises": ("[int(text) for text in completions]", "raised ValueError: invalid literal"),
    "no list": ("'good'", "expected a list of 160 numbers"),
    "no score": ("[None] * len(completions)", "gives none of the candidates a score"),
    "all tied": ("[2.0] * len(completions)", "gives all candidates of each of the 40 prompts"),
}


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("kind", BROKEN_REWARDS)
def test_a_reward_that_fails_costs_no_candidates(
    bonbon: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    working = (tmp_path / "digits.py").read_text()
    body, line = BROKEN_REWARDS[kind]
    (tmp_path / "digits.py").write_text(f"def total(prompts, completions):\n    return {body}\n")
    outcome = bonbon("run", "recipe.yaml")

    assert line in refused(outcome)
    assert re.search("stored results are kept|stays? stored", outcome.err)
    stored = CandidateStore(tmp_path / "runs" / "toy").read("train")
    assert len(stored) == 160
    # The same again until it is mended; then nothing is drawn again.
    assert bonbon("run", "recipe.yaml").err == outcome.err
    (tmp_path / "digits.py").write_text(working)
    draws = noted_draws(monkeypatch)
    mended = bonbon("run", "recipe.yaml")
    assert mended.code == 0
    assert draws == ["eval", "eval"]
    assert CandidateStore(tmp_path / "runs" / "toy").read("train") == stored


def noted_draws(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the split of every batch of prompts that is drawn."""
    splits: list[str] = []
    original = TransformersSampler.sample

    def noting(
        self: TransformersSampler,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> list[Candidate]:
        splits.append(prompts[0].split)
        return original(self, prompts, n=n, on_progress=on_progress, on_prompt=on_prompt)

    monkeypatch.setattr(TransformersSampler, "sample", noting)
    return splits


def test_a_policy_without_an_end_of_sequence_token(bonbon: Command, tmp_path: Path) -> None:
    policy = toy_policy(num_words=8)
    model: Any = policy.model
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "endless")
    backend = policy.tokenizer.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "endless")

    line = refused(bonbon("run", "recipe.yaml", "--set", "policy.model=./endless"))
    assert "policy ./endless has no end-of-sequence token" in line
    assert not (tmp_path / "runs" / "toy").exists()


def test_a_policy_whose_weights_are_damaged(bonbon: Command, tmp_path: Path) -> None:
    toy_policy(num_words=8).model.save_pretrained(tmp_path / "damaged")
    toy_policy(num_words=8).tokenizer.save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"not weights")

    line = refused(bonbon("run", "recipe.yaml", "--set", "policy.model=./damaged"))
    assert "cannot load the policy './damaged'" in line


def test_adapters_without_peft(bonbon: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    line = refused(bonbon("run", "recipe.yaml", "--set", "training.lora={}"))

    assert "training.lora needs peft" in line
    assert "pip install 'bonbon-align[lora]'" in line


def test_a_tracker_that_is_not_installed(bonbon: Command) -> None:
    line = refused(bonbon("run", "recipe.yaml", "--set", "training.report_to=[wandb]"))

    assert "training.report_to: wandb is not installed" in line


def test_a_directory_that_holds_something_else(bonbon: Command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    line = refused(bonbon("run", "recipe.yaml", "--out", "photos", "--fresh"))

    assert "photos holds 'cat.png' and no recipe.yaml" in line
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_directory_that_is_a_file(bonbon: Command) -> None:
    line = refused(bonbon("run", "recipe.yaml", "--out", "prompts.jsonl"))
    assert "prompts.jsonl cannot be made a run directory (File exists)" in line

    line = refused(bonbon("run", "recipe.yaml", "--out", "prompts.jsonl/run"))
    assert "cannot be made a run directory (Not a directory)" in line


@pytest.mark.parametrize(("verb", "before"), [("score", "sample"), ("train", "sample")])
def test_a_verb_before_its_time(bonbon: Command, tmp_path: Path, verb: str, before: str) -> None:
    line = refused(bonbon(verb, "recipe.yaml"))

    assert f"runs/toy has no finished candidates of this recipe; run `bonbon {before}`" in line
    assert not (tmp_path / "runs" / "toy").exists()


@pytest.mark.parametrize("verb", ["report", "export"])
def test_a_verb_on_what_is_no_run_directory(bonbon: Command, tmp_path: Path, verb: str) -> None:
    more = ["pairs.jsonl"] if verb == "export" else []

    assert "is not a run directory" in refused(bonbon(verb, "nothing", *more))
    assert not (tmp_path / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "recipe.yaml", "--ouch"], ["runn"], ["export", "a", "b", "--format", "dpo"]],
)
def test_arguments_that_typer_refuses(bonbon: Command, arguments: Sequence[str]) -> None:
    outcome = bonbon(*arguments)

    assert outcome.code == 2
    assert "--help` shows the usage" in outcome.err


def test_a_place_that_cannot_be_written(bonbon: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device", "shard.parquet")

    monkeypatch.setattr(CandidateStore, "write_shard", full)
    line = refused(bonbon("run", "recipe.yaml"))

    assert line == (
        "bonbon: shard.parquet could not be written completely (No space left on device), as "
        "happens when the disk is full; free disk space and run the same command again: finished "
        "work is kept"
    )


def test_a_bug_is_not_hidden(bonbon: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(TransformersSampler, "sample", bug)
    with pytest.raises(ZeroDivisionError):
        bonbon("run", "recipe.yaml")


def test_a_full_gpu_says_what_to_lower(bonbon: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")

    monkeypatch.setattr(TransformersSampler, "sample", full)
    line = refused(bonbon("run", "recipe.yaml"))

    assert line.startswith("bonbon: the GPU's memory is full (CUDA out of memory); lower sampling.")
    assert bonbon("run", "recipe.yaml").code == 2
