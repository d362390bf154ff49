"""A pairwise reward model: a classifier that reads two candidates and prefers one of them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, Literal, cast

import numpy as np
from jaxtyping import Float, Int
from pydantic import AfterValidator
from scipy.special import expit
from transformers import BatchEncoding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bonbon.records import Prompt
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.rewards.models.backbone import SequenceClassifier, SequenceClassifierConfig
from bonbon.rewards.models.checkpoint import (
    label_index,
    longest_input,
    read_checkpoint,
    read_weights,
)
from bonbon.rewards.models.encoding import Encoding, require_fast, shortened, transcript

Field = Literal["prompt", "first", "second"]

_FIELD = re.compile(r"\{(prompt|first|second)\}")


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A prompt and two candidates, in the order in which the model reads them."""

    prompt: str
    first: str
    second: str


def encode_pairs_of_candidates(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[CandidatePair],
    *,
    template: str,
    max_length: int | None,
) -> list[Encoding]:
    """Encode each pair by the template with its three fields filled in.

    From an input that is too long, the prompt's oldest tokens are cut first, then the last tokens
    of the longer candidate until both are equally long, then of both.

    Raises:
        RewardError: an input is too long and cannot be cut.
    """
    filled = [_filled(template, pair) for pair in pairs]
    batch = tokenizer([text for text, _ in filled], verbose=False)
    token_ids = cast("list[list[int]]", batch["input_ids"])
    return [
        Encoding(ids)
        if max_length is None or len(ids) <= max_length
        else _cut(ids, _tokens_of(batch, row, spans), max_length)
        for row, (ids, (_, spans)) in enumerate(zip(token_ids, filled, strict=True))
    ]


def _filled(template: str, pair: CandidatePair) -> tuple[str, dict[Field, tuple[int, int]]]:
    """Return the text, and the first and last character of each field's value."""
    values: dict[Field, str] = {
        "prompt": pair.prompt,
        "first": pair.first,
        "second": pair.second,
    }
    text = ""
    spans: dict[Field, tuple[int, int]] = {}
    # Splitting at a group gives the text between fields, and the fields' names at odd indices.
    for index, piece in enumerate(_FIELD.split(template)):
        if index % 2 == 0:
            text += piece
            continue
        field = cast("Field", piece)
        spans[field] = (len(text), len(text) + len(values[field]))
        text += values[field]
    return text, spans


def _tokens_of(
    batch: BatchEncoding, row: int, spans: dict[Field, tuple[int, int]]
) -> dict[Field, list[int]]:
    """Return the positions of each field's tokens; special tokens belong to none."""
    require_fast(batch)
    encoding = batch.encodings[row] if batch.encodings else None
    assert encoding is not None
    tokens: dict[Field, list[int]] = {"prompt": [], "first": [], "second": []}
    for index, ((start, _), sequence) in enumerate(
        zip(encoding.offsets, batch.sequence_ids(row), strict=True)
    ):
        for field, (low, high) in spans.items():
            if sequence is not None and low <= start < high:
                tokens[field].append(index)
    return tokens


def _cut(token_ids: list[int], tokens: dict[Field, list[int]], max_length: int) -> Encoding:
    ends = [
        (position, index)
        for field in ("first", "second")
        for position, index in enumerate(tokens[field])
    ]
    latest_first = [index for _, index in sorted(ends, reverse=True)]
    return shortened(Encoding(token_ids), tokens["prompt"], latest_first, max_length=max_length)


Aggregate = Literal["win-probability", "bradley-terry"]

TEMPLATE = "{prompt}\n\n[A] {first}\n\n[B] {second}"


def _has_both_candidates(template: str) -> str:
    fields = re.findall(r"\{(\w+)\}", template)
    if not {"first", "second"} <= set(fields) <= {"prompt", "first", "second"}:
        raise ValueError(
            f"got a template with the fields {', '.join(fields) or 'none'}, expected {{first}} and "
            "{second}, and {prompt} where the model reads it"
        )
    if len(fields) > len(set(fields)):
        raise ValueError("got a template that repeats a field, expected each field once")
    return template


class PairwiseConfig(SequenceClassifierConfig):
    """A sequence classification model that reads a prompt and two candidates."""

    kind: Literal["pairwise"] = "pairwise"
    """The kind."""
    head: int | str | None = None
    """The label that says that the first candidate is better, by index or by name; needed if
    there are several."""
    template: Annotated[str, AfterValidator(_has_both_candidates)] = TEMPLATE
    """What the model reads, with `{prompt}`, `{first}` and `{second}`, as it was trained."""
    aggregate: Aggregate = "win-probability"
    """A candidate's score: its mean probability of being preferred to another one of the prompt,
    or its log-strength by Bradley–Terry."""

    @property
    def compares_candidates(self) -> bool:
        """True: a score depends on the other candidates of the prompt."""
        return True

    def check(self) -> None:
        """Read everything but the weights, and check the settings."""
        _read(self)

    def load(self) -> "PairwiseReward":
        """Load the model from safetensors."""
        tokenizer, model_config = _read(self)
        model = read_weights(self)
        return PairwiseReward(
            model,
            tokenizer,
            name=self.score_name,
            head=label_index(self, self.head, model_config),
            template=self.template,
            aggregate=self.aggregate,
            max_length=longest_input(self, model, tokenizer),
            batch_tokens=self.batch_tokens,
        )


class PairwiseReward:
    """Compares all candidates of a prompt with each other, each pair in both orders.

    The margin of a pair is half the difference of its two preference logits, so a bias for the
    first or the second position cancels. Scores are comparable within a prompt only, and depend on
    its candidates. Equal candidates are read once and get the same score.

    Attributes:
        name: name of the score in every table.
        prompts_at_once: prompts per call; n candidates are n(n − 1) inputs.
        num_prompts_cut: number of inputs with a prompt that was cut at its beginning.
        num_completions_cut: number of inputs with a candidate that was cut at its end.
    """

    prompts_at_once = 8

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        head: int = 0,
        template: str = TEMPLATE,
        aggregate: Aggregate = "win-probability",
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Take a model in evaluation mode on its device, and its tokenizer."""
        self.name = name
        self.num_prompts_cut = 0
        self.num_completions_cut = 0
        self._classifier = SequenceClassifier(model, batch_tokens=batch_tokens)
        self._tokenizer = tokenizer
        self._head = head
        self._template = template
        self._aggregate: Aggregate = aggregate
        self._max_length = max_length

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's score among those of its prompt."""
        transcripts: dict[str, str] = {}
        counts: dict[str, Counter[str]] = {}
        for prompt, completion in zip(prompts, completions, strict=True):
            transcripts.setdefault(prompt.id, transcript(prompt))
            counts.setdefault(prompt.id, Counter())[completion] += 1
        # Sorted, so that the scores do not depend on the order of the candidates.
        texts = {prompt_id: sorted(repeats) for prompt_id, repeats in counts.items()}
        preferences = self._preferences(
            [
                CandidatePair(transcripts[prompt_id], first, second)
                for prompt_id, distinct in texts.items()
                for first, second in permutations(distinct, 2)
            ]
        )
        scores: dict[str, dict[str, float]] = {}
        for prompt_id, distinct in texts.items():
            num_pairs = len(distinct) * (len(distinct) - 1)
            chances = win_chances(preferences[:num_pairs], num_items=len(distinct))
            preferences = preferences[num_pairs:]
            repeats = np.array([counts[prompt_id][text] for text in distinct])
            values = self._aggregated(chances, repeats).tolist()
            scores[prompt_id] = dict(zip(distinct, values, strict=True))
        return [
            scores[prompt.id][completion]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _preferences(self, pairs: Sequence[CandidatePair]) -> Float[np.ndarray, " pairs"]:
        """Return the logit of each pair's first candidate being better."""
        if not pairs:
            return np.zeros(0)
        encodings = encode_pairs_of_candidates(
            self._tokenizer, pairs, template=self._template, max_length=self._max_length
        )
        self.num_prompts_cut += sum(e.prompt_tokens_cut > 0 for e in encodings)
        self.num_completions_cut += sum(e.completion_tokens_cut > 0 for e in encodings)
        logits = self._classifier.logits(encodings).double()
        preferred = logits[:, self._head]
        others = [label for label in range(logits.shape[1]) if label != self._head]
        if others:
            preferred = preferred - logits[:, others].logsumexp(dim=1)
        return preferred.numpy()

    def _aggregated(
        self, chances: Float[np.ndarray, "items items"], repeats: Int[np.ndarray, " items"]
    ) -> Float[np.ndarray, " items"]:
        if self._aggregate == "bradley-terry":
            return bradley_terry(chances)
        return mean_win_chance(chances, repeats)


def win_chances(
    preferences: Float[np.ndarray, " pairs"], *, num_items: int
) -> Float[np.ndarray, "items items"]:
    """Return the probability that the row's item is better than the column's; ½ on the diagonal.

    Args:
        preferences: logits of all ordered pairs, in lexicographic order.
        num_items: number of items m; there are m(m − 1) pairs.
    """
    logits = np.zeros((num_items, num_items))
    logits[~np.eye(num_items, dtype=bool)] = preferences
    return expit((logits - logits.T) / 2)


def mean_win_chance(
    chances: Float[np.ndarray, "items items"], repeats: Int[np.ndarray, " items"]
) -> Float[np.ndarray, " items"]:
    """Return each item's mean probability of being better than another draw; ½ for a single draw.

    Args:
        chances: from `win_chances`.
        repeats: how often each item was drawn.
    """
    num_others = repeats.sum() - 1
    if num_others == 0:
        return np.full(1, 0.5)
    return (chances @ repeats - 0.5) / num_others  # the draw itself was counted once, as ½


def _read(config: PairwiseConfig) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Read the tokenizer and the model's config, no weights, and check the settings against them.

    Raises:
        ConfigError: they cannot be read, or the settings do not fit them.
    """
    tokenizer, model_config = read_checkpoint(config)
    label_index(config, config.head, model_config)
    return tokenizer, model_config
