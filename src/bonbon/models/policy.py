"""A policy: a causal language model, its tokenizer and what sampling and training ask of them."""

from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import BeforeValidator, Field
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bonbon.config import Config, at_home
from bonbon.errors import BonbonError, ConfigError, PolicyError
from bonbon.models.chat_template import choose_template
from bonbon.models.embedded import EMBEDDED_POLICY, embedded_policy_directory
from bonbon.models.shortage import lacks_memory
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.models.turn_end import end_token_ids
from bonbon.models.weights import base_of, load_weights

DType = Literal["float32", "bfloat16", "float16"]


def _moment(value: object) -> object:
    """Read a moment as YAML and JSON write it: a date alone is its midnight."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"got {value!r}, expected a date or a moment such as 2026-01-31T12:00:00"
            ) from None
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time())
    return value


class PolicyConfig(Config):
    """Which language model to align."""

    model: str = EMBEDDED_POLICY
    """Hub name or local directory of a causal language model; the default needs no hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: DType = "bfloat16"
    """Precision of sampling and evaluation; training keeps float32 master weights."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    chat_template: str = "auto"
    """`auto` applies the tokenizer's chat template if it has one, `none` feeds plain text as is;
    or the name of one of several templates, or the path of a `.jinja` file."""
    clock: Annotated[datetime | None, BeforeValidator(_moment)] = None
    """What a chat template that prints the date takes for the present, for every prompt; by default
    when the run began, which its recipe.yaml then records."""
    trust_remote_code: bool = False
    """Run model code that the hub repository brings along."""
    num_threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; by default torch decides."""

    def saved_in(self, directory: Path) -> "PolicyConfig":
        """Return the same policy after training, as it was saved: with the one template in use."""
        template = "none" if self.chat_template == "none" else "auto"
        place = {"model": str(directory), "revision": None, "chat_template": template}
        return self.model_copy(update=place)


@dataclass(frozen=True)
class Policy(PolicyTokenizer):
    """A loaded model with its tokenizer.

    Attributes:
        model: in evaluation mode, on its device.
    """

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.device


def load_policy(
    config: PolicyConfig, *, dtype: DType | None = None, four_bit: bool = False
) -> Policy:
    """Load a policy from safetensors.

    Args:
        config: which model, and where to put it.
        dtype: overrides `config.dtype`.
        four_bit: hold the weights of linear layers in 4 bits (NF4), through bitsandbytes.

    Raises:
        PolicyError: the model cannot be loaded, its weights are not all there, or it has no
            end-of-sequence token.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device, source = resolve_device(config.device), policy_source(config)
    options = _hub_options(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = load_weights(
            AutoModelForCausalLM,
            source,
            dtype=getattr(torch, dtype or config.dtype),
            use_safetensors=True,
            **(_in_four_bits(device, dtype or config.dtype) if four_bit else {}),
            **options,
        )
    except BonbonError:
        raise
    except Exception as error:  # safetensors, the hub's client and model code have their own
        raise _cannot_load(config, error) from error
    if not four_bit:  # bitsandbytes has put it in its place
        cast("Any", model).to(device)
    model.eval()
    return Policy(model=model, **_parts(config, tokenizer, model.config, model.generation_config))


def policy_skeleton(config: PolicyConfig) -> PreTrainedModel:
    """Return a policy's model without weights, which shows what layers it has.

    Raises:
        PolicyError: there is no such model.
    """
    options = _hub_options(config)
    try:
        base, revision = base_of(policy_source(config), config.revision)
        model_config = AutoConfig.from_pretrained(base, **{**options, "revision": revision})
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                model_config, trust_remote_code=config.trust_remote_code
            )
    except BonbonError:
        raise
    except Exception as error:
        raise _cannot_load(config, error) from error


def load_policy_tokenizer(config: PolicyConfig) -> PolicyTokenizer:
    """Load what turns prompts into token ids, for engines that hold the weights themselves.

    Raises:
        PolicyError: there is no such model, or it has no end-of-sequence token.
    """
    source = policy_source(config)
    options = _hub_options(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        base, revision = base_of(source, config.revision)
        model_config = AutoConfig.from_pretrained(base, **{**options, "revision": revision})
    except BonbonError:
        raise
    except Exception as error:
        raise _cannot_load(config, error) from error
    try:
        generation_config = GenerationConfig.from_pretrained(source, **options)
    except OSError:  # many models have none
        generation_config = None
    return PolicyTokenizer(**_parts(config, tokenizer, model_config, generation_config))


def resolve_device(device: str) -> torch.device:
    """Return the device a config means; `auto` prefers a GPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = " ".join(str(error).partition(". ")[0].split())
        raise ConfigError(
            f"device {device!r} cannot be used here ({reason}); expected {_devices()}"
        ) from error
    return torch.device(device)


def _devices() -> str:
    """Say which devices this machine has."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    found += ["mps"] if torch.backends.mps.is_available() else []
    return " or ".join(["auto", "cpu", *found])


def policy_name(config: PolicyConfig) -> str:
    """Return the short name of a policy: the last part of its hub name or path."""
    if config.model == EMBEDDED_POLICY:
        return "SmolLM2-135M-Instruct"
    return at_home(Path(config.model)).resolve().name


def policy_source(config: PolicyConfig) -> str:
    """Return the hub name or directory that a policy is loaded from.

    Raises:
        PolicyError: a local directory holds no model.
    """
    if config.model == EMBEDDED_POLICY:
        return str(embedded_policy_directory())
    looks_local = config.model.startswith((".", "/", "~")) or Path(config.model).is_dir()
    if not looks_local:
        return config.model
    directory = at_home(Path(config.model))
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise PolicyError(
            f"policy {config.model}: no config.json there; expected a directory written by "
            "save_pretrained, or a hub name"
        )
    return str(directory.resolve())


def policy_commit(config: PolicyConfig) -> str | None:
    """Return the commit that a hub model was loaded at; None for a directory."""
    source = policy_source(config)
    if Path(source).is_dir():
        return None
    # The hub's client keeps each commit's files in a folder that is named after it.
    file = try_to_load_from_cache(source, "config.json", revision=config.revision or "main")
    return Path(file).parent.name if isinstance(file, str) else None


def _parts(
    config: PolicyConfig,
    tokenizer: PreTrainedTokenizerBase,
    model_config: PreTrainedConfig,
    generation_config: GenerationConfig | None,
) -> dict[str, Any]:
    """Return what a policy is made of besides its weights."""
    name = policy_name(config)
    uses_template = choose_template(tokenizer, config.chat_template, name=name)
    clock = config.clock or datetime.now()
    text_config = model_config.get_text_config()
    ends = end_token_ids(
        tokenizer,
        model_config,
        generation_config,
        clock=clock if uses_template else None,
        name=name,
    )
    if not ends:
        raise PolicyError(
            f"policy {config.model} has no end-of-sequence token, so no completion could ever "
            "stop; set eos_token_id in its generation_config.json"
        )
    return {
        "name": name,
        "tokenizer": tokenizer,
        "eos_token_ids": ends,
        "use_chat_template": uses_template,
        "context_length": getattr(text_config, "max_position_embeddings", None),
        "vocabulary_size": getattr(text_config, "vocab_size", None),
        "clock": clock,
    }


def _in_four_bits(device: torch.device, dtype: str) -> dict[str, Any]:
    """Return how transformers loads weights in 4 bits. Source: arXiv 2305.14314."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": quantization, "device_map": {"": str(device)}}


def _hub_options(config: PolicyConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def _cannot_load(config: PolicyConfig, error: Exception) -> PolicyError:
    if lacks_memory(error):
        raise error
    reason = " ".join(str(error).split())[:600].rstrip(".")
    return PolicyError(
        f"cannot load the policy {config.model!r}: {reason}; expected a hub name or a directory "
        f"with a causal language model in safetensors{_where(config)}"
    )


def _where(config: PolicyConfig) -> str:
    """Say that a name was taken for the hub's, as a directory's may be misspelt."""
    if config.model == EMBEDDED_POLICY or at_home(Path(config.model)).is_dir():
        return ""
    return " (there is no directory of that name here)"
