import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import roc_auc_score

from wafer.learning.experts import ExpertRules, evidence_weight, fit_experts
from wafer.learning.panel import fit_panel
from wafer.learning.search import Recipe, candidates, inner_folds

RULES = ExpertRules(min_cluster_faults=10, cluster_prior=20, search_budget=2, search_folds=3, trees=20)


def _clustered(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three clusters: in the first, feature 0 tells faults; in the second its opposite; the third has hardly any."""
    chance = np.random.default_rng(seed)
    F = chance.normal(size=(400, 6))
    cluster = np.repeat([0, 1, 2], [160, 160, 80])
    sign = np.array([1.0, -1.0, 0.0])[cluster]
    logit = np.where(cluster == 2, -6.0, 3.0 * sign * F[:, 0] - 1.5)
    return F, chance.random(400) < 1 / (1 + np.exp(-logit)), cluster


@pytest.mark.parametrize(
    ("faults", "auc", "prior", "weight"),
    [(30, 1.0, 30, 0.5), (30, 0.5, 30, 0.0), (30, 0.3, 30, 0.0), (40, 0.75, 60, 0.25), (10, 0.9, 0, 1.0)],
)
def test_weight_grows_with_evidence(faults: int, auc: float, prior: int, weight: float) -> None:
    """Faults count as far as they are told; chance counts nothing; without a prior the expert decides alone."""
    assert evidence_weight(faults, auc, prior) == pytest.approx(weight)


def test_clusters_with_faults_get_the_better_candidate() -> None:
    """Each cluster with enough faults has a forest or a booster of its own, the other is left to the panel."""
    F, faulty, cluster = _clustered()
    experts, table = fit_experts(F, faulty, cluster, 3, RULES, seed=0, n_jobs=1)
    assert sorted(experts.models) == [0, 1]
    assert table["model"].iloc[2] == "pooled"
    assert set(table["model"].iloc[:2]) <= {"random_forest", "xgboost"}
    assert (table["auc"].iloc[:2] > 0.8).all()
    assert table["weight"].tolist() == [experts.weights[0], experts.weights[1], 0.0]
    assert table["wafers"].tolist() == [160, 160, 80]


def test_experts_help_where_clusters_differ() -> None:
    """Where the same reading means the opposite in another cluster, experts tell new wafers better than the panel."""
    F, faulty, cluster = _clustered()
    recipe = Recipe("logistic", {"C": 1.0, "max_iter": 200})
    panel = fit_panel([recipe], F, faulty, inner_folds(faulty, 3, 0), seed=0, n_jobs=1)
    experts, _ = fit_experts(F, faulty, cluster, 3, RULES, seed=0, n_jobs=1)
    new, truth, where = _clustered(1)
    pooled = panel.logit(new)
    assert roc_auc_score(truth, experts.logit(pooled, new, where)) > roc_auc_score(truth, pooled) + 0.1


def test_one_cluster_needs_no_expert() -> None:
    """Without clusters the panel serves alone."""
    F, faulty, _ = _clustered()
    experts, table = fit_experts(F, faulty, np.zeros(400, np.int64), 1, RULES, seed=0, n_jobs=1)
    assert_array_equal(experts.logit(F[:, 0], F, np.zeros(400, np.int64)), F[:, 0])
    assert table["model"].tolist() == ["pooled"]


def test_candidates_are_seeded_and_start_plain() -> None:
    """The first recipe of each kind is the plain one; draws repeat by seed and do not repeat among themselves."""
    recipes = candidates(("random_forest", "xgboost"), 3, 5, 20)
    assert [recipe.kind for recipe in recipes] == ["random_forest"] * 3 + ["xgboost"] * 3
    assert recipes == candidates(("random_forest", "xgboost"), 3, 5, 20)
    assert recipes[0].settings["min_samples_leaf"] == 3
    assert len({str(recipe.settings) for recipe in recipes}) == 6
