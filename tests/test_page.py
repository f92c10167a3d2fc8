"""The browser page: the same map as predict, no request, and a message for every damaged file."""

import csv
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin

import landcover as lc
from fake_runtime import make_card
from imagefiles import save_raster
from landcover.data.synthetic import make_scene
from landcover.errors import ModelError, OutputError
from landcover.page import FOLDER, RUNTIME, build_page, serve_page, write_page
from landcover.postprocess.sieve import remove_small_regions
from onnx_models import save_exported

SOURCES = Path(__file__).parents[1] / "page"
NODATA = 255


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    card = make_card(window_px=512, overlap_px=128)
    return save_exported(tmp_path_factory.mktemp("model") / "tiny.onnx", card)


@pytest.fixture(scope="module")
def page_file(model, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "landcover.html", model)


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium")
    api = pytest.importorskip("playwright.sync_api")
    # Without its sandbox, which containers and root do not allow: it opens nothing but this page.
    options = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def page(browser, page_file):
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(60_000)
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
    image = np.tile(make_scene(4, 430, 410).image, (4, 5, 1))[:, :1900]
    image[700:1100, 500:1300] = 0
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
        for tag in ("CLASS_NAMES", "LANDCOVER_MODEL_SHA256"):
            assert own.tags()[tag] == other.tags()[tag]
    assert np.array_equal(index == NODATA, reference == NODATA)
    assert np.mean(index == reference) >= 0.999


@pytest.mark.browser
def test_small_regions_and_areas_are_those_of_the_library(empty, tmp_path):
    map_in_browser(empty, tiff_with_holes(tmp_path))
    with rasterio.open(save(empty, "tif", tmp_path / "raw.tif")) as file:
        raw = file.read(1)
    empty.fill("#region", "14")
    (pixels,) = re.findall(r"^(\d+) px", empty.text_content("#region-value"))
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
    (pixels,) = re.findall(r"(\d+) pixels", empty.text_content("#messages"))
    empty.fill("#length", "100")
    assert float(empty.input_value("#gsd")) == pytest.approx(100 / int(pixels), rel=0.01)


def damaged_files(folder):
    Image.fromarray(make_scene(5, 64, 64).image).save(folder / "a.jpg")
    tiff = tiff_with_holes(folder).read_bytes()
    whole = {"png": png(folder).read_bytes(), "jpg": (folder / "a.jpg").read_bytes(), "tif": tiff}
    files = [("empty.png", b""), ("text.tif", b"hello"), ("zip.jpg", b"PK\x03\x04" + bytes(100))]
    for kind, data in whole.items():
        for share in (0.001, 0.01, 0.1, 0.5, 0.9):
            files.append((f"cut{share}.{kind}", data[: int(share * len(data))]))
    header = bytearray(whole["png"])
    header[16:24] = (200_000).to_bytes(4) * 2
    files.append(("bomb.png", bytes(header)))
    for tag, value in ((256, 2**31), (257, 2**31), (322, 2**30), (323, 2**30), (277, 60_000)):
        changed = bytearray(tiff)
        place = changed.index(tag.to_bytes(2, "little"), 8)
        changed[place + 2 : place + 12] = b"\x04\x00\x01\x00\x00\x00" + value.to_bytes(4, "little")
        files.append((f"bomb{tag}.tif", bytes(changed)))
    files.append(("<img src=x onerror=alert(1)>.png", b"\x89PNG"))
    return files


@pytest.mark.browser
def test_damaged_and_hostile_files_get_a_message_and_the_page_stays_alive(empty, tmp_path):
    for name, data in damaged_files(tmp_path):
        empty.evaluate("document.getElementById('messages').textContent = ''")
        payload = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
        empty.set_input_files("#files", [payload])
        empty.wait_for_selector("#messages:not(:empty)")
        assert name[:4] in empty.text_content("#messages")
        assert empty.query_selector("#panel img") is None
        while empty.query_selector("#scene-list .drop"):
            empty.click("#scene-list .drop")
    empty.click("#sample")
    empty.wait_for_selector("#result:not([hidden])")
    assert empty.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_is_accessible(browser, page_file, scheme, tmp_path):
    checker = SOURCES / "node_modules" / "axe-core" / "axe.min.js"
    if not checker.is_file():
        pytest.skip("axe-core is not installed (cd page; npm ci)")
    context = browser.new_context(bypass_csp=True, color_scheme=scheme)  # for the checker alone
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready=true]")

    def violations():
        page.evaluate(f"{checker.read_text()};0")
        return [f"{found['id']}: {found['help']}" for found in page.evaluate("axe.run()")["violations"]]

    states = {"empty": violations()}
    page.set_input_files("#files", str(png(tmp_path)))
    page.wait_for_selector("#setup:not([hidden])")
    states["setup"] = violations()
    page.fill("#gsd", "0.5")
    page.click("#go")
    page.wait_for_selector("#result:not([hidden])")
    page.check("#swiping")
    states["mapped"] = violations()
    page.click("#about")
    states["about"] = violations()
    page.keyboard.press("Escape")
    page.set_input_files("#files", [{"name": "bad.png", "mimeType": "image/png", "buffer": b"bad"}])
    page.wait_for_selector("#messages:not(:empty)")
    states["error"] = violations()
    context.close()
    assert not any(states.values()), states


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


def test_a_served_page_has_the_headers_for_threads():
    addresses = []
    started = threading.Event()

    def ready(address):
        addresses.append(address)
        started.set()

    threading.Thread(target=serve_page, args=("<p>page</p>", ready), daemon=True).start()
    assert started.wait(10)
    assert addresses[0].startswith("http://127.0.0.1:")
    with urllib.request.urlopen(addresses[0]) as answer:
        assert answer.read() == b"<p>page</p>"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{addresses[0]}etc/passwd")


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
