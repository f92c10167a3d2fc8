"""Scenes of fleets: read as ``predict`` reads them, named apart, and noticed when they change."""

import json
import shutil

import numpy as np
import onnx
import pytest

from fleet_world import MODEL, OPTIONS, Here, plan, run, tree
from imagefiles import photo, save, save_raster
from landcover.errors import DataError, OutputError
from landcover.fleet.planning import make_plan
from landcover.fleet.units import Outcome
from landcover.inference import predict


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
    make_plan([tmp_path / "scenes"], model, str(tmp_path / "out"), OPTIONS)
    assert run(tmp_path / "out").complete
    predict([tmp_path / "scenes"], model, tmp_path / "predict", OPTIONS)
    assert maps_of(tmp_path / "out/maps") == maps_of(tmp_path / "predict")


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
    assert not record["input"]
    assert str(one / "scenes/a.tif") in record["error"]
    shutil.move(one / "unmounted", one / "scenes")
    assert run(one / "out", retry=True).complete


def test_unit_after_unit_that_is_refused_stops_the_run(tmp_path, monkeypatch):
    class Refusing(Here):
        def wait(self, seconds):
            yield self.jobs.pop()[0], Outcome("refused", "the format is not known")

    monkeypatch.setattr("landcover.fleet.run.REFUSALS", 3)
    for name in "abcde":
        save(tmp_path / f"scenes/{name}.png", photo(40, 40))
    plan(tmp_path / "scenes", tmp_path / "out")
    with pytest.raises(DataError, match="format is not known"):
        run(tmp_path / "out", Refusing(tmp_path / "out"))
    assert len([*(tmp_path / "out/failed").iterdir()]) == 3
    assert run(tmp_path / "out").done == 2
