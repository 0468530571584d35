"""A compressed estimator is smaller, and nearly the same."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sktime.exceptions import NotFittedError as SktimeNotFittedError

from sklstm import (
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    compress,
    distill,
    load,
    save,
    saved_network,
    to_torch,
)
from sklstm.network import RecurrentNetwork

rng = np.random.default_rng(0)


@pytest.fixture
def data(make_sequences):
    return make_sequences(n=120, n_channels=3)


def weights(network):
    return {name: p.detach().numpy() for name, p in network.named_parameters()}


def size(thing):
    return len(pickle.dumps(thing))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stem": None, "num_layers": 2},
        {"cell": "gru", "bidirectional": True, "pooling": "attention"},
        {"dtype": "float64"},
    ],
    ids=str,
)
def test_weights_are_rounded_by_row_and_the_file_is_small(settings, data):
    X, y = data
    model = LSTMClassifier(max_iter=12, random_state=0, **settings).fit(X, y)
    before = {name: w.copy() for name, w in weights(model.network_).items()}
    small = compress(model)
    for name, after in weights(small.network_).items():
        exact = before[name]
        np.testing.assert_array_equal(weights(model.network_)[name], exact)
        if exact.ndim == 1:
            np.testing.assert_array_equal(after, exact)
            continue
        # At most half a step away, of 127 from zero to the largest of the row.
        rows = exact.reshape(len(exact), -1)
        step = np.abs(rows).max(axis=1) / 127
        error = np.abs(after.reshape(rows.shape) - rows)
        assert (error <= 0.501 * step[:, None]).all()
    n_bytes = sum(4 * w.size for w in before.values())
    assert size(small) <= 0.35 * n_bytes + 2000  # names and settings
    assert small.score(X, y) >= model.score(X, y) - 0.005
    np.testing.assert_allclose(small.predict_proba(X), model.predict_proba(X), atol=0.05)


def test_round_trips_keep_every_bit(data, tmp_path):
    X, y = data
    small = compress(LSTMClassifier(max_iter=12, random_state=0).fit(X, y), sparsity=0.3)
    expected, n_bytes = small.predict_proba(X), size(small)
    joblib.dump(small, tmp_path / "model.joblib")
    save(small, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < n_bytes + 10_000
    for again in (
        pickle.loads(pickle.dumps(small)),
        joblib.load(tmp_path / "model.joblib"),
        load(tmp_path / "model.safetensors"),
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(small)))),
        compress(small),
    ):
        np.testing.assert_array_equal(again.predict_proba(X), expected)
        assert abs(size(again) - n_bytes) < 500
    module = to_torch(small)
    found = module(torch.from_numpy(X), torch.full((len(X),), X.shape[1]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_trained_on_model_is_kept_in_full(data):
    X, y = data
    model = LSTMClassifier(max_iter=12, random_state=0).fit(X, y)
    small = compress(model).partial_fit(X, y)
    again = pickle.loads(pickle.dumps(small))
    np.testing.assert_array_equal(again.predict_proba(X), small.predict_proba(X))
    assert size(small.network_) >= size(model.network_)


def test_the_smallest_weights_become_zero(data):
    X, y = data
    model = LSTMClassifier(max_iter=12, random_state=0).fit(X, y)
    pruned = compress(model, dtype="float32", sparsity=0.4)
    exact = weights(model.network_)
    for name, after in weights(pruned.network_).items():
        if after.ndim > 1:
            zero = after == 0
            assert zero.sum() == int(0.4 * after.size)
            kept = np.abs(exact[name])
            assert kept[zero].max() <= kept[~zero].min()
            np.testing.assert_array_equal(after[~zero], exact[name][~zero])
    assert not pruned.network_.codes


def test_forecaster():
    y = pd.Series(10 + np.sin(np.arange(90) / 2) + rng.normal(size=90) / 5)
    shipped = LSTMForecaster(horizon=4).fit(y)
    settings = {"max_steps": 5, "n_members": 1, "random_state": 0}
    trained = LSTMForecaster(horizon=4, **settings).fit(y)
    for forecaster in (shipped, trained):
        small = compress(forecaster)
        members = small.model_.trained + small.model_.pretrained
        headers = 2000 * len(members)
        assert size(small.model_) < 0.35 * size(forecaster.model_) + headers
        expected, found = (f.predict(fh=[1, 2, 3, 4]) for f in (forecaster, small))
        np.testing.assert_allclose(found, expected, rtol=0.02)
    # The shipped network is shared by all forecasters and stays as it is.
    assert not LSTMForecaster(horizon=4).fit(y).model_.pretrained[0].network.codes


def test_a_student_answers_as_its_teacher(data):
    X, y = data
    teacher = LSTMClassifier(24, max_iter=20, random_state=0).fit(X, y)
    student = distill(teacher, X, hidden_size=6)
    assert student.network_.config["hidden_size"] == 6
    assert np.mean(student.predict(X) == teacher.predict(X)) > 0.95
    error = np.abs(student.predict_proba(X) - teacher.predict_proba(X)).mean()
    assert error < 0.1
    assert list(student.classes_) == list(teacher.classes_)
    ragged = [x[: 5 + i % 7] for i, x in enumerate(X)]
    y = np.array([x[:, 0].mean() for x in ragged])
    teacher = LSTMRegressor(24, max_iter=20, random_state=0).fit(ragged, y)
    student = distill(teacher, ragged, hidden_size=6)
    assert student.score(ragged, teacher.predict(ragged)) > 0.7


def test_errors(data):
    X, y = data
    model = LSTMClassifier(max_iter=12, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"dtype must be \"int8\" .*; got 'int4'"):
        compress(model, dtype="int4")
    with pytest.raises(ValueError, match=r"sparsity must be at least 0 .* got 1\.0"):
        compress(model, sparsity=1.0)
    with pytest.raises(NotFittedError):
        compress(LSTMClassifier())
    with pytest.raises(SktimeNotFittedError):
        compress(LSTMForecaster())
    with pytest.raises(TypeError, match="can be compressed; got DummyClassifier"):
        compress(DummyClassifier().fit(X, y))
    with pytest.raises(ValueError, match="hidden_size must be an int of at least 1; got"):
        distill(model, X, hidden_size=0)
    labels = np.column_stack([y == 0, y == 1]).astype(int)
    model = LSTMClassifier(max_iter=12, random_state=0).fit(X, labels)
    with pytest.raises(ValueError, match="multilabel classifier cannot be distilled"):
        distill(model, X, hidden_size=4)
    per_step = np.zeros(X.shape[:2], dtype=int)
    per_step[:, ::2] = 1
    model = LSTMClassifier(target="sequence", max_iter=12, random_state=0)
    with pytest.raises(ValueError, match='target="sequence" cannot be distilled'):
        distill(model.fit(X, per_step), X, hidden_size=4)
    with pytest.raises(TypeError, match="got Pipeline"):
        distill(make_pipeline(model), X, hidden_size=4)
    model = LSTMRegressor(loss="quantile", max_iter=12, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="cannot be distilled"):
        distill(model, X, hidden_size=4)


def test_only_what_was_fitted_says_what_can_be_distilled(data):
    X, y = data
    teacher = LSTMClassifier(4, max_iter=11, random_state=0).fit(X, y)
    student = distill(teacher.set_params(target="sequence"), X, hidden_size=3)
    assert student.predict(X).shape == (len(X),)
    settings = {"loss": "quantile", "quantile": [0.1, 0.9], "max_iter": 11}
    teacher = LSTMRegressor(4, random_state=0, **settings).fit(X, y)
    with pytest.raises(ValueError, match='loss="quantile" cannot be distilled'):
        distill(teacher.set_params(loss="squared_error"), X, hidden_size=3)


def test_a_forecaster_that_is_only_pretrained():
    panel = pd.concat([pd.Series(rng.normal(size=30))] * 2, keys=["a", "b"]).to_frame()
    forecaster = LSTMForecaster(max_steps=3, hidden_size=4, n_members=1, random_state=0)
    small = compress(forecaster.pretrain(panel, fh=[1]))
    assert small.fit(panel.loc["a"], fh=[1]).predict().notna().all(axis=None)


def test_files_with_wrong_codes_are_refused(data):
    X, y = data
    small = compress(LSTMClassifier(max_iter=12, random_state=0).fit(X, y))
    codec = saved_network.codec(RecurrentNetwork)
    state = codec.to_value(small.network_)
    name = next(iter(small.network_.codes))
    codes, scales = small.network_.codes[name]
    for odd in (
        {name: codes[1:]},
        {name + "_scale": scales[1:]},
        {name + "_scale": -scales},
        {name + "_scale": scales * np.float32(1e38)},
        {"readout.bias": np.zeros(3, np.int8), "readout.bias_scale": np.ones(3)},
    ):
        arrays = state["arrays"] | odd
        with pytest.raises(ValueError, match=r"its network has"):
            codec.from_value({**state, "arrays": arrays})


def test_a_panel_is_distilled_as_a_list():
    rows = [rng.normal(size=(6, 2)) for _ in range(20)]
    frame = pd.concat({i: pd.DataFrame(row) for i, row in enumerate(rows)})
    teacher = LSTMClassifier(4, max_iter=11, random_state=0).fit(frame, np.arange(20) % 3)
    students = [distill(teacher, X, hidden_size=2) for X in (frame, rows)]
    answers = [student.predict_proba(rows) for student in students]
    np.testing.assert_array_equal(*answers)


def test_a_student_knows_what_its_teacher_does():
    """Also the classes that it hardly sees, and rows that are a bit of everything."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6, 1))
    y = np.where(X.mean(axis=(1, 2)) > 0, "a", "b")
    X = X + 5 * np.sign(X.mean(axis=1, keepdims=True))
    teacher = LSTMClassifier(8, stem=None, max_iter=60, random_state=0).fit(X, y)
    student = distill(teacher, X[y == "a"], hidden_size=2)
    np.testing.assert_array_equal(student.classes_, teacher.classes_)
    X, y = rng.normal(size=(300, 6, 1)), np.arange(300) % 150
    teacher = LSTMClassifier(4, max_iter=11, random_state=0).fit(X, y)
    assert teacher.predict_proba(X).max() < 0.5
    student = distill(teacher, X, hidden_size=2)
    np.testing.assert_array_equal(student.classes_, teacher.classes_)


def test_a_student_learns_the_probabilities(monkeypatch, data):
    """Its loss is the cross-entropy to what the teacher says."""
    X, y = data
    settings = {"class_weight": "balanced", "alpha": 0.3, "random_state": 0}
    teacher = LSTMClassifier(8, max_iter=3, learning_rate_init=1e-4, **settings)
    with pytest.warns(ConvergenceWarning):
        teacher.fit(X, y)
    share, given = teacher.predict_proba(X), []

    def noted(self, X, y, sample_weight=None):
        given.append((self.get_params(), X, y, sample_weight))
        return self

    monkeypatch.setattr(LSTMClassifier, "fit", noted)
    distill(teacher, X, hidden_size=3)
    ((settings, rows, labels, weight),) = given
    expected = {**teacher.get_params(), "hidden_size": 3, "class_weight": None}
    assert settings == expected
    # Every row for every class, by its share.
    assert share.min() > 0.01  # less would be left out
    assert len(rows) == 3 * len(X)
    found = {
        (row.tobytes(), label): w
        for row, label, w in zip(rows, labels, weight, strict=True)
    }
    for i, row in enumerate(X):
        for k, label in enumerate(teacher.classes_):
            assert found[row.tobytes(), label] == share[i, k]


def test_a_student_of_a_regressor_has_the_loss_of_its_teacher(data):
    X, y = data
    teacher = LSTMRegressor(4, max_iter=11, loss="huber", random_state=0).fit(X, y)
    student = distill(teacher.set_params(loss="absolute_error"), X, hidden_size=2)
    assert student.head_.loss_name == "huber"


def test_rows_of_one_weight_are_not_rounded():
    """With a scale each they would be longer than before."""
    X = rng.normal(size=(20, 6))
    model = LSTMRegressor(4, stem=None, max_iter=11, random_state=0).fit(X, X[:, 0])
    exact = weights(model.network_)
    narrow = {name for name, w in exact.items() if w.ndim > 1 and w[0].size == 1}
    small = compress(model)
    assert narrow
    for name in narrow:
        np.testing.assert_array_equal(weights(small.network_)[name], exact[name])
    assert not narrow & small.network_.codes.keys()


def test_a_student_holds_out_no_sequence_that_it_learns(data):
    X, y = data
    teacher = LSTMClassifier(6, max_iter=12, random_state=0, early_stopping=True)
    student = distill(teacher.fit(X, y), X, hidden_size=4)
    assert student.early_stopping is False
    assert student.score(X, teacher.predict(X)) > 0.6
