"""``landcover train``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import INPUT, MAIN, PROCESSING, REPORTS, option
from landcover.cli._output import log, points
from landcover.errors import INTERRUPTED


def train(
    data: _options.OptionalData = None,
    out: Annotated[Path | None, option("Run folder.", group=MAIN)] = None,
    preset: Annotated[
        str,
        option("Preset (see landcover presets) or a YAML file.", group=MAIN),
    ] = "starter",
    split: Annotated[
        str,
        option("Split: trains on its subset train, validates on val, valid or validation.", group=MAIN),
    ] = "folders",
    minutes: Annotated[
        float | None,
        option("Limit in minutes, resumed parts included.", group=MAIN),
    ] = None,
    steps: Annotated[int | None, option("Limit in steps.", group=PROCESSING)] = None,
    settings: Annotated[
        list[str] | None,
        option(
            "Change a setting, such as optimiser.name=sgd.", "--set", group=PROCESSING, metavar="KEY=VALUE"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        option(
            "Encoder weights: a safetensors file, timm (downloads them) or none.  [default: the preset's]",
            group=INPUT,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        option(
            "Model to fine-tune, with the same or another legend. Network and scale are the model's; "
            "--set gsd=M changes the scale, --set model.KEY=VALUE settings without weights, such as dropout.",
            group=INPUT,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        option(
            "Model or run folder whose probabilities are soft labels. May be given several times. It "
            "must be trained on the same split or on other data.",
            group=INPUT,
        ),
    ] = None,
    device: Annotated[
        str | None,
        option("auto, cpu or cuda.  [default: the preset's]", group=PROCESSING),
    ] = None,
    resume: Annotated[
        str,
        option(
            "auto: continue the run in --out; never; or a run folder to continue in a copy.", group=PROCESSING
        ),
    ] = "auto",
    gsd: _options.Gsd = None,
    legend: _options.Legend = None,
    show_config: Annotated[
        bool,
        option("Print the configuration as YAML and exit.", "--show-config", group=REPORTS),
    ] = False,
) -> None:
    """Train a model, or fine-tune one."""
    import json
    from functools import partial

    from landcover.cli._memory import keep_freed_memory
    from landcover.config import dump_yaml, with_overrides
    from landcover.errors import UsageError
    from landcover.legend import load_legend
    from landcover.model.card import read_card
    from landcover.training import load_preset
    from landcover.training import train as train_network

    if minutes is not None and steps is not None:
        raise UsageError(f"--minutes {minutes} and --steps {steps} are both limits. Pass only one.")
    if init is not None and weights not in (None, "none"):
        raise UsageError(
            f"--init {init} and --weights {weights} both set the initial weights. Pass only one."
        )
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
    if show_config:
        print(dump_yaml(config), end="")
        return
    if config.weights == "timm" and init is None:
        log.info(
            "Encoder weights: timm downloads those of %s if they are not in its cache. To work offline, pass "
            "--weights FILE or --weights none.",
            config.model.encoder,
        )
    missing = [name for name, value in {"--data": data, "--out": out}.items() if value is None]
    if data is None or out is None:
        raise UsageError(f"Missing option {' and '.join(missing)}.")
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
        "" if result.best_miou is None else f" Best mIoU {points(result.best_miou)}, step {result.best_step}."
    )
    weights_of = " (weights of the last step)" if config.validation.keep == "last" else ""
    log.info(
        "%d steps in %.1f minutes.%s The model: %s%s", result.step, result.seconds / 60, best, out, weights_of
    )
