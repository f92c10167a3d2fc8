"""Legends: the challenge's table, user legends in YAML, and their names and colours in other software."""

import json
import os
import shutil
import sqlite3
import subprocess
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin

from landcover.errors import ConfigError, UsageError
from landcover.legend import DEEPGLOBE, IGNORE, NODATA, LandClass, Legend, load_legend
from landcover.postprocess.vectorize import vectorize
from landcover.raster import Georeference, style_files, write_map
from landcover.windows import Window

CHALLENGE = {
    "urban": (0, 255, 255),
    "agriculture": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest": (0, 255, 0),
    "water": (0, 0, 255),
    "barren": (255, 255, 255),
    "unknown": (0, 0, 0),
}

PLAIN = st.characters(exclude_categories=("Cc", "Cs"))

GLNET = """
name: glnet
unknown: unknown
classes:
  - {name: unknown, colour: [0, 0, 0]}
  - {name: urban, colour: [0, 255, 255]}
  - {name: agriculture, colour: [255, 255, 0]}
"""


def test_color_is_accepted_for_colour():
    data = json.loads(json.dumps(DEEPGLOBE.to_dict()).replace("colour", "color"))
    assert Legend.from_dict(data) == DEEPGLOBE


def test_deepglobe_is_the_challenges_table_in_its_order():
    assert [(c.name, c.colour) for c in DEEPGLOBE.classes] == list(CHALLENGE.items())
    assert DEEPGLOBE.names[6] == "unknown"
    assert DEEPGLOBE.scored == (0, 1, 2, 3, 4, 5)
    assert DEEPGLOBE.scored_names == tuple(CHALLENGE)[:6]


def test_tables_give_colours_and_channels_and_nothing_where_there_is_no_class():
    assert [tuple(colour) for colour in DEEPGLOBE.colours[:7]] == list(CHALLENGE.values())
    assert not DEEPGLOBE.colours[7:].any()
    assert DEEPGLOBE.channels[:7].tolist() == [0, 1, 2, 3, 4, 5, IGNORE]
    assert set(DEEPGLOBE.channels[7:].tolist()) == {IGNORE}
    assert DEEPGLOBE.channels[NODATA] == IGNORE


def test_channels_skip_an_unknown_class_in_front(tmp_path):
    (tmp_path / "glnet.yaml").write_text(GLNET)
    legend = load_legend(tmp_path / "glnet.yaml")
    assert legend.scored == (1, 2)
    assert legend.scored_names == ("urban", "agriculture")
    assert legend.channels[:4].tolist() == [IGNORE, 0, 1, IGNORE]


def test_every_class_is_scored_where_none_is_unknown():
    legend = Legend("two", (LandClass("a", (0, 0, 0)), LandClass("b", (1, 2, 3))), None)
    assert legend.scored == (0, 1)


@settings(max_examples=50)
@given(
    names=st.lists(st.text(PLAIN, min_size=1, max_size=8), min_size=2, max_size=20, unique=True),
    first=st.integers(0, 1 << 23),
    pick=st.integers(-1, 100),
)
def test_plain_data_keeps_a_legend_through_json_and_yaml(names, first, pick):
    colours = range(first, first + 999 * len(names), 999)
    classes = tuple(
        LandClass(name, (c >> 16, c >> 8 & 255, c & 255)) for name, c in zip(names, colours, strict=True)
    )
    legend = Legend("user", classes, None if pick < 0 else pick % len(names))
    assert Legend.from_dict(json.loads(json.dumps(legend.to_dict()))) == legend
    assert Legend.from_dict(yaml.safe_load(yaml.safe_dump(legend.to_dict()))) == legend


def test_deepglobe_is_found_by_its_name_and_others_by_the_nearest():
    assert load_legend("deepglobe") is DEEPGLOBE
    with pytest.raises(UsageError, match="Did you mean 'deepglobe'"):
        load_legend("deepglob")


def plain(**changes):
    data = {
        "name": "test",
        "classes": [{"name": "a", "colour": [0, 0, 0]}, {"name": "b", "colour": [255, 0, 0]}],
        "unknown": None,
    }
    return data | changes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a", "b"], "expected keys and values, found \\['a', 'b'\\]"),
        (plain(unknwon="a"), "unknown key 'unknwon'.*'unknown'"),
        (plain(classes=[{"name": "a"}]), "classes.0.colour is missing"),
        (plain(classes=[{"name": False, "colour": [0, 0, 0]}]), "classes.0.name: found False.*quotes"),
        (plain(classes=[{"name": "a", "colour": [0, 0, 0.5]}]), "classes.0.colour.2: found 0.5"),
        (plain(classes=[{"name": n, "colour": [0, 0, v]} for n, v in [("a", 0), ("b", 256)]]), "0..255"),
        (plain(classes=[{"name": n, "colour": [0] * 3} for n in "ab"]), r"colour \(0, 0, 0\) more than once"),
        (plain(classes=[{"name": "a", "colour": [0, 0, v]} for v in (1, 2)]), "name a more than once"),
        (plain(classes=[{"name": "a", "colour": [0, 0, 0]}]), "1 classes; expected 2 to 255"),
        (plain(unknown="c"), "unknown class 'c'.*Known: a, b"),
    ],
)
def test_invalid_legends_name_the_key_and_the_value(data, message):
    with pytest.raises(ConfigError, match=message):
        Legend.from_dict(data)


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "bell\x07", "half\ud800"])
def test_names_with_control_characters_are_refused(name):
    with pytest.raises(ConfigError, match="expected no control characters"):
        Legend("two", (LandClass("a", (0, 0, 0)), LandClass(name, (1, 1, 1))), None)
    with pytest.raises(ConfigError, match="expected no control characters"):
        Legend(name, DEEPGLOBE.classes, None)


def test_more_than_255_classes_and_an_unknown_out_of_range_are_refused():
    classes = tuple(LandClass(str(i), (0, i // 256, i % 256)) for i in range(256))
    with pytest.raises(ConfigError, match="256 classes"):
        Legend("many", classes, None)
    with pytest.raises(ConfigError, match="unknown=3; expected 0 to 2"):
        Legend("few", classes[:3], 3)


PLACE = Georeference(100, 100, from_origin(500_000, 5_700_000, 0.5, 0.5), CRS.from_epsg(32631))
ODD = Legend("odd", (LandClass('<a & "b">', (1, 2, 255)), LandClass("Wälder", (0, 255, 16))), None)
BACKGROUND = (12, 34, 56)
QGIS = Path(__file__).with_name("qgis_view.py")
SYSTEM_PYTHON = "/usr/bin/python3"


@cache
def has_qgis() -> bool:
    command = [SYSTEM_PYTHON, "-c", "import qgis.core"]
    return Path(SYSTEM_PYTHON).exists() and not subprocess.run(command, capture_output=True).returncode


def blocks(legend: Legend, *, unknown: bool = False) -> np.ndarray:
    """A map of 120 x 160 pixels: a block of 40 x 40 for each class, nodata after the last."""
    index = np.full((3, 4), NODATA, np.uint8)
    classes = range(len(legend)) if unknown else legend.scored
    index.flat[: len(classes)] = classes
    return index.repeat(40, axis=0).repeat(40, axis=1)


def written(path: Path, legend: Legend, *, unknown: bool = False) -> np.ndarray:
    index = blocks(legend, unknown=unknown)
    write_map(path, [index], PLACE.part(Window(0, 0, *index.shape)), legend)
    return index


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("legend", [DEEPGLOBE, ODD], ids=lambda legend: legend.name)
def test_a_style_lists_the_classes_that_can_occur(tmp_path: Path, legend: Legend, unknown: bool) -> None:
    written(tmp_path / "m.tif", legend, unknown=unknown)
    qml, metadata = style_files(tmp_path / "m.tif")
    assert (qml.name, metadata.name) == ("m.qml", "m.tif.aux.xml")
    listed = [
        (str(i), c.name, "#{:02x}{:02x}{:02x}".format(*c.colour))
        for i, c in enumerate(legend.classes)
        if unknown or i != legend.unknown
    ]
    renderer = ElementTree.parse(qml).find("./pipe/rasterrenderer")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [entry.attrib for entry in renderer.iterfind("./colorPalette/paletteEntry")]
    assert [(e["value"], e["label"], e["color"]) for e in entries] == listed
    band = ElementTree.parse(metadata).find("./PAMRasterBand")
    assert band is not None
    assert [c.text for c in band.iterfind("./CategoryNames/Category")] == [name for _, name, _ in listed]
    rows = [[cell.text for cell in row] for row in band.iterfind("./GDALRasterAttributeTable/Row")]
    assert [(v, n, "#{:02x}{:02x}{:02x}".format(*map(int, rgb))) for v, n, *rgb in rows] == listed  # type: ignore[arg-type]


def test_no_style_writes_the_map_alone(tmp_path: Path) -> None:
    index = blocks(ODD)
    write_map(tmp_path / "m.tif", [index], PLACE.part(Window(0, 0, *index.shape)), ODD, style=False)
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


def test_a_geopackage_carries_its_style_in_a_version_that_old_gdal_reads(tmp_path: Path) -> None:
    written(tmp_path / "m.tif", ODD)
    vectorize(tmp_path / "m.tif", tmp_path / "m.gpkg")
    connection = sqlite3.connect(tmp_path / "m.gpkg")
    ((version,),) = connection.execute("pragma user_version")
    assert version == 10300  # GDAL 3.6 warns of 10400
    query = "select f_table_name, f_geometry_column, useAsDefault, styleQML from layer_styles"
    ((table, column, default, qml),) = connection.execute(query)
    ((expected,),) = connection.execute("select column_name from gpkg_geometry_columns")
    assert (table, column, default) == ("m", expected, 1)
    root = ElementTree.fromstring(qml.partition("\n")[2])
    assert [c.get("value") for c in root.iterfind("./renderer-v2/categories/category")] == list(ODD.names)


@pytest.mark.skipif(not has_qgis(), reason="PyQGIS is not installed (apt-get install python3-qgis)")
@pytest.mark.parametrize("legend", [DEEPGLOBE, ODD], ids=lambda legend: legend.name)
def test_qgis_shows_names_and_colours(tmp_path: Path, legend: Legend) -> None:
    index = written(tmp_path / "map.tif", legend)
    vectorize(tmp_path / "map.tif", tmp_path / "map.gpkg")
    shutil.copy(
        tmp_path / "map.tif", tmp_path / "names.tif"
    )  # without .qml: the colour table has 256 entries
    shutil.copy(tmp_path / "map.tif.aux.xml", tmp_path / "names.tif.aux.xml")
    files = [str(tmp_path / name) for name in ("map.tif", "names.tif", "map.gpkg")]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GDAL"))
    }
    done = subprocess.run(
        [SYSTEM_PYTHON, str(QGIS), str(tmp_path), *files],
        env=environment | {"QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "only be partially supported" not in done.stderr  # GDAL's warning of a later GeoPackage
    shown = json.loads(done.stdout.splitlines()[-1])
    named = [
        [legend.names[i], "#{:02x}{:02x}{:02x}".format(*legend.classes[i].colour)] for i in legend.scored
    ]
    assert [entry[:2] for entry in shown[files[0]]] == named
    assert [entry[:2] for entry in shown[files[1]]][: len(named)] == named
    assert [entry[:2] for entry in shown[files[2]]] == named
    colours = np.where((index == NODATA)[..., None], BACKGROUND, legend.colours[index])
    for file in files:
        picture = np.asarray(Image.open(f"{file}.png").convert("RGB"))
        assert picture.shape == colours.shape
        centres = np.s_[20::40, 20::40]  # borders of polygons may fall on either side
        np.testing.assert_array_equal(picture[centres], colours[centres])
        assert (picture != colours).any(axis=-1).mean() < 0.03
