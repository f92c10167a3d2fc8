"""What convolutions are computed in."""

from collections.abc import Mapping
from typing import Literal

import torch

from landcover.model.runtimes.base import Precision


def pick_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Return the precision to compute in: ``auto`` is bf16 where the device has instructions for it."""
    if wanted != "auto":
        return wanted
    return "bf16" if has_bfloat16(device) else "fp32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device is known to multiply in bfloat16; elsewhere torch may imitate it, far slower."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    # Of a torch too old to tell nothing is known. ARM's bf16 is left out until its gradients have been timed.
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name) is True for name in ("avx512_bf16", "amx_bf16"))
