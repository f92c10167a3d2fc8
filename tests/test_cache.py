"""The prepared cache: equal to its source, cheap to reuse, and never half there."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from datafolders import MINIATURES, image_of, truth_of, write_folder, write_image, write_mask
from imagefiles import save
from landcover.data import open_dataset, prepare, verify
from landcover.data.cache import CacheDataset
from landcover.data.dataset import combine
from landcover.data.vectorlabels import VectorSource
from landcover.errors import DataError, OutputError, UsageError
from landcover.evaluation import evaluate
from landcover.io import read_image
from landcover.legend import DEEPGLOBE, LandClass, Legend
from landcover.raster import Reading
from landcover.training.data import load_training_data
from landcover.windows import Window


@pytest.mark.parametrize("name", MINIATURES)
def test_a_cache_is_its_source(name, tmp_path):
    write_folder(tmp_path / "data", name)
    source = open_dataset(tmp_path / "data")
    cache, written = prepare(tmp_path / "data", tmp_path / "cache")
    assert written
    for dataset in (cache, open_dataset(tmp_path / "cache")):
        assert isinstance(dataset, CacheDataset)
        assert (dataset.layout, dataset.gsd, dataset.legend) == (source.layout, source.gsd, source.legend)
        assert [(i.key, i.part) for i in dataset.items] == [(i.key, i.part) for i in source.items]
        assert [i.key for i in dataset.labelled] == [i.key for i in source.labelled]
        for ours, theirs in zip(dataset.items, source.items, strict=True):
            assert dataset.size(ours) == source.size(theirs)
            np.testing.assert_array_equal(dataset.read_image(ours), source.read_image(theirs))
        for ours, theirs in zip(dataset.labelled, source.labelled, strict=True):
            np.testing.assert_array_equal(dataset.read_mask(ours), source.read_mask(theirs))
            np.testing.assert_array_equal(dataset.class_pixels(ours), source.class_pixels(theirs))


def test_images_of_different_sizes_do_not_mix(tmp_path):
    sizes = {"a": (5, 9), "b": (16, 3), "c": (1, 1)}
    for key, size in sizes.items():
        write_image(tmp_path / f"data/{key}_sat.png", image_of(key, size))
        write_mask(tmp_path / f"data/{key}_mask.png", truth_of(key, size))
    cache, _ = prepare(tmp_path / "data", tmp_path / "cache")
    for item in cache.items:
        np.testing.assert_array_equal(cache.read_image(item), image_of(item.key, sizes[item.key]))
        np.testing.assert_array_equal(cache.read_mask(item), truth_of(item.key, sizes[item.key]))


@pytest.fixture
def cache(tmp_path):
    write_folder(tmp_path / "data", "restarting")
    return prepare(tmp_path / "data", tmp_path / "cache").dataset


def test_masks_of_caches_are_read_without_their_images(cache, monkeypatch):
    expected = [cache.class_pixels(item) for item in cache.labelled]
    both = combine([replace(cache, gsd=0.5)] * 2)
    monkeypatch.setattr(CacheDataset, "read_imagery", None)  # calling it is a TypeError
    for n, item in enumerate(both.labelled):
        np.testing.assert_array_equal(both.class_pixels(item), expected[n % len(expected)])
        np.testing.assert_array_equal(both.labels(item).index, truth_of(item.key.partition("/")[2]))


class TestReading:
    def test_windows_decode_nothing_and_are_one_s_own(self, cache, tmp_path):
        item, window = cache.items[6], Window(2, 5, 7, 11)
        expected = read_image(item.image)[window.slices]
        for file in (tmp_path / "data").rglob("*.*"):
            file.unlink()
        crop = cache.read_image(item, window)
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_array_equal(cache.read_mask(item, window), truth_of(item.key)[window.slices])
        crop[:] = 0
        np.testing.assert_array_equal(cache.read_image(item, window), expected)

    def test_windows_beyond_the_image_are_refused(self, cache):
        for read in (cache.read_image, cache.read_mask):
            with pytest.raises(UsageError, match="24 x 32"):
                read(cache.items[0], Window(0, 30, 4, 4))

    def test_an_unlabelled_item_has_no_mask(self, tmp_path):
        write_folder(tmp_path / "data", "kaggle")
        dataset, _ = prepare(tmp_path / "data", tmp_path / "cache")
        assert {item.key for item in dataset.items} - {item.key for item in dataset.labelled} == {
            "valid/77",
            "test/3",
        }
        with pytest.raises(DataError, match=r"test/3 .*no mask"):
            dataset.read_mask(dataset.items[0])

    def test_a_set_without_any_mask_is_kept(self, tmp_path):
        write_image(tmp_path / "data/a_sat.png", image_of("a"))
        dataset, _ = prepare(tmp_path / "data", tmp_path / "cache")
        np.testing.assert_array_equal(dataset.read_image(dataset.items[0]), image_of("a"))
        assert dataset.labelled == []

    def test_off_palette_pixels_are_remembered(self, tmp_path):
        write_image(tmp_path / "data/a_sat.png", image_of("a"))
        red = np.zeros((24, 32, 3), np.uint8)
        red[:2, :3] = (255, 0, 0)
        Image.fromarray(red).save(tmp_path / "data/a_mask.png")
        dataset, _ = prepare(tmp_path / "data", tmp_path / "cache")
        assert dataset.labels(dataset.items[0]).off_palette == 6


class TestMakingAgain:
    def test_unchanged_files_are_left_alone(self, cache, tmp_path):
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
        os.utime(tmp_path / "data/train/0000_sat.jpg", (1, 1))  # a copy with another time is the same file
        again, written = prepare(tmp_path / "data", tmp_path / "cache")
        assert not written
        assert again.items == cache.items
        assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == before

    @pytest.mark.parametrize("change", ["content", "removed", "mask removed", "added", "gsd", "scenes"])
    def test_changes_need_force(self, change, cache, tmp_path):
        data = tmp_path / "data"
        match change:
            case "content":
                write_mask(data / "train/0000_mask.png", truth_of("other"))
            case "removed":
                for half in ("sat.jpg", "mask.png"):
                    (data / f"train/0000_{half}").unlink()
            case "mask removed":
                (data / "train/0000_mask.png").unlink()
            case "added":
                write_image(data / "train/0009_sat.jpg", image_of("new"))
            case "gsd":
                (data / "landcover.yaml").write_text("gsd: 0.3\n")
            case "scenes":
                (data / "scenes.csv").write_text("part,id,scene,row,col\ntrain,0000,a,0,0\n")
        with pytest.raises(OutputError, match="--force"):
            prepare(data, tmp_path / "cache")
        assert open_dataset(tmp_path / "cache").items == cache.items
        new, written = prepare(data, tmp_path / "cache", force=True)
        assert written
        fresh = open_dataset(data)
        assert [item.key for item in new.items] == [item.key for item in fresh.items]
        assert (new.gsd, new.scenes) == (fresh.gsd, fresh.scenes)
        for ours, theirs in zip(new.labelled, fresh.labelled, strict=True):
            np.testing.assert_array_equal(new.read_mask(ours), fresh.read_mask(theirs))

    def test_another_folder_is_never_written_into_and_a_cache_is_no_source(self, cache, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/notes.txt").write_text("keep")
        for force in (False, True):
            with pytest.raises(OutputError, match="not a cache"):
                prepare(tmp_path / "data", tmp_path / "mine", force=force)
        assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
        with pytest.raises(UsageError, match="cache already"):
            prepare(tmp_path / "cache", tmp_path / "other")


class TestDamage:
    @pytest.mark.parametrize("name", ["images.bin", "masks.bin"])
    @pytest.mark.parametrize("kept", [0, 100])
    def test_cut_short(self, name, kept, cache):
        content = (cache.root / name).read_bytes()
        (cache.root / name).write_bytes(content[:kept])
        with pytest.raises(DataError, match=f"{name} has {kept} bytes.*{len(content)}.*prepare again"):
            open_dataset(cache.root)

    @pytest.mark.parametrize("opened", [False, True])
    @pytest.mark.parametrize("name", ["images.bin", "masks.bin"])
    def test_cut_short_while_it_is_read(self, name, opened, cache):
        """The system would kill a process that reads mapped memory there."""
        item = cache.labelled[-1]
        read = cache.read_image if name == "images.bin" else cache.read_mask
        if opened:
            read(item)
        os.truncate(cache.root / name, 100)
        with pytest.raises(DataError, match=f"{name} was cut short while it was read: .* 100 bytes"):
            read(item)

    @pytest.mark.parametrize("damage", ["offset", "missing", "cut", "version", "no counts", "counts", "crs"])
    def test_a_damaged_index_is_refused(self, damage, cache):
        file = cache.root / "index.json"
        text = file.read_text()
        index = json.loads(text)
        entry = next(entry for entry in index["items"] if entry["mask"] is not None)
        match damage:
            case "missing":
                file.unlink()
            case "cut":
                file.write_text(text[: len(text) // 2])
            case "version":
                file.write_text(json.dumps({**index, "version": 99}))
            case "offset" | "crs":
                entry |= {"image_offset": 10**9} if damage == "offset" else {"crs": 99}
                file.write_text(json.dumps(index))
            case _:
                entry["class_pixels"] = [1, 2, 3] if damage == "counts" else []
                file.write_text(json.dumps(index))
        fact = {"missing": "index.json", "cut": "index.json", "version": "99"}.get(damage, entry["key"])
        with pytest.raises(DataError, match=f"{fact}.*prepare again"):
            open_dataset(cache.root)

    @pytest.mark.parametrize(
        "changes",
        [
            *({"key": key} for key in ("../../x", "/x", "a/../../x", "", "a//b", "..\\x")),
            *({"class_pixels": [count] + [0] * 6} for count in (-1, 1 << 40, 1 << 70)),
            {"off_palette": -1},
            {"pixels_hash": "zz"},
        ],
    )
    def test_an_index_that_names_other_folders_or_impossible_counts_is_refused(self, changes, cache):
        file = cache.root / "index.json"
        index = json.loads(file.read_text())
        next(entry for entry in index["items"] if entry["mask"] is not None).update(changes)
        file.write_text(json.dumps(index))
        with pytest.raises(DataError, match=r"index\.json.*prepare again"):
            open_dataset(cache.root)

    def test_an_incomplete_cache_is_made_again(self, cache, tmp_path):
        (cache.root / "index.json").unlink()
        assert prepare(tmp_path / "data", cache.root).written
        assert open_dataset(cache.root).items == cache.items

    def test_damage_is_repaired_by_force(self, cache, tmp_path):
        (cache.root / "index.json").write_text("{}")
        with pytest.raises(OutputError, match="--force"):
            prepare(tmp_path / "data", cache.root)
        assert prepare(tmp_path / "data", cache.root, force=True).written
        assert open_dataset(cache.root).items == cache.items

    def test_a_truncated_image_leaves_nothing_behind(self, tmp_path):
        write_folder(tmp_path / "data", "restarting")
        path = tmp_path / "data/validation/0003_sat.jpg"
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"validation/0003_sat\.jpg"):
            prepare(tmp_path / "data", tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_links_that_lead_nowhere_are_named_with_the_other_faults(self, tmp_path):
        write_folder(tmp_path / "data", "restarting")
        for name in ("0001", "0003"):
            path = tmp_path / f"data/validation/{name}_sat.jpg"
            path.unlink()
            path.symlink_to(tmp_path / "gone.jpg")
        with pytest.raises(DataError, match=r"(?s)0001_sat\.jpg.*0003_sat\.jpg"):
            prepare(tmp_path / "data", tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_a_failed_replacement_leaves_the_cache_as_it_was(self, cache, tmp_path):
        path = tmp_path / "data/validation/0003_sat.jpg"
        path.write_bytes(path.read_bytes()[:-200])
        before = {file: file.read_bytes() for file in cache.root.iterdir()}
        with pytest.raises(DataError):
            prepare(tmp_path / "data", cache.root, force=True)
        assert {file: file.read_bytes() for file in cache.root.iterdir()} == before

    def test_a_kill_during_the_first_making_is_made_good(self, cache, tmp_path):
        out = tmp_path / "killed"
        out.mkdir()
        for name in ("images", "masks"):
            (out / f".{name}.4711.landcover-tmp.bin").write_bytes(b"half")
        assert prepare(tmp_path / "data", out).written
        assert sorted(file.name for file in out.iterdir()) == ["images.bin", "index.json", "masks.bin"]


@pytest.mark.parametrize("of", ["data", "cache"])
def test_unknown_options_are_refused(tmp_path, of):
    write_folder(tmp_path / "data", "restarting")
    prepare(tmp_path / "data", tmp_path / "cache")
    with pytest.raises(TypeError, match=r"options gds; expected some of legend, gsd"):
        open_dataset(tmp_path / of, gds=99.0)
    with pytest.raises(TypeError, match="gds"):
        verify(tmp_path / of, gds=99.0)
    with pytest.raises(TypeError, match="gds"):
        prepare(tmp_path / of, tmp_path / "new", gds=99.0)
    assert not (tmp_path / "new").exists()


def test_an_open_dataset_takes_no_other_options(tmp_path):
    write_folder(tmp_path / "data", "restarting")
    dataset = open_dataset(tmp_path / "data", gsd=2)
    turned = Legend("turned", DEEPGLOBE.classes[::-1], 0)
    for use in (
        lambda **given: prepare(dataset, tmp_path / "cache", **given),
        lambda **given: load_training_data(dataset, "folders", crop_px=32, model_gsd=None, **given),
        lambda **given: verify(dataset, **given),
        lambda **given: evaluate(dataset, "folders:train", predictions=tmp_path, **given),
    ):
        with pytest.raises(UsageError, match="Pass legend, gsd to open_dataset"):
            use(legend=turned, gsd=9)
    same = {"gsd": np.float64(2), "legend": DEEPGLOBE, "reading": Reading(), "labels": None}
    assert open_dataset(dataset, **same) is dataset


def test_an_open_dataset_takes_its_own_labels_only(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    shape = {"label": "house", "points": [[1, 1], [5, 1], [5, 5]]}
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
    source = VectorSource(tmp_path / "a.json", background="other")
    dataset = open_dataset(tmp_path / "a.png", labels=source, gsd=1)
    assert open_dataset(dataset, labels=source) is dataset
    with pytest.raises(UsageError, match="Pass labels to open_dataset"):
        open_dataset(dataset, labels=source._replace(background=None))
    with pytest.raises(TypeError, match="gds"):
        prepare(dataset, tmp_path / "cache", gds=9)
    assert not (tmp_path / "cache").exists()


def test_legend_and_scale_of_a_cache(tmp_path):
    write_folder(tmp_path / "data", "restarting")
    prepare(tmp_path / "data", tmp_path / "cache", gsd=0.7)
    assert open_dataset(tmp_path / "cache").gsd == 0.7
    assert open_dataset(tmp_path / "cache", gsd=2).gsd == 2
    assert open_dataset(tmp_path / "cache", legend=DEEPGLOBE).legend == DEEPGLOBE
    other = Legend("other", (LandClass("a", (0, 0, 0)), LandClass("b", (1, 1, 1))), None)
    scored = Legend("deepglobe", DEEPGLOBE.classes, None)
    for legend in (other, scored):
        with pytest.raises(UsageError, match=f"'deepglobe', not '{legend.name}'.*unknown class"):
            open_dataset(tmp_path / "cache", legend=legend)


def test_masks_read_by_another_index_order_are_not_up_to_date(tmp_path):
    write_folder(tmp_path / "data", "mmsegmentation")
    prepare(tmp_path / "data", tmp_path / "cache")
    with pytest.raises(OutputError, match="--force"):
        prepare(tmp_path / "data", tmp_path / "cache", legend=DEEPGLOBE)
    cache = prepare(tmp_path / "data", tmp_path / "cache", legend=DEEPGLOBE, force=True).dataset
    item = cache.labelled[0]
    np.testing.assert_array_equal(cache.read_mask(item), (truth_of(item.key) + 1) % 7)
