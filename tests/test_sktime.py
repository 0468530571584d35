"""sktime's own contract, with nothing skipped, and the values it does not look at."""

import contextlib
import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from generator import panel_of
from sklearn.base import clone
from sktime.benchmarking.forecasting import ForecastingBenchmark
from sktime.datasets import load_airline, load_longley
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
from sktime.forecasting.compose import (
    EnsembleForecaster,
    ForecastingPipeline,
    MultiplexForecaster,
    TransformedTargetForecaster,
)
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.model_selection import ForecastingGridSearchCV
from sktime.forecasting.naive import NaiveForecaster
from sktime.forecasting.reconcile import ReconcilerForecaster
from sktime.performance_metrics.forecasting import MeanAbsoluteError
from sktime.split import ExpandingWindowSplitter, SlidingWindowSplitter
from sktime.transformations.series.difference import Differencer
from sktime.transformations.series.exponent import ExponentTransformer
from sktime.utils._testing.hierarchical import _make_hierarchical
from sktime.utils.estimator_checks import check_estimator, parametrize_with_checks

from sklstm import LSTMForecaster
from sklstm.forecast_model import ForecastModel, on_the_way
from sklstm.forecast_training import TUNED
from sklstm.horizons import times_ahead
from sklstm.series import to_table

QUICK = {"hidden_size": 8, "max_steps": 50, "n_members": 1, "random_state": 0}
TINY = {"hidden_size": 4, "max_steps": 5, "n_members": 1, "random_state": 0}


@pytest.mark.filterwarnings("ignore")  # sktime's own
@parametrize_with_checks(LSTMForecaster, obj_varname="forecaster", check_varname="check")
def test_forecaster_checks(forecaster, check):
    check_estimator(forecaster, tests_to_run=check, raise_exceptions=True, verbose=False)


@pytest.mark.filterwarnings("ignore")  # sktime's own
@pytest.mark.parametrize(
    "check",
    [
        "test_predict_interval",
        "test_predict_quantiles",
        "test_predict_time_index_in_sample_full",
        "test_update_predict_predicted_index",
        "test_persistence_via_pickle",
        "test_hierarchical_with_exogeneous",
        "test_y_multivariate_raises_error",
    ],
)
def test_forecaster_checks_without_training(check):
    check_estimator(
        LSTMForecaster(), tests_to_run=check, raise_exceptions=True, verbose=False
    )


def make_panel(n_series=8, n_timesteps=40, seed=0, n_columns=1):
    """Random walks, monthly."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [range(n_series), pd.period_range("2000-01", periods=n_timesteps, freq="M")],
        names=["series", "time"],
    )
    steps = rng.normal(size=(n_series, n_timesteps, n_columns))
    values = steps.cumsum(axis=1).reshape(-1, n_columns)
    return pd.DataFrame(values, index, [f"y{k}" for k in range(n_columns)])


def test_nothing_is_skipped_by_name():
    tags = LSTMForecaster.get_class_tags()
    assert not tags.get("tests:skip_by_name")
    assert not tags.get("tests:skip_all")
    assert tags["property:randomness"] == "derandomized"


def test_the_last_observation_moves_step_one_most():
    y = make_panel(20)
    forecaster = LSTMForecaster(**{**QUICK, "max_steps": 200}).fit(y, fh=range(1, 13))
    changed = y.copy()
    last = changed.groupby(level=0).tail(1).index
    changed.loc[last] += 1.0
    before = forecaster.predict().to_numpy().reshape(20, 12)
    forecaster.update(changed.loc[last], update_params=False)
    effect = np.abs(forecaster.predict().to_numpy().reshape(20, 12) - before).mean(axis=0)
    assert effect[0] > 0.5
    assert effect[0] >= effect[-1]


@pytest.mark.parametrize("settings", [{}, QUICK], ids=["pretrained", "trained"])
@pytest.mark.parametrize("steps", [[1, 12], [5], [2, 7]])
def test_sparse_horizon_equals_the_dense_one(steps, settings):
    alpha, rows = [0.1, 0.5, 0.6], np.array(steps) - 1
    forecaster = LSTMForecaster(**settings).fit(load_airline(), fh=range(1, 13))
    median, quantiles = forecaster.predict(), forecaster.predict_quantiles(alpha=alpha)
    np.testing.assert_array_equal(forecaster.predict(fh=steps), median.iloc[rows])
    np.testing.assert_array_equal(
        forecaster.predict_quantiles(fh=steps, alpha=alpha), quantiles.iloc[rows]
    )


@pytest.mark.parametrize("n_steps", [1, 5, 12])
def test_quantiles_of_a_series_are_alike_alone_and_in_a_panel(n_steps):
    y = make_panel(5)
    model = LSTMForecaster(**QUICK).fit(y, fh=range(1, 13)).model_
    array = model.standardize(to_table(y).flatten())

    def forecast(series):
        future = np.zeros((len(series), n_steps, 0))
        ends = array.stops[series]
        return model.block(array, series, ends, future, torch.device("cpu"))

    each = [forecast(np.array([i])) for i in range(5)]
    np.testing.assert_array_equal(forecast(np.arange(5)), np.concatenate(each))


def test_a_forecast_is_what_sktime_makes_of_it():
    y = load_airline()
    forecaster = LSTMForecaster(6).fit(y[:100])
    for t in range(100, 103):
        forecaster.update(y[t : t + 1], update_params=False)
        for fh in ([1], [1], [2, 5], np.array([2, 5]), [-1, 1], [1]):
            fast = forecaster.predict(fh)
            plain = BaseForecaster.predict(copy.deepcopy(forecaster), fh)
            pd.testing.assert_series_equal(fast, plain, check_exact=True)
            assert fast.index.freq == plain.index.freq
            assert list(forecaster.fh.to_pandas()) == list(fh)


def test_exogenous_data_of_the_future_matter():
    rng = np.random.default_rng(0)
    index = pd.period_range("2000-01", periods=120, freq="M")
    X = pd.DataFrame({"promotion": rng.integers(0, 2, size=120)}, index)
    y = pd.Series(5.0 * X["promotion"] + rng.normal(scale=0.3, size=120), index)
    forecaster = LSTMForecaster(
        hidden_size=16, max_steps=300, n_members=1, sp=1, random_state=0
    ).fit(y[:-6], X=X[:-6], fh=range(1, 7))
    error = (forecaster.predict(X=X[-6:]) - y[-6:]).abs().mean()
    flipped = (forecaster.predict(X=1 - X[-6:]) - y[-6:]).abs().mean()
    assert error < 1.5 < 3 < flipped


@pytest.mark.parametrize("scaling", ["season", "last", "standard"])
def test_affine_equivariance(scaling):
    y = load_airline()
    settings = {**QUICK, "transform": "none", "scaling": scaling}
    first = LSTMForecaster(**settings).fit(y, fh=range(1, 13)).predict()
    moved = LSTMForecaster(**settings).fit(1e3 * y - 7e4, fh=range(1, 13)).predict()
    np.testing.assert_allclose(moved, 1e3 * first - 7e4, rtol=1e-3)


def test_order_of_instances_does_not_matter_to_prediction():
    y = make_panel(6)
    forecaster = LSTMForecaster(**QUICK).pretrain(y, fh=[1, 2, 3])
    first = forecaster.fit(y, fh=[1, 2, 3]).predict()
    backwards = pd.concat([y.loc[[i]] for i in reversed(range(6))])
    second = forecaster.fit(backwards, fh=[1, 2, 3]).predict()
    pd.testing.assert_frame_equal(second.loc[first.index], first)


def test_each_instance_has_its_own_cutoff():
    y = make_panel(3, 40)
    shorter = y.drop(index=[(1, t) for t in y.loc[1].index[-5:]])
    forecaster = LSTMForecaster(**QUICK).fit(shorter, fh=[1, 2])
    predicted = forecaster.predict()
    assert str(predicted.loc[0].index[0]) == "2003-05"
    assert str(predicted.loc[1].index[0]) == "2002-12"
    alone = LSTMForecaster(**QUICK)
    alone.pretrain(shorter, fh=[1, 2])
    apart = alone.fit(shorter.loc[[1]], fh=[1, 2]).predict()
    together = alone.fit(shorter, fh=[1, 2]).predict().loc[[1]]
    np.testing.assert_allclose(apart, together, rtol=1e-6)


def test_update_predict_does_not_see_the_future():
    y = load_airline()
    forecaster = LSTMForecaster(**QUICK).fit(y[:100], fh=[1, 2])
    cv = SlidingWindowSplitter(fh=[1, 2], window_length=60, step_length=10)
    forecaster.update(y[100:], update_params=False)
    first = forecaster.update_predict(y, cv, update_params=False)
    poisoned = y.copy()
    poisoned.iloc[130:] = 1e6
    second = forecaster.update_predict(poisoned, cv, update_params=False)
    early = first.index < poisoned.index[125]
    pd.testing.assert_frame_equal(pd.DataFrame(first)[early], pd.DataFrame(second)[early])


def test_in_sample_is_never_missing():
    y = load_airline()[:40]
    fh = ForecastingHorizon(y.index, is_relative=False)
    predicted = LSTMForecaster(**QUICK).fit(y, fh=fh).predict(fh)
    assert predicted.notna().all()
    assert (predicted.index == y.index).all()


def test_horizon_beyond_training_is_reached_in_blocks():
    y = load_airline()
    forecaster = LSTMForecaster(4, **QUICK).fit(y, fh=[1])
    predicted = forecaster.predict(fh=range(1, 31))
    assert predicted.notna().all()
    np.testing.assert_allclose(forecaster.predict(fh=[1, 2, 3, 4]), predicted[:4])
    intervals = forecaster.predict_interval(fh=range(1, 31), coverage=0.8)
    width = intervals.iloc[:, 1] - intervals.iloc[:, 0]
    assert width.iloc[-1] > width.iloc[0]


def test_far_horizons_do_not_run_away():
    """A trend that a forecast has is not read into it again, block after block."""
    rng = np.random.default_rng(3)
    y = pd.Series(
        rng.normal(size=60).cumsum(), pd.period_range("2000", periods=60, freq="M")
    )
    predicted = LSTMForecaster().fit(y).predict(np.arange(1, 1921))
    reach = 3 * (y.max() - y.min())
    assert predicted.min() > y.min() - reach
    assert predicted.max() < y.max() + reach


def test_long_horizon_is_trained_on_some_of_its_steps():
    y = pd.Series(np.tile(np.arange(10.0), 60))
    forecaster = LSTMForecaster(120, sp=10, **QUICK).fit(y, fh=range(1, 121))
    np.testing.assert_allclose(forecaster.predict(), np.tile(np.arange(10), 12), atol=0.5)


def test_quantiles_never_cross():
    y = make_panel(5, n_columns=2)
    forecaster = LSTMForecaster(**QUICK).fit(y, fh=range(1, 7))
    alpha = [0.01, 0.05, 0.2, 0.5, 0.77, 0.95, 0.99]
    quantiles = forecaster.predict_quantiles(alpha=alpha).to_numpy().reshape(-1, 2, 7)
    assert (np.diff(quantiles, axis=2) >= 0).all()
    median = forecaster.predict_quantiles(alpha=[0.5]).to_numpy()
    np.testing.assert_allclose(median, forecaster.predict())


def test_coverage_on_a_panel():
    y = make_panel(200, 72, seed=3)
    past = y.groupby(level=0).head(66)
    forecaster = LSTMForecaster(**{**QUICK, "max_steps": 150}).fit(past, fh=range(1, 7))
    interval = forecaster.predict_interval(coverage=0.9).to_numpy()
    truth = y.groupby(level=0).tail(6).to_numpy()[:, 0]
    covered = (interval[:, 0] <= truth) & (truth <= interval[:, 1])
    assert 0.85 <= covered.mean() <= 0.95


def test_missing_values_are_taken_in_stride():
    y = load_airline()
    y.iloc[[3, 50, 51, 52, 143]] = np.nan
    predicted = LSTMForecaster(**QUICK).fit(y, fh=range(1, 13)).predict()
    assert predicted.notna().all()
    assert predicted.between(200, 900).all()


def test_pretrained_weights_survive_clone_and_a_second_fit():
    y = make_panel(10)
    pretrained = LSTMForecaster(**QUICK).pretrain(y, fh=[1, 2, 3])
    kept = pretrained.pretrained_model_.trained[0].network.correction.weight
    weights = kept.detach().clone()
    new = load_airline()
    twin = pretrained.clone().fit(new, fh=[1, 2, 3])
    first = twin.predict()
    of_sklearn = clone(pretrained).fit(new, fh=[1, 2, 3])
    np.testing.assert_array_equal(of_sklearn.predict(), first)
    twin.update(new, update_params=True)
    second = twin.fit(new, fh=[1, 2, 3]).predict()
    np.testing.assert_array_equal(first, second)
    kept = twin.pretrained_model_.trained[0].network.correction.weight.detach()
    assert torch.equal(kept, weights)


def test_update_learns_or_only_looks():
    y = load_airline()
    forecaster = LSTMForecaster(**QUICK).fit(y[:120], fh=[1, 2])
    before = forecaster.model_
    forecaster.update(y[120:130], update_params=False)
    assert forecaster.model_ is before
    assert forecaster.predict().index[0] == y.index[130]
    forecaster.update(y[130:], update_params=True)
    assert forecaster.model_ is not before


@pytest.mark.parametrize("settings", [{}, QUICK], ids=["pretrained", "trained"])
def test_row_after_row_equals_all_at_once(settings):
    y = load_airline()
    live, whole = (LSTMForecaster(12, sp=12, **settings).fit(y[:100]) for _ in range(2))
    for t in range(100, 110):
        live.update(y[t : t + 1], update_params=False)
    whole.update(y[100:110], update_params=False)
    pd.testing.assert_series_equal(
        live.predict(fh=[1, 3, 14]), whole.predict(fh=[1, 3, 14]), check_exact=True
    )


@pytest.mark.parametrize("times", ["numbers", "dates", "periods"])
@pytest.mark.parametrize("shortened", [True, False])
def test_row_after_row_equals_all_at_once_with_exogenous_data(
    times, shortened, monkeypatch
):
    y, X = with_exog()
    if times != "numbers":
        make = pd.date_range if times == "dates" else pd.period_range
        index = make("2026-01-01", periods=60, freq="D")
        y, X = y.set_axis(index), X.set_axis(index)
    if not shortened:  # all of what sktime asks
        monkeypatch.setattr(LSTMForecaster, "_may_stay", lambda _, X: X is None)
    live, whole = (LSTMForecaster(4, **QUICK).fit(y[:50], X=X[:50]) for _ in range(2))
    for t in range(50, 54):
        live.update(y[t : t + 1], X=X[t : t + 1], update_params=False)
    whole.update(y[50:54], X=X[50:54], update_params=False)
    found, expected = (each.predict(fh=[1, 2, 6], X=X[54:]) for each in (live, whole))
    pd.testing.assert_series_equal(found, expected, check_exact=True)
    with pytest.raises(
        ValueError, match=r"X has the columns \['x'\], but \['x', 'z'\] w"
    ):
        live.predict(fh=[1], X=X[["x"]][54:])
    with pytest.raises(ValueError, match="fitted with X, so predict needs X for the st"):
        live.predict(fh=[1])


def test_steps_beyond_the_horizon_do_not_depend_on_the_others_asked_for():
    y, X = with_exog()
    forecaster = LSTMForecaster(3, **QUICK).fit(y[:40], X=X[:40])
    whole = forecaster.predict(fh=range(1, 9), X=X[40:])
    some = forecaster.predict(fh=[5, 8], X=X[40:])
    pd.testing.assert_series_equal(some, whole.iloc[[4, 7]], check_freq=False)
    panel = pd.concat({"a": y[:40], "b": y[:35]}, names=["i", "t"]).to_frame("y")
    known = pd.concat({"a": X, "b": X}, names=["i", "t"])
    forecaster = LSTMForecaster(3, **QUICK)
    forecaster.fit(panel, X=known[known.index.isin(panel.index)], fh=[7])
    whole = forecaster.predict(fh=range(1, 8), X=known)
    np.testing.assert_array_equal(
        forecaster.predict(fh=[7], X=known), whole.groupby(level=0).tail(1)
    )


def test_what_callers_do_to_their_data_is_no_news():
    y, X = with_exog()
    y = y.to_frame("y")
    forecaster = LSTMForecaster(4, **QUICK).fit(y[:50], X=X[:50], fh=[1])
    future = X[50:51].copy()
    before = forecaster.predict(X=future)
    y.iloc[40:] = 0
    X.iloc[40:] = 0
    pd.testing.assert_frame_equal(forecaster.predict(X=future), before)


def test_backtest_limits_forecasts_as_predict_does():
    y = pd.Series(np.exp(np.r_[np.zeros(60), np.linspace(0, 20, 20)]))
    forecaster = LSTMForecaster(pretrained="only").fit(y[:75], fh=[1, 2, 3])
    with pytest.warns(UserWarning, match="left the range of their history"):
        expected = forecaster.predict()
    with pytest.warns(UserWarning, match="left the range of their history"):
        found = forecaster.backtest(y, initial_window=75, step=10).iloc[:3, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_columns_are_told_by_their_names():
    y = pd.DataFrame({"a": np.sin(np.arange(60.0)), "b": 5 + np.cos(np.arange(60.0))})
    forecaster = LSTMForecaster(4, sp=6).fit(y[:50])
    expected = forecaster.update(y[50:51], update_params=False).predict(fh=[1])
    forecaster = LSTMForecaster(4, sp=6).fit(y[:50])
    forecaster.update(y.loc[50:50, ["b", "a"]], update_params=False)
    pd.testing.assert_frame_equal(forecaster.predict(fh=[1]), expected[["b", "a"]])
    quantiles = forecaster.predict_quantiles(fh=[1], alpha=[0.5])
    np.testing.assert_array_equal(quantiles["b"].to_numpy()[:, 0], expected["b"])
    message = r"y has the columns \['c', 'b'\], but \['a', 'b'\] were fitted"
    with pytest.raises(ValueError, match=message):
        forecaster.update(y[51:52].rename(columns={"a": "c"}), update_params=False)
    assert list(forecaster.cutoff) == [50]
    # A single series has no other to be mistaken for.
    series = LSTMForecaster(4, sp=6).fit(y.a[:50])
    series.update(y.a[50:51].rename("other"), update_params=False)
    np.testing.assert_array_equal(series.predict(fh=[1]), expected["a"])


def test_infinity_leaves_the_forecaster_as_it_was():
    y = pd.Series(np.sin(np.arange(60.0)))
    forecaster = LSTMForecaster(4, sp=6).fit(y[:50])
    before = forecaster.predict(fh=[1])
    with pytest.raises(ValueError, match="y contains infinity at 50"):
        forecaster.update(pd.Series([np.inf], index=[50]), update_params=False)
    pd.testing.assert_series_equal(forecaster.predict(fh=[1]), before)


def test_a_row_without_a_frequency_is_of_that_seen_before():
    y = pd.Series(np.sin(np.arange(60.0)), pd.date_range("2000", periods=60, freq="h"))
    live, whole = (LSTMForecaster(4, sp=6).fit(y[:50]) for _ in range(2))
    live.update(pd.Series(y.iloc[50], index=[y.index[50]]), update_params=False)
    whole.update(y[50:51], update_params=False)
    pd.testing.assert_series_equal(live.predict(fh=[1, 2]), whole.predict(fh=[1, 2]))


def test_a_panel_of_dates_without_a_frequency_has_that_of_its_longest_series():
    # As a file is read: dates in a column.
    table = pd.DataFrame({
        "shop": np.repeat(["a", "b"], [2, 30]),
        "day": [*pd.date_range("2020-03-01", periods=2)]
        + [*pd.date_range("2020-03-01", periods=30)],
        "sales": np.sin(np.arange(32.0)),
    })  # fmt: skip
    y = table.set_index(["shop", "day"])
    forecaster = LSTMForecaster(4, sp=7).fit(y)
    assert forecaster.cutoff.freqstr == "D"
    expected = [("a", "2020-03-03"), ("a", "2020-03-04")]
    expected += [("b", "2020-03-31"), ("b", "2020-04-01")]
    forecast = forecaster.predict(fh=[1, 2])
    assert [(shop, str(day.date())) for shop, day in forecast.index] == expected


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(10),
        pd.RangeIndex(10, name="t"),
        pd.Index(np.arange(3, 13)),
        pd.Index(np.arange(3, 13, dtype=np.int32)),
        pd.period_range("2000", periods=10, freq="Q"),
        pd.period_range("2000", periods=10, freq="3M", name="t"),
        pd.date_range("2000-01-31", periods=10, freq=pd.offsets.MonthEnd()),
    ],
    ids=lambda index: f"{type(index).__name__}-{index.dtype}-{index.name}",
)
@pytest.mark.parametrize("steps", [[1], [-2, 0, 7], 3])
def test_times_ahead_are_those_of_sktime(index, steps):
    fh = ForecastingHorizon(steps, freq=index)
    for horizon in (fh, fh.to_absolute(index[-1:])):
        pd.testing.assert_index_equal(
            times_ahead(horizon, index[-1:]),
            horizon.to_absolute_index(index[-1:]),
            exact=True,
        )


def test_series_too_short_to_hold_values_back_are_refused():
    forecaster = LSTMForecaster(
        4, pretrained=None, early_stopping=True, max_steps=2, random_state=0
    )
    y = pd.Series(np.arange(6.0))
    with pytest.raises(ValueError, match=r"the last 4 .* longest has 5\. Give"):
        forecaster.fit(y[:5])
    assert np.isfinite(forecaster.fit(y).predict(fh=[1])).all()


def test_global_random_state_is_untouched():
    y = load_airline()[:40]
    np.random.seed(3)  # noqa: NPY002 - the state that must not change
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    LSTMForecaster(**{**QUICK, "random_state": None}).fit(y, fh=[1]).predict()
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


def test_integer_index_of_step_two():
    index = pd.RangeIndex(0, 80, 2)
    y = pd.Series(np.sin(np.arange(40)), index)
    forecaster = LSTMForecaster(**QUICK).fit(y, fh=[2, 4])
    predicted = forecaster.predict()
    assert list(predicted.index) == [80, 82]
    plain = LSTMForecaster(**QUICK).fit(y.reset_index(drop=True), fh=[1, 2]).predict()
    np.testing.assert_allclose(predicted, plain)
    # What lies between two rows belongs to the later one.
    between = forecaster.predict(fh=[1, 3])
    assert list(between.index) == [79, 81]
    np.testing.assert_array_equal(between, predicted)


def test_pickle_and_nothing_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forecaster = LSTMForecaster(**QUICK).fit(load_airline(), fh=[1, 2, 3])
    twin = pickle.loads(pickle.dumps(forecaster))
    pd.testing.assert_series_equal(forecaster.predict(), twin.predict())
    assert not list(tmp_path.iterdir())


def test_backtest_equals_evaluate_without_refitting():
    y = load_airline()
    forecaster = LSTMForecaster(**QUICK)
    cv = ExpandingWindowSplitter(fh=[1, 2, 3], initial_window=100, step_length=12)
    results = evaluate(forecaster, cv, y, strategy="no-update_params", return_data=True)
    fitted = LSTMForecaster(**QUICK).fit(y[:100], fh=[1, 2, 3])
    table = fitted.backtest(y)
    # The first cutoff has a season and one row before it.
    assert table.index.get_level_values("cutoff")[0] == y.index[fitted.sp_]
    for predicted in results["y_pred"]:
        cutoff = predicted.index[0] - 1
        np.testing.assert_allclose(
            table.loc[cutoff].to_numpy()[:, 0], predicted, rtol=1e-6
        )


def with_exog(n=60):
    X = pd.DataFrame({"x": np.cos(np.arange(60.0)), "z": np.arange(60.0) % 7})
    return (pd.Series(np.sin(np.arange(60.0))) + X.x)[:n], X[:n]


def refused_updates():
    monthly = pd.Series(
        np.sin(np.arange(60.0)), pd.period_range("2000", freq="M", periods=60)
    )
    hourly = pd.Series(
        np.sin(np.arange(60.0)), pd.date_range("2000", freq="h", periods=60, tz="UTC")
    )
    plain = pd.Series(np.sin(np.arange(60.0)))
    frame = pd.DataFrame({"a": plain, "b": -plain})
    panel = make_panel(2, 60)
    time = panel.index.get_level_values(1).factorize()[0]
    y, X = with_exog()
    return {
        "months": (monthly[:50], monthly[53:55], None, "y has a gap between"),
        "hours": (hourly[:50], hourly[53:55], None, "gaps or no regular frequency"),
        "numbers": (plain[:50], plain[53:55], None, "gap between 49 and 53"),
        "before": (
            plain[10:50],
            pd.concat([plain[:4], plain[50:51]]),
            None,
            "gap between 3 and 10",
        ),
        "a panel": (panel[time < 50], panel[time > 53], None, "y has a gap"),
        "no zone": (hourly[:50], hourly[50:52].tz_localize(None), None, None),
        "columns": (
            frame[:50],
            frame.rename(columns={"b": "c"})[50:],
            None,
            "were fitted",
        ),
        "one more": (plain[:50], frame[50:], None, "were fitted"),
        "a panel of others": (plain[:50], panel, None, "index of 2 levels"),
        "no index": (monthly[:50], np.zeros(2), None, "an index of numbers, but what"),
        "repeated": (plain[:50], plain.iloc[[50, 50]], None, None),
        "no X": (y[:50], y[50:52], X[:50], "update needs X for the rows of y; got None"),
    }


@pytest.mark.parametrize("case", refused_updates())
def test_a_refused_update_changes_nothing(case):
    y, new, X, message = refused_updates()[case]
    forecaster = LSTMForecaster(**QUICK | {"max_steps": 3}).fit(y, X=X, fh=[1])
    given = None if X is None else with_exog()[1][50:51]
    before, cutoff = forecaster.predict(X=given), forecaster.cutoff
    for update in (forecaster.update, forecaster.update_predict_single):
        for update_params in (False, True):
            with pytest.raises((ValueError, TypeError), match=message):
                update(new, update_params=update_params)
    with contextlib.suppress(ValueError, TypeError):
        forecaster.update_predict(new)
    # sktime warns of time zones there.
    with contextlib.suppress(ValueError, TypeError, AssertionError, UserWarning):
        forecaster.predict_residuals(new)
    assert forecaster.cutoff.equals(cutoff)
    after = forecaster.predict(X=given)
    assert type(after) is type(before)
    pd.testing.assert_frame_equal(pd.DataFrame(after), pd.DataFrame(before))


def test_what_has_forecast_and_updated_stays_of_the_type_of_y():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y[:100], fh=[1, 2])
    expected = LSTMForecaster().fit(y[:104], fh=[1, 2]).predict()
    found = forecaster.update_predict_single(y[100:104], update_params=False)
    pd.testing.assert_series_equal(found, expected, check_exact=False)
    pd.testing.assert_series_equal(forecaster.predict(), expected, check_exact=False)
    forecaster.predict_residuals(y.to_frame()[104:106])
    forecaster.update_predict(y.to_frame()[104:108], update_params=False)
    pd.testing.assert_series_equal(forecaster.predict(), expected, check_exact=False)


def test_values_too_large_are_named():
    y = pd.Series(np.ones(30))
    y[20] = -1e304
    with pytest.raises(ValueError, match=r"y contains 1e\+304 in absolute value at 20, "):
        LSTMForecaster().fit(y, fh=[1])


@pytest.mark.parametrize("scaling", ["season", "last", "standard"])
def test_scales_near_the_limits_change_nothing(scaling):
    rng = np.random.default_rng(0)
    y = pd.Series(np.arange(48) % 12 + rng.normal(size=48))
    settings = QUICK | {"max_steps": 3, "scaling": scaling, "pretrained": None, "sp": 12}
    expected = LSTMForecaster(**settings).fit(y, fh=[1, 2]).predict()
    for exponent in (-980, 980):
        found = LSTMForecaster(**settings).fit(y * 2.0**exponent, fh=[1, 2]).predict()
        np.testing.assert_array_equal(found / 2.0**exponent, expected)


def test_a_constant_is_forecast_whatever_rounding_leaves_of_it():
    for value in (0.1, -1e40, 1e46, 1e100, 3e-200, 1e299):
        forecaster = LSTMForecaster().fit(pd.Series(np.full(30, value)), fh=[1, 2])
        np.testing.assert_allclose(forecaster.predict(), value, rtol=1e-12)
        several = forecaster.predict_quantiles(alpha=[0.01, 0.1, 0.3, 0.5, 0.6, 0.99])
        assert (np.diff(several) >= 0).all()


@pytest.mark.parametrize(
    ("freq", "zone", "time"),
    [("MS", None, "2006-02-28"), ("h", "UTC", "2001-01-03 13:30"),
     ("D", None, "2001-03-05 03"), ("2h", None, "2001-01-06 01:00"),
     ("3MS", None, "2016-02-01"), ("W-SUN", None, "2002-03-05"),
     ("30D", None, "2006-01-05 12"),
     ("h", None, "2001-01-03 13:02"), ("D", "Europe/Berlin", "2001-03-05 01")],
)  # fmt: skip
def test_times_between_rows_are_refused(freq, zone, time):
    index = pd.date_range("2001-01-01", periods=60, freq=freq, tz=zone)
    forecaster = LSTMForecaster().fit(pd.Series(np.sin(np.arange(60.0)), index), fh=[1])
    expected = forecaster.predict()
    with pytest.raises(ValueError, match="fh holds times that do not continue the index"):
        forecaster.predict(pd.DatetimeIndex([time], tz=zone))
    pd.testing.assert_series_equal(forecaster.predict(), expected)


@pytest.mark.parametrize(
    "method", ["predict", "predict_quantiles", "predict_interval", "predict_var"]
)
def test_a_refused_horizon_is_forgotten(method):
    y, X = with_exog()
    forecaster = LSTMForecaster(**QUICK | {"max_steps": 3}).fit(y[:50], X=X[:50], fh=[1])
    expected = forecaster.predict(X=X)
    with pytest.raises(ValueError, match="X lacks 1 rows"):
        getattr(forecaster, method)(fh=[1, 2, 11], X=X)
    with pytest.raises(ValueError, match="fh holds times that do not continue the index"):
        getattr(forecaster, method)(fh=pd.DatetimeIndex(["2020-01-01"]), X=X)
    pd.testing.assert_series_equal(forecaster.predict(X=X), expected)


FREQUENCIES = ["D", "2D", "h", "12h", "W-SUN", "MS", "QS", "B"]
MONTH_END = pd.offsets.MonthEnd()  # "M" until pandas 2.1, "ME" since


@pytest.mark.parametrize("freq", [*FREQUENCIES, MONTH_END], ids=str)
@pytest.mark.parametrize("zone", ["UTC", "America/Lima"])
def test_the_same_times_in_another_zone(freq, zone):
    index = pd.date_range("2001-03-01", periods=62, freq=freq, tz="Europe/Berlin")
    y = pd.Series(np.sin(np.arange(60.0)), index[:60])
    forecaster = LSTMForecaster().fit(y, fh=[1, 2])
    found = forecaster.predict(index[60:].tz_convert(zone))
    np.testing.assert_array_equal(found, forecaster.predict([1, 2]))
    naive = forecaster.predict(index[60:].tz_localize(None))
    np.testing.assert_array_equal(naive, forecaster.predict([1, 2]))
    between = (index[60:61] + pd.Timedelta(minutes=1)).tz_localize(None)
    with pytest.raises(ValueError, match="fh holds times that do not continue the index"):
        forecaster.predict(between)


def test_an_array_that_starts_again_is_warned_of():
    y = load_airline().to_numpy()
    forecaster = LSTMForecaster().fit(y[:100], fh=[1])
    with pytest.warns(
        UserWarning, match="its 2 rows are read as the first of the series"
    ):
        forecaster.update(y[100:102], update_params=False)
    forecaster = LSTMForecaster().fit(y[:100], fh=[1])
    forecaster.update(y[:102], update_params=False)  # all of it, and no warning
    assert forecaster.cutoff[0] == 101
    forecaster.update(pd.Series(y[102:104], [102, 103]), update_params=False)
    expected = LSTMForecaster().fit(pd.Series(y[:104]), fh=[1]).predict()
    np.testing.assert_allclose(forecaster.predict(), expected, rtol=1e-6)


def test_a_refused_horizon_does_not_undo_an_update_beside_it():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y[:100], fh=[1])

    def update_and_refuse(self, fh, X):
        self.update(y[100:104], update_params=False)  # as if by another thread
        raise ValueError("too late")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LSTMForecaster, "_forecast", update_and_refuse)
        with pytest.raises(ValueError, match="too late"):
            forecaster.predict([1, 2])
    assert forecaster.predict().index.equals(y.index[104:105])


def test_exogenous_data_of_another_index_are_named():
    y, X = with_exog()
    forecaster = LSTMForecaster(**QUICK | {"max_steps": 3}).fit(y[:50], X=X[:50], fh=[1])
    other = X[50:52].set_axis(pd.date_range("2020", periods=2), axis=0)
    with pytest.raises(ValueError, match="X has an index of times, but what was fitted"):
        forecaster.update(y[50:52], X=other)


def test_a_fit_after_pretrain_may_be_of_another_kind():
    y, plain = load_airline(), pd.Series(np.sin(np.arange(60.0)))
    forecaster = LSTMForecaster(**QUICK | {"max_steps": 3})
    forecaster.pretrain(make_panel(3), fh=[1]).fit(y, fh=[1])
    forecaster.pretrain(make_panel(3), fh=[1]).fit(plain, fh=[1])
    assert forecaster.predict().index.tolist() == [60]


def test_infinity_in_exogenous_data_is_named():
    y, X = with_exog()
    wrong = X.copy()
    wrong.loc[30, "z"] = np.inf
    forecaster = LSTMForecaster(**QUICK | {"max_steps": 3})
    with pytest.raises(ValueError, match="X contains infinity at 30"):
        forecaster.fit(y, X=wrong, fh=[1])
    forecaster.fit(y[:30], X=X[:30], fh=[1])
    with pytest.raises(ValueError, match="X contains infinity at 30"):
        forecaster.predict(X=wrong[30:31])
    with pytest.raises(ValueError, match="X contains infinity at 30"):
        forecaster.update(y[30:32], X=wrong[30:32])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_window": 0}, "initial_window must be an integer of at least 1; got 0"),
        ({"step": 0}, "step must be an integer of at least 1; got 0"),
        ({"X": None}, "backtest needs X for the rows of y; got None"),
        ({"X": with_exog()[1][["z", "x"]]}, r"X has the columns \['z', 'x'\], but"),
        ({"y": with_exog()[0].drop(index=[20])}, "y has a gap between 19 and 21"),
        (
            {"fh": ForecastingHorizon([3], is_relative=False)},
            "takes steps ahead; got the",
        ),
    ],
)
def test_a_backtest_checks_as_fit_and_predict_do(arguments, message):
    y, X = with_exog()
    forecaster = LSTMForecaster(**QUICK | {"max_steps": 3}).fit(y, X=X, fh=[1, 2])
    with pytest.raises(ValueError, match=message):
        forecaster.backtest(**{"y": y, "X": X, **arguments})


def test_a_backtest_leaves_the_forecaster_as_it_was():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y, fh=[1, 2])
    before = forecaster.predict()
    forecaster.backtest(y.rename("other"), initial_window=140)
    forecaster.backtest(y.to_frame("q"), initial_window=140)
    pd.testing.assert_series_equal(forecaster.predict(), before)


@pytest.mark.parametrize("n_columns", [1, 2])
def test_a_backtest_goes_beyond_the_horizon(n_columns):
    y = make_panel(3, 40, n_columns=n_columns)
    forecaster = LSTMForecaster(4, **QUICK).fit(y, fh=[1])
    tested = forecaster.backtest(y, fh=[2, 9], initial_window=20, step=5)
    for cutoff in y.index.get_level_values(-1).unique()[[24, 29]]:
        seen = y[y.index.get_level_values(-1) <= cutoff]
        expected = copy.deepcopy(forecaster).update(seen, update_params=False)
        expected = expected.predict(fh=[2, 9])
        found = tested.xs(cutoff, level="cutoff").reindex(expected.index)
        np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-6)


def test_a_backtest_takes_exogenous_data_of_any_kind():
    y = pd.Series(np.sin(np.arange(40.0)))
    X = pd.DataFrame({"x": np.cos(np.arange(40.0))})
    for kind in (X, X["x"], X.to_numpy()):
        forecaster = LSTMForecaster(**TINY).fit(y[:35], X=kind[:35], fh=[1, 2])
        found = forecaster.backtest(y, X=kind, initial_window=35)
        assert found.shape == (9, 1)
    with pytest.raises(ValueError, match="so backtest needs X for the rows of y; got N"):
        forecaster.backtest(y)


@pytest.mark.parametrize("n_columns", [1, 2])
def test_rows_without_values_at_both_ends_change_nothing_in_training(n_columns):
    rng = np.random.default_rng(0)
    y = pd.DataFrame(rng.normal(size=(40, n_columns)).cumsum(axis=0))
    X = pd.DataFrame({"x": rng.normal(size=40)})
    padded_y = pd.DataFrame(np.pad(
        y.to_numpy(), ((30, 9), (0, 0)), constant_values=np.nan
    ))  # fmt: skip
    padded_X = pd.DataFrame({"x": np.pad(X["x"], (30, 9), constant_values=50.0)})
    forecasters = [
        LSTMForecaster(**TINY, pretrained=None).fit(*data, fh=range(1, 25))
        for data in ((y, X), (padded_y, padded_X))
    ]
    models = [forecaster.model_ for forecaster in forecasters]
    assert models[0].horizon == models[1].horizon
    np.testing.assert_array_equal(models[0].exog_mean, models[1].exog_mean)
    states = [model.trained[0].network.state_dict() for model in models]
    for name, weight in states[0].items():
        torch.testing.assert_close(weight, states[1][name], rtol=0, atol=0)


def test_what_update_has_no_value_of_is_not_trained_on():
    y = pd.Series(np.sin(np.arange(60.0)))
    fitted = LSTMForecaster(**TINY, pretrained=None).fit(y[:50], fh=[1, 2])
    longer = copy.deepcopy(fitted)
    fitted.update(y[50:])
    longer.update(pd.Series(np.r_[y[50:], np.full(10, np.nan)], np.arange(50, 70)))
    states = [f.model_.trained[0].network.state_dict() for f in (fitted, longer)]
    for name, weight in states[0].items():
        torch.testing.assert_close(weight, states[1][name], rtol=0, atol=0)


def test_a_backtest_has_no_forecast_of_a_column_that_has_not_begun():
    values = 100 + np.random.default_rng(0).normal(size=(60, 2)).cumsum(axis=0)
    y = pd.DataFrame(values, columns=["a", "b"])
    y.loc[:29, "b"] = np.nan
    found = LSTMForecaster(sp=4).fit(y, fh=[1, 2]).backtest(y, initial_window=5)
    begins = found.index.get_level_values(0) >= 30
    assert found["b"].notna().tolist() == begins.tolist()
    assert found["a"].notna().all()


def test_a_backtest_of_a_hierarchy_has_its_levels():
    y = _make_hierarchical((2, 2), min_timepoints=30, max_timepoints=30, random_state=0)
    tested = LSTMForecaster(sp=1, pretrained="only").fit(y, fh=[1, 2]).backtest(y)
    assert tested.index.names == ["h0", "h1", "cutoff", "time"]
    one = LSTMForecaster(sp=1, pretrained="only").fit(y.loc[("h0_1", "h1_0")], fh=[1, 2])
    pd.testing.assert_frame_equal(
        tested.loc[("h0_1", "h1_0")], one.backtest(y.loc[("h0_1", "h1_0")])
    )


def test_a_backtest_counts_rows_as_predict_does():
    y = pd.Series(np.sin(np.arange(60.0)), index=np.arange(0, 120, 2))
    forecaster = LSTMForecaster().fit(y[:50], fh=[2, 4])
    predicted = forecaster.predict()
    tested = forecaster.backtest(y, initial_window=50).loc[98]
    assert tested.index.tolist() == predicted.index.tolist() == [100, 102]
    np.testing.assert_allclose(tested.to_numpy()[:, 0], predicted)


def test_every_other_month_is_regular():
    y = pd.Series(np.sin(np.arange(48.0)), pd.period_range("2000", freq="2M", periods=48))
    forecaster = LSTMForecaster().fit(y[:40], fh=[1, 2])
    assert forecaster.predict().index.equals(y.index[40:42])
    forecaster.update(y[40:41], update_params=False)
    assert forecaster.predict().index.equals(y.index[41:43])


def test_a_series_of_one_row_does_not_tell_the_spacing():
    index = pd.MultiIndex.from_tuples([("a", 0)] + [("b", 2 * t) for t in range(30)])
    y = pd.DataFrame({"y": np.sin(np.arange(31.0))}, index)
    assert LSTMForecaster().fit(y, fh=[2]).predict().index.tolist() == [
        ("a", 2),
        ("b", 60),
    ]


def test_two_dates_without_a_frequency_are_refused():
    y = pd.Series([1.0, 2.0], pd.DatetimeIndex(["2020-01-01", "2020-01-02"]))
    with pytest.raises(ValueError, match="no regular frequency"):
        LSTMForecaster().fit(y, fh=[1])


def test_spans_of_time_are_refused():
    y = pd.Series(np.arange(9.0), pd.timedelta_range("0h", periods=9, freq="h"))
    with pytest.raises(ValueError, match=r"a TimedeltaIndex, .*pd.Timestamp\(0\) \+ y"):
        LSTMForecaster().fit(y, fh=[1])
    y.index = pd.Timestamp(0) + y.index
    assert LSTMForecaster().fit(y, fh=[1]).predict().index[0].hour == 9


LATE = {
    "pretrained": {"sp": 12},
    "hours": {"sp": 24},
    "trained": {"sp": 12, "horizon": 5, **TINY},
}


def late_hours(n=240):
    rng = np.random.default_rng(0)
    season = 20 * np.sin(2 * np.pi * np.arange(n) / 24)
    index = pd.date_range("2024", periods=n, freq="h")
    return pd.Series(100 + season + rng.normal(size=n).cumsum() / 2, index)


@pytest.mark.parametrize("n_missing", [1, 7, 60])
@pytest.mark.parametrize("settings", LATE.values(), ids=LATE)
def test_what_is_missing_at_the_end_is_forecast_on_the_way(settings, n_missing):
    """As the same times are from the last value."""
    y = late_hours()
    late = y.copy()
    late.iloc[-n_missing:] = np.nan
    steps, alpha = np.arange(1, 8), [0.1, 0.5, 0.9]
    cut = LSTMForecaster(**settings).fit(y[:-n_missing], fh=[1])
    whole = LSTMForecaster(**settings).fit(late, fh=[1])
    quantiles = (
        cut.predict_quantiles(steps + n_missing, alpha=alpha),
        whole.predict_quantiles(steps, alpha=alpha),
    )
    pd.testing.assert_frame_equal(*quantiles, check_exact=True, check_freq=False)
    assert (quantiles[1].iloc[:, 2] > quantiles[1].iloc[:, 0]).all()
    # In-sample rows of the gap and cutoffs inside it are no other.
    behind = whole.predict(np.arange(1 - n_missing, 1))
    ahead = cut.predict(np.arange(1, n_missing + 1))
    np.testing.assert_array_equal(behind, ahead)
    after = whole.backtest(late, fh=[1, 3], initial_window=240 - n_missing)
    for cutoff, forecast in after.groupby(level=0):
        gap = y.index.get_loc(cutoff) - (239 - n_missing)
        expected = cut.predict([gap + 1, gap + 3]).to_numpy()
        np.testing.assert_array_equal(forecast.iloc[:, 0], expected[: len(forecast)])


def test_instances_may_end_at_any_time_and_x_is_known_on_the_way():
    y, X = with_exog()
    named = {i: y.copy() for i in range(4)}
    for i, gap in enumerate([0, 1, 3, 30]):
        named[i].iloc[50 - gap : 50] = np.nan
    panel = pd.concat(named, names=["i", "t"]).to_frame("y")
    known = pd.concat(dict.fromkeys(range(4), X), names=["i", "t"])
    past = panel[panel.index.get_level_values(1) < 50]
    forecaster = LSTMForecaster(4, **TINY).fit(past, X=known.loc[past.index], fh=[1])
    found = forecaster.predict([1, 2, 5], X=known)
    for i, gap in enumerate([0, 1, 3, 30]):
        one = copy.deepcopy(forecaster)
        stop = 50 - gap
        one._cur_y = past.loc[[i]].groupby(level=0).head(stop)
        one._cur_X = known.loc[one._cur_y.index]
        one._cutoff = pd.Index([stop - 1])
        expected = one.predict([gap + 1, gap + 2, gap + 5], X=known)
        np.testing.assert_array_equal(found.loc[i], expected.loc[i])


def test_of_what_ended_long_ago_the_season_goes_on():
    y = late_hours()
    settings = {"horizon": 1, "sp": 24, **TINY}
    found = []
    # A week and 20 steps are all that are on the way.
    for n_missing in (189, 189 + 168, 189 + 1000 * 168):
        late = np.concatenate([y, np.full(n_missing, np.nan)])
        forecaster = LSTMForecaster(**settings).fit(pd.Series(late), fh=[1, 2, 3])
        found.append(forecaster.predict_quantiles(alpha=[0.1, 0.5, 0.9]).to_numpy())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("sp", [1, 12, 24])
@pytest.mark.parametrize("horizon", [1, 4])
def test_more_that_is_missing_never_counts_as_less(sp, horizon):
    model = ForecastModel(horizon, sp, (0.5,), None, None, (), ())
    missing = np.arange(2000)
    late = on_the_way(missing, model)
    season = sp * (7 if sp == 24 else 1)
    assert ((missing - late) % season == 0).all()
    assert (late <= missing).all()
    assert late[200 * horizon :].min() > 20 * horizon
    np.testing.assert_array_equal(late[: 20 * horizon], missing[: 20 * horizon])


def weeks(n_days):
    hours = np.arange(24 * n_days)
    noise = np.random.default_rng(0).normal(size=len(hours))
    day = 10 * np.sin(2 * np.pi * hours / 24)
    values = 100 + day - 40.0 * (hours // 24 % 7 >= 5) + noise
    return pd.Series(values, pd.date_range("2024-01-01", periods=len(hours), freq="h"))


@pytest.mark.parametrize("horizon", [6, 24, 48])
def test_days_of_the_week_are_those_of_the_time_that_is_forecast(horizon):
    y = weeks(80)
    forecaster = LSTMForecaster(horizon, pretrained="only").fit(y[: 70 * 24])
    assert forecaster.sp_ == 24
    far = forecaster.predict(np.arange(1, 10 * 24 + 1))
    assert np.abs(far - y[70 * 24 :]).mean() < 3
    for n_days in (4, 6, 9):
        late = y[70 * 24 : (70 + n_days) * 24] * np.nan
        twin = copy.deepcopy(forecaster).update(late, update_params=False)
        found = twin.predict(np.arange(1, 25))
        error = np.abs(found - y[(70 + n_days) * 24 : (71 + n_days) * 24]).mean()
        assert error < 3  # a weekend taken for a weekday would be 40


def test_x_on_the_way_is_read_whatever_steps_are_asked_for():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.normal(size=70).cumsum()})
    y = X.x[:60] + 0.1 * rng.normal(size=60)
    y[-2:] = np.nan
    forecaster = LSTMForecaster(3, **QUICK).fit(y, X=X[:60])
    whole = forecaster.predict([1, 2, 3], X=X[60:])
    pd.testing.assert_series_equal(
        forecaster.predict([3], X=X[60:]), whole[2:], check_freq=False
    )


def test_business_days_that_begin_as_days():
    days = pd.bdate_range("2024-01-01", periods=20)
    y = pd.Series(np.sin(np.arange(20.0)), pd.DatetimeIndex(days, freq=None))
    forecaster = LSTMForecaster(sp=1).fit(y[:5])  # Monday to Friday
    forecaster.update(y[5:15], update_params=False)
    assert forecaster.predict([1, 2, 3]).index.equals(days[15:18])


@pytest.mark.parametrize("freq", ["BMS", pd.offsets.BQuarterEnd()], ids=str)
@pytest.mark.parametrize("is_panel", [False, True])
def test_a_frequency_that_the_first_rows_do_not_show(freq, is_panel):
    index = pd.date_range("2020-03-27", periods=20, freq=freq)
    y = pd.Series(np.arange(20.0), pd.DatetimeIndex(index, freq=None), name="y")
    if is_panel:
        y = pd.concat({"a": y, "b": y}, names=["i", "t"]).to_frame()
    times = y.index.get_level_values(-1)
    forecaster = LSTMForecaster(3, sp=1).fit(y[times < index[3]])
    for t in range(3, 16):
        forecaster.update(y[times == index[t]], update_params=False)
    found = forecaster.predict([1, 2]).index.get_level_values(-1).unique()
    assert found.tolist() == index[16:18].tolist()


def test_x_in_another_zone_than_y_is_updated_again_and_again():
    index = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    y = pd.Series(np.sin(np.arange(60.0)), index)
    X = pd.DataFrame({"x": np.cos(np.arange(60.0))}, index.tz_convert("UTC"))
    forecaster = LSTMForecaster(**TINY).fit(y[:50], X=X[:50], fh=[1])
    for start, stop in ((50, 52), (52, 55)):
        forecaster.update(y[start:stop], X=X[start:stop], update_params=False)
    assert np.isfinite(forecaster.predict(X=X[55:])).all()


@pytest.mark.parametrize("strategy", ["refit", "update", "no-update_params"])
def test_evaluate(strategy):
    cv = ExpandingWindowSplitter(fh=[1, 2], initial_window=120, step_length=10)
    results = evaluate(
        LSTMForecaster(**QUICK),
        cv,
        load_airline(),
        strategy=strategy,
        error_score="raise",
    )
    assert results.filter(like="test_").notna().all(axis=None)


@pytest.mark.filterwarnings("ignore")  # sktime's own
def test_composition():
    y = load_airline()
    forecaster = LSTMForecaster(**QUICK)
    TransformedTargetForecaster([("d", Differencer()), ("f", forecaster)]).fit(
        y, fh=[1, 2]
    ).predict_interval()
    y_longley, X = load_longley()
    pipeline = ForecastingPipeline([("t", ExponentTransformer()), ("f", forecaster)])
    pipeline.fit(y_longley[:-2], X=X[:-2], fh=[1, 2]).predict(X=X[-2:])
    search = ForecastingGridSearchCV(
        forecaster,
        SlidingWindowSplitter(fh=[1], window_length=100, step_length=20),
        {"hidden_size": [4, 8]},
    )
    assert search.fit(y, fh=[1]).predict().shape == (1,)
    hierarchy = _make_hierarchical(min_timepoints=24, max_timepoints=24)
    ReconcilerForecaster(forecaster, method="bu").fit(hierarchy, fh=[1]).predict()


@pytest.mark.filterwarnings("ignore")  # sktime's own
def test_choice_and_ensemble():
    y = load_airline()
    forecasters = [("lstm", LSTMForecaster()), ("naive", NaiveForecaster(sp=12))]
    choice = MultiplexForecaster(forecasters, selected_forecaster="lstm")
    chosen = choice.fit(y, fh=[1, 2, 3]).predict()
    alone = LSTMForecaster().fit(y, fh=[1, 2, 3]).predict()
    np.testing.assert_array_equal(chosen, alone)
    both = EnsembleForecaster(forecasters).fit(y, fh=[1, 2, 3]).predict()
    np.testing.assert_allclose(2 * both - y[-12:-9].to_numpy(), alone)


@pytest.mark.filterwarnings("ignore")  # sktime's own
def test_benchmark(tmp_path):
    benchmark = ForecastingBenchmark()
    benchmark.add_estimator(LSTMForecaster(), "lstm")
    benchmark.add_estimator(NaiveForecaster(sp=12), "naive")
    cv = ExpandingWindowSplitter(fh=[1, 2, 3], initial_window=108, step_length=12)
    benchmark.add_task(load_airline, cv, [MeanAbsoluteError()])
    results = benchmark.run(tmp_path / "results.csv").set_index("model_id")
    errors = results["MeanAbsoluteError_mean"].astype(float)
    assert errors["lstm"] < errors["naive"]


@pytest.mark.parametrize("settings", [{}, QUICK], ids=["pretrained", "trained"])
def test_save_and_load(tmp_path, settings):
    forecaster = LSTMForecaster(**settings).fit(load_airline(), fh=[1, 2, 3])
    forecaster.save(tmp_path / "forecaster")
    twin = LSTMForecaster.load_from_path(tmp_path / "forecaster.zip")
    pd.testing.assert_series_equal(twin.predict(), forecaster.predict())


def test_verbose_prints_a_line_per_stage(capsys):
    y = make_panel(50)
    LSTMForecaster(**QUICK, verbose=True).fit(y, fh=[1, 2])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["read", "trained", "calibrated"]
    LSTMForecaster(**QUICK).fit(y, fh=[1, 2])
    assert not capsys.readouterr().out


def with_gap():
    y = pd.Series(np.arange(30.0), pd.date_range("2020-01-01", periods=30, freq="D"))
    return y.drop(y.index[[10, 11]])


@pytest.mark.parametrize(
    ("y", "settings", "message"),
    [
        (pd.Series([1.0]), {}, "needs at least 2 time points"),
        (with_gap(), {}, r"has gaps .* Call y\.asfreq"),
        (pd.Series([1, 2, np.inf, 4.0]), {}, "y contains infinity at 2"),
        (pd.Series([np.nan] * 9), {}, "has no value that is not missing"),
        (pd.Series(np.arange(9.0)), {"quantiles": (0.0, 0.5, 0.9)}, "strictly between 0"),
        (pd.Series(np.arange(9.0)), {"quantiles": (0.1, 0.9)}, "odd number, with 0.5"),
        (pd.Series(np.arange(9.0)), {"quantiles": (0.1, 0.4, 0.9)}, "0.5 in the middle"),
        (pd.Series(np.arange(9.0)), {"transform": "log"}, "needs positive values"),
        (
            pd.Series(np.arange(9.0)),
            {"scaling": "minmax"},
            "'scaling' parameter .* 'minmax'",
        ),
        (
            pd.Series(np.arange(9.0)),
            {"cell": "sru"},
            r"'cell' parameter of LSTMForecaster must be .* Got 'sru' instead",
        ),
    ],
)
def test_bad_input_is_named(y, settings, message):
    with pytest.raises(ValueError, match=message):
        LSTMForecaster(**QUICK, **settings).fit(y, fh=[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, 0) for name in ("horizon", "window_length", "sp", "segment_length")],
        *[(name, 0) for name in ("hidden_size", "n_members", "max_steps", "batch_size")],
        *[("num_layers", 0), ("learning_rate_init", 0), ("max_grad_norm", 0)],
        *[("alpha", -1), ("update_steps", -1), ("dropout", 1.0), ("dropout", -0.1)],
        *[("sp", "M"), ("early_stopping", "no"), ("pretrained", "yes"), ("device", 0)],
        ("dtype", "float64"),
    ],
)
def test_bad_parameters_are_named(name, value):
    message = f"'{name}' parameter of LSTMForecaster must be .* Got {value!r} instead"
    with pytest.raises(ValueError, match=message):
        LSTMForecaster(**{name: value}).fit(pd.Series(np.arange(30.0)), fh=[1])


def test_numbers_of_numpy_are_numbers():
    y = pd.Series(np.sin(np.arange(60.0)))
    settings = {
        "hidden_size": 4, "num_layers": 2, "max_steps": 5, "window_length": 12, "sp": 6,
        "segment_length": 6, "horizon": 3, "batch_size": 8, "n_members": 2,
    }  # fmt: skip
    ours, of_numpy = (
        LSTMForecaster(**{k: kind(v) for k, v in settings.items()}, random_state=0)
        .fit(y)
        .predict(fh=[1, 2])
        for kind in (int, np.int64)
    )
    pd.testing.assert_series_equal(ours, of_numpy)


@pytest.mark.parametrize("freq", ["D", "h", "MS", "W", "B"])
@pytest.mark.parametrize("tz", [None, "Europe/Berlin"])
def test_gaps_of_any_series_of_a_panel_are_named(freq, tz):
    times = pd.date_range("2020-03-20", periods=20, freq=freq, tz=tz)  # clocks change
    whole = pd.DataFrame({"y": np.arange(20.0)}, times)
    y = pd.concat({"a": whole, "b": whole[:12]}, names=["series", "time"])
    LSTMForecaster().fit(y, fh=[1]).predict()
    with pytest.raises(ValueError, match=r"gap between \('b', .* Insert the missing"):
        LSTMForecaster().fit(y.drop(y.index[25]), fh=[1])


def test_bad_exogenous_data_is_named():
    y, X = load_longley()
    forecaster = LSTMForecaster(**QUICK).fit(y[:-3], X=X[:-3], fh=[1, 2, 3])
    with pytest.raises(ValueError, match=r"X lacks 1 rows of the forecasting horizon"):
        forecaster.predict(X=X[-3:-1])
    with pytest.raises(ValueError, match="needs X for the steps of fh; got None"):
        forecaster.predict()
    with pytest.raises(ValueError, match="X has the columns"):
        forecaster.predict(X=X[-3:].iloc[:, :2])


@pytest.mark.parametrize("tz", [None, "Europe/Berlin"])
@pytest.mark.parametrize(
    "freq", ["D", "2D", "B", "W-WED", "h", "15min", "MS", "3MS", "QS-OCT", "YS", "BMS"]
)
def test_dates_ahead_are_those_of_sktime(freq, tz):
    cutoff = pd.date_range("2020-01-01", periods=40, freq=freq, tz=tz, name="t")[-1:]
    for steps in ([1], [1, 2, 3], [2, 5], [-3, 0, 1], [-1, 0]):
        fh = ForecastingHorizon(steps, is_relative=True)
        expected, found = fh.to_absolute_index(cutoff), times_ahead(fh, cutoff)
        pd.testing.assert_index_equal(found, expected)
        assert found.freq == expected.freq


# --------------------------------------------------------------------- times and rows
def dated(freq, n=43, tz=None, start="2000-01-03"):
    index = pd.date_range(start, periods=n, freq=freq, tz=tz)
    rng = np.random.default_rng(0)
    return pd.Series(np.arange(float(n)) + rng.random(n), index)


@pytest.mark.parametrize("freq", [
    "D", "h", "B", "MS", "2MS", "W-WED", "SMS", "C", "bh", pd.offsets.BMonthEnd(),
    pd.offsets.BQuarterEnd(startingMonth=12), pd.offsets.BYearEnd(),
])  # fmt: skip
def test_absolute_horizons_are_those_of_steps(freq):
    y = dated(freq)
    forecaster = LSTMForecaster(sp=1).fit(y[:40])
    steps = [-30, 0, 1, 3]
    at = [9, 39, 40, 42]
    expected = forecaster.predict(steps)
    times = ForecastingHorizon(y.index[at], is_relative=False)
    np.testing.assert_array_equal(forecaster.predict(times), expected)


def test_horizons_of_spans_of_time():
    forecaster = LSTMForecaster(sp=1).fit(dated("D"))
    spans = ForecastingHorizon(pd.to_timedelta([-2, 1, 2], unit="D"), is_relative=True)
    found = forecaster.predict(spans)
    pd.testing.assert_series_equal(
        found, forecaster.predict([-2, 1, 2]), check_freq=False
    )


@pytest.mark.parametrize("start", ["2020-03-27", "2020-10-24"])
@pytest.mark.parametrize("freq", ["h", "D"])
def test_absolute_horizons_where_clocks_are_changed(start, freq):
    y = dated(freq, 72, "Europe/Berlin", start)
    forecaster = LSTMForecaster(sp=1).fit(y[:40])
    expected = forecaster.predict(np.arange(-39, 33))
    times = ForecastingHorizon(y.index, is_relative=False)
    np.testing.assert_array_equal(forecaster.predict(times), expected)
    assert LSTMForecaster(sp=1).fit(y).predict_residuals(y).notna().all()


def test_dates_ahead_of_periods():
    y = dated("MS")
    forecaster = LSTMForecaster().fit(y.to_period("M"))
    dates = pd.date_range(y.index[-1], periods=3, freq=pd.offsets.MonthEnd())[1:]
    np.testing.assert_array_equal(
        forecaster.predict(ForecastingHorizon(dates)), forecaster.predict([1, 2])
    )


def test_times_that_are_no_rows():
    y = dated(pd.offsets.BMonthEnd())
    times = ForecastingHorizon(pd.DatetimeIndex(["2030-01-02"]), is_relative=False)
    with pytest.raises(ValueError, match="fh holds times that do not continue the index"):
        LSTMForecaster().fit(y).predict(times)
    with pytest.raises(ValueError, match="fh must be whole numbers of steps ahead here"):
        LSTMForecaster().pretrain(make_panel(3), fh=times)


def test_instances_keep_their_order_in_what_is_forecast_after_an_update():
    """By position forecasts of one shop would else be taken for those of another."""
    y = make_panel(3, 30)
    y = y[(y.index.get_level_values(0) > 0) | (y.index.get_level_values(1) >= "2002-05")]
    forecaster = LSTMForecaster(sp=1).fit(y, fh=[1, 2])
    expected = forecaster.predict()
    forecaster.update(y.groupby(level=0).tail(2), update_params=False)  # nothing new
    pd.testing.assert_frame_equal(forecaster.predict(), expected)
    assert expected.index.get_level_values(0).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("freq", "start", "other"), [
    ("B", "2024-03-23", "D"), ("D", "2024-03-01", "2D"), ("D", "2024-03-01", "12h"),
    ("D", "2024-03-03", "W-SUN"), ("MS", "2029-01-01", "QS"),
])  # fmt: skip
def test_an_update_of_another_frequency_is_refused(freq, start, other):
    index = pd.date_range("2024-01-01", periods=60, freq=freq)
    forecaster = LSTMForecaster(sp=1).fit(pd.Series(np.sin(np.arange(60.0)), index))
    before = forecaster.predict([1, 2])
    more = pd.Series(np.arange(4.0), pd.date_range(start, periods=4, freq=other))
    with pytest.raises(ValueError, match="has gaps or no regular frequency"):
        forecaster.update(more)
    pd.testing.assert_series_equal(forecaster.predict([1, 2]), before)
    # Rows of the same times that call their frequency something else go on.
    same = pd.date_range(index[-1] + index.freq, periods=3, freq=index.freq)
    named_otherwise = pd.Series(np.arange(3.0), pd.DatetimeIndex(same, freq=None))
    assert forecaster.update(named_otherwise).predict([1]).index.freqstr == index.freqstr


@pytest.mark.parametrize("is_panel", [False, True])
def test_an_update_in_another_zone(is_panel):
    index = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    y = pd.Series(np.sin(np.arange(60.0)), index, name="y")
    X = pd.DataFrame({"x": np.cos(np.arange(60.0))}, index)
    after = X.set_axis(X.index + pd.Timedelta(10, "h"))

    def panel(each):
        if not is_panel:
            return each
        named = pd.concat({"a": each, "b": each}, names=["i", "t"])
        return named.to_frame() if named.ndim == 1 else named

    found = []
    for zone in ("Europe/Berlin", "UTC"):
        forecaster = LSTMForecaster(**TINY).fit(panel(y[:50]), X=panel(X[:50]), fh=[1, 2])
        new_y, new_X = (panel(a[50:].tz_convert(zone)) for a in (y, X))
        forecaster.update(new_y, X=new_X, update_params=False)
        found.append(forecaster.predict(X=panel(after)))
    assert found[1].equals(found[0])
    assert found[1].index.equals(found[0].index)
    assert str(found[1].index.get_level_values(-1).tz) == "Europe/Berlin"


def test_new_rows_of_one_instance_leave_the_others():
    days = pd.date_range("2020-01-01", periods=60, freq="D")
    rng = np.random.default_rng(0)
    values = pd.DataFrame({"v": rng.normal(size=60).cumsum()}, days)
    panel = pd.concat({"a": values[:31], "b": values}, names=["unit", "day"])
    forecaster = LSTMForecaster().fit(panel, fh=[1])
    new = pd.concat({"a": values[31:32]}, names=["unit", "day"])
    found = forecaster.update(new, update_params=False).predict()
    joined = pd.concat([panel, new]).sort_index()
    expected = LSTMForecaster().fit(joined, fh=[1]).predict()
    pd.testing.assert_frame_equal(found, expected)
    assert found.index.get_level_values(-1).tolist() == [
        days[32], days[-1] + pd.Timedelta(days=1)
    ]  # fmt: skip
    empty = pd.concat({"c": values[:5] * np.nan}, names=["unit", "day"])
    with pytest.raises(ValueError, match="of instance 'c' has no value that is not"):
        forecaster.update(empty, update_params=False)


def test_an_instance_of_one_row_that_is_off_the_grid():
    month = pd.date_range("2000-01-01", periods=30, freq="MS")
    late = pd.DatetimeIndex(["2001-05-15"])
    panel = pd.concat(
        {"a": pd.Series(1.0, month), "b": pd.Series(1.0, late)}, names=["unit", "time"]
    ).to_frame("v")
    with pytest.raises(
        ValueError, match=r"\('b', .*2001-05-15.* none of the frequency MS"
    ):
        LSTMForecaster().fit(panel)


def test_rows_without_and_twice():
    y = dated("D")
    with pytest.raises(ValueError, match="y has no rows"):
        LSTMForecaster().fit(y[:0])
    twice = pd.concat({"a": y, "b": pd.concat([y, y[:1]]).sort_index()}, names=["i", "t"])
    with pytest.raises(ValueError, match=r"holds .*'b'.* more than once"):
        LSTMForecaster().fit(twice.to_frame("v"))


@pytest.mark.parametrize("value", [-7.0, 0.0, 7.0])
@pytest.mark.parametrize("sp", [1, 12])
def test_a_series_that_has_ended_goes_on_from_its_last_value(value, sp):
    y = pd.Series(np.full(300, np.nan))
    y[:60] = value
    assert LSTMForecaster(sp=sp).fit(y, fh=[1]).predict().iloc[0] == pytest.approx(value)


@pytest.mark.parametrize("level", [1e-6, -1e6])
def test_what_nothing_comes_before_is_forecast_from_the_first_value(level):
    y = pd.Series(level * (1 + 0.1 * np.random.default_rng(0).random(30)))
    y[:3] = np.nan
    found = LSTMForecaster().fit(y).predict(np.arange(-29, -25))
    np.testing.assert_allclose(found, y[3])


@pytest.mark.parametrize("early_stopping", ["auto", False])
def test_series_set_aside_may_all_be_short(early_stopping):
    lengths = (60,) + (10,) * 45  # one old series, 45 new ones
    frames = [pd.Series(np.arange(n) % 7.0) for n in lengths]
    y = pd.concat(dict(enumerate(frames))).to_frame("y")
    forecaster = LSTMForecaster(**TINY, early_stopping=early_stopping)
    assert np.isfinite(forecaster.fit(y, fh=range(1, 13)).predict()).all(axis=None)


def test_what_is_held_back_ends_with_the_last_value():
    season = 20 * np.sin(np.arange(60) * np.pi / 6)
    y = 100 + season + np.random.default_rng(0).normal(size=(45, 60))
    padded = y.copy()
    padded[:, 54:] = np.nan
    settings = {**QUICK, "pretrained": None, "early_stopping": True}
    fits = [
        LSTMForecaster(**settings).fit(panel_of(each), fh=range(1, 7))
        for each in (padded, y[:, :54])
    ]
    assert len(fits[0].history_[0]) > 1
    assert fits[0].history_ == fits[1].history_


def test_pretrained_with_exogenous_data_needs_them():
    y = panel_of(np.random.default_rng(0).normal(size=(5, 30)))
    X = y.rename(columns={"y": "x"})
    forecaster = LSTMForecaster(**TINY).pretrain(y, X=X, fh=[1, 2])
    series = y.loc[0, "y"]
    with pytest.raises(ValueError, match="so fit needs X for the rows of y; got None"):
        forecaster.fit(series)
    with pytest.raises(ValueError, match="so pretrain needs X for the rows of y; got"):
        forecaster.pretrain(y)
    without = LSTMForecaster(**TINY).pretrain(y, fh=[1, 2])
    with pytest.raises(ValueError, match=r"X has .*\['x'\], but .* fitted without X"):
        without.fit(series, X=X.loc[0])


OTHER_INDEXES = {
    "numbers": pd.RangeIndex(40, 44),
    "times": pd.date_range("2010-01-01", periods=4, freq="MS"),
    "periods of frequency D": pd.period_range("2010-01-01", periods=4, freq="D"),
    "2 levels, of periods": pd.MultiIndex.from_product(
        [[0], pd.period_range("2010-01", periods=4, freq="M")]
    ),
}


@pytest.mark.parametrize("kind", OTHER_INDEXES)
def test_update_with_another_kind_of_index(kind):
    y = load_airline()[:40]
    forecaster = LSTMForecaster().fit(y, fh=[1])
    more = pd.DataFrame({y.name: np.arange(4.0)}, OTHER_INDEXES[kind])
    more = more if "levels" in kind else more[y.name]
    before = forecaster.predict()
    with pytest.raises(
        ValueError, match=f"y has an index of {kind}.*has one of periods of frequency M"
    ):
        forecaster.update(more)
    pd.testing.assert_series_equal(forecaster.predict(), before)


@pytest.mark.parametrize("value", [7.0, 1e9])
def test_constants_are_trained_on_without_warnings(value):
    y = pd.Series(np.full(40, value))
    forecaster = LSTMForecaster(**TINY).fit(y, fh=[1])
    np.testing.assert_allclose(forecaster.predict(), value, rtol=1e-3)


def test_an_exogenous_column_without_a_value_is_as_if_it_were_0():
    y = pd.Series(np.arange(40) % 5.0)
    X = pd.DataFrame({"x": np.full(42, np.nan)})
    forecaster = LSTMForecaster(**TINY).fit(y, X=X[:40], fh=[1, 2])
    assert np.isfinite(forecaster.predict(X=X[40:])).all()


def test_each_update_draws_windows_of_its_own(monkeypatch):
    from sklstm import forecast_training  # noqa: PLC0415 - its class is replaced

    drawn = []

    class Noted(forecast_training.WindowBatches):
        def __iter__(self):
            state = self.rng.bit_generator.state["state"]["state"]
            drawn.append(state)
            return super().__iter__()

    monkeypatch.setattr(forecast_training, "WindowBatches", Noted)
    y = load_airline()
    forecaster = LSTMForecaster(**TINY, pretrained=None).fit(y[:100], fh=[1])
    forecaster.update(y[100:101]).update(y[101:102])
    assert len(set(drawn)) == len(drawn) == 1 + 2 + 2  # epochs of fit and the updates


def test_an_interrupt_ends_all_networks(monkeypatch):
    from sklstm import forecast_training  # noqa: PLC0415 - its function is replaced

    train, n_calls = forecast_training.train, []

    def interrupted(*args, **kwargs):
        history = train(*args, **kwargs)
        n_calls.append(history)
        history.interrupted = len(n_calls) == 2
        return history

    monkeypatch.setattr(forecast_training, "train", interrupted)
    settings = TINY | {"n_members": 4}
    forecaster = LSTMForecaster(**settings, pretrained=None)
    forecaster.fit(load_airline(), fh=[1])
    assert len(forecaster.history_) == len(forecaster.model_.trained) == 2
    assert np.isfinite(forecaster.predict()).all()
    n_calls[:] = [None]
    forecaster.update(load_airline()[-1:])
    assert len(forecaster.model_.trained) == 2


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16),
     lambda: torch.device("meta")],
    ids=["inference_mode", "no_grad", "autocast", "device"],
)  # fmt: skip
@pytest.mark.parametrize("settings", [{}, TINY | {"cell": "gru"}], ids=str)
def test_the_modes_that_the_caller_is_in_change_nothing(settings, mode):
    y = load_airline()
    plain = LSTMForecaster(**settings).fit(y[:100], fh=[1, 2])
    expected, tested = plain.predict(), plain.backtest(y)
    with mode():
        inside = LSTMForecaster(**settings).fit(y[:100], fh=[1, 2])
        for each in (inside, plain, pickle.loads(pickle.dumps(plain))):
            pd.testing.assert_series_equal(each.predict(), expected, check_exact=True)
            pd.testing.assert_frame_equal(each.backtest(y), tested, check_exact=True)
        inside.update(y[100:110])
    plain.update(y[100:110])
    pd.testing.assert_series_equal(inside.predict(), plain.predict(), check_exact=True)


def test_float64_as_the_default_of_torch_changes_nothing():
    y, dtype = load_airline(), torch.get_default_dtype()
    expected = LSTMForecaster(**TINY).fit(y, fh=[1, 2]).predict()
    torch.set_default_dtype(torch.float64)
    try:
        found = LSTMForecaster(**TINY).fit(y, fh=[1, 2]).predict()
    finally:
        torch.set_default_dtype(dtype)
    pd.testing.assert_series_equal(found, expected)


def seasonal_panel(freq, period):
    index = pd.MultiIndex.from_product(
        [range(5), pd.period_range("2020-01-01", periods=10 * period, freq=freq)]
    )
    season = 10 + 5 * np.sin(2 * np.pi * np.arange(10 * period) / period)
    noise = np.random.default_rng(0).normal(size=(5, 10 * period))
    return pd.DataFrame({"y": (season + noise).ravel()}, index)


@pytest.mark.parametrize("settings", [{"pretrained": "only"}, {}], ids=str)
def test_what_knows_any_season_takes_that_of_the_series(settings, monkeypatch):
    monkeypatch.setattr("sklstm.forecast_training.TUNED", {**TUNED, "max_steps": 2})
    y = load_airline()
    days, months = seasonal_panel("D", 7), seasonal_panel("M", 12)
    forecaster = LSTMForecaster(random_state=0, **settings).pretrain(days, fh=[1, 2])
    assert forecaster.pretrained_model_.period == 7
    assert forecaster.clone().fit(y, fh=[1, 2]).sp_ == 12
    assert forecaster.pretrained_model_.period == 7
    numbered = y.reset_index(drop=True)  # no frequency says otherwise
    assert forecaster.clone().fit(numbered, fh=[1, 2]).sp_ == 7
    error = np.abs(forecaster.fit(y[:-12], fh=np.arange(1, 13)).predict() - y[-12:])
    assert error.mean() < 60  # 78 with a week, 48 of the last season repeated
    other = LSTMForecaster(random_state=0, **settings).pretrain(months, fh=[1, 2])
    assert other.clone().fit(y, fh=[1, 2]).sp_ == 12
    years = pd.Series(np.arange(30.0), pd.period_range("1990", periods=30, freq="Y"))
    assert other.clone().fit(years, fh=[1, 2]).sp_ == 1
    quarters = pd.period_range("2024", periods=400, freq="15min")
    day = np.sin(np.arange(400.0) * 2 * np.pi / 96)
    walk = np.random.default_rng(0).normal(size=400).cumsum()
    assert other.clone().fit(pd.Series(walk, quarters), fh=[1, 2]).sp_ == 1
    with pytest.warns(UserWarning, match="a season of 12 steps, .* one of 96. Pretr"):
        other.fit(pd.Series(day, quarters), fh=[1, 2])
    assert other.sp_ == 12


def test_what_knows_one_season_says_so():
    y = load_airline()
    forecaster = LSTMForecaster(**TINY).pretrain(seasonal_panel("D", 7), fh=[1, 2])
    with pytest.warns(UserWarning, match="a season of 7 steps, .* one of 12. Pretr"):
        assert forecaster.fit(y, fh=[1, 2]).sp_ == 7
    given = LSTMForecaster(**TINY, sp=7).pretrain(seasonal_panel("D", 7), fh=[1, 2])
    assert given.fit(y, fh=[1, 2]).sp_ == 7
    days = seasonal_panel("D", 7).loc[0, "y"]
    assert forecaster.fit(days, fh=[1, 2]).sp_ == 7
    steps = seasonal_panel("D", 7)
    steps["y"] = np.random.default_rng(0).normal(size=len(steps))
    walks = LSTMForecaster(**TINY).pretrain(steps.groupby(level=0).cumsum(), fh=[1, 2])
    assert walks.pretrained_model_.period == 1
    assert walks.fit(y, fh=[1, 2]).sp_ == 1


def test_pretrained_alone_is_pretrained_twice(tmp_path):
    panel = _make_hierarchical((3,), min_timepoints=30, max_timepoints=30, random_state=0)
    forecaster = LSTMForecaster(pretrained="only", checkpoint=tmp_path / "fit")
    forecaster.pretrain(panel, fh=[1]).pretrain(panel, fh=[1])
    assert np.isfinite(forecaster.fit(load_airline(), fh=[1]).predict()).all()


def test_quantiles_are_those_of_the_fit():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y, fh=[1, 2])
    expected = forecaster.predict()
    forecaster.quantiles = (0.4,)
    pd.testing.assert_series_equal(forecaster.predict(), expected)


def test_update_and_a_second_pretrain_train():
    y = load_airline()

    def weights(model):
        return [w.detach().clone() for m in model.trained for w in m.network.parameters()]

    def moved(before, after):
        return max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))

    forecaster = LSTMForecaster(**TINY, pretrained=None).fit(y[:120], fh=[1])
    before = weights(forecaster.model_)
    forecaster.update(y[120:], update_params=False)
    assert moved(before, weights(forecaster.model_)) == 0
    forecaster = LSTMForecaster(**TINY, pretrained=None).fit(y[:120], fh=[1])
    forecaster.update(y[120:])
    assert moved(before, weights(forecaster.model_)) > 0
    panel = _make_hierarchical((3,), min_timepoints=30, max_timepoints=30, random_state=0)
    forecaster = LSTMForecaster(**TINY, pretrained=None).pretrain(panel, fh=[1])
    before = weights(forecaster.pretrained_model_)
    forecaster.pretrain(panel, fh=[1])
    assert moved(before, weights(forecaster.pretrained_model_)) > 0
