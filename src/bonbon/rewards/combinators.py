"""Rewards made from other rewards: sums, ensembles, length penalties, z-scores."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, model_validator
from transformers import PreTrainedTokenizerBase

from bonbon.base_config import Config, Several
from bonbon.data.fingerprint import fingerprint_model
from bonbon.errors import ConfigError, PolicyError
from bonbon.models.policy import PolicyConfig, load_policy_tokenizer
from bonbon.records import Prompt
from bonbon.registry import check_part_keys
from bonbon.rewards.base import (
    Reward,
    RewardConfig,
    RewardName,
    checked_scores,
    name_from,
    prompts_at_once,
)


def combined_scores(
    parts: Sequence[Reward],
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    *,
    combine: Callable[[tuple[float, ...]], float],
) -> list[float | None]:
    """Return one number per candidate, combined from its scores by all parts.

    Args:
        parts: at least one.
        prompts: as of `Reward.score`.
        completions: as of `Reward.score`.
        combine: takes a candidate's scores, one per part.

    Returns:
        None for a candidate that some part gives no score.

    Raises:
        RewardError: a part failed; the message names it.
    """
    columns = [checked_scores(part, prompts, completions) for part in parts]
    rows = zip(*columns, strict=True)
    return [_combined_row(row, combine) for row in rows]


def fewest_prompts_at_once(parts: Sequence[Reward]) -> int:
    """Return the smallest `prompts_at_once` of the parts."""
    return min(prompts_at_once(part) for part in parts)


def _combined_row(
    row: tuple[float | None, ...], combine: Callable[[tuple[float, ...]], float]
) -> float | None:
    scores = tuple(score for score in row if score is not None)
    return combine(scores) if len(scores) == len(row) else None


Combine = Literal["mean", "min", "mean-minus-std"]


def _several(members: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(members) < 2:
        raise ValueError(f"got an ensemble of {len(members)}, expected at least two members")
    return members


class EnsembleConfig(RewardConfig):
    """Several rewards for the same quality, combined."""

    kind: Literal["ensemble"] = "ensemble"
    """The kind."""
    members: Annotated[Several[RewardConfig], AfterValidator(_several)]
    """Rewards on the same scale."""
    combine: Combine = "mean"
    """`mean`, `min`, or `mean-minus-std`: the mean minus c standard deviations."""
    c: float | None = Field(default=None, ge=0)
    """Weight of the standard deviation over the members, by default 1; for `mean-minus-std`."""
    name: RewardName | None = None
    """Name of the score in every table; by default made from the members' names."""

    @model_validator(mode="after")
    def _c_has_an_effect(self) -> "EnsembleConfig":
        if self.c is not None and self.combine != "mean-minus-std":
            raise ValueError(
                f"got c = {self.c} with combine {self.combine!r}, expected c only with "
                "'mean-minus-std'; leave one of them out"
            )
        return self

    @property
    def score_name(self) -> str:
        """The given name, or the members' names and how they are combined."""
        members = "+".join(member.score_name for member in self.members)
        return self.name or name_from(f"{self.combine}.{members}")

    @property
    def rewards_within(self) -> tuple[RewardConfig, ...]:
        """The members."""
        return self.members

    def load(self) -> "EnsembleReward":
        """Load the members."""
        return EnsembleReward(
            [member.load() for member in self.members],
            name=self.score_name,
            combine=self.combine,
            c=1.0 if self.c is None else self.c,
        )


class EnsembleReward:
    """The mean, the minimum, or the mean minus c standard deviations of the members' scores.

    The last two are conservative: they trust a high score only as far as the members agree
    (Coste et al., arXiv 2310.02743). Members must use the same scale.
    """

    def __init__(
        self, members: Sequence[Reward], *, name: str, combine: Combine = "mean", c: float = 1.0
    ) -> None:
        """Take the members; `c` is the weight of the standard deviation over them."""
        self.name = name
        self.prompts_at_once = fewest_prompts_at_once(members)
        self._members = members
        self._combine: Combine = combine
        self._c = c

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's combined score; None if a member gives no score."""
        return combined_scores(self._members, prompts, completions, combine=self._combined)

    def _combined(self, scores: tuple[float, ...]) -> float:
        if self._combine == "min":
            return min(scores)
        mean = math.fsum(scores) / len(scores)
        if self._combine == "mean":
            return mean
        variance = math.fsum((score - mean) ** 2 for score in scores) / len(scores)
        return mean - self._c * math.sqrt(variance)


def _some(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    # pydantic's check of the length would count an invalid part as missing.
    if not parts:
        raise ValueError("got a sum without parts, expected at least one")
    return parts


class WeightedPart(Config):
    """A reward in a sum, with its weight."""

    reward: RewardConfig
    """The reward."""
    weight: float = 1.0
    """Factor of the reward; negative for a cost."""

    @model_validator(mode="before")
    @classmethod
    def _in_known_words(cls, value: object) -> object:
        if isinstance(value, Mapping):
            check_part_keys(cast("Mapping[Any, object]", value), cls, "a part of a sum")
        return value


class SumConfig(RewardConfig):
    """A weighted sum of rewards."""

    kind: Literal["sum"] = "sum"
    """The kind."""
    parts: Annotated[Several[WeightedPart], AfterValidator(_some)]
    """The terms, `{reward: …, weight: …}` each."""
    name: RewardName | None = None
    """Name of the score in every table; by default made from the parts' names."""

    @property
    def score_name(self) -> str:
        """The given name, or the names of the terms."""
        return self.name or name_from("+".join(part.reward.score_name for part in self.parts))

    @property
    def rewards_within(self) -> tuple[RewardConfig, ...]:
        """The terms."""
        return tuple(part.reward for part in self.parts)

    def load(self) -> "WeightedSumReward":
        """Load the terms."""
        terms = [part.reward.load() for part in self.parts]
        return WeightedSumReward(terms, [part.weight for part in self.parts], name=self.score_name)

    def fingerprints(self) -> dict[str, Any]:
        """Return the weights of the parts."""
        return {"weights": [part.weight for part in self.parts]}


class WeightedSumReward:
    """The weighted sum of the parts' scores, without rescaling."""

    def __init__(self, parts: Sequence[Reward], weights: Sequence[float], *, name: str) -> None:
        """Take a weight for each part; a negative weight makes the part a cost."""
        if len(parts) != len(weights):
            raise ValueError(
                f"got {len(parts)} parts and {len(weights)} weights, expected the same number"
            )
        self.name = name
        self.prompts_at_once = fewest_prompts_at_once(parts)
        self._parts = parts
        self._weights = weights

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's sum; None if a part gives no score."""
        return combined_scores(self._parts, prompts, completions, combine=self._sum)

    def _sum(self, scores: tuple[float, ...]) -> float:
        return math.fsum(w * score for w, score in zip(self._weights, scores, strict=True))


Unit = Literal["words", "characters", "tokens"]

LengthOf = Callable[[str], int]


class LengthPenaltyConfig(RewardConfig):
    """A reward with a penalty for length."""

    kind: Literal["length-penalty"] = "length-penalty"
    """The kind."""
    reward: RewardConfig
    """The reward to penalise."""
    penalty: float = Field(gt=0)
    """Penalty for every unit beyond the free units."""
    unit: Unit = "words"
    """Unit of length."""
    free: int = Field(default=0, ge=0, le=1_000_000_000)
    """Units without a penalty."""
    tokenizer: str | None = None
    """Hub name or directory of the model that defines tokens, if the unit is tokens."""
    name: RewardName | None = None
    """Name of the score in every table; by default made from the reward's name."""

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> "LengthPenaltyConfig":
        if (self.unit == "tokens") != (self.tokenizer is not None):
            raise ValueError(
                f"got unit {self.unit!r} with tokenizer {self.tokenizer!r}, expected a tokenizer "
                "if and only if the unit is tokens"
            )
        return self

    @property
    def score_name(self) -> str:
        """The given name, or the reward's name and `length`."""
        return self.name or name_from(f"{self.reward.score_name}-length")

    @property
    def rewards_within(self) -> tuple[RewardConfig, ...]:
        """The reward inside."""
        return (self.reward,)

    def check(self) -> None:
        """Check the reward inside, and that the tokenizer can be loaded."""
        self._length_of()
        super().check()

    def load(self) -> "LengthPenaltyReward":
        """Load the reward inside, and the tokenizer."""
        return LengthPenaltyReward(
            self.reward.load(),
            name=self.score_name,
            penalty=self.penalty,
            free=self.free,
            length_of=self._length_of(),
        )

    def fingerprints(self) -> dict[str, Any]:
        """Return the fingerprint of the tokenizer's files."""
        if self.tokenizer is None:
            return {}
        return {"tokenizer_files": fingerprint_model(self.tokenizer)}

    def _length_of(self) -> "LengthOf":
        if self.tokenizer is None:
            return num_words if self.unit == "words" else len
        try:
            source = load_policy_tokenizer(PolicyConfig(model=self.tokenizer))
        except PolicyError as error:
            raise ConfigError(f"the tokenizer of a length penalty: {error}") from error
        return token_counter(source.tokenizer)


class LengthPenaltyReward:
    """A reward minus a penalty for every unit of length beyond a free length."""

    def __init__(
        self, reward: Reward, *, name: str, penalty: float, free: int, length_of: LengthOf
    ) -> None:
        """Take the reward to penalise.

        Args:
            reward: the reward to penalise.
            name: name of the score.
            penalty: c, subtracted for every unit.
            free: number of units without a penalty.
            length_of: returns a completion's length in units.
        """
        self.name = name
        self.prompts_at_once = prompts_at_once(reward)
        self._reward = reward
        self._penalty = penalty
        self._free = free
        self._length_of = length_of

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return score − c · max(0, length − free); None without a score."""
        scores = checked_scores(self._reward, prompts, completions)
        return [
            None if score is None else score - self._cost(completion)
            for score, completion in zip(scores, completions, strict=True)
        ]

    def _cost(self, completion: str) -> float:
        return self._penalty * max(0, self._length_of(completion) - self._free)


def num_words(text: str) -> int:
    """Return the number of words, separated by white space, in a text."""
    return len(text.split())


def token_counter(tokenizer: PreTrainedTokenizerBase) -> LengthOf:
    """Return a function that counts a text's tokens without special tokens."""
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


ROUNDING = 1e-6
"""Scores that differ by less than this share of their size are equal up to rounding in float32."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A mean and a standard deviation, in the reward's units."""

    mean: float
    std: float

    def z(self, score: float) -> float:
        """Return how many standard deviations a score is above the mean."""
        return (score - self.mean) / self.std


class ZScoreConfig(RewardConfig):
    """A reward in standard deviations from the mean."""

    kind: Literal["z-score"] = "z-score"
    """The kind."""
    reward: RewardConfig
    """The reward to rescale."""
    within: Literal["prompt", "fixed"] = "prompt"
    """`prompt` uses mean and standard deviation of the prompt's candidates, `fixed` the values of
    `mean` and `std`."""
    mean: float | None = None
    """Mean in the reward's units, for `fixed`."""
    std: float | None = Field(default=None, gt=0)
    """Standard deviation in the reward's units, for `fixed`."""
    name: RewardName | None = None
    """Name of the score in every table; by default made from the reward's name."""

    @model_validator(mode="after")
    def _fixed_has_numbers(self) -> "ZScoreConfig":
        numbers = [number for number in (self.mean, self.std) if number is not None]
        if len(numbers) != (2 if self.within == "fixed" else 0):
            raise ValueError(
                f"got within {self.within!r} with mean {self.mean} and std {self.std}, expected "
                "both numbers with 'fixed' and none with 'prompt'"
            )
        return self

    @property
    def scale(self) -> Scale | None:
        """The fixed scale, None for the scale of each prompt's candidates."""
        if self.mean is None or self.std is None:
            return None
        return Scale(self.mean, self.std)

    @property
    def score_name(self) -> str:
        """The given name, or the reward's name and `z`."""
        return self.name or name_from(f"z.{self.reward.score_name}")

    @property
    def rewards_within(self) -> tuple[RewardConfig, ...]:
        """The reward inside."""
        return (self.reward,)

    @property
    def compares_candidates(self) -> bool:
        """Whether mean and standard deviation are those of the prompt's candidates."""
        return self.within == "prompt" or super().compares_candidates

    def load(self) -> "ZScoreReward":
        """Load the reward inside."""
        return ZScoreReward(self.reward.load(), name=self.score_name, scale=self.scale)


class ZScoreReward:
    """The z-score (score − mean) / std; both are fixed, or those of the prompt's candidates.

    Statistics of the candidates in one call are not an option, because a score would then depend on
    the batch. With the statistics of a prompt's candidates, scores are comparable within this
    prompt only.
    """

    def __init__(self, reward: Reward, *, name: str, scale: Scale | None = None) -> None:
        """Take the reward, and its scale or None for the scale of each prompt's candidates."""
        self.name = name
        self.prompts_at_once = prompts_at_once(reward)
        self._reward = reward
        self._scale = scale

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's z-score; None without a score."""
        scores = checked_scores(self._reward, prompts, completions)
        if self._scale is not None:
            scale = self._scale
            return [None if score is None else scale.z(score) for score in scores]
        groups: dict[str, list[float]] = {}
        for prompt, score in zip(prompts, scores, strict=True):
            if score is not None:
                groups.setdefault(prompt.id, []).append(score)
        scales = {prompt_id: scale_of(group) for prompt_id, group in groups.items()}
        return [
            None if score is None else _z_within(score, scales[prompt.id])
            for prompt, score in zip(prompts, scores, strict=True)
        ]


def scale_of(scores: Sequence[float]) -> Scale | None:
    """Return the mean and population standard deviation, None if the scores are all equal.

    Scores that differ by less than `ROUNDING` count as equal, so that rounding does not separate
    tied candidates. Sums are correctly rounded, so the order of the scores does not matter.
    """
    if max(scores) - min(scores) <= ROUNDING * max(map(abs, scores)):
        return None
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / len(scores)
    return Scale(mean, math.sqrt(variance))


def _z_within(score: float, scale: Scale | None) -> float:
    return 0.0 if scale is None else scale.z(score)
