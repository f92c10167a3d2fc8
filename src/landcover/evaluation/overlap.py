"""Overlap of evaluated images with the images that a model was made from.

Scores on training images measure memorisation. Other tiles of a training scene are nearly as easy: see
docs/reports/accuracy.md for the scores of the same recipe on scenes that are new to it.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from landcover.config import Config
from landcover.data import Dataset, Item
from landcover.data.fingerprints import identical_items
from landcover.errors import printable
from landcover.model.card import ImageSet, ModelCard

Status = Literal[
    "identical image found",
    "scene of the training data found",
    "no overlap",
    "no identical image found",
    "not recorded",
]


class TrainingOverlap(Config):
    """How many of the evaluated images the model, or a model that it was made from, was fitted to.

    Attributes:
        status: The strongest statement that holds. "no overlap" requires that the scenes of all images are
            known from one scene table. "not recorded": the model's card, or that of a parent model, does not
            list its training images, and no identical one was found.
        images: Number of evaluated images.
        identical: Number of them that are identical to a training image; None: not recorded.
        same_scene: Number of others that are tiles of a scene with training images; None: not known.
        selection: Number of them whose scores chose the weights.
        calibration: Number of them that the temperature was fitted on.
        example: Key of an identical image, else of one of a training scene.
    """

    status: Status
    images: int
    identical: int | None = None
    same_scene: int | None = None
    selection: int = 0
    calibration: int = 0
    example: str | None = None


def training_overlap(card: ModelCard, dataset: Dataset, items: Sequence[Item]) -> TrainingOverlap:
    """Compare evaluated images with those in a model's card."""
    used = card.used_images
    recorded = used.training or ImageSet(complete=False)
    identical, selected, calibrated = (
        identical_items(dataset, items, part) for part in (used.training, used.selection, used.calibration)
    )
    # Scene ids are compared only where both come from the same scene table.
    scenes = {key: place.scene for key, place in (dataset.scenes or {}).items()}
    trained = recorded.scenes.get(str(dataset.scene_table), ())
    keys = {item.key for item in identical}
    others = [item for item in items if item.key not in keys]
    same_scene: list[Item] | None = [item for item in others if scenes.get(item.key) in trained]
    if not same_scene and not (trained and all(item.key in scenes for item in others)):
        same_scene = None
    status: Status
    if identical:
        status = "identical image found"
    elif same_scene:
        status = "scene of the training data found"
    elif not recorded.complete:
        status = "not recorded"
    elif same_scene is not None and not recorded.unplaced and set(recorded.scenes) == {dataset.scene_table}:
        status = "no overlap"
    else:
        status = "no identical image found"
    examples = [item.key for item in (*identical, *(same_scene or ()))]
    return TrainingOverlap(
        status=status,
        images=len(items),
        identical=None if used.training is None else len(identical),
        same_scene=None if same_scene is None else len(same_scene),
        selection=len(selected),
        calibration=len(calibrated),
        example=examples[0] if examples else None,
    )


def overlap_warnings(
    overlap: TrainingOverlap, model: str = "The model", *, calibration: bool = False
) -> Iterator[str]:
    """Yield a sentence for each kind of overlap; ``calibration``: confidences are evaluated, too."""
    of_images = f"of the {overlap.images} images scored here"
    model = printable(model.replace("\n", "\\n"))
    if overlap.identical:
        yield (
            f"Identical image found: {model} was trained on {overlap.identical} {of_images} (for example "
            f"{overlap.example}); these scores measure memorisation, not generalisation."
        )
    if overlap.same_scene:
        yield (
            f"{model} was trained on other tiles of the scenes of {overlap.same_scene} {of_images}; expect "
            "lower scores on new scenes."
        )
    if overlap.selection:
        yield (
            f"The weights of {model} were chosen by their scores on {overlap.selection} {of_images}; these "
            "scores are slightly optimistic."
        )
    if overlap.calibration and calibration:
        yield (
            f"The temperature of {model} was fitted on {overlap.calibration} {of_images}; the calibration "
            "error is slightly optimistic."
        )


def describe_overlap(overlap: TrainingOverlap) -> str | None:
    """Return a sentence on a status other than a found overlap, for which there are warnings; else None."""
    images = f"the {overlap.images} images"
    return {
        "no overlap": f"No overlap with the training data: neither {images} nor other tiles of their scenes "
        "were used for training.",
        "no identical image found": f"No identical image found: none of {images} was used for training. "
        "Whether other tiles of their scenes were is not known.",
        "not recorded": "Cannot tell whether these images were used for training: the model's card does not "
        "record its training images.",
    }.get(overlap.status)
