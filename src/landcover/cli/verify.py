"""``landcover verify``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import check_json, log, put
from landcover.io.discovery import MAX_PIXELS

if TYPE_CHECKING:
    from rich.console import Console

    from landcover.data import VerifyReport

_SHOWN = 10


def verify(
    data: Annotated[Path, typer.Argument(help="Data folder or cache.", show_default=False)],
    split: Annotated[
        str | None,
        option(
            "Look for leakage between the subsets of this split. By default those of the folder.", group=MAIN
        ),
    ] = None,
    gsd: _options.Gsd = None,
    legend: _options.Legend = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Check every pair: files, sizes, classes, duplicates, leaks.

    All files are decoded. The exit status is 1 if a file cannot be read or a pair is incomplete. Leakage
    between subsets is a warning.
    """
    from landcover.data import verify as check
    from landcover.legend import load_legend

    check_json(json, force=force)
    report = check(
        data,
        split=split,
        gsd=gsd,
        legend=None if legend is None else load_legend(legend),
        max_pixels=max_pixels,
    )
    put(report.to_dict(), json, lambda: _print(report), force=force)
    for line in _warnings(report, split):
        log.warning("%s", line)
    if not report.ok:
        log.error("%s", _faults(report))
        raise typer.Exit(1)


def _warnings(report: "VerifyReport", split: str | None) -> Iterable[str]:
    parts = f"the parts of {split}" if split else "the folder's parts"
    if report.leaks:
        kinds = {kind: sum(leak.kind == kind for leak in report.leaks) for kind in _KINDS}
        found = ", ".join(f"{count} {_KINDS[kind]}" for kind, count in kinds.items() if count)
        yield (
            f"LEAKAGE between {parts}: {found}. {_by_part(report)} "
            "Scores across these subsets are optimistic. With scenes.csv, use scenes-kK@I."
        )
    if report.shared_scenes:
        yield f"{report.shared_scenes} scenes have items in more than one part."
    if report.odd_sizes:
        yield (
            f"{len(report.odd_sizes)} images differ in size from the published {report.layout} data, for "
            f"example {report.odd_sizes[0]}. Resized copies have another scale: pass --gsd."
        )


def _faults(report: "VerifyReport") -> str:
    counts = {
        "files that cannot be used": len(report.unreadable),
        "images without a mask": len(report.missing_masks),
        "masks or listed files without an image": len(report.missing_images),
    }
    found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{found}. Copy, repair or remove the files that the report lists."


_KINDS = {
    "identical": "pairs of identical images",
    "touching": "pairs of touching tiles",
    "matching-edges": "pairs of tiles with matching edges",
}


def _by_part(report: "VerifyReport") -> str:
    shares = (f"{count} of {report.compared[part]} items of {part}" for part, count in report.leaking.items())
    return f"Affected: {', '.join(shares)}."


def _print(report: "VerifyReport") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    scale = "unknown" if report.gsd is None else f"{report.gsd:g} m per pixel"
    console.print(f"Layout {report.layout}, {report.pairs} pairs, GSD {scale}")
    parts = Table("part", "pairs", "images", "published", "sizes")
    for part, pairs in report.parts.items():
        sizes = ", ".join(f"{size} ({count})" for size, count in report.sizes[part].items())
        parts.add_row(part, str(pairs), str(report.images[part]), str(report.expected.get(part, "")), sizes)
    console.print(parts)
    shares = Table("class")
    for part in report.class_share_by_part:
        shares.add_column(f"{part} %", justify="right")
    for name in report.class_share:
        shares.add_row(name, *(f"{100 * share[name]:.2f}" for share in report.class_share_by_part.values()))
    if report.class_share_by_part:
        console.print(shares)
    console.print(f"Off-palette pixels: {report.off_palette_pixels}")
    _list(console, "Off-palette files", [f"{name}: {count}" for name, count in report.off_palette.items()])
    _list(
        console, "Unreadable files and pairs that do not fit", [fault.reason for fault in report.unreadable]
    )
    _list(console, "Images without a mask", report.missing_masks)
    _list(console, "Masks without an image, and listed images that are not there", report.missing_images)
    _list(console, "Groups of identical images", [", ".join(group) for group in report.duplicates])
    _list(
        console,
        "Leaks",
        [f"{leak.a} - {leak.b}: {leak.kind}, confidence {leak.confidence:.4f}" for leak in report.leaks],
    )


def _list(console: "Console", title: str, lines: list[str]) -> None:
    console.print(f"{title}: {len(lines)}")
    for line in lines[:_SHOWN]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if len(lines) > _SHOWN:
        console.print(f"  and {len(lines) - _SHOWN} more; --json lists all.")
