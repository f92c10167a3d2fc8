"""OpenVINO behind the :class:`~.Runtime` interface: exported models on a CPU.

Compiling takes most of the time of a short run. The command line turns on a cache of compiled models, library
code by ``open_model(..., cache=cache_folder())``. Only the user can read the entries. A damaged entry, or one
of another version, is compiled again. A cache that cannot be used is ignored.
"""

import hashlib
import logging
import os
import sys
from collections import OrderedDict
from contextlib import AbstractContextManager, suppress
from functools import cache, cached_property
from importlib import import_module
from io import BytesIO
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from landcover import __version__
from landcover._typing import Float32Array, UInt8Array
from landcover.errors import MissingExtraError, UsageError
from landcover.io.files import atomic_path
from landcover.machine import lacks_memory, processors
from landcover.model.card import model_digest, read_card
from landcover.model.runtimes import (
    OUTPUTS,
    PROBE_PX,
    Precision,
    Runtime,
    check_signatures,
    checked_stride,
    model_errors,
    signature,
)

SHAPES_KEPT = 4
"""Number of batch shapes that stay compiled at most."""

PIXELS_KEPT = 1 << 22
"""Pixels of all their batches together at most; beyond it only the last one stays. A compiled shape takes
about a third of a kilobyte per pixel for the network's features."""

DISABLE = "LANDCOVER_NO_MODEL_CACHE"
"""Environment variable: any value but an empty one turns the cache off."""

MAX_BYTES = 256 << 20
"""Size of all entries together. The oldest are removed beyond it."""

_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".compiled"

_log = logging.getLogger(__name__)


class OpenVINORuntime(Runtime):
    """Run an exported model with OpenVINO on the CPU; arguments as for :func:`.open_model`.

    For each batch shape and output the graph is compiled once with fixed sizes and without what only the
    other output needs, which runs faster. The last few are kept. Compiling takes a fraction of a second, so
    callers should use few shapes. The batch is read in place (a read-only or sliced one is copied first).
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        precision: Precision = "fp32",
        cache: Path | None = None,
    ) -> None:
        self.card = read_card(path)
        self._core = openvino_core()
        self.precision = precision
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in capabilities:
            raise UsageError("This processor does not support bf16. Use --precision fp32.")
        self._settings = cpu_settings(threads, precision)
        self._compiled: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self._path = path
        self._cache = cache and ModelCache(
            cache,
            __version__,
            import_openvino().__version__,
            model_digest(path),
            [self._core.get_property("CPU", "FULL_DEVICE_NAME"), capabilities],
            # Threads are bound when a graph is compiled, also if OpenVINO chooses their number.
            [os.environ.get("OMP_NUM_THREADS"), os.cpu_count()],
            sorted(self._settings.items()),
        )
        stride = self._cache and self._cache.read("stride")
        if stride:  # this file has passed the checks below before
            self.stride = int(stride)
            return
        with self._model_errors():
            probe = self._network.clone()
            probe.reshape([1, PROBE_PX, PROBE_PX, self.card.preprocessing.channels])
            shapes = {name: tuple(probe.output(name).get_shape()) for name in OUTPUTS}
        self.stride = checked_stride(path, self.card, shapes)
        if self._cache:
            self._cache.write("stride", str(self.stride).encode())

    @cached_property
    def _network(self) -> Any:
        """The checked graph, which takes uint8 pixels. With cached results it is not read."""
        with self._model_errors():
            network = self._core.read_model(self._path)
            inputs = {}
            for port in network.inputs:
                sizes = (None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
                inputs[port.get_any_name()] = signature(port.get_element_type().to_dtype().name, sizes)
            outputs = [name for port in network.outputs for name in port.get_names()]
            check_signatures(self._path, self.card, inputs, outputs)
            return taking_pixels(network)

    def _run(self, output: str, batch: UInt8Array) -> Float32Array:
        with self._model_errors():
            return answer(self._request(output, batch.shape), batch)

    def _request(self, output: str, shape: tuple[int, ...]) -> Any:
        """Return the inference request of a graph compiled for an output and a batch shape."""
        key, compiled = (output, shape), self._compiled
        if key not in compiled:
            # Old graphs are dropped first, so that they and the new one are not in memory together.
            while compiled and (
                len(compiled) >= SHAPES_KEPT
                or sum(prod(each[:3]) for _, each in (*compiled, key)) > PIXELS_KEPT
            ):
                compiled.popitem(last=False)
            compiled[key] = self._compile(output, shape)
        compiled.move_to_end(key)
        return compiled[key]

    def _compile(self, output: str, shape: tuple[int, ...]) -> Any:
        name = f"{output} {shape}"
        content = self._cache and self._cache.read(name)
        if content:
            with suppress(RuntimeError):  # for example an entry for other processor instructions
                return self._core.import_model(BytesIO(content), "CPU", self._settings).create_infer_request()
        network = self._network.clone()  # shares the weights
        for port, result in zip(network.outputs, network.get_results(), strict=True):
            if output not in port.get_names():
                network.remove_result(result)
        network.reshape(list(shape))
        compiled = self._core.compile_model(network, "CPU", self._settings)
        if self._cache:
            with suppress(RuntimeError):
                self._cache.write(name, compiled.export_model().getvalue())
        return compiled.create_infer_request()

    def _model_errors(self) -> AbstractContextManager[None]:
        """Where its message quotes damaged names, Python cannot decode it: a UnicodeDecodeError."""

        def reason(text: str) -> str:
            # At the end of the message: a summary, if there is one, or the last line.
            _, summary, end = text.rpartition("Summary:\n")
            lines = [line.removeprefix("-- ").strip(" .") for line in end.splitlines()]
            return "; ".join(lines if summary else lines[-1:])

        return model_errors(self._path, "OpenVINO", reason, RuntimeError, UnicodeDecodeError)


def cpu_settings(threads: int | None = None, precision: Precision = "fp32") -> dict[str, Any]:
    """Return OpenVINO's settings for compiling; it does not know the quota of a control group."""
    if threads is None and processors() < (os.cpu_count() or 1):
        threads = processors()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Always set: by default OpenVINO takes bf16 on processors that are fast at it, and pins threads to
        # cores, those of two processes to the same ones.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def taking_pixels(network: Any) -> Any:
    """Prepend the conversion of uint8 (N, H, W, 3) to the float32 (N, 3, H, W) that a network takes."""
    openvino = import_openvino()
    preprocess = openvino.preprocess.PrePostProcessor(network)
    image = preprocess.input()
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    image.model().set_layout(openvino.Layout("NCHW"))
    return preprocess.build()


def answer(request: Any, batch: UInt8Array) -> Float32Array:
    """Run a compiled graph on a batch and return its output, a new array that OpenVINO writes into."""
    result = np.empty(tuple(request.get_output_tensor().shape), np.float32)
    request.set_output_tensor(import_openvino().Tensor(result, shared_memory=True))
    request.infer(batch, share_inputs=True, share_outputs=True)
    return result


def import_openvino() -> Any:
    """Import OpenVINO without its conversion tools, unless it was imported before.

    They import slowly, and report each import to a statistics server unless the user has opted out.
    """
    tools = "openvino.tools.ovc"
    hide = "openvino" not in sys.modules and tools not in sys.modules
    if hide:
        sys.modules[tools] = None  # type: ignore[assignment]  # imports of it fail
    try:
        return import_module("openvino")
    except ImportError as error:
        if lacks_memory(error):
            raise  # it is installed
        raise MissingExtraError(
            f"Exported models run on OpenVINO, which cannot be imported ({error}). Run: pip install openvino"
        ) from error
    finally:
        if hide:
            del sys.modules[tools]


_CORE_LOCK = Lock()


def openvino_core() -> Any:
    """Return the process's only OpenVINO ``Core``.

    Each Core gives the main thread a stack for signals and removes it when it is deleted. If two are not
    deleted in reverse order, the last restores a removed stack, and the next Ctrl-C is a segmentation fault.
    """
    with _CORE_LOCK:
        return _core()


@cache
def _core() -> Any:
    return import_openvino().Core()


def describe() -> dict[str, str]:
    """Return what OpenVINO uses on this machine."""
    openvino, core = import_openvino(), openvino_core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    fast = [name for name in ("BF16", "INT8") if name in capabilities]
    return {
        "OpenVINO": openvino.__version__.partition("-")[0],
        "OpenVINO device": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "OpenVINO instructions": f"FP32 and, faster, {', '.join(fast)}" if fast else "FP32",
    }


def cache_folder() -> Path | None:
    r"""Return the folder of compiled models, whether it exists or not; None if :data:`DISABLE` is set.

    The one place outside the output folder and the temporary folder that landcover writes to.
    ``$XDG_CACHE_HOME/landcover/openvino``, or by default ``~/.cache/landcover/openvino`` (macOS:
    ``~/Library/Caches/landcover/openvino``; Windows: ``%LOCALAPPDATA%\landcover\openvino``).
    """
    if os.environ.get(DISABLE):
        return None
    # As the XDG specification asks, a relative path in the variable is ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:
            return None
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        else:
            base = home / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "landcover" / "openvino" if base.is_absolute() else None


class ModelCache:
    """Entries of one model in a cache folder: files of the SHA-256 of their content, then the content.

    ``identity`` is all that entries depend on: digest of the model file, versions, settings, processor.
    """

    def __init__(self, folder: Path, *identity: object) -> None:
        self._folder = folder
        self._identity = repr(identity)

    def read(self, name: str) -> bytes | None:
        """Return an entry; None if it is missing, damaged, or in a folder that others can write to."""
        path = self._path(name)
        try:
            if not self._is_private():
                return None
            content = path.read_bytes()
        except OSError:
            return None
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            _log.debug("%s is damaged and is replaced.", path)
            return None
        with suppress(OSError):
            os.utime(path)  # the least recently used entries are removed first
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write an entry whole, or not at all. Failures are only logged, at level DEBUG."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private() or len(content) > MAX_BYTES:
                return
            with atomic_path(self._path(name), force=True) as file:
                file.touch(0o600)
                file.write_bytes(hashlib.sha256(content).digest() + content)
            entries = [(path.stat(), path) for path in self._folder.glob(f"*{_SUFFIX}")]
            total = 0
            for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
                total += status.st_size
                if total > MAX_BYTES:
                    path.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("The compiled model was not stored in %s: %s", self._folder, error)

    def _path(self, name: str) -> Path:
        key = hashlib.sha256(f"{self._identity}\n{name}".encode()).hexdigest()
        return self._folder / f"{key[:40]}{_SUFFIX}"

    def _is_private(self) -> bool:
        """Return whether nobody but this user can write to the folder: its files run as native code."""
        status = self._folder.lstat()
        if not hasattr(os, "getuid"):
            return True
        return status.st_uid == os.getuid() and status.st_mode & 0o170022 == 0o040000
