"""The sktime faces: sktime's contract with nothing skipped, and faithful passing on."""

import inspect
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skbase.lookup import all_objects
from sklearn.metrics import accuracy_score, brier_score_loss, r2_score
from sklearn.model_selection import KFold
from sktime.benchmarking.classification import ClassificationBenchmark
from sktime.classification.compose import ClassifierPipeline
from sktime.classification.dummy import DummyClassifier
from sktime.classification.model_evaluation import evaluate
from sktime.classification.model_selection import TSCGridSearchCV
from sktime.datasets import load_unit_test
from sktime.regression.model_selection import TSRGridSearchCV
from sktime.transformations.series.boxcox import LogTransformer
from sktime.transformations.series.exponent import ExponentTransformer
from sktime.utils.estimator_checks import check_estimator, parametrize_with_checks
from test_estimators import paragraph

from sklstm import (
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTimeSeriesClassifier,
    LSTMTimeSeriesRegressor,
)

FACES = {
    LSTMTimeSeriesClassifier: LSTMClassifier,
    LSTMTimeSeriesRegressor: LSTMRegressor,
}
FOLDS = KFold(2, shuffle=True, random_state=0)
QUICK = {"hidden_size": 8, "max_iter": 30, "random_state": 0}


@pytest.mark.filterwarnings("ignore")  # sktime's own
@parametrize_with_checks(list(FACES), obj_varname="face", check_varname="check")
def test_sktime_checks(face, check):
    check_estimator(face, tests_to_run=check, raise_exceptions=True, verbose=False)


@pytest.mark.parametrize("face", FACES)
def test_nothing_is_skipped(face):
    tags = face.get_class_tags()
    assert not tags.get("tests:skip_by_name")
    assert not tags.get("tests:skip_all")
    assert tags["property:randomness"] == "derandomized"


@pytest.mark.parametrize(("face", "wrapped"), FACES.items())
def test_parameters_are_those_of_the_wrapped_estimator(face, wrapped):
    ours, theirs = (inspect.signature(e).parameters for e in (face, wrapped))
    left_out = {"n_channels", "layout", "target", "warm_start"}
    assert list(ours) == [name for name in theirs if name not in left_out]
    for name in set(ours) - {"missing"}:
        assert ours[name] == theirs[name]
    # These have a default, values or context of their own here.
    for name in set(ours) - {"missing", "quantile", "checkpoint", "verbose"}:
        assert paragraph(face, name) == paragraph(wrapped, name)
    assert ours["missing"].default == "mask"


def as_frames(X):
    """(n, C, T) -> a list of frames (T, C)."""
    return [pd.DataFrame(row.T, columns=[f"c{k}" for k in range(len(row))]) for row in X]


@pytest.mark.parametrize("ragged", [False, True])
def test_says_what_the_wrapped_estimator_says(make_sequences, ragged):
    X, y = make_sequences(30, ragged=ragged)
    labels = np.array(["left", "right"])[y]
    panel = [pd.DataFrame(x, columns=["a", "b"]) for x in X]
    face = LSTMTimeSeriesClassifier(**QUICK).fit(panel, labels)
    alone = LSTMClassifier(**QUICK, missing="mask").fit(X, labels)
    np.testing.assert_array_equal(face.predict(panel), alone.predict(X))
    np.testing.assert_array_equal(face.predict_proba(panel), alone.predict_proba(X))
    target = y + 0.5
    face = LSTMTimeSeriesRegressor(**QUICK).fit(panel, target)
    alone = LSTMRegressor(**QUICK, missing="mask").fit(X, target)
    np.testing.assert_array_equal(face.predict(panel), alone.predict(X))


def test_every_kind_of_panel_gives_the_same_model(make_sequences):
    X, y = make_sequences(24)
    numpy3d = X.transpose(0, 2, 1).astype(np.float64)  # (n, C, T)
    frames = as_frames(numpy3d)
    multiindex = pd.concat(frames, keys=range(len(frames)))
    predicted = [
        LSTMTimeSeriesClassifier(**QUICK).fit(panel, y).predict_proba(panel)
        for panel in (numpy3d, frames, multiindex)
    ]
    np.testing.assert_array_equal(predicted[0], predicted[1])
    np.testing.assert_array_equal(predicted[0], predicted[2])


@pytest.mark.parametrize("face", FACES)
def test_instances_in_another_order_are_refused(face, make_sequences):
    X, y = make_sequences(12)
    keys = [f"case {k}" for k in (*range(6, 12), *range(6))]
    panel = pd.concat([pd.DataFrame(x) for x in X], keys=keys)
    labels = pd.Series(y, keys)
    expected = face(**QUICK).fit(panel, y).predict(panel)
    found = face(**QUICK).fit(panel, labels).predict(panel)
    np.testing.assert_array_equal(found, expected)
    nested = pd.DataFrame({"v": [pd.Series(x[:, 0]) for x in X]}, keys)
    for data in (panel, nested):
        fitted = face(**QUICK).fit(data, labels)
        for call in (face(**QUICK).fit, fitted.score):
            with pytest.raises(ValueError, match="X and y have their instances in anoth"):
                call(data, labels.sort_index())
            others = labels.rename({"case 3": "case 30"})
            with pytest.raises(ValueError, match=r"y lacks \['case 3'\], which X has"):
                call(data, others)
            call(data, labels.set_axis(range(12)))  # an index of its own


@pytest.mark.parametrize("face", FACES)
def test_tokens_are_frames_or_arrays_of_one_channel(face):
    X = np.random.default_rng(0).integers(1, 5, (20, 1, 6))
    y = (X[:, 0] == 2).sum(axis=1) % 2
    model = face(4, stem="embedding", max_iter=12, random_state=0).fit(X, y)
    expected = model.predict([pd.DataFrame(x.T) for x in X])
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.filterwarnings("ignore:The DataFrame has:UserWarning")
def test_missing_values_are_masked_or_refused(make_sequences):
    X, y = make_sequences(30)
    X = X.transpose(0, 2, 1).astype(np.float64)
    X[::3, 0, 4] = np.nan
    face = LSTMTimeSeriesClassifier(**QUICK).fit(X, y)
    assert face.score(X, y) > 0.8
    strict = LSTMTimeSeriesClassifier(**QUICK, missing="error")
    assert face.get_tag("capability:missing_values")
    assert not strict.get_tag("capability:missing_values")
    with pytest.raises(ValueError, match="missing"):
        strict.fit(X, y)


def test_class_weights_are_passed_on():
    rng = np.random.default_rng(0)
    y = np.repeat(["common", "rare"], [54, 6])
    X = rng.normal(size=(60, 1, 10)) + 0.3 * (y == "rare")[:, None, None]
    settings = {**QUICK, "class_weight": {"common": 1, "rare": 20}}
    plain = LSTMTimeSeriesClassifier(**QUICK).fit(X, y).predict_proba(X)
    weighted = LSTMTimeSeriesClassifier(**settings).fit(X, y).predict_proba(X)
    assert weighted[:, 1].mean() > 1.2 * plain[:, 1].mean()
    alone = LSTMClassifier(**settings, layout="channel-major", missing="mask")
    np.testing.assert_array_equal(weighted, alone.fit(X, y).predict_proba(X))


def test_several_targets_share_a_network(make_sequences):
    X, y = make_sequences(24)
    X = X.transpose(0, 2, 1).astype(np.float64)
    targets = pd.DataFrame({"first": y, "second": -y.astype(float)})
    face = LSTMTimeSeriesRegressor(**QUICK).fit(X, targets)
    predicted = face.predict(X)
    assert list(predicted.columns) == ["first", "second"]
    assert face.estimator_.n_outputs_ == 2
    assert r2_score(targets, predicted) > 0.5


def test_tokens_come_as_frames_of_one_column():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = [pd.DataFrame({"token": rng.integers(2, 9, size=6)}) for _ in y]
    for frame, label in zip(X, y, strict=True):
        frame.loc[3, "token"] = 20 + label
    face = LSTMTimeSeriesClassifier(**QUICK, stem="embedding", pooling="max")
    assert face.fit(X, y).score(X, y) > 0.9


@pytest.mark.filterwarnings("ignore:only single label:UserWarning")
def test_one_class_only():
    X = np.random.default_rng(0).normal(size=(6, 1, 8))
    face = LSTMTimeSeriesClassifier(**QUICK).fit(X, np.array(["only"] * 6))
    assert list(face.predict(X)) == ["only"] * 6
    np.testing.assert_array_equal(face.predict_proba(X), np.ones((6, 1)))


def test_several_quantiles_are_refused():
    X, y = np.zeros((6, 1, 9)), np.arange(6.0)
    model = LSTMTimeSeriesRegressor(4, loss="quantile", quantile=[0.1, 0.9])
    with pytest.raises(ValueError, match=r"quantile must be a number; got \[0.1, 0.9\]"):
        model.fit(X, y)


def test_pickle_and_embedding():
    X, y = load_unit_test(split="train", return_type="numpy3D")
    face = LSTMTimeSeriesClassifier(**QUICK).fit(X, y)
    twin = pickle.loads(pickle.dumps(face))
    np.testing.assert_array_equal(twin.predict_proba(X), face.predict_proba(X))
    assert len(face.estimator_.embed(X)) == 20


# ------------------------------------------------------------------------- registry
def test_placeholder_for_sktime_becomes_ours():
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    placeholder = guide.split("```python\n")[1].split("```")[0]
    names = {"__name__": "sktime.forecasting.lstm_sklstm"}
    exec(placeholder, names)
    assert names["LSTMForecaster"] is LSTMForecaster


def test_registry_lists_what_is_for_sktime():
    assert [name for name, _ in all_objects(package_name="sklstm")] == [
        "LSTMForecaster",
        "LSTMTimeSeriesClassifier",
        "LSTMTimeSeriesRegressor",
    ]


# ---------------------------------------------------------------------- composition
def test_evaluate():
    X, y = load_unit_test(split="train")
    results = evaluate(
        LSTMTimeSeriesClassifier(**QUICK),
        cv=FOLDS,
        X=X,
        y=y,
        scoring=[accuracy_score, brier_score_loss],
        error_score="raise",
    )
    assert results["test_accuracy_score"].mean() > 0.5
    assert results["test_brier_score_loss"].notna().all()


@pytest.mark.filterwarnings("ignore")  # sktime's own
def test_grid_searches():
    X, y = load_unit_test(split="train", return_type="numpy3D")
    grid = {"hidden_size": [4, 8]}
    search = TSCGridSearchCV(LSTMTimeSeriesClassifier(**QUICK), grid, cv=FOLDS)
    assert search.fit(X, y).predict(X).shape == (20,)
    assert search.best_params_["hidden_size"] in grid["hidden_size"]
    search = TSRGridSearchCV(LSTMTimeSeriesRegressor(**QUICK), grid, cv=FOLDS)
    assert search.fit(X, X.mean(axis=(1, 2))).predict(X).shape == (20,)


def test_pipelines():
    X, y = load_unit_test(split="train")
    short = LogTransformer() * LSTMTimeSeriesClassifier(**QUICK)
    spelt_out = ClassifierPipeline(LSTMTimeSeriesClassifier(**QUICK), [LogTransformer()])
    np.testing.assert_array_equal(
        short.fit(X, y).predict_proba(X), spelt_out.fit(X, y).predict_proba(X)
    )
    regressor = ExponentTransformer(0.5) * LSTMTimeSeriesRegressor(**QUICK)
    assert regressor.fit(X, y.astype(float)).predict(X).shape == (20,)


@pytest.mark.filterwarnings("ignore")  # sktime's own
def test_benchmark(tmp_path):
    benchmark = ClassificationBenchmark()
    benchmark.add_estimator(LSTMTimeSeriesClassifier(**QUICK), "lstm")
    benchmark.add_estimator(DummyClassifier(), "most frequent")
    benchmark.add_task(load_unit_test, FOLDS, [accuracy_score])
    results = benchmark.run(tmp_path / "results.csv").set_index("model_id")
    accuracy = results["accuracy_score_mean"].astype(float)
    assert accuracy["lstm"] > accuracy["most frequent"]
