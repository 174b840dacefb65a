"""A key-value cache that grows in place and drops finished rows.

Hugging Face's own dynamic cache joins every new token to the whole cache, a full copy a step. This one writes into a
buffer with room to spare and hands out views of it.

Shape letters: B rows of the batch, G key-value heads, T tokens so far, D head size.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE_TOKENS = 64  # the least room added when a buffer is full


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, `[B, G, T, D]`, as views into larger buffers."""

    def __init__(self):
        super().__init__()
        self.length = 0
        self.key_buffer = self.value_buffer = None

    def update(self, key_states: Tensor, value_states: Tensor, cache_kwargs=None) -> tuple[Tensor, Tensor]:
        """Writes the new tokens' keys and values behind the old ones; returns all of them."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.key_buffer = _with_room(self.key_buffer, key_states, start, self.length)
        self.value_buffer = _with_room(self.value_buffer, value_states, start, self.length)
        self.key_buffer[:, :, start : self.length] = key_states
        self.value_buffer[:, :, start : self.length] = value_states
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]
        self.is_initialized = True
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens held, T."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps only these rows."""
        self.key_buffer = self.key_buffer.index_select(0, indices)
        self.value_buffer = self.value_buffer.index_select(0, indices)
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]


def growing_cache(layers: int) -> Cache:
    """An empty cache for a model of so many layers."""
    return Cache(layers=[GrowingLayer() for _ in range(layers)])


def _with_room(buffer: Tensor | None, new: Tensor, used: int, needed: int) -> Tensor:
    """The buffer itself while it holds `needed` tokens, else a larger one with the first `used` copied over."""
    if buffer is not None and buffer.shape[2] >= needed:
        return buffer
    rows, heads, _, size = new.shape
    larger = new.new_empty(rows, heads, needed + max(SPARE_TOKENS, needed // 2), size)
    if buffer is not None:
        larger[:, :, :used] = buffer[:, :, :used]
    return larger
