"""Where a served model is, and how patiently it is asked."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from bonbon.config import is_random, looks_secret

_EXPECTED = "expected one such as http://localhost:8000/v1"

_REQUESTS = ("/completions", "/models", "/embeddings", "/responses")
"""Paths that bonbon, or nobody here, adds to the address."""

_FOR_THE_KEY = (
    "put a key into the environment variable that api_key_env names (it is not shown here, and no "
    "file of a run holds it)"
)


def _is_address(url: str) -> str:
    """Refuse what is no address, or holds more than one; what may be a secret is not repeated."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number, or too large
    except ValueError:
        raise ValueError(f"got an address whose host or port cannot be; {_EXPECTED}") from None
    if "@" in url:
        raise ValueError(f"got an address with a user's name or password in it; {_FOR_THE_KEY}")
    if parts.query or parts.fragment or looks_secret(url) or is_random(url):
        raise ValueError(
            f"got an address with more in it than host and path; {_EXPECTED}, and {_FOR_THE_KEY}"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"got {url[:80]!r}; {_EXPECTED}")
    if parts.path.rstrip("/").endswith(_REQUESTS):
        raise ValueError(f"got {url[:80]!r}, which ends with a request's own path; {_EXPECTED}")
    return url


def _names_a_variable(name: str) -> str:
    """Refuse what is no name, above all a key itself, which is not repeated."""
    is_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) is not None
    if not is_name or looks_secret(name) or is_random(name):
        raise ValueError(
            "got what is no name of an environment variable, expected one such as OPENAI_API_KEY, "
            f"and not the key itself; {_FOR_THE_KEY}"
        )
    return name


BaseUrl = Annotated[str, AfterValidator(_is_address)]
"""Where a server listens, and nothing secret."""

KeyVariable = Annotated[str, AfterValidator(_names_a_variable)]
"""The name of an environment variable that holds a key."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one server.

    Attributes:
        base_url: up to and including `/v1`.
        model: what the server calls it.
        api_key_env: the environment variable that holds the key.
        concurrency: requests in flight at once.
        max_retries: further tries after a passing failure.
        timeout_s: seconds from a request to the last byte of its answer.
        setting: where a recipe holds all this, for error lines: `sampling.engine` or `reward`.
    """

    base_url: str
    model: str
    api_key_env: str
    concurrency: int
    max_retries: int
    timeout_s: float | int
    setting: str
