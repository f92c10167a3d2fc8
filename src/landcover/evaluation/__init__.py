"""Scores of models and maps on a split, accuracy and areas of a map, and calibration of a model."""

from landcover.evaluation.report import AssessmentReport, CalibrationReport, EvaluationReport
from landcover.evaluation.scoring import EvaluateOptions, evaluate

__all__ = ["AssessmentReport", "CalibrationReport", "EvaluateOptions", "EvaluationReport", "evaluate"]
