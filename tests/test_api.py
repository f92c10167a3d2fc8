"""The Python API: public names, typed results, models and maps as objects, and the examples of the docs."""

import ast
import doctest
import importlib.util
import inspect
import re
import textwrap
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

import api_example
import landcover as lc
from fake_runtime import ColourRuntime, make_card
from imagefiles import save_raster
from landcover.data.synthetic import make_dataset, make_scene
from landcover.inference import predict_index, predict_probabilities
from landcover.inference.model import Model
from landcover.io import index_to_colours, read_mask
from landcover.legend import DEEPGLOBE, NODATA
from landcover.model.runtimes import DEFAULT_CACHE
from landcover.raster import Georeference, write_class_raster

ROOT = Path(__file__).parents[1]
PUBLIC = {
    *("AssessmentReport", "ClassArea", "DEEPGLOBE", "Dataset", "EvaluateOptions", "EvaluationReport"),
    *("CalibrationReport", "ExportOptions"),
    *("LandClass", "Legend", "MapResult", "Model", "PredictOptions", "TrainConfig", "TruthOptions"),
    *("assess", "calibrate", "clean", "convert", "evaluate", "export", "load_legend", "load_preset"),
    *("open_dataset", "open_model", "predict", "prepare", "report", "sample", "train", "vectorize", "verify"),
    *("ConfigError", "DataError", "ImageError", "LandcoverError", "LandcoverWarning", "MaskError"),
    *("MissingExtraError", "ModelError", "OutputError", "SplitError", "TrainingError", "UsageError"),
}
PLACE = Affine(0.5, 0, 700_000, 0, -0.5, 1_500_000)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The bundled model, which many examples open, is compiled once: that takes a second."""
    token = DEFAULT_CACHE.set(tmp_path_factory.mktemp("compiled"))
    yield
    DEFAULT_CACHE.reset(token)


@pytest.fixture(scope="module")
def model():
    """A model that takes each pixel for the class of the nearest colour, at 0.5 m."""
    return Model(ColourRuntime(make_card(gsd=0.5)))


@pytest.fixture(scope="module")
def starter():
    return lc.open_model("starter")


def painted(height=60, width=80):
    """Return an image in the colours of the legend, and its class indices."""
    index = np.zeros((height, width), np.uint8)
    index[height // 3 :], index[:, width // 2 :] = 3, 4
    return index_to_colours(index, DEEPGLOBE), index


def write_tif(path, image, crs="EPSG:32647", **profile):
    return save_raster(path, image, **({"crs": crs, "transform": PLACE} if crs else {}), **profile)


def test_public_names():
    assert set(lc.__all__) == PUBLIC | {"__version__"}
    assert set(dir(lc)) == set(lc.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        lc.nonsense  # noqa: B018


def test_the_stub_names_the_same_objects():
    stub = ast.parse((ROOT / "src/landcover/__init__.pyi").read_text(encoding="utf-8"))
    imports = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(imports) == PUBLIC
    for name, source in imports.items():
        module, _, attribute = source.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(lc, name)


@pytest.mark.parametrize("owner", [Model, lc.MapResult, lc.open_model, lc.evaluate, lc.assess, lc.ClassArea])
def test_public_signatures_contain_no_any(owner):
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner)))):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            annotations = [node.returns, *(argument.annotation for argument in arguments)]
            assert "Any" not in re.split(r"\W", " ".join(ast.unparse(a) for a in annotations if a))


def test_a_model_describes_itself(starter):
    assert starter.classes == DEEPGLOBE.scored_names
    assert starter.gsd == starter.card.preprocessing.gsd == 2.39
    for expected in ("starter", "forest", "2.39 m"):
        assert expected in repr(starter)
        assert expected in starter._repr_html_()


def test_an_array_is_mapped_as_the_engine_does(model):
    image, index = painted()
    result = model.predict(image, gsd=0.5)
    assert np.array_equal(result.class_map, index)
    assert np.array_equal(result.class_map, predict_index(model.runtime, image, gsd=0.5))
    assert np.array_equal(result.probabilities, predict_probabilities(model.runtime, image, gsd=0.5))
    assert (result.class_map.dtype, result.probabilities.dtype) == (np.uint8, np.float32)
    assert result.shape == (60, 80)
    areas = {area.name: (area.pixels, area.hectares) for area in result.areas}
    assert areas["forest"] == (int((index == 3).sum()), pytest.approx((index == 3).sum() * 0.25 / 1e4))
    assert sum(area.share for area in result.areas) == pytest.approx(1)
    assert "forest 33.3 %" in repr(result)
    assert "data:image/png;base64," in result._repr_html_()


def test_what_a_user_of_a_map_should_know_is_a_warning(model, tmp_path):
    plain = write_tif(tmp_path / "b.tif", painted()[0], crs=None)
    with pytest.warns(lc.LandcoverWarning, match=r"b\.tif is not georeferenced") as caught:
        result = model.predict(plain, gsd=0.5)
    assert result.warnings == tuple(str(one.message) for one in caught)
    empty = write_tif(tmp_path / "c.tif", np.zeros((9, 9, 3), np.uint8), nodata=0)
    with pytest.warns(lc.LandcoverWarning, match=r"c\.tif: no imagery"):
        model.predict(empty)


def test_options_apply_to_arrays(model):
    image, index = painted()
    image[5, 5] = DEEPGLOBE.colours[3]
    assert model.predict(image, gsd=0.5).class_map[5, 5] == 3
    options = lc.PredictOptions(min_region="1m2", window_px=32, overlap_px=8, batch=2)
    assert np.array_equal(model.predict(image, gsd=0.5, options=options).class_map, index)


def test_the_scale_is_never_guessed(model, tmp_path):
    image, index = painted()
    picture, plain = tmp_path / "a.png", write_tif(tmp_path / "b.tif", image, crs=None)
    Image.fromarray(image).save(picture)
    for unknown in (image, picture, str(plain)):
        with pytest.raises((lc.UsageError, lc.ImageError), match=r"gsd"):
            model.predict(unknown)
        result = model.predict(unknown, gsd="model")
        assert np.array_equal(result.class_map, index)
        assert result.gsd == 0.5
        assert model.predict(unknown, gsd=0.25).gsd == 0.25


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (np.zeros((8, 8, 4), np.uint8), "4"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        ([[0]], "list"),
        (None, "NoneType"),
    ],
)
def test_other_images_are_refused(model, image, what):
    with pytest.raises(lc.UsageError, match=what):
        model.predict(image, gsd=0.5)


def test_options_that_do_not_apply_are_refused(model):
    image, _ = painted()
    for options in (lc.PredictOptions(probabilities=True), lc.PredictOptions(bands=(3, 2, 1))):
        with pytest.raises(lc.UsageError, match=r"probabilities|bands"):
            model.predict(image, gsd=0.5, options=options)


def test_a_file_keeps_its_place_and_its_nodata(model, tmp_path):
    image, index = painted()
    image[:10] = 7
    path = write_tif(tmp_path / "scene.tif", image, nodata=7)
    expected = index.copy()
    expected[:10] = NODATA
    result = model.predict(path)
    assert np.array_equal(result.class_map, expected)
    assert result.georeference is not None
    assert result.georeference.transform == PLACE
    assert result.gsd == pytest.approx(0.5, rel=1e-3)
    assert result.probabilities.shape == (6, 60, 80)
    assert not result.probabilities[:, :10].any()
    assert np.array_equal(result.probabilities[:, 20:].argmax(axis=0), index[20:])
    assert {area.name: area.pixels for area in result.areas}["water"] == (expected == 4).sum()


def test_a_result_is_saved(model, tmp_path):
    image, index = painted()
    results = {
        "array": model.predict(image, gsd=0.5),
        "file": model.predict(write_tif(tmp_path / "scene.tif", image)),
    }
    for name, result in results.items():
        with pytest.raises(lc.OutputError, match=r"\.jpg"):
            result.save(tmp_path / "map.jpg")
        saved = result.save(tmp_path / f"{name}.tif")
        with pytest.raises(lc.OutputError, match=f"{name}.* exists"):
            result.save(saved)
        result.save(saved, force=True)
        with rasterio.open(saved) as source:
            assert np.array_equal(source.read(1), index)
            assert source.nodata == NODATA
            assert "3=forest" in source.tags()["CLASS_NAMES"]
            assert source.tags()["LANDCOVER_MODEL_GSD"] == "0.5"
            assert source.crs == (CRS.from_epsg(32647) if name == "file" else None)
        assert np.array_equal(read_mask(result.save(tmp_path / f"{name}.png"), DEEPGLOBE).index, index)


def test_the_temporary_file_goes_with_the_result(model, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write_tif(tmp_path / "scene.tif", painted()[0])
    result = model.predict(path)
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    del result
    assert not list((tmp_path / "temporary").iterdir())
    (tmp_path / "broken.tif").write_bytes(path.read_bytes()[:300])
    with pytest.raises(lc.LandcoverError, match=r"broken\.tif"):
        model.predict(tmp_path / "broken.tif")
    assert not list((tmp_path / "temporary").iterdir())


def test_an_open_dataset_is_mapped_by_its_name(model, tmp_path):
    image, index = painted()
    path = write_tif(tmp_path / "scene.tif", image)
    with rasterio.open(path) as source:
        assert np.array_equal(model.predict(source).class_map, index)
    with MemoryFile(path.read_bytes()) as memory, memory.open() as source:
        result = model.predict(source)
        assert np.array_equal(result.class_map, index)
        assert result.georeference is not None
        assert result.probabilities.shape == (6, 60, 80)
    with rasterio.open(path) as source, WarpedVRT(source, crs="EPSG:32648") as view:
        result = model.predict(view)
        assert result.shape == view.shape
        assert result.georeference is not None
        assert result.georeference.crs == view.crs


def data_array(values, dims, coords=None):
    return pytest.importorskip("xarray").DataArray(values, dims=dims, coords=coords)


def georeferenced(height, width):
    return {
        "x": ("x", 700_000.25 + 0.5 * np.arange(width), {}),
        "y": ("y", 1_499_999.75 - 0.5 * np.arange(height), {}),
        "spatial_ref": ((), 0, {"crs_wkt": CRS.from_epsg(32647).to_wkt()}),
    }


@pytest.mark.parametrize("dims", [("band", "y", "x"), ("y", "x", "band"), ("x", "y", "band")])
def test_a_data_array_brings_its_scale_and_place(model, dims):
    image, index = painted()
    values = image.transpose([("y", "x", "band").index(name) for name in dims])
    result = model.predict(data_array(values, dims, georeferenced(60, 80)))
    assert np.array_equal(result.class_map, index)
    assert result.georeference is not None
    assert result.georeference.transform.almost_equals(PLACE)
    assert result.gsd == pytest.approx(0.5, rel=1e-3)
    with pytest.raises(lc.UsageError, match=r"gsd=0\.5"):
        model.predict(data_array(values, dims))
    assert np.array_equal(model.predict(data_array(values, dims), gsd=0.5).class_map, index)


def test_named_bands_are_taken_by_their_names(model):
    image, index = painted()
    values = np.moveaxis(np.dstack([image[..., ::-1], image[..., :1]]), 2, 0)

    def named(*names):
        coords = {"band": [*names], **georeferenced(60, 80)}
        return data_array(values, ("band", "y", "x"), coords)

    assert np.array_equal(model.predict(named("Blue", "green", "red", "nir")).class_map, index)
    for names in (("nir", "red", "green", "x"), ("red", "red", "green", "blue")):
        with pytest.raises(lc.UsageError, match="drop_vars"):
            model.predict(named(*names))
    numbered = named(1, 2, 3, 4).isel(band=[2, 1, 0])
    assert np.array_equal(model.predict(numbered).class_map, index)
    with pytest.raises(lc.UsageError, match="Dataset"):
        model.predict(numbered.to_dataset(name="scene"), gsd=0.5)


def test_masked_pixels_and_the_fill_value_are_nodata(model):
    image, index = painted()
    image[:20, :30] = 7
    hole = np.zeros(index.shape, bool)
    hole[:20, :30] = True
    one_band = np.zeros(image.shape, bool)
    one_band[40:, :, 1] = True  # a pixel is imagery where one of its bands is
    expected = np.where(hole, NODATA, model.predict(image, gsd=0.5).class_map)
    masked = np.ma.masked_array(image, one_band | hole[..., None])
    for result in (
        model.predict(masked, gsd=0.5),
        model.predict(data_array(image, ("y", "x", "band")).assign_attrs(_FillValue=np.array([7])), gsd=0.5),
    ):
        assert np.array_equal(result.class_map == NODATA, hole)
        assert (result.class_map == expected)[30:, 40:].all()
        assert sum(area.pixels for area in result.areas) == (~hole).sum()
    for fill in ([0, 1], "none"):
        with pytest.raises(lc.UsageError, match="_FillValue"):
            model.predict(data_array(image, ("y", "x", "band")).assign_attrs(_FillValue=fill), gsd=0.5)
    plain = np.ma.masked_array(image)
    assert np.array_equal(model.predict(plain, gsd=0.5).class_map, model.predict(image, gsd=0.5).class_map)


def test_data_arrays_that_are_refused(model):
    image, _ = painted()
    uneven, nowhere = georeferenced(60, 80), georeferenced(60, 80)
    uneven["x"][1][3] += 0.2
    nowhere["spatial_ref"][2]["crs_wkt"] = "nonsense"
    flat, swapped, geocentric = (georeferenced(60, 80) for _ in range(3))
    flat["x"][1][:] = 700_000
    swapped["y"] = ("y", 170 - 1e-5 * np.arange(60), {})
    swapped["x"] = ("x", 10 + 1e-5 * np.arange(80), {})
    swapped["spatial_ref"][2]["crs_wkt"] = CRS.from_epsg(4326).to_wkt()
    geocentric["spatial_ref"][2]["crs_wkt"] = CRS.from_epsg(4978).to_wkt()
    dims = ("y", "x", "band")
    for array, what in (
        (data_array(image.astype(np.uint16), dims), "uint16"),
        (data_array(image[..., :2], dims), "2 bands"),
        (data_array(image[..., 0], dims[:2]), "y, x"),
        (data_array(image, dims, uneven), "evenly"),
        (data_array(image, dims, nowhere), "CRS"),
        (data_array(image, dims, flat), "no area"),
        (data_array(image, dims, swapped), "latitudes reach 170"),
        (data_array(image, dims, geocentric), "geocentric"),
    ):
        with pytest.raises(lc.UsageError, match=what):
            model.predict(array, gsd=0.5)


def test_plot(model, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    image, _ = painted()
    ax = model.predict(image, gsd=0.5).plot()
    labels = [text.get_text().split()[0] for text in ax.get_legend().get_texts()]
    assert labels == ["urban", "forest", "water"]
    again = model.predict(write_tif(tmp_path / "scene.tif", image)).plot(ax)
    assert again is ax
    assert ax.get_images()[-1].get_extent() == [700_000, 700_040, 1_499_970, 1_500_000]


def test_geodataframe(model, tmp_path):
    pytest.importorskip("geopandas")
    image, index = painted()
    regions = model.predict(write_tif(tmp_path / "scene.tif", image)).to_geodataframe()
    assert regions.crs.to_epsg() == 32647
    assert dict(zip(regions["class"], regions.area, strict=True)) == {
        DEEPGLOBE.names[number]: (index == number).sum() * 0.25 for number in np.unique(index)
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    return make_dataset(folder, scenes=5, size=96, seed=3)


def test_the_example_runs(world, tmp_path):
    image = make_scene(7, 96, 96).image
    assert api_example.map_in_memory(image, tmp_path) is not None
    assert (tmp_path / "map.tif").is_file()
    assert "gsd" in api_example.on_error(image)
    report = api_example.score(world)
    assert report.images == 5
    assert report.model == "starter"
    assert report.model_sha256 is not None


def test_a_report_is_what_its_json_says(world, starter, tmp_path):
    options = lc.EvaluateOptions(
        min_region="25m2", calibration=True, boundaries=True, json=tmp_path / "r.json"
    )
    report = lc.evaluate(world, "all:all", model=starter, options=options)
    assert (tmp_path / "r.json").read_text() == report.to_json()
    again = lc.EvaluationReport.model_validate_json(report.to_json())
    assert again == report
    assert again.confusion.dtype == np.int64
    assert again.legend == DEEPGLOBE
    assert list(report.to_dict()) == [
        *("metric", "split", "model", "model_sha256", "gsd", "views", "images", "pixels", "miou"),
        *("iou", "pixel_accuracy", "miou_present", "class_measures", "kappa", "unscored"),
        *("miou_interval", "resampled", "classes", "confusion", "missed", "min_region"),
        *("calibration", "boundaries", "training_overlap", "per_image", "warnings", "legend"),
        *("prediction_legend", "data", "predictions"),
    ]
    for name, iou in report.iou.items():
        k = DEEPGLOBE.names.index(name)
        counts = report.confusion[:6]
        union = counts[k].sum() + counts[:, k].sum() - counts[k, k]
        assert iou == (pytest.approx(counts[k, k] / union) if union else None)
        assert f"{name} " in repr(report)
        assert name in report._repr_html_()
    assert "all:all" in str(report)


def test_reports_of_version_0_1_are_dictionaries(world, starter):
    with pytest.warns(DeprecationWarning, match=r"EvaluateOptions"):
        report = lc.evaluate(world, "all:all", model=starter, borders=True, min_region="25m2")
    with pytest.warns(DeprecationWarning, match=r"report|result\.miou"):
        assert report["miou"] == report.miou
    with pytest.warns(DeprecationWarning, match="borders"):
        assert report["borders"]["bands"][0]["from_m"] == 0
    with pytest.raises(TypeError, match="bordrs"):
        lc.evaluate(world, "all:all", model=starter, bordrs=True)


@pytest.mark.parametrize("old", ["tta", "turns"])
def test_the_old_names_of_eight_views(old):
    with pytest.warns(DeprecationWarning, match=f"{old}.*views"):
        assert lc.PredictOptions(**{old: True}) == lc.PredictOptions(views=8)
    with pytest.warns(DeprecationWarning, match=old):
        assert lc.PredictOptions(**{old: False}) == lc.PredictOptions(views=1)
    with pytest.raises(lc.UsageError, match=f"{old} and views"):
        lc.PredictOptions(**{old: True, "views": 3})
    for wrong in (0, 4, True, "many"):
        with pytest.raises(lc.UsageError, match=r"1, 2, 3 or 8"):
            lc.PredictOptions(views=wrong)


def test_a_map_of_several_views_has_the_class_of_their_probabilities(world, starter):
    image = lc.open_dataset(world).read_image(lc.open_dataset(world).items[0])
    one, three = (starter.predict(image, gsd=1.0, options=lc.PredictOptions(views=n)) for n in (1, 3))
    odds = three.probabilities
    assert not np.array_equal(odds, one.probabilities)
    chosen = np.take_along_axis(odds, three.class_map[None].astype(int), axis=0)[0]
    assert (chosen >= odds.max(axis=0) - 1e-6).all()
    options = [lc.EvaluateOptions(views=n) for n in (None, 8, 3)]
    default, eight, several = (lc.evaluate(world, "all:all", model=starter, options=o) for o in options)
    assert (default.views, eight.views, several.views) == (8, 8, 3)
    assert default == eight
    assert not np.array_equal(eight.confusion, several.confusion)
    with pytest.raises(lc.UsageError, match="--views"):
        lc.evaluate(world, "all:all", predictions=world, options=options[2])


def test_an_open_dataset_is_scored(world, starter):
    dataset = lc.open_dataset(world)
    report = lc.evaluate(dataset, "all:all", model=starter)
    assert report == lc.evaluate(world, "all:all", model="starter")
    with pytest.raises(lc.UsageError, match="open_dataset"):
        lc.evaluate(dataset, "all:all", model=starter, gsd=1.0)


def examples():
    """Return the examples of the public objects and their public methods."""
    finder = doctest.DocTestFinder(recurse=True, exclude_empty=True)
    imported = {"lc": lc, "make_dataset": make_dataset, "make_scene": make_scene}  # as docs/reference says
    found = {}
    for name in sorted(PUBLIC):
        for test in finder.find(getattr(lc, name), name, module=False, globs=imported):
            if test.examples and not any(part.startswith("_") for part in test.name.split(".")):
                found[test.name] = test
    return list(found.values())


def test_every_public_name_and_method_has_an_example():
    names = {example.name for example in examples()}
    classes = {name: value for name in PUBLIC if inspect.isclass(value := getattr(lc, name))}
    errors = {name for name, value in classes.items() if issubclass(value, lc.LandcoverError)}
    methods = {
        f"{name}.{attribute}"
        for name, value in classes.items()
        for attribute, member in vars(value).items()
        # The example of a class may show its methods too.
        if name not in errors
        and f".{attribute}(" not in str(inspect.getdoc(value))
        and not attribute.startswith("_")
        and isinstance(member, FunctionType | classmethod)
    }
    assert (PUBLIC | methods) - (errors - {"LandcoverError"}) - {"DEEPGLOBE"} <= names


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_examples_of_the_docstrings(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Georeference(100, 100, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), CRS.from_epsg(32631))
    classes = np.repeat(np.array([[3], [4]], np.uint8), [40, 60], axis=0).repeat(100, axis=1)
    write_class_raster(Path("map.tif"), classes, DEEPGLOBE, place)  # forest above water
    text = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=text.append)
    assert result.failed == 0, "".join(text)
