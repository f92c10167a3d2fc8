"""A moving average of the weights: smoother than the weights themselves, and what is validated and kept."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all floating-point parameters and buffers of a module.

    The decay warms up as ``(1 + t) / (10 + t)`` after t updates, so that the random start is soon forgotten.
    With a decay of 0 the average is the weights themselves.

    Args:
        module: What is averaged.
        decay: Share of the old average that each update keeps, at most.

    Attributes:
        module: A copy of the module that holds the average, in evaluation mode, without gradients.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = deepcopy(module).eval().requires_grad_(False)
        self._pairs = _floating(self.module), _floating(module)
        self._counters = list(zip(_others(self.module), _others(module), strict=True))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the module's present weights.

        Args:
            updates: Updates done before this one.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(*self._pairs, 1 - decay)
        for average, current in self._counters:
            average.copy_(current)


def _floating(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in _tensors(module) if tensor.is_floating_point()]


def _others(module: nn.Module) -> list[Tensor]:
    """Batch norms' counts of batches, which have no average."""
    return [tensor for tensor in _tensors(module) if not tensor.is_floating_point()]


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict(keep_vars=True).values())
