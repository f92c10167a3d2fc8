"""Rasters of every form are read as numpy and rasterio say, or refused: never misread, never a traceback."""

import warnings

import numpy as np
import rasterio
from affine import Affine
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform

from landcover.errors import ImageError
from landcover.raster import open_scene

HEIGHT, WIDTH = 37, 52
SITE = CRS.from_wkt('LOCAL_CS["Site grid",UNIT["metre",1]]')
GRIDS = {
    "north up": Affine(0.5, 0, 500_000, 0, -0.5, 5_700_000),
    "south up": Affine(0.5, 0, 500_000, 0, 0.5, 5_700_000),
    "rotated": Affine(0.3, 0.4, 500_000, 0.4, -0.3, 5_700_000),
    "oblong": Affine(0.25, 0, 500_000, 0, -1.0, 5_700_000),
    "degrees": Affine(5e-6, 0, 5, 0, -5e-6, 52),
    "none": Affine.identity(),
}
FORMS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["uint8", "uint16", "int16", "float32"]),
        "count": st.integers(1, 5),
        "photometric": st.sampled_from(["rgb", "minisblack"]),
        "alpha": st.booleans(),
        "nodata": st.sampled_from([None, 0, 7, -9999]),
        "mask": st.booleans(),
        "tiled": st.booleans(),
        "interleave": st.sampled_from(["pixel", "band"]),
        "crs": st.sampled_from([None, CRS.from_epsg(32631), CRS.from_epsg(2263), CRS.from_epsg(4326), SITE]),
        "grid": st.sampled_from(sorted(GRIDS)),
        "scaling": st.sampled_from([None, (0.0, 200.0), "percentile"]),
        "seed": st.integers(0, 1000),
    }
)


def hole(rng):
    """A rectangle away from the edges, where no fill is looked for."""
    row, col = rng.integers(2, 20), rng.integers(2, 30)
    return slice(row, row + rng.integers(1, 12)), slice(col, col + rng.integers(1, 15))


@settings(max_examples=80, phases=[Phase.generate])
@given(form=FORMS)
def test_a_raster_is_read_as_intended_or_refused(form, tmp_path_factory):
    rng = np.random.default_rng(form["seed"])
    dtype, nodata, has_alpha = np.dtype(form["dtype"]), form["nodata"], form["alpha"] and form["count"] > 1
    if nodata == -9999 and dtype.kind == "u":
        nodata = None
    if form["photometric"] == "rgb" and form["count"] < 3 + has_alpha:
        form["photometric"] = "minisblack"
    values = rng.integers(8, 200, (form["count"], HEIGHT, WIDTH)).astype(dtype)
    valid = np.ones((HEIGHT, WIDTH), bool)
    if nodata is not None:
        area = hole(rng)
        values[(slice(None), *area)] = nodata
        valid[area] = False
        values[0, 0, 5] = nodata  # in one band it is a value
        valid[0, 5] = form["count"] - has_alpha >= 3
    if has_alpha:
        area = hole(rng)
        values[-1] = 255 if dtype == np.uint8 else np.iinfo(dtype).max if dtype.kind in "iu" else 1
        values[(-1, *area)] = 0
        valid[area] = False
    mask = np.ones((HEIGHT, WIDTH), bool)
    if form["mask"]:
        mask[hole(rng)] = False
    path = tmp_path_factory.mktemp("form") / "a.tif"
    profile = {
        "driver": "GTiff",
        "height": HEIGHT,
        "width": WIDTH,
        "count": form["count"],
        "dtype": dtype.name,
    }
    profile |= {"photometric": form["photometric"], "nodata": nodata, "crs": form["crs"]}
    profile |= {"transform": GRIDS[form["grid"]], "interleave": form["interleave"]}
    if form["tiled"]:
        profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as target:
            if has_alpha:
                kinds = [*target.colorinterp[:-1], ColorInterp.alpha]
                target.colorinterp = kinds
            target.write(values)
            if form["mask"]:
                target.write_mask(mask)
    valid &= mask

    colours = form["count"] - has_alpha
    bands = values[:3] if colours >= 3 else values[[0, 0, 0]]
    scaling = form["scaling"]
    if scaling is None and dtype != np.uint8:
        with_error = False
        try:
            open_scene(path).close()
        except ImageError as error:
            with_error = "--scaling" in str(error) and "\n" not in str(error)
        assert with_error
        return
    with open_scene(path, scaling=scaling) as scene:
        strip = scene.read_rows(0, HEIGHT)
        parts = [scene.read_rows(row, min(row + 10, HEIGHT)).image for row in range(0, HEIGHT, 10)]
        place, gsd = scene.place.georeference, scene.place.gsd
        notes = scene.warnings
    assert np.array_equal(np.concatenate(parts), strip.image)
    assert np.array_equal(np.ones_like(valid) if strip.valid is None else strip.valid, valid)
    exact = bands.astype(np.float64)
    if scaling is not None:
        if scaling == "percentile":
            counted = values[:3][:, valid] if colours >= 3 else values[0][valid]
            scaling = np.percentile(counted, (2, 98))
        low, high = scaling
        exact = np.clip((exact - low) * 255 / (high - low), 0, 255)
    assert np.abs(np.moveaxis(strip.image, -1, 0) - exact)[:, valid].max() <= (
        0.51 if scaling is not None else 0
    )
    assert (colours == 2 or colours > 3) == any("--bands" in note for note in notes) or (
        form["photometric"] == "rgb"
    )

    grid, crs = GRIDS[form["grid"]], form["crs"]
    if crs is None or grid.is_identity:
        assert place is None
        assert any("not georeferenced" in note for note in notes)
        return
    if crs.is_geographic and form["grid"] != "degrees":
        assert place is None  # metres are no degrees
        return
    assert (place.crs, place.transform) == (crs, grid)
    if crs == SITE:
        assert gsd == np.sqrt(abs(grid.determinant))
    elif form["grid"] != "degrees" or crs.is_geographic:
        x, y = place.points(np.array([25.5, 26.5, 26, 26]), np.array([18.5, 18.5, 18, 19]))
        lon, lat = np.radians(transform(crs, CRS.from_epsg(4326), x, y))
        east = (lon[1::2] - lon[::2]) * np.cos(lat[0])
        sides = 6_371_000 * np.hypot(east, lat[1::2] - lat[::2])
        assert abs(gsd / np.sqrt(sides.prod()) - 1) < 0.02  # a sphere
