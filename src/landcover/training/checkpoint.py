"""A whole training state in one safetensors file, from which the run goes on as if it had never stopped."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn
from torch.optim import Optimizer

from landcover.errors import ModelError
from landcover.io.files import atomic_path
from landcover.model.card import STATE_KEY
from landcover.model.tensorfile import read_metadata, read_tensors
from landcover.training.progress import Progress


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds: the parts that change in training.

    Attributes:
        network: The network.
        average: Moving average of its weights.
        optimiser: The optimiser of the network's parameters.
    """

    network: nn.Module
    average: nn.Module
    optimiser: Optimizer

    def save(self, path: Path, progress: Progress, run: Mapping[str, Any]) -> None:
        """Write the checkpoint, whole or not at all.

        Args:
            path: The file; an older one is replaced.
            progress: How far the run has come.
            run: What identifies the run: plain data for JSON.

        Raises:
            OutputError: If the file cannot be written.
        """
        arrays = {
            name: np.asarray(tensor.detach().cpu(), order="C") for name, tensor in self._tensors().items()
        }
        metadata = {STATE_KEY: json.dumps({"progress": asdict(progress), "run": run})}
        with atomic_path(path, force=True) as temporary:
            temporary.write_bytes(save(arrays, metadata=metadata))

    def load(self, path: Path) -> Progress:
        """Take over the state in a checkpoint and return how far it had come.

        Raises:
            ModelError: If the file is damaged or does not fit this network and optimiser.
        """
        progress = read_run(path)[0]
        saved = {name: torch.from_numpy(array) for name, array in read_tensors(path).items()}
        self._prepare_optimiser(saved)
        own = self._tensors()
        differing = sorted(own.keys() ^ saved.keys()) or [n for n in own if own[n].shape != saved[n].shape]
        if differing:
            raise ModelError(
                f"{path} does not fit this network and optimiser; it differs in {len(differing)} tensors, "
                f"such as {differing[0]}. It was written by another version. Start anew in another folder."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        return progress

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name, those of the optimiser by the parameter's name."""
        modules = {"network": self.network, "average": self.average}
        tensors = {
            f"{part}/{name}": tensor
            for part, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{name}/{key}"] = value
        return tensors

    def _prepare_optimiser(self, saved: Mapping[str, Tensor]) -> None:
        """Make room for the optimiser's tensors, which it makes itself at the first step only.

        In the parameter's memory order, which a file does not keep and sums over elements may depend on.
        """
        parameters = dict(self.network.named_parameters())
        for full_name, tensor in saved.items():
            part, _, rest = full_name.partition("/")
            name, _, key = rest.rpartition("/")
            if part == "optimiser" and name in parameters:
                parameter = parameters[name]
                alike = tensor.shape == parameter.shape
                room = torch.empty_like(parameter) if alike else tensor.to(self._counter_device(parameter))
                self.optimiser.state[parameter][key] = room.requires_grad_(False)

    def _counter_device(self, parameter: Tensor) -> torch.device:
        """Fused optimisers count steps where the parameters are, others on the CPU."""
        return parameter.device if self.optimiser.defaults.get("fused") else torch.device("cpu")


def read_run(path: Path) -> tuple[Progress, dict[str, Any]]:
    """Return the progress and the identity of the run in a checkpoint, without reading the tensors.

    Raises:
        ModelError: If it is no checkpoint of a training.
    """
    try:
        content = json.loads(read_metadata(path)[STATE_KEY])
        return Progress(
            **{field.name: content["progress"][field.name] for field in fields(Progress)}
        ), content["run"]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is no checkpoint of a training (or one of another version): {error!r}. Start anew in "
            "another folder."
        ) from error
