"""A server that speaks OpenAI's API, for tests: a process of its own, the standard library only.

It serves models that tests put there with POST /put, each with a table of logits or with written
answers, and with the faults that real servers have:

    logits: {"0 1": [...], ...}, one row per context; with `end`, the end-of-sequence id; the
        words are the ids. Draws exactly from softmax(logits / temperature).
    answers: {"a question": an answer's choice}; for judges.
    words: for any prompt, answers of so many digits, which the seed decides; text alone.
        The seed decides nothing where they are the `same`; `ends_with_after`: a number of requests
        and the reason that the completions of all further ones end with.
    fail: what happens to the first requests, one entry each: an HTTP status, `drop` (no answer),
        `cut` (half an answer), `garbage` (not JSON), `empty` (no choices), `html`, `html502`,
        `events` (a stream), `deep` (nested), `error` (one under status 200), `huge` (100 MB),
        `bomb` (200 MB that are 1 MB of gzip), `packed` (an honest gzip), `drip` (a byte now and
        then, without end).
        200 stands for an honest answer.
    only: {a prompt: what happens to the requests for it}, likewise, or the reason that a completion
        of it ends with; the prompt as in `logits`, or as the text that it is asked with.
    retry_after: the header of that name beside these; by default a short one.
    always: what happens to every request, likewise.
    most: choices that one request gives at most; single: refuse requests for more than one.
    ids: how token ids are told: `vllm`, `llama.cpp` or `none`; tell_stop: name the stop string.
    copies: the choices of a request are all the same, as where the seed is used for each.
    short: {number of a request: choices that it gives at most}.
    wrong: choices that cannot be: `beyond` or `below` (the ids of the vocabulary), `above` (a
        log-probability of 0), `nan`, `infinite`, `unlikely` (−9999, as OpenAI says), `long` (more
        tokens than asked for), `fewer` (log-probabilities than tokens), `other` (ids than text),
        `null` (no text), `reasoning` (taken out of the text).
    knows: the only keys a request may hold; key: the API key it takes; delay: seconds.
    ends_with: says that completions end for this reason; ends_with_first: that the first of
        several does.

GET /log?model returns the requests for a model.
"""

import contextlib
import gzip
import json
import math
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS: dict[str, dict[str, Any]] = {}
LOG: list[dict[str, Any]] = []
IN_FLIGHT: Counter[str] = Counter()
LOCK = threading.Lock()


JSON = "application/json"
BODIES = {
    "empty": (200, JSON, b'{"choices": []}'),
    "garbage": (200, JSON, b'{"choices": ['),
    "html": (200, "text/html", b"<html><body>Please log in</body></html>"),
    "html502": (502, "text/html", b"<html><body>Bad gateway</body></html>"),
    "events": (200, "text/event-stream", b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
    "error": (200, JSON, b'{"error": {"message": "the model is loading", "code": 503}}'),
    "deep": (200, JSON, b"[" * 200_000),
}
"""Faults that are an answer: status, type and content."""
FAULTS = {*BODIES, "drop", "cut", "huge", "bomb", "drip"}


@contextmanager
def in_flight(model: str) -> Generator[None, None, None]:
    """Count a request for a model as long as it is worked on."""
    with LOCK:
        IN_FLIGHT[model] += 1
    try:
        yield
    finally:
        with LOCK:
            IN_FLIGHT[model] -= 1


def log_softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    scaled = [logit / temperature for logit in logits]
    top = max(scaled)
    total = top + math.log(math.fsum(math.exp(logit - top) for logit in scaled))
    return [logit - total for logit in scaled]


def draw(
    model: dict[str, Any], prompt: list[int], body: dict[str, Any], index: int
) -> dict[str, Any]:
    """Draw one completion, as a choice without its form."""
    rng = random.Random(f"{body.get('seed')}/{index}/{prompt}")
    ids: list[int] = []
    text = ""
    logprobs: list[float] = []
    for _ in range(body["max_tokens"]):
        logits = model["logits"][" ".join(map(str, prompt + ids))]
        weights = [math.exp(x) for x in log_softmax(logits, body["temperature"])]
        token = rng.choices(range(len(logits)), weights)[0]
        ids.append(token)
        logprobs.append(log_softmax(logits)[token])
        text = " ".join(str(word) for word in ids if word != model["end"])
        if token == model["end"]:
            return {"ids": ids, "logprobs": logprobs, "text": text, "end": "stop", "why": None}
        for stop in body.get("stop", []):
            if stop in text:
                text = text[: text.index(stop)]
                return {"ids": ids, "logprobs": logprobs, "text": text, "end": "stop", "why": stop}
    return {"ids": ids, "logprobs": logprobs, "text": text, "end": "length", "why": None}


def choice(model: dict[str, Any], drawn: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Write a completion as the servers do."""
    chat, told = "messages" in body, model.get("ids", "vllm")
    drawn = spoilt(drawn, model.get("wrong"))
    made: dict[str, Any] = {"finish_reason": model.get("ends_with", drawn["end"])}
    made |= {"message": {"content": drawn["text"]}} if chat else {"text": drawn["text"]}
    if model.get("tell_stop", True):
        made["stop_reason"] = drawn["why"]
    if told == "vllm" and body.get("return_token_ids"):
        made["token_ids"] = drawn["ids"]
    if body.get("logprobs"):
        content = [
            {"token": str(token), "logprob": logprob, "top_logprobs": None}
            for token, logprob in zip(drawn["ids"], drawn["logprobs"], strict=False)
        ]
        if told == "llama.cpp":
            content = [
                {**part, "id": token} for part, token in zip(content, drawn["ids"], strict=True)
            ]
        as_content = chat or told == "llama.cpp"
        made["logprobs"] = (
            {"content": content} if as_content else {"token_logprobs": drawn["logprobs"]}
        )
    if model.get("wrong") == "reasoning":
        made["message"]["reasoning_content"] = "Let me think."
    return made


def spoilt(drawn: dict[str, Any], wrong: str | None) -> dict[str, Any]:
    """Make of a completion what it cannot be."""
    ids, logprobs = drawn["ids"], drawn["logprobs"]
    changes: dict[str | None, dict[str, Any]] = {
        "beyond": {"ids": [10**12, *ids[1:]]},
        "below": {"ids": [-1, *ids[1:]]},
        "above": {"logprobs": [0.5, *logprobs[1:]]},
        "nan": {"logprobs": [math.nan, *logprobs[1:]]},
        "infinite": {"logprobs": [-math.inf, *logprobs[1:]]},
        "unlikely": {"logprobs": [-9999.0, *logprobs[1:]]},
        "long": {"ids": [0, 0, 0, 0, *ids], "logprobs": [0.0] * 4 + logprobs, "text": ""},
        "fewer": {"ids": [0, 0, 0], "logprobs": [-0.5], "text": "0 0 0"},
        "other": {"text": "something else"},
        "null": {"text": None},
    }
    return {**drawn, **changes.get(wrong, {})}


def worded(model: dict[str, Any], body: dict[str, Any], index: int) -> dict[str, Any]:
    """Return a choice of a few words, for any prompt."""
    place = 0 if model.get("same") else f"{body.get('seed')}/{index}/{prompt_in(body)}"
    digits = random.Random(place).choices([str(digit) for digit in range(8)], k=model["words"])
    ends_with = model.get("ends_with", "stop")
    return {"index": index, "finish_reason": ends_with, "text": " ".join(digits)}


def prompt_in(body: dict[str, Any]) -> str:
    """Return what a request asks: token ids as words, or the last message."""
    if "messages" in body:
        return body["messages"][-1]["content"]
    return " ".join(map(str, body["prompt"]))


def answer(model: dict[str, Any], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of an answer."""
    unknown = sorted(set(body) - set(model.get("knows", body)))
    if unknown:
        return 400, {"error": {"message": f"Unrecognized request argument: {unknown[0]}"}}
    count = body.get("n", 1)
    if count > 1 and model.get("single"):
        return 400, {"error": {"message": "Only one completion choice is allowed"}}
    if "words" in model:
        return 200, {"choices": [worded(model, body, index) for index in range(count)]}
    if "answers" in model:
        question = body["messages"][-1]["content"]
        if question not in model["answers"]:
            return 400, {"error": {"message": f"no answer is written for {question!r}"}}
        return 200, {"choices": [model["answers"][question]]}
    prompt = body.get("prompt") or [
        int(word) for turn in body["messages"] for word in turn["content"].split()
    ]
    if not all(isinstance(token, int) for token in prompt):
        return 400, {"error": {"message": f"prompt: got {prompt!r}, expected token ids"}}
    if "logits" not in model or " ".join(map(str, prompt)) not in model["logits"]:
        return 400, {"error": {"message": f"no logits are known for the prompt {prompt}"}}
    model["number"] = model.get("number", 0) + 1
    most = model.get("short", {}).get(str(model["number"]), model.get("most", count))
    choices = [
        {
            "index": index,
            **choice(model, draw(model, prompt, body, 0 if model.get("copies") else index), body),
        }
        for index in range(min(count, most))
    ]
    if count > 1 and "ends_with_first" in model:
        choices[0]["finish_reason"] = model["ends_with_first"]
    made: dict[str, Any] = {"choices": choices[::-1]}
    if "messages" in body and body.get("return_token_ids"):
        made["prompt_token_ids"] = prompt
    return 200, made


@cache
def bomb() -> bytes:
    return gzip.compress(b" " * 200_000_000, compresslevel=1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    retry_after: str | None = None

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, model = self.path.partition("?")
        if path == "/log":
            with LOCK:
                self.send(200, [entry for entry in LOG if entry["body"]["model"] == model])
        elif path == "/v1/models":
            self.send(200, {"object": "list", "data": [{"id": name} for name in MODELS]})
        else:
            self.send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/put":
            MODELS[body.pop("name")] = body
            self.send(200, {})
        elif self.path in {"/v1/completions", "/v1/chat/completions"}:
            with in_flight(body["model"]):
                self.complete(body)
        else:
            self.send(404, {"detail": "Not Found"})

    def complete(self, body: dict[str, Any]) -> None:
        entry = {"path": self.path, "body": body, "in_flight": IN_FLIGHT[body["model"]]}
        authorization = entry["authorization"] = self.headers.get("Authorization", "")
        with LOCK:
            LOG.append(entry)
            model = MODELS.get(body["model"])
            fail = model.get("always") if model else None
            if model and model.get("fail"):
                fail = model["fail"].pop(0)
            ends_with = model.get("only", {}).get(prompt_in(body)) if model else None
            if model and "ends_with_after" in model:
                left, reason = model["ends_with_after"]
                model["ends_with_after"] = [left - 1, reason]
                ends_with = reason if left <= 0 else None
            if ends_with in FAULTS or isinstance(ends_with, int):
                fail, ends_with = ends_with, None
        if model is None:
            message = f"The model `{body['model']}` does not exist."
            self.send(404, {"error": {"message": message}})
        elif model.get("key") and authorization != f"Bearer {model['key']}":
            self.send(401, {"error": {"message": f"Incorrect API key provided: {authorization}"}})
        elif fail is not None and fail not in {200, "packed"}:
            self.retry_after = model.get("retry_after")
            self.fail(fail)
            self.retry_after = None
        else:
            time.sleep(model.get("delay", 0))
            asked = {key: value for key, value in body.items() if key != "model"}
            if ends_with is not None:
                model = {**model, "ends_with": None if ends_with == "null" else ends_with}
            self.send(*answer(model, asked), packed=fail == "packed")

    def fail(self, kind: int | str) -> None:
        if isinstance(kind, int):
            self.send(kind, {"error": {"message": f"fault {kind}"}})
        elif kind in BODIES:
            self.send_content(*BODIES[kind])
        elif kind == "huge":
            self.send_content(200, JSON, b'{"choices": ["' + b"x" * 100_000_000)
        elif kind == "bomb":
            self.send_content(200, JSON, bomb(), packed=True)
        elif kind == "drip":
            self.drip()
        else:
            self.close_connection = True
            if kind == "cut":
                self.send_content(200, JSON, b'{"choices": [', length=1000)

    def drip(self) -> None:
        """Answer by a byte now and then, until the client has had enough."""
        self.close_connection = True
        self.send_content(200, JSON, b" ", length=100_000)
        with contextlib.suppress(OSError):
            for _ in range(600):
                time.sleep(0.05)
                self.wfile.write(b" ")
                self.wfile.flush()

    def send(self, status: int, body: object, *, packed: bool = False) -> None:
        content = json.dumps(body).encode()
        content = gzip.compress(content) if packed else content
        self.send_content(status, JSON, content, packed=packed)

    def send_content(
        self,
        status: int,
        kind: str,
        content: bytes,
        *,
        length: int | None = None,
        packed: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(content)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        if self.retry_after is not None:
            self.send_header("Retry-After", self.retry_after)
        elif status == 429:
            self.send_header("Retry-After", "0.05")
        elif status >= 500:
            self.send_header("Retry-After-Ms", "20")
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that has read enough of it goes away
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Handler) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
