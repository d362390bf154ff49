"""What a practitioner reads while training runs."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from bonbon.training.config import ObjectiveName
from bonbon.training.examples import RankedExample

NAMES: tuple[str, ...] = (
    "loss",
    "residual_variance",
    "chosen_logratio",
    "rejected_logratio",
    "estimated_kl",
    "estimated_win_rate",
)


class Meter:
    """Averages over the examples seen since it was last read, each over those it was read of.

    `estimated_kl` and `estimated_win_rate` weigh a prompt's candidates by π/π0, normalised among
    themselves. They are read where all ranks are, of the base's own draws; with N candidates the
    first cannot exceed log N, so they tell how training goes, not where it ended.
    """

    def __init__(self, objective: ObjectiveName) -> None:
        """Start empty; SFT has no targets to measure a residual from."""
        self._has_targets = objective != "sft"
        self._reset()

    def add(
        self, examples: Sequence[RankedExample], logprobs: Sequence[Tensor], losses: Tensor
    ) -> None:
        """Note some examples.

        Args:
            examples: what was read.
            logprobs: of each one's completions under the policy, of all or of the trained ones.
            losses: of each one.
        """
        for example, policy, loss in zip(examples, logprobs, losses, strict=True):
            values = policy.detach().double().cpu().numpy()
            whole = len(values) == len(example.reference)
            read = list(range(len(values)) if whole else example.trained)
            ratio = values - np.array(example.reference)[read]
            self._add("loss", loss.item())
            if self._has_targets:
                self._add(
                    "residual_variance", float(np.var(ratio - np.array(example.targets)[read]))
                )
            self._add("chosen_logratio", float(ratio[-1]))
            if len(ratio) > 1:
                self._add("rejected_logratio", float(ratio[0]))
            if whole and example.from_base:
                self._add_estimates(ratio)
            self._tokens += sum(len(example.group.completions[place]) for place in read)

    def take(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Return the averages, with tokens per second, and start afresh.

        Args:
            accelerator: averages over its processes, which all call this.
        """
        totals = torch.tensor([*self._sums.values(), *self._counts.values(), self._tokens])
        if accelerator is not None and accelerator.num_processes > 1:
            totals = torch.as_tensor(accelerator.reduce(totals.to(accelerator.device), "sum")).cpu()
        *numbers, tokens = totals.double().tolist()
        sums, counts = numbers[: len(NAMES)], numbers[len(NAMES) :]
        means = {
            name: total / count
            for name, total, count in zip(NAMES, sums, counts, strict=True)
            if count
        }
        means["tokens_per_second"] = tokens / (time.perf_counter() - self._since)
        self._reset()
        return means

    def _add_estimates(self, ratio: np.ndarray) -> None:
        weights = np.exp(ratio - ratio.max())
        share = weights / weights.sum()
        places = np.arange(len(share)) / (len(share) - 1)
        self._add("estimated_kl", float(share @ np.log(np.maximum(share, 1e-300) * len(share))))
        self._add("estimated_win_rate", float(share @ places))

    def _add(self, name: str, value: float) -> None:
        self._sums[name] += value
        self._counts[name] += 1

    def _reset(self) -> None:
        self._sums: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        self._counts: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        self._tokens = 0.0
        self._since = time.perf_counter()
