import copy

import pytest
import torch
from torch import nn

from landcover.models import ModelConfig, build_model
from landcover.training.depthwise import DepthwiseConv2d, quicken_depthwise
from landcover.training.folding import fold_frozen_norms


class Chain(nn.Module):
    """A convolution, its norm and, on request, a way past the norm."""

    def __init__(self, *, bias: bool = False, shortcut: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, bias=bias)
        self.norm = nn.BatchNorm2d(5)
        self.shortcut = shortcut
        for tensor in (self.norm.running_mean, self.norm.weight, self.norm.bias):
            nn.init.normal_(tensor)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y if self.shortcut else self.norm(y)


def frozen(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False).eval()
    return network


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_convolution_gives_what_its_norm_gave(bias):
    plain = frozen(Chain(bias=bias))
    folded = copy.deepcopy(plain)
    assert fold_frozen_norms(folded) == 1
    x = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(folded.conv(x), plain(x))
    torch.testing.assert_close(folded(x), plain(x))
    for network in (plain, folded):
        network(x).square().sum().backward()
    for ours, theirs in zip(folded.conv.parameters(), plain.conv.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)
    assert folded.norm.weight.grad is None


def test_weights_that_are_loaded_or_trained_afterwards_count():
    plain, other = frozen(Chain()), frozen(Chain())
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(2)
    assert fold_frozen_norms(plain) == 1
    plain.load_state_dict(other.state_dict())
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(plain(x), other(x))


def test_norms_that_train_stay():
    network = Chain()
    assert fold_frozen_norms(network) == 0
    assert type(network.norm) is nn.BatchNorm2d
    assert network.training


def test_a_convolution_that_others_hear_stays():
    network = frozen(Chain(shortcut=True))
    x = torch.randn(1, 3, 8, 8)
    before = network(x)
    assert fold_frozen_norms(network) == 0
    assert (type(network.conv), type(network.norm)) == (nn.Conv2d, nn.BatchNorm2d)
    assert torch.equal(network(x), before)


def test_depthwise_convolutions_stay_quick():
    config = ModelConfig(aspp_channels=8, decoder_channels=8, low_level_channels=4, dropout=0.0)
    plain = build_model(config, classes=2)
    plain.freeze_encoder_norms()
    quick = copy.deepcopy(plain)
    quicken_depthwise(quick)
    count = sum(isinstance(module, DepthwiseConv2d) for module in quick.modules())
    assert fold_frozen_norms(quick) > 40
    assert sum(isinstance(module, DepthwiseConv2d) for module in quick.modules()) == count > 0
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        exact, rough = plain(x).float(), quick(x).float()
    assert (exact - rough).abs().max() < 0.1 * exact.abs().max()
