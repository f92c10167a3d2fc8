"""Names and colours of classes in other software: GDAL's and QGIS's files, and QGIS itself."""

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
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin

from landcover.legend import DEEPGLOBE, NODATA, LandClass, Legend
from landcover.postprocess.vectorize import vectorize
from landcover.raster import Georeference, RasterSpec, style_files, write_map

PLACE = Georeference(CRS.from_epsg(32631), from_origin(500_000, 5_700_000, 0.5, 0.5))
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
    write_map(path, [index], RasterSpec(*index.shape, PLACE), legend)
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
    write_map(tmp_path / "m.tif", [index], RasterSpec(*index.shape, PLACE), ODD, style=False)
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
