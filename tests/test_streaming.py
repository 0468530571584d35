"""What a stream says after a step is what predict says of the prefix."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.pipeline import make_pipeline

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor, kernels, stream

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 12, 3))
LABELS = np.array(["a", "b", "c"])[np.arange(30) % 3]


def fit(estimator=LSTMClassifier, X=X, y=LABELS, **settings):
    settings = {"stem": None, "hidden_size": 10, "max_iter": 30} | settings
    return estimator(random_state=0, **settings).fit(X, y)


def prefixes(model, x):
    return np.concatenate([model.predict_proba(x[None, : t + 1]) for t in range(len(x))])


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "last"},
        {"pooling": "mean"},
        {"pooling": "max"},
        {"pooling": "mean-max", "num_layers": 2},
        {"pooling": "attention"},
        {"stem": "linear", "standardize": False},
        {"cell": "gru"},
        {"cell": "peephole"},
        {"num_layers": 3, "residual": True, "layer_norm": True},
        {"num_layers": 2, "hidden_size": 10},
        {"num_layers": 3, "hidden_size": 9, "residual": True, "cell": "gru"},
        {"dtype": "float64"},
    ],
    ids=str,
)
def test_equals_predict_on_every_prefix(settings, native, monkeypatch):
    model = fit(**settings)
    if not native:
        monkeypatch.setattr(kernels, "available", lambda *_: False)
    live = stream(model, method="predict_proba")
    for _ in range(2):
        found = np.stack([live.push(x_t) for x_t in X[0]])
        np.testing.assert_allclose(found, prefixes(model, X[0]), atol=1e-6)
        live.reset()
    live = stream(model, n_streams=3, method="predict_proba")
    found = np.stack([live.push(X[:3, t]) for t in range(X.shape[1])], axis=1)
    for i in range(3):
        np.testing.assert_allclose(found[i], prefixes(model, X[i]), atol=1e-6)


def test_many_streams_side_by_side_and_some_start_anew():
    model = fit(pooling="mean-max")
    live = stream(model, n_streams=4, method="predict_proba")
    for t in range(5):
        live.push(X[:4, t])
    live.reset([1, 3])
    for t in range(5, 9):
        found = live.push(X[:4, t])
    expected = model.predict_proba([X[0, :9], X[1, 5:9], X[2, :9], X[3, 5:9]])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("native", [True, False])
def test_autocast_of_the_caller_changes_nothing(native, monkeypatch):
    model = fit(num_layers=2, layer_norm=True, residual=True)
    if not native:
        monkeypatch.setattr(kernels, "available", lambda *_: False)
    live = stream(model, method="predict_proba")
    expected = [live.push(x_t) for x_t in X[0]]
    live.reset()
    with torch.autocast("cpu", torch.bfloat16):
        found = [live.push(x_t) for x_t in X[0]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_a_stream_that_starts_anew_has_forgotten_everything(pooling):
    """Also what is huge, beside which what comes after it would be nothing."""
    model = fit(pooling=pooling)
    live = stream(model, n_streams=2, method="predict_proba")
    for _ in range(3):
        live.push(np.array([X[0, 0], 50 * X[1, 0]]))
    live.reset([1])
    for t in range(3):
        found = live.push(np.array([X[0, 0], X[1, t]]))
    np.testing.assert_allclose(found[1], prefixes(model, X[1])[2], atol=1e-6)


def test_answers_as_the_method_does():
    model = fit()
    live = stream(model)
    label = [live.push(x_t) for x_t in X[0]][-1]
    assert label == model.predict(X[:1])[0]
    live = stream(model, method="embed", n_streams=2)
    state = [live.push(X[:2, t]) for t in range(12)][-1]
    np.testing.assert_allclose(state, model.embed(X[:2]), atol=1e-6)
    regressor = fit(LSTMRegressor, y=X[:, :, 0].mean(axis=1))
    live = stream(regressor)
    value = [live.push(x_t) for x_t in X[0]][-1]
    np.testing.assert_allclose(value, regressor.predict(X[:1])[0], atol=1e-5)


def test_tokens_and_missing_values():
    tokens = rng.integers(1, 20, size=(30, 9))
    model = fit(X=tokens, stem="embedding")
    live = stream(model, method="predict_proba")
    found = [live.push(token) for token in tokens[0]][-1]
    np.testing.assert_allclose(found, model.predict_proba(tokens[:1])[0], atol=1e-6)
    holes = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    model = fit(X=holes, missing="mask")
    live = stream(model, method="predict_proba")
    found = [live.push(x_t) for x_t in holes[0]][-1]
    np.testing.assert_allclose(found, model.predict_proba(holes[:1])[0], atol=1e-6)


def test_bad_steps_leave_the_state_as_it_was():
    model = fit()
    live = stream(model, method="predict_proba")
    live.push(X[0, 0])
    with pytest.raises(ValueError, match=r"one time step, an array of shape \(3,\); got"):
        live.push(X[0])
    with pytest.raises(ValueError, match=r"holds nan in channel 1\. Values must be"):
        live.push([0.0, np.nan, 1.0])
    with pytest.raises(
        ValueError, match=r"holds 1e\+300 at step 0 in channel 2, which is"
    ):
        live.push([0.0, 1.0, 1e300])
    hidden = np.ma.masked_array([0.0, 9e9, 1.0], [False, True, False])
    with pytest.raises(ValueError, match=r"holds nan in channel 1\. Values must be"):
        live.push(hidden)
    np.testing.assert_allclose(live.push(X[0, 1]), prefixes(model, X[0])[1], atol=1e-6)


def test_what_cannot_be_streamed_says_why():
    with pytest.raises(ValueError, match='stem="conv" cannot be streamed: its conv'):
        stream(fit(stem="conv", n_members=2))  # first of all
    with pytest.raises(ValueError, match="bidirectional network cannot be streamed"):
        stream(fit(bidirectional=True))
    with pytest.raises(ValueError, match="method must be one of"):
        stream(fit(), method="score")
    with pytest.raises(ValueError, match="LSTMRegressor has no predict_proba"):
        stream(fit(LSTMRegressor, y=X[:, 0, 0]), method="predict_proba")
    with pytest.raises(TypeError, match="got Pipeline"):
        stream(make_pipeline(fit()))
    with pytest.raises(ValueError, match="n_streams must be None or an integer of"):
        stream(fit(), n_streams=0)
    with pytest.raises(TypeError, match=r"A forecaster reads what is new by update\(y"):
        stream(LSTMForecaster())


def test_a_token_stream_refuses_what_predict_refuses():
    rows = [[1, 2, 3], [2, 3], [4, 4, 4, 1]]
    model = LSTMClassifier(4, stem="embedding", max_iter=11, random_state=0)
    live = stream(model.fit(rows, ["a", "b", "a"]), method="predict_proba")
    live.push(1)
    for token in (2.5, np.nan, np.inf, -1):
        with pytest.raises(ValueError, match=r"push expects tokens, integers of at le"):
            live.push(token)
    for token in ("a", None, {}, 1j, np.datetime64("2020-01-01")):
        with pytest.raises(ValueError, match=r"push expects (numbers|tokens)"):
            live.push(token)
    np.testing.assert_allclose(live.push(2.0), model.predict_proba([[1, 2]])[0], 1e-6)


def test_a_step_is_a_tensor_of_torch_with_gradients():
    model = fit()
    step = torch.tensor(X[0, 0], requires_grad=True)
    assert stream(model).push(step) == stream(model).push(X[0, 0])


def test_a_stream_knows_the_names_of_channels():
    frames = [pd.DataFrame(x[:, :2], columns=["a", "b"]) for x in X]
    model = fit(LSTMRegressor, X=frames, y=X[:, 0, 0])
    step = frames[0].iloc[0]
    answer = stream(model).push(step)
    assert answer == stream(model).push(step.to_numpy())
    assert answer == stream(model).push(step.tolist())
    assert answer == stream(model).push(step.set_axis([0, 1]))  # of no name
    with pytest.raises(ValueError, match=r"the channels \['a', 'b'\], as fit had them"):
        stream(model).push(step[["b", "a"]])
    with pytest.raises(ValueError, match=r"the channels \['a', 'b'\], as fit had them"):
        stream(model, 2).push(frames[0][["b", "a"]][:2])


def test_names_of_columns_that_are_no_channels_are_no_matter():
    frame = pd.DataFrame(X[:, :6, 0], columns=[f"t{i}" for i in range(6)])
    step = pd.Series([0.1], index=["sensor"])
    answer = stream(fit(LSTMRegressor, X=frame, y=X[:, 0, 0])).push(step)
    assert np.isfinite(answer)
    # One column of one channel is a time step.
    model = fit(LSTMRegressor, X=frame[["t0"]], y=X[:, 0, 0])
    assert np.isfinite(stream(model).push(step))
    model = fit(LSTMRegressor, X=frame, y=X[:, 0, 0], n_channels=2)
    assert np.isfinite(stream(model).push(pd.Series([0.1, 0.2], index=["a", "b"])))


@pytest.mark.parametrize("copier", [pickle.dumps, copy.deepcopy])
def test_a_stream_says_that_it_is_not_copied(copier):
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copier(stream(fit()))


def test_no_stream_may_be_reset():
    live, other = (stream(fit(), 2) for _ in range(2))
    live.push(X[:2, 0])
    other.push(X[:2, 0])
    live.reset([])
    np.testing.assert_array_equal(live.push(X[:2, 1]), other.push(X[:2, 1]))


def test_streams_to_reset_count_from_zero():
    live, other = (stream(fit(), 2) for _ in range(2))
    live.push(X[:2, 0])
    other.push(X[:2, 0])
    for streams in (-1, [0, -2]):
        with pytest.raises(IndexError, match=r"expects streams from 0 to 1; got -\d\."):
            live.reset(streams)
    np.testing.assert_array_equal(live.push(X[:2, 1]), other.push(X[:2, 1]))
