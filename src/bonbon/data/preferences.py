"""Preference pairs from a file, prepared for training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from bonbon.data.labelled_texts import PAIR_COLUMNS, PreferencePair, read_preference_pairs
from bonbon.data.prompt_rows import PromptRow, read_rows, row_ids
from bonbon.data.prompts import question_of
from bonbon.errors import ConfigError
from bonbon.records import Candidate, Prompt, ScoredGroup


@runtime_checkable
class CompletionTokenizer(Protocol):
    """A tokenizer of prompts and completions, such as `bonbon.models.policy.PolicyTokenizer`."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids that condition the policy on a prompt."""
        ...

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Return a completion's token ids, with the policy's end of turn."""
        ...


def load_preferences(path: Path) -> list[PreferencePair]:
    """Load pairs from a file with the columns of TRL: `prompt`, `chosen` and `rejected`.

    A prompt is a text or chat messages that end with the user's turn. A completion is a text, a
    list of one assistant message, or a whole conversation that ends with the completion. The
    column `id` or the line number names the prompts. Columns that belong to a prompt are joined
    with it as in prompt files; all other columns are ignored. Texts keep surrounding spaces.

    Args:
        path: a .jsonl, .json, .csv or .parquet file.

    Raises:
        PromptError: the file cannot be read, or is empty.
        ConfigError: columns are missing, or a row cannot be used; the message names it.
    """
    rows = read_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    if missing := [name for name in PAIR_COLUMNS if name not in columns]:
        raise ConfigError(
            f"{path.name} has no column '{missing[0]}', only {', '.join(columns) or 'empty rows'}; "
            "expected `prompt`, `chosen` and `rejected`: rename the columns"
        )
    for row in rows:
        _check_filled(row)
    return [
        _named_pair(row, name, pair)
        for row, name, pair in zip(rows, row_ids(rows), read_preference_pairs(rows), strict=True)
    ]


def preference_groups(
    pairs: Sequence[PreferencePair], tokenizer: CompletionTokenizer
) -> list[ScoredGroup]:
    """Make a group of each pair: the rejected completion with reward 0, then the chosen with 1.

    Both end with the policy's end of turn. Their log-probabilities are unknown: NaN. If both have
    the same tokens, both get the reward 0: a tie, which training skips.

    Raises:
        PromptError: a prompt has chat messages, and there is no chat template to render them.
    """
    return [_group(pair, tokenizer) for pair in pairs]


def held_out_pairs(pairs: Sequence[PreferencePair], prompts: Sequence[Prompt]) -> frozenset[str]:
    """Return the ids of the pairs with the same question as a held-out prompt."""
    held_out = {question_of(prompt.content) for prompt in prompts if prompt.split == "eval"}
    return frozenset(
        pair.prompt.id for pair in pairs if question_of(pair.prompt.content) in held_out
    )


def _group(pair: PreferencePair, tokenizer: CompletionTokenizer) -> ScoredGroup:
    prompt_token_ids = tokenizer.encode(pair.prompt)
    texts = (pair.rejected, pair.chosen)
    completions = [tokenizer.encode_completion(text) for text in texts]
    candidates = tuple(
        Candidate(
            prompt_id=pair.prompt.id,
            sample_index=index,
            prompt_text=pair.prompt.text,
            prompt_token_ids=prompt_token_ids,
            text=text,
            token_ids=token_ids,
            logprob=math.nan,
            finish_reason="stop",
        )
        for index, (text, token_ids) in enumerate(zip(texts, completions, strict=True))
    )
    return ScoredGroup(candidates, (0.0, float(completions[0] != completions[1])))


def _check_filled(row: PromptRow) -> None:
    for column in PAIR_COLUMNS:
        if row.values.get(column) is None:
            raise ConfigError(
                f"{row.location} has no '{column}'; expected `prompt`, `chosen` and `rejected` in "
                "every row: fill it in, or leave the row out"
            )


def _named_pair(row: PromptRow, name: str, pair: PreferencePair) -> PreferencePair:
    """Return a pair under its prompt's name, after checks that training needs."""
    content = pair.prompt.content
    if not content:
        raise ConfigError(
            f"{row.location} has no 'prompt'; expected a text or chat messages, or whole "
            "conversations in 'chosen' and 'rejected'"
        )
    if not isinstance(content, str) and content[-1]["role"] != "user":
        raise ConfigError(
            f"{row.location}: the prompt ends with the role '{content[-1]['role']}'; expected "
            "'user', since the policy answers it"
        )
    texts = {
        "prompt": pair.prompt.text,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }
    for column, text in texts.items():
        if not text.strip():
            raise ConfigError(
                f"{row.location}: '{column}' is empty; expected a text: fill it in, or leave the "
                "row out"
            )
    return replace(pair, prompt=replace(pair.prompt, id=name, split="train"))
