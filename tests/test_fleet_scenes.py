"""Scenes of fleets: read as ``predict`` reads them, named apart, and noticed when they change."""

import json
import shutil

import numpy as np
import onnx
import pytest
import rasterio
from affine import Affine
from PIL import Image

from fleet_world import MODEL, OPTIONS, Here, plan, run, save_damaged, tree
from imagefiles import UTM, photo, save, save_raster
from landcover.cli.fleet import fleet_run
from landcover.errors import DataError, OutputError, UsageError
from landcover.fleet import planning, work
from landcover.fleet.planning import make_plan
from landcover.fleet.units import Outcome, open_planned, read_plan, read_units
from landcover.inference import predict
from landcover.storage.store import FolderStore, open_store


class Refusing(Here):
    def wait(self, seconds):
        yield self.jobs.pop()[0], Outcome("refused", "the format is not known")


def maps_of(folder):
    return {name: digest for name, digest in tree(folder).items() if not name.endswith(".json")}


def test_bands_and_scaling_of_the_models_card_are_those_of_predict(tmp_path):
    graph = onnx.load(MODEL)
    (entry,) = (one for one in graph.metadata_props if one.key == "landcover")
    card = json.loads(entry.value)
    card["preprocessing"] |= {"bands": ["b", "g", "r"], "band_indices": [4, 3, 2], "scaling": [0, 3000]}
    entry.value = json.dumps(card)
    model = tmp_path / "model.onnx"
    onnx.save(graph, model)
    bands = np.random.default_rng(0).integers(0, 3000, (50, 40, 4)).astype(np.uint16)
    save_raster(tmp_path / "scenes/a.tif", bands, place=True)
    named = save_raster(tmp_path / "scenes/named.tif", bands, place=True)
    with rasterio.open(named, "r+") as target:
        target.descriptions = ("g", "r", "other", "b")  # found by name before number
    make_plan([tmp_path / "scenes"], model, str(tmp_path / "out"), OPTIONS)
    assert run(tmp_path / "out").complete
    predict([tmp_path / "scenes"], model, tmp_path / "predict", OPTIONS)
    assert maps_of(tmp_path / "out/maps") == maps_of(tmp_path / "predict")
    maps = [rasterio.open(tmp_path / f"predict/{name}_mask.tif").read(1) for name in ("a", "named")]
    assert (maps[0] != maps[1]).any()


def test_images_that_differ_in_their_suffix_have_a_receipt_each(tmp_path):
    scenes = tmp_path / "scenes"
    save_raster(scenes / "a.tif", photo(50, 40, 1), place=True)
    save(scenes / "a.png", photo(48, 48, 3))
    with pytest.raises(OutputError, match="a_confidence"):
        plan(scenes, tmp_path / "one")
    plan(scenes, tmp_path / "two", confidence=False)
    assert run(tmp_path / "two").done == 2
    items = [json.loads((tmp_path / f"two/maps/a_mask.{end}.json").read_text()) for end in ("tif", "png")]
    assert len({item["id"] for item in items}) == 2
    assert [item["assets"]["map"]["href"] for item in items] == ["./a_mask.tif", "./a_mask.png"]


@pytest.fixture
def one(tmp_path):
    """A plan of one scene, ``scenes/a.tif``, in ``out``."""
    save_raster(tmp_path / "scenes/a.tif", photo(50, 40, 1), place=True)
    plan(tmp_path / "scenes", tmp_path / "out")
    return tmp_path


def test_a_scene_that_is_away_is_a_fault_and_not_refused(one):
    shutil.move(one / "scenes", one / "unmounted")
    summary = run(one / "out")
    assert (summary.repeated, [*summary.failed]) == (2, ["maps/a_mask.tif"])
    (record,) = (json.loads(path.read_text()) for path in (one / "out/failed").iterdir())
    assert record["state"] == "fault"
    assert str(one / "scenes/a.tif") in record["error"]
    shutil.move(one / "unmounted", one / "scenes")
    assert run(one / "out", retry=True).complete


def test_unit_after_unit_that_is_refused_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("landcover.fleet.run.REFUSALS", 3)
    for name in "abcde":
        save(tmp_path / f"scenes/{name}.png", photo(40, 40))
    plan(tmp_path / "scenes", tmp_path / "out")
    with pytest.raises(DataError, match="format is not known"):
        run(tmp_path / "out", Refusing(tmp_path / "out"))
    assert len([*(tmp_path / "out/failed").iterdir()]) == 3
    assert run(tmp_path / "out").done == 2
    lost = min((tmp_path / "out/maps").glob("*_mask.png"))
    lost.unlink()
    again = run(tmp_path / "out")  # also beside failed units
    assert (len(again.failed), again.missing, again.complete) == (3, [f"maps/{lost.name}"], False)


def test_damage_and_warnings_of_a_scene_are_reported(tmp_path, caplog):
    path = tmp_path / "scenes/a.tif"
    save_damaged(path)
    plan(tmp_path / "scenes", tmp_path / "out")
    summary = run(tmp_path / "out")
    assert (summary.damaged, summary.complete) == (["maps/a_mask.tif"], True)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("damaged" in text and str(path) in text for text in warnings)
    item = json.loads((tmp_path / "out/maps/a_mask.tif.json").read_text())
    with rasterio.open(tmp_path / "out/maps/a_mask.tif") as source:
        assert item["properties"]["landcover:damaged"] == json.loads(source.tags()["LANDCOVER_DAMAGED"])
    again = run(tmp_path / "out")
    assert (again.done, again.damaged) == (0, ["maps/a_mask.tif"])


def test_a_world_file_is_published_and_pinned(tmp_path):
    scenes = tmp_path / "scenes"
    for name in "ab":
        save(scenes / f"{name}.png", photo(48, 48, 3))
        (scenes / f"{name}.pgw").write_text("2\n0\n0\n-2\n500001\n5700001\n")
    plan(scenes, tmp_path / "out")
    (scenes / "b.pgw").write_text("2\n0\n0\n-2\n600001\n5700001\n")
    summary = run(tmp_path / "out")
    assert [*summary.failed] == ["maps/b_mask.png"]
    assert f"{scenes / 'b.pgw'} has changed" in summary.failed["maps/b_mask.png"]
    predict([scenes / "a.png"], MODEL, tmp_path / "predict", OPTIONS)
    assert (tmp_path / "predict/a_mask.pgw").is_file()
    assert maps_of(tmp_path / "out/maps") == maps_of(tmp_path / "predict")
    item = json.loads((tmp_path / "out/maps/a_mask.png.json").read_text())
    assert "./a_mask.pgw" in [asset["href"] for asset in item["assets"].values()]


def test_neighbours_are_context_and_pinned(tmp_path):
    image, scenes = photo(80, 200, 5), tmp_path / "scenes"
    for number in (0, 1):
        place = {"crs": UTM, "transform": Affine(0.5, 0, 500_000 + 50 * number, 0, -0.5, 5_700_000)}
        save_raster(scenes / f"{number}.tif", image[:, 100 * number : 100 * number + 100], **place)
    for name, context in (("out", True), ("alone", False)):
        plan(scenes, tmp_path / name, context=context)
        assert run(tmp_path / name).complete
        options = OPTIONS.model_copy(update={"context": context})
        predict([scenes], MODEL, tmp_path / f"predict-{name}", options)
        assert maps_of(tmp_path / name / "maps") == maps_of(tmp_path / f"predict-{name}")
    assert maps_of(tmp_path / "out/maps") != maps_of(tmp_path / "alone/maps")
    plan(scenes, tmp_path / "late")
    save_raster(scenes / "1.tif", image[:, :100], **place)
    summary = run(tmp_path / "late")
    assert sorted(summary.failed) == ["maps/0_mask.tif", "maps/1_mask.tif"]
    assert f"{scenes / '1.tif'} has changed" in summary.failed["maps/0_mask.tif"]


def test_a_mask_that_appears_after_the_plan_is_noticed(one):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"):
        save_raster(one / "other/a.tif", photo(50, 40, 1), place=True, mask=np.eye(50, 40, dtype=bool))
    shutil.copy(one / "other/a.tif.msk", one / "scenes/a.tif.msk")
    summary = run(one / "out")
    assert str(one / "scenes/a.tif.msk") in summary.failed["maps/a_mask.tif"]


def test_a_late_worker_leaves_what_is_published(one, monkeypatch):
    written, make = {}, work.make_map
    line = next((one / "out").glob("plan*.jsonl")).read_text()

    def late(*args, **more):
        made = make(*args, **more)
        if not written:
            written[0] = 0  # the other worker comes here, too
            assert work.Worker(work.Setup(str(one / "out")))(line).state == "done"
            written.update((path, path.stat().st_ino) for path in (one / "out/maps").iterdir())
            del written[0]
        return made

    monkeypatch.setattr(work, "make_map", late)
    summary = run(one / "out")
    assert (summary.kept, summary.complete) == (1, True)
    assert len(written) > 2
    assert {path: path.stat().st_ino for path in written} == written


def test_an_image_in_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (Image.fromarray(photo(side, side, side)) for side in (40, 48))
    first.save("a.tif", save_all=True, append_images=[second])
    make_plan(["GTIFF_DIR:2:a.tif"], MODEL, "out", OPTIONS)
    monkeypatch.chdir("/")
    assert run(tmp_path / "out").failed == {}
    monkeypatch.chdir(tmp_path)
    predict(["GTIFF_DIR:2:a.tif"], MODEL, "predict", OPTIONS)
    monkeypatch.chdir("/")
    (name,) = (path.name for path in (tmp_path / "predict").glob("*_mask.png"))
    pixels = [np.asarray(Image.open(tmp_path / folder / name)) for folder in ("predict", "out/maps")]
    np.testing.assert_array_equal(*pixels)


def test_two_plans_at_once_do_not_mix(tmp_path, monkeypatch):
    """The second plan, of another model, is made, whole, while the first one is about to be completed."""
    other = onnx.load(MODEL)
    other.doc_string = "other"
    (tmp_path / "other").mkdir()
    onnx.save(other, tmp_path / "other/model.onnx")
    for name in "ab":
        save_raster(tmp_path / f"{name}/{name}.tif", photo(50, 40, 1), place=True)
    out, put_new = tmp_path / "out", FolderStore.put_new

    def late(*args):
        monkeypatch.setattr(FolderStore, "put_new", put_new)
        make_plan([tmp_path / "b"], tmp_path / "other/model.onnx", str(out), OPTIONS)
        return put_new(*args)

    monkeypatch.setattr(FolderStore, "put_new", late)
    with pytest.raises(OutputError, match="another plan"):
        plan(tmp_path / "a", out)
    assert run(out).complete
    assert [path.name for path in (out / "maps").glob("*_mask.tif")] == ["b_mask.tif"]
    (units,) = out.glob("plan*.jsonl")
    assert open_planned(str(units)).root == open_planned(str(out / "plan.json")).root == str(out)


def test_a_plan_is_for_one_kind_of_device(tmp_path):
    save_raster(tmp_path / "a.tif", photo(50, 40, 1), place=True)
    keys = set()
    for device in ("cpu", "cuda"):
        runtime, out = "onnxruntime", tmp_path / device
        made = make_plan([tmp_path / "a.tif"], MODEL, str(out), OPTIONS, device=device, runtime=runtime)
        assert made.device == device
        keys |= {key for key, _, _ in read_units(open_store(out), made)}
    assert len(keys) == 2
    edited = json.loads((tmp_path / "cpu/plan.json").read_text()) | {"device": "cuda"}
    (tmp_path / "cpu/plan.json").write_text(json.dumps(edited))
    with pytest.raises(UsageError, match="plan is for cuda"):
        work.Worker(work.Setup(str(tmp_path / "cpu"), device="cpu"))


@pytest.mark.parametrize("damage", ["", "[]", '{"sha256": 1}', None])
def test_a_damaged_receipt_of_a_part_is_a_damaged_part(tmp_path, damage):
    save_raster(tmp_path / "scenes/a.tif", photo(200, 80, 4), place=True)
    out = tmp_path / "out"
    plan(tmp_path / "scenes", out)
    assert run(out, shard=(0, 3)).done == 1
    (receipt,) = (out / "parts").glob("*.json")
    if damage is None:
        receipt.with_suffix(".bin").unlink()
        run(out)
    else:
        receipt.write_text(damage)
    assert run(out).complete
    assert not [*(out / "parts").iterdir()]


def test_records_of_runs_that_are_damaged_change_nothing(one):
    for number, content in enumerate(["", "[]", "{}", '{"updated": "x"}']):
        (one / "out/runs").mkdir(exist_ok=True)
        (one / f"out/runs/{number}.json").write_text(content)
    assert run(one / "out").complete


def test_what_another_run_has_made_has_not_failed(one):
    out = one / "out"
    assert run(out, Refusing(out)).failed
    (record,) = (out / "failed").iterdir()
    kept = record.read_bytes()
    assert run(out, retry=True).complete
    record.write_bytes(kept)
    again = run(out)
    assert (again.kept, again.failed, again.complete) == (1, {}, True)
    assert not record.exists()


def test_only_items_of_the_plan_are_counted(one):
    out = one / "out"
    (out / "maps").mkdir()
    (out / "maps/notes.json").write_text("{}")
    assert not run(out, Refusing(out)).complete
    assert not (out / "collection.json").exists()


def test_a_prefix_is_searched_like_a_folder(tmp_path, monkeypatch):
    names = ["a_sat.tif", "b_mask.tif", "c_confidence.tif", "d_probabilities.tif", "e_label.tif", ".f.tif",
             "p/images/g.TIF", "p/masks/h.tif", "masks/i.tif", ".y/j.tif"]  # fmt: skip
    for name in names:
        save_raster(tmp_path / "scenes" / name, photo(40, 40, 1), place=True)
    plan(tmp_path / "scenes", tmp_path / "out")
    planned = read_plan(open_store(tmp_path / "out"))
    outputs = {unit.output for _, unit, _ in read_units(open_store(tmp_path / "out"), planned)}
    assert outputs == {"maps/a_mask.tif", "maps/p/images/g_mask.tif", "maps/masks/i_mask.tif"}
    monkeypatch.setattr(planning, "open_store", lambda address: FolderStore(tmp_path / "scenes"))
    found = [name for _, name, _ in planning._expanded(["s3://bucket/scenes/"])]
    assert {f"maps/{name}_mask.tif" for name in found} == outputs


def test_a_plan_that_is_nested_too_deep_and_shares_that_are_not_numbers(one):
    (one / "out/plan.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"plan\.json is damaged"):
        run(one / "out")
    for shard in ("²/3", "1/٣x", "9" * 5000 + "/1", "/"):
        with pytest.raises(UsageError, match="--shard"):
            fleet_run(str(one / "out"), shard=shard)
