"""Score one training: a table of counts for each tile, and proof that the model has not seen it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from landcover.benchmarks.accuracy.recipes import RESULT_NAME
from landcover.data import Dataset, Item
from landcover.errors import DataError, ModelError
from landcover.evaluation.overlap import describe_overlap, overlap_warnings, training_overlap
from landcover.evaluation.predictions import from_model
from landcover.io.files import atomic_path, write_text
from landcover.metrics import ConfusionMatrix, Int64Array
from landcover.model.card import read_card
from landcover.model.runtimes import Runtime
from landcover.progress import track
from landcover.training.log import LOG_NAME, read_log

_NEEDED = {"contender", "fold", "seed", "training", "warnings"}
"""What reports read of a result."""


@dataclass(frozen=True)
class Scored:
    """The counts of one training.

    Attributes:
        about: Plain data: ``contender, fold, seed, split, part, images, rule, training, model_sha256`` and
            the like, and the scores.
        keys: str (N,), the scored tiles.
        groups: str (N,), the scene of each tile, or its key where the scene is not known.
        tables: int64 (N, K, K + 1), ``ConfusionMatrix.table`` of each tile.
    """

    about: dict[str, Any]
    keys: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    tables: Int64Array

    @classmethod
    def of(
        cls, about: dict[str, Any], items: Sequence[Item], groups: Sequence[str], tables: Int64Array
    ) -> "Scored":
        """Put the counts of items together."""
        return cls(about, np.array([item.key for item in items]), np.array(groups), tables)

    def write(self, path: Path) -> None:
        """Write ``path``, JSON, and the counts beside it as ``.npz``; the JSON comes last and says: done."""
        with atomic_path(path.with_suffix(".npz"), force=True) as temporary:
            np.savez_compressed(temporary, keys=self.keys, groups=self.groups, tables=self.tables)
        write_text(path, json.dumps(self.about, indent=1) + "\n")


def read_scored(path: Path) -> Scored:
    """Read what :meth:`Scored.write` wrote.

    Raises:
        DataError: If a file is missing or damaged.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or not about.keys() >= _NEEDED:
            raise ValueError(f"expected the result of a training, with {', '.join(sorted(_NEEDED))}")
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            return Scored(about, *(arrays[name] for name in ("keys", "groups", "tables")))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{path} or the counts beside it cannot be read ({error}). Remove both to score again."
        ) from error


def score(runtime: Runtime, dataset: Dataset, items: Sequence[Item], label: str) -> Int64Array:
    """Predict and count each item as ``landcover evaluate`` does.

    Args:
        runtime: The model.
        dataset: Where the items are.
        items: N labelled items.
        label: What is said of it while it goes.

    Returns:
        int64 (N, K, K + 1), ``ConfusionMatrix.table`` of each item.
    """
    source = from_model(dataset, runtime)
    tables = []
    for item in track(items, f"Scoring {label}", total=len(items)):
        matrix = ConfusionMatrix(dataset.legend)
        matrix.update(dataset.read_mask(item), source.predict(item).index)
        tables.append(matrix.table)
    return np.stack(tables)


def effort(model: Path) -> dict[str, Any] | None:
    """Return ``steps, images, seconds, precision, images_per_second`` of a training, None if nothing tells.

    Args:
        model: A run folder of ours or of a peer, or a model file, beside which nothing stands.
    """
    found: dict[str, Any] = {}
    if (model / RESULT_NAME).is_file():
        about = json.loads((model / RESULT_NAME).read_text(encoding="utf-8"))
        found = {key: about.get(key) for key in ("steps", "images", "seconds", "precision")}
    elif (model / LOG_NAME).is_file():
        events = {event["event"]: event for event in read_log(model)}
        if "start" in events and "end" in events:
            config, steps = events["start"]["config"], events["end"]["step"]
            images = steps * config["batch_size"] * config["accumulate"]
            last = events.get("step", events["end"])  # an end counts the last validation, too
            found = {"steps": steps, "images": images, "seconds": last["seconds"]}
            found["precision"] = events["start"].get("precision")
    if not found:
        return None
    return {**found, "images_per_second": found["images"] / max(found["seconds"], 1e-9)}


def groups_of(dataset: Dataset, items: Sequence[Item]) -> list[str]:
    """Return the scene of each item, or its key where the scene is not known."""
    scenes = dataset.scenes or {}
    return [f"scene {scenes[item.key].scene}" if item.key in scenes else item.key for item in items]


def check_unseen(model: Path, dataset: Dataset, items: Sequence[Item], *, by_scene: bool) -> list[str]:
    """Refuse a model that was trained on, or selected by, the images that it is to be scored on.

    Args:
        model: Model file or run folder.
        dataset: The data that are scored.
        items: What is scored.
        by_scene: Whether tiles of training scenes are refused, too.

    Returns:
        A sentence where the card does not prove that there is no overlap.

    Raises:
        ModelError: If images overlap.
    """
    overlap = training_overlap(read_card(model), dataset, items)
    if overlap.identical or overlap.selection or (by_scene and overlap.same_scene):
        raise ModelError(" ".join(overlap_warnings(overlap, str(model))))
    proven = overlap.status == "no overlap" or (not by_scene and overlap.status != "not recorded")
    return [] if proven else [f"{model}: {describe_overlap(overlap)}"]
