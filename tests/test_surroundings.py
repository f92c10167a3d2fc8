"""Crops across tiles, held against the scene that the tiles were cut from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.data import SceneTile
from landcover.legend import IGNORE
from landcover.model.filling import mirrored
from landcover.training.sampler import Crop, CropSampler, NeighbourTiles, assemble_crop, count_classes

CLASSES = 3
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

        pieces = list(self.neighbours.pieces(crop))
        return assemble_crop(pieces, crop.side, read(self.image), read(self.channels))

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


def sampler(scene, side=25, **options):
    return CropSampler(scene.class_counts, side_px=side, neighbours=scene.neighbours, **options)


@given(st.integers(0, 10), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9))
@settings(max_examples=40, deadline=None)
def test_a_crop_is_what_the_scene_shows_there(seed, missing):
    scene = Scene(sorted(missing), seed)
    crops = sampler(scene, side=25, balance=0.5, seed=seed, scale=(0.9, 1.5))
    for n in range(12):
        crop = crops[n]
        image, channels = scene.cut(crop)
        expected, valid, truth = scene.around(crop)
        np.testing.assert_array_equal(channels, truth)
        np.testing.assert_array_equal(image[valid], expected[valid])
        np.testing.assert_array_equal(image, mirrored(np.where(valid[..., None], expected, 0), valid))


@given(st.integers(0, 10), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_crops_no_larger_than_a_tile_show_imagery_alone(seed, missing):
    scene = Scene(sorted(missing), seed)
    for balance in (0.0, 0.7):
        crops = sampler(scene, side=min(HEIGHT, WIDTH), balance=balance, seed=seed)
        for n in range(20):
            assert scene.around(crops[n])[1].all()


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_crops_reach_into_all_eight_neighbours(balance):
    scene = Scene()
    crops = sampler(scene, balance=balance)
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
