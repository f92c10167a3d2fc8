"""From images and scenes to maps."""

from landcover.inference.engine import predict_index, predict_probabilities
from landcover.inference.maps import Prediction, predict
from landcover.inference.options import PredictOptions

__all__ = ["PredictOptions", "Prediction", "predict", "predict_index", "predict_probabilities"]
