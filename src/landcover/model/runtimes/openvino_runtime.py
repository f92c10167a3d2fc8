"""OpenVINO behind the :class:`~landcover.model.runtimes.base.Runtime` interface: exported models on a CPU."""

import os
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from landcover.errors import MissingExtraError, ModelError, UsageError
from landcover.model.cache import ModelCache
from landcover.model.card import model_digest, read_card
from landcover.model.runtimes.base import Precision, check_batch
from landcover.model.runtimes.graph import (
    COARSE,
    OUTPUTS,
    PROBABILITIES,
    PROBE_PX,
    check_signatures,
    checked_stride,
    signature,
)

_MAKING = Lock()

SHAPES_KEPT = 4
"""Shapes of batches that stay compiled at most."""

PIXELS_KEPT = 1 << 22
"""Pixels of all their batches together at most; beyond, only the last one stays. A compiled shape holds the
network's features, about a third of a kilobyte per pixel."""


class OpenVINORuntime:
    """Run an exported model with OpenVINO on the CPU.

    For each shape of batch and each of the two answers the graph is compiled once, with all sizes fixed,
    which runs faster than a graph of free sizes; what only the other answer needs is left out. The last few
    are kept. Compiling takes a fraction of a second, so that a caller does well to keep to few shapes.

    The batch is read where it lies (a read-only or sliced one is copied first), and the answer is written
    into the array that is returned.

    Args:
        path: An exported model.
        threads: Threads to compute with; OpenVINO's choice (one per core) where None.
        precision: What floating-point layers compute in. ``"bf16"`` is about twice as fast and less exact.
        cache: Folder that keeps compiled graphs between processes; see :mod:`landcover.model.cache`.

    Raises:
        ModelError: If the file is not an exported model, or its graph does not fit its card.
        UsageError: If the precision is bf16 and the processor does not support it.
        MissingExtraError: If OpenVINO is not installed.
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
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("This processor does not support bf16. Use --precision fp32.")
        self._settings = cpu_settings(threads, precision)
        self._compiled: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self._path = path
        self._cache = None if cache is None else self._open_cache(cache)
        stride = self._cache and self._cache.read("stride")
        if stride:  # this very file passed the checks below before
            self.stride = int(stride)
            return
        with self._blaming_the_file():
            probe = self._network.clone()
            probe.reshape([1, PROBE_PX, PROBE_PX, 3])
            shapes = {name: tuple(probe.output(name).get_shape()) for name in OUTPUTS}
        self.stride = checked_stride(path, self.card, shapes)
        if self._cache is not None:
            self._cache.write("stride", str(self.stride).encode())

    @cached_property
    def _network(self) -> Any:
        """The checked graph, which takes uint8 pixels. A cache makes it unnecessary to read it."""
        with self._blaming_the_file():
            network = self._core.read_model(self._path)
            check_signatures(
                self._path,
                {port.get_any_name(): _signature(port) for port in network.inputs},
                [name for port in network.outputs for name in port.get_names()],
            )
            return taking_pixels(network)

    def _open_cache(self, folder: Path) -> ModelCache:
        processor = [
            self._core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        return ModelCache(
            folder,
            __version__,
            import_openvino().__version__,
            model_digest(self._path),
            processor,
            # Threads are bound when a graph is compiled, also those that OpenVINO chooses.
            [os.environ.get("OMP_NUM_THREADS"), os.cpu_count()],
            sorted(self._settings.items()),
        )

    def probabilities(self, batch: UInt8Array) -> Float32Array:
        """Classify uint8 (N, H, W, 3) images; see :meth:`.base.Runtime.probabilities`."""
        return self._infer(PROBABILITIES, batch)

    def coarse(self, batch: UInt8Array) -> Float32Array:
        """Classify at the decoder's stride; see :meth:`landcover.model.runtimes.base.Runtime.coarse`."""
        return self._infer(COARSE, batch)

    def _infer(self, output: str, batch: UInt8Array) -> Float32Array:
        check_batch(batch)
        return answer(self._request(output, batch.shape), batch)

    def _request(self, output: str, shape: tuple[int, ...]) -> Any:
        """Return the request of a graph compiled for this answer to batches of this shape."""
        key = output, shape
        if key not in self._compiled:
            # Room is made first, so that the old and the new are not in memory together.
            kept = self._compiled
            while kept and (
                len(kept) >= SHAPES_KEPT
                or _pixels(shape) + sum(_pixels(old) for _, old in kept) > PIXELS_KEPT
            ):
                kept.popitem(last=False)
            with self._blaming_the_file():
                self._compiled[key] = self._compile(output, shape)
        self._compiled.move_to_end(key)
        return self._compiled[key]

    def _compile(self, output: str, shape: tuple[int, ...]) -> Any:
        name = f"{output} {shape}"
        content = self._cache and self._cache.read(name)
        if content:
            with suppress(RuntimeError):  # such as an entry of an instruction set that is missing here
                return self._core.import_model(BytesIO(content), "CPU", self._settings).create_infer_request()
        network = self._network.clone()  # shares the weights
        for port, result in zip(network.outputs, network.get_results(), strict=True):
            if output not in port.get_names():
                network.remove_result(result)
        network.reshape(list(shape))
        compiled = self._core.compile_model(network, "CPU", self._settings)
        if self._cache is not None:
            with suppress(RuntimeError):
                self._cache.write(name, compiled.export_model().getvalue())
        return compiled.create_infer_request()

    @contextmanager
    def _blaming_the_file(self) -> Iterator[None]:
        """Turn OpenVINO's refusal of a graph, which it reports as a RuntimeError, into one line.

        Where its message quotes damaged names, Python fails to read the message: a UnicodeDecodeError.
        """
        try:
            yield
        except (RuntimeError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{self._path} cannot be run by OpenVINO: {_reason(error)}. Export the run again."
            ) from error


def cpu_settings(threads: int | None = None, precision: Precision = "fp32") -> dict[str, Any]:
    """Return what OpenVINO compiles with; threads are its choice where None."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Said always: left alone, OpenVINO takes bf16 on processors that are fast at it, and ties threads to
        # cores, those of two processes to the same ones.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def taking_pixels(network: Any) -> Any:
    """Put in front of a network what turns uint8 (N, H, W, 3) into the float32 (N, 3, H, W) it takes."""
    openvino = import_openvino()
    preprocess = openvino.preprocess.PrePostProcessor(network)
    image = preprocess.input()
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    image.model().set_layout(openvino.Layout("NCHW"))
    return preprocess.build()


def answer(request: Any, batch: UInt8Array) -> Float32Array:
    """Return the one answer of a compiled graph to a batch, in a new array that OpenVINO writes into."""
    result = np.empty(tuple(request.get_output_tensor().shape), np.float32)
    request.set_output_tensor(import_openvino().Tensor(result, shared_memory=True))
    request.infer(batch, share_inputs=True, share_outputs=True)
    return result


def import_openvino() -> Any:
    """Import OpenVINO, without the conversion tools that it would import along.

    They import slowly, and they tell a statistics server on the network of each import, unless the user has
    opted out. Nothing here converts models. Where OpenVINO has been imported before, it is taken as it is.

    Raises:
        MissingExtraError: If it is not installed or cannot be loaded.
    """
    tools = "openvino.tools.ovc"
    hide = "openvino" not in sys.modules and tools not in sys.modules
    if hide:
        sys.modules[tools] = None  # type: ignore[assignment]  # Python's way to say: not to be found
    try:
        return import_module("openvino")
    except ImportError as error:
        raise MissingExtraError(
            f"Exported models run on OpenVINO, which cannot be imported ({error}). Run: pip install openvino"
        ) from error
    finally:
        if hide:
            del sys.modules[tools]


def openvino_core() -> Any:
    """Return the process's one OpenVINO ``Core``; nothing here makes another.

    Each one gives the main thread a stack for signals, and takes it away when it goes. Of two that do not go
    in reverse order, the last puts back the stack that the first has taken away, and the next Ctrl-C, even in
    a training long after, ends in a segmentation fault.

    Raises:
        MissingExtraError: If OpenVINO is not installed or cannot be loaded.
    """
    with _MAKING:
        return _make_core()


@cache
def _make_core() -> Any:
    return import_openvino().Core()


def describe() -> dict[str, str]:
    """Return what OpenVINO will use on this machine.

    Raises:
        MissingExtraError: If it is not installed or cannot be loaded.
    """
    openvino, core = import_openvino(), openvino_core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    fast = [name for name in ("BF16", "INT8") if name in capabilities]
    return {
        "OpenVINO": openvino.__version__.partition("-")[0],
        "OpenVINO device": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "OpenVINO instructions": f"FP32 and, faster, {', '.join(fast)}" if fast else "FP32",
    }


def _signature(port: Any) -> str:
    sizes = (None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return signature(port.get_element_type().to_dtype().name, sizes)


def _pixels(shape: tuple[int, ...]) -> int:
    return prod(shape[:3])


def _reason(error: RuntimeError | UnicodeDecodeError) -> str:
    """Return the end of OpenVINO's message, which says most: its summary where there is one, or a line."""
    _, summary, end = str(error).strip().rpartition("Summary:\n")
    lines = [line.removeprefix("-- ").strip(" .") for line in end.splitlines()]
    return "; ".join(lines if summary else lines[-1:])
