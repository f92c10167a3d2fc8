"""The command line: a public function for each verb; the first line of its docstring is its help.

The module of a verb is imported when the verb is called, and imports what it needs inside its function:
``landcover --help`` stays quick.
"""

import gc
import importlib
import inspect
import io
import re
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from landcover import hardening
from landcover.errors import INTERRUPTED, LandcoverError, UsageError, did_you_mean, printable
from landcover.extras import load_on_use
from landcover.machine import lacks_memory, signals_handled

BUG = "landcover failed"
"""How the message about an error begins that landcover does not raise on purpose."""

_MODULES = {
    "data": ["clean", "convert", "legend", "prepare", "rasterize", "splits", "verify"],
    "demo": ["demo"],
    "doctor": ["doctor", "help"],
    "evaluate": ["evaluate"],
    "fleet": ["fleet failed", "fleet merge", "fleet plan", "fleet run", "fleet status", "fleet verify"],
    "maps": ["predict", "sample", "vectorize"],
    "models": ["info", "models", "presets"],
    "training": ["calibrate", "export", "page", "report", "train"],
}
_MODULE = {verb: module for module, verbs in _MODULES.items() for verb in verbs}

_LONGEST_MESSAGE = 1000
"""Characters: a file can have a name or a value of any length."""

_REMOVED = {
    "bench": "landcover bench was removed in 0.2. To time the bundled model here, run landcover doctor "
    "--speed. Comparisons with other tools are scripts in the repository: see benchmarks/README.md."
}


class _Verbs(TyperGroup):
    """The verbs, each imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return verbs()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if " ".join(args[:2]) in _MODULE:  # a verb of two words
            args = [" ".join(args[:2]), *args[2:]]
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _REMOVED:
            raise UsageError(_REMOVED[cmd_name])
        if cmd_name not in _MODULE:
            if words := [verb for verb in verbs() if verb.startswith(f"{cmd_name} ")]:
                raise UsageError(
                    f"{cmd_name} is the first word of a verb. Expected one of: {', '.join(words)}."
                )
            raise UsageError(f"There is no verb {cmd_name!r}. {did_you_mean(cmd_name, verbs())}")
        if cmd_name not in self.commands:
            self.commands[cmd_name] = command(cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in verbs()])


_PLAIN = {
    r" range>": ">",
    r"<list\[(.+?)\]>": r"<\1>",
    "<Path>": "<path>",
    r"; x>=[01]\]": "]",
    r" *\[x>=[01]\]": "",
    r"; 0<=x<=\d+\]": "]",
    r"(\d+)<=x<=(\d+)\]": r"\1 to \2]",
}
"""What the help writes in place of typer's notation of types and ranges."""


class _Verb(TyperCommand):
    """A verb whose help lists its options in groups."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option of one value that is given twice: the first would be dropped silently."""
        given = [p for p in self.make_parser(ctx).parse_args(list(args))[2] if p.param_type_name == "option"]
        for parameter in given:
            is_single = not (parameter.multiple or getattr(parameter, "is_flag", False))
            if is_single and given.count(parameter) > 1:
                raise UsageError(
                    f"{max(parameter.opts, key=len)} is given {given.count(parameter)} times; expected once."
                )
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for name, records in help_records(self, ctx).items():
            with formatter.section(name):
                formatter.write_dl([(option, text) for _, option, text in records])


def help_records(verb: Any, context: Any) -> dict[str, list[tuple[str, str, str]]]:
    """Return name, spelling and help of the parameters of a verb's command, by the group of the help."""
    from landcover.cli._options import GENERAL, GROUPS

    groups: dict[str, list[tuple[str, str, str]]] = {name: [] for name in ("Arguments", *GROUPS)}
    for parameter in verb.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            is_argument = parameter.param_type_name == "argument"
            group = getattr(parameter, "rich_help_panel", None) or GENERAL
            spelling, text = record
            for pattern, plain in _PLAIN.items():
                spelling, text = re.sub(pattern, plain, spelling), re.sub(pattern, plain, text)
            if is_argument:
                spelling = spelling.partition(" <")[0]
            groups["Arguments" if is_argument else group].append((parameter.name, spelling, text))
    return {name: records for name, records in groups.items() if records}


def verbs() -> list[str]:
    """Return the names of the verbs, in alphabetical order."""
    return sorted(_MODULE)


def summary(verb: str) -> str:
    """Return the first line of a verb's docstring, read from its source: importing all verbs takes long."""
    source = Path(__file__).with_name(f"{_MODULE[verb]}.py").read_text(encoding="utf-8")
    match = re.search(
        rf'^def {verb.replace(" ", "_")}\(.*?"""(.+?)(?:"""|\n)', source, re.DOTALL | re.MULTILINE
    )
    return match[1].strip() if match else ""


def command(verb: str) -> Any:
    """Import a verb and return its command."""
    function = getattr(importlib.import_module(f"{__name__}.{_MODULE[verb]}"), verb.replace(" ", "_"))
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

    @app.callback(invoke_without_command=True)
    def general(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            from landcover import __version__

            print(__version__)
            raise typer.Exit

    return app


def _guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Add to a verb what all verbs have: the log options, safe reports, and an orderly end on a signal."""
    from landcover.cli import _options
    from landcover.config import Options

    own = inspect.signature(verb).parameters.values()
    classes = [p for p in own if isinstance(p.annotation, type)]
    groups = {p.name: p.annotation for p in classes if issubclass(p.annotation, Options)}

    @wraps(verb)
    def run(**given: Any) -> None:
        from landcover.cli._output import FILE_ONLY, check_reports, log, logging_to
        from landcover.legend import load_legend

        chosen = {parameter.name: given.pop(parameter.name) for parameter in _options.LOGGING}
        debug = chosen.pop("debug")
        can_resume = isinstance(given.get("resume"), bool)
        with logging_to(**chosen):
            try:
                check_reports(given)
                for name in ("legend", "prediction_legend"):
                    if given.get(name) is not None:
                        given[name] = load_legend(given[name])
                for name, group in groups.items():
                    fields = [field for field, option in group.declared().items() if option.group]
                    given[name] = group(**{field: given.pop(field) for field in fields})
                if not gc.isenabled():
                    gc.freeze()
                    gc.enable()
                with signals_handled([signal.SIGTERM], signal.default_int_handler):  # as Ctrl-C
                    verb(**given)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                if debug:
                    traceback.print_exc()
                is_json = chosen["log_format"] == "json"
                log.error("%s", _message(error), extra={FILE_ONLY: not is_json})  # main prints it otherwise
                if is_json:
                    raise typer.Exit(_status(error)) from error
                raise
            except KeyboardInterrupt:
                again = "Run the same command again to continue."
                if can_resume:
                    again = "To continue, run the same command with --resume (without --force)."
                log.warning("Interrupted. Files written so far are complete. %s", again)
                raise typer.Exit(INTERRUPTED) from None

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name not in groups]
    for group in groups.values():
        parameters += _options.parameters(group)
    parameters += _options.LOGGING
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:500]} ... {text[-300:]}"


def _message(error: Exception) -> str:
    """Return what a user reads about an error."""
    if isinstance(error, LandcoverError):
        return _shortened(str(error))
    if lacks_memory(error):
        return "Not enough memory. Close other programs, or choose smaller windows, crops or batches."
    if isinstance(error, OSError) and error.errno is not None:
        file = "" if error.filename is None else f"{error.filename}: "
        return _shortened(f"{file}{error.strerror}.")
    return (
        f"{BUG}: {type(error).__name__}: {error}. Run the command again with --debug, which shows where, and "
        "report it."
    )


def _status(error: Exception) -> int:
    return 2 if isinstance(error, UsageError) else 1


def main() -> None:
    """Run the command line and end the process with its status.

    0 done, 1 failed in part or whole, 2 wrong usage, 130 interrupted.
    """
    from landcover.cli._streams import lasting_streams

    hardening.harden()
    load_on_use("boto3")  # rasterio imports it, a tenth of a second, and uses it for s3:// alone
    gc.disable()  # until the verb begins: imports leave no garbage to look for
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks ± does not cost the result
    status: Any = 0
    with lasting_streams() as lost:
        try:
            build()(prog_name="landcover")
        except SystemExit as end:
            status = end.code
        except Exception as error:
            print(f"Error: {printable(_message(error))}", file=sys.stderr)
            status = _status(error)
    for sentence in lost:
        with suppress(OSError, ValueError):
            print(f"Error: {sentence}", file=sys.stderr)
    sys.exit(status or len(lost[:1]))
