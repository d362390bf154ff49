"""Checkpoints as people bring them, tiny: tokenizers, templates and weights with one oddity each.

`build("llama3like", folder)` writes one that `load_policy` can be pointed at. Those with an untied
head have an end token that is likely enough to end completions within a few dozen tokens.
"""

# ruff: noqa: ANN401 - settings go on to transformers as they come

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

CORPUS = [
    "Hi there, how is your day going so far?",
    "Good morning! Anything worth knowing before I start my day?",
    "I just got home from work and need someone to chat with.",
    "Introduce yourself in two or three sentences.",
    "I love this wonderful day, it is great and happy.",
    "Terrible, awful, sad and bad.",
    "the word 'social' is here , and there ? yes !",
    "What a great and happy question! I am glad to help, that is lovely.",
] * 8

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES_SYSTEM = (
    "{% if messages[0]['role']=='system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m['role']=='user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}" + CHATML.removeprefix("{% for m in messages %}")
)
WITH_DATE = (
    "<|im_start|>system\nToday Date: {{ strftime_now('%d %b %Y %H:%M:%S') }}<|im_end|>\n" + CHATML
)
DROPS_SYSTEM = CHATML.replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
ENDOFTEXT, IM_START, IM_END, PAD = range(4)
"""The ids of the special tokens."""


def tokenizer(
    *,
    template: str | dict[str, str] | None = CHATML,
    bos: str | None = None,
    eos: str | None = "<|im_end|>",
    pad: str | None = "<|pad|>",
    add_bos: bool = False,
    add_eos: bool = False,
    vocabulary: int = 400,
    **settings: Any,
) -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE with four special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    core.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    if add_bos or add_eos:
        single = " ".join(
            [*([bos or ""] if add_bos else []), "$A", *([eos or ""] if add_eos else [])]
        )
        named = [(token, core.token_to_id(token)) for token in {bos, eos} if token]
        core.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=single, pair=single + " " + single.replace("$A", "$B"), special_tokens=named
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad, **settings
    )
    others = [token for token in SPECIAL if token not in (bos, eos, pad)]
    wrapped.add_special_tokens({"additional_special_tokens": others})
    if template:
        wrapped.chat_template = template
    return wrapped


def config(tokens: PreTrainedTokenizerBase, **settings: Any) -> LlamaConfig:
    """Return a Llama of two small layers for a tokenizer."""
    values: dict[str, Any] = {
        "vocab_size": len(cast("Any", tokens)),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    return LlamaConfig(**{**values, **settings})


def model(
    tokens: PreTrainedTokenizerBase, *, bias: Mapping[int, float] | None = None, **settings: Any
) -> PreTrainedModel:
    """Make the weights, always the same; `bias` is added to the logits of single tokens."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config(tokens, **settings), dtype=torch.float32).eval()
    if bias:
        _add_bias(made, bias)
    return made


def save(folder: Path, tokens: PreTrainedTokenizerBase, made: PreTrainedModel) -> Path:
    """Write a checkpoint in place of what the folder holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokens.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def edit_json(path: Path, **values: object) -> None:
    """Overwrite some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@torch.no_grad()
def plain_logprob(
    made: PreTrainedModel,
    prompt: Sequence[int],
    completion: Sequence[int],
    *,
    temperature: float = 1.0,
) -> float:
    """Return log π(completion | prompt) from one forward of the unpadded sequence."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = made(ids, use_cache=False).logits[0].float() / temperature
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(logprobs.gather(1, torch.tensor(completion)[:, None]).sum())


def build(name: str, folder: Path) -> Path:
    """Write the checkpoint of that name into a folder."""
    return CHECKPOINTS[name](folder)


@torch.no_grad()
def _add_bias(made: Any, bias: Mapping[int, float]) -> None:
    """Keep hidden dimension 0 constant, and use it as the bias of the untied head."""
    assert not made.config.tie_word_embeddings
    made.model.embed_tokens.weight[:, 0] = 8.0
    for layer in made.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    head = made.get_output_embeddings().weight
    head[:, 0] = 0
    constant = made.model(torch.tensor([[1, 2, 3]])).last_hidden_state[0, -1, 0].item()
    for token_id, value in bias.items():
        head[token_id, 0] = value / constant


def _plain(
    folder: Path,
    *,
    bias: Mapping[int, float] | None = None,
    weights: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    tokens = tokenizer(**settings)
    return save(folder, tokens, model(tokens, bias=bias, **(weights or {})))


def _with_ends(folder: Path, ends: int | list[int], **settings: Any) -> Path:
    """Write a checkpoint whose configs list other ends than its template uses."""
    _plain(folder, bias={IM_END: 3.0, ENDOFTEXT: 0.0}, **settings)
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, eos_token_id=ends)
    return folder


def _reweighted(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    _plain(folder, bias={IM_END: 2.5})
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def _classifier(folder: Path) -> Path:
    tokens = tokenizer()
    torch.manual_seed(5)
    made = AutoModelForSequenceClassification.from_config(config(tokens, num_labels=2))
    return save(folder, tokens, made)


def _not_a_number(folder: Path) -> Path:
    tokens = tokenizer()
    made: Any = model(tokens, bias={IM_END: 2.0})
    made.model.layers[0].mlp.up_proj.weight.data[3, 3] = float("nan")
    return save(folder, tokens, made)


def _overflow(folder: Path) -> Path:
    tokens = tokenizer()
    made: Any = model(tokens, bias={IM_END: 2.0})
    made.model.layers[0].mlp.down_proj.weight.data.mul_(3e4)
    made.model.layers[0].mlp.up_proj.weight.data.mul_(1e3)
    return save(folder, tokens, made)


def _small_vocabulary(folder: Path) -> Path:
    tokens = tokenizer()
    made = model(tokens, bias={IM_END: 2.0})
    tokens.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    tokens.chat_template = "<|new|>" + CHATML
    return save(folder, tokens, made)


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "chatml": lambda folder: _plain(folder, bias={IM_END: 2.5}),
    "base": lambda folder: _plain(
        folder, bias={ENDOFTEXT: 2.5}, template=None, eos="<|endoftext|>"
    ),
    "nosystem": lambda folder: _plain(folder, bias={IM_END: 2.5}, template=REFUSES_SYSTEM),
    "dropsys": lambda folder: _plain(folder, bias={IM_END: 2.0}, template=DROPS_SYSTEM),
    "multitpl": lambda folder: _plain(
        folder, bias={IM_END: 2.0}, template={"tool_use": CHATML, "rag": CHATML}
    ),
    "date": lambda folder: _plain(folder, bias={IM_END: 2.0}, template=WITH_DATE),
    "eosmismatch": lambda folder: _with_ends(folder, ENDOFTEXT),
    "llama3like": lambda folder: _with_ends(folder, [ENDOFTEXT, IM_START, IM_END]),
    "stopspecial": lambda folder: _plain(folder, bias={IM_END: 3.0}, eos="<|endoftext|>"),
    "addeos": lambda folder: _plain(
        folder,
        bias={ENDOFTEXT: 1.0},
        template=None,
        eos="<|endoftext|>",
        bos="<|im_start|>",
        add_bos=True,
        add_eos=True,
    ),
    "dblbos": lambda folder: _plain(
        folder,
        bias={IM_END: 2.0},
        bos="<|endoftext|>",
        add_bos=True,
        template="{{ bos_token }}" + CHATML,
    ),
    "tied": lambda folder: _plain(
        folder, weights={"tie_word_embeddings": True, "initializer_range": 0.2}
    ),
    "padded": lambda folder: _plain(folder, bias={IM_END: 1.0}, weights={"vocab_size": 500}),
    "nopad": lambda folder: _plain(folder, bias={IM_END: 2.0}, pad=None),
    "prefix": lambda folder: _reweighted(
        folder, lambda tensors: {"module." + key: value for key, value in tensors.items()}
    ),
    "lack": lambda folder: _reweighted(
        folder,
        lambda tensors: {k: value for k, value in tensors.items() if "layers.1.mlp" not in k},
    ),
    "rm2": _classifier,
    "nan": _not_a_number,
    "overflow": _overflow,
    "vocab": _small_vocabulary,
}
