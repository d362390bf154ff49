"""How much of the package a small run loads."""

import sys
from pathlib import Path

from tests.processes import finished

MAX_MODULES = 125

COUNT = """
import sys
from bonbon.cli.main import main
sys.argv = ["bonbon", "run", "recipe.yaml", "--out", sys.argv[1]]
try:
    main()
except SystemExit as ending:
    assert not ending.code, ending.code
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "bonbon"))
"""


def test_a_small_run_loads_few_modules(toy_place: Path, tmp_path: Path) -> None:
    """Whoever follows a prompt through the code has to read them."""
    command = [sys.executable, "-c", COUNT, str(tmp_path / "run")]
    done = finished(command, cwd=toy_place)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert len(loaded) <= MAX_MODULES, " ".join(loaded)
    assert "bonbon.pipeline.run" in loaded
    assert not [
        name for name in loaded if name.startswith(("bonbon.comparison", "bonbon.pipeline.ray"))
    ]
