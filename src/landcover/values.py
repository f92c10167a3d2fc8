"""Values that users write as text, each parsed once into its own type."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self, cast, get_args

from landcover.errors import UsageError
from landcover.scale import check_gsd, unknown_gsd
from landcover.textfiles import parse_number

MaskFormat = Literal["palette", "rgb", "index"]
"""Form of PNG masks: indices with a palette, three bands of colours, or plain indices."""

Scaling = tuple[float, float] | Literal["percentile"]
"""The values that become 0 and 255, or the rule that finds them in the scene."""

Views = Literal[1, 2, 3, 8]
"""Views of each window whose probabilities are averaged (test-time augmentation): 1, the window; 2, also the
window enlarged 1.35 times; 3, also its mirror image; 8, its rotations by quarter turns, each also mirrored.
"""

VIEWS_HELP = (
    "Average the probabilities of 2, 3 or 8 views of each window; see predict. By default those of the "
    "model's card."
)
VIEWS_WORK: dict[int, float] = {1: 1, 2: 1 + 1.35**2, 3: 2 + 1.35**2, 8: 8}
"""Pixels that the network reads, in multiples of those of one view."""


@dataclass(frozen=True)
class _Measure:
    """A number of pixels or of the units ``GROUND`` (a pattern); ``WHAT``, ``SUCH_AS`` are for messages."""

    GROUND: ClassVar[str]
    WHAT: ClassVar[str]
    SUCH_AS: ClassVar[str]

    number: float
    unit: str

    @classmethod
    def parse(cls, text: str | Self, **others: int) -> Self:
        """Return the measure that a text stands for; ``others`` are values of further fields."""
        if isinstance(text, cls):
            return text
        match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*(px|{cls.GROUND})\s*", str(text), re.IGNORECASE)
        if match is None:
            raise UsageError(f"The {cls.WHAT} {text!r} is not valid. Write it as {cls.SUCH_AS}.")
        return cls(float(match[1]), match[2].lower(), **others)

    def __str__(self) -> str:
        return f"{self.number:.15g}{self.unit}"

    def known_gsd(self, gsd: float | None) -> float:
        """Return ``gsd``, which a measure on the ground needs; UsageError without a valid one."""
        if gsd is None:
            raise unknown_gsd(f"the map; the {self.WHAT} {self} needs it", "or give it in pixels (px)")
        return check_gsd(gsd)


@dataclass(frozen=True)
class RegionSize(_Measure):
    """Size below which a region of a map is small, in pixels or in square metres.

    ``strict``: no smaller region remains, see :func:`landcover.postprocess.sieve.decide`.
    """

    GROUND, WHAT, SUCH_AS = "m2|ha|km2", "region size", "8000px, 2000m2, 1ha or 0.5km2"

    strict: bool = False

    def __str__(self) -> str:
        return super().__str__() + (" strict" if self.strict else "")

    def pixels(self, gsd: float | None = None) -> int:
        """Return the least number of pixels that is not below the size, at least 1; areas need the GSD."""
        if self.unit == "px":
            return max(1, math.ceil(self.number))
        # Rounded, because 2000 / 0.1**2 is not exactly 200000.
        square_metres = self.number * {"m2": 1, "ha": 10_000, "km2": 1_000_000}[self.unit]
        return max(1, math.ceil(round(square_metres / self.known_gsd(gsd) ** 2, 6)))


@dataclass(frozen=True)
class Tolerance(_Measure):
    """How much outlines are simplified, in pixels or in metres, and the memory in MiB that it may take."""

    GROUND, WHAT, SUCH_AS = "m", "tolerance", "2m or 4px"

    max_memory_mb: int = 4096

    def pixels(self, gsd: float | None) -> float:
        """Return the tolerance in pixels of ``gsd`` metres."""
        return self.number if self.unit == "px" else self.number / self.known_gsd(gsd)


class BandSelection(tuple[int, ...]):
    """Numbers of bands from 1, in the order of a network's channels: red, green, blue, and perhaps others.

    Attributes:
        names: Names of the bands of a model, which a file may have elsewhere; empty for bands that the user
            or the data number.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: str | Iterable[int]) -> Self:
        """Return the bands that ``3,2,1`` stands for."""
        numbers = _numbers(value)
        if len(numbers) < 3 or not all(number.is_integer() and number >= 1 for number in numbers):
            raise UsageError(
                f"Bands {value!r}: expected three or more band numbers from 1, such as 3,2,1 or 3,2,1,4."
            )
        return cls(map(int, numbers))

    @classmethod
    def of_model(cls, numbers: Iterable[int], names: tuple[str, ...]) -> Self:
        """Return the bands of a model, by the numbers that they usually have and by name."""
        bands = cls(numbers)
        bands.names = names
        return bands


class BoundingBox(NamedTuple):
    """A box in the scene's coordinate reference system."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def parse(cls, value: str | Iterable[float]) -> Self:
        """Return the box that ``5.1,52.0,5.2,52.1`` stands for."""
        numbers = _numbers(value)
        if len(numbers) == 4 and all(map(math.isfinite, numbers)):
            box = cls(*numbers)
            if box.left < box.right and box.bottom < box.top:
                return box
        raise UsageError(
            f"Box {value!r}: expected LEFT,BOTTOM,RIGHT,TOP, with LEFT < RIGHT and BOTTOM < TOP, such as "
            "5.1,52.0,5.2,52.1."
        )


def parse_scaling(value: str | Iterable[float]) -> Scaling:
    """Return the scaling that ``0,3000`` or ``percentile`` stands for."""
    if isinstance(value, str) and value.strip().lower() == "percentile":
        return "percentile"
    numbers = _numbers(value)
    if len(numbers) == 2:
        low, high = numbers
        if low < high and 0 < 255 / (high - low) < math.inf:
            return low, high
    raise UsageError(f"Scaling {value!r}: expected MINIMUM,MAXIMUM with MINIMUM < MAXIMUM, or percentile.")


def check_views(number: int | None) -> Views | None:
    """Return a number of views; None stands for that of the model's card."""
    if number is not None and (isinstance(number, bool) or number not in get_args(Views)):
        raise UsageError(f"The number of views is {number!r}; expected 1, 2, 3 or 8.")
    return cast("Views | None", number)


def _numbers(value: str | Iterable[float]) -> list[float]:
    parts = [parse_number(part) for part in value.split(",")] if isinstance(value, str) else value
    try:
        return [float(part) for part in parts]  # type: ignore[arg-type]  # a TypeError for None
    except (TypeError, ValueError):
        return []


def points(score: float | None, digits: int = 2) -> str:
    """Return a score of 0..1 in percentage points, such as ``53.91``; ``-`` for None."""
    return "-" if score is None else f"{100 * score:.{digits}f}"
