"""The Python API as a user's own code calls it; make lint checks its types, test_api.py runs it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

import landcover as lc


def map_in_memory(image: npt.NDArray[np.uint8], out: Path) -> float | None:
    """Map an array, save the map and return the hectares of forest."""
    model: lc.Model = lc.open_model("starter")
    result: lc.MapResult = model.predict(image, gsd=0.5, options=lc.PredictOptions(min_region="25m2"))
    confidence: npt.NDArray[np.float32] = result.probabilities.max(axis=0)
    assert confidence.shape == result.class_map.shape == result.shape
    result.save(out / "map.tif")
    hectares: dict[str, float | None] = {area.name: area.hectares for area in result.areas}
    return hectares["forest"]


def score(data: Path) -> lc.EvaluationReport:
    """Score the bundled model on a data folder."""
    model = lc.open_model("starter")
    options = lc.EvaluateOptions(min_region="25m2", calibration=True, boundaries=True)
    report = lc.evaluate(lc.open_dataset(data), split="all:all", model=model, options=options)
    forest: float | None = report.iou["forest"]
    truth_of_forest: int = int(report.confusion[lc.DEEPGLOBE.names.index("forest")].sum())
    assert forest is None or truth_of_forest >= 0
    if report.calibration is not None and report.calibration.ece is not None:
        assert 0 <= report.calibration.ece <= 1
    if report.boundaries is not None:
        assert report.boundaries.bins[0].name == "0 to 5 m"
    return report


def train(data: Path, out: Path) -> lc.Model:
    """Train a network and open it."""
    config: lc.TrainConfig = lc.load_preset("demo")
    run = lc.train(config, data=data, split="folders", out=out)
    return lc.open_model(run.folder)


def on_error(image: npt.NDArray[np.uint8]) -> str:
    """Return the text of an error."""
    try:
        lc.open_model("starter").predict(image)
    except lc.UsageError as error:
        return str(error)
    return ""
