"""Peers: DeepLabv3+ as people train it with segmentation_models_pytorch.

``python -m landcover.benchmarks.reference --data D --split scenes-k5@0 --weights W --minutes 25 --out RUN``

Peers to measure ourselves against, and so written the usual way on purpose: files decoded by Pillow in a
worker of a ``DataLoader``, contiguous tensors, cross-entropy, AdamW with two learning rates and polynomial
decay, flips and quarter turns, bfloat16 autocast where the device has it. Nothing of what makes landcover's
training is used here. The last weights are kept; nothing is validated.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from landcover.benchmarks.accuracy.process import plain_errors
from landcover.benchmarks.accuracy.recipes import (
    MEAN,
    RECIPES,
    RESULT_NAME,
    STD,
    Crops,
    Recipe,
    load_recipe,
)
from landcover.config import from_mapping
from landcover.data import Dataset, Item, open_dataset, split
from landcover.errors import DataError, ModelError
from landcover.extras import needs
from landcover.io.files import atomic_path, refuse_existing, write_text
from landcover.legend import IGNORE, Legend
from landcover.model import ModelConfig
from landcover.model._compat import declare_torchvision_operators
from landcover.model.card import ModelCard
from landcover.model.preprocessing import Preprocessing
from landcover.model.runtimes import TorchRuntime
from landcover.model.runtimes.base import Precision
from landcover.model.runtimes.torch_runtime import pick_device
from landcover.model.tensorfile import read_tensors
from landcover.training.optim import pick_precision

WARM_UP_STEPS = 10
WEIGHTS_NAME = "weights.safetensors"


def import_peer() -> Any:
    """Import segmentation_models_pytorch, also beside a torchvision that does not fit the installed torch.

    Raises:
        MissingExtraError: If it is not installed.
    """
    declare_torchvision_operators()
    with needs("bench"):
        import segmentation_models_pytorch as smp
    return smp


def reference_network(classes: int, weights: Path | None, encoder: str = "mobilenetv2_100") -> nn.Module:
    """Return smp's DeepLabV3Plus on a timm encoder.

    Args:
        classes: Channels of the logits.
        weights: Safetensors file of the encoder; that it has more, such as a classifier, does not matter.
            None for random weights.
        encoder: timm's name of the encoder.

    Raises:
        ModelError: If the file cannot be read, lacks tensors of the encoder or has others of these names.
        MissingExtraError: If segmentation_models_pytorch is not installed.
    """
    network: nn.Module = import_peer().DeepLabV3Plus(f"tu-{encoder}", encoder_weights=None, classes=classes)
    if weights is None:
        return network
    body: Any = network.encoder
    tensors = {name: torch.from_numpy(value) for name, value in read_tensors(weights).items()}
    try:
        found = body.model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"{weights} holds no weights of {encoder}: {str(error).splitlines()[-1].strip()}"
        ) from error
    missing = [key for key in found.missing_keys if not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(f"{weights} lacks {len(missing)} tensors of {encoder}, such as {missing[0]!r}.")
    return network


@dataclass(frozen=True)
class LoopResult:
    """How far a loop came.

    Attributes:
        steps: Optimiser steps.
        images: Crops seen.
        seconds: Wall time.
        images_per_second: Rate after the first :data:`WARM_UP_STEPS` steps; 0 if there were no more.
        precision: What convolutions were computed in.
    """

    steps: int
    images: int
    seconds: float
    images_per_second: float
    precision: Precision


def reference_loop(
    network: nn.Module,
    encoder: nn.Module,
    items: Sequence[Item],
    legend: Legend,
    *,
    recipe: Recipe = RECIPES["reference"],
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> LoopResult:
    """Train ``network`` in place for some minutes or steps.

    Args:
        network: Normalised images (N, 3, H, W) to logits (N, C, H, W).
        encoder: The part of it that starts from ImageNet weights and gets the smaller learning rate.
        items: Labelled items with files.
        legend: Legend of the masks.
        recipe: Crops and rates.
        minutes: Wall time to train for; or
        steps: number of optimiser steps.
        seed: For torch, and for the crops.
        device: Where the network computes, as for ``landcover.model.runtimes.open_model``.

    Raises:
        DataError: If an item has no files, or there are fewer items than crops in a step.
    """
    if len(items) < recipe.batch_size:
        raise DataError(
            f"{len(items)} images to train on do not fill one batch of {recipe.batch_size}. Set a smaller "
            "batch_size."
        )
    random.seed(seed)
    torch.manual_seed(seed)
    place = pick_device(device)
    precision = pick_precision("auto", place)
    network.to(place).train()
    of_encoder = {id(parameter) for parameter in encoder.parameters()}
    rates = (recipe.encoder_learning_rate, recipe.learning_rate)
    groups = [
        [p for p in network.parameters() if (id(p) in of_encoder) is inside] for inside in (True, False)
    ]
    optimiser = torch.optim.AdamW([{"params": group} for group in groups], weight_decay=recipe.weight_decay)
    loader = torch.utils.data.DataLoader(
        Crops(items, legend, recipe),
        batch_size=recipe.batch_size,
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
                rate = max(step - WARM_UP_STEPS, 0) * recipe.batch_size / (elapsed - (warm - start))
                return LoopResult(step, step * recipe.batch_size, elapsed, rate, precision)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - done) ** recipe.power
            with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = network(images.to(place))
            loss = functional.cross_entropy(logits.float(), target.to(place), ignore_index=IGNORE)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            if step == WARM_UP_STEPS:
                warm = time.perf_counter()


def open_peer(folder: Path, dataset: Dataset, device: str = "auto") -> TorchRuntime:
    """Return a trained peer, ready for the prediction that landcover's models go through.

    Args:
        folder: What :func:`main` wrote.
        dataset: Says the legend and the metres per pixel.
        device: As for ``landcover.model.runtimes.open_model``.
    """
    about = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))
    recipe = from_mapping(Recipe, about["recipe"], str(folder / RESULT_NAME))
    network = reference_network(len(dataset.legend.scored), None, recipe.encoder)
    network.load_state_dict(load_file(folder / WEIGHTS_NAME))
    card = ModelCard(
        model=ModelConfig(),
        legend=dataset.legend,
        preprocessing=Preprocessing(dataset.gsd or 1.0, tuple(MEAN.tolist()), tuple(STD.tolist())),
        window_px=512,
        overlap_px=128,
    )
    return TorchRuntime(network, card, device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on the part train of a split; write weights, and effort and recipe as JSON."""
    parser = argparse.ArgumentParser(prog="python -m landcover.benchmarks.reference", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder, of files")
    parser.add_argument("--split", required=True, help="split with the part train")
    parser.add_argument("--recipe", default="reference", help=f"{' or '.join(RECIPES)}, or a YAML file")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the recipe's encoder")
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--minutes", type=float, help="wall time to train for; or")
    limit.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args(arguments)
    with plain_errors():
        refuse_existing(options.out / RESULT_NAME, force=False)
        dataset, recipe = open_dataset(options.data), load_recipe(options.recipe)
        torch.manual_seed(options.seed)
        network = reference_network(len(dataset.legend.scored), options.weights, recipe.encoder)
        result = reference_loop(
            network,
            network.get_submodule("encoder"),
            split(dataset, options.split)["train"],
            dataset.legend,
            recipe=recipe,
            minutes=options.minutes,
            steps=options.steps,
            seed=options.seed,
            device=options.device,
        )
        with atomic_path(options.out / WEIGHTS_NAME, force=True) as temporary:
            save_file({name: value.contiguous() for name, value in network.state_dict().items()}, temporary)
        about = {**asdict(result), "split": options.split, "recipe": recipe.model_dump(mode="json")}
        write_text(options.out / RESULT_NAME, json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
