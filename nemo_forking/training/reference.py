"""The reference policy of a KL term: the weights a run started from, put in the model's place for one pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from nemo_forking.training.checkpoint import unwrapped


class Reference:
    """A copy in host memory of this rank's part of the weights, as they are now.

    Args:
        chunks: the model's chunks of this rank.
    """

    def __init__(self, chunks: Sequence[nn.Module]) -> None:
        self.weights = _copies(chunks)

    @contextmanager
    def in_place(self, chunks: Sequence[nn.Module]) -> Iterator[None]:
        """Inside, the chunks have the reference's weights; afterwards, bit for bit, their own again."""
        own = _copies(chunks)
        _put(chunks, self.weights)
        try:
            yield
        finally:
            _put(chunks, own)


def _copies(chunks: Sequence[nn.Module]) -> list[torch.Tensor]:
    return [param.detach().cpu().clone() for chunk in chunks for param in unwrapped(chunk).parameters()]


@torch.no_grad()
def _put(chunks: Sequence[nn.Module], weights: list[torch.Tensor]) -> None:
    params = [param for chunk in chunks for param in unwrapped(chunk).parameters()]
    for param, weight in zip(params, weights, strict=True):
        param.copy_(weight)
