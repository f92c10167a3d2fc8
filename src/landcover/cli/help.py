"""``landcover help``."""

from typing import Annotated

import typer


def help(
    verb: Annotated[
        str | None, typer.Argument(help="Verb to explain; an overview without.", show_default=False)
    ] = None,
) -> None:
    """Show the help of a verb."""
    from landcover.cli import build

    typer.main.get_command(build()).main(
        [*([] if verb is None else [verb]), "--help"], prog_name="landcover", standalone_mode=False
    )
