"""From images to maps."""

from landcover.inference.image import predict_index, predict_probabilities

__all__ = ["predict_index", "predict_probabilities"]
