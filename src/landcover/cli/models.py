"""Verbs that list models and what describes them: info, models, presets."""

import json as json_
import shutil
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

from landcover.cli import _options
from landcover.cli._options import argument
from landcover.cli._output import print_table, put
from landcover.errors import printable
from landcover.extras import needs
from landcover.values import points

if TYPE_CHECKING:
    from landcover.model.card import ModelCard


def info(
    model: Annotated[Path, argument("Model file, run folder, or a bundled model such as starter.", "MODEL")],
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Print a model's card: classes, input, scores, recipe, origin."""
    from landcover.model.card import model_digest, read_card, resolve_model

    file = resolve_model(model)
    card = read_card(file)
    identity = {"file": str(file), "sha256": model_digest(file)}
    about = {**identity, "size": f"{file.stat().st_size / 1e6:.1f} MB", "precision": card.precision}
    result = {**identity, **card.model_dump(mode="json")}
    put(result, json, lambda: _print_card(card, about), force=force)


def _print_card(card: "ModelCard", about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False, markup=False)  # lines are broken below

    def section(title: str, rows: dict[str, Any]) -> None:
        if rows:
            console.print()
            console.print(title, style="bold")
            _print_rows(rows, "  ")

    prepared = card.preprocessing
    section("Model", {**about, **card.model.model_dump(mode="json")})
    section(
        "Input",
        {
            "ground sample distance": f"{prepared.gsd:g} m",
            "mean": ", ".join(f"{value:g}" for value in prepared.mean),
            "std": ", ".join(f"{value:g}" for value in prepared.std),
            "windows": f"{card.window_px} px, {card.overlap_px} px overlap",
            "views": str(card.views),
            "temperature": f"{card.temperature:g}",
            "imagery profile": "-" if card.imagery is None else f"{card.imagery.windows} windows",
        },
    )
    console.print()
    console.print(Text("Classes", "bold"), f"({printable(card.legend.name)})")
    for index, entry in enumerate(card.legend.classes):
        swatch = Text("   ", "on rgb({},{},{})".format(*entry.colour))
        note = Text("(never predicted)" if index == card.legend.unknown else "", "dim")
        console.print(f"  {index}", swatch, entry.name, note)
    for scores in card.scores:
        section("Scores", scores)
    section("Calibration", card.calibration)
    section("Export", card.export)
    section("Recipe", card.recipe)
    section("Origin", card.provenance)
    section("Licence", {"terms": card.licence or "not recorded"})


def _print_rows(rows: dict[str, Any], indent: str) -> None:
    """Print names and values, nested ones indented; words, such as a digest, are never broken."""
    columns = shutil.get_terminal_size().columns
    width = max(map(len, rows))
    for name, value in rows.items():
        label = f"{indent}{printable(name)}"
        nested = value if isinstance(value, list) else [value]
        if nested and all(isinstance(one, dict) and one for one in nested):
            for number, one in enumerate(nested, 1):
                print(f"{label} {number}" if isinstance(value, list) else label)
                _print_rows(one, indent + "  ")
            continue
        if value is None:
            text = "-"
        elif isinstance(value, float):
            text = f"{value:.6g}"
        else:
            text = printable(value if isinstance(value, str) else json_.dumps(value, ensure_ascii=False))
        text = text or "-"
        first = f"{label:{len(indent) + width}}  "
        if len(first) + max(map(len, text.split()), default=0) > columns:
            first = f"{label} "
        print(
            fill(
                text,
                max(len(first) + 20, columns),
                initial_indent=first,
                subsequent_indent=" " * len(first),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )


def models(
    names: Annotated[
        list[str] | None, argument("timm encoders to check. By default the tested ones.", "NAMES")
    ] = None,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """List bundled models, architectures, encoders, licences, presets."""
    from landcover.model import TESTED_ENCODERS, EncoderInfo
    from landcover.model.bundled import SHIPPED
    from landcover.model.card import read_card
    from landcover.training import presets

    bundled = []
    for model in SHIPPED:
        figures: dict[str, Any] = dict.fromkeys(("file", "megabytes", "gsd", "miou", "split"))
        if model.path.is_file():
            card = read_card(model.path)
            score = card.scores[0] if card.scores else {}
            megabytes = round(model.path.stat().st_size / 1e6, 1)
            figures = {"file": str(model.path), "megabytes": megabytes, "gsd": card.preprocessing.gsd}
            figures |= {"miou": score.get("miou"), "split": score.get("split")}
        bundled.append({"name": model.name, "about": model.about, "licence": model.licence, **figures})

    def encoder(name: str) -> EncoderInfo:
        if name in TESTED_ENCODERS:
            return TESTED_ENCODERS[name]
        with needs("train"):
            from landcover.model.encoders import describe_encoder
        return describe_encoder(name)

    result = {
        "shipped": bundled,
        "architectures": ["deeplabv3plus"],
        "encoders": [asdict(encoder(name)) for name in names or TESTED_ENCODERS],
        "presets": list(presets()),
    }
    put(result, json, lambda: _print_models(result), force=force)


def _print_models(result: dict[str, Any]) -> None:
    print("Bundled models, for --model:")
    rows: list[list[str]] = []
    terms: dict[str, list[str]] = {}
    for model in result["shipped"]:
        terms.setdefault(model["licence"], []).append(model["name"])
        figures = ("-", "-", "-", "not in this installation")
        if model["file"] is not None:
            split = printable(str(model["split"] or "-"))
            figures = (f"{model['megabytes']:.1f} MB", f"{model['gsd']:g} m", points(model["miou"], 1), split)
        rows.append([model["name"], *figures])
    print_table(["model", "size", "GSD", "mIoU", "scored on"], rows, text=["scored on"])
    for model in result["shipped"]:
        print(fill(f"{model['name']}: {model['about']}.", 80))
    for licence, names in terms.items():
        of = f" of {', '.join(names)}" if len(terms) > 1 else ""
        print(fill(f"Terms{of}: {licence}.", 80) if of else f"Terms: {licence}.")
    print(f"\nArchitectures: {', '.join(result['architectures'])}")
    print(fill(f"Presets:       {', '.join(result['presets'])}", 80, subsequent_indent=" " * 15))
    encoders = [
        [
            encoder["name"],
            "" if encoder["parameters"] is None else f"{encoder['parameters'] / 1e6:.1f} M",
            ", ".join(map(str, encoder["output_strides"])) or "none",
            encoder["licence"] or "-",
            "yes" if encoder["tested"] else "checked now",
        ]
        for encoder in result["encoders"]
    ]
    head = ["encoder", "parameters", "output strides", "licence", "tested"]
    print_table(head, encoders, text=head[2:])


def presets(
    name: Annotated[str | None, argument("Preset to print as YAML; all are listed without.", "NAME")] = None,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """List the training presets, or print one as YAML."""
    from landcover.config import dump_yaml
    from landcover.training import load_preset
    from landcover.training import presets as names

    configs = {preset: load_preset(preset) for preset in ([name] if name else names())}

    def show() -> None:
        for preset, config in configs.items():
            limit = f"{config.minutes:g} minutes" if config.minutes else f"{config.steps:,} steps"
            line = f"{preset:{max(map(len, configs))}}  {config.model.encoder}, {limit}"
            print(dump_yaml(config).removesuffix("\n") if name else line)

    plain = {preset: config.model_dump(mode="json") for preset, config in configs.items()}
    put(plain[name] if name else plain, json, show, force=force)
