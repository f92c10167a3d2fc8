"""Let timm import beside a torchvision whose operators do not fit the installed torch."""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_declared: list[torch.library.Library] = []  # a declaration lives as long as its Library object


def declare_torchvision_operators() -> None:
    """Declare the operators that ``import torchvision`` expects, where its own library cannot provide them.

    timm imports torchvision where it finds one. The published Linux wheel of torchvision is built for CUDA;
    beside a CPU-only torch its library does not load, and the import fails as ``torchvision::nms`` does not
    exist. A declaration without an implementation is enough for the import; nothing here calls the operators.
    Does nothing where torchvision is absent, imported already, or healthy.
    """
    if "torchvision" in sys.modules or _declared or hasattr(torch.ops.torchvision, "nms"):
        return
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return
    fragment = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        fragment.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(fragment)
