"""Scoring: a model or a folder of maps against the masks of a split, a map against points or polygons."""

from landcover.evaluation.report import AssessmentReport, EvaluationReport
from landcover.evaluation.scoring import EvaluateOptions, evaluate

__all__ = ["AssessmentReport", "EvaluateOptions", "EvaluationReport", "evaluate"]
