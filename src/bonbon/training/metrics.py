"""Running averages of the metrics that are logged during training."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from bonbon.training.objectives import Objective, RankedExample

NAMES: tuple[str, ...] = (
    "loss",
    "residual_variance",
    "chosen_logratio",
    "rejected_logratio",
    "estimated_kl",
    "estimated_win_rate",
)


class RunningMetrics:
    """Averages over the examples since the last `take`; each metric over the examples that have it.

    `estimated_kl` and `estimated_win_rate` weight a prompt's candidates by π/π0, normalised within
    the group. They need all ranks, drawn from the base. With N candidates the KL cannot exceed
    log N, so these estimates show the course of training, not the final result.
    """

    def __init__(self, objective: Objective) -> None:
        """Start empty; without targets there is no residual."""
        self._has_targets = objective.has_targets
        self._reset()

    def add(
        self, examples: Sequence[RankedExample], logprobs: Sequence[Tensor], losses: Tensor
    ) -> None:
        """Add examples.

        Args:
            examples: the examples.
            logprobs: for each example, the log-probabilities of its completions under the policy:
                of all completions or of the trained ones.
            losses: the loss of each example.
        """
        for example, policy, loss in zip(examples, logprobs, losses, strict=True):
            values = policy.detach().double().cpu().numpy()
            has_all_ranks = len(values) == len(example.reference)
            indices = list(range(len(values)) if has_all_ranks else example.trained)
            ratio = values - np.array(example.reference)[indices]
            self._add("loss", loss.item())
            if self._has_targets:
                self._add(
                    "residual_variance", float(np.var(ratio - np.array(example.targets)[indices]))
                )
            self._add("chosen_logratio", float(ratio[-1]))
            if len(ratio) > 1:
                self._add("rejected_logratio", float(ratio[0]))
            if has_all_ranks and example.from_base:
                self._add_estimates(ratio)
            self._tokens += sum(len(example.group.completions[index]) for index in indices)

    def take(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Return the averages and the tokens per second, and start again from zero.

        Args:
            accelerator: average over its processes, all of which must call this.
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
        quantiles = np.arange(len(share)) / (len(share) - 1)
        self._add("estimated_kl", float(share @ np.log(np.maximum(share, 1e-300) * len(share))))
        self._add("estimated_win_rate", float(share @ quantiles))

    def _add(self, name: str, value: float) -> None:
        self._sums[name] += value
        self._counts[name] += 1

    def _reset(self) -> None:
        self._sums: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        self._counts: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        self._tokens = 0.0
        self._since = time.perf_counter()
