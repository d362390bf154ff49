"""What users and models wrote reaches a terminal as text, whatever it holds."""

import io
import json
from collections.abc import Callable

import pytest
from tests.comparison.results import comparison_result

from bonbon.comparison.summary import comparison_table
from bonbon.console import Console, shown, shown_json
from bonbon.evaluation.metrics import Metrics
from bonbon.report.terminal import summary_table

MARKUP = ":smile: [red]red[/red] [/] [bold]{x} \\[link=http://a]b :warning-emoji:"
COMMANDS = {
    "\x1b[2J": r"\x1b[2J",
    "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\": r"\x1b]8;;http://evil\x1b\here\x1b]8;;\x1b"
    + "\\",
    "good\rbad": r"good\x0dbad",
    "\a\b\0\x7f": r"\x07\x08\x00\x7f",
    "\x9b31m": r"\x9b31m",
    "abc\u202edef\u2066": r"abc\u202edef\u2066",
    "one\r\ntwo\n\tthree": "one\ntwo\n\tthree",
    "é 😀 👩\u200d🚀 שלום": "é 😀 👩\u200d🚀 שלום",
}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[Console, Callable[[], str]]:
    """A console on a terminal with colours, and what it was sent."""
    stream = io.StringIO()
    monkeypatch.setenv("TERM", "xterm-256color")
    return Console(file=stream, terminal=True, width=200), stream.getvalue


@pytest.mark.parametrize(("text", "safe"), COMMANDS.items())
def test_what_a_terminal_obeys_is_written_out(text: str, safe: str) -> None:
    assert shown(text) == safe


@pytest.mark.parametrize("text", [*COMMANDS, "\ud800"])
def test_json_is_safe_to_show_and_the_same_document(text: str) -> None:
    carried = shown_json({"text": text})
    assert json.loads(carried) == {"text": text}
    assert shown(carried) == carried


def test_nothing_said_is_markup_or_a_command(
    terminal: tuple[Console, Callable[[], str]],
) -> None:
    console, sent = terminal
    for say in (console.say, console.heading):
        say(MARKUP)
        say("\x1b[2J\rgone\a")
    with console.bar(f"draw {MARKUP} \x1b[2J", total=1):
        pass
    text = sent()
    assert text.count(MARKUP) >= 2
    assert ":smile: [red]red[/red]" in text.split("draw ")[1]
    assert r"\x1b[2J\x0dgone\x07" in text
    assert "\x1b[2J" not in text
    assert "\a" not in text


def test_names_in_tables_are_text(
    metrics: Metrics, terminal: tuple[Console, Callable[[], str]]
) -> None:
    console, sent = terminal
    name = ":smile: [red]\x1b[2J"
    run = metrics.model_copy(update={"tilt": name, "reward": name})
    row = metrics.methods["best-of-8"]
    methods = {**metrics.methods, name: row}
    console.show(summary_table(run.model_copy(update={"methods": methods})))
    result = comparison_result(name=name, tilt=name, reward=name)
    console.show(comparison_table(result))
    text = sent()
    assert text.count(r":smile: [red]\x1b[2J") == 7
    assert "\x1b[2J" not in text
