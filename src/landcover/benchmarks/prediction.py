"""From a file of imagery to a file of classes, against the way people put it together, step by step.

The usual way: Pillow, segmentation_models_pytorch's DeepLabV3+ in eager float32 at the image's own 0.5 m,
windows of 512 with a quarter overlap, softmax averaged at full size in torch, an RGB PNG. Each further way
changes one thing until landcover's own is reached; the ways take turns in one process.
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from landcover.benchmarks.reference import import_peer
from landcover.benchmarks.timing import Timing, take_turns
from landcover.benchmarks.waterfall import waterfall
from landcover.errors import UsageError
from landcover.inference import PredictOptions, predict, predict_index
from landcover.io import image_size
from landcover.legend import UInt8Array
from landcover.model.preprocessing import IMAGENET_MEAN, IMAGENET_STD, scaled_size
from landcover.model.runtimes import Runtime, open_model
from landcover.model.runtimes.torch_runtime import load as load_checkpoint
from landcover.scale import check_gsd

WINDOW_PX, OVERLAP_PX = 512, 128
SIDE_PX = 2448
"""Side of the image: the peer takes it whole at the scales that are compared, as it does not every size."""
STEPS = "image to map"

Classifier = Callable[[Tensor], Tensor]
"""uint8 (N, H, W, 3) to probabilities (N, C, H, W)."""


def eager(network: nn.Module) -> Classifier:
    """Return a torch module as people call it: normalise, forward, softmax."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    network.eval()

    def classify(images: Tensor) -> Tensor:
        pixels = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        return torch.softmax(network(pixels), dim=1)

    return classify


def on_runtime(runtime: Runtime) -> Classifier:
    """Return a model file as a drop-in for a torch module."""
    return lambda images: torch.from_numpy(runtime.probabilities(images.numpy()))


@torch.inference_mode()
def usual_way(
    image: Path, out: Path, classify: Classifier, colours: UInt8Array, *, scale: float, whole: bool
) -> None:
    """Pillow in, windows averaged at full size in torch, an RGB PNG out.

    Args:
        image: The image file.
        out: The PNG.
        classify: The network.
        colours: uint8 (256, 3).
        scale: The network's grid in pixels of it per pixel of the image; 1 does not resample.
        whole: One window for all.
    """
    picture = Image.open(image).convert("RGB")
    size = (picture.height, picture.width)
    height, width = scaled_size(size, scale)
    if scale != 1:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture))
    if whole:
        probabilities = classify(pixels[None])[0]
    else:
        probabilities = torch.zeros(6, height, width)
        counts = torch.zeros(height, width)
        for row in _starts(height):
            for col in _starts(width):
                place = slice(row, row + WINDOW_PX), slice(col, col + WINDOW_PX)
                probabilities[:, *place] += classify(pixels[place][None])[0]
                counts[place] += 1
        probabilities /= counts
    if scale != 1:
        probabilities = functional.interpolate(probabilities[None], size=size, mode="bilinear")[0]
    index = probabilities.argmax(dim=0).numpy().astype(np.uint8)
    Image.fromarray(colours[index]).save(out)


def _starts(length: int) -> list[int]:
    last = max(length - WINDOW_PX, 0)
    return [*range(0, last, WINDOW_PX - OVERLAP_PX), last]


@dataclass(frozen=True, slots=True)
class Models:
    """What is compared: the peer's network, and a model as checkpoint, FP32 and INT8 file."""

    peer: nn.Module
    checkpoint: nn.Module
    fp32: Runtime
    int8: Runtime


def step_by_step(image: Path, models: Models, gsd: float, repeats: int, folder: Path) -> list[Timing]:
    """Time the ways from landcover's own back to the usual one.

    Args:
        image: A JPEG.
        models: The networks.
        gsd: The image's metres per pixel.
        repeats: Runs of each way.
        folder: For what is written.
    """
    legend = models.int8.card.legend
    scale = gsd / models.int8.card.preprocessing.gsd
    out = folder / "map.png"
    usual = partial(usual_way, image, out, colours=legend.colours)

    def engine() -> None:
        index = predict_index(models.int8, np.array(Image.open(image).convert("RGB")), gsd=gsd)
        Image.fromarray(legend.colours[index]).save(out)

    def ours(gsd: float, window_px: int | None = None) -> None:
        overlap_px = None if window_px is None else OVERLAP_PX
        options = PredictOptions(gsd=gsd, window_px=window_px, overlap_px=overlap_px, force=True)
        _predict(image, models.int8, folder / "ours", options)

    ways: dict[str, Callable[[], object]] = {
        "landcover": partial(ours, gsd),
        "our blending and argmax": engine,
        "INT8": partial(usual, on_runtime(models.int8), scale=scale, whole=True),
        "OpenVINO": partial(usual, on_runtime(models.fp32), scale=scale, whole=True),
        "our network": partial(usual, eager(models.checkpoint), scale=scale, whole=True),
        "whole, not windows": partial(usual, eager(models.peer), scale=scale, whole=True),
        "at the model's scale": partial(usual, eager(models.peer), scale=scale, whole=False),
        "the usual way": partial(usual, eager(models.peer), scale=1.0, whole=False),
    }
    for run in ways.values():  # compile, load, allocate: ours and the peer's alike
        run()
    timings = take_turns(STEPS, ways, repeats)
    same: dict[str, Callable[[], object]] = {
        "landcover": partial(ours, models.int8.card.preprocessing.gsd, WINDOW_PX),
        "the usual way": ways["the usual way"],
    }
    same["landcover"]()
    return [*timings, *take_turns(f"{STEPS}, same pixels and windows", same, repeats)]


def around_the_network(image: Path, runtime: Runtime, gsd: float, repeats: int, folder: Path) -> list[Timing]:
    """Time everything but the network against decoding the JPEG and writing a palette PNG of its map.

    The measure is simplejpeg and Pillow at level 1, nothing of ours: a faster encoder of ours is to count for
    us, not against us.
    """
    options = PredictOptions(gsd=gsd, force=True)
    canned = Canned(runtime)
    _predict(image, canned, folder / "canned", options)
    index = predict_index(canned, np.array(Image.open(image).convert("RGB")), gsd=gsd)
    content, legend = image.read_bytes(), runtime.card.legend

    def least() -> None:
        simplejpeg.decode_jpeg(content)
        picture = Image.fromarray(index)
        picture.putpalette(legend.colours[: len(legend)].tobytes())
        picture.save(folder / "least.png", compress_level=1)

    ways: dict[str, Callable[[], object]] = {
        "decoding and encoding alone": least,
        "all but the network": lambda: _predict(image, canned, folder / "canned", options),
    }
    return take_turns("around the network", ways, 3 * repeats)


def _predict(image: Path, runtime: Runtime, out: Path, options: PredictOptions) -> None:
    """Predict without saying each time what computes."""
    with redirect_stderr(io.StringIO()):
        made = predict([image], runtime, out, options)
    for reason in made.failed.values():
        raise RuntimeError(f"What is timed failed: {reason}")


class Canned:
    """A runtime that gives the answer it gave before, at no cost."""

    def __init__(self, runtime: Runtime) -> None:
        self.card, self.name, self.device, self.stride = (
            runtime.card,
            runtime.name,
            runtime.device,
            runtime.stride,
        )
        self._runtime = runtime
        self._answers: dict[tuple[int, ...], np.ndarray] = {}

    def coarse(self, batch: UInt8Array) -> np.ndarray:
        """Return the first answer to a batch of this shape."""
        if batch.shape not in self._answers:
            self._answers[batch.shape] = self._runtime.coarse(batch)
        return self._answers[batch.shape]

    def probabilities(self, batch: UInt8Array) -> np.ndarray:
        """Return what the runtime says."""
        return self._runtime.probabilities(batch)


def networks_alone(models: Models, images: Iterator[UInt8Array], repeats: int, folder: Path) -> list[Timing]:
    """Time one window in our network and in the peer's, quantised and run alike, in ms."""
    from landcover.benchmarks.peer_graph import quantised_peer

    window = np.zeros((1, WINDOW_PX, WINDOW_PX, 3), np.uint8)
    peer = quantised_peer(models.peer, images, WINDOW_PX, folder)
    ways: dict[str, Callable[[], object]] = {
        "landcover, as the engine runs it": lambda: models.int8.coarse(window),
        "landcover, at full size": lambda: models.int8.probabilities(window),
        "segmentation_models_pytorch": lambda: peer(window),
    }
    for run in ways.values():
        run()
    return take_turns("network alone, INT8 in OpenVINO, 512 x 512", ways, 10 * repeats)


def compare(
    image: Path, run: Path, fp32: Path, int8: Path, *, gsd: float = 0.5, repeats: int = 3
) -> list[Timing]:
    """Time all tables on one image.

    Args:
        image: A JPEG of 2448 x 2448 pixels.
        run: Checkpoint of the model.
        fp32: The model as ONNX.
        int8: The model as INT8 ONNX.
        gsd: Metres per pixel of the image.
        repeats: Runs of each way.

    Raises:
        DataError: If the image cannot be read.
        UsageError: If it has another size, or ``gsd`` is none.
    """
    check_gsd(gsd)
    height, width = image_size(image)
    if (height, width) != (SIDE_PX, SIDE_PX):
        raise UsageError(f"{image} has {height} x {width} pixels; expected a JPEG of {SIDE_PX} x {SIDE_PX}.")
    models = Models(
        import_peer().DeepLabV3Plus("tu-mobilenetv2_100", encoder_weights=None, classes=6).eval(),
        load_checkpoint(run, device="cpu").module,
        open_model(fp32),
        open_model(int8),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.array(Image.open(image).convert("RGB"))
        crops = (pixels[i : i + WINDOW_PX, i : i + WINDOW_PX] for i in range(0, 8 * 200, 200))
        return [
            *step_by_step(image, models, gsd, repeats, folder),
            *around_the_network(image, models.int8, gsd, repeats, folder),
            *networks_alone(models, crops, repeats, folder),
        ]


def chart(timings: Sequence[Timing]) -> str:
    """Draw the steps from the usual way to landcover's, as SVG."""
    steps = [(timing.way, timing.ms) for timing in timings if timing.job == STEPS]
    return waterfall("One image to its map", steps[::-1])
