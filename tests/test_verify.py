"""Verification: counts, shares, faults, duplicates, near copies, and leakage between neighbouring tiles."""

import io
import json
import sys
from itertools import product

import numpy as np
import pytest
from PIL import Image

from commands import invoke, refusal
from datafolders import MINIATURES, image_of, mosaic, truth_of, write_folder, write_image, write_mask
from imagefiles import save
from landcover.cli.data import splits
from landcover.data import prepare, verify
from landcover.data.leakage import Leak, borders, links, near_copies, perceptual_hashes
from landcover.data.synthetic import make_scene
from landcover.errors import DataError, SplitError, UsageError
from landcover.legend import DEEPGLOBE

CONTRACT = {
    "layout", "pairs", "parts", "unreadable", "missing_masks", "missing_images", "off_palette_pixels",
    "class_share", "duplicates", "leaks",
}  # fmt: skip


@pytest.mark.parametrize("name", MINIATURES)
def test_a_good_folder_of_every_layout(name, tmp_path):
    expected = write_folder(tmp_path, name)
    report = verify(tmp_path)
    assert report.ok
    assert (report.layout, report.pairs) == (expected.layout, len(expected.masks))
    for part in report.parts:
        keys = [key for key in expected.images if expected.parts.get(key, "all") == part]
        assert report.images[part] == len(keys)
        assert report.parts[part] == len([key for key in keys if key in expected.masks])
    truth = np.concatenate([truth_of(key).ravel() for key in expected.masks])
    assert list(report.class_share) == list(DEEPGLOBE.names)
    np.testing.assert_allclose(
        list(report.class_share.values()), np.bincount(truth, minlength=7) / truth.size
    )
    assert report.off_palette_pixels == 0
    assert report.duplicates == report.leaks == []


def test_counts_as_published_and_sizes(tmp_path):
    write_folder(tmp_path, "challenge")
    report = verify(tmp_path)
    assert report.expected == {"train": 803, "valid": 171, "test": 172}
    assert report.sizes == {"train": {"24x32": 3}, "valid": {"24x32": 3}}
    assert report.odd_sizes == sorted(MINIATURES["challenge"].images)  # a resized copy: all of them


def test_a_cache_gives_the_report_of_its_folder(tmp_path):
    write_folder(tmp_path / "data", "restarting")
    prepare(tmp_path / "data", tmp_path / "cache")
    cache, folder = (verify(tmp_path / name).to_dict() for name in ("cache", "data"))
    assert (cache.pop("pairing"), cache.pop("forms")) == (None, {})  # not recorded
    assert folder.pop("pairing").endswith("for example 0000_sat.jpg with 0000_mask.png")
    assert folder.pop("forms") == {"colours": 8}
    assert cache == folder


class TestFaults:
    @pytest.fixture
    def data(self, tmp_path):
        write_folder(tmp_path, "restarting")
        return tmp_path

    @pytest.mark.parametrize("fault", ["truncated", "both empty", "image empty", "mask size", "no mask"])
    def test_unreadable_files_are_counted_and_named(self, fault, data):
        """An empty image does not accuse its mask."""
        image, mask = data / "train/0001_sat.jpg", data / "train/0001_mask.png"
        match fault:
            case "truncated":
                image.write_bytes(image.read_bytes()[:-150])
            case "mask size":
                write_mask(mask, truth_of("x", (24, 31)))
            case "no mask":
                Image.fromarray(np.full((24, 32), 130, np.uint8)).save(mask)
            case _:
                for file in [image, mask] if fault == "both empty" else [image]:
                    file.write_bytes(b"")
        report = verify(data)
        assert (report.ok, report.pairs) == (False, 8)
        expected = {image.name, mask.name} if fault == "both empty" else {image.name}
        expected = {mask.name} if "mask" in fault else expected
        assert {fault.file for fault in report.unreadable} == {f"train/{name}" for name in expected}

    @pytest.mark.parametrize("name", ["train/0000_sat.jpg", "validation/0000_sat.jpg"])
    def test_a_damaged_first_image_hides_neither_layout_nor_scale(self, name, tmp_path):
        write_folder(tmp_path, "restarting", size=(512, 512))
        (tmp_path / name).write_bytes(b"")
        report = verify(tmp_path)
        assert (report.layout, report.gsd) == ("tiles-512", 1.195)
        assert [fault.file for fault in report.unreadable] == [name]

    def test_missing_halves(self, data):
        (data / "train/0001_sat.jpg").unlink()
        (data / "validation/0002_mask.png").unlink()
        report = verify(data)
        assert report.missing_images == ["train/0001_mask.png"]
        assert report.missing_masks == ["validation/0002_sat.jpg"]
        assert not report.ok

    def test_a_part_without_masks_misses_none_but_a_folder_without_any_does(self, tmp_path):
        write_folder(tmp_path / "kaggle", "kaggle")
        assert verify(tmp_path / "kaggle").missing_masks == []
        write_image(tmp_path / "bare/a_sat.jpg", image_of("a"))
        report = verify(tmp_path / "bare")
        assert (report.pairs, report.missing_masks, report.ok) == (0, ["a_sat.jpg"], False)

    def test_off_palette_pixels_are_counted_by_file(self, data):
        path = data / "train/0000_mask.png"
        colours = np.asarray(Image.open(path)).copy()
        colours[0, :5] = (255, 0, 0)
        Image.fromarray(colours).save(path)
        report = verify(data)
        assert report.ok
        assert (report.off_palette_pixels, report.off_palette) == (5, {"train/0000_mask.png": 5})

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match="0 files"):
            verify(tmp_path)


class TestIdenticalImages:
    def test_within_and_between_parts(self, tmp_path):
        write_folder(tmp_path, "restarting")
        same = image_of("same")
        for key in ("train/0000", "train/0003", "validation/0001"):
            Image.fromarray(same).save(tmp_path / f"{key}_sat.jpg", format="PNG")  # the content counts
        report = verify(tmp_path)
        assert report.duplicates == [["train/0000", "train/0003", "validation/0001"]]
        assert report.leaks == [
            Leak("train/0000", "validation/0001", "identical", 1.0),
            Leak("train/0003", "validation/0001", "identical", 1.0),
        ]
        assert report.leaking == {"train": 2, "validation": 1}
        assert report.ok

    def test_equal_bytes_of_another_shape_are_not_identical(self, tmp_path):
        for name, size in (("a", (2, 8)), ("b", (4, 4))):
            write_image(tmp_path / f"{name}_sat.png", np.zeros((*size, 3), np.uint8))
            write_mask(tmp_path / f"{name}_mask.png", np.zeros(size, np.uint8))
        assert verify(tmp_path).duplicates == []


class TestScenesTable:
    """train 0000-0003 and validation 0000-0003 on a 2 x 4 grid: rows are parts, so columns touch across."""

    def _write(self, root):
        write_folder(root, "restarting")
        rows = [
            f"{part},000{i},A,{row},{i}" for row, part in enumerate(("train", "validation")) for i in range(3)
        ]
        rows += ["train,0003,B,0,0", "validation,0003,A,9,9"]
        (root / "scenes.csv").write_text("\n".join(["part,id,scene,row,col", *rows]))

    def test_touching_tiles_and_shared_scenes(self, tmp_path):
        self._write(tmp_path)
        report = verify(tmp_path)
        assert report.leaks == [
            Leak(f"train/000{i}", f"validation/000{i}", "touching", 1.0) for i in range(3)
        ]
        assert report.shared_scenes == 1
        assert report.leaking == {"train": 3, "validation": 3}

    def test_between_the_parts_of_a_split(self, tmp_path):
        self._write(tmp_path)
        report = verify(tmp_path, split="kfold-2@0")  # val: 0000 and 0002; 0001 touches both
        assert [(leak.a, leak.b) for leak in report.leaks] == [
            ("train/0000", "train/0001"),
            ("train/0001", "train/0002"),
        ]
        assert report.compared == {"train": 2, "val": 2}
        assert verify(tmp_path, split="scenes-k2@0").leaks == []
        with pytest.raises(SplitError, match="Did you mean"):
            verify(tmp_path, split="kfold")


ROWS, COLS, TILE = 4, 6, 64


def tile_borders(seed, *, noise=1.0):
    """Borders of the tiles of a mosaic, ``SEED-ROW-COL``, with noise as of a lossy codec."""
    image, index = mosaic(seed, ROWS * TILE, COLS * TILE)
    rng = np.random.default_rng(seed)
    noisy = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    result = {}
    for row, col in product(range(ROWS), range(COLS)):
        cut = np.s_[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
        result[f"{seed}-{row}-{col}"] = borders(noisy[cut], index[cut])
    return result


def true_links(seed):
    right = {(f"{seed}-{r}-{c}", f"{seed}-{r}-{c + 1}") for r in range(ROWS) for c in range(COLS - 1)}
    down = {(f"{seed}-{r}-{c}", f"{seed}-{r + 1}-{c}") for r in range(ROWS - 1) for c in range(COLS)}
    return right | down


class TestMatchingEdges:
    def test_neighbours_are_found_and_strangers_are_not(self):
        tiles = {key: value for seed in range(4) for key, value in tile_borders(seed).items()}
        truth = set().union(*(true_links(seed) for seed in range(4)))
        found = {(a, b) for a, b, _ in links(tiles)}
        assert len(found & truth) >= 0.9 * len(truth)
        assert len(found - truth) <= 0.01 * len(found)

    def test_one_tile_of_each_scene_links_to_none(self):
        tiles = {f"{seed}-1-1": tile_borders(seed)[f"{seed}-1-1"] for seed in range(20)}
        assert len(links(tiles)) <= 1

    def test_confidence_is_a_probability_and_falls_with_noise(self):
        clean, noisy = (links(tile_borders(1, noise=noise)) for noise in (1, 4))
        assert all(0.99 <= confidence <= 1 for *_, confidence in clean + noisy)
        assert len(noisy) < len(clean)

    def test_the_order_of_tiles_does_not_matter(self):
        tiles = tile_borders(2)
        assert links(tiles) == links(dict(reversed(tiles.items())))

    def test_a_disagreeing_mask_breaks_a_link(self):
        tiles = tile_borders(3)
        changed = {
            key: b._replace(mask=(b.mask + int(key[-1]) % 2 * 5).astype(np.uint8)) for key, b in tiles.items()
        }
        assert all(abs(int(a[-1]) - int(b[-1])) != 1 for a, b, _ in links(changed))

    def test_borders_without_structure_match_nothing(self):
        flat = np.full((64, 64, 3), 120, np.uint8)
        tiles = {f"t{i}": borders(flat, np.zeros((64, 64), np.uint8)) for i in range(20)}
        assert links(tiles) == []

    def test_a_folder_without_table_leaks_by_its_edges(self, tmp_path):
        """Whole path: mosaics cut into files, every third tile put into validation, links counted across."""
        part_of = {}
        for seed in range(2):
            image, index = mosaic(seed, ROWS * TILE, COLS * TILE)
            for number, (row, col) in enumerate(product(range(ROWS), range(COLS))):
                part = "validation" if number % 3 == 0 else "train"
                part_of[f"{seed}-{row}-{col}"] = part
                cut = np.s_[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
                write_image(tmp_path / part / f"{seed}-{row}-{col}_sat.png", image[cut])
                write_mask(tmp_path / part / f"{seed}-{row}-{col}_mask.png", index[cut])
        report = verify(tmp_path)
        across = {
            tuple(sorted((f"{part_of[a]}/{a}", f"{part_of[b]}/{b}")))
            for seed in range(2)
            for a, b in true_links(seed)
            if part_of[a] != part_of[b]
        }
        found = {(leak.a, leak.b) for leak in report.leaks if leak.kind == "matching-edges"}
        assert len(found & across) >= 0.9 * len(across)
        assert len(found - across) <= 0.02 * len(found)
        assert report.shared_scenes is None
        assert report.ok


class TestCommand:
    def test_json_has_the_contract_s_keys(self, tmp_path):
        write_folder(tmp_path / "data", "restarting")
        report = json.loads(invoke("verify", tmp_path / "data", "--json", "-").stdout)
        assert report.keys() >= CONTRACT
        assert (report["pairs"], report["parts"]) == (8, {"train": 4, "validation": 4})

    def test_leaks_warn_and_faults_fail(self, tmp_path):
        write_folder(tmp_path, "restarting")
        for key in ("train/0000", "validation/0001"):
            write_image(tmp_path / f"{key}_sat.jpg", image_of("same"))
        result = invoke("verify", tmp_path)
        assert "LEAKAGE" in result.stderr
        assert "1 of 4 items of train" in result.stderr
        (tmp_path / "train/0003_sat.jpg").write_bytes(b"")
        result = invoke("verify", tmp_path, status=1)
        assert "0003_sat.jpg" in result.stdout
        assert "Error: 1 files that cannot be used" in result.stderr

    def test_printed_lists_are_splits_again(self, tmp_path):
        write_folder(tmp_path / "data", "restarting")
        command = ["splits", "--data", tmp_path / "data", "--split"]
        lists = invoke(*command, "random-3-1@5", "--ids").stdout
        (tmp_path / "list.tsv").write_text(lists)
        assert invoke(*command, tmp_path / "list.tsv", "--ids").stdout == lists
        assert len(lists.splitlines()) == 4

    def test_names_cannot_change_the_text_around_them(self, tmp_path, capsys, monkeypatch):
        write_image(tmp_path / "data/train/a\u202eb_sat.png", image_of("a"))
        write_mask(tmp_path / "data/train/a\u202eb_mask.png", truth_of("a"))
        write_image(tmp_path / "data/train/c\u202ed_sat.png", image_of("b"))
        (tmp_path / "data/landcover.yaml").write_text("gsd: 0.5\n")
        result = invoke("verify", tmp_path / "data", status=None)
        assert "c\\u202ed" in result.stdout
        assert "\u202e" not in result.output
        splits(tmp_path / "data", "folders", ids=True)
        assert "a\u202eb" in capsys.readouterr().out  # a file or a program needs the name
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        splits(tmp_path / "data", "folders", ids=True)
        assert capsys.readouterr().out == "train/a\\u202eb\ttrain\n"

    @pytest.mark.parametrize("part", ["train", "nope"])
    def test_splits_shows_all_parts_and_takes_none(self, part, tmp_path):
        write_folder(tmp_path, "restarting")
        words = ("splits", "--data", tmp_path, "--split", f"folders:{part}")
        assert "--split folders." in refusal(*words, error=UsageError)


SCENES = [make_scene(seed, 96, 96).image for seed in range(6)]


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer))


def half(image):
    return np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))


COPIES = {
    "recompressed": jpeg,
    "resized": half,
    "flipped": lambda image: image[:, ::-1],
    "turned": np.rot90,
    "all": lambda image: half(jpeg(np.rot90(image)[::-1])),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_and_other_images_are_not(change, tmp_path):
    for part, images in {"train": SCENES[:3], "val": [*SCENES[3:], COPIES[change](SCENES[1])]}.items():
        for i, image in enumerate(images):
            image = np.ascontiguousarray(image)
            save(tmp_path / part / f"images/{i}.png", image)
            save(tmp_path / part / f"masks/{i}.png", np.zeros(image.shape[:2], np.uint8))
    settings = {"gsd": 1, "legend": DEEPGLOBE.to_dict()}
    (tmp_path / "landcover.yaml").write_text(json.dumps(settings))
    found = [(leak.a, leak.b) for leak in verify(tmp_path).leaks if leak.kind == "near-copy"]
    assert found == [("train/images/1", "val/images/3")]


def test_images_of_one_subset_and_of_one_grey_value_are_not_compared():
    hashes = {str(i): perceptual_hashes(SCENES[0]) for i in range(3)}
    assert near_copies(hashes, dict.fromkeys(hashes, "train")) == []
    assert near_copies(hashes, {"0": "train", "1": "train", "2": "val"}) == [("0", "2"), ("1", "2")]
    assert perceptual_hashes(np.full((9, 9, 3), 7, np.uint8)) is None


def test_the_eight_hashes_are_those_of_the_eight_orientations():
    square = SCENES[0]
    own = perceptual_hashes(square)
    assert own.shape == (8, 128)
    assert set(np.unique(own)) == {-1, 1}
    for turned in (np.rot90(square), square[:, ::-1], square[::-1].swapaxes(0, 1)):
        other = perceptual_hashes(np.ascontiguousarray(turned))
        assert min((own[0] != each).sum() for each in other) <= 4
