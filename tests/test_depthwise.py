from copy import deepcopy

import pytest
import torch
from torch import nn

from landcover.model.network import build_model
from landcover.training import depthwise
from landcover.training.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, use_fast_depthwise_backward
from training_world import tiny

GEOMETRIES = [  # kernel, stride, padding, dilation, height, width
    (3, 2, 1, 1, 12, 12),
    (3, 2, 1, 1, 13, 9),
    (5, 2, 2, 1, 11, 14),
    (3, 2, 0, 1, 8, 9),
    (3, 3, 1, 1, 10, 11),
    (3, 1, 2, 2, 7, 8),
    (3, 1, 6, 6, 5, 9),
    (5, 1, 3, 2, 12, 10),
    (3, 2, 2, 2, 11, 12),
    ((3, 5), (2, 1), (1, 4), (1, 2), 9, 12),
    (4, 1, 2, 1, 9, 8),
    (5, 1, 2, 1, 11, 14),
    (5, 1, 0, 1, 5, 5),
    (5, 2, 4, 1, 2, 7),
    (7, 1, 3, 1, 12, 9),
    ((5, 7), (1, 2), (2, 3), (2, 1), 13, 10),
]


def gradients(module, x, autocast=False):
    x = x.detach().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    y.backward(weights.to(y.dtype))
    return [y, x.grad, *(parameter.grad.clone() for parameter in module.parameters())]


def pair(kernel, stride, padding, dilation, bias, dtype):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups=4, bias=bias).to(dtype)
    quick = deepcopy(plain)
    use_fast_depthwise_backward(quick, "bf16")
    assert type(quick) is DepthwiseConv2d
    return plain, quick


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "height", "width"), GEOMETRIES)
def test_results_and_gradients_are_those_of_torch(
    kernel, stride, padding, dilation, height, width, bias, memory_format
):
    plain, quick = pair(kernel, stride, padding, dilation, bias, torch.float32)
    x = torch.randn(2, 4, height, width).to(memory_format=memory_format)
    for ours, theirs in zip(gradients(quick, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "height", "width"), GEOMETRIES)
def test_bfloat16_gradients_are_as_near_to_the_truth_as_those_of_torch(
    kernel, stride, padding, dilation, height, width
):
    plain, quick = pair(kernel, stride, padding, dilation, False, torch.float32)
    x = torch.randn(2, 4, height, width).bfloat16()
    truth = gradients(deepcopy(plain), x.float())
    ours, theirs = gradients(quick, x, autocast=True), gradients(plain, x, autocast=True)
    assert torch.equal(ours[0], theirs[0])
    for mine, other, exact in zip(ours[1:], theirs[1:], truth[1:], strict=True):
        assert mine.dtype == other.dtype
        error, allowed = (torch.linalg.norm(found.float() - exact) for found in (mine, other))
        assert error <= 1.5 * allowed + 1e-2 * torch.linalg.norm(exact)


def test_only_slow_convolutions_change_and_the_state_does_not():
    network = build_model(tiny("model.output_stride=16").model, classes=6)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    use_fast_depthwise_backward(network, "bf16")
    changed = [module for module in network.modules() if type(module) is DepthwiseConv2d]
    assert changed
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            slow = module.groups > 1 and (module.stride != (1, 1) or module.dilation != (1, 1))
            assert (type(module) is DepthwiseConv2d) == slow
    assert network.state_dict().keys() == before.keys()
    assert deepcopy(network)(torch.zeros(2, 3, 64, 64)).shape == (2, 6, 64, 64)


def test_frozen_weights_and_inputs_get_no_gradient():
    _, quick = pair(3, 2, 1, 1, False, torch.float32)
    quick.weight.requires_grad_(False)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    quick(x).sum().backward()
    assert x.grad is not None
    assert quick.weight.grad is None


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "side"), [(5, 1, 7), (5, 2, 8), (5, 2, 9), (3, 2, 7)])
def test_padding_as_in_tensorflow(kernel, stride, side, autocast):
    torch.manual_seed(0)
    plain = depthwise.Conv2dSame(6, 6, kernel, stride, groups=6, bias=True)
    quick = deepcopy(plain)
    use_fast_depthwise_backward(quick, "bf16")
    assert type(quick) is DepthwiseConv2dSame
    x = torch.randn(2, 6, side, 11)
    close = {"rtol": 0.02, "atol": 0.02} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    for ours, theirs in zip(gradients(quick, x, autocast), gradients(plain, x, autocast), strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "fp32", "bf16"),
    [
        (3, 1, 1, False, False),
        ((3, 5), 1, 1, False, False),
        ((5, 4), 1, 1, True, True),
        (5, (1, 2), 1, False, True),
        (5, 1, 2, False, True),
        (3, (2, 1), 1, False, True),
        (3, 1, 2, False, True),
    ],
)
@pytest.mark.parametrize("kind", [nn.Conv2d, depthwise.Conv2dSame])
def test_what_is_slow_depends_on_the_precision(kind, kernel, stride, dilation, fp32, bf16):
    for precision, slow in (("fp32", fp32), ("bf16", bf16)):
        module = kind(4, 4, kernel, stride, dilation=dilation, groups=4)
        use_fast_depthwise_backward(module, precision)
        assert isinstance(module, DepthwiseConv2d) == slow
        assert isinstance(module, DepthwiseConv2dSame) == (slow and kind is depthwise.Conv2dSame)


def test_others_stay():
    class Another(nn.Conv2d):
        pass

    for module in (
        Another(4, 4, 5, groups=4),
        nn.Conv2d(4, 8, 5, groups=4),
        nn.Conv2d(4, 4, 5, groups=2),
        nn.Conv2d(1, 1, 5),
        nn.Conv2d(4, 4, 5, groups=4, padding="same"),
        nn.Conv2d(4, 4, 5, groups=4, padding=1, padding_mode="reflect"),
    ):
        kind = type(module)
        use_fast_depthwise_backward(module, "bf16")
        assert type(module) is kind
