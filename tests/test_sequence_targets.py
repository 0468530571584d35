"""One label or value per time step: `target="sequence"`."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict

from sklstm import LSTMClassifier, LSTMRegressor, base, load, save, stream

QUICK = {"target": "sequence", "hidden_size": 6, "max_iter": 12, "random_state": 0}
BRACKETS = {"(": ")", "[": "]"}


@pytest.fixture(params=[LSTMClassifier, LSTMRegressor])
def estimator(request):
    return request.param


def labelled_steps(estimator, n=40, longest=14, seed=0):
    """Sequences of 3 to `longest` steps; the target follows the sum so far."""
    rng = np.random.default_rng(seed)
    X = [rng.normal(size=(rng.integers(3, longest + 1), 2)) for _ in range(n)]
    y = [x[:, 0].cumsum() - x[:, 1] for x in X]
    if estimator is LSTMClassifier:
        y = [np.array(["low", "mid", "high"])[(v > -1) * 1 + (v > 1)] for v in y]
    return X, y


def outputs(model, X):
    method = "predict_proba" if isinstance(model, LSTMClassifier) else "predict"
    return getattr(model, method)(X)


def assert_same_rows(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [None, "boolean", "Int64", object])
def test_several_labels_per_step_in_columns_of_several_types(dtype):
    index = pd.MultiIndex.from_product([range(20), range(6)])
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(120, 2)), index, ["a", "b"])
    plain = (X > 0).set_axis(["u", "v"], axis=1)
    y = plain.astype({"v": int}) if dtype is None else plain.astype(dtype)
    expected = LSTMClassifier(**QUICK).fit(X, plain.astype(int)).predict(X)
    in_rows = [of_row for _, of_row in y.groupby(level=0)]
    for labels in (y, in_rows):
        assert_same_rows(LSTMClassifier(**QUICK).fit(X, labels).predict(X), expected)


def test_a_row_of_y_for_each_step_of_a_target_per_sequence(estimator):
    X, y = labelled_steps(estimator)
    with pytest.raises(ValueError, match=r"read as 40 sequences of \d+ time steps toget"):
        estimator(max_iter=2).fit(X, np.concatenate(y))


# ------------------------------------------------------------------------------ laws
@pytest.mark.parametrize(
    "settings",
    [{}, {"bidirectional": True, "num_layers": 2}, {"stem": "conv"},
     {"stem": "linear", "cell": "gru"}, {"dtype": "float64"}],
    ids=str,
)  # fmt: skip
def test_a_row_alone_equals_the_row_in_a_batch_bitwise(estimator, settings):
    X, y = labelled_steps(estimator, longest=40)
    model = estimator(**QUICK, **settings).fit(X, y)
    together = outputs(model, X)
    assert [len(row) for row in together] == [len(row) for row in X]
    assert_same_rows([outputs(model, [x])[0] for x in X[::9]], together[::9])
    order = np.random.default_rng(0).permutation(len(X))
    assert_same_rows(outputs(model, [X[i] for i in order]), together[order])


def test_later_steps_change_nothing_unless_asked_for(estimator):
    X, y = labelled_steps(estimator)
    model = estimator(**QUICK).fit(X, y)
    assert model.stem_ is None
    prefixes = [outputs(model, [X[0][:t]])[0] for t in range(1, len(X[0]))]
    for prefix in prefixes:
        np.testing.assert_allclose(
            outputs(model, X[:1])[0][: len(prefix)], prefix, atol=1e-6
        )


def test_weights_are_repetitions_to_the_last_bit(estimator):
    X, y = labelled_steps(estimator)
    weight = np.random.default_rng(2).integers(0, 4, size=len(X))
    weight[np.argmax([len(x) for x in X])] = 0  # the longest is as if it were absent
    repeated = np.repeat(np.arange(len(X)), weight)
    for settings in ({}, {"early_stopping": True}):
        model = estimator(**QUICK, **settings)
        weighted = clone(model).fit(X, y, sample_weight=weight)
        plain = model.fit([X[i] for i in repeated], [y[i] for i in repeated])
        assert_same_rows(outputs(weighted, X), outputs(plain, X))


def test_equal_sequences_with_other_labels_are_not_merged():
    X = [np.ones((4, 1))] * 2
    y = [np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])]
    model = LSTMClassifier(**{**QUICK, "max_iter": 300}, alpha=0, dropout=0).fit(X, y)
    share = model.predict_proba(X[:1])[0][:, 1]
    np.testing.assert_allclose(share, [0, 0, 0.5, 1], atol=0.1)


def test_an_array_of_labels_is_a_list_of_its_rows(estimator):
    X, y = labelled_steps(estimator, longest=3)
    cells = np.empty(len(y), dtype=object)
    for i, row in enumerate(y):
        cells[i] = row
    expected = estimator(**QUICK).fit(X, y).predict(X)
    for same_X, same_y in ((X, cells), (np.stack(X), np.stack(y))):
        model = estimator(**QUICK).fit(same_X, same_y)
        assert_same_rows(model.predict(same_X), expected)
    assert np.stack(expected).shape == (len(X), 3)


def test_frames_with_an_instance_and_time_index(estimator):
    X, y = labelled_steps(estimator)
    keys = [(f"i{i}", t) for i, x in enumerate(X) for t in range(len(x))]
    index = pd.MultiIndex.from_tuples(keys, names=["instance", "time"])
    frame = pd.DataFrame(np.concatenate(X), index=index, columns=["a", "b"])
    series = pd.Series(np.concatenate(y), index=index)
    expected = outputs(estimator(**QUICK).fit(X, y), X)
    for labels in (series, series.to_frame("y")):
        assert_same_rows(outputs(estimator(**QUICK).fit(frame, labels), frame), expected)


def test_instances_in_another_order_are_refused(estimator):
    X, y = labelled_steps(estimator)
    keys = [(i, t) for i, x in enumerate(X) for t in range(len(x))]
    index = pd.MultiIndex.from_tuples(keys)
    frame = pd.DataFrame(np.concatenate(X), index=index)
    labels = pd.Series(np.concatenate(y), index=index)
    model = estimator(**QUICK).fit(frame, labels)
    turned = labels.sort_index(level=0, ascending=False, sort_remaining=False)
    for use in (model.fit, model.score):
        with pytest.raises(ValueError, match=r"another order: \[0, 1, 2\]\.\.\. and"):
            use(frame, turned)
        use(frame, turned.loc[frame.index])


def test_loss_is_the_mean_over_steps():
    X, y = labelled_steps(LSTMRegressor)
    model = LSTMRegressor(
        **{**QUICK, "max_iter": 12}, learning_rate="constant", alpha=0,
        learning_rate_init=1e-12, normalize_y=False, batch_size=40,
    )  # fmt: skip
    model.fit(X, y)
    error = np.concatenate(y) - np.concatenate(model.predict(X))
    assert model.loss_ == pytest.approx(np.mean(error**2) / 2, rel=1e-4)


# -------------------------------------------------------------------------- behaviour
def test_the_layout_of_targets_in_memory_is_no_matter():
    X, y = labelled_steps(LSTMRegressor)
    y = [np.stack([v, 0.3 * v + 1], axis=1) for v in y]
    model = LSTMRegressor(**QUICK)
    expected = clone(model).fit(X, y).predict(X)
    turned = [np.asfortranarray(v) for v in y]
    assert_same_rows(clone(model).fit(X, turned).predict(X), expected)


def test_scores_are_over_steps(estimator):
    X, y = labelled_steps(estimator, n=120)
    model = estimator(
        16, target="sequence", max_iter=40, random_state=0, early_stopping=True
    )
    model.fit(X, y)
    score = {LSTMClassifier: accuracy_score, LSTMRegressor: r2_score}[estimator]
    weight = np.linspace(0, 1, len(X))
    steps = np.repeat(weight, [len(x) for x in X])
    expected = score(
        np.concatenate(y), np.concatenate(model.predict(X)), sample_weight=steps
    )
    assert model.score(X, y, sample_weight=weight) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"sample_weight.shape == "):
        model.score(X, y, sample_weight=weight[1:])
    assert model.score(X, y) > 0.85
    assert model.best_validation_score_ > 0.6
    assert model.pooling_ is None
    assert_same_rows(outputs(pickle.loads(pickle.dumps(model)), X), outputs(model, X))
    assert model.embed(X)[0].shape == (len(X[0]), 16)


def test_model_selection(estimator):
    X, y = labelled_steps(estimator)
    search = GridSearchCV(estimator(**QUICK), {"hidden_size": [3, 6]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    predicted = cross_val_predict(estimator(**QUICK), X, y, cv=2)
    assert [len(row) for row in predicted] == [len(row) for row in y]


def test_every_kind_of_target():
    X, values = labelled_steps(LSTMRegressor)
    several = [np.column_stack([v, -v]) for v in values]
    model = LSTMRegressor(**QUICK).fit(X, several)
    assert model.predict(X)[3].shape == several[3].shape
    assert np.isfinite(model.score(X, several))
    model = LSTMRegressor(**QUICK, loss="quantile", quantile=[0.1, 0.9]).fit(X, values)
    assert model.predict(X)[3].shape == (len(X[3]), 2)
    assert np.isfinite(model.score(X, values))
    several = [np.column_stack([v > 0, v > 1]).astype(int) for v in values]
    model = LSTMClassifier(**{**QUICK, "max_iter": 60}, class_weight="balanced")
    model.fit(X, several)
    assert model.predict_proba(X)[3].shape == several[3].shape
    assert model.score(X, several) > 0.5


def test_class_weight_moves_labels():
    X, y = labelled_steps(LSTMClassifier)
    heavy = {"low": 1e3, "mid": 1e-3, "high": 1e-3}
    model = LSTMClassifier(**QUICK, class_weight=heavy).fit(X, y)
    assert (np.concatenate(model.predict(X)) == "low").mean() > 0.9
    assert (np.concatenate(y) == "low").mean() < 0.5


def test_learning_goes_on():
    X, y = labelled_steps(LSTMClassifier)
    model = LSTMClassifier(8, target="sequence", random_state=0)
    for _ in range(25):
        model.partial_fit(X, y, classes=["high", "low", "mid"])
    assert model.score(X, y) > 0.6
    model.set_params(warm_start=True, max_iter=12).fit(X, y)
    assert model.n_iter_ == 37


def test_a_stream_labels_each_step():
    X, y = labelled_steps(LSTMClassifier)
    model = LSTMClassifier(**QUICK, num_layers=2).fit(X, y)
    live = stream(model, method="predict_log_proba")
    found = np.stack([live.push(x_t) for x_t in X[0]])
    np.testing.assert_allclose(found, model.predict_log_proba(X[:1])[0], atol=1e-5)


def test_missing_values_end_a_sequence():
    X, y = labelled_steps(LSTMClassifier)
    padded = np.full((len(X), 20, 2), np.nan)
    for row, x in zip(padded, X, strict=True):
        row[: len(x)] = x
    model = LSTMClassifier(**QUICK, missing="mask").fit(padded, y)
    assert [len(row) for row in model.predict(padded)] == [len(x) for x in X]


# ------------------------------------------------------------------------ capabilities
def bracket_text(rng, n_steps):
    """Random nested brackets; the label of a step is the bracket that closes it next.

    "." where nothing is open: a stack has to be kept.
    """
    text, labels, stack = [], [], []
    for _ in range(n_steps):
        if stack and (len(stack) == 4 or rng.random() < 0.5):
            text.append(stack.pop())
        else:
            text.append("(["[rng.integers(2)])
            stack.append(BRACKETS[text[-1]])
        labels.append(stack[-1] if stack else ".")
    return ["([)]".index(c) + 1 for c in text], labels


def test_nested_brackets_are_solved():
    rng = np.random.default_rng(0)
    X, y = zip(
        *[bracket_text(rng, rng.integers(8, 25)) for _ in range(1200)], strict=True
    )
    X, y = [np.array(x) for x in X], [np.array(labels) for labels in y]
    model = LSTMClassifier(
        32, stem="embedding", target="sequence", alpha=0, dropout=0, max_iter=20,
        learning_rate_init=0.02, batch_size=32, random_state=0,
    )  # fmt: skip
    model.fit(X[:1000], y[:1000])
    assert model.score(X[1000:], y[1000:]) > 0.99


# ------------------------------------------------------------------------------ errors
def test_labels_of_another_length_than_the_sequence(estimator):
    X, y = labelled_steps(estimator)
    model = estimator(**QUICK).fit(X, y)
    before = outputs(model, X)
    bad = [*y[:5], y[5][:-1], *y[6:]]
    message = f"Row 5 of y has {len(y[5]) - 1} time steps, but row 5 of X has {len(y[5])}"
    for call in (model.fit, model.partial_fit, model.score):
        with pytest.raises(ValueError, match=message):
            call(X, bad)
    assert_same_rows(outputs(model, X), before)


def test_bad_targets(estimator):
    X, y = labelled_steps(estimator)
    model = estimator(**QUICK)
    with pytest.raises(ValueError, match=r'one label per sequence set target="single"'):
        model.fit(X, np.arange(40) % 3)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[40, 39\]"):
        model.fit(X, y[:-1])
    with pytest.raises(ValueError, match=r"Row 1 of y has shape .* in every row"):
        model.fit(X, [y[0], y[1][:, None], *y[2:]])
    with pytest.raises(ValueError, match=r'For one per time step set target="sequence"'):
        estimator().fit(X, y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(X, None)


def test_values_are_no_labels():
    X, y = labelled_steps(LSTMRegressor)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        LSTMClassifier(**QUICK).fit(X, y)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        LSTMRegressor(**QUICK).fit(X, [*y[:-1], y[-1] * np.nan])


def test_steps_without_a_value_at_the_end_are_answered(estimator, tmp_path):
    X, y = labelled_steps(estimator)
    for i in (0, 3):
        X[i][-2:] = np.nan
    settings = QUICK | {"missing": "mask", "stem": None}
    model = estimator(**settings).fit(X, y)
    save(model, tmp_path / "model")
    method = "predict_proba" if estimator is LSTMClassifier else "predict"
    for fitted in (model, load(tmp_path / "model")):
        found = outputs(fitted, X)
        assert [len(row) for row in found] == [len(row) for row in y]
        live = stream(fitted, method=method)
        streamed = np.array([live.push(step) for step in X[3]])
        np.testing.assert_allclose(found[3], streamed, atol=1e-6)
    assert np.isfinite(model.score(X, y))
    # The rows of an array have no other end.
    padded = np.full((2, 20, 2), np.nan)
    for row, x in zip(padded, X[:2], strict=True):
        row[: len(x)] = x
    n_observed = [len(X[0]) - 2, len(X[1])]
    assert [len(row) for row in model.predict(padded)] == n_observed


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        (LSTMClassifier, {}),
        (LSTMRegressor, {}),
        (LSTMRegressor, {"loss": "quantile", "quantile": [0.1, 0.5, 0.9]}),
    ],
)
def test_validation_in_parts_scores_as_in_one(estimator, settings, monkeypatch):
    settings = settings | {"early_stopping": True}
    X, y = labelled_steps(estimator)
    model = estimator(**QUICK, **settings).fit(X, y)
    monkeypatch.setattr(base, "_rows_at_once", lambda n_timesteps, network: 1)
    in_parts = estimator(**QUICK, **settings).fit(X, y)
    np.testing.assert_allclose(
        in_parts.validation_scores_, model.validation_scores_, rtol=1e-6
    )
