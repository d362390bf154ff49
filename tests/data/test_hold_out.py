"""Prompts that ask the same are on one side of a split, whatever names and writes them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.data.labelled_texts import PreferencePairs, load_labelled_texts
from bonbon.data.prompts import (
    PromptsConfig,
    hold_out_prompts,
    joined_groups,
    load_prompts,
    question_of,
)
from bonbon.errors import PromptError
from bonbon.records import Message, Prompt
from bonbon.reward_fitting.fit import split


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def questions_by_split(prompts: list[Prompt]) -> tuple[set[str], set[str]]:
    train, held_out = (
        {question_of(prompt.content) for prompt in prompts if prompt.split == split}
        for split in ("train", "eval")
    )
    return train, held_out


# ---------------------------------------------------------------------- what is the same


@pytest.mark.parametrize(
    "other",
    [
        "  Tell me  about\tCAFÉS \n",
        "Tell me about cafe\u0301s",
        "Ｔｅｌｌ me\u00a0about cafés",
        (said("user", "tell me about cafés"),),
        (said("system", "Be brief."), said("user", "Tell me about cafés")),
    ],
)
def test_case_spaces_forms_and_system_messages_make_no_other_question(
    other: str | tuple[Message, ...],
) -> None:
    assert question_of(other) == question_of("Tell me about cafés")


@pytest.mark.parametrize(
    "other",
    [
        "Tell me about cafes",
        (said("user", "Hi"), said("assistant", "Yes?"), said("user", "Tell me about cafés")),
        (said("user", "Tell me about cafés"), said("user", "Tell me about cafés")),
    ],
)
def test_other_words_and_earlier_turns_make_another_question(
    other: str | tuple[Message, ...],
) -> None:
    assert question_of(other) != question_of("Tell me about cafés")


# ---------------------------------------------------------------------- a drawn split


@given(
    st.lists(st.integers(0, 8), min_size=2, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 2**32),
)
def test_equal_prompts_are_on_one_side_and_the_share_is_near(
    asked: list[int], fraction: float, seed: int
) -> None:
    questions = {f"id-{place}": f"q{number}" for place, number in enumerate(asked)}
    held_out = hold_out_prompts(questions, fraction=fraction, seed=seed)
    sizes = Counter(asked)
    target = round(fraction * len(asked))
    assert {questions[name] for name in held_out}.isdisjoint(
        questions[name] for name in questions if name not in held_out
    )
    backwards = dict(reversed(questions.items()))
    assert hold_out_prompts(backwards, fraction=fraction, seed=seed) == held_out
    if len(sizes) > 1 and 0 < target < len(asked):
        assert 0 < len(held_out) < len(asked)
        assert abs(len(held_out) - target) <= max(sizes.values())


def test_the_share_is_right_in_expectation_whatever_repeats() -> None:
    questions = {f"{number}-{copy}": f"q{number}" for number in range(40) for copy in range(4)}
    questions |= {f"single-{number}": f"s{number}" for number in range(40)}
    shares = [len(hold_out_prompts(questions, fraction=0.25, seed=seed)) for seed in range(50)]
    assert sum(shares) / 50 == pytest.approx(50, abs=1)
    singles = [
        sum(name.startswith("s") for name in hold_out_prompts(questions, fraction=0.25, seed=seed))
        for seed in range(50)
    ]
    assert sum(singles) / 50 == pytest.approx(10, abs=1.5)


def test_eight_copies_of_each_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": f"Tell me about number {index % 5}."} for index in range(40)]
    path = jsonl(tmp_path / "p.jsonl", rows)
    for seed in range(5):
        config = PromptsConfig(path=path, eval_fraction=0.3, seed=seed)
        train, held_out = questions_by_split(load_prompts(config))
        assert len(train) + len(held_out) == 5
        assert train.isdisjoint(held_out)


def test_a_prompt_with_and_without_a_system_message(tmp_path: Path) -> None:
    rows = [
        {"system": system, "prompt": f"Question {index}"}
        for index in range(10)
        for system in ("Be brief.", "Be kind.", "")
    ]
    prompts = load_prompts(PromptsConfig(path=jsonl(tmp_path / "p.jsonl", rows)))
    train, held_out = questions_by_split(prompts)
    assert len(prompts) == 30
    assert train.isdisjoint(held_out)


def test_prompts_that_all_ask_the_same_cannot_be_split(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("Hi", "hi", " HI ", "hi ")]
    with pytest.raises(PromptError, match="its 4 prompts all ask the same"):
        load_prompts(PromptsConfig(path=jsonl(tmp_path / "p.jsonl", rows)))


# ---------------------------------------------------------------------- a split of the file's own


def test_a_column_that_leaks_is_told_and_repaired(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "Why?", "split": "train"},
        {"id": "b", "prompt": "How?", "split": "train"},
        {"id": "c", "prompt": "WHY? ", "split": "test"},
        {"id": "d", "prompt": "When?", "split": "train"},
        {"id": "e", "prompt": "why?", "split": "train"},
    ]
    told: list[str] = []
    prompts = load_prompts(
        PromptsConfig(path=jsonl(tmp_path / "p.jsonl", rows)), on_remark=told.append
    )
    assert {prompt.id: prompt.split for prompt in prompts} == {
        "b": "train",
        "d": "train",
        "c": "eval",
    }
    assert told == [
        "p.jsonl: 2 training prompts ask the same as held-out prompts, such as 'a' and 'c'; they "
        "are left out of training."
    ]


def test_a_column_that_leaks_everything(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "split": split} for split in ("train", "test")]
    with pytest.raises(PromptError, match="no prompt for the split 'train': its column 'split'"):
        load_prompts(PromptsConfig(path=jsonl(tmp_path / "p.jsonl", rows)))


# ---------------------------------------------------------------------- labelled texts


def test_rows_that_share_a_name_are_joined() -> None:
    names = [["b", "a"], ["c"], ["d", "b"], ["e", "f"], ["f"], ["c"]]
    assert joined_groups(names) == ["a", "c", "a", "e", "e", "c"]


def test_a_text_compared_with_several_is_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"text {index} of {ring}", "rejected": f"Text  {index + 1} of {ring}"}
        for ring in range(20)
        for index in range(5)
    ]
    texts = load_labelled_texts(jsonl(tmp_path / "texts.jsonl", rows))
    assert isinstance(texts, PreferencePairs)
    for seed in range(5):
        fitted, held_out = split(texts, holdout=0.2, num_train=None, seed=seed)
        seen = {row.chosen.lower() for row in fitted.rows} | {
            row.rejected.lower().replace("  ", " ") for row in fitted.rows
        }
        assert len(held_out.rows) == 20
        assert seen.isdisjoint(row.chosen for row in held_out.rows)


def test_a_question_as_text_and_as_chat_is_one_group(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "completion": "a", "label": 1},
        {"prompt": [{"role": "user", "content": "why? "}], "completion": "b", "label": 2},
        {"prompt": "How?", "completion": "c", "label": 3},
    ]
    texts = load_labelled_texts(jsonl(tmp_path / "texts.jsonl", rows))
    assert [row.group for row in texts.rows] == ["why?", "why?", "how?"]
