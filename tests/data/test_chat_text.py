"""Chats that a file holds as texts of JSON, as tables of texts must."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.data.store import write_table
from bonbon.errors import PromptError


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_messages_that_are_stored_as_json_text_are_messages(tmp_path: Path, ending: str) -> None:
    chats = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Hi, {number}"}]
        for number in range(8)
    ]
    file = tmp_path / f"chats.{ending}"
    texts = [json.dumps(chat, indent=number or None) for number, chat in enumerate(chats)]
    write_table(file, pa.table({"messages": texts}))
    prompts = load_prompts(PromptsConfig(path=file))
    asked = {prompt.text: prompt.content for prompt in prompts}
    assert [asked[f"Hi, {number}"] for number in range(8)] == [tuple(chat) for chat in chats]


def test_messages_in_python_s_writing_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "Hi"}]
    file.write_text(json.dumps({"messages": str(chat)}) + "\n")
    line = "line 1: 'messages' looks like a list of chat messages, but is not JSON"
    with pytest.raises(PromptError, match=line):
        load_prompts(PromptsConfig(path=file))


def test_other_lists_in_a_text_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    texts = ["[1, 2]", '[{"name": "a"}]', "[{'role': 'x', 'content': 1}] is which type?", "[]"]
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    assert {prompt.content for prompt in load_prompts(PromptsConfig(path=file))} == set(texts)
