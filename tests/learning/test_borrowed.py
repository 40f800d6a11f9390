"""Classifiers of scikit-learn's in a wafer model and in its place, and the production order on its way to them."""

from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from tests.learning.test_experts import RULES, _clustered, _panel
from wafer.errors import HandOverError, ModelError, ParameterError
from wafer.learning.borrowed import fault_score, settled
from wafer.learning.decision import Policy
from wafer.learning.evaluation import forward_scores, forward_splits, shuffled_scores, shuffled_splits
from wafer.learning.experts import fit_experts
from wafer.learning.model import WaferModel
from wafer.learning.saved import classifier_parts
from wafer.learning.whole import PolicyClassifier

Scaled = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=0.01, max_iter=500))


class InOrder(ClassifierMixin, BaseEstimator):
    """Expects the order of each wafer in its first reading, and says of each how much later than training it came."""

    def fit(self, X: Any, y: Any, order: Any = None) -> Self:
        """Look at the order."""
        assert_array_equal(np.asarray(X)[:, 0], order)
        self.classes_, self.last_ = np.unique(y), order.max()
        return self

    def predict_proba(self, X: Any, order: Any = None) -> Any:
        """Look at the order again."""
        assert_array_equal(np.asarray(X)[:, 0], order)
        later = (order > self.last_).astype(float)
        return np.column_stack([1 - later, later])


class Stamped(TransformerMixin, BaseEstimator):
    """Expects the order of each wafer in its first reading."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Nothing."""
        return self

    def fit_transform(self, X: Any, y: Any = None, order: Any = None) -> Any:
        """As scikit-learn asks for, where a transform takes more than readings."""
        return self.transform(X, order)

    def transform(self, X: Any, order: Any = None) -> Any:
        """Look at the order."""
        assert_array_equal(np.asarray(X)[:, 0], order)
        return X


def asking(estimator: Any, *methods: str, order: Any = True) -> Any:
    """`estimator`, which requests the order in these methods."""
    with config_context(enable_metadata_routing=True):
        for method in methods:
            getattr(estimator, f"set_{method}_request")(order=order)
    return estimator


def stamped(wafers: Any) -> Any:
    """The wafers with their production order as the first reading, in no sequence."""
    rows = np.random.default_rng(1).permutation(len(wafers.y))
    X = wafers.X.to_numpy()[rows].copy()
    X[:, 0] = wafers.order[rows]
    return X, wafers.y[rows], wafers.order[rows], wafers.batch[rows]


Both = ("fit", "predict_proba")


@pytest.mark.parametrize(
    "model",
    [
        InOrder(),
        asking(InOrder(), *Both),
        make_pipeline(FunctionTransformer(), asking(InOrder(), *Both)),
        make_pipeline(FunctionTransformer(), make_pipeline(asking(InOrder(), *Both))),
        make_pipeline(asking(Stamped(), "transform"), asking(InOrder(), *Both)),
        PolicyClassifier(make_pipeline(FunctionTransformer(), asking(InOrder(), *Both)), folds=2, window=40),
        PolicyClassifier(InOrder(), folds=2, window=40),
    ],
    ids=["bare", "bare and asking", "in a pipeline", "nested", "in a step before", "with a policy", "bare, with one"],
)
def test_the_order_of_the_right_wafers_arrives_in_every_fold(model: Any, wafers: Any) -> None:
    """Whoever takes or requests the order gets that of the wafers at hand, and forward no later wafer is trained on."""
    X, y, order, batch = stamped(wafers)
    shuffled = shuffled_scores(model, X, y, order, folds=3, repeats=1)
    assert_array_equal(np.sort(shuffled["row"]), np.arange(240))
    forward = forward_scores(model, X, y, order, batch, first_batch=4)
    assert len(forward) == 120
    assert (forward["probability"] == 1.0).all()  # each wafer comes after all of its training


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            make_pipeline(InOrder()),
            r"InOrder within Pipeline takes the production order in fit and does not say whether it wants it: "
            r"set_fit_request\(order=True\) asks for it, order=False goes without",
        ),
        (make_pipeline(asking(InOrder(), "fit")), "in predict_proba and does not say whether it wants it"),
        (
            CalibratedClassifierCV(asking(InOrder(), *Both), cv=2),
            "which does not reach it: CalibratedClassifierCV hands on none in predict_proba",
        ),
        (AdaBoostClassifier(asking(InOrder(), "fit")), "AdaBoostClassifier hands on none in fit"),
        (
            Pipeline([("all", VotingClassifier([("a", AdaBoostClassifier(asking(InOrder(), "fit"))), ("b", Scaled)]))]),
            "InOrder within Pipeline requests .* VotingClassifier hands on none|Pipeline hands on none in fit",
        ),
        (WaferModel(members=[asking(InOrder(), *Both)]), "InOrder within WaferModel requests .* WaferModel hands on"),
        (make_pipeline(asking(InOrder(), "fit", order="sequence")), "Pipeline hands on none in fit"),
    ],
)
def test_an_order_that_would_be_lost_is_an_error(model: Any, told: str, wafers: Any) -> None:
    """A part that requests the order and would not get it, or takes it and does not say, is named."""
    X, y, order, _ = stamped(wafers)
    with pytest.raises(ParameterError, match=told):
        shuffled_scores(model, X, y, order, folds=2, repeats=1)


def test_an_order_that_is_not_there_cannot_be_requested(wafers: Any) -> None:
    """A classifier that requests the order is not fitted on wafers of which it is not known."""
    X, y, _, _ = stamped(wafers)
    for model in (asking(InOrder(), *Both), make_pipeline(asking(InOrder(), *Both))):
        with pytest.raises(ParameterError, match="requests the production order in fit, and none is given"):
            shuffled_scores(model, X, y, None, folds=2, repeats=1)


def test_an_order_that_is_not_wanted_is_not_given(wafers: Any, quick: dict[str, int]) -> None:
    """A wafer model that says so, bare or as a step of a pipeline, is fitted without the order."""
    split = forward_splits(wafers.y, wafers.order, wafers.batch, first_batch=6)[0]
    alone = WaferModel(**quick).fit(wafers.X.iloc[split.train], wafers.y[split.train])
    expected = alone.predict_proba(wafers.X.iloc[split.test])[:, 1]
    without = asking(WaferModel(**quick), *Both, order=False)
    for model in (without, make_pipeline(without)):
        assert_array_equal(forward_scores(model, *wafers, first_batch=6)["probability"], expected)


def test_a_wafer_model_in_a_pipeline_is_the_wafer_model(wafers: Any, quick: dict[str, int]) -> None:
    """As the step of a pipeline that requests the order, it scores bit for bit as it does by itself."""
    one = forward_scores(WaferModel(**quick), *wafers, first_batch=6)
    other = forward_scores(make_pipeline(asking(WaferModel(**quick), *Both)), *wafers, first_batch=6)
    assert_array_equal(one["probability"], other["probability"])


def test_a_pipeline_as_the_whole_model(wafers: Any) -> None:
    """It scores as it would by hand, and alarms as its policy says of what it had not seen."""
    policy = Policy(alarm_rate_ceiling=0.2)
    scores = shuffled_scores(PolicyClassifier(Scaled, policy=policy), *wafers[:3], folds=3, repeats=1)
    split = shuffled_splits(wafers.y, folds=3, repeats=1)[2]
    by_hand = Scaled.fit(wafers.X.iloc[split.train], wafers.y[split.train]).predict_proba(wafers.X.iloc[split.test])
    assert_allclose(scores.loc[scores["fold"] == "2", "probability"], by_hand[:, 1], atol=1e-12)
    fitted = PolicyClassifier(Scaled, policy=policy, window=60).fit(wafers.X, wafers.y, wafers.order)
    held = fitted.held_out_
    assert held["protocol"].value_counts().to_dict() == {"out_of_fold": 120, "backtest": 60}
    assert fitted.threshold_ == policy.fixed_threshold(held["probability"].to_numpy())
    past = Scaled.fit(wafers.X.iloc[:180], wafers.y[:180]).predict_proba(wafers.X.iloc[180:210])[:, 1]
    assert_allclose(held.loc[held["protocol"] == "backtest", "probability"][:30], past, atol=1e-12)
    assert_array_equal(fitted.predict(wafers.X) == 1, fitted.predict_proba(wafers.X)[:, 1] >= fitted.threshold_)


def test_a_threshold_of_the_classifiers_own_is_kept(wafers: Any) -> None:
    """What `predict` calls faulty is an alarm, whichever side of one half the probability lies on."""
    model = FixedThresholdClassifier(Scaled, threshold=0.02, response_method="predict_proba")
    scores = shuffled_scores(model, *wafers[:3], folds=2, repeats=1)
    assert_array_equal(scores["alarm"], scores["probability"] >= 0.02)
    assert scores["alarm"].sum() > (scores["probability"] >= 0.5).sum()


def test_a_classifier_without_probabilities_is_scored_all_the_same(wafers: Any) -> None:
    """Of a decision function the logistic function is taken, so that 0 becomes 0.5."""
    model = make_pipeline(SimpleImputer(), StandardScaler(), LinearSVC())
    scores = shuffled_scores(model, *wafers[:3], folds=2, repeats=1)
    split = shuffled_splits(wafers.y, folds=2, repeats=1)[0]
    fitted = model.fit(wafers.X.iloc[split.train], wafers.y[split.train])
    assert_array_equal(scores["alarm"][:120], fitted.predict(wafers.X.iloc[split.test]) == 1)


def test_a_classifier_is_set_up_with_one_thread_and_a_seed() -> None:
    """Open random states get the seed, chosen ones stay, and all work in one thread."""
    forest = RandomForestClassifier(5, n_jobs=2)
    model = settled(VotingClassifier([("a", forest), ("b", RandomForestClassifier(random_state=3))], n_jobs=2), 7)
    assert (model.n_jobs, model.estimators[0][1].n_jobs) == (1, 1)
    assert [one.random_state for _, one in model.estimators] == [7, 3]
    assert forest.random_state is None


def test_a_pipeline_as_a_member(wafers: Any, quick: dict[str, int]) -> None:
    """It joins the panel, counts as the others do, and is what the same classifier fitted on the features says."""
    own = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    model = WaferModel(**quick, members=[own]).fit(*wafers[:3])
    assert model.panel_["model"].tolist() == ["extra_trees", "extra_trees", "logistic", "classifier"]
    F = model.prepare(wafers.X, wafers.order).F
    absolute = model._features.absolute
    by_hand = own.fit(F[:, absolute], wafers.y == 1).decision_function(F[:, absolute])
    assert_allclose(model._panel.members[3].member.score(F), by_hand, atol=1e-9)
    plain = WaferModel(**quick).fit(*wafers[:3])
    assert plain.panel_["auc"].tolist() == model.panel_["auc"].tolist()[:3]
    assert not np.array_equal(plain.fault_probability(wafers.X), model.fault_probability(wafers.X))


def test_a_pipeline_as_the_experts_candidate() -> None:
    """It is tried for each cluster that has the faults for it, and taken where it is the best."""
    F, faulty, cluster = _clustered()
    own = make_pipeline(StandardScaler(), LogisticRegression(C=1.0))
    rules, pooled = replace(RULES, candidates=(own,)), _panel(F, faulty).outside
    experts, table = fit_experts(F, faulty, pooled, cluster, 3, rules, seed=0, n_jobs=1)
    _, without = fit_experts(F, faulty, pooled, cluster, 3, RULES, seed=0, n_jobs=1)
    assert table["model"].tolist() == ["classifier", "classifier", "pooled"]
    assert (table["auc"][:2] > without["auc"][:2]).all()
    assert "LogisticRegression(" in table["settings"][0]
    inside = cluster == 1
    by_hand = own.fit(F[inside], faulty[inside]).decision_function(F[inside])
    assert_array_equal(experts.models[1].member.score(F[inside]), by_hand)


def test_the_same_classifier_gives_the_same_model(wafers: Any, quick: dict[str, int]) -> None:
    """A classifier that leaves its random state open is drawn by the model's seed, and by threads not at all."""
    one, two = (
        WaferModel(**quick, members=[RandomForestClassifier(5)], n_jobs=jobs).fit(*wafers[:3]) for jobs in (1, 2)
    )
    assert_array_equal(one.fault_probability(wafers.X), two.fault_probability(wafers.X))


def test_what_cannot_be_kept_is_refused(wafers: Any, quick: dict[str, int]) -> None:
    """A model with classifiers of a study is not saved, not explained, and the sentence names them."""
    model = WaferModel(**quick, members=[Scaled]).fit(*wafers[:3])
    with pytest.raises(HandOverError, match="made with Pipeline cannot be saved: the format runs no code"):
        classifier_parts(model)
    with pytest.raises(ModelError, match="Pipeline does not say what each sensor contributes"):
        model.contributions(model.prepare(wafers.X, wafers.order))
    unused = WaferModel(**quick | {"max_clusters": 1}, candidates=[Scaled]).fit(*wafers[:3])
    with pytest.raises(HandOverError, match="made with Pipeline"):
        classifier_parts(unused)


@pytest.mark.parametrize("given", [Scaled, ["logistic"], [StandardScaler()]])
def test_members_are_classifiers(given: Any, wafers: Any) -> None:
    """Anything else is refused by the parameter's name."""
    for name in ("members", "candidates"):
        with pytest.raises(ParameterError, match=f"{name} must be a sequence of scikit-learn classifiers, got"):
            WaferModel(**{name: given}).fit(wafers.X, wafers.y)


def test_scores_are_on_the_scale_of_log_odds(wafers: Any) -> None:
    """A probability becomes its log-odds, also where it is certain, and a decision function stays what it is."""
    X = SimpleImputer().fit_transform(wafers.X)
    forest = RandomForestClassifier(5, random_state=0).fit(X, wafers.y)
    score, probability = fault_score(forest, X), forest.predict_proba(X)[:, 1]
    assert np.isfinite(score).all()
    assert_allclose(1 / (1 + np.exp(-score)), probability, atol=1e-6)
    linear = LogisticRegression(max_iter=5000).fit(X, wafers.y)
    assert_array_equal(fault_score(linear, X), linear.decision_function(X))
