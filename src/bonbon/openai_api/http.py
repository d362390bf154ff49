"""An HTTP client that limits the size of responses, whether compressed or not."""

import json
import zlib
from typing import Any

import openai

MEBIBYTE = 2**20

MAX_BYTES = 64 * MEBIBYTE
BASE_BYTES = MEBIBYTE
"""Allowance for everything but tokens: ids, usage, an error page."""
BYTES_PER_TOKEN = 1024
BYTES_PER_TOP_LOGPROB = 128


class ResponseSizeError(ValueError):
    """A response is longer than anything that was requested."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client that reads responses up to a size, on the wire and decompressed.

    The size follows from the number of tokens in the request. Reading a longer response would
    delay the responses to all other requests, which are paid for.
    """

    async def send(self, request: Any, **options: Any) -> Any:  # noqa: ANN401 - httpx's own types
        """Send a request and return its whole response.

        Raises:
            ResponseSizeError: it is too long.
        """
        options["stream"] = True
        response = await super().send(request, **options)
        try:
            content = await _read(response, max_bytes=_max_bytes(request.content))
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


def _max_bytes(request: bytes) -> int:
    """Return the size limit of the response to a request."""
    body: dict[str, Any] = json.loads(request or b"{}")
    num_choices = body.get("n", 1)
    per_token = BYTES_PER_TOKEN + BYTES_PER_TOP_LOGPROB * body.get("top_logprobs", 0)
    # Each choice may repeat the ids of the prompt.
    per_choice = body.get("max_tokens", 0) * per_token + 2 * len(request)
    return min(MAX_BYTES, BASE_BYTES + num_choices * per_choice)


async def _read(response: Any, *, max_bytes: int) -> bytes:  # noqa: ANN401 - httpx's own types
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", ""}:
        raise ValueError(f"it is compressed as {encoding!r}, which was not requested")
    received = bytearray()
    async for part in response.aiter_raw():
        received += part
        if len(received) > max_bytes:
            raise _too_long(max_bytes)
    if encoding == "gzip":
        return _decompress(bytes(received), max_bytes=max_bytes)
    return bytes(received)


def _decompress(compressed: bytes, *, max_bytes: int) -> bytes:
    content = b""
    while compressed:  # a gzip file may have several members
        decompressor = zlib.decompressobj(wbits=31)
        try:
            content += decompressor.decompress(compressed, max_bytes + 1 - len(content))
        except zlib.error as error:
            raise ValueError(f"it says that it is gzip, and is not: {error}") from None
        if len(content) > max_bytes:
            raise _too_long(max_bytes)
        if not decompressor.eof:
            raise ValueError("its gzip data is incomplete")
        compressed = decompressor.unused_data
    return content


def _too_long(max_bytes: int) -> ResponseSizeError:
    return ResponseSizeError(
        f"it is longer than {max_bytes / MEBIBYTE:.0f} MiB, far more than was requested"
    )
