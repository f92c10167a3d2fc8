"""The training loop against the usual one, and depthwise gradients against torch's.

Both loops train one network (landcover's DeepLabv3+ on mobilenetv2_100, ASPP of 256 channels) from random
weights on 12 crops of 320 px, with flips and quarter turns, cross-entropy and AdamW, bfloat16 where the
processor has it. Landcover's reads a prepared cache, the usual one image files; each run is a process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from common import landcover, print_timings, take_turns
from landcover.data import open_dataset, select
from landcover.model import ModelConfig
from landcover.model._compat import timm
from landcover.model.encoders import build_encoder
from landcover.model.network import build_model
from landcover.training.config import load_preset
from landcover.training.depthwise import use_fast_depthwise_backward
from smp_peer import RECIPE, WARM_UP_STEPS, usual_loop

PRESET = """
steps: {steps}
log_every: {warm}
crop_px: 320
batch_size: 12
model: {{encoder: mobilenetv2_100, aspp_channels: 256}}
validation: {{images: 1, percent: 100}}
"""


def usual_rate(data: Path, split: str, steps: int) -> float:
    """Return crops per second of the usual loop."""
    dataset = open_dataset(data)
    network = build_model(ModelConfig(), classes=len(dataset.legend.scored))
    items = select(dataset, f"{split}:train")
    effort = usual_loop(network, network.encoder, items, dataset.legend, RECIPE, steps=steps)
    return float(effort["images_per_second"])


def own_rate(cache: Path, split: str, steps: int, preset: str | None = None) -> float:
    """Return crops per second of landcover's loop after the first :data:`WARM_UP_STEPS` steps.

    ``preset`` is the name of one of landcover's, trained on one thread; by default :data:`PRESET`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "preset.yaml").write_text(PRESET.format(steps=steps, warm=WARM_UP_STEPS))
        options = ["--preset", preset or folder / "preset.yaml", "--weights", "none"]
        if preset:
            # Presets freeze layers, which training refuses to do with random weights unless a file has them.
            encoder = timm.create_model(load_preset(preset).model.encoder)
            save_file(encoder.state_dict(), folder / "weights.safetensors")
            options[-1] = folder / "weights.safetensors"
            settings = {"steps": steps, "minutes": "null", "log_every": WARM_UP_STEPS, "threads": 1}
            settings |= {"validation.percent": 100, "validation.images": 1}
            options += [f"--set={key}={value}" for key, value in settings.items()]
        landcover("train", "--data", cache, "--split", split, *options, "--out", folder / "run")
        events = map(json.loads, (folder / "run" / "log.jsonl").read_text().splitlines())
        rates = [event["images_per_second"] for event in events if event["event"] == "step"]
    return len(rates[1:]) / sum(1 / rate for rate in rates[1:])


def compare_loops(options: argparse.Namespace) -> None:
    """Time both loops in turns."""
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        landcover("prepare", options.data, "--out", cache)
        usual = [sys.executable, __file__, "--usual-rate", "--data", options.data, "--split", options.split]
        ratios = []
        for _ in range(options.rounds):
            command = [*map(str, usual), "--steps", str(options.steps)]
            theirs = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            ours = own_rate(cache, options.split, options.steps)
            ratios.append(ours / theirs)
            print(f"usual loop {theirs:.1f}, landcover {ours:.1f} crops/s: {ours / theirs:.2f}", flush=True)
    print(f"median ratio {median(ratios):.2f}")


def compare_presets(options: argparse.Namespace) -> None:
    """Time the training of presets in turns, on one thread and from random weights."""
    rates: dict[str, list[float]] = {preset: [] for preset in options.presets}
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        landcover("prepare", options.data, "--out", cache)
        for _ in range(options.rounds):
            for preset, found in rates.items():
                found.append(own_rate(cache, options.split, options.steps, preset))
    for preset, found in rates.items():
        print(f"{preset}: {median(found):.1f} crops/s ({min(found):.1f} to {max(found):.1f})")


def compare_gradients(encoder: str, repeats: int, *, size: int = 224) -> None:
    """Time an encoder forward and backward on 12 crops, on one thread, with both kinds of gradients."""
    torch.set_num_threads(1)
    stock = build_encoder(encoder, 32).to(memory_format=torch.channels_last)
    images = torch.randn(12, 3, size, size).contiguous(memory_format=torch.channels_last)

    def step(network: torch.nn.Module, bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            low, deep = network(images)
        (low.float().square().mean() + deep.float().square().mean()).backward()

    for bf16 in {False, bool(torch.cpu.get_capabilities().get("avx512_bf16"))}:
        ours, precision = deepcopy(stock), "bf16" if bf16 else "fp32"
        use_fast_depthwise_backward(ours, precision)
        ways = {"landcover": partial(step, ours, bf16), "torch": partial(step, stock, bf16)}
        take_turns("warm up", ways, 1)
        print_timings(take_turns(f"{encoder}, {precision}", ways, repeats))


def main() -> None:
    """Compare the gradients, and the loops where data are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of image files")
    parser.add_argument("--split", default="folders", help="split with a subset train")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", nargs="*", help="time the training of these presets on DATA instead")
    parser.add_argument("--encoders", nargs="*", default=["mobilenetv2_100", "tf_efficientnet_b4"])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    parser.add_argument("--usual-rate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.usual_rate:
        print(usual_rate(options.data, options.split, options.steps))
        return
    if options.presets:
        compare_presets(options)
        return
    for encoder in options.encoders:
        compare_gradients(encoder, options.repeats)
    if options.data is not None:
        compare_loops(options)


if __name__ == "__main__":
    main()
