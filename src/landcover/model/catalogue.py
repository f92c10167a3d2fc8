"""What can be built: facts about encoders."""

from dataclasses import dataclass

import timm
import torch

from landcover.model.encoders import (
    OUTPUT_STRIDES,
    TESTED_ENCODERS,
    Encoder,
    check_encoder_name,
    possible_strides,
)


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """One encoder.

    Attributes:
        name: timm's name.
        parameters: Number of parameters up to its deepest features; None where it cannot be an encoder.
        output_strides: Those that it can have; empty where it cannot be an encoder.
        licence: Of timm's pretrained weights; None where timm has none or does not say.
        tested: It passes our tests at these strides (others were only tried out now).
    """

    name: str
    parameters: int | None
    output_strides: tuple[int, ...]
    licence: str | None
    tested: bool


def describe_encoder(name: str) -> EncoderInfo:
    """Return the facts about an encoder, trying it out without weights.

    Raises:
        ConfigError: If timm has no such model.
    """
    check_encoder_name(name)
    tested = name in TESTED_ENCODERS
    strides = OUTPUT_STRIDES if tested else tuple(possible_strides(name))
    parameters = None
    if strides:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in Encoder(name, strides[-1]).parameters())
    pretrained = timm.get_pretrained_cfg(name)
    licence = pretrained.license if pretrained is not None and pretrained.has_weights else None
    return EncoderInfo(name, parameters, strides, licence, tested)
