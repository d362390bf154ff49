"""Keys and passwords, told by how they look, so that none is written where others read it."""

import re

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
    """Return whether a text is one long run of letters and digits, as keys are and names not."""
    return _RANDOM.fullmatch(text.strip()) is not None


def without_secrets(text: str) -> str:
    """Return a text with `…` in place of all that looks like a key or a password."""
    return _SECRET.sub(lambda found: f"{found[1] or ''}…{'@' * found[0].endswith('@')}", text)
