"""What a model has met of the images that it is scored on, as far as its card tells.

A score on images that a model was trained on says how well it remembers them. Other images of their scenes
are nearly as easy: see docs/accuracy.md for what the same recipe has in regions that are new to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from landcover.data import Dataset, Item
from landcover.errors import DataError, printable
from landcover.model.card import ModelCard
from landcover.unseen import Encounter, Met, common, encounters, fitted_items, fitted_on

Keys = frozenset[str]


@dataclass(frozen=True)
class Seen:
    """What a model, or one of its teachers, has met of the images that are scored.

    Attributes:
        who: What sentences that begin with it call it.
        role: Whether it is the model itself.
        sha256: Of a teacher: its file, as the card tells.
        split: What it was trained on; None where its card names none, or none that can be made of the data.
        same_data: Whether the data are those that it was trained on, as they were then; None where that
            cannot be told. Splits made of other data would say nothing, so that all else is known only where
            this is True.
        began_elsewhere: Whether it began from another trained model, of which no card tells.
        trained_on: Keys of the images that it was trained on, None where that is not known.
        same_scenes: Keys of the images that are other pieces of scenes that it was trained on, as far as the
            data have a table of scenes.
        chosen_on: Keys of the images whose score chose its weights.
    """

    who: str
    role: Literal["model", "teacher"]
    sha256: str | None
    split: str | None
    same_data: bool | None
    began_elsewhere: bool
    trained_on: Keys | None = None
    same_scenes: Keys | None = None
    chosen_on: Keys | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: numbers of images for their keys."""
        names = ("role", "sha256", "split", "same_data", "began_elsewhere")
        return {name: getattr(self, name) for name in names} | {
            kind: None if (keys := getattr(self, kind)) is None else len(keys) for kind in _WORDS
        }


def find_seen(model: str, card: ModelCard, dataset: Dataset, items: Sequence[Item]) -> list[Seen]:
    """Return what a model and its teachers, theirs included, have met of the images that are scored.

    It is told by keys, sizes and counts of classes, not by pixels: copies under other names are other images.
    The masks that it was trained on are counted for that, which a cache has done already.

    Args:
        model: Its name for people.
        card: Its card.
        dataset: The data.
        items: What is scored.

    Returns:
        The model first.
    """
    same: dict[Any, bool | None] = {}  # teachers mostly are of the same data
    found: list[Seen] = []
    for one in encounters(model, card, dataset, items, strict=False):
        asked = (one.known and one.known.split, *(str(one.card.provenance.get(name)) for name in _DECIDE))
        if asked not in same:
            same[asked] = _same_data(one, dataset)
        sha256 = one.card.provenance.get("sha256")
        found.append(
            Seen(
                who=one.who,
                role="teacher" if found else "model",
                sha256=sha256 if found and isinstance(sha256, str) else None,
                split=None if one.known is None else one.known.split,
                same_data=same[asked],
                began_elsewhere=one.began_elsewhere,
                **_met(one, one.known, dataset, items) if one.known and same[asked] else {},
            )
        )
    return found


_DECIDE = ("data_digest", "classes")


def _same_data(one: Encounter, dataset: Dataset) -> bool | None:
    try:
        return one.same_data(dataset)
    except DataError:  # a broken mask, which need not be among those that are scored
        return None


def _met(one: Encounter, known: Met, dataset: Dataset, items: Sequence[Item]) -> dict[str, Keys | None]:
    """Return the keys of the items by the way in which a model has met them."""
    trained_on = frozenset(item.key for item in one.trained_on)
    scenes = {key: tile.scene for key, tile in (dataset.scenes or {}).items()}
    trained_scenes = {scenes.get(item.key) for item in known.trained_on}
    others = {item.key: scenes.get(item.key) for item in items if item.key not in trained_on}
    in_scenes = frozenset(key for key, scene in others.items() if scene and scene in trained_scenes)
    placed = None not in trained_scenes | set(others.values())
    return {
        "trained_on": trained_on,
        "same_scenes": in_scenes if in_scenes or placed else None,
        "chosen_on": None if known.chosen is None else frozenset(item.key for item in one.chosen_on),
    }


_WORDS = {
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
"""What has happened, and what follows, of the worst kind first."""


def seen_warnings(found: Sequence[Seen], images: int) -> Iterator[str]:
    """Yield sentences about images that were met; of teachers, where they have met more than was said.

    Args:
        found: What :func:`find_seen` returned.
        images: How many images are scored.
    """
    said = dict.fromkeys(_WORDS, Keys())
    for one in found:
        for kind, (deed, consequence) in _WORDS.items():
            keys = getattr(one, kind) or Keys()
            if keys - said["trained_on"] - said[kind]:
                said[kind] |= keys
                text = (
                    f"{one.who} (split {one.split}) {deed} {len(keys)} of the {images} images scored here: "
                    f"{consequence}."
                )
                yield printable(text.replace("\n", "\\n"))


def unknown_of_seen(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why it is not known whether images were met, or whether more were; None where it is known.

    Args:
        rows: ``seen`` of an evaluation. That scenes are not known is no reason: most data have none.
    """
    for row in rows:
        who = "the model" if row["role"] == "model" else "a teacher of the model"
        if row["split"] is None:
            return f"the card names no split that {who} was trained on and that can be made of these data"
        if row["same_data"] is False:
            return f"these are not the data that {who} was trained on, as they were then"
        if row["same_data"] is None:
            return f"it cannot be told whether these are the data that {who} was trained on"
        if row["began_elsewhere"]:
            return f"{who} began from another model"
        if row["chosen_on"] is None:
            return f"the card does not tell how the weights of {who} were chosen"
    return None


def describe_seen(rows: Sequence[Mapping[str, Any]], images: int) -> str | None:
    """Say that nothing was met, or what is not known; None where warnings say it all.

    Args:
        rows: ``seen`` of an evaluation.
        images: How many images were scored.
    """
    met = any(row[kind] for row in rows for kind in _WORDS)
    reason = unknown_of_seen(rows)
    if reason is not None:
        more = "met more of" if met else "met any of"
        return f"Whether the model has {more} the {images} images is not known: {reason}."
    if met:
        return None
    neighbours = any(row["same_scenes"] is None for row in rows)
    return f"The model has met none of the {images} images" + (
        "; the data do not tell of their neighbours." if neighbours else ", and none of their neighbours."
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
