"""The commit of a loaded hub model, from the cache of the hub's client."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bonbon.models.policy import PolicyConfig, policy_commit

COMMIT = "5b2f8d0c1e4a7f3b6d9c0a1e2f3b4c5d6e7f8a9b"
PROGRAM = """
from bonbon.models.policy import PolicyConfig, load_policy, policy_commit
config = PolicyConfig(model="someone/tiny")
load_policy(config)
print(policy_commit(config))
"""


def test_a_hub_model_is_known_by_its_commit(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(checkpoint("chatml"), folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == COMMIT


def test_a_directory_has_none(checkpoint: Callable[[str], Path]) -> None:
    assert policy_commit(PolicyConfig(model=str(checkpoint("chatml")))) is None
