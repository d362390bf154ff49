"""Exports as other trainers read them: TRL makes the tokens of them that were drawn."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from datasets import Dataset, load_dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from bonbon.console import Console
from bonbon.data.preferences import load_preferences, preference_groups
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.models.policy import PolicyConfig, load_policy, load_policy_tokenizer
from bonbon.pipeline.export import Export, export_run
from bonbon.pipeline.run import Run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import load_recipe
from bonbon.records import Candidate

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's own business

Checkpoint = Callable[[str], Path]
Ids = tuple[tuple[int, ...], tuple[int, ...]]

CHATS = [
    [
        {"role": "system", "content": "You are Vick."},
        {"role": "user", "content": f"My name is Zed{number}."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is my name?"},
    ]
    for number in range(10)
]
TRAINERS: dict[str, tuple[Any, Any]] = {
    "pairs": (DPOTrainer, DPOConfig),
    "sft": (SFTTrainer, SFTConfig),
    "unpaired": (KTOTrainer, KTOConfig),
}


def scored(place: Path, model: Path, *overrides: str) -> Path:
    """Draw and score answers of a checkpoint in a run directory of its name.

    The best are the shortest: of a model without sense those come back from their text.
    """
    (place / "shorter.py").write_text(
        "def better(prompts, completions):\n    return [-len(text) for text in completions]\n"
    )
    settings = [f"policy.model={model}", "sampling.max_new_tokens=48", "sampling.n=12"]
    settings += ["reward=shorter:better", "evaluation.base_samples=24", *overrides]
    directory = place / f"run-{model.name}"
    run = Run(RunDirectory.at(directory, load_recipe(place / "trial.yaml", settings), Console()))
    with run.run_directory.opened():
        run.sample()
        run.score()
    return directory


def write_chats(place: Path) -> str:
    rows = [{"id": f"c{number}", "messages": chat} for number, chat in enumerate(CHATS)]
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "prompts.path=chats.jsonl"


def exported(directory: Path, format: str) -> tuple[Export, list[dict[str, Any]]]:
    file = directory.parent / f"{format}.jsonl"
    export = export_run(directory, file, format=format, set_name="train")
    return export, [json.loads(line) for line in file.read_text().splitlines()]


def trained_on(rows: Sequence[dict[str, Any]], model: Path, format: str, place: Path) -> list[Ids]:
    """Return what TRL's trainer for this format makes of rows: prompt and answer, one by one."""
    trainer_class, config_class = TRAINERS[format]
    policy = load_policy(PolicyConfig(model=str(model), dtype="float32", device="cpu"))
    settings = {"output_dir": str(place / "trl"), "report_to": "none", "use_cpu": True}
    settings |= {"bf16": False, "max_length": None} if format != "unpaired" else {"bf16": False}
    trainer = trainer_class(
        model=policy.model,
        args=config_class(**settings),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=policy.tokenizer,
    )
    found: list[Ids] = []
    for row in trainer.train_dataset:
        if format == "pairs":
            for answer in ("chosen_ids", "rejected_ids"):
                found.append((tuple(row["prompt_ids"]), tuple(row[answer])))
        elif format == "sft":
            start = next(place for place, label in enumerate(row["labels"]) if label != -100)
            found.append((tuple(row["input_ids"][:start]), tuple(row["input_ids"][start:])))
        else:
            found.append((tuple(row["prompt_ids"]), tuple(row["completion_ids"])))
    return found


def drawn_as(directory: Path, rows: Sequence[dict[str, Any]], format: str) -> list[Candidate]:
    """Return the candidates that rows were made of, in the order of `trained_on`."""
    groups = {
        group.prompt_id: group for group in CandidateStore(directory).groups("train", "better")
    }
    columns = ("chosen", "rejected") if format == "pairs" else ("completion",)
    found: list[Candidate] = []
    for row in rows:
        for column in columns:
            text = row[column] if isinstance(row[column], str) else row[column][0]["content"]
            group = groups[row["prompt_id"]]
            best = format == "sft" or row.get("label", column == "chosen")
            reward = (max if best else min)(group.rewards)
            found.append(
                next(
                    one
                    for one, its in zip(group.candidates, group.rewards, strict=True)
                    if one.text == text and its == reward
                )
            )
    return found


@pytest.mark.parametrize("format", list(TRAINERS))
def test_trl_reads_the_chats_that_were_answered(
    trial: Path, checkpoint: Checkpoint, format: str
) -> None:
    model = checkpoint("chatml")
    directory = scored(trial, model, write_chats(trial))
    export, rows = exported(directory, format)
    assert rows[0]["prompt"] == CHATS[int(rows[0]["prompt_id"][1:])]
    drawn = drawn_as(directory, rows, format)
    read = trained_on(rows, model, format, trial)
    newline = tuple(
        load_policy_tokenizer(PolicyConfig(model=str(model))).tokenizer("\n")["input_ids"]
    )
    cut = other = 0
    for one, (prompt_ids, token_ids) in zip(drawn, read, strict=True):
        assert prompt_ids == one.prompt_token_ids
        if one.finish_reason == "length":
            cut += 1
        elif token_ids not in (one.token_ids, one.token_ids + newline):
            other += 1
    assert len(drawn) > cut + other, "some come back whole"
    told = export.remark or ""
    assert (f"{cut} answers were cut at the length limit" in told) == (cut > 0)
    assert (f"{other} answers have other tokens" in told) == (other > 0)
    assert "prompts come" not in told


def test_a_policy_without_a_template_gives_texts(trial: Path, checkpoint: Checkpoint) -> None:
    model = checkpoint("base")
    directory = scored(trial, model)
    _, rows = exported(directory, "pairs")
    assert isinstance(rows[0]["prompt"], str)
    drawn = drawn_as(directory, rows, "pairs")
    read = trained_on(rows, model, "pairs", trial)
    same = [
        (one.prompt_token_ids, one.token_ids) == two for one, two in zip(drawn, read, strict=True)
    ]
    assert any(same)


def test_bonbon_trains_on_its_own_export(trial: Path, checkpoint: Checkpoint) -> None:
    directory = scored(trial, checkpoint("llama3like"), write_chats(trial))
    _, rows = exported(directory, "pairs")
    # Pairs from a file hold no empty texts.
    texts = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    rows = [row for row, pair in zip(rows, texts, strict=True) if all(map(str.strip, pair))]
    (trial / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = load_policy_tokenizer(PolicyConfig(model=str(checkpoint("llama3like"))))
    groups = preference_groups(load_preferences(trial / "pairs.jsonl"), policy)
    drawn = drawn_as(directory, rows, "pairs")
    for group, chosen in zip(groups, drawn[::2], strict=True):
        assert group.candidates[0].prompt_token_ids == chosen.prompt_token_ids


def test_chats_need_no_prompt_file_where_one_turn_is_all(
    trial: Path, checkpoint: Checkpoint
) -> None:
    directory = scored(trial, checkpoint("chatml"))
    (trial / "prompts.jsonl").unlink()
    export, rows = exported(directory, "sft")
    assert rows[0]["prompt"][0]["role"] == "user"
    assert rows[0]["completion"][0]["role"] == "assistant"
    assert "prompts come" not in (export.remark or "")


def test_prompts_that_are_read_otherwise_are_counted(trial: Path, checkpoint: Checkpoint) -> None:
    directory = scored(trial, checkpoint("chatml"), write_chats(trial))
    (trial / "chats.jsonl").unlink()
    export, rows = exported(directory, "pairs")
    assert f"{len(rows)} prompts have other tokens than were answered" in (export.remark or "")


def test_messages_load_from_parquet_and_do_not_fit_csv(trial: Path, checkpoint: Checkpoint) -> None:
    directory = scored(trial, checkpoint("chatml"))
    export_run(directory, trial / "pairs.parquet", format="pairs", set_name="train")
    rows = cast("Any", load_dataset("parquet", data_files=str(trial / "pairs.parquet")))["train"]
    assert rows[0]["chosen"][0]["role"] == "assistant"
    with pytest.raises(ConfigError, match="CSV cannot hold the lists in prompt, chosen, rejected"):
        export_run(directory, trial / "pairs.csv", format="pairs", set_name="train")


def test_a_policy_that_has_gone_leaves_the_trained_model_s_tokenizer(
    trial: Path, checkpoint: Checkpoint
) -> None:
    model = trial / "moved"
    shutil.copytree(checkpoint("chatml"), model)
    directory = scored(trial, model)
    shutil.move(model, directory / "model")
    _, rows = exported(directory, "pairs")
    assert rows[0]["prompt"][0]["role"] == "user"
