"""Data: find it, verify it, split it, decode it once, convert its masks, make some."""

from typing import TYPE_CHECKING

from landcover.extras import lazy_names

if TYPE_CHECKING:
    from landcover.data.cache import Prepared, prepare
    from landcover.data.conversion import convert
    from landcover.data.dataset import Dataset
    from landcover.data.items import Item, SceneTile
    from landcover.data.opening import open_dataset
    from landcover.data.splits import select, split
    from landcover.data.verification import VerifyReport, verify

__all__ = [
    "Dataset",
    "Item",
    "Prepared",
    "SceneTile",
    "VerifyReport",
    "convert",
    "open_dataset",
    "prepare",
    "select",
    "split",
    "verify",
]

__getattr__ = lazy_names(
    __name__,
    {
        "convert": "conversion",
        "Dataset": "dataset",
        "Item": "items",
        "open_dataset": "opening",
        "prepare": "cache",
        "Prepared": "cache",
        "SceneTile": "items",
        "select": "splits",
        "split": "splits",
        "verify": "verification",
        "VerifyReport": "verification",
    },
)
