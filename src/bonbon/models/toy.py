"""A language model so small that its distribution over completions can be enumerated.

Tests of statistics compare with exact numbers instead of recorded output. The model is a real Llama
with random weights, so it runs through the same engine, packing and trainer as any other model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from bonbon.models.policy import Policy

END = "<end>"


@dataclass(frozen=True)
class ExactDistribution:
    """Every completion of a toy policy, with its probability.

    Attributes:
        completions: token ids; one that ends early ends with the end-of-sequence id.
        logprobs: log-probability of each, in nats; their exponentials sum to 1.
    """

    completions: tuple[tuple[int, ...], ...]
    logprobs: Float[Tensor, " completions"]


def toy_policy(*, num_words: int = 5, sharpness: float = 3.0, seed: int = 0) -> Policy:
    """Return a tiny Llama over the words `0` … `num_words − 1` and an end-of-sequence token.

    Args:
        num_words: size of the vocabulary without the end-of-sequence token.
        sharpness: scales the logits; larger is further from uniform.
        seed: of the random weights.
    """
    words = {str(number): number for number in range(num_words)}
    tokenizer = Tokenizer(WordLevel({**words, END: num_words}, unk_token="0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return Policy(
        name="toy",
        model=_tiny_llama(num_words + 1, sharpness, seed),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END),
        eos_token_ids=(num_words,),
        use_chat_template=False,
        context_length=64,
    )


def _tiny_llama(vocabulary: int, sharpness: float, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness)
    return model.eval()


@torch.no_grad()
def enumerate_completions(
    policy: Policy, prompt: tuple[int, ...], *, max_new_tokens: int, temperature: float
) -> ExactDistribution:
    """Return the exact distribution of a policy's completions of one prompt.

    It uses plain forward passes, one per length of completions, without padding or cache, so that
    it can serve as a reference. The number of completions is the vocabulary's size to the power of
    `max_new_tokens`.
    """
    completions = _all_completions(policy, max_new_tokens)
    logprobs = [
        _plain_logprobs(policy.model, prompt, list(of_one_length), temperature)
        for _, of_one_length in groupby(completions, key=len)
    ]
    return ExactDistribution(completions, torch.cat(logprobs))


def plain_logprob(
    model: PreTrainedModel,
    prompt: tuple[int, ...],
    completion: tuple[int, ...],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return a completion's summed log-probability by a plain forward pass."""
    return _plain_logprobs(model, prompt, [completion], temperature)[0]


def _plain_logprobs(
    model: PreTrainedModel,
    prompt: tuple[int, ...],
    completions: Sequence[tuple[int, ...]],
    temperature: float,
) -> Float[Tensor, " completions"]:
    """Return the log-probabilities of completions of one length."""
    input_ids = torch.tensor(
        [prompt + completion for completion in completions], device=model.device
    )
    logits = model(input_ids=input_ids, use_cache=False).logits[:, len(prompt) - 1 : -1]
    target = input_ids[:, len(prompt) :, None]
    chosen = (logits.double() / temperature).log_softmax(dim=-1).gather(2, target)
    return chosen.sum(dim=(1, 2))


def _all_completions(policy: Policy, max_new_tokens: int) -> tuple[tuple[int, ...], ...]:
    end = policy.eos_token_ids[0]
    words = [token for token in range(policy.model.config.vocab_size) if token != end]
    ended = (
        (*start, end) for length in range(max_new_tokens) for start in product(words, repeat=length)
    )
    return (*ended, *product(words, repeat=max_new_tokens))
