"""Parameters in the groups that an optimiser treats alike."""

from typing import Any

from landcover.model.deeplabv3plus import DeepLabV3Plus


def parameter_groups(
    model: DeepLabV3Plus, *, learning_rate: float, encoder_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the model's trained parameters as groups for a torch optimiser.

    The encoder has its own learning rate. Vectors and single numbers (batch norm scales and offsets, biases)
    are not decayed: decay is meant for the weights of convolutions. Frozen parameters are left out.

    Args:
        model: The model.
        learning_rate: Of everything but the encoder.
        encoder_learning_rate: Of the encoder.
        weight_decay: Of everything with two or more axes.

    Returns:
        Groups with ``name``, ``params``, ``lr`` and ``weight_decay``, in the model's order.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "encoder" if name.startswith("encoder.") else "head"
        decayed = parameter.ndim > 1
        key = part if decayed else f"{part}, not decayed"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr": encoder_learning_rate if part == "encoder" else learning_rate,
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
