"""A function is found where its user keeps it, called with plain lists, and named in errors."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bonbon.errors import ConfigError, PromptError, RewardError
from bonbon.records import Message, Prompt
from bonbon.rewards.base import checked_scores
from bonbon.rewards.function import FunctionReward, load_function

WriteModule = Callable[[str, str], Path]

PLAIN = Prompt(id="a", content="Hello?", split="train")
CHAT = Prompt(
    id="b",
    content=(Message(role="system", content="Be kind."), Message(role="user", content="Hi")),
    split="train",
)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write modules into an empty current directory that nothing outlives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, source: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        return file

    yield write
    for name in [name for name, module in sys.modules.items() if _lies_in(module, tmp_path)]:
        del sys.modules[name]


def _lies_in(module: object, directory: Path) -> bool:
    return str(getattr(module, "__file__", None)).startswith(str(directory))


def problem(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_function(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_in_the_current_directory_is_found_and_called(write_module: WriteModule) -> None:
    write_module("rewards_here.py", "def warmth(p, c): return [len(x) for x in c]\n")
    reward = FunctionReward(load_function("rewards_here:warmth"))
    assert reward.name == "warmth"
    assert checked_scores(reward, [PLAIN] * 2, ["four", "seven.."]) == [4.0, 7.0]


def test_modules_of_packages_and_members_of_classes_are_found(write_module: WriteModule) -> None:
    write_module("my_pack/__init__.py", "")
    write_module(
        "my_pack/scores.py",
        "class Tone:\n    @staticmethod\n    def warm(p, c): return [None for _ in c]\n",
    )
    reward = FunctionReward(load_function("my_pack.scores:Tone.warm"))
    assert reward.name == "warm"
    assert checked_scores(reward, [PLAIN], ["x"]) == [None]


def test_prompts_arrive_as_strings_or_lists_of_message_dicts() -> None:
    seen: list[object] = []

    def spy(prompts: list[object], completions: list[str]) -> list[float]:
        seen.extend([prompts, completions])
        return [0.0, 0.0]

    checked_scores(FunctionReward(spy), (PLAIN, CHAT), ("x", "y"))
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert seen == [["Hello?", chat], ["x", "y"]]


def test_what_a_function_does_to_its_lists_stays_with_it() -> None:
    def vandal(prompts: list[list[Message]], completions: list[str]) -> list[float]:
        prompts[0][0]["content"] = "gone"
        completions.clear()
        return [0.0]

    completions = ["x"]
    checked_scores(FunctionReward(vandal), [CHAT], completions)
    assert completions == ["x"]
    assert CHAT.content[0] == {"role": "system", "content": "Be kind."}


def test_the_line_that_raised_is_named(write_module: WriteModule) -> None:
    source = "import json\n\ndef warmth(p, c):\n    return [json.loads(x) for x in c]\n"
    file = write_module("rewards_raise.py", source)
    reward = FunctionReward(load_function("rewards_raise:warmth"))
    with pytest.raises(RewardError, match=rf"JSONDecodeError: .* \({re.escape(str(file))}:4\)"):
        checked_scores(reward, [PLAIN], ["not json"])


@pytest.mark.parametrize(
    "spec", ["", "module", "a:b:c", ":f", "m:", "path/to.py:f", "m:f()", "1:f"]
)
def test_a_malformed_spec_is_refused(spec: str) -> None:
    assert problem(spec).startswith(f"got function {spec!r}, expected `package.module:function`")


def test_a_missing_module_is_told_from_a_missing_dependency(write_module: WriteModule) -> None:
    file = write_module("rewards_needy.py", "import a_missing_dependency\n")
    assert "there is no module 'no_such_module' in the current directory" in problem(
        "no_such_module:f"
    )
    line = problem("rewards_needy:f")
    assert "importing rewards_needy raised ModuleNotFoundError" in line
    assert "No module named 'a_missing_dependency'" in line
    assert f"({file}:1)" in line


def test_a_missing_submodule_is_named(write_module: WriteModule) -> None:
    write_module("pack_of_one/__init__.py", "")
    assert "there is no module 'pack_of_one.more'" in problem("pack_of_one.more:f")


@pytest.mark.parametrize(
    ("source", "reason", "line_number"),
    [
        ("x = 1\nraise RuntimeError('no\\nkey')\n", "RuntimeError: no key", 2),
        ("x = 1\n\ndef f(:\n", "SyntaxError: invalid syntax", 3),
        ("import json\njson.loads('{')\n", "JSONDecodeError: Expecting property name", 2),
    ],
)
def test_a_module_that_cannot_be_imported_says_where(
    write_module: WriteModule, source: str, reason: str, line_number: int
) -> None:
    file = write_module("rewards_broken.py", source)
    line = problem("rewards_broken:f")
    assert f"importing rewards_broken raised {reason}" in line
    assert f"({file}:{line_number})" in line


def test_the_nearest_name_is_offered(write_module: WriteModule) -> None:
    file = write_module("rewards_typo.py", "def warmth(p, c): ...\ndef length(p, c): ...\n")
    assert problem("rewards_typo:warmht").endswith(
        f"{file} has no 'warmht', expected one of its functions; did you mean 'warmth'?"
    )
    assert problem("rewards_typo:zzz").endswith("it has length, warmth")


def test_what_cannot_be_called_is_refused(write_module: WriteModule) -> None:
    write_module("rewards_number.py", "warmth = 0.5\n")
    assert "'rewards_number:warmth' is a float, expected a function" in problem(
        "rewards_number:warmth"
    )


# ---------------------------------------------------------------------- columns


def with_columns(**columns: object) -> Prompt:
    return Prompt(id="a", content="Hello?", split="train", columns=columns)


ADDED = [with_columns(answer=4, topic="sums"), with_columns(answer=5, topic="sums")]


def scores_of(function: Callable[..., object], prompts: list[Prompt] = ADDED) -> list[float | None]:
    return checked_scores(FunctionReward(function, name="f"), prompts, ["4", "4"])


def test_columns_come_as_lists_by_name() -> None:
    def correct(prompts: list[str], completions: list[str], answer: list[int]) -> list[float]:
        assert prompts == ["Hello?", "Hello?"]
        return [float(int(text) == right) for text, right in zip(completions, answer, strict=True)]

    assert scores_of(correct) == [1.0, 0.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda completions, answer, **_: answer,
        lambda prompts, completions, **columns: columns["answer"],
        lambda completions, prompts, answer: [len(p) - 6 + a for p, a in zip(prompts, answer)],  # noqa: B905
        lambda *, answer, prompts, completions: answer,
        lambda **given: [a for a, _ in zip(given["answer"], given["completions"], strict=True)],
        lambda p, c, answer: [a for a, _ in zip(answer, c, strict=True)],
        lambda p, c, /, answer=None: answer,
        lambda texts, completions, answer=None, other=3: answer,
        lambda p, c, **columns: columns["answer"],
    ],
)
def test_ways_to_ask_for_a_column(function: Callable[..., object]) -> None:
    assert scores_of(function) == [4.0, 5.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda prompts, completions: [float(text) for text in completions],
        lambda p, c: [float(text) for text in c],
        lambda question, completions: [float(text) for text in completions],
        lambda prompts, texts: [float(text) for text in texts],
        lambda prompts, completions, answer=None: [float(text) for text in completions],
        lambda *both: [float(text) for text in both[1]],
        lambda completions: [float(text) for text in completions],
    ],
)
def test_functions_without_columns(function: Callable[..., object]) -> None:
    assert scores_of(function, [PLAIN, PLAIN]) == [4.0, 4.0]
    assert scores_of(function, [with_columns(p=1, c=2, completions=3, prompts=4)] * 2) == [4.0, 4.0]


def test_a_missing_column_is_named_with_those_there_are() -> None:
    def correct(prompts: object, completions: object, answer: object, hint: object) -> object:
        raise AssertionError("not called")

    with pytest.raises(PromptError, match="'f' needs the column 'hint', but the prompts ha"):
        scores_of(correct)
    with pytest.raises(PromptError, match="no columns, since they are not from a file"):
        scores_of(correct, [PLAIN, PLAIN])


def test_what_a_function_does_to_its_columns_stays_with_it() -> None:
    tests = [[1, 2], [3]]

    def vandal(completions: object, tests: list[list[int]]) -> list[float]:
        tests[0].clear()
        return [0.0, 0.0]

    scores_of(vandal, [with_columns(tests=one) for one in tests])
    assert tests == [[1, 2], [3]]
