"""The verb `bonbon theory`, on its own."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bonbon.cli.theory import theory
from bonbon.errors import ConfigError


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(theory)
    return CliRunner().invoke(app, list(arguments))


def test_n() -> None:
    result = run("--n", "8")
    assert result.exit_code == 0
    assert result.stdout.startswith("best-of-8\n")
    for part in ("0.888889", "1.204442 nats", "8 completions per prompt", "0.889675", "9.05454"):
        assert part in result.stdout
    assert "whole number" not in result.stdout


def test_win_rate() -> None:
    result = run("--win-rate", "0.85")
    assert "best-of-5.66667" in result.stdout
    assert "with 6 draws, the next whole number" in result.stdout
    assert "whole number" not in run("--win-rate", "0.9").stdout


def test_kl_as_json() -> None:
    plan = json.loads(run("--kl", "1.0", "--json").stdout)
    assert plan["kl"] == pytest.approx(1)
    assert plan["num_draws"] == 7
    assert plan["optimal_win_rate"] == pytest.approx(0.864579, abs=5e-7)


def test_a_table_when_nothing_is_asked() -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["2", "4", "8", "16", "32", "64"]
    rows = json.loads(run("--json").stdout)
    assert [row["num_draws"] for row in rows] == [2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_figure(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    result = run("--kl", "1", "--figure", str(path), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["num_draws"] == 7
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix])


def test_the_figure_marks_what_was_asked(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain.svg", tmp_path / "marked.svg"
    run("--figure", str(plain))
    run("--n", "100000", "--figure", str(marked))
    assert "n = 16" in plain.read_text()
    assert "0.0095 at n = 1.78" in plain.read_text()
    assert marked.read_text() != plain.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n", "0.5"), r"--n: n must be in \[1, inf\), got 0.5"),
        (("--win-rate", "1"), r"--win-rate: win_rate must be in \[0.5, 1\), got 1.0"),
        (("--kl", "-1"), r"--kl: kl must be in \[0, 600\], got -1.0"),
        (("--n", "8", "--kl", "1"), "give one of .* got --n and --kl"),
        (("--figure", "out.gif"), "must end in .svg, .png, .pdf, got 'out.gif'"),
        (("--figure", "nowhere/out.svg"), "a folder that exists, got 'nowhere'"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: tuple[str, ...], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, ConfigError)
    assert "\n" not in str(error)
    with pytest.raises(ConfigError, match=message):
        raise error
