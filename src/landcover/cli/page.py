"""``landcover page``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import log


def page(
    out: Annotated[
        Path | None, option("HTML file to write.  [default: landcover.html, none with --open]", group=MAIN)
    ] = None,
    model: Annotated[str, option("Exported model (.onnx) or name of a bundled one.", group=MAIN)] = "starter",
    open_: Annotated[
        bool, typer.Option("--open", help="Serve the page on 127.0.0.1 and open it.", rich_help_panel=MAIN)
    ] = False,
    force: _options.Force = False,
) -> None:
    """Write one HTML file that maps land cover in a browser."""
    from landcover.page import build_page, serve_page, write_page

    if out is not None or not open_:
        file = write_page(out or Path("landcover.html"), model, force=force)
        log.info("%s  (%.1f MB)", file, file.stat().st_size / 1e6)
    if open_:
        content = build_page(model) if out is None else out.read_text(encoding="utf-8")
        serve_page(content, _show)


def _show(address: str) -> None:
    import webbrowser

    log.info("%s  (Ctrl-C stops it)", address)
    webbrowser.open(address)
