"""Models and maps as Python objects: :func:`open_model`, :meth:`Model.predict`, :class:`MapResult`."""

import base64
import html
import io
import math
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import PIL.Image
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from landcover._typing import BoolArray, Float32Array, UInt8Array
from landcover.config import INPUT, PRODUCTS, REPORTS
from landcover.errors import LandcoverWarning, OutputError, UsageError
from landcover.extras import needs
from landcover.inference.engine import row_blocks, whole_probabilities
from landcover.inference.maps import provenance
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Imagery, Task, open_imagery, plan
from landcover.inference.reading import ArraySource
from landcover.inference.scene import Inputs, MadeMap, make_map, scene_grid
from landcover.io import write_mask
from landcover.io.files import atomic_path, check_output
from landcover.legend import Legend
from landcover.model.card import ModelCard, model_digest
from landcover.model.runtimes import Precision, Runtime
from landcover.model.runtimes import open_model as open_runtime
from landcover.progress import track
from landcover.raster import Georeference, Place, style_files, write_style
from landcover.raster.classmap import ClassMap, open_class_map
from landcover.raster.georeference import checked_georeference
from landcover.raster.mapfiles import write_world_file
from landcover.scale import FromModel, Scale, check_gsd
from landcover.windows import Window

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.axes import Axes

Gsd = float | FromModel
"""Metres per pixel, or ``model``: assume the model's."""

_PREVIEW_PX = 512
"""Longest side of the picture of a map in a notebook."""

_DECLARED = PredictOptions.declared()
_OF_FILES = tuple(name for name, option in _DECLARED.items() if option.group == INPUT)
"""Options of reading files; they do not apply to arrays."""

_OF_FOLDERS = (
    *(
        name
        for name, option in _DECLARED.items()
        if option.group in (PRODUCTS, REPORTS) and name != "map_format"
    ),
    *("jobs", "resume", "force"),
)
"""Options of :func:`landcover.predict`, which writes files."""


class RasterDataset(Protocol):
    """An open rasterio dataset: what ``rasterio.open`` or ``MemoryFile.open`` returns."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102


@runtime_checkable
class DataArray(Protocol):
    """An ``xarray.DataArray`` with a dimension of bands; ``spatial_ref`` among the coordinates."""

    @property
    def dims(self) -> tuple[Hashable, ...]: ...  # noqa: D102
    @property
    def values(self) -> npt.NDArray[np.generic]: ...  # noqa: D102
    @property
    def coords(self) -> Mapping[Hashable, "DataArray"]: ...  # noqa: D102
    @property
    def attrs(self) -> Mapping[str, object]: ...  # noqa: D102
    @property
    def encoding(self) -> Mapping[str, object]: ...  # noqa: D102


Image = str | Path | UInt8Array | RasterDataset | DataArray
"""What :meth:`Model.predict` takes."""


class Model:
    """A land-cover model, ready to predict; :func:`open_model` makes it.

    Attributes:
        runtime: The library that computes.
        source: The model file, run folder or bundled name; None for a model without a file.
        precision: Precision of layers that are not quantised.

    Example:
        >>> model = lc.open_model("starter")
        >>> model.classes
        ('urban', 'agriculture', 'rangeland', 'forest', 'water', 'barren')
        >>> model.card.precision
        'int8'
    """

    def __init__(
        self, runtime: Runtime, source: str | Path | None = None, precision: Precision = "fp32"
    ) -> None:
        self.runtime, self.source, self.precision = runtime, source, precision

    @cached_property
    def _sha256(self) -> str | None:
        return None if self.source is None else model_digest(self.source)

    @property
    def card(self) -> ModelCard:
        """The model card: legend, preprocessing, recipe, scores, licence, provenance."""
        return self.runtime.card

    @property
    def legend(self) -> Legend:
        """The classes with their colours; :attr:`MapResult.class_map` contains its indices."""
        return self.card.legend

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the model predicts, in the order of the probabilities."""
        return self.legend.scored_names

    @property
    def gsd(self) -> float:
        """Ground sample distance that the model works at, metres per pixel."""
        return self.card.preprocessing.gsd

    def predict(
        self, image: Image, *, gsd: Gsd | None = None, options: PredictOptions | None = None
    ) -> "MapResult":
        """Map an image.

        A file or an open rasterio dataset is mapped by windows, in memory that does not grow with its height.
        The map is kept in a temporary file as long as the result exists. An open dataset is read again by its
        name; one in memory and a ``WarpedVRT`` are copied to the temporary folder.

        Args:
            image: uint8 (H, W, C), RGB or the bands of the model's card; an open rasterio dataset; an
                ``xarray.DataArray`` of as many 8-bit bands, with dimensions such as (band, y, x) or
                (y, x, band), and the coordinates ``x``, ``y`` and ``spatial_ref`` where it is georeferenced
                (bands with names, such as ``red``, are taken by them); or the path or URL of an image.
                Nodata are the masked pixels of a masked array, and those of the DataArray's ``_FillValue``,
                in all bands; arrays are not searched for undeclared fill.
            gsd: Metres per pixel, which an array without georeference needs. ``"model"`` assumes the model's.
                None: that of the georeference; for a file also that of ``landcover.yaml`` or its layout.
            options: Windows, views, small regions; for files also bands, scaling and the
                area of interest.

        Returns:
            The map on the image's own grid.

        Raises:
            UsageError: If the ground sample distance is unknown, the array has another type or shape, or an
                option does not apply to the image.
            DataError: If the file cannot be read.

        Example:
            >>> scene = make_scene(7, 128, 128)
            >>> result = lc.open_model("starter").predict(scene.image, gsd=0.5)
            >>> result.class_map.shape, result.class_map.dtype
            ((128, 128), dtype('uint8'))
        """
        options = options or PredictOptions()
        gsd = options.gsd if gsd is None else gsd if gsd == "model" else check_gsd(float(gsd))
        _refuse(options, _OF_FOLDERS, "writes files. Use landcover.predict for it")
        options = options.model_copy(
            update={
                "gsd": gsd,
                "map_format": "cog" if options.map_format == "cog" else "tif",
                "views": options.views or self.card.views,
            }
        )
        folder = tempfile.mkdtemp(prefix="landcover-")
        try:
            task, opens = self._open(image, Path(folder), options)
            tags = provenance(self.runtime, self._sha256, options, self.precision)
            inputs = Inputs(task, options)
            with opens() as opened:
                name = Path(task.name).name
                progress = lambda blocks, total: track(blocks, name, total=total)  # noqa: E731
                made = make_map(
                    self.runtime, task, opened, options, inputs=inputs, tags=tags, progress=progress
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        result = MapResult(made, partial(self._probabilities, opens, options))
        for text in result.warnings:
            warnings.warn(text, LandcoverWarning, stacklevel=2)
        return result

    def _open(
        self, image: object, folder: Path, options: PredictOptions
    ) -> tuple[Task, Callable[[], AbstractContextManager[Imagery]]]:
        """Return the map to write into a folder, and a function that opens the image."""
        if isinstance(image, str | Path | DatasetReader | WarpedVRT):
            file = str(image)
            if not isinstance(image, str | Path):
                file = image.name
                if not isinstance(image, DatasetReader) or file.startswith("/vsimem/"):
                    file = str(folder / "dataset.tif")  # only files are opened by name
                    rasterio.shutil.copy(image, file, driver="GTiff", tiled=True, bigtiff="IF_SAFER")
            options = options.for_model(self.card)
            task, *more = plan([file], folder, options, model_gsd=self.gsd)
            if more:
                raise UsageError(f"{file} contains {1 + len(more)} images. Use landcover.predict for it.")
            return task, partial(open_imagery, task, options, self.gsd)
        _refuse(options, _OF_FILES, "applies to files; this image is an array")
        imagery = self._array(image, options.gsd)
        return Task("array", folder / "array_mask.tif", False, imagery.scale), lambda: nullcontext(imagery)

    def _array(self, image: object, gsd: Gsd | None) -> Imagery:
        """Return an array or DataArray as imagery, with its scale."""
        bands = self.card.preprocessing.bands
        valid: BoolArray | None = None
        if isinstance(image, np.ma.MaskedArray):
            pixels, found = np.asarray(image.data), None
            valid = np.asarray(~np.ma.getmaskarray(image).all(axis=-1))
        elif isinstance(image, np.ndarray):
            pixels, found = image, None
        elif isinstance(image, DataArray) and isinstance(image.dims, tuple):  # not a Dataset
            pixels, found = _read_array(image, bands)
            fill = image.attrs.get("_FillValue", image.encoding.get("_FillValue"))
            if fill is not None:
                try:
                    (value,) = np.unique(np.asarray(fill, np.float64))
                except (TypeError, ValueError):
                    raise UsageError(
                        f"The _FillValue of the DataArray is {fill!r}; expected one number. Set it in .attrs."
                    ) from None
                valid = np.asarray((pixels != value).any(axis=-1))
        else:
            raise UsageError(
                f"Cannot predict {type(image).__name__}. Expected a uint8 array (height, width, "
                f"{len(bands)}), an open rasterio dataset, an xarray.DataArray, or the path of an image."
            )
        source = ArraySource(pixels, valid, channels=len(bands))
        place = found or Place(source.height, source.width)
        if gsd == "model":
            return Imagery(source, place, Scale(self.gsd, "assumed"), (self.gsd, self.gsd))
        if gsd is not None:
            return Imagery(source, place, Scale(gsd, "option"), (gsd, gsd))
        if (metres := place.gsd) is not None:
            return Imagery(source, place, Scale(metres, "raster"), place.sides(metres))
        raise UsageError(
            "The ground sample distance of the array is unknown. Pass gsd=0.5 (metres per pixel), or "
            f'gsd="model" to assume the model\'s {self.gsd:g} m.'
        )

    def _probabilities(
        self, opens: Callable[[], AbstractContextManager[Imagery]], options: PredictOptions
    ) -> Float32Array:
        with opens() as imagery:
            grid = scene_grid(self.runtime, imagery, options, "The image")
            batch, views = options.batch, options.views
            blocks = row_blocks(self.runtime, imagery.source, grid, batch=batch, views=views)
            return whole_probabilities(blocks, self.runtime, grid)

    def __repr__(self) -> str:
        return (
            f"Model({str(self.source or 'in memory')!r}: {', '.join(self.classes)}; {self.gsd:g} m per "
            f"pixel, {self.card.precision} on {self.runtime.name} ({self.runtime.device}))"
        )

    def _repr_html_(self) -> str:
        """Return a description for a notebook."""
        facts = {
            "Model": str(self.source or "in memory"),
            "Network": f"{self.card.model.architecture}, {self.card.model.encoder}, {self.card.precision}",
            "Runs on": f"{self.runtime.name} ({self.runtime.device})",
            "Ground sample distance": f"{self.gsd:g} m",
            "Licence": self.card.licence or "not stated",
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in facts.items()
        )
        swatches = " ".join(_named_swatch(self.legend, name) for name in self.classes)
        return f"<table>{rows}<tr><th>Classes</th><td>{swatches}</td></tr></table>"


def open_model(
    path: str | Path,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
) -> Model:
    """Open a model to predict with.

    Args:
        path: A model file, the folder of a training run, or the name of a bundled model, such as ``starter``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        runtime: ``auto``, ``openvino``, ``onnxruntime`` or ``torch``.
        threads: Threads to compute with on a CPU; None: the library's choice.
        precision: ``fp32`` or ``bf16``, for layers that are not quantised.

    Raises:
        ModelError: If the file is missing, damaged or not a model.
        UsageError: If device or runtime are unknown or not available for the file.
        MissingExtraError: If the library is not installed.

    Example:
        >>> lc.open_model("starter").gsd
        2.39
    """
    opened = open_runtime(path, device=device, runtime=runtime, threads=threads, precision=precision)
    return Model(opened, path, precision)


class MapResult:
    """The map of one image, as :meth:`Model.predict` returns it.

    Attributes:
        legend: The classes with their colours.
        gsd: Metres per pixel of the image, the geometric mean of the two sides.
        areas: Pixels, fraction and hectares of each scored class, in the legend's order.
        georeference: CRS and transform of the map, or None.
        warnings: What the user of the map should know: damaged blocks, guessed bands, imagery that is out of
            distribution. They were also issued as :class:`landcover.LandcoverWarning`.

    Example:
        >>> image = make_scene(7, 96, 128).image
        >>> result = lc.open_model("starter").predict(image, gsd=0.5)
        >>> result.shape, result.probabilities.shape
        ((96, 128), (6, 96, 128))
        >>> round(sum(area.hectares for area in result.areas), 4)
        0.3072
    """

    def __init__(self, made: MadeMap, probabilities: Callable[[], Float32Array]) -> None:
        self.legend, self.shape, self.gsd = made.areas.legend, made.place.size, made.scale.gsd
        self.areas = made.areas.table()
        unlike = None if made.ood is None else made.ood.warning(made.task.name)
        self.warnings = (*made.warnings, *([unlike] if unlike else []))
        self._path = made.task.map
        self._probabilities = probabilities
        weakref.finalize(self, shutil.rmtree, made.task.map.parent, ignore_errors=True)
        with self._open() as mapped:
            self.georeference, self._transform = mapped.place.georeference, mapped.place.transform
            self._tags = {k: v for k, v in mapped.source.tags().items() if k.startswith("LANDCOVER_")}

    def _open(self) -> AbstractContextManager[ClassMap]:
        return open_class_map(self._path, self.legend)

    @cached_property
    def class_map(self) -> UInt8Array:
        """uint8 (H, W): class indices of the legend, 255 where the image has no data. Read on first use."""
        with self._open() as mapped:
            return mapped.read(Window(0, 0, *self.shape))

    def _thin(self, side: int) -> UInt8Array:
        """Return every n-th pixel, so that no side is longer than ``side``."""
        step = math.ceil(max(self.shape) / side)
        with self._open() as mapped:
            return np.concatenate(
                [mapped.read(window)[-window.row % step :: step, ::step] for window in mapped.strips()]
            )

    @cached_property
    def probabilities(self) -> Float32Array:
        """float32 (C, H, W): probability of each scored class, 0 where the image has no data.

        Computed on first use, by running the model again; takes 4 C bytes per pixel.
        """
        return self._probabilities()

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the map: a GeoTIFF with colours, class names, provenance and style, or a palette PNG.

        Args:
            path: The file, ``.tif``, ``.tiff`` or ``.png``.
            force: Replace an existing file.

        Returns:
            The path.

        Raises:
            OutputError: If the file exists and ``force`` is off, has another suffix, or cannot be written.

        Example:
            >>> result = lc.open_model("starter").predict(make_scene(7, 64, 64).image, gsd=0.5)
            >>> result.save("map.png").name
            'map.png'
        """
        path = Path(path)
        match path.suffix.lower():
            case ".png":
                if self._transform is not None:
                    write_world_file(path, self._transform, force=force)
                write_mask(path, self.class_map, self.legend, tags=self._tags, force=force)
            case ".tif" | ".tiff":
                for beside in style_files(path):
                    check_output(beside, force=force)
                with atomic_path(path, force=force) as temporary:
                    shutil.copyfile(self._path, temporary)
                write_style(path, self.legend)
            case suffix:
                raise OutputError(f"Cannot write a map as {suffix or path}. Name the file .tif or .png.")
        return path

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the map with its legend by matplotlib.

        Args:
            ax: Axes to draw into; None: new ones.

        Returns:
            The axes.

        Raises:
            MissingExtraError: If matplotlib is not installed (extra ``plot``).

        Example:
            >>> result = lc.open_model("starter").predict(make_scene(7, 64, 64).image, gsd=0.5)
            >>> ax = result.plot()  # doctest: +SKIP
        """
        with needs("plot"):
            import matplotlib.pyplot as plt
            from matplotlib.patches import Patch
        if ax is None:
            ax = plt.figure().add_subplot()
        height, width = self.shape
        extent = (0, width, height, 0)
        if self.georeference is not None and self.georeference.transform.is_rectilinear:
            left, bottom, right, top = self.georeference.extent()
            extent = (left, right, bottom, top)  # type: ignore[assignment]
        ax.imshow(self.legend.colours[self._thin(2048)], extent=extent, interpolation="nearest")
        patches = [
            Patch(
                facecolor=self.legend.colours[self.legend.names.index(area.name)] / 255,
                edgecolor="grey",
                label=f"{area.name} {100 * area.share:.1f} %",
            )
            for area in self.areas
            if area.pixels
        ]
        ax.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        return ax

    def to_geodataframe(self) -> "GeoDataFrame":
        """Return the regions of the map as polygons, one row each, as :func:`landcover.vectorize` makes them.

        Returns:
            Columns ``class``, ``class_index``, ``area_m2`` (``area_px`` without a scale) and ``geometry``, in
            the map's CRS; without one in columns and rows.

        Raises:
            MissingExtraError: If geopandas is not installed (extra ``geo``).

        Example:
            >>> result = lc.open_model("starter").predict(make_scene(7, 64, 64).image, gsd=0.5)
            >>> regions = result.to_geodataframe()  # doctest: +SKIP
        """
        with needs("geo"):
            import geopandas

            from landcover.postprocess.vectorize import vectorize
        with tempfile.TemporaryDirectory(prefix="landcover-") as folder:
            polygons = Path(folder) / "map.gpkg"
            vectorize(self.save(Path(folder) / "map.tif"), polygons, legend=self.legend)
            return geopandas.read_file(polygons, layer=polygons.stem)

    def __repr__(self) -> str:
        largest = sorted((area for area in self.areas if area.pixels), key=lambda area: -area.pixels)
        shares = ", ".join(f"{area.name} {100 * area.share:.1f} %" for area in largest)
        height, width = self.shape
        return f"MapResult({height} x {width} pixels of {self.gsd:g} m: {shares or 'no data'})"

    def _repr_html_(self) -> str:
        """Return a picture of the map and a table of areas for a notebook."""
        picture = io.BytesIO()
        PIL.Image.fromarray(self.legend.colours[self._thin(_PREVIEW_PX)]).save(picture, "PNG")
        rows = "".join(
            f"<tr><td>{_named_swatch(self.legend, area.name)}</td><td>{100 * area.share:.1f} %</td>"
            f"<td>{'' if area.hectares is None else f'{area.hectares:,.2f} ha'}</td></tr>"
            for area in self.areas
        )
        notes = "".join(f"<li>{html.escape(text)}</li>" for text in self.warnings)
        return (
            f'<img alt="{html.escape(repr(self))}" style="image-rendering:pixelated" '
            f'src="data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}">'
            f"<table>{rows}</table>" + (f"<ul>{notes}</ul>" if notes else "")
        )


def _refuse(options: PredictOptions, names: tuple[str, ...], why: str) -> None:
    """Raise :class:`UsageError` if an option that does not apply is set."""
    for name in names:
        if getattr(options, name) != getattr(PredictOptions(), name):
            raise UsageError(f"The option {name}={getattr(options, name)!r} {why}.")


_X, _Y, _BANDS = ("x", "lon", "longitude"), ("y", "lat", "latitude"), ("band", "bands", "channel", "rgb")


def _read_array(array: DataArray, names: Sequence[str]) -> tuple[UInt8Array, Georeference | None]:
    """Return the pixels of a DataArray of a model's bands, uint8 (H, W, C), and its georeference.

    The georeference is that of evenly spaced coordinates and of the CRS that rioxarray stores; else None.
    """
    bands: list[Hashable] = [name for name in array.dims if name in _BANDS]
    if not bands and len(array.dims) == 3:
        sizes = zip(array.dims, array.values.shape, strict=True)
        bands = [name for name, length in sizes if length == len(names)]
    rest = [name for name in array.dims if name not in bands[:1]]
    if len(array.dims) != 3 or not bands:
        raise UsageError(
            f"The DataArray has the dimensions {', '.join(map(str, array.dims))} of {array.values.shape}; "
            f"expected rows, columns and {len(names)} bands, such as (band, y, x)."
        )
    rows, cols = reversed(rest) if rest[0] in _X or rest[1] in _Y else rest
    order = [array.dims.index(name) for name in (rows, cols, bands[0])]
    pixels = array.values.transpose(order)
    labels = np.asarray(array.coords[bands[0]].values) if bands[0] in array.coords else np.empty(0)
    if labels.dtype.kind in "OTU":
        found = [str(label).lower() for label in labels.ravel().tolist()]
        if any(found.count(name) != 1 for name in names):
            raise UsageError(
                f"The DataArray has the bands {', '.join(found)}; expected one each of {', '.join(names)}. "
                f"Rename them, or drop the names if bands are in this order: "
                f"array.drop_vars({str(bands[0])!r})."
            )
        pixels = pixels[..., [found.index(name) for name in names]]
    if pixels.dtype != np.uint8 or pixels.shape[2] != len(names):
        raise UsageError(
            f"The DataArray has {pixels.shape[2]} bands of {pixels.dtype}; expected {len(names)} of uint8: "
            f"{', '.join(names)}. Select them, for example array.sel(band=[1, 2, 3]), and scale values to "
            "0..255."
        )
    image = np.ascontiguousarray(pixels, np.uint8)
    if "spatial_ref" not in array.coords or not {rows, cols} <= set(array.coords):
        return image, None
    attributes = array.coords["spatial_ref"].attrs
    text = attributes.get("crs_wkt") or attributes.get("spatial_ref")
    x, y = (np.asarray(array.coords[name].values, np.float64) for name in (cols, rows))
    if not text or min(x.size, y.size) < 2:
        return image, None
    steps = [float(values[-1] - values[0]) / (values.size - 1) for values in (x, y)]
    for values, step in zip((x, y), steps, strict=True):
        if not np.allclose(np.diff(values), step, rtol=1e-3, atol=0):
            raise UsageError("The coordinates of the DataArray are not evenly spaced; resample it first.")
    corner = float(x[0]) - steps[0] / 2, float(y[0]) - steps[1] / 2
    try:
        crs = CRS.from_user_input(str(text))
    except CRSError as error:
        raise UsageError(f"The CRS of the DataArray cannot be read: {error}.") from error
    transform = Affine(steps[0], 0, corner[0], 0, steps[1], corner[1])
    place = checked_georeference(image.shape[0], image.shape[1], transform, crs)
    if isinstance(place, str):
        raise UsageError(f"The coordinates of the DataArray do not georeference it: {place}.")
    return image, place


def _named_swatch(legend: Legend, name: str) -> str:
    colour = ",".join(map(str, legend.colours[legend.names.index(name)].tolist()))
    return (
        '<span style="display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid #888;'
        f'background:rgb({colour})"></span>{html.escape(name)}'
    )
