"""A small world of files for the tests of the report: a run, image pairs, maps and their evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from landcover.legend import DEEPGLOBE

NAMES = list(DEEPGLOBE.names)
SCORED = NAMES[:6]
UInt8Array = npt.NDArray[np.uint8]


def write_run(folder: Path, *, steps: int = 40, every: int = 10, ended: bool = True) -> Path:
    """Write a run folder whose loss falls and whose IoUs rise."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "data: tiles\nsplit: scenes-k5@0\nmodel:\n  encoder: mobilenetv2_100\n"
    )
    random = np.random.default_rng(0)
    events: list[dict[str, Any]] = [
        {"event": "start", "config": {}, "train_images": 20, "validation_images": 5}
    ]
    for step in range(1, steps + 1):
        seconds = 2.5 * step
        loss = 0.4 + np.exp(-4 * step / steps) + 0.05 * random.standard_normal()
        lr = 1e-3 * (1 - step / (steps + 1)) ** 0.9
        events.append(
            {"event": "step", "step": step, "images": 12 * step, "loss": loss, "lr": lr}
            | {"seconds": seconds, "images_per_second": 4.8}
        )
        if step % every == 0:
            events.append(validation(step, seconds, 0.6 * (1 - np.exp(-4 * step / steps))))
    if ended:
        events.append(
            {"event": "end", "reason": "max_steps", "step": steps, "seconds": 2.5 * steps}
            | {"best_step": steps, "best_miou": 0.5}
        )
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def validation(step: int, seconds: float, miou: float) -> dict[str, Any]:
    spread = np.linspace(0.2, -0.3, len(SCORED))
    iou = {name: float(np.clip(miou + d, 0, 1)) for name, d in zip(SCORED, spread, strict=True)}
    return {"event": "validation", "step": step, "seconds": seconds, "loss": 1.1 - miou} | {
        "miou": float(np.mean(list(iou.values()))),
        "iou": iou,
        "pixel_accuracy": miou + 0.1,
    }


def write_world(root: Path, *, images: int = 6, size: int = 64, **changes: Any) -> Path:
    """Write image pairs, maps of them with more and more wrong pixels, and the evaluation of the maps."""
    random = np.random.default_rng(1)
    data, maps = root / "data", root / "maps"
    counts = np.zeros((7, 7), np.int64)
    rows = []
    for number in range(images):
        truth = _regions(random, size)
        prediction = truth.copy()
        wrong = random.random((size // 8, size // 8)).repeat(8, 0).repeat(8, 1) < 0.1 * number
        prediction[wrong] = (truth[wrong] + 1) % 6
        np.add.at(counts, (truth.ravel(), prediction.ravel()), 1)
        key = f"val/{number:04d}"
        noise = random.normal(0, 14, (size, size, 1))
        photo = np.clip(_GROUND[truth] + noise, 0, 255).astype(np.uint8)
        save(data / f"{key}_sat.jpg", photo)
        save(data / f"{key}_mask.png", DEEPGLOBE.colours[truth])
        save(maps / f"{key}_mask.png", DEEPGLOBE.colours[prediction])
        rows.append({"key": key, "miou": float(1 - 0.12 * number), "pixel_accuracy": float((~wrong).mean())})
    right = counts.diagonal()[:6]
    union = counts[:6].sum(1) + counts[:6, :6].sum(0) - right
    iou = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    result = {
        "metric": "challenge",
        "split": "scenes-k5@0:val",
        "model": "runs/starter",
        "gsd": 0.5,
        "images": images,
        "pixels": images * size * size,
        "miou": float(np.mean([value for value in iou if value is not None])),
        "iou": dict(zip(SCORED, iou, strict=True)),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum()),
        "confusion": counts.tolist(),
        "classes": NAMES,
        "per_image": rows,
        "data": str(data),
        "predictions": str(maps),
    }
    path = root / "evaluation.json"
    path.write_text(json.dumps(result | changes))
    return path


_GROUND = np.array(
    [
        [150, 140, 135],
        [140, 130, 90],
        [120, 125, 85],
        [55, 75, 50],
        [45, 65, 80],
        [175, 155, 130],
        [235, 235, 240],
    ],
    np.float64,
)


def _regions(random: np.random.Generator, size: int) -> UInt8Array:
    """Give every pixel the class of the nearest of a few random points (a Voronoi map); unknown is rare."""
    points = random.integers(0, size, (14, 2))
    classes = np.append(random.integers(0, 6, 13), 6)
    rows, cols = np.mgrid[:size, :size]
    distance = (rows[..., None] - points[:, 0]) ** 2 + (cols[..., None] - points[:, 1]) ** 2
    return classes[distance.argmin(-1)].astype(np.uint8)


def save(path: Path, pixels: UInt8Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
