"""Errors with messages for users: what was got, what was expected, what to do."""

import difflib
from collections.abc import Iterable


class BonbonError(Exception):
    """A problem that the user can fix; the command line prints it in one line and exits with 2."""


class DamagedFileError(BonbonError):
    """A file of a run directory that is not what was written."""


class ConfigError(BonbonError, ValueError):
    """A setting, file or combination of settings that cannot work."""


class PromptError(BonbonError, ValueError):
    """A prompt file or a prompt that cannot be used."""


class RewardError(BonbonError, ValueError):
    """A reward that failed or returned something that is not one score per completion."""


class PolicyError(BonbonError, ValueError):
    """A model or tokenizer that cannot be loaded or cannot do what is asked of it."""


class EngineError(BonbonError, RuntimeError):
    """A sampling engine or a server that fails, cannot be reached or refuses what is asked."""


class TrainingError(BonbonError, RuntimeError):
    """Candidates that carry no preference, or training that went wrong."""


class MissingExtraError(BonbonError, ImportError):
    """An optional dependency that is not installed."""


def nearest(name: str, known: Iterable[str], *, quote: str = "'") -> str:
    """Return "; did you mean …?" with the known name most like a wrong one, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {quote}{close[0]}{quote}?" if close else ""
