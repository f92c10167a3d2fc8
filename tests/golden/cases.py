"""What the golden files cover: inputs made from fixed seeds, commands, and what is compared of their outputs.

Only the command line is called, and outputs are read by other libraries, so that the same file runs with
any version of the package. The model computes in whole numbers (see ``make.py``), so that its answers are the
same on every processor.
"""

import contextlib
import hashlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp

HERE = Path(__file__).parent
MODEL = HERE / "model.onnx"
COLOURS = np.array([[0, 255, 255], [255, 255, 0], [255, 0, 255], [0, 255, 0], [0, 0, 255], [255, 255, 255]])
UTM = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)}
ROTATED = {"crs": "EPSG:32633", "transform": Affine(0.4, 0.3, 400_000, 0.3, -0.4, 5_000_000)}

Measures = dict[str, Any]


def _smooth(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Random values at every ``cell`` pixels, interpolated bilinearly: float64 (height, width)."""
    grid = rng.random((height // cell + 2, width // cell + 2))
    (row, down), (col, right) = np.divmod(np.arange(height) / cell, 1), np.divmod(np.arange(width) / cell, 1)
    row, col, down = row.astype(int), col.astype(int), down[:, None]
    upper = grid[row][:, col] * (1 - right) + grid[row][:, col + 1] * right
    lower = grid[row + 1][:, col] * (1 - right) + grid[row + 1][:, col + 1] * right
    return upper * (1 - down) + lower * down


def landscape(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (height, width, 3) and true classes uint8 (height, width) of a procedural place."""
    rng = np.random.default_rng(seed)
    truth = np.stack([_smooth(rng, height, width, 24) for _ in range(6)]).argmax(0).astype(np.uint8)
    image = 60 + COLOURS[truth] * 0.5 + 40 * _smooth(rng, height, width, 5)[..., None]
    image = image + rng.integers(-25, 26, image.shape)
    truth[_smooth(rng, height, width, 16) > 0.9] = 6
    return np.clip(image, 0, 255).astype(np.uint8), truth


def _raster(path: Path, bands: np.ndarray, **profile: Any) -> None:
    colours = profile.pop("colours", None)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **profile
    ) as out:
        out.write(bands)
        if colours is not None:
            out.colorinterp = colours


def make_inputs(folder: Path) -> None:
    """Write every input file."""
    image, _ = landscape(150, 210, 1)
    Image.fromarray(image).save(folder / "plain.png")
    Image.fromarray(landscape(140, 180, 2)[0]).save(folder / "photo.jpg", quality=90)
    scene = np.moveaxis(landscape(300, 420, 3)[0], -1, 0).copy()
    scene[:, :, :37] = 0
    scene[:, 260:, 300:] = 0
    _raster(folder / "scene.tif", np.where(scene == 0, 0, np.maximum(scene, 1)), nodata=0, **UTM)
    rgb = np.moveaxis(landscape(160, 200, 4)[0], -1, 0)
    four = np.concatenate([rgb[::-1], 255 - rgb[:1]])
    order = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
    _raster(folder / "four.tif", four, colours=order, photometric="RGB", alpha="NO", **UTM)
    deep = np.moveaxis(landscape(170, 190, 5)[0], -1, 0).astype(np.uint16) * 11
    _raster(folder / "deep.tif", deep, **UTM)
    _raster(folder / "rotated.tif", np.moveaxis(landscape(120, 150, 6)[0], -1, 0), **ROTATED)
    wide = np.moveaxis(landscape(520, 700, 7)[0], -1, 0)
    _raster(folder / "wide.tif", wide, tiled=True, blockxsize=64, blockysize=64, compress="deflate", **UTM)

    left, top = UTM["transform"].c, UTM["transform"].f
    zones = {
        "north": [(20, 10), (200, 5), (180, 120), (30, 90)],
        "south": [(100, 150), (330, 140), (350, 250), (120, 280)],
    }
    features = [
        {
            "type": "Feature",
            "properties": {"name": name},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[left + x / 2, top - y / 2] for x, y in [*ring, ring[0]]]],
            },
        }
        for name, ring in zones.items()
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    collection = {"type": "FeatureCollection", "crs": crs, "features": features}
    (folder / "zones.geojson").write_text(json.dumps(collection))

    data, predictions = folder / "data" / "land-train", folder / "predictions" / "land-train"
    data.mkdir(parents=True)
    predictions.mkdir(parents=True)
    for number in range(6):
        image, truth = landscape(96, 128, 20 + number)
        Image.fromarray(image).save(data / f"{number}_sat.png")
        Image.fromarray(np.vstack([COLOURS, [[0, 0, 0]]])[truth].astype(np.uint8)).save(
            data / f"{number}_mask.png"
        )
        wrong = np.where(np.random.default_rng(number).random(truth.shape) < 0.1, 2, np.roll(truth, 3, 1))
        Image.fromarray(wrong.astype(np.uint8)).save(predictions / f"{number}_mask.png")
    _, truth = landscape(300, 420, 3)
    _raster(folder / "truth.tif", truth[None], nodata=255, **UTM)
    rng = np.random.default_rng(8)
    rows, cols = rng.integers(0, 300, 240), rng.integers(40, 420, 240)
    names = np.array(["urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown"])
    lines = [
        f"{left + (col + 0.5) / 2},{top - (row + 0.5) / 2},{names[truth[row, col]]}"
        for row, col in zip(rows, cols, strict=True)
    ]
    (folder / "points.csv").write_text("\n".join(["x,y,class", *lines]) + "\n")


def run(*arguments: str | Path) -> None:
    """Run the command line in this process; fail with its output unless it ends with status 0."""
    from landcover.cli import main

    argv, output, status = sys.argv, io.TextIOWrapper(io.BytesIO(), "utf-8"), 0
    sys.argv = ["landcover", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
    if status:
        output.seek(0)
        raise AssertionError(
            f"landcover {' '.join(map(str, arguments))} ended with {status}:\n{output.read()}"
        )


def _image_measures(path: Path) -> Measures:
    """Pixels of a map, and of a GeoTIFF its place, nodata value and colours."""
    if path.suffix == ".png":
        picture = Image.open(path)
        colours = picture.getpalette()
        palette = {} if colours is None else {"palette": (colours + [0] * 18)[:18]}
        return {"pixels": np.asarray(picture), **palette}
    with rasterio.open(path) as raster:
        measures = {
            "pixels": raster.read(),
            "crs": None if raster.crs is None else raster.crs.to_epsg(),
            "transform": list(raster.transform)[:6],
            "nodata": raster.nodata,
        }
        with contextlib.suppress(ValueError):
            measures["palette"] = [value for i in range(6) for value in raster.colormap(1)[i][:3]]
    return measures


def _vector_measures(path: Path, column: str = "class") -> Measures:
    """Number of features, area and a digest of the geometries of each class."""
    import pyogrio
    import shapely

    meta, _, raw, fields = pyogrio.raw.read(path)
    classes = dict(zip(meta["fields"], fields, strict=True))[column]
    shapes = shapely.normalize(shapely.set_precision(shapely.from_wkb(raw), 1e-7, mode="pointwise"))
    measures = {}
    for name in sorted(set(classes)):
        own = shapes[classes == name]
        texts = sorted(shapely.to_wkt(own, rounding_precision=7))
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
        measures[name] = {"features": len(own), "area": float(shapely.area(own).sum()), "geometries": digest}
    return measures


def _class_areas(rows: list[dict[str, Any]]) -> Measures:
    return {row["name"]: [row["pixels"], row["share"], row["hectares"]] for row in rows}


def _area_measures(path: Path) -> Measures:
    """Counts and areas in the report of ``predict``."""
    report = json.loads(path.read_text())
    maps = {
        Path(one["map"]).name: {
            "size": [one["height"], one["width"]],
            "gsd": one["gsd"],
            "nodata_pixels": one["nodata_pixels"],
            "classes": _class_areas(one["classes"]),
            "zones": {name: _class_areas(rows) for name, rows in one["zones"].items()},
            "ood_share": (one.get("ood") or one.get("unlike") or {}).get("share"),
        }
        for one in report["maps"]
    }
    return {"classes": _class_areas(report["classes"]), "maps": maps}


def _score_measures(path: Path) -> Measures:
    """Scores in the report of ``evaluate`` on a data set."""
    report = json.loads(path.read_text())
    names = ("images", "pixels", "miou", "iou", "pixel_accuracy", "confusion", "missed", "miou_interval")
    measures = {name: report[name] for name in names}
    measures["per_image"] = [[row["key"], row["miou"], row["pixel_accuracy"]] for row in report["per_image"]]
    if report["min_region"]:
        measures["cleaned"] = [report["min_region"][name] for name in ("min_pixels", "miou", "confusion")]
    if boundaries := report.get("boundaries") or report.get("borders"):
        rows = boundaries.get("bins") or boundaries["bands"]
        columns = ("from_m", "to_m", "pixels", "share", "miou", "pixel_accuracy")
        measures["boundaries"] = [[row[column] for column in columns] for row in rows]
    if calibration := report["calibration"]:
        measures["calibration"] = {
            name: calibration[name] for name in ("confidence", "accuracy", "ece", "nll")
        }
        measures["calibration_by_class"] = {
            name: row and [row[column] for column in ("share", "confidence", "accuracy", "ece")]
            for name, row in calibration["per_class"].items()
        }
    return measures


def _assessment_measures(path: Path) -> Measures:
    """Scores and estimates in the report of ``evaluate --map``."""
    report = json.loads(path.read_text())
    names = ("units", "off_map", "unknown", "confusion", "miou", "iou", "users", "producers", "mapped")
    estimates = {name: report["estimates"][name] for name in ("overall", "users", "producers", "hectares")}
    return {name: report[name] for name in names} | {"estimates": estimates}


def _outputs(folder: Path) -> Measures:
    """Measure every map and vector file that ``predict`` or ``clean`` wrote."""
    readers: dict[str, Callable[[Path], Measures]] = {
        ".png": _image_measures,
        ".tif": _image_measures,
        ".gpkg": _vector_measures,
        ".geojson": _vector_measures,
        ".json": _area_measures,
    }
    return {
        path.relative_to(folder).as_posix(): readers[path.suffix](path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in readers
    }


PREDICTIONS: dict[str, tuple[str, ...]] = {
    "plain": ("plain.png", "--gsd", "0.5"),
    "rgb-mask": ("plain.png", "--gsd", "1", "--mask-format", "rgb"),
    "jpeg": ("photo.jpg", "--gsd", "1", "--min-region", "150px"),
    "nodata": ("scene.tif", "--vector", "gpkg"),
    "four-bands": ("four.tif", "--bands", "3,2,1"),
    "scaling": ("deep.tif", "--scaling", "0,3000"),
    "percentile": ("deep.tif", "--scaling", "percentile", "--map-format", "cog"),
    "rotated": ("rotated.tif", "--min-region", "40m2"),
    "bbox": ("scene.tif", "--bbox", "400030,4999900,400131,4999971"),
    "aoi": ("scene.tif", "--aoi", "zones.geojson", "--zones", "zones.geojson", "--zone-column", "name"),
    "windows": ("wide.tif", "--window", "48", "--overlap", "12", "--batch", "3"),
    "whole": ("wide.tif", "--window", "0", "--map-format", "png", "--mask-format", "index"),
    "tta": ("photo.jpg", "--gsd", "0.8", "--views", "8"),
    "probabilities": ("scene.tif", "--probabilities", "--confidence", "--min-region", "60m2"),
}
"""Cases of ``predict``: arguments; words that name an input file stand for its path."""


def measure(folder: Path) -> Iterator[tuple[str, Measures]]:
    """Run every case in an empty folder and yield its name and what is compared."""
    given, out = folder / "inputs", folder / "outputs"
    given.mkdir(parents=True)
    make_inputs(given)
    files = {path.name for path in given.iterdir()}
    for name, words in PREDICTIONS.items():
        arguments = [given / word if word in files else word for word in words]
        report = out / name / "report.json"
        report.parent.mkdir(parents=True)
        run("predict", *arguments, "--model", MODEL, "--out", out / name, "--json", report)
        yield f"predict {name}", _outputs(out / name)

    run("clean", out / "plain" / "plain_mask.png", "--out", out / "clean", "--min-region", "300px")
    yield "clean", _outputs(out / "clean")
    scene = out / "nodata" / "scene_mask.tif"
    run("vectorize", scene, "--out", out / "v.gpkg", "--min-region", "100m2")
    yield "vectorize", _vector_measures(out / "v.gpkg")
    run("vectorize", scene, "--out", out / "v.geojson", "--simplify", "2px", "--min-region", "100px")
    yield "vectorize simplified", _vector_measures(out / "v.geojson")

    data = ("evaluate", "--data", given / "data", "--split", "all:all", "--gsd", "1", "--json")
    run(*data, out / "m.json", "--predictions", given / "predictions", "--borders", "--min-region", "30px")
    yield "evaluate predictions", _score_measures(out / "m.json")
    run(*data, out / "n.json", "--predictions", given / "predictions", "--metric", "seven-class")
    yield "evaluate seven-class", _score_measures(out / "n.json")
    run(*data, out / "o.json", "--model", MODEL, "--calibration", "--borders", "--maps", out / "maps")
    yield "evaluate model", _score_measures(out / "o.json") | _outputs(out / "maps")
    for name in ("truth.tif", "points.csv", "zones.geojson"):
        column = ("--truth-crs", "EPSG:32633") if name == "points.csv" else ()
        if name == "zones.geojson":
            text = (given / name).read_text().replace('"north"', '"forest"').replace('"south"', '"water"')
            (given / name).write_text(text)
            column = ("--column", "name")
        run("evaluate", "--map", scene, "--truth", given / name, *column, "--json", out / f"{name}.json")
        yield f"assess {name}", _assessment_measures(out / f"{name}.json")
    run("sample", scene, "--out", out / "points.gpkg", "--per-class", "12", "--total", "100", "--seed", "3")
    yield "sample", _vector_measures(out / "points.gpkg", "class_map")


def _split(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return ``value`` with every array moved to ``arrays`` under its path."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if isinstance(value, dict):
        return {key: _split(inner, f"{path}/{key}", arrays) for key, inner in value.items()}
    return value


def save(measures: Measures) -> None:
    """Write arrays to ``expected.npz`` and all else to ``expected.json``."""
    arrays: dict[str, np.ndarray] = {}
    plain = _split(measures, "", arrays)
    (HERE / "expected.json").write_text(json.dumps(plain, indent=1) + "\n")
    np.savez_compressed(HERE / "expected.npz", **{key.strip("/"): value for key, value in arrays.items()})


def load() -> Measures:
    """Return what :func:`save` was given."""
    arrays = np.load(HERE / "expected.npz")

    def join(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"array"}:
            return arrays[value["array"].strip("/")]
        return {key: join(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    result: Measures = join(json.loads((HERE / "expected.json").read_text()))
    return result


def differences(actual: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Compare nested measures: arrays and whole numbers exactly, other numbers to 1e-9.

    Calibration errors (ECE) to 5e-4: the bins of the histogram that sorts the pixels are others than in 0.1.
    """
    if isinstance(expected, np.ndarray):
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            yield f"{path}: {actual.dtype} {actual.shape}; expected {expected.dtype} {expected.shape}"
        elif count := np.count_nonzero(actual != expected):
            yield f"{path}: {count} of {expected.size} values differ"
    elif isinstance(expected, dict):
        if set(actual) != set(expected):
            yield f"{path}: only one side has {sorted(set(actual) ^ set(expected))}"
        for key in expected.keys() & actual.keys():
            yield from differences(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        if len(actual) != len(expected):
            yield f"{path}: {len(actual)} values; expected {len(expected)}"
        for number, (one, other) in enumerate(zip(actual, expected, strict=False)):
            yield from differences(one, other, f"{path}[{number}]")
    elif isinstance(expected, float) and isinstance(actual, float):
        is_ece = path.endswith("calibration/ece") or ("calibration_by_class" in path and path.endswith("[3]"))
        if not math.isclose(actual, expected, rel_tol=1e-9, abs_tol=5e-4 if is_ece else 1e-15):
            yield f"{path}: {actual!r}; expected {expected!r}"
    elif actual != expected:
        yield f"{path}: {actual!r}; expected {expected!r}"
