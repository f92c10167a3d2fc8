import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.errors import ConfigError, UsageError
from landcover.preprocessing import (
    Preprocessing,
    resample_image,
    resample_mask,
    resample_probabilities,
    resampled_bands,
    scaled_size,
)

RNG = np.random.default_rng(0)
quick = settings(max_examples=60, deadline=None)
sizes = st.tuples(st.integers(1, 80), st.integers(1, 80))


def test_normalise_is_the_documented_formula() -> None:
    preprocessing = Preprocessing(0.5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    pixels = RNG.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 0.125])
    result = preprocessing.normalise(pixels)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-5)


def test_dark_and_bright_windows_share_one_scaling() -> None:
    """A peer divides by 255 only where a window has values above 1.5: dark water changes meaning."""
    preprocessing = Preprocessing(0.5)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 1
    image[:, 4:] = 200
    whole = preprocessing.normalise(image)
    assert np.array_equal(preprocessing.normalise(image[:, :4]), whole[:, :4])
    assert np.array_equal(preprocessing.normalise(image[:, 4:]), whole[:, 4:])


@pytest.mark.parametrize("gsd", [0.0, -0.5, float("nan"), float("inf")])
def test_impossible_gsd_is_refused(gsd: float) -> None:
    with pytest.raises(ConfigError, match="ground sample distance"):
        Preprocessing(gsd)


def test_impossible_mean_and_std_are_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        Preprocessing(0.5, std=(0.2, 0.0, 0.2))
    with pytest.raises(ConfigError, match="three finite"):
        Preprocessing(0.5, mean=(0.2, float("nan"), 0.2))
    with pytest.raises(ConfigError, match="three finite"):
        Preprocessing(0.5, mean=(0.2, 0.2))  # type: ignore[arg-type]


def test_scaled_size_rounds_and_never_vanishes() -> None:
    assert scaled_size((2448, 2448), 0.5 / 1.195) == (1024, 1024)
    assert scaled_size((3, 1000), 0.1) == (1, 100)


# A ramp of probabilities: its value tells the position that a pixel was taken from.
@pytest.mark.parametrize(("source", "target"), [(2448, 1024), (1024, 2448), (100, 37), (37, 100), (64, 32)])
def test_resampling_keeps_positions(source: int, target: int) -> None:
    ramp = np.broadcast_to(np.arange(source, dtype=np.float32), (1, 3, source))
    expected = (np.arange(target) + 0.5) * source / target - 0.5
    inner = slice(3, -3) if source > target else slice(4, -4)
    across = resample_probabilities(ramp, (3, target))[0, 1]
    assert np.abs(across - expected)[inner].max() < 0.05
    down = resample_probabilities(ramp.swapaxes(1, 2), (target, 3))[0, :, 1]
    assert np.abs(down - expected)[inner].max() < 0.05


@pytest.mark.parametrize("target", [90, 400])
def test_resampled_images_keep_positions(target: int) -> None:
    image = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(4, axis=0)
    expected = (np.arange(target) + 0.5) * 200 / target - 0.5
    assert (
        np.abs(resample_image(image, (4, target))[1, :, 0] - expected)[4:-4].max() <= 0.55
    )  # rounded to bytes


def test_reducing_by_a_whole_number_is_close_to_the_mean_of_blocks() -> None:
    image = RNG.integers(0, 256, (120, 120, 3), dtype=np.uint8)
    means = image.reshape(30, 4, 30, 4, 3).mean((1, 3))
    result = resample_image(image, 0.25).astype(float)
    nearest = image[2::4, 2::4].astype(float)
    assert result.shape == (30, 30, 3)
    error = np.sqrt(np.square(result - means).mean())
    assert error < 8
    assert error < np.sqrt(np.square(nearest - means).mean()) / 8


def test_reduced_fine_texture_does_not_alias() -> None:
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    reduced = resample_image(stripes, 1 / 2.39)
    assert np.ptp(reduced[:, 2:-2].astype(int)) < 70  # nearest or plain bilinear sampling: 255
    assert abs(reduced.mean() - 127.5) < 3


@quick
@given(sizes, sizes)
def test_constant_images_and_probabilities_stay_constant(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    image = np.full((*source, 3), 77, np.uint8)
    assert np.array_equal(resample_image(image, target), np.full((*target, 3), 77))
    probabilities = np.full((2, *source), 0.3, np.float32)
    result = resample_probabilities(probabilities, target)
    assert result.shape == (2, *target)
    assert np.allclose(result, 0.3, atol=1e-6)


@quick
@given(sizes, sizes)
def test_resampled_probabilities_still_are_probabilities(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    values = np.random.default_rng(1).random((4, *source), dtype=np.float32)
    result = resample_probabilities(values / values.sum(0), target)
    assert result.min() >= 0
    assert np.allclose(result.sum(0), 1, atol=1e-5)


def test_bands_are_the_whole() -> None:
    probabilities = RNG.random((3, 200, 20), dtype=np.float32)
    for size in [(777, 31), (200, 20), (90, 20)]:
        bands = list(resampled_bands(probabilities, size))
        assert [rows.start for rows, _ in bands[1:]] == [rows.stop for rows, _ in bands[:-1]]
        joined = np.concatenate([band for _, band in bands], axis=1)
        assert np.array_equal(joined, resample_probabilities(probabilities, size))


def test_bands_show_no_seam() -> None:
    """Enlarging a tall image takes several bands; the ramp must go on smoothly from one to the next."""
    ramp = np.broadcast_to(np.linspace(0, 1, 400, dtype=np.float32)[:, None], (1, 400, 4))
    steps = np.diff(resample_probabilities(ramp, (1500, 4))[0, 5:-5, 0])
    assert np.abs(steps - steps.mean()).max() < 0.05 * steps.mean()


@quick
@given(sizes, sizes)
def test_masks_take_the_nearest_pixel(source: tuple[int, int], target: tuple[int, int]) -> None:
    mask = np.random.default_rng(2).integers(0, 256, source, dtype=np.uint8)
    rows = ((np.arange(target[0]) + 0.5) * source[0] / target[0]).astype(int)
    cols = ((np.arange(target[1]) + 0.5) * source[1] / target[1]).astype(int)
    result = resample_mask(mask, target)
    assert result.shape == target
    assert set(np.unique(result)) <= set(np.unique(mask))
    on_edge = source[0] * target[1] and (  # exactly between two pixels either is as near
        np.isclose(rows, (np.arange(target[0]) + 0.5) * source[0] / target[0]).any()
        or np.isclose(cols, (np.arange(target[1]) + 0.5) * source[1] / target[1]).any()
    )
    if not on_edge:
        assert np.array_equal(result, mask[rows][:, cols])


def test_same_size_costs_nothing() -> None:
    image = np.zeros((5, 6, 3), np.uint8)
    assert resample_image(image, 1.0) is image
    assert resample_mask(image[..., 0], (5, 6)).base is image


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5, 5, 5)])
def test_impossible_sizes_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be resampled"):
        resample_image(np.zeros((4, 4, 3), np.uint8), size)  # type: ignore[arg-type]
