"""Depthwise convolutions that train at the speed they predict at, on CPUs.

The library that torch computes convolutions with on CPUs (oneDNN) has no fast kernel for some gradients of
depthwise convolutions: those of weights of more than 3 x 3, and in bfloat16 those of the input where the
stride is more than 1. They take 10 to 100 times as long as the convolution itself, four fifths of a step of an
EfficientNet. The same sums are made here of convolutions that do have fast kernels.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

Pair = tuple[int, int]

_BLOCK = 3
"""Side of the largest kernel whose weights have a fast gradient."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` with the same parameters, answers and, but for rounding, gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        return _convolve(self, x, _pair(self.padding))


class DepthwiseConv2dSame(Conv2dSame):  # type: ignore[misc]  # timm has no types
    """The same of timm's convolution with TensorFlow's padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        return _convolve(self, pad_same(x, self.weight.shape[-2:], self.stride, self.dilation), (0, 0))


def speed_up_depthwise(module: nn.Module) -> None:
    """Make every depthwise convolution in a module one of ours, parameters and names as they are."""
    for part in module.modules():
        if not isinstance(part, nn.Conv2d) or part.groups == 1 or part.weight.shape[1] != 1:
            continue
        if part.in_channels != part.out_channels or part.padding_mode != "zeros":
            continue
        if type(part) is nn.Conv2d and not isinstance(part.padding, str):
            part.__class__ = DepthwiseConv2d
        elif type(part) is Conv2dSame:
            part.__class__ = DepthwiseConv2dSame


def _convolve(conv: nn.Conv2d, x: Tensor, padding: Pair) -> Tensor:
    stride, dilation = _pair(conv.stride), _pair(conv.dilation)
    if x.device.type != "cpu" or not (conv.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return F.conv2d(x, conv.weight, conv.bias, stride, padding, dilation, conv.groups)
    weight = conv.weight
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    y: Tensor = _Depthwise.apply(x, weight, stride, padding, dilation)
    return y if conv.bias is None else y + conv.bias.to(y.dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    """``F.conv2d`` of as many groups as channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        of_x = _input_gradient(grads[0], x, weight, *ctx.geometry) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(grads[0], x, weight, *ctx.geometry) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None, None, None


def _input_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    if max(stride) > 1 and x.dtype == torch.bfloat16:
        wide = _input_gradient_as_is(grad.float(), x.float(), weight.float(), stride, padding, dilation)
        return wide.to(x.dtype)
    return _input_gradient_as_is(grad, x, weight, stride, padding, dilation)


def _input_gradient_as_is(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    return _backward(grad, x, weight, stride, padding, dilation, of_x=True)


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Put the gradient together of blocks of 3 x 3 weights.

    A block's gradient is that of a convolution with 3 x 3 weights of the input from the block's first weight
    on. Blocks overlap where 3 does not divide the kernel's side; both hold the same sums there.
    """
    kernel: Pair = (weight.shape[2], weight.shape[3])
    slow_alike = max(stride) > 1 and x.dtype == torch.float32
    if min(kernel) <= _BLOCK or slow_alike:
        return _backward(grad, x, weight, stride, padding, dilation, of_x=False)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    block = weight[:, :, :_BLOCK, :_BLOCK]
    height, width = (
        stride[axis] * (grad.shape[2 + axis] - 1) + dilation[axis] * (_BLOCK - 1) + 1 for axis in (0, 1)
    )
    result = torch.empty_like(weight)
    for i in _starts(kernel[0]):
        for j in _starts(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            part = padded[:, :, top : top + height, left : left + width]
            part = part.contiguous(memory_format=torch.channels_last)
            result[:, :, i : i + _BLOCK, j : j + _BLOCK] = _backward(
                grad, part, block, stride, (0, 0), dilation, of_x=False
            )
    return result


def _starts(side: int) -> list[int]:
    return sorted({min(start, side - _BLOCK) for start in range(0, side, _BLOCK)})


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, *, of_x: bool
) -> Tensor:
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0), len(weight), (of_x, not of_x, False)
    )
    found: Tensor = gradients[0] if of_x else gradients[1]
    return found


def _pair(value: Any) -> Pair:
    return value[0], value[1]
