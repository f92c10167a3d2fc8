"""Verbs of masks and data folders: clean, convert, legend, prepare, rasterize, splits, verify."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from landcover.cli import _options
from landcover.cli._options import argument, option
from landcover.cli._output import log, print_table, put, say
from landcover.config import INPUT, MAIN, PRODUCTS
from landcover.errors import UsageError, counted, printable
from landcover.inference.options import ImageryOptions
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS
from landcover.legend import DEEPGLOBE

if TYPE_CHECKING:
    from landcover.data import VerifyReport

Masks = Annotated[list[Path], argument("Masks and folders of masks.", "MASKS")]

Column = Annotated[str, option("Column of the class in a vector file.", group=INPUT)]
Layer = Annotated[str | None, option("Layer of a vector file, if it has several.", group=INPUT)]
Background = Annotated[
    str | None,
    option("Class of the ground without a shape. By default it is ignored.", group=INPUT, metavar="NAME"),
]

_SHOWN = 10
"""Lines of each list that verify prints."""

_LEAKS = {
    "identical": "pairs of identical images",
    "near-copy": "pairs of near copies (recompressed, resized, flipped or turned)",
    "overlapping": "pairs of overlapping images",
    "touching": "pairs of touching images",
    "matching-edges": "pairs of tiles with matching edges",
}


def clean(
    masks: Masks,
    out: Annotated[Path, option("Folder of the cleaned masks.", group=MAIN)],
    min_region: Annotated[
        str, option("Smallest region that stays: 8000px, 2000m2, 1ha.", group=MAIN, metavar="SIZE")
    ],
    min_region_strict: _options.MinRegionStrict = False,
    legend: _options.Legend = None,
    gsd: _options.Gsd = None,
    mask_format: _options.Form = "palette",
    max_off_palette: _options.MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Give small regions of masks their largest neighbour's class."""
    from landcover.postprocess.cleaning import clean as clean_masks
    from landcover.postprocess.sieve import remaining_regions
    from landcover.values import RegionSize

    result = clean_masks(
        masks,
        out,
        min_region=RegionSize.parse(min_region, strict=min_region_strict),
        legend=legend,
        gsd=gsd,
        mask_format=mask_format,
        max_off_palette=max_off_palette,
        max_pixels=max_pixels,
        force=force,
    )
    if result.off_palette:
        log.warning("%s became unknown.", counted(result.off_palette, "off-palette pixel"))
    if result.small_regions:
        log.warning("%s", remaining_regions(out, result.small_regions))
    share = 100 * result.changed / result.pixels if result.pixels else 0.0
    _end(f"{share:.2f} % of the pixels changed. Cleaned", len(result.written), result.failed, out)


def convert(
    masks: Masks,
    to: Annotated[Literal["index", "colour"], option("Form of the output.", group=MAIN)],
    out: Annotated[Path, option("Folder of the new masks.", group=MAIN)],
    legend: _options.Legend = None,
    mask_format: Annotated[
        Literal["palette", "rgb"] | None,
        option("Form of colour masks.  [default: palette]", group=PRODUCTS),
    ] = None,
    max_off_palette: _options.MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Convert masks between colours and indices."""
    from landcover.data.conversion import convert as convert_masks

    result = convert_masks(
        masks,
        out,
        to=to,
        legend=legend or DEEPGLOBE,
        mask_format=mask_format,
        max_off_palette=max_off_palette,
        max_pixels=max_pixels,
        force=force,
    )
    for source, count in result.off_palette.items():
        log.warning("%s: %s.", source, counted(count, "off-palette pixel"))
    _end("Converted", len(result.written), result.failed, out)


def _end(done: str, written: int, failed: Mapping[Path, str], out: Path) -> None:
    for reason in failed.values():
        log.warning("Skipped: %s", reason)
    log.info("%s %d of %s into %s.", done, written, counted(written + len(failed), "mask"), out)
    if failed:
        raise typer.Exit(1)


def prepare(
    data: Annotated[Path, argument("Data folder; with --labels a scene or a folder of scenes.", "DATA")],
    out: Annotated[Path, option("Cache folder to write.", group=MAIN)],
    imagery: ImageryOptions,
    labels: Annotated[
        Path | None,
        option(
            "Polygons or points that label the scenes: GeoPackage, GeoJSON, shapefile, COCO or labelme JSON, "
            "or a folder of them. Ground without a shape is ignored.",
            group=MAIN,
        ),
    ] = None,
    column: Column = "class",
    layer: Layer = None,
    background: Background = None,
    gsd: _options.Gsd = None,
    legend: _options.Legend = None,
    max_off_palette: _options.MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Decode a data folder once, into a cache that --data takes."""
    from landcover.data import open_dataset
    from landcover.data import prepare as make_cache

    shapes = None
    if labels is not None:
        from landcover.data.vectorlabels import VectorSource

        shapes = VectorSource(labels, column, layer, background)
    elif column != "class" or layer is not None or background is not None:
        raise UsageError("--column, --layer and --background belong to --labels. Pass --labels FILE, too.")
    source = open_dataset(
        data,
        legend=legend,
        gsd=gsd,
        reading=imagery.reading,
        labels=shapes,
        max_pixels=max_pixels,
        max_off_palette=max_off_palette,
    )
    dataset, written = make_cache(source, out, force=force)
    log.info(
        "%s %s: layout %s, %d images, %d with masks, %s.",
        out,
        "written" if written else "is up to date",
        dataset.layout,
        len(dataset.items),
        len(dataset.labelled),
        _scale(dataset.gsd),
    )


def rasterize(
    labels: Annotated[
        Path,
        argument(
            "Polygons or points: GeoPackage, GeoJSON, shapefile, COCO or labelme JSON, or a folder.", "LABELS"
        ),
    ],
    like: Annotated[
        list[Path],
        option("Scene, or folder of scenes, to make masks for. May be given several times.", group=MAIN),
    ],
    out: Annotated[Path, option("Folder of the masks.", group=MAIN)],
    column: Column = "class",
    layer: Layer = None,
    background: Background = None,
    legend: _options.Legend = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Write masks of polygons or points, on the grids of scenes.

    Ground without a shape is nodata, which is neither trained on nor scored.
    """
    from landcover.data.vectorlabels import VectorSource
    from landcover.data.vectorlabels import rasterize as burn

    result = burn(
        VectorSource(labels, column, layer, background),
        like,
        out,
        legend=legend,
        max_pixels=max_pixels,
        force=force,
    )
    for scene in result.unlabelled:
        log.warning("%s: no shape touches it; no mask is written.", scene)
    log.info(
        "Masks written: %d into %s. Classes: %s.", len(result.written), out, ", ".join(result.legend.names)
    )


def legend(
    data: Annotated[Path, argument("Data folder.", "DATA")],
    names: Annotated[
        str | None,
        option(
            "Names of the classes, by ascending value or colour: road,water.", group=MAIN, metavar="NAMES"
        ),
    ] = None,
    ignore: Annotated[
        list[int] | None, option("Value that stands for nodata. May be given several times.", group=MAIN)
    ] = None,
    unknown: Annotated[str | None, option("The name that is never scored.", group=MAIN)] = None,
    gsd: Annotated[float | None, option("Metres per pixel, for the file.", group=MAIN)] = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Write landcover.yaml with the values or colours of a folder's masks, to be completed with names."""
    from landcover.data.settings import describe_legend

    path, text = describe_legend(
        data,
        names=[name.strip() for name in names.split(",")] if names else [],
        ignore=ignore or [],
        unknown=unknown,
        gsd=gsd,
        max_pixels=max_pixels,
        force=force,
    )
    print(text, end="")
    log.info("%s written.%s", path, "" if names else " Complete the names of its classes.")


def _scale(gsd: float | None) -> str:
    return "GSD unknown" if gsd is None else f"{gsd:g} m per pixel"


def splits(
    data: _options.Data,
    split: Annotated[
        str,
        option(
            "folders, glnet, random-N-M@SEED, kfold-K@I, scenes-kK@I, scenes-kK@I,J, group-kK@I (folders), "
            "all, or a file of ids.",
            group=MAIN,
        ),
    ],
    ids: Annotated[
        bool, option("Print every key and its subset, a list that --split reads.", "--ids", group=MAIN)
    ] = False,
    legend: _options.Legend = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Show the subsets of a split, or list their items."""
    from landcover.data import open_dataset
    from landcover.data import split as split_items
    from landcover.data.splits import describe, parse, warn_of_neighbours

    if parse(split).part is not None:
        raise UsageError(
            f"--split {split} names one subset; all are shown. Pass --split {parse(split).text}."
        )
    dataset = open_dataset(data, legend=legend, max_pixels=max_pixels)
    parts_of = split_items(dataset, split)
    warn_of_neighbours(dataset, parts_of, split)
    if ids and json is None:
        watched = sys.stdout.isatty()  # elsewhere the names are needed as they are
        for subset, items in parts_of.items():
            for item in items:
                print(f"{printable(item.key) if watched else item.key}\t{subset}")
        return
    summaries = describe(dataset, parts_of)

    def show() -> None:
        subsets = summaries.values()
        rows = [["items", *(str(of["items"]) for of in subsets)]]
        if dataset.scenes is not None:
            rows.append(["scenes", *(str(of["scenes"]) for of in subsets)])
        for name in dataset.legend.names:
            rows.append([f"{name} %", *(f"{100 * of['class_share'][name]:.2f}" for of in subsets)])
        print_table(["", *summaries], rows)

    put({"split": split, "layout": dataset.layout, "parts": summaries}, json, show, force=force)


def verify(
    data: Annotated[Path, argument("Data folder or cache.", "DATA")],
    imagery: ImageryOptions,
    split: Annotated[
        str | None,
        option(
            "Look for leakage between the subsets of this split. By default those of the folder.", group=MAIN
        ),
    ] = None,
    gsd: _options.Gsd = None,
    legend: _options.Legend = None,
    max_off_palette: _options.MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Check every pair: files, sizes, classes, duplicates, leaks.

    All files are decoded. The exit status is 1 if a file cannot be read or a pair is incomplete. Leakage
    between subsets is a warning.
    """
    from landcover.data import verify as check
    from landcover.data.layouts import DECLARED_NAMES, vector_hint

    report = check(
        data,
        split=split,
        gsd=gsd,
        reading=imagery.reading,
        legend=legend,
        max_pixels=max_pixels,
        max_off_palette=max_off_palette,
    )
    put(report.to_dict(), json, lambda: _print_report(report), force=force)
    for note in report.notes:
        log.warning("%s", note)
    if report.leaks:
        kinds = {what: sum(leak.kind == kind for leak in report.leaks) for kind, what in _LEAKS.items()}
        affected = (
            f"{n} of {report.compared[subset]} items of {subset}" for subset, n in report.leaking.items()
        )
        log.warning(
            "LEAKAGE between the subsets of %s: %s. Affected: %s. Scores across these subsets are "
            "optimistic. %s",
            split or "the folder",
            _counted(kinds),
            ", ".join(affected),
            report.advice,
        )
    if report.shared_scenes:
        log.warning("%d scenes have items in more than one subset.", report.shared_scenes)
    if report.odd_sizes:
        log.warning(
            "%d images differ in size from the published %s data, for example %s. Resized copies have "
            "another scale: pass --gsd.",
            len(report.odd_sizes),
            report.layout,
            report.odd_sizes[0],
        )
    if not report.ok:
        counts = {
            "files that cannot be used": len(report.unreadable),
            "images without a mask": len(report.missing_masks),
            "masks or listed files without an image": len(report.missing_images),
        }
        advice = "Copy, repair or remove the files that the report lists."
        if not report.pairs:
            advice = DECLARED_NAMES + vector_hint(data)
        log.error("%s. %s", _counted(counts), advice)
        raise typer.Exit(1)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _print_report(report: "VerifyReport") -> None:
    say(f"Layout {report.layout}, {report.pairs} pairs, {_scale(report.gsd)}")
    if report.pairing is not None:
        say(f"Paired by: {report.pairing}")
    rows = []
    for subset, pairs in report.parts.items():
        sizes = ", ".join(f"{size} ({count})" for size, count in report.sizes[subset].items())
        published = str(report.expected.get(subset, ""))
        rows.append([subset, str(pairs), str(report.images[subset]), published, sizes])
    print_table(["subset", "pairs", "images", "published", "sizes"], rows)
    if shares := report.class_share_by_part:
        rows = [[name, *(f"{100 * of[name]:.2f}" for of in shares.values())] for name in report.class_share]
        print_table(["class", *(f"{subset} %" for subset in shares)], rows)
    rows = [
        [
            folder,
            str(int(of["masks"])),
            *(f"{100 * of[what]:.2f}" for what in ("nodata", "unknown", "off_palette")),
        ]
        for folder, of in report.mask_folders.items()
    ]
    if rows:
        print_table(["masks in", "files", "nodata %", "unknown %", "off-palette %"], rows)
    if report.forms:
        say("Masks read as: " + ", ".join(f"{form} ({n})" for form, n in report.forms.items()))
    say(f"Off-palette pixels: {report.off_palette_pixels}")
    lists = {
        "Off-palette files": [f"{name}: {count}" for name, count in report.off_palette.items()],
        "Unreadable files and pairs that do not fit": [fault.reason for fault in report.unreadable],
        "Images without a mask": report.missing_masks,
        "Masks without an image, and listed images that do not exist": report.missing_images,
        "Groups of identical images": [", ".join(group) for group in report.duplicates],
        "Leaks": [
            f"{leak.a} - {leak.b}: {leak.kind}, confidence {leak.confidence:.4f}" for leak in report.leaks
        ],
    }
    for title, lines in lists.items():
        say(f"{title}: {len(lines)}")
        for line in lines[:_SHOWN]:
            say(f"  {line}")
        if len(lines) > _SHOWN:
            say(f"  and {len(lines) - _SHOWN} more; --json lists all.")
