import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import roc_auc_score

from wafer.learning.experts import ExpertRules, evidence_weight, fit_experts, helps
from wafer.learning.model import WaferModel
from wafer.learning.panel import Panel, fit_panel
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


def _panel(F: np.ndarray, faulty: np.ndarray) -> Panel:
    recipe = Recipe("logistic", {"C": 1.0, "max_iter": 200})
    return fit_panel([recipe], F, faulty, inner_folds(faulty, 3, 0), seed=0, n_jobs=1)


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
    experts, table = fit_experts(F, faulty, _panel(F, faulty).outside, cluster, 3, RULES, seed=0, n_jobs=1)
    assert sorted(experts.models) == [0, 1]
    assert table["model"].iloc[2] == "pooled"
    assert set(table["model"].iloc[:2]) <= {"random_forest", "xgboost"}
    assert (table["auc"].iloc[:2] > 0.8).all()
    assert (table["weight"].iloc[:2] > 0.4).all()
    assert table["weight"].tolist() == [experts.weights[0], experts.weights[1], 0.0]
    assert table["wafers"].tolist() == [160, 160, 80]


def test_experts_help_where_clusters_differ() -> None:
    """Where the same reading means the opposite in another cluster, experts tell new wafers better than the panel."""
    F, faulty, cluster = _clustered()
    panel = _panel(F, faulty)
    experts, _ = fit_experts(F, faulty, panel.outside, cluster, 3, RULES, seed=0, n_jobs=1)
    new, truth, where = _clustered(1)
    pooled = panel.logit(new)
    assert roc_auc_score(truth, experts.logit(pooled, new, where)) > roc_auc_score(truth, pooled) + 0.1


@pytest.mark.parametrize("seed", range(2))
def test_experts_vanish_where_clusters_say_nothing(seed: int) -> None:
    """In clusters drawn at random the same readings tell faults: each expert does well alone, and weighs exactly 0."""
    F, _, _ = _clustered(seed)
    chance = np.random.default_rng(100 + seed)
    faulty = chance.random(400) < 1 / (1 + np.exp(1.5 - 3.0 * F[:, 0]))
    cluster = chance.integers(0, 3, 400)
    pooled = _panel(F, faulty).outside
    experts, table = fit_experts(F, faulty, pooled, cluster, 3, RULES, seed=0, n_jobs=1)
    assert len(experts.models) == 3
    assert (table["auc"] > 0.7).all()
    assert table["weight"].tolist() == [0.0, 0.0, 0.0]
    assert_array_equal(experts.logit(pooled, F, cluster), pooled)


def test_a_model_of_useless_clusters_is_one_without_experts() -> None:
    """Clear clusters, labels that nothing tells: probabilities are, to the bit, those of a model without experts."""
    chance = np.random.default_rng(0)
    group = chance.integers(0, 3, 240)
    X = chance.normal(size=(240, 12)) + 8.0 * np.eye(3)[group][:, np.repeat([0, 1, 2], 4)]
    y = np.where(chance.random(240) < 0.2, 1, -1)
    recipe = {"trees": 10, "search_budget": 1, "max_clusters": 5, "calibration_folds": 2}
    model = WaferModel(**recipe, min_cluster_faults=5).fit(X, y)
    alone = WaferModel(**recipe, min_cluster_faults=10_000).fit(X, y)
    assert (model.clusters_["model"] != "pooled").all() and len(model.clusters_) == 3
    assert model.clusters_["weight"].tolist() == [0.0] * 3
    assert_array_equal(model.predict_proba(X), alone.predict_proba(X))
    assert model.threshold_ == alone.threshold_


def test_help_is_told_from_chance() -> None:
    """What makes each fault likelier and nothing else helps; what three wafers gain does not, among many tries."""
    faulty = np.arange(100) < 20
    pooled = np.full(100, -1.4)
    assert helps(pooled, np.where(faulty, 0.0, -2.0), faulty, 30)
    assert not helps(pooled, pooled, faulty, 1)
    lucky = np.where(np.arange(100) < 3, 1.0, pooled)
    assert helps(pooled, lucky, faulty, 1)
    assert not helps(pooled, lucky, faulty, 30)


def test_one_cluster_needs_no_expert() -> None:
    """Without clusters the panel serves alone."""
    F, faulty, _ = _clustered()
    alone = np.zeros(400)
    experts, table = fit_experts(F, faulty, alone, np.zeros(400, np.int64), 1, RULES, seed=0, n_jobs=1)
    assert_array_equal(experts.logit(F[:, 0], F, np.zeros(400, np.int64)), F[:, 0])
    assert table["model"].tolist() == ["pooled"]


def test_candidates_are_seeded_and_start_plain() -> None:
    """The first recipe of each kind is the plain one; draws repeat by seed and do not repeat among themselves."""
    recipes = candidates(("random_forest", "xgboost"), 3, 5, 20)
    assert [recipe.kind for recipe in recipes] == ["random_forest"] * 3 + ["xgboost"] * 3
    assert recipes == candidates(("random_forest", "xgboost"), 3, 5, 20)
    assert recipes[0].settings["min_samples_leaf"] == 3
    assert len({str(recipe.settings) for recipe in recipes}) == 6
