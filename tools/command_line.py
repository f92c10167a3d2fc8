"""Write docs/reference/command-line.md from the declarations of the options.

Run: python tools/command_line.py
"""

from pathlib import Path
from textwrap import fill
from typing import Any

import typer

from landcover.cli import build, help_records, summary, verbs

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "command-line.md"

INTRODUCTION = """# Command line

<!-- Written by tools/command_line.py from the declarations of the options. Do not edit. -->

Progress, warnings and errors go to standard error, results to standard output.
`--json FILE` writes the result as JSON; `-` is standard output.
Nothing is overwritten without `--force`.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | failed in part or as a whole |
| 2 | wrong usage |
| 130 | interrupted by Ctrl-C or SIGTERM |

`landcover --version` prints the version.
`landcover help VERB` explains a verb.
`landcover --install-completion` sets up completion for the current shell:
bash, zsh, fish or PowerShell.

`predict` keeps compiled models in `~/.cache/landcover/openvino` (mode 0700), or in
`$XDG_CACHE_HOME/landcover/openvino`.
Set `LANDCOVER_NO_MODEL_CACHE=1` to do without.
"""


_SHARED = {"quiet", "verbose", "log_file", "log_format", "help"}
"""Options of every verb, listed once."""


def page() -> str:
    """Return the page as Markdown."""
    app: Any = typer.main.get_command(build())
    context = app.make_context("landcover", [], resilient_parsing=True)
    return "\n".join([INTRODUCTION, *(_verb(app.get_command(context, verb), verb) for verb in verbs())])


def _verb(command: Any, verb: str) -> str:
    context = command.make_context(f"landcover {verb}", [], resilient_parsing=True)
    body = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [f"## {verb}", "", summary(verb), "", "```text", body, "```", ""]
    details = (command.help or "").partition("\n\n")[2].strip()
    if details:
        lines += [fill(" ".join(details.split()), 100), ""]
    for group, records in help_records(command, context).items():
        items = [_item(*record) for name, *record in records if verb == "predict" or name not in _SHARED]
        if items:
            lines += [f"**{group}**", "", *items, ""]
    if verb == "predict":
        lines += ["The options under General are options of every verb.", "", _identity(), ""]
    return "\n".join(lines)


def _identity() -> str:
    from landcover.inference.options import PredictOptions

    flags = [
        f"`{option.flag or '--' + name.replace('_', '-')}`"
        for name, option in PredictOptions.declared().items()
        if option.changes_map
    ]
    text = "`--resume` keeps a map if its scene, model and version are the same, and these options: "
    return fill(text + ", ".join(flags) + ".", 100, break_long_words=False, break_on_hyphens=False)


def _item(option: str, text: str) -> str:
    """Return an item of a list, broken at 100 columns."""
    words = f"- `{' '.join(option.split())}`: {' '.join(text.split())}"
    return fill(words, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
