"""A procedural world: half-metre-like scenes with their land cover, made from a seed.

``layout`` draws the plan, ``textures`` the arrangement in each class, ``colours`` the colours, which alone
hardly separate classes, ``scene`` combines them with water, clouds and light. All use the random fields of
``noise``.
"""

from landcover.data.synthetic.scene import GSD, PARTS, Scene, make_dataset, make_scene, write_scene

__all__ = ["GSD", "PARTS", "Scene", "make_dataset", "make_scene", "write_scene"]
