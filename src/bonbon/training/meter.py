"""What a practitioner reads while training runs."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bonbon.training.examples import RankedExample


class Meter:
    """Averages over the examples seen since it was last read."""

    def __init__(self) -> None:
        """Start empty."""
        self._reset()

    def add(
        self, examples: Sequence[RankedExample], logprobs: Sequence[Tensor], losses: Tensor
    ) -> None:
        """Note a batch: each example's summed log-probabilities under the policy, and its loss."""
        for example, policy, loss in zip(examples, logprobs, losses, strict=True):
            ratio = policy.detach().double().cpu() - torch.tensor(example.reference).double()
            residual = ratio - torch.tensor(example.targets).double()
            self._add("loss", loss.item())
            self._add("residual_variance", residual.var(correction=0).item())
            self._add("chosen_logratio", ratio[-1].item())
            self._add("rejected_logratio", ratio[0].item())
            self._tokens += sum(len(tokens) for tokens in example.group.completions)
        self._examples += len(examples)

    def take(self) -> dict[str, float]:
        """Return the averages, with tokens per second, and start afresh."""
        means = {name: total / self._examples for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._since
        means["tokens_per_second"] = self._tokens / seconds
        self._reset()
        return means

    def _add(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._examples = 0
        self._tokens = 0
        self._since = time.perf_counter()
