import numpy as np
import pytest
from numpy.testing import assert_array_equal

from wafer.learning.clusters import ElbowClusters, knee


def _groups(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], [60, 40, 20])
    centres = np.array([[0.0, 0.0, 0.0, 0.0], [12.0, 0.0, 0.0, 0.0], [0.0, 12.0, 12.0, 0.0]])
    return centres[truth] + chance.normal(size=(120, 4)), truth


def test_elbow_finds_the_groups_that_are_there() -> None:
    """Three groups well apart give three clusters, numbered by size."""
    X, truth = _groups()
    clusters = ElbowClusters(max_clusters=6).fit(X)
    assert clusters.elbow_["k"].tolist() == [1, 2, 3, 4, 5, 6]
    assert clusters.elbow_.loc[clusters.elbow_["chosen"], "k"].tolist() == [3]
    assert_array_equal(clusters.predict(X), truth)
    assert clusters.elbow_["silhouette"].idxmax() == 2


def test_cluster_of_a_wafer_does_not_depend_on_its_batch() -> None:
    """Each wafer alone is assigned as in the batch."""
    X, _ = _groups(1)
    clusters = ElbowClusters(max_clusters=6).fit(X)
    alone = np.concatenate([clusters.predict(X[row : row + 1]) for row in range(len(X))])
    assert_array_equal(alone, clusters.predict(X))


@pytest.mark.parametrize("X", [np.zeros((5, 3)), np.array([[1.0, 2.0], [1.0, 2.0]])])
def test_wafers_without_difference_make_one_cluster(X: np.ndarray) -> None:
    """Identical wafers give one cluster and no error."""
    clusters = ElbowClusters().fit(X)
    assert len(clusters.centres_) == 1
    assert_array_equal(clusters.predict(X), np.zeros(len(X), int))


def test_knee_of_a_straight_line_is_its_start() -> None:
    """A curve without an elbow means one cluster."""
    assert knee([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0]) == 1
    assert knee([1, 2], [4.0, 1.0]) == 1
