"""The command line: one module per verb, found by its name.

Each module here holds one public function named as the module; the first line of its docstring is its help.
A verb's module is imported when the verb is called, and imports what it needs inside its function, so that
``landcover --help`` stays quick.
"""

import importlib
import io
import logging
import pkgutil
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from landcover import hardening
from landcover.errors import LandcoverError, UsageError, did_you_mean

INTERRUPTED = 130

P = ParamSpec("P")
T = TypeVar("T")


_REMOVED = {
    "bench": "landcover bench was removed in 0.2. To time the bundled model here, run landcover doctor "
    "--speed. Comparisons with other tools are scripts in the repository: see benchmarks/README.md."
}


class _Verbs(TyperGroup):
    """The verbs, each imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return verbs()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in verbs():
            function = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name=cmd_name)(_guarded(function))
            self.commands[cmd_name] = typer.main.get_command(alone)
        if cmd_name in _REMOVED:
            raise UsageError(_REMOVED[cmd_name])
        if cmd_name not in self.commands:
            raise UsageError(f"There is no verb {cmd_name!r}. {did_you_mean(cmd_name, verbs())}")
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in verbs()])


def verbs() -> list[str]:
    """Return the names of the verbs, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def summary(verb: str) -> str:
    """Return the first line of a verb's docstring, read from its source: importing all verbs takes long."""
    source = Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
    found = re.search(rf'^def {verb}\(.*?"""(.+?)(?:"""|\n)', source, re.DOTALL | re.MULTILINE)
    return found[1].strip() if found else ""


def build() -> typer.Typer:
    """Return the application with every verb of this package, in alphabetical order."""
    app = typer.Typer(
        name="landcover",
        cls=_Verbs,
        help="Half-metre satellite imagery in, land-cover maps that can be trusted out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_version_option)
    return app


def _guarded(verb: Callable[P, T]) -> Callable[P, T]:
    """Keep a verb's reports off its inputs, and let Ctrl-C end it with a line that says where that leaves.

    Typer alone says nothing.
    """

    @wraps(verb)
    def run(*args: P.args, **options: P.kwargs) -> T:
        from landcover.cli._output import check_reports

        check_reports(options)
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
    hardening.harden()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± does not cost the result
    package = logging.getLogger("landcover")
    package.addHandler(StderrHandler())
    package.setLevel(logging.INFO)
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


class StderrHandler(logging.Handler):
    """Write messages to the present ``sys.stderr``, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        print(self.format(record), file=sys.stderr)


def _version_option(
    version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version and stop."),
) -> None:
    if version:
        from landcover import __version__

        print(__version__)
        raise typer.Exit
