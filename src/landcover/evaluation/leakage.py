"""What a model has met of the images that it is scored on, as far as its card tells.

A score on images that a model was trained on says how well it remembers them. Other images of their scenes
are nearly as easy: see docs/accuracy.md for what the same recipe has in regions that are new to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from landcover.bundle import ModelCard
from landcover.data import Dataset, Item
from landcover.errors import DataError, printable
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
        same_data: Whether the data are those that it was trained on; False, too, where these have changed
            since, so that splits made again are others; None where nothing proves it.
        began_elsewhere: Whether it began from another trained model, of which no card tells.
        trained_on: Keys of the images that it was trained on, None where that is not known.
        same_scenes: Keys of the images that are other pieces of scenes that it was trained on.
        chosen_on: Keys of the images whose score chose its weights.
    """

    who: str
    role: Literal["model", "teacher"]
    sha256: str | None
    split: str | None
    same_data: bool | None
    began_elsewhere: bool
    trained_on: Keys | None
    same_scenes: Keys | None
    chosen_on: Keys | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: numbers of images for their keys."""
        names = ("role", "sha256", "split", "same_data", "began_elsewhere")
        return {name: getattr(self, name) for name in names} | {
            kind: None if (keys := getattr(self, kind)) is None else len(keys) for kind in _WORDS
        }


def find_seen(model: str, card: ModelCard, dataset: Dataset, items: Sequence[Item]) -> list[Seen]:
    """Return what a model and its teachers, theirs included, have met of the images that are scored.

    The masks that it was trained on are counted for that, which a cache has done already.

    Args:
        model: Its name for people.
        card: Its card.
        dataset: The data.
        items: What is scored.

    Returns:
        The model first.
    """
    told: dict[Any, bool | None] = {}
    found: list[Seen] = []
    for one in encounters(model, card, dataset, items, strict=False):
        digest, names = one.card.provenance.get("data_digest"), one.card.legend.scored_names
        asked = (one.known and one.known.split, str(digest), names)
        if asked not in told:
            told[asked] = _same_data(one, dataset)
        found.append(_seen(one, told[asked], dataset, items, itself=not found))
    return found


def _same_data(one: Encounter, dataset: Dataset) -> bool | None:
    try:
        return one.same_data(dataset)
    except DataError:  # a broken mask, which need not be among those that are scored
        return None


def _seen(
    one: Encounter, same: bool | None, dataset: Dataset, items: Sequence[Item], *, itself: bool
) -> Seen:
    sha256 = None if itself else one.card.provenance.get("sha256")
    return Seen(
        who=one.who,
        role="model" if itself else "teacher",
        sha256=sha256 if isinstance(sha256, str) else None,
        split=None if one.known is None else one.known.split,
        same_data=same,
        began_elsewhere=one.began_elsewhere,
        # Made of other data, the split says nothing about those that it was trained on.
        **(
            _met(one, one.known, dataset, items) if one.known and same is not False else dict.fromkeys(_WORDS)
        ),
    )


def _met(one: Encounter, known: Met, dataset: Dataset, items: Sequence[Item]) -> dict[str, Keys]:
    """Return the keys of the items by the way in which a model has met them, each in one way."""
    trained_on = frozenset(item.key for item in one.trained_on)
    scenes = dataset.scenes or {}
    trained_scenes = {scenes[item.key].scene for item in known.trained_on if item.key in scenes}
    in_scenes = {
        item.key for item in items if item.key in scenes and scenes[item.key].scene in trained_scenes
    }
    return {
        "trained_on": trained_on,
        "same_scenes": frozenset(in_scenes) - trained_on,
        "chosen_on": frozenset(item.key for item in one.chosen_on),
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


_BY_NAMES = "This is as far as names tell; nothing proves that these are the data that it learned from."


def seen_warnings(found: Sequence[Seen], images: int) -> Iterator[str]:
    """Yield sentences about images that were met; of teachers, where they have met more than was said.

    Args:
        found: What :func:`find_seen` returned.
        images: How many images are scored.
    """
    said = dict.fromkeys(_WORDS, Keys())
    for one in sorted(found, key=lambda one: one.same_data is None):  # what is certain first
        doubt = "" if one.same_data else f" {_BY_NAMES}"
        for kind, (deed, consequence) in _WORDS.items():
            keys = getattr(one, kind) or Keys()
            if keys - said["trained_on"] - said[kind]:
                yield printable(
                    f"{one.who} (split {one.split}) {deed} {len(keys)} of the {images} images scored here: "
                    f"{consequence}.{doubt}"
                )
                said[kind] |= keys


def describe_seen(rows: Sequence[Mapping[str, Any]], images: int) -> str | None:
    """Say that nothing was met, or why that is not known; None where warnings tell what was.

    Args:
        rows: ``seen`` of an evaluation.
        images: How many images were scored.
    """
    if any(row[kind] for row in rows for kind in _WORDS):
        return None
    for row in rows:
        who = "the model" if row["role"] == "model" else "a teacher of the model"
        reason = None
        if row["split"] is None:
            reason = f"the card names no split that {who} was trained on and that can be made of these data"
        elif row["same_data"] is False:
            reason = f"these are not the data that {who} was trained on, or they have changed since"
        elif row["same_data"] is None:
            reason = f"nothing proves that these are the data that {who} was trained on"
        elif row["began_elsewhere"]:
            reason = f"{who} began from another model"
        if reason is not None:
            return f"Whether the model has met any of the {images} images is not known: {reason}."
    return f"The model has met none of the {images} images."


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
