"""The peer: DeepLabv3+ as people train it with segmentation_models_pytorch. accuracy.py and loop.py run it.

It is written the usual way on purpose: files decoded by Pillow in a worker of a ``DataLoader``, contiguous
tensors, cross-entropy, AdamW with two learning rates and polynomial decay, flips and quarter turns, bfloat16
autocast where the processor has it. Nothing of what makes landcover's training is used. The last weights are
kept; nothing is validated.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from landcover.data import Item, open_dataset, select
from landcover.evaluation import evaluate
from landcover.io.colours import find_classes
from landcover.legend import IGNORE, Legend
from landcover.model import ModelConfig
from landcover.model.card import ModelCard
from landcover.model.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from landcover.model.runtimes.torch_runtime import TorchRuntime

RECIPE: Mapping[str, Any] = {
    "encoder": "mobilenetv2_100",
    "crop_px": 320,
    "batch_size": 12,
    "learning_rate": 1e-3,
    "encoder_learning_rate": 3e-4,
    "weight_decay": 1e-2,
    "power": 0.9,
    "scale": (1.0, 1.0),
    "jitter": 0.0,
}
"""``scale``: smallest and largest magnification of a crop; ``jitter``: largest change of brightness, contrast
and saturation, as a share."""
WARM_UP_STEPS = 10


class Crops(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One random crop, magnified, rotated and flipped at random, of each image in an epoch."""

    def __init__(self, items: Sequence[Item], legend: Legend, recipe: Mapping[str, Any]) -> None:
        self.items, self.legend, self.recipe = items, legend, recipe

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        item, size = self.items[number], self.recipe["crop_px"]
        image = Image.open(item.image).convert("RGB")
        index = find_classes(np.asarray(Image.open(item.mask).convert("RGB")), self.legend)
        low, high = map(math.log, self.recipe["scale"])
        side = min(round(size / math.exp(random.uniform(low, high))), *index.shape)
        left, top = random.randint(0, image.width - side), random.randint(0, image.height - side)
        box, turns, mirror = (left, top, left + side, top + side), random.randint(0, 3), random.random() < 0.5
        picture = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            jitter = self.recipe["jitter"]
            picture = change(picture).enhance(1 + random.uniform(-jitter, jitter)) if jitter else picture
        target = Image.fromarray(index).crop(box).resize((size, size), Image.Resampling.NEAREST)
        pixels = (np.asarray(picture, np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        arrays = pixels.astype(np.float32), self.legend.channels[np.asarray(target)].astype(np.int64)
        first, second = (np.rot90(array, turns)[:, :: -1 if mirror else 1].copy() for array in arrays)
        return torch.from_numpy(first).permute(2, 0, 1), torch.from_numpy(second)


def peer_network(classes: int, weights: Path | None, encoder: str) -> nn.Module:
    """Return smp's DeepLabV3Plus on a timm encoder, with the weights of a safetensors file."""
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.DeepLabV3Plus(f"tu-{encoder}", encoder_weights=None, classes=classes)
    if weights is not None:
        body: Any = network.encoder
        found = body.model.load_state_dict(load_file(weights), strict=False)
        if missing := [key for key in found.missing_keys if not key.endswith("num_batches_tracked")]:
            raise SystemExit(f"{weights} lacks {len(missing)} tensors of {encoder}, such as {missing[0]}.")
    return network


def usual_loop(
    network: nn.Module,
    encoder: nn.Module,
    items: Sequence[Item],
    legend: Legend,
    recipe: Mapping[str, Any],
    *,
    minutes: float | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Train ``network`` in place.

    Args:
        network: Normalised images (N, 3, H, W) to logits (N, C, H, W).
        encoder: The part of it that gets the smaller learning rate.
        items: Labelled items with files.
        legend: Legend of the masks.
        recipe: Crops and rates, as :data:`RECIPE`.
        minutes: Wall time to train for; or
        steps: number of optimiser steps.

    Returns:
        ``steps, images, seconds, precision``, and ``images_per_second`` after the first ten steps.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    network.to(device).train()
    inside = {id(parameter) for parameter in encoder.parameters()}
    groups = [[p for p in network.parameters() if (id(p) in inside) is first] for first in (True, False)]
    rates = recipe["encoder_learning_rate"], recipe["learning_rate"]
    optimiser = torch.optim.AdamW(
        [{"params": group} for group in groups], weight_decay=recipe["weight_decay"]
    )
    size = recipe["batch_size"]
    loader = torch.utils.data.DataLoader(
        Crops(items, legend, recipe),
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=1,
        persistent_workers=True,
    )
    if not len(loader):
        raise SystemExit(f"{len(items)} images do not fill one batch of {size}.")
    start, step = time.perf_counter(), 0
    warm = start
    while True:
        for images, target in loader:
            seconds = time.perf_counter() - start
            done = step / steps if steps else seconds / (60 * (minutes or 25))
            if done >= 1:
                return {
                    "steps": step,
                    "images": step * size,
                    "seconds": seconds,
                    "precision": "bf16" if bf16 else "fp32",
                    "images_per_second": max(step - WARM_UP_STEPS, 0) * size / (seconds - (warm - start)),
                }
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - done) ** recipe["power"]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = network(images.to(device))
            loss = functional.cross_entropy(logits.float(), target.to(device), ignore_index=IGNORE)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            warm = time.perf_counter() if step == WARM_UP_STEPS else warm


def score(options: argparse.Namespace) -> None:
    """Score a trained peer through the prediction that landcover's models use, and keep its maps."""
    dataset = open_dataset(options.data)
    recipe = json.loads((options.model / "training.json").read_text())["recipe"]
    network = peer_network(len(dataset.legend.scored), None, recipe["encoder"])
    network.load_state_dict(load_file(options.model / "weights.safetensors"))
    card = ModelCard(
        model=ModelConfig(),
        legend=dataset.legend,
        preprocessing=Preprocessing(dataset.gsd or 1.0),
        window_px=512,
        overlap_px=128,
    )
    runtime = TorchRuntime(network, card, "auto")
    evaluate(options.data, options.split, model=runtime, maps=options.maps, json=options.json, force=True)


def train(options: argparse.Namespace) -> None:
    """Train on the subset ``train`` of a split; write weights, and effort and recipe as JSON."""
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    dataset, recipe = open_dataset(options.data), {**RECIPE, **options.recipe}
    weights = None if options.weights == "none" else Path(options.weights)
    network = peer_network(len(dataset.legend.scored), weights, recipe["encoder"])
    items = select(dataset, f"{options.split}:train")
    limit = {"minutes": options.minutes, "steps": options.steps}
    effort = usual_loop(network, network.get_submodule("encoder"), items, dataset.legend, recipe, **limit)
    options.out.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, options.out / "weights.safetensors")
    about = {"effort": effort, "split": options.split, "recipe": recipe}
    (options.out / "training.json").write_text(json.dumps(about, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a peer, or score it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder of image files")
    parser.add_argument("--split", required=True, help="a split with a subset train; NAME:subset to score")
    parser.add_argument("--recipe", type=json.loads, default={}, help="changes to the recipe, as JSON")
    parser.add_argument("--weights", default="none", help="safetensors file of the encoder, or none")
    parser.add_argument("--minutes", type=float, help="wall time to train for; or")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the training")
    parser.add_argument("--score", action="store_true", help="score --model instead")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--force", action="store_true", help="accepted for the same command as landcover's")
    options = parser.parse_args(arguments)
    (score if options.score else train)(options)


if __name__ == "__main__":
    main()
