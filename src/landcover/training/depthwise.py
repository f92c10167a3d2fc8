"""Depthwise convolutions whose gradients are fast on a CPU.

oneDNN, which torch convolves with on CPUs, computes some gradients of depthwise convolutions 10 to 100 times
slower than the convolution: those of kernels whose sides are both beyond 3; and in bfloat16 that of the input
where there is a stride, and those of input and kernel where there is a dilation. The same sums are computed
here by what is fast, for images (N, C, H, W) in float32 and bfloat16:

- the gradient of the input is a convolution of the gradient (zeros put between its values for a stride) with
  the turned kernel;
- that of a dilated kernel goes through float32;
- that of a large kernel is put together of those of blocks of 3 x 3.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landcover.model._compat import declare_torchvision_operators

declare_torchvision_operators()
from timm.layers.conv2d_same import Conv2dSame  # noqa: E402 - needs the declaration above
from timm.layers.padding import pad_same  # noqa: E402

from landcover.model.runtimes.base import Precision  # noqa: E402

Pair = tuple[int, int]

_BLOCK = 3
"""Side of the largest kernel that has a fast gradient."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` with the same parameters, result and gradients; see above."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = self.stride, self.padding, self.dilation
        result: Tensor = _Depthwise.apply(input, weight, *geometry)  # type: ignore[no-untyped-call]
        return result if bias is None else result + bias[:, None, None].to(result.dtype)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """The same for timm's convolution with TensorFlow's padding, which depends on the input's size."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        padded = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return self._conv_forward(padded, self.weight, self.bias)


def quicken_depthwise(network: nn.Module, precision: Precision) -> None:
    """Make depthwise convolutions with gradients that are slow in a precision ours, in place."""
    for module in network.modules():
        ours = _OURS.get(type(module))
        if ours is not None and isinstance(module, nn.Conv2d) and _is_slow(module, precision):
            module.__class__ = ours


_OURS: dict[type, type[DepthwiseConv2d]] = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def _is_slow(module: nn.Conv2d, precision: Precision) -> bool:
    is_large = min(module.kernel_size) > _BLOCK
    is_sparse = module.stride != (1, 1) or module.dilation != (1, 1)
    # In float32 blocks with a stride or a dilation are no faster than the whole.
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
        grad_x = _of_input(grad, x, weight, *ctx.geometry) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            exact = torch.float32 if ctx.geometry[2] != (1, 1) else grad.dtype
            grad_weight = _of_kernel(grad.to(exact), x.to(exact), weight.to(exact), *ctx.geometry)
            grad_weight = grad_weight.to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _of_input(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    reach = tuple(d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
    around = tuple(r - p for r, p in zip(reach, padding, strict=True))
    size = tuple(n + p - a for n, p, a in zip(x.shape[2:], padding, around, strict=True))
    turned = weight.to(grad.dtype).flip(2, 3)
    return functional.conv2d(
        _spread(grad, stride, size), turned, None, 1, around, dilation, groups=len(weight)
    )


def _spread(grad: Tensor, stride: Pair, size: tuple[int, ...]) -> Tensor:
    """Put zeros between the values of (N, C, h, w), to (N, C, *size)."""
    if stride == (1, 1):
        return grad
    spread = torch.empty(
        (*grad.shape[:2], *size), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    ).zero_()
    spread[:, :, :: stride[0], :: stride[1]] = grad
    return spread


def _of_kernel(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Return the gradient of a kernel, of a large one by blocks.

    That of a block is that of a 3 x 3 kernel, of the input from where the block's first weight meets it.
    Blocks overlap where 3 does not divide the kernel's side: they hold the same sums there.
    """
    kernel = tuple(weight.shape[2:])
    if min(kernel) <= _BLOCK:
        return _of_small_kernel(grad, x, weight, stride, padding, dilation)
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = (
        s * (n - 1) + d * (_BLOCK - 1) + 1 for s, n, d in zip(stride, grad.shape[2:], dilation, strict=True)
    )
    result = torch.empty_like(weight)
    for row in _starts(kernel[0]):
        for col in _starts(kernel[1]):
            top, left = row * dilation[0], col * dilation[1]
            met = padded[:, :, top : top + height, left : left + width]
            met = met.contiguous(memory_format=torch.channels_last)
            block = (..., slice(row, row + _BLOCK), slice(col, col + _BLOCK))
            result[block] = _of_small_kernel(grad, met, weight[block], stride, (0, 0), dilation)
    return result


def _starts(side: int) -> list[int]:
    """Return where blocks start that cover a side; the last one ends where it does."""
    return [min(start, side - _BLOCK) for start in range(0, side, _BLOCK)]


def _of_small_kernel(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], len(weight), [False, True, False]
    )
    found: Tensor = gradients[1]
    return found
