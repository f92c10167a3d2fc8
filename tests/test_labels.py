"""Labels as people have them: read as intended, or refused with the values that were found."""

import json
import re
import shutil

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import from_origin

from commands import invoke, refusal
from landcover.data import open_dataset, prepare, verify
from landcover.errors import ConfigError, DataError, MaskError
from landcover.evaluation import evaluate
from landcover.io import read_mask
from landcover.io.discovery import find_files
from landcover.legend import DEEPGLOBE, NODATA, LandClass, Legend
from landcover.metrics import ConfusionMatrix, class_measures
from landcover.raster.classmap import open_class_map
from landcover.windows import Window

THREE = Legend("three", tuple(LandClass(f"c{i}", (40 * i, 60 * i, 90 * i)) for i in range(3)), None)
DUBAI = np.array([[60, 16, 152], [132, 41, 246], [110, 193, 228]], np.uint8)
SIZE = 32
OWN = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) // 64 % 3
"""Class indices 0, 1, 2 in stripes."""


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8), mode).save(path)
    return path


def save_tif(path, array, *, x=5e5, res=0.5, crs="EPSG:32633", driver="GTiff", **options):
    array = array if array.ndim == 3 else array[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = dict(zip(("count", "height", "width"), array.shape, strict=True))
    options |= {"dtype": array.dtype, "crs": crs, "transform": from_origin(x, 55e5, res, 0.5)}
    with rasterio.open(path, "w", driver, **shape, **options) as file:
        file.write(array)
    return path


def legend_of(*values, ignore=()):
    classes = tuple(
        LandClass(f"c{i}", (40 * i, 60 * i, 90 * i), tuple(each)) for i, each in enumerate(values)
    )
    return Legend("own", classes, None, tuple(ignore))


def folder_of(root, masks, legend=None):
    """Write images and masks, by name, and the legend."""
    rng = np.random.default_rng(0)
    for name, mask in masks.items():
        save(root / "images" / f"{name}.png", rng.integers(1, 255, (SIZE, SIZE, 3)))
        save(root / "masks" / f"{name}.png", mask)
    if legend is not None:
        (root / "landcover.yaml").write_text(json.dumps({"gsd": 0.5, "legend": legend.to_dict()}))
    return root


@settings(max_examples=60)
@given(
    values=st.lists(st.integers(0, 250), min_size=4, max_size=4, unique=True),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"]),
)
def test_values_of_any_type_become_their_class(tmp_path_factory, values, dtype):
    legend = legend_of(values[:2], values[2:3], ignore=values[3:])
    stored = np.array(values, dtype)[np.arange(64).reshape(8, 8) % 4]
    path = save_tif(tmp_path_factory.getbasetemp() / "values.tif", stored)
    expected = np.array([0, 0, 1, NODATA])[np.arange(64).reshape(8, 8) % 4]
    np.testing.assert_array_equal(read_mask(path, legend).index, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_small_integers_in_a_png_are_not_stretched(tmp_path, bits):
    index = OWN % min(3, 2**bits)
    image = Image.fromarray(index.astype(np.uint8))
    path = tmp_path / "a.png"
    if bits == 1:
        Image.fromarray(index.astype(bool)).save(path)
    else:
        image.convert("P").save(path, bits=bits)
        content = bytearray(path.read_bytes())
        if bits < 8:  # as grey: the same samples under another colour type
            path.write_bytes(as_grey(bytes(content)))
        else:
            image.save(path)
    np.testing.assert_array_equal(read_mask(path, THREE).index, index)


def as_grey(png):
    """Return a palette PNG as a grey one with the same samples."""
    import struct
    import zlib

    parts, position = [png[:8]], 8
    while position < len(png):
        length = struct.unpack(">I", png[position : position + 4])[0]
        kind, body = png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        position += 12 + length
        if kind == b"PLTE":
            continue
        if kind == b"IHDR":
            body = body[:9] + b"\0" + body[10:]
        parts.append(struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def test_values_16_bits_wide_and_ids_from_1_are_classes(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray((OWN * 1000 + 1).astype(np.uint16)).save(path)
    np.testing.assert_array_equal(read_mask(path, legend_of([1], [1001], [2001])).index, OWN)
    with pytest.raises(MaskError, match=r"1001, 2001.*Expected indices 0 to 2"):
        read_mask(path, THREE)
    with pytest.raises(MaskError, match=r": 3\..*begin at 1"):
        read_mask(save(tmp_path / "b.png", OWN + 1), THREE)


@pytest.mark.parametrize(
    ("values", "ignore"), [(([1], [1]), ()), (([1], []), ()), (([1], [2]), (2,)), (([], []), (1,))]
)
def test_values_of_two_meanings_are_refused(values, ignore):
    with pytest.raises(ConfigError, match="own"):
        legend_of(*values, ignore=ignore)


def test_a_map_that_carries_the_classes_holds_indices(tmp_path):
    legend = legend_of([10], [20], [30])
    assert Legend.from_dict(legend.to_dict()) == legend
    carried = Legend.from_tags(legend.tags, {}, "a map")
    assert carried == legend.of_maps
    assert not carried.lists_values


def test_0_and_255_are_refused_until_the_owner_states_their_meaning(tmp_path):
    mask = (OWN > 0) * 255
    path = save(tmp_path / "a.png", mask)
    for legend in (THREE, DEEPGLOBE):
        with pytest.raises(MaskError, match="0 and 255"):
            read_mask(path, legend)
    index = read_mask(path, legend_of([0], [255])).index
    np.testing.assert_array_equal(index, OWN > 0)
    no_data = Legend("three", THREE.classes, None, (255,))
    np.testing.assert_array_equal(read_mask(path, no_data).index == NODATA, OWN > 0)
    only = folder_of(tmp_path / "only", {"0": mask, "1": mask}, THREE)
    report = verify(only)
    assert not report.ok
    assert "0 and 255" in report.unreadable[0].reason
    with pytest.raises(DataError, match="0 and 255"):
        open_dataset(folder_of(tmp_path / "none", {"0": mask}))
    other = folder_of(tmp_path / "other", {"0": mask, "1": OWN}, THREE)  # here 255 is no data
    assert verify(other).ok


def test_the_colours_of_another_legend_are_listed_with_their_shares(tmp_path):
    masks = {str(i): DUBAI[OWN] for i in range(3)}
    with pytest.raises(DataError, match=r"\(60, 16, 152\) 3\d\.\d%.*landcover legend"):
        open_dataset(folder_of(tmp_path / "none", masks))
    report = verify(folder_of(tmp_path / "declared", masks, DEEPGLOBE))
    assert len(report.unreadable) == 3
    assert "(60, 16, 152) 3" in report.unreadable[0].reason
    pure = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)[OWN % 2]
    with pytest.raises(DataError, match=r"\(255, 0, 0\)"):
        open_dataset(folder_of(tmp_path / "red", {"0": pure}))
    with pytest.raises(DataError, match="black and white"):
        open_dataset(folder_of(tmp_path / "roads", {"0": np.repeat((OWN[..., None] > 0) * 255, 3, 2)}))


def test_the_colours_of_isprs_are_not_taken_for_those_of_deepglobe(tmp_path):
    colours = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0))
    mask = np.array(colours, np.uint8)[np.arange(5).repeat(4)][:, None].repeat(20, 1)
    with pytest.raises(DataError, match=r"ISPRS.*\(0, 0, 255\) 20\.0%.*landcover legend"):
        open_dataset(folder_of(tmp_path / "isprs", {"0": mask}))
    assert open_dataset(folder_of(tmp_path / "stated", {"0": mask}, DEEPGLOBE)).items
    mask[:2] = 0  # unknown, which ISPRS does not have
    assert open_dataset(folder_of(tmp_path / "deepglobe", {"0": mask})).items


def test_the_assumption_of_deepglobe_is_stated_with_its_evidence(tmp_path, caplog):
    open_dataset(folder_of(tmp_path / "a", {"0": DEEPGLOBE.colours[OWN]}))
    assert "100.00% of the pixels" in caplog.text
    assert "urban, agriculture, rangeland" in caplog.text
    caplog.clear()
    open_dataset(folder_of(tmp_path / "b", {"0": OWN + 1}))
    assert "Value 0 never occurs" in caplog.text
    caplog.clear()
    open_dataset(folder_of(tmp_path / "c", {"0": OWN}, THREE))
    assert not caplog.text


@pytest.mark.parametrize("form", ["palette", "grey"])
def test_values_that_fit_are_read_where_the_colours_are_not_the_legends(tmp_path, form):
    legend = Legend("own", tuple(LandClass(f"c{i}", (200, i, 7)) for i in range(3)), None)
    root = folder_of(tmp_path, {"0": OWN}, legend)
    if form == "palette":
        image = Image.fromarray(OWN.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(root / "masks/0.png")
    else:
        save(root / "masks/0.png", np.repeat(OWN[..., None], 3, 2))
    report = verify(root)
    assert report.ok
    assert report.forms == {f"{form} indices": 1}
    assert any("read by their values" in note for note in report.notes)
    np.testing.assert_array_equal(open_dataset(root).read_mask(open_dataset(root).items[0]), OWN)


def test_one_limit_on_off_palette_pixels_holds_for_each_verb(tmp_path):
    mask = DEEPGLOBE.colours[OWN].copy()
    mask[0, : SIZE // 2] = (255, 0, 0)  # 1.6 %
    root = folder_of(tmp_path / "data", {"0": mask, "1": DEEPGLOBE.colours[OWN]}, DEEPGLOBE)
    assert "(255, 0, 0) 1.6%" in invoke("verify", root, status=1).output
    with pytest.raises(DataError, match=r"1\.6%"):
        prepare(root, tmp_path / "cache")
    invoke("verify", root, "--max-off-palette", 0.02)
    assert prepare(root, tmp_path / "cache", max_off_palette=0.02).written
    shutil.copytree(root / "masks", tmp_path / "maps" / "images")
    evaluate = ("evaluate", "--data", root, "--split", "all:all", "--predictions", tmp_path / "maps")
    assert "1.6%" in refusal(*evaluate, error=MaskError)
    invoke(*evaluate, "--max-off-palette", 0.02)


def test_verify_reports_nodata_unknown_and_off_palette_pixels_by_folder(tmp_path):
    mask = DEEPGLOBE.colours[np.where(OWN == 2, 6, OWN)]
    root = folder_of(tmp_path, {"0": mask}, DEEPGLOBE)
    image = np.full((SIZE, SIZE, 4), 255, np.uint8)
    image[: SIZE // 4, :, 3] = 0
    save(root / "images/0.png", image)
    of = verify(root).mask_folders["masks"]
    assert of["masks"] == 1
    assert of["nodata"] == 0.25
    assert of["unknown"] == pytest.approx((OWN[SIZE // 4 :] == 2).mean() * 0.75)


def test_no_data_of_the_image_is_no_data_of_the_truth_in_folder_and_cache(tmp_path):
    image = np.full((3, SIZE, SIZE), 9, np.uint8)
    image[:, :, 20:] = 0
    save_tif(tmp_path / "data/images/a.tif", image, nodata=0)
    save_tif(tmp_path / "data/masks/a.tif", OWN.astype(np.uint8))
    expected = np.where(np.arange(SIZE) < 20, OWN, NODATA)
    for dataset in (
        open_dataset(tmp_path / "data", legend=THREE),
        prepare(tmp_path / "data", tmp_path / "cache", legend=THREE).dataset,
    ):
        np.testing.assert_array_equal(dataset.read_mask(dataset.items[0]), expected)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"x": 501000.0}, "1000 metre"),
        ({"x": 501000.0, "crs": None}, "1000 metre"),
        ({"res": 1}, "16 metre"),
        ({"crs": "EPSG:32634"}, "EPSG:32634"),
    ],
)
def test_image_and_mask_of_two_places_are_refused_with_the_distance(tmp_path, place, words):
    save_tif(tmp_path / "images/a.tif", np.full((3, SIZE, SIZE), 9, np.uint8))
    save_tif(tmp_path / "masks/a.tif", OWN.astype(np.uint8), **place)
    dataset = open_dataset(tmp_path, legend=THREE)
    with pytest.raises(MaskError, match=words):
        dataset.labels(dataset.items[0])


def test_world_files_of_two_places_are_refused(tmp_path):
    root = folder_of(tmp_path, {"0": OWN}, THREE)
    for folder, x in (("images", 0), ("masks", 0)):
        (root / folder / "0.pgw").write_text(f"0.5\n0\n0\n-0.5\n{x}\n0\n")
    dataset = open_dataset(root)
    np.testing.assert_array_equal(dataset.read_mask(dataset.items[0]), OWN)
    (root / "masks/0.pgw").write_text("0.5\n0\n0\n-0.5\n100\n0\n")
    with pytest.raises(MaskError, match=r"100 units \(200\.0 pixels\)"):
        dataset.labels(dataset.items[0])


@pytest.mark.parametrize(
    ("suffix", "options", "is_read"),
    [
        ("tif", {"compress": "jpeg"}, False),
        ("tif", {"compress": "lerc", "max_z_error": 2}, False),
        ("tif", {"compress": "lerc"}, True),
        ("tif", {"compress": "zstd"}, True),
        ("jp2", {"driver": "JP2OpenJPEG", "quality": "10"}, False),
        ("jp2", {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "YES"}, True),
        ("webp", {"lossless": False}, False),
        ("webp", {"lossless": True}, True),
    ],
)
def test_masks_with_lossy_compression_are_refused(tmp_path, suffix, options, is_read):
    root = folder_of(tmp_path, {"0": OWN}, THREE)
    (root / "masks/0.png").unlink()
    if suffix == "webp":
        Image.fromarray(THREE.colours[OWN]).save(root / "masks/0.webp", **options)
    else:
        save_tif(root / f"masks/0.{suffix}", OWN.astype(np.uint8), **options)
    dataset = open_dataset(root)
    if is_read:
        np.testing.assert_array_equal(dataset.read_mask(dataset.items[0]), OWN)
    else:
        with pytest.raises(MaskError, match="WebP" if suffix == "webp" else "lossy compression"):
            dataset.labels(dataset.items[0])


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.moveaxis(np.stack([i == OWN for i in range(3)]), 0, 2), r"\(0, 1, 0\)"),  # 0 and 1 in a band each
        (np.stack([OWN, OWN * 0, OWN * 0], 2), r"\(2, 0, 0\)"),  # ids in the first band
        (np.stack([OWN, OWN, OWN, OWN], 2), "alpha band of 0 to 2"),
        (np.concatenate([DEEPGLOBE.colours[OWN], np.zeros((SIZE, SIZE, 1))], 2), "transparent everywhere"),
    ],
)
def test_bands_that_are_not_colours_are_refused(tmp_path, pixels, words):
    with pytest.raises(MaskError, match=words):
        read_mask(save(tmp_path / "a.png", pixels), DEEPGLOBE, max_off_palette=0.01)


def palette(*colours):
    image = Image.fromarray(OWN.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def pages():
    return Image.fromarray(np.uint8(OWN))


@pytest.mark.parametrize(
    ("name", "image", "options", "legend", "words"),
    [
        # Entry 0 has the colour of class 1.
        ("a.png", palette(THREE.classes[1].colour, (1, 1, 1), (2, 2, 2)), {}, THREE, r"\(1, 1, 1\)"),
        # As rounded: unknown, forest, agriculture.
        ("a.png", palette((0, 0, 0), (0, 128, 0), (128, 128, 0)), {}, DEEPGLOBE, r"\(0, 128, 0\)"),
        ("a.tif", pages(), {"save_all": True, "append_images": [pages()]}, THREE, "2 images"),
    ],
    ids=["values that contradict their colours", "a palette of another legend", "two pages"],
)
def test_masks_of_two_meanings_are_refused(tmp_path, name, image, options, legend, words):
    image.save(tmp_path / name, **options)
    with pytest.raises(MaskError, match=words):
        read_mask(tmp_path / name, legend, max_off_palette=0.01)


@pytest.mark.parametrize("suffix", ["bmp", "gif"])
def test_bmp_and_gif_masks_are_read_and_jpeg_is_refused(tmp_path, suffix):
    root = folder_of(tmp_path, {"0": OWN}, THREE)
    (root / "masks/0.png").unlink()
    save(root / f"masks/0.{suffix}", OWN)
    dataset = open_dataset(root)
    np.testing.assert_array_equal(dataset.read_mask(dataset.items[0]), OWN)
    Image.fromarray(THREE.colours[OWN]).save(root / f"masks/0.{suffix}", "JPEG")
    with pytest.raises(MaskError, match="JPEG"):
        dataset.labels(dataset.items[0])


@pytest.mark.parametrize(
    ("mask", "options", "values"),
    [
        (OWN + 1, ["--names", "a,b,c"], [[1], [2], [3]]),
        ((OWN > 0) * 255, ["--names", "land,house"], [[0], [255]]),
        (OWN * 10, ["--names", "a,b", "--ignore", "0"], [[10], [20]]),
        (DUBAI[OWN], ["--names", "building,road,land"], [None] * 3),
    ],
)
def test_legend_writes_the_file_that_makes_a_folder_readable(tmp_path, mask, options, values):
    root = folder_of(tmp_path, {"0": mask})
    invoke("legend", root)
    with pytest.raises(ConfigError, match="name"):
        open_dataset(root)
    assert "exists" in refusal("legend", root, *options)
    invoke("legend", root, *options, "--force", "--gsd", 0.5)
    legend = open_dataset(root).legend
    assert [list(c.values) or None for c in legend.classes] == values
    invoke("verify", root)


def test_legend_refuses_names_of_another_number_and_pictures(tmp_path):
    root = folder_of(tmp_path, {"0": OWN})
    assert "0, 1, 2" in refusal("legend", root, "--names", "a,b")
    rng = np.random.default_rng(1)
    save(root / "masks/0.png", rng.integers(0, 255, (SIZE, SIZE, 3)))
    assert "colours" in refusal("legend", root)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_a_raster_of_listed_values_is_a_truth(tmp_path, dtype):
    legend = legend_of([10, 11], [300 if dtype != "uint8" else 30], ignore=[7])
    stored = np.array([10, 11, legend.classes[1].values[0], 7], dtype)[np.arange(64).reshape(8, 8) % 4]
    path = save_tif(tmp_path / "truth.tif", stored)
    expected = np.array([0, 0, 1, NODATA])[np.arange(64).reshape(8, 8) % 4]
    with open_class_map(path, legend) as opened:
        np.testing.assert_array_equal(opened.read(Window(0, 0, 8, 8)), expected)
    other = Legend("turned", legend.of_maps.classes[::-1], None)
    with open_class_map(path, legend, other) as opened:
        turned = np.where(expected == NODATA, NODATA, 1 - expected.clip(0, 1))
        np.testing.assert_array_equal(opened.read(Window(0, 0, 8, 8)), turned)
    with pytest.raises(MaskError, match="7"), open_class_map(path, legend_of([10, 11], [30, 300])) as opened:
        opened.read(Window(0, 0, 8, 8))


def test_a_class_that_is_absent_but_predicted_is_reported_with_its_pixels():
    truth = np.zeros((20, 20), np.uint8)
    truth[10:] = 1
    predicted = truth.copy()
    predicted[0, 0] = 2
    matrix = ConfusionMatrix(THREE)
    matrix.update(truth, predicted)
    scores = matrix.scores()
    assert scores.iou["c2"] == 0
    assert scores.miou == pytest.approx((199 / 200 + 1) / 3)
    assert scores.miou_present == pytest.approx((199 / 200 + 1) / 2)
    assert any("predicted on 1 pixels" in warning for warning in scores.warnings)
    measures, kappa = class_measures(matrix)
    assert measures["c0"] == {"precision": 1, "recall": 199 / 200, "f1": pytest.approx(398 / 399)}
    assert measures["c2"] == {"precision": 0, "recall": None, "f1": 0}
    chance = (200 * 199 + 200 * 200) / 400**2
    assert kappa == pytest.approx((399 / 400 - chance) / (1 - chance))
    only = ConfusionMatrix(THREE)
    only.update(truth * 0, truth * 0)
    assert any("one class only (c0)" in warning for warning in only.scores().warnings)


def test_evaluate_reports_what_is_not_scored(tmp_path):
    root = folder_of(tmp_path / "data", {"0": np.where(OWN == 0, 255, OWN)}, THREE)
    folder_of(tmp_path / "maps", {"0": OWN})
    (tmp_path / "maps/masks").rename(tmp_path / "maps/images2")
    shutil.rmtree(tmp_path / "maps/images")
    (tmp_path / "maps/images2").rename(tmp_path / "maps/images")
    report = evaluate(root, "all:all", predictions=tmp_path / "maps")
    assert report.unscored == pytest.approx((OWN == 0).mean())
    assert report.miou_present == 1


def test_options_of_the_command_line_are_checked(tmp_path):
    assert re.search("--gsd.* 2 times", refusal("verify", tmp_path, "--gsd", 1, "--gsd", 2))
    invoke("train", "--show-config", "--set", "steps=3", "--set", "minutes=null")
    assert "optimiser.learning_rate" in refusal("train", "--show-config", "--set", "learning_rate=1")


NAMES = {  # paths of an image and its mask, as public data sets have them; {i} id, {p} subset
    "mmseg": ("img_dir/{p}/{i}.png", "ann_dir/{p}/{i}.png"),
    "subfolders": ("{p}/Rural/images_png/{i}.png", "{p}/Rural/masks_png/{i}.png"),
    "annot": ("{p}/{i}.png", "{p}annot/{i}.png"),
    "VOC": ("JPEGImages/{p}{i}.jpg", "SegmentationClass/{p}{i}.png"),
    "sat map": ("{p}/sat/{i}.tiff", "{p}/map/{i}.tif"),
    "prefixes": ("images/img_{p}{i}.jpg", "masks/label_{p}{i}.png"),
    "suffixes": ("{p}{i}_image.png", "{p}{i}_mask.png"),
    "one suffix": ("{p}{i}.jpg", "{p}{i}_mask.png"),
    "ortho": ("2_Ortho_RGB/top_2_{p}{i}_RGB.tif", "5_Labels_all/top_2_{p}{i}_label.tif"),
    "two prefixes": ("aerial/D1/img/IMG_{p}{i}.tif", "labels/D1/msk/MSK_{p}{i}.tif"),
    "long suffix": ("images/P{p}{i}.png", "masks/P{p}{i}_instance_color_RGB.png"),
    "numbered": ("img_dir/{p}/{i}.tif", "ann_dir/{p}/{i}_15label.png"),
    "lbl": ("img/{p}{i}.png", "lbl/{p}{i}.png"),
    "sem": ("{p}/rgb/{i}.png", "{p}/sem/{i}.png"),
    "hyphens": ("{p}{i}-img.png", "{p}{i}-seg.png"),
    "letters": ("x/{p}{i}.png", "y/{p}{i}.png"),
    "subset words": ("{p}_images/{i}.png", "{p}_masks/{i}.png"),
    "src": ("{p}/src/{i}.jpg", "{p}/gt/{i}.png"),
    "truth": ("{p}{i}.jpg", "{p}{i}_truth.png"),
    "letter": ("{p}/{i}.png", "{p}_labels/{i}_L.png"),
    "one letter": ("{p}{i}.jpg", "{p}{i}_m.png"),
    "sat inside": ("images/{p}_sat_{i}.jpg", "masks/{p}_mask_{i}.png"),
    "other folder": ("{p}/tiles/{i}.jpg", "{p}/labels/{i}.png"),
    "two formats": ("{p}{i}.jpg", "{p}{i}.tif"),
    "one name": ("{p}{i}.png", "{p}{i}.tif"),
}


@pytest.mark.parametrize("name", NAMES)
def test_images_and_masks_are_paired_by_words_or_content(tmp_path, name):
    rng = np.random.default_rng(0)
    image, mask = NAMES[name]
    for p in ("train", "val"):
        for i in ("01", "02"):
            save(tmp_path / image.format(p=p, i=i), rng.integers(0, 255, (SIZE, SIZE, 3)))
            save(tmp_path / mask.format(p=p, i=i), OWN)
    dataset = open_dataset(tmp_path, legend=THREE)
    paths = {item.image.relative_to(tmp_path).as_posix(): item for item in dataset.labelled}
    assert len(paths) == 4
    for p in ("train", "val"):
        for i in ("01", "02"):
            item = paths[image.format(p=p, i=i)]
            assert item.mask == tmp_path / mask.format(p=p, i=i)
            assert item.part == (p if re.search(r"\{p\}.*/", image) else None)
    assert image.format(p="train", i="01").rpartition("/")[2] in verify(tmp_path, legend=THREE).pairing


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["before/1.png", "after/1.png", "mask/1.png"], r"landcover\.yaml"),  # two images for a mask
        (["A/1.png", "B/1.png", "label/1.png"], r"landcover\.yaml"),
        (["predictions/1.png", "labels/1.png"], r"landcover\.yaml"),  # predictions beside labels
        (["images/a.jpg", "masks/a.jpg"], "JPEG"),
    ],
)
def test_what_is_not_image_and_mask_is_not_guessed(tmp_path, paths, message):
    for path in paths:
        save(tmp_path / path, OWN)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, legend=THREE)


def test_predictions_are_no_part_of_a_data_set_and_are_named_where_one_is_missing(tmp_path):
    root, image = tmp_path / "data", np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3))
    for name in ("0", "1"):
        save(root / f"images/{name}.png", image)
        save(root / f"labels/{name}.png", OWN)
    for name in ("0", "1", "1_mask"):
        save(root / f"predictions/{name}.png", OWN)
    assert [item.key for item in open_dataset(root, legend=THREE).labelled] == ["images/0", "images/1"]
    with pytest.raises(DataError, match=r"has 0\.png, 1\.png, 1_mask\.png.*images/0_mask\.png"):
        evaluate(root, "all:all", predictions=root / "predictions", legend=THREE)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("rgb/t1", "rgb/t1_m"), ("seg/t1_m",)),
        (("rgb/a_l", "rgb/a_r"), ("seg/a_l", "seg/a_r")),
        (("rgb/t1", "rgb/t1_m"), ("seg/t1", "seg/t1_m")),
        (("tiles/1", "tiles/1_m"), ("labels/1", "labels/1_m")),
    ],
)
def test_a_letter_of_a_tile_s_name_is_not_that_of_masks(tmp_path, images, masks):
    for name in images:
        save(tmp_path / f"{name}.png", np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)))
    for name in masks:
        save(tmp_path / f"{name}.png", OWN)
    items = open_dataset(tmp_path, legend=THREE).labelled
    assert [item.mask for item in items] == [tmp_path / f"{name}.png" for name in masks]
    assert all(item.image.name == item.mask.name for item in items)


def test_imagery_with_quicklooks_is_not_labelled(tmp_path):
    for suffix in ("jpg", "tif"):
        save(tmp_path / f"1.{suffix}", np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)))
    with pytest.raises(DataError, match=r"1\.tif and .*1\.jpg"):
        open_dataset(tmp_path, legend=THREE)


def test_of_masks_as_values_and_as_colours_the_values_are_read(tmp_path):
    save(tmp_path / "original/1.png", np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)))
    save(tmp_path / "label_semantic/1.png", OWN)
    save(tmp_path / "color_masks/1.png", DUBAI[OWN])
    (item,) = open_dataset(tmp_path, legend=THREE).items
    assert (item.image.parent.name, item.mask.parent.name) == ("original", "label_semantic")


def test_names_are_declared_in_landcover_yaml(tmp_path):
    for p in ("a", "b"):
        save(tmp_path / f"one/{p}/7-pic.png", np.full((SIZE, SIZE, 3), 9))
        save(tmp_path / f"two/{p}-7.png", OWN)
    with pytest.raises(DataError, match=r"landcover\.yaml"):
        open_dataset(tmp_path, legend=THREE)
    settings = tmp_path / "landcover.yaml"
    settings.write_text('images: "one/{subset}/{id}-pic.png"\nmasks: "two/{subset}-{id}.png"\n')
    assert sorted(open_dataset(tmp_path, legend=THREE).parts) == ["a", "b"]
    invoke("legend", tmp_path, "--names", "x,y,z")  # what is declared stays
    assert len(open_dataset(tmp_path).labelled) == 2
    settings.write_text('images: "one/{subset}/{id}.jpg"\nmasks: "two/{subset}-{id}.png"\n')
    with pytest.raises(DataError, match=r"\.jpg"):
        open_dataset(tmp_path, legend=THREE)
    for wrong in ('images: "one/{id}.png"\n', 'images: "one/a.png"\nmasks: "two/{id}.png"\n'):
        settings.write_text(wrong)
        with pytest.raises(DataError if "a.png" in wrong else ConfigError, match=r"(masks|id)"):
            open_dataset(tmp_path, legend=THREE)


def test_where_nothing_is_paired_the_names_are_asked_for(tmp_path, caplog):
    save(tmp_path / "images/a.png", np.full((SIZE, SIZE, 3), 9))
    save(tmp_path / "masks/b_L.png", OWN)
    invoke("verify", tmp_path, status=1)
    assert "declared in landcover.yaml" in caplog.text
    assert "--labels" not in caplog.text
    (tmp_path / "coco.json").write_text("{}")
    invoke("verify", tmp_path, status=1)
    assert f"--labels {tmp_path} " in caplog.text
    (tmp_path / "coco.json").unlink()
    save(tmp_path / "images/c.png", np.full((SIZE, SIZE, 3), 9))
    save(tmp_path / "masks/c.png", OWN)
    caplog.clear()
    invoke("verify", tmp_path, status=1)
    assert "landcover.yaml" not in caplog.text.rpartition("ERROR")[2]


def test_images_of_a_data_folder_are_found_without_its_masks(tmp_path):
    for p in ("train", "val"):
        for folder in ("images", "masks"):
            save(tmp_path / p / folder / "a.png", OWN)
    found = find_files(
        [tmp_path], tmp_path / "out", what="images", suffixes=frozenset({".png"}), left_out=("_mask",)
    )
    assert [file.relative.as_posix() for file in found] == ["train/images/a.png", "val/images/a.png"]
