import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from commands import invoke
from fake_runtime import ColourRuntime, ConstantRuntime, make_card
from imagefiles import save_raster
from landcover.errors import DataError, ModelError, OutputError, UsageError
from landcover.inference import PredictOptions, predict
from landcover.inference.plan import plan
from landcover.io import read_mask
from landcover.legend import DEEPGLOBE, NODATA

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 6, (8, 11), dtype=np.uint8).repeat(6, 0).repeat(6, 1)


def save(path, index=TRUTH):
    """Save an image that the colour runtime maps to ``index``, as the path's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DEEPGLOBE.colours[index]).save(path, quality=100, subsampling=0)
    return path


def save_geotiff(path, index=TRUTH, **profile):
    return save_raster(path, DEEPGLOBE.colours[index], place=True, **profile)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def run(inputs, out, runtime=None, **options):
    """Predict; where no GSD is known, it is the model's."""
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return predict(inputs, runtime or ColourRuntime(), out, PredictOptions(**{"gsd": "model"} | options))


@pytest.mark.parametrize("name", ["12_sat.png", "12.png", "12_sat.webp", "12.jp2.png", "12_sat.jpg"])
def test_a_map_is_named_after_its_image(tmp_path, name):
    run(save(tmp_path / name), tmp_path / "out")
    expected = name.rpartition(".")[0].removesuffix("_sat") + "_mask.png"
    assert files(tmp_path / "out") == [expected]
    if not name.endswith("webp"):  # lossy at its default
        assert np.array_equal(read_mask(tmp_path / "out" / expected, DEEPGLOBE).index, TRUTH)


def test_folders_are_searched_and_kept_and_masks_are_no_images(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    for name in ("train/1_sat.png", "train/1_mask.png", "validation/1_sat.png", "x_label.png", "b.PNG"):
        save(data / name)
    save(data / ".cache/2_sat.png")
    (data / "notes.txt").write_text("no image")
    run(data, out)
    assert files(out) == ["b_mask.png", "train/1_mask.png", "validation/1_mask.png"]


def test_maps_beside_their_images_are_not_predicted_again(tmp_path):
    save(tmp_path / "1_sat.png")
    run(tmp_path, tmp_path, probabilities=True)
    again = run(tmp_path, tmp_path, probabilities=True, force=True)
    assert files(tmp_path) == ["1_mask.png", "1_probabilities.tif", "1_sat.png"]
    assert len(again.maps) == 1


@pytest.mark.parametrize(("mask_format", "mode"), [("palette", "P"), ("rgb", "RGB"), ("index", "L")])
def test_the_form_of_plain_maps_can_be_chosen(tmp_path, mask_format, mode):
    run(save(tmp_path / "1.png"), tmp_path, mask_format=mask_format)
    with Image.open(tmp_path / "1_mask.png") as image:
        assert image.mode == mode
    assert np.array_equal(read_mask(tmp_path / "1_mask.png", DEEPGLOBE).index, TRUTH)


def test_nodata_stays_nodata_and_counts_for_no_class(tmp_path):
    index = TRUTH.copy()
    index[10:30, 20:50] = 6  # unknown is black, and black is this raster's nodata
    path = save_geotiff(tmp_path / "scene.tif", index, nodata=0)
    result = run(path, tmp_path, ColourRuntime(make_card(gsd=0.5)), probabilities=True, min_region="20px")
    with rasterio.open(tmp_path / "scene_mask.tif") as source:
        assert np.array_equal(source.read(1) == NODATA, index == 6)
    with rasterio.open(tmp_path / "scene_probabilities.tif") as source:
        assert (source.read()[:, index == 6] == 255).all()
    assert result.to_dict()["maps"][0]["nodata_pixels"] == 600
    assert sum(area.pixels for area in result.areas) == index.size - 600


@pytest.mark.parametrize("name", ["1.png", "1.webp", "plain.tif", "scene.tif"])
def test_nothing_is_said_under_alpha_0_whatever_the_file(tmp_path, name):
    """A georeferenced raster had nodata there, and a PNG of the same pixels a class."""
    alpha = np.full(TRUTH.shape, 255, np.uint8)
    alpha[10:30, 20:50] = 0
    bands = np.dstack([DEEPGLOBE.colours[TRUTH], alpha])
    if name == "scene.tif":
        save_raster(tmp_path / name, bands, place=True, photometric="RGB", alpha="YES")
    else:
        Image.fromarray(bands).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    result = run(tmp_path / name, tmp_path / "out", ColourRuntime(make_card(gsd=0.5)), probabilities=True)
    index = read_mask(result.maps[0].task.map, DEEPGLOBE).index
    assert np.array_equal(index, np.where(alpha == 0, NODATA, TRUTH))
    with rasterio.open(result.maps[0].task.beside("_probabilities.tif")) as source:
        assert (source.read()[:, alpha == 0] == 255).all()


def test_areas_are_counted(tmp_path):
    index = np.zeros((100, 50), np.uint8)
    index[80:] = 4
    save(tmp_path / "in/1.png", index)
    save(tmp_path / "in/2.png", index)
    known = run(tmp_path / "in", tmp_path / "a", gsd=2.0, runtime=ColourRuntime(make_card(gsd=2.0)))
    urban, water = known.areas[0], known.areas[4]
    assert (urban.name, urban.pixels, urban.share, urban.hectares) == ("urban", 8000, 0.8, 3.2)
    assert (water.name, water.pixels, water.share, water.hectares) == ("water", 2000, 0.2, 0.8)
    assumed = run(tmp_path / "in", tmp_path / "b")
    assert assumed.areas[0].pixels == 8000
    assert assumed.areas[0].hectares is None


def test_maps_tell_their_origin(tmp_path):
    run(save(tmp_path / "1.png"), tmp_path, gsd=0.5, min_region="2px")
    run(save_geotiff(tmp_path / "2.tif"), tmp_path)
    with Image.open(tmp_path / "1_mask.png") as image:
        image.load()
        plain = dict(image.text)
    with rasterio.open(tmp_path / "2_mask.tif") as source:
        referenced = source.tags()
    assert plain["LANDCOVER_GSD"] == "0.5 (option)"
    assert plain["LANDCOVER_MIN_REGION"] == "2px"
    assert referenced["LANDCOVER_GSD"] == "0.5 (raster)"
    assert referenced["LANDCOVER_MODEL_GSD"] == plain["LANDCOVER_MODEL_GSD"] == "1"
    assert referenced["LANDCOVER_VERSION"]


def test_the_scale_is_never_guessed_silently(tmp_path):
    plain = save(tmp_path / "in/deep/plain.png")
    raster = save_geotiff(tmp_path / "in/raster.tif")

    def scales(**options):
        made = run([raster, plain], tmp_path / "out", force=True, **options).maps
        return [one.scale for one in made]

    assert scales() == [(0.5, "raster"), (1.0, "assumed")]
    with pytest.raises(UsageError, match=rf"1 of 2 images .*{plain.name}.*--gsd 0.5.*--gsd model.* 1 m"):
        scales(gsd=None)
    (tmp_path / "in/landcover.yaml").write_text("gsd: 2.5\n")
    assert scales() == [(0.5, "raster"), (2.5, "data folder")]
    assert scales(gsd=None) == [(0.5, "raster"), (2.5, "data folder")]
    assert scales(gsd=0.25) == [(0.25, "option")] * 2


def test_the_scale_of_a_raster_is_not_that_of_a_picture_beside_it(tmp_path):
    save_geotiff(tmp_path / "in/raster.tif")
    plain = save(tmp_path / "in/plain.png")
    assert [one.scale for one in run([plain], tmp_path / "out").maps] == [(1.0, "assumed")]
    with pytest.raises(UsageError, match=plain.name):
        run([tmp_path / "in"], tmp_path / "out", gsd=None)


def test_a_recognised_layout_tells_the_scale(tmp_path):
    index = np.zeros((512, 512), np.uint8)
    save(tmp_path / "tiles/train/0000_sat.jpg", index)
    save(tmp_path / "tiles/validation/0000_sat.jpg", index)
    made = run(tmp_path / "tiles", tmp_path / "out", ConstantRuntime()).maps
    assert [one.scale for one in made] == [(1.195, "data folder")] * 2


def test_a_bad_image_is_told_of_and_the_others_are_done(tmp_path):
    save(tmp_path / "in/1.png")
    save(tmp_path / "in/3.png")
    whole = save(tmp_path / "in/2.jpg").read_bytes()
    (tmp_path / "in/2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in/4.png").write_bytes(b"")
    (tmp_path / "in/5.tif").write_text("no image")
    save_geotiff(tmp_path / "in/6.tif", dtype="uint16")
    result = run(tmp_path / "in", tmp_path / "out", max_pixels=TRUTH.size)
    assert files(tmp_path / "out") == ["1_mask.png", "3_mask.png"]
    assert [Path(name).name for name in result.failed] == ["2.jpg", "4.png", "5.tif", "6.tif"]
    assert all(name in reason for name, reason in result.failed.items())
    assert run(tmp_path / "in", tmp_path / "no", max_pixels=TRUTH.size - 1).maps == []


def test_a_raster_of_huge_pixels_is_told_of_and_the_others_are_done(tmp_path):
    huge = save_geotiff(tmp_path / "in/1.tif", transform=Affine(1e5, 0, 0, 0, -1e5, 5.7e6))
    save_geotiff(tmp_path / "in/2.tif")
    result = run(tmp_path / "in", tmp_path / "out")
    assert files(tmp_path / "out") == ["2_mask.qml", "2_mask.tif", "2_mask.tif.aux.xml"]
    assert "pass --gsd" in result.failed[str(huge)]
    assert str(huge) in result.failed[str(huge)]


def test_images_that_would_share_a_map_are_refused_before_any_work(tmp_path):
    first, second = save(tmp_path / "a/x_sat.png"), save(tmp_path / "a/x.jpg")
    with pytest.raises(OutputError, match=r"x\.jpg and .*x_sat\.png would both"):
        run(tmp_path / "a", tmp_path / "out")
    with pytest.raises(OutputError, match="would both"):
        run([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_existing_maps_are_refused_before_any_work(tmp_path):
    save(tmp_path / "in/1.png")
    save(tmp_path / "in/2.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/2_mask.png").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        run(tmp_path / "in", tmp_path / "out")
    assert files(tmp_path / "out") == ["2_mask.png"]
    run(tmp_path / "in", tmp_path / "out", force=True)
    assert np.array_equal(read_mask(tmp_path / "out/2_mask.png", DEEPGLOBE).index, TRUTH)


def test_inputs_are_never_replaced(tmp_path):
    image, other = save(tmp_path / "1.png"), save(tmp_path / "1_mask.png")
    with pytest.raises(OutputError, match="replace an input"):
        run([image, other], tmp_path, force=True)


def test_addresses_are_named_without_their_secrets(tmp_path):
    addresses = [f"http://user:secret@host/{folder}/a.tif?sig=secret" for folder in "bc"]
    with pytest.raises(OutputError, match=r"http://host/b/a\.tif and http://host/c/a\.tif") as error:
        run(addresses, tmp_path)
    assert "secret" not in str(error.value)


def test_wrong_arguments_are_refused_before_any_work(tmp_path):
    path, out = save(tmp_path / "1.png"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        (UsageError, "No input", {"inputs": []}),
        (DataError, "does not exist", {"inputs": [path, tmp_path / "missing.png"]}),
        (DataError, "holds no images", {"inputs": [tmp_path / "empty"]}),
        (UsageError, "ground sample distance", {"gsd": 0.0}),
        (UsageError, "LEFT < RIGHT", {"bbox": (2.0, 0.0, 1.0, 1.0)}),
        (UsageError, "MINIMUM < MAXIMUM", {"scaling": (0.0, float("nan"))}),
        (UsageError, "overlap", {"overlap_px": 64}),  # the window of the card
        (UsageError, r"http://\[::1/s\.tif is not a valid address", {"inputs": ["http://[::1/s.tif"]}),
        (UsageError, "8000px", {"min_region": "8000"}),
        (OutputError, "is a file", {"out": tmp_path / "file"}),
        (ModelError, "no model", {"model": tmp_path / "missing"}),
    ]
    for error, message, changes in cases:
        arguments = {"inputs": [path], "model": ColourRuntime(), "out": out, "gsd": 1.0} | changes
        given = [arguments.pop(name) for name in ("inputs", "model", "out")]
        with pytest.raises(error, match=message):
            predict(*given, PredictOptions(**arguments))
    assert not out.exists()


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A path that stands for the colour runtime."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    monkeypatch.setattr("landcover.inference.maps.open_model", lambda path, **_: ColourRuntime())
    return path


def test_the_command_prints_areas_and_writes_json(tmp_path, model):
    path, out, report = save(tmp_path / "1.png"), tmp_path / "out", tmp_path / "report.json"
    done = invoke("predict", path, "--model", model, "--out", out, "--gsd", 1, "--json", report)
    assert "agriculture" in done.stdout
    assert "1 of 1 maps" in done.stderr
    content = json.loads(report.read_text())
    assert content["model_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert content["maps"][0]["map"] == str(out / "1_mask.png")
    assert sum(entry["pixels"] for entry in content["classes"]) == TRUTH.size


def test_a_png_map_that_is_kept_has_the_areas_of_its_scene(tmp_path, model):
    scene = save_geotiff(tmp_path / "scene.tif")
    words = ("predict", scene, "--model", model, "--out", tmp_path / "out", "--map-format", "png", "--gsd", 1)
    invoke(*words, "--csv", tmp_path / "made.csv")
    invoke(*words, "--csv", tmp_path / "kept.csv", "--resume")
    made, kept = (list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("made", "kept"))
    assert kept == made
    assert sum(float(row["square_metres"]) for row in made) == pytest.approx(TRUTH.size / 4, rel=0.01)


def test_no_cell_of_the_areas_is_a_formula(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--model", model, "--out", "=1+1", "--gsd", 1, "--csv", "areas.csv")
    invoke("predict", save(tmp_path / "1.png"), *words)
    with (tmp_path / "areas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["map"] for row in rows} == {"'" + str(Path("=1+1/1_mask.png"))}
    assert sum(int(row["pixels"]) for row in rows) == TRUTH.size


def test_the_scale_of_an_address_is_not_known_before_it_is_opened(tmp_path):
    options = PredictOptions(gsd="model")
    (task,) = plan(["https://host.invalid/a.tif"], tmp_path, options, model_gsd=2.0)
    assert task.scale is None


def test_the_command_fails_in_part(tmp_path, model):
    save(tmp_path / "in/1.png")
    (tmp_path / "in/2.png").write_text("no image")
    words = (tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--gsd", 1)
    done = invoke("predict", *words, status=1)
    assert f"skipped. {tmp_path / 'in/2.png'}" in done.stderr
    assert "1 of 2 maps" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--csv"])
@pytest.mark.parametrize("victim", ["model.safetensors", "1.png", "o/1_mask.png"])
def test_a_report_replaces_neither_the_model_nor_the_image_nor_the_map(tmp_path, model, option, victim):
    image = save(tmp_path / "1.png")
    precious = {path: path.read_bytes() for path in (model, image)}
    words = (image, "--model", model, "--out", tmp_path / "o", "--force", option, tmp_path / victim)
    with pytest.raises(UsageError, match=f"{option} would write .*{victim}; expected a name that ends with"):
        invoke("predict", *words)
    assert all(path.read_bytes() == content for path, content in precious.items())
    assert not (tmp_path / "o").exists()


def test_inputs_may_stand_in_a_list(tmp_path, model, monkeypatch):
    for name in ("in/1.png", "in/2 and.png", "in/more/3.png", "4.png", "5.png"):
        save(tmp_path / name)
    text = f"# those to map\r\n\n1.png\n  2 and.png  \nmore\n{tmp_path / '4.png'}\n"
    (tmp_path / "in/list.txt").write_text(text, encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)  # not from where the command is given, but from the list's folder
    out = tmp_path / "out"
    invoke("predict", "5.png", "--list", "in/list.txt", "--model", model, "--out", out, "--gsd", 1)
    assert files(out) == ["1_mask.png", "2 and_mask.png", "3_mask.png", "4_mask.png", "5_mask.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"# no\n", "no input"),
        (b"x.png", "x.png"),
    ],
)
def test_a_list_that_leads_nowhere_is_told_of(tmp_path, model, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        invoke("predict", "--list", tmp_path / "list.txt", "--model", model, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
