"""A run folder belongs to one run: the same settings, data and start."""

import filecmp
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from landcover.errors import ConfigError, OutputError, UsageError
from landcover.io.files import atomic_path
from landcover.model.card import BEST_NAME, LAST_NAME
from landcover.training.checkpoint import read_run
from landcover.training.config import TrainConfig
from landcover.training.log import LOG_BEGIN, LOG_NAME, read_log

CONFIG_NAME = "config.yaml"
SOFT_LABELS_NAME = "soft-labels.safetensors"
"""Soft labels, in runs with teachers."""

_FREE = {"device", "threads", "loaders", "log_every", "checkpoint_minutes", "checkpoint_steps"}
"""Settings that do not change what is learned, and may be others after a resume."""


def identify(
    config: TrainConfig,
    *,
    weights: str | None,
    data: str,
    data_gsd: float,
    model_gsd: float,
    legend: Mapping[str, Any],
    init: str | None,
    teachers: Sequence[str],
) -> dict[str, Any]:
    """Return what makes a run the same run, as plain data for JSON.

    Args:
        config: Settings.
        weights: Digest of the encoder's weights, ``timm`` or None; a file may be moved.
        data: Digest of the data.
        data_gsd: Metres per pixel of the data.
        model_gsd: Metres per pixel that the network works at.
        legend: The legend as plain data.
        init: Digest of the model that it starts from, or None.
        teachers: Digests of its teachers.
    """
    settings = config.model_dump(mode="json", exclude=_FREE)
    return {
        **settings,
        "weights": weights,
        "data": data,
        "data_gsd": data_gsd,
        "model_gsd": model_gsd,
        "legend": dict(legend),
        "init": init,
        "teachers": list(teachers),
    }


def prepare_folder(folder: Path, identity: Mapping[str, Any], settings: str, resume: str | Path) -> bool:
    """Make a run folder ready, and return whether it holds this very run to go on with.

    Args:
        folder: The run folder; it need not exist.
        identity: The run, see :func:`identify`.
        settings: What ``config.yaml`` says of the run.
        resume: ``auto``, ``never``, or another run folder to go on with in a copy.

    Raises:
        OutputError: If the folder holds a run that is not to be gone on with, or files of no run.
        UsageError: If the run folder to copy holds none.
        ConfigError: If the run has another identity; the message names the differing keys.
    """
    if (folder / LAST_NAME).exists():
        if str(resume) != "auto":
            raise OutputError(
                f"{folder} holds a run already. Choose another --out, or pass --resume auto to go on with it."
            )
        _check_same(folder, identity)
        return True
    if str(resume) not in ("auto", "never"):
        _copy_run(Path(resume), folder, identity)
        return True
    if (folder / BEST_NAME).exists():
        raise OutputError(f"{folder} holds a model ({BEST_NAME}) without a checkpoint. Choose another --out.")
    _clear(folder, settings)
    return False


def other_place(folder: Path, device: str, threads: int, precision: str) -> list[str]:
    """Return a notice if a run was last computed elsewhere, in another precision or with other threads.

    Args:
        folder: The run folder.
        device: Where the run goes on.
        threads: Threads that compute there.
        precision: What it computes in there.
    """
    if not (folder / LOG_NAME).exists():
        return []
    places = [
        _place(event["device"], event["threads"], event["precision"])
        for event in read_log(folder)
        if event["event"] == "start" and {"device", "threads", "precision"} <= event.keys()
    ]
    here = _place(device, threads, precision)
    if places[-1:] in ([], [here]):
        return []
    return [
        f"The run was computed on {places[-1]} and goes on on {here}: it will not end bit for bit as it "
        "would have there."
    ]


def _place(device: str, threads: int, precision: str) -> str:
    return (
        f"{device} with {threads} threads in {precision}" if device == "cpu" else f"{device} in {precision}"
    )


def _check_same(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with another run than that of ``identity``."""
    there, here = (dict(_flat(run)) for run in (read_run(folder / LAST_NAME)[1], identity))
    differing = [
        f"{key} (there {there.get(key)}, here {here.get(key)})"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        known = there.keys() == here.keys()
        way = f"give the settings of {folder / CONFIG_NAME}" if known else "use the version that began it"
        if there.get("teachers") != here.get("teachers") and len(differing) == 1:
            way = "give the very files of its teachers (to calibrate or train one further changes its file)"
        raise ConfigError(
            f"{folder} holds a run that differs in {', '.join(differing)}. Choose another --out to begin a "
            f"new run, or {way} to go on with that one."
        )


def _copy_run(source: Path, folder: Path, identity: Mapping[str, Any]) -> None:
    """Copy a run that may be gone on with; a copy that was cut short is made whole."""
    if not (source / LAST_NAME).is_file():
        raise UsageError(
            f"--resume {source}: there is no run to go on with (no {LAST_NAME}). Expected auto, never or a "
            "run folder."
        )
    _check_same(source, identity)
    # The checkpoint goes last: without it a copy that was cut short counts as nothing.
    before = CONFIG_NAME, LOG_NAME, BEST_NAME, SOFT_LABELS_NAME
    names = [name for name in (*before, LAST_NAME) if (source / name).is_file()]
    for name in before:
        if (folder / name).exists() and not (
            name in names and filecmp.cmp(source / name, folder / name, shallow=False)
        ):
            raise _foreign(folder / name)
    for name in names:
        with atomic_path(folder / name, force=True) as temporary:
            shutil.copyfile(source / name, temporary)


def _clear(folder: Path, settings: str) -> None:
    """Take away what a start left that was killed before its first checkpoint, and refuse what is not of one.

    Such a start has written its ``config.yaml``, and perhaps begun a log.
    """
    config, log = folder / CONFIG_NAME, folder / LOG_NAME
    if config.exists() and config.read_bytes() != settings.encode():
        raise _foreign(config)
    if log.exists():
        begun = log.read_bytes()[: len(LOG_BEGIN)]
        if not config.exists() or not LOG_BEGIN.startswith(begun):
            raise _foreign(log)
        log.unlink()


def _foreign(path: Path) -> OutputError:
    return OutputError(
        f"{path} exists already and is not of this run, and there is no checkpoint beside it. Choose another "
        "--out, or move the file away."
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings by dotted key."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
