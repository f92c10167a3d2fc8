"""Commands and Python of the tutorials and how-to guides, run as written on a procedural world."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from commands import invoke
from fleet_world import Here
from imagefiles import PLACE, save_raster
from landcover.data.synthetic import make_dataset, make_scene
from landcover.legend import DEEPGLOBE
from landcover.model import bundled

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(^\{\.not-run\}\n(?:[^\n]+\n)+\n)?^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
PAGES = {
    page.stem: page
    for page in [
        ROOT / "README.md",
        *DOCS.glob("tutorials/*.md"),
        *DOCS.glob("how-to/*.md"),
        DOCS / "reference/model-file.md",
    ]
}
SMALL = "--set crop_px=64 --set optimiser.learning_rate=0.01 --set batch_size=4"
CHEAPER = [
    (
        "--minutes 60 --out runs/mine",
        f"--steps 40 {SMALL} --out runs/mine",
    ),  # to be calibrated it must learn
    ("--minutes 60", f"--steps 4 {SMALL}"),
    ("--per-class 50", "--per-class 5"),
    # A network of few layers and steps is undecided between classes.
    ("--int8 ", "--int8 --min-agreement 0 --max-miou-loss 100 --calibration-images 4 "),
]
"""What the tests shorten: every other word is run as the reader would type it."""
OF_A_RUN = ["own-classes", "export", "calibrate"]
"""Pages whose commands train a model or use the one that the first of them trains."""
TRAINING = ["published-score"]
LABELS = ["your-labels"]
MOST_NOT_RUN = 8


def run_page(name, folder, monkeypatch, done):
    """Run the commands and the Python of a page in their order, and return the commands.

    Python shares one namespace; commands that are ``done`` are left out.
    """
    monkeypatch.chdir(folder)
    namespace, commands = {}, []
    for skipped, language, block in BLOCK.findall(PAGES[name].read_text(encoding="utf-8")):
        if not skipped and language == "python":
            exec(compile(block, str(PAGES[name]), "exec"), namespace)
        elif not skipped:
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("$ ") and line not in done:
                    run_command(line[2:], folder)
                    commands.append(line)
    return set(commands)


def run_command(command, folder):
    if "points-labelled.csv" in command:
        label_points(folder)
    for long, short in CHEAPER:
        command = command.replace(long, short)
    program, *arguments = shlex.split(command)
    assert program == "landcover", command
    assert invoke(*arguments, status=None).exit_code == 0, command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Make the files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    image = make_scene(7, 300, 300).image
    Image.fromarray(image).save(folder / "photo.jpg", quality=92)
    bands = np.moveaxis(image, 2, 0)
    (folder / "scenes").mkdir()
    near_infrared = np.concatenate([bands[::-1], bands[:1]])
    for name, values in {
        "scene.tif": bands,
        "scenes/north.tif": bands[:, :150],
        "scenes/south.tif": bands[:, 150:],
        "fourbands.tif": near_infrared,
        "sixteen.tif": bands.astype(np.uint16) * 11,
    }.items():
        save_raster(folder / name, np.moveaxis(values, 0, -1), place=True)
    corners = [(500000 + x, 5699880 + y) for x, y in ((0, 0), (60, 0), (60, 60), (0, 60), (0, 0))]
    squares = [
        {
            "type": "Feature",
            "properties": {"id": f"parcel {number}"},
            "geometry": {"type": "Polygon", "coordinates": [[(x + 70 * number, y) for x, y in corners]]},
        }
        for number in range(2)
    ]
    write_parcels(folder / "parcels.gpkg", squares)
    make_dataset(folder / "tiles", scenes=12, size=128, seed=3)
    for name, seed in (("mine", 4), ("held-out", 5)):
        make_dataset(folder / name, scenes=8, size=128, seed=seed)
        own_classes(folder / name)
    own_labels(folder)
    georeferenced_labels(folder)
    return folder


def own_labels(folder):
    """Make the three folders of the tutorial about labels."""
    colours = np.array([[60, 16, 152], [132, 41, 246], [155, 155, 155]], np.uint8)
    forms = {
        "estate": ("{}/images", "{}/masks", colours),
        "crops": ("img_dir/{}", "ann_dir/{}", np.array([1, 2, 3], np.uint16)),
        "houses": ("{}_images", "{}_labels", np.array([0, 255, 0], np.uint8)),
    }
    for name, (images, masks, table) in forms.items():
        for number, subset in enumerate(["train"] * 4 + ["val"] * 2):
            scene = make_scene(number, 96, 96)
            for pattern, pixels in ((images, scene.image), (masks, table[scene.index % 3])):
                path = folder / name / pattern.format(subset) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def georeferenced_labels(folder):
    """Make the chips of four 16-bit bands and the scenes with polygons of the same tutorial."""
    fields = []
    for number, subset in enumerate(["train"] * 4 + ["val"] * 2):
        scene = make_scene(number, 96, 96)
        bands = np.dstack([scene.image[..., ::-1], scene.image[..., 1]]).astype(np.uint16) * 11
        place = {**PLACE, "transform": PLACE["transform"] @ Affine.translation(500 * number, 0)}
        save_raster(folder / f"chips/{subset}/images/{number}.tif", bands, **place)
        save_raster(folder / f"chips/{subset}/masks/{number}.tif", scene.index % 3 + 1, **place)
        if number < 4:
            save_raster(folder / f"fields/{number}.tif", scene.image, **place)
            for row, crop in enumerate(("wheat", "maize", "meadow")):
                corners = [(10, 30 * row), (80, 30 * row), (80, 30 * row + 25), (10, 30 * row)]
                outline = [place["transform"] @ corner for corner in corners]
                shape = {"type": "Polygon", "coordinates": [outline]}
                fields.append({"properties": {"crop": crop}, "geometry": shape})
    write_parcels(folder / "fields.gpkg", fields, "crop")


def write_parcels(path, features, column="id"):
    import shapely
    from pyogrio.raw import write
    from shapely.geometry import shape

    shapes = np.array([shapely.to_wkb(shape(feature["geometry"])) for feature in features], object)
    names = np.array([feature["properties"][column] for feature in features], object)
    write(path, shapes, [names], [column], geometry_type="Polygon", crs="EPSG:32631", driver="GPKG")


def own_classes(folder):
    """Recolour the masks to the legend that the tutorial shows, and write it as the tutorial says."""
    page = (DOCS / "tutorials/own-classes.md").read_text(encoding="utf-8")
    settings = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert settings is not None
    (folder / "landcover.yaml").write_text(settings[1], encoding="utf-8")
    joined = {"barren": "agriculture", "rangeland": "agriculture"}
    for path in folder.rglob("*_mask.png"):
        colours = np.asarray(Image.open(path).convert("RGB")).copy()
        for source, target in joined.items():
            old, new = (DEEPGLOBE.colours[DEEPGLOBE.names.index(name)] for name in (source, target))
            colours[(colours == old).all(axis=2)] = new
        Image.fromarray(colours).save(path)


def label_points(folder):
    """Do what the guide asks a person to do: fill in the column ``class``."""
    header, *rows = (folder / "points.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("class")
    labelled = []
    for number, row in enumerate(rows):
        cells = row.split(",")
        cells[column] = DEEPGLOBE.names[number % 2]
        labelled.append(",".join(cells))
    (folder / "points-labelled.csv").write_text("\n".join([header, *labelled]) + "\n", encoding="utf-8")


@pytest.fixture
def tiny_weights(tmp_path, monkeypatch):
    """Let starter-weights be a network of few layers, which torch's exporter converts once, in seconds."""
    from export_world import convert_once, tiny_runtime, write_run

    convert_once(monkeypatch)
    folder = tmp_path / "bundled"
    folder.mkdir()
    for model in bundled.SHIPPED:
        (folder / model.file).symlink_to(model.path)
    run = write_run(tmp_path / "tiny", tiny_runtime())
    monkeypatch.setattr(bundled, "FOLDER", folder)
    (run / "best.safetensors").replace(bundled.BY_NAME["starter-weights"].path)


@pytest.mark.parametrize(
    "names",
    [
        *([name] for name in PAGES if name not in ["index", *OF_A_RUN, *TRAINING, *LABELS]),
        *(pytest.param(names, marks=pytest.mark.slow) for names in (OF_A_RUN, TRAINING, LABELS)),
    ],
    ids=" ".join,
)
def test_the_commands_and_snippets_of_a_page_run(names, world, tmp_path, request, monkeypatch):
    # Processes that start and load a model take seconds; tests/test_fleet.py has some.
    monkeypatch.setattr("landcover.fleet.work.LocalEngine", lambda setup, workers: Here(setup.store))
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    if names == OF_A_RUN:
        request.getfixturevalue("tiny_weights")
    done = set()  # what an earlier page has run word for word: exporting takes a while
    for name in names:
        done |= run_page(name, tmp_path, monkeypatch, done)


def test_few_blocks_are_marked_as_not_run():
    blocks = [block for page in PAGES.values() for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    skipped = [block for mark, _, block in blocks if mark]
    assert len(skipped) <= MOST_NOT_RUN < len(blocks) / 4, skipped
