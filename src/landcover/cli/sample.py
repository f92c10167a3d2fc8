"""``landcover sample``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import log


def sample(
    map_path: Annotated[
        Path, typer.Argument(metavar="MAP", help="Georeferenced map of classes.", show_default=False)
    ],
    out: Annotated[
        Path,
        option("Output file: .gpkg, .geojson, .fgb or .csv.", group=MAIN),
    ],
    per_class: Annotated[int, option("Points in each class of the map.", group=MAIN, min=1)] = 50,
    total: Annotated[
        int | None,
        option("Points in total; the remainder goes to large classes.", group=MAIN, min=1),
    ] = None,
    seed: _options.Seed = 0,
    legend: _options.Legend = None,
    force: _options.Force = False,
) -> None:
    """Draw random points in each class of a map to check it with."""
    from landcover.evaluation.sampling import sample as draw
    from landcover.legend import load_legend

    drawn = draw(
        map_path,
        out,
        per_class=per_class,
        total=total,
        seed=seed,
        legend=load_legend(legend or "deepglobe"),
        force=force,
    )
    numbers = ", ".join(f"{name} {number}" for name, number in drawn.items())
    log.info("Drew %d points into %s: %s.", sum(drawn.values()), out, numbers)
    log.info(
        "Fill in the column class with the true class, then run: landcover evaluate --map %s --truth %s",
        map_path,
        out,
    )
    if few := [name for name, number in drawn.items() if number < per_class]:
        log.info("Fewer points, because the map has no more pixels of: %s.", ", ".join(few))
