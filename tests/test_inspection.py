"""Attributions add up, padding says nothing, and gates obey the equations."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sktime.datasets import load_airline, load_longley
from sktime.utils._testing.hierarchical import _make_hierarchical

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor
from sklstm.inspection import (
    attention_weights,
    channel_importance,
    forecast_components,
    forecast_effects,
    gate_activations,
    integrated_gradients,
    window_importance,
)
from sklstm.modules import reverse

QUICK = {"hidden_size": 6, "max_iter": 12, "random_state": 0}
TINY = {"hidden_size": 4, "max_steps": 25, "batch_size": 8, "random_state": 0}
LABELS = np.array(["a", "b", "c"])


def fit(X, y, estimator=LSTMClassifier, **settings):
    return estimator(**QUICK | settings).fit(X, y)


# ------------------------------------------------------------- integrated gradients
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"stem": None},
        {"stem": "conv"},
        {"stem": "linear", "pooling": "attention"},
        {"stem": None, "bidirectional": True, "num_layers": 2, "pooling": "mean-max"},
        {"stem": None, "cell": "gru", "dtype": "float64"},
    ],
    ids=str,
)
def test_attributions_add_up(settings, ragged, make_sequences):
    X, y = make_sequences(40, n_channels=3, ragged=ragged)
    model = fit(X, LABELS[y], **settings)
    result = integrated_gradients(model, X, target="b", tol=0.005)
    lengths = np.array([len(row) for row in X])
    assert result.attributions.shape == (40, lengths.max(), 3)
    baseline = [np.tile(model.encoder_.mean_, (len(row), 1)) for row in X]
    expected = model.decision_function(X)[:, 1] - model.decision_function(baseline)[:, 1]
    total = result.attributions.sum(axis=(1, 2))
    size = np.abs(result.attributions).sum(axis=(1, 2))
    assert (np.abs(total - expected) <= 0.005 * size + 1e-5).all()
    np.testing.assert_allclose(
        result.gap, total - (result.response - result.baseline_response)
    )
    np.testing.assert_array_equal(result.lengths, lengths)
    for each, length in zip(result.attributions, lengths, strict=True):
        assert (each[length:] == 0).all()
        assert (each[:length] != 0).any()


def test_the_mean_curve_is_the_baseline_where_it_was_learnt():
    rng = np.random.default_rng(0)
    curve = np.cos(np.arange(20)[:, None] / [2, 3])
    X = curve * (1 + 0.02 * rng.normal(size=(30, 1, 2)))
    model = fit(X, rng.integers(2, size=30), missing="mask")
    assert model.encoder_.curve_ is not None
    X[:3, 4:6, 1] = np.nan
    result = integrated_gradients(model, X, tol=0.005)
    assert result.attributions.shape == (30, 20, 2)
    (expected,) = model.decision_function(model.encoder_.curve_[None])
    np.testing.assert_allclose(np.abs(result.baseline_response), abs(expected), atol=1e-5)
    size = np.abs(result.attributions).sum(axis=(1, 2))
    assert (np.abs(result.gap) <= 0.005 * size + 1e-5).all()


@pytest.mark.parametrize("method", ["decision_function", "predict_proba"])
def test_equals_the_definition(method, make_sequences):
    X, y = make_sequences(30, n_timesteps=7)
    model = fit(X, y, stem=None, dtype="float64")
    baseline = np.array([0.5, -1.0])
    result = integrated_gradients(
        model, X[:2], target=0, baseline=baseline, response_method=method
    )
    encoder = model.encoder_
    for row, found in zip(X[:2], result.attributions, strict=True):
        x = torch.tensor((row - encoder.mean_) / encoder.scale_)
        start = torch.tensor((baseline - encoder.mean_) / encoder.scale_)
        total = torch.zeros_like(x)
        for k in range(100):  # midpoints
            at = (start + (k + 0.5) / 100 * (x - start)).requires_grad_()
            logit = -model.network_(at[None])[0, 0]
            logit = torch.sigmoid(logit) if method == "predict_proba" else logit
            total += torch.autograd.grad(logit, at)[0] / 100
        np.testing.assert_allclose(found, total * (x - start), atol=1e-4)


def test_a_channel_that_is_not_read_gets_nothing(make_sequences):
    X, y = make_sequences(30)
    model = fit(X, y, stem=None)
    with torch.no_grad():
        model.network_.recurrence.forwards[0].weight_ih_l0[:, 1] = 0
    attributions = integrated_gradients(model, X).attributions
    assert (attributions[:, :, 1] == 0).all()
    assert (attributions[:, :, 0] != 0).all()


def test_a_sequence_is_explained_alike_alone_and_among_others(make_sequences):
    X, y = make_sequences(30, ragged=True)
    model = fit(X, y, stem="conv")
    among = integrated_gradients(model, X).attributions
    alone = integrated_gradients(model, X[4:5]).attributions[0]
    np.testing.assert_allclose(among[4, : len(alone)], alone, atol=1e-5)


def test_layouts_and_kinds_of_x_are_explained_alike(make_sequences):
    X, y = make_sequences(30)
    model = fit(X, y)
    expected = integrated_gradients(model, X).attributions
    model.layout = model.encoder_.layout = "channel-major"
    found = integrated_gradients(model, X.transpose(0, 2, 1)).attributions
    np.testing.assert_array_equal(found, expected)


def test_missing_values_count_for_their_channel(make_sequences):
    X, y = make_sequences(40)
    X[:, 2, 0] = np.nan
    X[5, 8:] = np.nan  # ends early
    model = fit(X, y, missing="mask", stem=None)
    result = integrated_gradients(model, X)
    assert result.attributions.shape == X.shape
    assert (result.attributions[5, 8:] == 0).all()
    assert (result.attributions[:5, 2, 0] != 0).all()  # that it is missing says something
    assert np.abs(result.gap).max() < 1e-4


def test_tokens_are_explained_through_their_embedding():
    rng = np.random.default_rng(0)
    X = [rng.integers(2, 12, size=rng.integers(3, 9)) for _ in range(60)]
    y = [int(7 in row) for row in X]
    model = fit(X, y, stem="embedding", max_iter=60)
    result = integrated_gradients(model, X, target=1)
    tokens = np.zeros_like(result.attributions, dtype=int)
    for row, into in zip(X, tokens, strict=True):
        into[: len(row)] = row
    assert (result.attributions[tokens == 0] == 0).all()
    assert np.abs(result.gap).max() < 0.01 * np.abs(result.attributions).sum(1).max()
    means = [result.attributions[tokens == token].mean() for token in range(2, 12)]
    assert np.argmax(means) + 2 == 7
    with pytest.raises(ValueError, match="baseline must be None for tokens"):
        integrated_gradients(model, X, baseline=0.0)


def test_targets_of_a_regressor(make_sequences):
    X, _ = make_sequences(40)
    y = np.column_stack([X[:, :, 0].mean(axis=1), 100 * X[:, :, 1].mean(axis=1)])
    model = fit(X, y, LSTMRegressor, loss="quantile", quantile=[0.2, 0.8])
    flat = model.predict(X).reshape(40, 4)
    each = [integrated_gradients(model, X, target=k).response for k in range(4)]
    # Crossing quantiles are put in order by predict alone.
    ordered = np.sort(np.stack(each, axis=1).reshape(40, 2, 2), axis=2).reshape(40, 4)
    np.testing.assert_allclose(ordered, flat, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"predicts 4 numbers .* target=0 to target=3"):
        integrated_gradients(model, X)
    with pytest.raises(ValueError, match=r"integer from 0 to 3; got 4"):
        integrated_gradients(model, X, target=4)


def test_targets_of_a_classifier(make_sequences):
    X, y = make_sequences(40, n_channels=3)
    model = fit(X, LABELS[y])
    predicted = np.searchsorted(LABELS, model.predict(X))
    np.testing.assert_array_equal(integrated_gradients(model, X).target, predicted)
    each = integrated_gradients(model, X, target=LABELS[y])
    np.testing.assert_array_equal(each.target, y)
    with pytest.raises(ValueError, match=r"target holds \['d'\], .* classes \['a', 'b'"):
        integrated_gradients(model, X, target="d")
    with pytest.raises(ValueError, match="one for each of 40 sequences"):
        integrated_gradients(model, X, target=["a", "b"])
    labels = np.column_stack([y == 0, y == 1]).astype(int)
    model = fit(X, labels)
    result = integrated_gradients(model, X, target=1)
    np.testing.assert_allclose(result.response, model.decision_function(X)[:, 1])


def test_no_more_rows_than_are_allowed_are_held_at_once(make_sequences, monkeypatch):
    X, y = make_sequences(20)
    model = fit(X, y)
    expected = integrated_gradients(model, X, target=1, n_steps=20)
    monkeypatch.setattr("sklstm.inspection.ROWS_AT_ONCE", 8)
    seen = []
    hook = model.network_.register_forward_hook(lambda *call: seen.append(len(call[2])))
    found = integrated_gradients(model, X, target=1, n_steps=20)
    hook.remove()
    assert max(seen) == 8
    np.testing.assert_allclose(found.attributions, expected.attributions, atol=1e-6)


def test_targets_of_instances_in_another_order_are_refused():
    X = pd.concat({i: pd.DataFrame({"u": np.full(3, float(i))}) for i in (3, 1, 2, 0)})
    y = pd.Series([0, 1, 0, 1], index=[3, 1, 2, 0])
    model = LSTMClassifier(4, max_iter=11, random_state=0).fit(X, y)
    assert integrated_gradients(model, X, target=y).target.tolist() == y.tolist()
    with pytest.raises(ValueError, match="X and target have their instances in another"):
        integrated_gradients(model, X, target=y.sort_index())


def test_too_few_steps_are_doubled_then_warned_of(make_sequences):
    X, y = make_sequences(20)
    model = fit(X, y, max_iter=60)
    with pytest.warns(ConvergenceWarning, match=r"miss their sum .* 16 steps.*\(now 1\)"):
        few = integrated_gradients(model, X, n_steps=1, tol=1e-6)
    many = integrated_gradients(model, X, n_steps=64)
    assert np.abs(many.gap).max() < np.abs(few.gap).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps must be an integer of at least 1; got 0"),
        ({"baseline": [1.0]}, r"one for each of 2 channels; got \[1.0\]"),
        ({"baseline": np.nan}, "must be a finite number"),
        ({"response_method": "predict"}, "response_method must be .* got 'predict'"),
    ],
)
def test_bad_settings_of_integrated_gradients(settings, message, make_sequences):
    X, y = make_sequences(20)
    with pytest.raises(ValueError, match=message):
        integrated_gradients(fit(X, y), X, **settings)


def test_estimators_that_cannot_be_inspected(make_sequences):
    X, y = make_sequences(20)
    with pytest.raises(NotFittedError):
        integrated_gradients(LSTMClassifier(), X)
    per_step = fit(X, np.sign(X[:, :, 0]), target="sequence")
    with pytest.raises(ValueError, match="explains one answer for a sequence"):
        integrated_gradients(per_step, X)
    assert gate_activations(per_step, X).cell_state.shape == (20, 12, 6)
    with pytest.raises(TypeError, match="pass the estimator inside"):
        integrated_gradients("model", X)
    with pytest.raises(TypeError, match="Expected a fitted LSTMForecaster, got LSTMCl"):
        forecast_effects(fit(X, y))


# ---------------------------------------------------------------------- importance
@pytest.mark.parametrize("layout", ["time-major", "channel-major"])
def test_the_channel_and_window_that_matter_are_found(layout):
    X = np.random.default_rng(0).normal(size=(120, 9, 3))
    y = X[:, 3:6, 1].sum(axis=1) > 0
    X = X if layout == "time-major" else X.transpose(0, 2, 1)
    model = fit(X, y, layout=layout, max_iter=40)
    windows = window_importance(model, X, y, n_windows=3, random_state=0)
    channels = channel_importance(model, X, y, random_state=0, scoring="neg_log_loss")
    assert windows.windows.tolist() == [[0, 3], [3, 6], [6, 9]]
    for result, n, best in ((windows, 3, 1), (channels, 3, 1)):
        assert result.importances.shape == (n, 5)
        assert result.importances_mean.argmax() == best
        rest = np.delete(result.importances_mean, best)
        margin = 3 * result.importances_std.max()
        assert result.importances_mean[best] > rest.max() + margin
    again = window_importance(model, X, y, n_windows=3, random_state=0)
    np.testing.assert_array_equal(again.importances, windows.importances)


def test_fewer_steps_than_windows():
    X = np.random.default_rng(0).normal(size=(40, 4))
    model = fit(X, X[:, 0] > 0)
    result = window_importance(model, X, X[:, 0] > 0, random_state=0)
    assert result.windows.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_shuffling_keeps_padding_and_lengths(make_sequences):
    X, y = make_sequences(40, ragged=True)
    model = fit(X, y)
    seen = []

    def score(estimator, rows, y):
        seen.append(rows)
        return 0.0

    window_importance(model, X, y, n_windows=2, scoring=score, random_state=0)
    pool = {tuple(step) for row in X for step in row}
    assert len(seen) == 11
    changed = 0
    for rows in seen:
        assert [len(row) for row in rows] == [len(row) for row in X]
        assert {tuple(step) for row in rows for step in row} <= pool
        changed += any((a != b).any() for a, b in zip(rows, X, strict=True))
    assert changed == 10


def test_rows_that_shuffling_would_leave_empty_keep_their_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6, 2))
    y = X.sum(axis=(1, 2)) > 0
    X[:20, :, 0] = X[20:, :, 1] = np.nan  # one sensor or the other
    model = fit(X, y, missing="mask")
    for result in (
        channel_importance(model, X, y, random_state=0),
        window_importance(model, X, y, n_windows=1, random_state=0),
    ):
        assert np.isfinite(result.importances).all()
    X[0, :5] = np.nan  # what is left of this row lies in the last window
    result = window_importance(model, X, y, n_windows=6, random_state=0)
    assert np.isfinite(result.importances).all()


def test_tokens_are_shuffled_in_time_alone():
    rng = np.random.default_rng(0)
    X = rng.integers(2, 9, size=(60, 6))
    y = (X[:, 0] > 5).astype(int)
    model = fit(X, y, stem="embedding", pooling="last", max_iter=40)
    result = window_importance(model, X, y, n_windows=6, random_state=0)
    assert result.importances_mean.argmax() == 0
    with pytest.raises(ValueError, match="Tokens have no channels"):
        channel_importance(model, X, y)


@pytest.mark.parametrize("target", ["single", "sequence"])
def test_unknown_tokens_inside_a_row_stay_where_they_are_shuffled(target):
    X = [[1, 0, 3], [3, 1, 1], [1, 3, 0, 1]] * 4
    y = [row[::-1] for row in X] if target == "sequence" else [row[0] for row in X]
    model = LSTMClassifier(
        4, stem="embedding", target=target, max_iter=11, random_state=0
    ).fit(X, y)
    seen = []

    def score(model, X, y):
        seen.append(X)
        return model.score(X, y)

    result = window_importance(
        model, X, y, n_windows=4, n_repeats=3, scoring=score, random_state=0
    )
    reference = result.importances[0] + model.score(seen[1], y)
    assert reference[0] == pytest.approx(model.score(X, y))
    for shuffled in seen:
        read = model.encoder_.read(shuffled, model, reset=False)
        np.testing.assert_array_equal(read.lengths, [len(row) for row in X])
        assert not np.isin(np.concatenate(shuffled), [0]).any()
    # What stands for them is no token of the vocabulary: 2 is the first that is none.
    assert set(np.concatenate(seen[0])) == {1, 2, 3}


def test_importance_refuses_instances_in_another_order():
    X = pd.concat({i: pd.DataFrame({"u": np.full(3, float(i))}) for i in (3, 1, 2, 0)})
    y = pd.Series([0, 1, 0, 1], index=[3, 1, 2, 0])
    model = LSTMClassifier(4, max_iter=11, random_state=0).fit(X, y)
    for importance in (window_importance, channel_importance):
        importance(model, X, y, sample_weight=y + 1)
        with pytest.raises(ValueError, match="X and y have their instances in another"):
            importance(model, X, y.sort_index())
        with pytest.raises(ValueError, match="X and sample_weight have their instances"):
            importance(model, X, y, sample_weight=y.sort_index() + 1)


def test_bad_settings_of_importance(make_sequences):
    X, y = make_sequences(20)
    model = fit(X, y)
    with pytest.raises(ValueError, match="n_windows must be at least 1; got 0"):
        window_importance(model, X, y, n_windows=0)
    with pytest.raises(ValueError, match="n_repeats must be an integer of at least 1; g"):
        channel_importance(model, X, y, n_repeats=0)


# ------------------------------------------------------------------------ attention
def test_attention_weights_of_a_plain_network(make_sequences):
    X, y = make_sequences(30, ragged=True)
    model = fit(X, y, stem=None, pooling="attention")
    weights = attention_weights(model, X)
    for row, found in zip(X, weights, strict=True):
        x = torch.tensor((row - model.encoder_.mean_) / model.encoder_.scale_)
        with torch.no_grad():
            states = model.network_.recurrence(x.float()[None], None)
            expected = model.network_.pooling.attention(states, None)[0]
        np.testing.assert_allclose(found[: len(row)], expected, atol=1e-6)
        assert (found[len(row) :] == 0).all()


def test_attention_weights_reach_every_input_step_through_strides():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(length, 1)) for length in (600, 341, 7, 1, 90)]
    model = fit(X, [0, 1, 0, 1, 0], pooling="attention")
    assert np.prod(model.network_.stem.strides) == 4
    weights = attention_weights(model, X)
    for row, found in zip(X, weights, strict=True):
        assert (found[: len(row)] > 0).all()
        assert (found[len(row) :] == 0).all()
        # A step has a share of the nearest state, which stands at every fourth.
        changes = 1 + np.flatnonzero(np.diff(found[: len(row)]))
        assert set(changes % 4) <= {2}
        assert len(changes) >= (len(row) - 1) // 4 - 1
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_attention_weights_need_attention(make_sequences):
    X, y = make_sequences(20)
    with pytest.raises(ValueError, match='fitted with pooling="mean-max"'):
        attention_weights(fit(X, y), X)


# ---------------------------------------------------------------------------- gates
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_gates_of_an_lstm_follow_its_equations(direction, make_sequences):
    X, y = make_sequences(20, ragged=True)
    model = fit(X, y, stem=None, bidirectional=True, num_layers=2)
    gates = gate_activations(model, X, direction=direction)
    layers = model.network_.recurrence
    layer = (layers.forwards if direction == "forward" else layers.backwards)[0]
    W, U, b, d = (w.detach().double().numpy() for w in layer.weights)
    for row, x in enumerate(X):
        steps = range(len(x))[:: 1 if direction == "forward" else -1]
        h = c = np.zeros(6)
        for t in steps:
            scaled = (x[t] - model.encoder_.mean_) / model.encoder_.scale_
            i, f, g, o = np.split(W @ scaled + U @ h + b + d, 4)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * c + i * g
            h = o * np.tanh(c)
            for name, value in zip(
                ("input_gate", "forget_gate", "cell_candidate", "output_gate",
                 "cell_state", "hidden_state"),
                (i, f, g, o, c, h),
                strict=True,
            ):  # fmt: skip
                np.testing.assert_allclose(gates[name][row, t], value, atol=1e-6)
        for name in ("forget_gate", "hidden_state"):
            assert (gates[name][row, len(x) :] == 0).all()
    assert gates.lengths.tolist() == [len(x) for x in X]
    assert gates.stride == 1


@pytest.mark.parametrize(
    "cell", [{"cell": "lstm", "layer_norm": True}, {"cell": "gru"}, {"cell": "peephole"}]
)
@pytest.mark.parametrize("stem", [None, "conv"])
def test_hidden_states_are_those_of_the_network(cell, stem, make_sequences):
    X, y = make_sequences(20, n_timesteps=170, ragged=True)
    model = fit(X, y, **cell, stem=stem, num_layers=2, bidirectional=True)
    layers = model.network_.recurrence
    for layer in (*layers.forwards, *layers.backwards):
        if hasattr(layer, "weight_ch_l0"):
            layer.weight_ch_l0.data = torch.linspace(-1, 1, 18).reshape(3, 6)
    encoded = model.encoder_.encode(
        model.encoder_.read(X, model, reset=False), np.arange(20)
    )
    x, lengths = torch.from_numpy(encoded.values), torch.from_numpy(encoded.lengths)
    seen = {}
    for name in ("forwards", "backwards"):
        getattr(layers, name)[1].register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output[0]})
        )
    with torch.no_grad():
        model.network_(x, lengths)
    stride = 1 if stem is None else 2
    lengths = -(-lengths // stride)
    seen["backwards"] = reverse(seen["backwards"], lengths)
    for direction in ("forward", "backward"):
        found = gate_activations(model, X, layer=1, direction=direction)
        assert found.stride == stride
        np.testing.assert_array_equal(found.lengths, lengths)
        expected = seen[f"{direction}s"].transpose(0, 1)  # (N, S, H)
        for a, b, length in zip(found.hidden_state, expected, lengths, strict=True):
            np.testing.assert_allclose(a[:length], b[:length], atol=1e-5)
            assert (a[length:] == 0).all()


@pytest.mark.parametrize("segment_length", [1, 3])
def test_hidden_states_of_a_forecaster_are_those_of_its_network(segment_length):
    y = _make_hierarchical((2,), min_timepoints=30, max_timepoints=30, random_state=0)
    forecaster = LSTMForecaster(
        **TINY, window_length=12, segment_length=segment_length, num_layers=2
    ).fit(y, fh=[1])
    read = []
    final = forecaster.model_.trained[0].network.recurrence

    def keep(module, inputs, output):
        read.append(output[1][0].numpy())  # h of the last step

    hook = final.forwards[1].register_forward_hook(keep)
    forecaster.predict()
    hook.remove()
    gates = gate_activations(forecaster, layer=1)
    assert gates.forget_gate.shape == (2, 12 // segment_length, 4)
    assert gates.stride == segment_length
    np.testing.assert_allclose(gates.hidden_state[:, -1], read[0][:2], atol=1e-6)


def test_gates_of_a_series_are_those_up_to_its_last_value():
    late = load_airline()
    late.iloc[-5:] = np.nan
    found, expected = (
        gate_activations(LSTMForecaster().fit(y, fh=[1])) for y in (late, late[:-5])
    )
    np.testing.assert_array_equal(found.hidden_state, expected.hidden_state)


def test_gates_of_short_series_are_those_of_shorter_windows(airline):
    gates = gate_activations(airline)
    assert gates.lengths.tolist() == [gates.cell_state.shape[1]]
    short = LSTMForecaster().fit(load_airline()[:20], fh=[1])
    assert gate_activations(short).lengths.tolist() == [24]


def test_bad_settings_of_gates(make_sequences):
    X, y = make_sequences(20)
    model = fit(X, y, stem=None)
    with pytest.raises(ValueError, match=r"layer must be from 0 to 0.*got 1"):
        gate_activations(model, X, layer=1)
    with pytest.raises(ValueError, match="not bidirectional"):
        gate_activations(model, X, direction="backward")
    with pytest.raises(ValueError, match="got 'up'"):
        gate_activations(model, X, direction="up")


# ------------------------------------------------------------------- the forecaster


@pytest.fixture(scope="module")
def airline():
    return LSTMForecaster().fit(load_airline(), fh=range(1, 15))


@pytest.fixture(scope="module")
def longley():
    y, X = load_longley()
    past, future = X.iloc[:-3], X.iloc[-3:]
    forecaster = LSTMForecaster(**TINY, window_length=4, n_members=2)
    return forecaster.fit(y.iloc[:-3], X=past, fh=[1, 2, 3]), future


def test_the_effect_of_a_lag_is_that_of_a_missing_value(airline):
    y = load_airline()
    result = forecast_effects(airline, lags=[1, 12, 30])
    np.testing.assert_array_equal(result.forecast[:, 0], airline.predict())
    assert result.index.equals(airline.predict().index)
    for k, lag in enumerate([1, 12, 30]):
        holed = y.copy()
        holed.iloc[-lag] = np.nan
        without = LSTMForecaster(sp=12).fit(holed, fh=range(1, 15)).predict()
        np.testing.assert_allclose(
            result.effects[:, 0, k], airline.predict() - without, atol=1e-9
        )
    assert airline.predict().notna().all()  # the forecaster is as it was


def test_effects_end_with_the_context(airline):
    n = airline.model_.context_length
    y = np.tile(load_airline().to_numpy(), 3)
    forecaster = LSTMForecaster(sp=12).fit(pd.Series(y), fh=[1])
    effects = forecast_effects(forecaster, lags=[1, n, n + 1, n + 40]).effects[0, 0]
    assert effects[0] != 0
    assert (effects[2:] == 0).all()


def test_a_lag_beyond_a_short_series_of_a_panel_has_no_effect():
    y = _make_hierarchical((2,), min_timepoints=30, max_timepoints=30, random_state=0)
    y = y.drop(y.index[:15])  # of the first instance 15 rows are left
    forecaster = LSTMForecaster().fit(y, fh=[1, 2])
    effects = forecast_effects(forecaster, lags=20).effects
    assert effects.shape == (4, 1, 20)
    assert (effects[:2, :, 15:] == 0).all()
    assert (effects[2:, :, 15:] != 0).any()


def test_the_effect_of_a_column_is_that_of_its_mean(longley):
    forecaster, X = longley
    result = forecast_effects(forecaster, X=X, lags=2)
    assert result.exog_columns == list(X.columns)
    assert result.exog_effects.shape == (3, 1, X.shape[1])
    assert (np.abs(result.exog_effects) > 0).all()
    mean = forecaster.model_.exog_mean
    twin, flat = forecaster.clone(), X.copy()
    y, past = (load_longley()[k].iloc[:-3].copy() for k in (0, 1))
    twin.fit(y, X=past, fh=[1, 2, 3])
    flat["GNP"] = mean[list(X.columns).index("GNP")]
    past["GNP"] = mean[list(X.columns).index("GNP")]
    twin._cur_X = past
    expected = forecaster.predict(X=X) - twin.predict(X=flat)
    k = list(X.columns).index("GNP")
    np.testing.assert_allclose(result.exog_effects[:, 0, k], expected, rtol=1e-4)


def test_components_of_the_pretrained_network(airline):
    parts = forecast_components(airline)
    y = load_airline().to_numpy()
    np.testing.assert_array_equal(parts.forecast[:, 0], airline.predict())
    np.testing.assert_allclose(parts.base + parts.lstm, parts.forecast, rtol=1e-12)
    np.testing.assert_allclose(parts.seasonal_naive + parts.trend, parts.base, rtol=1e-12)
    np.testing.assert_allclose(
        parts.seasonal_naive[:, 0], np.resize(y[-12:], 14), rtol=1e-5
    )
    assert (np.abs(parts.lstm) > 0).all()


def test_components_start_as_what_the_network_starts_from(longley):
    forecaster, X = longley
    parts = forecast_components(forecaster, X=X)
    np.testing.assert_array_equal(parts.forecast[:, 0], forecaster.predict(X=X))
    np.testing.assert_allclose(parts.base + parts.lstm, parts.forecast, rtol=1e-12)
    # X acts through the LSTM alone.
    other = forecast_components(forecaster, X=X * 1.01)
    np.testing.assert_array_equal(other.base, parts.base)
    assert (other.lstm != parts.lstm).any()


def test_columns_are_named_as_predict_names_them():
    t = np.arange(60.0)
    y = pd.DataFrame({"a": np.sin(t), "b": 5 + np.cos(t)})
    forecaster = LSTMForecaster(4, sp=6).fit(y[:50], fh=[1])
    forecaster.update(y.loc[50:50, ["b", "a"]], update_params=False)
    predicted = forecaster.predict()
    for result in (forecast_effects(forecaster, lags=2), forecast_components(forecaster)):
        assert result.columns == predicted.columns.tolist()
        np.testing.assert_allclose(result.forecast, predicted)


def test_bad_settings_of_effects(airline):
    with pytest.raises(ValueError, match=r"lags must be integers of at least 1, got \[0"):
        forecast_effects(airline, lags=[0, 1])
    y = load_airline()
    forecaster = LSTMForecaster().fit(y)
    with pytest.raises(ValueError, match="fh has in-sample steps"):
        forecast_effects(forecaster, fh=[-1, 1])


def test_the_layout_is_that_of_the_fit():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3, 3))
    y = X[:, 0, 1] > 0
    model = LSTMClassifier(hidden_size=4, max_iter=12, random_state=0).fit(X, y)
    settings = {"n_windows": 3, "n_repeats": 2, "random_state": 0}
    expected = window_importance(model, X, y, **settings).importances
    model.set_params(layout="channel-major")
    found = window_importance(model, X, y, **settings).importances
    np.testing.assert_array_equal(found, expected)


def test_importance_by_several_metrics_is_refused():
    X = np.random.default_rng(0).normal(size=(20, 3))
    y = X[:, 0] > 0
    model = LSTMClassifier(hidden_size=4, max_iter=12, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"scoring must be one metric, or None; got \["):
        window_importance(model, X, y, scoring=["accuracy", "roc_auc"])


def test_scores_of_importance_are_weighted():
    X = np.random.default_rng(0).normal(size=(40, 9))
    y, weight, seen = X[:, 0] > 0, np.arange(40.0), []
    model = fit(X, y)

    def scoring(estimator, X, y, sample_weight=None):
        seen.append(sample_weight)
        return estimator.score(X, y, sample_weight)

    for importance in (window_importance, channel_importance):
        seen.clear()
        importance(model, X, y, scoring=scoring, sample_weight=weight, n_repeats=1)
        assert seen
        for given in seen:
            np.testing.assert_array_equal(given, weight)


def test_importance_leaves_the_global_random_state_alone():
    X = np.random.default_rng(0).normal(size=(40, 9))
    y = X[:, 0] > 0
    model, before = fit(X, y), np.random.get_state()[1].copy()  # noqa: NPY002
    for importance in (window_importance, channel_importance):
        importance(model, X, y, n_repeats=1)
        seeded = [importance(model, X, y, random_state=0).importances for _ in range(2)]
        np.testing.assert_array_equal(*seeded)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
