"""A procedural world: half-metre-like scenes with their land cover, made from a seed.

``layout`` draws the plan, ``textures`` what stands on it, ``colours`` paints it so that colour alone tells
little, ``scene`` puts them together with water, clouds and light, ``dataset`` writes folders of them. All
rest on the random fields of ``noise``.
"""

from landcover.data.synthetic.dataset import PARTS, make_dataset
from landcover.data.synthetic.scene import GSD, Scene, make_scene, write_scene

__all__ = ["GSD", "PARTS", "Scene", "make_dataset", "make_scene", "write_scene"]
