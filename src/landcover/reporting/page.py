"""The verb ``report``: one HTML page that holds everything it shows and asks the network for nothing."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import landcover
from landcover.errors import UsageError
from landcover.extras import needs
from landcover.io.files import refuse_existing, write_text
from landcover.progress import track
from landcover.reporting.collect import collect
from landcover.reporting.notes import comparison_notes
from landcover.reporting.strips import IGNORED, WRONG, side_px
from landcover.reporting.views import ScoreView, TrainingView, score_view, swatches, training_view
from landcover.reporting.wording import count, css_colour, duration, percent


def report(
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    title: str = "Land-cover report",
    images: int = 3,
    force: bool = False,
) -> Path:
    """Write one self-contained HTML page about training runs and evaluations.

    Args:
        inputs: Run folders and JSON files of ``landcover evaluate``, in any order.
        out: The page to write.
        title: Its heading.
        images: How many of the best and how many of the worst images it shows for each evaluation.
        force: Whether to replace an existing page.

    Returns:
        ``out``.

    Raises:
        UsageError: If there is no input, ``out`` is one of them or no ``.html``, or ``images`` is negative.
        DataError: If an input is missing or damaged.
        ModelError: If the best model of a run is damaged.
        OutputError: If ``out`` exists already or cannot be written.
        MissingExtraError: If Jinja is not installed.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> options = lc.EvaluateOptions(json="evaluation.json")
        >>> _ = lc.evaluate(folder, "all:all", model="starter", options=options)
        >>> lc.report(["evaluation.json"], "report.html").name
        'report.html'
    """
    paths, out = [Path(path) for path in inputs], Path(out)
    if images < 0:
        raise UsageError(f"--images is {images}; expected 0 or more.")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out} is to be a page; expected a name that ends with .html.")
    if out.resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"{out} is an input: choose another file for the page.")
    refuse_existing(out, force=force)
    runs, evaluations = collect(paths)
    side = side_px(2 * images * len(evaluations))
    scores = [score_view(scored, runs, images, side) for scored in track(evaluations, "Drawing")]
    page = render([training_view(run) for run in runs], scores, title=title, written=datetime.now(UTC))
    write_text(out, page, force=force)
    return out


def render(
    trainings: Sequence[TrainingView], scores: Sequence[ScoreView], *, title: str, written: datetime
) -> str:
    """Return the page as HTML. Whatever comes from files is escaped."""
    with needs("report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("landcover.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "duration": duration}
    return environment.get_template("report.html.j2").render(
        title=title,
        trainings=trainings,
        scores=scores,
        comparison=comparison_notes([score.scored for score in scores]),
        classes=list(dict.fromkeys(name for score in scores for name in score.evaluation.iou)),
        swatches=swatches([score.scored for score in scores], [training.run for training in trainings]),
        wrong=css_colour(WRONG),
        ignored=css_colour(IGNORED),
        written=written,
        version=landcover.__version__,
    )
