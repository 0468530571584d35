"""Displays show the numbers they are given, in new figures and in given axes."""

import sys

import numpy as np
import pandas as pd
import pytest
from sktime.datasets import load_airline
from sktime.utils._testing.hierarchical import _make_hierarchical

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor
from sklstm.inspection import gate_activations, integrated_gradients
from sklstm.plotting import (
    AttributionDisplay,
    BacktestDisplay,
    EmbeddingDisplay,
    ForecastDisplay,
    GateDisplay,
    QuantileCalibrationDisplay,
    TrainingDisplay,
)

plt = pytest.importorskip("matplotlib.pyplot")

QUICK = {"hidden_size": 4, "max_iter": 12, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(rng.integers(8, 16), 3)) for _ in range(40)]
    y = np.array(["up" if x[:, 0].sum() > 0 else "down" for x in X])
    return X, y


@pytest.fixture(scope="module")
def model(data):
    return LSTMClassifier(**QUICK, early_stopping=True).fit(*data)


@pytest.fixture(scope="module")
def forecaster():
    return LSTMForecaster().fit(load_airline()[:-12], fh=range(1, 13))


def texts(display):
    """Return everything that is written in a figure, once it can be drawn."""
    display.figure_.canvas.draw()
    return {text.get_text() for text in display.figure_.findobj(plt.Text)} - {""}


# ------------------------------------------------------------------------- training
def test_training_curves_and_the_epoch_that_was_kept(model):
    display = TrainingDisplay.from_estimator(model)
    losses = display.ax_.lines[0]
    np.testing.assert_array_equal(losses.get_ydata(), model.loss_curve_)
    scores, best = display.score_ax_.lines
    np.testing.assert_array_equal(scores.get_ydata(), model.validation_scores_)
    kept = model.best_iter_
    assert best.get_xdata() == [kept]
    assert f"best epoch: {kept}, {model.validation_scores_[kept - 1]:.3f}" in texts(
        display
    )
    assert {"Epoch", "Training loss", "Validation accuracy"} <= texts(display)


def test_training_curve_after_a_warm_start(data):
    model = LSTMClassifier(**QUICK, warm_start=True).fit(*data)
    display = TrainingDisplay.from_estimator(model)
    assert display.score_ax_ is None
    model.set_params(early_stopping=True).fit(*data)
    assert model.best_iter_ > 12
    display = TrainingDisplay.from_estimator(model)
    assert display.score_ax_.lines[0].get_xdata()[0] == 13
    assert display.score_ax_.lines[0].get_xdata()[-1] == model.n_iter_


def test_training_curves_of_a_forecaster(forecaster):
    with pytest.raises(ValueError, match="nothing was trained"):
        TrainingDisplay.from_estimator(forecaster)
    trained = LSTMForecaster(hidden_size=4, max_steps=50, n_members=2, batch_size=4)
    display = TrainingDisplay.from_estimator(trained.fit(load_airline()))
    assert [line.get_xdata().tolist() for line in display.ax_.lines] == [[25, 50]] * 2
    assert {"Training step", "network 1", "network 2"} <= texts(display)


# --------------------------------------------------------------------- explanations
def test_attributions_on_the_sequence(model, data):
    X, _ = data
    display = AttributionDisplay.from_estimator(model, X, sample=2, target="up")
    expected = integrated_gradients(model, X[2:3], target="up").attributions[0]
    assert len(display.ax_) == 3
    for channel, ax in enumerate(display.ax_):
        np.testing.assert_allclose(ax.images[0].get_array()[0], expected[:, channel])
        np.testing.assert_allclose(ax.lines[0].get_ydata(), X[2][:, channel])
    assert {"Attribution\n(logit of class up)", "Time step", "channel 1"} <= texts(
        display
    )
    with pytest.raises(ValueError, match=r"sample must be less than the 40 .* got 40"):
        AttributionDisplay.from_estimator(model, X, sample=40)


def test_attributions_of_frames_and_of_many_channels():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([range(20), range(9)], names=["case", "time"])
    X = pd.DataFrame(rng.normal(size=(180, 2)), index=index, columns=["heat", "wind"])
    y = rng.normal(size=20)
    model = LSTMRegressor(**QUICK).fit(X, y)
    assert {"heat", "wind", "Attribution\n(prediction)"} <= texts(
        AttributionDisplay.from_estimator(model, X)
    )
    wide = rng.normal(size=(15, 12))
    display = AttributionDisplay(wide, wide).plot()
    assert display.ax_.images[0].get_array().shape == (12, 15)
    assert "channel 11" in texts(display)


def test_attributions_of_tokens():
    rng = np.random.default_rng(0)
    X = rng.integers(2, 9, size=(40, 6))
    model = LSTMClassifier(**QUICK, stem="embedding").fit(X, X[:, 0] > 5)
    display = AttributionDisplay.from_estimator(model, X)
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == [
        str(token) for token in X[0]
    ]


def test_gates_and_an_axes_that_is_given(model, data):
    X, _ = data
    figure, (_, right) = plt.subplots(1, 2)
    display = GateDisplay.from_estimator(model, X, sample=1, ax=right)
    assert display.figure_ is figure
    assert len(display.ax_) == 4
    gates = gate_activations(model, X)
    shown = np.sort(display.ax_[1].images[0].get_array(), axis=0)
    expected = np.sort(gates.forget_gate[1, : len(X[1])].T, axis=0)
    np.testing.assert_allclose(shown, expected)
    assert {"Input gate", "Cell state", "Time step"} <= texts(display)
    gru = LSTMClassifier(**QUICK, cell="gru").fit(X, data[1])
    assert {"Reset gate", "Hidden state"} <= texts(GateDisplay.from_estimator(gru, X))


def test_embedding(model, data):
    X, y = data
    display = EmbeddingDisplay.from_estimator(model, X, y)
    embedding = model.embed(X)
    share = np.var(display.components, axis=0) / np.var(embedding, axis=0).sum()
    np.testing.assert_allclose(share, display.explained)
    assert {"up", "down", f"Component 1 ({share[0]:.0%} of variance)"} <= texts(display)
    sizes = [len(points.get_offsets()) for points in display.ax_.collections]
    assert sizes == [(y == "down").sum(), (y == "up").sum()]
    assert "y" in texts(
        EmbeddingDisplay.from_predictions(embedding, y=np.linspace(0, 1, 40))
    )
    assert len(EmbeddingDisplay.from_estimator(model, X).ax_.collections) == 1
    with pytest.raises(ValueError, match="y has 3 entries for 40 embedded"):
        EmbeddingDisplay.from_estimator(model, X, y[:3])
    with pytest.raises(ValueError, match=r"at least 2 samples .* shape \(1, 24\)"):
        EmbeddingDisplay.from_estimator(model, X[:1])


# ------------------------------------------------------------------------ forecasts
def test_a_fan_chart(forecaster):
    y = load_airline()
    display = ForecastDisplay.from_estimator(
        forecaster, y_true=y, coverage=[0.8], n_history=30
    )
    history, median, actual = display.ax_.lines
    np.testing.assert_array_equal(history.get_ydata(), y[-42:-12])
    np.testing.assert_allclose(median.get_ydata()[1:], forecaster.predict())
    np.testing.assert_array_equal(actual.get_ydata(), y[-12:])
    low, high = forecaster.predict_quantiles(alpha=[0.1, 0.9]).to_numpy().T
    (band,) = display.ax_.collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert {*low.round(6), *high.round(6)} <= {*edges.round(6)}
    assert {"Number of airline passengers", "Period (M)", "80% interval"} <= texts(
        display
    )


def test_a_fan_chart_of_a_panel_and_of_columns():
    y = _make_hierarchical(
        (3,), min_timepoints=30, max_timepoints=30, n_columns=2, random_state=0
    )
    forecaster = LSTMForecaster().fit(y, fh=[1, 2, 3])
    display = ForecastDisplay.from_estimator(forecaster, max_series=5)
    assert [ax.get_title() for ax in display.ax_] == [
        "h0_0, c0", "h0_0, c1", "h0_1, c0", "h0_1, c1", "h0_2, c0"
    ]  # fmt: skip
    assert any("(D)" in text for text in texts(display))
    with pytest.raises(ValueError, match=r"has the series \('c0',\), which y has not"):
        ForecastDisplay.from_predictions(y, forecaster.predict().loc["h0_1"])
    with pytest.raises(TypeError, match="Series or DataFrame, got list"):
        ForecastDisplay.from_predictions([1, 2], forecaster.predict())


def test_a_forecast_without_quantiles_or_dates():
    y = pd.Series(np.arange(20.0))
    y_pred = pd.Series([20.0, 21.0], index=[20, 21])
    display = ForecastDisplay.from_predictions(y, y_pred)
    assert {"Time", "y"} <= texts(display)
    assert not display.ax_.collections


def test_a_backtest(forecaster):
    y = load_airline()
    display = BacktestDisplay.from_estimator(
        forecaster, y, initial_window=100, max_cutoffs=3
    )
    forecasts = forecaster.backtest(y, initial_window=100)
    times = forecasts.index.get_level_values("time")
    error = np.abs(forecasts.iloc[:, 0] - y[times].to_numpy())
    expected = error.groupby(level="cutoff").mean()
    np.testing.assert_allclose(display.errors_, expected)
    upper, lower = display.ax_
    assert len(upper.lines) == 1 + 2 * 3
    np.testing.assert_allclose(lower.lines[0].get_ydata(), expected)
    assert {"Cutoff, Period (M)", f"mean: {expected.mean():.3g}"} <= texts(display)


def test_a_backtest_of_one_series_of_a_panel():
    y = _make_hierarchical((2,), min_timepoints=40, max_timepoints=40, random_state=0)
    forecaster = LSTMForecaster().fit(y, fh=[1, 2])
    kept = BacktestDisplay.from_estimator(
        forecaster, y, initial_window=30, instance="h0_1"
    )
    forecasts = forecaster.backtest(y, initial_window=30)
    alone = BacktestDisplay.from_predictions(
        y.loc["h0_1"], forecasts.xs("h0_1", level="instance")
    )
    np.testing.assert_array_equal(kept.errors_, alone.errors_)
    with pytest.raises(ValueError, match="instance='h0_7' is not among those of y"):
        BacktestDisplay.from_predictions(y, forecasts, instance="h0_7")


def test_calibration_counts_values_below_each_quantile(forecaster):
    rng = np.random.default_rng(0)
    y = rng.normal(size=2000)
    levels = [0.1, 0.5, 0.9]
    quantiles = np.tile([-1.2816, 0, 1.2816], (2000, 1))
    display = QuantileCalibrationDisplay.from_predictions(y, quantiles, levels=levels)
    np.testing.assert_allclose(display.observed, levels, atol=0.03)
    actual = load_airline()
    display = QuantileCalibrationDisplay.from_estimator(forecaster, None, actual)
    assert display.n_values == 12
    assert display.levels.tolist() == list(forecaster.quantiles)
    below = [
        (actual[-12:] <= forecaster.predict_quantiles(alpha=[level]).iloc[:, 0]).mean()
        for level in forecaster.quantiles
    ]
    np.testing.assert_allclose(display.observed, below)
    assert {"Level of the quantile", "12 values"} <= texts(display)


def test_columns_are_told_by_their_names():
    t = np.arange(60.0)
    y = pd.DataFrame({"a": np.sin(t), "b": 100 + np.sin(t)})
    forecaster = LSTMForecaster(4, sp=6).fit(y[:50], fh=[1, 2, 3])
    forecaster.update(y.loc[50:52, ["b", "a"]], update_params=False)
    for axis in ForecastDisplay.from_estimator(forecaster).ax_.ravel()[:2]:
        drawn = np.concatenate([line.get_ydata() for line in axis.lines])
        assert np.ptp(drawn[~np.isnan(drawn)]) < 10  # and not 100
    actual = y[["b", "a"]]
    both = QuantileCalibrationDisplay.from_estimator(forecaster, None, actual)
    same = QuantileCalibrationDisplay.from_estimator(forecaster, None, y)
    np.testing.assert_array_equal(both.observed, same.observed)
    assert both.observed.max() > 0
    plt.close("all")


def test_attributions_of_a_channel_without_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 8, 2))
    X[0, :, 1] = np.nan
    model = LSTMClassifier(**QUICK, missing="mask").fit(X, np.arange(20) % 2)
    display = AttributionDisplay.from_estimator(model, X[:1])
    assert len(np.ravel(display.ax_)) >= 2
    plt.close("all")


def test_calibration_of_a_regressor(data):
    X, _ = data
    y = np.array([x.sum() for x in X])
    model = LSTMRegressor(**QUICK, loss="quantile", quantile=[0.1, 0.5, 0.9])
    display = QuantileCalibrationDisplay.from_estimator(model.fit(X, y), X, y)
    expected = (y[:, None] <= model.predict(X)).mean(axis=0)
    np.testing.assert_array_equal(display.observed, expected)
    with pytest.raises(ValueError, match=r'needs loss="quantile"'):
        QuantileCalibrationDisplay.from_estimator(LSTMRegressor(), X, y)
    with pytest.raises(ValueError, match=r"shape \(40, 3\) do not fit 40 .* levels=None"):
        QuantileCalibrationDisplay.from_predictions(y, model.predict(X))
    with pytest.raises(ValueError, match="no value for any step"):
        QuantileCalibrationDisplay.from_predictions(
            [np.nan], [[0.0, 1.0]], levels=[0.1, 0.9]
        )


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sklstm\[plot\]"'):
        TrainingDisplay([[1.0, 0.5]]).plot()
