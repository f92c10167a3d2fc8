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
from landcover.data.synthetic.noise import Dice, fractal_noise, ranks, scatter, shifted, strips
from landcover.data.synthetic.scene import _counts, scene_seed
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
@settings(max_examples=40, deadline=None)
def test_scenes_are_shared_out_whole(scenes, shares):
    counts = _counts(scenes, {str(i): share for i, share in enumerate(shares)})
    assert sum(counts.values()) == scenes
    assert min(counts.values()) >= 1
    exact = np.array(shares) / sum(shares) * scenes
    assert np.abs(np.array(list(counts.values())) - exact).max() <= 1


def test_ranks_are_uniform_within_each_group():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, (80, 90)).astype(np.int32)
    values = (rng.normal(size=groups.shape) * (1 + groups) ** 2).astype(np.float32)
    ranked = ranks(values, groups, 3)
    for group in range(3):
        own = np.sort(ranked[groups == group])
        assert np.abs(own - (np.arange(own.size) + 0.5) / own.size).max() < 0.02
        order = np.argsort(values[groups == group])
        assert np.all(np.diff(ranked[groups == group][order]) >= 0)


def test_scattered_points_are_the_nearest():
    rng = np.random.default_rng(1)
    y, x = (axis.astype(np.float32) for axis in np.mgrid[:60, :70])
    cells = scatter(rng, y, x, 9.0)
    points = {
        (float(np.round(y[p] - 9 * cells.rows[p], 2)), float(np.round(x[p] - 9 * cells.cols[p], 2)))
        for p in np.ndindex(y.shape)
    }
    assert len(points) == len(np.unique(cells.ids))
    nearest = np.min([np.hypot(y - py, x - px) for py, px in points], axis=0)
    assert np.allclose(np.hypot(cells.rows, cells.cols) * 9, nearest, atol=0.05)


def test_strips_cover_a_line_without_gaps():
    along = np.arange(-300, 300, 0.25, dtype=np.float32)
    found = strips(Dice(np.random.default_rng(2)), 0, along, np.full_like(along, 20.0))
    assert np.all(np.isin(np.diff(found.ids), (0, 1)))
    assert found.before.min() >= 0
    assert found.after.min() >= 0
    widths = found.before + found.after
    assert 0.4 * 20 - 0.01 <= widths.min() < widths.max() <= 1.6 * 20 + 0.01


def test_noise_has_the_variance_that_thresholds_rely_on():
    rng = np.random.default_rng(4)
    fields = np.stack([fractal_noise(rng, (200, 200), 12, octaves=3) for _ in range(8)])
    assert abs(fields.mean()) < 0.06
    assert fields.std() == pytest.approx(1, abs=0.06)


@given(rows=st.integers(-12, 12), cols=st.integers(-12, 12))
def test_shifting_moves_each_pixel(rows, cols):
    mask = np.random.default_rng(5).random((7, 9)) < 0.5
    expected = np.zeros_like(mask)
    for row, col in np.argwhere(mask):
        if 0 <= row + rows < 7 and 0 <= col + cols < 9:
            expected[row + rows, col + cols] = True
    assert np.array_equal(shifted(mask, rows, cols), expected)
