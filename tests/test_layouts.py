"""Discovery: each layout in miniature, what it knows, and folders that are not what they should be."""

import os

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from datafolders import MINIATURES, image_of, truth_of, write_folder, write_image, write_mask
from imagefiles import save_raster
from landcover.data import open_dataset
from landcover.data.folder import FolderDataset
from landcover.data.layouts import discover
from landcover.errors import ConfigError, DataError, UsageError, is_plain
from landcover.legend import DEEPGLOBE, LandClass, Legend
from landcover.windows import Window

FULL = (2448, 2448)


@pytest.mark.parametrize("name", MINIATURES)
def test_every_layout_is_found_with_its_items(name, tmp_path):
    expected = write_folder(tmp_path, name)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == expected.layout
    assert [item.key for item in dataset.items] == sorted(expected.images)
    for item in dataset.items:
        assert item.part == expected.parts.get(item.key)
        assert item.image == tmp_path / expected.images[item.key]
        assert item.mask == (tmp_path / expected.masks[item.key] if item.key in expected.masks else None)

    for item in dataset.labelled:
        np.testing.assert_array_equal(dataset.read_mask(item), truth_of(item.key))
        difference = np.abs(dataset.read_image(item).astype(int) - image_of(item.key))
        assert difference.mean() < 10


@pytest.mark.parametrize("name", MINIATURES)
def test_a_folder_around_the_layout_changes_no_part(name, tmp_path):
    expected = write_folder(tmp_path / "outer", name)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == expected.layout
    assert {item.key: item.part for item in dataset.items} == {
        f"outer/{key}": expected.parts.get(key) for key in expected.images
    }


class TestGroundSampleDistance:
    @pytest.mark.parametrize("name", ["challenge", "glnet", "kaggle", "mmsegmentation", "seed"])
    def test_challenge_images_have_half_a_metre_at_full_size_only(self, name, tmp_path):
        small, full = tmp_path / "small", tmp_path / "full"
        expected = write_folder(small, name)
        assert open_dataset(small).gsd is None  # a resized copy has another scale
        image = Image.new("RGB", FULL[::-1])
        for path in expected.images.values():
            (full / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(full / path)
        for path in expected.masks.values():
            (full / path).parent.mkdir(parents=True, exist_ok=True)
            (full / path).write_bytes((small / path).read_bytes())
        for path, text in expected.texts.items():
            (full / path).write_text(text, encoding="utf-8")
        assert open_dataset(full).gsd == 0.5

    def test_tile_set_is_known_by_size_and_both_parts(self, tmp_path):
        for part in ("train", "validation"):
            write_image(tmp_path / part / "0000_sat.jpg", np.zeros((512, 512, 3), np.uint8))
            write_mask(tmp_path / part / "0000_mask.png", np.zeros((512, 512), np.uint8))
        dataset = open_dataset(tmp_path)
        assert (dataset.layout, dataset.gsd) == ("tiles-512", 1.195)
        only_train = open_dataset(tmp_path / "train")
        assert (only_train.layout, only_train.gsd) == ("pairs", None)

    @pytest.mark.parametrize(
        ("name", "size", "layout"), [("restarting", (500, 512), "pairs"), ("kaggle", (512, 512), "kaggle")]
    )
    def test_tiles_of_another_size_or_with_the_mirror_s_table_are_not_the_tile_set(
        self, name, size, layout, tmp_path
    ):
        write_folder(tmp_path, name, size=size)
        dataset = open_dataset(tmp_path)
        assert (dataset.layout, dataset.gsd) == (layout, None)

    def test_full_size_pairs_without_a_folder_name_are_the_challenge_s(self, tmp_path):
        Image.new("RGB", FULL).save(tmp_path / "3484_sat.jpg")
        Image.new("RGB", FULL).save(tmp_path / "3484_mask.png")
        dataset = open_dataset(tmp_path)
        assert (dataset.layout, dataset.gsd) == ("challenge-images", 0.5)

    @staticmethod
    def _georeferenced(folder, name, gsd):
        place = {"crs": "EPSG:28992", "transform": Affine(gsd, 0, 200_000, 0, -gsd, 500_000)}
        path = save_raster(folder / f"{name}_sat.tif", np.zeros((8, 8, 3), np.uint8), **place)
        write_mask(folder / f"{name}_mask.png", np.zeros((8, 8), np.uint8))
        return path

    def test_order_argument_raster_settings_layout(self, tmp_path):
        Image.new("RGB", FULL).save(tmp_path / "3484_sat.jpg")
        (tmp_path / "landcover.yaml").write_text("gsd: 0.3\n")
        assert open_dataset(tmp_path).gsd == 0.3
        (tmp_path / "3484_sat.jpg").unlink()
        path = self._georeferenced(tmp_path, "a", 0.25)
        (tmp_path / "landcover.yaml").write_text("gsd: 3\n")
        assert open_dataset(tmp_path, gsd=7).gsd == 7
        assert open_dataset(tmp_path).gsd == pytest.approx(0.25, rel=1e-3)
        path.unlink()
        write_image(tmp_path / "a_sat.png", np.zeros((8, 8, 3), np.uint8))
        assert open_dataset(tmp_path).gsd == 3

    def test_images_of_several_scales_are_refused(self, tmp_path):
        for name, gsd in (("a", 0.5), ("b", 0.503), ("c", 2.0)):
            self._georeferenced(tmp_path, name, gsd)
        with pytest.raises(DataError, match=r"a_sat\.tif has 0\.5 m.*c_sat\.tif 2;.*--gsd"):
            open_dataset(tmp_path)
        assert open_dataset(tmp_path, gsd=2).gsd == 2
        (tmp_path / "c_sat.tif").unlink()
        assert open_dataset(tmp_path).gsd == pytest.approx(0.5, rel=1e-3)

    @pytest.mark.parametrize("gsd", [0, -1, float("nan"), float("inf")])
    def test_impossible_distance_is_refused(self, gsd, tmp_path):
        write_folder(tmp_path, "pairs")
        with pytest.raises(UsageError, match="metres"):
            open_dataset(tmp_path, gsd=gsd)


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("gds: 0.5", "'gds'.*Did you mean 'gsd'"),
            ("gsd: half", "gsd: found 'half'.*number"),
            ("gsd: -1", "gsd: found -1"),
            ("legend: {name: x}", r"landcover\.yaml: legend: classes is missing"),
            ("gsd: [", "not readable YAML"),
        ],
    )
    def test_bad_settings(self, text, message, tmp_path):
        write_folder(tmp_path, "pairs")
        (tmp_path / "landcover.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            open_dataset(tmp_path)

    def test_empty_settings_say_nothing(self, tmp_path):
        write_folder(tmp_path, "pairs")
        (tmp_path / "landcover.yaml").write_text("")
        assert open_dataset(tmp_path).gsd is None

    def test_legend_by_file_and_written_out(self, tmp_path):
        write_image(tmp_path / "a_sat.png", np.zeros((1, 2, 3), np.uint8))
        path = tmp_path / "a_mask.png"
        Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)).save(path)
        text = "{name: roofs, classes: [{name: other, colour: [0, 0, 0]}, {name: roof, colour: [255, 0, 0]}]}"
        for settings in (f"legend: {text}", "legend: roofs.yaml"):
            (tmp_path / "landcover.yaml").write_text(settings)
            (tmp_path / "roofs.yaml").write_text(text)
            dataset = open_dataset(tmp_path)
            assert dataset.legend.names == ("other", "roof")
            assert dataset.read_mask(dataset.items[0]).tolist() == [[1, 0]]

    def test_a_legend_given_by_the_user_is_what_the_files_hold(self, tmp_path):
        write_folder(tmp_path, "mmsegmentation")
        unknown_first = Legend("own", (LandClass("x", (1, 1, 1)), *DEEPGLOBE.classes[:6]), unknown=0)
        dataset = open_dataset(tmp_path, legend=unknown_first)
        item = dataset.items[0]
        np.testing.assert_array_equal(dataset.read_mask(item), (truth_of(item.key) + 1) % 7)


class TestPairs:
    def test_missing_halves_are_listed(self, tmp_path):
        write_folder(tmp_path, "restarting")
        (tmp_path / "train/0001_sat.jpg").unlink()
        (tmp_path / "validation/0002_mask.png").unlink()
        found = discover(tmp_path)
        assert found.missing_images == ("train/0001_mask.png",)
        assert [item.key for item in found.items if item.mask is None] == ["validation/0002"]

    def test_listed_images_that_are_not_there_are_missing(self, tmp_path):
        for name, path in (("kaggle", "test/3_sat.jpg"), ("magnet", "land-train/855_sat.jpg")):
            root = tmp_path / name
            write_folder(root, name)
            (root / path).unlink()
            assert path in discover(root).missing_images

    def test_the_table_of_another_set_is_none_of_the_mirror_s(self, tmp_path):
        write_folder(tmp_path, "restarting")
        (tmp_path / "metadata.csv").write_text("name,date\n0000,2021\n")
        assert discover(tmp_path).layout.name == "pairs"

    def test_seed_folder_prefers_colour_masks(self, tmp_path):
        # The seed's label files turn red, which is no class, into urban.
        write_folder(tmp_path, "seed")
        red = np.full((24, 32, 3), (255, 0, 0), np.uint8)
        Image.fromarray(red).save(tmp_path / "dataset/land_train/119_mask.png")
        dataset = open_dataset(tmp_path, max_off_palette=1)
        mask = dataset.labels(dataset.items[0])
        assert (mask.off_palette, set(mask.index.ravel())) == (24 * 32, {DEEPGLOBE.unknown})

    @pytest.mark.parametrize(
        ("write", "name", "message"),
        [
            (write_image, "field_sat.tif", r"field_sat\.(png|tif) and .*field_sat\.(png|tif).*Rename"),
            (write_mask, "field_label.png", "same key"),
        ],
    )
    def test_two_images_or_masks_of_one_key_are_refused(self, write, name, message, tmp_path):
        write_folder(tmp_path, "pairs")
        write(tmp_path / name, image_of("x") if write is write_image else truth_of("x"))
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path)

    def test_hidden_files_archive_leftovers_and_pipes_are_passed_over(self, tmp_path):
        """Opening a pipe would wait for ever."""
        expected = write_folder(tmp_path, "challenge")
        for path in ("__MACOSX/land-train/119_sat.jpg", "land-train/._119_sat.jpg", ".cache/1_sat.jpg"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"")
        os.mkfifo(tmp_path / "land-train" / "0_sat.jpg")
        assert len(open_dataset(tmp_path).items) == len(expected.images)


class TestBadFolders:
    @pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\udcff"])
    def test_names_that_no_list_can_hold_are_refused(self, name, tmp_path):
        try:
            write_image(tmp_path / f"{name}_sat.jpg", image_of("1"))
        except OSError:
            pytest.skip("no such file names here")
        with pytest.raises(DataError, match="Rename it") as error:
            open_dataset(tmp_path)
        str(error.value).encode("utf-8")  # The message itself can be printed.

    def test_supervisely_is_recognised_and_refused(self, tmp_path):
        write_image(tmp_path / "ds/img/1.jpg", image_of("1"))
        (tmp_path / "ds/ann").mkdir()
        (tmp_path / "ds/ann/1.jpg.json").write_text("{}")
        with pytest.raises(DataError, match=r"Supervisely export.*JSON"):
            open_dataset(tmp_path)

    @pytest.mark.parametrize("files", [[], ["notes.txt"], ["a.png", "b.png"]])
    def test_nothing_to_recognise(self, files, tmp_path):
        for name in files:
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=f"no imagery .*{len(files)} files"):
            open_dataset(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            open_dataset(tmp_path / "nowhere")
        (tmp_path / "land-train.zip").write_bytes(b"PK")
        with pytest.raises(DataError, match=r"is a file.*unpack"):
            open_dataset(tmp_path / "land-train.zip")


class TestReading:
    def test_windows_are_cuts_of_the_whole(self, tmp_path):
        write_folder(tmp_path, "restarting")
        dataset = open_dataset(tmp_path)
        item, window = dataset.items[5], Window(3, 7, 11, 13)
        np.testing.assert_array_equal(
            dataset.read_image(item, window), dataset.read_image(item)[window.slices]
        )
        np.testing.assert_array_equal(dataset.read_mask(item, window), truth_of(item.key)[window.slices])
        assert dataset.size(item) == (24, 32)

    @pytest.mark.parametrize("window", [(-1, 0, 5, 5), (20, 0, 5, 5), (0, 28, 5, 5), (0, 0, 0, 5)])
    def test_windows_beyond_the_image_are_refused(self, window, tmp_path):
        write_folder(tmp_path, "pairs")
        dataset = open_dataset(tmp_path)
        with pytest.raises(UsageError, match="24 x 32"):
            dataset.read_image(dataset.items[0], Window(*window))

    def test_masks_of_another_size_and_missing_ones_are_refused(self, tmp_path):
        write_folder(tmp_path / "sizes", "pairs")
        write_mask(tmp_path / "sizes/field_mask.png", truth_of("field", (24, 30)))
        write_folder(tmp_path / "none", "kaggle")
        messages = {
            "sizes": r"field_mask.png is 24 x 30 .*field_sat.png 24 x 32",
            "none": r"3_sat\.jpg has no mask",
        }
        for name, message in messages.items():
            dataset = open_dataset(tmp_path / name)
            with pytest.raises(DataError, match=message):
                dataset.read_mask(dataset.items[0])


class TestScenesTable:
    HEAD = "part,id,scene,row,col\n"

    def _open(self, root, rows):
        write_folder(root, "restarting")
        (root / "scenes.csv").write_text(rows)
        dataset = open_dataset(root)
        assert isinstance(dataset, FolderDataset)
        return dataset

    def test_places_are_found_by_part_and_id(self, tmp_path):
        dataset = self._open(
            tmp_path, self.HEAD + "train,0000,7,0,1.0\nvalidation,0000,7,0,2\ntrain,9999,7,5,5\n"
        )
        assert dataset.scenes is not None
        places = {key: (tile.scene, tile.row, tile.col) for key, tile in dataset.scenes.items()}
        assert places == {"train/0000": ("7", 0, 1), "validation/0000": ("7", 0, 2)}

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("part,id,scene,row\n", "lacks the column 'col'"),
            (HEAD + "train,0000,7,top,1\n", "line 2.*integers"),
            (HEAD + "train,0000,7,1_0,1\n", "line 2.*integers"),
            (HEAD + "train,0000,7,0,1\ntrain,0001,7,0,1\n", "line 3.*position"),
            (HEAD + "train,0000,7,0,1\ntrain,0000,7,0,2\n", "line 3.*repeat an item"),
            (HEAD + 'train,"0000,7,0,1\ntrain,0001,7,0,1\n', "quote that is not closed"),
            (f"{'x' * 200_000},id,scene,row,col\n", "field larger than field limit"),
            (HEAD + "train,0000,7," + "t\x1b" * 5_000 + ",1\n", "integers; found 't.*'1'"),
            (HEAD + f"train,0000,{'7' * 9000},0,1\ntrain,0001,{'7' * 9000},0,1\n", "line 3.*position"),
        ],
    )
    def test_bad_tables(self, rows, message, tmp_path):
        with pytest.raises(DataError, match=message) as caught:
            self._open(tmp_path, rows)
        assert len(str(caught.value)) < 400 + len(str(tmp_path))
        assert is_plain(str(caught.value))
