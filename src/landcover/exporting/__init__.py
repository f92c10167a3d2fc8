"""Export: from a trained run to one file that runs without torch, after measured acceptance checks."""

from typing import TYPE_CHECKING, Any

from landcover.extras import lazy_imports, needs
from landcover.hardening import disable_telemetry

if TYPE_CHECKING:
    from landcover.exporting.exporter import Exported as Exported
    from landcover.exporting.exporter import export as export
    from landcover.exporting.options import ExportOptions as ExportOptions

disable_telemetry()  # before any module here imports onnxruntime

_get, __all__ = lazy_imports(__name__, __file__)


def __getattr__(name: str) -> Any:
    with needs("export"):
        return _get(name)
