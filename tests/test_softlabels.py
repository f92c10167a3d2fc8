"""Soft labels follow the pixels that they are of, through crops, scales, turns and neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from landcover.config import from_mapping
from landcover.data import SceneTile
from landcover.legend import DEEPGLOBE, IGNORE
from landcover.model.preprocessing import Preprocessing
from landcover.training.batches import BatchReader
from landcover.training.config import LossConfig
from landcover.training.data import load_training_data
from landcover.training.losses import build_loss, soft_cross_entropy
from landcover.training.sampler import Crop, NeighbourTiles, Piece
from landcover.training.teachers import SoftLabels, at_centres
from landcover.windows import Window
from training_world import tiny, write_pairs

# Cells


@pytest.mark.parametrize(
    ("size", "cells"),
    [((40, 32), (10, 8)), ((61, 47), (8, 7)), ((10, 10), (7, 9)), ((5, 5), (1, 1)), ((3, 4), (3, 4))],
)
def test_cells_hold_what_lies_at_their_centres(size, cells):
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    even = np.stack([y / height, x / width]).astype(np.float32)  # rises evenly over the ground
    found = at_centres(even, cells)
    assert found.dtype == np.float32
    expected = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in cells), indexing="ij"), axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def in_bytes(probabilities, cells):
    return np.rint(255 * at_centres(probabilities, cells)).astype(np.uint8)


@given(height=st.integers(20, 90), width=st.integers(20, 90), cell=st.floats(1.5, 6), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_an_even_slope_stays_where_it_was(height, width, cell, seed):
    """Through cells and back to a crop, whatever the sizes: nothing moves by a part of a cell."""
    y, x = np.mgrid[:height, :width] + 0.5
    even = np.stack([y / 90, x / 90]).astype(np.float32)
    maps = [in_bytes(even, (round(height / cell), round(width / cell)))]
    rng = np.random.default_rng(seed)
    side = int(rng.integers(8, 20))
    row, col = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    count = int(rng.integers(1, side + 1))
    crop = SoftLabels(maps, [(height, width)]).cut(
        [Piece(0, Window(row, col, side, side), (slice(0, side), slice(0, side)))], side, count
    )
    centres = (np.arange(count) + 0.5) * side / count
    expected = 255 / 90 * np.stack(np.meshgrid(row + centres, col + centres, indexing="ij"), axis=2)
    inner = [
        (c > cell) & (c < length - cell) for c, length in ((row + centres, height), (col + centres, width))
    ]
    np.testing.assert_allclose(crop[np.ix_(*inner)], expected[np.ix_(*inner)], atol=1.01)


def test_beyond_the_outer_centres_the_outer_cells_hold():
    soft = SoftLabels([np.array([[[10], [20]], [[30], [40]]], np.uint8)], [(8, 8)])
    crop = soft.cut([Piece(0, Window(0, 0, 8, 8), (slice(0, 8), slice(0, 8)))], 8, 8)[..., 0]
    assert (crop[0, 0], crop[0, 7], crop[7, 0], crop[7, 7]) == (10, 20, 30, 40)


@given(row=st.integers(-12, 20), col=st.integers(-12, 20), side=st.integers(1, 30), cells=st.integers(1, 16))
@settings(max_examples=100)
def test_each_cell_is_of_the_tile_that_its_centre_lies_in(row, col, side, cells):
    around = NeighbourTiles(
        [SceneTile("s", 0, 0), SceneTile("s", 0, 1), SceneTile("s", 1, 0)], [(16, 20)] * 3
    )
    soft = SoftLabels([np.full((4, 5, 1), 10 * (i + 1), np.uint8) for i in range(3)], [(16, 20)] * 3)
    crop = soft.cut(around.pieces(Crop(0, row, col, side, None)), side, cells)[..., 0]
    owner = {(0, 0): 10, (0, 1): 20, (1, 0): 30}
    for i in range(cells):
        for j in range(cells):
            y, x = row + (i + 0.5) * side / cells, col + (j + 0.5) * side / cells
            assert crop[i, j] == owner.get((int(y // 16), int(x // 20)), 0)


@pytest.mark.parametrize("balance", [0, 0.5])
def test_a_batchs_soft_labels_are_those_of_its_pixels(tmp_path, balance):
    """Of a teacher that says each pixel's grey value, a crop's soft labels are its own grey."""
    data = write_pairs(tmp_path, train_images=4, validation_images=1)
    yy, xx = np.mgrid[:96, :96]
    grey = np.rint(127 + 50 * np.sin(yy / 17) + 60 * np.cos(xx / 23)).astype(np.uint8)
    for i in range(4):
        tile = grey[i // 2 * 48 :, i % 2 * 48 :][:48, :48]
        Image.fromarray(np.repeat(tile[..., None], 3, axis=2)).save(
            data / "train" / f"{i:04}_sat.jpg", quality=100
        )
    rows = "\n".join(f"train,{i:04},a,{i // 2},{i % 2}" for i in range(4))
    (data / "scenes.csv").write_text(f"part,id,scene,row,col\n{rows}\n")
    config = tiny(
        "batch_size=32",
        "across_tiles=true",
        "augment.scale=[0.8,1.6]",
        "loss.stride=4",
        f"class_balance={balance}",
    )
    material = load_training_data(data, "folders", crop_px=32, model_gsd=None)
    maps = [
        in_bytes(material.dataset.read_image(item)[..., :1].transpose(2, 0, 1) / np.float32(255), (24, 24))
        for item in material.train
    ]
    reader = BatchReader(material, config, Preprocessing(1.0), SoftLabels(maps, [(48, 48)] * 4))
    batch = reader.read(0)
    assert batch.soft.shape == (32, 8, 8, 1)
    seen = batch.images[..., 0].reshape(32, 8, 4, 8, 4).mean(axis=(2, 4))
    there = batch.soft[..., 0] > 0
    assert there.mean() > 0.9
    difference = np.abs(seen - batch.soft[..., 0])[there]
    assert difference.mean() < 2  # turned otherwise, it is above 20
    assert np.quantile(difference, 0.99) < 8


def soft_sample(seed, count=50):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (count, 6)).astype(np.float32))
    return logits, torch.from_numpy(np.rint(255 * rng.dirichlet(np.ones(6), count)).astype(np.uint8))


def test_the_loss_is_torchs_cross_entropy_with_probabilities():
    logits, soft = soft_sample(0)
    shares = soft.double() / soft.double().sum(1, keepdim=True)
    expected = functional.cross_entropy(logits.double(), shares)
    torch.testing.assert_close(soft_cross_entropy(logits, soft).double(), expected, rtol=1e-5, atol=0)


def test_pixels_without_soft_labels_count_for_nothing():
    logits, soft = soft_sample(1)
    soft[::3] = 0
    logits.requires_grad_()
    loss = soft_cross_entropy(logits, soft)
    some = torch.arange(50) % 3 != 0
    torch.testing.assert_close(loss, soft_cross_entropy(logits[some], soft[some]))
    loss.backward()
    assert not logits.grad[::3].any()


def configured(**options):
    return build_loss(from_mapping(LossConfig, options, "test"), DEEPGLOBE.scored_names, torch.device("cpu"))


def test_a_sure_teacher_that_says_the_labels_doubles_the_cross_entropy():
    logits = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 6, (2, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    truth = target[:, 2::4, 2::4].long()
    soft = 255 * functional.one_hot(truth, 6).to(torch.uint8)
    loss = configured()
    torch.testing.assert_close(loss(logits, target, soft), 2 * loss(logits, target, None))
    thrice = configured(teacher_weight=2.0)
    torch.testing.assert_close(thrice(logits, target, soft), 3 * loss(logits, target, None))


def test_a_teacher_teaches_where_no_label_is():
    logits = torch.zeros(1, 6, 4, 4, requires_grad=True)
    target = torch.full((1, 16, 16), IGNORE, dtype=torch.uint8)
    soft = torch.zeros(1, 4, 4, 6, dtype=torch.uint8)
    soft[..., 2] = 255
    loss = configured()(logits, target, soft)
    assert float(loss.detach()) == pytest.approx(np.log(6))
    loss.backward()
    assert (logits.grad[:, 2] < 0).all()
