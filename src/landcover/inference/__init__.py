"""From images and scenes to maps."""

from landcover.inference.image import predict_index, predict_probabilities
from landcover.inference.maps import predict
from landcover.inference.options import PredictOptions
from landcover.inference.results import Prediction

__all__ = ["PredictOptions", "Prediction", "predict", "predict_index", "predict_probabilities"]
