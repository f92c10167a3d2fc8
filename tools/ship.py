"""Make the files of a bundled model from a finished run on the split ``folders``.

    python tools/ship.py NAME MODEL TILES FULL UNLABELLED --work runs/ship [--views N] [--parent FILE ...]

MODEL is a run or checkpoint that was trained on the folder ``train`` of TILES, the 512-pixel tiles of
DeepGlobe's training images. It and its teachers start from ImageNet weights of known origin, or from PARENTs
that do. It is scored once on the folder ``validation``, in one view. FULL has labelled full-size images at
0.5 m of scenes that no tile shows: the temperature is fitted there, and the files of the package are replaced
unless the INT8 file scores more than MAX_FALL lower there than the bundled one. INT8 is calibrated on
training tiles and on the images of UNLABELLED, at 0.5 m per pixel; it is compared with float32 on the
validation tiles and FULL.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landcover.data import open_dataset, select
from landcover.data.fingerprints import image_set
from landcover.errors import LandcoverError, ModelError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.report import EvaluationReport
from landcover.evaluation.temperature import calibrate
from landcover.exporting import ExportOptions, export
from landcover.io.files import write_text
from landcover.model.bundled import BY_NAME, FOLDER, SHIPPED, TERMS
from landcover.model.card import ModelCard, model_digest, read_card, read_model, resolve_model, save_model
from landcover.values import Views

ORIGINS = {
    "mobilenetv2_100_imagenet.safetensors": (
        "ImageNet, mobilenet_v2_1.0_224_quant.tflite of google-coral/test_data (Apache-2.0), dequantised"
    ),
    "efficientnet_b4_imagenet.safetensors": (
        "ImageNet, LJ-9801/effinet_cudnn (MIT; it does not say where the weights come from)"
    ),
}
"""Files of ImageNet weights that a bundled model, or a teacher of it, may start from."""
SPLIT, SCORED, EVERYTHING = "folders", "folders:validation", "all:all"
IN_DOMAIN = (
    "in-domain, optimistic: 204 of these 215 tiles touch a training tile of the same scene; for comparison "
    "with published figures"
)
HELD_OUT = (
    "held-out scenes at 0.5 m, on which the temperature was fitted (ece_cross_fitted: of each image, at the "
    "temperature of the others); miou_present: mean of the classes that occur"
)
MAX_MIOU_LOSS = 0.3
MAX_FALL = 0.005
"""Two images cannot tell smaller differences: see docs/reports/experiments.md."""
FULL_SCORES = EvaluateOptions(calibration=True)
ONE_VIEW = EvaluateOptions(views=1)


def make(
    model: Path,
    tiles: Path,
    full: Path,
    unlabelled: Path,
    work: Path,
    parents: Mapping[str, ModelCard],
    views: Views = 1,
) -> dict[str, Path]:
    """Make a calibrated and scored copy of a model, and its exported files, in a folder.

    Args:
        model: Run folder or checkpoint, not calibrated.
        tiles: Folder of the tiles, or their cache.
        full: Folder of labelled full-size images, with ``gsd: 0.5`` in its ``landcover.yaml``.
        unlabelled: Folder of other full-size images, as ``full``.
        work: Output folder.
        parents: Cards of the models that the model or its teachers were trained from, by their SHA-256.
        views: Views that prediction averages by default; the temperature is fitted for them.

    Returns:
        The files by the ends of their names: ``.safetensors``, ``.onnx`` and ``-int8.onnx``.

    Raises:
        UsageError: If the model is not of the split, or of unknown origin.
        LandcoverError: If calibration, scoring or export fails.
    """
    check(read_card(model), tiles, parents)
    completed = work / "model.safetensors"
    crossed = cross_fitted_errors(model, full, work, views)
    shutil.copy(resolve_model(model), completed)
    calibrate(completed, full, EVERYTHING, views=views)
    scores = {
        IN_DOMAIN: evaluate(tiles, SCORED, model=completed, options=ONE_VIEW),
        HELD_OUT: evaluate(full, EVERYTHING, model=completed, options=FULL_SCORES),
    }
    card, tensors = read_model(completed)
    save_model(completed, tensors, complete_card(card, scores, crossed, parents), force=True)
    files = {end: work / f"model{end}" for end in (".safetensors", ".onnx", "-int8.onnx")}
    export(completed, files[".onnx"], data=tiles, split=SCORED)
    options = ExportOptions(
        int8=True,
        calibration=[f"{tiles}:{SPLIT}:train", str(unlabelled)],
        compare=[str(full)],
        max_miou_loss=MAX_MIOU_LOSS,
    )
    export(completed, files["-int8.onnx"], data=tiles, split=SCORED, options=options)
    return files


def check(card: ModelCard, tiles: Path, parents: Mapping[str, ModelCard]) -> None:
    """Refuse a model that does not match what its card will state."""
    dataset, used = open_dataset(tiles), card.used_images
    allowed = image_set(dataset, select(dataset, f"{SPLIT}:train"))
    facts: dict[str, tuple[Any, Any]] = {
        "split": (card.provenance.get("split"), SPLIT),
        "complete record of training images": (bool(used.training and used.training.complete), True),
        "training images outside the split": (
            len(used.training.pixels - allowed.pixels) if used.training else None,
            0,
        ),
        "images it was selected on": (len(used.selection.pixels) if used.selection else 0, 0),
        "temperature": (card.temperature, 1.0),
    }
    for name, (found, expected) in facts.items():
        if found != expected:
            raise UsageError(f"The model's {name}: found {found!r}, expected {expected!r}.")
    origin(card, parents)


def origin(card: ModelCard, parents: Mapping[str, ModelCard]) -> str:
    """Return where the weights of a model's encoder come from; UsageError if that of a teacher is unknown."""
    for teacher in card.teachers:
        _teacher_origin(teacher, parents)
    if init := card.provenance.get("init"):
        if init not in parents:
            raise UsageError(f"The initial model {init} is not known. Pass its file as --parent.")
        return origin(parents[init], parents)
    return _known(card.provenance.get("encoder_weights") or Path(card.recipe.get("weights") or "").name)


def _teacher_origin(teacher: Mapping[str, Any], parents: Mapping[str, ModelCard]) -> str:
    parent = parents.get(teacher["sha256"])
    return _known(teacher["encoder_weights"]) if parent is None else origin(parent, parents)


def _known(weights: str | None) -> str:
    if weights in ORIGINS.values():
        return str(weights)
    if weights not in ORIGINS:
        raise UsageError(f"Found encoder weights {weights!r}, expected one of {', '.join(ORIGINS)}.")
    return ORIGINS[weights]


def cross_fitted_errors(model: Path, full: Path, work: Path, views: Views) -> dict[str, float]:
    """Return the calibration error of each image at the temperature of all others."""
    keys = [item.key for item in select(open_dataset(full), EVERYTHING)]
    errors = {}
    for key in keys:
        parts = work / f"{key}.tsv"
        write_text(parts, "".join(f"{one}\t{'measured' if one == key else 'fitted'}\n" for one in keys))
        copy = Path(shutil.copy(resolve_model(model), work / f"without-{key}.safetensors"))
        calibrate(copy, full, f"{parts}:fitted", views=views)
        report = evaluate(full, f"{parts}:measured", model=copy, options=FULL_SCORES).calibration
        if report is None or report.ece is None:
            raise UsageError(f"{key} of {full} has no labelled pixel; expected a mask.")
        errors[key] = report.ece
    return errors


def complete_card(
    card: ModelCard,
    scores: Mapping[str, EvaluationReport],
    crossed: Mapping[str, float],
    parents: Mapping[str, ModelCard],
) -> ModelCard:
    """Return a card with scores, terms and origin, and without paths of the machine that trained it."""
    kept = ("metric", "split", "images", "views", "miou", "iou", "pixel_accuracy")
    extra = {
        IN_DOMAIN: ("miou_interval", "resampled"),
        HELD_OUT: ("miou_present",),  # an interval of two images means nothing
    }
    entries: list[dict[str, Any]] = [
        {key: report.to_dict()[key] for key in (*kept, *extra[note])} | {"note": note}
        for note, report in scores.items()
    ]
    entries[-1]["ece_cross_fitted"] = dict(crossed)
    teachers = [teacher | {"encoder_weights": _teacher_origin(teacher, parents)} for teacher in card.teachers]
    weights = origin(card, parents)
    file = next(name for name, text in ORIGINS.items() if text == weights)
    return card.model_copy(
        update={
            "scores": tuple(entries),
            "licence": TERMS,
            "recipe": card.recipe | {"weights": file, "teachers": []},
            "provenance": card.provenance | {"encoder_weights": weights, "teachers": teachers},
        }
    )


def ship(name: str, files: Mapping[str, Path], full: Path, folder: Path = FOLDER) -> None:
    """Replace the bundled files of a model.

    Raises:
        ModelError: If the INT8 file scores more than MAX_FALL lower on the full-size images than the
            bundled one.
    """
    score, had = (
        evaluate(full, EVERYTHING, model=path).miou_present or 0.0
        for path in (files["-int8.onnx"], folder / BY_NAME[name].file)
    )
    print(f"{full}, INT8, mean of the classes that occur: {100 * had:.2f} before, {100 * score:.2f} now")
    if score < had - MAX_FALL:
        raise ModelError(f"The bundled {name} scores higher on {full}: nothing was replaced.")
    for end, made in files.items():
        for model in SHIPPED:
            if model.file == f"{name}{end}":
                shutil.copy(made, folder / model.file)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=("starter", "best"))
    for argument in ("model", "tiles", "full", "unlabelled"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--work", type=Path, required=True, help="output folder, new")
    parser.add_argument("--views", type=int, choices=(1, 2, 3, 8), default=1, help="views of the model")
    parser.add_argument(
        "--parent", default=[], action="append", help="a model that MODEL or a teacher was trained from"
    )
    options = parser.parse_args()
    try:
        options.work.mkdir(parents=True)
        parents = {model_digest(path): read_card(path) for path in options.parent}
        inputs = options.model, options.tiles, options.full, options.unlabelled
        files = make(*inputs, options.work, parents, options.views)
        card = read_card(files["-int8.onnx"])
        print(json.dumps({"scores": card.scores, "int8": card.export["int8"]}, indent=1))
        ship(options.name, files, options.full)
    except (LandcoverError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
