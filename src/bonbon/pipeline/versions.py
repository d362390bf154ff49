"""Which versions of what a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("bonbon-align", "torch", "transformers", "numpy", "peft")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
