"""What a model has met of the images that it is scored on, as far as its card tells.

A score on images that a model was trained on says how well it remembers them. Other images of their scenes
are nearly as easy: see docs/accuracy.md for what the same recipe has in regions that are new to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from landcover.bundle import ModelCard
from landcover.data import Dataset, Item
from landcover.errors import DataError, printable
from landcover.unseen import Encounter, Met, common, encounters, fitted_items, fitted_on, is_trained_on


def find_seen(model: str, card: ModelCard, dataset: Dataset, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return what a model and its teachers have met of items that are scored.

    Args:
        model: Its name for people.
        card: Its card.
        dataset: The data.
        items: What is scored.

    Returns:
        A row for the model, and for each of its teachers that has met more than those before it; none where
        nothing was met or nothing is known: ``who``; ``split`` (that it was trained on); numbers of the
        items: ``trained_on``, ``same_scenes`` (not trained on, but other images of their scenes), and
        ``chosen_on`` (its weights were chosen by their score there); ``same_data``: whether the data are
        those that it was trained on, None where that cannot be told. False may be a small change of them.
    """
    rows, told = [], set[tuple[str, str]]()
    try:
        for one in encounters(model, card, dataset, items, title="The model "):
            if one.known is None:
                continue
            found = _met_in(one, one.known, dataset, items)
            pairs = {(kind, key) for kind, keys in found.items() for key in keys}
            if pairs <= told:
                continue
            told |= pairs
            rows.append(
                {
                    "who": one.who,
                    "split": one.known.split,
                    **{kind: len(keys) for kind, keys in found.items()},
                    "same_data": _is_trained_on(one, one.known, dataset),
                }
            )
    except DataError:  # of masks that are not scored; folds that are made of them are unknown
        pass
    return rows


def _met_in(one: Encounter, known: Met, dataset: Dataset, items: Sequence[Item]) -> dict[str, list[str]]:
    """Return the keys of items by the way in which a model has met them."""
    trained_on = [item.key for item in one.trained_on]
    scenes = dataset.scenes or {}
    trained_scenes = {scenes[item.key].scene for item in known.trained_on if item.key in scenes}
    in_scenes = {
        item.key for item in items if item.key in scenes and scenes[item.key].scene in trained_scenes
    }
    return {
        "trained_on": trained_on,
        "same_scenes": sorted(in_scenes.difference(trained_on)),
        "chosen_on": [item.key for item in one.chosen_on],
    }


def _is_trained_on(one: Encounter, known: Met, dataset: Dataset) -> bool | None:
    try:
        return is_trained_on(one.card, dataset, known)
    except DataError:  # a mask that takes no part in what is scored
        return None


_DEEDS = {
    "trained_on": (
        "was trained on",
        "the scores tell how well it remembers them, not how it maps what it has never seen",
    ),
    "same_scenes": (
        "was trained on other images of the scenes of",
        "expect less of it in regions that are new to it",
    ),
    "chosen_on": ("was chosen by its score on", "the scores are a little too good"),
}
_DOUBTS = {
    True: "",
    False: (
        ", if the names mean the same images (the data are others than it was trained on, or have been "
        "changed since)"
    ),
    None: ", if the names mean the same images (its card does not tell)",
}


def seen_warnings(rows: Sequence[Mapping[str, Any]], images: int) -> Iterator[str]:
    """Yield sentences about what :func:`find_seen` found.

    Args:
        rows: What it returned.
        images: How many images are scored.
    """
    for row in rows:
        for kind, (deed, consequence) in _DEEDS.items():
            if row[kind]:
                yield printable(
                    f"{row['who']} (split {row['split']}) {deed} {row[kind]} of the {images} images scored "
                    f"here{_DOUBTS[row['same_data']]}: {consequence}."
                )


def fitted_warnings(record: Mapping[str, Any], dataset: Dataset, items: Sequence[Item]) -> list[str]:
    """Tell of images that the temperature was fitted on, whatever the name of the split that has them.

    The split that the card names is made again here; other data have none such, or no images of these names.
    """
    fitted = fitted_on(record)
    both = common(items, fitted_items(record, dataset))
    if fitted is None or not both:
        return []
    where = fitted[0] if fitted[1] is None else f"{fitted[0]} of data named {fitted[1]}"
    return [
        printable(
            f"The model's temperature was fitted on {where}, which has images of the same names as "
            f"{len(both)} of the {len(items)} images scored here. If they are the same, the calibration is a "
            "little optimistic."
        )
    ]
