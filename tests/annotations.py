"""Annotations of a package, checked as its code runs: shapes by jaxtyping, all by beartype."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import install_import_hook

_OF_SHAPES = jaxtyping.jaxtyped
"""What jaxtyping's hook puts before every function and class. It makes three functions of each,
and at every call binds the arguments to their names and checks them twice, which is a good part
of the time of all tests. `checked` finds the same faults."""


def check_annotations(package: str) -> None:
    """Check what functions and dataclasses of a package take and return, once it is imported."""
    setattr(jaxtyping, "jaxtyped", lambda typechecker: checked)  # noqa: B010 - for the hook
    install_import_hook(package, "beartype.beartype")


def checked(what: Any) -> Any:  # noqa: ANN401 - a class or any function
    """Check what a function, or the `__init__` of a dataclass, takes and returns."""
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what) and "__init__" in vars(what):
            setattr(what, "__init__", checked(what.__init__))  # noqa: B010 - pyright forbids it
        return what
    if not inspect.isfunction(what) or inspect.isgeneratorfunction(what):
        return _OF_SHAPES(typechecker=beartype)(what)
    shapes = [shape for hint in inspect.get_annotations(what).values() for shape in _shapes(hint)]
    if not shapes:
        return beartype(what)
    if any("{" in shape for shape in shapes):  # an axis as long as an argument says
        return _OF_SHAPES(typechecker=None)(beartype(what))
    return _with_axes_of_its_own(what)


def _with_axes_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function; the same name of an axis is the same length within one call."""
    plain = beartype(function)

    @functools.wraps(function)
    def wrapped(*args: object, **options: object) -> object:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **options)
        with _OF_SHAPES("context"):
            return plain(*args, **options)

    return wrapped


def _shapes(hint: object) -> list[str]:
    """Return the shapes of the arrays in an annotation. A text counts as a shape of any kind."""
    if isinstance(hint, str):
        return ["{}"]
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return [hint.dim_str]
    parts = hint if isinstance(hint, list) else get_args(hint)  # a list: what a Callable takes
    return [shape for part in parts for shape in _shapes(part)]
