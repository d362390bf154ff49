"""Encodes prompts and completions in the format that a sequence classifier was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from transformers import BatchEncoding, PreTrainedTokenizerBase

from bonbon.errors import PromptError, RewardError
from bonbon.models.chat_template import render_chat
from bonbon.records import Message, Prompt

CLOCK = datetime(2024, 7, 26)
"""The date that chat templates print as today's, so that scores do not change with the day. Llama's
templates fall back to the same date."""

Part = Literal["frame", "prompt", "completion"]
"""The part of the input that a token belongs to; the frame (special tokens, closing turns) is never
cut."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One classifier input that fits the model.

    Attributes:
        token_ids: special tokens included, no padding.
        type_ids: which segment each token belongs to, for models that read it.
        prompt_tokens_cut: tokens dropped from the prompt's beginning.
        completion_tokens_cut: tokens dropped from the completion's end.
    """

    token_ids: list[int]
    type_ids: list[int] | None = None
    prompt_tokens_cut: int = 0
    completion_tokens_cut: int = 0


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    *,
    max_length: int | None,
) -> list[Encoding]:
    """Encode each prompt and completion as a pair of texts, joined as the tokenizer joins pairs.

    A chat becomes a transcript, one `Role: content` paragraph per turn, or the bare content if
    it has a single turn.

    Raises:
        RewardError: an input is too long and cannot be cut.
    """
    texts = [transcript(prompt) for prompt in prompts]
    # Lists even for one pair: given single texts, tokenizers drop an empty second one.
    batch = tokenizer(texts, list(completions), verbose=False)
    token_ids = cast("list[list[int]]", batch["input_ids"])
    type_ids = cast("list[list[int] | None]", batch.get("token_type_ids", [None] * len(texts)))
    return [
        Encoding(ids, types)
        if max_length is None or len(ids) <= max_length
        else _cut(ids, types, _parts_of_pair(batch, row), max_length)
        for row, (ids, types) in enumerate(zip(token_ids, type_ids, strict=True))
    ]


def encode_chats(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    *,
    max_length: int | None,
) -> list[Encoding]:
    """Encode each prompt with the completion as the assistant's turn, by the chat template.

    Raises:
        RewardError: an input is too long and cannot be cut, or the template refuses it.
    """
    chats = [_chat(*pair) for pair in zip(prompts, completions, strict=True)]
    texts = [
        _rendered(tokenizer, prompt, chat) for prompt, chat in zip(prompts, chats, strict=True)
    ]
    batch = tokenizer(texts, add_special_tokens=False, verbose=False)
    token_ids = cast("list[list[int]]", batch["input_ids"])
    return [
        Encoding(ids)
        if max_length is None or len(ids) <= max_length
        else _cut(ids, None, _parts_of_chat(batch, row, text, completion, tokenizer), max_length)
        for row, (ids, text, completion) in enumerate(
            zip(token_ids, texts, completions, strict=True)
        )
    ]


def transcript(prompt: Prompt) -> str:
    """Return a prompt as one text: a chat of several turns as `Role: content` paragraphs."""
    if isinstance(prompt.content, str):
        return prompt.content
    if len(prompt.content) == 1:
        return prompt.content[0]["content"]
    turns = (f"{turn['role'].capitalize()}: {turn['content']}" for turn in prompt.content)
    return "\n\n".join(turns)


def _chat(prompt: Prompt, completion: str) -> list[Message]:
    asked = (
        [Message(role="user", content=prompt.content)]
        if isinstance(prompt.content, str)
        else list(prompt.content)
    )
    return [*asked, Message(role="assistant", content=completion)]


def _rendered(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, chat: Sequence[Message]) -> str:
    try:
        return render_chat(tokenizer, chat, clock=CLOCK)
    except PromptError as error:
        raise RewardError(
            f"prompt {prompt.id!r} cannot be formatted for the reward model: {error}; change the "
            "messages, or set the reward's `input` to 'pair'"
        ) from error


def _parts_of_pair(batch: BatchEncoding, row: int) -> list[Part]:
    require_fast(batch)
    parts: dict[int | None, Part] = {None: "frame", 0: "prompt", 1: "completion"}
    return [parts[sequence] for sequence in batch.sequence_ids(row)]


def _parts_of_chat(
    batch: BatchEncoding,
    row: int,
    text: str,
    completion: str,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Part]:
    """Return each token's part; all before the completion except a BOS token is the prompt."""
    require_fast(batch)
    written = completion if completion in text else completion.strip()  # many templates strip
    start = text.rfind(written)
    end = start + len(written)
    encoding = cast("Any", batch.encodings)[row]
    offsets = cast("list[tuple[int, int]]", encoding.offsets)
    parts: list[Part] = [_part_at(span, start, end) for span in offsets]
    if encoding.ids[0] == tokenizer.bos_token_id:
        parts[0] = "frame"
    return parts


def _part_at(span: tuple[int, int], start: int, end: int) -> Part:
    if span[0] < start:
        return "prompt"
    return "completion" if span[0] < end else "frame"


def require_fast(batch: BatchEncoding) -> None:
    """Refuse to cut an input if the tokenizer does not give the offsets of its tokens.

    Raises:
        RewardError: the tokenizer is a slow one.
    """
    if not batch.is_fast:
        raise RewardError(
            "an input is longer than the reward model's limit, and its tokenizer (a slow one, in "
            "Python) cannot say which tokens are the prompt's; draw shorter completions, or use "
            "a reward model with a fast tokenizer"
        )


def _cut(
    token_ids: list[int], type_ids: list[int] | None, parts: list[Part], max_length: int
) -> Encoding:
    """Drop the prompt's oldest tokens, then, if that is not enough, the completion's last ones."""
    of_prompt = [index for index, part in enumerate(parts) if part == "prompt"]
    of_completion = [index for index, part in enumerate(parts) if part == "completion"]
    whole = Encoding(token_ids, type_ids)
    return shortened(whole, of_prompt, of_completion[::-1], max_length=max_length)


def shortened(
    whole: Encoding, of_prompt: Sequence[int], of_completion: Sequence[int], *, max_length: int
) -> Encoding:
    """Drop tokens of the prompt, then of the completion, until the input fits.

    Args:
        whole: an input that is too long.
        of_prompt: positions of the prompt's tokens, in the order in which they are dropped.
        of_completion: positions of the completion's tokens, likewise.
        max_length: in tokens.

    Raises:
        RewardError: the input is too long without any of these tokens.
    """
    length = len(whole.token_ids)
    expendable = [*of_prompt, *of_completion]
    dropped = set(expendable[: length - max_length])
    if length - len(dropped) > max_length:
        raise RewardError(
            f"max_length {max_length} leaves no space for the completion beside the "
            f"{length - len(expendable)} tokens that frame every input; raise it"
        )
    kept = [index for index in range(length) if index not in dropped]
    types = whole.type_ids
    return Encoding(
        token_ids=[whole.token_ids[index] for index in kept],
        type_ids=None if types is None else [types[index] for index in kept],
        prompt_tokens_cut=len(dropped.intersection(of_prompt)),
        completion_tokens_cut=len(dropped.intersection(of_completion)),
    )
