"""What an ONNX file says about itself."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from landcover import __version__
from landcover.model.card import CARD_KEY, ModelCard

# https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
_PIXELS = {
    "Image.BitmapPixelFormat": "Rgb8",
    "Image.ColorSpaceGamma": "SRGB",
    "Image.NominalPixelRange": "NominalRange_0_255",
}


def standard_entries(card: ModelCard) -> dict[str, str]:
    """Return the entries that ONNX defines for every model of images: pixel format and licence."""
    return {**_PIXELS, **({"model_license": card.licence} if card.licence else {})}


def write_model(
    path: Path, model: onnx.ModelProto, card: ModelCard, entries: Mapping[str, str] | None = None
) -> None:
    """Write an ONNX file that holds all it needs: graph, weights, card.

    Args:
        path: The file; one that is there is replaced.
        model: Graph and weights; its entries are replaced.
        card: Written under the key that :func:`landcover.model.card.read_card` looks for.
        entries: Further entries of ``metadata_props``.
    """
    classes = ", ".join(card.legend.scored_names)
    model.producer_name, model.producer_version = "landcover", __version__
    model.doc_string = (
        f"Land cover from RGB imagery of {card.preprocessing.gsd:g} m per pixel: {classes}. "
        f"The card is JSON under {CARD_KEY!r} in metadata_props."
    )
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json(), **(entries or {})})
    path.write_bytes(model.SerializeToString(deterministic=True))
