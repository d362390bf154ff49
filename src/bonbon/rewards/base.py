"""Interface of rewards, their settings, and the check of the scores that they return."""

import re
import reprlib
import sys
import traceback
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Protocol, cast, runtime_checkable

from pydantic import AfterValidator, ValidationError

from bonbon.base_config import Config
from bonbon.errors import BonbonError, ConfigError, RewardError
from bonbon.recipe_io import one_line
from bonbon.records import Prompt
from bonbon.registry import KindConfig, Registry

PROMPTS_AT_ONCE = 64
"""Prompts per call; enough for a classifier to batch inputs of similar length."""

_KEPT = "repair the reward and run the same command again: stored results are kept"


@runtime_checkable
class Reward(Protocol):
    """Scores completions: higher is better, and only the order within a prompt matters.

    A call gets all candidates of each of its prompts, next to each other, so a reward that compares
    candidates finds them by equal `Prompt.id`.
    """

    @property
    def name(self) -> str:
        """Name of the score in every table; it must be usable in a file name."""
        ...

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return one score per completion.

        Args:
            prompts: the prompt of each completion, repeated for all its candidates.
            completions: decoded texts, one per prompt in `prompts`.

        Returns:
            Finite scores in the given order. None means no score: the candidate is not ranked,
            which differs from the worst score.
        """
        ...


BOOKKEEPING = {
    "device",
    "batch_tokens",
    "trust_remote_code",
    "api_key_env",
    "base_url",
    "concurrency",
    "max_retries",
    "timeout_s",
}
"""Settings of device, speed and access, which do not change the scores."""

HOLDING_REWARDS = {"reward", "parts", "members"}
"""Settings that hold other rewards, which have cache keys of their own."""

REWARDS: "Registry[type[RewardConfig]]" = Registry(
    "bonbon.rewards",
    "reward kind",
    {
        "lexicon": "bonbon.rewards.lexicon:LexiconConfig",
        "function": "bonbon.rewards.function:FunctionConfig",
        "classifier": "bonbon.rewards.models.classifier:ClassifierConfig",
        "pairwise": "bonbon.rewards.models.pairwise:PairwiseConfig",
        "judge": "bonbon.rewards.judge.config:JudgeConfig",
        "tfidf": "bonbon.rewards.tfidf:TfidfConfig",
        "length-penalty": "bonbon.rewards.combinators:LengthPenaltyConfig",
        "sum": "bonbon.rewards.combinators:SumConfig",
        "ensemble": "bonbon.rewards.combinators:EnsembleConfig",
        "z-score": "bonbon.rewards.combinators:ZScoreConfig",
    },
)
"""All kinds of rewards; other packages add theirs through the entry point `bonbon.rewards`."""


class RewardConfig(KindConfig):
    """Settings of a reward, with methods that check and load it; each kind is a subclass.

    A string is short for one: `vader` for the lexicon, `package.module:function` for a function,
    and anything else for a classifier's hub name or directory.
    """

    registry = REWARDS

    @classmethod
    def in_full(cls, value: object) -> object:
        """Expand a reward given as one string."""
        if not isinstance(value, str):
            return value
        if value in {"vader", "lexicon"}:
            return {"kind": "lexicon"}
        if ":" in value:
            return {"kind": "function", "function": value}
        return {"kind": "classifier", "model": value}

    @property
    @abstractmethod
    def score_name(self) -> str:
        """Name of the score in every table, known before anything is loaded."""

    @abstractmethod
    def load(self) -> Reward:
        """Load the reward and all rewards inside it.

        Raises:
            ConfigError: its function or model cannot be loaded, or the settings do not fit it.
            MissingExtraError: it needs an optional package.
        """

    def check(self) -> None:
        """Check before work starts, and without weights, that the reward can be loaded.

        Raises:
            ConfigError: its function or model cannot be found, or the settings do not fit it.
            MissingExtraError: it needs an optional package.
        """
        for part in self.rewards_within:
            part.check()

    @property
    def rewards_within(self) -> "tuple[RewardConfig, ...]":
        """The rewards inside this one; most kinds have none."""
        return ()

    @property
    def compares_candidates(self) -> bool:
        """Whether a score depends on the other candidates of the prompt.

        Such scores are comparable only between candidates that were scored together.
        """
        return any(part.compares_candidates for part in self.rewards_within)

    def source_files(self) -> dict[str, Path]:
        """Return the files of the functions that the reward calls, by function name.

        Raises:
            ConfigError: a function cannot be found.
        """
        return {
            name: file for part in self.rewards_within for name, file in part.source_files().items()
        }

    def columns_read(self, prompts: Sequence[Prompt]) -> set[str]:
        """Return the prompts' columns that the reward reads.

        Raises:
            ConfigError: a function cannot be found.
        """
        return {name for part in self.rewards_within for name in part.columns_read(prompts)}

    def check_columns(self, prompts: Sequence[Prompt]) -> None:
        """Check before sampling that the prompts have the columns that the reward reads.

        Raises:
            PromptError: a column is missing.
            ConfigError: a function cannot be found.
        """
        for part in self.rewards_within:
            part.check_columns(prompts)

    def fingerprints(self) -> dict[str, Any]:
        """Return fingerprints of the files in the settings, as part of the cache key.

        Raises:
            ConfigError: a function cannot be found.
        """
        return {}

    def cache_key(self) -> dict[str, Any]:
        """Return what the scores depend on, including the rewards inside this one.

        Raises:
            ConfigError: a function cannot be found.
        """
        key = {**self.model_dump(mode="json", exclude=BOOKKEEPING), **self.fingerprints()}
        if self.rewards_within:
            for name in HOLDING_REWARDS & set(key):
                del key[name]
            # Numbered, so that a message about a change can name the part's setting.
            key["parts"] = {
                str(number): part.cache_key() for number, part in enumerate(self.rewards_within, 1)
            }
        return key


class _GivenReward(Config):
    """A reward under the key that it has in a recipe, so that errors name the same keys."""

    reward: RewardConfig


def read_reward(reward: object) -> RewardConfig:
    """Return the settings of a reward given as in a recipe.

    Raises:
        ConfigError: there is no such reward, or a setting does not fit it.
    """
    values = {"reward": reward}
    try:
        return _GivenReward.model_validate(values).reward
    except ValidationError as error:
        raise ConfigError(one_line(error, _GivenReward, values)) from None


def load_reward(reward: "RewardConfig | str | Mapping[str, Any]") -> Reward:
    """Load a reward.

    Args:
        reward: as in a recipe: `vader`, `package.module:function`, a classifier's hub name or
            directory, or keys and values with `kind`.

    Raises:
        ConfigError: there is no such reward, or it cannot be loaded.
        MissingExtraError: it needs an optional package.
    """
    try:
        return read_reward(reward).load()
    except BonbonError:
        raise
    except ValueError as error:
        raise ConfigError(f"reward: {error}") from error


def prompts_at_once(reward: Reward) -> int:
    """Return the number of prompts whose candidates a stage passes to a reward in one call.

    A slow reward has an attribute of this name with a smaller number than usual, so that a killed
    run loses few scores.
    """
    return getattr(reward, "prompts_at_once", PROMPTS_AT_ONCE)


def checked_scores(
    reward: Reward, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[float | None]:
    """Score completions and check the scores.

    Raises:
        RewardError: the reward raised an error (which is the cause), or did not return one finite
            number or None per completion.
    """
    if len(prompts) != len(completions):
        raise RewardError(
            f"reward {reward.name!r} was given {len(prompts)} prompts and {len(completions)} "
            "completions; expected one prompt per completion: repeat it for each candidate"
        )
    try:
        returned = reward.score(prompts, completions)
    except (BonbonError, KeyboardInterrupt):
        raise
    except (
        BaseException
    ) as error:  # also sys.exit(): a reward must not end bonbon without a message
        raise RewardError(_raised_line(reward.name, error)) from error
    return as_scores(returned, reward_name=reward.name, prompts=prompts)


def as_scores(
    returned: object, *, reward_name: str, prompts: Sequence[Prompt]
) -> list[float | None]:
    """Convert what a reward returned to plain floats and None.

    Lists, tuples, numpy arrays and torch tensors of numbers are accepted.

    Raises:
        RewardError: there is not one finite number or None per prompt.
    """
    returned = _unwrapped(returned)
    if not isinstance(returned, list | tuple):
        raise RewardError(
            f"reward {reward_name!r} returned {_described(returned)}, expected a list of "
            f"{len(prompts)} numbers, one per completion; {_KEPT}"
        )
    values = cast("Sequence[object]", returned)
    if len(values) != len(prompts):
        raise RewardError(
            f"reward {reward_name!r} returned {len(values)} scores for {len(prompts)} "
            f"completions, expected one each (None for no score); {_KEPT}"
        )
    return [
        _as_score(value, position, reward_name=reward_name, prompt_id=prompt.id)
        for position, (value, prompt) in enumerate(zip(values, prompts, strict=True))
    ]


def _as_score(value: object, position: int, *, reward_name: str, prompt_id: str) -> float | None:
    value = _unwrapped(value)
    if value is None:
        return None
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    raise RewardError(
        f"reward {reward_name!r} returned {_described(value)} for completion {position} "
        f"(prompt {prompt_id!r}), expected a finite number, or None for no score; "
        f"{_KEPT}"
    )


def _unwrapped(value: object) -> object:
    """Return the plain Python value of a numpy or torch value."""
    tolist = getattr(value, "tolist", None)
    return cast("Any", tolist)() if callable(tolist) else value


def _described(value: object) -> str:
    if value is None or isinstance(value, int | float):
        return str(value)
    return f"a {type(value).__name__} ({' '.join(reprlib.repr(value).split())})"


def _raised_line(reward_name: str, error: BaseException) -> str:
    message = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    location = raised_at(error)
    return f"reward {reward_name!r} raised {what} ({location}), expected a list of scores; {_KEPT}"


def raised_at(error: BaseException) -> str:
    """Return file:line of an error in the user's code: the deepest line in its file.

    Lines of the libraries that this code calls would help its author less.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = list(traceback.walk_tb(error.__traceback__))
    ours = [index for index, (frame, _) in enumerate(frames) if _is_ours(frame)]
    called = frames[ours[-1] + 1 :] if ours else frames
    theirs = [entry for entry in called if not _is_import_machinery(entry[0])] or frames[-1:]
    file = theirs[0][0].f_code.co_filename
    line = [number for frame, number in theirs if frame.f_code.co_filename == file][-1]
    return f"{file}:{line}"


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "bonbon"


def _is_import_machinery(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0].lstrip("_") in {
        "importlib",
        "frozen_importlib",
        "frozen_importlib_external",
    }


def _is_file_name_part(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        raise ValueError(
            f"got the reward name {name!r}, expected at most 100 letters, digits and `. _ + -`, "
            "a letter or digit first, since it becomes part of a file name"
        )
    return name


RewardName = Annotated[str, AfterValidator(_is_file_name_part)]
"""A name that can be part of a file name."""


def name_from(source: str) -> str:
    """Return a valid reward name made from a function's name or the last part of a path."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", source).strip("-._+")[:100] or "reward"
