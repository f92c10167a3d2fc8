"""Masks between colours and indices: round trips, names, what stops a job, and bad files in it."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from commands import invoke
from imagefiles import class_index, cut, photo, save, save_palette, save_raster
from landcover.data.conversion import convert
from landcover.errors import DataError, OutputError, UsageError
from landcover.legend import DEEPGLOBE

GLNET = """
name: glnet
unknown: unknown
classes:
  - {name: unknown, colour: [0, 0, 0]}
  - {name: urban, colour: [0, 255, 255]}
  - {name: agriculture, colour: [255, 255, 0]}
  - {name: rangeland, colour: [255, 0, 255]}
  - {name: forest, colour: [0, 255, 0]}
  - {name: water, colour: [0, 0, 255]}
  - {name: barren, colour: [255, 255, 255]}
"""


def pixels(path):
    return np.asarray(Image.open(path))


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def masks(tmp_path):
    """A folder as the challenge has it: colour masks beside imagery, in two parts with equal ids."""
    for seed, part in enumerate(("train", "valid/deep")):
        rgb = DEEPGLOBE.colours[class_index(seed=seed)]
        save(tmp_path / "masks" / part / "7_mask.png", rgb)
        save(tmp_path / "masks" / part / "7_sat.jpg", photo(seed=seed))
    (tmp_path / "masks" / "class_dict.csv").write_text("name,r,g,b\n")
    return tmp_path / "masks"


def test_a_folder_keeps_its_structure_and_leaves_imagery_out(masks, tmp_path):
    result = convert([masks], tmp_path / "out", to="index")
    assert tree(tmp_path / "out") == ["train/7_mask.png", "valid/deep/7_mask.png"]
    assert [p.relative_to(tmp_path / "out").as_posix() for p in result.written] == tree(tmp_path / "out")
    assert (result.failed, result.off_palette) == ({}, {})
    for seed, part in enumerate(("train", "valid/deep")):
        with Image.open(tmp_path / "out" / part / "7_mask.png") as image:
            assert image.mode == "L"
        np.testing.assert_array_equal(pixels(tmp_path / "out" / part / "7_mask.png"), class_index(seed=seed))


@pytest.mark.parametrize(("mask_format", "mode"), [(None, "P"), ("palette", "P"), ("rgb", "RGB")])
def test_colour_masks_are_a_palette_or_three_bands(tmp_path, mask_format, mode):
    index = class_index(31, 17)
    convert([save(tmp_path / "a.png", index)], tmp_path / "out", to="colour", mask_format=mask_format)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), DEEPGLOBE.colours[index])


def test_a_legend_from_yaml_gives_its_own_index_order(tmp_path):
    """Unknown first, as GLNet numbers the classes; every form of one mask becomes the same indices."""
    (tmp_path / "glnet.yaml").write_text(GLNET)
    index = class_index()
    rgb = DEEPGLOBE.colours[index]
    files = [
        save(tmp_path / "colour.png", rgb),
        save_raster(tmp_path / "raster.tif", rgb),
        save(tmp_path / "lossy.jpg", rgb, quality=95, subsampling=0),
        save_palette(tmp_path / "palette.png", index, DEEPGLOBE.colours[:7]),
        save(tmp_path / "index.png", ((index + 1) % 7).astype(np.uint8)),
    ]
    options = ("--to", "index", "--out", tmp_path / "out", "--legend", tmp_path / "glnet.yaml")
    invoke("convert", *files, *options)
    for file in files:
        np.testing.assert_array_equal(pixels(tmp_path / "out" / f"{file.stem}.png"), (index + 1) % 7)


@pytest.mark.parametrize(
    "options", [{"to": "index"}, {"to": "colour"}, {"to": "colour", "mask_format": "rgb"}]
)
def test_a_georeferenced_mask_stays_in_its_place(tmp_path, options):
    place = {"crs": CRS.from_epsg(32647), "transform": Affine(0.5, 0, 700_000, 0, -0.5, 1_500_000)}
    index = class_index()
    (tmp_path / "masks").mkdir()
    save_raster(tmp_path / "masks/a.tif", DEEPGLOBE.colours[index], **place)
    save_raster(tmp_path / "masks/b.tif", DEEPGLOBE.colours[index])
    convert([tmp_path / "masks"], tmp_path / "out", **options)
    assert tree(tmp_path / "out") == ["a.qml", "a.tif", "a.tif.aux.xml", "b.png"]
    with rasterio.open(tmp_path / "out/a.tif") as raster:
        assert {"crs": raster.crs, "transform": raster.transform} == place
        np.testing.assert_array_equal(raster.read(1), index)
        assert raster.colormap(1)[3] == (*DEEPGLOBE.classes[3].colour, 255)


def test_bad_files_are_reported_skipped_and_counted(masks, tmp_path):
    save(masks / "grey.png", photo()[..., 0])
    save(masks / "deep.png", np.full((4, 4), 1000, np.uint16))
    save(masks / "cmyk.jpg", photo(), mode="CMYK")
    cut(save(masks / "short.png", DEEPGLOBE.colours[class_index()]), -30)
    (masks / "empty.png").touch()
    done = invoke("convert", masks, "--to", "index", "--out", tmp_path / "out", status=1)
    assert "Converted 2 of 7 masks" in done.output
    for name, reason in {
        "grey.png": "greyscale picture",
        "deep.png": ": 1000.",
        "cmyk.jpg": "CMYK",
        "short.png": "cut short",
        "empty.png": "0 bytes",
    }.items():
        lines = [line for line in done.output.splitlines() if str(masks / name) in line]
        assert len(lines) == 1
        assert reason in lines[0]
    assert tree(tmp_path / "out") == ["train/7_mask.png", "valid/deep/7_mask.png"]


def test_off_palette_pixels_are_counted_and_too_many_are_a_failure(tmp_path):
    rgb = DEEPGLOBE.colours[class_index(50, 40)]
    rgb[:2, :10] = (255, 0, 0)
    path = save(tmp_path / "a.png", rgb)
    assert convert([path], tmp_path / "out", to="index").off_palette == {path: 20}
    assert (pixels(tmp_path / "out" / "a.png")[:2, :10] == 6).all()
    rgb[2, 0] = (255, 0, 0)
    save(path, rgb)
    result = convert([path], tmp_path / "strict", to="index")
    assert "has 21 pixels" in result.failed[path]
    assert "--max-off-palette" in result.failed[path]
    assert not (tmp_path / "strict").exists()
    assert convert([path], tmp_path / "lax", to="index", max_off_palette=0.02).off_palette == {path: 21}


@pytest.mark.parametrize("force", [False, True])
def test_two_masks_of_one_name_are_refused_before_any_work(tmp_path, force):
    for name in ("a/1.png", "b/1.png", "c/1.png", "c/1.tif", "fine.png"):
        save(tmp_path / name, class_index())
    for inputs in (
        [tmp_path / "a", tmp_path / "b"],
        [tmp_path / "a" / "1.png", tmp_path / "b"],
        [tmp_path / "c"],
    ):
        with pytest.raises(OutputError, match=r"would both be written to .*1\.png"):
            convert([tmp_path / "fine.png", *inputs], tmp_path / "out", to="colour", force=force)
    assert not (tmp_path / "out").exists()


def test_existing_results_are_refused_before_any_work_and_replaced_by_force(masks, tmp_path):
    old = save(tmp_path / "out" / "valid" / "deep" / "7_mask.png", class_index(3, 3))
    before = old.read_bytes()
    with pytest.raises(OutputError, match="--force"):
        convert([masks], tmp_path / "out", to="index")
    assert tree(tmp_path / "out") == ["valid/deep/7_mask.png"]
    assert old.read_bytes() == before
    convert([masks], tmp_path / "out", to="index", force=True)
    assert pixels(old).shape == (48, 64)


def test_inputs_are_never_replaced_not_even_by_force(masks):
    before = (masks / "train" / "7_mask.png").read_bytes()
    with pytest.raises(OutputError, match="would replace an input"):
        convert([masks], masks, to="index", force=True)
    assert (masks / "train" / "7_mask.png").read_bytes() == before


def test_results_below_the_input_folder_are_not_converted_again(masks):
    for _ in range(2):
        result = convert([masks], masks / "index", to="index", force=True)
        assert len(result.written) == 2
    assert tree(masks / "index") == ["train/7_mask.png", "valid/deep/7_mask.png"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "colours"}, UsageError, "Did you mean 'colour'"),
        ({"to": "index", "mask_format": "rgb"}, UsageError, "for colours only"),
        ({"to": "colour", "mask_format": "index"}, UsageError, "Known: palette, rgb"),
        ({"to": "index", "max_off_palette": 1.5}, UsageError, r"0\.\.1"),
        ({"to": "index", "max_pixels": 0}, UsageError, "at least 1"),
        ({"to": "index", "masks": []}, UsageError, "No input"),
        ({"to": "index", "masks": ["nowhere"]}, DataError, "nowhere does not exist"),
        ({"to": "index", "masks": ["empty"]}, DataError, r"holds no masks.*\.png"),
        ({"to": "index", "masks": ["photos"]}, DataError, r"holds no masks.*_sat"),
        ({"to": "index", "out": "a.png"}, OutputError, r"a\.png is a file; expected a folder"),
    ],
)
def test_wrong_use_stops_before_any_work(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "photos" / "1_sat.jpg", photo())
    save(tmp_path / "a.png", class_index())
    arguments = {"masks": ["a.png"], "out": "out", **options}
    with pytest.raises(error, match=message):
        convert(**arguments)
    assert not (tmp_path / "out").exists()
