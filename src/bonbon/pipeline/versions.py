"""Which versions of what a run was made with."""

import platform
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
