"""Make the bundled model ``best`` from a finished run of the preset ``best`` on the split ``folders``.

    python tools/ship_best.py MODEL TILES FULL UNLABELLED --work runs/ship-best [--start START]

MODEL is a run or checkpoint that was trained on the folder ``train`` of TILES, the 512-pixel tiles of
DeepGlobe's training images, from ImageNet weights or from START, a model that was made so. It is scored once
on the folder ``validation``. INT8 is calibrated on training tiles and on the images of UNLABELLED, at 0.5 m
per pixel, and compared with float32 on the validation tiles and on the labelled images of FULL, at 0.5 m. The
temperature stays 1: there is no data that it could be fitted on without optimism. Only then is the file of
the package replaced.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from landcover.errors import LandcoverError, UsageError
from landcover.evaluation import evaluate
from landcover.exporting import Exported, ExportOptions, export
from landcover.model.bundled import BY_NAME, TERMS
from landcover.model.card import ModelCard, model_digest, read_card, read_model, save_model

ENCODER = "efficientnet_b4_imagenet.safetensors"
ENCODER_ORIGIN = "ImageNet, LJ-9801/effinet_cudnn (MIT; it does not say where the weights come from)"
SPLIT = "folders"
SCORED = "folders:validation"
NOTE = (
    "in-domain, optimistic: 204 of these 215 tiles touch a training tile of the same scene; for comparison "
    "with published figures. No held-out score: all folds were trained on. Temperature not fitted."
)
MAX_MIOU_LOSS = 0.3


def make(model: Path, tiles: Path, full: Path, unlabelled: Path, work: Path, start: Path | None) -> Exported:
    """Score a model, complete its card and export it as INT8 into a folder.

    Args:
        model: Run folder or checkpoint.
        tiles: Folder of the tiles.
        full: Folder of the labelled full-size images, with ``gsd: 0.5`` in its ``landcover.yaml``.
        unlabelled: Folder of other full-size images, as ``full``.
        work: Output folder.
        start: The model that ``model`` was fine-tuned from (``train --init``), itself made from ImageNet
            weights.

    Raises:
        UsageError: If the model has another split, encoder file or temperature than its card would state.
        LandcoverError: If scoring or export fails.
    """
    card, tensors = read_model(model)
    first = read_card(start) if start else card
    training = card.used_images.training
    expected = {
        "split": (card.provenance.get("split"), SPLIT),
        "initial model": (card.provenance.get("init"), model_digest(start) if start else None),
        "first split": (first.provenance.get("split"), SPLIT),
        "first model": (first.provenance.get("init"), None),
        "encoder weights": (Path(first.recipe.get("weights") or "").name, ENCODER),
        "complete record of training images": (training is not None and training.complete, True),
        "temperature": (card.temperature, 1.0),
    }
    for name, (actual, wanted) in expected.items():
        if actual != wanted:
            raise UsageError(f"{model}: {name} is {actual!r}, expected {wanted!r}.")
    completed = work / "best.safetensors"
    save_model(completed, tensors, complete_card(card, evaluate(tiles, SCORED, model=model).to_dict()))
    return export(
        completed,
        work / "best-int8.onnx",
        data=tiles,
        split=SCORED,
        options=ExportOptions(
            int8=True,
            calibration=[f"{tiles}:{SPLIT}:train", str(unlabelled)],
            compare=[str(full)],
            max_miou_loss=MAX_MIOU_LOSS,
        ),
    )


def complete_card(card: ModelCard, report: dict[str, Any]) -> ModelCard:
    """Return a card with score, terms and origin, and without paths of the machine that trained it."""
    kept = ("metric", "split", "images", "miou", "miou_interval", "resampled", "iou", "pixel_accuracy")
    return card.model_copy(
        update={
            "scores": ({name: report[name] for name in kept} | {"note": NOTE},),
            "licence": TERMS,
            "recipe": card.recipe | {"weights": ENCODER},
            "provenance": card.provenance | {"encoder_weights": ENCODER_ORIGIN},
        }
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "tiles", "full", "unlabelled"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--work", type=Path, required=True, help="output folder, new")
    parser.add_argument("--start", type=Path, help="model that MODEL was fine-tuned from")
    options = parser.parse_args()
    try:
        options.work.mkdir(parents=True)
        exported = make(
            options.model, options.tiles, options.full, options.unlabelled, options.work, options.start
        )
    except (LandcoverError, OSError) as error:
        sys.exit(f"Error: {error}")
    shutil.copy(exported.path, BY_NAME["best"].path)
    score = exported.card.scores[0]
    print(f"{score['split']}: mIoU {100 * score['miou']:.2f}; {exported.card.export['int8']}")


if __name__ == "__main__":
    main()
