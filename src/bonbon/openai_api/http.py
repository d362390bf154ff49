"""HTTP for a server that speaks OpenAI's API, with no answer longer than what was asked for."""

import json
import zlib
from typing import Any

import openai

MEBIBYTE = 2**20

_MOST = 64 * MEBIBYTE
_BESIDES = MEBIBYTE
"""For all that is no token: ids, usage, an error's page."""
_PER_TOKEN = 1024
_PER_ALTERNATIVE = 128


class AnswerSizeError(ValueError):
    """An answer is longer than anything that was asked for."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client that reads answers up to a size, on the wire as well as unpacked.

    The size follows from the tokens that a request asks for. A longer answer would keep the
    answers to all other requests waiting while it is read, and they are paid for.
    """

    async def send(self, request: Any, **options: Any) -> Any:  # noqa: ANN401 - httpx's own types
        """Send a request and return its whole answer.

        Raises:
            AnswerSizeError: it is too long.
        """
        options["stream"] = True
        response = await super().send(request, **options)
        try:
            content = await _content(response, most=_most_bytes(request.content))
        finally:
            await response.aclose()
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in {"content-encoding", "content-length", "transfer-encoding"}
        ]
        return type(response)(
            response.status_code, headers=headers, content=content, request=request
        )


def _most_bytes(request: bytes) -> int:
    """Return how long the answer to a request may be."""
    body: dict[str, Any] = json.loads(request or b"{}")
    choices = body.get("n", 1)
    per_token = _PER_TOKEN + _PER_ALTERNATIVE * body.get("top_logprobs", 0)
    # Each choice may repeat the prompt's ids.
    asked = choices * (body.get("max_tokens", 0) * per_token + 2 * len(request))
    return min(_MOST, _BESIDES + asked)


async def _content(response: Any, *, most: int) -> bytes:  # noqa: ANN401 - httpx's own types
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", ""}:
        raise ValueError(f"it is compressed as {encoding!r}, which was not asked for")
    packed = bytearray()
    async for part in response.aiter_raw():
        packed += part
        if len(packed) > most:
            raise AnswerSizeError(_too_long(most))
    return _unpacked(bytes(packed), most=most) if encoding == "gzip" else bytes(packed)


def _unpacked(packed: bytes, *, most: int) -> bytes:
    content = b""
    while packed:  # a gzip may have several members
        unpacker = zlib.decompressobj(wbits=31)
        try:
            content += unpacker.decompress(packed, most + 1 - len(content))
        except zlib.error as error:
            raise ValueError(f"it is not the gzip that it says it is: {error}") from None
        if len(content) > most:
            raise AnswerSizeError(_too_long(most))
        if not unpacker.eof:
            raise ValueError("its gzip ends too early")
        packed = unpacker.unused_data
    return content


def _too_long(most: int) -> str:
    return f"it is longer than {most / MEBIBYTE:.0f} MiB, far more than what was asked for"
