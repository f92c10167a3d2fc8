"""onnxruntime behind the :class:`~.Runtime` interface: exported models, also on CUDA."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import UsageError
from landcover.extras import needs
from landcover.hardening import disable_telemetry
from landcover.model.card import read_card
from landcover.model.runtimes import (
    OUTPUTS,
    PROBE_PX,
    Runtime,
    check_signatures,
    checked_stride,
    model_errors,
    signature,
)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class ONNXRuntime(Runtime):
    """Run an exported model with onnxruntime, on the CPU or on CUDA; arguments as for :func:`.open_model`.

    It computes both outputs for either, and converts each batch to floats first: on a CPU OpenVINO is faster.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self.card = read_card(path)
        onnxruntime = import_onnxruntime()
        providers = device_providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors, which are raised too
        # Without it sums of 8-bit products saturate at 16 bits on x86 processors without VNNI, in files that
        # version 0.1 or another quantiser wrote.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        self._path = path
        with self._model_errors():
            # Its own fallback would continue on another device and print a banner.
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        self.device = used_device(device, self._session.get_providers(), providers)
        check_signatures(
            path,
            self.card,
            {
                port.name: signature(_DTYPES.get(port.type, port.type), port.shape)
                for port in self._session.get_inputs()
            },
            [port.name for port in self._session.get_outputs()],
        )
        blank = np.zeros((1, PROBE_PX, PROBE_PX, self.card.preprocessing.channels), np.uint8)
        self.stride = checked_stride(
            path, self.card, {name: self._run(name, blank).shape for name in OUTPUTS}
        )

    def _run(self, output: str, batch: UInt8Array) -> Float32Array:
        image = batch.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        with self._model_errors():
            (values,) = self._session.run([output], {"image": image})
        result: Float32Array = np.ascontiguousarray(values, np.float32)
        return result

    def _model_errors(self) -> AbstractContextManager[None]:
        """Its errors have no common type; the reason is the first line."""
        return model_errors(
            self._path,
            "onnxruntime",
            lambda text: text.partition("\n")[0].rstrip("."),
            Exception,
            advice="; if the device is the cause, 'landcover doctor' lists the devices",
        )


def import_onnxruntime() -> Any:
    """Import onnxruntime with its telemetry off.

    By default it stores a device id in the user's cache folder and reports sessions to Microsoft. On Linux
    it reads an environment variable when it is loaded; on Windows only its own function has an effect.
    """
    disable_telemetry()
    with needs("onnxruntime"):
        onnxruntime = import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def describe() -> dict[str, str]:
    """Return what onnxruntime uses on this machine."""
    onnxruntime = import_onnxruntime()
    available = onnxruntime.get_available_providers()
    device = f"cpu: it has {', '.join(available)}; for CUDA install onnxruntime-gpu instead"
    return {
        "onnxruntime": onnxruntime.__version__,
        "onnxruntime device": f"cuda: {_CUDA} is available" if _CUDA in available else device,
    }


def device_providers(device: str, available: Sequence[str]) -> list[Any]:
    """Return onnxruntime's providers for a device, from those that are available, or raise UsageError."""
    kind, colon, number = device.partition(":")
    if device == "cpu" or (device == "auto" and _CUDA not in available):
        return [_CPU]
    if kind not in ("auto", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"Unknown device {device!r} for onnxruntime. Use auto, cpu, cuda or cuda:1.")
    if _CUDA not in available:
        raise UsageError(
            f"The installed onnxruntime does not support CUDA (it has {', '.join(available)}). Install "
            "onnxruntime-gpu instead, or use the device cpu."
        )
    return [(_CUDA, {"device_id": int(number or 0)}), _CPU]


def used_device(requested: str, used: Sequence[str], providers: Sequence[Any]) -> str:
    """Return the device that is used: onnxruntime continues without CUDA if its libraries do not load.

    That is a UsageError if CUDA was requested by name.
    """
    if used[0] == _CUDA:
        return f"cuda:{providers[0][1]['device_id']}"
    if requested.startswith("cuda"):
        raise UsageError(
            f"onnxruntime cannot compute on {requested}: its CUDA provider does not load. Install the CUDA "
            "and cuDNN libraries that it needs, or use the device cpu."
        )
    return "cpu"
