"""Import timm beside a torchvision that does not fit the installed torch.

timm imports torchvision. Its wheel for Linux is built for CUDA; beside a CPU-only torch its library does not
load, and the import fails for want of two operators. Every other module imports timm from here.
"""

import torch

try:
    import torchvision  # noqa: F401
except ImportError:  # timm's own message names what is missing
    pass
except RuntimeError:
    # A declaration without an implementation is enough: nothing here calls them. It lives as long as this.
    _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]

import timm
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same

__all__ = ["Conv2dSame", "pad_same", "timm"]
