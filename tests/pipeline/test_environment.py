"""The commit that a result was made with, where there is one."""

import subprocess
from pathlib import Path

from bonbon.pipeline.environment import checkout_commit


def git(directory: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True)


def test_a_checkout_names_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("one")
    assert checkout_commit(file) is None
    git(tmp_path, "init", "--quiet")
    assert checkout_commit(file) is None  # installed inside someone's checkout, not part of it
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = checkout_commit(file)
    assert commit is not None
    assert int(commit, 16) >= 0
    file.write_text("two")
    assert checkout_commit(file) == f"{commit}+"
