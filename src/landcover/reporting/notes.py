"""Notes on evaluations and runs: what a reader must know before trusting a number."""

from collections.abc import Sequence

from landcover.evaluation.overlap import describe_overlap
from landcover.evaluation.report import EvaluationReport
from landcover.reporting.collect import Run, Scored
from landcover.reporting.wording import listing

_NEIGHBOURS = ("folders", "glnet", "random", "kfold")
"""Splits that ignore which scene an image was cut from."""


def evaluation_notes(evaluation: EvaluationReport, runs: Sequence[Run] = ()) -> list[str]:
    """Return the notes on one evaluation: its own warnings, a split that may leak, an unusual metric.

    Args:
        evaluation: The evaluation.
        runs: Runs whose best model it may have scored, on the part by which that was chosen.
    """
    notes = list(evaluation.warnings)
    overlap = evaluation.training_overlap
    if overlap is not None and (sentence := describe_overlap(overlap)):
        notes.append(sentence)
    split = evaluation.split.split(":")[0]
    scenes_known = overlap is not None and (overlap.same_scene or overlap.status == "no overlap")
    if split.split("-")[0] in _NEIGHBOURS and not scenes_known:
        notes.append(
            f"The split {split} ignores scenes. Where images are tiles of larger scenes, neighbouring tiles "
            "are in training and evaluation and this number is optimistic. A split scenes-kK@I keeps scenes "
            "apart."
        )
    elif split == "all" and (overlap is None or overlap.identical is None):
        notes.append(
            "All images were scored. If the model was trained on some of them, this number is optimistic."
        )
    notes += [
        f"The best step of run {run.name} was chosen by its scores on {evaluation.split}. If these are the "
        "same images, this number is slightly optimistic."
        for run in runs
        if (overlap is None or overlap.identical is None) and _chosen_by(evaluation, run)
    ]
    if evaluation.metric != "challenge":
        notes.append(
            f"The metric is {evaluation.metric}: compare it only with numbers of the same metric, not with "
            "the challenge's."
        )
    return notes


def _chosen_by(evaluation: EvaluationReport, run: Run) -> bool:
    """Return whether a run's best model was chosen by its scores on a subset of this name.

    Names do not prove that the images are the same; cards of 0.1 have nothing else.
    """
    return (
        run.card is not None
        and run.digest == evaluation.model_sha256
        and run.card.recipe.get("validation", {}).get("keep") == "best"
        and evaluation.split in [score.get("split") for score in run.card.scores]
    )


def comparison_notes(scored: Sequence[Scored]) -> list[str]:
    """Return a note on differences between the compared evaluations other than the model."""
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
    """Return the notes on a run: interrupted, or never validated."""
    notes = []
    if run.end is None:
        last = run.steps[-1].step if run.steps else 0
        notes.append(f"The run was interrupted or is still running: its log ends at step {last:,}.")
    if not run.validations:
        notes.append("The run has not been validated yet.")
    return notes
