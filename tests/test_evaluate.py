"""Scoring of folders of maps and of models, against counts done by hand."""

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from commands import refusal
from fake_runtime import ColourRuntime, make_card
from landcover.data import folder, prepare, verify
from landcover.errors import DataError, MaskError, OutputError, SplitError, UsageError
from landcover.evaluation import EvaluateOptions, evaluate
from landcover.evaluation.estimators import bootstrap_interval
from landcover.inference import predict_probabilities
from landcover.io import index_to_colours, read_mask, write_mask
from landcover.legend import DEEPGLOBE, NODATA, LandClass, Legend, translation
from landcover.metrics import ConfusionMatrix
from landcover.raster import Georeference, write_class_raster

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(7)

GLNET_ORDER = Legend("glnet", (LandClass("nothing", (0, 0, 0)), *DEEPGLOBE.classes[:6]), unknown=0)


def halves(top, bottom, size=8):
    index = np.full((size, size), top, np.uint8)
    index[size // 2 :] = bottom
    return index


TRUTH = {"train/1": halves(URBAN, FOREST), "val/1": halves(WATER, FOREST), "val/2": halves(URBAN, UNKNOWN)}
GOOD_AND_BAD = {"val/1": halves(WATER, URBAN), "val/2": halves(URBAN, WATER)}


def write_data(root, truth=TRUTH, *, gsd=None):
    """Write pairs whose image shows the truth in the legend's colours."""
    for key, index in truth.items():
        write_mask(root / f"{key}_mask.png", index, DEEPGLOBE)
        Image.fromarray(index_to_colours(index, DEEPGLOBE)).save(root / f"{key}_sat.png")
    if gsd is not None:
        (root / "landcover.yaml").write_text(f"gsd: {gsd}\n")
    return root


def write_maps(root, maps=GOOD_AND_BAD, *, ending="_mask.png", mask_format="palette", legend=DEEPGLOBE):
    for key, index in maps.items():
        write_mask(root / f"{key}{ending}", index, legend, mask_format=mask_format)
    return root


def scored(data, predictions=None, *, model=None, gsd=None, metric="challenge", **options):
    given = {"predictions": predictions, "model": model, "gsd": gsd, "metric": metric}
    return evaluate(data, "folders:val", **given, options=EvaluateOptions(**options))


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


def test_scores_by_hand(data, tmp_path):
    result = scored(data, predictions=write_maps(tmp_path / "maps"))
    assert result.iou == {
        "urban": 32 / 64,  # all of val/2, and once said of forest
        "agriculture": None,
        "rangeland": None,
        "forest": 0.0,
        "water": 1.0,  # what is said of unknown pixels does not count
        "barren": None,
    }
    assert result.miou == 0.5
    assert result.pixel_accuracy == 64 / 96
    assert (result.images, result.pixels, result.metric) == (2, 128, "challenge")
    confusion = np.zeros((7, 7), int)
    confusion[[URBAN, FOREST, WATER, UNKNOWN], [URBAN, URBAN, WATER, WATER]] = 32
    assert result.confusion.tolist() == confusion.tolist()
    assert result.confusion.dtype == np.int64
    assert result.classes == list(DEEPGLOBE.names)
    assert [image.to_dict() for image in result.per_image] == [
        {"key": "val/1", "miou": pytest.approx(1 / 3), "pixel_accuracy": 0.5},
        {"key": "val/2", "miou": 1.0, "pixel_accuracy": 1.0},
    ]
    assert [w.split("'")[1] for w in result.warnings[:-1]] == ["agriculture", "rangeland", "barren"]
    assert result.warnings[-1].startswith("No interval")


def test_metric_is_passed_on(data, tmp_path):
    maps = write_maps(tmp_path / "maps")
    glnet = scored(data, predictions=maps, metric="glnet")
    assert glnet.metric == "glnet"
    assert glnet.iou["water"] == 32 / 64
    assert glnet.miou == pytest.approx((0.5 + 0.5) / 6)
    with pytest.raises(UsageError, match="Did you mean 'glnet'"):
        scored(data, predictions=maps, metric="glnett")


@pytest.mark.parametrize("ending", ["_mask.png", ".png", "_mask.tif"])
@pytest.mark.parametrize("mask_format", ["palette", "rgb", "index"])
def test_names_and_forms_of_maps(data, tmp_path, ending, mask_format):
    if ending == "_mask.tif":
        place = Georeference(100, 100, Affine(0.5, 0, 7e5, 0, -0.5, 1.5e6), CRS.from_epsg(32647))
        (tmp_path / "maps/val").mkdir(parents=True)
        for key, index in GOOD_AND_BAD.items():
            write_class_raster(tmp_path / f"maps/{key}{ending}", index, DEEPGLOBE, place)
    else:
        write_maps(tmp_path / "maps", ending=ending, mask_format=mask_format)
    assert scored(data, predictions=tmp_path / "maps").miou == 0.5


def test_maps_in_another_index_order_are_matched_by_name(data, tmp_path):
    maps = {key: np.where(index == UNKNOWN, 0, index + 1).astype(np.uint8) for key, index in TRUTH.items()}
    folder = write_maps(tmp_path / "maps", maps, mask_format="index", legend=GLNET_ORDER)
    right = scored(data, predictions=folder, prediction_legend=GLNET_ORDER)
    assert right.miou == 1.0
    assert right.prediction_legend == GLNET_ORDER
    # The maps carry their legend, which counts.
    assert scored(data, predictions=folder).miou == 1.0
    # Without it the data's own order is taken, by which the same values are all wrong.
    for path in folder.rglob("*.png"):
        Image.fromarray(np.array(Image.open(path))).save(path)
    assert scored(data, predictions=folder).miou == 0.0


def test_nodata_in_maps_is_a_miss_and_in_the_truth_nothing(tmp_path):
    data = write_data(tmp_path / "data", {"val/1": halves(WATER, NODATA)})
    maps = write_maps(tmp_path / "maps", {"val/1": halves(NODATA, FOREST)})
    result = scored(data, predictions=maps)
    assert (result.iou["water"], result.iou["forest"], result.pixels) == (0.0, None, 32)


def test_off_palette_pixels_are_told_of(data, tmp_path):
    maps = write_maps(tmp_path / "maps", mask_format="rgb")
    path = maps / "val/1_mask.png"
    picture = np.array(Image.open(path))
    picture[0, :3] = (255, 0, 0)
    Image.fromarray(picture).save(path)
    result = scored(data, predictions=maps)
    assert result.iou["water"] == 29 / 32
    assert any(warning.startswith("3 pixels of the predictions") for warning in result.warnings)


def test_every_fault_of_a_folder_is_listed_before_anything_is_scored(tmp_path):
    truth = {f"val/{i}": halves(WATER, FOREST) for i in range(6)}
    data = write_data(tmp_path / "data", truth)
    maps = write_maps(tmp_path / "maps", truth)
    (maps / "val/1_mask.png").unlink()
    write_mask(maps / "val/2_mask.png", halves(WATER, FOREST, 4), DEEPGLOBE, force=True)
    (maps / "val/4_mask.png").write_bytes(b"")
    (data / "val/0_mask.png").write_bytes(b"broken")  # would be met at once if scoring had begun
    with pytest.raises(DataError) as caught:
        scored(data, predictions=maps)
    message = str(caught.value)
    assert message.startswith("3 of 6 predictions")
    assert "val/1: " in message
    assert "val/2_mask.png has 4 x 4 pixels (height x width), the image 8 x 8" in message
    assert "4_mask.png" in message
    assert "val/3" not in message
    with pytest.raises(DataError, match="nowhere"):
        scored(data, predictions=tmp_path / "nowhere")
    maps = write_maps(tmp_path / "other", truth)
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(maps / "val/0_mask.png")
    with pytest.raises(MaskError, match=r"0_mask\.png.*9"):
        scored(write_data(tmp_path / "whole", truth), predictions=maps)


def test_translation_matches_names_and_keeps_nodata():
    table = translation(GLNET_ORDER, DEEPGLOBE)
    assert table[:7].tolist() == [6, 0, 1, 2, 3, 4, 5]
    assert set(table[7:].tolist()) == {NODATA}
    without = Legend("six", DEEPGLOBE.classes[:6][::-1], unknown=None)
    assert translation(DEEPGLOBE, without)[:7].tolist() == [5, 4, 3, 2, 1, 0, NODATA]


def test_other_classes_are_refused_by_name(data, tmp_path):
    other = Legend("other", (*DEEPGLOBE.classes[:5], LandClass("snow", (9, 9, 9))), unknown=None)
    with pytest.raises(DataError, match=r"(?s)barren.*snow"):  # the maps carry theirs
        scored(data, predictions=write_maps(tmp_path / "maps"), prediction_legend=other)


def test_min_region_shows_the_scores_before_and_after(tmp_path):
    truth = halves(WATER, FOREST)
    speckled = truth.copy()
    speckled[1, 1] = FOREST
    data = write_data(tmp_path / "data", {"val/1": truth}, gsd=0.5)
    maps = write_maps(tmp_path / "maps", {"val/1": speckled})
    result = scored(data, predictions=maps, min_region="1m2")
    assert result.miou == pytest.approx((31 / 32 + 32 / 33) / 2)
    cleaned = result.min_region
    assert (cleaned.min_pixels, cleaned.miou, cleaned.pixel_accuracy) == (4, 1.0, 1.0)
    assert cleaned.miou_change == pytest.approx(1.0 - result.miou)
    assert np.sum(cleaned.confusion) == 64
    assert scored(data, predictions=maps).min_region is None


def test_min_region_needs_a_unit_and_areas_a_gsd(data, tmp_path):
    maps = write_maps(tmp_path / "maps")
    with pytest.raises(UsageError, match=r"8000px.*2000m2"):
        scored(data, predictions=maps, min_region="4")
    with pytest.raises(UsageError, match="--gsd"):
        scored(data, predictions=maps, min_region="4m2")
    assert scored(data, predictions=maps, gsd=2.0, min_region="4m2").gsd == 2.0


def test_model_is_scored_at_the_size_of_the_masks_and_its_maps_are_kept(tmp_path):
    truth = {"val/1": halves(WATER, FOREST, 64), "val/2": halves(URBAN, RANGELAND, 48)}
    data = write_data(tmp_path / "data", truth, gsd=1.0)
    runtime = ColourRuntime(make_card(gsd=2.0))
    result = scored(data, model=runtime, maps=tmp_path / "maps", json=tmp_path / "r.json")
    assert (result.model, result.gsd, result.pixels) == ("in memory", 1.0, 64**2 + 48**2)
    assert result.miou > 0.9
    assert runtime.shapes[0][1:3] == (32, 32)  # resampled to the model's GSD
    assert (tmp_path / "r.json").read_text() == result.to_json()
    matrix = ConfusionMatrix(DEEPGLOBE)
    for key, index in truth.items():
        matrix.update(index, read_mask(tmp_path / f"maps/{key}_mask.png", DEEPGLOBE).index)
    assert result.confusion.tolist() == matrix.counts.tolist()
    again = scored(data, predictions=result.predictions)
    assert again.miou == result.miou


@pytest.mark.parametrize("work", ["verify", "prepare", "evaluate"])
def test_a_picture_is_decoded_once(tmp_path, monkeypatch, work):
    root = write_data(tmp_path / "data", {"val/1": halves(WATER, FOREST, 64)}, gsd=1.0)
    decoded, read = [], folder.read_picture
    monkeypatch.setattr(folder, "read_picture", lambda path, **how: decoded.append(path) or read(path, **how))
    if work == "verify":
        assert verify(root).ok
    elif work == "prepare":
        prepare(root, tmp_path / "cache")
    else:
        scored(root, model=ColourRuntime())
    assert len(decoded) == 1


def test_model_needs_a_gsd(data):
    with pytest.raises(UsageError, match=r"--gsd 0.5.*landcover\.yaml"):
        scored(data, model=ColourRuntime())
    assert scored(data, model=ColourRuntime(), gsd=1.0).gsd == 1.0


def test_calibration_counts_the_probabilities_that_are_delivered(tmp_path):
    """In another order of classes and scale than the data's, over several images, without unknown pixels."""
    truth = {"val/1": halves(WATER, FOREST, 64), "val/2": halves(URBAN, URBAN, 48)}
    truth["val/2"][:24, :24] = UNKNOWN  # black
    data = write_data(tmp_path / "data", truth, gsd=1.0)
    turned = Legend("turned", DEEPGLOBE.classes[::-1], unknown=0)

    class Turned(ColourRuntime):
        def probabilities(self, batch):
            return super().probabilities(batch)[:, ::-1]

    runtime = Turned(make_card(legend=turned, gsd=2.0))
    plain = scored(data, model=runtime)
    result = scored(data, model=runtime, calibration=True, maps=tmp_path / "maps")
    assert plain.calibration is None
    assert plain.miou > 0.9  # classes in another order are matched by name
    changed = {"calibration", "predictions"}
    assert result.model_copy(update=dict.fromkeys(changed)) == plain.model_copy(update=dict.fromkeys(changed))
    again = scored(data, predictions=tmp_path / "maps")
    assert again.confusion.tolist() == result.confusion.tolist()

    confidences, right, losses = [], [], []
    for key, index in truth.items():
        image = index_to_colours(index, DEEPGLOBE)
        odds = predict_probabilities(runtime, image, gsd=1.0)[::-1].reshape(6, -1)[
            :, index.ravel() != UNKNOWN
        ]
        known = index.ravel()[index.ravel() != UNKNOWN]
        confidences.append(odds.max(axis=0))
        right.append(odds.argmax(axis=0) == known)
        losses.append(-np.log(odds[known, np.arange(known.size)]))
        assert key
    found = result.calibration
    assert found.pixels == 64**2 + 48**2 - 24**2
    assert found.accuracy == pytest.approx(np.concatenate(right).mean())
    assert found.confidence == pytest.approx(np.concatenate(confidences).mean(), abs=1e-6)
    assert found.nll == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    assert list(found.per_class) == list(DEEPGLOBE.scored_names[::-1])
    assert found.per_class["rangeland"] is None
    assert len(found.bins) == 15
    assert found.worst_class.ece == max(c.ece for c in found.per_class.values() if c)
    assert (found.temperature, found.fitted_on) == (1.0, None)


def test_boundaries_score_models_and_folders_alike(tmp_path):
    truth = {f"val/{i}": halves(WATER, FOREST, 64) for i in (1, 2)}
    data = write_data(tmp_path / "data", truth, gsd=2.0)
    wrong = halves(WATER, FOREST, 64)
    wrong[32:34] = WATER  # off by 2 pixels: 4 m
    folder = write_maps(tmp_path / "maps", {"val/1": wrong, "val/2": truth["val/2"]})
    result = scored(data, predictions=folder, boundaries=True)
    near, *far = result.boundaries.bins
    assert (near.from_m, near.to_m, near.pixels) == (0, 5, 2 * 4 * 64)  # at 1 and 3 m, on both sides
    assert near.iou["forest"] == 0.5
    assert near.pixel_accuracy == 0.75
    assert {band.pixel_accuracy for band in far} == {1.0}
    assert near.beyond.miou == result.miou
    assert sum(band.share for band in (near, *far)) == pytest.approx(1)
    right = scored(data, model=ColourRuntime(make_card(gsd=2.0)), boundaries=True)
    assert [band.pixel_accuracy for band in right.boundaries.bins] == [1.0] * 5
    assert scored(data, predictions=folder).boundaries is None


def test_calibration_needs_a_model_and_boundaries_need_metres(data, tmp_path):
    maps = write_maps(tmp_path / "maps")
    with pytest.raises(UsageError, match=r"--calibration.*--model M"):
        scored(data, predictions=maps, calibration=True)
    with pytest.raises(UsageError, match=r"--boundaries needs.*--gsd"):
        scored(data, predictions=maps, boundaries=True)
    assert scored(data, predictions=maps, gsd=1.0, boundaries=True).boundaries
    words = ("--map", tmp_path / "m.tif", "--truth", tmp_path / "t.gpkg", "--calibration", "--borders")
    assert "without --calibration, --boundaries" in refusal("evaluate", *words)


def tables_of(*pairs):
    """One group for each (right, wrong): urban pixels that are right, and such that are taken for water."""
    tables = np.zeros((len(pairs), 7, 8), np.int64)
    for table, (right, wrong) in zip(tables, pairs, strict=True):
        table[URBAN, [URBAN, WATER]] = right, wrong
        table[WATER, WATER] = right
    return tables


def test_fewer_than_five_groups_give_no_interval_but_a_warning(tmp_path):
    """Two images gave the two images' own scores as ends."""
    assert bootstrap_interval(tables_of(*[(90, 10), (50, 50)] * 2), DEEPGLOBE, "challenge") is None
    for number in (4, 5):
        truth = {f"val/{i}": halves(WATER, FOREST) for i in range(number)}
        data = write_data(tmp_path / f"data{number}", truth)
        result = scored(data, predictions=write_maps(tmp_path / f"maps{number}", truth))
        assert (result.miou_interval is None) == (number == 4)
        assert any("4 images are too few" in w for w in result.warnings) == (number == 4)


def test_interval_of_one_wrong_group_of_five_is_known_exactly():
    """It is drawn 0, 1, 2 or more times with probabilities 0.33, 0.41, 0.20 and 0.06; each costs a fifth."""
    tables = tables_of(*[(100, 0)] * 4, (0, 100))
    assert bootstrap_interval(tables, DEEPGLOBE, "challenge", level=0.6) == (0.6, 1.0)
    assert bootstrap_interval(tables, DEEPGLOBE, "challenge", level=0.2) == (0.8, 0.8)
    assert bootstrap_interval(np.zeros((5, 7, 8), np.int64), DEEPGLOBE, "challenge") is None


def test_scenes_are_resampled_where_the_data_know_them(tmp_path):
    truth = {f"val/{i}": halves(WATER, FOREST) for i in range(10)}
    data = write_data(tmp_path / "data", truth)
    maps = write_maps(tmp_path / "maps", {key: halves(WATER, int(key[-1]) % 2 + 2) for key in truth})
    by_image = scored(data, predictions=maps)
    assert by_image.resampled == "images"
    assert by_image.miou_interval[0] < by_image.miou_interval[1]
    rows = [f"val,{i},s{i // 2},0,{i % 2}" for i in range(10)]  # each scene holds a right and a wrong map
    (data / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))
    by_scene = scored(data, predictions=maps)
    assert by_scene.resampled == "scenes"
    assert by_scene.miou_interval == (by_scene.miou, by_scene.miou)


def test_options_that_contradict_each_other(data, tmp_path):
    maps = write_maps(tmp_path / "maps")
    with pytest.raises(UsageError, match="either --model M or --predictions"):
        scored(data)
    with pytest.raises(UsageError, match="either --model M or --predictions"):
        scored(data, model=ColourRuntime(), predictions=maps)
    with pytest.raises(UsageError, match="--maps"):
        scored(data, predictions=maps, maps=tmp_path / "more")
    with pytest.raises(UsageError, match="--prediction-legend"):
        scored(data, model=ColourRuntime(), prediction_legend=DEEPGLOBE)
    with pytest.raises(SplitError):
        evaluate(data, "folders:test", predictions=maps)


def test_outputs_are_not_overwritten_unasked(tmp_path):
    data = write_data(tmp_path / "data", {"val/1": halves(WATER, FOREST, 64)}, gsd=1.0)
    maps, file = tmp_path / "maps", tmp_path / "r.json"
    for _ in range(2):
        scored(data, model=ColourRuntime(), maps=maps, json=file, force=True)
    before = file.stat().st_mtime_ns
    runtime = ColourRuntime()
    with pytest.raises(OutputError, match=r"r\.json exists"):
        scored(data, model=runtime, json=file)
    with pytest.raises(OutputError, match=r"1_mask\.png exists"):
        scored(data, model=runtime, maps=maps)
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"model\.safetensors; expected a name that ends with \.json"):
        scored(data, model=runtime, json=model, force=True)
    assert model.read_bytes() == b"weights"
    assert runtime.shapes == []
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("option", ["json", "maps"])
def test_an_output_that_cannot_be_written_is_told_of_before_anything_is_scored(tmp_path, option):
    data = write_data(tmp_path / "data", {"val/1": halves(WATER, FOREST, 64)}, gsd=1.0)
    (tmp_path / "file").touch()
    runtime = ColourRuntime()
    for place in (tmp_path / "file/there", tmp_path / "file/further/down"):
        with pytest.raises(OutputError, match="is a file"):
            scored(data, model=runtime, **{option: place})
    (tmp_path / "maps/val/1_mask.png").mkdir(parents=True)
    target = tmp_path / "maps" if option == "maps" else tmp_path
    with pytest.raises(OutputError, match="is a folder"):
        scored(data, model=runtime, force=True, **{option: target})
    assert runtime.shapes == []


def test_paths_in_the_result_lead_there_from_everywhere(data, tmp_path, monkeypatch):
    write_maps(tmp_path / "maps")
    monkeypatch.chdir(tmp_path)
    result = evaluate("data", "folders:val", predictions="maps")
    assert (result.data, result.predictions) == (data, tmp_path / "maps")
