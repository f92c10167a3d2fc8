"""Classes, their colours and their order: the only definition of labels.

A class index is a position in the legend. Models predict the *scored* classes only, one channel each.
``NODATA`` marks pixels outside the imagery and is not a class.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from landcover._typing import UInt8Array
from landcover.config import Config, from_mapping
from landcover.errors import ConfigError, UsageError, did_you_mean, is_plain
from landcover.textfiles import read_yaml

NODATA = 255
"""Value of pixels outside the imagery in index rasters."""

IGNORE = 255
"""Training target of pixels that losses and metrics ignore."""

CLASS_NAMES = "CLASS_NAMES"
"""Tag of map files that holds :attr:`Legend.listing`."""

LEGEND = "LANDCOVER_LEGEND"
"""Tag of map files that holds :meth:`Legend.to_dict` as JSON."""

_LISTED = re.compile(r"(\d+)=(.*?)(?:,(?=\d+=)|$)")
Value = Annotated[int, Field(ge=-(2**31), lt=2**32)]

_SHOWN = 80
"""Characters of a tag that a message shows."""


def _as_tuple(given: object) -> object:
    if given is None:
        return ()
    return (given,) if isinstance(given, int) else tuple(given) if isinstance(given, list) else given


@dataclass(frozen=True, slots=True)
class LandClass:
    """One class.

    Attributes:
        name: Its name.
        colour: RGB, 0..255 each.
        values: Its values in class rasters, such as (10, 11); empty if that is its index.

    Example:
        >>> lc.LandClass("forest", (0, 255, 0)).colour
        (0, 255, 0)
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    colour: Annotated[tuple[int, int, int], Field(validation_alias=AliasChoices("colour", "color"))]
    values: Annotated[
        tuple[Value, ...],
        Field(validation_alias=AliasChoices("values", "value")),  # version 0.1: one value, or None
        BeforeValidator(_as_tuple),
    ] = ()


class _LegendFile(Config):
    """A legend as YAML and JSON hold it: the unknown class is given by its name."""

    name: str = "custom"
    classes: tuple[LandClass, ...]
    unknown: str | None = None
    ignore: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Legend:
    """Names, colours and index order of the classes, and which of them is "unknown".

    Attributes:
        name: Name of the legend, such as ``deepglobe``.
        classes: The classes in index order, at most 255.
        unknown: Index of the class that is never scored, or None if all classes are scored.
        ignore: Values of class rasters for nodata, beside 255 where the classes list no values.

    Raises:
        ConfigError: If names, colours or values repeat, only some classes list values, a name has control
            characters, a colour is out of range, or ``unknown`` is not an index.

    Example:
        >>> classes = (lc.LandClass("land", (0, 99, 0)), lc.LandClass("sea", (0, 0, 255)))
        >>> lc.Legend("coast", classes, unknown=None).names
        ('land', 'sea')
        >>> lc.DEEPGLOBE.scored_names[:2]
        ('urban', 'agriculture')
    """

    name: str
    classes: tuple[LandClass, ...]
    unknown: int | None
    ignore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= 255:
            raise ConfigError(f"Legend {self.name!r} has {len(self.classes)} classes; expected 2 to 255.")
        for what in ("name", "colour"):
            values = [getattr(entry, what) for entry in self.classes]
            repeated = [value for value in values if values.count(value) > 1]
            if repeated:
                raise ConfigError(f"Legend {self.name!r} uses the {what} {repeated[0]} more than once.")
        for name in (self.name, *self.names):
            if not is_plain(name):  # it would reach terminals
                raise ConfigError(f"Name {name!r} of a legend or class: expected no control characters.")
        for entry in self.classes:
            if len(entry.colour) != 3 or not all(0 <= value <= 255 for value in entry.colour):
                raise ConfigError(
                    f"Class {entry.name!r} has the colour {entry.colour}; expected 3 values in 0..255."
                )
        if self.unknown is not None and not 0 <= self.unknown < len(self.classes):
            raise ConfigError(
                f"Legend {self.name!r} has unknown={self.unknown}; expected 0 to {len(self.classes) - 1}."
            )
        without = [c.name for i, c in enumerate(self.classes) if not c.values and i != self.unknown]
        if without and self.lists_values:
            raise ConfigError(
                f"Legend {self.name!r} lists values of some classes, but not of {without[0]!r}; expected "
                "values of all or of none."
            )
        values = [*self.ignore, *(value for c in self.classes for value in c.values)]
        if not self.lists_values:
            values += range(len(self.classes))
        if repeated_values := [value for value in values if values.count(value) > 1]:
            raise ConfigError(
                f"Legend {self.name!r} uses the value {repeated_values[0]} more than once; expected each in "
                "one class or in ignore. A class without values has its index."
            )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(c.name for c in self.classes)

    @property
    def scored(self) -> tuple[int, ...]:
        """Indices of the scored classes, in the order of the model's channels."""
        return tuple(i for i in range(len(self.classes)) if i != self.unknown)

    @property
    def scored_names(self) -> tuple[str, ...]:
        """Names of the scored classes, in the order of the model's channels."""
        return tuple(self.names[i] for i in self.scored)

    @property
    def lists_values(self) -> bool:
        """Whether the classes have values of their own in class rasters, in place of their indices."""
        return any(c.values for c in self.classes)

    @cached_property
    def class_of_value(self) -> dict[int, int]:
        """Class index, or NODATA, of each value that class rasters may have."""
        table = dict.fromkeys(self.ignore, NODATA)
        if self.lists_values:
            return table | {value: index for index, c in enumerate(self.classes) for value in c.values}
        return {NODATA: NODATA} | table | {index: index for index in range(len(self.classes))}

    @property
    def of_maps(self) -> "Legend":
        """The legend of maps, whose values are indices: without values and ignored values."""
        if not (self.lists_values or self.ignore):
            return self
        return Legend(self.name, tuple(replace(c, values=()) for c in self.classes), self.unknown)

    @property
    def listing(self) -> str:
        """The classes as ``0=urban,1=agriculture,…``: the tag :data:`CLASS_NAMES` of maps."""
        return ",".join(f"{index}={name}" for index, name in enumerate(self.names))

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which a map file carries its legend; :meth:`from_tags` reads them."""
        return {CLASS_NAMES: self.listing, LEGEND: json.dumps(self.of_maps.to_dict())}

    @cached_property
    def colours(self) -> UInt8Array:
        """uint8 (256, 3): colour of each index; black if it is not a class."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.classes)] = [c.colour for c in self.classes]
        return table

    @cached_property
    def channels(self) -> UInt8Array:
        """uint8 (256,): the model's channel of each index; ``IGNORE`` if it is unknown or not a class."""
        table = np.full(256, IGNORE, np.uint8)
        table[list(self.scored)] = np.arange(len(self.scored), dtype=np.uint8)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads and YAML and JSON can hold.

        Example:
            >>> lc.DEEPGLOBE.to_dict()["unknown"]
            'unknown'
        """
        classes: list[dict[str, Any]] = [{"name": c.name, "colour": list(c.colour)} for c in self.classes]
        for entry, c in zip(classes, self.classes, strict=True):
            if c.values:
                entry["values"] = list(c.values)
        unknown = None if self.unknown is None else self.names[self.unknown]
        ignore = {"ignore": list(self.ignore)} if self.ignore else {}
        return {"name": self.name, "classes": classes, "unknown": unknown, **ignore}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "legend") -> "Legend":
        """Build a legend from ``{name, classes: [{name, colour: [r, g, b]}], unknown: NAME or null}``.

        A class may have ``values: [...]``, the legend ``ignore: [...]``.

        Args:
            data: Plain data; ``color`` is accepted for ``colour``.
            source: What error messages call the data, such as the path of its file.

        Raises:
            ConfigError: If a key is missing, unknown or of the wrong type; the message names it.

        Example:
            >>> lc.Legend.from_dict(lc.DEEPGLOBE.to_dict()) == lc.DEEPGLOBE
            True
        """
        legend = from_mapping(_LegendFile, data, source)
        names = [entry.name for entry in legend.classes]
        if legend.unknown is not None and legend.unknown not in names:
            raise ConfigError(
                f"{source}: the unknown class {legend.unknown!r} is not one of the classes. "
                f"{did_you_mean(legend.unknown, names)}"
            )
        unknown = None if legend.unknown is None else names.index(legend.unknown)
        try:
            return cls(legend.name, legend.classes, unknown, legend.ignore)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def from_tags(
        cls, tags: Mapping[str, str], palette: Mapping[int, Sequence[int]], source: str
    ) -> "Legend | None":
        """Return the legend that a map file carries; None if its tags name no classes.

        Args:
            tags: Tags of the file. Where only :data:`CLASS_NAMES` is there, the legend is the built-in one
                with these classes, else it has the colours of the palette and no unknown class.
            palette: RGB of each value of the file; without an entry for each class colours are greys.
            source: The file, for messages.

        Raises:
            ConfigError: If the tags are damaged.

        Example:
            >>> lc.Legend.from_tags(lc.DEEPGLOBE.tags, {}, "map.tif") == lc.DEEPGLOBE
            True
        """
        listing, content = tags.get(CLASS_NAMES), tags.get(LEGEND)
        if listing is None:
            return None
        if content is not None:
            try:
                legend = cls.from_dict(json.loads(content), f"{source}: tag {LEGEND}")
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{source} has the tag {LEGEND}, which is not JSON.") from error
            if legend.listing != listing:
                raise ConfigError(
                    f"{source} has the tag {CLASS_NAMES}={listing[:_SHOWN]!r}, but its tag {LEGEND} has "
                    f"{legend.listing[:_SHOWN]!r}; expected the same classes."
                )
            return legend
        for legend in BUILT_IN.values():
            if legend.listing == listing:
                return legend
        found = _LISTED.findall(listing)
        in_order = [int(number) for number, _ in found] == list(range(len(found)))
        if not (in_order and 2 <= len(found) <= NODATA and is_plain(listing)):
            raise ConfigError(
                f"{source} has the tag {CLASS_NAMES}={listing[:_SHOWN]!r}; expected 0=NAME,1=NAME,… in index "
                "order."
            )
        colours = [tuple(palette[i][:3]) for i in range(len(found)) if i in palette]
        if len(set(colours)) < len(found):
            colours = [(grey,) * 3 for grey in np.linspace(0, 255, len(found)).astype(int).tolist()]
        classes = (LandClass(name, colour) for (_, name), colour in zip(found, colours, strict=True))  # type: ignore[arg-type]
        return cls("of the map", tuple(classes), None)


LegendField = Annotated[
    Legend,
    PlainValidator(lambda value: value if isinstance(value, Legend) else Legend.from_dict(value)),
    PlainSerializer(Legend.to_dict),
]
"""A field of a pydantic model: a legend, in JSON :meth:`Legend.to_dict`."""

DEEPGLOBE = Legend(
    name="deepglobe",
    classes=(
        LandClass("urban", (0, 255, 255)),
        LandClass("agriculture", (255, 255, 0)),
        LandClass("rangeland", (255, 0, 255)),
        LandClass("forest", (0, 255, 0)),
        LandClass("water", (0, 0, 255)),
        LandClass("barren", (255, 255, 255)),
        LandClass("unknown", (0, 0, 0)),
    ),
    unknown=6,
)
"""The seven classes of the DeepGlobe 2018 Land Cover Classification Challenge."""

BUILT_IN: Mapping[str, Legend] = {"deepglobe": DEEPGLOBE}


def load_legend(source: str | Path) -> Legend:
    """Return a built-in legend by name, or read one from a YAML file.

    Raises:
        UsageError: If ``source`` is neither a built-in name nor a file.
        ConfigError: If the file does not hold a legend.

    Example:
        >>> lc.load_legend("deepglobe") is lc.DEEPGLOBE
        True
    """
    if str(source) in BUILT_IN:
        return BUILT_IN[str(source)]
    path = Path(source)
    if not path.exists():
        hint = did_you_mean(str(source), BUILT_IN)
        raise UsageError(f"Legend {str(source)!r} is neither a YAML file nor built in. {hint}")
    return Legend.from_dict(read_yaml(path), str(path))


def translation(source: Legend, target: Legend) -> UInt8Array:
    """Return the index in ``target`` of each index of ``source``, by class name: uint8 (256,).

    Unknown becomes unknown whatever its name, NODATA where ``target`` has no unknown; NODATA stays.
    """
    if set(source.scored_names) != set(target.scored_names):
        raise UsageError(
            f"Legend {source.name!r} has the classes {', '.join(source.scored_names)}, legend "
            f"{target.name!r} {', '.join(target.scored_names)}; expected the same, in any order. "
            "Pass the right one with --legend (for predictions --prediction-legend)."
        )
    return index_by_name(source, target)


def index_by_name(source: Legend, target: Legend) -> UInt8Array:
    """Return :func:`translation` where ``target`` may have further classes than ``source``."""
    table = np.full(256, NODATA, np.uint8)
    for index in source.scored:
        table[index] = target.names.index(source.names[index])
    if source.unknown is not None and target.unknown is not None:
        table[source.unknown] = target.unknown
    return table
