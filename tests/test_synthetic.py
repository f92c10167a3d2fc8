"""The procedural world: deterministic, whole at any size, and silent about classes in its colours."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landcover.data import open_dataset, select
from landcover.data.synthetic import GSD, make_dataset, make_scene
from landcover.data.synthetic.noise import shifted
from landcover.data.synthetic.scene import scene_seed, share_out
from landcover.errors import OutputError, UsageError
from landcover.legend import DEEPGLOBE

GREENERY = [DEEPGLOBE.names.index(name) for name in ("agriculture", "rangeland", "forest")]
EARTH = [DEEPGLOBE.names.index(name) for name in ("urban", "barren")]


def colour_shares(image, where):
    """Shares of colours at 4 bits per channel."""
    high = image[where].astype(int) >> 4
    counts = np.bincount(high[:, 0] * 256 + high[:, 1] * 16 + high[:, 2], minlength=4096)
    return counts / counts.sum()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (37, 211), (200, 61)])
@pytest.mark.parametrize("seed", [0, 7, 2**63])
def test_any_size(seed, size):
    scene = make_scene(seed, *size)
    assert scene.image.shape == (*size, 3)
    assert scene.index.shape == size
    assert scene.image.dtype == scene.index.dtype == np.uint8
    assert scene.index.max() < len(DEEPGLOBE)


@pytest.mark.parametrize(("seed", "height", "width"), [(-1, 8, 8), (0, 0, 8), (0, 8, -3)])
def test_impossible_scenes_are_refused(seed, height, width):
    with pytest.raises(UsageError, match="start at"):
        make_scene(seed, height, width)


def test_every_class_has_its_share():
    index = np.stack([make_scene(seed, 256, 256).index for seed in range(24)])
    shares = np.bincount(index.ravel(), minlength=7) / index.size
    assert shares[: DEEPGLOBE.names.index("water")].min() > 0.08
    assert shares[DEEPGLOBE.names.index("water")] > 0.03
    assert shares[DEEPGLOBE.names.index("barren")] > 0.08
    assert 0 < shares[DEEPGLOBE.names.index("unknown")] < 0.05


@pytest.mark.parametrize("group", [GREENERY, EARTH], ids=["greenery", "earth"])
def test_classes_of_one_palette_share_their_colours(group):
    """Without clouds the distributions differ by little more than by chance; those of other groups by far."""
    scene = next(
        scene
        for scene in (make_scene(seed, 384, 384) for seed in itertools.count(3))
        if all(np.mean(scene.index == number) > 0.03 for number in group) and scene.index.max() < 6
    )
    shares = [colour_shares(scene.image, scene.index == number) for number in group]
    for a, b in itertools.combinations(shares, 2):
        assert np.abs(a - b).sum() / 2 < 0.12
    others = colour_shares(scene.image, ~np.isin(scene.index, group))
    assert np.abs(shares[0] - others).sum() / 2 > 0.25


def test_a_dataset_is_found_and_read_back(tmp_path):
    out = make_dataset(tmp_path / "world", scenes=5, size=(48, 64), seed=3)
    dataset = open_dataset(out)
    assert (dataset.layout, dataset.gsd, dataset.legend) == ("pairs", GSD, DEEPGLOBE)
    assert len(select(dataset, "folders:train")) == 4
    assert len(select(dataset, "folders:validation")) == 1
    for item in dataset.items:
        assert item.image.name.endswith("_sat.jpg")
        assert item.mask is not None
        colours = np.asarray(Image.open(item.mask))
        assert set(np.unique(colours)) <= {0, 255}
        assert colours.shape == (48, 64, 3)
        index = dataset.read_mask(item)
        assert np.array_equal(DEEPGLOBE.colours[index], colours)
    images = [dataset.read_image(item).tobytes() for item in dataset.items]
    assert len(set(images)) == 5


def test_a_dataset_is_a_function_of_its_seed(tmp_path):
    folders = [
        make_dataset(tmp_path / name, scenes=4, size=40, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    contents = [[p.read_bytes() for p in sorted(folder.rglob("*.*g"))] for folder in folders]
    assert contents[0] == contents[1]
    assert not set(contents[0]) & set(contents[2])


def test_files_hold_the_scene(tmp_path):
    out = make_dataset(tmp_path / "one", scenes=1, size=64, seed=9, parts={"only": 1})
    buffer = io.BytesIO()
    Image.fromarray(make_scene(scene_seed(9, 0), 64, 64).image).save(buffer, "JPEG", quality=90)
    assert (out / "only" / "scene0000_sat.jpg").read_bytes() == buffer.getvalue()


def test_no_scene_of_one_world_is_a_scene_of_another():
    """Worlds far beyond the demo's included: seeds of more than 32 bits are several words to numpy."""
    worlds = [base + world for base in (0, 2**32, 2**64, 3 * 2**32) for world in range(20)]
    seeds = [scene_seed(world, number) for world in worlds for number in range(70)]
    assert len(set(seeds)) == len(seeds)


def test_nothing_is_overwritten_unasked(tmp_path):
    make_dataset(tmp_path, scenes=4, size=16, seed=1)
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.*g"))
    with pytest.raises(OutputError, match="--force"):
        make_dataset(tmp_path, scenes=4, size=16, seed=2)
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.*g")) == before
    make_dataset(tmp_path, scenes=4, size=16, seed=2, force=True)
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.*g")) != before


@pytest.mark.parametrize(
    ("scenes", "seed", "parts"),
    [
        (1, 0, {"train": 1, "test": 1}),
        (4, 0, {"train": 9, "test": 1}),
        (4, 0, {}),
        (4, 0, {"train": 1, "test": 0}),
        (4, -1, {"train": 1}),
    ],
)
def test_impossible_datasets_are_refused(tmp_path, scenes, seed, parts):
    with pytest.raises(UsageError):
        make_dataset(tmp_path, scenes=scenes, size=16, seed=seed, parts=parts)
    assert not list(tmp_path.iterdir())


@given(scenes=st.integers(15, 80), shares=st.lists(st.floats(1, 9), min_size=1, max_size=3))
@settings(max_examples=40)
def test_scenes_are_shared_out_whole(scenes, shares):
    parts = {str(i): share for i, share in enumerate(shares)}
    names = share_out(scenes, parts)
    assert len(names) == scenes
    counts = np.array([names.count(part) for part in parts])
    assert counts.min() >= 1
    exact = np.array(shares) / sum(shares) * scenes
    assert np.abs(counts - exact).max() <= 1


@given(rows=st.integers(-12, 12), cols=st.integers(-12, 12))
def test_shifting_moves_each_pixel(rows, cols):
    mask = np.random.default_rng(5).random((7, 9)) < 0.5
    expected = np.zeros_like(mask)
    for row, col in np.argwhere(mask):
        if 0 <= row + rows < 7 and 0 <= col + cols < 9:
            expected[row + rows, col + cols] = True
    assert np.array_equal(shifted(mask, rows, cols), expected)
