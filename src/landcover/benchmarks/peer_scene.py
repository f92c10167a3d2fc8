"""Whole scenes through geoai's ``predict_geotiff``, beside landcover: memory and time.

geoai (``geoai-py``) needs far more than landcover does, so it lives in an environment of its own, beside
segmentation_models_pytorch for the network, and is run by that environment's interpreter. It keeps every
score of the scene in memory: it is watched, and ended before the machine suffers.
"""

import json
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landcover.benchmarks import resources
from landcover.errors import UsageError
from landcover.model import _compat

LIMIT_BYTES = 8 << 30
_WATCH_S = 0.05

_VERSION = """
from importlib.metadata import version
version("segmentation-models-pytorch")
print(version("geoai-py"))
"""

# geoai.utils and rasterio belong to the imports: predict_geotiff imports them when it is called.
_MEASURED = f"""{resources.PEAK}
import json, runpy, sys
scene, out, operators = sys.argv[1:]
compat = runpy.run_path(operators)
compat["declare_torchvision_operators"]()
import geoai.utils, rasterio
import segmentation_models_pytorch as smp
from geoai.inference import predict_geotiff

imported = peak()
predict_geotiff(
    smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=6),
    scene,
    out,
    num_classes=6,
    postprocess_fn=lambda scores: scores.argmax(axis=0).astype("uint8"),
    output_dtype="uint8",
    output_nodata=255,
    device="cpu",
    verbose=False,
)
print(json.dumps([imported, peak()]))
"""


def compare(model: Path, geoai: Path, tiles: Path, out: Path, sides: Sequence[int]) -> dict[str, Any]:
    """Map square scenes without a collar, which only landcover would skip, with landcover and with geoai.

    Args:
        model: A model file for landcover.
        geoai: An interpreter that has geoai.
        tiles: Data folder whose images make the scenes.
        out: Folder of scenes and maps.
        sides: Heights and widths in pixels.

    Returns:
        By scene, ``landcover`` and ``geoai VERSION``: what :func:`landcover.benchmarks.resources.memory` and
        :func:`map_with_geoai` return.

    Raises:
        UsageError: If the interpreter cannot be used.
    """
    version = geoai_version(geoai)
    found = {}
    for side in sides:
        scene = out / f"{side}x{side}_no_collar.tif"
        if not scene.exists():
            resources.write_scene(scene, side, side, tiles, collar_px=0)
        found[f"{side} x {side}"] = {
            "landcover": resources.memory(model, scene, out / "maps"),
            f"geoai {version}": map_with_geoai(geoai, scene, out / "geoai.tif"),
        }
    return found


def geoai_version(python: Path) -> str:
    """Return the version of geoai that an interpreter has.

    Raises:
        UsageError: If it cannot be run or lacks geoai or segmentation_models_pytorch, or if this system
            does not tell the memory of a process.
    """
    if not Path("/proc/self/statm").exists():
        raise UsageError("geoai is watched through /proc, which this system lacks: leave --geoai out.")
    try:
        done = subprocess.run([python, "-c", _VERSION], check=True, capture_output=True, text=True)
    except OSError as error:
        raise UsageError(f"--geoai {python}: cannot be run ({error.strerror}). Name a Python.") from error
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"--geoai {python}: no Python with geoai ({_reason(error.returncode, error.stderr)}). "
            "Name one whose environment has geoai-py and segmentation-models-pytorch."
        ) from error
    return done.stdout.strip()


def map_with_geoai(python: Path, scene: Path, out: Path, *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Map a scene with geoai on the CPU as it comes, with an untrained DeepLabV3+ on mobilenet_v2.

    As it comes: tiles of 256 px that overlap by 64, four at a time. Six scores a pixel are blended, and the
    class of the largest is written.

    Args:
        python: An interpreter that :func:`geoai_version` takes.
        scene: A GeoTIFF of three bands.
        out: The GeoTIFF of classes, replaced if it is there.
        limit_bytes: Resident memory at which geoai is ended.

    Returns:
        ``imports_mb``, ``above_imports_mb`` (peaks of resident memory) and ``seconds`` from the start of the
        process, as :func:`landcover.benchmarks.resources.memory` counts them; or ``failed``, the reason.
    """
    start = time.perf_counter()
    program = [str(python), "-c", _MEASURED, str(scene), str(out), _compat.__file__]
    status, output, errors = _watched(program, limit_bytes)
    seconds = time.perf_counter() - start
    if status is None:
        return {"failed": f"ended at {limit_bytes / 2**30:.2g} GiB of memory, after {seconds:.0f} s"}
    if status != 0:
        return {"failed": _reason(status, errors)}
    imported, peak = json.loads(output.splitlines()[-1])
    return {"imports_mb": imported / 1e6, "above_imports_mb": (peak - imported) / 1e6, "seconds": seconds}


def _watched(program: Sequence[str], limit_bytes: int) -> tuple[int | None, str, str]:
    """Run a program; return its exit status, or None if it reached the limit, its output and its errors."""
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=_WATCH_S)
                    return process.returncode, output, errors
                except subprocess.TimeoutExpired:
                    if _resident_bytes(process.pid) > limit_bytes:
                        return None, "", ""
        finally:
            process.kill()


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def _reason(status: int, errors: str) -> str:
    return (errors.strip().splitlines() or [f"exit status {status}"])[-1]
