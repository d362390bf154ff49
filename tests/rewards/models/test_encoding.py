"""Inputs are framed as the tokenizer frames them, and cut where it hurts least."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bonbon.errors import RewardError
from bonbon.records import Message, Prompt
from bonbon.rewards.models.encoding import Encoding, encode_chats, encode_pairs

MakeClassifier = Callable[..., Path]

PROMPT = Prompt(id="a", content="w1 w2 w3", split="train")


@pytest.fixture(scope="module")
def pairs(make_classifier: MakeClassifier) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(make_classifier("bert"))


@pytest.fixture(scope="module")
def chats(make_classifier: MakeClassifier) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(make_classifier("llama", chat=True))


def tokens(tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> str:
    names = tokenizer.convert_ids_to_tokens(encoding.token_ids)
    assert isinstance(names, list)
    return " ".join(names)


def pair(tokenizer: PreTrainedTokenizerBase, completion: str, limit: int | None) -> Encoding:
    return encode_pairs(tokenizer, [PROMPT], [completion], max_length=limit)[0]


def chat(tokenizer: PreTrainedTokenizerBase, completion: str, limit: int | None) -> Encoding:
    return encode_chats(tokenizer, [PROMPT], [completion], max_length=limit)[0]


def test_pairs_are_framed_by_the_tokenizer(pairs: PreTrainedTokenizerBase) -> None:
    encoding = pair(pairs, "w4 w5", None)
    assert tokens(pairs, encoding) == "[CLS] w1 w2 w3 [SEP] w4 w5 [SEP]"
    assert encoding.type_ids == [0, 0, 0, 0, 0, 1, 1, 1]


def test_an_empty_completion_is_still_a_pair(pairs: PreTrainedTokenizerBase) -> None:
    assert tokens(pairs, pair(pairs, "", None)) == "[CLS] w1 w2 w3 [SEP] [SEP]"


@pytest.mark.parametrize(
    ("limit", "left", "types", "prompt_cut", "completion_cut"),
    [
        (8, "[CLS] w1 w2 w3 [SEP] w4 w5 [SEP]", [0, 0, 0, 0, 0, 1, 1, 1], 0, 0),
        (7, "[CLS] w2 w3 [SEP] w4 w5 [SEP]", [0, 0, 0, 0, 1, 1, 1], 1, 0),
        (5, "[CLS] [SEP] w4 w5 [SEP]", [0, 0, 1, 1, 1], 3, 0),
        (4, "[CLS] [SEP] w4 [SEP]", [0, 0, 1, 1], 3, 1),
        (3, "[CLS] [SEP] [SEP]", [0, 0, 1], 3, 2),
    ],
)
def test_pairs_lose_the_prompts_beginning_then_the_completions_end(
    pairs: PreTrainedTokenizerBase,
    limit: int,
    left: str,
    types: list[int],
    prompt_cut: int,
    completion_cut: int,
) -> None:
    encoding = pair(pairs, "w4 w5", limit)
    assert tokens(pairs, encoding) == left
    assert encoding.type_ids == types
    assert encoding.prompt_tokens_cut == prompt_cut
    assert encoding.completion_tokens_cut == completion_cut


def test_a_frame_that_does_not_fit_is_refused(pairs: PreTrainedTokenizerBase) -> None:
    with pytest.raises(RewardError, match=r"max_length 2 leaves no space .* 3 tokens that frame"):
        pair(pairs, "w4 w5", 2)


def test_a_chat_in_a_pair_is_a_transcript(pairs: PreTrainedTokenizerBase) -> None:
    several = Prompt(
        id="b",
        content=(Message(role="w7", content="w1"), Message(role="user", content="w2")),
        split="train",
    )
    single = Prompt(id="c", content=(Message(role="user", content="w2"),), split="train")
    encodings = encode_pairs(pairs, [several, single], ["w3", "w3"], max_length=None)
    assert tokens(pairs, encodings[0]) == "[CLS] [UNK] w1 [UNK] w2 [SEP] w3 [SEP]"
    assert tokens(pairs, encodings[1]) == "[CLS] w2 [SEP] w3 [SEP]"


def test_chats_follow_the_template(chats: PreTrainedTokenizerBase) -> None:
    system = Prompt(
        id="b",
        content=(Message(role="assistant", content="w9"), Message(role="user", content="w1")),
        split="train",
    )
    encodings = encode_chats(chats, [PROMPT, system], ["w4 w5", "w4"], max_length=None)
    plain = "<s> <user> w1 w2 w3 </s> <assistant> w4 w5 </s>"
    assert tokens(chats, encodings[0]) == plain
    assert (
        tokens(chats, encodings[1]) == "<s> <assistant> w9 </s> <user> w1 </s> <assistant> w4 </s>"
    )


@pytest.mark.parametrize(
    ("limit", "left", "prompt_cut", "completion_cut"),
    [
        (10, "<s> <user> w1 w2 w3 </s> <assistant> w4 w5 </s>", 0, 0),
        (8, "<s> w2 w3 </s> <assistant> w4 w5 </s>", 2, 0),
        (4, "<s> w4 w5 </s>", 6, 0),
        (3, "<s> w4 </s>", 6, 1),
    ],
)
@pytest.mark.parametrize("completion", ["w4 w5", "  w4 w5 \n"])
def test_chats_keep_their_ends_and_the_closing_token(
    chats: PreTrainedTokenizerBase,
    completion: str,
    limit: int,
    left: str,
    prompt_cut: int,
    completion_cut: int,
) -> None:
    encoding = chat(chats, completion, limit)
    assert tokens(chats, encoding) == left
    assert encoding.prompt_tokens_cut == prompt_cut
    assert encoding.completion_tokens_cut == completion_cut


def test_a_completion_that_repeats_the_prompt_is_told_apart(
    chats: PreTrainedTokenizerBase,
) -> None:
    encoding = chat(chats, "w1 w2 w3", 6)
    assert tokens(chats, encoding) == "<s> <assistant> w1 w2 w3 </s>"
    assert (encoding.prompt_tokens_cut, encoding.completion_tokens_cut) == (5, 0)


def test_an_empty_completion_loses_prompt_only(chats: PreTrainedTokenizerBase) -> None:
    encoding = chat(chats, "", 5)
    assert encoding.completion_tokens_cut == 0
    assert tokens(chats, encoding).endswith("<assistant> </s>")


def test_each_input_is_cut_on_its_own(pairs: PreTrainedTokenizerBase) -> None:
    encodings = encode_pairs(pairs, [PROMPT] * 2, ["w4", "w4 w5 w6"], max_length=8)
    assert [encoding.prompt_tokens_cut for encoding in encodings] == [0, 1]


def test_a_template_that_refuses_the_turns_is_told(chats: PreTrainedTokenizerBase) -> None:
    picky = copy.deepcopy(chats)
    picky.chat_template = "{{ raise_exception('No system, please') }}"
    with pytest.raises(
        RewardError, match=r"'a' cannot be formatted for the reward model: .* with the message 'No"
    ):
        chat(picky, "w4", None)


def test_a_score_does_not_change_with_the_day(chats: PreTrainedTokenizerBase) -> None:
    dated = copy.deepcopy(chats)
    dated.chat_template = "{{ strftime_now('%Y') }} {{ messages[-1].content }}"
    fixed = copy.deepcopy(chats)
    fixed.chat_template = "2024 {{ messages[-1].content }}"
    assert chat(dated, "w4", None) == chat(fixed, "w4", None)
