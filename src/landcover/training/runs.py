"""Run folders and checkpoints: each folder belongs to one run of one configuration, data set and start.

A run continues from its checkpoint, one safetensors file, as if it had never stopped.
"""

import filecmp
import json
import logging
import math
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor
from torch.optim import Optimizer

import landcover
from landcover.data.cache import READ_WITH
from landcover.errors import ConfigError, ModelError, OutputError, UsageError
from landcover.io.files import atomic_path, write_text
from landcover.model.card import BEST_NAME, LAST_NAME, RUN_SETTINGS, STATE_KEY
from landcover.model.files import read_tensor_metadata, read_tensors
from landcover.model.network import DeepLabV3Plus
from landcover.raster import Reading
from landcover.textfiles import NOT_REGULAR, file_problem, parse_json
from landcover.training.config import TrainConfig, ValidationConfig
from landcover.training.data import TrainingData, same_content
from landcover.training.log import LOG_BEGIN, LOG_NAME, flatten, read_log
from landcover.training.optim import WeightAverage

CONFIG_NAME = "config.yaml"
SOFT_LABELS_NAME = "soft-labels.safetensors"
"""Soft labels of the teachers, if a run has any."""

Reason = Literal["limit", "patience", "interrupted"]
"""Why a run ended."""

logger = logging.getLogger(__name__)


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
    # A class that is absent from the truth but predicted on a pixel would change the mean of all by a class.
    miou, best = (
        -1.0 if s is None or s["miou"] is None else s.get("miou_present", s["miou"])
        for s in (scores, progress.best)
    )
    improved = progress.best is None or miou > best
    if improved:
        progress.best = progress.scores
    progress.stale = 0 if improved else progress.stale + 1
    return improved


def kept_scores(config: ValidationConfig, progress: Progress, *, ended: bool) -> dict[str, Any] | None:
    """Return the scores of the present weights if they are to be kept as the best model, else None.

    An empty dict means that they are to be kept and do not have scores.
    """
    if config.keep == "best" and progress.best is not None:
        return progress.best if progress.best["step"] == progress.step else None
    if not ended:
        return None
    return progress.scores if progress.validated_step == progress.step and progress.scores else {}


@dataclass(frozen=True)
class TrainingState:
    """The state that training changes: the network, its moving average, its optimiser and the position."""

    network: DeepLabV3Plus
    average: WeightAverage
    optimiser: Optimizer
    progress: Progress

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write the checkpoint, whole or not at all, with the :func:`run_identity`; replace an older file."""
        arrays = {
            name: np.asarray(tensor.detach().cpu(), order="C") for name, tensor in self._tensors().items()
        }
        metadata = {STATE_KEY: json.dumps({"progress": asdict(self.progress), "run": identity})}
        with atomic_path(path, force=True) as temporary:
            temporary.write_bytes(save(arrays, metadata=metadata))

    def load(self, path: Path) -> None:
        """Restore the state of a checkpoint; ModelError if it is damaged or does not fit."""
        progress = read_checkpoint(path)[0]
        saved = {name: torch.from_numpy(array) for name, array in read_tensors(path).items()}
        # The optimiser creates its tensors at the first step. They need the parameter's memory order, which a
        # file does not store and sums over elements depend on.
        for parameter_name, parameter in self.network.named_parameters():
            prefix = f"optimiser/{parameter_name}/"
            for name in (name for name in saved if name.startswith(prefix)):
                if saved[name].shape == parameter.shape:
                    empty = torch.empty_like(parameter)
                else:  # a count of steps: fused optimisers keep it with the parameters, others on the CPU
                    fused = self.optimiser.defaults.get("fused")
                    empty = saved[name].to(parameter.device if fused else "cpu")
                self.optimiser.state[parameter][name.removeprefix(prefix)] = empty.requires_grad_(False)
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
        vars(self.progress).update(vars(progress))

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


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Any]]:
    """Return the progress and the identity of the run in a checkpoint, without reading the tensors."""
    try:
        content = parse_json(read_tensor_metadata(path)[STATE_KEY], str(path), ModelError)
        progress = {field.name: content["progress"][field.name] for field in fields(Progress)}
        counts = (progress[name] for name in ("step", "validated_step", "stale"))
        if not all(isinstance(count, int) for count in counts) or progress["step"] < 0:
            raise ValueError(progress)
        return Progress(**progress), content["run"]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of a training, or was written by another version: {error!r}. Start "
            "a new run in another --out."
        ) from error


def run_identity(
    config: TrainConfig,
    data: TrainingData,
    *,
    weights: str | None,
    init: str | None,
    teachers: Sequence[str],
) -> dict[str, Any]:
    """Return what identifies a run, as plain data for JSON; files by their digests, as they may be moved."""
    reading, plain = data.dataset.reading, Reading()
    identity = {
        **config.model_dump(mode="json", exclude={*RUN_SETTINGS, "inputs"}),
        **{name: value for name in READ_WITH if (value := getattr(reading, name)) != getattr(plain, name)},
        "weights": weights,
        "init": init,
        "teachers": list(teachers),
        "data": data.digest,
        _CONTENT: data.content_digest,
        "data_gsd": data.data_gsd,
        "model_gsd": data.model_gsd,
        "legend": data.dataset.legend.to_dict(),
    }
    plain_data: dict[str, Any] = json.loads(json.dumps(identity))  # as a checkpoint returns it: no tuples
    return plain_data


_CONTENT = "data_content"
"""Digest of images and masks, which runs of earlier versions do not have, or in another form."""

_LIMITS = {"steps", "minutes"}
"""Settings that may differ where a run is extended."""


def prepare_folder(folder: Path, identity: Mapping[str, Any], settings: str, resume: str | Path) -> bool:
    """Prepare a run folder; return whether it contains this run (:func:`run_identity`), to be resumed.

    ``settings`` is the text of its ``config.yaml``; ``resume`` as for :func:`landcover.training.train`.
    """
    for name in (CONFIG_NAME, LOG_NAME, LAST_NAME, BEST_NAME, SOFT_LABELS_NAME):
        if (problem := file_problem(folder / name)) == NOT_REGULAR:
            raise OutputError(f"{folder / name} {problem}; expected a file of a run. Delete it.")
    if (folder / LAST_NAME).exists():
        if str(resume) not in ("auto", "extend"):
            raise OutputError(
                f"{folder} already contains a run. Choose another --out, or resume it with --resume auto."
            )
        _check_same(folder, identity, free=_LIMITS if str(resume) == "extend" else ())
        if str(resume) == "extend":
            write_text(folder / CONFIG_NAME, settings, force=True)
        return True
    if str(resume) == "extend":
        raise UsageError(f"{folder} contains no run to extend ({LAST_NAME} is missing). Check --out.")
    if str(resume) not in ("auto", "never"):
        _copy_run(Path(resume), folder, identity)
        return True
    if (folder / BEST_NAME).exists():
        raise OutputError(
            f"{folder} contains a model ({BEST_NAME}) without a checkpoint. Choose another --out."
        )
    # A start that was killed before its first checkpoint left its settings, and perhaps the start of a log.
    config, log = folder / CONFIG_NAME, folder / LOG_NAME
    saved = config.read_bytes().decode(errors="replace") if config.is_file() else ""
    own, given = (text.partition("\ninputs:")[0] for text in (saved, settings))
    if config.exists() and own != given:
        raise _foreign_file(config)
    if log.exists():
        if not config.exists() or not LOG_BEGIN.startswith(log.read_bytes()[: len(LOG_BEGIN)]):
            raise _foreign_file(log)
        log.unlink()
    return False


def _check_same(folder: Path, identity: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
    """Refuse to resume another run than that of ``identity``, which may differ in the settings ``free``."""
    saved, given = (flatten(run, ".") for run in (read_checkpoint(folder / LAST_NAME)[1], identity))
    if same_content(saved.get(_CONTENT), given[_CONTENT]):
        saved[_CONTENT] = given[_CONTENT]
    differing = {
        key: f"{key} (in the run {saved.get(key)}, given {given.get(key)})"
        for key in sorted(saved.keys() | given.keys())
        if saved.get(key) != given.get(key) and key not in free
    }
    if not differing:
        return
    if list(differing) == ["teachers"]:
        advice = "pass the unchanged files of its teachers (calibrating or training a model changes its file)"
    elif saved.keys() == given.keys():
        advice = f"pass the settings of {folder / CONFIG_NAME}"
        if differing.keys() <= _LIMITS:
            advice = "pass --extend"
    else:
        advice = "use the version that started it"
    raise ConfigError(
        f"{folder} contains a run that differs in {', '.join(differing.values())}. Choose another --out to "
        f"start a new run; to resume that one, {advice}."
    )


def _copy_run(source: Path, folder: Path, identity: Mapping[str, Any]) -> None:
    """Copy a run to resume it; an incomplete copy is completed."""
    if not (source / LAST_NAME).is_file():
        raise UsageError(
            f"--resume {source}: this folder does not contain a run ({LAST_NAME} is missing). Expected auto, "
            "never or a run folder."
        )
    _check_same(source, identity)
    # The checkpoint is copied last: an incomplete copy has none and is not mistaken for a run.
    first = CONFIG_NAME, LOG_NAME, BEST_NAME, SOFT_LABELS_NAME
    names = [name for name in (*first, LAST_NAME) if (source / name).is_file()]
    for name in first:
        if (folder / name).exists() and not (
            name in names and filecmp.cmp(source / name, folder / name, shallow=False)
        ):
            raise _foreign_file(folder / name)
    for name in names:
        with atomic_path(folder / name, force=True) as temporary:
            shutil.copyfile(source / name, temporary)


def _foreign_file(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists but does not belong to this run, and there is no checkpoint beside it. Choose "
        "another --out, or move the file away."
    )


def warn_of_other_device(
    folder: Path, *, device: str, threads: int, precision: str, processes: int = 1
) -> None:
    """Log a warning if the last part used another device, precision, number of threads or of processes."""
    if not (folder / LOG_NAME).exists():
        return
    now: dict[str, Any] = {"device": device, "threads": threads, "precision": precision}
    starts = [line for line in read_log(folder) if line["event"] == "start" and now.keys() <= line.keys()]
    now["processes"] = processes
    before, after = (
        f"{part['device']} in {part['precision']}"
        + (f" with {part['threads']} threads" if part["device"] == "cpu" else "")
        + (f" and {part['processes']} processes" if part.get("processes", 1) > 1 else "")
        for part in ((starts or [now])[-1], now)
    )
    if before != after:
        logger.warning(f"Resuming on {after}; earlier steps ran on {before}. The result differs in bits.")


def versions() -> dict[str, str]:
    """Return the versions of landcover, Python and the libraries that results depend on."""
    found = {"landcover": landcover.__version__, "python": platform.python_version()}
    for name in ("torch", "timm", "lightning-fabric", "numpy", "Pillow", "simplejpeg", "safetensors"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def git_commit() -> str | None:
    """Return the commit of landcover's own checkout, ``-dirty`` if files were changed; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(landcover.__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("describe", "--always", "--abbrev=40")
        # Not describe --dirty, which writes the index in spite of --no-optional-locks.
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changes else commit
