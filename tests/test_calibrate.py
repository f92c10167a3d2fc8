"""The temperature: its fit against brute force, and its way into card, runtimes and exported files."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import landcover
from commands import invoke, refusal
from export_world import noise, tiny_runtime, write_run
from fake_runtime import ColourRuntime, ContextRuntime, make_card, normalised
from landcover.data import open_dataset, select
from landcover.data.fingerprints import image_set
from landcover.errors import DataError, ModelError, OutputError, SplitError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate, temperature
from landcover.evaluation.temperature import fit_temperature
from landcover.inference.grid import make_grid
from landcover.legend import DEEPGLOBE, IGNORE
from landcover.model.card import UsedImages, read_card, read_model, save_model
from landcover.model.runtimes import open_model
from landcover.model.runtimes.torch_runtime import TorchRuntime
from landcover.training.losses import labelled_pixels
from training_world import assert_same_tensors, tiny, write_pairs

# --- The fit ------------------------------------------------------------------------------------------------


def nll(logits, truth, t):
    scaled = logits.astype(np.float64) / t
    return float((np.logaddexp.reduce(scaled, axis=0) - scaled[truth, np.arange(truth.size)]).mean())


def draw(seed, pixels, true_temperature):
    """Logits, and a truth drawn from their softmax at a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (5, pixels))
    odds = np.exp(logits / true_temperature).cumsum(axis=0)
    truth = (odds / odds[-1] < random.random(pixels)).sum(axis=0)
    return logits.astype(np.float32), truth.astype(np.uint8)


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_the_truth_was_drawn_at_is_found(true_temperature):
    logits, truth = draw(0, 100_000, true_temperature)
    assert fit_temperature(logits, truth) == pytest.approx(true_temperature, rel=0.05)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.2, 8), st.floats(-50, 50))
def test_no_temperature_on_a_fine_grid_is_better(seed, true_temperature, shift):
    logits, truth = draw(seed, 200, true_temperature)
    logits += np.float32(shift)  # logits have no zero
    best = fit_temperature(logits, truth)
    grid = np.geomspace(0.05, 20, 400)
    values = [nll(logits, truth, t) for t in grid]
    assert nll(logits, truth, best) <= min(values) + 1e-9
    assert best == pytest.approx(grid[int(np.argmin(values))], rel=0.02)


def test_parts_leave_no_seam_and_large_logits_are_harmless(monkeypatch):
    logits, truth = draw(1, 1000, 2.0)
    whole = fit_temperature(logits, truth)
    monkeypatch.setattr(temperature, "_BLOCK_CELLS", 64)
    assert fit_temperature(logits, truth) == pytest.approx(whole, rel=1e-5)
    assert fit_temperature(logits + np.float32(4096), truth) == pytest.approx(whole, rel=1e-3)


def test_what_has_no_best_temperature_is_refused():
    logits, _ = draw(2, 500, 1.0)
    best, worst = (pick(axis=0).astype(np.uint8) for pick in (logits.argmax, logits.argmin))
    with pytest.raises(DataError, match=r"0\.05.*500 .*predicted correctly"):
        fit_temperature(logits, best)
    with pytest.raises(DataError, match=r"above 20: .*500 "):
        fit_temperature(logits, worst)


def write_images(root, sizes, *, gsd=1.0):
    """Write images, and masks of any class without regard to them."""
    (root / "val").mkdir(parents=True)
    for number, (height, width) in enumerate(sizes):
        random = np.random.default_rng(number)
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        index = random.integers(0, 7, (height, width), dtype=np.uint8)
        Image.fromarray(image).save(root / f"val/{number}_sat.png")
        Image.fromarray(DEEPGLOBE.colours[index]).save(root / f"val/{number}_mask.png")
    (root / "landcover.yaml").write_text(f"gsd: {gsd}\n")
    return root


def cells(runtime, root):
    dataset = open_dataset(root)
    return temperature.labelled_cells(runtime, dataset, dataset.items)


def test_cells_meet_the_pixels_that_training_looks_at(tmp_path):
    root = write_images(tmp_path / "data", [(48, 64)])
    runtime = ContextRuntime()
    logits, truth = cells(runtime, root)
    dataset = open_dataset(root)
    image, mask = dataset.read_image(dataset.items[0]), dataset.read_mask(dataset.items[0])
    expected, of_truth = labelled_pixels(
        torch.from_numpy(np.log(runtime.coarse(image[None]))),
        torch.from_numpy(DEEPGLOBE.channels[mask][None]),
    )
    np.testing.assert_allclose(logits.T, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(truth, of_truth.numpy())
    assert 0 < truth.size < 12 * 16  # some are unknown
    assert IGNORE not in truth


@pytest.mark.parametrize(("size", "gsd"), [((41, 50), 1.0), ((62, 99), 0.5), ((48, 40), 2.0)])
def test_the_truth_of_a_cell_is_that_of_the_pixel_at_its_centre(tmp_path, size, gsd):
    """At any scale, and without cells whose centre lies beyond the image."""
    root = write_images(tmp_path / "data", [size], gsd=gsd)
    truth = cells(ContextRuntime(), root)[1]
    dataset = open_dataset(root)
    channels = DEEPGLOBE.channels[dataset.read_mask(dataset.items[0])]
    model_size = [max(1, round(side * gsd)) for side in size]
    places = [
        [int((4 * i + 2) * own / model) for i in range(-(-model // 4)) if (4 * i + 2) * own / model < own]
        for own, model in zip(size, model_size, strict=True)
    ]
    picked = np.array([channels[y, x] for y in places[0] for x in places[1]])
    np.testing.assert_array_equal(truth, picked[picked != IGNORE])


def test_cells_are_what_prediction_sees_in_windows_too(tmp_path, monkeypatch):
    """The windows give what the whole image gives: no cell is lost, moved or seen from an edge."""
    root = write_images(tmp_path / "data", [(200, 300)])
    whole, truth = cells(ContextRuntime(), root)
    monkeypatch.setattr("landcover.inference.grid.WHOLE_PX", 128)
    runtime = ContextRuntime(make_card(window_px=128, overlap_px=64))
    windowed, same_truth = cells(runtime, root)
    assert len(runtime.windows) > 4
    inside = np.abs(windowed - whole).max(axis=0) < 1e-4
    assert inside.mean() > 0.9  # the others are blended with cells at the edge of a window
    np.testing.assert_array_equal(truth, same_truth)


@pytest.mark.parametrize("gsd", [0.6, 4.0, 9.0, 10.0])
@pytest.mark.parametrize("rows", [29, 37, 44])
def test_every_row_of_cells_is_there_once_whatever_the_scale(gsd, rows):
    """A runtime without context gives in windows what it gives for the whole image."""
    runtime = ColourRuntime(make_card())
    image = noise(44, seed=1)[:rows]
    whole, windows = (make_grid(image.shape[:2], runtime, gsd=gsd, window_px=px) for px in (0, 16))
    assert len(windows.rows) > 1
    found = temperature.cell_logits(runtime, image, windows)
    np.testing.assert_allclose(found, temperature.cell_logits(runtime, image, whole), atol=1e-4)


def test_the_logits_are_those_of_the_network_up_to_a_constant_in_each_cell():
    """They come from the probabilities that prediction delivers, at whatever temperature the card has."""
    runtime = tiny_runtime()
    image = noise(64, seed=5)[:57]
    found = temperature.cell_logits(runtime, image, make_grid(image.shape[:2], runtime))
    expected = raw_logits(runtime, image)
    np.testing.assert_allclose(found - found.max(axis=0), expected - expected.max(axis=0), atol=1e-3)


def test_of_very_many_cells_some_are_drawn_from_all_rows_and_columns(tmp_path, monkeypatch):
    """Whatever the width: every third of rows of 15 would be the same five columns."""
    root = write_images(tmp_path / "data", [(60, 60), (60, 60), (8, 60)])
    for number, height in enumerate((60, 60, 8)):  # every cell is known
        mask = np.full((height, 60), 2 + number, np.uint8)
        Image.fromarray(DEEPGLOBE.colours[mask]).save(root / f"val/{number}_mask.png")

    def places(runtime, image, grid, valid, views):
        return np.indices((image.shape[0] // 4, 15)).astype(np.float32)

    monkeypatch.setattr(temperature, "cell_logits", places)
    all_places, all_truth = cells(ContextRuntime(), root)
    assert all_truth.size == 2 * 225 + 30
    monkeypatch.setattr(temperature, "MAX_CELLS", 160)
    (rows, cols), truth = cells(ContextRuntime(), root)
    assert truth.size == pytest.approx(160, abs=25)  # a third of the cells; two and a half deviations
    drawn = [set(zip(rows[truth == t].tolist(), cols[truth == t].tolist(), strict=True)) for t in (2, 3, 4)]
    assert sum(map(len, drawn)) == truth.size  # none twice
    for axis in (0, 1):
        assert {place[axis] for place in drawn[0] | drawn[1]} == set(range(15))
    assert drawn[0] != drawn[1]
    assert 4 <= len(drawn[2]) <= 16  # small images have their share
    (again_rows, again_cols), again = cells(ContextRuntime(), root)
    np.testing.assert_array_equal(np.stack((rows, cols, truth)), np.stack((again_rows, again_cols, again)))
    monkeypatch.setattr(temperature, "MAX_CELLS", 480)
    np.testing.assert_array_equal(cells(ContextRuntime(), root)[0], all_places)


def raw_logits(runtime, image):
    """Return the network's own logits, float32 (C, n, m), without a temperature."""
    pixels = torch.from_numpy(normalised(runtime.card.preprocessing, image)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        network = runtime.module
        return np.asarray(network.logits(pixels)[0])


def write_world(root, *, true_temperature=3.0):
    """Write a run, and data whose truth is drawn from its answers at another temperature than its own."""
    runtime = tiny_runtime()
    run, data = write_run(root / "run", runtime), root / "data"
    (data / "val").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(3):
        image = noise(64, seed=number)
        logits = raw_logits(runtime, image) / true_temperature
        odds = np.exp(logits).cumsum(axis=0)
        said = (odds / odds[-1] < random.random(logits.shape[1:])).sum(axis=0)
        index = np.array(DEEPGLOBE.scored, np.uint8)[said].repeat(4, 0).repeat(4, 1)
        index[:4] = 6
        Image.fromarray(image).save(data / f"val/{number}_sat.png")
        Image.fromarray(DEEPGLOBE.colours[index]).save(data / f"val/{number}_mask.png")
    (data / "landcover.yaml").write_text("gsd: 1.0\n")
    return run, data


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run before (``before.safetensors`` beside it) and after, and what was said; not to be changed."""
    folder = tmp_path_factory.mktemp("calibrated")
    run, data = write_world(folder)
    (folder / "before.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    return run, data, landcover.calibrate(run, data, "folders:val").to_dict()


def test_the_card_gets_the_temperature_and_says_where_from(calibrated):
    run, data, said = calibrated
    card, old = read_card(run), read_card(run.parent / "before.safetensors")
    assert (old.temperature, old.calibration) == (1.7, {})
    assert card.temperature == said["temperature"] == pytest.approx(3.0, rel=0.15)
    record = card.calibration
    assert (record["split"], record["data"], record["images"]) == ("folders:val", "data", 3)
    assert record["pixels"] == 3 * 15 * 16
    assert record["temperature_before"] == 1.7
    assert record["nll"]["after"] < record["nll"]["before"]
    assert record["ece"]["after"] < record["ece"]["before"]
    assert said == {
        "model": str(run / "best.safetensors"), "sha256": said["sha256"], "temperature": card.temperature,
        "warnings": said["warnings"],
    } | record  # fmt: skip
    (warning,) = said["warnings"]
    assert "does not record all training images" in warning
    dataset = open_dataset(data)
    assert card.used_images.calibration == image_set(dataset, dataset.items)
    assert json.loads(json.dumps(said)) == said
    changed = {"temperature": 1.0, "calibration": {}, "used_images": UsedImages()}
    assert card.model_copy(update=changed) == old.model_copy(update=changed)


def test_weights_stay_bit_for_bit(calibrated):
    run = calibrated[0]
    assert_same_tensors(run / "best.safetensors", run.parent / "before.safetensors")
    ends = [
        path.read_bytes()[-1000:] for path in (run / "best.safetensors", run.parent / "before.safetensors")
    ]
    assert ends[0] == ends[1]
    assert [path.name for path in run.iterdir()] == ["best.safetensors"]


def test_torch_applies_it_and_evaluate_sees_the_error_fall(calibrated):
    run, data, said = calibrated
    batch = noise(64, seed=9)[None]
    runtime = open_model(run, device="cpu")
    assert isinstance(runtime, TorchRuntime)
    odds = np.exp(raw_logits(runtime, batch[0])[None].astype(np.float64) / said["temperature"])
    np.testing.assert_allclose(runtime.coarse(batch), odds / odds.sum(axis=1, keepdims=True), atol=1e-5)
    before, after = (
        evaluate(data, "folders:val", model=model, options=EvaluateOptions(calibration=True))
        for model in (run.parent / "before.safetensors", run)
    )
    assert after.calibration.ece < before.calibration.ece
    assert after.calibration.nll < before.calibration.nll
    assert before.calibration.fitted_on is None
    assert after.calibration.fitted_on == "folders:val"
    assert after.calibration.temperature == said["temperature"]
    warned = [any("was fitted on 3 of the 3" in w for w in r.warnings) for r in (before, after)]
    assert warned == [False, True]


def test_a_second_time_it_takes_force(tmp_path, calibrated):
    run, data, said = calibrated
    copy = tmp_path / "m.safetensors"
    copy.write_bytes((run / "best.safetensors").read_bytes())
    with pytest.raises(OutputError, match=r"calibrated already .*folders:val.*--force"):
        landcover.calibrate(copy, data, "folders:val")
    link = tmp_path / "link.safetensors"
    link.symlink_to(copy)
    again = landcover.calibrate(link, data, "all:all", force=True)
    assert link.is_symlink()
    assert again.temperature_before == said["temperature"]
    assert again.temperature == pytest.approx(said["temperature"], rel=1e-5)
    assert read_card(copy).calibration["split"] == "all:all"


def test_for_several_views_the_card_has_them_and_a_lower_temperature(tmp_path, calibrated):
    """A mean is less confident than its views: it needs less of a division."""
    run, data, said = calibrated
    copy = tmp_path / "m.safetensors"
    copy.write_bytes((run.parent / "before.safetensors").read_bytes())
    report = landcover.calibrate(copy, data, "folders:val", views=3)
    card = read_card(copy)
    assert (card.views, report.views, card.calibration["views"], said["views"]) == (3, 3, 3, 1)
    assert 0.5 * said["temperature"] < card.temperature < said["temperature"]
    with pytest.raises(UsageError, match="views is 5"):
        landcover.calibrate(copy, data, "folders:val", views=5, force=True)


def test_a_run_that_left_nothing_to_fit_on_takes_the_temperature_of_one_made_alike(tmp_path, calibrated):
    like, _, said = calibrated
    run, before = tmp_path / "m.safetensors", like.parent / "before.safetensors"
    run.write_bytes(before.read_bytes())
    done = invoke("calibrate", run, "--like", like)
    assert f"Temperature {said['temperature']:.4f} (was 1.7000)" in done.stdout
    assert_same_tensors(run, before)
    card = read_card(run)
    assert card.temperature == said["temperature"]
    record = card.calibration
    assert (record["like"], record["split_of_like"]) == (said["sha256"], "folders:val")
    assert not {"split", "nll", "ece", "pixels"} & record.keys()  # nothing was measured on this model
    assert "not measured" in done.stdout

    for arguments, words in [
        ([run, "--like", like], "is calibrated already"),
        ([before, "--like", before], "not been calibrated"),
        ([before, "--like", like, "--gsd", "1"], "--gsd"),
        ([before], "or --like RUN"),
    ]:
        assert words in refusal("calibrate", *arguments)
    old, tensors = read_model(before)
    for recipe in ({"steps": 2}, {"weights": "elsewhere", "seed": 7, "threads": 1, "checkpoint_minutes": 3}):
        other = old.model_copy(update={"recipe": {**old.recipe, **recipe}})
        save_model(run, tensors, other, force=True)
        if "steps" in recipe:
            with pytest.raises(UsageError, match="differ in steps"):
                temperature.calibrate_like(run, like)
    assert temperature.calibrate_like(run, like).temperature == said["temperature"]


def test_what_cannot_be_calibrated_is_left_as_it_was(tmp_path, monkeypatch):
    run, data = write_world(tmp_path)
    file = run / "best.safetensors"
    before = file.read_bytes()
    exported = tmp_path / "m.onnx"
    exported.touch()
    with pytest.raises(
        ModelError, match=r"m\.onnx is an exported model.*landcover calibrate RUN.*export RUN"
    ):
        landcover.calibrate(exported, data, "folders:val")
    with pytest.raises(ModelError, match="There is no model"):
        landcover.calibrate(tmp_path / "nothing", data, "folders:val")
    with pytest.raises(SplitError):
        landcover.calibrate(run, data, "folders:test")
    (data / "landcover.yaml").unlink()
    with pytest.raises(UsageError, match="Pass --gsd"):
        landcover.calibrate(run, data, "folders:val")
    unknown = write_images(tmp_path / "unknown", [(40, 40)])
    Image.new("RGB", (40, 40)).save(unknown / "val/0_mask.png")
    with pytest.raises(DataError, match="None of the 1 images of folders:val has a pixel of a known class"):
        landcover.calibrate(run, unknown, "folders:val")

    def replaced(*arguments):
        save_model(file, read_model(file)[1], make_card(), force=True)
        return 2.0

    assert file.read_bytes() == before
    monkeypatch.setattr(temperature, "fit_temperature", replaced)
    with pytest.raises(OutputError, match="changed during calibration"):
        landcover.calibrate(run, data, "folders:val", gsd=1.0)
    assert read_card(file) == make_card()


def test_training_images_are_refused(tmp_path):
    """Even with --force; other tiles of their scenes, and what is not recorded, are a warning."""
    run, data = write_world(tmp_path)
    file = run / "best.safetensors"
    (data / "train").mkdir()
    for name in ("0_sat.png", "0_mask.png", "1_sat.png", "1_mask.png"):
        (data / "val" / name).rename(data / "train" / name)
    rows = ["train,0,a,0,0", "train,1,b,0,0", "val,2,b,0,1"]
    (data / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))
    card, tensors = read_model(file)
    dataset = open_dataset(data)
    training = image_set(dataset, select(dataset, "folders:train"))
    trained = card.model_copy(update={"used_images": UsedImages(training=training)})
    save_model(file, tensors, trained, force=True)
    before = file.read_bytes()
    for split, count in (("folders:train", "2 of the 2"), ("all", "2 of the 3")):
        for force in (False, True):
            with pytest.raises(UsageError, match=rf"trained on {count} images of {split} .*train/0"):
                landcover.calibrate(run, data, split, force=force)
    assert file.read_bytes() == before
    done = invoke("calibrate", run, "--data", data, "--split", "folders:val")
    assert "other tiles of the scenes of 1 of the 1 images" in " ".join(done.stderr.split())
    assert read_card(file).used_images.training == training


def test_training_that_is_called_again_does_not_lose_it(tmp_path):
    """A finished run writes its best model once more, if its last weights are the best."""
    from landcover.training import train

    data, run = write_pairs(tmp_path / "data"), tmp_path / "run"
    config = tiny("steps=1", "validation.every_steps=1", "validation.keep=last")
    train(config, data=data, out=run)
    card, tensors = read_model(run)
    changed = card.model_copy(update={"temperature": 1.5, "calibration": {"split": "x:y"}})
    save_model(run / "best.safetensors", tensors, changed, force=True)
    train(config, data=data, out=run)
    assert read_card(run) == changed
    # A calibration of other weights is none of these.
    older = changed.model_copy(update={"provenance": {**changed.provenance, "step": 0}})
    save_model(run / "best.safetensors", tensors, older, force=True)
    train(config, data=data, out=run)
    assert read_card(run) == card
