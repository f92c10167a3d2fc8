"""Georeferenced rasters of any size: size of pixels on the ground, imagery in, maps out.

GDAL does the reading and writing, through rasterio, by strips of rows; no raster needs to fit in memory.
"""

from landcover.raster.address import display_name as display_name
from landcover.raster.georeference import Georeference as Georeference
from landcover.raster.georeference import Header as Header
from landcover.raster.georeference import Place as Place
from landcover.raster.georeference import read_header as read_header
from landcover.raster.scene import Reading as Reading
from landcover.raster.scene import Scene as Scene
from landcover.raster.scene import Strip as Strip
from landcover.raster.scene import is_picture as is_picture
from landcover.raster.scene import open_scene as open_scene
from landcover.raster.scene import read_picture as read_picture
from landcover.raster.style import style_files as style_files
from landcover.raster.style import write_style as write_style
from landcover.raster.writing import write_bands as write_bands
from landcover.raster.writing import write_class_raster as write_class_raster
from landcover.raster.writing import write_map as write_map
