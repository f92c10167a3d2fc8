"""Whether a file answers as the network that it was made from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import ModelError
from landcover.model.runtimes import Runtime

Answer = Callable[[UInt8Array], Sequence[Float32Array]]
"""Maps uint8 (N, H, W, 3) to one or more float32 (N, C, h, w), the same kinds in the same order for all."""

LEAST_AGREEMENT = 0.999
"""Share of pixels whose most probable class must be the same."""

LARGEST_DIFFERENCE = 1e-3
"""Difference of probabilities that is allowed anywhere."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a file's answers are from those of the network.

    Attributes:
        runtime: What ran the file.
        sizes: Sizes of the batches, as ``1x512x512``.
        pixels: Answers compared, coarse ones included.
        agreement: Share of them whose most probable class is the same, 0..1.
        largest_difference: Of any probability; not a number where an answer is none.
    """

    runtime: str
    sizes: tuple[str, ...]
    pixels: int
    agreement: float
    largest_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "sizes": list(self.sizes)}


def whole_answer(runtime: Runtime) -> Answer:
    """Return both answers of a runtime, probabilities and coarse ones."""
    return lambda batch: (runtime.probabilities(batch), runtime.coarse(batch))


def probing_batches(images: Sequence[UInt8Array]) -> Iterator[UInt8Array]:
    """Yield batches of several sizes: each image alone, two at once, and corners of odd sizes down to 1 x 1.

    Args:
        images: uint8 (H, W, 3) each, at least one.

    Yields:
        uint8 (N, h, w, 3).
    """
    for image in images:
        yield image[None]
    first, last = images[0], images[-1]
    height, width = (min(first.shape[axis], last.shape[axis]) for axis in (0, 1))
    yield np.stack([first[:height, :width], last[:height, :width]])
    for rows, columns in ((height // 2 + 1, max(1, width - 1)), (33, 47), (1, 1)):
        yield first[None, :rows, :columns]


def measure_parity(
    reference: Answer, candidates: Mapping[str, Answer], batches: Iterator[UInt8Array]
) -> list[Parity]:
    """Compare answers with those of a reference.

    Args:
        reference: The truth.
        candidates: What is compared with it, by name of the runtime.
        batches: What is asked, see :func:`probing_batches`; one is held at a time.

    Returns:
        One result for each candidate, in their order.
    """
    sizes: list[str] = []
    tallies = {name: _Tally() for name in candidates}
    for batch in batches:
        sizes.append("x".join(map(str, batch.shape[:3])))
        expected = reference(batch)
        for name, candidate in candidates.items():
            for one, two in zip(expected, candidate(batch), strict=True):
                tallies[name].add(one, two)
    return [
        Parity(name, tuple(dict.fromkeys(sizes)), tally.pixels, tally.agreeing / tally.pixels, tally.largest)
        for name, tally in tallies.items()
    ]


def check_parity(
    parity: Parity,
    *,
    least_agreement: float = LEAST_AGREEMENT,
    largest_difference: float = LARGEST_DIFFERENCE,
) -> None:
    """Refuse a file whose answers are too far from the network's.

    Raises:
        ModelError: If one of the limits is not kept; the message says by how much.
    """
    faults = []
    if not parity.agreement >= least_agreement:
        faults.append(
            f"the most probable class is the same for {100 * parity.agreement:.3f} % of the pixels "
            f"(at least {100 * least_agreement:g} % is demanded)"
        )
    if not parity.largest_difference <= largest_difference:  # so that a NaN is no pass
        faults.append(
            f"probabilities differ by up to {parity.largest_difference:.2g} (at most "
            f"{largest_difference:g} is allowed)"
        )
    if faults:
        raise ModelError(
            f"The exported file does not answer as the network does: in {parity.runtime} "
            + " and ".join(faults)
            + ". Nothing was written. This is a fault of the export, not of the model: please report it, "
            "with 'landcover doctor'."
        )


@dataclass
class _Tally:
    pixels: int = 0
    agreeing: int = 0
    largest: float = 0.0

    def add(self, expected: Float32Array, found: Float32Array) -> None:
        if expected.shape != found.shape:
            raise ModelError(
                f"The exported file answers with {found.shape} where the network answers with "
                f"{expected.shape}. Nothing was written. Please report it, with 'landcover doctor'."
            )
        same = expected.argmax(axis=1) == found.argmax(axis=1)
        self.pixels += same.size
        self.agreeing += int(same.sum())
        # max() would pass over a NaN on one of its sides
        self.largest = float(np.maximum(self.largest, np.abs(expected - found).max()))
