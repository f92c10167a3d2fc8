"""What an INT8 model must show before it is written: accuracy, agreement with float32, speed."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from landcover._typing import UInt8Array
from landcover.errors import ModelError, UsageError
from landcover.evaluation import evaluate
from landcover.model.runtimes import Runtime
from landcover.progress import track

MAX_MIOU_LOSS = 0.5
"""Points of mIoU that quantisation may cost."""

MIN_AGREEMENT = 0.985
"""Fraction of pixels that must have the same class as in float32, on each imagery."""

_WARM_UPS = 3
_ROUNDS = 21


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The mIoU of both on the same labelled images.

    Attributes:
        split: What they were scored on.
        images: How many images.
        fp32: mIoU of the float32 file, 0..1.
        int8: mIoU of the INT8 file, 0..1.
    """

    split: str
    images: int
    fp32: float
    int8: float

    @property
    def loss(self) -> float:
        """Points of mIoU that quantisation costs; negative where INT8 is better."""
        return 100 * (self.fp32 - self.int8)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "loss_points": self.loss}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Fraction of pixels to which INT8 gives the same class as float32.

    Attributes:
        imagery: Name of the images.
        windows: Number of windows compared.
        pixels: Number of pixels compared.
        same: Number of pixels with the same class.
    """

    imagery: str
    windows: int
    pixels: int
    same: int

    @property
    def fraction(self) -> float:
        """Fraction of pixels with the same class, 0..1."""
        return self.same / self.pixels

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "fraction": self.fraction}


@dataclass(frozen=True, slots=True)
class Speed:
    """Median milliseconds of both for one window, taken in turns.

    Attributes:
        runtime: What ran them.
        window_px: Side of the window.
        rounds: Measurements of each.
        fp32_ms: Of the float32 file.
        int8_ms: Of the INT8 file.
    """

    runtime: str
    window_px: int
    rounds: int
    fp32_ms: float
    int8_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "times_as_fast": self.fp32_ms / self.int8_ms}


def measure_accuracy(
    fp32: Runtime, int8: Runtime, data: str | Path, split: str, *, gsd: float | None = None
) -> Accuracy:
    """Score both on one part of a split, as ``landcover evaluate`` does.

    Raises:
        UsageError: If the part has no pixel of a known class, or evaluation cannot use the data.
        DataError: If a file cannot be read.
    """
    scores = [evaluate(data, split, model=runtime, gsd=gsd) for runtime in (fp32, int8)]
    before, after = (score.miou for score in scores)
    if before is None or after is None:
        raise UsageError(f"{data} {split} has no pixel of a known class; INT8 cannot be judged by it.")
    return Accuracy(f"{Path(data).name} {split}", scores[0].images, before, after)


def measure_agreement(fp32: Runtime, int8: Runtime, name: str, windows: Iterable[UInt8Array]) -> Agreement:
    """Compare the classes that both give to each pixel.

    Args:
        fp32: The float32 file.
        int8: The INT8 file, in the same runtime.
        name: Name of the imagery for reports.
        windows: uint8 (H, W, 3) each, at the model's GSD, at least one.
    """
    count = pixels = same = 0
    for window in track(windows, f"Comparing INT8 with float32 on {name}"):
        expected, actual = (runtime.probabilities(window[None]).argmax(axis=1) for runtime in (fp32, int8))
        count, pixels, same = count + 1, pixels + expected.size, same + int((expected == actual).sum())
    return Agreement(name, count, pixels, same)


def measure_speed(
    fp32: Runtime,
    int8: Runtime,
    window: UInt8Array,
    *,
    rounds: int = _ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time both on one window, in turns, so that whatever else the machine does meets both alike.

    Args:
        fp32: The float32 file.
        int8: The INT8 file, in the same runtime.
        window: uint8 (H, W, 3).
        rounds: Measurements of each, after a few that are not counted.
        clock: Seconds since any moment.
    """
    batch = window[None]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(_WARM_UPS + rounds):
        for runtime, taken in zip((fp32, int8), times, strict=True):
            start = clock()
            runtime.coarse(batch)
            if number >= _WARM_UPS:
                taken.append(1000 * (clock() - start))
    medians = [statistics.median(taken) for taken in times]
    return Speed(fp32.name, window.shape[0], rounds, medians[0], medians[1])


def check_accuracy(accuracy: Accuracy, max_loss: float = MAX_MIOU_LOSS) -> None:
    """Refuse an INT8 model that maps worse.

    Raises:
        ModelError: If it loses more than ``max_loss`` points of mIoU; the message says how many.
    """
    if not accuracy.loss <= max_loss:
        raise ModelError(
            f"INT8 loses {accuracy.loss:.2f} points of mIoU on {accuracy.split} ({100 * accuracy.fp32:.2f} "
            f"in float32, {100 * accuracy.int8:.2f} in INT8); at most {max_loss:g} is allowed. Nothing was "
            "written. Calibrate with more images that look like those to map (--calibration, "
            "--calibration-images), keep float32, or accept it with --max-miou-loss."
        )


def check_agreement(agreement: Agreement, min_agreement: float = MIN_AGREEMENT) -> None:
    """Refuse an INT8 model whose classes differ from those of float32 on some imagery.

    Raises:
        ModelError: If fewer pixels than ``min_agreement`` (0..1) have the same class.
    """
    if not agreement.fraction >= min_agreement:
        raise ModelError(
            f"INT8 gives the same class as float32 to {100 * agreement.fraction:.2f} % of the pixels of "
            f"{agreement.imagery}; expected at least {100 * min_agreement:g} %. Nothing was written. "
            "Calibrate with imagery like it (--calibration, repeated for each kind of imagery), keep "
            "float32, or lower --min-agreement."
        )


def check_speed(speed: Speed) -> None:
    """Refuse an INT8 model that is not faster.

    Raises:
        ModelError: If it takes as long as float32 or longer; the message says how long.
    """
    if not speed.int8_ms < speed.fp32_ms:
        raise ModelError(
            f"INT8 is not faster than float32 on this machine: {speed.int8_ms:.1f} ms against "
            f"{speed.fp32_ms:.1f} for a window of {speed.window_px} px in {speed.runtime}. Nothing was "
            "written. Where the file is meant for another machine, pass --no-speed-gate with the reason."
        )
