"""One way to open imagery, whether it lies in a folder or in a prepared cache."""

from pathlib import Path

from landcover.data.cache import is_cache, open_cache
from landcover.data.dataset import Dataset, open_folder
from landcover.io import MAX_PIXELS
from landcover.legend import Legend


def open_dataset(
    path: str | Path,
    *,
    legend: Legend | None = None,
    gsd: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Dataset:
    """Open a data folder of any known layout, or a cache made by :func:`landcover.data.prepare`.

    Args:
        path: The folder or cache.
        legend: Meaning of the mask files; by default that of ``landcover.yaml``, else that of the layout.
        gsd: Metres per pixel. By default the first image's transform tells, else ``landcover.yaml``, else the
            layout.
        max_pixels: Larger images and masks are refused when they are read. A cache holds them decoded.

    Raises:
        DataError: If the folder holds no recognised imagery, a layout is refused, or a cache is damaged.
        ConfigError: If ``landcover.yaml`` or the legend is not valid.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> dataset = lc.open_dataset(folder)
        >>> len(dataset.items), dataset.gsd, dataset.legend.name
        (3, 0.5, 'deepglobe')
    """
    path = Path(path)
    if is_cache(path):
        return open_cache(path, legend=legend, gsd=gsd)
    return open_folder(path, legend=legend, gsd=gsd, max_pixels=max_pixels)
