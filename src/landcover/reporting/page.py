"""``report``: one self-contained HTML page, which loads nothing from the network."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import landcover
from landcover.errors import UsageError
from landcover.extras import needs
from landcover.io.files import refuse_existing, write_text
from landcover.progress import track
from landcover.reporting.collect import collect
from landcover.reporting.figures import duration, percent
from landcover.reporting.pictures import IGNORED, WRONG, side_px
from landcover.reporting.views import comparison_notes, css_colour, score_view, swatches, training_view


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
        images: Number of the best and of the worst images that are shown for each evaluation.
        force: Replace an existing page.

    Returns:
        ``out``.

    Raises:
        UsageError: If there is no input, ``out`` is one of them or not ``.html``, or ``images`` is negative.
        DataError: If an input is missing or damaged.
        ModelError: If the best model of a run is damaged.
        OutputError: If ``out`` exists already or cannot be written.
        MissingExtraError: If Jinja is not installed.

    Example:
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
        raise UsageError(f"The page would be {out}; expected a name that ends with .html.")
    if out.resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"{out} is an input. Pass another file for the page.")
    refuse_existing(out, force=force)
    runs, evaluations = collect(paths)
    with needs("report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    side = side_px(2 * images * len(evaluations))
    scores = [score_view(scored, runs, images, side) for scored in track(evaluations, "Drawing")]
    environment = Environment(
        loader=PackageLoader("landcover.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format, "duration": duration}
    page = environment.get_template("report.html.j2").render(
        title=title,
        trainings=[training_view(run) for run in runs],
        scores=scores,
        comparison=comparison_notes([score.evaluation for score in scores]),
        classes=list(dict.fromkeys(name for score in scores for name in score.evaluation.iou)),
        swatches=swatches(evaluations, runs),
        wrong=css_colour(WRONG),
        ignored=css_colour(IGNORED),
        written=datetime.now(UTC),
        version=landcover.__version__,
    )
    write_text(out, page, force=force)
    return out
