"""Pairs of completions that people compared, made ready to train on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from bonbon.data.labelled_texts import COMPARED, ComparedTexts, read_comparisons
from bonbon.data.prompt_rows import PromptRow, read_rows, row_ids
from bonbon.data.prompts import question_of
from bonbon.errors import ConfigError
from bonbon.records import Candidate, Prompt, ScoredGroup


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two completions of one prompt, of which the first was preferred.

    Attributes:
        prompt: what both answer.
        chosen: the preferred completion.
        rejected: the other one.
    """

    prompt: Prompt
    chosen: str
    rejected: str


@runtime_checkable
class CompletionTokenizer(Protocol):
    """What pairs are encoded with; `bonbon.models.policy.PolicyTokenizer` is one."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids that condition the policy on a prompt."""
        ...

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """Return a completion's token ids, ended as the policy ends a turn."""
        ...


def load_preferences(path: Path) -> list[PreferencePair]:
    """Load pairs from a file with the columns of TRL: `prompt`, `chosen` and `rejected`.

    A prompt is a text or chat messages that end with the user's turn, a completion is a text, a
    list of one assistant message, or a whole conversation of which the last answer is compared. A
    column `id` names the prompts, without one the line does; columns that belong to a prompt are
    joined with it as in prompt files, and all others are ignored. Texts are kept as they are,
    surrounding spaces included.

    Args:
        path: a .jsonl, .json, .csv or .parquet file.

    Raises:
        PromptError: the file cannot be read, or is empty.
        ConfigError: columns are missing, or a row cannot be used; the message names it.
    """
    rows = read_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    if missing := [name for name in COMPARED if name not in columns]:
        raise ConfigError(
            f"{path.name} has no column '{missing[0]}', only {', '.join(columns) or 'empty rows'}; "
            "expected `prompt`, `chosen` and `rejected`: rename the columns"
        )
    for row in rows:
        _check_filled(row)
    return [
        _pair(row, name, compared)
        for row, name, compared in zip(rows, row_ids(rows), read_comparisons(rows), strict=True)
    ]


def preference_groups(
    pairs: Sequence[PreferencePair], tokenizer: CompletionTokenizer
) -> list[ScoredGroup]:
    """Make a group of each pair: first the rejected completion, reward 0, then the chosen, 1.

    Both end as the policy ends a turn; their log-probabilities are not known: NaN. Completions of
    the same tokens get the reward 0 both, a tie, from which nothing is learnt.

    Raises:
        PromptError: a prompt of chat messages, but no chat template to render them with.
    """
    return [_group(pair, tokenizer) for pair in pairs]


def held_out_pairs(pairs: Sequence[PreferencePair], prompts: Sequence[Prompt]) -> frozenset[str]:
    """Return the ids of the pairs whose prompt asks what one of the held-out prompts asks."""
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
    """Refuse rows that lack a completion."""
    for column in COMPARED:
        if row.values.get(column) is None:
            raise ConfigError(
                f"{row.place} has no '{column}'; expected `prompt`, `chosen` and `rejected` in "
                "every row: fill it in, or leave the row out"
            )


def _pair(row: PromptRow, name: str, compared: ComparedTexts) -> PreferencePair:
    content = compared.prompt.content
    if not content:
        raise ConfigError(
            f"{row.place} has no 'prompt'; expected a text or chat messages, or whole "
            "conversations in 'chosen' and 'rejected'"
        )
    if not isinstance(content, str) and content[-1]["role"] != "user":
        raise ConfigError(
            f"{row.place}: the prompt ends with the role '{content[-1]['role']}'; expected 'user', "
            "whom the policy answers"
        )
    texts = {
        "prompt": compared.prompt.text,
        "chosen": compared.chosen,
        "rejected": compared.rejected,
    }
    for column, text in texts.items():
        if not text.strip():
            raise ConfigError(
                f"{row.place}: '{column}' is empty; expected a text: fill it in, or leave the row "
                "out"
            )
    prompt = replace(compared.prompt, id=name, split="train")
    return PreferencePair(prompt, compared.chosen, compared.rejected)
