"""The base class of all configs, and the types of values that several of them use."""

import re
from pathlib import Path
from typing import Annotated, TypeVar, cast

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
"""A list in YAML; its items are validated strictly."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that numpy, torch and transformers all accept."""


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


AnyPath = str | Path
"""A file or directory as the public functions take it."""


def as_path(path: AnyPath) -> Path:
    """Return a path; a string may begin with `~`, which stands for the home directory.

    Raises:
        ConfigError: it is no path, or the user named after `~` has no home directory.
    """
    if isinstance(path, Path):
        return path
    if not isinstance(cast("object", path), str):
        raise ConfigError(f"got {path!r}, expected a path")
    return at_home(Path(path))


UserPath = Annotated[Path, Strict(False), AfterValidator(at_home)]
"""A path that may begin with `~`."""


_KEY = (
    r"\bsk-[A-Za-z0-9_-]{6,}|\b(?:xai|pplx|nvapi|glpat)-[A-Za-z0-9_-]{16,}"
    r"|\b(?:hf|gsk|r8|gh[opsu])_[A-Za-z0-9]{16,}"
    r"|\bAIza[A-Za-z0-9_-]{16,}|\bAKIA[A-Z0-9]{12,}|\beyJ[A-Za-z0-9_.-]{16,}"
)
_USER = r"(?<=://)[^/\s@'\"]+@"
_PARAMETER = (
    r"(?<=[?&])((?:[a-z_-]*(?:key|token|secret|password|auth|signature|sig)[a-z_-]*)=)[^&\s'\"]+"
)
_SECRET = re.compile(f"{_USER}|{_PARAMETER}|{_KEY}", re.IGNORECASE)
_RANDOM = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/=.-]{20,}")


def looks_secret(text: str) -> bool:
    """Return whether a text is, or holds, what looks like a key or a password."""
    return _SECRET.search(text) is not None


def is_random(text: str) -> bool:
    """Return whether a text is one long run of letters and digits, like a key and unlike a name."""
    return _RANDOM.fullmatch(text.strip()) is not None


def without_secrets(text: str) -> str:
    """Return a text with `…` in place of all that looks like a key or a password."""
    return _SECRET.sub(lambda found: f"{found[1] or ''}…{'@' * found[0].endswith('@')}", text)
