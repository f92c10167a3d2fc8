"""Georeferenced rasters of any size: size of pixels on the ground, imagery in, maps out.

GDAL does the reading and writing, through rasterio, by strips of rows; no raster needs to fit in memory.
"""

from landcover.raster.address import display_name
from landcover.raster.georeference import (
    Georeference,
    Header,
    ground_sample_distance,
    ground_sides,
    pixel_size,
    read_georeference,
    read_header,
    row_areas,
)
from landcover.raster.scene import Reading, Scene, Strip, is_picture, open_scene, read_picture
from landcover.raster.style import style_files, write_style
from landcover.raster.writing import RasterSpec, write_bands, write_class_raster, write_map

__all__ = [
    "Georeference",
    "Header",
    "RasterSpec",
    "Reading",
    "Scene",
    "Strip",
    "display_name",
    "ground_sample_distance",
    "ground_sides",
    "is_picture",
    "open_scene",
    "pixel_size",
    "read_georeference",
    "read_header",
    "read_picture",
    "row_areas",
    "style_files",
    "write_bands",
    "write_class_raster",
    "write_map",
    "write_style",
]
