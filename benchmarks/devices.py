"""Training on one process and on several, one thread or one GPU each: crops per second.

Batch norms are frozen, as several processes on CPUs need it. Run it on a machine where nothing else works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from landcover.data.synthetic import make_dataset
from landcover.training.log import read_log


def speed(data: Path, out: Path, devices: int, arguments: argparse.Namespace) -> float:
    """Return the crops per second of a training, without its first step."""
    command = [sys.executable, "-m", "landcover", "train", "--data", data, "--out", out, "--quiet"]
    command += ["--preset", arguments.preset, "--weights", "none", "--steps", arguments.steps]
    command += ["--devices", devices, "--device", arguments.device]
    for setting in ("log_every=1", "threads=1", "freeze=[]", "gsd=0.5", "model.freeze_batch_norm=true"):
        command += ["--set", setting]
    subprocess.run(list(map(str, command)), env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    times = [(line["images"], line["seconds"]) for line in read_log(out) if line["event"] == "step"]
    (first, begin), (last, end) = times[0], times[-1]
    return float((last - first) / (end - begin))


def main(words: Sequence[str] | None = None) -> None:
    """Time each number of processes on procedural scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "data", scenes=16, size=512)
        one = None
        for devices in arguments.devices:
            found = speed(folder / "data", folder / str(devices), devices, arguments)
            one = one or found
            print(f"{devices} processes: {found:.2f} crops/s, {found / one:.2f} times the first", flush=True)


if __name__ == "__main__":
    main()
