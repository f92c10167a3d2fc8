"""The command line: one module per verb, found by its name.

Each module here holds one public function named as the module; the first line of its docstring is its help.
The modules import what they need inside that function, so that ``landcover --help`` stays quick.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from landcover.errors import LandcoverError, UsageError

INTERRUPTED = 130

P = ParamSpec("P")
T = TypeVar("T")


def build() -> typer.Typer:
    """Return the application with every verb of this package, in alphabetical order."""
    app = typer.Typer(
        name="landcover",
        help="Half-metre satellite imagery in, land-cover maps that can be trusted out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_version_option)
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):  # what verbs share
            continue
        function = getattr(importlib.import_module(f"{__name__}.{module.name}"), module.name)
        app.command(name=module.name)(_interruptible(function))
    return app


def _interruptible(verb: Callable[P, T]) -> Callable[P, T]:
    """Let Ctrl-C end a verb with a line that says where that leaves the user; Typer alone says nothing."""

    @wraps(verb)
    def run(*args: P.args, **options: P.kwargs) -> T:
        try:
            return verb(*args, **options)
        except KeyboardInterrupt:
            print(
                "Interrupted. Every file that was written is whole. Run the same command to begin again, "
                "with --force if it is to replace them.",
                file=sys.stderr,
            )
            raise typer.Exit(INTERRUPTED) from None

    return run


def main() -> None:
    """Run the command line and end the process with its status.

    0 done, 1 failed in part or whole, 2 wrong usage, 130 interrupted.
    """
    try:
        build()()
    except LandcoverError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        if error.errno is None:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"Error: {place}{error.strerror}.", file=sys.stderr)
        sys.exit(1)


def _version_option(
    version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version and stop."),
) -> None:
    if version:
        from landcover import __version__

        print(__version__)
        raise typer.Exit
