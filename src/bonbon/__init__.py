"""Best-of-n alignment for language models: `import bonbon` is light, each name loads when used."""

from importlib import import_module

from bonbon.records import Candidate, Prompt, ScoredGroup

__version__ = "0.1.0"

__all__ = ["Candidate", "Prompt", "ScoredGroup"]

_HOMES: dict[str, str] = {}


def __getattr__(name: str) -> object:
    """Import the module that defines a public name on first use, and keep the name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bonbon' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
