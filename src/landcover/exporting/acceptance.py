"""Acceptance checks of an exported file: parity with torch; for INT8 accuracy, agreement and speed.

Each check returns its results as plain data for the model's card, or raises :class:`ModelError` with them.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import ModelError, UsageError
from landcover.evaluation import evaluate
from landcover.evaluation.scoring import EvaluateOptions
from landcover.model.runtimes import Runtime
from landcover.model.runtimes.onnx_runtime import import_onnxruntime
from landcover.progress import track
from landcover.raster import Reading

Predictor = Callable[[UInt8Array], Sequence[Float32Array]]
"""Maps uint8 (N, H, W, B) to one or more float32 (N, C, h, w); all predictors in the same order."""

MIN_PARITY = 0.999
"""Fraction of pixels whose predicted class must be the same as in torch."""

MAX_DIFFERENCE = 1e-3
"""Largest difference of a probability from torch."""

_WARM_UPS = 3
_ROUNDS = 21


class Pair(NamedTuple):
    """The float32 file and the INT8 file made from it, in the same runtime."""

    fp32: Runtime
    int8: Runtime


def both_outputs(runtime: Runtime) -> Predictor:
    """Return a predictor of both outputs of a runtime, full and coarse probabilities."""
    return lambda batch: (runtime.probabilities(batch), runtime.coarse(batch))


class DeepnessPrediction:
    """What the QGIS plugin Deepness computes with a file: its arithmetic, on the runtime that it uses."""

    def __init__(self, path: Path) -> None:
        self._session = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        entries = self._session.get_modelmeta().custom_metadata_map
        self._mean = np.array(json.loads(entries["standardization_mean"]), np.float32)
        self._std = np.array(json.loads(entries["standardization_std"]), np.float32)

    def __call__(self, batch: UInt8Array) -> tuple[Float32Array]:
        """Return the probabilities, float32 (N, C, S, S), of uint8 (N, S, S, 3), one tile after the other."""
        scaled = (np.float32(batch * 1.0 / 255.0) - self._mean) / self._std
        tiles = scaled.transpose(0, 3, 1, 2)
        name = self._session.get_inputs()[0].name
        return (np.concatenate([self._session.run(None, {name: tile[None]})[0] for tile in tiles]),)


def parity_batches(images: Sequence[UInt8Array]) -> Iterator[UInt8Array]:
    """Yield batches (N, h, w, 3) of uint8 images: each alone, two at once, odd sizes down to 1 x 1."""
    for image in images:
        yield image[None]
    first, last = images[0], images[-1]
    height, width = (min(first.shape[axis], last.shape[axis]) for axis in (0, 1))
    yield np.stack([first[:height, :width], last[:height, :width]])
    for rows, columns in ((height // 2 + 1, max(1, width - 1)), (33, 47), (1, 1)):
        yield first[None, :rows, :columns]


def check_parity(
    reference: Predictor, variants: Mapping[str, Predictor], batches: Iterable[UInt8Array]
) -> list[dict[str, Any]]:
    """Compare the predictions of a file, by name of the runtime, with those of the network.

    Returns the numbers that are compared with :data:`MIN_PARITY` and :data:`MAX_DIFFERENCE`, by runtime.
    """
    batches = list(batches)
    expected = [reference(batch) for batch in batches]
    results = []
    for name, variant in variants.items():
        pixels, same, largest = 0, 0, 0.0
        for batch, answer in zip(batches, expected, strict=True):
            for one, two in zip(answer, variant(batch), strict=True):
                if one.shape != two.shape:
                    raise ModelError(
                        f"The exported file returns {two.shape} where the network returns {one.shape}. "
                        "Nothing was written. Please report it with the output of 'landcover doctor'."
                    )
                pixels += one[:, 0].size
                same += int((one.argmax(axis=1) == two.argmax(axis=1)).sum())
                # np.maximum keeps NaN on either side; max() does not.
                largest = float(np.maximum(largest, np.abs(one - two).max()))
        if not (same / pixels >= MIN_PARITY and largest <= MAX_DIFFERENCE):  # also NaN
            raise ModelError(
                f"The exported file differs from the network in {name}: the predicted class is the same for "
                f"{100 * same / pixels:.3f} % of the pixels (expected at least {100 * MIN_PARITY:g} %), and "
                f"probabilities differ by up to {largest:.2g} (expected at most {MAX_DIFFERENCE:g}). Nothing "
                "was written. The export is at fault, not the model: please report it with the output of "
                "'landcover doctor'."
            )
        results.append(
            {
                "runtime": name,
                "sizes": list(dict.fromkeys("x".join(map(str, batch.shape[:3])) for batch in batches)),
                "pixels": pixels,
                "agreement": same / pixels,
                "largest_difference": largest,
            }
        )
    return results


def check_accuracy(
    pair: Pair,
    data: str | Path,
    split: str,
    *,
    gsd: float | None,
    max_loss: float,
    reading: Reading | None = None,
) -> dict[str, Any]:
    """Score both files on a subset of a split, as ``landcover evaluate`` does."""
    options = EvaluateOptions(reading=reading)
    reports = [evaluate(data, split, model=runtime, gsd=gsd, options=options) for runtime in pair]
    before, after = (report.miou for report in reports)
    if before is None or after is None:
        raise UsageError(f"{data} {split} has no pixel of a known class; the mIoU of INT8 needs some.")
    name, loss = f"{Path(data).name} {split}", 100 * (before - after)
    if not loss <= max_loss:
        raise ModelError(
            f"INT8 loses {loss:.2f} points of mIoU on {name} ({100 * before:.2f} in float32, "
            f"{100 * after:.2f} in INT8); expected at most {max_loss:g}. Nothing was written. Calibrate with "
            "more images that look like those to map (--calibration, --calibration-images), keep float32, "
            "or accept it with --max-miou-loss."
        )
    return {
        "split": name,
        "images": reports[0].images,
        "fp32": before,
        "int8": after,
        "loss_points": loss,
        "max_loss_points": max_loss,
    }


def check_agreement(
    pair: Pair, name: str, windows: Iterable[UInt8Array], *, minimum: float
) -> dict[str, Any]:
    """Compare the classes of both files on windows, uint8 (H, W, B)."""
    count = pixels = same = 0
    for window in track(windows, f"Comparing INT8 with float32 on {name}"):
        expected, actual = (runtime.probabilities(window[None]).argmax(axis=1) for runtime in pair)
        count, pixels, same = count + 1, pixels + expected.size, same + int((expected == actual).sum())
    fraction = same / pixels
    if not fraction >= minimum:
        raise ModelError(
            f"INT8 gives the same class as float32 to {100 * fraction:.2f} % of the pixels of {name}; "
            f"expected at least {100 * minimum:g} %. Nothing was written. Calibrate with imagery like it "
            "(--calibration, repeated for each kind of imagery), keep float32, or lower --min-agreement."
        )
    return {"imagery": name, "windows": count, "pixels": pixels, "same": same, "fraction": fraction}


def check_speed(
    pair: Pair,
    window: UInt8Array,
    *,
    must_be_faster: bool,
    rounds: int = _ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time both files on a window, uint8 (H, W, B), in turns, so that other load affects both."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(_WARM_UPS + rounds):
        for runtime, taken in zip(pair, times, strict=True):
            start = clock()
            runtime.coarse(window[None])
            if number >= _WARM_UPS:
                taken.append(1000 * (clock() - start))
    fp32_ms, int8_ms = (statistics.median(taken) for taken in times)
    name, side = pair.fp32.name, window.shape[0]
    if must_be_faster and not int8_ms < fp32_ms:
        raise ModelError(
            f"INT8 is not faster than float32 on this machine: {int8_ms:.1f} ms against {fp32_ms:.1f} for a "
            f"window of {side} px in {name}. Nothing was written. If the file is for another machine, pass "
            "--no-speed-gate with the reason."
        )
    return {
        "runtime": name,
        "window_px": side,
        "rounds": rounds,
        "fp32_ms": fp32_ms,
        "int8_ms": int8_ms,
        "times_as_fast": fp32_ms / int8_ms,
    }
