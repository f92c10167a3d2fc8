"""Our gradients of depthwise convolutions against torch's: ``python -m landcover.benchmarks.depthwise``.

An encoder's pass forward and backward on a batch of 12 crops of 224 px, in training mode, on one thread, with
the convolutions that training uses and with torch's own, in turns.
"""

import argparse
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from landcover.benchmarks.timing import Timing, print_timings, take_turns
from landcover.model.encoders import Encoder, build_encoder
from landcover.model.runtimes.base import Precision
from landcover.training.depthwise import use_fast_depthwise_backward
from landcover.training.optim import has_bfloat16

_BATCH, _SIDE = 12, 224


def depthwise_benchmark(name: str, *, repeats: int = 5) -> list[Timing]:
    """Time an encoder of output stride 32 in float32, and in bfloat16 where the processor has it.

    Torch computes on one thread from here on.

    Args:
        name: timm's name of the encoder.
        repeats: Runs of each way.

    Raises:
        ConfigError: If timm has no such encoder.
        ModelError: If it has no features that we could use.
    """
    torch.set_num_threads(1)
    stock = build_encoder(name, 32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(_BATCH, 3, _SIDE, _SIDE).contiguous(memory_format=torch.channels_last)
    precisions: dict[Precision, torch.dtype] = {"fp32": torch.float32}
    if has_bfloat16(torch.device("cpu")):
        precisions["bf16"] = torch.bfloat16
    timings = []
    for precision, dtype in precisions.items():
        ours = deepcopy(stock)
        use_fast_depthwise_backward(ours, precision)
        ways = {
            way: partial(_step, encoder, images, dtype)
            for way, encoder in (("landcover", ours), ("torch", stock))
        }
        take_turns("warm up", ways, 1)
        timings += take_turns(f"{name}, {precision}", ways, repeats)
    return timings


def _step(encoder: Encoder, images: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        low, deep = encoder(images)
    (low.float().square().mean() + deep.float().square().mean()).backward()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=["mobilenetv2_100", "tf_efficientnet_b4"])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way")
    options = parser.parse_args()
    for encoder_name in options.encoders:
        print_timings(depthwise_benchmark(encoder_name, repeats=options.repeats))
