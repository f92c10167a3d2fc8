"""Training on several processes: their group, what they agree on, and how they are started on one machine.

Each process has a rank from 0, its part of each batch, and the whole network. Gradients are averaged over the
ranks by Fabric's DDP. Rank 0 alone writes the run folder.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, nn

from landcover.errors import LostProcessError, TrainingError, UsageError
from landcover.machine import signals_handled
from landcover.model._compat import timm
from landcover.model.network import DeepLabV3Plus
from landcover.model.runtimes import Precision
from landcover.training.optim import pick_precision

LOST = 75
"""Exit status of a process that ended because another one did."""

_RENDEZVOUS = "LANDCOVER_RENDEZVOUS"
"""Names the file by which processes of one machine find each other; those of torchrun use a port."""

_LAUNCHER = "LANDCOVER_LAUNCHER"
"""Names the process of :func:`launch`: without it nobody would end the ranks."""

_TIMEOUT = timedelta(hours=24)
"""One rank may read data or compute soft labels while the others wait; one that ended is noticed at once."""

_GRACE_S = 15.0


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, some of them on this machine; rank 0 of ``size`` writes and reports."""

    fabric: Fabric
    device: torch.device
    precision: Precision
    rank: int = 0
    size: int = 1
    on_machine: int = 1

    def sum(self, values: Any) -> Tensor:
        """Return the sum of a tensor, an array or a number over all ranks, in its type."""
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
        if self.size > 1:
            tensor = tensor.to(self.device, copy=True)
            distributed.all_reduce(tensor)
        return tensor

    def largest(self, *values: float) -> list[float]:
        """Return the largest of each number over all ranks: what differs in time is the same for all."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        numbers: list[float] = tensor.tolist()
        return numbers

    def from_first(self, value: Any) -> Any:
        """Return the value that rank 0 gives; others wait for it."""
        return self.fabric.broadcast(value) if self.size > 1 else value

    def balance(self, weight: Tensor) -> Tensor:
        """Return the factor that turns a mean over this rank's pixels into its part of the mean over all.

        DDP averages gradients: the mean over ranks of ``factor * mean`` is the mean over the pixels of all
        ranks, also where these have different numbers of labelled pixels. ``weight`` is the sum of their
        weights here.
        """
        return self.size * weight / self.sum(weight.detach()).clamp_min(torch.finfo(torch.float32).tiny)


@contextmanager
def process_group(device: torch.device, wanted: Literal["auto", "fp32", "bf16"]) -> Iterator[ProcessGroup]:
    """Join the group that torchrun or :func:`launch` started this process for; leave it at the end.

    A LostProcessError is raised if another process of the group ends before this one.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank, local_rank, local_size = (
            int(os.environ[name]) if size > 1 else default
            for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"WORLD_SIZE is set, but the environment of this process is not complete ({error}). Start it by "
            "torchrun or with --devices N, or unset WORLD_SIZE."
        ) from error
    if _LAUNCHER in os.environ:
        launcher = int(os.environ[_LAUNCHER])

        def end_with_launcher() -> None:
            while os.getppid() == launcher:
                time.sleep(1)
            os._exit(LOST)  # what this process writes is whole or not there

        threading.Thread(target=end_with_launcher, daemon=True).start()
    devices: Any = [device.index or 0] if device.type == "cuda" else 1
    options: dict[str, Any] = {}
    if size > 1:
        if device.type == "cuda":
            if torch.cuda.device_count() < local_size:
                raise UsageError(
                    f"{local_size} processes need as many GPUs; found {torch.cuda.device_count()}. Pass "
                    "--devices with that number, or --device cpu."
                )
            device = torch.device("cuda", local_rank)
        devices = local_size
        options = {
            "num_nodes": size // local_size,
            "strategy": DDPStrategy(
                cluster_environment=TorchElasticEnvironment(), timeout=_TIMEOUT, broadcast_buffers=False
            ),
        }
    precision = pick_precision(wanted, device)
    if rank:
        logging.getLogger("landcover").setLevel(logging.CRITICAL)  # rank 0 reports
    fabric_logger = logging.getLogger("lightning_fabric")
    level = fabric_logger.level
    fabric_logger.setLevel(logging.WARNING)  # it repeats the settings at every start
    try:
        if size > 1:
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                init_method=os.environ.get(_RENDEZVOUS, "env://"),
                rank=rank,
                world_size=size,
                timeout=_TIMEOUT,
            )
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            **options,
        )
        fabric.launch()
        fabric_logger.setLevel(level)
        yield ProcessGroup(fabric, device, precision, rank, size, local_size)
    except RuntimeError as error:
        lost = isinstance(error, distributed.DistError) or any(
            word in str(error) for word in ("gloo", "NCCL", "Connection", "connectFullMesh")
        )
        if size == 1 or isinstance(error, TrainingError) or not lost:
            raise
        raise LostProcessError(
            "Another process of this run has ended. The last checkpoint stays; run the same command again."
        ) from error
    finally:
        fabric_logger.setLevel(level)
        if size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def synchronised(network: DeepLabV3Plus, device: torch.device) -> DeepLabV3Plus:
    """Return a network whose trained batch norms use the statistics of all ranks (SyncBatchNorm of GPUs).

    CPUs cannot synchronise them: a UsageError.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    trained = sum(norm.training for norm in norms)
    if trained and device.type == "cpu":
        raise UsageError(
            f"{trained} batch norms are trained, and several processes on CPUs cannot synchronise them: each "
            "would use its own statistics. Freeze them (--set model.freeze_batch_norm=true), use GPUs, or "
            "train in one process with a larger batch_size."
        )
    if not trained:
        return network
    convert: Any = timm.layers.convert_sync_batchnorm  # type: ignore[attr-defined]  # with timm's own norms
    converted: DeepLabV3Plus = convert(network)
    return converted.train()


def launch(count: int, command: Sequence[str]) -> int:
    """Run a command in several processes of this machine, and return the exit status.

    The processes find each other through a file in a private folder; no port is opened to other machines.
    If one ends, or this process is killed, all end. Signals are passed on.
    """
    with tempfile.TemporaryDirectory(prefix="landcover-train-") as name:
        folder = Path(name)
        loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
        environment = {
            **({"GLOO_SOCKET_IFNAME": loopback} if loopback else {}),
            **os.environ,
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            _LAUNCHER: str(os.getpid()),
            _RENDEZVOUS: (folder / "rendezvous").as_uri(),
        }
        processes: list[subprocess.Popen[bytes]] = []

        def forward(number: int, frame: FrameType | None) -> None:
            for process in processes:  # which are not in the group that a terminal signals
                with suppress(OSError, ValueError):  # Windows has no SIGINT for them
                    process.send_signal(number)

        with signals_handled((signal.SIGTERM, signal.SIGINT), forward):
            for rank in range(count):
                own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                with (folder / f"{rank}.txt").open("wb") as file:
                    streams: dict[str, Any] = {} if rank == 0 else {"stdout": file, "stderr": file}
                    processes.append(subprocess.Popen(command, env=own, process_group=0, **streams))
            try:
                statuses = _wait(processes)
            finally:
                for process in processes:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        for rank, status in enumerate(statuses):
            if status < 0:
                raise TrainingError(
                    f"Process {rank} of {count} was killed by {signal.Signals(-status).name}. The last "
                    "checkpoint is kept; run the same command to resume."
                )
        if statuses[0] != LOST:
            return statuses[0]
        failed = next((rank for rank, status in enumerate(statuses) if status not in (0, LOST)), None)
        if failed is None:
            raise TrainingError("The processes of this run lost each other. Run the same command to resume.")
        lines = (folder / f"{failed}.txt").read_text(errors="replace").splitlines()
        reason = lines[-1].removeprefix("Error: ") if lines else f"exit status {statuses[failed]}"
        raise TrainingError(f"Process {failed} of {count}: {reason}")


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
    """Wait until all processes have ended, or one failed and the others had time to."""
    deadline: float | None = None
    while True:
        statuses = [process.poll() for process in processes]
        if None not in statuses:
            return [status for status in statuses if status is not None]
        if deadline is None and any(status not in (None, 0) for status in statuses):
            deadline = time.monotonic() + _GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            return [LOST if status is None else status for status in statuses]
        time.sleep(0.05)
