"""How fast a classifier scores texts of mixed lengths, next to the usual padded loop.

    python benchmarks/scoring.py                        # 512 texts, a few minutes
    python benchmarks/scoring.py --quick --json FILE    # 128 texts, under two minutes

A BERT of MiniLM's architecture (6 layers of 384), randomly initialised, reads pairs of a built-in
prompt and a made-up answer; answers' lengths are log-normal, so most are short and some are long,
up to 256 tokens in all. The loop it is held against takes the texts in the given order, so many at
a time, padded to the longest of the batch (`tokenizer(padding=True, truncation=True)`), with the
best of four batch sizes. Both are timed tokenizer included, in turn and several times in this one
process, and must give the same scores to 1e-5. Set the threads with --threads; the ratio of
processor times is printed beside that of times by the clock, since the latter is at the mercy of
whatever else the machine does.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a spinning thread would steal from the other
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from machine import machine, write
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.errors import ConfigError
from bonbon.models.bundled import bundled_encoder_directory
from bonbon.records import Prompt
from bonbon.rewards.models.classifier import ClassifierReward

BATCH_SIZES = (8, 16, 32, 64)
MAX_TOKENS = 256
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Timing:
    """What one pass over all texts took, in seconds by the clock and of the processor."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Texts:
    """What is scored.

    Attributes:
        prompts: one for each completion.
        completions: of mixed lengths, in random order.
        lengths: of the pairs, in tokens, special tokens included.
    """

    prompts: list[Prompt]
    completions: list[str]
    lengths: list[int]

    def first(self, count: int) -> "Texts":
        """Return so many of them."""
        return Texts(self.prompts[:count], self.completions[:count], self.lengths[:count])


def main() -> None:
    """Time both, write a table, and the numbers as JSON where asked to."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    num_texts, repeats = (128, 3) if arguments.quick else (512, 5)
    tokenizer, model = load_tokenizer(), load_model()
    texts = mixed_texts(num_texts, tokenizer)
    reward = ClassifierReward(model, tokenizer, name="scores", input="pair", max_length=MAX_TOKENS)
    write(f"{description(texts)}; {place(arguments.threads)}")
    batch_size = best_batch_size(model, tokenizer, texts)
    ways: dict[str, Callable[[], list[float]]] = {
        "padded loop": lambda: padded_loop(model, tokenizer, texts, batch_size),
        "bonbon": lambda: [float(s or 0) for s in reward.score(texts.prompts, texts.completions)],
    }
    scores = {name: way() for name, way in ways.items()}
    timings = interleaved(ways, repeats)
    results = summary(texts, scores, timings, batch_size, arguments.threads)
    write_table(results, timings, batch_size)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if results["max_difference"] > TOLERANCE:
        sys.exit(f"the scores differ by {results['max_difference']:.1e}, more than {TOLERANCE:g}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time classifier scoring on mixed lengths.")
    parser.add_argument("--quick", action="store_true", help="Fewer texts and repeats.")
    parser.add_argument("--json", type=Path, default=None, help="Write the numbers here.")
    parser.add_argument("--threads", type=int, default=2, help="Of the processor.")
    return parser.parse_args()


def load_model() -> BertForSequenceClassification:
    """Make MiniLM-L6's architecture with random weights, spread enough to tell texts apart."""
    torch.manual_seed(0)
    architecture: dict[str, Any] = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
        "num_labels": 1,
    }
    return BertForSequenceClassification(BertConfig(**architecture)).eval()


def load_tokenizer() -> PreTrainedTokenizerBase:
    """Take MiniLM's own tokenizer where its package is installed, else one of whole words."""
    try:
        return AutoTokenizer.from_pretrained(bundled_encoder_directory())
    except ConfigError:
        return word_tokenizer()


def word_tokenizer() -> PreTrainedTokenizerBase:
    """Make a tokenizer of the built-in prompts' words that frames pairs as BERT's does."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = sorted({word for prompt in load_prompts(PromptsConfig()) for word in split(prompt)})
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    cast("Any", backend).pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    cast("Any", backend).post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def mixed_texts(num_texts: int, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """Pair prompts with answers of log-normal lengths that fit the model, nothing cut."""
    rng = random.Random(0)
    known = load_prompts(PromptsConfig())
    words = [word for prompt in known for word in split(prompt)]
    prompts: list[Prompt] = []
    completions: list[str] = []
    lengths: list[int] = []
    while len(prompts) < num_texts:
        prompt = rng.choice(known)
        completion = " ".join(rng.choices(words, k=1 + int(rng.lognormvariate(3.7, 0.9))))
        length = len(tokenizer([prompt.text], [completion])["input_ids"][0])
        if length <= MAX_TOKENS:
            prompts.append(prompt)
            completions.append(completion)
            lengths.append(length)
    return Texts(prompts, completions, lengths)


def split(prompt: Prompt) -> list[str]:
    """Return a prompt's words."""
    return prompt.text.split()


@torch.inference_mode()
def padded_loop(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
    batch_size: int,
) -> list[float]:
    """Score in the given order, so many at a time, padded to the longest of them."""
    asked = [prompt.text for prompt in texts.prompts]
    scores: list[float] = []
    for start in range(0, len(asked), batch_size):
        part = slice(start, start + batch_size)
        batch = tokenizer(
            asked[part],
            texts.completions[part],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        scores.extend(model(**batch).logits[:, 0].tolist())
    return scores


def best_batch_size(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: Texts
) -> int:
    """Return the batch size with which the loop takes the least of the processor."""
    padded_loop(model, tokenizer, texts.first(16), 8)  # the first call of all is slower
    sizes = {
        str(size): lambda size=size: padded_loop(model, tokenizer, texts, size)
        for size in BATCH_SIZES
    }
    timings = interleaved(sizes, 1)
    best = {size: passes[0].cpu_s for size, passes in timings.items()}
    listed = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in best.items())
    write(f"the loop's processor time by batch size: {listed}")
    return int(min(best, key=lambda size: best[size]))


def interleaved(
    ways: dict[str, Callable[[], list[float]]], repeats: int
) -> dict[str, list[Timing]]:
    """Time the ways in turn, so that whatever else the machine does meets all of them."""
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            timings[name].append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return timings


def summary(
    texts: Texts,
    scores: dict[str, list[float]],
    timings: dict[str, list[Timing]],
    batch_size: int,
    threads: int,
) -> dict[str, Any]:
    """Return all numbers, for people and for JSON."""
    loop, ours = timings["padded loop"], timings["bonbon"]
    pairs = zip(scores["padded loop"], scores["bonbon"], strict=True)
    return {
        "ratio_vs_padded_loop": median(loop, "wall_s") / median(ours, "wall_s"),
        "cpu_ratio_vs_padded_loop": median(loop, "cpu_s") / median(ours, "cpu_s"),
        "texts_per_s": {
            name: len(texts.lengths) / median(passes, "wall_s") for name, passes in timings.items()
        },
        "max_difference": max(abs(one - other) for one, other in pairs),
        "score_std": statistics.pstdev(scores["bonbon"]),
        "loop_batch_size": batch_size,
        "loop_padding": padded_tokens(texts.lengths, batch_size) / sum(texts.lengths),
        "num_texts": len(texts.lengths),
        "threads": threads,
        "timings": {name: [asdict(each) for each in passes] for name, passes in timings.items()},
        "lengths": description(texts),
        "machine": place(threads),
    }


def median(passes: Sequence[Timing], kind: str) -> float:
    """Return the median over passes of one of the two times."""
    return statistics.median(cast("float", getattr(each, kind)) for each in passes)


def padded_tokens(lengths: Sequence[int], batch_size: int) -> int:
    """Return how many tokens the loop computes, padding included."""
    parts = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(part) * max(part) for part in parts)


def write_table(results: dict[str, Any], timings: dict[str, list[Timing]], batch_size: int) -> None:
    """Write the medians, the ratios and how far the scores agree."""
    write(f"\n{'':<24}{'texts/s':>9}{'wall, s':>9}{'CPU, s':>9}")
    for name, passes in timings.items():
        label = f"{name}, {batch_size} at a time" if name == "padded loop" else name
        rate, wall = results["texts_per_s"][name], median(passes, "wall_s")
        write(f"{label:<24}{rate:>9.1f}{wall:>9.2f}{median(passes, 'cpu_s'):>9.2f}")
    write(
        f"\nratio {results['ratio_vs_padded_loop']:.2f} by the clock, "
        f"{results['cpu_ratio_vs_padded_loop']:.2f} of the processor (medians of "
        f"{len(timings['bonbon'])}); scores equal to {results['max_difference']:.1e}, their "
        f"standard deviation is {results['score_std']:.2f}; the loop computes "
        f"{results['loop_padding']:.2f} tokens for each real one"
    )


def description(texts: Texts) -> str:
    """Say how many texts there are, and how long they are."""
    lengths = texts.lengths
    return (
        f"{len(lengths)} texts of {min(lengths)} to {max(lengths)} tokens, median "
        f"{statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}"
    )


def place(threads: int) -> str:
    """Return what the numbers depend on."""
    versions = f"torch {torch.__version__}", f"transformers {version('transformers')}"
    return machine(*versions, f"{threads} threads", "float32")


if __name__ == "__main__":
    main()
