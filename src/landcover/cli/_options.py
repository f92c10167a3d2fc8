"""Options that several verbs share, and the command line of a class of options.

An option is declared once: here, or as a field of :class:`landcover.inference.PredictOptions`. Help, parsing
and the reference page come from that declaration.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer

from landcover.legend import Legend as LegendClass

if TYPE_CHECKING:
    from landcover.config import Options

MAIN, INPUT, PROCESSING, PRODUCTS, REPORTS = "Most used", "Input", "Processing", "Products", "Reports"
GENERAL = "General"
GROUPS = (MAIN, INPUT, PROCESSING, PRODUCTS, REPORTS, GENERAL)
"""Headings of the help, in their order."""

T = TypeVar("T")


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
        "Skip masks with more than this fraction (0..1) of pixels whose colour is not in the legend.",
        group=INPUT,
    ),
]
MinRegion = Annotated[
    str | None,
    option(
        "Give smaller regions the class of their largest neighbour: 8000px or 2000m2.",
        group=PROCESSING,
        metavar="SIZE",
    ),
]
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
Quiet = Annotated[bool, option("Print warnings and errors only.", "--quiet", "-q", group=GENERAL)]
Verbose = Annotated[bool, option("Print details.", "--verbose", "-v", group=GENERAL)]
LogFile = Annotated[Path | None, option("Also append the log to this file.", group=GENERAL)]
LogFormat = Annotated[
    Literal["text", "json"], option("Form of log lines on standard error and in files.", group=GENERAL)
]


def with_options(
    declaration: "type[Options]", *, most_used: tuple[str, ...] = ()
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a verb that takes ``options`` the command line of a class of options in its place.

    Args:
        declaration: The class; each of its fields becomes an option.
        most_used: Fields that the help lists first.
    """

    def decorate(verb: Callable[..., T]) -> Callable[..., T]:
        @wraps(verb)
        def run(**given: Any) -> T:
            values = {name: given.pop(name) for name in declaration.model_fields}
            return verb(**given, options=declaration(**values))

        own = [p for name, p in inspect.signature(verb).parameters.items() if name != "options"]
        signature = inspect.Signature([*own, *_parameters(declaration, most_used)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
        return run

    return decorate


def _parameters(declaration: "type[Options]", most_used: tuple[str, ...]) -> list[inspect.Parameter]:
    parameters = []
    for name, option in declaration.declared().items():
        field = declaration.model_fields[name]
        kind, default = _typed(field.annotation), field.default
        flag = option.flag or f"--{name.replace('_', '-')}"
        declared = typer.Option(
            flag,
            help=option.help,
            rich_help_panel=MAIN if name in most_used else option.group,
            metavar=option.metavar,
            min=option.minimum,
            show_default=default is not None and kind is not bool,
        )
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind | None if default is None else kind, declared],
            )
        )
    return parameters


def _typed(annotation: Any) -> Any:
    """Return what the command line reads for a field: text, where the field parses it into a type."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return _typed(kinds[0]) if len(kinds) == 1 else str
    is_known = annotation in (bool, int, float, str, Path) or get_origin(annotation) is Literal
    return annotation if is_known else str
