"""Kill landcover's verbs at random moments, let file calls fail, repeat the command, and compare all bytes.

    python tools/crash_recovery.py --events 200 --seed 1 --report docs/reports/crash-recovery.md
    python tools/crash_recovery.py --sweep ENOMEM,EIO --verbs cog,vectorize,fgb,geojson,parquet,rasterize

Each event runs a verb in a child process. The shim ``crash_shim.c``, compiled with gcc and loaded with
LD_PRELOAD, counts its calls of open, write, fsync, rename and mkdir below the output folder, and at one of
them kills the process or lets it fail (ENOSPC, EIO, ENOMEM; once, or from then on). Then:

- a command that fails does so without a traceback, and one that reports success has the right output;
- no file under its final name is incomplete;
- the same command, run again, gives the same bytes as an undisturbed run.

``--sweep`` lets each file call of a verb fail once, one after the other, in place of random ones.

A server has imported everything and forks, so an event takes about a second. Linux only.
"""

import argparse
import contextlib
import ctypes
import errno
import io
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parent
FAULTS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "ENOMEM": errno.ENOMEM}
LIMIT_S = 300
LEFTOVER = "landcover-tmp"
GRAPH = "graph.onnx"
TIMES = ("seconds", "images_per_second", "provenance", "git", "versions", "total_seconds", "elapsed")

CONFIG = """
model:
  {encoder: mobilenetv2_050, output_stride: 32, aspp_channels: 8, decoder_channels: 8, low_level_channels: 8}
crop_px: 32
batch_size: 2
steps: 4
loss: {stride: 4}
device: cpu
threads: 1
log_every: 1
checkpoint_steps: 1
validation: {every_steps: 2}
"""


@dataclass(frozen=True)
class Verb:
    """A command to disturb: its arguments, its share of the events, and how its output is compared.

    ``growing`` are files that are written more than once, so that an earlier state is not an incomplete one.
    """

    arguments: Sequence[str]
    share: int
    growing: tuple[str, ...] = ()


def verbs(world: Path) -> dict[str, Verb]:
    """Return the commands; OUT stands for the output folder."""
    data, run, scenes = world / "data", world / "run", world / "scenes"
    return {
        "prepare": Verb(["prepare", f"{data}", "--out", "OUT/cache"], 35),
        "train": Verb(
            ["train", "--data", f"{data}", "--preset", f"{world / 'tiny.yaml'}", "--out", "OUT/run"],
            30,
            ("log.jsonl", "last.safetensors", "best.safetensors", "tensorboard"),
        ),
        "predict": Verb(
            [
                *["predict", f"{scenes}", "--model", f"{run}", "--out", "OUT/maps", "--resume"],
                *["--confidence", "--threads", "1", "--window", "64", "--overlap", "16"],
            ],
            45,
        ),
        "clean": Verb(["clean", f"{data}", "--out", "OUT/clean", "--min-region", "20px", "--force"], 25),
        "vectorize": Verb(["vectorize", f"{world / 'map.tif'}", "--out", "OUT/map.gpkg", "--force"], 20),
        "evaluate": Verb(
            [
                *["evaluate", "--data", f"{data}", "--split", "folders:validation", "--model", f"{run}"],
                *["--maps", "OUT/maps", "--json", "OUT/report.json", "--force"],
            ],
            20,
        ),
        "report": Verb(["report", f"{run}", "--out", "OUT/page.html", "--force"], 15),
        "export": Verb(["export", f"{run}", "--out", "OUT/model.onnx", "--data", f"{data}", "--force"], 10),
        "cog": Verb(
            [
                *["predict", f"{scenes / 'large.tif'}", "--model", f"{run}", "--out", "OUT/maps"],
                *["--map-format", "cog", "--probabilities", "--threads", "1", "--window", "64", "--resume"],
            ],
            0,
        ),
        **{
            suffix: Verb(["vectorize", f"{world / 'map.tif'}", "--out", f"OUT/map.{suffix}", "--force"], 0)
            for suffix in ("fgb", "geojson", "parquet")
        },
        "rasterize": Verb(
            [
                *["rasterize", f"{world / 'map.geojson'}", "--like", f"{scenes / 'large.tif'}"],
                *["--out", "OUT/masks", "--force"],
            ],
            0,
        ),
    }


class Server:
    """Runs commands of landcover in forked children; ``calls`` is the number of file calls of the last."""

    def __init__(self, world: Path, names: Sequence[str]) -> None:
        from landcover import hardening

        hardening.harden()
        import landcover.cli
        import landcover.cli.data
        import landcover.cli.evaluate
        import landcover.cli.maps
        import landcover.cli.training
        import landcover.data.conversion
        import landcover.evaluation
        import landcover.inference.maps
        import landcover.inference.scene
        import landcover.postprocess.vectorize
        import landcover.reporting
        import landcover.training.session

        if "export" in names:
            import landcover.exporting.exporter
        landcover.inference.scene.IN_MEMORY_PIXELS = 128 * 128  # larger scenes go by row blocks on disk
        self._shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._memory = mmap.mmap(-1, 8)
        self._world = world
        self.calls = 0

    def run(
        self, arguments: Sequence[str], out: Path, *, at: int = 0, fault: int = 0, lasting: bool = False
    ) -> tuple[int, str]:
        """Run a command; return its exit status (negative: a signal) and what it printed."""
        self._memory[:] = bytes(8)
        log = self._world / "log.txt"
        child = os.fork()
        if child == 0:
            self._child(arguments, out, log, (at, fault, int(lasting)))
        end = time.monotonic() + LIMIT_S
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise SystemExit(f"{arguments} did not end within {LIMIT_S} s.")
            time.sleep(0.005)
        self.calls = int.from_bytes(self._memory[:], "little")
        return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")

    def _child(self, arguments: Sequence[str], out: Path, log: Path, armed: tuple[int, int, int]) -> None:
        status = 70
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            self._shim.crash_arm(
                ctypes.c_void_p(address), f"{out}/".encode(), ctypes.c_long(armed[0]), armed[1], armed[2]
            )
            sys.argv = ["landcover", *(argument.replace("OUT", str(out)) for argument in arguments)]
            if arguments[0] == "export":
                import onnx

                from landcover.exporting import graph

                # torch's exporter, which writes no file, takes half a minute: its graph is made once.
                graph.model_graph = lambda *_: onnx.load(self._world / GRAPH)
            from landcover.cli import main

            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


def make_world(world: Path, names: Sequence[str]) -> None:
    """Make data, scenes, a run, a map and its graph, in a child process: threads must not be forked."""
    import numpy as np
    import rasterio

    from landcover.cli import main
    from landcover.data.synthetic import make_dataset

    make_dataset(world / "data", scenes=6, size=64, parts={"train": 2, "validation": 1})
    (world / "tiny.yaml").write_text(CONFIG)
    (world / "scenes").mkdir()
    rng = np.random.default_rng(0)
    for name, size in {"a": (70, 90), "b": (64, 64), "c": (90, 50), "large": (300, 180)}.items():
        pixels = rng.integers(0, 255, (3, -(-size[0] // 10), -(-size[1] // 10)), dtype=np.uint8)
        pixels = pixels.repeat(10, 1).repeat(10, 2)[:, : size[0], : size[1]]
        place = rasterio.transform.from_origin(5e5, 5.7e6, 0.5, 0.5)
        options = {"count": 3, "dtype": "uint8", "height": size[0], "width": size[1], "driver": "GTiff"}
        with rasterio.open(
            world / f"scenes/{name}.tif", "w", **options, crs="EPSG:32631", transform=place
        ) as file:
            file.write(pixels)
    data, run, made = world / "data", world / "run", world / "m/large_mask.tif"
    for arguments in (
        ["train", "--data", data, "--preset", world / "tiny.yaml", "--out", run],
        ["predict", world / "scenes/large.tif", "--model", run, "--out", made.parent],
        ["vectorize", made, "--out", world / "map.geojson"],
    ):
        sys.argv = ["landcover", *map(str, arguments)]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    shutil.copy(made, world / "map.tif")
    if "export" in names:
        import onnx

        from landcover.exporting.graph import model_graph
        from landcover.model.runtimes import open_model

        network: Any = open_model(world / "run", device="cpu")
        onnx.save(model_graph(network.module, network.card), world / GRAPH)


def contents(out: Path) -> dict[str, Any]:
    """Return what is compared of every file below a folder, by its relative path; no leftovers of kills.

    Times are left out of logs and reports, of safetensors the tensors count, and TensorBoard's files,
    whose names are times, not at all.
    """
    return {
        path.relative_to(out).as_posix(): content(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and LEFTOVER not in str(path.relative_to(out)) and "tensorboard" not in path.parts
    }


def content(path: Path) -> Any:
    """Return what is compared of a file."""
    data = path.read_bytes()
    if path.name == "log.jsonl":
        lines = [json.loads(line) for line in data.splitlines()]
        return [timeless(line) for line in lines if line["event"] not in ("start",)]
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):
            return timeless(json.loads(data))
    if path.suffix == ".safetensors":
        from landcover.model.files import read_tensors

        return {name: (array.shape, array.tobytes()) for name, array in read_tensors(path).items()}
    return data


def timeless(value: Any) -> Any:
    """Return JSON without times and paths of the run."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of files that are not the same in both."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


@dataclass(frozen=True)
class Fault:
    """What happens at a file call: a kill or an error, once, or at all later calls, too."""

    kind: str
    at: int
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.kind} at call {self.at}{', lasting' if self.lasting else ''}"


def disturb(server: Server, name: str, verb: Verb, world: Path, fault: Fault, reference: Any) -> str:
    """Disturb a verb once and run it again; return what went wrong, if anything did."""
    out = world / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    error = FAULTS[fault.kind]
    status, text = server.run(verb.arguments, out, at=fault.at, fault=error, lasting=fault.lasting)
    what = f"{name}, {fault}"
    if "Traceback" in text or status == 70 or status not in (0, 1, 2, -signal.SIGKILL):
        return f"{what}: exit status {status}, {text[-1500:]}"
    try:
        left = contents(out)
    except Exception as unread:
        return f"{what}: a file cannot be read: {unread!r}"
    wrong = differing(left, reference)
    if status == 0 and wrong:
        return f"{what}: success is reported, but {wrong} differ"
    broken = [file for file in left if file in wrong and not file.endswith(verb.growing or ("\0",))]
    if broken and not (name == "prepare" and "cache/index.json" not in left):
        return f"{what}: incomplete files {broken}"
    again, text = server.run(verb.arguments, out)
    if again != 0 or "Traceback" in text:
        return f"{what}: the second run ends with {again}: {text[-1500:]}"
    if wrong := differing(contents(out), reference):
        return f"{what}: after the second run {wrong} differ"
    return ""


def main() -> None:
    """Run the events and print the failures and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", help="let each file call fail once with these, such as ENOMEM,EIO")
    parser.add_argument("--verbs", default="prepare,train,predict,clean,vectorize,evaluate,report,export")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            shim = Path(folder) / "crash_shim.so"
            compiled = [
                "gcc",
                "-O2",
                "-shared",
                "-fPIC",
                "-o",
                str(shim),
                str(TOOLS / "crash_shim.c"),
                "-ldl",
            ]
            subprocess.run(compiled, check=True)
            settings = {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "LANDCOVER_NO_MODEL_CACHE": "1"}
            settings |= {"OGR_CURRENT_DATE": "2026-01-01T00:00:00Z", "TMPDIR": folder}
            raise SystemExit(
                subprocess.run([sys.executable, *sys.argv], env=os.environ | settings).returncode
            )
    began = time.monotonic()
    memory = Path("/dev/shm")  # flushing to a disk takes most of the time
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        world = Path(folder)
        names = arguments.verbs.split(",")
        server = Server(world, names)
        if (child := os.fork()) == 0:
            status = 1
            try:
                with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                    make_world(world, names)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("The world could not be made.")
        print(f"Set up in {time.monotonic() - began:.0f} s", flush=True)
        table, failures = events(server, world, names, arguments)
    minutes = (time.monotonic() - began) / 60
    print(table)
    print(f"{len(failures)} failures, {minutes:.1f} minutes")
    for failure in failures:
        print(f"FAILED {failure}")
    if arguments.report is not None:
        command = " ".join(["python", *sys.argv])
        arguments.report.write_text(REPORT.format(table=table, failures=len(failures), command=command))
    sys.exit(bool(failures))


REPORT = """# Crash recovery

Every verb that writes was killed (SIGKILL) or one of its file calls failed, at random moments; then
the same command was run again. Recovered: it gave the same bytes as an undisturbed run, nothing
incomplete passed as complete, and no traceback was printed. Made by

```
{command}
```

{table}

Failures: {failures}.
"""


def random_fault(seed: str, calls: int) -> Fault:
    """Return a fault that depends on the seed alone: the same ones whatever other verbs are chosen."""
    chance = random.Random(seed)
    kind = chance.choice(["kill", "kill", "kill", "ENOSPC", "EIO", "ENOMEM"])
    return Fault(kind, chance.randint(1, calls), chance.random() < 0.5)


def events(
    server: Server, world: Path, names: Sequence[str], arguments: argparse.Namespace
) -> tuple[str, list[str]]:
    """Run the events; return the table in Markdown and the failures."""
    chosen = {name: verb for name, verb in verbs(world).items() if name in names}
    total = sum(verb.share for verb in chosen.values()) or 1
    counts: Counter[tuple[str, str]] = Counter()
    recovered: Counter[str] = Counter()
    failures: list[str] = []
    calls: dict[str, int] = {}
    due = 0.0
    for name, verb in chosen.items():
        before, due = round(due), due + arguments.events * verb.share / total
        out = world / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        status, text = server.run(verb.arguments, out)
        if status:
            raise SystemExit(f"{name} fails undisturbed, with {status}: {text[-3000:]}")
        calls[name], reference = server.calls, contents(out)
        if arguments.sweep:
            kinds = arguments.sweep.split(",")
            faults = [Fault(kind, at) for at in range(1, server.calls + 1) for kind in kinds]
        else:
            faults = [
                random_fault(f"{arguments.seed} {name} {i}", server.calls) for i in range(round(due) - before)
            ]
        for fault in faults:
            failure = disturb(server, name, verb, world, fault, reference)
            counts[name, fault.kind] += 1
            recovered[name] += not failure
            if failure:
                failures.append(failure)
                print(f"FAILED {failure}", flush=True)
        print(f"{name}: {recovered[name]} of {len(faults)} recovered", flush=True)
    head = ["verb", "file calls", *FAULTS, "recovered"]
    rows = []
    for label, among in [*((name, [name]) for name in chosen), ("all", [*chosen])]:
        numbers = [sum(counts[name, kind] for name in among) for kind in FAULTS]
        whole = f"{sum(recovered[name] for name in among)} of {sum(numbers)}"
        rows.append([label, str(sum(calls[name] for name in among)), *map(str, numbers), whole])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines), failures


if __name__ == "__main__":
    main()
