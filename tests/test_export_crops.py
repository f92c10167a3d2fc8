"""Pieces of imagery at the model's scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landcover.errors import DataError, SplitError, UsageError
from landcover.exporting.crops import PROCEDURAL, open_crops, parse_crops


def write_images(root, *, count=3, size=(40, 60)):
    """Write lossless images of one colour each, their number, without labels."""
    root.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((*size, 3), number * 10, np.uint8)).save(root / f"{number:04}_sat.png")
    (root / "landcover.yaml").write_text("gsd: 0.5\n")
    return root


def test_every_image_comes_once_before_one_comes_again(tmp_path):
    imagery = open_crops(write_images(tmp_path / "d"))
    colours = [int(piece[0, 0, 0]) for piece in imagery.crops(6, 16, 0.5, seed=4)]
    assert sorted(colours[:3]) == sorted(colours[3:]) == [0, 10, 20]


def test_pieces_follow_from_seed_and_number(tmp_path):
    root = tmp_path / "d"
    root.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(root / "a_sat.png")
    imagery = open_crops(root, gsd=1.0)
    some, more = (list(imagery.crops(count, 16, 1.0, seed=1)) for count in (3, 5))
    other = list(imagery.crops(3, 16, 1.0, seed=2))
    for one, two in zip(some, more, strict=False):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(some[0], some[1])
    assert not np.array_equal(some[0], other[0])
    windows = np.lib.stride_tricks.sliding_window_view(image, (16, 16, 3)).reshape(-1, 16, 16, 3)
    assert (windows == some[0]).all(axis=(1, 2, 3)).any()  # at the images' own scale nothing is resampled


@settings(max_examples=25)
@given(side=st.integers(1, 90), gsd=st.floats(0.2, 3.0))
def test_pieces_are_square_unless_the_image_is_smaller(side, gsd):
    for piece in PROCEDURAL.crops(1, min(side, 40), gsd, seed=0):
        assert piece.shape == (min(side, 40), min(side, 40), 3)
        assert piece.dtype == np.uint8


def test_a_small_image_gives_what_it_has_at_the_model_s_scale(tmp_path):
    imagery = open_crops(write_images(tmp_path / "d", count=1))
    (piece,) = imagery.crops(1, 32, 1.0, seed=0)
    assert piece.shape == (20, 30, 3)


def test_data_and_split_in_one_text(tmp_path):
    root = write_images(tmp_path / "a:b")
    assert len(parse_crops(str(root)).items) == 3
    with pytest.raises(SplitError, match="no masks"):
        parse_crops(f"{root}:all")
    for text in (str(tmp_path / "nowhere"), f"{tmp_path}/nowhere:all", ":all"):
        with pytest.raises(UsageError, match="does not exist; expected DATA or DATA:SPLIT"):
            parse_crops(text)


def test_imagery_without_a_scale_or_images_is_refused(tmp_path):
    root = write_images(tmp_path / "d")
    (root / "landcover.yaml").unlink()
    with pytest.raises(UsageError, match=r"metres per pixel.* --gsd 0.5"):
        open_crops(root)
    assert open_crops(root, gsd=2.0).gsd == 2.0
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        open_crops(tmp_path / "empty", gsd=1.0)
