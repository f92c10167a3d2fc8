"""A run folder belongs to one run: the same settings, data and start."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from landcover.bundle import BEST_NAME, LAST_NAME
from landcover.errors import ConfigError, OutputError, UsageError
from landcover.training.checkpoint import read_run
from landcover.training.config import TrainConfig
from landcover.training.log import LOG_NAME

CONFIG_NAME = "config.yaml"

_FREE = {"device", "threads", "loaders", "log_every", "checkpoint_minutes", "checkpoint_steps"}
"""Settings that do not change what is learned, and may be others after a resume."""


def identify(
    config: TrainConfig,
    *,
    data: str,
    data_gsd: float,
    model_gsd: float,
    legend: Mapping[str, Any],
    init: str | None,
) -> dict[str, Any]:
    """Return what makes a run the same run, as plain data for JSON.

    Args:
        config: Settings.
        data: Digest of the data.
        data_gsd: Metres per pixel of the data.
        model_gsd: Metres per pixel that the network works at.
        legend: The legend as plain data.
        init: Digest of the model that it starts from, or None.
    """
    settings = config.model_dump(mode="json", exclude=_FREE)
    return {
        **settings,
        "data": data,
        "data_gsd": data_gsd,
        "model_gsd": model_gsd,
        "legend": dict(legend),
        "init": init,
    }


def prepare_folder(folder: Path, identity: Mapping[str, Any], resume: str | Path) -> bool:
    """Make a run folder ready, and return whether it holds this very run to go on with.

    Args:
        folder: The run folder; it need not exist.
        identity: The run, see :func:`identify`.
        resume: ``auto``, ``never``, or another run folder to go on with in a copy.

    Raises:
        OutputError: If the folder holds a run that is not to be gone on with.
        UsageError: If the run folder to copy holds none.
        ConfigError: If the run has another identity; the message names the differing keys.
    """
    last = folder / LAST_NAME
    if str(resume) != "auto" and (last.exists() or (folder / BEST_NAME).exists()):
        raise OutputError(
            f"{folder} holds a run already. Choose another --out, or pass --resume auto to go on with it."
        )
    if str(resume) not in ("auto", "never"):
        _copy_run(Path(resume), folder)
    if not last.exists():
        if (folder / BEST_NAME).exists():
            raise OutputError(
                f"{folder} holds a model ({BEST_NAME}) without a checkpoint. Choose another --out."
            )
        (folder / LOG_NAME).unlink(missing_ok=True)  # of a start that was killed before its first checkpoint
        return False
    there, here = (dict(_flat(run)) for run in (read_run(last)[1], identity))
    differing = [
        f"{key} (there {there.get(key)}, here {here.get(key)})"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} holds a run that differs in {', '.join(differing)}. Choose another --out to begin a "
            "new run, or "
            f"give the settings of {folder / CONFIG_NAME} to go on with that one."
        )
    return True


def _copy_run(source: Path, folder: Path) -> None:
    if not (source / LAST_NAME).is_file():
        raise UsageError(
            f"--resume {source}: there is no run to go on with (no {LAST_NAME}). Expected auto, never or a "
            "run folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # The checkpoint goes last: without it a copy that was cut short counts as nothing.
    for name in (CONFIG_NAME, LOG_NAME, BEST_NAME, LAST_NAME):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings by dotted key."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
