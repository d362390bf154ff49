"""Weights in the layout that the CPU's matrix products want, made once instead of at every step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

MOST_BYTES = 4 << 30
"""Larger models are left as they are: the copies take as much memory as the weights."""

Forward = Callable[[Tensor], Tensor]


class PrepackedLinears:
    """Copies of a model's linear layers for oneDNN; empty where they are of no use."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model on the CPU, if oneDNN takes them."""
        layers = [module for module in model.modules() if type(module) is nn.Linear]
        size = sum(layer.weight.nbytes for layer in layers)
        fits = model.device.type == "cpu" and layers and size <= MOST_BYTES
        useful = fits and _agrees(layers[0])
        self._forwards = {id(layer.weight): _forward(layer) for layer in layers} if useful else {}

    def install(self, model: PreTrainedModel) -> None:
        """Let a twin of the model compute with the copies."""
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
def _agrees(layer: nn.Linear) -> bool:
    """Try whether this torch and this processor can, and give the same."""
    states = torch.linspace(-1, 1, 2 * layer.in_features, dtype=layer.weight.dtype).view(2, -1)
    try:
        packed = _forward(layer)(states)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(packed.float(), layer(states).float(), rtol=0.02, atol=0.02)
