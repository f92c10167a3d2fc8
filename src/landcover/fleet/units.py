"""Units of work and the plan that lists them: JSON Lines, written and read as a stream.

A unit is a scene, some row blocks of a large scene, or the assembly of one from its blocks. Its key is a
SHA-256 of all that its result depends on, so a result has one name whoever computes it, and a unit that is
done twice does no harm. The store is the only record of what is done:

    plan.json           the plan: model, options, totals
    plan-DIGEST.jsonl   a unit per line
    model/DIGEST/       the model file, and the STAC item that describes it
    maps/               the maps, and beside each its receipt: a STAC item
    parts/              rows of large scenes until they are assembled, and their receipts
    failed/             units that were given up, with the reason
    runs/               what is running
    collection.json     the STAC collection of all maps
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from affine import Affine
from pydantic import NonNegativeInt, PositiveInt, StringConstraints, TypeAdapter, ValidationError

from landcover import __version__
from landcover._gdal import is_address, subdataset_file
from landcover.errors import DataError, MissingKeyError, OutputError, UsageError
from landcover.inference.options import OF_A_RUN, PredictOptions
from landcover.inference.plan import Task, products
from landcover.io.files import scratch_folder
from landcover.model.runtimes import Precision
from landcover.raster import Place
from landcover.raster.mosaic import Mosaic
from landcover.scale import Scale
from landcover.storage.store import Store, open_store
from landcover.textfiles import parse_json

PLAN, COLLECTION = "plan.json", "collection.json"
FORMAT = 3
"""Version of both files."""

_LINE_BYTES = 1 << 24
"""Of a unit at most; longer lines are cut, and damage."""

ETAG = "etag:"
"""Begin of the digest of a scene at an address."""

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A file that a unit reads, as it was when it was planned.

    Attributes:
        digest: ``sha256:`` and its digest, or ``etag:`` and what a server names this version.
        mtime_ns: When a local file was changed; not part of the key.
    """

    path: str
    size: int
    digest: str
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Unit:
    """A unit of work.

    Attributes:
        output: Key of the map in the store.
        scene: Path or address of the image.
        picture: As in :class:`~landcover.inference.plan.Task`, like the fields that follow.
        pins: The scene and all files that are read along with it.
        blocks: The first row block and the one after the last; None: the whole scene.
        mosaic: The scene and the files that are its context.
        parts: Keys of the units whose blocks are assembled.
        pixels: Pixels that it classifies, if known; with ``model_pixels`` (at the model's scale) and
            ``square_metres`` for the totals.
        bbox: West, south, east, north, where the scene is georeferenced.
        source: Time and address of the STAC item that the scene comes from: ``datetime`` and ``item``.
    """

    output: Annotated[str, StringConstraints(pattern=r"^maps/.+\.(tif|png)$")]
    scene: str
    picture: bool
    scale: Scale | None
    size: tuple[PositiveInt, PositiveInt] | None
    transform: tuple[float, ...] | None
    pins: tuple[Pin, ...]
    blocks: tuple[NonNegativeInt, PositiveInt] | None = None
    mosaic: Mosaic | None = None
    parts: tuple[str, ...] = ()
    pixels: int = 0
    model_pixels: int = 0
    square_metres: float = 0.0
    bbox: Box | None = None
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def item(self) -> str:
        """Key of the receipt of the map."""
        return f"{self.output}.json"

    @property
    def share(self) -> float:
        """Fraction of the scene's pixels that it reads, 0..1."""
        if self.parts:
            return 0.0
        return min(1.0, self.pixels / math.prod(self.size)) if self.size else 1.0

    def task(self, folder: Path) -> Task:
        """Return the work of ``predict``, with the map in a folder here; its place lacks the scene's CRS."""
        transform = None if self.transform is None else Affine(*self.transform)
        is_file = not (is_address(self.scene) or subdataset_file(self.scene))
        return Task(
            Path(self.scene) if is_file else self.scene,
            folder / Path(self.output).name,
            self.picture,
            self.scale,
            None if self.size is None else Place(*self.size, transform),
            mosaic=self.mosaic,
        )


@dataclass(frozen=True)
class Plan:
    """What all units of a fleet have in common, and the totals.

    Attributes:
        model: Key of the model file in the store.
        runtime: The library that computes.
        precision: Of layers that are not quantised.
        device: The kind of device that computes, ``cpu`` or ``cuda``: they differ in single pixels.
        options: Of the prediction, those that are not the default, as JSON.
        units_sha256: Digest of the list of units.
        pixels: Pixels of all scenes whose size is known.
        square_km: Their area on the ground.
        minutes: Expected minutes of one process on the machine that made the plan.
        bbox: West, south, east, north of all georeferenced scenes.
    """

    model: str
    model_sha256: str
    runtime: str
    precision: Precision
    device: str
    options: Mapping[str, Any]
    units_sha256: str = ""
    units: int = 0
    scenes: int = 0
    pixels: int = 0
    square_km: float = 0.0
    minutes: float = 0.0
    bbox: Box | None = None
    version: str = __version__
    format: int = FORMAT

    @cached_property
    def digest(self) -> str:
        """Digest of model, device and options: the part of a unit's key that all have in common."""
        library = [self.runtime, self.precision, self.device]
        return _sha256([self.version, self.model_sha256, *library, dict(self.options)])

    @cached_property
    def predict_options(self) -> PredictOptions:
        """The options of the prediction."""
        return PredictOptions(**self.options)

    @property
    def model_item(self) -> str:
        """Key of the STAC item of the model."""
        return f"{self.model.rpartition('/')[0]}/model.json"

    @property
    def units_key(self) -> str:
        """Key of the list of units: by its digest, so that of two plans at once neither gets the other's."""
        return f"plan-{self.units_sha256[:16]}.jsonl"

    def key(self, unit: Unit) -> str:
        """Return the key of a unit, 64 hexadecimal digits."""
        fields = asdict(unit)
        for pin in fields["pins"]:
            del pin["mtime_ns"]
        return _sha256([self.digest, fields])

    def line(self, unit: Unit) -> str:
        """Return a unit as a line of the plan."""
        return json.dumps({"key": self.key(unit), **asdict(unit)}, sort_keys=True, default=str) + "\n"

    def parse(self, line: str) -> tuple[str, Unit]:
        """Return the key and the unit in a line.

        Raises:
            DataError: If the line is damaged.
        """
        try:
            data = json.loads(line)
            key = data.pop("key")
            unit = _UNIT.validate_python(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"found {line[:60]!r}, which is not a unit") from error
        if key != self.key(unit):
            raise DataError(f"the unit of {unit.output} does not have the key {str(key)[:70]!r}")
        return key, unit


_PLAN, _UNIT = TypeAdapter(Plan), TypeAdapter(Unit)


def _sha256(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def stored_options(options: PredictOptions) -> dict[str, Any]:
    """Return the options of a prediction, those that are not the default, as plain data for JSON."""
    data = options.model_dump(mode="json", exclude_defaults=True)
    if alone := [f"--{name.replace('_', '-')}" for name in OF_A_RUN if name in data]:
        raise UsageError(f"A fleet does not use {', '.join(alone)}. Leave it out.")
    for name in ("min_region", "aoi"):
        if name in data:
            value = getattr(options, name)
            data[name] = str(value.resolve() if isinstance(value, Path) else value)
    return data


def write_plan(
    store: Store,
    plan: Plan,
    units: Iterable[Unit],
    *,
    pixels_per_s: float,
    files: Mapping[str, bytes | Path] | None = None,
) -> Plan:
    """Write the units and the plan, which is complete when ``plan.json`` exists; return it with its totals.

    ``pixels_per_s`` is the speed of one process, in pixels at the model's scale; ``files`` are those that the
    workers need, by their keys.
    """
    digest, counts, seconds, square_km = hashlib.sha256(), Counter[str](), 0.0, 0.0
    bbox: Box | None = None
    outputs: set[int] = set()  # hashes: of a million names they take 60 MB
    with scratch_folder() as folder:
        path = folder / "plan.jsonl"
        with path.open("wb") as file:
            for unit in units:
                line = plan.line(unit).encode()
                digest.update(line)
                file.write(line)
                counts.update(units=1, pixels=unit.pixels, scenes=unit.blocks is None)
                seconds += unit.model_pixels / pixels_per_s
                square_km += unit.square_metres / 1e6
                if unit.blocks is None:
                    if bbox is None or unit.bbox is None:
                        bbox = bbox or unit.bbox
                    else:
                        west, south, east, north = zip(bbox, unit.bbox, strict=True)
                        bbox = min(west), min(south), max(east), max(north)
                    task = unit.task(Path(unit.output).parent)
                    for name in map(Path.as_posix, reversed(products(task, plan.predict_options))):
                        if hash(name.casefold()) in outputs:
                            raise OutputError(
                                f"{unit.scene} and another scene would both be written to {name}. Rename "
                                "one, or make two plans."
                            )
                        outputs.add(hash(name.casefold()))
        if not counts:
            raise DataError("The plan has no scene; expected images, folders or STAC items.")
        plan = replace(
            plan,
            units_sha256=digest.hexdigest(),
            units=counts["units"],
            scenes=counts["scenes"],
            pixels=counts["pixels"],
            square_km=round(square_km, 6),
            minutes=round(seconds / 60, 6),
            bbox=bbox,
        )
        if not store.exists(PLAN):
            for key, content in [(plan.units_key, path), *(files or {}).items()]:
                store.put(key, content)
            text = json.dumps(asdict(plan), indent=1, sort_keys=True) + "\n"
            if not store.put_new(PLAN, text.encode()) and read_plan(store).units_key != plan.units_key:
                store.delete(plan.units_key)
    found = read_plan(store)
    if (found.units_sha256, found.digest) != (plan.units_sha256, plan.digest):
        raise OutputError(
            f"{store.address(PLAN)} is another plan: of other scenes, another model or other options. Choose "
            "another --out, or run that plan."
        )
    return found


def read_plan(store: Store) -> Plan:
    """Return the plan of a store.

    Raises:
        DataError: If it has no plan, or the plan is damaged.
        UsageError: If another version of the package made it.
    """
    try:
        data = parse_json(store.read(PLAN).decode(), PLAN, DataError)
        if data["format"] != FORMAT or data["version"] != __version__:
            raise UsageError(
                f"{store.address(PLAN)} is a plan of landcover {data['version']}, format {data['format']}; "
                f"this is landcover {__version__}, format {FORMAT}. Plan again, into another store."
            )
        plan = _PLAN.validate_python(data)
        try:
            plan.predict_options  # noqa: B018 - options that do not exist are damage, too
        except UsageError as error:
            raise ValueError(f"options: {error}") from error
        return plan
    except MissingKeyError as error:
        raise DataError(
            f"{store.root} has no {PLAN}. Make a plan first: landcover fleet plan INPUTS --model M "
            f"--out {store.root}"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        reason = str(error)
        if isinstance(error, ValidationError):
            fault = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        reason = reason.rstrip(".")
        raise DataError(f"{store.address(PLAN)} is damaged: {reason}. Delete it and plan again.") from error


class Planned(NamedTuple):
    """A unit of a plan with its key, and the line in which it travels."""

    key: str
    unit: Unit
    line: str


def read_units(store: Store, plan: Plan) -> Iterator[Planned]:
    """Yield all units of a plan, as a stream."""
    digest, number = hashlib.sha256(), 0
    with store.local(plan.units_key) as path, path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), b""), 1):
            digest.update(line)
            text = line.decode("utf-8", "replace")
            try:
                key, unit = plan.parse(text)
            except DataError as error:
                raise _damaged(store, plan, f"line {number}: {error}") from error
            yield Planned(key, unit, text)
    if digest.hexdigest() != plan.units_sha256:
        raise _damaged(store, plan, f"it has {number} units, or others, and not the {plan.units} of {PLAN}")


def _damaged(store: Store, plan: Plan, reason: str) -> DataError:
    return DataError(
        f"{store.address(plan.units_key)} is damaged: {reason}. Copy it again, or plan into another store."
    )


def open_planned(address: str) -> Store:
    """Return the store that an address names: itself, or by its plan."""
    folder, _, name = address.rpartition("/")
    is_plan = re.fullmatch(r"plan\.json|plan-[0-9a-f]{16}\.jsonl", name)
    return open_store((folder or ".") if is_plan else address)


State = Literal["done", "kept", "waiting", "refused", "changed", "fault"]
"""How a unit ended.

``done``: its result is published. ``kept``: it was before. ``waiting``: blocks that it assembles are
missing. ``refused``: its input cannot be used. ``changed``: its input is not what was planned. ``fault``:
machine, store or network failed.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a unit ended; its fields are plain data.

    Attributes:
        damaged: Whether its map has no data where the scene could not be read.
    """

    state: State
    reason: str = ""
    damaged: bool = False
