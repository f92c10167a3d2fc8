"""Import timm beside a torchvision that does not fit the installed torch.

timm imports torchvision. Its wheel for Linux is built for CUDA; beside a CPU-only torch its library does not
load and the import fails. Every other module imports timm from here.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_declared: list[torch.library.Library] = []  # a declaration lives as long as its Library object


def declare_torchvision_operators() -> None:
    """Declare the operators that ``import torchvision`` expects, if its own library does not load.

    A declaration without an implementation is enough; nothing here calls the operators.
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


declare_torchvision_operators()
import timm  # noqa: E402 - needs the declaration above
from timm.layers.conv2d_same import Conv2dSame  # noqa: E402
from timm.layers.padding import pad_same  # noqa: E402

__all__ = ["Conv2dSame", "declare_torchvision_operators", "pad_same", "timm"]
