"""The reference recipe: DeepLabv3+ as people train it with segmentation_models_pytorch.

``python -m landcover.benchmarks.reference --data D --split scenes-k5@0 --weights W --minutes 25 --json F``

A peer to measure ourselves against, and so written the usual way on purpose: files decoded by Pillow in a
worker of a ``DataLoader``, contiguous tensors, cross-entropy, AdamW with two learning rates and polynomial
decay, flips and quarter turns, bfloat16 autocast. Nothing of landcover's training is used here.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from landcover.bundle import ModelCard
from landcover.codecs import colours_to_index
from landcover.data import Dataset, Item, open_dataset, split
from landcover.errors import ModelError
from landcover.extras import needs
from landcover.files import refuse_existing, write_text
from landcover.inference import predict_index
from landcover.legend import IGNORE, Legend
from landcover.metrics import ConfusionMatrix, Scores
from landcover.models import ModelConfig
from landcover.models._compat import declare_torchvision_operators
from landcover.preprocessing import Preprocessing
from landcover.runtimes import TorchRuntime

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def import_peer() -> Any:
    """Import segmentation_models_pytorch, also beside a torchvision that does not fit the installed torch.

    Raises:
        MissingExtraError: If it is not installed.
    """
    declare_torchvision_operators()
    with needs("bench"):
        import segmentation_models_pytorch as smp
    return smp


def reference_network(classes: int, weights: Path) -> nn.Module:
    """Return smp's DeepLabV3Plus on ``tu-mobilenetv2_100`` with the encoder weights of a safetensors file."""
    smp = import_peer()
    from safetensors.torch import load_file

    network: nn.Module = smp.DeepLabV3Plus("tu-mobilenetv2_100", encoder_weights=None, classes=classes)
    encoder: Any = network.encoder
    missing = encoder.model.load_state_dict(load_file(weights), strict=False).missing_keys
    if missing:
        raise ModelError(
            f"{weights} lacks {len(missing)} tensors of mobilenetv2_100, such as {missing[0]!r}."
        )
    return network


WARM_UP_STEPS = 10


class Crops(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One random crop, turned and flipped at random, of each image in an epoch."""

    def __init__(self, items: Sequence[Item], legend: Legend, crop_px: int) -> None:
        self.items, self.legend, self.crop_px = items, legend, crop_px

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        item = self.items[number]
        if item.image is None or item.mask is None:
            raise ModelError(f"{item.key} has no pair of files; the reference recipe reads files.")
        image = np.asarray(Image.open(item.image).convert("RGB"))
        index, _ = colours_to_index(np.asarray(Image.open(item.mask).convert("RGB")), self.legend)
        row = random.randint(0, image.shape[0] - self.crop_px)
        col = random.randint(0, image.shape[1] - self.crop_px)
        window = slice(row, row + self.crop_px), slice(col, col + self.crop_px)
        turns, mirror = random.randint(0, 3), random.random() < 0.5
        image, target = self._turn(image[window], turns, mirror), self._turn(index[window], turns, mirror)
        normalised = (image.astype(np.float32) / 255 - MEAN) / STD
        return (
            torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1))),
            torch.from_numpy(self.legend.channels[target].astype(np.int64)),
        )

    @staticmethod
    def _turn(array: npt.NDArray[np.uint8], turns: int, mirror: bool) -> npt.NDArray[np.uint8]:
        array = np.rot90(array, turns)
        return array[:, ::-1] if mirror else array


@dataclass(frozen=True)
class LoopResult:
    """How far a loop came.

    Attributes:
        steps: Optimiser steps.
        images: Crops seen.
        seconds: Wall time.
        images_per_second: Rate after the first :data:`WARM_UP_STEPS` steps; 0 if there were no more.
    """

    steps: int
    images: int
    seconds: float
    images_per_second: float


def reference_loop(
    network: nn.Module,
    encoder: nn.Module,
    items: Sequence[Item],
    legend: Legend,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    crop_px: int = 320,
    batch_size: int = 12,
    seed: int = 0,
) -> LoopResult:
    """Train ``network`` in place for some minutes or steps.

    Args:
        network: Normalised images (N, 3, H, W) to logits (N, C, H, W).
        encoder: The part of it that starts from ImageNet weights and gets the smaller learning rate.
        items: Labelled items with files.
        legend: Legend of the masks.
        minutes: Wall time to train for; or
        steps: number of optimiser steps.
        crop_px: Side of a crop.
        batch_size: Crops per step.
        seed: For torch, and for the crops.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    network.train()
    of_encoder = {id(parameter) for parameter in encoder.parameters()}
    rates = (3e-4, 1e-3)
    groups = [
        [p for p in network.parameters() if (id(p) in of_encoder) is inside] for inside in (True, False)
    ]
    optimiser = torch.optim.AdamW([{"params": group} for group in groups], weight_decay=1e-2)
    loader = torch.utils.data.DataLoader(
        Crops(items, legend, crop_px),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=1,
        persistent_workers=True,
    )
    start, step = time.perf_counter(), 0
    warm = start
    while True:
        for images, target in loader:
            elapsed = time.perf_counter() - start
            done = step / steps if steps else elapsed / (60 * (minutes or 25))
            if done >= 1:
                rate = max(step - WARM_UP_STEPS, 0) * batch_size / (elapsed - (warm - start))
                return LoopResult(step, step * batch_size, elapsed, rate)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - done) ** 0.9
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images)
            loss = functional.cross_entropy(logits.float(), target, ignore_index=IGNORE)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            if step == WARM_UP_STEPS:
                warm = time.perf_counter()


def score(network: nn.Module, dataset: Dataset, items: Sequence[Item]) -> Scores:
    """Return the challenge metric over whole images, by the prediction that landcover's models go through."""
    preprocessing = Preprocessing(dataset.gsd or 1.0, tuple(MEAN.tolist()), tuple(STD.tolist()))
    card = ModelCard(
        model=ModelConfig(), legend=dataset.legend, preprocessing=preprocessing, window_px=512, overlap_px=128
    )
    runtime, matrix = TorchRuntime(network, card), ConfusionMatrix(dataset.legend)
    for item in items:
        matrix.update(dataset.read_mask(item), predict_index(runtime, dataset.read_image(item)))
    return matrix.scores()


def main() -> None:
    """Train on the part train of a split, score on its part val, write both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--split", required=True, help="split with the parts train and val")
    parser.add_argument("--weights", type=Path, required=True, help="encoder weights of mobilenetv2_100")
    parser.add_argument("--minutes", type=float, help="wall time to train for; or")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where the result is written")
    options = parser.parse_args()
    if (options.minutes is None) == (options.steps is None):
        parser.error("give either --minutes or --steps")
    refuse_existing(options.json, force=False)
    dataset = open_dataset(options.data)
    parts = split(dataset, options.split)
    torch.manual_seed(options.seed)
    network = reference_network(len(dataset.legend.scored), options.weights)
    result = reference_loop(
        network,
        network.get_submodule("encoder"),
        parts["train"],
        dataset.legend,
        minutes=options.minutes,
        steps=options.steps,
        seed=options.seed,
    )
    scores = score(network, dataset, parts["val"])
    found = {**asdict(result), "split": options.split, "metric": scores.metric, **scores.to_dict()}
    write_text(options.json, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
