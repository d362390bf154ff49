"""An asynchronous client of OpenAI's API; imported only where a server is used."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from bonbon.errors import BonbonError, ConfigError, EngineError, MissingExtraError
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.schema import Response, parse_response

try:
    import openai

    from bonbon.openai_api.failures import (
        RequestRefusedError,
        UnansweredError,
        error_message,
        final_error,
        may_be_request_specific,
        retry_delay,
        short_reason,
    )
    from bonbon.openai_api.http import BoundedClient
except ImportError as error:
    raise MissingExtraError(
        "served models need the `openai` package, which is not installed; run "
        "pip install 'bonbon-align[openai]'"
    ) from error

Result = TypeVar("Result")

NO_KEY = "EMPTY"
"""Sent if the environment holds no key; local servers ignore it."""

_UNKNOWN_PARAMETER = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|unsupported|not (?:supported|permitted|allowed|enabled)"
    r"|extra|additional|greater than|at most|maximum|exceed",
    re.IGNORECASE,
)


_MODELS_TIMEOUT = 10.0
"""Seconds to wait for the list of a server's models, which only an error line needs."""


class _GivenUpError(BonbonError):
    """A request that was not sent because another had failed."""


class _FailedError(Exception):
    """The error of the last try, and the number of tries."""

    def __init__(self, last: Exception, tries: int) -> None:
        super().__init__(str(last))
        self.last = last
        self.tries = tries


class OpenaiClient:
    """Sends requests to one model of one server, with limited concurrency.

    Temporary failures (no connection, timeouts, 408, 409, 429, 5xx, unusable responses) are
    retried with exponential backoff, or after the delay that the server asks for. Use it as an
    asynchronous context manager; it may be entered again later.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Take the key from the environment."""
        self._endpoint = endpoint
        self._key = os.environ.get(endpoint.api_key_env, "").strip() or NO_KEY
        self._dropped_keys: set[str] = set()
        self._failure: Exception | None = None
        self._num_answered = 0

    async def __aenter__(self) -> "OpenaiClient":
        """Open connections.

        Raises:
            ConfigError: the environment's proxies or certificates cannot be used.
        """
        endpoint = self._endpoint
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_s,
            max_retries=0,  # retries happen here: unusable responses are retried too
            http_client=_http_client(),
            default_headers={"Accept-Encoding": "gzip"},
        )
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._control_lock = asyncio.Lock()
        self._failure = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close connections."""
        await self._client.close()

    async def gather(self, jobs: Iterable[Awaitable[Result]]) -> list[Result]:
        """Run jobs concurrently, as many as requests may be in flight; return their results.

        Jobs are taken from the iterable one by one as others finish. Once one fails, no further
        request is sent. Requests in flight are paid for, so they finish before the first failure
        is raised.
        """
        results: dict[int, Result] = {}
        waiting = enumerate(jobs)

        async def work() -> None:
            while self._failure is None:
                index, job = next(waiting, (0, None))
                if job is None:
                    return
                try:
                    results[index] = await job
                except Exception as error:  # the first one is raised below
                    self._failure = self._failure or error

        await asyncio.gather(*(work() for _ in range(self._endpoint.concurrency)))
        if self._failure is not None:
            raise self._failure
        return [results[index] for index in sorted(results)]

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        optional: frozenset[str],
        read: Callable[[Response], Result],
        control: Mapping[str, Any] | None = None,
        refusal_is_final: bool = True,
    ) -> Result:
        """Send a request and read its response.

        Args:
            path: below the base URL, such as `/completions`.
            body: without `model`.
            optional: keys of `body` that are dropped permanently if the server does not know them.
            read: converts the response; it raises ValueError if the response is unusable.
            control: keys that replace the prompt of `body` with one that any server can answer. It
                is sent if all tries of this request fail, and shows whether the prompt or the
                server is at fault.
            refusal_is_final: send the control after a refusal too; otherwise the refusal is raised
                at once, because the caller can send another request.

        Raises:
            UnansweredError: this prompt gets no response, while the control does.
            RequestRefusedError: the server refuses the request.
            EngineError: the server cannot be used.
        """
        async with self._slots:
            if self._failure is not None:
                raise _GivenUpError
            max_retries = self._endpoint.max_retries
            try:
                result = await self._post_known_keys(
                    path, body, optional, read, max_retries=max_retries
                )
            except _FailedError as failed:
                error = await self._final_error(failed)
                if isinstance(error, RequestRefusedError) and not refusal_is_final:
                    raise error from None
                async with self._control_lock:  # requests that fail together share one control
                    has_control = control is not None and may_be_request_specific(failed.last)
                    control_body = {**body, **(control or {})}
                    if has_control and await self._succeeds(path, control_body, optional, read):
                        reason = self._without_key(short_reason(failed.last))
                        raise UnansweredError(str(error), reason=reason) from None
                    self._failure = self._failure or error
                raise error from None
            self._num_answered += 1
            return result

    async def all_of(self, parts: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run the parts of one job concurrently; return their results in order.

        Parts that have begun finish before a failure is raised.
        """
        results = await asyncio.gather(*parts, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise self._failure or failures[0]
        return [result for result in results if not isinstance(result, BaseException)]

    async def _succeeds(
        self,
        path: str,
        body: Mapping[str, Any],
        optional: frozenset[str],
        read: Callable[[Response], Result],
    ) -> bool:
        """Return whether a request succeeds; after a final failure none is sent."""
        if self._failure is not None:
            return False
        try:
            await self._post_known_keys(path, body, optional, read, max_retries=1)
        except _FailedError:
            return False
        return True

    async def _final_error(self, failed: _FailedError) -> EngineError:
        """Return the error to raise, without the key, which some servers repeat."""
        served = await self._served() if isinstance(failed.last, openai.NotFoundError) else ()
        error = final_error(
            failed.last,
            self._endpoint,
            tries=failed.tries,
            has_key=self._key != NO_KEY,
            served=served,
        )
        return type(error)(self._without_key(str(error)))

    def _without_key(self, text: str) -> str:
        if self._key == NO_KEY:
            return text
        return text.replace(self._key, f"${self._endpoint.api_key_env}")

    async def _post_known_keys(
        self,
        path: str,
        body: Mapping[str, Any],
        optional: frozenset[str],
        read: Callable[[Response], Result],
        *,
        max_retries: int,
    ) -> Result:
        """Post a body without the optional keys that the server has refused as unknown."""
        while True:
            sent = {key: value for key, value in body.items() if key not in self._dropped_keys}
            try:
                return await self._post_with_retries(path, sent, read, max_retries)
            except _FailedError as failed:
                error = failed.last
                if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
                    raise
                message = error_message(error)
                named = {key for key in optional & set(sent) if re.search(rf"\b{key}\b", message)}
                if not named or not _UNKNOWN_PARAMETER.search(message):
                    raise
                self._dropped_keys |= named

    async def _post_with_retries(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Response], Result],
        max_retries: int,
    ) -> Result:
        """Post until there is a usable response, or no try is left."""
        tries, num_answered = 0, self._num_answered
        while True:
            tries += 1
            try:
                return read(await self._post_once(path, body))
            except (openai.APIError, TimeoutError, ValueError, RecursionError) as error:
                # A rate limit is no failure of this request while others get through.
                if isinstance(error, openai.RateLimitError) and self._num_answered > num_answered:
                    tries, num_answered = 1, self._num_answered
                wait = retry_delay(error, tries)
                if wait is None or tries > max_retries:
                    raise _FailedError(error, tries) from None
            await asyncio.sleep(wait)

    async def _post_once(self, path: str, body: Mapping[str, Any]) -> Response:
        """Post once, with a limit on the time until the last byte of the response."""
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                response = await self._client.post(
                    path, cast_to=object, body={"model": self._endpoint.model, **body}
                )
        except (openai.OpenAIError, TimeoutError, ValueError, RecursionError):
            raise
        except Exception as error:
            # The invalid port of a proxy, for example, raises an operating system's error, grouped.
            cause = error
            while isinstance(cause, ExceptionGroup):
                cause = cause.exceptions[0]
            raise ValueError(f"{type(cause).__name__}: {cause}") from error
        return parse_response(response)

    async def _served(self) -> list[str]:
        """Return the names of the server's models; none if it does not list them."""
        try:
            async with asyncio.timeout(_MODELS_TIMEOUT):
                return [model.id async for model in self._client.models.list()]
        except (openai.APIError, ValueError, TypeError, AttributeError, TimeoutError):
            return []


def check_connections() -> None:
    """Check the environment's settings for connections; none is opened.

    Raises:
        ConfigError: the environment's proxies or certificates cannot be used.
    """
    run_coroutine(_http_client().aclose())


def _http_client() -> BoundedClient:
    try:
        return BoundedClient()
    except ImportError:
        raise ConfigError(
            "the environment names a SOCKS proxy, which needs a package that is not installed; run "
            "pip install socksio, or unset ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, or list the "
            "server in NO_PROXY"
        ) from None
    except Exception as error:
        raise ConfigError(
            "the environment's settings for connections cannot be used "
            f"({' '.join(str(error).split())[:160]}); correct or unset HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from None


def run_coroutine(job: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine from synchronous code, also within the running loop of a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, job).result()
