"""Add the fingerprints of the training images to the cards of existing model files.

    python tools/add_fingerprints.py MODEL... --data DATA --split NAME:SUBSET

For models of landcover 0.1, whose cards do not record them. The images must be all that the model, its
teachers and its initial model were trained on; nothing can check that. Weights and graph stay bit for bit,
which is compared before a file is replaced.
"""

import argparse
import sys
from pathlib import Path

import onnx

from landcover.data import open_dataset, select
from landcover.data.fingerprints import image_set
from landcover.errors import LandcoverError, ModelError
from landcover.io.files import atomic_path
from landcover.model.card import (
    CARD_KEY,
    ImageSet,
    UsedImages,
    is_exported,
    read_card,
    read_model,
    save_model,
)


def add(path: Path, training: ImageSet) -> None:
    """Replace a model file by one whose card records the training images.

    Args:
        path: The model file, ``*.onnx`` or ``*.safetensors``.
        training: Fingerprints of its training images.

    Raises:
        ModelError: If the card records training images already, or weights or graph would change.
    """
    card = read_card(path)
    if card.used_images.training is not None:
        raise ModelError(f"The card of {path} records training images already.")
    card = card.model_copy(update={"used_images": UsedImages(training=training)})
    if not is_exported(path):
        save_model(path, read_model(path)[1], card, force=True)
        return
    model = onnx.load(path)
    graph = model.graph.SerializeToString(deterministic=True)
    (entry,) = [entry for entry in model.metadata_props if entry.key == CARD_KEY]
    entry.value = card.model_dump_json()
    with atomic_path(path, force=True) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        if onnx.load(temporary).graph.SerializeToString(deterministic=True) != graph:
            raise ModelError(f"The graph of {path} would change; the file was left as it was.")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="NAME:SUBSET, all images that were trained on")
    options = parser.parse_args()
    try:
        dataset = open_dataset(options.data)
        training = image_set(dataset, select(dataset, options.split))
        for path in options.models:
            add(path, training)
    except (LandcoverError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
