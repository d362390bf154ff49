"""What the client does about each fault of a real server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bonbon.errors import EngineError
from bonbon.models.endpoint import Endpoint
from bonbon.models.openai_answer import Answer
from bonbon.models.openai_client import OpenaiClient, run_to_end
from bonbon.models.openai_failure import RequestRefusedError

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


def content(answer: Answer) -> str:
    return answer.choices[0].content


async def ask(
    client: OpenaiClient, *, times: int = 1, body: dict[str, Any] | None = None
) -> list[str]:
    asked = {"messages": [{"role": "user", "content": "hello"}], **(body or {})}
    optional = frozenset({"seed"})
    async with client:
        return await client.gather(
            client.post("/chat/completions", asked, optional=optional, read=content)
            for _ in range(times)
        )


def problem(client: OpenaiClient, body: dict[str, Any] | None = None) -> str:
    """Return the one line that asking ends with."""
    with pytest.raises(EngineError) as caught:
        run_to_end(ask(client, body=body))
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "cut", "garbage", "empty"])
def test_a_passing_fault_is_tried_again(
    fault: int | str, openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, fail=[fault])
    assert run_to_end(ask(OpenaiClient(endpoint(openai_url, model)))) == ["good day"]
    assert len(requests_for(model)) == 2


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (500, "answers 500, 2 tries: fault 500; wait, or lower sampling.engine.concurrency"),
        (429, "answers 429, 2 tries: fault 429"),
        (418, "answers 418: fault 418"),
        ("drop", "2 tries (Server disconnected without sending a response.)"),
        ("garbage", "gave answers that cannot be used, 2 tries (Expecting value"),
    ],
)
def test_a_lasting_fault_is_told_in_one_line(
    fault: int | str, line: str, openai_url: str, put_model: PutModel
) -> None:
    model = put_model(**HELLO, fail=[fault, fault, fault])
    said = problem(OpenaiClient(endpoint(openai_url, model, max_retries=1)))
    assert line in said
    assert "run the same command again to go on" in said


def test_nobody_there() -> None:
    said = problem(OpenaiClient(endpoint("http://127.0.0.1:9/v1", "m", max_retries=0)))
    assert said.startswith("cannot reach http://127.0.0.1:9/v1, 1 try (All connection attempts")
    assert "mend sampling.engine.base_url" in said


def test_a_slow_answer(openai_url: str, put_model: PutModel) -> None:
    model = put_model(**HELLO, delay=2)
    said = problem(OpenaiClient(endpoint(openai_url, model, max_retries=0, timeout_s=0.2)))
    assert "gave no answer within 0.2 s, 1 try; raise sampling.engine.timeout_s" in said


def test_an_unknown_model_is_told_with_those_there_are(
    openai_url: str, put_model: PutModel
) -> None:
    model = put_model(**HELLO)
    said = problem(OpenaiClient(endpoint(openai_url, "nobody")))
    assert "has no model 'nobody', it has" in said
    assert "set sampling.engine.model to one of these" in said
    said = problem(OpenaiClient(endpoint(openai_url.removesuffix("/v1"), model)))
    assert "answers 404" in said
    assert "base_url ends with the API's version" in said


def test_the_key_comes_from_the_environment_and_is_never_told(
    openai_url: str,
    put_model: PutModel,
    requests_for: RequestsFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = put_model(**HELLO, key=KEY)
    said = problem(OpenaiClient(endpoint(openai_url, model)))
    assert "answers 401: $TEST_OPENAI_KEY holds no key" in said
    monkeypatch.setenv("TEST_OPENAI_KEY", KEY + "\n")
    assert run_to_end(ask(OpenaiClient(endpoint(openai_url, model)))) == ["good day"]
    sent = [entry["authorization"] for entry in requests_for(model)]
    assert sent == ["Bearer EMPTY", f"Bearer {KEY}"]
    said = problem(OpenaiClient(endpoint(openai_url, put_model(**HELLO, key="other"))))
    assert "the key in $TEST_OPENAI_KEY is refused" in said


def test_a_key_that_the_server_repeats_is_taken_out(
    openai_url: str, monkeypatch: pytest.MonkeyPatch, put_model: PutModel
) -> None:
    monkeypatch.setenv("TEST_OPENAI_KEY", KEY)
    said = problem(
        OpenaiClient(endpoint(openai_url, put_model(**HELLO))),
        {"messages": [{"role": "user", "content": f"my key is {KEY}"}]},
    )
    assert "no answer is written for 'my key is $TEST_OPENAI_KEY'" in said


def test_what_a_server_does_not_know_is_left_out_if_it_may_be(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, knows=["messages"])
    client = OpenaiClient(endpoint(openai_url, model))
    for _ in range(2):
        assert run_to_end(ask(client, body={"seed": 3})) == ["good day"]
    assert ["seed" in entry["body"] for entry in requests_for(model)] == [True, False, False]
    with pytest.raises(RequestRefusedError, match="Unrecognized request argument: top_p; change"):
        run_to_end(ask(client, body={"top_p": 0.5}))


def test_requests_are_limited_and_side_by_side(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(**HELLO, delay=0.1)
    client = OpenaiClient(endpoint(openai_url, model, concurrency=4))
    assert run_to_end(ask(client, times=12)) == ["good day"] * 12
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
        run_to_end(all_of_them())
    assert len(requests_for(model)) == 3
    assert len(ended) == 2


def test_it_runs_inside_a_running_loop(openai_url: str, put_model: PutModel) -> None:
    client = OpenaiClient(endpoint(openai_url, put_model(**HELLO)))

    async def cell() -> list[str]:
        return run_to_end(ask(client))

    assert asyncio.run(cell()) == ["good day"]
