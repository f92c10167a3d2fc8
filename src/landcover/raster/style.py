"""Names and colours of the classes for other software, all from a :class:`Legend`.

A GeoTIFF gets two files beside it: ``NAME.qml``, which QGIS applies to ``NAME.tif``, and ``NAME.tif.aux.xml``
with GDAL's category names and raster attribute table. A GeoPackage gets the style of its polygons.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from landcover.io.files import write_text
from landcover.legend import NODATA, LandClass, Legend

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
"""Columns of the attribute table: name, type (GDALRATFieldType) and use (GDALRATFieldUsage)."""


def colour_table(legend: Legend) -> dict[int, tuple[int, int, int, int]]:
    """Return RGBA of each class index, and of nodata, which is transparent."""
    return {i: (*c.colour, 255) for i, c in enumerate(legend.classes)} | {NODATA: (0, 0, 0, 0)}


def style_files(path: Path) -> tuple[Path, Path]:
    """Return the files that :func:`write_style` writes beside a GeoTIFF."""
    return path.with_suffix(".qml"), path.with_name(f"{path.name}.aux.xml")


def write_style(path: Path, legend: Legend, *, unknown: bool = False) -> None:
    """Write names and colours of the classes beside a GeoTIFF of class indices; existing ones are replaced.

    ``unknown``: also list the unknown class, which models never predict.
    """
    qml, metadata = style_files(path)
    write_text(metadata, _metadata(legend, unknown=unknown), force=True)
    write_text(qml, _raster_qml(legend, unknown=unknown), force=True)


def _listed(legend: Legend, *, unknown: bool) -> Iterator[tuple[int, LandClass]]:
    """Yield index and class of the classes that a style lists."""
    return ((i, c) for i, c in enumerate(legend.classes) if unknown or i != legend.unknown)


def _raster_qml(legend: Legend, *, unknown: bool) -> str:
    style = Element("qgis", version="3.0", styleCategories="Symbology")
    form = {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1"}
    renderer = SubElement(SubElement(style, "pipe"), "rasterrenderer", form)
    entries = SubElement(renderer, "colorPalette")
    for index, entry in _listed(legend, unknown=unknown):
        colour = "#{:02x}{:02x}{:02x}".format(*entry.colour)
        SubElement(entries, "paletteEntry", value=str(index), color=colour, alpha="255", label=entry.name)
    return _DOCTYPE + _text(style)


def _metadata(legend: Legend, *, unknown: bool) -> str:
    """Return the content of ``.aux.xml``; category names are numbered without gaps, so a gap is empty."""
    data = Element("PAMDataset")
    band = SubElement(data, "PAMRasterBand", band="1")
    listed = dict(_listed(legend, unknown=unknown))
    categories = SubElement(band, "CategoryNames")
    for index in range(max(listed) + 1):
        SubElement(categories, "Category").text = listed[index].name if index in listed else ""
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for number, (name, kind, use) in enumerate(_COLUMNS):
        column = SubElement(table, "FieldDefn", index=str(number))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", use)):
            SubElement(column, tag).text = str(value)
    for number, (index, entry) in enumerate(listed.items()):
        row = SubElement(table, "Row", index=str(number))
        for value in (index, entry.name, *entry.colour):
            SubElement(row, "F").text = str(value)
    return _text(data)


def polygon_qml(legend: Legend, column: str) -> str:
    """Return a QGIS style that fills polygons with the colour of the class that a column names."""
    style = Element("qgis", version="3.0", styleCategories="Symbology")
    renderer = SubElement(style, "renderer-v2", type="categorizedSymbol", attr=column, symbollevels="0")
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for index, entry in _listed(legend, unknown=False):
        name, symbol = entry.name, str(index)
        SubElement(categories, "category", symbol=symbol, value=name, label=name, render="true")
        layer = SubElement(
            SubElement(symbols, "symbol", type="fill", name=symbol, alpha="1"),
            "layer",
            {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"},
        )
        options = SubElement(layer, "Option", type="Map")
        colour = ",".join(map(str, (*entry.colour, 255)))
        for key, value in (("color", colour), ("style", "solid"), ("outline_style", "no")):
            SubElement(options, "Option", type="QString", name=key, value=value)
    SubElement(style, "layerGeometryType").text = "2"
    return _DOCTYPE + _text(style)


def _text(element: Element) -> str:
    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode") + "\n"
