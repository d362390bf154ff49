"""How the client handles each fault of a real server."""

import asyncio
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from bonbon.errors import ConfigError, EngineError
from bonbon.openai_api.client import OpenaiClient, check_connections, run_coroutine
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.failures import RequestRefusedError
from bonbon.openai_api.schema import Response

PutModel = Callable[..., str]
RequestsFor = Callable[[str], list[dict[str, Any]]]

HELLO = {"answers": {"hello": {"message": {"content": "good day"}, "finish_reason": "stop"}}}
KEY = "sk-very-secret"


def endpoint(
    url: str,
    model: str,
    *,
    concurrency: int = 4,
    max_retries: int = 3,
    timeout_s: float | int = 30,
) -> Endpoint:
    return Endpoint(
        base_url=url,
        model=model,
        api_key_env="TEST_OPENAI_KEY",
        concurrency=concurrency,
        max_retries=max_retries,
        timeout_s=timeout_s,
        setting="sampling.engine",
    )


def content(answer: Response) -> str:
    return answer.choices[0].content


async def ask(
    client: OpenaiClient, *, times: int = 1, body: dict[str, Any] | None = None
) -> list[str]:
    request = {"messages": [{"role": "user", "content": "hello"}], **(body or {})}
    optional = frozenset({"seed"})
    async with client:
        return await client.gather(
            client.post("/chat/completions", request, optional=optional, read=content)
            for _ in range(times)
        )


def problem(client: OpenaiClient, body: dict[str, Any] | None = None) -> str:
    """Return the error line of a request."""
    with pytest.raises(EngineError) as caught:
        run_coroutine(ask(client, body=body))
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "cut", "garbage", "empty"])
def test_a_passing_fault_is_tried_again(
    fault: int | str, openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, fail=[fault])
    assert run_coroutine(ask(OpenaiClient(endpoint(openai_url, model)))) == ["good day"]
    assert len(requests_for(model)) == 2


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (500, "answers 500, 2 tries: fault 500; wait, or lower sampling.engine.concurrency"),
        (429, "answers 429, 2 tries: fault 429"),
        (418, "answers 418: fault 418"),
        ("drop", "2 tries (Server disconnected without sending a response.)"),
        ("garbage", "gave answers that cannot be used, 2 tries (Expecting value"),
        ("empty", "cannot be used, 2 tries (choices: List should have at least 1 item"),
        ("html", "2 tries (it is not JSON: '<html><body>Please log in</body></html>')"),
        ("html502", "answers 502, 2 tries: <html><body>Bad gateway</body></html>"),
        ("events", "2 tries (it is a stream of events, which was not requested)"),
        ("error", "2 tries (it is an error under status 200: the model is loading)"),
        ("cut", "2 tries (peer closed connection without sending complete message body"),
        ("huge", "2 tries (it is longer than 1 MiB, far more than was requested)"),
        ("bomb", "2 tries (it is longer than 1 MiB, far more than was requested)"),
        ("deep", "gave answers that cannot be used, 2 tries"),
    ],
)
def test_a_lasting_fault_is_told_in_one_line(
    fault: int | str, line: str, openai_url: str, put_model: PutModel
) -> None:
    model = put_model(**HELLO, fail=[fault, fault, fault])
    message = problem(OpenaiClient(endpoint(openai_url, model, max_retries=1)))
    assert line in message
    assert "run the same command again to continue" in message


def test_nobody_there() -> None:
    message = problem(OpenaiClient(endpoint("http://127.0.0.1:9/v1", "m", max_retries=0)))
    assert message.startswith("cannot reach http://127.0.0.1:9/v1, 1 try (All connection attempts")
    assert "correct sampling.engine.base_url" in message


def test_a_slow_answer(openai_url: str, put_model: PutModel) -> None:
    model = put_model(**HELLO, delay=2)
    message = problem(OpenaiClient(endpoint(openai_url, model, max_retries=0, timeout_s=0.2)))
    assert "gave no answer within 0.2 s, 1 try; raise sampling.engine.timeout_s" in message


def test_an_answer_that_drips_in_counts_as_none(openai_url: str, put_model: PutModel) -> None:
    model = put_model(**HELLO, fail=["drip"])
    began = time.perf_counter()
    client = OpenaiClient(endpoint(openai_url, model, timeout_s=0.5))
    assert run_coroutine(ask(client)) == ["good day"]
    assert time.perf_counter() - began < 30


def test_the_time_for_an_answer_is_its_own(openai_url: str, put_model: PutModel) -> None:
    """Eight requests in a row take longer than the time limit of one."""
    client = OpenaiClient(
        endpoint(openai_url, put_model(**HELLO, delay=0.2), timeout_s=1, concurrency=1)
    )
    assert run_coroutine(ask(client, times=8)) == ["good day"] * 8


def test_a_compressed_answer_is_read(openai_url: str, put_model: PutModel) -> None:
    client = OpenaiClient(endpoint(openai_url, put_model(**HELLO, always="packed")))
    assert run_coroutine(ask(client)) == ["good day"]


def test_an_answer_may_be_as_long_as_what_was_asked_for(
    openai_url: str, put_model: PutModel
) -> None:
    text = "long " * 400_000
    long = {"answers": {"hello": {"message": {"content": text}, "finish_reason": "stop"}}}
    client = OpenaiClient(endpoint(openai_url, put_model(**long), max_retries=0))
    assert "longer than 1 MiB" in problem(client)
    assert run_coroutine(ask(client, body={"max_tokens": 4096})) == [text]


@pytest.mark.parametrize("after", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_server_that_says_to_wait_for_long_is_not_waited_for(
    openai_url: str, put_model: PutModel, after: str
) -> None:
    model = put_model(**HELLO, fail=[429], retry_after=after)
    message = problem(OpenaiClient(endpoint(openai_url, model)))
    assert "answers 429, 1 try: fault 429" in message


def test_a_server_is_waited_for_as_it_says(openai_url: str, put_model: PutModel) -> None:
    model = put_model(**HELLO, fail=[429, 503], retry_after="1")
    began = time.perf_counter()
    assert run_coroutine(ask(OpenaiClient(endpoint(openai_url, model)))) == ["good day"]
    assert time.perf_counter() - began >= 2


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "run pip install socksio, or unset ALL_PROXY"),
        (
            "HTTP_PROXY",
            "http://localhost:abc",
            "(Invalid port: 'abc'); correct or unset HTTP_PROXY",
        ),
        ("HTTPS_PROXY", "gopher://localhost", "cannot be used (Unknown scheme for proxy URL"),
        ("HTTP_PROXY", "http://[::1", "the environment's settings for connections cannot be used"),
        ("SSL_CERT_FILE", "/no/such/file", "No such file or directory"),
    ],
)
def test_an_environment_that_no_connection_can_use(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    if name == "ALL_PROXY" and find_spec("socksio") is not None:
        pytest.skip("SOCKS proxies can be used here")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        check_connections()
    assert line in str(caught.value)
    with pytest.raises(ConfigError):
        run_coroutine(ask(OpenaiClient(endpoint("http://127.0.0.1:9/v1", "m"))))


def test_a_proxy_whose_port_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:99999")
    monkeypatch.setenv("NO_PROXY", "")
    message = problem(OpenaiClient(endpoint("http://10.1.2.3/v1", "m", max_retries=0)))
    assert "port" in message


def test_ipv6(openai_url: str, put_model: PutModel) -> None:
    message = problem(OpenaiClient(endpoint("http://[::1]:9/v1", "m", max_retries=0)))
    assert message.startswith("cannot reach http://[::1]:9/v1, 1 try (All connection attempts")


def test_an_unknown_model_is_told_with_those_there_are(
    openai_url: str, put_model: PutModel
) -> None:
    model = put_model(**HELLO)
    message = problem(OpenaiClient(endpoint(openai_url, "nobody")))
    assert "has no model 'nobody', it has" in message
    assert "set sampling.engine.model to one of these" in message
    message = problem(OpenaiClient(endpoint(openai_url.removesuffix("/v1"), model)))
    assert "answers 404" in message
    assert "base_url ends with the API's version" in message


def test_the_key_comes_from_the_environment_and_is_never_told(
    openai_url: str,
    put_model: PutModel,
    requests_for: RequestsFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = put_model(**HELLO, key=KEY)
    message = problem(OpenaiClient(endpoint(openai_url, model)))
    assert "answers 401: $TEST_OPENAI_KEY holds no key" in message
    monkeypatch.setenv("TEST_OPENAI_KEY", KEY + "\n")
    assert run_coroutine(ask(OpenaiClient(endpoint(openai_url, model)))) == ["good day"]
    sent = [entry["authorization"] for entry in requests_for(model)]
    assert sent == ["Bearer EMPTY", f"Bearer {KEY}"]
    message = problem(OpenaiClient(endpoint(openai_url, put_model(**HELLO, key="other"))))
    assert "the key in $TEST_OPENAI_KEY is refused" in message


def test_a_key_that_the_server_repeats_is_taken_out(
    openai_url: str, monkeypatch: pytest.MonkeyPatch, put_model: PutModel
) -> None:
    monkeypatch.setenv("TEST_OPENAI_KEY", KEY)
    message = problem(
        OpenaiClient(endpoint(openai_url, put_model(**HELLO))),
        {"messages": [{"role": "user", "content": f"my key is {KEY}"}]},
    )
    assert "no answer is written for 'my key is $TEST_OPENAI_KEY'" in message


def test_what_a_server_does_not_know_is_left_out_if_it_may_be(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, knows=["messages"])
    client = OpenaiClient(endpoint(openai_url, model))
    for _ in range(2):
        assert run_coroutine(ask(client, body={"seed": 3})) == ["good day"]
    assert ["seed" in entry["body"] for entry in requests_for(model)] == [True, False, False]
    with pytest.raises(RequestRefusedError, match="Unrecognized request argument: top_p; change"):
        run_coroutine(ask(client, body={"top_p": 0.5}))


def test_requests_are_limited_and_side_by_side(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, delay=0.1)
    client = OpenaiClient(endpoint(openai_url, model, concurrency=4))
    assert run_coroutine(ask(client, times=12)) == ["good day"] * 12
    assert 2 <= max(entry["in_flight"] for entry in requests_for(model)) <= 4


def test_after_a_failure_no_further_request_is_sent_and_those_on_the_way_end(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, fail=[418], delay=0.1)
    client = OpenaiClient(endpoint(openai_url, model, concurrency=3))
    ended: list[str] = []

    async def noted() -> None:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        ended.append(
            await client.post("/chat/completions", body, optional=frozenset(), read=content)
        )

    async def all_of_them() -> None:
        async with client:
            await client.gather(noted() for _ in range(9))

    with pytest.raises(EngineError, match="fault 418"):
        run_coroutine(all_of_them())
    assert len(requests_for(model)) == 3
    assert len(ended) == 2


def test_it_runs_inside_a_running_loop(openai_url: str, put_model: PutModel) -> None:
    client = OpenaiClient(endpoint(openai_url, put_model(**HELLO)))

    async def cell() -> list[str]:
        return run_coroutine(ask(client))

    assert asyncio.run(cell()) == ["good day"]
