"""Splits: the grammar, pinned and reproducible lists, and lists that do not fit the data."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafolders import image_of, truth_of, write_folder, write_image, write_mask
from landcover.data import Dataset, open_dataset, select, split
from landcover.data import splits as module
from landcover.data.layouts import Item, SceneTile
from landcover.data.splits import (
    GRAMMAR,
    LISTED_COUNTS,
    class_pixels,
    describe,
    glnet_ids,
    listed_folds,
    parse,
    scene_folds,
)
from landcover.errors import SplitError
from landcover.legend import DEEPGLOBE, NODATA
from landcover.raster import Reading


class Listed(Dataset):
    """A data set of names only, with class counts that follow from the key."""

    def size(self, item):
        raise NotImplementedError

    def read_imagery(self, item, window=None):
        raise NotImplementedError

    def georeference(self, item):
        return None

    def labels(self, item, valid="decode"):
        raise NotImplementedError

    def fingerprint(self, item):
        raise NotImplementedError

    def class_pixels(self, item):
        return np.bincount(truth_of(item.key).ravel(), minlength=7).astype(np.int64)


def listed(keys, *, unlabelled=None, scenes=None):
    def item(key, mask):
        part = key.rpartition("/")[0] or None
        return Item(key, part, Path(f"{key}_sat.jpg"), Path(f"{key}_mask.png") if mask else None)

    items = [item(key, True) for key in keys] + [item(key, False) for key in unlabelled or []]
    items.sort(key=lambda item: item.key)
    return Listed(Path("D"), "pairs", DEEPGLOBE, 0.5, False, tuple(items), scenes, None, Reading())


def keys_of(parts):
    return {part: [item.key for item in items] for part, items in parts.items()}


TILES = [f"train/{i:04d}" for i in range(40)] + [f"validation/{i:04d}" for i in range(10)]


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "kind", "numbers", "part"),
        [
            ("folders", "folders", (), None),
            ("folders:validation", "folders", (), "validation"),
            ("random-723-80@42:val", "random-N-M@SEED", (723, 80, 42), "val"),
            ("kfold-5@4", "kfold-K@I", (5, 4), None),
            ("scenes-k3@0:train", "scenes-kK@I", (3, 0), "train"),
            ("scenes-k5@0,3:val", "scenes-kK@I,J", (5, 0, 3), "val"),
            ("all", "all", (), None),
        ],
    )
    def test_names_are_taken_apart(self, text, kind, numbers, part):
        parsed = parse(text)
        assert (parsed.kind, parsed.numbers, parsed.part) == (kind, numbers, part)

    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("folder", "'folders'"),
            ("glnets:val", "'glnet'"),
            ("kfold-5", "'kfold-K@I'"),
            ("scene-k5@0", "'scenes-kK@I'"),
            ("scenes-k5@0,", "'scenes-kK@I"),
            ("random-10-5", "'random-N-M@SEED'"),
            ("kfold-5@-1", "'kfold-K@I'"),
            ("kfold-٥@٠", "'kfold-K@I'"),
        ],
    )
    def test_wrong_names_get_a_hint(self, text, hint):
        with pytest.raises(SplitError, match=f"{re.escape(text.partition(':')[0])}.*Did you mean {hint}"):
            parse(text)

    def test_a_name_like_nothing_lists_all_forms(self):
        with pytest.raises(SplitError) as error:
            parse("lists/mine.txt")
        assert all(kind in str(error.value) for kind in GRAMMAR)

    def test_a_file_of_the_same_name_changes_no_split(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("all", "list", "a:b"):
            Path(name).write_text("train/a\n")
        assert parse("all").kind == parse("all:all").kind == "all"
        assert [parse(name).kind for name in ("./all", "list", "list:all", "a:b")] == ["FILE"] * 4
        assert (parse("list:all").part, parse("a:b").part) == ("all", None)

    def test_a_colon_needs_a_part(self):
        with pytest.raises(SplitError, match="'folders:val'"):
            parse("folders:")

    def test_select_needs_a_part_that_exists(self):
        dataset = listed(TILES)
        assert [item.key for item in select(dataset, "folders:validation")] == TILES[40:]
        assert len(select(dataset, "all")) == 50
        with pytest.raises(SplitError, match=r"train, validation.*'folders:validation'"):
            select(dataset, "folders")
        with pytest.raises(SplitError, match=r"'valid'.*'validation'"):
            select(dataset, "folders:valid")


class TestFolders:
    def test_parts_are_the_labelled_ones(self):
        dataset = listed(["train/a", "val/b"], unlabelled=["test/c", "train/d"])
        assert keys_of(split(dataset, "folders")) == {"train": ["train/a"], "val": ["val/b"]}


class TestGLNet:
    def test_the_lists_are_those_published(self):
        ids = glnet_ids()
        assert {part: len(names) for part, names in ids.items()} == {"train": 454, "val": 207, "test": 142}
        assert len(ids["train"] | ids["val"] | ids["test"]) == 803
        # Known members: three of the pairs that repositories publish.
        assert "10452" in ids["test"]
        assert all(name.isdecimal() for names in ids.values() for name in names)

    def test_ids_are_matched_whatever_the_folder(self):
        everything = sorted(frozenset().union(*glnet_ids().values()))
        parts = split(listed([f"land-train/{name}" for name in everything] + ["extra/1"]), "glnet")
        assert {part: {item.id for item in items} for part, items in parts.items()} == glnet_ids()

    def test_a_part_that_is_wholly_absent_is_left_out(self):
        parts = split(listed(sorted(glnet_ids()["val"] | glnet_ids()["train"])), "glnet")
        assert {part: len(items) for part, items in parts.items()} == {"train": 454, "val": 207}

    def test_lists_that_do_not_fit_are_refused(self):
        names = {part: sorted(ids) for part, ids in glnet_ids().items()}
        missing = ", ".join(names["val"][:3])
        for keys, message in (
            (names["val"][3:], rf"204 of the 207 .*val.*missing: {missing}"),
            (["train/0000"], "803"),
            ([*names["test"], f"copy/{names['test'][0]}"], r"fits several items: .*copy/"),
        ):
            with pytest.raises(SplitError, match=message):
                split(listed(keys), "glnet")


class TestRandom:
    def test_list_is_pinned(self):
        # The permutation of numpy's default_rng(7): a change would silently make all scores incomparable.
        parts = keys_of(split(listed([f"i{n}" for n in range(10)]), "random-7-3@7"))
        order = np.random.default_rng(7).permutation(10)
        assert parts["val"] == sorted(f"i{n}" for n in order[7:])
        assert parts == keys_of(split(listed([f"i{n}" for n in reversed(range(10))]), "random-7-3@7"))

    def test_seeds_differ(self):
        dataset = listed([f"i{n:03d}" for n in range(100)])
        assert keys_of(split(dataset, "random-80-20@0")) != keys_of(split(dataset, "random-80-20@1"))

    def test_only_the_training_folder_is_shared_out(self):
        parts = keys_of(split(listed(TILES), "random-30-10@0"))
        assert sorted(parts["train"] + parts["val"]) == TILES[:40]


class TestFolds:
    @given(count=st.integers(2, 40), folds=st.integers(2, 9))
    def test_every_item_is_held_out_once(self, count, folds):
        dataset = listed([f"x{i:03d}" for i in range(count)])
        if folds > count:
            with pytest.raises(SplitError, match=f"choose 2 to {count}"):
                split(dataset, f"kfold-{folds}@0")
            return
        held_out = []
        for fold in range(folds):
            parts = keys_of(split(dataset, f"kfold-{folds}@{fold}"))
            assert not set(parts["train"]) & set(parts["val"])
            assert len(parts["train"]) + len(parts["val"]) == count
            held_out += parts["val"]
        assert sorted(held_out) == [item.key for item in dataset.items]


SCENES = {key: SceneTile(f"s{i // 4}", 0, i % 4) for i, key in enumerate(TILES)}


class TestSceneFolds:
    def test_no_scene_is_on_both_sides_and_only_training_tiles_take_part(self):
        dataset = listed(TILES, scenes=SCENES)
        held_out = []
        for fold in range(5):
            parts = keys_of(split(dataset, f"scenes-k5@{fold}"))
            scenes = {part: {SCENES[key].scene for key in keys} for part, keys in parts.items()}
            assert not scenes["train"] & scenes["val"]
            held_out += parts["val"]
        assert sorted(held_out) == TILES[:40]

    def test_ties_are_decided_exactly(self):
        """Item 4 fits two folds equally well, which sums of floats, in whatever order, do not see."""
        counts = [[0, 1, 1], [4, 2, 2], [3, 4, 4], [1, 3, 3], [0, 0, 4], [0, 3, 3], [2, 1, 4], [4, 2, 1]]
        pixels = {str(key): np.array(count, np.int64) for key, count in enumerate(counts)}
        scene_of = dict(zip("01234567", "abcdefff", strict=True))
        assert scene_folds(pixels, scene_of, 3) == [["5", "6", "7"], ["0", "2", "4"], ["1", "3"]]

    def test_folds_do_not_depend_on_where_counts_come_from(self, tmp_path):
        """Counts are decoded from masks; the same names with counts made up in memory give the same folds."""
        write_folder(tmp_path, "restarting")
        rows = [f"train,000{i},s{i},0,0" for i in range(4)]
        (tmp_path / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))
        names = [f"{part}/000{i}" for part in ("train", "validation") for i in range(4)]
        scenes = {f"train/000{i}": SceneTile(f"s{i}", 0, 0) for i in range(4)}
        from_files = keys_of(split(open_dataset(tmp_path), "scenes-k2@1"))
        assert from_files == keys_of(split(listed(names, scenes=scenes), "scenes-k2@1"))


class TestDevelopment:
    """``scenes-kK@I,J``: fold I is reported on, fold J chosen on."""

    @given(
        sizes=st.lists(st.integers(1, 6), min_size=3, max_size=12),
        folds=st.integers(3, 6),
        fold=st.integers(0, 5),
        development=st.integers(0, 5),
    )
    def test_parts_share_no_scene_and_test_is_the_held_out_fold(self, sizes, folds, fold, development):
        folds = min(folds, len(sizes))
        fold, development = fold % folds, development % folds
        scenes = {
            f"train/{scene}-{tile}": SceneTile(f"s{scene}", 0, tile)
            for scene, size in enumerate(sizes)
            for tile in range(size)
        }
        dataset = listed([*scenes, "validation/x"], scenes=scenes)
        name = f"scenes-k{folds}@{fold},{development}"
        if fold == development:
            with pytest.raises(SplitError, match="tests and develops on the same fold"):
                split(dataset, name)
            return
        parts = keys_of(split(dataset, name))
        assert list(parts) == ["train", "val", "test"]
        assert sorted(key for keys in parts.values() for key in keys) == sorted(scenes)
        places = [{scenes[key].scene for key in keys} for keys in parts.values()]
        assert sum(map(len, places)) == len(sizes)
        assert parts["test"] == keys_of(split(dataset, f"scenes-k{folds}@{fold}"))["val"]
        assert parts["val"] == keys_of(split(dataset, f"scenes-k{folds}@{development}"))["val"]

    def test_who_names_no_part_is_not_led_to_the_test(self):
        with pytest.raises(SplitError, match=r"train, val, test.*'scenes-k5@0,1:val'"):
            select(listed(TILES, scenes=SCENES), "scenes-k5@0,1")


FOLD_LIST = Path(module.__file__).parent / "ids" / "scenes-k5.tsv"


class TestListedFolds:
    """The folds of the published benchmark are a list, whatever a computation would say."""

    def test_the_list_is_the_published_one(self):
        found = hashlib.sha256(FOLD_LIST.read_bytes()).hexdigest()
        assert found == "3da99d4ea536699fabc31160d30e94e92d57c91de02ac730751ad811996ed8b9"
        assert len(listed_folds()) == sum(LISTED_COUNTS) == 1755

    def test_exactly_these_tiles_use_it_even_without_scenes(self):
        tiles = sorted(listed_folds())
        dataset = listed([*tiles, "validation/0000"])
        for fold in range(5):
            parts = keys_of(split(dataset, f"scenes-k5@{fold}"))
            assert parts["val"] == [key for key in tiles if listed_folds()[key] == fold]
            assert sorted(parts["train"] + parts["val"]) == tiles
        assert len(keys_of(split(dataset, "scenes-k5@4,1"))["val"]) == LISTED_COUNTS[1]
        with pytest.raises(SplitError, match="Fold 5 of 5"):
            split(dataset, "scenes-k5@5")

    @staticmethod
    def _in_scenes(keys, *, across=False):
        """Put five tiles into a scene, of one listed fold or across folds."""
        order = keys if across else sorted(keys, key=lambda key: (listed_folds().get(key, 9), key))
        if across:
            return {key: SceneTile(f"s{n // 5}", 0, n % 5) for n, key in enumerate(order)}
        return {key: SceneTile(f"s{listed_folds().get(key)}-{n // 5}", 0, n) for n, key in enumerate(order)}

    @pytest.mark.parametrize("missing", [1, 100, 877])
    def test_a_copy_that_lacks_some_tiles_keeps_the_folds_of_the_others(self, missing):
        """Its computed folds would be others under the same names."""
        tiles = sorted(listed_folds())[missing:]
        dataset = listed([*tiles, "validation/0000"], scenes=self._in_scenes(tiles))
        for fold in range(5):
            parts = keys_of(split(dataset, f"scenes-k5@{fold}"))
            assert parts["val"] == [key for key in tiles if listed_folds()[key] == fold]
            assert sorted(parts["train"] + parts["val"]) == tiles
        development = keys_of(split(dataset, "scenes-k5@4,1"))
        assert development["test"] == [key for key in tiles if listed_folds()[key] == 4]
        assert development["val"] == [key for key in tiles if listed_folds()[key] == 1]
        with pytest.raises(SplitError, match="Fold 5 of 5"):
            split(dataset, "scenes-k5@5")

    @pytest.mark.parametrize("change", ["one more", "less than half", "other scenes", "nothing of them"])
    def test_other_data_have_folds_of_their_own(self, change, monkeypatch):
        monkeypatch.setattr("landcover.data.splits.class_pixels", self._of_one_class)
        tiles = sorted(listed_folds())
        other = {
            "one more": [*tiles, "train/x"],
            "less than half": tiles[878:],
            "other scenes": tiles[1:],
            "nothing of them": [f"train/x{key[6:]}" for key in tiles],
        }[change]
        dataset = listed(other, scenes=self._in_scenes(other, across=change == "other scenes"))
        assert dataset.scenes is not None
        parts = keys_of(split(dataset, "scenes-k5@1"))
        assert parts["val"] != [key for key in other if listed_folds().get(key) == 1]
        scenes = [{dataset.scenes[key].scene for key in keys} for keys in parts.values()]
        assert not scenes[0] & scenes[1]

    @staticmethod
    def _of_one_class(dataset, items):
        return {item.key: np.eye(7, dtype=np.int64)[0] for item in items}

    @pytest.mark.parametrize("change", ["one more", "one less", "other folds"])
    def test_without_scenes_only_exactly_these_tiles_do(self, change):
        """Names such as ``train/0000`` alone are no proof."""
        tiles = sorted(listed_folds())
        other = {"one more": [*tiles, "train/x"], "one less": tiles[1:], "other folds": tiles}[change]
        with pytest.raises(SplitError, match=r"no scenes\.csv"):
            split(listed(other), "scenes-k4@0" if change == "other folds" else "scenes-k5@0")

    @pytest.mark.shared
    def test_it_is_what_the_scenes_and_masks_give(self):
        folder = Path(__file__).parents[2] / "shared/data/deepglobe_tiles"
        if not folder.is_dir():
            pytest.skip("no ../shared here")
        real = open_dataset(folder)
        assert real.scenes is not None
        pixels = {key: count[:6] for key, count in class_pixels(real, real.parts["train"]).items()}
        computed = scene_folds(pixels, {key: tile.scene for key, tile in real.scenes.items()}, 5)
        assert {key: number for number, keys in enumerate(computed) for key in keys} == listed_folds()


class TestFilesOfIds:
    def _write(self, path, text):
        file = path / "list.txt"
        file.write_text(text)
        return str(file)

    def test_keys_and_unambiguous_ids(self, tmp_path):
        dataset = listed(["train/a", "train/b", "val/b", "val/c"])
        name = self._write(tmp_path, "train/b\nc\n\ntrain/b\na")
        assert [item.key for item in select(dataset, name)] == ["train/a", "train/b", "val/c"]

    def test_parts_after_a_tab(self, tmp_path):
        dataset = listed(["a", "b", "c d"])
        name = self._write(tmp_path, "a\ttrain\nc d\ttrain\nb\tval\n")
        assert keys_of(split(dataset, name)) == {"train": ["a", "c d"], "val": ["b"]}
        assert [item.key for item in select(dataset, f"{name}:val")] == ["b"]

    @pytest.mark.parametrize(
        ("keys", "content", "message"),
        [
            (["a"], b"a\nx1\nu\nx2\n", r"lists 3 items .*: x1, u, x2"),
            (["train/0000", "validation/0000"], b"0000\n", r"train/0000, validation/0000. Use the key"),
            (["a", "b"], b"a\ttrain\nb\ttrain\na\tval\n", r"'a' is in two subsets .*train, val"),
            (["a"], b"", "lists no items"),
            (["a"], b"\n\n", "lists no items"),
            (["a"], b"\x89PNG\r\n\xff\xfe\x00", "expected a list of ids"),
        ],
    )
    def test_lists_that_do_not_fit_are_refused(self, keys, content, message, tmp_path):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(SplitError, match=message):
            split(listed(keys, unlabelled=["u"]), str(tmp_path / "list.txt"))


ONE_EACH = {key: SceneTile(key, 0, 0) for key in TILES}
REFUSED = [
    (listed(["a", "b"]), {"folders": "kfold"}),
    (
        listed([], unlabelled=["train/a", "train/b"]),
        dict.fromkeys(["folders", "all", "kfold-2@0", "glnet"], "2 images and no masks"),
    ),
    (
        listed(TILES, scenes=ONE_EACH),
        {
            "random-30-11@0": "has 40",
            "random-723-80@0": "has 40",
            "random-0-40@0": "is empty",
            "kfold-5@5": "Fold 5 of 5 .*0 to 4",
            "scenes-k5@5": "Fold 5 of 5 .*0 to 4",
            "kfold-1@0": "choose 2 to 40",
            "scenes-k1@0": "choose 2 to 40",
            "scenes-k41@0": "choose 2 to 40",
        },
    ),
    (listed(TILES), {"scenes-k5@0": r"no scenes\.csv"}),
    (
        listed(TILES, scenes={key: tile for key, tile in SCENES.items() if key != "train/0003"}),
        {"scenes-k5@0": "train/0003"},
    ),
    (
        listed(TILES, scenes=SCENES),
        {
            "scenes-k5@2,2": "such as scenes-k5@2,0",
            "scenes-k2@0,1": "no training data; use 3",
            "scenes-k5@0,5": "Fold 5 of 5",
            "scenes-k11@0,1": "choose 2 to 10",
        },
    ),
]


@pytest.mark.parametrize(
    ("dataset", "name", "message"), [(data, *case) for data, cases in REFUSED for case in cases.items()]
)
def test_splits_that_do_not_fit_the_data_are_refused(dataset, name, message):
    with pytest.raises(SplitError, match=message):
        split(dataset, name)


def test_description_counts_items_scenes_and_classes(tmp_path):
    for i in range(4):
        write_image(tmp_path / f"{i}_sat.png", np.zeros((4, 4, 3), np.uint8))
        write_mask(tmp_path / f"{i}_mask.png", np.full((4, 4), i % 2, np.uint8))
    rows = [f",{i},s{i // 2},0,{i}" for i in range(4)]
    (tmp_path / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))
    dataset = open_dataset(tmp_path)
    val, train = (describe(dataset, split(dataset, "kfold-4@1"))[part] for part in ("val", "train"))
    assert (val["items"], train["items"]) == (1, 3)
    assert (val["scenes"], train["scenes"]) == (1, 2)
    assert val["class_share"]["agriculture"] == 1
    assert train["class_share"]["agriculture"] == pytest.approx(1 / 3)


def test_a_part_of_nodata_alone_has_shares_of_zero(tmp_path):
    write_image(tmp_path / "a_sat.png", image_of("a"))
    write_mask(tmp_path / "a_mask.png", np.full((24, 32), NODATA, np.uint8), "index")
    dataset = open_dataset(tmp_path)
    assert set(describe(dataset, {"all": dataset.labelled})["all"]["class_share"].values()) == {0.0}
