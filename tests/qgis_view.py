"""Open map files in QGIS and print what it shows as JSON; the system's Python runs this, without a window.

Arguments: a folder for pictures, then files, which are drawn in the extent of the first. For each file: the
legend (labels, colours, values) and a picture.
"""

import json
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def open_layer(path: Path) -> QgsMapLayer:
    layer = QgsRasterLayer(str(path)) if path.suffix == ".tif" else QgsVectorLayer(str(path))
    assert layer.isValid(), path
    return layer


def show(path: Path, extent: QgsRectangle, picture: Path) -> list[list[object]]:
    layer, settings = open_layer(path), QgsMapSettings()
    renderer = layer.renderer()
    if path.suffix == ".tif":
        entries = [[entry.label, entry.color.name(), entry.value] for entry in renderer.classes()]
    else:
        entries = [
            [entry.label(), entry.symbol().color().name(), entry.value()] for entry in renderer.categories()
        ]
    settings.setLayers([layer])
    settings.setExtent(extent)
    settings.setDestinationCrs(layer.crs())
    settings.setOutputSize(QSize(160, 120))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    settings.setBackgroundColor(QColor(12, 34, 56))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(picture))
    return entries


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    out, files = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    extent = open_layer(files[0]).extent()
    shown = {str(file): show(file, extent, out / f"{file.name}.png") for file in files}
    print(json.dumps(shown))
    application.exitQgis()
