"""The measurement of the procedural world: its shuffling, its idea of chance, its figure."""

from pathlib import Path

import numpy as np

from landcover.benchmarks.figures import scene_figure
from landcover.benchmarks.world import chance_miou, shuffle_masks
from landcover.data.synthetic import make_dataset, make_scene
from landcover.legend import DEEPGLOBE
from landcover.metrics import ConfusionMatrix


def test_shuffling_gives_every_training_image_the_mask_of_another(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", scenes=8, size=96, seed=2)
    before = {path.relative_to(data): path.read_bytes() for path in data.rglob("*.*")}
    shuffled = shuffle_masks(data, tmp_path / "shuffled")
    after = {path.relative_to(shuffled): path.read_bytes() for path in shuffled.rglob("*.*")}
    assert before == {path.relative_to(data): path.read_bytes() for path in data.rglob("*.*")}
    assert before.keys() == after.keys()
    masks = {path for path in before if path.parts[0] == "train" and path.name.endswith("_mask.png")}
    assert len(masks) == 6
    assert all(before[path] != after[path] for path in masks)
    assert sorted(before[path] for path in masks) == sorted(after[path] for path in masks)
    assert all(before[path] == after[path] for path in before.keys() - masks)


def test_chance_is_the_score_of_a_map_that_does_not_look() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(7, p=[0.2, 0.3, 0.2, 0.1, 0.1, 0.08, 0.02], size=(700, 700)).astype(np.uint8)
    guess = rng.choice(6, p=[0.1, 0.5, 0.1, 0.1, 0.1, 0.1], size=(700, 700)).astype(np.uint8)
    confusion = ConfusionMatrix(DEEPGLOBE)
    confusion.update(truth, guess)
    measured = confusion.scores("challenge").miou
    assert measured is not None
    assert abs(chance_miou(confusion.counts, DEEPGLOBE.scored) - measured) < 0.002


def test_chance_of_always_one_class_is_its_share_among_the_classes() -> None:
    confusion = np.zeros((7, 7), np.int64)
    confusion[:4, 1] = (10, 60, 20, 10)
    assert chance_miou(confusion, DEEPGLOBE.scored) == 0.6 / 4


def test_the_figure_shows_the_map_in_the_legends_colours() -> None:
    figure = np.asarray(scene_figure(3, 90, 120).convert("RGB")).astype(int)
    assert figure.shape[1] == 2 * 120 + 16
    index = make_scene(3, 90, 120).index
    shown = figure[:90, 136:]
    assert np.abs(shown - DEEPGLOBE.colours[index]).max(axis=2).mean() < 4
