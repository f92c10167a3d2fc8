"""The browser page: the same map as predict, no request, and a message for every damaged file."""

import csv
import gzip
import hashlib
import json
import queue
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

import landcover as lc
from fake_runtime import make_card
from imagefiles import read_band, save_raster
from landcover.data.synthetic import make_scene
from landcover.errors import ModelError, OutputError
from landcover.model.card import read_card, resolve_model
from landcover.model.runtimes import open_model
from landcover.page import FOLDER, RUNTIME, build_page, serve_page, write_page
from landcover.postprocess.sieve import remove_small_regions
from onnx_models import save_exported

SOURCES = Path(__file__).parents[1] / "page"
NODATA = 255


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    imagery = read_card(resolve_model("starter")).imagery
    card = make_card(window_px=512, overlap_px=128).model_copy(update={"imagery": imagery})
    return save_exported(tmp_path_factory.mktemp("model") / "tiny.onnx", card)


@pytest.fixture(scope="module")
def runtime(model):
    """The model, open: it is compiled once for images of one size."""
    return open_model(model)


@pytest.fixture(scope="module")
def page_file(model, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "landcover.html", model)


@pytest.fixture(scope="module")
def page(browser, page_file):
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(240_000)
    opened.requests, opened.errors = [], []
    opened.on("request", lambda request: opened.requests.append(request.url))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("body[data-ready=true]")
    yield opened
    opened.close()


@pytest.fixture
def empty(page):
    """The page without scenes."""
    while page.query_selector("#scene-list .drop"):
        page.click("#scene-list .drop")
    return page


def map_in_browser(page, file, gsd=None):
    page.set_input_files("#files", str(file))
    if gsd is not None:
        page.wait_for_selector("#setup:not([hidden])")
        page.fill("#gsd", str(gsd))
        page.click("#go")
    page.wait_for_selector("#result:not([hidden])")


def save(page, kind, path):
    with page.expect_download() as download:
        page.click(f"[data-export={kind}]")
    download.value.save_as(path)
    return path


def write_tiff(path, image, gsd, **options):
    place = {"crs": CRS.from_epsg(32633), "transform": from_origin(500000, 5e6, gsd, gsd)}
    return save_raster(path, image, **place, **options)


def png(folder):
    image = make_scene(1, 300, 410).image
    Image.fromarray(image).save(folder / "scene.png")
    return folder / "scene.png"


def png_with_holes(folder):
    image = make_scene(2, 256, 300).image
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[40:120, 60:200] = 0
    alpha[:, -11:] = 0
    Image.fromarray(np.dstack([image, alpha])).save(folder / "holes.png")
    return folder / "holes.png"


def tiff_with_holes(folder):
    image = make_scene(3, 500, 420).image.copy()
    image[image.sum(axis=2) == 0] = 1
    image[100:260, 150:300] = 0
    image[:, :23] = 0
    options = {"nodata": 0, "compress": "deflate", "predictor": 2, "tiled": True}
    return write_tiff(folder / "holes.tif", image, 1.3, blockxsize=128, blockysize=128, **options)


def tiff_of_many_windows(folder):
    image = np.tile(make_scene(4, 430, 410).image, (2, 3, 1))[:, :1000]
    image[300:600, 300:800] = 0
    return write_tiff(folder / "large.tif", image, 1.2, nodata=0, compress="lzw")


SCENES = [
    (png, 0.5),
    (png, 1.7),
    (png_with_holes, 0.9),
    (tiff_with_holes, None),
    (tiff_of_many_windows, None),
]


@pytest.mark.browser
@pytest.mark.parametrize(("make", "gsd"), SCENES)
def test_the_map_is_that_of_predict(empty, model, make, gsd, tmp_path):
    file = make(tmp_path)
    map_in_browser(empty, file, gsd)
    options = lc.PredictOptions(gsd=gsd, map_format="tif")
    lc.predict([file], model, tmp_path / "out", options)
    (expected,) = (tmp_path / "out").glob("*.tif")
    with rasterio.open(save(empty, "tif", tmp_path / "map.tif")) as own, rasterio.open(expected) as other:
        index, reference = own.read(1), other.read(1)
        assert (own.crs, own.transform, own.nodata) == (other.crs, other.transform, other.nodata)
        assert own.colormap(1)[0] == other.colormap(1)[0]
        for tag in ("CLASS_NAMES", "LANDCOVER_LEGEND", "LANDCOVER_GSD", "LANDCOVER_MODEL_SHA256"):
            assert own.tags()[tag] == other.tags()[tag]
        unlike, expected = (json.loads(file.tags()["LANDCOVER_UNLIKE"]) for file in (own, other))
        assert unlike["reasons"] == expected["reasons"]
        assert unlike["share"] == pytest.approx(expected["share"], abs=1e-3)
    assert np.array_equal(index == NODATA, reference == NODATA)
    assert np.mean(index == reference) >= 0.999


def scene_pixels(seed):
    """Return uint8 (210, 250, 3) without black pixels but in a hole."""
    image = np.maximum(make_scene(seed, 210, 250).image, 1)
    image[60:110, 90:170] = 0
    return image


def deep_pixels():
    """Return uint16 (210, 250, 4): blue, green, red and near infrared of 12 bits, with a hole."""
    rgb = scene_pixels(6).astype(np.uint16) * 11
    return np.dstack([rgb[..., ::-1], rgb[..., 1]])


def mask_and_nodata(path):
    mask = np.ones((210, 250), bool)
    mask[170:] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        return write_tiff(path, scene_pixels(7), 1.1, nodata=0, mask=mask)


def alpha_and_nodata(path):
    alpha = np.full((210, 250), 255, np.uint8)
    alpha[:40] = 0
    pixels = np.dstack([scene_pixels(8), alpha])
    return write_tiff(path, pixels, 1.1, nodata=0, photometric="rgb", alpha="yes")


def not_a_number(path):
    values = scene_pixels(9).astype(np.float32)
    values[values == 0] = np.nan
    return write_tiff(path, values, 1.1, compress="zstd", predictor=3, bigtiff="yes")


def framed(image, depth, value):
    """Return an image with a frame of one value, at the left of another, and a corner of the first in it."""
    image = np.array(image)
    image[:depth] = image[:, -depth:] = image[-1:] = value
    image[:, :5] = 9
    image[depth : depth + 20, 5:25] = value
    return image


def frame(path):
    return write_tiff(path, framed(scene_pixels(17), 21, 255), 1.1, compress="deflate", **TILED)


def coloured_frame(path):
    return write_tiff(path, framed(scene_pixels(17), 21, (10, 20, 30)), 1.1, compress="deflate", **TILED)


def coast(path):
    """Write an image whose upper two fifths are flat sea: not fill."""
    pixels = np.array(scene_pixels(17))
    pixels[: len(pixels) * 2 // 5] = 0, 38, 89
    return write_tiff(path, pixels, 1.1)


def deep_frame(path):
    values = framed(deep_pixels()[..., :3].astype(np.int16), 30, -9999)
    return write_tiff(path, values, 1.1, compress="lzw")


def framed_png(path):
    Image.fromarray(framed(scene_pixels(18), 13, 0)).save(path)
    return path


def opaque_png(path):
    alpha = np.full((210, 250), 255, np.uint8)
    Image.fromarray(np.dstack([framed(scene_pixels(19), 40, 0), alpha])).save(path)
    return path


def opaque_tiff(path):
    alpha = np.full((210, 250), 255, np.uint8)
    pixels = np.dstack([framed(scene_pixels(19), 40, 0), alpha])
    return write_tiff(path, pixels, 1.1, photometric="rgb", alpha="yes")


def sparse(interleave):
    def make(path):
        pixels = np.moveaxis(scene_pixels(20), 2, 0)
        write_tiff(
            path, np.zeros((210, 250, 3), np.uint8), 1.1, SPARSE_OK=True, interleave=interleave, **TILED
        )
        with rasterio.open(path, "r+") as file:
            for row, col in ((0, 64), (64, 0), (64, 128), (128, 192)):
                window = Window(col, row, min(64, 250 - col), 64)
                file.write(pixels[:, row : row + 64, col : col + window.width], window=window)
        return path

    return make


def infrared(rows, cols, gsd, overviews=()):
    """Return what writes a file of near infrared that is tagged alpha, with water of value 0."""

    def make(path):
        near = scene_pixels(22)[..., :1] // 2
        bands = np.tile(np.dstack([scene_pixels(21), near]), (rows, cols, 1))
        write_tiff(path, bands, gsd, compress="deflate", photometric="rgb", alpha="yes", **TILED)
        if overviews:
            with rasterio.open(path, "r+") as file:
                file.build_overviews(overviews)
        return path

    return make


def described(dtype, names, **tags):
    """Return what writes a file of near infrared, blue, green and red, with descriptions or tags."""

    def make(path):
        bands = scene_pixels(23)[..., [1, 2, 1, 0]].astype(dtype) * (11 if dtype == "uint16" else 1)
        write_tiff(path, bands, 1.1, nodata=0, photometric="minisblack", alpha="no")
        with rasterio.open(path, "r+") as file:
            for band, name in enumerate(names, 1):
                file.set_band_description(band, name)
            for name, values in tags.items():
                for band, value in enumerate(values, 1):
                    file.update_tags(band, ns="IMAGERY", **{name: value})
        return path

    return make


def dark_water(path):
    """Write near infrared that is tagged alpha and 0 in most pixels."""
    near = scene_pixels(24)[..., :1] // 2
    near[:140] = 0
    return write_tiff(path, np.dstack([scene_pixels(25), near]), 1.1, photometric="rgb", alpha="yes")


def turned_jpeg(path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn, which predict ignores
    Image.fromarray(make_scene(12, 210, 250).image).save(path, quality=95, exif=exif)
    return path


def palette_png(path):
    picture = Image.fromarray(make_scene(13, 210, 250).image).quantize(200)
    picture.save(path, transparency=7)
    return path


def webp(path):
    Image.fromarray(make_scene(14, 210, 250).image).save(path, lossless=True)
    return path


def tiff(seed, **options):
    return lambda path: write_tiff(path, scene_pixels(seed), 1.1, **options)


TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
FORMATS = {
    "jpeg.tif": (tiff(10, compress="jpeg", photometric="ycbcr", nodata=None, **TILED), {}),
    "planar.tif": (tiff(11, compress="lzw", interleave="band", predictor=2, nodata=0), {}),
    "packbits.tif": (tiff(11, compress="packbits", nodata=0), {}),
    "webp.tif": (tiff(15, compress="webp", WEBP_LOSSLESS="yes", nodata=0, **TILED), {}),
    "grey.tif": (lambda path: write_tiff(path, scene_pixels(16)[..., :1], 1.1, nodata=0), {}),
    "mask.tif": (mask_and_nodata, {}),
    "alpha.tif": (alpha_and_nodata, {}),
    "nan.tif": (not_a_number, {"scaling": "percentile"}),
    "deep.tif": (lambda path: write_tiff(path, deep_pixels(), 1.1, nodata=0), {"scaling": (100, 2500)}),
    "turned.jpg": (turned_jpeg, {"gsd": 0.8}),
    "palette.png": (palette_png, {"gsd": 0.8}),
    "lossless.webp": (webp, {"gsd": 0.8}),
    "frame.tif": (frame, {}),
    "deep-frame.tif": (deep_frame, {"scaling": "percentile"}),
    "frame.png": (framed_png, {"gsd": 0.8}),
    "frame-colour.tif": (coloured_frame, {}),
    "coast.tif": (coast, {}),
    "opaque.png": (opaque_png, {"gsd": 0.8}),
    "opaque.tif": (opaque_tiff, {}),
    "sparse.tif": (sparse("pixel"), {}),
    "sparse-planar.tif": (sparse("band"), {}),
    "infrared.tif": (infrared(1, 1, 1.1), {}),
    "infrared-large.tif": (infrared(5, 5, 0.22), {}),
    "infrared-overview.tif": (infrared(3, 2, 0.4, [2]), {}),
    "infrared-dark.tif": (dark_water, {}),
    "described.tif": (described("uint8", ("NIR", "Blue", "Green", "Red")), {}),
    "sentinel.tif": (described("uint16", ("B08", "B02", "B03", "B04")), {"scaling": "percentile"}),
    "wavelength.tif": (described("uint8", (), CENTRAL_WAVELENGTH_UM=(0.84, 0.49, 0.56, 0.66)), {}),
    "keep-frame.tif": (frame, {"fill": "keep"}),
    "keep-sparse.tif": (sparse("pixel"), {"fill": "keep"}),
    "keep-frame.png": (framed_png, {"gsd": 0.8, "fill": "keep"}),
    "alpha-none.tif": (alpha_and_nodata, {"alpha": "none"}),
    "alpha-four.tif": (infrared(1, 1, 1.1), {"alpha": 4}),
    "nodata-nine.tif": (frame, {"nodata": 9}),
}
NOTED = r"\d+ at the \w+ \([-\d(), ]+\)|the one value [-\d(), ]+\d|\d+ blocks of \d+ x \d+|values in band \d"
"""What notes about undeclared fill and masks state."""


@pytest.mark.browser
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_read_as_predict_reads_it(empty, runtime, name, tmp_path):
    make, options = FORMATS[name]
    file = make(tmp_path / name)
    empty.set_input_files("#files", str(file))
    advanced = options.keys() & {"fill", "alpha", "nodata"}
    if advanced and "gsd" not in options:
        empty.wait_for_selector("#result:not([hidden])")
        empty.click("#change")
    if options:
        empty.wait_for_selector("#setup:not([hidden])")
        if advanced:
            empty.click("#advanced summary")
            empty.set_checked("#keep", "fill" in options)
        if "nodata" in options:
            empty.fill("#nodata", str(options["nodata"]))
        if "alpha" in options:
            empty.select_option("#alpha", str(options["alpha"]))
        if "gsd" in options:
            empty.fill("#gsd", str(options["gsd"]))
        if name == "deep.tif":
            options = {**options, "bands": (3, 2, 1)}
            for place, band in enumerate(options["bands"]):
                empty.select_option(f"#band-{place}", str(band))
            empty.select_option("#scaling", "range")
            empty.fill("#low", "100")
            empty.fill("#high", "2500")
        elif "scaling" in options:
            empty.select_option("#scaling", "percentile")
        empty.click("#go")
    empty.wait_for_selector("#result:not([hidden])")
    chosen = lc.PredictOptions(map_format="tif", **options)
    (made,) = lc.predict([file], runtime, tmp_path / "out", chosen).maps
    (expected,) = (tmp_path / "out").glob("*.tif")
    index, reference = read_band(save(empty, "tif", tmp_path / "map.tif")), read_band(expected)
    noted = re.findall(NOTED, " ".join(made.notes))
    assert re.findall(NOTED, empty.text_content("#facts")) == noted
    assert bool(noted) == bool(re.match("frame|coast|deep-|sparse|infrared|opaque", name))
    assert np.array_equal(index == NODATA, reference == NODATA)
    assert len(np.unique(reference)) > 1
    assert np.mean(index == reference) >= (0.97 if "jp" in name else 0.999)


@pytest.mark.browser
def test_a_scaling_within_which_no_two_whole_numbers_are_is_refused(empty, tmp_path):
    empty.set_input_files("#files", str(described("uint16", ())(tmp_path / "deep.tif")))
    empty.wait_for_selector("#setup:not([hidden])")
    empty.select_option("#scaling", "range")
    empty.fill("#low", "0")
    empty.fill("#high", "0.3")
    empty.click("#go")
    empty.wait_for_selector("#messages:has-text('whole numbers')", state="attached", timeout=20_000)
    assert empty.is_hidden("#result")


@pytest.mark.browser
def test_a_model_of_other_bands_values_and_views_has_its_own_map(browser, tmp_path):
    card = make_card(window_px=512, overlap_px=128)
    preprocessing = replace(
        card.preprocessing, bands=("nir", "red", "green"), band_indices=(1, 4, 3), scaling=(100.0, 2500.0)
    )
    card = card.model_copy(update={"preprocessing": preprocessing, "views": 3})
    own_model = save_exported(tmp_path / "own.onnx", card)
    file = described("uint16", ())(tmp_path / "deep.tif")
    with browser.new_page() as page:
        page.set_default_timeout(240_000)
        page.goto(write_page(tmp_path / "own.html", own_model).as_uri())
        page.wait_for_selector("body[data-ready=true]")
        assert page.is_hidden("#sample")
        page.set_input_files("#files", str(png(tmp_path)))
        page.wait_for_selector("#messages:not(:empty)")
        assert "nir, red, green" in page.text_content("#messages")
        map_in_browser(page, file)
        index = read_band(save(page, "tif", tmp_path / "map.tif"))
    lc.predict([file], own_model, tmp_path / "out", lc.PredictOptions(map_format="tif"))
    reference = read_band(tmp_path / "out" / "deep_mask.tif")
    assert np.array_equal(index == NODATA, reference == NODATA)
    assert len(np.unique(reference)) > 2
    assert np.mean(index == reference) >= 0.999


@pytest.mark.browser
def test_firefox_makes_the_same_map(page_file, model, tmp_path):
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    if not (firefox and shutil.which("node") and (SOURCES / "node_modules" / "puppeteer-core").is_dir()):
        pytest.skip("Firefox, Node or puppeteer-core is not installed")
    file = png(tmp_path)
    command = ["node", SOURCES / "firefox.mjs", firefox, page_file, file, "0.7"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["errors"] == []
    assert not [url for url in found["requests"] if not url.startswith(("file:", "blob:", "data:"))]
    lc.predict([file], model, tmp_path / "out", lc.PredictOptions(gsd=0.7, map_format="tif"))
    counts = np.bincount(read_band(tmp_path / "out" / "scene_mask.tif").ravel(), minlength=len(found["rows"]))
    for (_, share, _, hectares), pixels in zip(found["rows"], counts, strict=False):
        assert float(share) == pytest.approx(100 * pixels / counts.sum(), abs=0.1)
        assert float(hectares) == pytest.approx(pixels * 0.7**2 / 1e4, abs=0.02)


@pytest.mark.browser
def test_a_large_scene_is_read_again_where_the_view_is_close(empty, tmp_path):
    image = np.tile(np.maximum(make_scene(4, 300, 300).image, 1), (2, 10, 1))[:, :2800]
    map_in_browser(empty, write_tiff(tmp_path / "wide.tif", image, 0.6, compress="deflate"))
    with rasterio.open(save(empty, "tif", tmp_path / "map.tif")) as file:
        index, names = file.read(1), dict(pair.split("=") for pair in file.tags()["CLASS_NAMES"].split(","))
    height, width = index.shape
    # The picture of the whole has every second pixel: where do the others differ, nearest to the centre?
    coarse = index[::2, ::2].repeat(2, 0).repeat(2, 1)[:height, :width]
    rows, cols = np.nonzero(coarse != index)
    nearest = np.argmin(np.hypot(rows - height / 2, cols - width / 2))
    row, col = int(rows[nearest]), int(cols[nearest])
    box = empty.locator("#canvas").bounding_box()
    zoom = 0.94 * min(box["width"] / width, box["height"] / height)
    empty.focus("#canvas")
    while zoom < 1.5:
        empty.keyboard.press("+")
        zoom *= 1.5
    x = box["x"] + box["width"] / 2 + (col + 0.5 - width / 2) * zoom
    y = box["y"] + box["height"] / 2 + (row + 0.5 - height / 2) * zoom
    assert box["x"] < x < box["x"] + box["width"]
    assert box["y"] < y < box["y"] + box["height"]
    for _ in range(100):  # the part is read in a moment
        empty.mouse.move(x + 40, y)
        empty.mouse.move(x, y)
        if empty.text_content("#tip").startswith(names[str(index[row, col])]):
            break
        empty.wait_for_timeout(100)
    assert empty.text_content("#tip").startswith(names[str(index[row, col])])
    assert empty.text_content("#spoken")


def serve(content):
    """Serve a page in a thread and return its address."""
    addresses = queue.Queue()
    threading.Thread(target=serve_page, args=(content, addresses.put), daemon=True).start()
    return addresses.get(timeout=10)


@pytest.mark.browser
def test_a_served_page_maps_with_threads(browser, page_file, tmp_path):
    with browser.new_page() as page:
        page.set_default_timeout(240_000)
        page.goto(serve(page_file.read_text(encoding="utf-8")))
        page.wait_for_selector("body[data-ready=true]")
        assert page.evaluate("crossOriginIsolated")
        map_in_browser(page, png(tmp_path), 0.5)


@pytest.mark.browser
def test_small_regions_and_areas_are_those_of_the_library(empty, tmp_path):
    map_in_browser(empty, tiff_with_holes(tmp_path))
    raw = read_band(save(empty, "tif", tmp_path / "raw.tif"))
    empty.fill("#region", "14")
    (pixels,) = re.findall(r"^under (\d+) px", empty.text_content("#region-value"))
    expected = remove_small_regions(raw, int(pixels))
    assert (expected != raw).any()
    empty.wait_for_timeout(500)
    with rasterio.open(save(empty, "tif", tmp_path / "clean.tif")) as file:
        assert np.array_equal(file.read(1), expected)
        assert file.tags()["LANDCOVER_MIN_REGION"] == f"{pixels}px"
    with save(empty, "csv", tmp_path / "areas.csv").open(newline="") as table:
        for number, row in enumerate(csv.DictReader(table)):
            count = np.count_nonzero(expected == number)
            assert int(row["pixels"]) == count
            assert float(row["hectares"]) == pytest.approx(count * 1.3**2 / 1e4, abs=1e-4)


@pytest.mark.browser
def test_polygons_cover_the_map_in_longitude_and_latitude(empty, tmp_path):
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    map_in_browser(empty, tiff_with_holes(tmp_path))
    with rasterio.open(save(empty, "tif", tmp_path / "map.tif")) as file:
        index, crs, transform = file.read(1), file.crs, file.transform
    features = json.loads(save(empty, "geojson", tmp_path / "map.geojson").read_text())["features"]
    shapes = [
        (transform_geom("EPSG:4326", crs, feature["geometry"]), feature["properties"]["value"])
        for feature in features
    ]
    drawn = rasterize(shapes, index.shape, fill=NODATA, transform=transform, dtype="uint8")
    assert np.array_equal(drawn, index)


@pytest.mark.browser
def test_a_png_comes_with_its_colours_and_its_position(empty, tmp_path):
    map_in_browser(empty, tiff_with_holes(tmp_path))
    found = {}
    with (
        empty.expect_download(),
        empty.expect_event("download", lambda d: d.suggested_filename.endswith("pgw")),
    ):
        empty.on("download", lambda download: found.setdefault(download.suggested_filename, download))
        empty.click("[data-export=png]")
    for name, download in found.items():
        download.save_as(tmp_path / name)
    with rasterio.open(save(empty, "tif", tmp_path / "map.tif")) as file:
        index, transform = file.read(1), file.transform
    with Image.open(tmp_path / "holes_map.png") as image:
        assert image.mode == "P"
        pixels = np.asarray(image)
    assert np.array_equal(pixels[index != NODATA], index[index != NODATA])
    with rasterio.open(tmp_path / "holes_map.png") as file:
        assert file.transform.almost_equals(transform)


@pytest.mark.browser
def test_the_scale_is_never_guessed(empty, tmp_path):
    empty.set_input_files("#files", str(png(tmp_path)))
    empty.wait_for_selector("#setup:not([hidden])")
    for wrong in ("", "0", "-1", "1000"):
        empty.fill("#gsd", wrong)
        empty.click("#go")
        assert "metres per pixel" in empty.text_content("#messages").lower()
        assert empty.is_hidden("#result")
    empty.click("#measure")
    box = empty.locator("#canvas").bounding_box()
    for share in (0.3, 0.7):
        empty.mouse.click(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"])
    (pixels,) = re.findall(r"(\d+) pixels", empty.text_content("#hint"))
    empty.fill("#length", "100")
    assert float(empty.input_value("#gsd")) == pytest.approx(100 / int(pixels), rel=0.01)


def tiff_bytes(data, **changes):
    """Return a TIFF of one RGB block of 64 x 64 pixels; tags can be changed, ``None`` leaves one out."""
    names = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "text": 270}
    names |= {"offset": 273, "bands": 277, "rows": 278, "size": 279, "extra": 338, "metadata": 42112}
    bits = b"\x08\0" * 3
    tags = {"width": 64, "height": 64, "bits": bits, "compression": 1}
    tags |= {"photometric": 2, "offset": 0, "bands": 3, "rows": 64, "size": len(data), **changes}
    entries = sorted((names[name], value) for name, value in tags.items() if value is not None)
    end = 8 + 2 + 12 * len(entries) + 4
    head, tail = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little"), b""
    for tag, value in entries:
        if isinstance(value, bytes):
            place = (end + len(tail)).to_bytes(4, "little")
            kind, size = (3, 2) if tag == names["bits"] else (2, 1)
            head += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
            head += (len(value) // size).to_bytes(4, "little") + place
            tail += value + b"\0" * (len(value) % 2)
        else:
            number = end + sum(len(v) + len(v) % 2 for _, v in entries if isinstance(v, bytes))
            number = number if tag == 273 and not value else value
            head += tag.to_bytes(2, "little") + b"\x04\0\1\0\0\0" + number.to_bytes(4, "little")
    return head + bytes(4) + tail + data


def damaged_files(folder):
    """Return a hundred files that cannot be mapped: cut short, bombs, wrong types, scripts in names."""
    small = Image.fromarray(make_scene(5, 96, 96).image)
    for kind in ("png", "jpg", "webp"):
        small.save(folder / f"whole.{kind}")
    whole = {kind: (folder / f"whole.{kind}").read_bytes() for kind in ("png", "jpg", "webp")}
    whole["tif"] = tiff_with_holes(folder).read_bytes()
    files = [
        (f"cut{share}.{kind}", data[: int(share * len(data))])
        for kind, data in whole.items()
        for share in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
    ]

    script = b"<script>alert(1)</script>"
    contents = {"html": b"<!doctype html>" + script, "svg": b"<svg onload='alert(1)'>" + script + b"</svg>"}
    contents |= {"pdf": b"%PDF-1.7", "zip": b"PK\3\4" + bytes(99), "exe": b"MZ" + bytes(99), "json": b"{}"}
    contents |= {"gz": gzip.compress(bytes(99)), "gif": b"GIF89a" + bytes(20), "bmp": b"BM" + bytes(99)}
    contents |= {"mp4": bytes(4) + b"ftypmp42" + bytes(99), "txt": b"hello", "js": b"alert(1)", "py": b"1"}
    contents |= {
        "xml": b"<?xml version='1.0'?><a/>",
        "bin": bytes(1000),
        "empty": b"",
        "one": b"I",
        "ff": b"\xff",
    }
    files += [(f"wrong-{kind}.tif", data) for kind, data in contents.items()]
    files += [(f"wrong-{kind}.jpg", data) for kind, data in list(contents.items())[:8]]

    header = bytearray(whole["png"])
    for number, sides in enumerate(((200_000, 200_000), (2**31 - 1, 1), (0, 5), (40_000, 3))):
        header[16:24] = sides[0].to_bytes(4) + sides[1].to_bytes(4)
        files.append((f"bomb{number}.png", bytes(header)))
    deep = bytearray(whole["png"])
    deep[24] = 16
    files.append(("sixteen.png", bytes(deep)))
    frame = bytearray(whole["jpg"])
    at = frame.index(b"\xff\xc0")
    frame[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    files.append(("bomb.jpg", bytes(frame)))
    extended = b"WEBPVP8X" + (10).to_bytes(4, "little") + b"\0\0\0\0" + b"\xff\x3f\0" * 2
    files.append(("bomb.webp", b"RIFF" + (len(extended)).to_bytes(4, "little") + extended))
    animation = b"WEBPVP8X" + (10).to_bytes(4, "little") + b"\2\0\0\0" + b"\x3f\0\0" * 2
    files.append(("animation.webp", b"RIFF" + (len(animation)).to_bytes(4, "little") + animation))

    pixels = bytes(64 * 64 * 3)
    bombs = {"deflate": 8, "lzw": 5, "zstd": 50000, "jpeg": 7, "webp": 50001, "packbits": 32773}
    files += [(f"junk-{name}.tif", tiff_bytes(script * 40, compression=n)) for name, n in bombs.items()]
    for number, changes in enumerate(
        (
            {"width": 2**31},
            {"height": 2**31},
            {"width": 2**32 - 1, "height": 2**32 - 1},
            {"width": 0},
            {"bands": 60_000},
            {"bands": 0},
            {"bits": 7},
            {"bits": 2**20},
            {"compression": 34712},
            {"compression": 6},
            {"photometric": 3},
            {"photometric": 5},
            {"photometric": 8},
            {"offset": 2**32 - 5},
            {"size": None},
            {"width": None},
            {"bands": 1, "extra": 2},
        )
    ):
        files.append((f"tags{number}.tif", tiff_bytes(pixels, **changes)))
    files.append(("ring.tif", b"II*\0" + (8).to_bytes(4, "little") + bytes(2) + (8).to_bytes(4, "little")))
    files.append(("far.tif", b"II*\0\xff\xff\xff\x7f"))
    files.append(("bigtiff.tif", b"II+\0" + (8).to_bytes(4, "little") + b"\xff" * 8))
    names = [
        "<img src=x onerror=alert(1)>.png",
        "'\"><svg onload=alert(1)>.tif",
        "{{WORKER}}.jpg",
        "../../a.tif",
    ]
    files += [(name, b"\x89PNG") for name in names]
    files.append(("tagged.tif", tiff_bytes(pixels, text=script, metadata=script, photometric=3)))
    return files


@pytest.mark.browser
def test_damaged_and_hostile_files_get_a_message_and_the_page_stays_alive(empty, tmp_path):
    files = damaged_files(tmp_path)
    assert len(files) >= 100
    dialogs = []
    empty.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for start in range(0, len(files), 8):  # as many messages as are shown at once
        group = files[start : start + 8]
        payloads = [
            {"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in group
        ]
        empty.set_input_files("#files", payloads)
        lines = []
        for _ in range(400):
            lines = empty.text_content("#messages").splitlines()
            if len(lines) == len(group):
                break
            empty.wait_for_timeout(50)
        for name, _ in group:
            (line,) = [line for line in lines if f"{Path(name).name} " in line]
            assert len(line) < 400
            assert not re.search("undefined|Error|null", line)
        assert empty.query_selector(":is(#panel, #notice) :is(img, svg, script)") is None
        empty.click("#dismiss")
        while empty.query_selector("#scene-list .drop"):
            empty.click("#scene-list .drop")
    empty.click("#sample")
    empty.wait_for_selector("#result:not([hidden])")
    assert empty.errors == dialogs == []


@pytest.mark.browser
def test_a_bomb_is_unpacked_to_the_size_of_its_block_alone(empty):
    """A block of 12 kB that holds 200 MB is mapped by its first pixels, or refused."""
    bomb = zlib.compress(bytes(200_000_000), 9)
    file = {"name": "bomb.tif", "mimeType": "image/tiff", "buffer": tiff_bytes(bomb, compression=8)}
    empty.set_input_files("#files", [file])
    empty.wait_for_selector("#setup:not([hidden])")
    empty.fill("#gsd", "0.5")
    empty.click("#go")
    empty.wait_for_selector("#result:not([hidden])")
    assert "64 at the top (0)" in empty.text_content("#facts")
    assert "4,096 pixels without imagery" in empty.text_content("#facts")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark"), (1920, "light")])
def test_the_page_fits_every_width(empty, width, scheme):
    empty.emulate_media(color_scheme=scheme)
    empty.set_viewport_size({"width": width, "height": 800})
    assert empty.evaluate("document.documentElement.scrollWidth") == width
    empty.click("#sample")
    empty.wait_for_selector("#result:not([hidden])")
    assert empty.evaluate("document.documentElement.scrollWidth") == width
    empty.set_viewport_size({"width": 1280, "height": 800})


@pytest.mark.browser
def test_every_state_is_accessible_in_both_schemes(browser, page_file, tmp_path):
    checker = SOURCES / "node_modules" / "axe-core" / "axe.min.js"
    if not checker.is_file():
        pytest.skip("axe-core is not installed (cd page; npm ci)")
    found = {}
    with browser.new_context(bypass_csp=True, reduced_motion="reduce") as context:
        page = context.new_page()
        page.set_default_timeout(240_000)
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-ready=true]")
        page.evaluate(f"{checker.read_text()};0")

        def check(state):
            """Only colours differ between the schemes; without motion they change at once."""
            for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
                page.emulate_media(color_scheme=scheme)
                violations = page.evaluate("rules => axe.run(rules)", rules)["violations"]
                found[state, scheme] = [f"{each['id']}: {each['help']}" for each in violations]

        check("empty")
        page.set_input_files("#files", str(write_tiff(tmp_path / "deep.tif", deep_pixels(), 1.1)))
        page.wait_for_selector("#setup:not([hidden])")
        page.click("#advanced summary")
        check("values")
        page.set_input_files("#files", str(png(tmp_path)))
        page.wait_for_selector("#scene-list li:nth-child(2) .pick:has-text('needs input')")
        page.click("#scene-list li:nth-child(2) .pick")
        page.click("#measure")
        for x in (200, 300):
            page.mouse.click(x, 300)
        check("measured")
        page.fill("#gsd", "0.5")
        page.click("#go")
        page.wait_for_selector("#result:not([hidden])")
        page.check("#swiping")
        page.uncheck("#class-0")
        check("mapped")
        page.set_viewport_size({"width": 360, "height": 740})
        check("narrow")
        page.set_viewport_size({"width": 1280, "height": 720})
        page.evaluate(
            "for (const id of ['busy', 'warning', 'cancel']) document.getElementById(id).hidden = false;"
            "document.getElementById('warning').textContent = 'It is out of distribution.'"
        )
        check("busy")
        page.click("#about")
        check("about")
        page.keyboard.press("Escape")
        page.set_input_files("#files", [{"name": "bad.png", "mimeType": "image/png", "buffer": b"bad"}])
        page.wait_for_selector("#messages:not(:empty)")
        check("error")
    assert not any(found.values()), found


@pytest.mark.browser
def test_nothing_is_requested(page, page_file):
    """Run last: what all tests above requested."""
    assert {url for url in page.requests if not url.startswith(("blob:", "data:"))} == {page_file.as_uri()}


def test_the_policy_allows_no_request_and_no_other_script(page_file):
    text = page_file.read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy
    assert "http" not in policy
    assert len(re.findall(r"<script>", text)) == 1


def test_hostile_text_of_a_card_cannot_end_its_element(tmp_path):
    card = make_card().model_copy(update={"licence": "</script><script>alert(1)</script>"})
    text = build_page(save_exported(tmp_path / "m.onnx", card))
    assert "<script>alert" not in text


def test_only_an_exported_model_makes_a_page_and_no_file_is_replaced(page_file, model):
    with pytest.raises(ModelError, match="landcover export"):
        build_page("starter-weights")
    with pytest.raises(OutputError, match=re.escape(str(page_file))):
        write_page(page_file, model)


def test_a_model_that_would_fail_in_the_browser_makes_no_page(tmp_path):
    with pytest.raises(ModelError, match=r"m\.onnx cannot be run"):
        write_page(tmp_path / "x.html", save_exported(tmp_path / "m.onnx", outputs=("a", "b")))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_served_page_has_the_headers_for_threads():
    address = serve("<p>page</p>")
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == b"<p>page</p>"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{address}etc/passwd")


def test_the_runtime_is_the_recorded_one():
    record = json.loads(RUNTIME.read_text())
    packed = (FOLDER / "ort-wasm-simd-threaded.wasm.gz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == record["gzip_sha256"]
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == record["sha256"]
    locked = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert locked["node_modules/onnxruntime-web"]["version"] == record["version"]


def test_the_built_files_are_those_of_the_sources(tmp_path):
    if shutil.which("node") is None or not (SOURCES / "node_modules").is_dir():
        pytest.skip("the page's tools are not installed (cd page; npm ci)")
    subprocess.run(["node", "build.mjs", str(tmp_path)], cwd=SOURCES, check=True)
    for name in ("page.html", "page.css", "page.js", "worker.js"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), f"{name}: run npm run build"
    assert (
        json.loads((tmp_path / "runtime.json").read_text())["sha256"]
        == json.loads(RUNTIME.read_text())["sha256"]
    )
