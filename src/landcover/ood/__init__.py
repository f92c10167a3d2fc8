"""Out-of-distribution score: whether imagery resembles the imagery that a model was trained on.

A network answers with confidence on imagery that differs from its training imagery: swapped bands, another
scale, haze, another sensor. An :class:`ImageryProfile` describes the training imagery at the model's scale as
a mixture of Gaussians over cheap statistics of windows (:data:`FEATURES`). A window is out of distribution if
its density under the mixture is lower than that of almost all training windows. A single Gaussian is not
enough: water and fields without texture widen it until it contains everything. Measured by
``benchmarks/ood.py``.
"""
