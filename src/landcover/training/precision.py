"""What convolutions are computed in."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def pick_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Return the precision to compute in: ``auto`` is bf16 where the device has instructions for it."""
    if wanted != "auto":
        return wanted
    return "bf16" if has_bfloat16(device) else "fp32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16; elsewhere torch does so in software, many times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    found = torch.cpu.get_capabilities()
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
