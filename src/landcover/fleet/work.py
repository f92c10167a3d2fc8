"""A worker: one loaded model, units in, results published whole and their receipts last."""

import hashlib
import json
import logging
import os
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from landcover._gdal import is_address
from landcover.errors import (
    ChangedInputError,
    DataError,
    ImageError,
    LandcoverError,
    MissingKeyError,
    ModelError,
    StoreError,
    UsageError,
    foreign_errors,
)
from landcover.fleet.planning import file_digest
from landcover.fleet.stac import map_item
from landcover.fleet.units import ETAG, Outcome, Unit, read_plan
from landcover.inference import workers
from landcover.inference.blocks import ReadLog, SceneWork, product_rows
from landcover.inference.maps import provenance, unreadable
from landcover.inference.options import further_rasters
from landcover.inference.plan import Imagery, Task, open_imagery, products
from landcover.inference.scene import (
    IMAGE,
    Inputs,
    MadeMap,
    content_digest,
    make_blocks,
    make_map,
    sampled,
    scene_grid,
)
from landcover.io.files import scratch_folder
from landcover.machine import processors
from landcover.model.card import model_digest
from landcover.model.runtimes import open_model
from landcover.raster import display_name
from landcover.storage.scenes import check_version, copy_or_address, scene_pieces
from landcover.storage.store import Store, Version, open_store

_log = logging.getLogger(__name__)

_LEVEL = 1
"""Of zlib, for rows: classes are long runs."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker needs to begin; plain data, so that it travels.

    Attributes:
        store: Address of the store.
        device: Where to compute; ``auto``: on the kind of device that was planned.
        threads: Of the network; None: one per core.
    """

    store: str
    device: str = "auto"
    threads: int | None = None


class Worker:
    """A process that does units, one after the other; everything that it makes is in the store.

    Raises:
        UsageError: If the plan is of another version of the package, or needs another runtime.
        DataError: If the store has no plan.
        ModelError: If the model in the store is not that of the plan.
    """

    def __init__(self, setup: Setup) -> None:
        self._store: Store = open_store(setup.store)
        self.plan = plan = read_plan(self._store)
        # Kept as long as the worker: OpenVINO reads the file again for each size of window.
        stack = ExitStack()
        self._folder = stack.enter_context(scratch_folder())
        weakref.finalize(self, stack.close)
        file = self._folder / Path(plan.model).name
        self._store.fetch(plan.model, file)
        if (found := model_digest(file)) != plan.model_sha256:
            raise ModelError(
                f"{self._store.address(plan.model)} has the SHA-256 {found}; the plan was made with "
                f"{plan.model_sha256}. Plan into another store."
            )
        self._runtime = open_model(
            file,
            device=plan.device if setup.device == "auto" else setup.device,
            runtime=plan.runtime,
            threads=setup.threads,
            precision=plan.precision,
        )
        if self._runtime.device.partition(":")[0] != plan.device:
            raise UsageError(
                f"The device is {self._runtime.device}; the plan is for {plan.device}, whose maps differ. "
                f"Leave --device out, or plan with --device {self._runtime.device} into another store."
            )
        self._options = plan.predict_options.for_model(self._runtime.card)
        self._tags = provenance(self._runtime, plan.model_sha256, self._options, plan.precision)

    def __call__(self, line: str) -> Outcome:
        """Do the unit in a line of the plan, unless its receipt exists."""
        key, unit = self.plan.parse(line)
        try:
            try:
                return self._do(key, unit, unit.share)
            except _WindowError:  # damage or network: a copy shows which, and is read as any file
                return self._do(key, unit, 1.0)
            except DataError:
                check_pins(unit)  # where a file cannot be read now, that is the reason, and a fault
                raise
        except _WindowError as error:
            return Outcome("fault", str(error))
        except ChangedInputError as error:
            return Outcome("changed", str(error))
        except (DataError, UsageError, ModelError) as error:
            return Outcome("refused", str(error))
        except LandcoverError as error:
            return Outcome("fault", str(error))
        except Exception as error:
            return Outcome("fault", f"{type(error).__name__}: {error}")

    def _do(self, key: str, unit: Unit, share: float) -> Outcome:
        if (published := self._published(key, unit)) is not None:
            self._remove_parts(unit)
            return Outcome("kept", damaged=unit.blocks is None and "landcover:damaged" in published)
        part = f"parts/{key}"
        if unit.blocks is not None and self._part(part) is not None:
            return Outcome("kept")
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            task = unit.task(folder)
            refuse = partial(unreadable, task)
            self._check_inputs(unit, task)
            note = ""
            if is_address(unit.scene):
                size, content = unit.pins[0].size, None
                image, note = copy_or_address(unit.scene, size, share=share, folder=folder)
                if image == unit.scene:
                    content = content_digest(size, scene_pieces(unit.scene, sampled(size)))
                task = replace(task, image=image, content=content)
            gsd, inputs = self._runtime.card.preprocessing.gsd, Inputs(task, self._options)
            with (
                _naming(unit, task),
                foreign_errors(refuse),
                open_imagery(task, self._options, gsd) as imagery,
            ):
                if unit.blocks is not None:
                    record = self._compute(unit, task, imagery, folder / "rows")
                    self._check_inputs(unit, task)
                    self._store.put(f"{part}.bin", folder / "rows")
                    self._store.put_new(f"{part}.json", json.dumps(record).encode())
                    if self._published(key, unit) is not None:  # assembled meanwhile from another's blocks
                        self._remove(part)
                    return Outcome("done", note)
                try:
                    if (made := self._map(key, unit, task, imagery, inputs)) is None:
                        return Outcome("kept")
                except MissingKeyError as error:
                    if self._published(key, unit) is not None:
                        return Outcome("kept")
                    return Outcome("waiting", str(error))
        self._remove_parts(unit)
        name = display_name(unit.scene)
        for text in made.warnings:
            _log.warning("%s", text.replace(IMAGE, name).replace(task.name, name))
        if made.ood is not None and made.ood.is_flagged:
            _log.warning("%s", made.ood.warning(name))
        return Outcome("done", note, bool(made.damaged))

    def _published(self, key: str, unit: Unit) -> Mapping[str, Any] | None:
        """Return the properties of a published map, empty if they are damaged; None: not published."""
        try:
            found: dict[str, Any] = {**json.loads(self._store.read(unit.item))["properties"]}
        except MissingKeyError:
            return None
        except (ValueError, TypeError, KeyError):
            found = {}
        if unit.blocks is None and found.get("landcover:unit") != key:
            raise DataError(
                f"{self._store.address(unit.item)} was made by another plan. Choose another --out."
            )
        return found

    def _remove_parts(self, unit: Unit) -> None:
        for key in unit.parts:
            self._remove(f"parts/{key}")

    def _remove(self, part: str) -> None:
        for end in (".json", ".bin"):
            self._store.delete(part + end)

    def _check_inputs(self, unit: Unit, task: Task) -> None:
        """Check that a unit would read the files that were planned, and no others."""
        check_pins(unit)
        if is_address(unit.scene):
            return
        planned = {pin.path for pin in unit.pins}
        if new := [name for name, _, _ in Inputs(task, self._options).states if name not in planned]:
            raise ChangedInputError(
                f"{new[0]} would be read with {unit.scene}, and was not there when the plan was made. Make a "
                "new plan, into another store."
            )

    def _compute(self, unit: Unit, task: Task, imagery: Imagery, rows: Path) -> dict[str, Any]:
        """Compute the row blocks of a unit into a file, and return its record."""
        options, legend, blocks = self._options, self._runtime.card.legend, []
        grid = scene_grid(self._runtime, imagery, options, task.name)
        numbers = range(*unit.blocks or (0, 0))
        with rows.open("wb") as file:
            for block in make_blocks(self._runtime, imagery, grid, numbers, options):
                log, chunks = ReadLog.of(imagery.source, block), []
                for name, row, values in product_rows(block, legend, further_rasters(options)):
                    data = zlib.compress(np.ascontiguousarray(values).data, _LEVEL)
                    file.write(data)
                    chunks.append([name, row, len(values), len(data)])
                notes = tuple(note.replace(task.name, IMAGE) for note in log.notes)
                blocks.append(
                    {
                        "number": block.number,
                        "stop": block.stop,
                        **asdict(log),
                        "notes": notes,
                        "chunks": chunks,
                    }
                )
        return {"output": unit.output, "blocks": blocks, **_file_record(rows)}

    def _map(self, key: str, unit: Unit, task: Task, imagery: Imagery, inputs: Inputs) -> MadeMap | None:
        """Make the map of a whole scene and publish it, its other files and its item; None: another did.

        Raises:
            MissingKeyError: If a part that is assembled is missing or damaged.
        """

        def assemble(work: SceneWork) -> None:
            for part in unit.parts:
                self._adopt(f"parts/{part}", work, task)

        made = make_map(
            self._runtime,
            task,
            imagery,
            self._options,
            inputs=inputs,
            tags=self._tags,
            finished=assemble,
        )
        self._check_inputs(unit, task)
        if self._published(key, unit) is not None:  # a file that its receipt states is not written again
            return None
        files = {}
        for path in products(task, self._options):
            if path.exists():
                record = _file_record(path)
                name = f"{unit.output.rpartition('/')[0]}/{path.name}"
                files[name] = record["size"], record["sha256"]
                self._store.put(name, path)
        item = json.dumps(map_item(key, unit, self.plan, made, files), indent=1) + "\n"
        self._store.put_new(unit.item, item.encode())
        return made

    def _part(self, part: str) -> dict[str, Any] | None:
        """Return the receipt of a part; None if there is none. One that is damaged is removed."""
        try:
            record = json.loads(self._store.read(f"{part}.json"))
            return {"sha256": record["sha256"], "blocks": record["blocks"]}
        except MissingKeyError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError):
            self._remove(part)
            return None

    def _adopt(self, part: str, work: SceneWork, task: Task) -> None:
        """Put the blocks of a part into the work on a scene."""
        if (record := self._part(part)) is None:
            raise MissingKeyError(f"{self._store.address(part)}.json does not exist; run the plan again.")
        rows = task.map.with_name("part.bin")
        try:
            self._store.fetch(f"{part}.bin", rows)
            is_whole = _file_record(rows)["sha256"] == record["sha256"]
        except MissingKeyError:
            is_whole = False
        if not is_whole:
            self._remove(part)
            raise MissingKeyError(
                f"{self._store.address(part)}.bin was damaged and is deleted; run the plan again."
            )
        with rows.open("rb") as file:
            for block in record["blocks"]:
                for name, row, count, length in block["chunks"]:
                    buffer = work.buffers[name]
                    values = np.frombuffer(zlib.decompress(file.read(length)), np.uint8)
                    buffer.write(row, values.reshape(count, *buffer.row_shape))
                work.logs[block["number"]] = ReadLog.from_record(block)
        for buffer in work.buffers.values():
            buffer.flush()


class LocalEngine(workers.LocalEngine):
    """``count`` processes on this machine, each with the model loaded; only lines of the plan travel."""

    def __init__(self, setup: Setup, count: int) -> None:
        threads = setup.threads or max(1, processors() // count)
        super().__init__(partial(Worker, replace(setup, threads=threads)), count)


class _WindowError(ImageError):
    """A scene at an address could not be read by windows."""


@contextmanager
def _naming(unit: Unit, task: Task) -> Iterator[None]:
    """Name the planned scene in errors, not its copy; of a scene that is not copied raise another error."""
    try:
        yield
    except DataError as error:
        if is_address(str(task.image)):
            raise (_WindowError(str(error)) if isinstance(error, ImageError) else error) from error
        raise type(error)(str(error).replace(str(task.image), display_name(unit.scene))) from error


def check_pins(unit: Unit) -> None:
    """Check that the files of a unit are those that were planned.

    A local file of the same size and time is; else its digest decides. At an address the entity tag does.

    Raises:
        ChangedInputError: If one of them has changed.
        DataError: If a scene at an address does not exist.
        StoreError: If a file cannot be read, or a server refuses or does not answer.
    """
    for pin in unit.pins:
        if pin.mtime_ns is None:
            check_version(pin.path, Version(pin.size, pin.digest.removeprefix(ETAG)))
            continue
        path = Path(pin.path)
        try:
            with path.open("rb") as file:  # also where the time decides: a disk may refuse it
                status = os.fstat(file.fileno())
            same = status.st_size == pin.size and (
                status.st_mtime_ns == pin.mtime_ns or file_digest(path) == pin.digest
            )
        except OSError as error:
            raise StoreError(
                f"{path} cannot be read: {error.strerror}. It could when the plan was made; is its disk here?"
            ) from error
        if not same:
            raise ChangedInputError(
                f"{path} has changed since the plan was made. Make a new plan, into another store."
            )


def _file_record(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
