"""A Python function as a reward."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator

from bonbon.errors import BonbonError, ConfigError, PromptError
from bonbon.records import Message, Prompt
from bonbon.registry import nearest
from bonbon.rewards.base import RewardConfig, RewardName, as_scores, name_from, raised_at
from bonbon.rewards.code_fingerprint import fingerprint_source, source_of

RewardFunction = Callable[..., Any]
"""Takes prompts, completions and columns, returns a number or None per completion."""

HANDED_OVER = ("prompts", "completions")
"""Arguments of every function; its other arguments are columns of the prompt file."""


def _is_function_spec(spec: str) -> str:
    module, colon, attribute = spec.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"got function {spec!r}, expected `package.module:function`, such as `rewards:warmth` "
            "for the function `warmth` of rewards.py in the current directory"
        )
    return spec


class FunctionConfig(RewardConfig):
    """A Python function of lists of prompts and completions, and of the prompts' columns."""

    kind: Literal["function"] = "function"
    """The kind."""
    function: Annotated[str, AfterValidator(_is_function_spec)]
    """`package.module:function`; modules in the current directory are found too."""
    name: RewardName | None = None
    """Name of the score in every table; by default the function's name."""

    @property
    def score_name(self) -> str:
        """The given name, or the function's name."""
        return self.name or name_from(self.function.replace(":", ".").split(".")[-1])

    def check(self) -> None:
        """Import the function."""
        load_function(self.function)

    def load(self) -> "FunctionReward":
        """Import the function."""
        return FunctionReward(load_function(self.function), name=self.score_name)

    def source_files(self) -> dict[str, Path]:
        """Return the file that defines the function."""
        file = _source_file(load_function(self.function))
        return {} if file is None else {self.function: file}

    def columns_read(self, prompts: Sequence[Prompt]) -> set[str]:
        """Return the prompts' columns that the function takes."""
        arguments = arguments_of(load_function(self.function))
        return set(arguments.columns(columns_among(prompts)))

    def check_columns(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts without a column that the function needs."""
        check_columns(self.score_name, arguments_of(load_function(self.function)), prompts)

    def fingerprints(self) -> dict[str, Any]:
        """Return the fingerprint of the function's module and of all local modules it imports."""
        source = source_of(self.function, load_function(self.function))
        packages = {"packages": source.packages} if source.packages else {}
        return {"source": fingerprint_source(source), **packages}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a reward function.

    Attributes:
        by_name: which of `prompts` and `completions` it takes by name, as TRL's reward functions
            do; if neither, both are its first two arguments.
        required: columns that it needs.
        optional: columns that it takes if they exist.
        takes_all: it takes all columns.
        taken: names of arguments that are not columns.
    """

    by_name: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    takes_all: bool = False
    taken: frozenset[str] = frozenset(HANDED_OVER)

    def columns(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return the known columns to pass to the function."""
        named = {*self.required, *self.optional}
        return tuple(
            name for name in known if name in named or (self.takes_all and name not in self.taken)
        )


def arguments_of(function: RewardFunction) -> Arguments:
    """Return the arguments in a function's signature.

    A function of two arguments with other names gets prompts and completions by position, as in
    earlier versions.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions in C have no signature
        return Arguments()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return Arguments()
    positional = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, _EITHER)
    ]
    named = [
        parameter for parameter in parameters if parameter.kind in (parameter.KEYWORD_ONLY, _EITHER)
    ]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = [parameter.name for parameter in named]
    asks_by_name = "completions" in names or (takes_all and len(positional) < 2)
    if asks_by_name and positional[:1] in ([], ["prompts"], ["completions"]):
        by_name = tuple(name for name in HANDED_OVER if takes_all or name in names)
        taken = frozenset(HANDED_OVER)
    else:
        by_name = ()
        taken = frozenset((*HANDED_OVER, *positional[:2]))
    columns = [parameter for parameter in named if parameter.name not in taken]
    return Arguments(
        by_name=by_name,
        required=tuple(column.name for column in columns if column.default is column.empty),
        optional=tuple(column.name for column in columns if column.default is not column.empty),
        takes_all=takes_all,
        taken=taken,
    )


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


class FunctionReward:
    """Calls a function of prompts and completions that returns a list of scores.

    A plain-text prompt is passed as a string, a chat as a list of message dicts with `role` and
    `content`. The function's other arguments are columns of the prompt file, lists as long as the
    completions; with `**kwargs` it gets all columns. The function may return None for a completion
    without a score.
    """

    def __init__(self, function: RewardFunction, *, name: str | None = None) -> None:
        """Wrap a function; the default name is the function's name."""
        self.name = name or name_from(getattr(function, "__name__", "function"))
        self._function = function
        self._arguments = arguments_of(function)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return the function's scores as plain floats and None.

        Raises:
            PromptError: the prompts have no such column.
            RewardError: the function did not return one finite number or None per completion.
        """
        check_columns(self.name, self._arguments, prompts)
        columns = {
            name: [deepcopy(prompt.columns.get(name)) for prompt in prompts]
            for name in self._arguments.columns(columns_among(prompts))
        }
        arguments: dict[str, list[Any]] = {
            "prompts": [_handed_over(prompt) for prompt in prompts],
            "completions": list(completions),
        }
        if self._arguments.by_name:
            by_name = {name: arguments[name] for name in self._arguments.by_name}
            returned = self._function(**by_name, **columns)
        else:
            returned = self._function(*arguments.values(), **columns)
        return as_scores(returned, reward_name=self.name, prompts=prompts)


def columns_among(prompts: Sequence[Prompt]) -> list[str]:
    """Return the names of the columns that prompts have."""
    return list(dict.fromkeys(name for prompt in prompts for name in prompt.columns))


def check_columns(name: str, arguments: Arguments, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts without a column that a function needs.

    Args:
        name: name of the function.
        arguments: its arguments.
        prompts: the prompts to score.

    Raises:
        PromptError: a column is missing.
    """
    known = columns_among(prompts)
    missing = [column for column in arguments.required if column not in known]
    if prompts and missing:
        raise PromptError(
            f"reward function {name!r} needs the column {missing[0]!r}, but the prompts have "
            f"{', '.join(map(repr, known)) or 'no columns, since they are not from a file'}; add "
            "the column to the prompt file, or give the argument a default"
        )


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
        function: object = _imported(module_name, spec)
        for part in attribute.split("."):
            function = _member(function, part, spec)
    except (BonbonError, KeyboardInterrupt):
        raise
    except (
        BaseException
    ) as error:  # also sys.exit(): a reward must not end bonbon without a message
        raise ConfigError(_import_failed_line(spec, module_name, error)) from error
    if not callable(function):
        raise ConfigError(
            f"reward function {spec!r} is a {type(function).__name__}, expected a function of two "
            "lists, prompts and completions"
        )
    return cast("RewardFunction", function)


def _source_file(function: RewardFunction) -> Path | None:
    """Return the file that defines a function, None if there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except (TypeError, ValueError):  # built in, or wrapped in itself
        return None
    return None if file is None or not Path(file).is_file() else Path(file)


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
        f"{message} ({raised_at(error)}); repair the module, or install what it needs"
    )


def _member(owner: object, name: str, spec: str) -> object:
    if hasattr(owner, name):
        return getattr(owner, name)
    known = [
        other
        for other in dir(owner)
        if not other.startswith("_") and callable(getattr(owner, other, None))
    ]
    hint = nearest(name, known) or f"; it has {', '.join(known) or 'none'}"
    where = getattr(owner, "__file__", None) or getattr(owner, "__name__", repr(owner))
    raise ConfigError(
        f"reward function {spec!r}: {where} has no {name!r}, expected one of its functions{hint}"
    )
