import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.legend import IGNORE
from landcover.training.sampler import CropSampler, count_classes

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
@settings(max_examples=40, deadline=None)
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
    assert [place(sampler(balance=balance, seed=4)[n]) for n in range(40)] != [place(a) for a in forwards]


def test_an_epoch_takes_every_image_once_in_a_new_order():
    one = sampler(masks(12))
    orders = [[one[n].item for n in range(12 * epoch, 12 * epoch + 12)] for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    crops = [place(one[n]) for n in range(36)]
    assert len(set(crops)) == 36


@given(st.integers(20, 300), st.integers(20, 300), st.sampled_from([0.0, 0.7, 1.0]), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
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
