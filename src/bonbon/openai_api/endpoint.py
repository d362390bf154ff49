"""The address of a served model, its limits, and the checks of both."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from bonbon.base_config import is_random, looks_secret

_EXPECTED = "expected one such as http://localhost:8000/v1"

_REQUEST_PATHS = ("/completions", "/models", "/embeddings", "/responses")
"""Paths of requests, which do not belong into the base URL."""

_KEY_HINT = (
    "put a key into the environment variable that api_key_env names (it is not shown here, and no "
    "file of a run contains it)"
)


def _check_address(url: str) -> str:
    """Refuse what is not the address of a server alone; possible secrets are not repeated."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is not a number, or too large
    except ValueError:
        raise ValueError(f"got an address with an invalid host or port; {_EXPECTED}") from None
    if "@" in url:
        raise ValueError(f"got an address that contains a user name or password; {_KEY_HINT}")
    if parts.query or parts.fragment or looks_secret(url) or is_random(url):
        raise ValueError(
            f"got an address that contains more than host and path; {_EXPECTED}, and {_KEY_HINT}"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"got {url[:80]!r}; {_EXPECTED}")
    if parts.path.rstrip("/").endswith(_REQUEST_PATHS):
        raise ValueError(f"got {url[:80]!r}, which ends with the path of a request; {_EXPECTED}")
    return url


def _check_variable_name(name: str) -> str:
    """Refuse what is not a variable's name, above all a key, which is not repeated."""
    is_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) is not None
    if not is_name or looks_secret(name) or is_random(name):
        raise ValueError(
            "got something other than the name of an environment variable, expected one such as "
            f"OPENAI_API_KEY, and not the key itself; {_KEY_HINT}"
        )
    return name


BaseUrl = Annotated[str, AfterValidator(_check_address)]
"""The address of a server, without secrets."""

KeyVariable = Annotated[str, AfterValidator(_check_variable_name)]
"""The name of an environment variable that holds a key."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one server.

    Attributes:
        base_url: up to and including `/v1`.
        model: the server's name of the model.
        api_key_env: the environment variable that holds the key.
        concurrency: requests in flight at once.
        max_retries: further tries after a temporary failure.
        timeout_s: seconds from a request to the last byte of its response.
        setting: the part of a recipe with these settings, for error lines: `sampling.engine` or
            `reward`.
    """

    base_url: str
    model: str
    api_key_env: str
    concurrency: int
    max_retries: int
    timeout_s: float | int
    setting: str
