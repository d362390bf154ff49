"""A recipe is code: its functions' files are told, and reading a run directory executes nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoConfig, AutoTokenizer

from bonbon.pipeline import report as reports

Command = Callable[..., Any]


def test_the_file_of_a_reward_function_is_told(bonbon: Command, tmp_path: Path) -> None:
    assert bonbon("sample", "recipe.yaml").code == 0
    told = bonbon("score", "recipe.yaml")

    assert told.code == 0
    assert f"The reward digits:total is the code in {tmp_path / 'digits.py'}." in told.out
    also = bonbon(
        "score", "recipe.yaml", "--also", "{kind: sum, parts: [{reward: 'digits:words'}]}"
    )
    assert f"The reward digits:words is the code in {tmp_path / 'digits.py'}." in also.out


def test_reading_a_run_directory_executes_nothing(
    bonbon: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-in-the-environment")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:1")
    monkeypatch.setenv("NO_PROXY", "*")
    with monkeypatch.context() as patch:  # the verb `report` draws it below
        patch.setattr(reports, "write_report", lambda directory: directory / "report.html")
        assert bonbon("run", "recipe.yaml", "--out", "run").code == 0
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    code = "import pathlib\npathlib.Path('executed').touch()\ndef run(prompts, completions): ...\n"
    (tmp_path / "evil.py").write_text(code)
    os.rename(tmp_path / "digits.py", tmp_path / "elsewhere.py")
    recipe["reward"] = {"kind": "function", "function": "evil:run", "name": "total"}
    recipe["policy"]["trust_remote_code"] = True
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trusted: list[bool] = []
    for loader in (AutoConfig, AutoTokenizer):

        def noted(
            *arguments: object,
            real: Callable[..., object] = loader.from_pretrained,
            **options: object,
        ) -> object:
            trusted.append(bool(options.get("trust_remote_code")))
            return real(*arguments, **options)

        monkeypatch.setattr(loader, "from_pretrained", noted)

    assert bonbon("report", "run").code == 0
    assert (tmp_path / "run" / "report.html").is_file()
    for form in ("pairs", "sft", "unpaired", "candidates"):
        assert bonbon("export", "run", f"{form}.jsonl", "--format", form).code == 0
    assert not (tmp_path / "executed").exists()
    assert not any(trusted)
    (tmp_path / "run" / "recipe.yaml").write_text("name: !!python/object/apply:os.mkdir [executed]")
    for verb in (["report", "run"], ["export", "run", "pairs.jsonl"], ["score", "run"]):
        assert bonbon(*verb).code == 2
    assert not (tmp_path / "executed").exists()
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()
