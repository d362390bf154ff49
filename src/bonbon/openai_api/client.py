"""A client of servers that speak OpenAI's API; imported only where one is used."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from bonbon.errors import BonbonError, ConfigError, EngineError, MissingExtraError
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.schema import Answer, read_answer

try:
    import openai

    from bonbon.openai_api.failures import (
        RequestRefusedError,
        UnansweredError,
        error_message,
        failure,
        may_be_request_specific,
        retry_delay,
        short_reason,
    )
    from bonbon.openai_api.http import BoundedClient
except ImportError as error:
    raise MissingExtraError(
        "a served model is asked through the `openai` package, which is not installed; run "
        "pip install 'bonbon-align[openai]'"
    ) from error

Result = TypeVar("Result")

NO_KEY = "EMPTY"
"""Sent where the environment holds no key; local servers do not look at it."""

_UNKNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|unsupported|not (?:supported|permitted|allowed|enabled)"
    r"|extra|additional|greater than|at most|maximum|exceed",
    re.IGNORECASE,
)


_MODELS_TIMEOUT = 10.0
"""Seconds to wait for the names of a server's models, which only an error line needs."""


class _GivenUpError(BonbonError):
    """Not asked, because something else had failed before."""


class _FailedError(Exception):
    """The last try's error, and how many tries there were."""

    def __init__(self, last: Exception, tries: int) -> None:
        super().__init__(str(last))
        self.last = last
        self.tries = tries


class OpenaiClient:
    """Asks one model of one server, a limited number of requests at a time.

    Passing failures (no connection, timeouts, 408, 409, 429, 5xx, answers that cannot be used)
    are tried again with growing waits, or when the server says. Use it as an asynchronous
    context manager; it may be entered again later.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Take the key from the environment."""
        self._endpoint = endpoint
        self._key = os.environ.get(endpoint.api_key_env, "").strip() or NO_KEY
        self._left_out: set[str] = set()
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
            max_retries=0,  # tries are counted here, those for unusable answers among them
            http_client=_http_client(),
            default_headers={"Accept-Encoding": "gzip"},
        )
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._verdict = asyncio.Lock()
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
        """Run jobs side by side, as many as requests may be in flight; return what they return.

        Jobs are taken from the iterable when there is room for them. Once one fails no further
        request is sent; those on the way are paid for, so they come to their end before the first
        failure is raised.
        """
        results: dict[int, Result] = {}
        waiting = enumerate(jobs)

        async def work() -> None:
            while self._failure is None:
                place, job = next(waiting, (0, None))
                if job is None:
                    return
                try:
                    results[place] = await job
                except Exception as error:  # the first one is raised below
                    self._failure = self._failure or error

        await asyncio.gather(*(work() for _ in range(self._endpoint.concurrency)))
        if self._failure is not None:
            raise self._failure
        return [results[place] for place in sorted(results)]

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        optional: frozenset[str],
        read: Callable[[Answer], Result],
        control: Mapping[str, Any] | None = None,
        refusal_is_final: bool = True,
    ) -> Result:
        """Send a request and read its answer.

        Args:
            path: below the base URL, such as `/completions`.
            body: without `model`.
            optional: keys of `body` to leave out from then on if the server does not know them.
            read: turns the answer into what is wanted; its ValueError means another try.
            control: what makes of `body` a question that any server can answer. It is asked when
                this one fails for good, and tells which of the two is at fault.
            refusal_is_final: judge a refusal likewise; else the caller knows what to ask instead.

        Raises:
            UnansweredError: this question gets no answer, while others do.
            RequestRefusedError: the server refuses what is asked.
            EngineError: it cannot be asked.
        """
        async with self._slots:
            if self._failure is not None:
                raise _GivenUpError
            max_retries = self._endpoint.max_retries
            try:
                result = await self._known(path, body, optional, read, max_retries=max_retries)
            except _FailedError as failed:
                line = await self._line(failed)
                if isinstance(line, RequestRefusedError) and not refusal_is_final:
                    raise line from None
                async with self._verdict:  # one control tells for all that fail together
                    judged = control is not None and may_be_request_specific(failed.last)
                    asked = {**body, **(control or {})}
                    if judged and await self._is_answered(path, asked, optional, read):
                        reason = self._without_key(short_reason(failed.last))
                        raise UnansweredError(str(line), reason=reason) from None
                    self._failure = self._failure or line
                raise line from None
            self._num_answered += 1
            return result

    async def all_of(self, parts: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run the parts of one job side by side and return what they return, in order.

        Those that have begun come to their end before a failure is raised.
        """
        results = await asyncio.gather(*parts, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise self._failure or failures[0]
        return [result for result in results if not isinstance(result, BaseException)]

    async def _is_answered(
        self,
        path: str,
        body: Mapping[str, Any],
        optional: frozenset[str],
        read: Callable[[Answer], Result],
    ) -> bool:
        """Return whether there is an answer; once one has failed for good no other is asked for."""
        if self._failure is not None:
            return False
        try:
            await self._known(path, body, optional, read, max_retries=1)
        except _FailedError:
            return False
        return True

    async def _line(self, failed: _FailedError) -> EngineError:
        """Return the error to raise, without the key, which some servers repeat."""
        served = await self._served() if isinstance(failed.last, openai.NotFoundError) else ()
        line = failure(
            failed.last,
            self._endpoint,
            tries=failed.tries,
            has_key=self._key != NO_KEY,
            served=served,
        )
        return type(line)(self._without_key(str(line)))

    def _without_key(self, text: str) -> str:
        if self._key == NO_KEY:
            return text
        return text.replace(self._key, f"${self._endpoint.api_key_env}")

    async def _known(
        self,
        path: str,
        body: Mapping[str, Any],
        optional: frozenset[str],
        read: Callable[[Answer], Result],
        *,
        max_retries: int,
    ) -> Result:
        """Post what the server knows of a body, finding out what that is on the way."""
        while True:
            sent = {key: value for key, value in body.items() if key not in self._left_out}
            try:
                return await self._tried(path, sent, read, max_retries)
            except _FailedError as failed:
                error = failed.last
                if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
                    raise
                said = error_message(error)
                named = {key for key in optional & set(sent) if re.search(rf"\b{key}\b", said)}
                if not named or not _UNKNOWN.search(said):
                    raise
                self._left_out |= named

    async def _tried(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Answer], Result],
        max_retries: int,
    ) -> Result:
        """Post until there is an answer that can be used."""
        tries, before = 0, self._num_answered
        while True:
            tries += 1
            try:
                return read(await self._answer(path, body))
            except (openai.APIError, TimeoutError, ValueError, RecursionError) as error:
                # As long as a server lets others through, there is hope for this one.
                if isinstance(error, openai.RateLimitError) and self._num_answered > before:
                    tries, before = 1, self._num_answered
                wait = retry_delay(error, tries)
                if wait is None or tries > max_retries:
                    raise _FailedError(error, tries) from None
            await asyncio.sleep(wait)

    async def _answer(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Post once; however slowly an answer comes in, the time for it is limited."""
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                given = await self._client.post(
                    path, cast_to=object, body={"model": self._endpoint.model, **body}
                )
        except (openai.OpenAIError, TimeoutError, ValueError, RecursionError):
            raise
        except Exception as error:
            # A proxy's port that cannot be, say, comes as the operating system's own, in groups.
            cause = error
            while isinstance(cause, ExceptionGroup):
                cause = cause.exceptions[0]
            raise ValueError(f"{type(cause).__name__}: {cause}") from error
        return read_answer(given)

    async def _served(self) -> list[str]:
        """Return the names of the server's models, none if it does not say."""
        try:
            async with asyncio.timeout(_MODELS_TIMEOUT):
                return [model.id async for model in self._client.models.list()]
        except (openai.APIError, ValueError, TypeError, AttributeError, TimeoutError):
            return []


def check_connections() -> None:
    """Find what would keep any server from being reached from here; nothing is opened.

    Raises:
        ConfigError: the environment's proxies or certificates cannot be used.
    """
    run_coroutine(_http_client().aclose())


def _http_client() -> BoundedClient:
    try:
        return BoundedClient()
    except ImportError:
        raise ConfigError(
            "the environment names a SOCKS proxy, for which a package is missing; run pip install "
            "socksio, or unset ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, or list the server in "
            "NO_PROXY"
        ) from None
    except Exception as error:
        raise ConfigError(
            "the environment's settings for connections cannot be used "
            f"({' '.join(str(error).split())[:160]}); mend or unset HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from None


def run_coroutine(job: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine from plain code, in a notebook's running loop too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, job).result()
