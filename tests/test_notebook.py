"""The page for notebooks runs as it stands, from prompts to a comparison."""

import os
import re
import shutil
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "notebook.md").read_text(encoding="utf-8")
COMPARE = """
compare:
  leader: rank
  best_of: [2, 4]
  methods: {rank: {}, dpo: {training: {objective: dpo, beta: 0.1}}}
"""


def test_the_page_runs(
    toy_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("digits.py", "prompts.jsonl", "recipe.yaml"):
        shutil.copy(toy_place / name, tmp_path)
    (tmp_path / "compare.yaml").write_text((tmp_path / "recipe.yaml").read_text() + COMPARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "notebook.md", "exec"), names)

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("bonbon ")]
    assert lines[-1] == "True"
    imported = set(re.findall(r"^(?:from|import) (\w+)", "\n".join(blocks), flags=re.MULTILINE))
    assert imported == {"bonbon", "pathlib"}
