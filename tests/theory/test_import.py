"""Theory is light: numpy only, and quick to import."""

import json
import subprocess
import sys

import bonbon.theory

CODE = """
import json, sys, time
start = time.process_time()
import bonbon.theory
print(json.dumps({"seconds": time.process_time() - start, "modules": sorted(sys.modules)}))
"""


def imported() -> dict[str, list[str] | float]:
    return json.loads(subprocess.check_output([sys.executable, "-c", CODE]))


def test_nothing_heavy_is_imported() -> None:
    loaded = imported()["modules"]
    assert isinstance(loaded, list)
    assert "bonbon.theory" in loaded
    heavy = {"torch", "transformers", "scipy", "matplotlib", "pyarrow", "pydantic", "typer"}
    assert heavy.intersection(loaded) == set()


def test_import_takes_less_than_a_third_of_a_second() -> None:
    seconds = [imported()["seconds"] for _ in range(5)]  # of processor time: cores are shared
    assert min(s for s in seconds if isinstance(s, float)) < 0.3


def test_every_public_name_is_there() -> None:
    assert len(set(bonbon.theory.__all__)) == len(bonbon.theory.__all__)
    assert all(hasattr(bonbon.theory, name) for name in bonbon.theory.__all__)
