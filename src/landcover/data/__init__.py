"""Find, open, verify, split and prepare data; convert masks; make procedural scenes."""

from typing import TYPE_CHECKING

from landcover.extras import lazy_imports

if TYPE_CHECKING:
    from landcover.data.cache import open_dataset as open_dataset
    from landcover.data.conversion import convert as convert
    from landcover.data.dataset import Dataset as Dataset
    from landcover.data.layouts import Item as Item
    from landcover.data.layouts import SceneTile as SceneTile
    from landcover.data.preparation import Prepared as Prepared
    from landcover.data.preparation import prepare as prepare
    from landcover.data.splits import select as select
    from landcover.data.splits import split as split
    from landcover.data.verification import VerifyReport as VerifyReport
    from landcover.data.verification import verify as verify

__getattr__, __all__ = lazy_imports(__name__, __file__)
