"""A second model with the same weights, so that the user's own stays as it is."""

from copy import deepcopy
from itertools import chain
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def twin(model: M) -> M:
    """Return a copy of a model's modules that shares its parameters and buffers.

    The copy can be given another attention or faster layers, and can run in a thread of its own,
    without a trace on the model. It takes no memory to speak of.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return deepcopy(model, shared)
