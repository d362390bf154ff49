"""Trains on given pairs in one way, and tells how long the steps took and how much memory.

Run by `benchmarks/training.py`, a process for each contender, so that nobody inherits another's
memory: a JSON job on standard input, a JSON answer as the last line of standard output.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from bonbon.cli.runtime import prepare_process
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.records import Candidate, ScoredGroup
from bonbon.theory.best_of import BestOf
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import ranked_examples
from bonbon.training.objectives import log_ratio_target
from bonbon.training.trainer import PreferenceTrainer

LEARNING_RATE = 1e-6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Job = dict[str, Any]
Answer = dict[str, Any]


class Clock(TrainerCallback):
    """Notes when optimiser steps end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *unused: object, **others: object) -> None:
        """Start."""
        self.times.append(now())

    def on_step_end(self, *unused: object, **others: object) -> None:
        """Note one."""
        self.times.append(now())

    @property
    def steps(self) -> list[float]:
        """Seconds of every step."""
        return [end - start for start, end in zip(self.times, self.times[1:], strict=False)]


def main() -> None:
    """Do one job."""
    job = json.load(sys.stdin)
    if job["contender"] == "bonbon" or job["lend"]:
        prepare_process()
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    way: Callable[[Job], Answer] = {"bonbon": bonbon, "trl": trl, "plain": plain}[job["contender"]]
    answer = way(job)
    sys.stdout.write("\n" + json.dumps({**answer, "peak": _peak()}) + "\n")


def now() -> float:
    """Return the time in seconds, once the device has done what it was told."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak() -> int:
    """Return the most bytes that were held: on a GPU its own, otherwise the process's."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _loaded(job: Job) -> Policy:
    return load_policy(PolicyConfig(model=job["model"], device=DEVICE), dtype="float32")


def bonbon(job: Job) -> Answer:
    """Train with bonbon's own trainer, on the best and worst or on all ranks."""
    policy = _loaded(job)
    config = TrainingConfig(
        objective=job["objective"],
        batch_size=job["pairs_per_step"],
        tokens_per_forward=job["tokens_per_forward"],
        learning_rate=LEARNING_RATE,
        precision=job["dtype"],
        validation_groups=0,
        checkpoints=1,
        reference="stored",
    )
    groups = [_scored(str(number), one) for number, one in enumerate(job["groups"])]
    examples = ranked_examples(groups, tilt=BestOf(8), config=config, seed=0).kept
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = PreferenceTrainer(
            policy,
            examples,
            config,
            temperature=1.0,
            output_dir=Path(directory),
            starts_at_reference=False,
        )
        trainer.args.save_strategy = cast("Any", "no")
        trainer.add_callback(clock)
        trainer.fit()
    return {"seconds": clock.steps, "before": 0.0}


def _scored(name: str, group: Job) -> ScoredGroup:
    rows = zip(group["completions"], group["logprobs"], strict=True)
    candidates = tuple(
        Candidate(
            prompt_id=name,
            sample_index=index,
            prompt_text="",
            prompt_token_ids=tuple(group["prompt"]),
            text="",
            token_ids=tuple(tokens),
            logprob=logprob,
            finish_reason="stop",
        )
        for index, (tokens, logprob) in enumerate(rows)
    )
    return ScoredGroup(candidates, tuple(group["rewards"]))


def trl(job: Job) -> Answer:
    """Train with TRL's DPOTrainer on the loss it has for this: IPO with SFT."""
    # Peers are no dependencies of bonbon.
    from datasets import Dataset  # noqa: PLC0415
    from trl.trainer.dpo_config import DPOConfig  # noqa: PLC0415
    from trl.trainer.dpo_trainer import DPOTrainer  # noqa: PLC0415

    class Tokenised(DPOTrainer):
        """Takes token ids as they were drawn."""

        def _prepare_dataset(self, dataset: Any, *unused: Any, **others: Any) -> Any:  # noqa: ANN401
            return dataset

    policy = _loaded(job)
    rows = [
        {"prompt_ids": group["prompt"], "chosen_ids": best, "rejected_ids": worst}
        for group in job["groups"]
        for best, worst in [_pair(group)]
    ]
    clock, began = Clock(), now()
    with tempfile.TemporaryDirectory() as directory:
        arguments = DPOConfig(
            output_dir=directory,
            loss_type=["ipo", "sft"],
            loss_weights=[0.995, 0.005],
            beta=1 / (2 * log_ratio_target(8)),
            per_device_train_batch_size=job["rows"],
            gradient_accumulation_steps=job["pairs_per_step"] // job["rows"],
            precompute_ref_log_probs=job["precompute"],
            learning_rate=LEARNING_RATE,
            num_train_epochs=1,
            max_length=None,
            bf16=job["dtype"] == "bfloat16",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            use_cpu=DEVICE == "cpu",
            disable_tqdm=True,
            logging_steps=1000,
        )
        trainer = Tokenised(
            model=policy.model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            callbacks=[clock],
        )
        if job["precompute"]:
            trainer.get_train_dataloader()
        before = now() - began if job["precompute"] else 0.0
        trainer.train()
    return {"seconds": clock.steps, "before": before}


def _pair(group: Job) -> tuple[list[int], list[int]]:
    """Return the best and the worst completion."""
    order = sorted(range(len(group["rewards"])), key=group["rewards"].__getitem__)
    return group["completions"][order[-1]], group["completions"][order[0]]


def plain(job: Job) -> Answer:
    """Train with the published recipe's loop: both answers, the reference, SFT on the best."""
    model = _loaded(job).model
    reference = _loaded(job).model.eval()
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    target, seconds = log_ratio_target(8), list[float]()
    rows = job["rows"]
    for batch in _batches(job["groups"], job["pairs_per_step"]):
        began = now()
        for start in range(0, len(batch), rows):
            part = batch[start : start + rows]
            best = [(group["prompt"], _pair(group)[0]) for group in part]
            worst = [(group["prompt"], _pair(group)[1]) for group in part]
            with _precision(job):
                ours = _logprobs(model, [*best, *worst])
                with torch.no_grad():
                    theirs = _logprobs(reference, [*best, *worst])
                sft = -_logprobs(model, best)
            ratio = ours - theirs
            margin = ratio[: len(part)] - ratio[len(part) :]
            loss = 0.995 * (margin - target).square().mean() + 0.005 * sft.mean()
            (loss * len(part) / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(now() - began)
    return {"seconds": seconds, "before": 0.0}


def _precision(job: Job) -> AbstractContextManager[Any]:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=job["dtype"] == "bfloat16")


def _batches(groups: list[Job], size: int) -> Iterator[list[Job]]:
    for start in range(0, len(groups) - size + 1, size):
        yield groups[start : start + size]


def _logprobs(model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]]) -> Tensor:
    """Return log-probabilities from padded rows and whole logits."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    mask, counted = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        mask[row, :end] = 1
        counted[row, len(prompt) : end] = 1
    ids, mask, counted = (each.to(model.device) for each in (ids, mask, counted))
    logits = cast("Any", model)(input_ids=ids, attention_mask=mask, use_cache=False).logits
    steps = logits[:, :-1].log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    return (steps * counted[:, 1:]).sum(dim=1)


if __name__ == "__main__":
    main()
