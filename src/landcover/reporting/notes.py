"""What a reader must know before trusting a number: short notes drawn from evaluations and runs."""

from collections.abc import Sequence

from landcover.reporting.collect import Evaluation, Run, Scored
from landcover.reporting.wording import listing

_NEIGHBOURS = ("folders", "glnet", "random", "kfold")
"""Splits that part images without regard to the scenes that they were cut from."""


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """Return the notes on one evaluation: absent classes, an unusual metric, a split that may leak."""
    notes = []
    absent = [name for name, value in evaluation.iou.items() if value is None]
    if absent:
        verb = "does" if len(absent) == 1 else "do"
        notes.append(
            f"{listing(absent)} {verb} not occur in these images, neither in the truth nor in the maps: "
            f"the mean is over the other {len(evaluation.iou) - len(absent)} classes."
        )
    split = evaluation.split.split(":")[0]
    if split.split("-")[0] in _NEIGHBOURS:
        notes.append(
            f"The split {split} does not look at scenes. Where images are pieces of larger scenes, "
            "neighbours stand on both sides of it and this number is optimistic; a split scenes-kK@I keeps "
            "scenes apart."
        )
    elif split == "all":
        notes.append(
            "All images were scored. If the model was trained on some of them, this number is optimistic."
        )
    if evaluation.metric != "challenge":
        notes.append(
            f"The metric is {evaluation.metric}: compare it only with numbers of the same metric, "
            "not with the challenge's."
        )
    return notes


def comparison_notes(scored: Sequence[Scored]) -> list[str]:
    """Say in what the compared evaluations differ besides the model."""
    differing = [
        what
        for what, values in (
            ("metric", {s.evaluation.metric for s in scored}),
            ("split", {s.evaluation.split for s in scored}),
            ("number of images", {s.evaluation.images for s in scored}),
            ("number of pixels", {s.evaluation.pixels for s in scored}),
        )
        if len(values) > 1
    ]
    if not differing:
        return []
    return [f"These evaluations differ in {listing(differing)}: their numbers do not compare directly."]


def run_notes(run: Run) -> list[str]:
    """Return the notes on a run: cut off, or never validated."""
    notes = []
    if run.end is None:
        last = run.steps[-1].step if run.steps else 0
        notes.append(f"The run was cut off, or goes on: its log stops at step {last:,} without an end.")
    if not run.validations:
        notes.append("The run has not been validated yet.")
    return notes
