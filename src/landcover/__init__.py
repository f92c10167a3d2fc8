"""landcover: half-metre satellite imagery in, land-cover maps that can be trusted out.

The public names are imported on first use: ``import landcover`` loads none of the heavy libraries.
``__init__.pyi`` is the same list for type checkers and editors.
"""

from landcover.extras import lazy_names

__version__ = "0.2.0"

_HOMES = {
    "data": ["Dataset", "convert", "open_dataset", "prepare", "verify"],
    "errors": [
        *["ConfigError", "DataError", "ImageError", "LandcoverError", "LandcoverWarning", "MaskError"],
        *["MissingExtraError", "ModelError", "OutputError", "SplitError", "TrainingError", "UsageError"],
    ],
    "evaluation": [
        *["AssessmentReport", "CalibrationReport", "EvaluateOptions", "EvaluationReport", "evaluate"],
    ],
    "evaluation.assessment": ["TruthOptions", "assess"],
    "evaluation.sampling": ["sample"],
    "evaluation.temperature": ["calibrate"],
    "exporting": ["ExportOptions", "export"],
    "inference": ["PredictOptions", "predict"],
    "inference.model": ["MapResult", "Model", "open_model"],
    "legend": ["DEEPGLOBE", "LandClass", "Legend", "load_legend"],
    "postprocess.cleaning": ["clean"],
    "postprocess.vectorize": ["vectorize"],
    "raster.zonal": ["ClassArea"],
    "reporting": ["report"],
    "training": ["TrainConfig", "load_preset", "train"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
