"""A run that is killed at any moment and resumed ends with the same tensors as one that is not."""

import os
import shutil
import signal

import pytest

from landcover.errors import OutputError
from landcover.model.card import read_model
from landcover.training import train
from landcover.training.log import read_log
from landcover.training.optim import WeightAverage
from landcover.training.runs import prepare_folder, read_checkpoint
from training_world import assert_same_tensors, tiny, train_apart, write_pairs

STEPS = 9


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data"))


def configuration(precision="fp32", optimiser="adamw"):
    return tiny(
        f"steps={STEPS}", f"precision={precision}", f"optimiser.name={optimiser}", "checkpoint_steps=2",
        "accumulate=2", "optimiser.clip_norm=1", "optimiser.learning_rate=0.01",
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Return the folder of an uninterrupted run by precision and optimiser."""
    folders = {}

    def folder(precision, optimiser):
        if (precision, optimiser) not in folders:
            out = tmp_path_factory.mktemp("straight")
            assert train_apart(configuration(precision, optimiser), data, out) == 0
            folders[precision, optimiser] = out
        return folders[precision, optimiser]

    return folder


def assert_same_run(one, two):
    assert_same_tensors(one / "last.safetensors", two / "last.safetensors")
    assert_same_tensors(one / "best.safetensors", two / "best.safetensors")
    first, second = (read_checkpoint(folder / "last.safetensors")[0] for folder in (one, two))
    assert (first.step, first.best, first.scores, first.stale) == (
        second.step,
        second.best,
        second.scores,
        second.stale,
    )
    logs = [
        [(e["event"], e.get("step"), e.get("miou")) for e in read_log(folder) if e["event"] != "start"]
        for folder in (one, two)
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("precision", "optimiser", "steps"), [("fp32", "adamw", (3, 8)), ("bf16", "sgd", (4, 7))]
)
def test_killed_at_any_step(data, straight, tmp_path, precision, optimiser, steps):
    """Just after a checkpoint and just before the next one; tools/crash_recovery.py draws the moments."""
    config = configuration(precision, optimiser)
    done = 0
    for step in steps:
        count = step - done  # counted from the last checkpoint
        code = train_apart(config, data, tmp_path, "between step and average", count)
        assert code == -signal.SIGKILL
        done = read_checkpoint(tmp_path / "last.safetensors")[0].step
    assert train_apart(config, data, tmp_path) == 0
    assert_same_run(straight(precision, optimiser), tmp_path)


@pytest.mark.parametrize(
    ("moment", "count"),
    [("between last and best", 1), ("before a checkpoint", 1), ("before a checkpoint", 4)],
)
def test_killed_while_files_are_written(data, straight, tmp_path, moment, count):
    config = configuration()
    assert train_apart(config, data, tmp_path, moment, count) == -signal.SIGKILL
    assert train_apart(config, data, tmp_path) == 0
    assert_same_run(straight("fp32", "adamw"), tmp_path)


def test_after_a_kill_between_last_and_best_the_next_start_writes_best(data, tmp_path):
    config = configuration()
    train_apart(config, data, tmp_path, "between last and best", 1)
    assert not (tmp_path / "best.safetensors").exists()
    train_apart(config, data, tmp_path, "between step and average", 1)
    assert read_model(tmp_path)[0].provenance["step"] == 4


def test_no_temporary_file_counts(data, straight, tmp_path):
    config = configuration()
    train_apart(config, data, tmp_path, "before a checkpoint", 2)
    (tmp_path / ".last.123.landcover-tmp.safetensors").write_bytes(b"half a checkpoint")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 2, "lo')
    assert train_apart(config, data, tmp_path) == 0
    assert_same_run(straight("fp32", "adamw"), tmp_path)


def test_a_finished_run_stays_as_it_is(data, straight, tmp_path):
    finished = tmp_path / "run"
    shutil.copytree(straight("fp32", "adamw"), finished)
    assert train_apart(configuration(), data, finished) == 0
    assert_same_run(straight("fp32", "adamw"), finished)


def test_a_copy_is_resumed_in_another_folder(data, straight, tmp_path):
    train_apart(configuration(), data, tmp_path / "one", "between step and average", 7)
    train(configuration(), data=data, out=tmp_path / "two", resume=tmp_path / "one")
    assert read_checkpoint(tmp_path / "one" / "last.safetensors")[0].step == 6
    assert_same_run(straight("fp32", "adamw"), tmp_path / "two")


def test_time_is_summed_over_resumes(data, tmp_path, monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock, update = Clock(), WeightAverage.update

    def step(self, updates):
        """Let a step take three seconds; interrupt the fifth, which takes longer."""
        update(self, updates)
        clock.now += 18 if updates == 4 else 3
        if updates == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("landcover.training.loop.time", clock)
    monkeypatch.setattr(WeightAverage, "update", step)
    config = tiny("steps=null", "minutes=0.6", "validation={percent: 50}", "log_every=1")
    first = train(config, data=data, out=tmp_path)
    assert (first.reason, first.step, first.seconds) == ("interrupted", 5, 30)
    second = train(config, data=data, out=tmp_path)
    assert (second.reason, second.step, second.seconds) == ("limit", 7, 36)
    steps = [event for event in read_log(tmp_path) if event["event"] == "step"]
    assert [event["seconds"] for event in steps] == [3, 6, 9, 12, 30, 33, 36]
    rates = [event["lr"] for event in steps]
    assert rates == sorted(rates, reverse=True)  # the schedule continues


def test_ctrl_c_finishes_the_step_and_keeps_it(data, straight, tmp_path, monkeypatch, caplog):
    config, update = configuration(), WeightAverage.update

    def update_and_press(self, updates):
        update(self, updates)
        if updates == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "update", update_and_press)
        assert train(config, data=data, out=tmp_path).reason == "interrupted"
    assert read_checkpoint(tmp_path / "last.safetensors")[0].step == 5
    assert read_log(tmp_path)[-1]["reason"] == "interrupted"
    assert "--resume auto" in caplog.text
    assert train_apart(config, data, tmp_path) == 0
    assert_same_run(straight("fp32", "adamw"), tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "last.safetensors", "best.safetensors"])
def test_a_pipe_in_a_run_folder_is_refused(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match=name):
        prepare_folder(tmp_path, {}, "", "auto")
