"""Groups of similar wafers: principal components, KMeans, and the number of clusters by the elbow of the inertia."""

import warnings
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.utils.validation import check_is_fitted

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class ElbowClusters(BaseEstimator):
    """KMeans on the leading principal components, with as many clusters as the elbow of the inertia shows.

    The elbow is found by kneed (Satopää et al., "Finding a 'kneedle' in a haystack", ICDCS Workshops 2011). A wafer is
    assigned by its own features alone, without matrix products, so that its cluster does not depend on the batch.

    Parameters:
        max_clusters: largest number of clusters tried, at least 1.
        components: principal components used, at least 1.
        seed: of KMeans' starts.

    Learned: `elbow_` (columns k, inertia, silhouette; the chosen k has `chosen`), `centres_`, `mean_`, `axes_`.
    """

    def __init__(self, *, max_clusters: int = 8, components: int = 10, seed: int = 0) -> None:
        self.max_clusters = max_clusters
        self.components = components
        self.seed = seed

    def fit(self, X: Floats, y: None = None) -> Self:
        """Find the clusters of `X`, shape (wafers, features), no missing values."""
        self.mean_: Floats = X.mean(axis=0)
        self.axes_: Floats = self._principal_axes(X - self.mean_)
        places = self._project(X)
        distinct = len(np.unique(places, axis=0))
        fits: dict[int, KMeans] = {}
        for k in range(1, min(self.max_clusters, distinct) + 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fits[k] = KMeans(k, n_init=4, random_state=self.seed).fit(places)
        inertia = [float(fit.inertia_) for fit in fits.values()]
        chosen = knee(list(fits), inertia)
        self.elbow_ = pd.DataFrame(
            {
                "k": list(fits),
                "inertia": inertia,
                "silhouette": [silhouette(places, fit.labels_, self.seed) for fit in fits.values()],
                "chosen": [k == chosen for k in fits],
            }
        )
        self.centres_: Floats = in_stable_order(fits[chosen])
        return self

    def predict(self, X: Floats) -> Integers:
        """The nearest cluster of each wafer, shape (wafers,)."""
        check_is_fitted(self)
        places = self._project(X)
        apart = np.stack([((places - centre) ** 2).sum(axis=1) for centre in self.centres_], axis=1)
        return np.asarray(np.argmin(apart, axis=1), dtype=np.int64)

    def _principal_axes(self, centred: Floats) -> Floats:
        _, size, axes = np.linalg.svd(centred, full_matrices=False)
        axes = axes[: min(self.components, len(size))]
        strongest = np.argmax(np.abs(axes), axis=1)
        signs = np.sign(axes[np.arange(len(axes)), strongest])
        return np.ascontiguousarray(axes * np.where(signs == 0, 1.0, signs)[:, None])

    def _project(self, X: Floats) -> Floats:
        centred = np.ascontiguousarray(X - self.mean_)
        product = np.empty_like(centred)
        return np.stack([np.multiply(centred, axis, out=product).sum(axis=1) for axis in self.axes_], axis=1)


def in_stable_order(fit: KMeans) -> Floats:
    """The centres, largest cluster first, so that numbers mean the same in every run."""
    sizes = np.bincount(fit.labels_, minlength=fit.n_clusters)
    ranking = np.lexsort((*fit.cluster_centers_.T[::-1], -sizes))
    return np.ascontiguousarray(fit.cluster_centers_[ranking])


def knee(numbers: list[int], inertia: list[float]) -> int:
    """The number of clusters at the elbow of a falling, convex curve; 1 where there is none to see."""
    if len(numbers) < 3 or inertia[0] <= 0:
        return numbers[0]
    from kneed import KneeLocator  # which loads matplotlib, and whoever scores needs neither

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = KneeLocator(numbers, inertia, curve="convex", direction="decreasing").knee
    return int(found) if found is not None else numbers[0]


def silhouette(places: Floats, labels: NDArray[np.int32], seed: int) -> float:
    """Mean silhouette of at most 2,000 wafers, -1 to 1; 0 where it is not defined (one cluster, or all alone).

    Rousseeuw, "Silhouettes: a graphical aid", J. Comp. Appl. Math. 20, 1987.
    """
    rows = np.arange(len(places))
    if len(rows) > 2000:
        rows = np.sort(np.random.default_rng(seed).choice(rows, 2000, replace=False))
    groups = len(np.unique(labels[rows]))
    if groups < 2 or groups >= len(rows):
        return 0.0
    return float(silhouette_score(places[rows], labels[rows]))


def profile(relative: Floats, cluster: Integers, sensors: Integers, *, most: int = 5) -> pd.DataFrame:
    """The sensors that set each cluster apart: columns cluster, sensor, shift, the strongest first.

    Parameters:
        relative: relative readings, shape (wafers, kept sensors).
        cluster: cluster of each wafer.
        sensors: the sensor behind each column.
        most: sensors a cluster, at most.

    Returns: `shift` is the cluster's mean less that of the other wafers, in standard deviations of all.
    """
    scale = relative.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    rows = []
    for number in np.unique(cluster):
        inside = cluster == number
        rest = relative[~inside] if not inside.all() else relative
        shift = (relative[inside].mean(axis=0) - rest.mean(axis=0)) / scale
        for column in np.argsort(-np.abs(shift), kind="stable")[:most]:
            rows.append({"cluster": int(number), "sensor": int(sensors[column]), "shift": float(shift[column])})
    return pd.DataFrame(rows)
