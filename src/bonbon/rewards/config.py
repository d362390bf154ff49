"""Which reward to use: one union of every kind's config, and the loading of any of them.

The configs of rewards that hold other rewards stand here, and not beside their classes, because
each of them and the union need one another.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bonbon.config import Config, Several, without_secrets
from bonbon.errors import ConfigError, PolicyError
from bonbon.models.policy import PolicyConfig, load_policy_tokenizer
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, RewardName, name_from
from bonbon.rewards.combinators import (
    Combine,
    EnsembleReward,
    LengthOf,
    LengthPenaltyReward,
    Scale,
    Unit,
    WeightedSumReward,
    ZScoreReward,
    num_words,
    token_counter,
)
from bonbon.rewards.function import (
    Arguments,
    FunctionConfig,
    FunctionReward,
    arguments_of,
    check_columns,
    columns_among,
    load_function,
    source_file,
)
from bonbon.rewards.judge.config import JudgeConfig, check_judge, judge_name, load_judge
from bonbon.rewards.lexicon import LexiconConfig, LexiconReward
from bonbon.rewards.models.classifier import (
    ClassifierConfig,
    classifier_name,
    load_classifier,
    read_classifier,
)
from bonbon.rewards.models.pairwise import PairwiseConfig, load_pairwise, read_pairwise
from bonbon.rewards.tfidf import TfidfConfig, check_tfidf, load_tfidf, tfidf_name


def check_keys(given: Mapping[str, object], kinds: Mapping[str, type[Config]]) -> None:
    """Refuse a reward without a known kind, or with keys that do not go with its kind.

    Raises:
        ValueError: one line, with the nearest name that would do.
    """
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(_unknown_kind_line(kind, given, kinds))
    for key in given:
        if key not in kinds[kind].model_fields:
            raise ValueError(_unknown_key_line(key, kind, kinds))
    if missing := _missing(given, kinds[kind]):
        raise ValueError(f"got a reward of kind {kind!r} without `{missing}`; add it")


def check_part_keys(given: Mapping[str, object], part: type[Config], what: str) -> None:
    """Refuse keys that a part of a reward does not have.

    Args:
        given: the part.
        part: what it becomes.
        what: to call it.

    Raises:
        ValueError: one line, with the nearest name that would do.
    """
    for key in given:
        if key not in part.model_fields:
            known = list(part.model_fields)
            line = f"{what} has no `{without_secrets(key)}`, expected one of {', '.join(known)}"
            raise ValueError(line + _nearest(key, known, quote="`"))
    if missing := _missing(given, part):
        raise ValueError(f"got {what} without `{missing}`; add it")


def _missing(given: Mapping[str, object], model: type[Config]) -> str | None:
    required = (key for key, field in model.model_fields.items() if field.is_required())
    return next((key for key in required if key not in given), None)


def _unknown_kind_line(
    kind: object, given: Mapping[str, object], known: Mapping[str, type[Config]]
) -> str:
    kinds = ", ".join(known)
    if "kind" in given:
        return f"got reward kind {kind!r}, expected one of {kinds}{_nearest(str(kind), known)}"
    fitting = [other for other in known if set(given) <= set(known[other].model_fields)]
    hint = f"; add `kind: {fitting[0]}`" if len(fitting) == 1 else ""
    return f"got a reward without `kind`, expected one of {kinds}{hint}"


def _unknown_key_line(key: str, kind: str, kinds: Mapping[str, type[Config]]) -> str:
    known = list(kinds[kind].model_fields)
    name = without_secrets(key)
    line = f"a reward of kind {kind!r} has no `{name}`, expected one of {', '.join(known)}"
    if nearest := _nearest(key, known, quote="`"):
        return line + nearest
    owners = [repr(other) for other, owner in kinds.items() if key in owner.model_fields]
    return f"{line}; `{name}` belongs to kind {' or '.join(owners)}" if owners else line


def _nearest(name: str, known: Iterable[str], *, quote: str = "'") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {quote}{close[0]}{quote}?" if close else ""


def _some(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not pydantic's own check of the length, which counts a part that is wrong as missing.
    if not parts:
        raise ValueError("got a sum without parts, expected at least one")
    return parts


def _several(members: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(members) < 2:
        raise ValueError(f"got an ensemble of {len(members)}, expected at least two members")
    return members


class LengthPenaltyConfig(Config):
    """A reward that longer completions pay for."""

    kind: Literal["length-penalty"] = "length-penalty"
    """Marks this kind."""
    reward: "RewardConfig"
    """What is paid from."""
    penalty: float = Field(gt=0)
    """Subtracted for every unit beyond the free ones."""
    unit: Unit = "words"
    """What length is counted in."""
    free: int = Field(default=0, ge=0, le=1_000_000_000)
    """Units that cost nothing."""
    tokenizer: str | None = None
    """Whose tokens to count if the unit is tokens: a model's hub name or directory."""
    name: RewardName | None = None
    """Name of the score in every table; by default made of the reward's."""

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> "LengthPenaltyConfig":
        if (self.unit == "tokens") != (self.tokenizer is not None):
            raise ValueError(
                f"got unit {self.unit!r} with tokenizer {self.tokenizer!r}, expected a tokenizer "
                "if and only if the unit is tokens"
            )
        return self


class WeightedPart(Config):
    """A reward in a sum, and how much it counts."""

    reward: "RewardConfig"
    """One of the terms."""
    weight: float = 1.0
    """Its factor; a negative one makes it a cost."""

    @model_validator(mode="before")
    @classmethod
    def _in_known_words(cls, value: object) -> object:
        if isinstance(value, Mapping):
            check_part_keys(cast("Mapping[str, object]", value), cls, "a part of a sum")
        return value


class SumConfig(Config):
    """A weighted sum of rewards."""

    kind: Literal["sum"] = "sum"
    """Marks this kind."""
    parts: Annotated[Several[WeightedPart], AfterValidator(_some)]
    """The terms, `{reward: …, weight: …}` each."""
    name: RewardName | None = None
    """Name of the score in every table; by default made of the parts'."""


class EnsembleConfig(Config):
    """Several rewards for the same thing."""

    kind: Literal["ensemble"] = "ensemble"
    """Marks this kind."""
    members: Annotated[Several["RewardConfig"], AfterValidator(_several)]
    """Rewards on one scale."""
    combine: Combine = "mean"
    """`mean`; `min`, the least; or `mean-minus-std`, the mean minus c standard deviations."""
    c: float | None = Field(default=None, ge=0)
    """Weight of the standard deviation over the members, by default 1; for `mean-minus-std`."""
    name: RewardName | None = None
    """Name of the score in every table; by default made of the members'."""

    @model_validator(mode="after")
    def _c_has_an_effect(self) -> "EnsembleConfig":
        if self.c is not None and self.combine != "mean-minus-std":
            raise ValueError(
                f"got c = {self.c} with combine {self.combine!r}, expected c only with "
                "'mean-minus-std'; leave one of them out"
            )
        return self


class ZScoreConfig(Config):
    """A reward in standard deviations from its mean."""

    kind: Literal["z-score"] = "z-score"
    """Marks this kind."""
    reward: "RewardConfig"
    """What to put on this scale."""
    within: Literal["prompt", "fixed"] = "prompt"
    """`prompt` takes mean and standard deviation of the prompt's candidates, `fixed` the ones
    below."""
    mean: float | None = None
    """In the reward's units; for `fixed`."""
    std: float | None = Field(default=None, gt=0)
    """In the reward's units; for `fixed`."""
    name: RewardName | None = None
    """Name of the score in every table; by default made of the reward's."""

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
        """The fixed scale, None for the prompt's own."""
        if self.mean is None or self.std is None:
            return None
        return Scale(self.mean, self.std)


def _in_full(value: object) -> object:
    """Write a one-word reward out, and refuse in one line keys that do not go with the kind."""
    if isinstance(value, str):
        return _written_out(value)
    if isinstance(value, Mapping):
        check_keys(cast("Mapping[str, object]", value), _KINDS)
    return value


RewardConfig = Annotated[
    LexiconConfig
    | FunctionConfig
    | ClassifierConfig
    | PairwiseConfig
    | JudgeConfig
    | TfidfConfig
    | LengthPenaltyConfig
    | SumConfig
    | EnsembleConfig
    | ZScoreConfig,
    Field(discriminator="kind"),
    BeforeValidator(_in_full),
]
"""A reward's config, told apart by `kind`.

A string is short for one: `vader` for the lexicon, `package.module:function` for a function,
and anything else for a classifier's hub name or directory.
"""

_KINDS: dict[str, type[Config]] = {
    "lexicon": LexiconConfig,
    "function": FunctionConfig,
    "classifier": ClassifierConfig,
    "pairwise": PairwiseConfig,
    "judge": JudgeConfig,
    "tfidf": TfidfConfig,
    "length-penalty": LengthPenaltyConfig,
    "sum": SumConfig,
    "ensemble": EnsembleConfig,
    "z-score": ZScoreConfig,
}

for _kind in (LengthPenaltyConfig, WeightedPart, SumConfig, EnsembleConfig, ZScoreConfig):
    _kind.model_rebuild()


def load_reward(config: RewardConfig) -> Reward:
    """Load the reward that a config describes, and all rewards in it.

    Raises:
        ConfigError: its function or model cannot be loaded, or the settings do not fit it.
        MissingExtraError: it needs an optional package.
    """
    match config:
        case LexiconConfig():
            return LexiconReward(name=config.name)
        case FunctionConfig():
            return FunctionReward(load_function(config.function), name=reward_name(config))
        case ClassifierConfig():
            return load_classifier(config)
        case PairwiseConfig():
            return load_pairwise(config)
        case JudgeConfig():
            return load_judge(config)
        case TfidfConfig():
            return load_tfidf(config)
        case LengthPenaltyConfig() | SumConfig() | EnsembleConfig() | ZScoreConfig():
            return _load_combination(config)


def reward_name(config: RewardConfig) -> str:
    """Return the name that the loaded reward will have, without loading anything."""
    match config:
        case LexiconConfig():
            return config.name
        case FunctionConfig():
            return config.name or name_from(config.function.replace(":", ".").split(".")[-1])
        case ClassifierConfig() | PairwiseConfig():
            return classifier_name(config)
        case JudgeConfig():
            return judge_name(config)
        case TfidfConfig():
            return tfidf_name(config)
        case LengthPenaltyConfig() | SumConfig() | EnsembleConfig() | ZScoreConfig():
            return config.name or _combination_name(config)


def check_reward(config: RewardConfig) -> None:
    """Find what would keep a reward from loading, before work starts and without its weights.

    Raises:
        ConfigError: its function or model cannot be found, or the settings do not fit it.
        MissingExtraError: it needs an optional package.
    """
    match config:
        case LexiconConfig() | SumConfig() | EnsembleConfig() | ZScoreConfig():
            pass
        case FunctionConfig():
            load_function(config.function)
        case ClassifierConfig():
            read_classifier(config)
        case PairwiseConfig():
            read_pairwise(config)
        case JudgeConfig():
            check_judge(config)
        case TfidfConfig():
            check_tfidf(config)
        case LengthPenaltyConfig():
            _length_of(config)
    for inner in rewards_within(config):
        check_reward(inner)


def rewards_within(config: RewardConfig) -> tuple[RewardConfig, ...]:
    """Return the rewards that a reward is made of, none for most kinds."""
    match config:
        case LengthPenaltyConfig() | ZScoreConfig():
            return (config.reward,)
        case SumConfig():
            return tuple(part.reward for part in config.parts)
        case EnsembleConfig():
            return config.members
        case _:
            return ()


def function_files(config: RewardConfig) -> dict[str, Path]:
    """Return the files that the functions in a reward come from, by the functions' names.

    Raises:
        ConfigError: a function cannot be found.
    """
    inner = {
        spec: file for each in rewards_within(config) for spec, file in function_files(each).items()
    }
    file = source_file(config.function) if isinstance(config, FunctionConfig) else None
    return inner if file is None else {cast("FunctionConfig", config).function: file, **inner}


def compares_candidates(config: RewardConfig) -> bool:
    """Return whether a score depends on which other candidates the prompt has.

    Such scores are comparable only among candidates that were scored together.
    """
    match config:
        case PairwiseConfig():
            return True
        case JudgeConfig() if config.mode == "pairwise":
            return True
        case ZScoreConfig() if config.within == "prompt":
            return True
        case _:
            return any(compares_candidates(inner) for inner in rewards_within(config))


def _load_combination(
    config: LengthPenaltyConfig | SumConfig | EnsembleConfig | ZScoreConfig,
) -> Reward:
    name, inner = reward_name(config), [load_reward(each) for each in rewards_within(config)]
    match config:
        case LengthPenaltyConfig():
            return LengthPenaltyReward(
                inner[0],
                name=name,
                penalty=config.penalty,
                free=config.free,
                length_of=_length_of(config),
            )
        case SumConfig():
            weights = [part.weight for part in config.parts]
            return WeightedSumReward(inner, weights, name=name)
        case EnsembleConfig():
            c = 1.0 if config.c is None else config.c
            return EnsembleReward(inner, name=name, combine=config.combine, c=c)
        case ZScoreConfig():
            return ZScoreReward(inner[0], name=name, scale=config.scale)


def _combination_name(
    config: LengthPenaltyConfig | SumConfig | EnsembleConfig | ZScoreConfig,
) -> str:
    inner = "+".join(reward_name(each) for each in rewards_within(config))
    match config:
        case LengthPenaltyConfig():
            return name_from(f"{inner}-length")
        case SumConfig():
            return name_from(inner)
        case EnsembleConfig():
            return name_from(f"{config.combine}.{inner}")
        case ZScoreConfig():
            return name_from(f"z.{inner}")


def _length_of(config: LengthPenaltyConfig) -> LengthOf:
    if config.tokenizer is None:
        return num_words if config.unit == "words" else len
    try:
        source = load_policy_tokenizer(PolicyConfig(model=config.tokenizer))
    except PolicyError as error:
        raise ConfigError(f"the tokenizer of a length penalty: {error}") from error
    return token_counter(source.tokenizer)


def _written_out(short: str) -> dict[str, object]:
    if short in {"vader", "lexicon"}:
        return {"kind": "lexicon"}
    if ":" in short:
        return {"kind": "function", "function": short}
    return {"kind": "classifier", "model": short}


def check_reward_columns(config: RewardConfig, prompts: Sequence[Prompt]) -> None:
    """Find out before anything is drawn whether the prompts have what a reward reads.

    Raises:
        PromptError: they lack a column.
        ConfigError: a function cannot be found.
    """
    for name, arguments in _functions(config):
        check_columns(name, arguments, prompts)


def columns_read(config: RewardConfig, prompts: Sequence[Prompt]) -> list[str]:
    """Return the columns that a reward reads of these prompts.

    Raises:
        ConfigError: a function cannot be found.
    """
    known = columns_among(prompts)
    read = {name for _, arguments in _functions(config) for name in arguments.columns(known)}
    return sorted(read)


def _functions(config: RewardConfig) -> Iterator[tuple[str, Arguments]]:
    """Yield the functions that a reward calls, each with what it takes."""
    if isinstance(config, FunctionConfig):
        yield reward_name(config), arguments_of(load_function(config.function))
    for inner in rewards_within(config):
        yield from _functions(inner)
