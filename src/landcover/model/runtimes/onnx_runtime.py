"""onnxruntime behind the :class:`~.base.Runtime` interface: exported models, CUDA too."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import ModelError, UsageError
from landcover.extras import needs
from landcover.hardening import disable_telemetry
from landcover.model.card import read_card
from landcover.model.runtimes.base import check_batch
from landcover.model.runtimes.graph import (
    COARSE,
    OUTPUTS,
    PROBABILITIES,
    PROBE_PX,
    check_signatures,
    checked_stride,
    signature,
)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class ONNXRuntime:
    """Run an exported model with onnxruntime, on the CPU or on CUDA.

    It computes both answers whichever is asked for, and takes floats, so that each batch is converted first:
    on a CPU OpenVINO is the faster choice.

    Args:
        path: An exported model.
        device: ``"auto"`` (CUDA where it answers, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        threads: Threads to compute with on the CPU; onnxruntime's choice (one per core) where None.

    Raises:
        ModelError: If the file is no exported model, or its graph does not fit its card.
        UsageError: If the device is unknown or not there.
        MissingExtraError: If onnxruntime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self.card = read_card(path)
        onnxruntime = import_onnxruntime()
        providers = _providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, which are raised too
        # Without it sums of 8-bit products saturate at 16 bits on x86 processors that have no VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            # Without its own fallback, which goes on elsewhere with a banner on standard output.
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except _refusals(onnxruntime) as error:
            raise ModelError(
                f"{path} cannot be run by onnxruntime: {_reason(error)}. Export the run again; if the "
                "device is the cause, 'landcover doctor' says what is there."
            ) from error
        self.device = _device(device, self._session.get_providers(), providers)
        check_signatures(
            path,
            {
                port.name: signature(_DTYPES.get(port.type, port.type), port.shape)
                for port in self._session.get_inputs()
            },
            [port.name for port in self._session.get_outputs()],
        )
        blank = np.zeros((1, PROBE_PX, PROBE_PX, 3), np.uint8)
        self.stride = checked_stride(
            path, self.card, {name: self._run(name, blank).shape for name in OUTPUTS}
        )

    def probabilities(self, batch: UInt8Array) -> Float32Array:
        """Classify uint8 (N, H, W, 3) images; see :meth:`.base.Runtime.probabilities`."""
        return self._run(PROBABILITIES, batch)

    def coarse(self, batch: UInt8Array) -> Float32Array:
        """Classify at the decoder's stride; see :meth:`landcover.model.runtimes.base.Runtime.coarse`."""
        return self._run(COARSE, batch)

    def _run(self, output: str, batch: UInt8Array) -> Float32Array:
        check_batch(batch)
        image = batch.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        (result,) = self._session.run([output], {"image": image})
        answer: Float32Array = np.ascontiguousarray(result, np.float32)
        return answer


def import_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    By default it stores a device id in the user's cache folder and reports sessions to Microsoft. On Linux
    the environment variable counts, which it reads when it is loaded; on Windows its own function.

    Raises:
        MissingExtraError: If it is not installed.
    """
    disable_telemetry()
    with needs("onnxruntime"):
        onnxruntime = import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def describe() -> dict[str, str]:
    """Return what onnxruntime will use on this machine.

    Raises:
        MissingExtraError: If it is not installed.
    """
    onnxruntime = import_onnxruntime()
    available = onnxruntime.get_available_providers()
    has_cuda = f"cuda: {_CUDA} is there"
    no_cuda = f"cpu: it has {', '.join(available)}; onnxruntime-gpu in its place has CUDA"
    return {
        "onnxruntime": onnxruntime.__version__,
        "onnxruntime device": has_cuda if _CUDA in available else no_cuda,
    }


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    """Return the providers that a device stands for, as onnxruntime takes them."""
    kind, colon, number = device.partition(":")
    if device == "cpu" or (device == "auto" and _CUDA not in available):
        return [_CPU]
    if kind not in ("auto", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"onnxruntime knows no device {device!r}. Use auto, cpu, cuda or cuda:1.")
    if _CUDA not in available:
        raise UsageError(
            f"The onnxruntime that is installed cannot use CUDA (it has {', '.join(available)}). Install "
            "onnxruntime-gpu in its place, or use the device cpu."
        )
    return [(_CUDA, {"device_id": int(number or 0)}), _CPU]


def _device(asked: str, used: Sequence[str], providers: Sequence[Any]) -> str:
    """Return the device really used: onnxruntime goes on without CUDA where its libraries do not load."""
    if used[0] == _CUDA:
        return f"cuda:{providers[0][1]['device_id']}"
    if asked.startswith("cuda"):
        raise UsageError(
            f"onnxruntime cannot compute on {asked}: its CUDA provider does not load here. Install the CUDA "
            "and cuDNN libraries that it needs, or use the device cpu."
        )
    return "cpu"


def _refusals(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises for a file that it cannot run; there is no one type for it."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names))


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
