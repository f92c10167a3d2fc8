"""The contenders of the accuracy benchmark: the peers, presets of ours, and models trained elsewhere."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from landcover.benchmarks.accuracy.process import Job
from landcover.benchmarks.accuracy.protocols import Protocol, Unit
from landcover.benchmarks.accuracy.recipes import RECIPES, RESULT_NAME, Recipe
from landcover.config import dump_yaml, with_overrides
from landcover.errors import UsageError, did_you_mean
from landcover.io.files import write_text
from landcover.training import TrainConfig, load_preset

CACHE = "cache"
"""Name of a folder beside those of the contenders."""

_RUN, _TIMM = "run:", "timm"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Contender:
    """One way to get a model.

    Attributes:
        name: What tables call it, and its folder.
        source: What was given: a recipe of the peers, a preset, a YAML file or ``run:PATTERN``.
        config: How it is trained; None where it was trained elsewhere.
        weights: Encoder weights: a file, ``timm`` or None.
        minutes: Limit of a peer's training; ours have theirs in the settings.
        steps: The same in steps.
    """

    name: str
    source: str
    config: TrainConfig | Recipe | None
    weights: str | None = None
    minutes: float | None = None
    steps: int | None = None

    @property
    def rule(self) -> str:
        """Which weights are scored."""
        if self.config is None:
            return "as given"
        if isinstance(self.config, Recipe):
            return "last weights"
        averaged = f", averaged ({self.config.ema_decay:g})" if self.config.ema_decay else ""
        chosen = "best on val" if self.config.validation.keep == "best" else "last weights"
        return f"{chosen}{averaged}"

    def plan(self) -> dict[str, Any]:
        """Return what makes it the same contender, as plain data for JSON."""
        return {
            "source": self.source,
            "rule": self.rule,
            "recipe": None
            if self.config is None
            else self.config.model_dump(mode="json", exclude={"weights"}),
            "weights": _digest(self.weights),
            "minutes": self.minutes,
            "steps": self.steps,
        }

    def seeds(self, asked: Sequence[int]) -> Sequence[int]:
        """Return the seeds that make a difference: of a model trained elsewhere there may be only one."""
        return asked[:1] if self.config is None and "{seed}" not in self.source else asked

    def model(self, unit: Unit, folder: Path) -> Path:
        """Return where the model of a training is, or will be."""
        if self.config is None:
            pattern = self.source.removeprefix(_RUN)
            return Path(pattern.replace("{fold}", str(unit.fold)).replace("{seed}", str(unit.seed)))
        return folder / unit.stem

    def prepare_job(self, unit: Unit, folder: Path, data: Path, cache: Path, split: str) -> Job | None:
        """Write the settings, and return the command that trains by them; None where nothing is to be done.

        A training of ours that was stopped goes on.

        Args:
            unit: Which training.
            folder: The contender's folder.
            data: Folder of image files, which the peers read.
            cache: The same, prepared.
            split: The split.
        """
        run = folder / unit.stem
        if self.config is None or (run / RESULT_NAME).is_file():
            return None
        settings = folder / "config.yaml"
        write_text(settings, dump_yaml(self.config), force=True)
        common = ("--split", split, "--weights", self.weights or "none", "--out", run)
        log = folder / f"{unit.stem}.log"
        if isinstance(self.config, Recipe):
            limit = ("--minutes", self.minutes) if self.steps is None else ("--steps", self.steps)
            recipe = ("--data", data, "--recipe", settings, "--seed", unit.seed, *limit)
            return Job(log, "landcover.benchmarks.reference", (*common, *recipe))
        preset = ("--data", cache, "--preset", settings, "--set", f"seed={unit.seed}")
        return Job(log, "landcover", ("train", *common, *preset))


def parse_contenders(
    specs: Sequence[str],
    protocol: Protocol,
    *,
    settings: Sequence[str] = (),
    minutes: Sequence[str] = (),
    steps: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> list[Contender]:
    """Return the contenders that a command line names.

    Args:
        specs: ``NAME=SOURCE``, or a source alone that is a name.
        protocol: Says which weights ours keep.
        settings: ``NAME:KEY=VALUE``, changes to the settings of one contender.
        minutes: ``M`` for all, ``NAME=M`` for one.
        steps: The same in steps.
        weights: ``ENCODER=FILE``.

    Raises:
        UsageError: If a name stands twice or is none, a source is unknown, an option names no contender, or
            limits or weights are missing.
        ConfigError: If a setting does not fit; the message names the key.
    """
    sources: dict[str, str] = {}
    for spec in specs:
        name, equals, source = spec.partition("=")
        if not _NAME.fullmatch(name) or name == CACHE or (equals and not source):
            raise UsageError(
                f"--contender {spec}: expected NAME=SOURCE, the name of letters, digits, - _ and ."
            )
        if sources.setdefault(name, source or name) != (source or name) or specs.count(spec) > 1:
            raise UsageError(f"--contender {spec}: there is another contender {name!r}; choose another name.")
    files = dict(_pair(text, "--weights", "ENCODER=FILE") for text in weights)
    wall = _limits(minutes, "--minutes", sources, float)
    count = _limits(steps, "--steps", sources, int)
    changes: dict[str, list[str]] = {name: [] for name in sources}
    for text in settings:
        name, colon, change = text.partition(":")
        if not colon or name not in changes:
            hint = did_you_mean(name, sources)
            raise UsageError(f"--set {text}: expected NAME:KEY=VALUE, the name a contender's. {hint}")
        changes[name].append(change)
    return [
        _contender(name, source, protocol, changes[name], wall.get(name), count.get(name), files)
        for name, source in sources.items()
    ]


def _contender(
    name: str,
    source: str,
    protocol: Protocol,
    changes: list[str],
    minutes: float | None,
    steps: int | None,
    weights: Mapping[str, str],
) -> Contender:
    if minutes is not None and steps is not None:
        raise UsageError(f"The contender {name!r} has two limits, minutes and steps; give one of them.")
    if source.startswith(_RUN):
        if changes:
            raise UsageError(
                f"--set {name}:{changes[0]}: {name!r} was trained elsewhere; nothing can be set."
            )
        if len(protocol.folds) > 1 and "{fold}" not in source:
            raise UsageError(f"--contender {name}={source}: expected {{fold}} in it, a model for each fold.")
        return Contender(name, source, None)
    if source in RECIPES:
        if minutes is None and steps is None:
            raise UsageError(f"The contender {name!r} needs a limit: --minutes M, or --minutes {name}=M.")
        recipe = with_overrides(RECIPES[source], changes)
        file = _weights(name, recipe.encoder, weights)
        return Contender(name, source, recipe, file, minutes, steps)
    limit = [f"minutes={minutes}", "steps=null"] if minutes is not None else []
    limit += [f"steps={steps}", "minutes=null"] if steps is not None else []
    try:
        preset = load_preset(source)
    except UsageError as error:
        known = f"{', '.join(RECIPES)} and {_RUN}FOLDER are sources, too"
        raise UsageError(f"--contender {name}={source}: {error} ({known}.)") from error
    config = with_overrides(preset, [*changes, *limit, *protocol.checks])
    encoder = config.model.encoder
    if config.weights is None and encoder not in weights:
        if config.freeze:
            raise UsageError(
                f"The contender {name!r} keeps what it starts from (freeze=[{','.join(config.freeze)}]), and "
                f"would start from random weights. Give --weights {encoder}=FILE, or --set "
                f"'{name}:freeze=[]'."
            )
        return Contender(name, source, config)
    own = {} if config.weights in (None, _TIMM) else {encoder: str(config.weights)}
    if weights.get(encoder) == _TIMM:
        return Contender(name, source, config, _TIMM)
    return Contender(name, source, config, _weights(name, encoder, own | dict(weights)))


def _weights(name: str, encoder: str, weights: Mapping[str, str]) -> str:
    """Return the file of an encoder's weights."""
    if encoder not in weights:
        raise UsageError(
            f"The contender {name!r} starts from ImageNet weights of {encoder}: give them as --weights "
            f"{encoder}=FILE."
        )
    if not Path(weights[encoder]).is_file():
        raise UsageError(f"--weights {encoder}={weights[encoder]}: there is no such file.")
    return weights[encoder]


def _limits(
    values: Sequence[str], option: str, names: Mapping[str, str], kind: type[Number]
) -> dict[str, Number]:
    """Return the limit of each contender that has one: its own, else the one for all."""
    for_all: dict[str, Number] = {}
    own: dict[str, Number] = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        if equals and name not in names:
            raise UsageError(f"{option} {value}: there is no such contender. {did_you_mean(name, names)}")
        try:
            limit = kind(number)
        except ValueError:
            limit = kind(0)
        if limit <= 0:
            raise UsageError(f"{option} {value}: expected a number above 0, or NAME=NUMBER.")
        if equals:
            own[name] = limit
        else:
            for_all = dict.fromkeys(names, limit)
    return for_all | own


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{option} {text}: expected {form}.")
    return name, value


def _digest(weights: str | None) -> str | None:
    """Return what identifies encoder weights wherever their file lies."""
    if weights is None or weights == _TIMM:
        return weights
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
