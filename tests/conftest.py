"""What every test runs under: annotations checked as code runs, one thread, no hub, no display."""

import gc
import json
import os
import random
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
from tests.annotations import check_annotations
from tests.processes import WarmPython, started, warm_python

check_annotations("bonbon")

# SIGTERM ends the tests as Ctrl-C does, so that they end what they have started.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# Under nohup the tests, and what they start, would ignore it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Same examples on every run; no deadline, since the cores are shared and models load slowly.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Spare garbage collections what the imports have left: every training asks for one.

    Looking through torch and its like takes a third of a second each time, and finds nothing.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def toy_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with all that a run needs: a toy policy, prompts, a reward and a recipe.

    The reward, `digits:total`, is the sum of the words, which are digits. Nobody writes here.
    """
    from bonbon.models.toy import toy_policy  # noqa: PLC0415 - most tests do without torch

    place = tmp_path_factory.mktemp("toy")
    policy = toy_policy(num_words=8, sharpness=2.0)
    policy.model.save_pretrained(place / "policy")
    policy.tokenizer.save_pretrained(place / "policy")
    rng = random.Random(0)
    texts: list[str] = []
    while len(texts) < 52:
        text = " ".join(str(rng.randrange(8)) for _ in range(rng.randrange(1, 5)))
        if len(texts) < 40 or text not in texts[:40]:  # what is held out is not trained on
            texts.append(text)
    prompts = [
        {"id": f"p{index:02d}", "prompt": text, "split": "train" if index < 40 else "eval"}
        for index, text in enumerate(texts)
    ]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (place / "digits.py").write_text(
        "def total(prompts, completions):\n"
        "    return [sum(map(float, completion.split())) for completion in completions]\n"
        "def words(prompts, completions):\n"
        "    return [len(completion.split()) for completion in completions]\n"
    )
    (place / "recipe.yaml").write_text(
        f"name: toy\n"
        f"policy: {{model: {place / 'policy'}, dtype: float32, device: cpu}}\n"
        f"prompts: {{path: {place / 'prompts.jsonl'}}}\n"
        "sampling: {n: 4, temperature: 0.9, max_new_tokens: 5}\n"
        "reward: digits:total\n"
        "training: {learning_rate: 1.0e-3, precision: float32, checkpoints: 3, epochs: 2}\n"
        "evaluation: {base_samples: 6, policy_samples: 3, num_resamples: 100}\n"
    )
    return place


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no report: drawing it takes longer than all the rest of a toy run."""
    from bonbon.pipeline import report as reports  # noqa: PLC0415 - most tests do without torch

    monkeypatch.setattr(reports, "write_report", lambda directory: directory / "report.html")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """Start a Python that has imported bonbon, from which processes of their own are forked."""
    with warm_python(tmp_path_factory.mktemp("warm")) as python:
        yield python


@pytest.fixture(scope="session")
def openai_url() -> Iterator[str]:
    """Start a server that speaks OpenAI's API, see openai_server.py, and give its base URL."""
    command = [sys.executable, str(Path(__file__).with_name("openai_server.py"))]
    with started(command, stderr=None) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip() + "/v1"


@pytest.fixture(scope="session")
def put_model(openai_url: str) -> Callable[..., str]:
    """Give a function that puts a model on the server and returns its name."""
    numbers = count()

    def put(**settings: object) -> str:
        name = f"model-{next(numbers)}"
        request = urllib.request.Request(
            openai_url.removesuffix("/v1") + "/put",
            data=json.dumps({"name": name, **settings}).encode(),
        )
        with urllib.request.urlopen(request):
            return name

    return put


@pytest.fixture(scope="session")
def requests_for(openai_url: str) -> Callable[[str], list[dict[str, Any]]]:
    """Give a function that returns the requests for a model so far: path, body, authorization."""

    def requests(model: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{openai_url.removesuffix('/v1')}/log?{model}") as answer:
            return json.load(answer)

    return requests


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function that builds a checkpoint of `tests/checkpoints.py` once and returns it."""
    from tests.checkpoints import build  # noqa: PLC0415 - most tests do without torch

    place = tmp_path_factory.mktemp("checkpoints")

    def built(name: str) -> Path:
        folder = place / name
        return folder if folder.is_dir() else build(name, folder)

    return built


@pytest.fixture
def trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[[str], Path]
) -> Path:
    """Work in a folder with a small recipe, 20 prompts and a reward, and return the folder.

    `trial.yaml` answers with the checkpoint `chatml`; its reward, `letters:count`, counts letters.
    """
    prompts = [{"prompt": f"Say something nice about number {index}."} for index in range(20)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "letters.py").write_text(
        "def count(prompts, completions):\n"
        "    return [sum(map(str.isalpha, text)) + len(text) / 100 for text in completions]\n"
    )
    (tmp_path / "trial.yaml").write_text(
        f"policy: {{model: {checkpoint('chatml')}, dtype: float32, device: cpu}}\n"
        "prompts: {path: prompts.jsonl, eval_fraction: 0.3}\n"
        "sampling: {n: 4, temperature: 1.0, max_new_tokens: 12}\n"
        "reward: letters:count\n"
        "training: {epochs: 1, batch_size: 4, validation_groups: 0, precision: float32,"
        " learning_rate: 1.0e-3}\n"
        "evaluation: {base_samples: 8, policy_samples: 4, num_resamples: 200}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path
