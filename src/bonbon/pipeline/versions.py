"""Which versions of what a run was made with, when and where."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {
    "bonbon": "bonbon-align",
    "torch": "torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "peft": "peft",
}
"""What a package is called here, and where it is installed from."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
