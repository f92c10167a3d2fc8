"""Where units are done: actors of a Ray cluster, each with the model; only lines of the plan travel."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from landcover import __version__
from landcover.errors import FleetError, LandcoverError, UsageError
from landcover.extras import needs
from landcover.fleet.work import Setup, Worker
from landcover.inference.workers import Ended, Logged, Slot, Workers

_OBJECT_STORE_BYTES = 100 << 20
"""Of a Ray that is started here: no pixels pass through it, and its default is 30 % of the memory."""

_CONNECT_S = 10.0


class RayEngine(Workers):
    """Actors of Ray, in place of processes.

    An actor that dies, perhaps with its machine, is replaced, and its unit is tried again by the run: Ray
    repeats nothing. Where the cluster has GPUs, each actor has one.

    Args:
        setup: What the workers need; every machine must reach the store.
        workers: Number of actors; None: one per GPU, else one per core.
        address: ``host:port`` of the cluster, or ``auto`` on one of its machines; None: that of the variable
            ``RAY_ADDRESS``, else a Ray is started here for as long as the engine exists.
    """

    def __init__(self, setup: Setup, workers: int | None = None, address: str | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or None
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported, as what follows
        mode = os.environ.setdefault("RAY_AUTH_MODE", "token")
        if address is not None:
            _check_cluster(address, mode)
        with needs("ray"):
            import ray
        self._ray: Any = ray
        options: dict[str, Any] = {"address": address}
        if address is None:
            options = {
                "address": "local",  # None would join a cluster that this machine belongs to
                "num_cpus": workers,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            }
        with tempfile.TemporaryFile("w+", errors="replace") as notes:
            try:
                with _stderr_to(notes):
                    self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
                    resources = self._ray.cluster_resources()
            except Exception as error:  # Ray has no common type for them
                with suppress(Exception):
                    ray.shutdown()
                notes.seek(0)
                raise _unreachable(address, error, notes.read()) from error
        threads = setup.threads or 1
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self._setup = replace(setup, threads=threads)
        self._actor = ray.remote(_Actor).options(
            num_cpus=threads, num_gpus=1 if gpus else 0, max_restarts=0, max_task_retries=0
        )
        self._pending: dict[Any, Slot] = {}
        requirement = f"Every machine needs landcover {__version__} with the extra fleet, and enough memory."
        super().__init__(workers or gpus or max(1, cores // threads), requirement)

    def _start(self, slot: Slot) -> None:
        slot.worker = self._actor.remote()
        self._pending[slot.worker.begin.remote(self._setup)] = slot

    def _send(self, slot: Slot) -> None:
        self._pending[slot.worker.do.remote(slot.unit, self._level)] = slot

    def _answers(self, seconds: float) -> Iterator[tuple[Slot, Any]]:
        for future in self._ray.wait(list(self._pending), timeout=seconds)[0]:
            slot = self._pending.pop(future)
            try:
                answer = self._ray.get(future)
            except Exception as error:  # of Ray: the actor, its process or its machine is gone
                answer = Ended(f"an actor ended: {_first_line(error)}")
            if isinstance(answer, str) and answer != __version__:
                answer = UsageError(
                    f"A worker has landcover {answer}; this is {__version__}. Install one version everywhere."
                )
            yield slot, answer

    def close(self) -> None:
        """End all actors, with what they do, and the Ray that was started here."""
        for slot in self._workers:
            with suppress(Exception):
                self._ray.kill(slot.worker)
        self._ray.shutdown()


class _Actor:
    """The body of an actor; Ray imports it from the package of the worker's machine."""

    def begin(self, setup: Setup) -> str | LandcoverError:
        """Load the model, whose digest is compared with the plan's; return the version of the package."""
        try:
            self._worker = Worker(setup)
        except LandcoverError as error:
            return type(error)(str(error))
        return __version__

    def do(self, line: str, level: int) -> Logged:
        """Do a unit."""
        return Logged.of(partial(self._worker, line), level)


def _check_cluster(address: str, mode: str) -> None:
    """Refuse to join a cluster without a token, and one that does not answer: Ray would wait, then abort."""
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit() and "/" not in address):
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster; expected HOST:PORT, or auto on one of its "
            "machines. Run this command on a machine of the cluster, such as by ray job submit."
        )
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if mode != "token" or not (os.environ.get("RAY_AUTH_TOKEN") or path.is_file()):
        raise UsageError(
            f"The cluster {address} can only be joined with a token: whoever reaches one without can run "
            "programs there. Start it with RAY_AUTH_MODE=token, and set RAY_AUTH_TOKEN_PATH here."
        )
    if address == "auto":
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise FleetError(
            f"There is no Ray cluster at {address} ({_first_line(error)}). Check the address, or start one: "
            "ray start --head."
        ) from error


@contextmanager
def _stderr_to(file: IO[str]) -> Iterator[None]:
    """Keep what Ray's libraries print about a connection: a line per attempt."""
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _unreachable(address: str | None, error: Exception, notes: str) -> FleetError:
    """Return the error for a Ray that cannot be used; ``notes`` is what it printed."""
    refused = "InvalidAuthToken" in notes or type(error).__name__ == "AuthenticationError"
    if address is not None and refused:
        return FleetError(
            f"The Ray cluster {address} refused the token. Set RAY_AUTH_TOKEN_PATH to the file of the "
            "cluster's."
        )
    where = "No Ray could be started here" if address is None else f"The Ray cluster {address} cannot be used"
    return FleetError(f"{where}: {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].strip().rstrip(".")[:300]
