"""How the command ends: by signals, by code that wants to end it, and where nobody can be told."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.processes import PATIENCE, WarmPython, finished, wait_for

from bonbon.data.store import CandidateStore

Command = Callable[..., Any]

ARGUMENTS = ("-c", "from bonbon.cli.main import main; main()")
BONBON = (sys.executable, *ARGUMENTS)


def shell(
    line: str, *arguments: str, place: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in which `"$@"` is the command."""
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", *BONBON, *arguments]
    return finished(command, cwd=place, env=os.environ | environment)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_it_in_the_same_words(
    toy_place: Path, warm: WarmPython, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def total(prompts, completions):\n"
        "    pathlib.Path('scoring').touch()\n"
        "    time.sleep(600)\n"
    )
    recipe, out = str(toy_place / "recipe.yaml"), str(tmp_path / "run")
    command = (*ARGUMENTS, "run", recipe, "--out", out, "--set", "reward=slow:total")
    with warm.started(*command, cwd=tmp_path) as process:
        wait_for((tmp_path / "scoring").exists, process)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=PATIENCE)

    assert process.returncode == code
    assert complaint == "\nbonbon: stopped; run the same command again to continue\n"
    assert len(CandidateStore(tmp_path / "run").read("train")) == 160


def test_a_signal_that_is_ignored_stays_so() -> None:
    script = (
        "import os, signal\n"
        "from bonbon.cli.runtime import stopped_by_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with stopped_by_signals():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('still here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "still here\n"


ENDINGS = {
    "sys.exit(0)": "SystemExit: 0",
    "sys.exit()": "SystemExit",
    "raise SystemExit('done')": "SystemExit: done",
    "raise Mine('so')": "Mine: so",
    "raise OSError(28, 'No space left on device')": "OSError: [Errno 28] No space left",
    "raise GeneratorExit": "GeneratorExit",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("when", ["import", "call"])
def test_a_reward_that_would_end_the_process_is_told(
    bonbon: Command, tmp_path: Path, ending: str, when: str
) -> None:
    at_import, at_call = (ending, "pass") if when == "import" else ("pass", ending)
    (tmp_path / "ending.py").write_text(
        "import sys\n"
        "class Mine(BaseException): pass\n"
        f"{at_import}\n"
        f"def total(prompts, completions):\n    {at_call}\n"
    )
    outcome = bonbon("run", "recipe.yaml", "--set", "reward=ending:total")

    assert outcome.code == 2
    assert outcome.err.startswith("bonbon: ")
    assert outcome.err.count("\n") == 1
    assert ENDINGS[ending].partition(":")[0] in outcome.err
    assert "ending.py:" in outcome.err


def test_a_reward_that_would_end_training_is_told(bonbon: Command, tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(
        "import sys\n"
        "calls = []\n"
        "def total(prompts, completions):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1:\n"
        "        sys.exit(0)\n"
        "    return [sum(map(float, text.split())) for text in completions]\n"
    )
    online = ("training.objective=rloo", "training.num_generations=2", "reward=ending:total")
    outcome = bonbon("run", "recipe.yaml", *(part for one in online for part in ("--set", one)))

    assert outcome.code == 2
    assert "reward 'total' raised SystemExit: 0" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("verb", [["theory"], ["--help"], ["theory", "--help"]])
def test_a_pipe_that_nobody_reads(verb: Sequence[str]) -> None:
    done = shell('sleep 0.1; "$@" | true', *verb)

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if done.returncode:  # the pipe may have been closed before or after all was written
        assert done.returncode == 2
        assert done.stderr == "bonbon: the output is closed; finished work is kept\n"


@pytest.mark.parametrize(
    ("streams", "code"),
    [(">&-", 0), ("<&-", 0), (">&- 2>&- <&-", 0), ("> /dev/full", 2), ("> /dev/full 2>&1", 2)],
)
def test_streams_that_are_closed_or_full(streams: str, code: int) -> None:
    done = shell(f'"$@" {streams}', "theory")

    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("\n") == (1 if streams == "> /dev/full" else 0)


def test_a_closed_stream_s_number_is_no_file_s(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "from bonbon.cli.runtime import prepare_process\n"
        "prepare_process()\n"
        "with open('kept', 'w') as kept:\n"
        "    os.write(1, b'a word of a library')\n"
        "    print('and one of ours')\n"
    )
    subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-c", script], cwd=tmp_path, check=True
    )
    assert (tmp_path / "kept").read_text() == ""


def test_a_terminal_that_knows_few_signs(toy_place: Path, warm: WarmPython, tmp_path: Path) -> None:
    shutil.copy(toy_place / "digits.py", tmp_path)
    recipe = str(toy_place / "recipe.yaml")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    drawn = warm.finished(*ARGUMENTS, "sample", recipe, cwd=tmp_path, env=environment)
    helped = shell('"$@"', "theory", "--help", PYTHONIOENCODING="latin-1:strict")
    refused = warm.finished(*ARGUMENTS, "run", "é–中", env=environment)

    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert "Sample: 4 answers" in drawn.stdout
    assert (helped.returncode, helped.stderr) == (0, "")
    assert refused.returncode == 2
    assert refused.stderr.startswith("bonbon: recipe ")


def test_one_prompt_s_answers_are_json_on_any_terminal(trial: Path, warm: WarmPython) -> None:
    model = yaml.safe_load((trial / "trial.yaml").read_text())["policy"]["model"]
    settings = ("--n", "2", "--max-new-tokens", "3", "--policy", model, "--json")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = warm.finished(*ARGUMENTS, "best", "é–中", *settings, env=environment)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["prompt"].endswith("é–中")


@pytest.mark.parametrize("option", [["--out=~nobody-at-all/x"], ["--out", "~nobody-at-all"]])
def test_a_home_that_is_none(bonbon: Command, option: Sequence[str]) -> None:
    outcome = bonbon("run", "recipe.yaml", *option)

    assert outcome.code == 2
    assert "there is no home directory of that user" in outcome.err


def test_the_run_directory_is_at_home(
    bonbon: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert bonbon("sample", "recipe.yaml", "--out=~/run").code == 0
    assert len(CandidateStore(tmp_path / "home" / "run").read("train")) == 160
    assert not (tmp_path / "~").exists()


def test_a_line_is_short_and_plain_whatever_was_got(bonbon: Command) -> None:
    for text in ("x" * 100_000, "\x1b[31mred\x07", "a\nb\u2028c", "sk-0123456789abcdef"):
        for arguments in (
            ["run", text],
            ["run", "recipe.yaml", "--set", f"{text}=1"],
            ["run", "recipe.yaml", "--set", f"sampling.n={text}"],
            ["theory", "--n", text],
            [text],
        ):
            outcome = bonbon(*arguments)
            assert outcome.code == 2
            assert outcome.err.startswith("bonbon: ")
            assert outcome.err.endswith("\n")
            assert len(outcome.err) <= 1000
            assert not set(outcome.err[:-1]) & set("\n\r\x1b\x07\u2028")
            assert "sk-0123" not in outcome.err
