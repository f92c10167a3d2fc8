"""``landcover train``."""

from pathlib import Path
from typing import Annotated

import typer

INTERRUPTED = 130


def train(
    data: Annotated[Path, typer.Option(help="Data folder or prepared cache.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Run folder.", show_default=False)],
    split: Annotated[
        str,
        typer.Option(help="Split: its part train is trained on, val, valid or validation validated on."),
    ] = "folders",
    preset: Annotated[str, typer.Option(help="Settings: a preset's name or a YAML file.")] = "starter",
    weights: Annotated[
        str | None,
        typer.Option(help="Encoder weights: a safetensors file, timm or none. [default: the preset's]"),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Model to fine-tune, of the same or another legend. Network and scale are the model's, "
            "not the preset's; --set gsd=M changes the scale, --set model.KEY=VALUE what needs no other "
            "weights, such as dropout."
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Model or run folder whose probabilities are learned beside the labels, trained on the same "
            "split or on other data; may be given several times."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Limit in minutes, resumes included.")] = None,
    steps: Annotated[int | None, typer.Option(help="Limit in steps.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as optimiser.name=sgd."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda. [default: the preset's]", show_default=False)
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: go on with the run in --out; never; or a run folder to go on with in a copy."
        ),
    ] = "auto",
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel of the data.")] = None,
    legend: Annotated[str | None, typer.Option(help="Legend of the masks: a name or a YAML file.")] = None,
) -> None:
    """Train a model, or fine-tune one."""
    import json
    from functools import partial

    from landcover.cli._memory import keep_freed_memory
    from landcover.config import with_overrides
    from landcover.errors import UsageError
    from landcover.legend import load_legend
    from landcover.model.card import read_card
    from landcover.training import load_preset
    from landcover.training import train as train_network

    if minutes is not None and steps is not None:
        raise UsageError(f"--minutes {minutes} and --steps {steps} are both limits; give one of them.")
    if init is not None and weights not in (None, "none"):
        raise UsageError(f"--init {init} and --weights {weights} both say how to start; give one of them.")
    config = load_preset(preset)
    if init is not None:
        card = read_card(init)
        config = config.model_copy(update={"model": card.model, "gsd": card.preprocessing.gsd})
    quoted = partial(json.dumps, ensure_ascii=False)  # a text in YAML, whatever is in it
    overrides = list(settings or ())
    if weights is not None:
        overrides.append(f"weights={quoted(None if weights == 'none' else weights)}")
    if teacher:
        overrides.append(f"teachers={quoted(teacher)}")
    if device is not None:
        overrides.append(f"device={quoted(device)}")
    if minutes is not None:
        overrides += [f"minutes={minutes}", "steps=null"]
    if steps is not None:
        overrides += [f"steps={steps}", "minutes=null"]
    config = with_overrides(config, overrides)
    keep_freed_memory()
    result = train_network(
        config,
        data=data,
        out=out,
        split=split,
        init=init,
        resume=resume,
        legend=None if legend is None else load_legend(legend),
        gsd=gsd,
    )
    if result.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
    best = (
        ""
        if result.best_miou is None
        else f" Best mIoU {100 * result.best_miou:.2f}, step {result.best_step}."
    )
    kept = " (its last weights)" if config.validation.keep == "last" else ""
    typer.echo(
        f"{result.step} steps in {result.seconds / 60:.1f} minutes.{best} The model: {out}{kept}", err=True
    )
