"""Options that several verbs share, and the parameters of a class of options.

An option is declared once: here, or as a field of a class of options, such as
:class:`landcover.PredictOptions`. Help, parsing and the reference page come from that declaration.
"""

from collections.abc import Iterator
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from landcover.cli._output import log
from landcover.config import INPUT, MAIN, PROCESSING, PRODUCTS, REPORTS, Options
from landcover.errors import UsageError
from landcover.legend import Legend as LegendClass
from landcover.values import VIEWS_HELP, RegionSize

if TYPE_CHECKING:
    from landcover.inference.options import PredictOptions

GENERAL = "General"
GROUPS = (MAIN, INPUT, PROCESSING, PRODUCTS, REPORTS, GENERAL)
"""Headings of the help, in their order."""


def option(help: str, *names: str, group: str, **settings: Any) -> Any:
    """Return the declaration of an option for the help's group."""
    return typer.Option(*names, help=help, rich_help_panel=group, **settings)


def argument(help: str, metavar: str) -> Any:
    """Return the declaration of an argument."""
    return typer.Argument(help=help, metavar=metavar, show_default=False)


Data = Annotated[Path, option("Data folder or prepared cache.", group=MAIN)]
OptionalData = Annotated[Path | None, option("Data folder or prepared cache.", group=MAIN)]
Gsd = Annotated[
    float | None,
    option(
        "Metres per pixel (ground sample distance). By default that of the georeference, of landcover.yaml, "
        "or of a recognised data set.",
        group=INPUT,
        metavar="METRES",
    ),
]
Legend = Annotated[
    LegendClass | None,
    option(
        "Legend of the masks or the map: a name or a YAML file. By default the data's own, else deepglobe.",
        group=INPUT,
        metavar="LEGEND",
        parser=str,  # loaded before the verb runs, where errors are logged
    ),
]
MaxPixels = Annotated[int, option("Refuse images and masks with more pixels.", group=INPUT, min=1)]
MaxOffPalette = Annotated[
    float,
    option(
        "Refuse masks with more than this fraction (0..1) of pixels whose colour is not in the legend.",
        group=INPUT,
    ),
]
MinRegion = Annotated[
    str | None,
    option(
        "Give smaller regions the class of their largest neighbour: 8000px, 2000m2, 1ha.",
        group=PROCESSING,
        metavar="SIZE",
    ),
]
MinRegionStrict = Annotated[
    bool,
    option(
        "Also remove small regions that --min-region leaves: they join their largest neighbour, or become "
        "nodata without one.",
        group=PROCESSING,
    ),
]


def region_size(text: str | None, *, strict: bool) -> RegionSize | None:
    """Return the size of --min-region and --min-region-strict; UsageError if the second is given alone."""
    if text is None and strict:
        raise UsageError("--min-region-strict needs --min-region, the smallest region that stays.")
    return None if text is None else RegionSize.parse(text, strict=strict)


Views = Annotated[int | None, option(VIEWS_HELP, group=PROCESSING, metavar="1|2|3|8")]
OldTta = Annotated[bool, typer.Option("--tta", hidden=True)]


def with_old_tta(options: "PredictOptions", tta: bool) -> "PredictOptions":
    """Return the options with the views that --tta, the old name of --views 8, stands for."""
    if not tta:
        return options
    if options.views not in (None, 8):
        raise UsageError(f"--tta is the old name of --views 8; found --views {options.views}, too. Pass one.")
    log.warning("--tta is now --views 8; the old name will be removed in 0.3.")
    return options.model_copy(update={"views": 8})


Device = Annotated[str, option("auto, cpu, cuda, or cuda:1.", group=PROCESSING)]
Runtime = Annotated[
    Literal["auto", "openvino", "onnxruntime", "torch"],
    option("Library that runs the network.", group=PROCESSING),
]
Threads = Annotated[
    int | None, option("Threads of the network.  [default: one per core]", group=PROCESSING, min=1, max=1024)
]
Precision = Annotated[
    Literal["fp32", "bf16"],
    option("bf16 is less exact, and faster on processors that support it.", group=PROCESSING),
]
Seed = Annotated[int, option("Seed of the random numbers.", group=PROCESSING, min=0)]
Form = Annotated[Literal["palette", "rgb", "index"], option("Form of PNG masks.", group=PRODUCTS)]
Force = Annotated[bool, option("Overwrite existing outputs.", "--force", group=PRODUCTS)]
Json = Annotated[Path | None, option("Write the result as JSON; - is standard output.", group=REPORTS)]


def _keyword(name: str, default: object, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_FORMS = Literal["text", "json"]
LOGGING = [
    _keyword(name, default, Annotated[kind, option(help, *flags, group=GENERAL)])
    for name, kind, default, help, *flags in (
        ("quiet", bool, False, "Print warnings and errors only.", "--quiet", "-q"),
        ("verbose", bool, False, "Print details.", "--verbose", "-v"),
        ("debug", bool, False, "Print the traceback of an error.", "--debug"),
        ("log_file", Path | None, None, "Also append the log to this file."),
        ("log_format", _FORMS, "text", "Form of log lines on standard error and in files."),
    )
]
"""Parameters of every verb."""


def parameters(declaration: type[Options]) -> Iterator[Parameter]:
    """Yield the parameters of a verb that takes a class of options: one for each of its fields."""
    for name, option in declaration.declared().items():
        if option.group is None:
            continue
        field = declaration.model_fields[name]
        kind, default = _typed(field.annotation), field.default if field.default != () else None
        declared = typer.Option(
            option.flag or f"--{name.replace('_', '-')}",
            help=option.help,
            rich_help_panel=option.group,
            metavar=option.metavar,
            min=option.minimum,
            show_default=default is not None and kind is not bool,
        )
        kind = kind | None if default is None else kind
        yield _keyword(name, default, Annotated[kind, declared])


def _typed(annotation: Any) -> Any:
    """Return what the command line reads for a field: text, where the field parses it into a type."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return _typed(kinds[0]) if len(kinds) == 1 else str
    if annotation == tuple[str, ...]:
        return list[str]
    if get_origin(annotation) is Literal and isinstance(get_args(annotation)[0], int):
        return int
    is_known = annotation in (bool, int, float, str, Path) or get_origin(annotation) is Literal
    return annotation if is_known else str
