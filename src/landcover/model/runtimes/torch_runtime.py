"""A torch module behind the :class:`~.Runtime` interface."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import ModelError, UsageError
from landcover.model.card import ModelCard, read_model
from landcover.model.network import build_model
from landcover.model.runtimes import COARSE, Precision, Runtime


class TorchRuntime(Runtime):
    """Run a module that is in memory; it is moved to the device and stays in evaluation mode.

    It takes normalised float32 (N, B, H, W) and returns logits (N, C, H, W). Coarse logits come from its
    method ``logits``, at its ``stride``; without one they are the full ones. ``"bf16"`` computes convolutions
    in bfloat16; the softmax is always float32.
    """

    name = "torch"

    def __init__(
        self, module: nn.Module, card: ModelCard, device: str = "cpu", precision: Precision = "fp32"
    ) -> None:
        self.card = card
        self._device = pick_device(device)
        self.device = str(self._device)
        self._autocast = precision == "bf16"
        self.module = module.to(self._device).eval()
        network: Any = module
        self._logits = {COARSE: network.logits} if hasattr(network, "logits") else {}
        self.stride: int = network.stride if self._logits else 1
        scale, offset = card.preprocessing.factors
        self._scale = torch.from_numpy(scale).to(self._device)
        self._offset = torch.from_numpy(offset).to(self._device)

    @torch.inference_mode()
    def _run(self, output: str, batch: UInt8Array) -> Float32Array:
        pixels = torch.tensor(batch, device=self._device)
        # NHWC in memory is torch's channels_last: the axes are renamed, nothing is moved.
        normalised = torch.addcmul(self._offset, pixels.float(), self._scale).permute(0, 3, 1, 2)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self._logits.get(output, self.module)(normalised)
        logits = logits.float().contiguous().div_(self.card.temperature)
        result: Float32Array = torch.softmax(logits, dim=1).cpu().numpy()
        return result


def pick_device(name: str) -> torch.device:
    """Return torch's device of a name; ``"auto"`` is CUDA if available. UsageError if it is not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch reports an unknown name as RuntimeError, and CUDA left out of the build as AssertionError.
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"The device {name!r} is not available ({reason}). Use auto, cpu, or cuda with a GPU; "
            "'landcover doctor' lists the devices."
        ) from error
    return device


def describe() -> dict[str, str]:
    """Return the device that torch uses on this machine, and why."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "cpu"
    if cuda:
        reason = f"CUDA {torch.version.cuda} and its driver are available"
    elif torch.version.cuda is None:
        reason = "this torch was built without CUDA"
    else:
        reason = f"this torch was built for CUDA {torch.version.cuda}, but no GPU was found"
    return {
        "torch": torch.__version__,
        "torch device": f"{device}: {reason}",
        "torch threads": str(torch.get_num_threads()),
        "torch instructions": torch.backends.cpu.get_cpu_capability(),
    }


def load(
    path: Path, *, device: str, threads: int | None = None, precision: Precision = "fp32"
) -> TorchRuntime:
    """Read a checkpoint or run folder and build its network; see :func:`.open_model`."""
    card, tensors = read_model(path)
    if threads is not None:
        torch.set_num_threads(threads)
    module = build_model(card.model, classes=len(card.legend.scored))
    try:
        module.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ModelError(
            f"{path}: the weights do not fit the network of its card ({card.model.encoder}): "
            f"{str(error).strip().splitlines()[-1].strip()} The file was changed or is from another version."
        ) from error
    # Convolutions run fastest so. Not in TorchRuntime: a module that is being trained keeps its layout.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return TorchRuntime(module, card, device, precision)
