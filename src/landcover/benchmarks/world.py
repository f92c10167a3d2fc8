"""Does the procedural world need a network? ``python -m landcover.benchmarks.world`` measures it.

For each seed: the demo's scenes are made, the two colour classifiers and the demo's network learn from the
training part, and all are scored on the held-out part. The network learns once more with every training
image's mask replaced by another's: then it must do no better than chance, or something other than the
pictures gives the answer away.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copytree

import numpy as np
import numpy.typing as npt

from landcover.config import with_overrides
from landcover.data import open_dataset, select
from landcover.data.synthetic import make_dataset
from landcover.evaluation import evaluate
from landcover.evaluation.baselines import score_baselines
from landcover.io.files import refuse_existing, write_text
from landcover.training import TrainConfig, load_preset, train

SCENES, SIZE_PX = 64, 512


@dataclass(frozen=True)
class WorldScores:
    """What one world gave; mIoU on held-out scenes, 0..1.

    Attributes:
        seed: The world.
        baselines: Of the colour classifiers, by name.
        network: Of the network.
        network_iou: Its intersection over union by class.
        steps: Steps of its training.
        shuffled: Of the network trained on shuffled masks.
        chance: What guessing without looking gives, with classes as frequent as that network says them.
    """

    seed: int
    baselines: dict[str, float]
    network: float
    network_iou: dict[str, float]
    steps: int
    shuffled: float
    chance: float

    @property
    def margin(self) -> float:
        """How far the network is above the better colour classifier."""
        return self.network - max(self.baselines.values())


def measure(seed: int, folder: Path, config: TrainConfig, *, scenes: int, size: int) -> WorldScores:
    """Measure one world.

    Args:
        seed: The world.
        folder: Empty folder to work in.
        config: How the networks are trained.
        scenes: Number of scenes, a quarter of them held out.
        size: Their side in pixels.
    """
    data = make_dataset(folder / "data", scenes=scenes, size=size, seed=seed)
    dataset = open_dataset(data)
    baselines = score_baselines(
        dataset, select(dataset, "folders:train"), select(dataset, "folders:validation")
    )
    run = train(config, data=data, out=folder / "run")
    scores = evaluate(data, "folders:validation", model=run.folder)

    shuffled_data = shuffle_masks(data, folder / "shuffled")
    shuffled_run = train(config, data=shuffled_data, out=folder / "shuffled-run")
    shuffled = evaluate(data, "folders:validation", model=shuffled_run.folder)
    return WorldScores(
        seed=seed,
        baselines={name: found.miou or 0.0 for name, found in baselines.items()},
        network=scores.miou or 0.0,
        network_iou={name: iou or 0.0 for name, iou in scores.iou.items()},
        steps=run.step,
        shuffled=shuffled.miou or 0.0,
        chance=chance_miou(shuffled.confusion, dataset.legend.scored),
    )


def shuffle_masks(data: Path, out: Path) -> Path:
    """Copy a procedural data folder with each training image given the mask of the next one.

    Returns:
        ``out``.
    """
    copytree(data, out)
    masks = sorted((out / "train").glob("*_mask.png"))
    contents = [mask.read_bytes() for mask in masks]
    for mask, content in zip(masks, contents[1:] + contents[:1], strict=True):
        mask.write_bytes(content)
    return out


def chance_miou(confusion: npt.NDArray[np.int64], scored: Iterable[int]) -> float:
    """Return the mIoU expected of a map that has nothing to do with the truth but the same class frequencies.

    Args:
        confusion: int (K, K), rows = truth, columns = prediction.
        scored: Indices of the scored classes.
    """
    classes = list(scored)
    known = confusion[classes]
    truth, said = known.sum(axis=1) / known.sum(), known.sum(axis=0)[classes] / known.sum()
    both = truth * said
    present = truth + said > 0
    return float(np.mean((both / np.maximum(truth + said - both, 1e-12))[present]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the worlds, print a line for each and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m landcover.benchmarks.world", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 202, 303])
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--size", type=int, default=SIZE_PX, help="side of a scene in pixels")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the results as JSON")
    given = parser.parse_args(arguments)
    if given.json is not None:
        refuse_existing(given.json, force=False)
    config = with_overrides(load_preset("demo"), given.settings)
    worlds = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(prefix="landcover-world-") as folder:
            world = measure(seed, Path(folder), config, scenes=given.scenes, size=given.size)
        worlds.append(world)
        colours = ", ".join(f"{name} {100 * miou:.1f}" for name, miou in world.baselines.items())
        print(
            f"world {seed}: {colours}; network {100 * world.network:.1f} ({100 * world.margin:+.1f}); ",
            end="",
        )
        print(f"shuffled masks {100 * world.shuffled:.1f}, chance {100 * world.chance:.1f}", flush=True)
    if given.json is not None:
        result = {
            "scenes": given.scenes,
            "size": given.size,
            "config": config.model_dump(mode="json"),
            "worlds": [{**asdict(world), "margin": world.margin} for world in worlds],
        }
        write_text(given.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
