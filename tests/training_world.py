"""Tiny data, tiny networks, and runs in processes of their own that can be killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from landcover.config import from_mapping, with_overrides
from landcover.legend import DEEPGLOBE
from landcover.model.files import read_tensors
from landcover.training import TrainConfig, train

TINY: Mapping[str, Any] = {
    "model": {
        "encoder": "test_efficientnet",
        "output_stride": 32,
        "aspp_channels": 8,
        "decoder_channels": 8,
        "low_level_channels": 8,
        "dropout": 0.5,
    },
    "crop_px": 32,
    "batch_size": 2,
    "steps": 6,
    "loss": {"stride": 4},
    "augment": {"scale": [0.8, 1.25], "brightness": 0.2, "saturation": 0.2},
    "class_balance": 0.5,
    "ema_decay": 0.9,
    "device": "cpu",
    "threads": 1,
    "log_every": 2,
    "validation": {"every_steps": 4},
}

# A server that has imported everything once, and forks. `landcover.training` alone would not load torch.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["landcover.training.session", "torch.utils.tensorboard", "pytest"])


def tiny(*assignments: str) -> TrainConfig:
    """Return a configuration that trains in a moment, with single settings replaced."""
    return with_overrides(from_mapping(TrainConfig, TINY, "tiny"), assignments)


def write_pairs(root: Path, *, train_images: int = 4, validation_images: int = 2, size: int = 48) -> Path:
    """Write images whose colours depend on the class, and their masks, with a GSD of 1 m."""
    for part, count in (("train", train_images), ("validation", validation_images)):
        for i in range(count):
            rng = np.random.default_rng((len(part), i))
            index = np.kron(rng.integers(0, 7, (size // 8, size // 8)), np.ones((8, 8))).astype(np.uint8)
            write_pair(root / part, f"{i:04}", DEEPGLOBE.colours[index] // 2 + 50, index)
    (root / "landcover.yaml").write_text("gsd: 1.0\n")
    return root


def write_pair(folder: Path, name: str, image: np.ndarray, index: np.ndarray | None) -> None:
    """Write ``NAME_sat.jpg`` and, with class indices, ``NAME_mask.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(folder / f"{name}_sat.jpg", quality=95)
    if index is not None:
        Image.fromarray(DEEPGLOBE.colours[index]).save(folder / f"{name}_mask.png")


def assert_same_tensors(one: Path, two: Path) -> None:
    """Compare two safetensors files, bit for bit."""
    first, second = read_tensors(one), read_tensors(two)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def run_apart(target: Callable[..., None], *arguments: Any) -> int | None:
    """Call a function in a process of its own and return its exit code, negative for a signal."""
    process = _SERVER.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def train_apart(config: TrainConfig, data: Path, out: Path, moment: str = "", count: int = 0) -> int | None:
    """Train in a process of its own; kill it at the ``count``-th arrival at ``moment``."""
    return run_apart(_train, config.model_dump(mode="json"), data, out, moment, count)


def _train(config: dict[str, Any], data: Path, out: Path, moment: str, count: int) -> None:
    if moment:
        _die_at(moment, count)
    train(from_mapping(TrainConfig, config, "test"), data=data, out=out)


def _die_at(moment: str, count: int) -> None:
    """Make the process kill itself when a function is entered for the ``count``-th time."""
    from landcover.training import loop, optim, runs

    owner, name = {
        "between step and average": (optim.WeightAverage, "update"),
        "between last and best": (loop, "save_model"),
        "before a checkpoint": (runs.TrainingState, "save"),
    }[moment]
    original, calls = getattr(owner, name), iter(range(1, 10**9))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, counted)
