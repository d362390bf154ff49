"""A client of servers that speak OpenAI's API; imported only where one is used."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from bonbon.errors import BonbonError, EngineError, MissingExtraError
from bonbon.models.endpoint import Endpoint
from bonbon.models.openai_answer import Answer

try:
    import openai

    from bonbon.models.openai_failure import failure, invalid_answer, said_by
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


class _GivenUpError(BonbonError):
    """Not asked, because something else had failed before."""


class OpenaiClient:
    """Asks one model of one server, a limited number of requests at a time.

    Passing failures (no connection, timeouts, 408, 409, 429, 5xx, answers that cannot be read)
    are tried again with growing waits, or when the server says. Use it as an asynchronous
    context manager; it may be entered again later.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Take the key from the environment."""
        self._endpoint = endpoint
        self._key = os.environ.get(endpoint.api_key_env, "").strip() or NO_KEY
        self._left_out: set[str] = set()
        self._failure: Exception | None = None

    async def __aenter__(self) -> "OpenaiClient":
        """Open connections."""
        endpoint = self._endpoint
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_s,
            max_retries=endpoint.max_retries,
        )
        self._slots = asyncio.Semaphore(endpoint.concurrency)
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
        """Run jobs side by side and return what they return, in order.

        Once one fails no further request is sent; those on the way are paid for, so they come
        to their end before the first failure is raised.
        """
        results = await asyncio.gather(*map(self._noted, jobs), return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        return [result for result in results if not isinstance(result, BaseException)]

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        optional: frozenset[str],
        read: Callable[[Answer], Result],
    ) -> Result:
        """Send a request and read its answer.

        Args:
            path: below the base URL, such as `/completions`.
            body: without `model`.
            optional: keys of `body` to leave out from then on if the server does not know them.
            read: turns the answer into what is wanted; its ValueError means another try.

        Raises:
            RequestRefusedError: the server refuses what is asked.
            EngineError: it cannot be asked.
        """
        async with self._slots:
            if self._failure is not None:
                raise _GivenUpError
            try:
                return await self._known(path, body, optional, read)
            except openai.APIError as error:
                served = await self._served() if isinstance(error, openai.NotFoundError) else ()
                line = failure(
                    error, self._endpoint, has_key=self._key != NO_KEY, served=tuple(served)
                )
                raise self._without_key(line) from None

    async def _noted(self, job: Awaitable[Result]) -> Result:
        try:
            return await job
        except Exception as error:
            if self._failure is None:
                self._failure = error
            raise

    async def _known(
        self,
        path: str,
        body: Mapping[str, Any],
        optional: frozenset[str],
        read: Callable[[Answer], Result],
    ) -> Result:
        """Post what the server knows of a body, finding out what that is on the way."""
        while True:
            sent = {key: value for key, value in body.items() if key not in self._left_out}
            try:
                return await self._readable(path, sent, read)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = said_by(error)
                named = {key for key in optional & set(sent) if re.search(rf"\b{key}\b", said)}
                if not named or not _UNKNOWN.search(said):
                    raise
                self._left_out |= named

    async def _readable(
        self, path: str, body: Mapping[str, Any], read: Callable[[Answer], Result]
    ) -> Result:
        """Post until the answer can be read."""
        for tries_left in reversed(range(self._endpoint.max_retries + 1)):
            try:
                answer = await self._client.post(
                    path, cast_to=object, body={"model": self._endpoint.model, **body}
                )
                return read(Answer.model_validate(answer))
            except ValueError as error:
                if not tries_left:
                    raise self._without_key(invalid_answer(error, self._endpoint)) from None
            tries = self._endpoint.max_retries - tries_left
            await asyncio.sleep(min(0.5 * 2**tries, 8))
        raise AssertionError("there is at least one try")

    async def _served(self) -> list[str]:
        """Return the names of the server's models, none if it does not say."""
        try:
            return [model.id async for model in self._client.models.list()]
        except (openai.APIError, ValueError, TypeError, AttributeError):
            return []

    def _without_key(self, error: EngineError) -> EngineError:
        """Take the key out of what the server said: some repeat it."""
        if self._key == NO_KEY:
            return error
        return type(error)(str(error).replace(self._key, f"${self._endpoint.api_key_env}"))


def run_to_end(job: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine from plain code, in a notebook's running loop too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, job).result()
