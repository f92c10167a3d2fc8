"""What a reader must know before trusting a number: short notes drawn from evaluations and runs."""

from collections.abc import Sequence

from landcover.evaluation.report import EvaluationReport, Seen
from landcover.evaluation.seen import describe_seen, unknown_of_seen
from landcover.reporting.collect import Run, Scored
from landcover.reporting.wording import listing

_NEIGHBOURS = ("folders", "glnet", "random", "kfold")
"""Splits that part images without regard to the scenes that they were cut from."""


def evaluation_notes(evaluation: EvaluationReport, runs: Sequence[Run] = ()) -> list[str]:
    """Return the notes on one evaluation: its own warnings, a split that may leak, an unusual metric.

    Args:
        evaluation: The evaluation.
        runs: Runs whose best model it may have scored, on the part by which that was chosen.
    """
    notes = list(evaluation.warnings)
    seen = [row.model_dump() for row in evaluation.seen or ()]
    if unknown_of_seen(seen) is not None:
        notes.append(describe_seen(seen, evaluation.images) or "")
        known = Seen()
    else:  # then the evaluation's own warnings say what was met
        known = evaluation.seen[0] if evaluation.seen else Seen()
    split = evaluation.split.split(":")[0]
    if split.split("-")[0] in _NEIGHBOURS and not known.same_scenes:
        notes.append(
            f"The split {split} does not look at scenes. Where images are pieces of larger scenes, "
            "neighbours stand on both sides of it and this number is optimistic; a split scenes-kK@I keeps "
            "scenes apart."
        )
    elif split == "all" and known.trained_on is None:
        notes.append(
            "All images were scored. If the model was trained on some of them, this number is optimistic."
        )
    notes += [
        f"The run {run.name} chose its best step by the images of {evaluation.split}. If they were "
        "these very images, prepared or not, this number is a little optimistic."
        for run in runs
        if known.chosen_on is None and _chosen_by(evaluation, run)
    ]
    if evaluation.metric != "challenge":
        notes.append(
            f"The metric is {evaluation.metric}: compare it only with numbers of the same metric, "
            "not with the challenge's."
        )
    return notes


def _chosen_by(evaluation: EvaluationReport, run: Run) -> bool:
    """Tell whether the best model of a run was scored on the part of a split that it was chosen by.

    Whether the data are the same too cannot be told: a folder, its copy and its cache have any name.
    """
    return (
        run.card is not None
        and run.digest == evaluation.model_sha256
        and run.card.recipe.get("validation", {}).get("keep") == "best"
        and evaluation.split in [score.get("split") for score in run.card.scores]
    )


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
