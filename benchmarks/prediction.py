"""From an image file to a map on disk, against the usual way, step by step.

The usual way: Pillow, segmentation_models_pytorch's DeepLabV3+ in eager float32 at the image's own 0.5 m,
windows of 512 px with a quarter overlap, softmax averaged at full size in torch, an RGB PNG. Each further way
changes one thing until landcover's own is reached; the ways take turns in one process.
"""

import argparse
import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from math import log10
from pathlib import Path

import numpy as np
import onnx
import simplejpeg
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from common import Timing, print_timings, take_turns
from landcover.exporting.int8 import quantise
from landcover.inference import PredictOptions, predict, predict_index
from landcover.model.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from landcover.model.runtimes import Runtime, open_model
from landcover.model.runtimes.openvino_runtime import answer, cpu_settings, openvino_core, taking_pixels
from landcover.model.runtimes.torch_runtime import load

WINDOW_PX, OVERLAP_PX = 512, 128
Classifier = Callable[[Tensor], Tensor]
"""uint8 (N, H, W, 3) to probabilities (N, C, H, W)."""


class Normalised(nn.Module):
    """A network as people call it: pixels 0..255 in, normalise, forward, softmax."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean = nn.Buffer(255 * torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.std = nn.Buffer(255 * torch.tensor(IMAGENET_STD)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 (N, 3, H, W) to (N, C, H, W)."""
        return torch.softmax(self.network((image - self.mean) / self.std), dim=1)


def eager(network: nn.Module) -> Classifier:
    """Return a torch module as a classifier of pixels."""
    module = Normalised(network).eval()
    return lambda images: module(images.permute(0, 3, 1, 2).float())


def on_runtime(runtime: Runtime) -> Classifier:
    """Return a model file as a drop-in for a torch module."""
    return lambda images: torch.from_numpy(runtime.probabilities(images.numpy()))


@torch.inference_mode()
def usual_way(
    image: Path, out: Path, classify: Classifier, colours: np.ndarray, *, scale: float, whole: bool
) -> None:
    """Map an image: Pillow in, windows averaged at full size in torch, an RGB PNG out.

    Args:
        image: The image file.
        out: The PNG.
        classify: The network.
        colours: uint8 (256, 3).
        scale: Model pixels per image pixel; 1 does not resample.
        whole: One window for all.
    """
    picture = Image.open(image).convert("RGB")
    size = (picture.height, picture.width)
    height, width = (round(side * scale) for side in size)
    pixels = torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.BILINEAR)))
    if whole:
        probabilities = classify(pixels[None])[0]
    else:
        probabilities, counts = torch.zeros(6, height, width), torch.zeros(height, width)
        starts = [
            [*range(0, max(side - WINDOW_PX, 0), WINDOW_PX - OVERLAP_PX), max(side - WINDOW_PX, 0)]
            for side in (height, width)
        ]
        for row in starts[0]:
            for col in starts[1]:
                place = slice(row, row + WINDOW_PX), slice(col, col + WINDOW_PX)
                probabilities[:, *place] += classify(pixels[place][None])[0]
                counts[place] += 1
        probabilities /= counts
    if scale != 1:
        probabilities = functional.interpolate(probabilities[None], size=size, mode="bilinear")[0]
    index = probabilities.argmax(dim=0).numpy().astype(np.uint8)
    Image.fromarray(colours[index]).save(out)


def own_way(image: Path, runtime: Runtime, out: Path, gsd: float, window_px: int | None = None) -> None:
    """Map an image by landcover."""
    overlap_px = None if window_px is None else OVERLAP_PX
    options = PredictOptions(gsd=gsd, window_px=window_px, overlap_px=overlap_px, force=True)
    with contextlib.redirect_stderr(io.StringIO()):
        made = predict([image], runtime, out, options)
    for reason in made.failed.values():
        raise SystemExit(reason)


class Canned:
    """A runtime that returns the answer it gave before, at no cost."""

    def __init__(self, runtime: Runtime) -> None:
        self.card, self.name, self.device = runtime.card, runtime.name, runtime.device
        self.stride, self._runtime = runtime.stride, runtime
        self._answers: dict[tuple[int, ...], np.ndarray] = {}

    def coarse(self, batch: np.ndarray) -> np.ndarray:
        """Return the first answer to a batch of this shape."""
        if batch.shape not in self._answers:
            self._answers[batch.shape] = self._runtime.coarse(batch)
        return self._answers[batch.shape]

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """Return what the runtime returns."""
        return self._runtime.probabilities(batch)


def quantised_peer(network: nn.Module, image: np.ndarray, folder: Path) -> Callable[[np.ndarray], object]:
    """Export, quantise (ranges from crops of an image) and compile the peer as landcover's models are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of changes within itself
        program = torch.onnx.export(
            Normalised(network).eval(),
            (torch.zeros(1, 3, WINDOW_PX, WINDOW_PX),),
            input_names=["image"],
            output_names=["probabilities"],
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    crops = (image[i : i + WINDOW_PX, i : i + WINDOW_PX] for i in range(0, image.shape[0] - WINDOW_PX, 200))
    onnx.save(quantise(program.model_proto, crops, folder), folder / "peer.onnx")
    core = openvino_core()
    compiled = core.compile_model(taking_pixels(core.read_model(folder / "peer.onnx")), "CPU", cpu_settings())
    return partial(answer, compiled.create_infer_request())


def measure(options: argparse.Namespace, peer: nn.Module, folder: Path) -> list[Timing]:
    """Time all tables on one image."""
    image, gsd, repeats, out = options.image, options.gsd, options.repeats, folder / "map.png"
    checkpoint = load(options.run, device="cpu").module
    fp32, int8 = open_model(options.fp32), open_model(options.int8)
    legend, model_gsd = int8.card.legend, int8.card.preprocessing.gsd
    usual = partial(usual_way, image, out, colours=legend.colours)
    pixels = np.array(Image.open(image).convert("RGB"))

    def engine() -> None:
        index = predict_index(int8, np.array(Image.open(image).convert("RGB")), gsd=gsd)
        Image.fromarray(legend.colours[index]).save(out)

    scale = gsd / model_gsd
    ways: dict[str, Callable[[], object]] = {
        "landcover": lambda: own_way(image, int8, folder, gsd),
        "landcover's blending and argmax": engine,
        "INT8": partial(usual, on_runtime(int8), scale=scale, whole=True),
        "OpenVINO": partial(usual, on_runtime(fp32), scale=scale, whole=True),
        "landcover's network": partial(usual, eager(checkpoint), scale=scale, whole=True),
        "whole, not windows": partial(usual, eager(peer), scale=scale, whole=True),
        "at the model's scale": partial(usual, eager(peer), scale=scale, whole=False),
        "the usual way": partial(usual, eager(peer), scale=1.0, whole=False),
    }
    same = {
        "landcover": lambda: own_way(image, int8, folder, model_gsd, WINDOW_PX),
        "the usual way": ways["the usual way"],
    }
    canned, content = Canned(int8), image.read_bytes()
    index = predict_index(canned, pixels, gsd=gsd)

    def least() -> None:
        simplejpeg.decode_jpeg(content)
        picture = Image.fromarray(index)
        picture.putpalette(legend.colours[: len(legend)].tobytes())
        picture.save(out, compress_level=1)

    around = {
        "decoding and encoding alone": least,
        "all but the network": lambda: own_way(image, canned, folder, gsd),
    }
    window, quantised = np.zeros((1, WINDOW_PX, WINDOW_PX, 3), np.uint8), quantised_peer(peer, pixels, folder)
    alone = {
        "landcover, as the engine runs it": lambda: int8.coarse(window),
        "landcover, at full size": lambda: int8.probabilities(window),
        "segmentation_models_pytorch": lambda: quantised(window),
    }
    timings = []
    for job, group, factor in (
        ("image to map", ways, 1),
        ("image to map, same pixels and windows", same, 1),
        ("around the network", around, 3),
        ("network alone, INT8 in OpenVINO, 512 x 512", alone, 10),
    ):
        for way in group.values():  # compile, load, allocate
            way()
        timings += take_turns(job, group, factor * repeats)
    return timings


def chart(steps: Sequence[tuple[str, float]]) -> str:
    """Draw bars on a logarithmic scale as SVG, the slowest first, each with its gain over the one before."""
    row_px, left, width, right, top = 34, 210, 430, 120, 46
    low, high = log10(min(ms for _, ms in steps)) - 0.15, log10(max(ms for _, ms in steps))
    full, height, rows = left + width + right, top + row_px * len(steps) + 30, []
    for number, (name, ms) in enumerate(steps):
        y, bar = top + number * row_px, width * (log10(ms) - low) / max(high - low, 1e-9)
        gain = "" if number == 0 else f"{steps[number - 1][1] / ms:.1f}\u00d7"
        time = f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"
        rows.append(
            f'<text x="{left - 10}" y="{y + 18}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{bar:.1f}" height="{row_px - 12}" rx="3" class="bar"/>'
            f'<text x="{left + bar + 8:.1f}" y="{y + 18}">{time}</text>'
            f'<text x="{full - 8}" y="{y + 18}" text-anchor="end" class="gain">{gain}</text>'
        )
    title = f"One image to its map: {steps[0][1] / steps[-1][1]:.0f} times faster"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {height}" role="img">
<title>{title}</title>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #222; }}
.head {{ font-size: 16px; font-weight: 600; }}
.gain, .note {{ fill: #666; }}
.bar {{ fill: #2a7f9e; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #eee; }} .gain, .note {{ fill: #aaa; }} }}
</style>
<text x="10" y="24" class="head">{title}</text>
<text x="{full - 8}" y="24" text-anchor="end" class="note">gain of the step</text>
{"".join(rows)}
<text x="{left}" y="{height - 8}" class="note">logarithmic; each row keeps the changes above</text>
</svg>
"""


def main() -> None:
    """Print the timings and draw the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of a model")
    parser.add_argument("--fp32", type=Path, required=True, help="the model as ONNX")
    parser.add_argument("--int8", type=Path, required=True, help="the model as INT8 ONNX")
    parser.add_argument("--image", type=Path, required=True, help="a JPEG of 2448 x 2448 pixels")
    parser.add_argument("--gsd", type=float, default=0.5, help="metres per pixel of the image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--svg", type=Path, help="draw the steps here, as docs/reports/bench.svg")
    options = parser.parse_args()
    import segmentation_models_pytorch as smp

    peer = smp.DeepLabV3Plus("tu-mobilenetv2_100", encoder_weights=None, classes=6).eval()
    with tempfile.TemporaryDirectory() as folder:
        timings = measure(options, peer, Path(folder))
    print_timings(timings)
    if options.svg is not None:
        steps = [(timing.way, timing.ms) for timing in timings if timing.job == "image to map"]
        options.svg.write_text(chart(steps[::-1]), encoding="utf-8")


if __name__ == "__main__":
    main()
