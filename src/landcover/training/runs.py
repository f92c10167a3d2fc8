"""Run folders: each belongs to one run, with one configuration, one data set and one start."""

import filecmp
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from landcover.errors import ConfigError, OutputError, UsageError
from landcover.io.files import atomic_path
from landcover.model.card import BEST_NAME, LAST_NAME
from landcover.training.checkpoint import read_checkpoint
from landcover.training.config import TrainConfig
from landcover.training.data import TrainingData
from landcover.training.log import LOG_BEGIN, LOG_NAME, read_log

CONFIG_NAME = "config.yaml"
SOFT_LABELS_NAME = "soft-labels.safetensors"
"""Soft labels of the teachers, if a run has any."""

_FREE = {"device", "threads", "loaders", "log_every", "checkpoint_minutes", "checkpoint_steps"}
"""Settings that do not change the result and may differ after a resume."""

logger = logging.getLogger(__name__)


def run_identity(
    config: TrainConfig,
    data: TrainingData,
    *,
    weights: str | None,
    init: str | None,
    teachers: Sequence[str],
) -> dict[str, Any]:
    """Return what identifies a run, as plain data for JSON.

    Args:
        config: The configuration.
        data: The training data.
        weights: Digest of the encoder's weights (the file may be moved), ``timm`` or None.
        init: Digest of the model that the run starts from, or None.
        teachers: Digests of the teachers.
    """
    return {
        **config.model_dump(mode="json", exclude=_FREE),
        "weights": weights,
        "data": data.digest,
        "data_gsd": data.data_gsd,
        "model_gsd": data.model_gsd,
        "legend": data.dataset.legend.to_dict(),
        "init": init,
        "teachers": list(teachers),
    }


def prepare_folder(folder: Path, identity: Mapping[str, Any], settings: str, resume: str | Path) -> bool:
    """Prepare a run folder; return whether it contains this run, to be resumed.

    Args:
        folder: The run folder; it need not exist.
        identity: The run, see :func:`run_identity`.
        settings: The text of the run's ``config.yaml``.
        resume: ``auto``, ``never``, or another run folder whose copy is resumed.

    Raises:
        OutputError: If the folder contains a run that is not to be resumed, or other files.
        UsageError: If the run folder to copy does not contain a run.
        ConfigError: If the run has another identity; the message names the differing keys.
    """
    if (folder / LAST_NAME).exists():
        if str(resume) != "auto":
            raise OutputError(
                f"{folder} already contains a run. Choose another --out, or resume it with --resume auto."
            )
        _check_same(folder, identity)
        return True
    if str(resume) not in ("auto", "never"):
        _copy_run(Path(resume), folder, identity)
        return True
    if (folder / BEST_NAME).exists():
        raise OutputError(
            f"{folder} contains a model ({BEST_NAME}) without a checkpoint. Choose another --out."
        )
    _remove_leftovers(folder, settings)
    return False


def warn_of_other_device(folder: Path, device: str, threads: int, precision: str) -> None:
    """Log a warning if the run's last part ran on another device, in another precision or with other threads.

    Args:
        folder: The run folder.
        device: The device of the resumed run.
        threads: Its threads on a CPU.
        precision: Its precision.
    """
    if not (folder / LOG_NAME).exists():
        return
    starts = [
        _describe(event["device"], event["threads"], event["precision"])
        for event in read_log(folder)
        if event["event"] == "start" and {"device", "threads", "precision"} <= event.keys()
    ]
    now = _describe(device, threads, precision)
    if starts and starts[-1] != now:
        logger.warning(
            "Resuming on %s; earlier steps ran on %s. The result differs in bits.", now, starts[-1]
        )


def _describe(device: str, threads: int, precision: str) -> str:
    return (
        f"{device} with {threads} threads in {precision}" if device == "cpu" else f"{device} in {precision}"
    )


def _check_same(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to resume another run than that of ``identity``."""
    saved, given = (dict(_flat(run)) for run in (read_checkpoint(folder / LAST_NAME)[1], identity))
    differing = {
        key: f"{key} (in the run {saved.get(key)}, given {given.get(key)})"
        for key in sorted(saved.keys() | given.keys())
        if saved.get(key) != given.get(key)
    }
    if not differing:
        return
    if list(differing) == ["teachers"]:
        advice = "pass the unchanged files of its teachers (calibrating or training a model changes its file)"
    elif saved.keys() == given.keys():
        advice = f"pass the settings of {folder / CONFIG_NAME}"
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


def _remove_leftovers(folder: Path, settings: str) -> None:
    """Remove the log of a start that was killed before its first checkpoint; refuse other files.

    Such a start has written its ``config.yaml``, and perhaps the beginning of a log.
    """
    config, log = folder / CONFIG_NAME, folder / LOG_NAME
    if config.exists() and config.read_bytes() != settings.encode():
        raise _foreign_file(config)
    if log.exists():
        beginning = log.read_bytes()[: len(LOG_BEGIN)]
        if not config.exists() or not LOG_BEGIN.startswith(beginning):
            raise _foreign_file(log)
        log.unlink()


def _foreign_file(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists but does not belong to this run, and there is no checkpoint beside it. Choose "
        "another --out, or move the file away."
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings by dotted key."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
