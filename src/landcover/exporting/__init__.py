"""From a trained run to one file that needs no deep-learning install, behind gates that are measured."""

from landcover.extras import needs

with needs("export"):
    from landcover.exporting.delivery import Exported, export

__all__ = ["Exported", "export"]
