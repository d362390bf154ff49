"""A policy: a causal language model, its tokenizer, and how both are loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
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

from bonbon.base_config import Config, at_home
from bonbon.errors import BonbonError, ConfigError, PolicyError, PromptError
from bonbon.models.bundled import BUNDLED_POLICY, bundled_policy_directory
from bonbon.models.chat_template import choose_template, end_token_ids, omitted_message, render_chat
from bonbon.models.resource_errors import is_out_of_memory
from bonbon.models.weights import base_of, load_weights, model_directory
from bonbon.records import Message, Prompt


@dataclass(frozen=True)
class PolicyTokenizer:
    """A policy's tokenizer with the choices that decide what the policy reads.

    Attributes:
        name: what to call the policy in reports and manifests.
        tokenizer: the model's own.
        eos_token_ids: every id that ends a completion, at least one; turns that are written, not
            sampled, end with the first.
        use_chat_template: whether prompts are rendered with the tokenizer's chat template.
        context_length: longest sequence of the model, in tokens; None if its config does not say.
        vocabulary_size: number of ids in the model; None if unknown.
        clock: the date and time that the chat template sees as now.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    use_chat_template: bool
    context_length: int | None
    vocabulary_size: int | None = field(default=None, kw_only=True)
    clock: datetime = field(default_factory=datetime.now, kw_only=True)

    def encode(self, prompt: Prompt, *, max_new_tokens: int | None = None) -> tuple[int, ...]:
        """Return the token ids that condition the policy on a prompt.

        Args:
            prompt: the prompt.
            max_new_tokens: check that a completion of this length fits the model's context.

        Raises:
            PromptError: the policy cannot read the prompt, or the prompt leaves no space for a
                completion.
            PolicyError: the tokenizer gives a token that the model does not have.
        """
        token_ids = self._token_ids(prompt)
        if not token_ids:
            raise PromptError(
                f"prompt {prompt.id!r} has no tokens with the tokenizer of {self.name}; expected "
                "at least one: leave the prompt out, or check the chat template"
            )
        self._check_known(token_ids, f"prompt {prompt.id!r}")
        limit, needed = self.context_length, len(token_ids) + (max_new_tokens or 0)
        if max_new_tokens is not None and limit is not None and needed > limit:
            raise PromptError(
                f"prompt {prompt.id!r} has {len(token_ids)} tokens, and with max_new_tokens = "
                f"{max_new_tokens} it needs {needed}; {self.name} takes {limit}: "
                "shorten the prompt or lower sampling.max_new_tokens"
            )
        return token_ids

    def encode_completion(self, text: str, *, ended: bool = True) -> tuple[int, ...]:
        """Return the token ids of a completion that was written, not sampled.

        Args:
            text: its text; some data sets include the token that ends the turn.
            ended: append the token that ends a turn, unless the text includes one.

        Raises:
            PolicyError: the tokenizer gives a token that the model does not have.
        """
        token_ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        self._check_known(token_ids, "a completion")
        if not ended:
            return token_ids
        ends = [index for index, id_ in enumerate(token_ids) if id_ in self.eos_token_ids]
        if ends and not self.decode(token_ids[ends[0] + 1 :]).strip():
            return token_ids[: ends[0] + 1]
        return (*token_ids, self.eos_token_ids[0])

    def decode(self, token_ids: Sequence[int], *, with_special: bool = False) -> str:
        """Return a completion's text, without or with its end and other special tokens."""
        if not with_special and token_ids and token_ids[-1] in self.eos_token_ids:
            token_ids = token_ids[:-1]  # the token that ends a turn need not be a special one
        return cast(
            "str", self.tokenizer.decode(list(token_ids), skip_special_tokens=not with_special)
        )

    def without_special(self, text: str) -> str:
        """Remove the special tokens from a text that was decoded with them."""
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)) or "(?!)", "", text)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Ids of special tokens, end-of-sequence tokens included, by their text."""
        added = self.tokenizer.added_tokens_decoder.items()
        ids = {token_id for token_id, token in added if token.special}
        ids |= {*self.tokenizer.all_special_ids, *self.eos_token_ids}
        return {self.decode((token_id,), with_special=True): token_id for token_id in sorted(ids)}

    def messages(self, prompt: Prompt) -> list[Message]:
        """Return a prompt as chat messages; plain text becomes one user turn."""
        if isinstance(prompt.content, str):
            return [Message(role="user", content=prompt.content)]
        return [
            Message(role=message["role"], content=message["content"]) for message in prompt.content
        ]

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt.content, str) and not self.use_chat_template:
            return self._plain_ids(prompt.content)
        if not self.use_chat_template:
            raise PromptError(
                f"prompt {prompt.id!r} is a list of chat messages, but {self.name} has no chat "
                "template in use; give plain text, or a policy with a chat template"
            )
        text = self._chat(prompt)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        """Return a text's ids with the special tokens that the tokenizer puts before it.

        Special tokens after the text are left out: behind an end-of-sequence token the completion
        would be another text. Those before are not repeated if the text includes them.
        """
        with_special = tuple(self.tokenizer(text)["input_ids"])
        bare = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        for start in range(len(with_special) - len(bare) + 1):
            if with_special[start : start + len(bare)] == bare:
                before = with_special[:start]
                return bare if before and bare[:start] == before else before + bare
        return with_special

    def _chat(self, prompt: Prompt) -> str:
        """Render a prompt with the chat template."""
        messages = self.messages(prompt)
        remedy = "change the messages, or set another template with policy.chat_template"
        try:
            text = render_chat(
                self.tokenizer, messages, clock=self.clock, add_generation_prompt=True
            )
        except PromptError as error:
            raise PromptError(f"prompt {prompt.id!r}: {error}; {remedy}") from error
        missing = omitted_message(messages, text)
        if missing is not None:
            raise PromptError(
                f"prompt {prompt.id!r}: the chat template of {self.name} leaves out the message of "
                f"the role {missing['role']!r}, so the policy would not read it; {remedy}"
            )
        return text

    def _check_known(self, token_ids: Sequence[int], what: str) -> None:
        size = self.vocabulary_size
        if size is None or max(token_ids, default=0) < size:
            return
        token_id = max(token_ids)
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        raise PolicyError(
            f"{what} holds the token {token!r}, id {token_id}, but {self.name} has only the ids "
            f"below {size}: its tokenizer is larger than the model; expected the tokenizer that "
            "the model was trained with, or a model resized to it"
        )


DType = Literal["float32", "bfloat16", "float16"]


def _parse_clock(value: object) -> object:
    """Read a date or time as YAML and JSON write it; a date alone means midnight."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"got {value!r}, expected a date, or a date and time such as 2026-01-31T12:00:00"
            ) from None
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time())
    return value


class PolicyConfig(Config):
    """Which language model to align."""

    model: str = BUNDLED_POLICY
    """Hub name or local directory of a causal language model; the default needs no hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: DType = "bfloat16"
    """Precision of sampling and evaluation; training keeps float32 master weights."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    chat_template: str = "auto"
    """`auto` uses the tokenizer's chat template if it has one, `none` uses plain text as it is;
    or the name of one of several templates, or the path of a `.jinja` file."""
    clock: Annotated[datetime | None, BeforeValidator(_parse_clock)] = None
    """Date and time that chat templates print as the current one, the same for every prompt; by
    default the start of the run, which is recorded in its recipe.yaml."""
    trust_remote_code: bool = False
    """Run model code from the hub repository."""
    num_threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; by default torch chooses."""

    def saved_in(self, directory: Path) -> "PolicyConfig":
        """Return the config of this policy's trained model, saved with the template in use."""
        template = "none" if self.chat_template == "none" else "auto"
        saved = {"model": str(directory), "revision": None, "chat_template": template}
        return self.model_copy(update=saved)


@dataclass(frozen=True)
class Policy(PolicyTokenizer):
    """A loaded model with its tokenizer.

    Attributes:
        model: in evaluation mode, on its device.
    """

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device


def load_policy(
    config: PolicyConfig | str, *, dtype: DType | None = None, four_bit: bool = False
) -> Policy:
    """Load a policy from safetensors.

    Args:
        config: which model, and where to put it; or its hub name or directory.
        dtype: overrides `config.dtype`.
        four_bit: store the weights of linear layers in 4 bits (NF4), with bitsandbytes.

    Raises:
        PolicyError: the model cannot be loaded, weights are missing, or it has no end-of-sequence
            token.
    """
    if isinstance(config, str):
        config = PolicyConfig(model=config)
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
    except Exception as error:  # safetensors, the hub's client and model code raise their own
        raise _cannot_load(config, error) from error
    if not four_bit:  # bitsandbytes has placed it already
        cast("Any", model).to(device)
    model.eval()
    return Policy(model=model, **_parts(config, tokenizer, model.config, model.generation_config))


def policy_skeleton(config: PolicyConfig) -> PreTrainedModel:
    """Return a policy's model without weights, to inspect its layers.

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
    """Load a policy's tokenizer, for engines that load the weights themselves.

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
    """Return the device of a config; `auto` prefers a GPU.

    Raises:
        ConfigError: this machine has no such device.
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
    """Return the names of the devices that this machine has."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return " or ".join(["auto", "cpu", *devices])


def policy_name(config: PolicyConfig) -> str:
    """Return the short name of a policy: the last part of its hub name or path."""
    if config.model == BUNDLED_POLICY:
        return "SmolLM2-135M-Instruct"
    return at_home(Path(config.model)).resolve().name


def policy_source(config: PolicyConfig) -> str:
    """Return the hub name or directory that a policy is loaded from.

    Raises:
        PolicyError: a local directory holds no model.
    """
    if config.model == BUNDLED_POLICY:
        return str(bundled_policy_directory())
    files = ("config.json", "adapter_config.json")
    directory = model_directory(config.model, what="policy", files=files, error=PolicyError)
    return config.model if directory is None else str(directory.resolve())


def policy_commit(config: PolicyConfig) -> str | None:
    """Return the commit of a hub model that was loaded; None for a directory."""
    source = policy_source(config)
    if Path(source).is_dir():
        return None
    # The hub's client stores the files of each commit in a folder of that name.
    file = try_to_load_from_cache(source, "config.json", revision=config.revision or "main")
    return Path(file).parent.name if isinstance(file, str) else None


def _parts(
    config: PolicyConfig,
    tokenizer: PreTrainedTokenizerBase,
    model_config: PreTrainedConfig,
    generation_config: GenerationConfig | None,
) -> dict[str, Any]:
    """Return the fields of a `PolicyTokenizer`."""
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
            f"policy {config.model} has no end-of-sequence token, so no completion would "
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
    """Return the options of 4-bit loading, as in QLoRA (arXiv 2305.14314)."""
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
    if is_out_of_memory(error):
        raise error
    reason = " ".join(str(error).split())[:600].rstrip(".")
    return PolicyError(
        f"cannot load the policy {config.model!r}: {reason}; expected a hub name or a directory "
        f"with a causal language model in safetensors{_where(config)}"
    )


def _where(config: PolicyConfig) -> str:
    """Return a hint that the name was looked up on the hub: a directory may be misspelt."""
    if config.model == BUNDLED_POLICY or at_home(Path(config.model)).is_dir():
        return ""
    return " (there is no directory of that name here)"
