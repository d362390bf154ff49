"""A Python function of the user's as a reward."""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator

from bonbon.config import Config
from bonbon.errors import BonbonError, ConfigError
from bonbon.records import Message, Prompt
from bonbon.rewards.base import as_scores, raised_at
from bonbon.rewards.name import RewardName, name_from

RewardFunction = Callable[[list[Any], list[str]], Any]
"""Takes prompts and completions, returns a number or None per completion."""


def _is_function_spec(spec: str) -> str:
    module, colon, attribute = spec.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"got function {spec!r}, expected `package.module:function`, such as `rewards:warmth` "
            "for the function `warmth` of rewards.py in the current directory"
        )
    return spec


class FunctionConfig(Config):
    """A Python function of lists of prompts and completions."""

    kind: Literal["function"] = "function"
    """Marks this kind."""
    function: Annotated[str, AfterValidator(_is_function_spec)]
    """`package.module:function`; modules in the current directory are found too."""
    name: RewardName | None = None
    """Name of the score in every table; by default the function's own."""


class FunctionReward:
    """Calls `function(prompts, completions)` with two lists and takes a list of scores back.

    A plain-text prompt is handed over as a string, a chat as a list of message dicts with
    `role` and `content`. The function may return None for a completion that has no score.
    """

    def __init__(self, function: RewardFunction, *, name: str | None = None) -> None:
        """Wrap a function; the name defaults to the function's own."""
        self.name = name or name_from(getattr(function, "__name__", "function"))
        self._function = function

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return what the function returned, as plain floats and None.

        Raises:
            RewardError: the function did not return one finite number or None per completion.
        """
        returned = self._function([_handed_over(prompt) for prompt in prompts], list(completions))
        return as_scores(returned, reward_name=self.name, prompts=prompts)


def load_function(spec: str) -> RewardFunction:
    """Import the function that `package.module:function` names.

    Modules in the current directory come first, as they do for `python -m`.

    Raises:
        ConfigError: the spec is malformed, or there is no such module or function.
    """
    try:
        module_name, _, attribute = _is_function_spec(spec).partition(":")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        found: object = _imported(module_name, spec)
        for part in attribute.split("."):
            found = _member(found, part, spec)
    except (BonbonError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() too: a reward does not end bonbon in silence
        raise ConfigError(_import_failed_line(spec, module_name, error)) from error
    if not callable(found):
        raise ConfigError(
            f"reward function {spec!r} is a {type(found).__name__}, expected a function of two "
            "lists, prompts and completions"
        )
    return cast("RewardFunction", found)


def _handed_over(prompt: Prompt) -> str | list[Message]:
    if isinstance(prompt.content, str):
        return prompt.content
    return [Message(role=turn["role"], content=turn["content"]) for turn in prompt.content]


def _imported(module_name: str, spec: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:  # console scripts, unlike `python -m`, do not look here
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"reward function {spec!r}: there is no module {error.name!r} in the current "
            f"directory ({here}) or among the installed packages; expected an importable "
            "module, so run where the file is, or install its package"
        ) from error


def _import_failed_line(spec: str, module_name: str, error: BaseException) -> str:
    message = " ".join(str(error).split())[:300]
    return (
        f"reward function {spec!r}: importing {module_name} raised {type(error).__name__}: "
        f"{message} ({raised_at(error)}); mend the module, or install what it needs"
    )


def _member(owner: object, name: str, spec: str) -> object:
    if hasattr(owner, name):
        return getattr(owner, name)
    known = [
        other
        for other in dir(owner)
        if not other.startswith("_") and callable(getattr(owner, other, None))
    ]
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(known) or 'none'}"
    where = getattr(owner, "__file__", None) or getattr(owner, "__name__", repr(owner))
    raise ConfigError(
        f"reward function {spec!r}: {where} has no {name!r}, expected one of its functions; {hint}"
    )
