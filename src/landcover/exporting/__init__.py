"""From a trained run to one file that needs no deep-learning install, behind gates that are measured."""

from landcover.extras import needs
from landcover.hardening import disable_telemetry

with needs("export"):
    disable_telemetry()  # before any module here imports onnxruntime
    from landcover.exporting.delivery import Exported, export

__all__ = ["Exported", "export"]
