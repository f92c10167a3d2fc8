from copy import deepcopy

import pytest
import torch
from torch import nn

from landcover.models import build_model
from landcover.training.depthwise import DepthwiseConv2d, quicken_depthwise
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
    quicken_depthwise(quick)
    assert type(quick) is DepthwiseConv2d
    return plain, quick


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "height", "width"), GEOMETRIES)
def test_results_and_gradients_are_those_of_torch(kernel, stride, padding, dilation, height, width, bias):
    plain, quick = pair(kernel, stride, padding, dilation, bias, torch.float32)
    x = torch.randn(2, 4, height, width)
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
    quicken_depthwise(network)
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
