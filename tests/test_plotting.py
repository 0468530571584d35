"""Displays show the numbers they are given, in new figures and in given axes."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
import sktime.exceptions
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sktime.datasets import load_airline
from sktime.utils._testing.hierarchical import _make_hierarchical

from sklstm import (
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTimeSeriesClassifier,
)
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


def apart(boxes):
    """Tell whether no two boxes overlap."""
    return not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    "make",
    [make_pipeline, lambda model: LSTMTimeSeriesClassifier()],
    ids=["pipe", "panel"],
)
def test_displays_say_what_to_pass(make, model, data):
    X, y = data
    other = make(model)
    for display, arguments in [
        (TrainingDisplay, ()), (AttributionDisplay, (X,)), (EmbeddingDisplay, (X,)),
        (GateDisplay, (X,)), (QuantileCalibrationDisplay, (X, y)),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match=r"Expected .* pass the estimator inside"):
            display.from_estimator(other, *arguments)
        with pytest.raises(NotFittedError, match="not fitted"):
            display.from_estimator(LSTMClassifier(), *arguments)
    with pytest.raises(sktime.exceptions.NotFittedError, match="has not been fitted"):
        QuantileCalibrationDisplay.from_estimator(LSTMForecaster(), None, y)
    for display in (ForecastDisplay, BacktestDisplay):
        with pytest.raises(TypeError, match="Expected a fitted LSTMForecaster, got"):
            display.from_estimator(other, y)


@pytest.mark.parametrize("free", [False, True])
def test_divided_displays_stay_in_the_place_of_given_axes(free, data):
    rng = np.random.default_rng(0)
    gates = dict.fromkeys(["input_gate", "forget_gate", "cell_state"], np.ones((9, 4)))
    y = _make_hierarchical((4,), min_timepoints=30, max_timepoints=30, random_state=0)
    displays = [
        AttributionDisplay(rng.normal(size=(50, 6)), rng.normal(size=(50, 6))).plot,
        GateDisplay(gates).plot,
        ForecastDisplay(y.groupby(level=0).head(25), y.groupby(level=0).tail(5)).plot,
    ]
    for draw in displays:
        figure = plt.figure(figsize=(6, 4))
        ax = figure.add_axes([0.15, 0.1, 0.7, 0.8]) if free else figure.subplots()
        place = ax.get_position().padded(1e-6)
        drawn = draw(ax=ax).ax_
        figure.canvas.draw()
        for axis in drawn:
            corners = axis.get_position().corners()
            assert all(place.contains(*corner) for corner in corners)
        boxes = [axis.get_window_extent() for axis in drawn]
        for k, axis in enumerate(drawn):
            for title in (axis.title, axis._left_title):
                if title.get_text():
                    assert apart([title.get_window_extent(), *boxes[:k], *boxes[k + 1 :]])
        assert apart([axis.yaxis.label.get_window_extent() for axis in drawn])


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
    trained = LSTMForecaster(hidden_size=4, max_steps=60, n_members=2, batch_size=4)
    display = TrainingDisplay.from_estimator(trained.fit(load_airline()))
    assert trained.steps_per_entry_ == 30
    assert [line.get_xdata().tolist() for line in display.ax_.lines] == [[30, 60]] * 2
    assert {"Training step", "network 1", "network 2"} <= texts(display)


def test_the_legend_of_given_axes_is_not_on_their_title():
    _, ax = plt.subplots()
    ax.set_title("Mine")
    display = TrainingDisplay([[3.0, 2.0, 1.0]], [0.1, 0.2, 0.3], best_iter=2)
    display.plot(ax=ax)
    assert {"Mine", "training loss", "best epoch: 2, 0.200"} <= texts(display)
    legend = display.score_ax_.get_legend().get_window_extent()
    assert apart([legend, ax.title.get_window_extent()])
    assert ax.bbox.contains(legend.x1, legend.y1)


def test_ticks_of_given_axes_are_kept():
    values = np.ones((9, 1))
    for display in (
        TrainingDisplay([[3.0, 2.0, 1.0]]),
        AttributionDisplay(values, values),
        GateDisplay({"forget_gate": values}),
    ):
        _, ax = plt.subplots()
        ax.set_xticks([1, 2.5])
        display.plot(ax=ax)
        assert ax.get_xticks().tolist() == [1, 2.5]
    _, ax = plt.subplots()
    ax.set_xscale("log")
    assert TrainingDisplay([[3.0, 2.0, 1.0]]).plot(ax=ax).ax_.get_xscale() == "log"


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
    with pytest.raises(ValueError, match=r"sample must be from -40 to 39, .* got 40"):
        AttributionDisplay.from_estimator(model, X, sample=40)


def test_of_targets_for_each_sequence_that_of_the_sample_counts(model, data):
    X, y = data
    for target in (y, list(y), pd.Series(y, np.arange(40)[::-1])):
        display = AttributionDisplay.from_estimator(model, X, sample=3, target=target)
        assert display.response_name == f"logit of class {y[3]}"
    last = AttributionDisplay.from_estimator(model, X, sample=-1, target=y)
    assert last.response_name == f"logit of class {y[-1]}"


def test_instances_in_another_order_are_refused():
    rng, keys = np.random.default_rng(0), np.arange(20)[::-1]
    X = pd.concat({key: pd.DataFrame(rng.normal(size=(6, 2))) for key in keys})
    y = pd.Series(np.arange(20) % 2, keys)
    model = LSTMClassifier(**QUICK).fit(X, y)
    regressor = LSTMRegressor(**QUICK, loss="quantile", quantile=[0.2, 0.8]).fit(X, y)
    EmbeddingDisplay.from_estimator(model, X, y)
    QuantileCalibrationDisplay.from_estimator(regressor, X, y)
    message = "X and {} have their instances in another order"
    for display in (EmbeddingDisplay, QuantileCalibrationDisplay):
        with pytest.raises(ValueError, match=message.format("y")):
            display.from_estimator(regressor, X, y.sort_index())
    with pytest.raises(ValueError, match=message.format("target")):
        AttributionDisplay.from_estimator(model, X, target=y.sort_index())


@pytest.mark.parametrize(
    "name",
    ["acceleration_of_the_left_hand", "acceleration-of-the-left-hand", "many " * 6],
)
def test_long_names_are_broken_where_words_end(name):
    values = np.random.default_rng(0).normal(size=(30, 4))
    names = [f"{name}_{k}" for k in range(4)]
    display = AttributionDisplay(values, values, channel_names=names).plot()
    assert any(text.startswith(name[:4]) and "\n" in text for text in texts(display))
    assert apart([ax.yaxis.label.get_window_extent() for ax in display.ax_])
    index = pd.MultiIndex.from_product([[20, 22], [23, 25]], names=["cutoff", "time"])
    y = pd.Series(np.arange(30.0), name=name * 3)
    forecasts = pd.DataFrame({y.name: 0.0}, index)
    display = BacktestDisplay.from_predictions(y, forecasts)
    display.figure_.canvas.draw()
    assert apart([ax.yaxis.label.get_window_extent() for ax in display.ax_])


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


def test_attributions_of_many_tokens_fit_on_a_page():
    for n_tokens in (5, 30, 400):
        tokens = np.resize(["an", "extraordinary", "word"], n_tokens)
        display = AttributionDisplay(tokens, np.linspace(-1, 1, n_tokens)).plot()
        assert display.figure_.get_figwidth() <= 12
        assert ("extraordinary" in texts(display)) == (n_tokens < 400)
        words = display.ax_.get_xticklabels()
        assert apart([word.get_window_extent() for word in words])


@pytest.mark.parametrize(
    ("extremes", "extend"),
    [([], "neither"), ([-9], "min"), ([9], "max"), ([-9, 9], "both")],
)
def test_colour_bar_has_arrows_where_something_lies_beyond(extremes, extend):
    attributions = np.resize([-1, 1], (400, 1))
    attributions[: len(extremes), 0] = extremes
    display = AttributionDisplay(attributions, attributions).plot()
    assert display.ax_.images[0].colorbar.extend == extend


def test_values_between_missing_ones_are_marked():
    values = np.arange(60.0)
    values[[0, 20, 22, 40, 41]] = np.nan
    display = AttributionDisplay(values[:, None], np.ones((60, 1))).plot()
    for line in display.ax_.lines:
        assert np.flatnonzero(line.get_markevery()).tolist() == [21]
    y = pd.Series(values)
    display = ForecastDisplay.from_predictions(y, y[-2:] + 9, n_history=60)
    assert np.flatnonzero(display.ax_.lines[0].get_markevery()).tolist() == [21]


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


@pytest.mark.parametrize("layout", ["time-major", "channel-major"])
def test_gates_of_one_sequence_are_computed_for_it_alone(layout, monkeypatch, data):
    X, y = data
    X = [row.T for row in X] if layout == "channel-major" else X
    model = LSTMClassifier(**QUICK, layout=layout).fit(X, y)
    read = []

    def spy(estimator, X, **settings):
        read.append(len(X))
        return gate_activations(estimator, X, **settings)

    monkeypatch.setattr("sklstm.plotting.gate_activations", spy)
    display = GateDisplay.from_estimator(model, X, sample=-2)
    assert read == [1]
    expected = gate_activations(model, X)
    for name, found in display.activations.items():
        np.testing.assert_allclose(
            found, expected[name][-2, : expected.lengths[-2]], atol=1e-6
        )
    with pytest.raises(ValueError, match="sample must be from -40 to 39"):
        GateDisplay.from_estimator(model, X, sample=40)


def test_gates_of_a_forecaster_stand_over_the_segments_that_they_come_after():
    y = _make_hierarchical((2,), min_timepoints=30, max_timepoints=30, random_state=0)
    forecaster = LSTMForecaster(
        hidden_size=4, max_steps=25, batch_size=8, window_length=12, segment_length=3
    ).fit(y, fh=[1])
    display = GateDisplay.from_estimator(forecaster, sample=1)
    gates = gate_activations(forecaster)
    assert gates.forget_gate.shape == (2, 4, 4)
    for ax, name in zip(display.ax_, display.activations, strict=True):
        assert ax.get_xlim() == (-0.5, 11.5)  # the twelve steps of the window
        expected = np.repeat(gates[name][1], 3, axis=0)
        np.testing.assert_array_equal(display.activations[name], expected)
    with pytest.raises(ValueError, match="sample must be from -2 to 1"):
        GateDisplay.from_estimator(forecaster, sample=2)


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
    for wrong in (y[:3], np.eye(40, 2, dtype=int)):
        shape = re.escape(str(wrong.shape))
        with pytest.raises(ValueError, match=f"each of the 40 embedded .* {shape}"):
            EmbeddingDisplay.from_estimator(model, X, wrong)
    with pytest.raises(ValueError, match=r"at least 2 samples .* shape \(1, 24\)"):
        EmbeddingDisplay.from_estimator(model, X[:1])


def test_classes_look_different_and_are_seen_on_white():
    embedding = np.random.default_rng(0).normal(size=(112, 3))
    display = EmbeddingDisplay.from_predictions(embedding, y=np.arange(112) % 56)
    drawn = display.ax_.collections
    colors = np.array([points.get_facecolor()[0, :3] for points in drawn])
    shapes = [points.get_paths()[0].vertices.tobytes() for points in drawn]
    assert len({*zip(map(tuple, colors), shapes, strict=True)}) == 56
    assert (colors @ [0.2126, 0.7152, 0.0722]).max() < 0.75


def test_the_legend_of_classes_fits_and_leaves_the_axes_their_room():
    embedding = np.random.default_rng(0).normal(size=(80, 3))
    for names in (["a", "b"], [f"a class of a long name, number {k}" for k in range(40)]):
        y = np.resize(names, 80)
        display = EmbeddingDisplay.from_predictions(embedding, y=y)
        assert set(names) <= texts(display)
        (legend,) = display.figure_.legends
        box, page = legend.get_window_extent(), display.figure_.bbox
        assert page.contains(box.x0, box.y0)
        assert page.contains(box.x1, box.y1)
        assert apart([box, display.ax_.get_tightbbox()])
        assert display.ax_.bbox.height > 3 * display.figure_.dpi
    _, ax = plt.subplots()
    display = EmbeddingDisplay.from_predictions(embedding, y=y, ax=ax)
    assert ax.get_legend() is not None


def test_embeddings_that_cannot_be_drawn():
    embedding = np.random.default_rng(0).normal(size=(4, 3))
    for y in (
        pd.Series(["a", "b", None, "a"], dtype="string"),
        pd.Series([True, False, None, True], dtype="boolean"),
        pd.Series([1, 2, None, 1], dtype="Int64"),
    ):
        with pytest.raises(ValueError, match="y has no label, or number, in row 2"):
            EmbeddingDisplay.from_predictions(embedding, y=y)
    with pytest.raises(ValueError, match=r"2 dimensions; got the shape \(4,\)"):
        EmbeddingDisplay.from_predictions(embedding[:, 0])
    embedding[1, 2] = np.nan
    with pytest.raises(ValueError, match="embedding holds NaN or infinity in row 1"):
        EmbeddingDisplay.from_predictions(embedding)


# ------------------------------------------------------------------------ forecasts
@pytest.fixture
def fan():
    """Return history, forecast of 20 to 25 and quantiles 0.5 beside it."""
    y, times = pd.Series(np.arange(20.0)), np.arange(20, 26)
    columns = pd.MultiIndex.from_tuples([(0, 0.0005), (0, 0.9995)])
    ends = np.column_stack([times - 0.5, times + 0.5])
    return y, pd.Series(times + 0.0, times), pd.DataFrame(ends, times, columns)


def test_a_fan_is_lined_up_with_the_forecast(fan):
    y, y_pred, quantiles = fan
    for rows in (quantiles, quantiles[::-1], quantiles[2:]):
        display = ForecastDisplay.from_predictions(y, y_pred, y_quantiles=rows)
        (band,) = display.ax_.collections
        x, value = band.get_paths()[0].vertices.T
        np.testing.assert_allclose(np.abs(value - x), 0.5)
        assert set(x) == set(rows.index)
    with pytest.raises(ValueError, match="y_quantiles has no value for any time of the"):
        ForecastDisplay.from_predictions(
            y, y_pred, y_quantiles=quantiles.set_axis(quantiles.index + 100)
        )


def test_what_is_drawn_is_called_what_it_is(fan):
    y, y_pred, quantiles = fan
    alone = texts(ForecastDisplay.from_predictions(y, y_pred))
    assert "forecast" in alone
    both = texts(ForecastDisplay.from_predictions(y, y_pred, y_quantiles=quantiles))
    assert {"median forecast", "99.9% interval"} <= both


def test_what_came_is_found_or_missed_in_words(fan):
    y, y_pred, _ = fan
    for y_true in (y, y_pred * np.nan, y_pred.set_axis(y_pred.index + 9)):
        with pytest.raises(ValueError, match="y_true has no value for any time of the"):
            ForecastDisplay.from_predictions(y, y_pred, y_true=y_true)
    two, ahead = (
        pd.DataFrame({"a": each, "b": -each}) for each in (y, y_pred)
    )  # of one column, the name tells which
    display = ForecastDisplay.from_predictions(two, ahead, y_true=ahead[["b"]])
    assert [len(ax.lines) for ax in display.ax_] == [2, 3]
    with pytest.raises(ValueError, match="y_true has no value for any time of the"):
        ForecastDisplay.from_predictions(two, ahead, y_true=ahead[["b"]], max_series=1)
    display = ForecastDisplay.from_predictions(two, ahead, y_true=ahead.to_numpy())
    assert [len(ax.lines) for ax in display.ax_] == [3, 3]
    display = ForecastDisplay.from_predictions(two, ahead[["b"]], y_true=ahead)
    for line in display.ax_.lines:
        assert (line.get_ydata() <= 0).all()
    with pytest.raises(ValueError, match=r"6 rows.* 2 columns; got the shape \(6,\)"):
        ForecastDisplay.from_predictions(two, ahead, y_true=y_pred.to_numpy())


@pytest.mark.parametrize("name", ["n_history", "max_series"])
def test_numbers_of_what_is_drawn_are_checked(name, fan):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1; g"):
        ForecastDisplay.from_predictions(*fan[:2], **{name: 0})


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


def test_a_time_zone_changes_no_label():
    written = []
    for zone in (None, "America/New_York"):
        index = pd.date_range("2020-01-01", periods=150, freq="h", tz=zone)
        y = pd.Series(np.sin(np.arange(150) / 3), index)
        forecaster = LSTMForecaster().fit(y, fh=[1, 2, 3])
        fan = ForecastDisplay.from_estimator(forecaster, n_history=8)
        written.append((texts(fan), texts(BacktestDisplay.from_estimator(forecaster, y))))
    assert written[0] == written[1]


def test_dates_of_any_span_neither_warn_nor_overlap():
    start = pd.Timestamp("2020-01-24 21:17")
    y = pd.Series([0.0, 1.0], pd.DatetimeIndex([start, start + pd.Timedelta(days=1)]))
    wide = ForecastDisplay.from_predictions(y[:1], y[1:]).ax_
    _, narrow = plt.subplots(figsize=(3.2, 2))
    ForecastDisplay.from_predictions(y[:1], y[1:], ax=narrow)
    for ax in (wide, narrow):
        for minutes in np.geomspace(2, 60 * 24 * 365 * 40, 60):
            ax.set_xlim(start, start + pd.Timedelta(minutes=minutes))
            ax.figure.canvas.draw()
            low, high = ax.get_xlim()
            labels = [
                label.get_window_extent()
                for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
                if low <= tick <= high
            ]
            assert len(labels) >= 2 - (ax is narrow)
            assert apart(labels)


def test_arrays_are_drawn_as_series_that_count_from_0():
    y = load_airline().to_numpy()
    drawn, errors, observed = [], [], []
    for kind in (np.asarray, pd.Series):
        forecaster = LSTMForecaster().fit(kind(y[:-12]), fh=[1, 2, 5])
        came = pd.Series(y)[[132, 133, 136]]
        came = came.to_numpy() if kind is np.asarray else came
        display = ForecastDisplay.from_estimator(forecaster, y_true=came)
        drawn.append(np.hstack([line.get_xydata().T for line in display.ax_.lines]))
        display = BacktestDisplay.from_estimator(forecaster, kind(y), initial_window=120)
        errors.append(display.errors_)
        display = QuantileCalibrationDisplay.from_estimator(forecaster, None, came)
        observed.append(display.observed)
    for one, other in (drawn, errors, observed):
        np.testing.assert_array_equal(one, other)
    panel = np.random.default_rng(0).normal(size=(3, 2, 40))
    display = ForecastDisplay.from_estimator(LSTMForecaster().fit(panel, fh=[1, 2]))
    for k, ax in enumerate(display.ax_):
        history = panel[k // 2, k % 2, -24:]
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), history)


def test_a_forecast_of_one_step_shows_its_intervals():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y[:-12], fh=[1])
    display = ForecastDisplay.from_estimator(forecaster, y_true=y)
    bars = display.ax_.collections
    alpha = [[0.05, 0.95], [0.1, 0.9], [0.25, 0.75]]
    for bar, ends in zip(bars, alpha, strict=True):
        expected = forecaster.predict_quantiles(alpha=ends).to_numpy()[0]
        np.testing.assert_allclose(bar.get_segments()[0][:, 1], expected)
    assert (np.diff([bar.get_linewidth()[0] for bar in bars]) < 0).all()
    assert display.ax_.lines[-1].get_marker() == "."  # what came


def test_the_legend_names_everything_and_fits():
    y = _make_hierarchical((3,), min_timepoints=40, max_timepoints=40, random_state=0)
    forecaster = LSTMForecaster().fit(y, fh=[1, 2, 3])
    forecast = forecaster.predict()
    for chosen in (["h0_1"], ["h0_0", "h0_1", "h0_2"]):
        display = ForecastDisplay.from_estimator(forecaster, y_true=forecast.loc[chosen])
        assert {"actual", "history", "90% interval"} <= texts(display)
        (legend,) = display.figure_.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= display.figure_.bbox.x1
        assert apart([box, *[ax.get_tightbbox() for ax in display.ax_]])


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
    assert {"Cutoff, Period (M)", f"mean over cutoffs: {expected.mean():.3g}"} <= texts(
        display
    )


def test_a_backtest_of_one_series_of_a_hierarchy():
    y = _make_hierarchical((2, 2), min_timepoints=40, max_timepoints=40, random_state=0)
    forecaster = LSTMForecaster(pretrained="only").fit(y, fh=[1, 2])
    key = ("h0_1", "h1_0")
    display = BacktestDisplay.from_estimator(forecaster, y, instance=key)
    expected = (display.forecasts.loc[key] - y.loc[key].reindex(
        display.forecasts.loc[key].index, level="time"
    )).abs().groupby(level="cutoff").mean()  # fmt: skip
    np.testing.assert_allclose(display.errors_, expected.iloc[:, 0])


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


def test_backtests_are_drawn_by_name_and_from_where_there_are_forecasts():
    t = np.arange(30.0)
    y = pd.DataFrame({"b": 100 + t, "a": t})
    index = pd.MultiIndex.from_product([[20, 22], [23, 25]], names=["cutoff", "time"])
    forecasts = y[["a", "b"]].loc[index.get_level_values("time")].set_axis(index)
    for column in (0, 1):
        for named in (forecasts, forecasts[["a", "b"][1 - column :][:1]]):
            display = BacktestDisplay.from_predictions(y, named, column=column)
            assert display.errors_.tolist() == [0, 0]
            assert y.columns[column] in texts(display)
    other = forecasts.set_axis(["c", "d"], axis=1)
    errors = BacktestDisplay.from_predictions(y, other).errors_
    assert errors.tolist() == [100, 100]
    with pytest.raises(ValueError, match=r"no column 'b' of y, but \['a'\]"):
        BacktestDisplay.from_predictions(y, forecasts[["a"]])
    with pytest.raises(ValueError, match=r"from 0 to 1, .* \['b', 'a'\] of y; got 2"):
        BacktestDisplay.from_predictions(y, forecasts, column=2)
    with pytest.raises(ValueError, match="max_cutoffs must be an integer of at least 1"):
        BacktestDisplay.from_predictions(y, forecasts, max_cutoffs=0)
    # A cutoff that y lacks is not joined to its forecasts.
    display = BacktestDisplay.from_predictions(y.drop(20), forecasts)
    assert [len(line.get_xdata()) for line in display.ax_[0].lines[1:]] == [2, 0, 3, 1]


def test_a_backtest_whose_first_series_is_too_short():
    y = _make_hierarchical((2,), min_timepoints=40, max_timepoints=40, random_state=0)
    y = y.drop(y.loc[["h0_0"]].index[12:])
    forecaster = LSTMForecaster(pretrained="only").fit(y, fh=[1, 2])
    display = BacktestDisplay.from_estimator(forecaster, y, initial_window=30)
    named = BacktestDisplay.from_predictions(y, display.forecasts, instance="h0_1")
    pd.testing.assert_series_equal(display.errors_, named.errors_)
    with pytest.raises(ValueError, match="no forecast to draw: of 12 rows of y none is"):
        BacktestDisplay.from_predictions(y, display.forecasts, instance="h0_0")


def test_arrays_of_many_series_are_refused_in_words():
    panel = np.random.default_rng(0).normal(size=(3, 2, 40))
    forecaster = LSTMForecaster().fit(panel, fh=[1, 2])
    refused = r"An array must have .* got the shape \(3, 2, 40\). Give a Series or Data"
    with pytest.raises(ValueError, match=refused):
        BacktestDisplay.from_estimator(forecaster, panel)
    with pytest.raises(ValueError, match=refused):
        ForecastDisplay.from_estimator(forecaster, y_true=panel)
    with pytest.raises(ValueError, match=refused):
        QuantileCalibrationDisplay.from_estimator(forecaster, None, panel)


def test_calibration_takes_levels_by_name_and_only_whole_rows():
    y = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [1.0, 2, 3, 4]})
    pairs = [("a", 0.2), ("a", 0.8), ("b", 0.8), ("b", 0.2)]
    columns = pd.MultiIndex.from_tuples(pairs)
    quantiles = pd.DataFrame([[0.0, 9, 9, 0]] * 4, columns=columns)
    display = QuantileCalibrationDisplay.from_predictions(y, quantiles)
    assert display.levels.tolist() == [0.2, 0.8]
    assert display.observed.tolist() == [0, 1]
    quantiles.iloc[2, 1] = np.nan
    display = QuantileCalibrationDisplay.from_predictions(y, quantiles)
    assert display.observed.tolist() == [0, 1]
    assert display.n_values == 7
    quantiles.columns = pd.MultiIndex.from_tuples([*pairs[:3], ("b", 0.1)])
    with pytest.raises(
        ValueError, match=r"of 'b' have the levels \[0.1, 0.8\], those be"
    ):
        QuantileCalibrationDisplay.from_predictions(y, quantiles)
    display = QuantileCalibrationDisplay.from_predictions(
        y[["a"]], [[0.0, 9]] * 4, levels=[0.2, 0.8]
    )
    assert display.observed.tolist() == [0, 1]


def test_the_legend_of_a_calibration_is_not_on_its_points():
    for value in (9, -9):
        display = QuantileCalibrationDisplay.from_predictions(
            np.zeros(20), np.full((20, 3), value), levels=[0.1, 0.5, 0.9]
        )
        display.figure_.canvas.draw()
        legend = display.ax_.get_legend().get_window_extent()
        points = display.ax_.transData.transform(display.ax_.lines[1].get_xydata())
        assert not any(legend.contains(*point) for point in points)


def test_calibration_of_all_time_steps():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(length, 2)) for length in (5, 3, 7, 4) * 4]
    y = [row[:, 0] for row in X]
    model = LSTMRegressor(
        **QUICK, target="sequence", loss="quantile", quantile=[0.2, 0.8]
    ).fit(X, y)
    display = QuantileCalibrationDisplay.from_estimator(model, X, y)
    quantiles = np.concatenate(model.predict(X))
    expected = (np.concatenate(y)[:, None] <= quantiles).mean(axis=0)
    np.testing.assert_array_equal(display.observed, expected)
    assert display.n_values == 76


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


def test_calibration_bars_are_wilson_intervals():
    y = np.zeros(10)
    quantiles = np.tile([1.0, 1.0, -1.0], (10, 1))
    display = QuantileCalibrationDisplay.from_predictions(
        y, quantiles, levels=[0.9, 1.0, 0.1]
    )
    (bars,) = display.ax_.containers
    assert bars.lines[0].get_xdata().tolist() == [0.1, 0.9, 1.0]
    far = 1.96**2 / (10 + 1.96**2)  # by hand, of none and of all of ten
    ends = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0, far], [1 - far, 1], [1 - far, 1]], atol=1e-12)


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
        QuantileCalibrationDisplay.from_estimator(LSTMRegressor(**QUICK).fit(X, y), X, y)
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


def test_a_picture_changes_no_forecaster():
    forecaster = LSTMForecaster().fit(load_airline()[:-12], fh=range(1, 13))
    ForecastDisplay.from_estimator(forecaster, fh=[-3, 1])
    QuantileCalibrationDisplay.from_estimator(
        forecaster, None, load_airline()[-12:-9], fh=[1, 2, 3]
    )
    assert len(forecaster.predict()) == 12


@pytest.mark.parametrize("what", ["predict_interval", "predict"])
def test_what_are_no_quantiles_is_said(forecaster, what):
    y, y_pred, other = load_airline(), forecaster.predict(), getattr(forecaster, what)()
    with pytest.raises(
        ValueError, match="Expected quantiles as predict_quantiles returns"
    ):
        ForecastDisplay.from_predictions(y, y_pred, y_quantiles=other)
    if what == "predict_interval":
        with pytest.raises(ValueError, match="Expected quantiles as predict_quantiles"):
            QuantileCalibrationDisplay.from_predictions(y, other)


def test_a_backtest_without_a_cutoff(forecaster):
    with pytest.raises(ValueError, match="no forecast to draw: of 60 rows of y none is"):
        BacktestDisplay.from_estimator(
            forecaster, load_airline()[:60], initial_window=200
        )


def test_levels_of_a_regressor_are_those_of_the_fit():
    X = np.random.default_rng(0).normal(size=(40, 5))
    model = LSTMRegressor(**QUICK, loss="quantile", quantile=[0.1, 0.5, 0.9])
    model.fit(X, X[:, 0]).set_params(quantile=[0.2, 0.5, 0.8])
    display = QuantileCalibrationDisplay.from_estimator(model, X, X[:, 0])
    np.testing.assert_array_equal(display.levels, [0.1, 0.5, 0.9])


def test_embeddings_of_whole_numbers_and_of_what_has_no_colour():
    X = np.random.default_rng(0).normal(size=(40, 5))
    y = np.arange(40) % 30
    model = LSTMRegressor(**QUICK).fit(X, y)
    display = EmbeddingDisplay.from_estimator(model, X, y)
    assert "y" in texts(display)
    assert display.ax_.get_legend() is None
    display = EmbeddingDisplay.from_estimator(model, X, ["a", "b"] * 20)
    assert {"a", "b"} <= texts(display)
    for missing in (np.where(y == 3, np.nan, y), [None if v == 3 else "a" for v in y]):
        with pytest.raises(ValueError, match="y has no label, or number, in row 3"):
            EmbeddingDisplay.from_estimator(model, X, missing)
    per_step = LSTMRegressor(**QUICK, target="sequence").fit(X, X)
    with pytest.raises(ValueError, match="EmbeddingDisplay draws a point per sequence"):
        EmbeddingDisplay.from_estimator(per_step, X)
