"""A key-value cache with room reserved, so that a step writes one column instead of copying all."""

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class ReservedLayer(DynamicLayer):
    """One layer's keys and values in buffers of a fixed capacity; views of them are handed out."""

    def __init__(self, capacity: int) -> None:
        """Reserve room for `capacity` tokens once the first ones arrive."""
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append along the sequence and return everything held, shape [rows, heads, length, d]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._hold(key_states[..., :0, :], value_states[..., :0, :])
        end = self.length + key_states.shape[-2]
        self.key_buffer[..., self.length : end, :] = key_states
        self.value_buffer[..., self.length : end, :] = value_states
        self._show(end)
        return self.keys, self.values  # pyright: ignore[reportReturnType]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give every row `repeats` copies, side by side."""
        super().batch_repeat_interleave(repeats)
        self._hold(self.keys, self.values)  # pyright: ignore[reportArgumentType]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        self._hold(self.keys, self.values)  # pyright: ignore[reportArgumentType]

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.key_buffer = self._reserve(keys)
        self.value_buffer = self._reserve(values)
        self._show(keys.shape[-2])

    def _reserve(self, states: Tensor) -> Tensor:
        rows, heads, length, dim = states.shape
        buffer = states.new_empty(rows, heads, self.capacity, dim)
        buffer[..., :length, :] = states
        return buffer

    def _show(self, length: int) -> None:
        self.length = length
        self.keys = self.key_buffer[..., :length, :]
        self.values = self.value_buffer[..., :length, :]


def row_cache(config: PreTrainedConfig, capacity: int) -> Cache:
    """Return a cache for rows of at most `capacity` tokens.

    Models with sliding-window, recurrent or otherwise special layers get transformers' own.
    """
    plain = DynamicCache(config=config)
    if all(type(layer) is DynamicLayer for layer in plain.layers):
        return Cache(layers=[ReservedLayer(capacity) for _ in plain.layers])
    return plain
