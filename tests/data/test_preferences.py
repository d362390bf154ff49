"""Preference pairs from files, and what training gets of them."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonbon.data.labelled_texts import PreferencePair
from bonbon.data.preferences import held_out_pairs, load_preferences, preference_groups
from bonbon.errors import ConfigError, PromptError
from bonbon.models.toy import toy_policy
from bonbon.records import Message, Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.selection.ranks import is_tied

ASKED = {"role": "user", "content": "1 2"}
TOLD = {"role": "system", "content": "3"}
ANSWERED = {"role": "assistant", "content": "4 0"}
SHRUGGED = {"role": "assistant", "content": "1"}
ROW = {"prompt": "1 2", "chosen": "4 0", "rejected": "1"}
END = 5
TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}0{% endif %}"
)


def jsonl(directory: Path, rows: Sequence[Any]) -> Path:
    path = directory / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(chosen: str, rejected: str, prompt: str = "1 2") -> PreferencePair:
    return PreferencePair(Prompt(id="p", content=prompt, split="train"), chosen, rejected)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_texts_from_every_format(tmp_path: Path, ending: str) -> None:
    rows = [
        {"prompt": "Why, then?", "chosen": " So.", "rejected": "No.", "split": "eval"},
        {"prompt": "Why, then?", "chosen": "Yes.", "rejected": "No.", "split": "eval"},
    ]
    path = tmp_path / f"pairs.{ending}"
    match ending:
        case "jsonl":
            path = jsonl(tmp_path, rows)
        case "json":
            path.write_text(json.dumps(rows))
        case "csv":
            lines = ['"Why, then?", So.,No.,eval', '"Why, then?",Yes.,No.,eval']
            path.write_text("\n".join(["prompt,chosen,rejected,split", *lines]))
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)
    pairs = load_preferences(path)

    assert [(p.prompt.content, p.chosen, p.rejected) for p in pairs] == [
        ("Why, then?", " So.", "No."),
        ("Why, then?", "Yes.", "No."),
    ]
    assert len({p.prompt.id for p in pairs}) == 2
    assert {p.prompt.split for p in pairs} == {"train"}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_chat_messages(tmp_path: Path, ending: str) -> None:
    row = {"prompt": [TOLD, ASKED], "chosen": [ANSWERED], "rejected": [SHRUGGED]}
    path = tmp_path / "pairs.parquet"
    if ending == "jsonl":
        path = jsonl(tmp_path, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)

    (loaded,) = load_preferences(path)
    assert loaded.prompt.content == (TOLD, ASKED)
    assert (loaded.chosen, loaded.rejected) == ("4 0", "1")


SPOKEN = "\n\nHuman: 1 2\n\nAssistant: 4\n\nHuman: 3\n\nAssistant: "
TALK = (ASKED, {"role": "assistant", "content": "4"}, {"role": "user", "content": "3"})


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, SHRUGGED]}, (ASKED,)),
        ({"prompt": " 1  2", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, SHRUGGED]}, (ASKED,)),
        (
            {"prompt": "1 2", "chosen": [*TALK, ANSWERED], "rejected": [*TALK, SHRUGGED]},
            TALK,
        ),
        ({"prompt": "3", "chosen": [*TALK, ANSWERED], "rejected": [*TALK, SHRUGGED]}, TALK),
        (
            {"prompt": [TOLD, *TALK], "chosen": [*TALK, ANSWERED], "rejected": [*TALK, SHRUGGED]},
            (TOLD, *TALK),
        ),
        (
            {
                "prompt": [ASKED],
                "chosen": [TOLD, ASKED, ANSWERED],
                "rejected": [TOLD, ASKED, SHRUGGED],
            },
            (TOLD, ASKED),
        ),
        (
            {"prompt": [ASKED], "chosen": [*TALK[1:], ANSWERED], "rejected": [*TALK[1:], SHRUGGED]},
            TALK,
        ),
        ({"chosen": SPOKEN + "4 0", "rejected": SPOKEN + "1"}, TALK),
        ({"system": "3", "question": "1 2", "chosen": "4 0", "rejected": "1"}, (TOLD, ASKED)),
        ({"instruction": "1", "input": "2", "chosen": "4 0", "rejected": "1"}, "1\n\n2"),
        (
            {
                "chosen": [{"from": "human", "value": "1 2"}, {"from": "gpt", "value": "4 0"}],
                "rejected": [{"from": "human", "value": "1 2"}, {"from": "gpt", "value": "1"}],
            },
            (ASKED,),
        ),
    ],
)
def test_the_prompt_of_conversations_and_of_several_columns(
    tmp_path: Path, row: dict[str, Any], content: object
) -> None:
    (loaded,) = load_preferences(jsonl(tmp_path, [row]))
    assert loaded.prompt.content == content
    assert (loaded.chosen, loaded.rejected) == ("4 0", "1")


def test_ids_name_the_prompts(tmp_path: Path) -> None:
    pairs = load_preferences(jsonl(tmp_path, [{**ROW, "id": "a"}, {**ROW, "id": 7}]))

    assert [p.prompt.id for p in pairs] == ["a", "7"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prompt": None}, "line 2 has no 'prompt'; expected a text or chat messages, or whole"),
        ({"rejected": None}, "line 2 has no 'rejected'; expected"),
        ({"prompt": " "}, "line 2 has an empty prompt: 'prompt' is empty; expected a text"),
        ({"prompt": [{**ASKED, "content": ""}]}, "line 2 has an empty prompt: 'prompt' is empty"),
        ({"prompt": 3}, "line 2: 'prompt' is a number; expected a text or chat messages"),
        ({"prompt": []}, "line 2 has no 'prompt'; expected a text or chat messages"),
        ({"prompt": [ASKED, ANSWERED]}, "'prompt' ends with the role 'assistant'; expected 'user'"),
        ({"chosen": ""}, "line 2: 'chosen' is empty; expected a text: fill it in, or leave"),
        ({"rejected": "\n"}, "line 2: 'rejected' is empty; expected a text"),
        ({"rejected": [{**SHRUGGED, "content": ""}]}, "line 2: 'rejected' is empty; expected"),
        ({"chosen": True}, "line 2: 'chosen' is a truth value; expected a text"),
        ({"chosen": ["4 0"]}, "line 2: message 1 of 'chosen' is a text; expected an object of"),
        ({"chosen": [{"content": "4 0"}]}, "message 1 of 'chosen' has content; expected role and"),
        ({"chosen": []}, "line 2: 'chosen' is empty: it holds no messages"),
        (
            {"chosen": [ASKED, ANSWERED], "rejected": [SHRUGGED]},
            "line 2: 'chosen' and 'rejected' follow different messages",
        ),
        (
            {"prompt": "5", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, SHRUGGED]},
            "line 2: the messages of 'chosen' do not contain the prompt; expected the prompt",
        ),
        ({"rejected": [ASKED]}, "'rejected' ends with a message of the role 'user'; expected"),
        ({"rejected": "\ud800"}, "line 2 holds half a character at 0; expected whole characters"),
        ({"id": "a"}, "line 2 has the id 'a' of pairs.jsonl line 1; expected a different id"),
        ({"id": None}, "line 2: 'id' is nothing; expected a printable text or a whole number"),
        ({"id": " "}, "line 2: 'id' is ' '; expected a printable text or a whole number"),
        (
            {"id": False},
            "line 2: 'id' is a truth value; expected a printable text or a whole number",
        ),
        (
            {"id": "\ud800"},
            r"line 2: 'id' is '\ud800'; expected a printable text or a whole number",
        ),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    path = jsonl(tmp_path, [{**ROW, "id": "a"}, {**ROW, "id": "b", **change}])
    with pytest.raises((ConfigError, PromptError), match=re.escape(line)) as caught:
        load_preferences(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("pairs.jsonl line 2")


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"chosen": "1", "rejected": "2"}, "pairs.jsonl line 1 has no 'prompt'; expected a text"),
        ({"prompt": "1", "rejected": "2"}, "has no column 'chosen', only prompt, rejected;"),
        ({"prompt": "1", "chosen": "2"}, "has no column 'rejected', only prompt, chosen;"),
        ({"text": "1", "label": 2}, "has no column 'chosen', only text, label;"),
        ({}, "has no column 'chosen', only empty rows;"),
        ("1 2", "has no column 'chosen', only prompt;"),
    ],
)
def test_columns_that_are_missing(tmp_path: Path, row: object, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        load_preferences(jsonl(tmp_path, [row]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="does not exist"):
        load_preferences(tmp_path / "nothing.jsonl")
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(ROW)}\nprompt: Why?\n")
    with pytest.raises(PromptError, match=r"pairs.jsonl line 2 is not JSON: .* at column 1"):
        load_preferences(path)
    path.write_text("\n\n")
    with pytest.raises(PromptError, match=r"pairs.jsonl is empty; expected"):
        load_preferences(path)
    empty = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([ROW]).slice(0, 0), empty)
    with pytest.raises(PromptError, match=r"pairs.parquet is empty; expected"):
        load_preferences(empty)


def test_a_pair_becomes_a_group_with_the_chosen_one_ahead(tmp_path: Path) -> None:
    pairs = load_preferences(jsonl(tmp_path, [{**ROW, "id": "a"}]))
    (group,) = preference_groups(pairs, toy_policy())
    rejected, chosen = group.candidates

    assert group.prompt_id == "a"
    assert group.rewards == (0.0, 1.0)
    assert (rejected.text, rejected.token_ids, rejected.sample_index) == ("1", (1, END), 0)
    assert (chosen.text, chosen.token_ids, chosen.sample_index) == ("4 0", (4, 0, END), 1)
    for one in group.candidates:
        assert (one.prompt_id, one.prompt_text, one.prompt_token_ids) == ("a", "1 2", (1, 2))
        assert math.isnan(one.logprob)
        assert one.finish_reason == "stop"


def test_pairs_get_the_ids_that_sampling_has() -> None:
    policy = toy_policy(sharpness=0.5)
    prompt = Prompt(id="p", content="1 2", split="train")
    config = SamplingConfig(n=8, max_new_tokens=20)
    sampled = TransformersSampler(policy, config, seed=0).sample([prompt], n=64)
    drawn = [one for one in sampled if one.finish_reason == "stop" and one.text]
    assert drawn
    pairs = [PreferencePair(prompt, one.text, "no") for one in drawn]
    for one, group in zip(drawn, preference_groups(pairs, policy), strict=True):
        assert replace(group.candidates[1], sample_index=0, logprob=0.0) == replace(
            one, sample_index=0, logprob=0.0
        )


def test_prompts_go_through_the_chat_template() -> None:
    policy = replace(toy_policy(), use_chat_template=True)
    policy.tokenizer.chat_template = TEMPLATE
    chat = Prompt(id="c", content=({"role": "user", "content": "3"},), split="train")
    groups = preference_groups([pair("4", "1"), PreferencePair(chat, "4", "1")], policy)

    assert [g.candidates[0].prompt_token_ids for g in groups] == [(1, 2, 0), (3, 0)]
    assert [g.candidates[1].prompt_text for g in groups] == ["1 2", "3"]
    assert [g.candidates[1].token_ids for g in groups] == [(4, END), (4, END)]


def test_chat_messages_need_a_template(tmp_path: Path) -> None:
    row = {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [SHRUGGED]}
    pairs = load_preferences(jsonl(tmp_path, [row]))
    with pytest.raises(PromptError, match="but toy has no chat template in use"):
        preference_groups(pairs, toy_policy())


@pytest.mark.parametrize(
    ("chosen", "rejected", "tied"),
    [("4 0", "4 0", True), ("4 0", "4  0 <end>", True), ("4 0", "4", False)],
)
def test_the_same_completion_twice_is_a_tie(chosen: str, rejected: str, tied: bool) -> None:
    (group,) = preference_groups([pair(chosen, rejected)], toy_policy())

    assert is_tied(group.rewards) is tied


def test_a_text_that_brings_its_end_gets_no_second_one() -> None:
    policy = replace(toy_policy(), eos_token_ids=(3, END))
    (group,) = preference_groups([pair("4 <end>", "1 2")], policy)

    assert [one.token_ids for one in group.candidates] == [(1, 2, 3), (4, END)]


def test_nothing_makes_nothing() -> None:
    assert preference_groups([], toy_policy()) == []


def test_pairs_of_held_out_prompts_are_known_by_their_turns() -> None:
    instructed = (Message(role="system", content="3"), Message(role="user", content="1 2"))
    talk = (
        Message(role="user", content="1"),
        Message(role="assistant", content="4"),
        Message(role="user", content="1 2"),
    )
    asked: list[str | tuple[Message, ...]] = ["1 2", "5", " １  2\n", instructed, talk, "7"]
    pairs = [
        PreferencePair(Prompt(id=str(number), content=content, split="train"), "4", "1")
        for number, content in enumerate(asked)
    ]
    held_out = [
        Prompt(id="x", content=instructed, split="eval"),
        Prompt(id="1", content="7", split="train"),
    ]
    assert held_out_pairs(pairs, held_out) == {"0", "2", "3"}
    plain = [Prompt(id="x", content="1 2", split="eval")]
    assert held_out_pairs(pairs, plain) == {"0", "2", "3"}
    assert held_out_pairs(pairs, [Prompt(id="x", content=talk, split="eval")]) == {"4"}
