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
from landcover.bundle import read_card
from landcover.data import Dataset, Item, split
from landcover.errors import DataError, ModelError, SplitError
from landcover.evaluation.predictions import from_model
from landcover.files import atomic_path, write_text
from landcover.metrics import ConfusionMatrix, Int64Array
from landcover.progress import track
from landcover.runtimes import Runtime
from landcover.training.log import LOG_NAME, read_log
from landcover.training.material import TRAIN_PARTS, VALIDATION_PARTS


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
    """Return ``steps, images, seconds, images_per_second`` of a training, or None where nothing tells.

    Args:
        model: A run folder of ours or of a peer, or a model file, beside which nothing stands.
    """
    found: dict[str, Any] = {}
    if (model / RESULT_NAME).is_file():
        about = json.loads((model / RESULT_NAME).read_text(encoding="utf-8"))
        found = {key: about[key] for key in ("steps", "images", "seconds")}
    elif (model / LOG_NAME).is_file():
        events = {event["event"]: event for event in read_log(model)}
        if "start" in events and "end" in events:
            config, steps = events["start"]["config"], events["end"]["step"]
            images = steps * config["batch_size"] * config["accumulate"]
            last = events.get("step", events["end"])  # an end counts the last validation, too
            found = {"steps": steps, "images": images, "seconds": last["seconds"]}
    if not found:
        return None
    return {**found, "images_per_second": found["images"] / max(found["seconds"], 1e-9)}


def groups_of(dataset: Dataset, items: Sequence[Item]) -> list[str]:
    """Return the scene of each item, or its key where the scene is not known."""
    scenes = dataset.scenes or {}
    return [f"scene {scenes[item.key].scene}" if item.key in scenes else item.key for item in items]


def check_unseen(model: Path, dataset: Dataset, items: Sequence[Item], *, by_scene: bool) -> list[str]:
    """See that a model trained elsewhere has met nothing of what it is to be scored on.

    Its card names the split that it was trained on, which is made again here.

    Args:
        model: Model file or run folder.
        dataset: The data that are scored.
        items: What is scored.
        by_scene: Whether other tiles of their scenes count as seen, too.

    Returns:
        Sentences about what cannot be told.

    Raises:
        ModelError: If it was trained on some of the items (or scenes), or its weights were chosen by their
            score on them.
    """
    card = read_card(model)
    name = str(card.provenance.get("split"))
    try:
        parts = split(dataset, name)
    except SplitError:
        return [f"{model} was trained on the split {name!r}, unknown here: it may have seen what is scored."]
    name_of = groups_of if by_scene else _keys
    scored = set(name_of(dataset, items))
    for names, kept, what in (
        (TRAIN_PARTS, True, "trained on"),
        (VALIDATION_PARTS, _chosen(card.recipe), "chosen by its score on"),
    ):
        members = next((parts[part] for part in names if part in parts), [])
        seen = scored.intersection(name_of(dataset, members)) if kept else ()
        if seen:
            raise ModelError(
                f"{model} (split {name}) was {what} {len(seen)} of the {len(scored)} "
                f"{'scenes' if by_scene else 'tiles'} that it is to be scored on, such as {min(seen)}. Such "
                "a score would say nothing; give a model that was kept away from them."
            )
    return []


def _keys(dataset: Dataset, items: Sequence[Item]) -> list[str]:
    return [item.key for item in items]


def _chosen(recipe: dict[str, Any]) -> bool:
    """Whether weights were chosen by their score, as the recipe on a card says."""
    return bool(recipe.get("validation", {}).get("keep") == "best")
