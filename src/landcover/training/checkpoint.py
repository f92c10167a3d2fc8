"""The state of a run, when it validates and ends, and its checkpoint: one safetensors file.

A run continues from a checkpoint as if it had never stopped.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor
from torch.optim import Optimizer

from landcover.errors import ModelError
from landcover.io.files import atomic_path
from landcover.model import DeepLabV3Plus
from landcover.model.card import STATE_KEY
from landcover.model.files import read_tensor_metadata, read_tensors
from landcover.training.config import TrainConfig, ValidationConfig
from landcover.training.optim import WeightAverage

Reason = Literal["limit", "patience", "interrupted"]
"""Why a run ended."""


@dataclass
class Progress:
    """Position of a run; part of every checkpoint.

    Attributes:
        step: Steps done.
        seconds: Time spent in training and validation, over all resumes.
        validated_step: Step of the last validation; -1 before the first.
        validated_share: Fraction of the limit that had passed after it, 0..1.
        scores: Scores of the last validation: ``step``, ``miou``, ``iou``, ``pixel_accuracy``, ``loss``.
        best: Scores of the best validation.
        stale: Validations since the best.
    """

    step: int = 0
    seconds: float = 0.0
    validated_step: int = -1
    validated_share: float = 0.0
    scores: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    stale: int = 0


def fraction_done(config: TrainConfig, progress: Progress) -> float:
    """Return the fraction of the limit that has passed, 0..1."""
    by_steps = progress.step / config.steps if config.steps else 0.0
    by_time = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, by_steps + by_time)  # exactly one of them is the limit


def end_reason(config: TrainConfig, progress: Progress) -> Reason | None:
    """Return why the run has ended, or None if it has not."""
    patience = config.validation.patience
    if patience is not None and progress.stale >= patience:
        return "patience"
    return "limit" if fraction_done(config, progress) >= 1 else None


def validation_due(config: TrainConfig, progress: Progress) -> bool:
    """Return whether to validate before the next step: at regular intervals, and once at the end."""
    if progress.step in (0, progress.validated_step):
        return False
    if end_reason(config, progress):
        return True
    if config.validation.every_steps is not None:
        return progress.step % config.validation.every_steps == 0
    before, now = (
        math.floor(100 * fraction / config.validation.percent + 1e-9)
        for fraction in (progress.validated_share, fraction_done(config, progress))
    )
    return now > before


def record_scores(config: TrainConfig, progress: Progress, scores: dict[str, Any]) -> bool:
    """Record the scores of a validation; return whether they are the best so far."""
    progress.scores = {"step": progress.step, **scores}
    progress.validated_step = progress.step
    progress.validated_share = fraction_done(config, progress)
    # A validation without any class has no mIoU; it is never better.
    miou, best = (-1.0 if s is None or s["miou"] is None else s["miou"] for s in (scores, progress.best))
    improved = progress.best is None or miou > best
    if improved:
        progress.best = progress.scores
    progress.stale = 0 if improved else progress.stale + 1
    return improved


def kept_scores(config: ValidationConfig, progress: Progress, *, ended: bool) -> dict[str, Any] | None:
    """Return the scores of the present weights if these are to be kept as the best model.

    Args:
        config: Which weights are kept.
        progress: Position of the run.
        ended: Whether the run has ended.

    Returns:
        None if the present weights are not to be kept; an empty dict if they are, but have no scores.
    """
    if config.keep == "best" and progress.best is not None:
        return progress.best if progress.best["step"] == progress.step else None
    if not ended:
        return None
    return progress.scores if progress.validated_step == progress.step and progress.scores else {}


@dataclass(frozen=True)
class TrainingState:
    """The state that training changes.

    Attributes:
        network: The network.
        average: Moving average of its weights.
        optimiser: The optimiser of the network's parameters.
        progress: Position of the run.
    """

    network: DeepLabV3Plus
    average: WeightAverage
    optimiser: Optimizer
    progress: Progress

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write the checkpoint, whole or not at all.

        Args:
            path: The file; an older one is replaced.
            identity: What identifies the run: plain data for JSON.

        Raises:
            OutputError: If the file cannot be written.
        """
        arrays = {
            name: np.asarray(tensor.detach().cpu(), order="C") for name, tensor in self._tensors().items()
        }
        metadata = {STATE_KEY: json.dumps({"progress": asdict(self.progress), "run": identity})}
        with atomic_path(path, force=True) as temporary:
            temporary.write_bytes(save(arrays, metadata=metadata))

    def load(self, path: Path) -> None:
        """Restore the state of a checkpoint.

        Raises:
            ModelError: If the file is damaged or does not fit this network and optimiser.
        """
        progress = read_checkpoint(path)[0]
        saved = {name: torch.from_numpy(array) for name, array in read_tensors(path).items()}
        self._prepare_optimiser(saved)
        own = self._tensors()
        differing = sorted(own.keys() ^ saved.keys()) or [n for n in own if own[n].shape != saved[n].shape]
        if differing:
            raise ModelError(
                f"{path} does not fit this network and optimiser: {len(differing)} tensors differ, such as "
                f"{differing[0]}. Another version wrote it. Start a new run in another --out."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        for field in fields(Progress):
            setattr(self.progress, field.name, getattr(progress, field.name))

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the state by name, those of the optimiser by the parameter's name."""
        modules = {"network": self.network, "average": self.average.module}
        tensors = {
            f"{prefix}/{name}": tensor
            for prefix, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{name}/{key}"] = value
        return tensors

    def _prepare_optimiser(self, saved: Mapping[str, Tensor]) -> None:
        """Allocate the optimiser's tensors, which it otherwise creates at the first step.

        They have the parameter's memory order, which a file does not store and sums over elements depend on.
        """
        parameters = dict(self.network.named_parameters())
        for full_name, tensor in saved.items():
            prefix, _, rest = full_name.partition("/")
            name, _, key = rest.rpartition("/")
            if prefix != "optimiser" or name not in parameters:
                continue
            parameter = parameters[name]
            if tensor.shape == parameter.shape:
                empty = torch.empty_like(parameter)
            else:  # a count of steps: fused optimisers keep it where the parameters are, others on the CPU
                fused = self.optimiser.defaults.get("fused")
                empty = tensor.to(parameter.device if fused else "cpu")
            self.optimiser.state[parameter][key] = empty.requires_grad_(False)


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Any]]:
    """Return the progress and the identity of the run in a checkpoint, without reading the tensors.

    Raises:
        ModelError: If the file is not a checkpoint.
    """
    try:
        content = json.loads(read_tensor_metadata(path)[STATE_KEY])
        progress = {field.name: content["progress"][field.name] for field in fields(Progress)}
        return Progress(**progress), content["run"]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of a training, or was written by another version: {error!r}. Start "
            "a new run in another --out."
        ) from error
