"""Find, open, verify, split and prepare data; convert masks; make procedural scenes."""

from typing import TYPE_CHECKING

from landcover.extras import lazy_names

if TYPE_CHECKING:
    from landcover.data.cache import Prepared, prepare
    from landcover.data.conversion import convert
    from landcover.data.dataset import Dataset, open_dataset
    from landcover.data.layouts import Item, SceneTile
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
        "Item": "layouts",
        "open_dataset": "dataset",
        "prepare": "cache",
        "Prepared": "cache",
        "SceneTile": "layouts",
        "select": "splits",
        "split": "splits",
        "verify": "verification",
        "VerifyReport": "verification",
    },
)
