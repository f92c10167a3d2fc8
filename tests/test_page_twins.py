"""What the browser page computes as landcover does: the same numbers from both."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.warp import transform

from imagefiles import save_raster
from landcover.data.synthetic import make_scene
from landcover.errors import ImageError
from landcover.inference.grid import axis, upsample
from landcover.legend import NODATA
from landcover.model.card import read_card, resolve_model
from landcover.model.preprocessing import mirrored, resample_image, resample_valid
from landcover.ood.profile import ood_stats
from landcover.postprocess.sieve import remove_small_regions
from landcover.raster.bands import choose_bands, percentile_range, to_bytes
from landcover.raster.georeference import Georeference
from landcover.values import BandSelection
from landcover.windows import spans

SOURCES = Path(__file__).parents[1] / "page"


def twins(*calls):
    """Call functions of the page's sources, by the names of page/twins.mjs, and return their answers."""
    if shutil.which("node") is None or not (SOURCES / "node_modules").is_dir():
        pytest.skip("the page's tools are not installed (cd page; npm ci)")
    plain = lambda value: value.tolist() if isinstance(value, np.ndarray) else str(value)  # noqa: E731
    command = ["node", SOURCES / "twins.mjs"]
    made = subprocess.run(
        command, input=json.dumps(calls, default=plain), check=True, capture_output=True, text=True
    )
    return json.loads(made.stdout)


def sized(height, width):
    return {"height": height, "width": width}


def test_windows_and_cells_are_those_of_python():
    covers = [(10, 4, 2), (7, 9, 3), (100, 32, 0), (101, 33, 11), (5000, 128, 37)]
    places = [(5, 2, 0.3), (100, 1, 0.01), (997, 61, 0.061), (64, 87, 1.35)]
    found = twins(*(("spans", *each) for each in covers), *(("axis", *each) for each in places))
    for each, answer in zip(covers, found, strict=False):
        own = [(span["start"], span["length"]) for span in answer]
        assert own == [(span.start, span.length) for span in spans(*each)]
        for span, expected in zip(answer, spans(*each), strict=True):
            assert np.array_equal(np.float32(span["weights"]), expected.weights)
    for each, answer in zip(places, found[len(covers) :], strict=True):
        assert np.array_equal(answer["low"], axis(*each).low)
        assert np.array_equal(np.float32(answer["weight"]), axis(*each).weight)


def test_pixels_are_resampled_and_mirrored_as_in_python():
    image = make_scene(61, 64, 90).image
    valid = np.ones((64, 90), bool)
    valid[10:30, 40:70] = valid[:, :5] = valid[50, 50] = False
    sizes = [(64, 90), (13, 19), (31, 90), (90, 121), (64, 45), (1, 1)]
    found = twins(
        *(("resample", image.ravel(), sized(64, 90), sized(*size)) for size in sizes),
        *(("whole", valid.ravel().astype(int), sized(64, 90), sized(*size)) for size in sizes),
        ("mirrored", image.ravel(), valid.ravel().astype(int), 64, 90),
    )
    *found, filled = found
    for size, pixels, whole in zip(sizes, found[: len(sizes)], found[len(sizes) :], strict=True):
        assert np.array_equal(np.reshape(pixels, (*size, 3)), resample_image(image, size))
        assert np.array_equal(np.reshape(whole, size), resample_valid(valid, size))
    assert np.array_equal(np.reshape(filled, (64, 90, 3)), mirrored(image, valid))


def test_values_become_bytes_as_in_python():
    rng = np.random.default_rng(62)
    whole = rng.integers(0, 4000, 500)
    single = rng.normal(0.2, 0.1, 500).astype(np.float32)
    single[:3] = np.nan
    low, high = percentile_range(whole.astype(np.float64))
    found = twins(
        ("percentiles", whole),
        ("bytes", whole, False, [low, high]),
        ("bytes", [None if np.isnan(value) else float(value) for value in single], True, [0.05, 0.41]),
    )
    assert found[0] == pytest.approx([low, high], rel=1e-12)
    assert np.array_equal(found[1], to_bytes(whole.astype(np.uint16)[None], low, high)[0])
    single[:3] = 0  # JSON has no NaN
    assert np.array_equal(found[2], to_bytes(single[None], 0.05, 0.41)[0])


def test_a_score_and_small_regions_are_those_of_python():
    profile = read_card(resolve_model("starter")).imagery
    images = [make_scene(63, 500, 400).image, np.random.default_rng(64).integers(0, 255, (300, 300, 3), "u1")]
    valid = np.ones((500, 400), bool)
    valid[:260, 100:] = False
    index = make_scene(65, 120, 150).index.copy()
    index[20:60, 30:50] = NODATA
    given = profile.model_dump(mode="json")
    found = twins(
        ("ood", given, images[0].ravel(), None, 500, 400),
        ("ood", given, images[0].ravel(), valid.ravel().astype(int), 500, 400),
        ("ood", given, images[1].ravel(), None, 300, 300),
        *(("sieve", index.ravel(), 120, 150, pixels) for pixels in (2, 30, 400)),
    )
    for (image, mask), own in zip(
        [(images[0], None), (images[0], valid), (images[1], None)], found, strict=False
    ):
        expected = ood_stats(profile, image, mask).report()
        assert (own["share"], tuple(own["reasons"])) == (expected.share, expected.reasons)
    for pixels, own in zip((2, 30, 400), found[3:], strict=True):
        assert np.array_equal(np.reshape(own, index.shape), remove_small_regions(index, pixels))


@pytest.mark.parametrize("views", [1, 2, 3, 8])
def test_views_are_averaged_as_in_python(views):
    image = make_scene(66, 60, 84).image

    def answers(image):
        return np.moveaxis(image[::4, ::4], 2, 0).astype(np.float32) / np.float32(256)

    def oriented(image, turns):
        return [np.rot90(answers(np.rot90(image, turn)), -turn, axes=(1, 2)) for turn in range(turns)]

    turns = 4 if views == 8 else 1
    seen = oriented(image, turns)
    if views in (3, 8):
        seen += [answer[..., ::-1] for answer in oriented(image[:, ::-1], turns)]
    if views in (2, 3):
        rows, cols = axis(15, 20, 20 / 15), axis(21, 28, 28 / 21)
        seen.append(upsample(answers(resample_image(image, (80, 112))), rows, cols))
    (own,) = twins(("views", image.ravel(), 60, 84, 4, views))
    assert np.array_equal(np.float32(own).reshape(3, 15, 21), sum(seen) / np.float32(views))


PLACES = [
    ("EPSG:32633", {"GTModelTypeGeoKey": 1, "ProjectedCSTypeGeoKey": 32633}, (5e5, 5e6, 0.5, 0.5)),
    ("EPSG:32733", {"GTModelTypeGeoKey": 1, "ProjectedCSTypeGeoKey": 32733}, (4e5, 7e6, 2, 2)),
    ("EPSG:3857", {"GTModelTypeGeoKey": 1, "ProjectedCSTypeGeoKey": 3857}, (1e6, 6.5e6, 1.2, 1.2)),
    ("EPSG:4326", {"GTModelTypeGeoKey": 2, "GeographicTypeGeoKey": 4326}, (13.4, 52.5, 5e-6, 5e-6)),
]


def test_scale_and_areas_are_those_of_python():
    found = twins(
        *(
            ("place", keys, [0, 0, 0, x, y, 0], [across, down, 0], 40, 30)
            for _, keys, (x, y, across, down) in PLACES
        )
    )
    for (code, _, position), own in zip(PLACES, found, strict=True):
        place = Georeference(40, 30, from_origin(*position), CRS.from_string(code))
        gsd = place.gsd
        assert own["gsd"] == pytest.approx(gsd, rel=1e-5)
        assert own["sides"] == pytest.approx(place.sides(gsd), rel=1e-5)
        assert own["areas"] == pytest.approx(place.row_areas(), rel=1e-4)
        (x,), (y,) = transform(place.crs, "EPSG:4326", [position[0]], [position[1]])
        assert own["corner"] == pytest.approx([x, y], abs=1e-8)


DESCRIBED = [
    ("", "", ""),
    ("", "", "", ""),
    ("NIR", "Blue", "Green", "Red"),
    ("red edge", "red", "green", "blue"),
    ("Red (665 nm)", "Green", "coastal blue", "blue"),
    ("B02", "B03", "B04", "B08"),
    ("SR_B1", "SR_B2", "SR_B3", "SR_B4"),
    ("B1", "B2", "B3", "B4", "B10"),
    ("Band 1", "Band 2", "Band 3", "Band 4"),
    ("vv", "vh", "slope & <aspect>"),
    ("red", "red", "green", "blue"),
    ("one", "two"),
    ("N", "B", "G", "R"),
]


@pytest.mark.parametrize("model_bands", [None, ("nir", "red", "green")])
def test_bands_are_chosen_as_in_python(model_bands, tmp_path):
    calls, expected, known = [], [], []
    usual = model_bands and BandSelection.of_model((4, 3, 2), model_bands)
    model = {"bands": model_bands or ("red", "green", "blue"), "band_indices": usual}
    rgba = (3, 4, 5, 0)
    cases = [(names, None, {}) for names in DESCRIBED]
    cases += [(("nir", "red", "x", "green"), None, {}), (("",) * 4, (5, 4, 3, 0), {})]
    cases += [
        (("",) * 4, colours, {"CENTRAL_WAVELENGTH_UM": lengths})
        for colours in (None, rgba)
        for lengths in ((0.84, 0.49, 0.56, 0.66), ("0,84", "0,49", "0,56", "0,66"), (8.6, 9.1, 10.6, 11.3))
    ]
    cases += [(("Blau", "Grün", "Rot", "NIR"), rgba, {}), (("B", "G", "R"), rgba[:3], {})]
    for number, (names, colours, lengths) in enumerate(cases):
        path = save_raster(tmp_path / f"{number}.tif", np.zeros((8, 8, len(names)), np.uint16))
        with rasterio.open(path, "r+") as file:
            for band, name in enumerate(names, 1):
                if name:
                    file.set_band_description(band, name)
                for tag, values in lengths.items():
                    file.update_tags(band, ns="IMAGERY", **{tag: values[band - 1]})
            if colours:
                file.colorinterp = [ColorInterp(value) for value in colours]
        with path.open("rb") as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            metadata, photometric = tags.get(42112, ""), tags[262]
        with rasterio.open(path) as file:
            try:
                expected.append(choose_bands("a.tif", file, usual))
            except ImageError:  # fewer bands than the model's
                assert len(names) < 4
                assert model_bands
                continue
        known.append(names)
        calls.append(("bands", metadata, len(names), photometric == 2, [], model))
    for names, own, (bands, note) in zip(known, twins(*calls), expected, strict=True):
        assert tuple(own["bands"]) == bands, names
        assert (own["note"] is None) == (note is None), names
