"""Make the model files that come with the package of two finished runs of the preset ``starter``.

    python tools/ship_starter.py RUN HELD_OUT CACHE --out src/landcover/shipped --report runs/ship.json

RUN was trained on all training tiles (split ``folders``), HELD_OUT by the same recipe without fold 0
(``scenes-k5@0``); CACHE is the prepared data. The temperature is fitted on fold 0 by HELD_OUT, the card gets
its scores, its terms and where its encoder comes from, and the weights are exported in float32 and INT8.
Everything is scored once. The runs stay as they are.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from landcover.bundle import BEST_NAME, read_card, read_model, save_model
from landcover.data import open_dataset, select
from landcover.evaluation import evaluate
from landcover.evaluation.temperature import calibrate, calibrate_like
from landcover.exporting import export
from landcover.files import write_text
from landcover.shipped import SHIPPED, TERMS

HELD_OUT_PART = "scenes-k5@0:val"
COURSE_PART = "folders:validation"
RANGES_PART = "folders:train"
ENCODER_ORIGIN = (
    "ImageNet, mobilenet_v2_1.0_224_quant.tflite of google-coral/test_data (Apache-2.0), dequantised"
)
NOTES = {
    HELD_OUT_PART: "honest: held-out scenes; measured on a model made alike without them",
    COURSE_PART: "optimistic: 204 of these 215 tiles touch a training tile of the same scene; for comparison "
    "with published figures",
}


def ship(run: Path, held_out: Path, cache: Path, out: Path) -> dict[str, Any]:
    """Calibrate, score and export, replacing the files in ``out``.

    Returns:
        The full scores by part, and the calibration errors of the cross-fit.
    """
    int8, fp32, weights = (out / model.file for model in SHIPPED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, alike = (
            Path(shutil.copy(of / BEST_NAME, folder / f"{of.name}-{BEST_NAME}")) for of in (run, held_out)
        )
        crossed = cross_fitted_errors(alike, cache, folder)
        calibrate(alike, cache, HELD_OUT_PART, force=True)
        calibrate_like(model, alike, force=True)
        reports = {
            part: evaluate(cache, part, model=of, calibration=True, borders=True)
            for of, part in ((alike, HELD_OUT_PART), (model, COURSE_PART))
        }
        card, tensors = read_model(model)
        began_from = card.recipe["weights"]
        card = card.model_copy(
            update={
                "scores": tuple(score_row(report) for report in reports.values()),
                "licence": TERMS,
                "recipe": card.recipe | {"weights": began_from and Path(began_from).name},
                "provenance": card.provenance | {"encoder_weights": ENCODER_ORIGIN, "teachers": "none"},
            }
        )
        card.scores[0]["ece_cross_fitted"] = crossed
        save_model(weights, tensors, card, force=True)
        export(weights, fp32, data=cache, split=COURSE_PART, force=True)
        ranges = f"{cache}:{RANGES_PART}"
        export(weights, int8, int8=True, calibration=ranges, data=cache, split=COURSE_PART, force=True)
    return {"scores": reports, "ece_cross_fitted": crossed, "export": read_card(int8).export}


def cross_fitted_errors(model: Path, cache: Path, folder: Path) -> list[float]:
    """Return the calibration error of each half of fold 0's scenes, at the temperature of the other half."""
    dataset = open_dataset(cache)
    if dataset.scenes is None:
        raise SystemExit(f"{cache} has no table of scenes, which the halves are made of.")
    items = select(dataset, HELD_OUT_PART)
    scenes = sorted({dataset.scenes[item.key].scene for item in items})
    half = {scene: "ab"[number % 2] for number, scene in enumerate(scenes)}
    halves = folder / "halves.tsv"
    write_text(halves, "".join(f"{item.key}\t{half[dataset.scenes[item.key].scene]}\n" for item in items))
    errors = []
    for fitted, measured in ("ab", "ba"):
        calibrate(model, cache, f"{halves}:{fitted}", force=True)
        report = evaluate(cache, f"{halves}:{measured}", model=model, calibration=True)
        errors.append(report["calibration"]["ece"])
    return errors


def score_row(report: dict[str, Any]) -> dict[str, Any]:
    """Return what the card keeps of a report."""
    kept = ("metric", "split", "images", "miou", "miou_interval", "resampled", "iou", "pixel_accuracy")
    return {
        **{name: report[name] for name in kept},
        "ece": report["calibration"]["ece"],
        "note": NOTES[report["split"]],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model files")
    parser.add_argument("--report", type=Path, required=True, help="where all figures are written, JSON")
    options = parser.parse_args()
    figures = ship(options.run, options.held_out, options.cache, options.out)
    write_text(options.report, json.dumps(figures, indent=1) + "\n", force=True)
    for part, scores in figures["scores"].items():
        print(f"{part}: mIoU {100 * scores['miou']:.2f}")
