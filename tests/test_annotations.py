"""Annotations are checked while the tests run: of functions, of dataclasses, and of arrays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from tests.annotations import checked

Row = Float[np.ndarray, " width"]


def plain(count: int, names: Sequence[str] = ()) -> str:
    return "".join(names) if names else None if count < 0 else "x"  # pyright: ignore[reportReturnType]


def joined(left: Row, right: Row, *, longer: bool = False) -> Row:
    return np.append(left + right, 1.0) if longer else left + right


def counted(count: int) -> Float[np.ndarray, " {count}"]:
    return np.zeros(abs(count))


def optional(rows: list[Row] | None, of: Callable[[Row], Row] | None = None) -> Row | None:
    return rows[0] if rows and of is None else None


def each(rows: Sequence[Row]) -> Iterator[Row]:
    yield from rows


@dataclass(frozen=True)
class Pair:
    left: Row
    right: Row
    name: str = ""


TWO, THREE = np.zeros(2), np.zeros(3)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (plain, (1, ["a"])),
        (joined, (TWO, TWO)),
        (counted, (3,)),
        (optional, ([TWO, TWO],)),
        (optional, (None,)),
        (each, ([TWO],)),
        (Pair, (TWO, TWO)),
    ],
)
def test_what_fits_passes(function: Any, arguments: Sequence[Any]) -> None:  # noqa: ANN401
    for _ in range(2):  # what one call saw does not bind the next
        checked(function)(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "options"),
    [
        (plain, ("1",), {}),
        (plain, (1, [2]), {}),
        (plain, (-1,), {}),
        (joined, (TWO, THREE), {}),
        (joined, (TWO, TWO), {"longer": True}),
        (joined, (TWO, TWO), {"longer": 1}),
        (joined, (TWO, np.zeros(2, int)), {}),
        (counted, (-3,), {}),
        (optional, (TWO,), {}),
        (each, (TWO,), {}),
        (Pair, (TWO, THREE), {}),
        (Pair, (TWO, TWO, 3), {}),
    ],
)
def test_what_does_not_fit_is_refused(
    function: Any,  # noqa: ANN401
    arguments: Sequence[Any],
    options: dict[str, Any],
) -> None:
    with pytest.raises(Exception, match=r"violate|[Tt]ype-check"):
        checked(function)(*arguments, **options)


def test_the_package_is_checked() -> None:
    from bonbon.theory import estimators  # noqa: PLC0415

    with pytest.raises(Exception, match=r"violates|[Tt]ype-check"):
        estimators.best_of_n_weights("4", 2)  # pyright: ignore[reportArgumentType]
