"""Linear layers whose weights are stored in oneDNN's own layout, which is faster on CPUs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

MAX_BYTES = 4 << 30
"""Larger models keep their layers: the copies take as much memory as the weights."""

Forward = Callable[[Tensor], Tensor]


class PrepackedLinears:
    """Copies of a model's linear layers for oneDNN; empty where oneDNN cannot use them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model that is on the CPU."""
        layers = [module for module in model.modules() if type(module) is nn.Linear]
        size = sum(layer.weight.nbytes for layer in layers)
        fits = model.device.type == "cpu" and layers and size <= MAX_BYTES
        works = fits and _gives_the_same(layers[0])
        self._forwards = {id(layer.weight): _forward(layer) for layer in layers} if works else {}

    def install(self, model: PreTrainedModel) -> None:
        """Let a `shared_copy` of the model compute with the copies."""
        for module in model.modules():
            if type(module) is nn.Linear and id(module.weight) in self._forwards:
                forward = self._forwards[id(module.weight)]
                module.forward = forward  # pyright: ignore[reportAttributeAccessIssue]


def _forward(layer: nn.Linear) -> Forward:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
    bias = layer.bias
    linear = torch.ops.mkldnn._linear_pointwise

    def forward(states: Tensor) -> Tensor:
        return linear(states, weight, bias, "none", [], "")

    return forward


@torch.inference_mode()
def _gives_the_same(layer: nn.Linear) -> bool:
    """Probe whether this build of torch and this processor support it, and compute the same."""
    states = torch.linspace(-1, 1, 2 * layer.in_features, dtype=layer.weight.dtype).view(2, -1)
    try:
        prepacked = _forward(layer)(states)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(prepacked.float(), layer(states).float(), rtol=0.02, atol=0.02)
