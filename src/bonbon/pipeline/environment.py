"""Which versions of what a run was made with, when and where."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = {
    "bonbon": "bonbon-align",
    "torch": "torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "peft": "peft",
    "trl": "trl",
}
"""What a package is called here, and where it is installed from."""

DESCRIBE = ["describe", "--always", "--exclude=*", "--dirty=+"]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on.

    Where bonbon runs from a git checkout, its commit is among them.
    """
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    commit = checkout_commit(Path(__file__))
    return found | ({"commit": commit} if commit else {})


def checkout_commit(file: Path) -> str | None:
    """Return the short commit that a file under git's care is of, with a + if any has changed."""
    described: list[str] = []
    for question in (["ls-files", "--error-unmatch", file.name], DESCRIBE):
        try:
            done = subprocess.run(
                ["git", "-C", str(file.parent), *question],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        described.append(done.stdout.strip())
    return described[-1] or None


def circumstances() -> dict[str, str]:
    """Return today's date and the machine's processor."""
    date = datetime.now(tz=UTC).date().isoformat()
    return {"date": date, "machine": f"{processor()}, {os.cpu_count()} cores"}


def processor() -> str:
    """Return the processor's name where Linux tells it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()
