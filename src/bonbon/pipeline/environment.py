"""Versions, date and machine of a run."""

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
"""Names of packages in the records, and their names on PyPI."""

EXTRAS = ("accelerate", "datasets", "openai", "ray", "safetensors", "scikit-learn", "vllm")
"""Further packages that a bug report should name."""

DESCRIBE = ["describe", "--always", "--exclude=*", "--dirty=+"]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on.

    Where bonbon runs from a git checkout, its commit is among them.
    """
    known = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            known[name] = version(package)
        except PackageNotFoundError:
            continue
    commit = checkout_commit(Path(__file__))
    return known | ({"commit": commit} if commit else {})


def environment_report() -> list[str]:
    """Return the lines about this machine that a bug report should contain."""
    import torch  # noqa: PLC0415 - slow, and only needed here

    lines = [f"{name} {number}" for name, number in versions().items() if name != "bonbon"]
    for name in EXTRAS:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    lines.append(f"platform {platform.platform()}")
    lines.append(f"processor {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} used")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    lines += [f"cuda:{index} {name}" for index, name in enumerate(devices)]
    if torch.backends.mps.is_available():
        lines.append("mps available")
    if not devices:
        lines.append("cuda not available")
    return lines


def checkout_commit(file: Path) -> str | None:
    """Return the short commit of a file's git checkout, with a + if a tracked file has changed."""
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
    """Return the processor's name on Linux, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()
