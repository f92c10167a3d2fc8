"""How far a run has come, and what follows from that: functions of the settings and the progress alone."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from landcover.training.config import TrainConfig, ValidationConfig

Reason = Literal["limit", "patience", "interrupted"]
"""Why a run ended."""


@dataclass
class Progress:
    """How far a run has come; a checkpoint keeps it.

    Attributes:
        step: Steps done.
        seconds: Time spent in training and validation, over all resumes.
        validated_step: Step of the last validation; -1 before the first.
        validated_share: Share of the limit that had passed after it, 0..1.
        scores: What it found: ``step``, ``miou``, ``iou``, ``pixel_accuracy``, ``loss``.
        best: The same of the best validation.
        stale: Validations since the best.
    """

    step: int = 0
    seconds: float = 0.0
    validated_step: int = -1
    validated_share: float = 0.0
    scores: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    stale: int = 0


def share_done(config: TrainConfig, progress: Progress) -> float:
    """Return the share of the limit that has passed, 0..1."""
    by_steps = progress.step / config.steps if config.steps else 0.0
    by_time = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, by_steps + by_time)  # exactly one of them is the limit


def ended(config: TrainConfig, progress: Progress) -> Reason | None:
    """Return why the run is over, or None."""
    patience = config.validation.patience
    if patience is not None and progress.stale >= patience:
        return "patience"
    return "limit" if share_done(config, progress) >= 1 else None


def validation_due(config: TrainConfig, progress: Progress) -> bool:
    """Whether to validate before the next step: when it is time, and once when the run is over."""
    if progress.step in (0, progress.validated_step):
        return False
    if ended(config, progress):
        return True
    if config.validation.every_steps is not None:
        return progress.step % config.validation.every_steps == 0
    marks = [
        math.floor(100 * share / config.validation.percent + 1e-9)
        for share in (progress.validated_share, share_done(config, progress))
    ]
    return marks[1] > marks[0]


def take_scores(config: TrainConfig, progress: Progress, scores: dict[str, Any]) -> bool:
    """Enter the scores of a validation and return whether they are the best so far."""
    progress.scores = {"step": progress.step, **scores}
    progress.validated_step = progress.step
    progress.validated_share = share_done(config, progress)
    improved = progress.best is None or _miou(progress.scores) > _miou(progress.best)
    if improved:
        progress.best = progress.scores
    progress.stale = 0 if improved else progress.stale + 1
    return improved


def kept_now(config: ValidationConfig, progress: Progress, *, over: bool) -> dict[str, Any] | None:
    """Return the scores of the weights that are to be kept as the best model, if they are the present ones.

    Args:
        config: Which weights are kept.
        progress: How far the run has come.
        over: Whether the run is over.

    Returns:
        None if the present weights are not to be kept; empty if they are, but have no scores.
    """
    if config.keep == "best" and progress.best is not None:
        return progress.best if progress.best["step"] == progress.step else None
    if not over:
        return None
    return progress.scores if progress.validated_step == progress.step and progress.scores else {}


def _miou(scores: dict[str, Any]) -> float:
    """The score, -1 where no class had one."""
    miou: float | None = scores["miou"]
    return -1.0 if miou is None else miou
