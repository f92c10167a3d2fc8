"""Scoring: a model or a folder of maps against the masks of a split."""

from landcover.evaluation.scoring import evaluate

__all__ = ["evaluate"]
