"""Does the procedural world need a network? Colour classifiers against the demo's network.

Another network learns with every training image's mask replaced by another's: it must do no better than
chance, or something other than the imagery gives the answer away.
"""

import argparse
import tempfile
from pathlib import Path
from shutil import copytree

import numpy as np

from common import landcover, report
from landcover.data import open_dataset, select
from landcover.data.synthetic import make_dataset
from landcover.evaluation.baselines import score_baselines


def shuffle_masks(data: Path, out: Path) -> Path:
    """Copy a procedural data folder with each training image given the mask of the next one."""
    copytree(data, out)
    masks = sorted((out / "train").glob("*_mask.png"))
    contents = [mask.read_bytes() for mask in masks]
    for mask, content in zip(masks, contents[1:] + contents[:1], strict=True):
        mask.write_bytes(content)
    return out


def chance_miou(confusion: np.ndarray) -> float:
    """Return the mIoU expected of a map that is independent of the truth but has the same class frequencies.

    Args:
        confusion: int (7, 7), rows = truth, columns = prediction, unknown last.
    """
    known = confusion[:-1]
    truth, predicted = known.sum(axis=1) / known.sum(), known.sum(axis=0)[:-1] / known.sum()
    both = truth * predicted
    present = truth + predicted > 0
    return float(np.mean((both / np.maximum(truth + predicted - both, 1e-12))[present]))


def main() -> None:
    """Measure each world and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 202, 303])
    parser.add_argument("--scenes", type=int, default=64, help="a quarter is held out")
    parser.add_argument("--size", type=int, default=512, help="side of a scene in pixels")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    settings = [word for setting in options.settings for word in ("--set", setting)]
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = make_dataset(folder / "data", scenes=options.scenes, size=options.size, seed=seed)
            dataset = open_dataset(data)
            subsets = (select(dataset, f"folders:{subset}") for subset in ("train", "validation"))
            rows = {way: scores.miou or 0.0 for way, scores in score_baselines(dataset, *subsets).items()}
            for way, source in (
                ("network", data),
                ("shuffled masks", shuffle_masks(data, folder / "shuffled")),
            ):
                run = folder / way
                landcover("train", "--data", source, "--preset", "demo", "--out", run, *settings)
                scored = ("--data", data, "--split", "folders:validation", "--model", run)
                scores = report(folder, "evaluate", *scored)
                rows[way] = scores["miou"]
            rows["chance"] = chance_miou(np.array(scores["confusion"]))
        print(
            f"world {seed}:", ", ".join(f"{way} {100 * miou:.1f}" for way, miou in rows.items()), flush=True
        )


if __name__ == "__main__":
    main()
