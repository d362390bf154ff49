"""A comparison is the template's text, and where it is too long, the cut favours nobody."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from bonbon.errors import RewardError
from bonbon.rewards.models.encoding import Encoding
from bonbon.rewards.models.pairwise import CandidatePair, encode_pairs_of_candidates

TEMPLATE = "{prompt} <user> {first} <assistant> {second} w39"


class Encoder:
    """Encodes one comparison of so many words each, and reads it back."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer

    def __call__(
        self, prompt: str, first: str, second: str, *, max_length: int | None = None
    ) -> Encoding:
        pair = CandidatePair(prompt, first, second)
        [encoding] = encode_pairs_of_candidates(
            self.tokenizer, [pair], template=TEMPLATE, max_length=max_length
        )
        return encoding

    def text(self, encoding: Encoding) -> str:
        return " ".join(self.tokenizer.convert_ids_to_tokens(encoding.token_ids))


@pytest.fixture(scope="module")
def encode(make_classifier: Any) -> Encoder:  # noqa: ANN401
    return Encoder(AutoTokenizer.from_pretrained(make_classifier("bert")))


def test_the_fields_are_put_where_the_template_says(encode: Encoder) -> None:
    whole = encode("w1 w2", "w3", "w4 w5")
    assert encode.text(whole) == "[CLS] w1 w2 <user> w3 <assistant> w4 w5 w39 [SEP]"
    assert (whole.prompt_tokens_cut, whole.completion_tokens_cut) == (0, 0)


def test_braces_in_the_texts_stay(encode: Encoder) -> None:
    first = encode("w1", "{second}", "w4")
    assert encode.text(first) == "[CLS] w1 <user> [UNK] <assistant> w4 w39 [SEP]"


def test_the_prompt_loses_its_beginning_first(encode: Encoder) -> None:
    cut = encode("w1 w2 w3", "w4 w5", "w6 w7", max_length=10)
    assert encode.text(cut) == "[CLS] w3 <user> w4 w5 <assistant> w6 w7 w39 [SEP]"
    assert (cut.prompt_tokens_cut, cut.completion_tokens_cut) == (2, 0)


def test_then_the_longer_candidate_loses_its_end_until_both_are_alike(encode: Encoder) -> None:
    cut = encode("w1", "w2 w3", "w4 w5 w6 w7 w8", max_length=9)
    assert encode.text(cut) == "[CLS] <user> w2 w3 <assistant> w4 w5 w39 [SEP]"
    assert (cut.prompt_tokens_cut, cut.completion_tokens_cut) == (1, 3)
    turned = encode("w1", "w4 w5 w6 w7 w8", "w2 w3", max_length=9)
    assert encode.text(turned) == "[CLS] <user> w4 w5 <assistant> w2 w3 w39 [SEP]"
    both = encode("w1", "w2 w3 w9", "w4 w5 w6 w7 w8", max_length=7)
    assert encode.text(both) == "[CLS] <user> w2 <assistant> w4 w39 [SEP]"


def test_a_limit_below_the_frame_is_refused(encode: Encoder) -> None:
    with pytest.raises(RewardError, match="max_length 4 leaves no space"):
        encode("w1", "w2", "w3", max_length=4)
