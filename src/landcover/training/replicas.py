"""Copies of a network that compute parts of a batch at the same time, on the cores of one processor.

The data parallelism of Li et al. 2020 (arXiv 2006.15704) within a process: half the time of a step goes into
small operations on much memory, between which a convolution's threads wait for each other. On two quiet cores
two copies are 1.0 to 1.1 times as fast as one with two threads; two processes would be 1.4 times (see
``docs/experiments.md``). Batch norms see their copy's part of the batch alone ("ghost batch norm", Hoffer et
al. 2017, arXiv 1705.08741), and so does the loss: its mean is one of the parts' means.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from landcover.models import DeepLabV3Plus

Part = TypeVar("Part")
Result = TypeVar("Result")


class Replicas:
    """A network and its copies. Sums are taken in a fixed order, so that the same run gives the same bits.

    To be closed after use, as a context.

    Args:
        network: The network, in training mode; it takes part itself, and is what an optimiser changes.
        count: How many compute at the same time, the network included. They share the threads.
    """

    def __init__(self, network: DeepLabV3Plus, count: int) -> None:
        self._members = [network, *(deepcopy(network) for _ in range(count - 1))]
        threads = max(1, torch.get_num_threads() // count)
        # The number of threads belongs to the thread that sets it; this one keeps its own.
        self._pool = ThreadPoolExecutor(count, "landcover-replica", torch.set_num_threads, (threads,))
        self._parameters = [[p for p in member.parameters() if p.requires_grad] for member in self._members]
        self._state = [list(member.state_dict(keep_vars=True).values()) for member in self._members]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def backward(
        self, work: Callable[[DeepLabV3Plus, Part], Result], parts: Sequence[Part], seed: Sequence[int]
    ) -> list[Result]:
        """Compute parts of a batch at the same time, add up gradients, average batch norms' statistics.

        Args:
            work: Computes a part's gradients with the network that it is given.
            parts: As many as there are copies.
            seed: Numbers that belong to this batch; each copy's dropout is drawn from these and its own.

        Returns:
            What ``work`` returned for each part.
        """
        if len(self._members) == 1:
            return [work(self._members[0], parts[0])]
        for i, member in enumerate(self._members):
            member.dropout.seed(int(np.random.SeedSequence((*seed, i)).generate_state(1, np.uint64)[0]))
        futures = [
            self._pool.submit(work, member, part) for member, part in zip(self._members, parts, strict=True)
        ]
        results = [future.result() for future in futures]
        self._gather()
        return results

    @torch.no_grad()
    def spread(self) -> None:
        """Give the copies what the network has become."""
        for state in self._state[1:]:
            torch._foreach_copy_([tensor.data for tensor in state], [t.data for t in self._state[0]])

    @torch.no_grad()
    def _gather(self) -> None:
        for parameters in self._parameters[1:]:
            pairs = [
                (own, other)
                for own, other in zip(self._parameters[0], parameters, strict=True)
                if other.grad is not None
            ]
            torch._foreach_add_(
                [_gradient(own) for own, _ in pairs], [_gradient(other) for _, other in pairs]
            )
            for _, other in pairs:
                other.grad = None
        for own, *others in zip(*self._state, strict=True):
            statistic = own.is_floating_point() and not own.requires_grad
            if statistic and not all(
                torch.equal(own, other) for other in others
            ):  # frozen ones keep their bits
                own.copy_(torch.stack([own, *others]).mean(dim=0))
                for other in others:
                    other.copy_(own)


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("copies of one network have gradients for different parameters")
    return gradient
