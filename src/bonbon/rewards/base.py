"""What every reward is: its settings, what it takes and gives, and the check of its scores."""

import re
import reprlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Protocol, cast, runtime_checkable

from pydantic import AfterValidator, ValidationError

from bonbon.errors import BonbonError, ConfigError, RewardError
from bonbon.recipe_io import one_line
from bonbon.records import Prompt
from bonbon.registry import KindConfig, Registry

PROMPTS_AT_ONCE = 64
"""Enough for a classifier to find inputs of the same length."""

_KEPT = "mend the reward and run the same command again: what is stored stays stored"


@runtime_checkable
class Reward(Protocol):
    """Scores completions: higher is better, and only the order within a prompt matters.

    A call is given all candidates of each of its prompts, next to each other, so a reward that
    compares candidates with one another finds them by equal `Prompt.id`.
    """

    @property
    def name(self) -> str:
        """Name of the score in every table, fit to be part of a file name."""
        ...

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return one score per completion.

        Args:
            prompts: the prompt of each completion, repeated for each of its candidates.
            completions: decoded text, as long as `prompts`.

        Returns:
            Finite scores in the given order; None where there is no score, which takes the
            candidate out of the ranking and is never a worst score.
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
"""Settings of where and how fast a reward runs: its scores do not depend on them."""

HOLDING_REWARDS = {"reward", "parts", "members"}
"""Settings that hold the rewards within, each of which has a key of its own."""

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
    """A reward's settings, which load it; each kind is a subclass.

    A string is short for one: `vader` for the lexicon, `package.module:function` for a function,
    and anything else for a classifier's hub name or directory.
    """

    registry = REWARDS

    @classmethod
    def in_full(cls, value: object) -> object:
        """Write a one-word reward out."""
        if not isinstance(value, str):
            return value
        if value in {"vader", "lexicon"}:
            return {"kind": "lexicon"}
        if ":" in value:
            return {"kind": "function", "function": value}
        return {"kind": "classifier", "model": value}

    @property
    def score_name(self) -> str:
        """Name of the score in every table, known before anything is loaded."""
        raise NotImplementedError

    def load(self) -> Reward:
        """Load the reward, and all rewards in it.

        Raises:
            ConfigError: its function or model cannot be loaded, or the settings do not fit it.
            MissingExtraError: it needs an optional package.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Find what would keep the reward from loading, before work starts, without its weights.

        Raises:
            ConfigError: its function or model cannot be found, or the settings do not fit it.
            MissingExtraError: it needs an optional package.
        """
        for part in self.rewards_within:
            part.check()

    @property
    def rewards_within(self) -> "tuple[RewardConfig, ...]":
        """The rewards that this one is made of, none for most kinds."""
        return ()

    @property
    def compares_candidates(self) -> bool:
        """Whether a score depends on which other candidates the prompt has.

        Such scores are comparable only among candidates that were scored together.
        """
        return any(part.compares_candidates for part in self.rewards_within)

    def source_files(self) -> dict[str, Path]:
        """Return the files whose code the reward runs, by the names of the functions.

        Raises:
            ConfigError: a function cannot be found.
        """
        return {
            name: file for part in self.rewards_within for name, file in part.source_files().items()
        }

    def columns_read(self, prompts: Sequence[Prompt]) -> set[str]:
        """Return which of the prompts' columns the reward reads.

        Raises:
            ConfigError: a function cannot be found.
        """
        return {name for part in self.rewards_within for name in part.columns_read(prompts)}

    def check_columns(self, prompts: Sequence[Prompt]) -> None:
        """Find out before anything is drawn whether the prompts have what the reward reads.

        Raises:
            PromptError: they lack a column.
            ConfigError: a function cannot be found.
        """
        for part in self.rewards_within:
            part.check_columns(prompts)

    def fingerprints(self) -> dict[str, Any]:
        """Return fingerprints of the files that the settings name, part of the cache key.

        Raises:
            ConfigError: a function cannot be found.
        """
        return {}

    def cache_key(self) -> dict[str, Any]:
        """Return what the scores depend on, the rewards within included.

        Raises:
            ConfigError: a function cannot be found.
        """
        key = {**self.model_dump(mode="json", exclude=BOOKKEEPING), **self.fingerprints()}
        if self.rewards_within:
            for name in HOLDING_REWARDS & set(key):
                del key[name]
            # By place, so that a change is told by the part's own setting.
            key["parts"] = {
                str(place): part.cache_key() for place, part in enumerate(self.rewards_within, 1)
            }
        return key


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
        return RewardConfig.read(reward).load()
    except ValidationError as error:
        values = reward if isinstance(reward, Mapping) else {}
        raise ConfigError(f"reward: {one_line(error, RewardConfig, values)}") from None
    except ValueError as error:
        raise ConfigError(f"reward: {error}") from None


def prompts_at_once(reward: Reward) -> int:
    """Return of how many prompts a stage should hand a reward the candidates in one call.

    A slow reward says by an attribute of this name that it wants fewer than usual, so that little
    is lost to a kill.
    """
    return getattr(reward, "prompts_at_once", PROMPTS_AT_ONCE)


def checked_scores(
    reward: Reward, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[float | None]:
    """Score completions, or say in one line why the reward did not.

    Raises:
        RewardError: the reward raised (the original is the cause), or did not return one finite
            number or None per completion.
    """
    if len(prompts) != len(completions):
        raise RewardError(
            f"reward {reward.name!r} was handed {len(prompts)} prompts and {len(completions)} "
            "completions; expected one prompt per completion: repeat it for each candidate"
        )
    try:
        returned = reward.score(prompts, completions)
    except (BonbonError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() too: a reward does not end bonbon in silence
        raise RewardError(_raised_line(reward.name, error)) from error
    return as_scores(returned, reward_name=reward.name, prompts=prompts)


def as_scores(
    returned: object, *, reward_name: str, prompts: Sequence[Prompt]
) -> list[float | None]:
    """Turn what a reward returned into plain floats and None.

    Lists, tuples, numpy arrays and torch tensors of numbers are all taken.

    Raises:
        RewardError: not one finite number or None per prompt.
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
            f"completions, expected one each (None where there is no score); {_KEPT}"
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
        f"(prompt {prompt_id!r}), expected a finite number, or None where there is no score; "
        f"{_KEPT}"
    )


def _unwrapped(value: object) -> object:
    """Return the plain Python value of a numpy or torch one."""
    tolist = getattr(value, "tolist", None)
    return cast("Any", tolist)() if callable(tolist) else value


def _described(value: object) -> str:
    if value is None or isinstance(value, int | float):
        return str(value)
    return f"a {type(value).__name__} ({' '.join(reprlib.repr(value).split())})"


def _raised_line(reward_name: str, error: BaseException) -> str:
    message = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = raised_at(error)
    return f"reward {reward_name!r} raised {what} ({place}), expected a list of scores; {_KEPT}"


def raised_at(error: BaseException) -> str:
    """Return file:line of an error in the code we called: the deepest line of its own file.

    The libraries that this code calls in turn say less to the person who wrote it.
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
"""Fit to be part of a file name."""


def name_from(source: str) -> str:
    """Return a legal reward name made of a function's name or a path's last part."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", source).strip("-._+")[:100] or "reward"
