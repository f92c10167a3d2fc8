import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_runtime import normalised
from landcover.legend import IGNORE
from landcover.model.preprocessing import Preprocessing
from landcover.training.batches import augment, d4, draw_colours, normalise
from landcover.training.config import AugmentConfig, TrainConfig

PREPROCESSING = Preprocessing(1.0)
PLAIN = AugmentConfig(d4=False)


class Fixed:
    """A generator whose uniform numbers are given; those left out are 0."""

    def __init__(self, *values):
        self.values = np.pad(values, (0, 7 - len(values)))

    def uniform(self, low, high, count):
        assert (low, high, count) == (-1, 1, len(self.values))
        return self.values


def scene(height=64, width=64, seed=0):
    """Channels in patches, and an image whose red encodes the channel."""
    rng = np.random.default_rng(seed)
    patches = rng.choice(np.array([0, 1, 2, 3, 4, 5, IGNORE], np.uint8), (-(-height // 8), -(-width // 8)))
    channels = np.kron(patches, np.ones((8, 8), np.uint8))[:height, :width]
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[..., 0] = np.where(channels == IGNORE, 240, channels * 40)
    return image, channels


def augmented(image, channels, config, seed=0):
    config = TrainConfig(steps=1, crop_px=32, augment=config)
    return augment(image, channels, None, np.random.default_rng(seed), config, PREPROCESSING)


def varied(pixels, rng, config):
    """Colours after the variation, float, in 0..255."""
    matrix = draw_colours(rng, config, Preprocessing(1.0, mean=(0.5, 0.4, 0.3), std=(1.0, 1.0, 1.0)))
    values = np.concatenate((pixels, np.ones((len(pixels), 1))), axis=1) @ matrix.T
    return (values + np.array([0.5, 0.4, 0.3])) * 255


def test_the_eight_symmetries_are_all_of_them():
    array = np.arange(9, dtype=np.uint8).reshape(3, 3)
    turned = [np.rot90(array, k) for k in range(4)]
    expected = {a.tobytes() for a in [*turned, *(np.ascontiguousarray(np.fliplr(a)) for a in turned)]}
    found = {np.ascontiguousarray(d4(array, symmetry)).tobytes() for symmetry in range(8)}
    assert found == {np.ascontiguousarray(a).tobytes() for a in turned} | expected
    assert len(found) == 8


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_image_and_mask_are_turned_together(seed):
    image, channels = scene()
    sample = augmented(image[5:37, 9:41], channels[5:37, 9:41], AugmentConfig(), seed=seed)
    code = sample.images[..., 0]
    np.testing.assert_array_equal(np.where(code == 240, IGNORE, code // 40), sample.targets)


@pytest.mark.parametrize("side", [16, 20, 48, 64])
def test_rescaling_invents_no_class_and_moves_nothing(side):
    image, channels = scene()
    sample = augmented(image[:side, :side], channels[:side, :side], PLAIN)
    assert set(np.unique(sample.targets)) <= set(np.unique(channels[:side, :side]))
    # Inside the patches (red is constant there) image and mask agree.
    code = sample.images[..., 0].astype(int)
    expected = np.where(sample.targets == IGNORE, 240, sample.targets.astype(int) * 40)
    assert np.mean(np.abs(code - expected) <= 2) > 0.5
    assert np.mean(code - expected) == pytest.approx(0, abs=4)


def test_without_variation_the_network_sees_what_prediction_shows_it():
    image, channels = scene()
    sample = augmented(image[4:36, 4:36], channels[4:36, 4:36], PLAIN)
    seen = normalise(torch.from_numpy(sample.images[None]), torch.from_numpy(sample.colours[None]))
    expected = normalised(PREPROCESSING, image[4:36, 4:36]).transpose(2, 0, 1)
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=2e-6)
    assert seen.is_contiguous(memory_format=torch.channels_last)


def test_each_image_of_a_batch_has_its_own_colours():
    images = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)
    colours = torch.zeros(2, 3, 4)
    colours[0, 0, 3], colours[1, 2, 1] = 5.0, 0.5
    seen = normalise(images, colours)
    assert seen[0].amax(dim=(1, 2)).tolist() == [5, 0, 0]
    assert seen[1].amax(dim=(1, 2)).tolist() == [0, 0, 50]


COLOUR, MEAN = np.array([30.0, 60, 90]), np.array([127.5, 102, 76.5])


@pytest.mark.parametrize(
    ("draws", "config", "expected"),
    [
        ((2 / 3,), {"hue": 0.5}, COLOUR[[2, 0, 1]]),  # a third of a turn swaps the primary colours
        ((0, -1), {"saturation": 1.0}, [60, 60, 60]),  # grey
        ((0, 0, -1), {"contrast": 1.0}, MEAN),
        # Brightness is a factor and comes last.
        ((0, 0, 1, 1), {"brightness": 0.5, "contrast": 0.5}, 1.5 * (MEAN + 1.5 * (COLOUR - MEAN))),
        ((0, 0, 0, 1, 1, 0, -0.5), {"brightness": 0.5, "channel_gain": 0.4}, COLOUR * 1.5 * [1.4, 1, 0.8]),
    ],
)
def test_variations_of_colour_by_hand(draws, config, expected):
    found = varied(COLOUR[None], Fixed(*draws), AugmentConfig(**config))
    np.testing.assert_allclose(found, [expected], atol=1e-3)


def test_gains_are_drawn_for_each_crop_and_change_no_other_draw():
    image, channels = scene()
    others = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    plain, gained = (
        augmented(image[3:43, 3:43], channels[3:43, 3:43], config, seed=1)
        for config in (others, others.model_copy(update={"channel_gain": 0.2}))
    )
    np.testing.assert_array_equal(plain.images, gained.images)
    factors = gained.colours[:, :3] / plain.colours[:, :3]
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], 3, axis=1), rtol=1e-5)
    assert len(set(np.round(factors[:, 0], 4))) == 3
    assert np.abs(factors - 1).max() <= 0.2


def test_texture_changes_the_image_alone_and_in_proportion_to_its_probability():
    image, channels = scene()
    smooth = np.kron(
        image[::16, ::16], np.ones((16, 16, 1), np.uint8)
    )  # areas that no change of texture moves
    plain = [augmented(smooth, channels, PLAIN, seed) for seed in range(60)]
    for probability, low, high in ((0.2, 15, 45), (1.0, 60, 60)):
        config = AugmentConfig(d4=False, texture=probability)
        varied = [augmented(smooth, channels, config, seed) for seed in range(60)]
        changed = 0
        for before, after in zip(plain, varied, strict=True):
            assert np.array_equal(before.targets, after.targets)
            assert np.array_equal(before.colours, after.colours)
            assert after.images.shape == before.images.shape
            assert after.images.dtype == np.uint8
            centres = np.s_[
                3::8, 3::8
            ]  # of the areas: half their distance to the next edge is beyond all kernels
            difference = np.abs(after.images[centres].astype(int) - before.images[centres])
            assert np.median(difference) <= 8  # JPEG of quality 50; a shift by a cell would give about 80
            changed += not np.array_equal(before.images, after.images)
        assert low <= changed <= high


def test_texture_is_a_function_of_the_generator():
    image, channels = scene(70, 70)
    config = AugmentConfig(texture=0.7)
    first, again, other = (augmented(image, channels, config, seed).images for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
