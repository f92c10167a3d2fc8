"""Training: one configuration, one loop, one folder per run."""

from landcover.extras import needs

with needs("train"):
    from landcover.training.config import TrainConfig, load_preset, presets
    from landcover.training.session import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "load_preset", "presets", "train"]
