"""The update of the weights: optimiser, learning rate, moving average, precision."""

import logging
import math
from bisect import bisect_right
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from landcover.model.network import DeepLabV3Plus
from landcover.model.runtimes import Precision
from landcover.training.config import OptimiserConfig, ScheduleConfig

logger = logging.getLogger(__name__)


def build_optimiser(network: DeepLabV3Plus, config: OptimiserConfig) -> Optimizer:
    """Return the optimiser of a network's trained parameters, fused (one pass over memory).

    Parameters are grouped by learning rate and weight decay, in their order in the network. The encoder may
    have its own learning rate. Weight decay applies to parameters with two or more axes, not to vectors and
    scalars (scales and offsets of batch norms, biases).
    """
    rates = {"encoder": config.encoder_learning_rate or config.learning_rate, "head": config.learning_rate}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        module = "encoder" if name.startswith("encoder.") else "head"
        decay, suffix = (config.weight_decay, "") if parameter.ndim > 1 else (0.0, ", not decayed")
        new = {"name": module + suffix, "params": [], "lr": rates[module], "weight_decay": decay}
        if parameter.requires_grad:
            groups.setdefault(module + suffix, new)["params"].append(parameter)
    if config.name == "adamw":
        return AdamW(groups.values(), fused=True)
    return SGD(groups.values(), lr=config.learning_rate, momentum=config.momentum, fused=True)


def learning_rate_factor(config: ScheduleConfig, base: float, fraction: float, step: int) -> float:
    """Return the factor of the learning rate ``base`` after ``step`` steps, a fraction 0..1 of the limit."""
    end = config.end_learning_rate / base
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    match config.name:
        case "poly":
            return warmup * (end + (1 - end) * math.pow(1 - fraction, config.power))
        case "cosine":
            return warmup * (end + (1 - end) * (1 + math.cos(math.pi * fraction)) / 2)
        case "piecewise":
            return warmup * math.pow(config.factor, bisect_right(config.milestones, fraction))
        case "constant":
            return warmup


class WeightAverage:
    """Exponential moving average of all floating-point parameters and buffers of a module, in ``module``.

    The decay, the weight of the old average in an update, warms up as ``(1 + t) / (10 + t)`` after t updates,
    so the random start has little weight. With a decay of 0 the average equals the weights. (With timm's
    ``ModelEmaV3``, whose warm-up differs, runs of version 0.1 could not be resumed exactly.)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = deepcopy(module).eval().requires_grad_(False)
        averages, currents = (m.state_dict(keep_vars=True).values() for m in (self.module, module))
        pairs = list(zip(averages, currents, strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._currents = [current for _, current in pairs if current.is_floating_point()]
        # Batch norms' counts of batches are not averaged.
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Include the module's present weights, after this number of updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
        for average, current in self._counters:
            average.copy_(current)


def pick_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Return the precision of the convolutions: ``auto`` is bf16 on devices that have instructions for it.

    Logs a warning if bf16 is set on a device without such instructions.
    """
    native = has_bfloat16(device)
    if wanted == "bf16" and not native:
        logger.warning(
            f"precision=bf16 is set, but this {device.type} has no known bfloat16 instructions; training "
            "will be many times slower than with fp32. Use precision=auto."
        )
    if wanted != "auto":
        return wanted
    return "bf16" if native else "fp32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device is known to multiply in bfloat16; otherwise torch may emulate it slowly."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    # Old versions of torch report nothing. ARM's bf16 is left out until its gradients have been timed.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))
