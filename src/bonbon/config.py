"""The base of every stage's configuration, and the kinds of values that several of them hold."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from bonbon.errors import ConfigError

Item = TypeVar("Item")


class Config(BaseModel):
    """Frozen settings; unknown keys and values of another type are refused, never converted.

    Attribute docstrings become descriptions.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a key
        use_attribute_docstrings=True,
    )


Several = Annotated[tuple[Item, ...], Strict(False)]
"""A list in YAML; the items are as strict as ever."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every random number generator takes: numpy's, torch's and transformers'."""


def at_home(path: Path) -> Path:
    """Return a path with `~` replaced by the home directory, which no shell does in a setting.

    Raises:
        ConfigError: the user named after `~` has none.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(
            f"got {str(path)!r}, but there is no home directory of that user; write the path out"
        ) from None


UserPath = Annotated[Path, Strict(False), AfterValidator(at_home)]
"""A path as a person writes it."""
