"""What the graph of an exported model must look like, whichever library runs it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from landcover.errors import ModelError

if TYPE_CHECKING:
    from landcover.model.card import ModelCard

PROBABILITIES, COARSE = OUTPUTS = ("probabilities", "coarse")
PROBE_PX = 64
"""Side of the image that :func:`checked_stride` asks the answers' shapes for."""

_INPUTS = {"image": "float32 (?, 3, ?, ?)"}


def signature(dtype: str, shape: Iterable[int | str | None]) -> str:
    """Write a tensor's type as text, ``?`` for a size that is free: ``float32 (?, 3, ?, ?)``."""
    return f"{dtype} ({', '.join(str(size) if isinstance(size, int) else '?' for size in shape)})"


def check_signatures(path: Path, inputs: Mapping[str, str], outputs: Collection[str]) -> None:
    """Compare what goes into and comes out of a model with what the runtimes rely on.

    Args:
        path: The model file, for the message.
        inputs: :func:`signature` of each input by name.
        outputs: Names of the outputs.

    Raises:
        ModelError: If the one input is not ``image`` of any size, or an output is missing.
    """
    if dict(inputs) != _INPUTS or not set(OUTPUTS) <= set(outputs):
        raise ModelError(
            f"{path} takes {_listed(inputs)} and gives {', '.join(outputs) or 'nothing'}; expected "
            f"{_listed(_INPUTS)} and {', '.join(OUTPUTS)}. A model exported for another program (--for qgis) "
            "differs on purpose; export the run again without."
        )


def checked_stride(path: Path, card: "ModelCard", shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the stride of the coarse answers, after a look at the shapes of both.

    Args:
        path: The model file, for the message.
        card: Its card.
        shapes: Shape of each output for one image of :data:`PROBE_PX` x :data:`PROBE_PX`.

    Raises:
        ModelError: If the channels are not the card's scored classes, or the sizes do not fit the image.
    """
    classes = len(card.legend.scored)
    side = shapes[COARSE][-1] if shapes[COARSE] else 0
    for name, size in ((PROBABILITIES, PROBE_PX), (COARSE, side)):
        if not size or PROBE_PX % size or tuple(shapes[name]) != (1, classes, size, size):
            whole = "a whole part of " if name == COARSE else ""
            raise ModelError(
                f"{path} answers an image of {PROBE_PX} x {PROBE_PX} px with {name} of "
                f"{tuple(shapes[name])}; expected 1 image, the {classes} scored classes of its card, and "
                f"{whole}{PROBE_PX} rows and columns. Card and graph do not belong together; export the run "
                "again."
            )
    return PROBE_PX // side


def _listed(inputs: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {text}" for name, text in inputs.items()) or "nothing"
