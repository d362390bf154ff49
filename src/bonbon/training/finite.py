"""Numbers that are numbers: what must hold before a step is taken or a model is kept."""

from collections.abc import Iterable

import torch
from torch.distributed.tensor import DTensor


def finite_gradients(model: torch.nn.Module) -> bool:
    """Return whether the norm of all gradients is a finite number; every process has the same."""
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return bool(torch.isfinite(norm.full_tensor() if isinstance(norm, DTensor) else norm))


def finite_weights(model: torch.nn.Module) -> bool:
    """Return whether every trained weight that this process holds is a finite number."""
    return all(bool(torch.isfinite(one).all()) for one in _held(model.parameters()))


def not_a_number(what: str, step: int) -> str:
    """Return what to tell a user whose training went wrong."""
    return (
        f"{what} is no longer a finite number at step {step}; lower training.learning_rate and run "
        "the same command again: the candidates are stored, and training starts afresh"
    )


def _held(parameters: Iterable[torch.nn.Parameter]) -> Iterable[torch.Tensor]:
    for one in parameters:
        if one.requires_grad:
            weight = one.detach()
            yield weight.to_local() if isinstance(weight, DTensor) else weight
