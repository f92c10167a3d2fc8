"""Depthwise convolutions with fast gradients on a CPU.

oneDNN, torch's library for convolutions on CPUs, computes some gradients of depthwise convolutions 10 to 100
times slower than the convolution: those of kernels with both sides above 3; and in bfloat16 that of the input
with a stride, and those of input and kernel with a dilation. The same sums are computed here by fast
operations, for images (N, C, H, W) in float32 and bfloat16:

- the gradient of the input is a convolution of the gradient (with zeros between its values for a stride) and
  the rotated kernel;
- the gradient of a dilated kernel is computed in float32;
- the gradient of a large kernel is assembled from those of its 3 x 3 blocks.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landcover.model._compat import Conv2dSame, pad_same
from landcover.model.runtimes import Precision

Pair = tuple[int, int]

_BLOCK = 3
"""Side of the largest kernel with a fast gradient."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d``: same parameters, result and gradients, computed faster."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = self.stride, self.padding, self.dilation
        result: Tensor = _Depthwise.apply(input, weight, *geometry)  # type: ignore[no-untyped-call]
        return result if bias is None else result + bias[:, None, None].to(result.dtype)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """A depthwise convolution with TensorFlow's padding, which depends on the input's size, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        padded = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return self._conv_forward(padded, self.weight, self.bias)


def use_fast_depthwise_backward(network: nn.Module, precision: Precision) -> None:
    """Replace the depthwise convolutions with slow gradients in a precision, in place.

    The class of a module changes and its parameters stay, so an earlier optimiser stays valid.
    """
    for module in network.modules():
        replacements = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}
        replacement = replacements.get(type(module))
        if replacement is not None and isinstance(module, nn.Conv2d) and _is_slow(module, precision):
            module.__class__ = replacement


def _is_slow(module: nn.Conv2d, precision: Precision) -> bool:
    is_large = min(module.kernel_size) > _BLOCK
    is_sparse = module.stride != (1, 1) or module.dilation != (1, 1)
    # In float32, blocks with a stride or a dilation are not faster than the whole kernel.
    slow = is_large and not is_sparse if precision == "fp32" else is_large or is_sparse
    return (
        slow
        and module.groups == module.in_channels == module.out_channels > 1
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
            spread = grad
            if stride != (1, 1):
                size = (n + p - a for n, p, a in zip(x.shape[2:], padding, around, strict=True))
                spread = torch.empty(
                    (*grad.shape[:2], *size),
                    dtype=grad.dtype,
                    device=grad.device,
                    memory_format=torch.channels_last,
                ).zero_()
                spread[:, :, :: stride[0], :: stride[1]] = grad
            rotated = weight.to(grad.dtype).flip(2, 3)
            grad_x = functional.conv2d(spread, rotated, None, 1, around, dilation, groups=len(weight))
        if ctx.needs_input_grad[1]:
            exact = torch.float32 if dilation != (1, 1) else grad.dtype
            grad_weight = _kernel_gradient(grad.to(exact), x.to(exact), weight.to(exact), *ctx.geometry)
            grad_weight = grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _kernel_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Return the gradient of a kernel, for a large one by blocks.

    The gradient of a block is that of a 3 x 3 kernel, with the input shifted to the block's first weight.
    Blocks overlap if 3 does not divide the kernel's side; they have the same sums there.
    """
    kernel = tuple(weight.shape[2:])
    if min(kernel) <= _BLOCK:
        gradients = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, [0, 0], len(weight), [False, True, False]
        )
        kernel_gradient: Tensor = gradients[1]
        return kernel_gradient
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = (
        s * (n - 1) + d * (_BLOCK - 1) + 1 for s, n, d in zip(stride, grad.shape[2:], dilation, strict=True)
    )
    # The last block ends with the side.
    rows, cols = ([min(start, side - _BLOCK) for start in range(0, side, _BLOCK)] for side in kernel)
    result = torch.empty_like(weight)
    for row in rows:
        for col in cols:
            top, left = row * dilation[0], col * dilation[1]
            shifted = padded[:, :, top : top + height, left : left + width]
            shifted = shifted.contiguous(memory_format=torch.channels_last)
            block = (..., slice(row, row + _BLOCK), slice(col, col + _BLOCK))
            result[block] = _kernel_gradient(grad, shifted, weight[block], stride, (0, 0), dilation)
    return result
