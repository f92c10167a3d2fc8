"""The learning rate as a pure function of how far a run has come."""

import math
from bisect import bisect_right

from landcover.training.config import ScheduleConfig


def learning_rate_factor(config: ScheduleConfig, base: float, progress: float, step: int) -> float:
    """What the base learning rate is multiplied by for one step.

    Args:
        config: The schedule.
        base: The learning rate at the start, which ``end_learning_rate`` is measured against.
        progress: Share of the limit in steps or minutes that has passed before this step, 0..1.
        step: Steps done before this one.
    """
    end = config.end_learning_rate / base
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    match config.name:
        case "poly":
            return warmup * (end + (1 - end) * math.pow(1 - progress, config.power))
        case "cosine":
            return warmup * (end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2)
        case "piecewise":
            return warmup * math.pow(config.factor, bisect_right(config.milestones, progress))
        case "constant":
            return warmup
