"""The command line: one module per verb, found by its name.

Each module here holds one public function named as the module; the first line of its docstring is its help.
A verb's module is imported when the verb is called, and imports what it needs inside its function, so that
``landcover --help`` stays quick.
"""

import importlib
import inspect
import io
import pkgutil
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from landcover import hardening
from landcover.errors import INTERRUPTED, LandcoverError, UsageError, did_you_mean

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
            self.commands[cmd_name] = command(cmd_name)
        if cmd_name in _REMOVED:
            raise UsageError(_REMOVED[cmd_name])
        if cmd_name not in self.commands:
            raise UsageError(f"There is no verb {cmd_name!r}. {did_you_mean(cmd_name, verbs())}")
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in verbs()])


class _Verb(TyperCommand):
    """A verb whose help lists its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from landcover.cli._options import GENERAL, GROUPS

        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *GROUPS)}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                group = getattr(parameter, "rich_help_panel", None) or GENERAL
                groups["Arguments" if is_argument else group].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def verbs() -> list[str]:
    """Return the names of the verbs, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def summary(verb: str) -> str:
    """Return the first line of a verb's docstring, read from its source: importing all verbs takes long."""
    source = Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
    found = re.search(rf'^def {verb}\(.*?"""(.+?)(?:"""|\n)', source, re.DOTALL | re.MULTILINE)
    return found[1].strip() if found else ""


def command(verb: str) -> Any:
    """Import a verb and return its command."""
    function = getattr(importlib.import_module(f"{__name__}.{verb}"), verb)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_SETTINGS)
    alone.command(name=verb, cls=_Verb)(_guarded(function))
    return typer.main.get_command(alone)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def build() -> typer.Typer:
    """Return the application with every verb of this package, in alphabetical order."""
    app = typer.Typer(
        name="landcover",
        cls=_Verbs,
        help="Half-metre satellite imagery in, land-cover maps that can be trusted out.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_SETTINGS,
    )
    app.callback()(_version_option)
    return app


def _guarded(verb: Callable[P, T]) -> Callable[..., T]:
    """Add to a verb what all verbs have: the log options, safe reports, and an orderly end on a signal."""
    from landcover.cli import _options

    shared = {
        "quiet": (_options.Quiet, False),
        "verbose": (_options.Verbose, False),
        "log_file": (_options.LogFile, None),
        "log_format": (_options.LogFormat, "text"),
    }

    @wraps(verb)
    def run(**given: Any) -> T:
        from landcover.cli._output import check_reports, log, logging_to

        chosen = {name: given.pop(name) for name in shared}
        with logging_to(**chosen):
            check_reports(given)
            try:
                with _terminable():
                    return verb(**given)  # type: ignore[call-arg]
            except LandcoverError as error:
                if chosen["log_format"] != "json":
                    raise
                log.error("%s", error)
                raise typer.Exit(_status(error)) from error
            except KeyboardInterrupt:
                again = "Run the same command again to continue."
                if isinstance(given.get("resume"), bool):
                    again = "To continue, run the same command with --resume (without --force)."
                log.warning("Interrupted. Files written so far are complete. %s", again)
                raise typer.Exit(INTERRUPTED) from None

    signature = inspect.signature(verb)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return run


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _status(error: LandcoverError) -> int:
    return 2 if isinstance(error, UsageError) else 1


def main() -> None:
    """Run the command line and end the process with its status.

    0 done, 1 failed in part or whole, 2 wrong usage, 130 interrupted.
    """
    hardening.harden()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± does not cost the result
    try:
        build()(prog_name="landcover")
    except LandcoverError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(_status(error))
    except OSError as error:
        if error.errno is None:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"Error: {place}{error.strerror}.", file=sys.stderr)
        sys.exit(1)


def _print_version(version: bool) -> None:
    if version:
        from landcover import __version__

        print(__version__)
        raise typer.Exit


def _version_option(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
    ),
) -> None:
    pass
