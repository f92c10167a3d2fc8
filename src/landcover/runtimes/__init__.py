"""A model that runs: one interface, whatever library computes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from landcover.extras import needs
from landcover.runtimes.base import Runtime

if TYPE_CHECKING:
    from landcover.runtimes.torch_runtime import TorchRuntime

__all__ = ["Runtime", "TorchRuntime", "open_model"]


def open_model(path: str | Path, *, device: str = "auto") -> Runtime:
    """Load a model file, or the best model of a run folder, ready to predict.

    Args:
        path: A model file or run folder.
        device: ``"auto"`` (CUDA where there is one, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Raises:
        ModelError: If the file is missing, cut short or no model.
        UsageError: If the device is unknown or not there.
        MissingExtraError: If torch is not installed.
    """
    with needs("train"):
        from landcover.runtimes.torch_runtime import load
    return load(Path(path), device=device)


def __getattr__(name: str) -> Any:
    # torch is imported when TorchRuntime is asked for, not when a runtime is merely spoken of.
    if name == "TorchRuntime":
        with needs("train"):
            from landcover.runtimes.torch_runtime import TorchRuntime
        return TorchRuntime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
