"""Strided and dilated depthwise convolutions whose bfloat16 gradients are fast on a CPU.

oneDNN computes some gradients of depthwise convolutions in bfloat16 20 to 100 times slower than the
convolution: that of the input where there is a stride, those of input and weight where there is a dilation.
In MobileNetV2 they are a third of the backward pass. The same sums are computed here by what is fast: the
gradient of the input is a convolution of the gradient (zeros put between its values for a stride) with the
turned kernel, and the gradient of a dilated kernel goes through float32.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[int, int]


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` with the same parameters, result and gradients; see above."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = self.stride, self.padding, self.dilation
        result: Tensor = _Depthwise.apply(input, weight, *geometry)  # type: ignore[no-untyped-call]
        return result if bias is None else result + bias[:, None, None].to(result.dtype)


def quicken_depthwise(network: nn.Module) -> None:
    """Make strided and dilated depthwise convolutions :class:`DepthwiseConv2d`, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_slow(module):
            module.__class__ = DepthwiseConv2d


def _is_slow(module: nn.Conv2d) -> bool:
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and (module.stride != (1, 1) or module.dilation != (1, 1))
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and all(
            p <= d * (k - 1)
            for p, d, k in zip(module.padding, module.dilation, module.kernel_size, strict=True)
        )
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        y = functional.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))
        ctx.save_for_backward(x.to(y.dtype), weight)
        ctx.geometry = stride, padding, dilation
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            reach = tuple(d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
            around = tuple(r - p for r, p in zip(reach, padding, strict=True))
            size = tuple(n + p - a for n, p, a in zip(x.shape[2:], padding, around, strict=True))
            turned = weight.to(grad.dtype).flip(2, 3)
            grad_x = functional.conv2d(
                _spread(grad, stride, size), turned, None, 1, around, dilation, groups=len(weight)
            )
        if ctx.needs_input_grad[1]:
            exact = torch.float32 if dilation != (1, 1) else grad.dtype
            _, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad.to(exact), x.to(exact), weight.to(exact), None, stride, padding, dilation, False, [0, 0],
                len(weight), [False, True, False],
            )  # fmt: skip
            grad_weight = grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _spread(grad: Tensor, stride: Pair, size: tuple[int, ...]) -> Tensor:
    """Put zeros between the values of (N, C, h, w), to (N, C, *size)."""
    if stride == (1, 1):
        return grad
    spread = torch.empty(
        (*grad.shape[:2], *size), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    ).zero_()
    spread[:, :, :: stride[0], :: stride[1]] = grad
    return spread
