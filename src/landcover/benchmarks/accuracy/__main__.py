"""Honest accuracy by one command: contenders trained and scored alike, with intervals and differences.

``python -m landcover.benchmarks.accuracy scenes --data D --out DIR --contender reference --contender starter
--minutes 25 --weights mobilenetv2_100=FILE``

``docs/accuracy.md`` describes the protocols. Each training is a process of its own, fold by fold, one after
the other or ``--at-once`` some, so that all contenders meet the same machine. What is finished is not done
again: the command may be stopped at any time and goes on where it stopped; contenders, folds and seeds can be
added. ``plan.json`` says what the results in a folder are of, and results of another plan are refused.
"""

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from landcover.benchmarks.accuracy.contenders import CACHE, Contender, parse_contenders
from landcover.benchmarks.accuracy.plan import begin, finished, read_plan, write_report
from landcover.benchmarks.accuracy.process import Job, plain_errors, run_apart
from landcover.benchmarks.accuracy.protocols import PROTOCOLS, Protocol, Unit
from landcover.benchmarks.accuracy.recipes import RECIPES, Recipe
from landcover.benchmarks.accuracy.scores import Scored, check_unseen, effort, groups_of, score
from landcover.benchmarks.reference import import_peer, open_peer
from landcover.data import Dataset, open_dataset, prepare, split
from landcover.data.cache import is_cache
from landcover.data.splits import Parts
from landcover.errors import SplitError, TrainingError, UsageError
from landcover.io.files import claimed
from landcover.metrics import ConfusionMatrix
from landcover.model.card import model_digest
from landcover.model.runtimes import open_model
from landcover.training import TrainConfig
from landcover.training.provenance import git_commit, versions


@dataclass(frozen=True)
class Campaign:
    """All that a run of the benchmark needs.

    Attributes:
        protocol: What is trained on and scored.
        dataset: The data, as given.
        data: Their folder.
        cache: Where they are prepared for trainings of ours.
        out: Folder of the results.
        contenders: Who takes part.
        units: The trainings, in the order in which they are done.
        at_once: How many are done at the same time.
    """

    protocol: Protocol
    dataset: Dataset
    data: Path
    cache: Path
    out: Path
    contenders: Sequence[Contender]
    units: Sequence[Unit]
    at_once: int = 1
    _parts: dict[str, Parts] = field(default_factory=dict)

    def parts(self, unit: Unit) -> Parts:
        """Return the items of a training's split by part; folds are computed once.

        Raises:
            SplitError: If the data have no such split.
        """
        name = self.protocol.split_of(unit.fold)
        if name not in self._parts:
            self._parts[name] = split(self.dataset, name)
        return self._parts[name]


def run(campaign: Campaign) -> dict[str, Any]:
    """Do what is not done yet, and return the report.

    Raises:
        UsageError: If the peers are given a cache, or the data have no scenes where the protocol needs them.
        SplitError: If the data have not the protocol's split.
        ModelError: If a model trained elsewhere is missing or has seen what it is to be scored on.
        OutputError: If the folder holds results of another plan.
        TrainingError: If a training fails.
    """
    by_name = {contender.name: contender for contender in campaign.contenders}
    open_units = [unit for unit in campaign.units if unit not in finished(campaign.out)]
    warnings = {unit: _check(campaign, by_name[unit.contender], unit) for unit in open_units}
    # What cannot be done has been refused by now, not after hours.
    with claimed(campaign.out, campaign.out):
        begin(
            campaign.out,
            campaign.protocol,
            campaign.dataset,
            campaign.contenders,
            campaign.units,
            at_once=campaign.at_once,
        )
        if any(_is_ours(by_name[unit.contender]) for unit in open_units) and not is_cache(campaign.data):
            prepare(campaign.data, campaign.cache)
        done = 0
        for group in _groups(open_units, campaign.at_once):
            done += len(group)
            if sys.stderr is not None and sys.stderr.isatty():
                labels = "; ".join(unit.label for unit in group)
                print(f"[{done}/{len(open_units)}] {labels}", file=sys.stderr)
            jobs = {unit: _prepare_job(campaign, by_name[unit.contender], unit) for unit in group}
            there = {unit: job for unit, job in jobs.items() if job is not None}
            said = run_apart(list(there.values()), at_once=campaign.at_once)
            failed = {unit: failure for unit, failure in zip(there, said, strict=True) if failure}
            for unit in group:
                if unit in failed:
                    continue
                scored = _score(campaign, by_name[unit.contender], unit, warnings[unit])
                scored.write(campaign.out / unit.contender / f"{unit.stem}.json")
                write_report(campaign.out)
            if failed:
                raise TrainingError("\n".join([*failed.values(), "Mend it and run again to go on."]))
        return write_report(campaign.out)


def _groups(units: Sequence[Unit], size: int) -> Iterator[Sequence[Unit]]:
    """Cut trainings, in the order of folds, into groups of at most ``size``, of one fold each."""
    for _, same in groupby(units, key=lambda unit: unit.fold):
        members = list(same)
        yield from (members[first : first + size] for first in range(0, len(members), size))


def _is_ours(contender: Contender) -> bool:
    return contender.config is not None and not isinstance(contender.config, Recipe)


def _check(campaign: Campaign, contender: Contender, unit: Unit) -> list[str]:
    """Refuse what cannot be done, and return what is to be told beside the result."""
    dataset, protocol = campaign.dataset, campaign.protocol
    if len(protocol.folds) > 1 and dataset.scenes is None:
        raise UsageError(
            f"{campaign.data} has no scenes.csv, and the protocol {protocol.name} draws intervals by scenes. "
            "Put the table (part,id,scene,row,col) there."
        )
    parts = campaign.parts(unit)
    needed = (protocol.part,) if contender.config is None else ("train", protocol.part)
    missing = [part for part in needed if part not in parts]
    if missing:
        raise SplitError(
            f"The split {protocol.split_of(unit.fold)} of {campaign.data} has the parts {', '.join(parts)}, "
            f"and no {missing[0]}, which the protocol {protocol.name} needs."
        )
    items = parts[protocol.part]
    if contender.config is None:
        folder = campaign.out / contender.name
        return check_unseen(contender.model(unit, folder), dataset, items, by_scene=protocol.name == "scenes")
    if isinstance(contender.config, Recipe):
        import_peer()
        if is_cache(campaign.data):
            raise UsageError(
                f"The contender {contender.name!r} reads image files, and {campaign.data} is a cache. Give "
                "the folder that it was made of as --data, and the cache as --cache."
            )
    return []


def _prepare_job(campaign: Campaign, contender: Contender, unit: Unit) -> Job | None:
    data, cache = campaign.data, campaign.data if is_cache(campaign.data) else campaign.cache
    folder, split = campaign.out / contender.name, campaign.protocol.split_of(unit.fold)
    return contender.prepare_job(unit, folder, data, cache, split)


def _score(campaign: Campaign, contender: Contender, unit: Unit, warnings: list[str]) -> Scored:
    folder, protocol, dataset = campaign.out / contender.name, campaign.protocol, campaign.dataset
    model = contender.model(unit, folder)
    peer = isinstance(contender.config, Recipe)
    runtime = open_peer(model, dataset) if peer else open_model(model)
    items = campaign.parts(unit)[protocol.part]
    tables = score(runtime, dataset, items, unit.label)
    matrix = ConfusionMatrix(dataset.legend)
    matrix.table = tables.sum(axis=0)
    about = {
        "contender": unit.contender,
        "fold": unit.fold,
        "seed": unit.seed,
        "split": protocol.split_of(unit.fold),
        "part": protocol.part,
        "rule": contender.rule,
        "images": len(items),
        "metric": protocol.metrics[0],
        **matrix.scores(protocol.metrics[0]).to_dict(),
        "training": effort(model),
        "model": str(model),
        "model_sha256": None if peer else model_digest(model),
        "runtime": f"{runtime.name} on {runtime.device}",
        "warnings": warnings,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "versions": versions(),
    }
    return Scored.of(about, items, groups_of(dataset, items), tables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m landcover.benchmarks.accuracy",
        description="Train and score contenders alike, with intervals and differences.",
        epilog="See docs/accuracy.md. The same command goes on where it was stopped.",
    )
    add = parser.add_argument
    add("protocol", choices=sorted(PROTOCOLS))
    add("--out", type=Path, required=True, help="folder of runs and results")
    add("--data", type=Path, help="data folder (a prepared cache, too, where no peer takes part)")
    add("--cache", type=Path, help="where ours read it, prepared [default: OUT/cache]")
    add(
        "--contender",
        dest="contenders",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help=f"{', '.join(RECIPES)}, a preset, a YAML file, or run:PATTERN, a model trained elsewhere, with "
        "{fold} and {seed} in it; NAME alone where it is the source; any number of them",
    )
    add("--set", dest="settings", action="append", default=[], metavar="NAME:KEY=VALUE")
    add("--minutes", action="append", default=[], metavar="[NAME=]M", help="limit of trainings")
    add("--steps", action="append", default=[], metavar="[NAME=]N", help="limit of trainings")
    add("--weights", action="append", default=[], metavar="ENCODER=FILE", help="ImageNet weights")
    add("--folds", type=int, nargs="+", help="[default: all]")
    add("--seeds", type=int, nargs="+", default=[0], help="[default: 0]")
    add(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="do N trainings of a fold at the same time, each with an N-th of the processor's threads "
        "[default: 1]",
    )
    add("--report-only", action="store_true", help="print what is there, and do nothing else")
    return parser


def _check_threads(contenders: Sequence[Contender], at_once: int) -> None:
    """Refuse contenders that would not share the processor's threads evenly."""
    for contender in contenders:
        threads = contender.config.threads if isinstance(contender.config, TrainConfig) else None
        if at_once > 1 and threads is not None:
            raise UsageError(
                f"--at-once {at_once} shares the processor's threads, and {contender.name} has "
                f"threads={threads} of its own. Give --set {contender.name}:threads=null."
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a protocol, print its tables, and write them as ``accuracy.md`` and ``accuracy.json``."""
    options = _parser().parse_args(arguments)
    protocol = PROTOCOLS[options.protocol]
    with plain_errors():
        if options.report_only:
            read_plan(options.out, protocol)
            report = write_report(options.out)
        else:
            if options.data is None or not options.contenders:
                raise UsageError("Give --data D and at least one --contender, or --report-only.")
            if min(options.seeds) < 0:
                raise UsageError(f"--seeds {min(options.seeds)} was given; seeds are whole numbers from 0.")
            if options.at_once < 1:
                raise UsageError(
                    f"--at-once {options.at_once} was given; at least one training is done at a time."
                )
            contenders = parse_contenders(
                options.contenders,
                protocol,
                settings=options.settings,
                minutes=options.minutes,
                steps=options.steps,
                weights=options.weights,
            )
            _check_threads(contenders, options.at_once)
            units = [
                unit
                for contender in contenders
                for unit in protocol.units(contender.name, options.folds, contender.seeds(options.seeds))
            ]
            campaign = Campaign(
                protocol,
                open_dataset(options.data),
                options.data,
                options.cache or options.out / CACHE,
                options.out,
                contenders,
                sorted(units, key=lambda unit: (unit.fold or 0, unit.seed)),
                options.at_once,
            )
            report = run(campaign)
        print(report["markdown"], end="")


if __name__ == "__main__":
    main()
