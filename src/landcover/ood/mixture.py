"""A mixture of Gaussians over features."""

from typing import NamedTuple

import numpy as np

from landcover._typing import Float64Array
from landcover.ood.features import FEATURES

_COMPONENTS = 4
_RIDGE = 0.03  # of each feature's variance: no direction is taken for narrower
_ROUNDS = 30

WINDOWS_PER_COMPONENT = 5 * len(FEATURES)
"""A Gaussian is fitted to no fewer."""


class Mixture(NamedTuple):
    """Gaussians: float64 (K,), (K, F) and (K, F, F)."""

    weights: Float64Array
    means: Float64Array
    covariances: Float64Array

    def logs(self, features: Float64Array) -> Float64Array:
        """Return the logarithm of each weighted density, float64 (N, K)."""
        apart = features[:, None] - self.means
        precisions = np.linalg.inv(self.covariances)
        squares = np.einsum("nki,kij,nkj->nk", apart, precisions, apart)
        volumes = np.linalg.slogdet(2 * np.pi * self.covariances).logabsdet
        result: Float64Array = np.log(self.weights) - (squares + volumes) / 2
        return result

    def distance(self, features: Float64Array) -> Float64Array:
        """Return -2 log density, float64 (N,)."""
        result: Float64Array = -2 * np.logaddexp.reduce(self.logs(features), axis=1)
        return result


def fit_mixture(features: Float64Array) -> Mixture:
    """Fit a mixture by expectation and maximisation (Dempster, Laird and Rubin 1977).

    It begins with equal parts by roughness, and each covariance has a ridge.
    """
    count = len(features)
    components = max(1, min(_COMPONENTS, count // WINDOWS_PER_COMPONENT))
    ridge = np.diag(_RIDGE * features.var(axis=0) + 1e-6)
    rank = np.argsort(np.argsort(features[:, FEATURES.index("roughness")], kind="stable"), kind="stable")
    shares = np.eye(components)[rank * components // count]
    for _ in range(_ROUNDS if components > 1 else 1):
        total = shares.sum(axis=0) + 1e-9
        means = shares.T @ features / total[:, None]
        apart = features[:, None] - means
        covariances = np.einsum("nk,nki,nkj->kij", shares, apart, apart, optimize=True)
        mixture = Mixture(total / total.sum(), means, covariances / total[:, None, None] + ridge)
        logs = mixture.logs(features)
        shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1)[:, None])
    return mixture
