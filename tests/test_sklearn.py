"""scikit-learn's own contract, with no exemption, and composition with its tools."""

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - a switch
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklstm import LSTMClassifier, LSTMRegressor

ESTIMATORS = (LSTMClassifier, LSTMRegressor)
# Smaller networks and fewer steps than the default: what is checked is the setting
# beside them.
SMALL = {
    LSTMClassifier: {
        "hidden_size": 8, "stem": None, "max_iter": 50, "batch_size": 64,
        "learning_rate_init": 0.05,
    },
    LSTMRegressor: {
        "hidden_size": 16, "max_iter": 50, "batch_size": 32,
        "learning_rate_init": 0.02,
    },
}  # fmt: skip
SETTINGS = [
    {"bidirectional": True, "solver": "adamw", "early_stopping": True},
    {
        "num_layers": 2, "dropout": 0.1, "variational_dropout": True,
        "recurrent_dropout": 0.1,
    },
    {"missing": "mask", "pooling": "last", "solver": "sgd", "learning_rate_init": 0.2},
    {"stem": "linear", "max_iter": 100, "pooling": "mean-max", "dtype": "float64"},
    {"stem": "conv", "pooling": "attention"},
    {"cell": "gru", "pooling": "max"},
    {
        "cell": "peephole", "num_layers": 2, "residual": True, "layer_norm": True,
        "hidden_size": 8, "batch_size": 64, "learning_rate_init": 0.05,
    },
    {"augment": ["jitter", "mixup"], "oversample": True, "pooling": "mean"},
]  # fmt: skip
CHECKED = [estimator() for estimator in ESTIMATORS] + [
    estimator(**{**SMALL[estimator], **settings})
    for settings in SETTINGS
    for estimator in ESTIMATORS
]


@parametrize_with_checks(CHECKED)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "name",
    [
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
        "check_param_validation",
    ],
)
def test_checks_that_scikit_learn_runs_on_itself(estimator, name):
    getattr(estimator_checks, name)(estimator.__name__, estimator(**SMALL[estimator]))


# ---------------------------------------------------------------------- composition
QUICK = {"hidden_size": 6, "max_iter": 12, "random_state": 0}
IMPRECISE = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def flat():
    """Rows of 10 time steps, a binary label and a regression target."""
    X, y = make_classification(80, 10, random_state=0)
    return X, y, X @ np.linspace(-1, 1, 10)


def test_pipeline_and_grid_search_in_two_processes(flat):
    X, y, _ = flat
    pipeline = make_pipeline(StandardScaler(), LSTMClassifier(**QUICK))
    grid = {"lstmclassifier__hidden_size": [4, 6]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, y)
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_params_ == alone.best_params_
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


@pytest.mark.parametrize("kind", ["3-D", "list", "object"])
def test_model_selection_takes_sequences(make_sequences, kind):
    X, y = make_sequences(40, 8, ragged=kind != "3-D")
    if kind == "object":
        cells = np.empty(len(X), dtype=object)
        cells[:] = X
        X = cells
    model = LSTMClassifier(**QUICK)
    assert cross_val_score(model, X, y, cv=2).shape == (2,)
    assert cross_val_predict(model, X, y, cv=2, method="predict_proba").shape == (40, 2)
    search = GridSearchCV(model, {"hidden_size": [3, 4]}, cv=2).fit(X, y)
    assert search.predict(X).shape == (40,)
    learning_curve(model, X, y, cv=2, train_sizes=[0.5, 1.0])
    CalibratedClassifierCV(model, cv=2).fit(X, y).predict_proba(X)
    TunedThresholdClassifierCV(model, cv=2).fit(X, y).predict(X)
    VotingClassifier([("a", model), ("b", clone(model))], voting="soft").fit(X, y)
    StackingClassifier([("a", model)], LogisticRegression(), cv=2).fit(X, y).predict(X)
    OneVsRestClassifier(model).fit(X, y).predict(X)


@IMPRECISE
def test_halving_search_over_epochs(flat):
    X, y, _ = flat
    search = HalvingGridSearchCV(
        LSTMClassifier(hidden_size=4, random_state=0),
        {"learning_rate_init": [0.001, 0.01, 0.02]},
        resource="max_iter",
        max_resources=18,
        min_resources=6,
        cv=2,
    ).fit(X, y)
    assert search.best_estimator_.max_iter == 18


def test_ensembles_of_flat_rows(flat):
    X, y, target = flat
    classifier, regressor = LSTMClassifier(**QUICK), LSTMRegressor(**QUICK)
    BaggingClassifier(classifier, n_estimators=2, random_state=0).fit(X, y).predict(X)
    BaggingRegressor(regressor, n_estimators=2, random_state=0).fit(X, target)
    VotingRegressor([("a", regressor)]).fit(X, target).predict(X)
    StackingRegressor([("a", regressor)], Ridge(), cv=2).fit(X, target).predict(X)
    result = permutation_importance(regressor.fit(X, target), X, target, n_repeats=2)
    assert result.importances.shape == (10, 2)


def test_targets_of_regression(flat):
    X, _, target = flat
    model = LSTMRegressor(**QUICK)
    transformed = TransformedTargetRegressor(model, func=np.arcsinh, inverse_func=np.sinh)
    assert transformed.fit(X, target).predict(X).shape == (80,)
    both = np.column_stack([target, -target])
    assert MultiOutputRegressor(model).fit(X, both).predict(X).shape == (80, 2)
    assert model.fit(X, both).predict(X).shape == (80, 2)


def test_metadata_routing_of_weights(flat):
    X, y, _ = flat
    weight = np.where(y == 1, 2.0, 0.0)
    with sklearn.config_context(enable_metadata_routing=True):
        model = LSTMClassifier(**QUICK).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, model).fit(X, y, sample_weight=weight)
    assert (pipeline.predict(X) == 1).all()


def test_set_output_of_a_pipeline(flat):
    X, y, _ = flat
    pipeline = make_pipeline(StandardScaler(), LSTMClassifier(**QUICK))
    pipeline.set_output(transform="pandas").fit(X, y)
    assert pipeline[-1].feature_names_in_[0] == "x0"


def test_a_transformer_before_keeps_ragged_sequences(make_sequences):
    X, y = make_sequences(20, 8, ragged=True)
    pipeline = make_pipeline(FunctionTransformer(), LSTMClassifier(**QUICK))
    assert pipeline.fit(X, y).predict(X).shape == (20,)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib_backends_agree_with_the_main_process(flat, backend):
    X, y, _ = flat
    model = LSTMClassifier(**QUICK)
    alone = cross_val_predict(model, X, y, cv=2, method="decision_function")
    with joblib.parallel_config(backend=backend, n_jobs=2):
        parallel = cross_val_predict(
            model, X, y, cv=2, method="decision_function", n_jobs=2
        )
    np.testing.assert_array_equal(alone, parallel)
