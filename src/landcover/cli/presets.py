"""``landcover presets``."""

from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._output import check_json, put


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="Preset to print as YAML; all are listed without.", show_default=False),
    ] = None,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """List the training presets, or print one as YAML."""
    from landcover.config import dump_yaml
    from landcover.extras import needs

    with needs("train"):
        from landcover.training import load_preset
        from landcover.training import presets as names

    check_json(json, force=force)
    if name is not None:
        config = load_preset(name)
        put(config.model_dump(mode="json"), json, lambda: print(dump_yaml(config), end=""), force=force)
        return
    configs = {preset: load_preset(preset) for preset in names()}

    def show() -> None:
        for preset, config in configs.items():
            limit = f"{config.minutes:g} minutes" if config.minutes else f"{config.steps:,} steps"
            print(f"{preset:{max(map(len, configs))}}  {config.model.encoder}, {limit}")

    put(
        {preset: config.model_dump(mode="json") for preset, config in configs.items()},
        json,
        show,
        force=force,
    )
