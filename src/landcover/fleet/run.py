"""Run a plan: a window of units in flight, three attempts, and a list of what was given up."""

import json
import logging
import os
import re
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from landcover.errors import DataError, LandcoverError, MissingKeyError, OutputError
from landcover.fleet.stac import map_collection
from landcover.fleet.units import COLLECTION, Outcome, Planned, read_plan, read_units
from landcover.inference.workers import Engine, work_through
from landcover.io.discovery import MASK_END
from landcover.io.files import scratch_folder
from landcover.storage.store import Store

ATTEMPTS = 3
"""Times that a unit is tried if machine, store or network fail."""

REFUSALS = 20
"""Units refused one after the other at which a run stops: rather a fault of the machine than of each."""

BEAT_S = 10.0
"""How often a run writes its record into the store."""

_FORGOTTEN_S = 3600.0
"""Age at which the record of a run that was killed is deleted."""

_NUMBERS = "began", "updated", "maps", "in_flight"
"""Numbers of the record of a run that others count on."""

_MAP_OR_ITEM = re.compile(rf"{MASK_END}\.(tif|png)(\.json)?$")

_MOST = 1e15
"""No number of a record is as large; nor is one that is not a number."""

_log = logging.getLogger(__name__)


@dataclass
class Summary:
    """What a run has done.

    Attributes:
        kept: Units whose results existed.
        failed: Reason by the map of each unit that was given up, now or before.
        waiting: Maps that wait for blocks of other shards, or of units that failed.
        damaged: Maps, of those done or kept, with no data where their scene could not be read.
        missing: Maps that are published, and do not exist.
        complete: Whether no unit failed, and all maps of the plan are published and exist.
    """

    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    repeated: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    complete: bool = False


class Run:
    """One driver: it gives units to an engine until all of its share are done.

    An assembly begins when no block of its scene is in flight here. If blocks of other shards are missing
    then, it is tried once more at the end, as are the assemblies of all shards: the last shard that ends
    finds all blocks. ``shard`` is the number of this share from 0, and how many there are; with ``retry``
    units are tried again that were given up.
    """

    def __init__(
        self, store: Store, engine: Engine, *, shard: tuple[int, int] = (0, 1), retry: bool = False
    ) -> None:
        self._store, self._engine, self._shard, self._retry = store, engine, shard, retry
        self._plan = read_plan(store)
        self._units = enumerate(read_units(store, self._plan))
        self._given_up = {key.removeprefix("failed/").removesuffix(".json") for key in store.list("failed")}
        self._flight: dict[str, Planned] = {}
        self._again: deque[Planned] = deque()
        self._assemblies: deque[Planned] = deque()
        self._has_late = self._is_last_round = False
        self._assembled: set[int] = set()  # hashes of the keys of assemblies that have ended
        self._attempts: Counter[str] = Counter()
        self._faults = self._refusals = self._maps = 0
        self._summary = Summary()
        self._began = time.monotonic()
        self._record = f"runs/{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.json"

    def run(self) -> Summary:
        """Do all units of the share."""
        for record, key in running(self._store):
            if time.time() - record["updated"] > _FORGOTTEN_S:
                self._store.delete(key)
        self._beat()
        beat = time.monotonic()
        try:
            for ended in work_through(self._engine, self._take, beat_s=BEAT_S / 4):
                if ended is not None:
                    self._end(self._flight.pop(ended[0]), ended[1])
                if time.monotonic() - beat > BEAT_S:
                    self._beat()
                    beat = time.monotonic()
            self._finish()
        finally:
            with suppress(LandcoverError, OSError):
                self._store.delete(self._record)
        return self._summary

    def _take(self) -> tuple[str, str] | None:
        """Return key and line of the next unit."""
        if (job := self._next()) is None:
            return None
        self._flight[job.key] = job
        return job.key, job.line

    def _next(self) -> Planned | None:
        """Return a unit that can begin now; None if there is none, perhaps because others must end first."""
        while True:
            busy = {job.unit.output for job in (*self._flight.values(), *self._again)}
            for _ in range(len(self._assemblies)):
                job = self._assemblies.popleft()
                if job.unit.output not in busy:
                    return job
                self._assemblies.append(job)
            if self._again:
                return self._again.popleft()
            if (found := next(self._units, None)) is not None:
                number, job = found[0], found[1]
                is_mine = not self._is_last_round and number % self._shard[1] == self._shard[0]
                if self._is_given_up(job):
                    if is_mine:
                        self._summary.failed[job.unit.output] = "It was given up by an earlier run."
                elif job.unit.parts:
                    if is_mine or self._is_last_round:
                        self._assemblies.append(job)
                    else:
                        self._has_late = True
                elif is_mine:
                    return job
            elif self._has_late and not self._flight:
                self._has_late, self._is_last_round = False, True
                self._units = enumerate(self._late())
            else:
                return None

    def _late(self) -> Iterator[Planned]:
        """Return the assemblies that are left: the plan is read again, so that none is held."""
        planned = read_units(self._store, self._plan)
        return (job for job in planned if job.unit.parts and hash(job.key) not in self._assembled)

    def _is_given_up(self, job: Planned) -> bool:
        """Return whether a unit is not tried: an earlier run gave it up, and no other made its map."""
        return job.key in self._given_up and not self._retry and not self._store.exists(job.unit.item)

    def _end(self, job: Planned, result: Outcome | LandcoverError) -> None:
        """Count a unit that has ended, or whose worker has; try it again, or give it up."""
        outcome = Outcome("fault", str(result)) if isinstance(result, LandcoverError) else result
        summary = self._summary
        if job.unit.parts and outcome.state != "waiting":
            self._assembled.add(hash(job.key))
        if outcome.state in ("done", "kept"):
            self._faults = self._refusals = 0
            summary.done += outcome.state == "done"
            self._maps += outcome.state == "done" and job.unit.blocks is None
            summary.kept += outcome.state == "kept"
            if outcome.damaged:
                summary.damaged.append(job.unit.output)
            if job.key in self._given_up:
                self._store.delete(f"failed/{job.key}.json")
            _log.debug("%s: %s. %s", job.unit.output, outcome.state, outcome.reason)
        elif outcome.state == "waiting":
            if self._is_last_round:
                summary.waiting.append(job.unit.output)
            else:
                self._has_late = True
        elif outcome.state == "fault" and self._attempts[job.key] < ATTEMPTS - 1:
            self._attempts[job.key] += 1
            summary.repeated += 1
            self._again.append(job)
            _log.info("%s is tried again: %s", job.unit.output, outcome.reason)
            self._faults += 1
            if self._faults > ATTEMPTS * (self._engine.slots + 1):
                raise OutputError(
                    f"{self._faults} units failed one after the other, the last because: {outcome.reason} "
                    "Repair that and run the plan again."
                )
        else:
            self._give_up(job, outcome)
            self._refusals += outcome.state != "fault"
            if self._refusals >= REFUSALS:
                again = "after a repair, with --retry"
                if outcome.state == "changed":
                    again = "to map what changed, plan again into another store"
                raise DataError(
                    f"{self._refusals} units were refused one after the other, the last because: "
                    f"{outcome.reason} Run the plan again to go on with the others; or, {again}."
                )

    def _give_up(self, job: Planned, outcome: Outcome) -> None:
        self._summary.failed[job.unit.output] = outcome.reason
        record = {
            "output": job.unit.output,
            "scene": job.unit.scene,
            "blocks": job.unit.blocks,
            "attempts": self._attempts.pop(job.key, 0) + 1,
            "state": outcome.state,
            "error": outcome.reason,
        }
        self._store.put(f"failed/{job.key}.json", json.dumps(record).encode())
        _log.warning("%s is given up: %s", job.unit.output, outcome.reason)

    def _beat(self) -> None:
        """Write into the store that this run is alive, and what it has done."""
        summary, worked = self._summary, time.monotonic() - self._began
        now = time.time()  # the clock may have been set meanwhile: its beginning is counted from here
        record: dict[str, Any] = {
            "host": socket.gethostname(),
            "shard": self._shard,
            "began": now - worked,
            "updated": now,
            "in_flight": len(self._flight),
            "done": summary.done,
            "kept": summary.kept,
            "failed": len(summary.failed),
            "maps": self._maps,
        }
        self._store.put(self._record, json.dumps(record).encode())
        if worked > 1:
            _log.info(
                "%d units done, %d kept, %d failed; %d in all.",
                summary.done,
                summary.kept,
                len(summary.failed),
                self._plan.units,
            )

    def _finish(self) -> None:
        """Look for all maps, and write the collection if they are published."""
        store, summary = self._store, self._summary
        items, lost = published(store)
        summary.missing += lost
        if summary.failed or summary.missing or len(items) < self._plan.scenes:
            return
        units = (unit for _, unit, _ in read_units(store, self._plan) if unit.blocks is None)
        summary.complete = all(hash(unit.item) in items for unit in units)
        if not summary.complete or store.exists(COLLECTION):
            return
        model = json.loads(store.read(self._plan.model_item))
        head = map_collection(self._plan, model["properties"].get("description", ""))
        begin, _, end = json.dumps(head, indent=1).rpartition("]")  # of the links, which come last
        with scratch_folder() as folder:
            path = folder / COLLECTION
            with path.open("w", encoding="utf-8") as file:
                file.write(begin.rstrip())
                for _, unit, _ in read_units(store, self._plan):
                    if unit.blocks is None:
                        link = {"rel": "item", "href": f"./{unit.item}", "type": "application/geo+json"}
                        file.write(",\n  " + json.dumps(link))
                file.write(f"\n ]{end}\n")
            store.put(COLLECTION, path)


def published(store: Store) -> tuple[set[int], list[str]]:
    """Return the hashes of the receipts of maps, and the maps that are missing although they have one."""
    items, alone = set[int](), set[str]()  # alone: without its map or receipt, as far as they are listed
    for key in store.list("maps"):
        if match := _MAP_OR_ITEM.search(key):
            if match[2]:
                items.add(hash(key))
            other = key.removesuffix(".json") if match[2] else f"{key}.json"
            alone ^= {other if other in alone else key}
    lost = (key.removesuffix(".json") for key in sorted(alone) if key.endswith(".json"))
    # A map that was published during the listing may not be in it.
    return items, [key for key in lost if not store.exists(key)]


def running(store: Store) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the record and the key of each run that works or was killed."""
    for key in store.list("runs"):
        # It has just ended, or is damaged.
        with suppress(MissingKeyError, ValueError, TypeError, KeyError, RecursionError):
            record = json.loads(store.read(key))
            if all(abs(record[name]) < _MOST for name in _NUMBERS):
                yield record, key
