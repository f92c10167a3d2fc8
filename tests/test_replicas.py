"""Copies side by side, held against the same batches one after the other."""

import numpy as np
import pytest
import torch

from landcover.errors import ConfigError
from landcover.models import ModelConfig, build_model
from landcover.models.tensorfile import read_tensors
from landcover.training import train
from landcover.training.replicas import Replicas
from training_world import tiny, write_pairs

SETTINGS = ("optimiser.name=sgd", "optimiser.learning_rate=0.05", "model.dropout=0", "steps=5", "ema_decay=0")


def network(dropout=0.5, freeze=False):
    torch.manual_seed(0)
    config = ModelConfig(
        encoder="mobilenetv2_050",
        output_stride=32,
        aspp_channels=8,
        decoder_channels=8,
        dropout=dropout,
        freeze_batch_norm=freeze,
    )
    return build_model(config, classes=3)


def backward(net, images):
    net.logits(images).square().mean().backward()
    return float(net.encoder.body.bn1.running_mean.sum())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("copies", [2, 4])
def test_the_same_weights_as_one_part_after_the_other(data, tmp_path, copies):
    """Gradients depend on a part's own statistics alone, so only the order of work differs."""
    size = 2
    train(
        tiny(*SETTINGS, f"batch_size={size * copies}", f"replicas={copies}"), data=data, out=tmp_path / "side"
    )
    train(tiny(*SETTINGS, f"batch_size={size}", f"accumulate={copies}"), data=data, out=tmp_path / "after")
    one, two = (read_tensors(tmp_path / run / "last.safetensors") for run in ("side", "after"))
    learned = [name for name in one if name.endswith(("weight", "bias"))]
    assert len(learned) > 100
    for name in learned:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_same_run_gives_the_same_bits(data, tmp_path):
    config = tiny("batch_size=4", "replicas=2", "model.dropout=0.5", "threads=2")
    for run in ("one", "two"):
        train(config, data=data, out=tmp_path / run)
    one, two = (read_tensors(tmp_path / run / "last.safetensors") for run in ("one", "two"))
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


def test_gradients_are_summed_and_statistics_averaged():
    images = torch.rand(4, 3, 32, 32)
    alone = [network(dropout=0) for _ in range(2)]
    for net, part in zip(alone, images.split(2), strict=True):
        backward(net, part)
    net = network(dropout=0)
    with Replicas(net, 2) as replicas:
        replicas.backward(backward, images.split(2), seed=(0,))
    for (name, found), *others in zip(
        net.named_parameters(), *(other.parameters() for other in alone), strict=True
    ):
        expected = others[0].grad + others[1].grad
        torch.testing.assert_close(found.grad, expected, msg=name)
    expected = (alone[0].encoder.body.bn1.running_mean + alone[1].encoder.body.bn1.running_mean) / 2
    torch.testing.assert_close(net.encoder.body.bn1.running_mean, expected)


def test_statistics_of_turns_before_a_step_count_alike():
    images = torch.rand(8, 3, 32, 32)
    net = network(dropout=0)
    start = net.encoder.body.bn1.running_mean.clone()
    norm = []
    net.encoder.body.bn1.register_forward_hook(
        lambda _, inputs, result: norm.append(inputs[0].detach().mean(dim=(0, 2, 3)))
    )
    with Replicas(net, 2) as replicas:
        for turn, part in enumerate(images.split(4)):
            replicas.backward(backward, part.split(2), seed=(turn,))
    # The copy was made after the hook, so that all parts are seen; the order within a turn does not matter.
    first, second = (torch.stack(norm[i : i + 2]).mean(dim=0) for i in (0, 2))
    keep = 1 - net.encoder.body.bn1.momentum
    expected = keep * (keep * start + (1 - keep) * first) + (1 - keep) * second
    torch.testing.assert_close(net.encoder.body.bn1.running_mean, expected)


def test_copies_follow_the_network_and_draw_their_own_dropout():
    net = network()
    image = torch.rand(2, 3, 64, 64)

    def logits(member, part):
        found = member.logits(part)
        found.mean().backward()
        return found.detach()

    with Replicas(net, 2) as replicas:
        with torch.no_grad():
            net.classifier.bias += 7
        one, two = replicas.backward(logits, [image, image], seed=(1,))
        assert (one - two).mean() > 5  # the copy has not been told yet
        replicas.spread()
        one, two = replicas.backward(logits, [image, image], seed=(1,))
        assert abs((one - two).mean()) < 1
        assert not torch.equal(one, two)
        again = replicas.backward(logits, [image, image], seed=(1,))
        assert not torch.equal(again[0], replicas.backward(logits, [image, image], seed=(2,))[0])


def test_frozen_norms_keep_their_bits():
    net = network(freeze=True)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with Replicas(net, 3) as replicas:
        replicas.backward(backward, torch.rand(6, 3, 32, 32).split(2), seed=(0,))
        replicas.spread()
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["batch_size=6", "replicas=4"], "batch_size=6 must be a multiple of replicas=4"),
        (["batch_size=2", "replicas=2"], "one image to average: use batch_size=4"),
        (["replicas=0"], "replicas"),
    ],
)
def test_parts_must_be_equal_and_more_than_one_image(settings, words):
    with pytest.raises(ConfigError, match=words):
        tiny(*settings)
