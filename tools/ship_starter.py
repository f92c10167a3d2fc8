"""Make the bundled model files from two finished runs of the preset ``starter``.

    python tools/ship_starter.py RUN HELD_OUT CACHE --work runs/ship

RUN was trained on all training tiles (split ``folders``), HELD_OUT by the same recipe without fold 0
(``scenes-k5@0``), and so were their teachers; CACHE is the prepared data. Copies of both get the temperature
that is fitted on fold 0 with HELD_OUT; RUN's card gets the scores, the terms and the origins of its encoder
and teachers; both are exported in float32 and INT8. All results are in the work folder, with
``report.json``, before the bundled files are replaced, which happens only if HELD_OUT scores higher on fold 0
than the model bundled before.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from landcover.data import open_dataset, select
from landcover.data import split as split_items
from landcover.data.fingerprints import image_set
from landcover.errors import DataError, LandcoverError, ModelError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.report import CalibrationReport
from landcover.evaluation.temperature import calibrate, calibrate_like
from landcover.exporting import ExportOptions, export
from landcover.io.files import write_text
from landcover.model.bundled import FOLDER, SHIPPED, TERMS
from landcover.model.card import ModelCard, model_digest, read_card, read_model, resolve_model, save_model

ENCODER = "mobilenetv2_100_imagenet.safetensors"
ORIGINS = {
    ENCODER: (
        "ImageNet, mobilenet_v2_1.0_224_quant.tflite of google-coral/test_data (Apache-2.0), dequantised"
    ),
    "efficientnet_b4_imagenet.safetensors": (
        "ImageNet, LJ-9801/effinet_cudnn (MIT; it does not say where the weights come from)"
    ),
}
"""Files of ImageNet weights that a bundled model, or a teacher of it, may start from."""
RUN_SPLIT, RUN_PART = "folders", "folders:validation"
HELD_OUT_SPLIT, HELD_OUT_PART = "scenes-k5@0", "scenes-k5@0:val"
HONEST = (
    "honest: held-out scenes; measured on a model made alike without them, whose temperature was fitted "
    "there (ece_cross_fitted: fitted on one half of the scenes, measured on the other)"
)
OPTIMISTIC = (
    "optimistic: 204 of these 215 tiles touch a training tile of the same scene; for comparison with "
    "published figures"
)

FULL = EvaluateOptions(calibration=True, boundaries=True)


def make(run: Path, held_out: Path, cache: Path, work: Path) -> dict[str, Any]:
    """Make calibrated, scored and exported copies of two runs in a folder.

    Args:
        run: Run folder of the model to ship.
        held_out: The run that was trained without fold 0.
        cache: The prepared data of both.
        work: Output folder: ``run`` and ``held-out``, each as ``.safetensors``, ``.onnx`` and ``-int8.onnx``.

    Returns:
        The full scores: ``held_out_before`` and ``held_out`` (before and after calibration), ``run``, and
        ``ece_cross_fitted``.

    Raises:
        UsageError: If a run is not the one expected.
        LandcoverError: If calibration, scoring or export fails.
    """
    model, alike = work / "run.safetensors", work / "held-out.safetensors"
    for source, split, copy in ((run, RUN_SPLIT, model), (held_out, HELD_OUT_SPLIT, alike)):
        check(source, cache, split)
        shutil.copy(resolve_model(source), copy)
    report = {
        "held_out_before": evaluate(
            cache, HELD_OUT_PART, model=alike, options=EvaluateOptions(calibration=True)
        ).to_dict(),
        "ece_cross_fitted": cross_fitted_errors(alike, cache, work),
    }
    stop_at_warnings(calibrate(alike, cache, HELD_OUT_PART))
    calibrate_like(model, alike)
    report["held_out"] = evaluate(cache, HELD_OUT_PART, model=alike, options=FULL).to_dict()
    report["run"] = evaluate(cache, RUN_PART, model=model, options=FULL).to_dict()
    card, tensors = read_model(model)
    save_model(model, tensors, shipped_card(card, report, alike), force=True)
    export_both(model, cache, RUN_SPLIT, RUN_PART)
    export_both(alike, cache, HELD_OUT_SPLIT, HELD_OUT_PART)
    return report


def export_both(model: Path, cache: Path, split: str, part: str) -> None:
    """Export a model beside itself, in float32 and INT8."""
    export(model, model.with_suffix(".onnx"), data=cache, split=part)
    export(
        model,
        model.with_name(f"{model.stem}-int8.onnx"),
        data=cache,
        split=part,
        options=ExportOptions(int8=True, calibration=f"{cache}:{split}:train"),
    )


def check(run: Path, cache: Path, split: str) -> None:
    """Refuse a run that does not match what its card will state."""
    card, dataset = read_card(run), open_dataset(cache)
    used = card.used_images
    allowed = image_set(dataset, next(iter(split_items(dataset, split).values())))
    teachers = list(_all_teachers(card.teachers))
    expected: dict[str, tuple[Any, Any]] = {
        "split": (card.provenance.get("split"), split),
        "initial model": (card.provenance.get("init"), None),
        "encoder's weights": (Path(card.recipe.get("weights") or "").name, ENCODER),
        "complete record of training images, teachers' included": (
            used.training is not None and used.training.complete,
            True,
        ),
        f"training images outside {split}, teachers' included": (
            0 if used.training is None else len(used.training.pixels - allowed.pixels),
            0,
        ),
        "images that weights or teachers were selected or calibrated on": (
            0 if used.selection is None else len(used.selection.pixels),
            0,
        ),
        "number of teachers, theirs included": (len(teachers), len(card.teachers)),
        "teachers of unknown origin": (
            [entry.get("encoder") for entry in teachers if entry.get("encoder_weights") not in ORIGINS],
            [],
        ),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise UsageError(f"{run}: found {found!r} as {name}, expected {wanted!r}.")


def _all_teachers(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield entry
        yield from _all_teachers(entry.get("teachers") or ())


def cross_fitted_errors(model: Path, cache: Path, work: Path) -> list[float]:
    """Return the calibration error of each half of fold 0's scenes, at the temperature of the other half.

    The model is not calibrated, before or after.
    """
    dataset = open_dataset(cache)
    if dataset.scenes is None:
        raise DataError(f"{cache} has no table of scenes, which the halves are made of.")
    scene_of = {item.key: dataset.scenes[item.key].scene for item in select(dataset, HELD_OUT_PART)}
    half = {scene: "ab"[number % 2] for number, scene in enumerate(sorted(set(scene_of.values())))}
    halves = work / "halves.tsv"
    write_text(halves, "".join(f"{key}\t{half[scene]}\n" for key, scene in scene_of.items()))
    errors = []
    for fitted, measured in ("ab", "ba"):
        copy = Path(shutil.copy(model, work / f"fitted-on-{fitted}.safetensors"))
        stop_at_warnings(calibrate(copy, cache, f"{halves}:{fitted}"))
        scores = evaluate(
            cache, f"{halves}:{measured}", model=copy, options=EvaluateOptions(calibration=True)
        )
        if scores.calibration is None or scores.calibration.ece is None:
            raise DataError(f"{cache} {halves}:{measured} has no labelled pixel; expected masks.")
        errors.append(scores.calibration.ece)
    return errors


def stop_at_warnings(result: CalibrationReport) -> None:
    """Refuse a temperature that may have been fitted on training images."""
    if result.warnings:
        raise DataError(" ".join(result.warnings))


def shipped_card(card: ModelCard, report: dict[str, Any], held_out: Path) -> ModelCard:
    """Return a card with scores, terms and origin."""
    kept = ("metric", "split", "images", "miou", "miou_interval", "resampled", "iou", "pixel_accuracy")
    honest, optimistic = ({name: report[of][name] for name in kept} for of in ("held_out", "run"))
    honest |= {"ece_cross_fitted": report["ece_cross_fitted"], "note": HONEST}
    optimistic |= {"ece": report["run"]["calibration"]["ece"], "note": OPTIMISTIC}
    made_alike = {"sha256": model_digest(held_out), "step": read_card(held_out).provenance.get("step")}
    teachers = [
        teacher | {"encoder_weights": ORIGINS[teacher["encoder_weights"]]} for teacher in card.teachers
    ]
    return card.model_copy(
        update={
            "scores": (honest, optimistic),
            "licence": TERMS,
            # Local paths mean nothing to others.
            "recipe": card.recipe | {"weights": ENCODER, "teachers": []},
            "provenance": card.provenance
            | {"encoder_weights": ORIGINS[ENCODER], "teachers": teachers, "held_out": made_alike},
        }
    )


def ship(work: Path, folder: Path) -> None:
    """Replace the files of the package by those in the work folder.

    Raises:
        ModelError: If the model bundled before scores as high on the held-out scenes.
    """
    files = [model for model in SHIPPED if model.name.startswith("starter")]
    made = dict(zip(files, ("run-int8.onnx", "run.onnx", "run.safetensors"), strict=True))
    score = read_card(work / "run.safetensors").scores[0]["miou"]
    for model in made:
        before = folder / model.file
        had = read_card(before).scores[0]["miou"] if before.exists() else 0.0
        if had >= score:
            raise ModelError(
                f"{before} has {had:.4f} on held-out scenes, {work} {score:.4f}: nothing was replaced."
            )
    for model, name in made.items():
        shutil.copy(work / name, folder / model.file)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="output folder, new")
    options = parser.parse_args()
    try:
        options.work.mkdir(parents=True)
        report = make(options.run, options.held_out, options.cache, options.work)
        write_text(options.work / "report.json", json.dumps(report, indent=1) + "\n")
        ship(options.work, FOLDER)
    except (LandcoverError, OSError) as error:
        sys.exit(f"Error: {error}")
    for name in ("held_out", "run"):
        print(f"{report[name]['split']}: mIoU {100 * report[name]['miou']:.2f}")


if __name__ == "__main__":
    main()
