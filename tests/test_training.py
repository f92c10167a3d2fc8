import errno
import json
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from commands import invoke, refusal
from landcover.config import dump_yaml, from_mapping, load_config, with_overrides
from landcover.data import open_dataset
from landcover.errors import (
    ConfigError,
    DataError,
    ModelError,
    OutputError,
    SplitError,
    TrainingError,
    UsageError,
)
from landcover.inference import predict_index
from landcover.io.locks import locked_folder
from landcover.legend import DEEPGLOBE, LandClass, Legend
from landcover.metrics import ConfusionMatrix
from landcover.model import TESTED_ENCODERS
from landcover.model.card import read_card, read_model, save_model
from landcover.model.files import read_tensors
from landcover.model.network import build_model
from landcover.model.preprocessing import Preprocessing
from landcover.model.runtimes import open_model
from landcover.training import TrainConfig, load_preset, presets, train
from landcover.training.batches import BatchReader
from landcover.training.config import ScheduleConfig, ValidationConfig
from landcover.training.data import evenly_spaced, load_training_data
from landcover.training.log import RunLog, read_log
from landcover.training.loop import batch_scores, interrupts
from landcover.training.optim import (
    WeightAverage,
    build_optimiser,
    has_bfloat16,
    learning_rate_factor,
    pick_precision,
)
from landcover.training.runs import (
    Progress,
    TrainingState,
    end_reason,
    kept_scores,
    record_scores,
    validation_due,
)
from training_world import TINY, assert_same_tensors, tiny, write_pair, write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run; not to be written to."""
    out = tmp_path_factory.mktemp("run")
    train(tiny(), data=data, out=out)
    return out


@pytest.mark.parametrize(
    "name", ["starter", "starter-dense", "best", "best-dense", "deeplabv3plus-resnet101"]
)
def test_presets_are_complete_and_survive_a_file(name, tmp_path):
    config = load_preset(name)
    assert name in presets()
    if "resnet" not in name:
        assert config.model.output_stride in TESTED_ENCODERS[config.model.encoder].output_strides
    (tmp_path / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(TrainConfig, tmp_path / "config.yaml") == config
    assert load_preset(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": None}, ["--steps", "--minutes"]),
        ({"minutes": 3.0}, ["steps=6", "minutes=3.0"]),
        ({"batch_size": 1}, ["batch_size=2", "freeze_batch_norm"]),
        ({"overlap_px": 600}, ["overlap_px=600", "window_px=512"]),
        ({"crop_px": 33}, ["crop_px=33", "loss.stride=4"]),
        ({"schedule": {"name": "piecewise"}}, ["milestones"]),
        ({"schedule": {"milestones": [0.5]}}, ["piecewise"]),
        ({"schedule": {"name": "piecewise", "milestones": [0.7, 0.5]}}, ["0.7, 0.5"]),
        ({"augment": {"scale": [2.0, 0.5]}}, ["augment.scale", "smallest"]),
        ({"validation": {"patience": 2, "keep": "last"}}, ["patience", "keep=last"]),
        ({"model": {"encoder": "repvgg_a0"}}, ["repvgg_a0", "channels_last=false"]),
        ({"freeze": "low_level"}, ["freeze: found 'low_level'", "a list in square brackets"]),
    ],
)
def test_wrong_settings_are_named(change, words):
    with pytest.raises(ConfigError) as caught:
        from_mapping(TrainConfig, {**TINY, **change}, "test")
    for word in words:
        assert word in str(caught.value)


def test_american_spelling_and_any_order_are_accepted():
    config = from_mapping(TrainConfig, {**TINY, "optimizer": {"name": "sgd"}, "license": "CC0"}, "test")
    assert (config.optimiser.name, config.licence) == ("sgd", "CC0")
    assert tiny("freeze=[low_level, encoder_batch_norms]") == tiny("freeze=[encoder_batch_norms, low_level]")
    both = with_overrides(tiny("optimiser.learning_rate=0.5"), ["optimizer.name=sgd"])
    assert (both.optimiser.name, both.optimiser.learning_rate) == ("sgd", 0.5)


def factors(count=101, **options):
    config = ScheduleConfig(**options)
    return [learning_rate_factor(config, 0.1, i / (count - 1), i) for i in range(count)]


def test_schedules_begin_end_and_bend_where_they_should():
    poly = factors(name="poly", power=0.9, end_learning_rate=1e-3)
    assert (poly[0], poly[-1]) == (1, pytest.approx(0.01))
    assert poly[50] == pytest.approx(0.01 + 0.99 * 0.5**0.9)
    cosine = factors(name="cosine")
    assert (cosine[0], cosine[50], cosine[-1]) == (1, pytest.approx(0.5), pytest.approx(0))
    steps = factors(name="piecewise", milestones=(0.5, 0.75))
    assert [steps[i] for i in (49, 50, 74, 75, 100)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert set(factors(name="constant")) == {1}
    assert factors(name="constant", warmup_steps=4)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    for falling in (poly, cosine):
        assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("largest", [0.5, 0.0])
def test_the_average_is_its_recurrence(largest):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average = WeightAverage(module, largest)
    expected = {name: value.double().clone() for name, value in module.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        with torch.no_grad():
            for value in module.state_dict().values():
                value.copy_(torch.rand(value.shape, generator=generator) * 10)
        average.update(step)
        decay = min(largest, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    found = average.module.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert found["1.num_batches_tracked"] == module[1].num_batches_tracked
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_do_not_decay(name):
    config = tiny(
        f"optimiser.name={name}", "optimiser.weight_decay=0.5", "optimiser.encoder_learning_rate=1e-4"
    )
    network = build_model(config.model, classes=6)
    optimiser = build_optimiser(network, config.optimiser)
    before = {key: value.clone() for key, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for key, value in network.named_parameters():
        assert torch.equal(value, before[key]) == (value.ndim == 1 or not before[key].any()), key
    groups = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for key, value in network.named_parameters():
        group = groups[id(value)]
        assert group["lr"] == (1e-4 if key.startswith("encoder.") else 1e-3), key
        assert group["weight_decay"] == (0.0 if value.ndim < 2 else 0.5), key


def due_steps(config, shares=None):
    progress, due = Progress(), []
    for step in range(1, (config.steps or len(shares)) + 1):
        progress.step = step
        if shares:
            progress.seconds = shares[step - 1] * 60 * config.minutes
        if validation_due(config, progress):
            due.append(step)
            record_scores(config, progress, {"miou": 0.5})
            assert not validation_due(config, progress)
    return due


def test_validation_comes_by_share_by_steps_and_at_the_end():
    assert due_steps(tiny("steps=20", "validation={percent: 30}")) == [6, 12, 18, 20]
    assert due_steps(tiny("steps=10", "validation={percent: 10}")) == list(range(1, 11))
    assert due_steps(tiny("steps=11", "validation.every_steps=4")) == [4, 8, 11]
    by_time = tiny("steps=null", "minutes=2", "validation={percent: 25}")
    assert due_steps(by_time, [0.1, 0.3, 0.4, 0.8, 0.9, 1.0]) == [2, 4, 6]


def test_patience_counts_validations_without_a_new_best():
    config = tiny("validation.patience=2", "steps=100")
    progress = Progress()
    for step, (miou, over) in enumerate([(0.3, None), (0.4, None), (0.4, None), (None, "patience")], 1):
        progress.step = step
        record_scores(config, progress, {"miou": miou})
        assert end_reason(config, progress) == over
    assert progress.best == {"step": 2, "miou": 0.4}


def test_kept_scores():
    best, last = ValidationConfig(), ValidationConfig(keep="last")
    one, two = {"step": 3, "miou": 0.5}, {"step": 6, "miou": 0.4}
    at_best = Progress(step=3, validated_step=3, scores=one, best=one)
    at_end = Progress(step=6, validated_step=6, scores=two, best=one)
    assert kept_scores(best, at_best, ended=False) == one
    assert kept_scores(best, at_end, ended=True) is None
    assert kept_scores(last, at_best, ended=False) is None
    assert kept_scores(last, at_end, ended=True) == two
    assert kept_scores(best, Progress(step=6), ended=True) == {}  # nothing was ever validated


def test_a_network_learns(tmp_path):
    data = write_pairs(tmp_path / "data", train_images=6, size=64)
    config = tiny("steps=60", "batch_size=4", "optimiser.learning_rate=0.02", "ema_decay=0.8",
                  "model.dropout=0", "validation.every_steps=60", "augment={scale: [1.0, 1.0]}",
                  "loss.terms=[{name: ce}, {name: lovasz}]")  # fmt: skip
    result = train(config, data=data, out=tmp_path / "run")
    losses = [event["loss"] for event in read_log(tmp_path / "run") if event["event"] == "step"]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert result.best_miou > 0.2  # the colours show the class; by chance it is below 0.1


def test_a_run_folder_records_the_run(run, data):
    written = load_config(TrainConfig, run / "config.yaml")
    assert len(written.inputs.data_digest or "") == 64
    assert written.model_copy(update={"inputs": tiny().inputs}) == tiny()
    start, *events = read_log(run)
    assert start["event"] == "start"
    assert start["counts"] == {"train": 4, "validation": 2}
    assert start["config"]["crop_px"] == 32
    assert start["versions"]["torch"] == torch.__version__
    assert sum(start["class_share"].values()) == pytest.approx(1)
    assert [(event["event"], event.get("step")) for event in events] == [
        ("step", 2), ("step", 4), ("validation", 4), ("step", 6), ("validation", 6), ("end", 6)
    ]  # fmt: skip
    for event in events:
        if event["event"] == "step":
            assert event.keys() == {"event", "step", "images", "loss", "lr", "seconds", "images_per_second",
                                    "miou", "iou", "pixel_accuracy"}  # fmt: skip
            assert event["images"] == 2 * event["step"]
        if event["event"] == "validation":
            assert event["iou"].keys() == set(DEEPGLOBE.scored_names)
    assert events[-1].keys() >= {"reason", "step", "seconds", "best_step", "best_miou"}
    assert list((run / "tensorboard").iterdir())


def test_a_batch_is_scored_where_the_loss_is_taken():
    targets = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    targets[:, 2::4, 2::4] = torch.tensor([[0, 1], [4, 255]])
    logits = torch.zeros(2, 6, 2, 2)
    logits[:, 0] = 1  # urban everywhere; one third of the labelled pixels is
    found = batch_scores(logits, targets, DEEPGLOBE)
    assert found["pixel_accuracy"] == pytest.approx(1 / 3)
    assert (found["iou"]["urban"], found["iou"]["agriculture"]) == (pytest.approx(1 / 3), 0)
    assert found["miou"] == pytest.approx(1 / 9)  # of the three classes that are there
    nothing = batch_scores(logits, torch.full_like(targets, 255), DEEPGLOBE)
    assert (nothing["miou"], nothing["pixel_accuracy"]) == (None, None)


def test_the_best_model_scores_in_prediction_as_in_the_log(run, data):
    runtime = open_model(run, device="cpu")
    dataset = open_dataset(data)
    matrix = ConfusionMatrix(DEEPGLOBE)
    for item in dataset.parts["validation"]:
        found = predict_index(runtime, dataset.read_image(item), gsd=dataset.gsd)
        matrix.update(dataset.read_mask(item), found)
    validations = [event for event in read_log(run) if event["event"] == "validation"]
    best = max(validations, key=lambda event: event["miou"])
    assert matrix.scores().miou == pytest.approx(best["miou"], abs=1e-9)
    (scores,) = runtime.card.scores
    assert scores["miou"] == best["miou"]
    assert (scores["metric"], scores["split"], scores["images"]) == ("challenge", "folders:validation", 2)
    assert runtime.card.provenance["step"] == best["step"]
    assert runtime.card.preprocessing.gsd == 1.0


def test_the_same_seed_gives_the_same_run_whatever_the_loaders(data, run, tmp_path):
    train(tiny("loaders=3"), data=data, out=tmp_path)
    assert_same_tensors(run / "last.safetensors", tmp_path / "last.safetensors")


def test_the_configuration_may_be_the_name_of_a_preset_or_a_file(data, run, tmp_path):
    again = train(run / "config.yaml", data=data, out=tmp_path / "again")
    assert load_config(TrainConfig, again.folder / "config.yaml") == load_config(
        TrainConfig, run / "config.yaml"
    )
    with pytest.raises(UsageError, match="starter"):
        train("startr", data=data, out=tmp_path / "other")


def test_a_damaged_image_stops_training_by_name(tmp_path):
    data = write_pairs(tmp_path / "data")
    broken = data / "train" / "0001_sat.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(DataError, match=r"0001_sat\.jpg"):
        train(tiny("batch_size=8"), data=data, out=tmp_path / "run")


def test_data_are_resampled_to_the_models_scale(data):
    config = tiny("class_balance=0", "augment={d4: false}")
    loaded = load_training_data(data, "folders", crop_px=32, model_gsd=2.0, gsd=1.5)
    assert (loaded.data_gsd, loaded.model_gsd) == (1.5, 2.0)
    reader = BatchReader(loaded, config, Preprocessing(2.0))
    # 48 pixels of 1.5 m are 36 of 2 m: a crop of 32 takes 43 of them.
    assert {reader._sampler[n].side for n in range(8)} == {43}


@pytest.mark.parametrize(("model_gsd", "warns"), [(2.9, False), (3.0, True), (0.2, False)])
def test_a_scale_that_loses_detail_is_warned_of(data, caplog, model_gsd, warns):
    load_training_data(data, "folders", crop_px=6, model_gsd=model_gsd, gsd=1.0)
    texts = [text for text in caplog.messages if "no legend" not in text]
    assert [("gsd=1 " in text, " 9 times" in text) for text in texts] == [(True, True)] * warns


def test_without_validation_checkpoints_continue_and_the_last_weights_are_kept(
    tmp_path, data, monkeypatch, caplog
):
    steps, save = [], TrainingState.save

    def counted(self, path, identity):
        steps.append(self.progress.step)
        save(self, path, identity)

    monkeypatch.setattr(TrainingState, "save", counted)
    result = train(tiny("steps=7", "checkpoint_steps=2"), data=data, out=tmp_path, split="all")
    assert steps == [0, 2, 4, 6, 7]
    assert "no validation subset" in caplog.text
    assert (result.best_miou, result.best_step) == (None, None)
    card, tensors = read_model(tmp_path)
    assert card.scores == ()
    last = read_tensors(tmp_path / "last.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, last[f"average/{name}"])


def test_a_subset_named_valid_is_validated_on(tmp_path, data):
    (tmp_path / "ids.txt").write_text("train/0000\ttrain\nvalidation/0000\tvalid\n")
    loaded = load_training_data(data, str(tmp_path / "ids.txt"), crop_px=32, model_gsd=None)
    assert [item.key for item in loaded.validation] == ["validation/0000"]


def test_training_prints_nothing_and_restores_threads_and_random_state(
    run, tmp_path, data, monkeypatch, capsys
):
    counts, before, state = [], torch.get_num_threads(), torch.get_rng_state()
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    train(tiny("threads=7", "steps=1", "validation.images=1"), data=data, out=tmp_path / "run")
    with pytest.raises(ConfigError):
        train(tiny("threads=8", "seed=1"), data=data, out=run)
    assert counts == [7, before, 8, before]
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["__init__", "add_scalar"])
def test_without_space_for_tensorboard_the_run_continues(data, tmp_path, monkeypatch, caplog, method):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, method, full)
    assert train(tiny(), data=data, out=tmp_path).reason == "limit"
    assert caplog.text.count("No space left") == 1
    assert [event["event"] for event in read_log(tmp_path)].count("validation") == 2


def test_patience_ends_a_run(tmp_path, data):
    config = tiny("steps=40", "optimiser.learning_rate=1e-12", "validation={every_steps: 2, patience: 2}")
    result = train(config, data=data, out=tmp_path)
    assert result.reason == "patience"
    assert result.step < 40
    assert train(config, data=data, out=tmp_path).step == result.step


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, data):
    config = tiny("optimiser.learning_rate=1e30", "optimiser.name=sgd", "checkpoint_steps=1", "steps=50")
    with pytest.raises(TrainingError, match="learning_rate"):
        train(config, data=data, out=tmp_path)
    for name, array in read_tensors(tmp_path / "last.safetensors").items():
        assert not name.startswith("network/") or np.isfinite(array).all(), name


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_convolutions_compute_in_the_set_precision(tmp_path, data, monkeypatch, stride, precision, dtype):
    seen = set()
    original = torch.nn.Conv2d.forward

    def forward(self, x):
        result = original(self, x)
        if torch.is_grad_enabled():
            seen.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    train(tiny(f"loss.stride={stride}", f"precision={precision}", "steps=1"), data=data, out=tmp_path)
    assert seen == {dtype}


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_device_has_it(monkeypatch, caplog, native):
    monkeypatch.setattr("landcover.training.optim.has_bfloat16", lambda device: native)
    picked = [pick_precision(wanted, torch.device("cpu")) for wanted in ("auto", "bf16", "fp32")]
    assert picked == ["bf16" if native else "fp32", "bf16", "fp32"]
    assert ("precision=auto" in caplog.text) is not native


@pytest.mark.parametrize(("found", "native"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)])
def test_bfloat16_is_a_capability_of_the_processor(monkeypatch, found, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {found: True}, raising=False)
    assert has_bfloat16(torch.device("cpu")) is native


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows closes terminals otherwise")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_interrupts_unless_that_is_ignored(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with interrupts() as interrupted:
            signal.raise_signal(signal.SIGHUP)
        assert interrupted.is_set() is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_run_belongs_to_one_process_at_a_time(tmp_path, data):
    train(tiny("steps=1"), data=data, out=tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    with locked_folder(tmp_path), pytest.raises(OutputError, match="written by another process"):
        train(tiny("steps=1"), data=data, out=tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("part", ["low_level", "encoder_batch_norms"])
def test_frozen_parts_keep_the_weights_of_the_start(run, data, tmp_path, part):
    config = tiny(f"freeze=[{part}]", "steps=2")
    with pytest.raises(UsageError, match=part):
        train(config, data=data, out=tmp_path)
    train(config, data=data, out=tmp_path, init=run)
    first, second = read_model(run)[1], read_model(tmp_path)[1]
    same = {name for name in first if np.array_equal(first[name], second[name])}
    encoder = {name for name in first if name.startswith("encoder.")}
    norms = {name.removesuffix(".running_mean") for name in encoder if name.endswith(".running_mean")}
    of_norms = {name for name in encoder if name.rpartition(".")[0] in norms}
    frozen = of_norms if part == "encoder_batch_norms" else {name for name in encoder if "conv_stem" in name}
    assert frozen
    assert frozen <= same
    assert encoder - same
    assert not {name for name in same - encoder if name.endswith(("running_mean", "weight"))}


def test_crops_across_tiles_show_the_neighbours(tmp_path):
    data = write_pairs(tmp_path, train_images=4)
    rows = "\n".join(f"train,{i:04},a,{i // 2},{i % 2}" for i in range(4))
    (data / "scenes.csv").write_text(f"part,id,scene,row,col\n{rows}\n")
    loaded = load_training_data(data, "folders", crop_px=32, model_gsd=None)

    def first(*settings):
        config = tiny("class_balance=0", "augment={d4: false}", "batch_size=64", *settings)
        return BatchReader(loaded, config, Preprocessing(1.0))

    across, alone = first("across_tiles=true"), first()
    assert {crop.row >= 0 and crop.col >= 0 for crop in map(alone._sampler.__getitem__, range(64))} == {True}
    crops = [across._sampler[n] for n in range(64)]
    reaching = [n for n, crop in enumerate(crops) if crop.item == 0 and max(crop.row, crop.col) > 16]
    assert reaching
    tiles = [loaded.dataset.read_image(item) for item in loaded.train]
    scene = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    batch = across.read(0)
    for n in reaching:
        row, col = crops[n].row, crops[n].col
        np.testing.assert_array_equal(batch.images[n], scene[row : row + 32, col : col + 32])


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        (["optimiser.learning_rate=0.5"], {}, r"optimiser\.learning_rate \(.*0\.001.*0\.5\)"),
        ([], {"split": "all"}, "differs in data "),
        ([], {"gsd": 2.0}, r"data_gsd \(.*1\.0.*2\.0\)"),
    ],
)
def test_another_run_is_refused_by_key(run, data, settings, options, words):
    with pytest.raises(ConfigError, match=words):
        train(tiny(*settings), data=data, out=run, **options)


def test_folders_that_are_refused(run, data, tmp_path):
    with pytest.raises(OutputError, match="--resume auto"):
        train(tiny(), data=data, out=run, resume="never")
    with pytest.raises(UsageError, match=r"last\.safetensors"):
        train(tiny(), data=data, out=tmp_path / "new", resume=tmp_path)
    with pytest.raises(ConfigError, match="seed"):
        train(tiny("seed=5"), data=data, out=tmp_path / "new", resume=run)
    assert not (tmp_path / "new").exists()
    shutil.copyfile(run / "best.safetensors", tmp_path / "best.safetensors")
    with pytest.raises(OutputError, match="without a checkpoint"):
        train(tiny(), data=data, out=tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", "half", "model"])
def test_a_damaged_checkpoint_is_named(run, data, tmp_path, content):
    shutil.copytree(run, tmp_path / "run")
    last = tmp_path / "run" / "last.safetensors"
    others = {"half": last.read_bytes()[:5000], "model": (run / "best.safetensors").read_bytes()}
    last.write_bytes(others.get(content, content))
    with pytest.raises(ModelError, match=r"last\.safetensors"):
        train(tiny(), data=data, out=tmp_path / "run")


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl"])
@pytest.mark.parametrize("resume", ["auto", "never", "copy"])
def test_other_files_are_not_touched(run, data, tmp_path, name, resume):
    content = "# mine\n" + dump_yaml(tiny())
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match=name):
        train(tiny(), data=data, out=tmp_path, resume=run if resume == "copy" else resume)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("log", [None, "", '{"eve', '{"event": "start", "step": 0}\n'])
def test_a_start_without_a_checkpoint_starts_again(data, tmp_path, log):
    (tmp_path / "config.yaml").write_text(dump_yaml(tiny()))
    if log is not None:
        (tmp_path / "log.jsonl").write_text(log)
    train(tiny(), data=data, out=tmp_path)
    assert [event["event"] for event in read_log(tmp_path)].count("start") == 1


def test_lines_beyond_the_resumed_step_are_dropped(tmp_path):
    events = [
        {"event": "start", "step": 0}, {"event": "step", "step": 2}, {"event": "validation", "step": 4},
        {"event": "step", "step": 4}, {"event": "end", "step": 4}, {"event": "step", "step": 6},
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event": "st')
    RunLog(tmp_path, step=4, validated_step=-1)
    assert [(e["event"], e["step"]) for e in read_log(tmp_path)] == [("start", 0), ("step", 2), ("step", 4)]


def test_another_legend_matches_rows_by_name(run, tmp_path, caplog):
    colours = {"water": (0, 0, 255), "snow": (200, 200, 200), "urban": (0, 255, 255)}
    legend = Legend("mine", tuple(LandClass(*entry) for entry in colours.items()), None)
    data = tmp_path / "data"
    for part in ("train", "validation"):
        index = np.kron(np.arange(36).reshape(6, 6) % 3, np.ones((8, 8))).astype(np.uint8)
        write_pair(data / part, "0", legend.colours[index], None)
        Image.fromarray(legend.colours[index]).save(data / part / "0_mask.png")
    (data / "landcover.yaml").write_text(f"gsd: 1.0\nlegend: {json.dumps(legend.to_dict())}\n")
    config = tiny("steps=1", "optimiser.learning_rate=1e-30", "ema_decay=0")
    train(config, data=data, out=tmp_path / "run", init=run)
    card, found = read_model(tmp_path / "run")
    _, source = read_model(run)
    assert card.legend.names == ("water", "snow", "urban")
    rows = [DEEPGLOBE.scored_names.index(name) for name in ("water", "urban")]
    for name, tensor in source.items():
        if name.startswith("classifier."):
            np.testing.assert_allclose(found[name][[0, 2]], tensor[rows], atol=1e-12)
        elif not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            np.testing.assert_allclose(found[name], tensor, atol=1e-12, err_msg=name)
    assert "'snow'" in caplog.text


def test_the_models_scale_and_colours_are_kept_in_fine_tuning(run, data, tmp_path):
    card, tensors = read_model(run)
    other = card.model_copy(update={"preprocessing": type(card.preprocessing)(1.5, mean=(0.1, 0.2, 0.3))})
    save_model(tmp_path / "other.safetensors", tensors, other)
    train(tiny("steps=1"), data=data, out=tmp_path / "run", init=tmp_path / "other.safetensors")
    preprocessing = read_model(tmp_path / "run")[0].preprocessing
    assert (preprocessing.gsd, preprocessing.mean) == (1.5, (0.1, 0.2, 0.3))


def test_a_model_of_another_shape_is_refused_by_tensor(run, data, tmp_path):
    with pytest.raises(ModelError, match=r"aspp\..*model\.aspp_channels=8 \(found 16\)"):
        train(tiny("model.aspp_channels=16"), data=data, out=tmp_path, init=run)
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_trained_on_leave_no_run(tmp_path):
    data = write_pairs(tmp_path / "data", train_images=1)
    (tmp_path / "ids.txt").write_text("train/0000\thold\n")

    def refused(error, words, *settings, **options):
        with pytest.raises(error, match=words):
            train(tiny(*settings), data=data, out=tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()

    refused(SplitError, "named train", split=str(tmp_path / "ids.txt"))
    refused(UsageError, "--split folders", split="folders:train")
    for gsd in ("1e9", "1e-9"):
        refused(UsageError, r"1 m per pixel .* 100\b", f"gsd={gsd}")
    (data / "landcover.yaml").unlink()
    refused(UsageError, "--gsd")
    write_pair(data / "train", "0000", np.zeros((48, 48, 3)), np.full((48, 48), 6, np.uint8))
    refused(DataError, "verify", gsd=1.0)
    for mask in data.glob("*/*_mask.png"):
        mask.unlink()
    refused(DataError, "3 images.*masks", gsd=1.0)


def test_evenly_spaced_items():
    assert list(evenly_spaced(range(10), None)) == list(range(10))
    assert list(evenly_spaced(range(10), 3)) == [0, 3, 6]
    assert list(evenly_spaced(range(2), 5)) == [0, 1]


def test_the_verb_trains(data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(dump_yaml(tiny()), encoding="utf-8")
    found = invoke(
        *("train", "--data", data, "--out", tmp_path / "run", "--preset", tmp_path / "tiny.yaml"),
        *("--steps", 2, "--weights", "none", "--set", "optimiser.name=sgd", "--set", "validation.images=1"),
    )
    config = load_config(TrainConfig, tmp_path / "run" / "config.yaml")
    assert (config.steps, config.optimiser.name, config.weights) == (2, "sgd", None)
    assert found.stdout == ""
    found = invoke("train", "--preset", tmp_path / "tiny.yaml", "--minutes", 2, "--show-config")
    assert ("steps: null" in found.stdout, "minutes: 2.0" in found.stdout) == (True, True)


def test_a_model_brings_its_network(run, data, tmp_path):
    (tmp_path / "wide.yaml").write_text(dump_yaml(tiny("model.aspp_channels=16")), encoding="utf-8")
    arguments = ("--data", data, "--preset", tmp_path / "wide.yaml", "--init", run, "--steps", 1)
    invoke("train", *arguments, "--out", tmp_path / "run", "--set", "model.dropout=0.25", "--device", "cpu")
    model = load_config(TrainConfig, tmp_path / "run" / "config.yaml").model
    assert (model.aspp_channels, model.dropout) == (8, 0.25)
    other = ("train", *arguments, "--out", tmp_path / "other")
    assert "model.decoder_channels=8 (found 16)" in refusal(*other, "--set", "model.decoder_channels=16")
    assert "--weights" in refusal(*other, "--weights", "timm", error=UsageError)


@pytest.mark.parametrize(("settings", "gsd"), [([], 1.0), (["--set", "gsd=1.5"], 1.5)])
def test_a_model_brings_its_scale_over_the_preset(run, data, tmp_path, settings, gsd):
    preset = tmp_path / "preset.yaml"
    preset.write_text(dump_yaml(tiny("gsd=2.39", "steps=1")), encoding="utf-8")
    arguments = ["--data", data, "--out", tmp_path / "out", "--preset", preset, "--init", run, *settings]
    invoke("train", *arguments)
    assert read_card(tmp_path / "out").preprocessing.gsd == gsd


def test_weights_are_known_by_what_is_in_them(data, tmp_path, monkeypatch):
    encoder = build_model(tiny().model, classes=6).encoder.body.state_dict()
    (tmp_path / "tiny.yaml").write_text(dump_yaml(tiny()), encoding="utf-8")
    weights = tmp_path / "weiß: a #1.safetensors"
    save_file({name: tensor.clone() for name, tensor in encoder.items()}, weights)
    monkeypatch.chdir(tmp_path)
    arguments = ("--data", data, "--preset", "tiny.yaml", "--steps", 1, "--out", "run", "--weights")
    invoke("train", *arguments, weights.name)
    weights.rename(tmp_path / "moved.safetensors")
    invoke("train", *arguments, "moved.safetensors")
    save_file({name: tensor + 1 for name, tensor in encoder.items()}, weights)
    assert "differs in weights" in refusal("train", *arguments, weights.name)


def test_ctrl_c_is_exit_130(data, tmp_path, monkeypatch, caplog):
    update, before = WeightAverage.update, signal.getsignal(signal.SIGINT)

    def press(self, updates):
        update(self, updates)
        if updates == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(WeightAverage, "update", press)
    (tmp_path / "tiny.yaml").write_text(dump_yaml(tiny()), encoding="utf-8")
    words = ("--data", data, "--out", tmp_path / "run", "--preset", tmp_path / "tiny.yaml")
    invoke("train", *words, status=130)
    assert "--resume auto" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before  # which a shell may have set to ignore it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minutes", "1", "--steps", "1"], ["--minutes 1", "--steps 1"]),
        (["--preset", "begin"], ["'begin'", "starter"]),
        (["--set", "optimiser.lr=1"], ["'optimiser.lr'", "learning_rate"]),
        (["--split", "fold"], ["'fold'"]),
        (["--weights", "missing.safetensors"], ["missing.safetensors"]),
        (["--init", "missing.safetensors"], ["missing.safetensors"]),
    ],
)
def test_wrong_usage_is_a_message(data, tmp_path, arguments, words):
    message = refusal("train", "--data", data, "--out", tmp_path / "run", *arguments)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run" / "last.safetensors").exists()
