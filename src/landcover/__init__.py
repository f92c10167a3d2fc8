"""landcover: half-metre satellite imagery in, land-cover maps that can be trusted out.

The public names are imported on first use: ``import landcover`` loads none of the heavy libraries.
``__init__.pyi`` is the same list for type checkers and editors.
"""

from importlib import import_module

__version__ = "0.2.0"

_HOMES = {
    "landcover.data": ["Dataset", "convert", "open_dataset", "prepare", "verify"],
    "landcover.errors": [
        *["ConfigError", "DataError", "ImageError", "LandcoverError", "LandcoverWarning", "MaskError"],
        *["MissingExtraError", "ModelError", "OutputError", "SplitError", "TrainingError", "UsageError"],
    ],
    "landcover.evaluation": [
        *["AssessmentReport", "CalibrationReport", "EvaluateOptions", "EvaluationReport", "evaluate"],
    ],
    "landcover.evaluation.assessment": ["TruthOptions", "assess"],
    "landcover.evaluation.sampling": ["sample"],
    "landcover.evaluation.temperature": ["calibrate"],
    "landcover.exporting": ["ExportOptions", "export"],
    "landcover.inference": ["PredictOptions", "predict"],
    "landcover.inference.model": ["MapResult", "Model", "open_model"],
    "landcover.legend": ["DEEPGLOBE", "LandClass", "Legend", "load_legend"],
    "landcover.postprocess.cleaning": ["clean"],
    "landcover.postprocess.vectorize": ["vectorize"],
    "landcover.raster.zonal": ["ClassArea"],
    "landcover.reporting": ["report"],
    "landcover.training": ["TrainConfig", "load_preset", "train"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'landcover' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
