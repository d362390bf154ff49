"""Where a served model is, and how patiently it is asked."""

from dataclasses import dataclass


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
