"""The peers of the accuracy benchmark, without the library that builds them; processes that are stopped."""

import json
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import landcover.benchmarks.reference as module
from landcover.benchmarks.accuracy import contenders
from landcover.benchmarks.accuracy.process import Job, run_apart
from landcover.benchmarks.accuracy.protocols import PROTOCOLS, Unit
from landcover.benchmarks.accuracy.recipes import MEAN, RECIPES, STD, Crops, load_recipe
from landcover.benchmarks.accuracy.scores import effort
from landcover.data import open_dataset, select
from landcover.errors import ConfigError, DataError, ModelError, UsageError
from landcover.io import colours_to_index
from landcover.legend import DEEPGLOBE
from training_world import write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


class Small(nn.Module):
    """A network of two convolutions, of which the first is the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).relu())


def small(**changes: Any) -> Any:
    return RECIPES["peer"].model_copy(update={"crop_px": 32, "batch_size": 2} | changes)


class TestCrops:
    def test_the_reference_draws_and_cuts_as_it_always_did(self, data: Path) -> None:
        """Earlier figures compare only if it does; the expectation is the code that made them."""
        items = select(open_dataset(data), "folders:train")
        crops = Crops(items, DEEPGLOBE, RECIPES["reference"].model_copy(update={"crop_px": 32}))
        random.seed(5)
        found = [crops[number] for number in range(4)]
        random.seed(5)
        for item, (image_found, target_found) in zip(items, found, strict=True):
            image = np.asarray(Image.open(item.image).convert("RGB"))
            index, _ = colours_to_index(np.asarray(Image.open(item.mask).convert("RGB")), DEEPGLOBE)
            row, col = random.randint(0, 48 - 32), random.randint(0, 48 - 32)
            window = slice(row, row + 32), slice(col, col + 32)
            turns, mirror = random.randint(0, 3), random.random() < 0.5
            image, index = np.rot90(image[window], turns), np.rot90(index[window], turns)
            if mirror:
                image, index = image[:, ::-1], index[:, ::-1]
            expected = (image.astype(np.float32) / 255 - MEAN) / STD
            np.testing.assert_array_equal(image_found.numpy(), expected.transpose(2, 0, 1))
            np.testing.assert_array_equal(target_found.numpy(), DEEPGLOBE.channels[index])

    @pytest.mark.parametrize("crop_px", [24, 32, 64])
    def test_a_peer_magnifies_image_and_mask_alike(self, data: Path, crop_px: int) -> None:
        """Colours tell the class in these images: they must still do after magnification and jitter."""
        items = select(open_dataset(data), "folders:train")
        crops = Crops(items, DEEPGLOBE, small(crop_px=crop_px, jitter=0.05))
        random.seed(1)
        sides = set()
        for number in range(20):
            image, target = crops[number % 4]
            assert (image.shape, image.dtype) == ((3, crop_px, crop_px), torch.float32)
            assert (target.shape, target.dtype) == ((crop_px, crop_px), torch.int64)
            colours = (image.numpy().transpose(1, 2, 0) * STD + MEAN) * 255
            nearest = ((colours[..., None, :] - (DEEPGLOBE.colours[:7] // 2 + 50.0)) ** 2).sum(-1).argmin(-1)
            known = target.numpy() < 6
            assert (nearest == target.numpy())[known].mean() > 0.6
            sides.add(int((np.diff(target.numpy()[:, 0]) != 0).sum()))
        assert len(sides) > 1

    def test_jitter_changes_colours_and_nothing_else(self, data: Path) -> None:
        items = select(open_dataset(data), "folders:train")
        plain, varied = (Crops(items, DEEPGLOBE, small(jitter=jitter)) for jitter in (0.0, 0.3))
        for crops in (plain, varied):
            random.seed(2)
            crops.first = crops[0]  # type: ignore[attr-defined]
        assert torch.equal(plain.first[1], varied.first[1])  # type: ignore[attr-defined]
        assert not torch.equal(plain.first[0], varied.first[0])  # type: ignore[attr-defined]

    def test_recipes_by_name_or_file(self, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text("crop_px: 512\n")
        assert load_recipe(str(tmp_path / "r.yaml")).crop_px == 512
        assert load_recipe("peer").encoder == "tf_efficientnet_b4"
        (tmp_path / "r.yaml").write_text("crop: 512\n")
        with pytest.raises(ConfigError, match="'crop_px'"):
            load_recipe(str(tmp_path / "r.yaml"))
        with pytest.raises(UsageError, match="Did you mean 'peer'"):
            load_recipe("peers")


class TestTraining:
    def test_weights_and_effort_are_written_and_come_back(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built: list[Small] = []

        def build(classes: int, weights: Path | None, encoder: str) -> Small:
            built.append(Small())
            return built[-1]

        monkeypatch.setattr(module, "reference_network", build)
        (tmp_path / "r.yaml").write_text("{crop_px: 32, batch_size: 2, scale: [0.8, 1.2], jitter: 0.1}")
        words = ["--data", str(data), "--split", "folders", "--recipe", str(tmp_path / "r.yaml")]
        words += ["--weights", "none", "--steps", "3", "--out", str(tmp_path / "run"), "--device", "cpu"]
        module.main(words)
        about = json.loads((tmp_path / "run/training.json").read_text())
        assert (about["steps"], about["images"], about["recipe"]["crop_px"]) == (3, 6, 32)
        found = effort(tmp_path / "run") or {}
        assert found["images_per_second"] == pytest.approx(6 / about["seconds"])
        runtime = module.open_peer(tmp_path / "run", open_dataset(data), "cpu")
        for name, value in built[0].state_dict().items():
            assert torch.equal(value, built[1].state_dict()[name])
        assert runtime.probabilities(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 6, 32, 32)
        assert effort(tmp_path) is None
        with pytest.raises(SystemExit) as ended:
            module.main(words)
        assert ended.value.code == 1  # nothing is replaced

    def test_fewer_images_than_a_batch_are_an_error_not_an_endless_loop(self, data: Path) -> None:
        items = select(open_dataset(data), "folders:train")
        network = Small()
        with pytest.raises(DataError, match="4 images to train on do not fill one batch of 12"):
            module.reference_loop(network, network.encoder, items, DEEPGLOBE, steps=1)


class TestEncoderWeights:
    @pytest.fixture
    def body(self, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
        """The encoder of a library that stands for segmentation_models_pytorch."""
        body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def build(name: str, encoder_weights: None, classes: int) -> SimpleNamespace:
            assert name == "tu-some_encoder"
            return SimpleNamespace(encoder=SimpleNamespace(model=body))

        monkeypatch.setattr(module, "import_peer", lambda: SimpleNamespace(DeepLabV3Plus=build))
        return body

    def _write(self, path: Path, body: nn.Module, **changes: torch.Tensor) -> Path:
        tensors = {
            name: torch.rand_like(value, dtype=torch.float32) for name, value in body.state_dict().items()
        }
        tensors = {name: value.half() for name, value in tensors.items() if "num_batches" not in name}
        tensors |= {"classifier.weight": torch.zeros(2, 4), **changes}
        save_file({name: value for name, value in tensors.items() if value.numel()}, path)
        return path

    def test_half_precision_without_counters_and_with_a_classifier(
        self, body: nn.Module, tmp_path: Path
    ) -> None:
        module.reference_network(6, self._write(tmp_path / "w.safetensors", body), "some_encoder")
        assert body[0].weight.dtype == torch.float32  # type: ignore[index]
        assert torch.equal(body[0].weight, body[0].weight.half().float())  # type: ignore[index]

    def test_a_missing_tensor_is_an_error(self, body: nn.Module, tmp_path: Path) -> None:
        file = self._write(tmp_path / "w.safetensors", body, **{"1.running_mean": torch.zeros(0)})
        with pytest.raises(ModelError, match=r"lacks 1 tensors of some_encoder, such as '1\.running_mean'"):
            module.reference_network(6, file, "some_encoder")

    def test_another_encoder_is_an_error(self, body: nn.Module, tmp_path: Path) -> None:
        file = self._write(tmp_path / "w.safetensors", body, **{"0.weight": torch.zeros(9, 3, 1, 1)})
        with pytest.raises(
            ModelError, match=r"holds no weights of some_encoder: size mismatch for 0\.weight"
        ):
            module.reference_network(6, file, "some_encoder")
        (tmp_path / "x").write_bytes(b"no tensors")
        with pytest.raises(ModelError, match="not a model file"):
            module.reference_network(6, tmp_path / "x", "some_encoder")


def test_a_peer_that_was_trained_but_not_scored_is_not_trained_again(tmp_path: Path) -> None:
    (tmp_path / "w").touch()
    (peer,) = contenders.parse_contenders(
        ["reference"], PROTOCOLS["scenes"], minutes=["5"], weights=[f"mobilenetv2_100={tmp_path / 'w'}"]
    )
    unit = Unit("reference", 1, 0)
    job = peer.prepare_job(unit, tmp_path, tmp_path / "data", tmp_path / "cache", "scenes-k5@1")
    assert job is not None
    assert (job.log, job.module) == (tmp_path / "fold-1-seed-0.log", "landcover.benchmarks.reference")
    words = list(job.arguments)
    assert words[words.index("--split") + 1] == "scenes-k5@1"
    assert words[words.index("--minutes") + 1] == 5.0
    assert words[words.index("--data") + 1] == tmp_path / "data"
    (tmp_path / "fold-1-seed-0").mkdir()
    (tmp_path / "fold-1-seed-0/training.json").touch()
    assert peer.prepare_job(unit, tmp_path, tmp_path / "data", tmp_path / "cache", "scenes-k5@1") is None


class TestProcesses:
    def test_what_fails_shows_the_end_of_its_log(self, tmp_path: Path) -> None:
        (tmp_path / "failing.py").write_text("import sys; print('reason', file=sys.stderr); sys.exit(3)")
        (said,) = self._run(tmp_path, "failing")
        assert said == "-m failing ended with status 3.\n  reason"
        assert (tmp_path / "logs/failing.log").read_text() == "reason\n"

    def test_an_interrupt_is_handed_on_and_waited_for(self, tmp_path: Path) -> None:
        """The process ends in its own time: a training writes its checkpoint."""
        (tmp_path / "lasting.py").write_text(
            "import os, signal, sys, time\n"
            "from pathlib import Path\n"
            "def end(*_):\n"
            "    time.sleep(0.5)\n"
            "    Path(f'kept-{os.getpid()}').touch()\n"
            "    sys.exit(130)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "Path(f'begun-{os.getpid()}').touch()\n"
            "time.sleep(60)\n"
        )

        def interrupt() -> None:
            while len(list(tmp_path.glob("begun-*"))) < 2:
                time.sleep(0.05)
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            self._run(tmp_path, "lasting", "lasting")
        thread.join()
        assert len(list(tmp_path.glob("kept-*"))) == 2

    def test_several_run_at_the_same_time_with_a_share_of_the_threads_each(self, tmp_path: Path) -> None:
        """Each waits for the other to begin: one after the other, the first would wait in vain."""
        for name, other in (("first", "second"), ("second", "first")):
            (tmp_path / f"{name}.py").write_text(
                "import os, time\n"
                "from pathlib import Path\n"
                f"Path('{name}-begun').write_text(os.environ['OMP_NUM_THREADS'])\n"
                "deadline = time.monotonic() + 30\n"
                f"while not Path('{other}-begun').exists():\n"
                "    assert time.monotonic() < deadline\n"
                "    time.sleep(0.05)\n"
                f"print('{name} done')\n"
            )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda: 9)
            self._run(tmp_path, "first", "second")
        for name in ("first", "second"):
            assert (tmp_path / f"logs/{name}.log").read_text() == f"{name} done\n"
            assert (tmp_path / f"{name}-begun").read_text() == "4"

    def test_the_others_end_before_failures_are_told_together(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "failing.py").write_text("import sys; print('reason', file=sys.stderr); sys.exit(3)")
        (tmp_path / "other.py").write_text("import sys; sys.exit('another')")
        (tmp_path / "slow.py").write_text("import time; time.sleep(1); open('kept', 'w')")
        said = self._run(tmp_path, "failing", "slow", "other")
        assert said == [
            "-m failing ended with status 3.\n  reason",
            "",
            "-m other ended with status 1.\n  another",
        ]
        assert (tmp_path / "kept").exists()
        assert f"A training failed, see {tmp_path / 'logs/failing.log'}; the" in capsys.readouterr().err

    def test_nothing_goes_on_where_a_job_cannot_be_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "lasting.py").write_text("import time; time.sleep(60)")
        started: list[Any] = []
        popen = subprocess.Popen

        def start(*arguments: Any, **options: Any) -> Any:
            if started:
                raise OSError("no more processes")
            started.append(popen(*arguments, **options))
            return started[0]

        monkeypatch.setattr(subprocess, "Popen", start)
        with pytest.raises(OSError, match="no more processes"):
            self._run(tmp_path, "lasting", "lasting")
        assert started[0].poll() is not None

    def _run(self, folder: Path, *names: str) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            return run_apart([Job(folder / f"logs/{name}.log", name) for name in names], at_once=len(names))
