"""What a model has met of a data set, as far as its card tells.

A card names the split that the model was trained on, and a digest of the data. The split is made again on the
data at hand; whether these are the data it was made on then is told by the digest alone: names of folders
differ between a folder, its cache and its copies, and names such as ``train/0000`` are anyone's.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from landcover.data import Dataset, Item, split
from landcover.data.digest import Counted, material_digest
from landcover.data.splits import TRAIN_PARTS, VALIDATION_PARTS, class_pixels, select
from landcover.errors import DataError, SplitError
from landcover.model.card import ModelCard


@dataclass(frozen=True)
class Met:
    """The items of a data set that a model has met if the data are those that it was trained on.

    Attributes:
        split: The split that it was trained on.
        trained_on: Items that its weights were fitted to.
        validated_on: Items that it was scored on while it was trained.
        chosen: Whether that score chose its weights: by keeping the best, or by stopping in time. None where
            the card does not tell.
    """

    split: str
    trained_on: Sequence[Item]
    validated_on: Sequence[Item]
    chosen: bool | None


def met(card: ModelCard, dataset: Dataset) -> Met | None:
    """Return what a model has met of a data set, None where its card names no split that can be made of it.

    It is told by the names of items alone; :func:`is_same_data` says whether they are the same items.

    Raises:
        DataError: If folds are made of masks that cannot be read.
    """
    name = card.provenance.get("split")
    if not isinstance(name, str):
        return None
    try:
        parts = split(dataset, name)
    except (SplitError, OSError):  # no such split here; a list of ids that cannot be opened
        return None
    return Met(
        name,
        next((parts[part] for part in TRAIN_PARTS if part in parts), []),
        next((parts[part] for part in VALIDATION_PARTS if part in parts), []),
        _is_chosen(card.recipe.get("validation")),
    )


def _is_chosen(validation: Any) -> bool | None:
    """Return whether a recipe's validation chose the weights, None where it does not tell."""
    if not isinstance(validation, Mapping):
        return None
    if validation.get("keep") == "best" or validation.get("patience") is not None:
        return True
    return False if validation.get("keep") == "last" else None


def teachers_of(card: ModelCard) -> list[dict[str, Any]]:
    """Return what a card tells of the model's teachers, see :mod:`landcover.training.teachers`.

    Of what is not told as training tells it, there is an empty dict: a teacher of whom nothing is known.
    """
    told = card.provenance.get("teachers")
    if told in (None, "none"):  # the latter on cards of before there were teachers
        return []
    each = told if isinstance(told, list | tuple) else [told]
    return [dict(one) if isinstance(one, Mapping) else {} for one in each]


def lineage(card: ModelCard) -> Iterator[ModelCard]:
    """Yield a card, then what it tells of the model's teachers, theirs included, as cards.

    What they have met has reached the model. Of a model that it began from (``init``) no card tells.
    """
    yield card
    for told in teachers_of(card):
        calibration = told.get("calibration")
        yield from lineage(
            card.model_copy(
                update={
                    "provenance": told,
                    "recipe": {"validation": told.get("validation")},
                    "calibration": calibration if isinstance(calibration, Mapping) else {},
                }
            )
        )


@dataclass(frozen=True)
class Encounter:
    """What a model, or one of its teachers, has met of some items.

    Attributes:
        who: What sentences that begin with it call it.
        card: Its card.
        known: What it has met of the data set, None where that cannot be told.
        trained_on: Those of the items that its weights were fitted to, sorted by key.
        chosen_on: Those of the items whose score chose its weights, sorted by key.
    """

    who: str
    card: ModelCard
    known: Met | None
    trained_on: Sequence[Item]
    chosen_on: Sequence[Item]

    @property
    def began_elsewhere(self) -> bool:
        """Whether it began from another trained model: of what that has met no card tells."""
        return bool(self.card.provenance.get("init"))

    def same_data(self, dataset: Dataset) -> bool | None:
        """Do :func:`is_same_data`; None, too, where it is not known what was met."""
        return None if self.known is None else is_same_data(self.card, dataset, self.known)


def encounters(
    model: str,
    card: ModelCard,
    dataset: Dataset,
    items: Iterable[Item],
    *,
    title: str = "",
    strict: bool = True,
) -> Iterator[Encounter]:
    """Yield what a model has met of some items, then what each other of its :func:`lineage` has.

    It is told by the names of items; :meth:`Encounter.same_data` says whether they are the same items.

    Args:
        model: Its name for people.
        card: Its card.
        dataset: Where the items are.
        items: The items, such as those that are to be scored.
        title: What sentences about itself begin with before its name, such as "The teacher".
        strict: Whether folds that cannot be made of broken masks are an error, or just not known.

    Raises:
        DataError: If folds are made of masks that cannot be read, and ``strict`` is on.
    """
    keys = {item.key for item in items}
    for one in lineage(card):
        try:
            known = met(one, dataset)
        except DataError:
            if strict:
                raise
            known = None
        trained_on: Sequence[Item] = () if known is None else known.trained_on
        chosen_on: Sequence[Item] = known.validated_on if known is not None and known.chosen else ()
        yield Encounter(
            f"{title} {model}".strip() if one is card else f"A teacher of {model}",
            one,
            known,
            [item for item in trained_on if item.key in keys],  # a split's parts are sorted
            [item for item in chosen_on if item.key in keys],
        )


def is_same_data(card: ModelCard, dataset: Dataset, known: Met) -> bool | None:
    """Return whether a data set is the one that a model was trained on, wherever it lies; None: unknown.

    The digest of the training data is made again (:mod:`landcover.data.digest`), for which a folder's masks
    are decoded; a cache knows their counts. It is another one as soon as a tile more or less takes part, so
    that False says "other data, or these with changes". It is unknown where the card has no digest, or the
    data have other classes than the model.

    Args:
        card: The model's card.
        dataset: The data.
        known: What :func:`met` returned.

    Raises:
        DataError: If a mask cannot be read.
    """
    digest = card.provenance.get("data_digest")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        return None
    if set(card.legend.scored_names) != set(dataset.legend.scored_names):
        return None
    names = card.provenance.get("classes")  # a teacher's own, in the order of its channels
    if not isinstance(names, list | tuple) or sorted(map(str, names)) != sorted(card.legend.scored_names):
        names = card.legend.scored_names
    order = [dataset.legend.names.index(name) for name in names]
    pixels = class_pixels(dataset, known.trained_on)
    counted = (
        Counted(item.key, *dataset.size(item), pixels[item.key][order].tolist()) for item in known.trained_on
    )
    return bool(digest == material_digest(counted, (item.key for item in known.validated_on)))


def fitted_on(record: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return the split that a temperature was fitted on and the name of its data, as a card's record tells.

    A temperature taken over from another run was fitted on the other's, whose data's name is not known.
    """
    name = record.get("split_of_like" if "like" in record else "split")
    data = record.get("data")
    return (name, data if isinstance(data, str) else None) if isinstance(name, str) else None


def fitted_items(record: Mapping[str, Any], dataset: Dataset) -> Sequence[Item]:
    """Return the items of a data set that a temperature was fitted on, by their names.

    Args:
        record: The card's ``calibration``.
        dataset: The data; nothing of them, where they have no such split.
    """
    fitted = fitted_on(record)
    try:
        return [] if fitted is None else select(dataset, fitted[0])
    except (SplitError, DataError, OSError):  # other data
        return []


def common(some: Iterable[Item], others: Iterable[Item]) -> list[str]:
    """Return the keys that are among both, sorted."""
    return sorted({item.key for item in some} & {item.key for item in others})
