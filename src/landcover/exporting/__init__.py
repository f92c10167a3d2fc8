"""Export: from a trained run to one file that runs without torch, after measured acceptance checks."""

from landcover.extras import needs
from landcover.hardening import disable_telemetry

with needs("export"):
    disable_telemetry()  # before any module here imports onnxruntime
    from landcover.exporting.exporter import Exported, ExportOptions, export

__all__ = ["ExportOptions", "Exported", "export"]
