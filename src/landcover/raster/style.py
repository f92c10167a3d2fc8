"""The classes of a map as a style that QGIS takes up by itself."""

from pathlib import Path
from xml.etree import ElementTree

from landcover.io.files import write_text
from landcover.legend import Legend


def write_qml(path: Path, legend: Legend, *, force: bool = False) -> None:
    """Write names and colours of the classes as a QGIS layer style (paletted renderer).

    QGIS applies it to a raster of the same name beside it: ``scene_mask.qml`` to ``scene_mask.tif``.

    Args:
        path: The file, ``*.qml``.
        legend: Names and colours.
        force: Replace an existing file.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    style = ElementTree.Element("qgis", version="3.0", styleCategories="Symbology")
    renderer = ElementTree.SubElement(
        ElementTree.SubElement(style, "pipe"),
        "rasterrenderer",
        {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1"},
    )
    entries = ElementTree.SubElement(renderer, "colorPalette")
    for index, entry in enumerate(legend.classes):
        colour = "#{:02x}{:02x}{:02x}".format(*entry.colour)
        ElementTree.SubElement(
            entries, "paletteEntry", value=str(index), color=colour, alpha="255", label=entry.name
        )
    ElementTree.indent(style)
    text = ElementTree.tostring(style, encoding="unicode")
    doctype = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
    write_text(path, f"{doctype}\n{text}\n", force=force)
