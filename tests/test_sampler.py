"""The sequence of crops, and crops across tiles against the scene that the tiles were cut from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.data import SceneTile
from landcover.legend import IGNORE
from landcover.model.preprocessing import mirrored
from landcover.training.sampler import Crop, CropSampler, NeighbourTiles, assemble_crop, count_classes

CLASSES = 3


def masks(count=6, size=(200, 260)):
    """Mostly class 0; class 1 in a corner of each; class 2 in the last alone; some pixels to ignore."""
    result = []
    for i in range(count):
        mask = np.zeros(size, np.uint8)
        mask[:40, :40] = 1
        mask[-20:, :] = IGNORE
        if i == count - 1:
            mask[100:120, 200:220] = 2
        result.append(mask)
    return result


def sampler(arrays=None, **options):
    arrays = masks() if arrays is None else arrays
    return CropSampler([count_classes(a, CLASSES) for a in arrays], **{"side_px": 64, **options})


def place(crop):
    return crop[:4]


def content(arrays, crop):
    """Pixels of a crop that lie in its image."""
    mask = arrays[crop.item]
    return mask[max(crop.row, 0) : crop.row + crop.side, max(crop.col, 0) : crop.col + crop.side]


@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_every_block_is_counted(height, width, seed):
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (height, width))
    counts = count_classes(mask, CLASSES)
    for row in range(counts.blocks.shape[0]):
        for col in range(counts.blocks.shape[1]):
            block = mask[64 * row : 64 * row + 64, 64 * col : 64 * col + 64]
            assert counts.blocks[row, col].tolist() == [int((block == c).sum()) for c in range(CLASSES)]
    assert counts.pixels.tolist() == [int((mask == c).sum()) for c in range(CLASSES)]
    assert (counts.height, counts.width) == mask.shape


def test_a_full_block_of_one_class_does_not_overflow():
    assert count_classes(np.ones((64, 64), np.uint8), CLASSES).blocks[0, 0].tolist() == [0, 4096, 0]


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_a_crop_depends_on_seed_and_number_alone(balance):
    first, second = (sampler(balance=balance, scale=(0.5, 2.0), seed=3) for _ in range(2))
    forwards = [first[n] for n in range(40)]
    backwards = [second[n] for n in reversed(range(40))][::-1]
    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    assert [place(a) for a in forwards] == [place(b) for b in backwards]
    assert [a.rng.integers(1 << 62) for a in forwards] == [b.rng.integers(1 << 62) for b in backwards]
    other = sampler(balance=balance, scale=(0.5, 2.0), seed=4)
    assert sum(other[n].side == a.side for n, a in enumerate(forwards)) < 10  # drawn, not only the order


def test_an_epoch_takes_every_image_once_in_a_new_order():
    one = sampler(masks(12))
    orders = [[one[n].item for n in range(12 * epoch, 12 * epoch + 12)] for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    crops = [place(one[n]) for n in range(36)]
    assert len(set(crops)) == 36


@given(st.integers(20, 300), st.integers(20, 300), st.sampled_from([0.0, 0.7, 1.0]), st.integers(0, 1000))
@settings(max_examples=60)
def test_crops_stay_inside_where_they_can_and_hold_the_image_where_not(height, width, balance, n):
    crop = sampler([np.zeros((height, width), np.uint8)], balance=balance, scale=(0.5, 2.0))[n]
    assert 32 <= crop.side <= 128
    for start, length in ((crop.row, height), (crop.col, width)):
        if crop.side <= length:
            assert 0 <= start <= length - crop.side
        else:
            assert length - crop.side <= start <= 0


def test_uniform_crops_reach_all_borders():
    one = sampler([np.zeros((70, 66), np.uint8)])
    starts = {place(one[n])[1:3] for n in range(600)}
    assert {row for row, _ in starts} == set(range(7))
    assert {col for _, col in starts} == set(range(3))


def test_full_balance_draws_every_class_alike():
    arrays = masks()
    one = sampler(arrays, balance=1.0, side_px=16)
    crops = [content(arrays, one[n]) for n in range(900)]
    rare = np.mean([(crop == 2).any() for crop in crops])
    corner = np.mean([(crop == 1).any() for crop in crops])
    # A block of 64 pixels is not all of the class, so a crop may just miss it.
    assert 0.05 < rare < 0.4
    assert 0.1 < corner < 0.4
    of_rare = [n for n in range(900) if one[n].item == 5]
    assert len(of_rare) > 900 * (1 / 3 + 2 / 3 / 6) * 0.8  # a third for class 2, and its share of the others


def test_little_balance_is_drawing_by_pixels():
    arrays = [np.zeros((128, 128), np.uint8), np.zeros((128, 384), np.uint8)]
    one = sampler(arrays, balance=1e-9)
    assert np.mean([one[n].item for n in range(2000)]) == pytest.approx(0.75, abs=0.03)


def test_blocks_without_the_class_are_never_drawn():
    mask = np.zeros((256, 256), np.uint8)
    mask[192:, 192:] = 1
    one = sampler([mask], balance=1.0, side_px=1)
    places = [place(one[n])[1:3] for n in range(300)]
    in_corner = sum(row >= 192 and col >= 192 for row, col in places)
    assert in_corner == pytest.approx(150 + 150 / 16, abs=40)


def test_magnification_is_even_in_the_logarithm():
    one = sampler(scale=(0.5, 2.0), side_px=64)
    sides = np.array([one[n].side for n in range(2000)])
    assert (sides.min(), sides.max()) == (32, 128)
    assert np.mean(sides > 64) == pytest.approx(0.5, abs=0.04)


HEIGHT, WIDTH = 40, 30


class Scene:
    """A scene of 4 x 4 tiles of which some are missing, and the same cut into items."""

    def __init__(self, missing=(), seed=0):
        rng = np.random.default_rng(seed)
        self.image = rng.integers(0, 256, (4 * HEIGHT, 4 * WIDTH, 3), dtype=np.uint8)
        self.channels = rng.integers(0, CLASSES, self.image.shape[:2]).astype(np.uint8)
        self.valid = np.ones(self.image.shape[:2], bool)
        for row, col in missing:
            self.valid[self.tile(row, col)] = False
        self.channels[~self.valid] = IGNORE
        self.places = [(r, c) for r in range(4) for c in range(4) if (r, c) not in set(missing)]
        self.neighbours = NeighbourTiles(
            [SceneTile("a", row, col) for row, col in self.places], [(HEIGHT, WIDTH)] * len(self.places)
        )
        self.class_counts = [
            count_classes(self.channels[self.tile(*place)], CLASSES) for place in self.places
        ]

    @staticmethod
    def tile(row, col):
        return slice(row * HEIGHT, (row + 1) * HEIGHT), slice(col * WIDTH, (col + 1) * WIDTH)

    def cut(self, crop):
        def read(array):
            return lambda item, window: array[self.tile(*self.places[item])][window.slices]

        def imagery(item, window):
            return read(self.image)(item, window), None

        pieces = list(self.neighbours.pieces(crop))
        return assemble_crop(pieces, crop.side, imagery, read(self.channels))

    def around(self, crop):
        """Image, validity and channels of the 3 x 3 tiles around a crop's item, as the scene has them."""
        row, col = self.places[crop.item]
        top, left = row * HEIGHT + crop.row, col * WIDTH + crop.col
        result = []
        for array, fill in ((self.image, 0), (self.valid, False), (self.channels, IGNORE)):
            pads = ((200, 200), (200, 200), (0, 0))[: array.ndim]
            padded = np.pad(array, pads, constant_values=fill)
            result.append(padded[200 + top : 200 + top + crop.side, 200 + left : 200 + left + crop.side])
        return result


def across(scene, side=25, **options):
    return CropSampler(scene.class_counts, side_px=side, neighbours=scene.neighbours, **options)


@given(st.integers(0, 10), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9))
@settings(max_examples=40)
def test_a_crop_is_what_the_scene_shows_there(seed, missing):
    scene = Scene(sorted(missing), seed)
    crops = across(scene, side=25, balance=0.5, seed=seed, scale=(0.9, 1.5))
    for n in range(12):
        crop = crops[n]
        image, channels = scene.cut(crop)
        expected, valid, truth = scene.around(crop)
        np.testing.assert_array_equal(channels, truth)
        np.testing.assert_array_equal(image[valid], expected[valid])
        np.testing.assert_array_equal(image, mirrored(np.where(valid[..., None], expected, 0), valid))


@given(st.integers(0, 10), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
@settings(max_examples=40)
def test_crops_no_larger_than_a_tile_show_imagery_alone(seed, missing):
    scene = Scene(sorted(missing), seed)
    for balance in (0.0, 0.7):
        crops = across(scene, side=min(HEIGHT, WIDTH), balance=balance, seed=seed)
        for n in range(20):
            assert scene.around(crops[n])[1].all()


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_crops_reach_into_all_eight_neighbours(balance):
    scene = Scene()
    crops = across(scene, balance=balance)
    middle = scene.places.index((1, 1))
    seen = set()
    for n in range(2000):
        if crops[n].item == middle:
            seen |= {scene.places[piece.item] for piece in scene.neighbours.pieces(crops[n])}
    assert seen == {(row, col) for row in range(3) for col in range(3)}


def test_crops_larger_than_three_tiles_are_filled_with_mirrored_imagery_that_nothing_is_learned_from():
    scene = Scene()
    crop = Crop(scene.places.index((0, 0)), -20, -10, 150, np.random.default_rng(0))
    image, channels = scene.cut(crop)
    assert image.shape == (150, 150, 3)
    assert (channels[:20] == IGNORE).all()
    assert (channels[20:60, 10:70] != IGNORE).all()
    np.testing.assert_array_equal(image[:20, 10:70], scene.image[:20, :60][::-1])


def test_images_of_other_scenes_sizes_or_no_scene_are_no_neighbours():
    tile = SceneTile("a", 0, 0)
    places = [tile, SceneTile("a", 0, 1), SceneTile("b", 1, 0), None, SceneTile("a", 1, 1)]
    neighbours = NeighbourTiles(places, [(8, 8), (8, 9), (8, 8), (8, 8), (8, 8)])
    assert [neighbours.margin(item) for item in range(5)] == [((0, 0), (0, 0))] * 5
    crop = Crop(0, 4, 4, 8, np.random.default_rng(0))
    assert [(piece.item, piece.window) for piece in neighbours.pieces(crop)] == [
        (0, (4, 4, 4, 4)),
        (4, (0, 0, 4, 4)),
    ]
