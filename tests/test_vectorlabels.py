"""Polygons and points become masks and training data: vector files, COCO JSON and labelme."""

import json
import os
from itertools import groupby

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_geom

from commands import invoke, refusal
from imagefiles import photo, save, save_raster
from landcover.data import open_dataset, prepare, split
from landcover.data.vectorlabels import VectorSource, rasterize
from landcover.errors import DataError, UsageError
from landcover.io.vectors import write_features
from landcover.legend import NODATA, LandClass, Legend

shapely = pytest.importorskip("shapely")
SIZE = (40, 60)
UTM = CRS.from_epsg(32633)
PLACES = {"a": (500000, 5500000), "b": (507000, 5503000)}
TURNED = Affine.rotation(30)
"""Scene b is rotated."""


def grid(name):
    x, y = PLACES[name]
    return Affine.translation(x, y) @ (TURNED if name == "b" else Affine.identity()) @ Affine.scale(0.5, -0.5)


def at(name, *points):
    """Return positions in columns and rows of a scene in its CRS."""
    return [grid(name) @ point for point in points]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    for i, name in enumerate(PLACES):
        save_raster(root / f"{name}.tif", photo(*SIZE, seed=i), crs=UTM, transform=grid(name))
    return root


SQUARES = {
    "wheat": ("a", [(5, 5), (25, 5), (25, 15), (5, 15)]),
    "maize": ("a", [(20, 10), (45, 10), (45, 30), (20, 30)]),  # over a part of the wheat
    "meadow": ("b", [(10, 10), (50, 10), (50, 30), (10, 30)]),
    "far": ("a", [(9000, 9000), (9010, 9000), (9010, 9010), (9000, 9000)]),
}
EXPECTED = {name: np.full(SIZE, NODATA, np.uint8) for name in PLACES}
EXPECTED["a"][5:15, 5:25] = 2
EXPECTED["a"][10:30, 20:45] = 0
EXPECTED["b"][10:30, 10:50] = 1
"""Class indices in alphabetical order: maize, meadow, wheat."""


def parcels(path, *, crs=UTM, names=None, column="class"):
    shapes = [shapely.Polygon(at(name, *corners)) for name, corners in SQUARES.values()]
    names = names or ["wheat", "maize", "meadow", "wheat"]
    if crs != UTM:
        shapes = [
            shapely.geometry.shape(transform_geom(UTM, crs, shape.__geo_interface__)) for shape in shapes
        ]
    if path.suffix == ".shp":
        import pyogrio

        names = [np.array(names, object)]
        kind = {"geometry_type": "Polygon", "driver": "ESRI Shapefile", "crs": crs.to_string()}
        pyogrio.raw.write(path, shapely.to_wkb(np.array(shapes, object)), names, [column], **kind)
        return path
    batch = np.array(shapes, object), {column: np.array(names, object if isinstance(names[0], str) else None)}
    write_features(path, [batch], {column: batch[1][column].dtype}, crs)
    return path


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.shp", "degrees.gpkg"])
def test_polygons_become_masks_on_the_grid_of_each_scene(scenes, tmp_path, caplog, name):
    path = parcels(tmp_path / name, crs=CRS.from_epsg(4326) if name[0] == "d" else UTM)
    result = rasterize(VectorSource(path), [scenes], tmp_path / "masks")
    assert result.legend.names == ("maize", "meadow", "wheat")
    assert "touch no scene: 1." in caplog.text
    assert result.unlabelled == []
    for scene, expected in EXPECTED.items():
        with rasterio.open(tmp_path / f"masks/{scene}.tif") as mask:
            assert (mask.crs, mask.shape) == (UTM, SIZE)
            assert mask.transform.almost_equals(grid(scene), 1e-6)
            np.testing.assert_array_equal(mask.read(1), expected)
    prepared = prepare(open_dataset(scenes, labels=VectorSource(path)), tmp_path / "cache").dataset
    for item in prepared.items:
        np.testing.assert_array_equal(prepared.read_mask(item), EXPECTED[item.key])
    assert prepared.gsd == 0.5


def test_masks_carry_their_classes_into_training(scenes, tmp_path):
    for scene in PLACES:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"images/{scene}.tif").write_bytes((scenes / f"{scene}.tif").read_bytes())
    path = parcels(tmp_path / "p.gpkg")
    result = invoke("rasterize", path, "--like", tmp_path / "images", "--out", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    dataset = open_dataset(tmp_path)
    assert dataset.legend.names == ("maize", "meadow", "wheat")
    for item in dataset.labelled:
        np.testing.assert_array_equal(dataset.read_mask(item), EXPECTED[item.id])
    assert len(dataset.labelled) == 2


def test_the_command_prepares_scenes_and_keeps_what_is_up_to_date(scenes, tmp_path):
    path, cache = parcels(tmp_path / "p.gpkg", column="crop"), tmp_path / "cache"
    assert "crop" in refusal("prepare", scenes, "--labels", path, "--out", cache)
    command = ("prepare", scenes, "--labels", path, "--column", "crop", "--out", cache)
    invoke(*command)
    assert [item.key for items in split(open_dataset(cache), "kfold-2@0").values() for item in items] == [
        "b",
        "a",
    ]
    before = (cache / "index.json").stat().st_mtime_ns
    invoke(*command)
    assert (cache / "index.json").stat().st_mtime_ns == before
    assert "--force" in refusal(*command, "--background", "maize")
    invoke(*command, "--background", "maize", "--force")
    dataset = open_dataset(cache)
    expected = np.where(EXPECTED["a"] == NODATA, 0, EXPECTED["a"])
    np.testing.assert_array_equal(dataset.read_mask(dataset.items[0]), expected)
    path.unlink()
    parcels(path, column="crop", names=["wheat", "maize", "meadow", "maize"])
    assert "--force" in refusal(*command)
    assert "--labels" in refusal("prepare", scenes, "--out", cache, "--column", "x")


def test_a_cache_is_of_all_label_files_of_a_scene_and_their_sidecars(scenes, pictures, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    command = ("prepare", scenes, "--labels", labels, "--out", tmp_path / "cache")
    path = parcels(labels / "p.shp")
    invoke(*command)
    os.utime(path.with_suffix(".dbf"))  # the same content
    invoke(*command)
    parcels(path, names=["maize", "wheat", "meadow", "wheat"])  # only the .dbf differs
    assert "--force" in refusal(*command)
    for name, house in (("1", 5), ("2", 30)):
        outline = [house, 10, house + 9, 10, house + 9, 20]
        (labels / f"{name}.json").write_text(
            json.dumps(coco(annotations=[{"image_id": 7, "category_id": 1, "segmentation": [outline]}]))
        )
    for file in labels.glob("p.*"):
        file.unlink()
    command = ("prepare", pictures, "--labels", labels, "--background", "other", "--out", tmp_path / "c")
    invoke(*command)
    text = (labels / "2.json").read_text()
    (labels / "2.json").write_text(text.replace("30", "31"))
    assert "--force" in refusal(*command)


def test_a_file_geodatabase_can_be_prepared(scenes, tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    if "w" not in pyogrio.list_drivers().get("OpenFileGDB", ""):
        pytest.skip("this GDAL writes no .gdb")
    kind = {"geometry_type": "Polygon", "driver": "OpenFileGDB", "crs": UTM.to_string()}
    shapes = shapely.to_wkb(np.array([shapely.Polygon(at(n, *c)) for n, c in SQUARES.values()], object))
    names = [np.array(["wheat", "maize", "meadow", "wheat"], object)]
    pyogrio.raw.write(tmp_path / "p.gdb", shapes, names, ["class"], layer="p", **kind)
    for _ in range(2):
        prepared = prepare(open_dataset(scenes, labels=VectorSource(tmp_path / "p.gdb")), tmp_path / "cache")
    assert not prepared.written
    np.testing.assert_array_equal(prepared.dataset.read_mask(prepared.dataset.items[0]), EXPECTED["a"])


LEGEND = Legend(
    "own", tuple(LandClass(n, (i, 9, 9), (10 * i,)) for i, n in enumerate(("wheat", "maize"), 1)), None
)


def test_unknown_classes_are_listed_with_their_number(scenes, tmp_path):
    with pytest.raises(DataError, match=r"meadow \(1\).*wheat, maize"):
        rasterize(VectorSource(parcels(tmp_path / "p.gpkg")), [scenes], tmp_path / "masks", legend=LEGEND)
    assert not (tmp_path / "masks").exists()
    labels = VectorSource(parcels(tmp_path / "n.gpkg", names=[10, 20, 30, 10]))
    with pytest.raises(DataError, match=r"30 \(1\)"):
        rasterize(labels, [scenes], tmp_path / "masks", legend=LEGEND)
    labels = VectorSource(parcels(tmp_path / "m.gpkg", names=[10, 20, 20, 10]))
    rasterize(labels, [scenes / "a.tif"], tmp_path / "masks", legend=LEGEND)
    with rasterio.open(tmp_path / "masks/a.tif") as mask:
        expected = np.choose(np.minimum(EXPECTED["a"], 3), [1, 0, 0, NODATA])
        np.testing.assert_array_equal(mask.read(1), expected)
    missing = VectorSource(parcels(tmp_path / "none.gpkg", names=["wheat", None, "meadow", "wheat"]))
    with pytest.raises(DataError, match=r"no value \(1\)"):
        rasterize(missing, [scenes], tmp_path / "other")


def test_one_class_needs_the_class_of_the_other_ground(scenes, tmp_path):
    path = parcels(tmp_path / "p.gpkg", names=["house"] * 4)
    with pytest.raises(UsageError, match="--background"):
        rasterize(VectorSource(path), [scenes], tmp_path / "masks")
    result = rasterize(VectorSource(path, background="other"), [scenes], tmp_path / "masks")
    assert result.legend.names == ("house", "other")
    with rasterio.open(tmp_path / "masks/b.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), EXPECTED["b"] == NODATA)


def test_points_label_the_pixel_that_contains_them(scenes, tmp_path):
    points = np.array(
        [shapely.Point(at("a", (col + 0.5, row + 0.5))[0]) for col, row in ((3, 4), (59, 39))], object
    )
    batch = points, {"class": np.array(["x", "y"], object)}
    write_features(tmp_path / "p.gpkg", [batch], {"class": object}, UTM, geometry="Point")
    result = rasterize(VectorSource(tmp_path / "p.gpkg"), [scenes], tmp_path / "masks")
    assert [path.name for path in result.unlabelled] == ["b.tif"]
    with rasterio.open(tmp_path / "masks/a.tif") as mask:
        index = mask.read(1)
    assert (index[4, 3], index[39, 59], (index != NODATA).sum()) == (0, 1, 2)


@pytest.fixture
def pictures(tmp_path):
    for name in ("1", "2"):
        save(tmp_path / f"images/{name}.png", photo(*SIZE, seed=int(name)))
    (tmp_path / "images/landcover.yaml").write_text("gsd: 0.5\n")
    return tmp_path / "images"


RECTANGLE = np.full(SIZE, NODATA, np.uint8)
RECTANGLE[10:20, 5:30] = 0


def coco(**changes):
    outline = [5, 10, 30, 10, 30, 20, 5, 20]
    return {
        "images": [{"id": 7, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "house"}, {"id": 2, "name": "road"}],
        "annotations": [{"id": 3, "image_id": 7, "category_id": 1, "segmentation": [outline], "iscrowd": 0}],
    } | changes


def labelme(**changes):
    shape = {"label": "house", "points": [[5, 10], [30, 20]], "shape_type": "rectangle"}
    return {
        "imagePath": "..\\images\\1.png",
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        "shapes": [shape],
    } | changes


@pytest.mark.parametrize("content", [coco(), labelme()], ids=["coco", "labelme"])
def test_annotations_in_pixels_become_masks(pictures, tmp_path, content):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1.json").write_text(json.dumps(content))
    for path in (tmp_path / "labels", tmp_path / "labels/1.json"):
        dataset = open_dataset(pictures, labels=VectorSource(path, background="other"))
        masks = [dataset.read_mask(item) for item in dataset.labelled]
        np.testing.assert_array_equal(masks[0], np.where(RECTANGLE == 0, 0, 1))
        assert (masks[1] == 1).all()
    legend = Legend("o", (LandClass("house", (1, 1, 1)), LandClass("road", (2, 2, 2))), None)
    alone = open_dataset(pictures, labels=VectorSource(path), legend=legend)
    assert [item.key for item in alone.labelled] == ["1"]
    np.testing.assert_array_equal(alone.read_mask(alone.labelled[0]), RECTANGLE)


def annotated(segmentation, category=1):
    entry = {"id": 3, "image_id": 7, "category_id": category, "segmentation": segmentation}
    return coco(annotations=[entry])


def fraction(kind):
    return {"label": "house", "points": [[0.1, 0.1], [0.9, 0.9]], "shape_type": kind}


def run_lengths(counts, size=SIZE):
    return annotated({"size": [*size], "counts": counts})


def image(number, name="1.png", **size):
    return {"id": number, "file_name": name, **size}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (coco(images=[image(7, "9.png")]), "9.png"),
        (coco(images=[image(7, height=99, width=60)]), "99 x 60"),
        (coco(images=[image(7, height="99", width=60.0)]), "99 x 60"),
        (coco(images=[image(7), image(7, "2.png")]), "several entries with the id 7"),
        (coco(images=[image(7), image(8, "1.jpg")]), "id 8"),
        (coco(images=[image([7])]), "images"),
        (coco(categories=[{"id": 1, "name": "house"}, {"id": 1, "name": "road"}]), "several entries"),
        (coco(categories=3), "categories"),
        (coco(categories=[{"id": 1, "name": ["house"]}]), "categories"),
        (annotated({"counts": "a"}), "size None"),
        (run_lengths([2400], (60, 40)), r"\[40, 60\]"),
        (run_lengths([2399]), "2399 pixels"),
        (run_lengths("P"), "cannot be read"),
        (run_lengths("é"), "cannot be read"),
        (run_lengths("o" * 40), "cannot be read"),
        (run_lengths([2401, -1]), "cannot be read"),
        (run_lengths([2400.0]), "cannot be read"),
        (run_lengths({"a": 1}), "cannot be read"),
        (run_lengths(None), "cannot be read"),
        (annotated([]), "annotation 3"),
        (annotated([[0, 0, 9, 1, 2, 0]], 5), "category 5"),
        (annotated([[0, 0, 1]]), "outline"),
        (annotated([["0", "1_0", "9", "1", "2", "0"]]), "outline"),
        (annotated([[0.1, 0.2, 0.9, 0.2, 0.9, 1]]), "fractions"),
        (labelme(shapes=[fraction("rectangle"), fraction("circle")]), "fractions"),
        (labelme(shapes=[{"label": {}, "points": [[0, 0]]}]), "label"),
        (labelme(shapes=[{"label": "x", "points": [[0, 0], [1, 1]], "shape_type": "line"}]), "line"),
        (labelme(shapes=[{"label": "x", "points": [[0, "a"]]}]), "finite"),
        (labelme(imageHeight="99"), "99 x 60"),
        ({"objects": []}, "objects"),
        ([1], "keys"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(pictures, tmp_path, content, words):
    (tmp_path / "l.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        open_dataset(pictures, labels=VectorSource(tmp_path / "l.json", background="other"))


@pytest.mark.parametrize(
    "outlines", [[[0, 0, 1, 0, 1, 1, 0, 1]], [[0.1, 0.2, 0.9, 0.2, 0.9, 1], [3, 3, 9, 3, 9, 9]]]
)
def test_shapes_in_the_first_pixel_are_not_fractions_by_themselves(pictures, tmp_path, outlines):
    (tmp_path / "l.json").write_text(json.dumps(annotated(outlines)))
    dataset = open_dataset(pictures, labels=VectorSource(tmp_path / "l.json", background="other"))
    labels = dataset.labels(next(item for item in dataset.items if item.mask)).index
    assert labels[0, 0] == dataset.legend.names.index("house")


def test_annotations_outside_their_image_are_counted(pictures, tmp_path, caplog):
    content = coco()
    content["annotations"] += annotated([[100, 10, 130, 10, 130, 20]])["annotations"]
    (tmp_path / "l.json").write_text(json.dumps(content))
    open_dataset(pictures, labels=VectorSource(tmp_path / "l.json", background="other"))
    assert "touch no scene: 1." in caplog.text


def test_run_lengths_become_the_same_masks(pictures, tmp_path):
    """Text from pycocotools 2.0.11, of ``mask`` and of all but it."""
    mask = np.zeros(SIZE, bool)
    mask[10:20, 5:30] = mask[30, 50] = mask[31, 51] = True
    mask[15:18, 10:12] = False
    middle = "000000000KUOMk03UOMk080000000000000000000000000000000000di0GfVO0P9"
    texts = {"house": f"b6:n{middle}", "road": "0" + rf"b6:\J{middle.removeprefix('0')}"}
    names = ("house", "road", "tree")
    legend = Legend("l", tuple(LandClass(name, (n, n, n)) for n, name in enumerate(names)), None)
    wide = [len(list(run)) for _, run in groupby(mask.ravel(order="F").tolist())]
    for inside, segmentations in (
        (mask, [texts["house"], wide]),
        (~mask, [texts["road"], [0, *wide]]),
        (np.zeros(SIZE, bool), [[mask.size]]),
    ):
        for counts in segmentations:
            annotation = {"image_id": 7, "category_id": 1, "iscrowd": 1}
            annotation["segmentation"] = {"size": [*SIZE], "counts": counts}
            corner = {"image_id": 7, "category_id": 2, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}
            (tmp_path / "l.json").write_text(json.dumps(coco(annotations=[annotation, corner])))
            source = VectorSource(tmp_path / "l.json", background="tree")
            dataset = open_dataset(pictures, labels=source, legend=legend)
            expected = np.where(inside, 0, 2)
            expected[:3, :3] = 1
            np.testing.assert_array_equal(dataset.read_mask(dataset.labelled[0]), expected)


def test_annotations_of_images_elsewhere_are_not_drawn_but_counted(tmp_path, caplog):
    outlines = {"train": [5, 10, 30, 10, 30, 20, 5, 20], "val": [1, 1, 4, 1, 4, 3, 1, 3]}
    images, annotations = [], []
    for number, (part, outline) in enumerate(outlines.items()):
        save(tmp_path / part / "images/0.png", photo(*SIZE, seed=number))
        images.append({"id": number, "file_name": f"{part}/images/0.png"})
        annotations.append({"image_id": number, "category_id": 1, "segmentation": [outline]})
    annotations.append({"image_id": 99, "category_id": 1, "segmentation": [outline]})
    labels = tmp_path / "coco.json"
    labels.write_text(json.dumps(coco(images=images, annotations=annotations)))
    source = VectorSource(labels, background="other")
    rasterize(source, [tmp_path / "val/images"], tmp_path / "masks")
    index = np.ones(SIZE, np.uint8)
    index[1:3, 1:4] = 0
    with rasterio.open(tmp_path / "masks/0.png") as mask:
        np.testing.assert_array_equal(mask.read(1), index)
    assert "image_id: 1 (such as 99)" in caplog.text
    assert "train/images/0.png" in caplog.text
    names = ("C:\\work\\val\\images\\0.jpg", "/home/val/images/0.png", "images/0.png")
    for number, name in enumerate(names):
        images[1]["file_name"] = name
        labels.write_text(json.dumps(coco(images=images, annotations=annotations[1:2])))
        rasterize(source, [tmp_path / "val"], tmp_path / f"masks{number}")
    with pytest.raises(DataError, match="fits several"):
        rasterize(source, [tmp_path], tmp_path / "both")
    images[1]["file_name"] = "other/images/0.png"
    labels.write_text(json.dumps(coco(images=images[1:], annotations=annotations[1:2])))
    with pytest.raises(DataError, match=r"other/images/0\.png"):
        rasterize(source, [tmp_path / "val"], tmp_path / "none")
    images[1]["file_name"] = "val/images/0.png"
    labels.write_text(json.dumps(coco(images=images, annotations=annotations[1:2])))
    (tmp_path / "val").rename(tmp_path / "v2")
    (tmp_path / "val").symlink_to(tmp_path / "v2")
    rasterize(source, [tmp_path / "val"], tmp_path / "linked")
    far = [{"image_id": 1, "category_id": 1, "segmentation": [[900, 900, 950, 900, 950, 950]]}]
    labels.write_text(json.dumps(coco(images=images, annotations=far)))
    with pytest.raises(DataError, match="No shape") as error:
        rasterize(source, [tmp_path / "val"], tmp_path / "none")
    assert "CRS" not in str(error.value)


@pytest.mark.parametrize("crs", [UTM, CRS.from_epsg(4326)], ids=["metres", "degrees"])
def test_swapped_axes_are_pointed_out(scenes, tmp_path, crs):
    shape = shapely.Polygon(at("b", *SQUARES["meadow"][1]))
    shape = shapely.geometry.shape(transform_geom(UTM, crs, shape.__geo_interface__))
    batch = np.array([shapely.transform(shape, np.fliplr)], object), {"class": np.array(["x"], object)}
    write_features(tmp_path / "p.gpkg", [batch], {"class": object}, crs)
    with pytest.raises(DataError, match="-swapxy"):
        rasterize(VectorSource(tmp_path / "p.gpkg", background="y"), [scenes], tmp_path / "masks")


def test_shapes_that_cannot_be_placed_are_refused(scenes, pictures, tmp_path):
    path = parcels(tmp_path / "p.gpkg")
    with pytest.raises(DataError, match="georeferenced"):
        rasterize(VectorSource(path), [pictures], tmp_path / "masks")
    far = save_raster(
        tmp_path / "far/c.tif", photo(*SIZE), crs=UTM, transform=grid("a") @ Affine.translation(9999, 0)
    )
    with pytest.raises(DataError, match="touches"):
        rasterize(VectorSource(path), [far], tmp_path / "masks")


def test_polygons_in_a_folder_of_masks_are_pointed_out(pictures, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1.json").write_text(json.dumps(labelme()))
    result = invoke("verify", tmp_path, "--gsd", 1, status=1)
    assert f"--labels {tmp_path / 'labels'}" in result.output
