"""What the imagery looks like that is trained on."""

from landcover.data import Item
from landcover.io.readahead import parallel_map
from landcover.legend import UInt8Array
from landcover.model.preprocessing import resample_image
from landcover.ood import WINDOW_PX, ImageryProfile, measure_profile
from landcover.training.material import Material
from landcover.training.validation import spread

_LEAST_IMAGES, _MOST_IMAGES = 100, 800
_WINDOWS = 2048
"""Large images are looked at in smaller number, so that decoding them takes some seconds."""


def learned_imagery(material: Material) -> ImageryProfile | None:
    """Describe a sample of the training images at the model's scale, unaugmented.

    Args:
        material: The data.

    Returns:
        The profile, the same for the same data; None where there are too few windows to tell.

    Raises:
        DataError: If an image cannot be read.
    """
    scale = material.data_gsd / material.model_gsd
    pixels = sum(entry.height * entry.width for entry in material.census) * scale**2
    windows = max(1.0, pixels / len(material.census) / WINDOW_PX**2)
    count = max(_LEAST_IMAGES, min(_MOST_IMAGES, round(_WINDOWS / windows)))

    def read(item: Item) -> UInt8Array:
        return resample_image(material.dataset.read_image(item), scale)

    return measure_profile(parallel_map(read, spread(material.train, count)))
