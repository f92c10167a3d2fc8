"""The accuracy benchmark: plans, resuming, refusals, and what its figures are."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import landcover.benchmarks.accuracy.__main__ as module
from fake_runtime import ColourRuntime, ConstantRuntime, make_card
from landcover.benchmarks.accuracy.contenders import Contender
from landcover.benchmarks.accuracy.plan import write_report
from landcover.benchmarks.accuracy.process import Job
from landcover.benchmarks.accuracy.protocols import Unit
from landcover.config import dump_yaml
from landcover.data import open_dataset, select
from landcover.data.fingerprints import image_set
from landcover.data.splits import glnet_ids
from landcover.evaluation import evaluate
from landcover.evaluation.interval import paired_interval
from landcover.legend import DEEPGLOBE
from landcover.model import card as bundle
from landcover.model.card import UsedImages, save_model
from landcover.training.data import load_training_data
from training_world import tiny, write_pair

SCENES, TILES = 30, 2
WEIGHTS = "mobilenetv2_100"
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def write_scenes(root: Path, *, size: int = 16) -> Path:
    """Write 30 scenes of 2 tiles for training and 6 more tiles, of the first scenes, for validation."""
    rows = ["part,id,scene,row,col"]
    for number in range(SCENES * TILES + 6):
        part, scene, col = "train", number // TILES, number % TILES
        if number >= SCENES * TILES:
            part, scene, col = "validation", number - SCENES * TILES, TILES
        rng = np.random.default_rng(number)
        blocks = rng.integers(0, 6, (size // 4, size // 4))
        index = np.kron(blocks, np.ones((4, 4))).astype(np.uint8)
        noise = rng.integers(0, 90, (size, size, 3))
        write_pair(root / part, f"{number:04}", DEEPGLOBE.colours[index] // 2 + noise, index)
        rows.append(f"{part},{number:04},s{scene},0,{col}")
    (root / "scenes.csv").write_text("\n".join(rows))
    (root / "landcover.yaml").write_text("gsd: 1.0\n")
    return root


def write_weights(folder: Path) -> str:
    """Write a file that stands for weights, and return what ``--weights`` is given."""
    (folder / "weights").write_bytes(b"weights")
    return f"{WEIGHTS}={folder / 'weights'}"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was trained. Nothing is: contenders called good know colours, others say one thing."""
    labels: list[str] = []

    def prepare_job(self: Contender, unit: Unit, folder: Path, data: Path, cache: Path, split: str) -> None:
        labels.append(f"{unit.label}: {split}")

    def open_model(model: Path) -> ColourRuntime | ConstantRuntime:
        return ColourRuntime() if "good" in str(model) else ConstantRuntime()

    monkeypatch.setattr(Contender, "prepare_job", prepare_job)
    monkeypatch.setattr(module, "open_model", open_model)
    monkeypatch.setattr(module, "model_digest", lambda model: "0" * 64)
    monkeypatch.setattr(module, "prepare", lambda data, cache: None)
    return labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def call(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command with two contenders unless others are given; return its report, or its error."""

    def run(protocol: str = "scenes", *arguments: str, source: Path | None = data) -> Any:
        words = [protocol, "--out", str(tmp_path / "out")]
        if source is not None:
            words += ["--data", str(source), "--weights", write_weights(tmp_path)]
        if not any(word in arguments for word in ("--contender", "--report-only")):
            words += ["--contender", "good=starter", "--contender", "bad=starter", "--minutes", "1"]
        try:
            module.main([*words, *arguments])
        except SystemExit as ended:
            return ended.code, capsys.readouterr().err
        report = json.loads((tmp_path / "out/accuracy.json").read_text())
        printed = capsys.readouterr()
        assert printed.out == (tmp_path / "out/accuracy.md").read_text()
        assert printed.err == ""
        return report

    return run


class TestCampaign:
    def test_fold_by_fold_and_only_once(self, call: Any, trained: list[str]) -> None:
        first = call("scenes", "--folds", "1", "3")
        assert trained == [
            f"{name}, fold {fold}, seed 0: scenes-k5@{fold}" for fold in (1, 3) for name in ("good", "bad")
        ]
        trained.clear()
        assert call("scenes", "--folds", "3", "1") == first
        assert trained == []
        more = call("scenes", "--folds", "0", "--seeds", "0", "2")
        assert trained[:3] == [
            "good, fold 0, seed 0: scenes-k5@0",
            "bad, fold 0, seed 0: scenes-k5@0",
            "good, fold 0, seed 2: scenes-k5@0",
        ]
        assert more["contenders"]["good"]["folds"].keys() == {"0", "1", "3"}
        assert [entry["fold"] for entry in more["contenders"]["good"]["seeds"]] == [0]

    def test_trainings_of_a_fold_at_the_same_time(
        self, call: Any, trained: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        groups: list[tuple[int, int]] = []

        def run_apart(jobs: list[Job], *, at_once: int) -> list[str]:
            groups.append((len(trained), at_once))
            return [""] * len(jobs)

        monkeypatch.setattr(module, "run_apart", run_apart)
        three = ["--contender", "good=starter", "--contender", "bad=starter", "--contender", "worse=starter"]
        call("scenes", "--folds", "0", "1", "--at-once", "2", "--minutes", "1", *three)
        assert groups == [(2, 2), (3, 2), (5, 2), (6, 2)]
        assert [label.split(":")[0] for label in trained[2:4]] == [
            "worse, fold 0, seed 0",
            "good, fold 1, seed 0",
        ]
        groups.clear()
        call(
            "scenes", "--folds", "0", "--at-once", "2", "--seeds", "0", "1", "2", "--minutes", "1", *three[:2]
        )
        assert groups == [(8, 2)], "two seeds that were not there"
        report = call("scenes", "--report-only", source=None)
        assert report["at_once"] == 2
        code, error = call("scenes", "--folds", "2", "--minutes", "1", *three)
        assert (code, "at_once (2 there, 1 here)" in error) == (1, True)
        assert call("scenes", "--at-once", "0")[0] == 2

    def test_beside_a_training_that_fails_the_others_are_scored_and_it_may_be_mended(
        self, call: Any, trained: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def prepare_job(self: Contender, unit: Unit, *_: Any) -> Job:
            trained.append(unit.label)
            return Job(tmp_path / "log", unit.label)

        def run_apart(jobs: list[Job], *, at_once: int) -> list[str]:
            return [f"{job.module} broke down." if "bad" in job.module else "" for job in jobs]

        monkeypatch.setattr(Contender, "prepare_job", prepare_job)
        monkeypatch.setattr(module, "run_apart", run_apart)
        code, error = call("scenes", "--at-once", "2")
        assert code == 1
        assert error == "Error: bad, fold 0, seed 0 broke down.\nMend it and run again to go on.\n"
        report = call("scenes", "--report-only", source=None)
        assert report["contenders"]["good"]["folds"].keys() == {"0"}
        monkeypatch.setattr(module, "run_apart", lambda jobs, at_once: [""] * len(jobs))
        report = call("scenes", "--at-once", "2", "--folds", "0", "--set", "bad:batch_size=4")
        assert report["differences"][0]["folds"] == [0]
        assert trained.count("good, fold 0, seed 0") == 1

    def test_threads_of_its_own_do_not_go_with_a_share(self, call: Any) -> None:
        code, error = call("scenes", "--at-once", "2", "--set", "bad:threads=2")
        assert code == 2
        assert "bad has threads=2 of its own. Give --set bad:threads=null" in error

    @pytest.mark.parametrize(
        "change",
        [[], None, {}, "units", "contenders", "legend", {"units": [["a"]]}, {"contenders": {"good": None}},
         {"at_once": "2"}],
    )  # fmt: skip
    def test_a_plan_that_is_none_is_told_of(
        self, call: Any, trained: list[str], tmp_path: Path, change: Any
    ) -> None:
        call("scenes", "--folds", "0")
        file = tmp_path / "out/plan.json"
        plan = json.loads(file.read_text())
        if isinstance(change, str):
            del plan[change]
        else:
            plan = plan | change if change else change
        file.write_text(json.dumps(plan))
        for code, error in (call("scenes", "--report-only", source=None), call("scenes", "--folds", "0")):
            assert (code, "plan.json is damaged" in error) == (1, True), error

    def test_what_was_stopped_goes_on(
        self,
        call: Any,
        trained: list[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        score, calls = module.score, []

        def stopped(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return score(*arguments)

        monkeypatch.setattr(module, "score", stopped)
        assert call()[0] == 130
        report = call("scenes", "--report-only", source=None)
        assert report["missing"][0] == "bad, fold 1, seed 0"
        assert len(report["missing"]) == 7
        assert report["differences"][0]["folds"] == [0]
        assert "**Not finished**: bad, fold 1, seed 0; " in (tmp_path / "out/accuracy.md").read_text()
        trained.clear()
        assert call()["missing"] == []
        assert trained[0] == "bad, fold 1, seed 0: scenes-k5@1"

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--minutes", "2"], "recipe of good, recipe of bad"),
            (["--set", "bad:batch_size=4"], "recipe of bad"),
            (["--weights", "mobilenetv2_100=other"], "weights of good"),
            (["--contender", "good=demo"], "source of good, .*recipe of good"),
        ],
    )
    def test_results_of_another_plan_are_not_used(
        self,
        call: Any,
        trained: list[str],
        arguments: list[str],
        named: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        call("scenes", "--folds", "0")
        trained.clear()
        (tmp_path / "other").write_bytes(b"others")
        monkeypatch.chdir(tmp_path)
        code, error = call("scenes", *arguments)
        assert code == 1
        assert error.startswith("Error: ")
        assert "results of another" in error
        assert re.search(named, error)
        assert trained == []

    def test_other_data_or_another_protocol_are_refused(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        call("scenes", "--folds", "0")
        other = write_scenes(tmp_path / "other")
        trained.clear()
        call("scenes", "--folds", "0", source=other)
        assert trained == [], "the same data elsewhere are the same"
        table = (other / "scenes.csv").read_text()
        (other / "scenes.csv").write_text(table.replace(",s1,", ",another,"))
        code, error = call("scenes", source=other)
        assert (code, "another dataset" in error) == (1, True)
        code, error = call("course")
        assert (code, "another protocol" in error) == (1, True)
        code, error = call("course", "--report-only", source=None)
        assert (code, "results of the protocol scenes, not course" in error) == (2, True)

    def test_results_of_no_known_plan_are_not_used(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "out/good").mkdir(parents=True)
        (tmp_path / "out/good/fold-0-seed-0.json").write_text("{}")
        code, error = call()
        assert (code, "no plan.json" in error) == (1, True)
        assert trained == []

    @pytest.mark.parametrize("text", ['{"a": 1}', "[]", "null", "{"])
    def test_a_result_that_is_none_is_told_of(
        self, call: Any, trained: list[str], tmp_path: Path, text: str
    ) -> None:
        call("scenes", "--folds", "0")
        (tmp_path / "out/good/fold-0-seed-0.json").write_text(text)
        code, error = call("scenes", "--report-only", source=None)
        assert (code, "Remove both to score again" in error) == (1, True)

    def test_damaged_counts_are_told_of(self, call: Any, trained: list[str], tmp_path: Path) -> None:
        call("scenes", "--folds", "0")
        (tmp_path / "out/good/fold-0-seed-0.npz").write_bytes(b"PK")
        code, error = call("scenes", "--report-only", source=None)
        assert (code, "Remove both to score again" in error) == (1, True)


class TestFigures:
    def test_they_are_those_of_evaluate_and_of_the_intervals(
        self,
        call: Any,
        trained: list[str],
        data: Path,
        tmp_path: Path,
    ) -> None:
        report = call()
        folds = []
        for fold in range(5):
            alone = evaluate(data, f"scenes-k5@{fold}:val", model=module.open_model("good"))  # type: ignore[attr-defined]
            assert report["contenders"]["good"]["folds"][str(fold)]["iou"] == pytest.approx(alone["iou"])
            folds.append(alone)
        good, (difference,) = report["contenders"]["good"], report["differences"]
        assert good["mean"] == pytest.approx(np.mean([fold["miou"] for fold in folds]))
        together = sum(np.array(fold["confusion"]) for fold in folds)[:6]
        iou = together.diagonal() / (together.sum(axis=1) + together.sum(axis=0)[:6] - together.diagonal())
        assert list(good["pooled"]["challenge"]["iou"].values()) == pytest.approx(iou)
        assert good["pooled"]["challenge"]["miou"] == pytest.approx(iou.mean())
        assert (good["images"], good["scenes"]) == (60, 30)
        for score in ("mean", "pooled"):
            low, high = good[f"{score}_interval"]
            value = good["pooled"]["challenge"]["miou"] if score == "pooled" else good["mean"]
            assert 0 < low < value < high < 1
            low, high = difference[f"{score}_interval"]
            assert low < difference[score] < high
        tables = [self._by_scene(tmp_path / "out" / name, data) for name in ("good", "bad")]
        assert difference["pooled_interval"] == pytest.approx(
            paired_interval(*tables, DEEPGLOBE, "challenge"), abs=0.02
        )

    @staticmethod
    def _by_scene(folder: Path, data: Path) -> np.ndarray:
        scenes = open_dataset(data).scenes or {}
        sums: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as arrays:
                assert arrays["tables"].dtype == np.int64
                for key, table in zip(arrays["keys"].tolist(), arrays["tables"], strict=True):
                    scene = scenes[key].scene
                    sums[scene] = sums.get(scene, 0) + table
        return np.stack([sums[scene] for scene in sorted(sums)])

    def test_seeds_have_mean_deviation_and_range(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        call("scenes", "--folds", "2", "--seeds", "1", "5", "9")
        for seed, right in ((1, 30), (5, 60), (9, 90)):
            path = tmp_path / f"out/good/fold-2-seed-{seed}.npz"
            with np.load(path) as arrays:
                found = dict(arrays)
            found["tables"][:] = 0
            found["tables"][0, 0, :2] = right, 100 - right
            np.savez(path, **found)
        report = write_report(tmp_path / "out")
        (entry,) = report["contenders"]["good"]["seeds"]
        miou = [right / 100 / 2 for right in (30, 60, 90)]  # of two classes, one never found
        assert list(entry["miou"]) == [1, 5, 9]
        assert list(entry["miou"].values()) == pytest.approx(miou)
        assert (entry["mean"], entry["std"], entry["range"]) == pytest.approx((0.30, 0.15, 0.30))
        assert report["contenders"]["good"]["folds"]["2"]["miou"] == pytest.approx(0.15)  # the smallest seed
        assert "| good | 2 | 1: 15.0, 5: 30.0, 9: 45.0 | 30.00 | 15.00 | 30.00 |" in report["markdown"]

    def test_a_fold_without_a_score_is_left_out_of_means_and_told_of(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        without = call("scenes", "--folds", "0", "3", "--seeds", "0", "1")
        call("scenes", "--folds", "2", "--seeds", "0", "1")
        for name in ("good", "bad"):
            self._empty(tmp_path / f"out/{name}/fold-2-seed-0.npz")
        report = json.loads(json.dumps(write_report(tmp_path / "out")))
        for name in ("good", "bad"):
            found, before = report["contenders"][name], without["contenders"][name]
            assert found["folds"]["2"]["miou"] is None
            for key in ("mean", "mean_interval", "pooled"):
                assert found[key] == before[key]
            assert found["warnings"] == [
                f"{name} has no mIoU on fold 2, whose tiles have no pixel of a scored class: left out."
            ]
            assert f"- {found['warnings'][0]}" in report["markdown"]
            assert [entry["fold"] for entry in found["seeds"]] == [0, 3]
        assert report["differences"] == without["differences"]
        assert re.search(r"\| good \| [\d.]+ \| – \| – \| [\d.]+ \| – \|", report["markdown"])

    def test_where_only_one_has_a_score_there_is_no_difference(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        call("course")
        self._empty(tmp_path / "out/bad/seed-0.npz")
        report = write_report(tmp_path / "out")
        assert report["contenders"]["good"]["pooled"]["challenge"]["miou"] > 0
        bad, (difference,) = report["contenders"]["bad"], report["differences"]
        assert (bad["pooled"]["challenge"]["miou"], bad["pooled_interval"]) == (None, None)
        assert bad["warnings"] == ["bad has no mIoU: the tiles have no pixel of a scored class."]
        assert (difference["folds"], difference["pooled"], difference["pooled_interval"]) == ([], None, None)
        assert "| good - bad | – | – |" in report["markdown"]

    @staticmethod
    def _empty(path: Path) -> None:
        with np.load(path) as arrays:
            found = dict(arrays)
        found["tables"][:] = 0
        np.savez(path, **found)

    def test_the_course_protocol_scores_the_other_folder_once(
        self,
        call: Any,
        trained: list[str],
    ) -> None:
        report = call("course")
        assert trained == ["good, seed 0: folders", "bad, seed 0: folders"]
        good = report["contenders"]["good"]
        assert (good["images"], good["scenes"], good["mean"], good["folds"]) == (6, 6, None, {})
        assert "optimistic" in report["words"]
        code, error = call("course", "--folds", "0")
        assert (code, "has a single split" in error) == (2, True)

    def test_the_glnet_protocol_reports_its_metric_beside_ours(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        rng = np.random.default_rng(0)
        for name in frozenset().union(*glnet_ids().values()):
            index = np.kron(rng.integers(0, 7, (2, 2)), np.ones((4, 4))).astype(np.uint8)
            write_pair(tmp_path / "full", name, DEEPGLOBE.colours[index] // 2 + 50, index)
        (tmp_path / "full/landcover.yaml").write_text("gsd: 1.0\n")
        code, error = call("glnet")
        assert (code, "none of the 803" in error) == (2, True)
        report = call("glnet", source=tmp_path / "full")
        good = report["contenders"]["good"]
        assert good["images"] == good["scenes"] == 142
        assert good["pooled"]["glnet"]["miou"] < good["pooled"]["challenge"]["miou"]
        assert report["plan"]["good"]["rule"].startswith("best on val")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--folds", "5"], "no fold 5 of 5; they are numbered 0 to 4"),
            (
                ["--contender", "reference"],
                "'reference' needs a limit: --minutes M, or --minutes reference=M",
            ),
            (["--contender", "x=starter", "--seeds", "0", "-1"], "--seeds -1 was given"),
            (["--contender", "x=startr"], "Did you mean 'starter'.*reference, peer and run:FOLDER"),
            (["--contender", "x=deeplabv3plus-resnet101", "--steps", "1"], "--weights resnet101=FILE"),
            (["--contender", "peer", "--minutes", "1"], "--weights tf_efficientnet_b4=FILE"),
            (["--contender", "x=run:runs/a"], r"expected \{fold\} in it"),
            (["--contender", "x=run:a{fold}", "--set", "x:seed=1"], "trained elsewhere"),
            (["--contender", "x=demo", "--contender", "x=starter"], "another contender 'x'"),
            (["--contender", "../x=demo"], "expected NAME=SOURCE"),
            (["--contender", "x=demo", "--set", "y:seed=1"], "NAME:KEY=VALUE.*'x'|Known: x"),
            (["--contender", "x=demo", "--set", "x:sed=1"], "unknown key 'sed'"),
            (["--contender", "x=demo", "--minutes", "x=0"], "expected a number above 0"),
            (["--contender", "x=demo", "--minutes", "y=3"], "no such contender"),
            (["--contender", "x=demo", "--minutes", "3", "--steps", "3"], "two limits"),
            (["--contender", "x=demo", "--weights", "resnet10t=none.safetensors"], "no such file"),
            (
                ["--contender", "x=demo", "--set", "x:freeze=[low_level]"],
                r"freeze=\[low_level\].*--weights resnet10t=FILE.*--set 'x:freeze=\[\]'",
            ),
        ],
    )
    def test_what_cannot_be_is_said_before_any_work(
        self,
        call: Any,
        trained: list[str],
        arguments: list[str],
        message: str,
    ) -> None:
        code, error = call("scenes", *arguments)
        assert code == 2
        assert re.search(message, error.replace("\n", " ")), error
        assert trained == []

    def test_nothing_to_do(self, call: Any) -> None:
        code, error = call("scenes", "--report-only", source=None)
        assert (code, "nothing was begun there" in error) == (2, True)
        code, error = call("scenes", "--contender", "demo", source=None)
        assert (code, "Give --data D" in error) == (2, True)

    def test_data_without_scenes(self, call: Any, trained: list[str], tmp_path: Path) -> None:
        bare = write_scenes(tmp_path / "bare")
        (bare / "scenes.csv").unlink()
        code, error = call("scenes", source=bare)
        assert (code, "no scenes.csv" in error) == (2, True)

    def test_a_missing_peer_names_the_extra(
        self,
        call: Any,
        trained: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
        code, error = call("scenes", "--contender", "reference", "--minutes", "1")
        assert (code, "pip install 'landcover[bench]'" in error) == (1, True)
        assert trained == []


class TestTrainedElsewhere:
    """``run:PATTERN``: scored only, and only on images that it was not trained on."""

    def _model(self, path: Path, data: Path | None = None, split: str = "", *, best: bool = False) -> None:
        used = UsedImages()
        if data is not None:
            material = load_training_data(data, split, crop_px=32, model_gsd=None)
            training, selection = (
                image_set(material.dataset, items) for items in (material.train, material.validation)
            )
            used = UsedImages(training=training, selection=selection if best else None)
        save_model(path / "best.safetensors", {}, make_card().model_copy(update={"used_images": used}))

    def test_a_model_for_each_fold(self, call: Any, trained: list[str], data: Path, tmp_path: Path) -> None:
        for fold, (name, best) in enumerate([("scenes-k5@0", False), ("scenes-k5@1,4", True)]):
            self._model(tmp_path / f"good-{fold}", data, name, best=best)
        pattern = f"x=run:{tmp_path}/good-{{fold}}"
        report = call("scenes", "--contender", pattern, "--folds", "0", "1", "--seeds", "0", "1")
        assert report["plan"]["x"]["rule"] == "as given"
        assert report["contenders"]["x"]["folds"].keys() == {"0", "1"}
        assert report["contenders"]["x"]["training"] is None
        assert report["contenders"]["x"]["warnings"] == []
        assert report["contenders"]["x"]["seeds"] == []

    @pytest.mark.parametrize(
        ("split", "best", "message"),
        [
            ("scenes-k5@1", False, "Identical image found"),
            ("all", False, "Identical image found"),
            ("scenes-k5@0", True, "were chosen by their scores on"),
        ],
    )
    def test_what_was_trained_or_chosen_on_the_fold_is_refused(
        self, call: Any, trained: list[str], data: Path, tmp_path: Path, split: str, best: bool, message: str
    ) -> None:
        self._model(tmp_path / "good-0", data, split, best=best)
        code, error = call("scenes", "--contender", f"x=run:{tmp_path}/good-{{fold}}", "--folds", "0")
        assert (code, message in error) == (1, True)

    def test_what_is_not_recorded_is_a_warning(self, call: Any, trained: list[str], tmp_path: Path) -> None:
        self._model(tmp_path / "good-0")
        report = call("scenes", "--contender", f"x=run:{tmp_path}/good-{{fold}}", "--folds", "0")
        (warning,) = report["contenders"]["x"]["warnings"]
        assert "Cannot tell whether these images were used for training" in warning
        assert warning in (tmp_path / "out/accuracy.md").read_text()

    def test_a_result_of_a_model_that_was_replaced_is_not_used(
        self,
        call: Any,
        trained: list[str],
        data: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(module, "model_digest", bundle.model_digest)
        command = ("scenes", "--contender", f"x=run:{tmp_path}/good-{{fold}}", "--folds", "0")
        self._model(tmp_path / "good-0")
        first = call(*command)
        assert call(*command) == first
        before = (tmp_path / "good-0/best.safetensors").read_bytes()
        card = bundle.read_card(tmp_path / "good-0").model_copy(update={"temperature": 2.0})
        save_model(tmp_path / "good-0/best.safetensors", {}, card, force=True)
        code, error = call(*command)
        assert code == 1
        assert re.search(r"results of another model .*good-0 \(x, fold 0, seed 0\).*another name", error)
        code, error = call(*command[:-1], "0", "1")  # nor when there is more to do
        assert code == 1
        (tmp_path / "good-0/best.safetensors").write_bytes(before)
        assert call(*command) == first
        (tmp_path / "good-0/best.safetensors").unlink()
        assert call(*command) == first

    def test_a_missing_model_is_an_error_before_any_work(
        self,
        call: Any,
        trained: list[str],
        tmp_path: Path,
    ) -> None:
        self._model(tmp_path / "good-0")
        code, error = call("scenes", "--contender", f"x=run:{tmp_path}/good-{{fold}}")
        assert (code, "good-1" in error) == (1, True)
        assert not (tmp_path / "out/x").exists()


def test_a_training_on_a_development_split_leaves_the_test_part_alone(data: Path) -> None:
    material = load_training_data(data, "scenes-k5@2,0", crop_px=32, model_gsd=None)
    held_out = {item.key for item in select(open_dataset(data), "scenes-k5@2:val")}
    used = {item.key for item in (*material.train, *material.validation)}
    assert not used & held_out
    assert len(used | held_out) == 60
    assert material.validation_part == "val"


def test_one_real_training_from_command_to_table(data: Path, tmp_path: Path, call: Any) -> None:
    settings = tmp_path / "tiny.yaml"
    settings.write_text(dump_yaml(tiny("steps=3", "log_every=1")))
    report = call("course", "--contender", f"small={settings}", "--set", "small:batch_size=3")
    small = report["contenders"]["small"]
    assert small["training"]["steps"] == 3
    assert small["training"]["images"] == 9
    assert small["images"] == 6
    assert report["plan"]["small"]["rule"] == "last weights, averaged (0.9)"
    about = json.loads((tmp_path / "out/small/seed-0.json").read_text())
    assert about["model_sha256"]
    assert about["part"] == "validation"
    assert about["versions"]["landcover"]


@pytest.mark.parametrize(
    "kept", [pytest.param(plan.parent, id=plan.parent.name) for plan in sorted(RESULTS.glob("*/plan.json"))]
)
def test_kept_results_give_the_report_that_is_kept_beside_them(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every figure comes from counts of tiles: it can be read from these again, without imagery."""
    out = tmp_path / kept.name
    shutil.copytree(kept, out)
    (out / "accuracy.md").unlink()
    protocol = json.loads((out / "plan.json").read_text())["protocol"]
    module.main([protocol, "--out", str(out), "--report-only"])
    assert capsys.readouterr().out == (kept / "accuracy.md").read_text()
