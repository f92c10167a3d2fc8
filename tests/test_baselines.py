"""Colour classifiers: as good as colours allow, and no better."""

import numpy as np
import pytest

from landcover.errors import UsageError
from landcover.evaluation.baselines import ColourClassifier
from landcover.legend import DEEPGLOBE

URBAN, WATER, UNKNOWN = 0, 4, 6


def patches(colours, side=20):
    """One square of noisy colour per class, side by side."""
    rng = np.random.default_rng(0)
    index = np.repeat(np.array(list(colours), np.uint8), side)[None].repeat(side, axis=0)
    image = np.concatenate([np.broadcast_to(c, (side, side, 3)) for c in colours.values()], axis=1)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8), index


@pytest.mark.parametrize("window_px", [1, 5])
def test_classes_of_their_own_colours_are_told_apart(window_px):
    image, index = patches({URBAN: (200, 60, 60), 2: (40, 160, 40), WATER: (30, 40, 180)})
    classifier = ColourClassifier(DEEPGLOBE, window_px=window_px)
    classifier.learn(image, index)
    agree = classifier.predict(image) == index
    assert agree.mean() > (0.99 if window_px == 1 else 0.85)


def test_unknown_is_neither_learnt_nor_predicted():
    image, index = patches({UNKNOWN: (250, 250, 250), WATER: (30, 40, 180)})
    classifier = ColourClassifier(DEEPGLOBE)
    classifier.learn(image, index)
    assert set(np.unique(classifier.predict(image))) == {WATER}


def test_colours_never_seen_follow_the_nearest():
    image, index = patches({URBAN: (200, 60, 60), WATER: (30, 40, 180)})
    classifier = ColourClassifier(DEEPGLOBE)
    classifier.learn(image, index)
    assert classifier.predict(np.full((1, 1, 3), (30, 40, 198), np.uint8)) == WATER


def test_learning_is_a_sum_over_images():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (4, 30, 30, 3), np.uint8)
    indices = rng.integers(0, 7, (4, 30, 30), np.uint8)
    one, parts = ColourClassifier(DEEPGLOBE), ColourClassifier(DEEPGLOBE)
    one.learn(images.reshape(120, 30, 3), indices.reshape(120, 30))
    for image, index in zip(images, indices, strict=True):
        parts.learn(image, index)
        parts.predict(image)  # must not end the learning
    assert np.array_equal(one.predict(images[0]), parts.predict(images[0]))


@pytest.mark.parametrize("window_px", [0, -1, 4])
def test_windows_without_a_middle_are_refused(window_px):
    with pytest.raises(UsageError, match="odd"):
        ColourClassifier(DEEPGLOBE, window_px=window_px)
    with pytest.raises(UsageError, match="no labelled pixel"):
        ColourClassifier(DEEPGLOBE).predict(np.zeros((2, 2, 3), np.uint8))
