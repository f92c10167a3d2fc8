"""Training on several processes: the same gradients, one writer, and an orderly end when one is killed."""

import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from landcover.errors import LostProcessError, TrainingError, UsageError
from landcover.model.encoders import encoder_preprocessing
from landcover.model.files import read_tensors
from landcover.training import train
from landcover.training.batches import BatchReader
from landcover.training.config import LossConfig
from landcover.training.data import load_training_data
from landcover.training.log import read_log
from landcover.training.losses import build_loss
from landcover.training.processes import LOST, launch, process_group, synchronised
from training_world import _SERVER, tiny, write_pairs

FROZEN = ("model.freeze_batch_norm=true", "model.dropout=0", "validation.every_steps=1000")
SGD = ("optimiser.name=sgd", "optimiser.weight_decay=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data"))


def train_rank(rank, meeting, config, data, out):
    """Train as one of two ranks; the body of a process."""
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(LANDCOVER_RENDEZVOUS=meeting.as_uri(), GLOO_SOCKET_IFNAME="lo")
    try:
        train(config, data=data, out=out)
    except LostProcessError:
        os._exit(LOST)


def start_two(tmp_path, config, data, out):
    meeting = tmp_path / f"meeting-{time.monotonic_ns()}"
    ranks = [
        _SERVER.Process(target=train_rank, args=(rank, meeting, config, data, out), daemon=True)
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    return ranks


def join(ranks):
    for process in ranks:
        process.join(100)
    return [process.exitcode for process in ranks]


def test_two_ranks_have_the_gradients_of_one_process_with_the_doubled_batch(data, tmp_path):
    """SGD's first momentum is the gradient. Crops have different numbers of labelled pixels."""
    config = tiny(*FROZEN, *SGD, "steps=1", "accumulate=2")
    ranks = start_two(tmp_path, config, data, tmp_path / "two")
    train(tiny(*FROZEN, *SGD, "steps=1", "accumulate=2", "batch_size=4"), data=data, out=tmp_path / "one")
    assert join(ranks) == [0, 0]
    one, two = (read_tensors(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    names = [name for name in one if name.endswith("/momentum_buffer")]
    assert names
    assert one.keys() == two.keys()
    whole = [np.concatenate([run[name].ravel() for name in names]).astype(np.float64) for run in (one, two)]
    assert np.linalg.norm(whole[0]) > 0
    assert np.linalg.norm(whole[0] - whole[1]) <= 1e-6 * np.linalg.norm(whole[0])
    start = read_log(tmp_path / "two")[0]
    assert start["processes"] == 2
    single, double = (
        next(line for line in read_log(tmp_path / name) if line["event"] == "validation")
        for name in ("one", "two")
    )
    assert double["loss"] == pytest.approx(single["loss"], rel=1e-4)  # all images count, once


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
def test_a_killed_rank_ends_the_run_which_another_number_of_processes_resumes(data, tmp_path):
    config, out = tiny(*FROZEN, "steps=16", "checkpoint_steps=1", "log_every=1"), tmp_path / "run"
    ranks = start_two(tmp_path, config, data, out)
    while not (out / "last.safetensors").exists() or read_log(out)[-1].get("step", 0) < 3:
        assert ranks[0].is_alive()
        time.sleep(0.02)
    os.kill(ranks[1].pid, signal.SIGKILL)
    assert join(ranks) == [LOST, -signal.SIGKILL]
    assert train(config, data=data, out=out).step == 16
    starts = [line for line in read_log(out) if line["event"] == "start"]
    assert [line["processes"] for line in starts] == [2, 1]
    assert starts[1]["step"] >= 3


def join_without_launcher(folder):
    """Wait for another rank, started by a process that has ended; the body of a process."""
    os.environ.update(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2")
    os.environ.update(LANDCOVER_RENDEZVOUS=(folder / "meeting").as_uri(), GLOO_SOCKET_IFNAME="lo")
    os.environ.update(LANDCOVER_LAUNCHER=str(os.getpid()))
    with process_group(torch.device("cpu"), "fp32"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="has no such parents")
def test_a_rank_ends_with_its_launcher(tmp_path):
    rank = _SERVER.Process(target=join_without_launcher, args=(tmp_path,), daemon=True)
    rank.start()
    rank.join(30)
    status = rank.exitcode
    rank.kill()
    assert status == LOST


def test_ranks_share_the_crops_of_a_larger_batch(data):
    config = tiny()
    loaded = load_training_data(data, "folders", crop_px=32, model_gsd=1.0)
    preprocessing = encoder_preprocessing(config.model.encoder, 1.0)
    ranks = [BatchReader(loaded, config, preprocessing, rank=rank, size=2) for rank in (0, 1)]
    larger = BatchReader(loaded, tiny("batch_size=4"), preprocessing).read(3)
    for rank, reader in enumerate(ranks):
        own = reader.read(3)
        np.testing.assert_array_equal(own.images, larger.images[rank::2])
        np.testing.assert_array_equal(own.targets, larger.targets[rank::2])


@pytest.mark.parametrize("weights", [{}, {"a": 3.0}])
@pytest.mark.parametrize("name", ["ce", "focal"])
def test_the_mean_is_over_the_pixels_of_all_ranks(name, weights):
    """The mean over two ranks of the balanced losses is the loss of all their pixels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    targets = torch.randint(0, 3, (2, 4, 4), generator=generator, dtype=torch.uint8)
    targets[1, :3] = 255
    config = LossConfig(terms=({"name": name},), class_weights=weights)
    factor = torch.tensor([3.0 if weights else 1.0, 1.0, 1.0])
    totals = [factor[targets[i][targets[i] != 255].long()].sum() for i in (0, 1)]
    values = [
        build_loss(config, ("a", "b", "c"), logits.device, lambda weight: 2 * weight / sum(totals))(
            logits[i : i + 1], targets[i : i + 1], None
        )
        for i in (0, 1)
    ]
    expected = build_loss(config, ("a", "b", "c"), logits.device)(logits, targets, None)
    assert float(sum(values) / 2) == pytest.approx(float(expected), rel=1e-6)


def test_a_rank_without_labels_takes_part():
    calls = []

    def balance(weight):
        calls.append(float(weight))
        return weight

    loss = build_loss(LossConfig(), ("a", "b"), torch.device("cpu"), balance)
    assert float(loss(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 255, dtype=torch.uint8), None)) == 0
    assert calls == [0.0]


def test_trained_batch_norms_need_gpus():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match=r"1 batch norms.*freeze_batch_norm"):
        synchronised(network, torch.device("cpu"))
    network[1].eval()
    assert synchronised(network, torch.device("cpu")) is network
    network.train()
    converted = synchronised(network, torch.device("cuda"))  # what it computes needs a GPU to test
    assert converted.state_dict().keys() == network.state_dict().keys()
    assert isinstance(converted[1], nn.SyncBatchNorm)
    assert converted[1].weight is network[1].weight


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}])
def test_an_incomplete_environment_is_refused(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="WORLD_SIZE"), process_group(torch.device("cpu"), "fp32"):
        pass


def python(code):
    return [sys.executable, "-S", "-c", f"import os, sys, time; rank = int(os.environ['RANK']); {code}"]


class TestLaunch:
    def test_each_process_knows_its_rank(self, tmp_path):
        names = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        code = f"open(f'{tmp_path}/{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))"
        assert launch(2, python(code)) == 0
        assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["2 0 2", "2 1 2"]

    def test_the_status_of_rank_0_is_that_of_the_run(self):
        assert launch(2, python("sys.exit(2)")) == 2
        assert launch(2, python(f"sys.exit(130 if rank == 0 else {LOST})")) == 130

    def test_what_fails_in_another_rank_is_reported(self):
        code = f"sys.exit({LOST}) if rank == 0 else sys.exit('Error: b.jpg is damaged')"
        with pytest.raises(TrainingError, match=r"Process 1 of 2: b\.jpg is damaged"):
            launch(2, python(code))

    @pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
    def test_a_killed_process_is_named(self):
        code = f"os.kill(os.getpid(), 9) if rank else sys.exit({LOST})"
        with pytest.raises(TrainingError, match=r"Process 1 of 2.*SIGKILL"):
            launch(2, python(code))

    @pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
    def test_an_interrupt_of_the_launcher_reaches_the_processes(self):
        code = "import signal; signal.signal(2, lambda *_: sys.exit(130)); "
        assert launch(1, python(code + "os.kill(os.getppid(), 2); time.sleep(20)")) == 130

    def test_nothing_outlives_the_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr("landcover.training.processes._GRACE_S", 0.2)
        code = f"open('{tmp_path}/pid', 'w').write(str(os.getpid())) if rank else 0; "
        code += "time.sleep(60) if rank else time.sleep(0.5); sys.exit(1)"
        assert launch(2, python(code)) == 1
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
