"""A classifier's score is what the model gives for that input alone, in whatever company."""

import random
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bonbon.errors import ConfigError, RewardError
from bonbon.records import Prompt
from bonbon.rewards.base import checked_scores
from bonbon.rewards.models.backbone import SequenceClassifier
from bonbon.rewards.models.classifier import ClassifierConfig, ClassifierReward
from bonbon.rewards.models.encoding import Encoding

MakeClassifier = Callable[..., Path]

# An id that closes every chat of the test template; as padding id it is the "pad == eos" case.
EOS = 5

KINDS = [
    pytest.param({"kind": "bert"}, id="bert"),
    pytest.param({"kind": "deberta-v2"}, id="deberta-v2"),
    pytest.param({"kind": "roberta", "pad_token_id": 1}, id="roberta"),
    pytest.param({"kind": "gpt2"}, id="gpt2-pair"),
    pytest.param({"kind": "gpt2", "pad_token_id": None}, id="gpt2-pair-no-pad"),
    pytest.param({"kind": "llama", "chat": True}, id="llama-chat"),
    pytest.param({"kind": "llama", "chat": True, "pad_token_id": None}, id="llama-chat-no-pad"),
    pytest.param({"kind": "llama", "chat": True, "pad_token_id": EOS}, id="llama-chat-pad-is-eos"),
]


def words(generator: random.Random, low: int, high: int) -> str:
    return " ".join(f"w{generator.randrange(40)}" for _ in range(generator.randint(low, high)))


def mixed_lengths(count: int) -> tuple[list[Prompt], list[str]]:
    generator = random.Random(0)
    prompts = [
        Prompt(id=f"p{i}", content=words(generator, 1, 20), split="train") for i in range(count)
    ]
    return prompts, [words(generator, 0, 30) for _ in range(count)]


PROMPTS, COMPLETIONS = mixed_lengths(24)


def load(directory: Path, **settings: Any) -> ClassifierReward:  # noqa: ANN401
    return ClassifierConfig(model=str(directory), device="cpu", **settings).load()


def alone(directory: Path, *, head: int = 0) -> list[float]:
    """Score one input at a time with transformers alone, nothing padded."""
    model = cast(
        "PreTrainedModel", AutoModelForSequenceClassification.from_pretrained(directory)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.inference_mode():
        return [
            float(model(**one_input(tokenizer, prompt, completion)).logits[0, head])
            for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
        ]


def one_input(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str
) -> dict[str, torch.Tensor]:
    if tokenizer.chat_template is None:
        encoded = tokenizer([prompt.text], [completion], return_tensors="pt")
    else:
        chat = [
            {"role": "user", "content": prompt.text},
            {"role": "assistant", "content": completion},
        ]
        encoded = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    return dict(cast("Any", encoded))


def spread(scores: Sequence[float | None]) -> float:
    return float(torch.tensor(scores).std())


@pytest.mark.parametrize("options", KINDS)
def test_scores_are_those_of_each_input_alone(
    make_classifier: MakeClassifier, options: dict[str, Any]
) -> None:
    directory = make_classifier(**options)
    scores = checked_scores(load(directory), PROMPTS, COMPLETIONS)
    assert spread(scores) > 0.1  # else equality would say little
    assert scores == pytest.approx(alone(directory), abs=1e-5)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("batch_tokens", [1, 90, 100_000])
def test_scores_do_not_depend_on_batch_or_order(
    make_classifier: MakeClassifier, options: dict[str, Any], batch_tokens: int
) -> None:
    directory = make_classifier(**options)
    scores = load(directory).score(PROMPTS, COMPLETIONS)
    order = random.Random(batch_tokens).sample(range(len(PROMPTS)), len(PROMPTS))
    shuffled = load(directory, batch_tokens=batch_tokens).score(
        [PROMPTS[i] for i in order], [COMPLETIONS[i] for i in order]
    )
    assert shuffled == pytest.approx([scores[i] for i in order], abs=1e-5)


def test_batches_stay_below_the_vocabulary_so_that_a_padding_id_is_free(
    make_classifier: MakeClassifier,
) -> None:
    """Where every id of the vocabulary ends some row, none would be left for a single batch."""
    directory = make_classifier("gpt2", pad_token_id=None)
    reward = load(directory, batch_tokens=10**6)
    prompts = [Prompt(id=f"p{i}", content="w0 " * (i % 5 + 1), split="train") for i in range(400)]
    vocabulary = AutoTokenizer.from_pretrained(directory).get_vocab()
    assert len(vocabulary) == 48
    completions = list(islice(cycle(vocabulary), 400))
    scores = reward.score(prompts, completions)
    single = [reward.score([prompts[i]], [completions[i]])[0] for i in range(0, 400, 37)]
    assert scores[::37] == pytest.approx(single, abs=1e-5)


def test_bfloat16_keeps_the_head_in_float32(make_classifier: MakeClassifier) -> None:
    for options in ({"kind": "bert"}, {"kind": "deberta-v2"}, {"kind": "llama", "chat": True}):
        directory = make_classifier(**options)
        scores = torch.tensor(load(directory, dtype="bfloat16").score(PROMPTS, COMPLETIONS))
        exact = torch.tensor(load(directory).score(PROMPTS, COMPLETIONS))
        assert (scores.bfloat16().float() != scores).any()  # else they would tie often
        assert not torch.equal(scores, exact)
        assert float((scores - exact).abs().max()) < 0.1 * float(exact.std()) + 0.05


def test_heads_are_chosen_by_index_or_label(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert", num_labels=3)
    second = load(directory, head=1).score(PROMPTS, COMPLETIONS)
    assert second == pytest.approx(alone(directory, head=1), abs=1e-5)
    assert load(directory, head="LABEL_1").score(PROMPTS, COMPLETIONS) == second
    assert load(directory, head=0).score(PROMPTS, COMPLETIONS) != second


def test_several_heads_are_weighed_in_one_pass(
    make_classifier: MakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_classifier("bert", num_labels=3)
    single = [torch.tensor(alone(directory, head=head)) for head in (0, 2)]
    expected = (0.7 * single[0] - 0.3 * single[1]).tolist()
    rows = 0

    def counting(self: SequenceClassifier, encodings: Sequence[Encoding]) -> torch.Tensor:
        nonlocal rows
        rows += len(encodings)
        return read(self, encodings)

    read = SequenceClassifier.logits
    monkeypatch.setattr(SequenceClassifier, "logits", counting)
    scores = load(directory, heads={"LABEL_0": 0.7, 2: -0.3}).score(PROMPTS, COMPLETIONS)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert rows == len(PROMPTS)


def test_heads_that_cannot_be_weighed(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert", num_labels=3)
    with pytest.raises(ConfigError, match=r"got head 'LABEL_9', expected .* did you mean"):
        load(directory, heads={"LABEL_9": 1.0})
    with pytest.raises(ConfigError, match="heads weighs label 1 twice, the second time as '1'"):
        load(directory, heads={"LABEL_1": 1.0, "1": 0.5})
    with pytest.raises(ValidationError, match=r"got head 0 and heads .* expected one of them"):
        load(directory, head=0, heads={"LABEL_1": 1.0})


def test_cut_inputs_are_counted_and_scored_as_the_cut_text(
    make_classifier: MakeClassifier,
) -> None:
    reward = load(make_classifier("bert"), max_length=8)
    prompts = [Prompt(id="a", content=text, split="train") for text in ("w1 w2 w3", "w0 w1 w2 w3")]
    untouched, shortened = reward.score(prompts, ["w4 w5", "w4 w5"])
    assert shortened == pytest.approx(untouched, abs=1e-6)
    assert (reward.num_prompts_cut, reward.num_completions_cut) == (1, 0)
    reward.score(prompts[:1], ["w4 w5 w6 w7 w8 w9"])
    assert (reward.num_prompts_cut, reward.num_completions_cut) == (2, 1)


@pytest.mark.parametrize(("kind", "limit"), [("bert", 64), ("roberta", 62), ("gpt2", 64)])
def test_long_inputs_fit_the_models_positions(
    make_classifier: MakeClassifier, kind: str, limit: int
) -> None:
    reward = load(make_classifier(kind, pad_token_id=1))
    prompt = Prompt(id="a", content="w1 " * 200, split="train")
    frame = 0 if kind == "gpt2" else 3
    fitting = Prompt(id="b", content="w1 " * (limit - frame - 2), split="train")
    scores = checked_scores(reward, [prompt, fitting], ["w2 w3"] * 2)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert reward.num_prompts_cut == 1


def test_nothing_to_score_is_nothing(make_classifier: MakeClassifier) -> None:
    assert load(make_classifier("bert")).score([], []) == []


def test_a_broken_model_is_refused_like_any_reward(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert")
    model = cast("Any", AutoModelForSequenceClassification.from_pretrained(directory))
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    reward = ClassifierReward(model.eval(), tokenizer, name="broken", input="pair")
    with pytest.raises(RewardError, match="reward 'broken' returned nan for completion 0"):
        checked_scores(reward, PROMPTS, COMPLETIONS)
