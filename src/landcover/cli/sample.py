"""``landcover sample``."""

from pathlib import Path
from typing import Annotated

import typer


def sample(
    map_path: Annotated[
        Path, typer.Argument(metavar="MAP", help="Georeferenced map of classes.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help=".gpkg, .geojson, .fgb or .csv file.", show_default=False)],
    per_class: Annotated[int, typer.Option(min=1, help="Points in each class of the map.")] = 50,
    total: Annotated[
        int | None,
        typer.Option(min=1, help="Points in all; the rest goes to large classes.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same points.")] = 0,
    legend: Annotated[str, typer.Option(help="Legend of the map: a name or a YAML file.")] = "deepglobe",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Draw random points in each class of a map to check it with."""
    from landcover.evaluation.sampling import sample as draw
    from landcover.legend import load_legend

    drawn = draw(
        map_path, out, per_class=per_class, total=total, seed=seed, legend=load_legend(legend), force=force
    )
    numbers = ", ".join(f"{name} {number}" for name, number in drawn.items())
    typer.echo(
        f"Drew {sum(drawn.values())} points into {out}: {numbers}. Fill in the column class with what is on "
        f"the ground, then: landcover evaluate --map {map_path} --truth {out}",
        err=True,
    )
    few = [name for name, number in drawn.items() if number < per_class]
    if few:
        typer.echo(f"All pixels there are of: {', '.join(few)}.", err=True)
