"""Run commands of landcover in turn in a process that has imported everything, and report how each ends.

A script: one job a line on standard input (JSON: ``words``, ``folder``), one result a line on the output.
Its fork does the jobs; a job that kills it is reported, and the next fork continues.
"""

import ctypes
import importlib
import json
import os
import platform
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

SECONDS = 10
"""Time of the processor that a command may take."""

WAIT = 60
"""Seconds after which a command waits for something that never comes; a busy machine is slow."""

ADDRESS_SPACE = 4 << 30
"""Bytes that a command may map beyond what the imports have mapped."""

RESIDENT = 1 << 30
"""Bytes of memory that a command may use in all."""

MODULES = (
    "landcover.cli._output,landcover.inference.maps,landcover.inference.model,landcover.io.vectors,"
    "landcover.raster.zonal,landcover.postprocess.vectorize,landcover.postprocess.cleaning,"
    "landcover.evaluation.assessment,landcover.evaluation.truth,landcover.data.verification,"
    "landcover.data.cache,landcover.data.splits,landcover.reporting.page,landcover.training.session,"
    "landcover.exporting.exporter,landcover.model.runtimes.torch_runtime,landcover.page,onnxruntime,"
    "landcover.data.vectorlabels,landcover.fleet.planning,landcover.fleet.results"
)


@dataclass(frozen=True)
class Ending:
    """How a command ended: exit status (negative: the signal), what it printed, seconds, bytes of memory."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    resident: int


class Forks:
    """The process that forks; a context manager."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LANDCOVER_NO_MODEL_CACHE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, words: Sequence[object], folder: Path, *, full: bool = False) -> Ending:
        """Run ``landcover WORDS`` in a folder; with ``full`` its standard output is a full disk."""
        names = [os.fsencode(str(word)).hex() for word in words]
        job = {"words": names, "folder": str(folder), "out": "/dev/full" if full else "out"}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.monotonic()
        print(json.dumps(job), file=self._process.stdin, flush=True)
        status, resident = json.loads(self._process.stdout.readline())
        texts = [(self._scratch / name).read_bytes().decode("utf-8", "replace") for name in ("out", "err")]
        return Ending(status, *texts, time.monotonic() - began, resident)


def _serve(scratch: Path) -> None:
    from landcover.hardening import harden

    harden()
    for name in MODULES.split(","):
        importlib.import_module(name)
    from landcover.cli import command, verbs
    from landcover.model.runtimes.openvino_runtime import import_openvino

    import_openvino()

    for verb in verbs():
        command(verb)
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while True:
        if (child := os.fork()) == 0:
            _work(jobs, answers, scratch)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        print(json.dumps([os.waitstatus_to_exitcode(status), 0]), file=answers)


def _refuse_connections() -> None:
    """End this process with SIGSYS when it makes a socket of the internet, also in a library in C or Rust.

    A filter of seccomp: it looks at the number of each system call and at the first argument of ``socket``.
    """
    numbers = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
    if platform.machine() not in numbers:
        return
    machine, number = numbers[platform.machine()]
    load, equal, end, allow, kill = 0x20, 0x15, 0x06, 0x7FFF0000, 0x80000000
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 5, machine),
        (load, 0, 0, 0),  # the number of the call
        (equal, 0, 3, number),
        (load, 0, 0, 16),  # its first argument: the domain
        (equal, 2, 0, socket.AF_INET),
        (equal, 1, 0, socket.AF_INET6),
        (end, 0, 0, allow),
        (end, 0, 0, kill),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    system = ctypes.CDLL(None, use_errno=True)
    for arguments in ((38, 1, 0, 0, 0), (22, 2, ctypes.byref(filters))):  # no new privileges; the filter
        if system.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def _obey_modes() -> None:
    """Give up the right of root to read and write whatever the modes of files are."""
    system = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this process
    rights = ctypes.create_string_buffer(24)  # effective, permitted, inheritable: low words, then high ones
    if system.capget(header, rights) == 0:
        words = list(struct.unpack("6I", rights.raw))
        words[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        system.capset(header, struct.pack("6I", *words))


def _work(jobs: TextIO, answers: TextIO, scratch: Path) -> None:
    """Do jobs until there are no more, within limits that hold from here on."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _refuse_connections()
    _obey_modes()
    for line in jobs:
        status = _run(json.loads(line), scratch)
        resident = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        print(json.dumps([status, int(resident[1]) * 1024 if resident else 0]), file=answers)
    os._exit(0)


def _run(job: dict[str, Any], scratch: Path) -> int:
    """Run a command in this process and return its exit status."""
    from landcover.cli import main

    Path("/proc/self/clear_refs").write_text("5")  # the highest memory begins anew
    (scratch / "out").write_bytes(b"")
    for number, name in ((1, job["out"]), (2, "err")):
        file = os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(job["folder"])
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + SECONDS, resource.RLIM_INFINITY))
    signal.alarm(WAIT)
    sys.argv = ["landcover", *(os.fsdecode(bytes.fromhex(word)) for word in job["words"])]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        signal.alarm(0)
    return 70


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
