"""Threads are chosen once per run; a run that becomes slow says so once."""

import json
import os
import subprocess
import sys

import pytest
import torch

from landcover import machine
from landcover.training import pace, train
from landcover.training.log import read_log
from landcover.training.pace import Pace, choose_threads
from training_world import tiny, write_pairs


@pytest.fixture
def idle(monkeypatch):
    """Return a function that sets the idle and all processors; torch would use all."""

    def state(count, of=8):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(pace, "idle_processors", lambda: count)
        monkeypatch.setattr(pace, "processors", lambda: of)
        monkeypatch.setattr(torch, "get_num_threads", lambda: of)

    return state


@pytest.mark.parametrize(("count", "threads"), [(8.0, 8), (7.1, 7), (0.2, 1)])
def test_one_thread_for_each_idle_processor(tmp_path, idle, count, threads):
    idle(count)
    assert choose_threads(None, tmp_path) == threads
    assert choose_threads(3, tmp_path) == 3  # set by the user


def test_omp_num_threads_is_the_users_choice(tmp_path, idle, monkeypatch):
    idle(1.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert choose_threads(None, tmp_path) == 8


def test_a_resumed_run_keeps_its_number(tmp_path, idle):
    idle(2.0)
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps({"event": "start", "threads": number}) for number in (4, 5)))
    assert choose_threads(None, tmp_path) == 5
    idle(2.0, of=3)
    assert choose_threads(None, tmp_path) == 3  # more threads than processors would hold each other up
    log.write_text('{"event": "start", "threads": "many"}\nnot JSON')
    assert choose_threads(None, tmp_path) == 2


def test_a_run_stores_and_reuses_its_threads(tmp_path, monkeypatch):
    data = write_pairs(tmp_path / "data")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    for count in (2.0, 1.0):
        monkeypatch.setattr(pace, "idle_processors", lambda count=count: count)
        monkeypatch.setattr(pace, "processors", lambda: 2)
        torch.set_num_threads(2)
        try:
            train(tiny("threads=null", "steps=1"), data=data, out=tmp_path / "run")
        finally:
            torch.set_num_threads(before)
    starts = [line["threads"] for line in read_log(tmp_path / "run") if line["event"] == "start"]
    assert starts == [2, 2]


def test_a_minute_below_a_third_of_the_first_warns_once():
    run = Pace()
    warnings = [run.step(0.5) for _ in range(120)]  # 120 steps a minute
    warnings += [run.step(1.4) for _ in range(86)]  # 43 a minute: slower, but not by three
    assert (run.first, set(warnings)) == (120, {None})
    slow = [warning for warning in (run.step(2.0) for _ in range(120)) if warning]
    assert len(slow) == 1
    assert "30.0" in slow[0]
    assert "120.0" in slow[0]


def test_a_run_limited_in_minutes_reports_the_steps_that_it_should_have_made(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            self.now += 2 if self.now < 90 else 10
            return self.now

    data = write_pairs(tmp_path / "data")
    monkeypatch.setattr("landcover.training.loop.time", Clock())
    result = train(tiny("steps=null", "minutes=10"), data=data, out=tmp_path / "run")
    assert result.expected_steps > 2 * result.step
    assert read_log(tmp_path / "run")[-1]["expected_steps"] == result.expected_steps


@pytest.mark.parametrize(
    ("count", "own", "expected"),
    [(1.0, None, ("PASSIVE", "0")), (2.0, None, (None, None)), (1.0, "ACTIVE", ("ACTIVE", "0"))],
)
def test_threads_sleep_while_they_wait_only_beside_other_programs(monkeypatch, count, own, expected):
    for name, value in (("OMP_WAIT_POLICY", own), ("GOMP_SPINCOUNT", None)):
        monkeypatch.setenv(name, "")
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "idle_processors", lambda: count)
    monkeypatch.setattr(machine, "processors", lambda: 2)
    machine.sleep_between_layers()
    assert (os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")) == expected


def test_train_decides_before_torch_is_loaded():
    code = (
        "import sys\nfrom landcover import machine\n"
        "machine.sleep_between_layers = lambda: sys.exit(70 + ('torch' in sys.modules))\n"
        "sys.argv = ['landcover', 'train', '--show-config']\nfrom landcover.cli import main\nmain()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 70
