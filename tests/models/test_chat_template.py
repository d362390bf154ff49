"""Chat templates: which one is used, what they refuse, and which date they print."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from tests.checkpoints import CHATML

from bonbon.errors import PolicyError, PromptError
from bonbon.models.policy import PolicyConfig, PolicyTokenizer, load_policy_tokenizer
from bonbon.records import Message, Prompt

Checkpoint = Callable[[str], Path]

SYSTEM = Message(role="system", content="Be brief.")
USER = Message(role="user", content="Hi there")
ASSISTANT = Message(role="assistant", content="<think>\nHm.\n</think>\nHello.")
NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def load(checkpoint: Checkpoint) -> Callable[..., PolicyTokenizer]:
    def loaded(name: str, **settings: object) -> PolicyTokenizer:
        values = {"model": str(checkpoint(name)), **settings}
        return load_policy_tokenizer(PolicyConfig.model_validate(values))

    return loaded


Load = Callable[..., PolicyTokenizer]


def text(policy: PolicyTokenizer, *messages: Message) -> str:
    ids = policy.encode(Prompt("p1", messages or "Hi there", "train"))
    return policy.decode(ids, with_special=True)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((SYSTEM, USER), "the turns system, user with the message 'System role not supported'"),
        ((USER, USER), "the turns user, user with the message 'Conversation roles must alternate"),
    ],
)
def test_what_a_template_refuses_is_told_in_its_words(
    load: Load, messages: tuple[Message, ...], words: str
) -> None:
    with pytest.raises(PromptError, match=f"^prompt 'p1': the chat template refuses {words}"):
        text(load("nosystem"), *messages)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content.nothing.more }}", "has no attribute"),
        ("{% for m in %}", "the chat template refuses"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_may_fail_in_any_way(
    load: Load, tmp_path: Path, template: str, words: str
) -> None:
    (tmp_path / "own.jinja").write_text(template)
    policy = load("base", chat_template=str(tmp_path / "own.jinja"))
    with pytest.raises(PromptError, match=words):
        text(policy)


@pytest.mark.parametrize(
    ("messages", "role"),
    [((SYSTEM, USER), "system"), ((USER, ASSISTANT, SYSTEM, USER), "system")],
)
def test_a_template_that_leaves_a_message_out_is_refused(
    load: Load, messages: tuple[Message, ...], role: str
) -> None:
    policy = load("dropsys")
    assert "Hi there" in text(policy, USER)
    with pytest.raises(PromptError, match=f"leaves out the message of the role '{role}'"):
        text(policy, *messages)


def test_a_template_may_leave_out_thinking_and_spaces(load: Load, tmp_path: Path) -> None:
    thoughtless = CHATML.replace(
        "{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] | trim }}"
    )
    (tmp_path / "own.jinja").write_text(thoughtless)
    policy = load("base", chat_template=str(tmp_path / "own.jinja"))
    spaced = Message(role="user", content="  Hi there\n")
    assert "Hm." not in text(policy, spaced, ASSISTANT, spaced)


def test_a_prompt_of_no_tokens_is_refused(load: Load, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="prompt 'p1' has no tokens"):
        load("base").encode(Prompt("p1", "", "train"))


@pytest.mark.parametrize("wanted", ["rag", "tool_use"])
def test_one_of_several_templates_is_named(load: Load, wanted: str) -> None:
    assert text(load("multitpl", chat_template=wanted)) == text(load("chatml"))


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("multitpl", "auto", "has the chat templates rag, tool_use and no default; set policy"),
        ("multitpl", "rga", "is 'rga', but multitpl has the chat templates rag, tool_use; exp"),
        ("chatml", "nnoe", "is 'nnoe', but chatml has no named chat templates; expected auto"),
        ("chatml", "no/such.jinja", "no/such.jinja cannot be read .No such file or directory."),
    ],
)
def test_a_template_that_is_not_there_is_refused(
    load: Load, name: str, wanted: str, words: str
) -> None:
    with pytest.raises(PolicyError, match=words):
        load(name, chat_template=wanted)


def test_a_default_template_needs_no_name(load: Load, tmp_path: Path) -> None:
    policy = load("multitpl", chat_template="rag")
    assert policy.tokenizer.chat_template == CHATML  # what is saved is the one in use


def test_the_clock_of_a_template_stands(load: Load) -> None:
    policy = load("date", clock=NOW)
    assert "Today Date: 02 Jan 2026 03:04:05" in text(policy)
    assert policy.clock == NOW


@pytest.mark.parametrize("form", ["%d %B %Y", "%-d.%-m.%y %H:%M:%S", "%A, %I %p", "100%% %Y-%j"])
@pytest.mark.parametrize("start", ["", "\n", "  ", "{% if true %}\n{% endif %}"])
def test_a_template_is_else_as_it_was(load: Load, tmp_path: Path, form: str, start: str) -> None:
    (tmp_path / "asks.jinja").write_text(
        f"{start}  {{% set told = strftime_now('{form}') %}}"
        "{% macro day() %}{{ told }}/{{ strftime_now is defined }}{% endmacro %}\n"
        "{{ day() }} {{ messages[0].content }}"
    )
    (tmp_path / "told.jinja").write_text(
        f"{start}  {{% set told = '{NOW.strftime(form)}' %}}"
        "{% macro day() %}{{ told }}/True{% endmacro %}\n"
        "{{ day() }} {{ messages[0].content }}"
    )
    dated, fixed = (
        text(load("base", chat_template=str(tmp_path / name), clock=NOW))
        for name in ("asks.jinja", "told.jinja")
    )
    assert dated == fixed


def test_a_token_that_the_model_does_not_know_is_refused(load: Load) -> None:
    policy = load("vocab")
    line = r"^prompt 'p1' holds the token '<\|new\|>', id \d+, but vocab has only the ids below \d+"
    with pytest.raises(PolicyError, match=line):
        text(policy)
    plain = load("vocab", chat_template="none")
    assert plain.encode(Prompt("p1", "Hi there", "train"))
    with pytest.raises(PolicyError, match=r"^a completion holds the token"):
        plain.encode_completion("Hi <|new|>")
