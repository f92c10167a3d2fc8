"""What is trained on, what is scored, and which weights: the protocols of the accuracy benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

from landcover.data.scene_folds import LISTED_COUNTS
from landcover.errors import UsageError
from landcover.metrics import Metric


@dataclass(frozen=True)
class Unit:
    """One training: of one contender, on one fold, from one seed.

    Attributes:
        contender: Its name.
        fold: The held-out fold; None where the protocol has a single split.
        seed: Of everything drawn.
    """

    contender: str
    fold: int | None
    seed: int

    @property
    def stem(self) -> str:
        """Name of its files, such as ``fold-3-seed-0``."""
        return f"seed-{self.seed}" if self.fold is None else f"fold-{self.fold}-seed-{self.seed}"

    @property
    def label(self) -> str:
        """The same for people."""
        return f"{self.contender}, {self.stem.replace('-seed', ', seed').replace('-', ' ')}"


@dataclass(frozen=True)
class Protocol:
    """How contenders are trained and scored.

    Attributes:
        name: What it is called on the command line.
        split: The split trained on, with ``{fold}`` where there are folds.
        part: The part of it that is scored.
        folds: Numbers of the folds, or (None,).
        checks: Settings of landcover's trainings that decide which weights are kept.
        metrics: What is read from the counts; the first one leads.
        words: What is trained and scored, in a sentence.
    """

    name: str
    split: str
    part: str
    folds: Sequence[int | None]
    checks: Sequence[str]
    metrics: Sequence[Metric]
    words: str

    def split_of(self, fold: int | None) -> str:
        """Return the split of a fold."""
        return self.split.format(fold=fold)

    def units(self, contender: str, folds: Sequence[int] | None, seeds: Sequence[int]) -> list[Unit]:
        """Return the trainings of a contender, fold by fold.

        Raises:
            UsageError: If a fold does not exist, or folds are named where there are none.
        """
        wrong = sorted(set(folds or ()) - set(self.folds))
        if wrong and self.folds == (None,):
            raise UsageError(f"The protocol {self.name} has a single split; leave --folds out.")
        if wrong:
            raise UsageError(
                f"There is no fold {wrong[0]} of {len(self.folds)}; they are numbered 0 to "
                f"{len(self.folds) - 1}."
            )
        chosen = self.folds if folds is None else sorted(set(folds))
        return [Unit(contender, fold, seed) for fold in chosen for seed in sorted(set(seeds))]


_LAST = (
    "validation.percent=100",
    "validation.every_steps=null",
    "validation.images=null",
    "validation.patience=null",
    "validation.keep=last",
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "scenes",
            "scenes-k5@{fold}",
            "val",
            tuple(range(len(LISTED_COUNTS))),
            _LAST,
            ("challenge",),
            "Five scene-disjoint folds of the training tiles: trained on four, scored on the fifth.",
        ),
        Protocol(
            "course",
            "folders",
            "validation",
            (None,),
            _LAST,
            ("challenge",),
            "Trained on the folder train, scored once on the folder validation, whose tiles are neighbours "
            "of training tiles: optimistic.",
        ),
        Protocol(
            "glnet",
            "glnet",
            "test",
            (None,),
            ("validation.keep=best",),
            ("challenge", "glnet"),
            "GLNet's lists: trained on 454 images, weights chosen on 207, scored once on 142, which are "
            "neighbours of the others: comparable with papers, and optimistic.",
        ),
    )
}
"""The protocols by name."""
