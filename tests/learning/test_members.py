import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree._splitter import BestSplitter, RandomSplitter
from xgboost import XGBClassifier

from wafer.errors import ParameterError
from wafer.learning.forests import grow
from wafer.learning.jobs import derived_seed
from wafer.learning.members import MEMBERS, RandomForest, member

SETTINGS = {
    "extra_trees": {"n_estimators": 15, "min_samples_leaf": 2, "class_weight": "balanced_subsample"},
    "random_forest": {"n_estimators": 15, "max_depth": 4, "class_weight": "balanced_subsample", "columns": [1, 8]},
    "xgboost": {"n_estimators": 12, "max_depth": 3},
    "logistic": {"C": 0.1, "max_iter": 500, "columns": [0, 5]},
}


def _table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    F = chance.normal(size=(150, 8))
    return F, F[:, 0] + F[:, 1] * F[:, 2] + chance.normal(size=150) > 1


def test_frozen_forests_agree_with_scikit_learn() -> None:
    """A forest in XGBoost's predictor gives the probabilities of the forest that was fitted, in single precision."""
    F, faulty = _table()
    for kind, cls in (("extra_trees", ExtraTreesClassifier), ("random_forest", RandomForestClassifier)):
        options = {name: value for name, value in SETTINGS[kind].items() if name != "columns"}
        first = 1 if kind == "random_forest" else 0
        theirs = cls(random_state=7, **options).fit(F[:, first:], faulty).predict_proba(F[:, first:])[:, 1]
        assert_allclose(member(kind).fit(SETTINGS[kind], F, faulty, seed=7).score(F), theirs, atol=1e-7)


@pytest.mark.parametrize("faults", [2, 40])
@pytest.mark.parametrize(
    ("splitter", "theirs"), [(RandomSplitter, ExtraTreesClassifier), (BestSplitter, RandomForestClassifier)]
)
def test_grown_trees_are_scikit_learns(splitter: type, theirs: type, faults: int) -> None:
    """Trees and bags are bit by bit those of scikit-learn's forest, also where a bag holds no fault."""
    F = np.random.default_rng(3).normal(size=(150, 8)).astype(np.float32)
    faulty = np.arange(150) < faults
    for options in (
        {"class_weight": "balanced_subsample", "bootstrap": True, "min_samples_leaf": 2},
        {"class_weight": "balanced_subsample", "bootstrap": False, "max_features": 0.3},
        {"class_weight": None, "bootstrap": True, "max_features": "log2", "max_depth": 3},
    ):
        grown = grow(splitter, F, faulty, seed=11, n_estimators=12, **options)
        forest = theirs(12, random_state=11, **options).fit(F, faulty)
        for tree, bag, one, own in zip(*grown, forest.estimators_, forest.estimators_samples_, strict=True):
            assert_array_equal(bag, own)
            for name in ("feature", "threshold", "children_left", "children_right", "value", "weighted_n_node_samples"):
                assert_array_equal(getattr(tree, name), getattr(one.tree_, name))


def test_other_weights_of_classes_are_refused() -> None:
    """A weight that `grow` does not know is named, instead of taken for the one that it knows."""
    F, faulty = _table()
    with pytest.raises(ParameterError, match="balanced_subsample or None, got 'balanced'"):
        member("random_forest").fit({"class_weight": "balanced"}, F, faulty, seed=0)


def test_linear_and_boosted_scores_are_log_odds() -> None:
    """The logistic regression's and XGBoost's scores are the log-odds of the library's probabilities."""
    F, faulty = _table()
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(F[:, :5], faulty)
    expected = linear.decision_function(F[:, :5])
    assert_allclose(member("logistic").fit(SETTINGS["logistic"], F, faulty, seed=0).score(F), expected, atol=1e-9)
    boosted = XGBClassifier(random_state=3, n_jobs=1, tree_method="hist", **SETTINGS["xgboost"])
    probability = boosted.fit(F.astype(np.float32), faulty.astype(int)).predict_proba(F)[:, 1]
    score = member("xgboost").fit(SETTINGS["xgboost"], F, faulty, seed=3).score(F)
    assert_allclose(1 / (1 + np.exp(-score)), probability, rtol=1e-5)


@pytest.mark.parametrize("kind", list(MEMBERS))
def test_score_of_a_wafer_depends_on_nothing_else(kind: str) -> None:
    """Alone, in a batch and after saving, a wafer has the same score, bit by bit."""
    F, faulty = _table(1)
    one = member(kind).fit(SETTINGS[kind], F, faulty, seed=1)
    again = member(kind).restore(one.state())
    assert again.state() == one.state()
    whole = one.score(np.tile(F, (12, 1)))
    assert_array_equal(whole[:150], whole[-150:])
    assert_array_equal(np.concatenate([again.score(F[row : row + 1]) for row in range(len(F))]), whole[:150])
    assert one.kind == kind


def test_boosting_can_be_judged_after_fewer_rounds() -> None:
    """The scores of the stages are those of models trained with so many rounds."""
    F, faulty = _table()
    boosted, settings = member("xgboost"), {"n_estimators": 40, "max_depth": 3}
    staged = boosted.fit(settings, F, faulty, seed=0).staged_scores(F)
    for stage, score in zip(boosted.stages(settings), staged, strict=True):
        assert_array_equal(score, boosted.fit(stage, F, faulty, seed=0).score(F))


def test_unknown_kind_is_refused() -> None:
    """A kind that does not exist is named together with those that do."""
    with pytest.raises(ParameterError, match=r"extra_trees, random_forest, xgboost, logistic, got 'svm'"):
        member("svm")


def test_derived_seeds_differ_by_name_and_repeat() -> None:
    """The same names give the same seed, other names another."""
    assert derived_seed(0, "a", 1) == derived_seed(0, "a", 1)
    assert len({derived_seed(s, n) for s in range(3) for n in ("a", "b")}) == 6


def test_out_of_bag_score_is_of_trees_that_have_not_seen_the_wafer() -> None:
    """The out-of-bag score is scikit-learn's own, and says far less than the score of wafers seen."""
    F, faulty = _table()
    settings = {"n_estimators": 60, "class_weight": "balanced_subsample"}
    forest, score = RandomForest.fit_bagged(settings, F, faulty, seed=5)
    theirs = RandomForestClassifier(random_state=5, oob_score=True, **settings).fit(F, faulty)
    assert_allclose(score, theirs.oob_decision_function_[:, 1], rtol=1e-12)
    assert roc_auc_score(faulty, score) < roc_auc_score(faulty, forest.score(F)) == 1.0
