"""DeepLabv3+ on each tested encoder, then its parts."""

import copy
import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landcover.errors import ConfigError, ModelError, UsageError
from landcover.model import TESTED_ENCODERS, ModelConfig, _compat
from landcover.model.encoders import build_encoder, describe_encoder
from landcover.model.network import AtrousPyramid, ImagePooling, build_model

NARROW = {"aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 4}
SMALL = "mobilenetv2_100"
CHEAP = (SMALL, "hgnetv2_b0", "regnetx_008")
ENCODERS = [pytest.param(e, marks=[] if e in CHEAP else pytest.mark.slow) for e in TESTED_ENCODERS]
"""All encoders; in the fast set only the cheap ones."""


@functools.cache
def _built(encoder):
    torch.manual_seed(0)
    strides = TESTED_ENCODERS[encoder].output_strides if encoder in TESTED_ENCODERS else (16,)
    stride = 16 if 16 in strides else 32
    config = ModelConfig.model_validate({"encoder": encoder, "output_stride": stride, **NARROW})
    return build_model(config, classes=6).to(memory_format=torch.channels_last)


def model_of(encoder=SMALL):
    """Return a model in evaluation mode that the test may change."""
    return copy.deepcopy(_built(encoder)).eval()


def images(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)


def norms_of(model):
    return {k: m for k, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def train_a_step(model):
    """Train one step on noise and return the names of the tensors that changed."""
    before = copy.deepcopy(model.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1.0, weight_decay=0.1)
    F.cross_entropy(model.train()(images(2, 3, 33, 47)), torch.randint(0, 6, (2, 33, 47))).backward()
    optimiser.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_predicts_and_trains(encoder):
    model, x = model_of(encoder), images(1, 3, 33, 49)
    with torch.inference_mode():
        full, coarse, again = model(x), model.logits(x), model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(x).float()
    assert full.shape == (1, 6, 33, 49)
    assert coarse.shape == (1, 6, 9, 13)
    assert full.isfinite().all()
    assert torch.equal(full, again)
    assert (rough - full).std() < 0.1 * full.std()
    assert not torch.equal(rough, full)
    expected = F.interpolate(coarse, scale_factor=4.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(full[..., :32, :48], expected[..., :32, :48])  # pixel areas aligned
    with torch.inference_mode():
        low, deep = model.encoder(images(1, 3, 96, 64))
    assert low.shape[2:] == (24, 16)
    assert deep.shape[2:] == (96 // model.encoder.output_stride, 64 // model.encoder.output_stride)
    truth = torch.randint(0, 6, (2, 33, 47))
    F.cross_entropy(model.train()(images(2, 3, 33, 47)), truth).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_do_not_depend_on_the_memory_layout(encoder):
    """Some encoders corrupt memory in channels_last on the CPU (RepVGG, MobileOne), others might silently."""
    x, truth, gradients = images(2, 3, 64, 64), torch.randint(0, 6, (2, 64, 64)), []
    for layout in (torch.channels_last, torch.contiguous_format):
        model = model_of(encoder).to(memory_format=layout)
        F.cross_entropy(model(x.contiguous(memory_format=layout)), truth).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < 1e-3, difference


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_facts_about_an_encoder_are_those_of_timm(encoder):
    """Its strides, too: each is built, and looks at its features."""
    assert dataclasses.replace(describe_encoder(encoder), tested=True) == TESTED_ENCODERS[encoder]


@pytest.mark.parametrize("encoder", [SMALL, "convnext_tiny"])
class TestFreezing:
    def test_low_level_features_do_not_move(self, encoder):
        model, x = model_of(encoder), images(2, 3, 64, 64)
        model.freeze("low_level")
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        model.freeze("low_level")
        assert frozen == [name for name, p in model.named_parameters() if not p.requires_grad]
        with torch.no_grad():
            low, deep = model.encoder(x)
        train_a_step(model)
        with torch.no_grad():
            low_after, deep_after = model.eval().encoder(x)
        assert torch.equal(low, low_after)
        assert not torch.equal(deep, deep_after)

    def test_batch_norms_do_not_move(self, encoder):
        model = build_model(ModelConfig(encoder=encoder, freeze_batch_norm=True, **NARROW), classes=6)
        of_norms = {f"{k}.{name}" for k, m in norms_of(model).items() for name in m.state_dict()}
        moved = train_a_step(model.eval())
        assert len(of_norms) > 5
        assert not moved & of_norms
        assert moved >= {"classifier.weight", "aspp.branches.0.0.weight"}
        assert any(name.startswith("encoder.") for name in moved)

    def test_encoder_batch_norms_do_not_move(self, encoder):
        model = model_of(encoder)
        of_encoder = {name for name in norms_of(model) if name.startswith("encoder.")}
        assert model.freeze("encoder_batch_norms") == len(of_encoder)
        assert bool(of_encoder) != encoder.startswith("convnext")
        moved = train_a_step(model)
        assert not {name for name in moved if name.rpartition(".")[0] in of_encoder}
        assert moved >= {f"{name}.running_mean" for name in norms_of(model).keys() - of_encoder}
        assert any(name.startswith("encoder.") for name in moved)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 3), (17, 16), (64, 64), (31, 100)])
@pytest.mark.parametrize("encoder", [SMALL, "convnext_tiny"])
def test_any_size(encoder, size):
    with torch.inference_mode():
        model = model_of(encoder)
        x = images(1, 3, *size)
        assert model(x).shape[2:] == size
        assert model.logits(x).shape[2:] == tuple(-(-side // model.stride) for side in size)


def test_the_grid_does_not_depend_on_the_size_of_the_image():
    """Edge pixels repeated by hand give the same answer: sizes between multiples of the stride are safe."""
    model, x = model_of(), images(1, 3, 50, 61)
    whole = F.pad(x, (0, 3, 0, 14), mode="replicate")
    with torch.inference_mode():
        assert torch.equal(model(x), model(whole)[..., :50, :61])
        assert torch.equal(model.logits(x), model.logits(whole)[..., :13, :16])


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch():
    model, x = model_of(), images(3, 3, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-6)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    config = ModelConfig(**NARROW, dropout=0.5, freeze_batch_norm=True)
    model, x = build_model(config, classes=2), images(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


def test_the_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return build_model(ModelConfig(**NARROW), classes=3).state_dict()

    first, same, other = weights(5), weights(5), weights(6)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


class TestPyramid:
    @pytest.mark.parametrize(
        ("config", "rates"),
        [
            (ModelConfig(output_stride=8), [12, 24, 36]),
            (ModelConfig(output_stride=16), [6, 12, 18]),
            (ModelConfig(output_stride=32), [3, 6, 9]),
            (ModelConfig(output_stride=8, aspp_rates=(1, 2, 5)), [1, 2, 5]),
        ],
    )
    @pytest.mark.parametrize("separable", [True, False])
    def test_rates(self, config, rates, separable):
        with torch.device("meta"):
            model = build_model(config.model_copy(update={"separable": separable}), classes=2)
        convolutions = [
            m for m in model.aspp.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
        ]
        assert [m.dilation for m in convolutions] == [(rate, rate) for rate in rates]
        assert {m.groups for m in convolutions} == ({320} if separable else {1})

    @pytest.mark.parametrize("separable", [True, False])
    def test_each_branch_sees_what_its_rate_says(self, separable):
        torch.manual_seed(0)
        pyramid = AtrousPyramid(4, 3, (2, 3, 5), separable=separable, dropout=0.0).eval()
        x = torch.zeros(1, 4, 21, 21, requires_grad=True)
        for branch, rate in zip(pyramid.branches[:4], (0, 2, 3, 5), strict=True):
            (grad,) = torch.autograd.grad(nn.Sequential(*list(branch)[:-1])(x)[0, :, 10, 10].sum(), x)
            rows, cols = grad.abs().sum((0, 1)).nonzero(as_tuple=True)
            assert set(rows.tolist()) == set(cols.tolist()) == {10 - rate, 10, 10 + rate}

    def test_image_pooling_is_the_mean_of_the_image(self):
        pooling, x = ImagePooling(4, 3), torch.randn(2, 4, 5, 7)
        expected = torch.relu(x.mean((2, 3)) @ pooling.conv.weight[:, :, 0, 0].T + pooling.conv.bias)
        torch.testing.assert_close(pooling(x), expected[:, :, None, None].expand(2, 3, 5, 7))


class TestRefusals:
    def test_an_unknown_encoder_is_named_with_close_matches(self):
        with pytest.raises(ConfigError, match=r"'mobilnetv2_100'.*'mobilenetv2_100'"):
            build_model(ModelConfig(encoder="mobilnetv2_100"), classes=2)
        with pytest.raises(ConfigError, match="'%%%'") as caught:
            build_encoder("%%%", 16)
        assert len(str(caught.value)) < 500  # not a list of all of timm's models
        with pytest.raises(UsageError, match="found 0"):
            build_model(ModelConfig(), classes=0)

    @pytest.mark.parametrize(
        ("encoder", "stride", "message"),
        [
            ("vgg11", 16, r"vgg11.*output stride 16.*\[32\]"),
            ("densenet121", 8, r"densenet121.*output stride 8.*\[32\]"),
            ("vit_tiny_patch16_224", 16, "vit_tiny_patch16_224.*landcover models"),
            ("swin_tiny_patch4_window7_224", 32, "swin_tiny_patch4_window7_224.*landcover models"),
        ],
    )
    def test_an_encoder_that_cannot(self, encoder, stride, message):
        with pytest.raises(ModelError, match=message):
            build_encoder(encoder, stride)

    @pytest.mark.parametrize(
        "settings",
        [{"output_stride": 12}, {"dropout": 1.0}, {"aspp_rates": (0, 1, 2)}, {"architecture": "unet"}],
    )
    def test_settings_out_of_range(self, settings):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ModelConfig.model_validate(settings)


FAKE_TORCHVISION = """
import torch
@torch.library.register_fake("torchvision::nms")
def _(boxes, scores, threshold): return boxes
"""


def declared_beside(folder, text):
    """Return the output of a fresh interpreter that declares operators beside such a torchvision.

    The module is run without its end, which imports timm: this torchvision cannot serve it.
    """
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(text)
    declaration = Path(_compat.__file__).read_text().partition("\nimport timm")[0]
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n{declaration}\n"
        "import torchvision; print('_declared' in globals(), torchvision.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        (FAKE_TORCHVISION, "True"),  # the CUDA wheel beside a CPU-only torch: its library fails to load
        ("import torch", "False"),  # its own operators exist: declaring them again would be an error
    ],
)
def test_timm_imports_beside_a_torchvision_whose_library_does_not_load(tmp_path, text, declared):
    printed = declared_beside(tmp_path, text)
    assert printed.split() == [declared, str(tmp_path / "torchvision" / "__init__.py")]
