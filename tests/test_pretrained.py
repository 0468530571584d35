"""The network in the package: what holds for it without any training."""

import pickle
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from generator import draw_period, extreme_series, generate, panel_of
from sktime.datasets import load_airline, load_longley

from sklstm import LSTMForecaster
from sklstm.forecast_training import MOST_OFFSET, TUNED
from sklstm.pretrained import WEIGHTS, load_pretrained, save_pretrained
from sklstm.series import to_table


def forecast(y, n_steps=12, **kwargs):
    return LSTMForecaster(**kwargs).fit(y, fh=np.arange(1, n_steps + 1)).predict()


def test_short_series_are_forecast_without_training_and_better_than_naive():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y[:-24], fh=np.arange(1, 25))
    assert forecaster.pretrained_share_ == 1.0
    assert forecaster.n_members_ == 0
    assert forecaster.history_ == []
    error = np.abs(forecaster.predict() - y[-24:]).mean()
    naive = np.abs(np.resize(y[-36:-24], 24) - y[-24:]).mean()
    assert error < 0.7 * naive


def test_seed_does_not_matter_without_training():
    y = load_airline()
    pd.testing.assert_series_equal(
        forecast(y, random_state=0), forecast(y, random_state=1)
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"pretrained": None},
        {"hidden_size": 8},
        {"cell": "peephole"},
        {"early_stopping": True},
    ],
    ids=str,
)
def test_who_asks_for_training_gets_it(setting):
    forecaster = LSTMForecaster(n_members=1, max_steps=2, **setting)
    forecaster.fit(load_airline()[:60], fh=[1])
    assert forecaster.n_members_ == 1
    assert forecaster.pretrained_share_ == 0.0


@pytest.mark.parametrize("mode", ["dtype", "device"])
def test_the_callers_defaults_do_not_last_in_the_weights(mode):
    y = load_airline()
    expected = LSTMForecaster().fit(y, fh=[1, 2, 3]).predict()
    load_pretrained.cache_clear()
    try:
        if mode == "dtype":
            torch.set_default_dtype(torch.float64)
            load_pretrained()
        else:
            with torch.device("meta"):
                load_pretrained()
        found = LSTMForecaster().fit(y, fh=[1, 2, 3]).predict()
    finally:
        torch.set_default_dtype(torch.float32)
        load_pretrained.cache_clear()
    pd.testing.assert_series_equal(found, expected)


def test_exogenous_data_are_learnt_from_instead():
    y, X = load_longley()
    forecaster = LSTMForecaster(random_state=0).fit(y, X=X, fh=[1])
    assert forecaster.pretrained_share_ == 0.0
    with pytest.raises(ValueError, match="'only' cannot be used with X"):
        LSTMForecaster(pretrained="only").fit(y, X=X, fh=[1])


def test_only_the_pretrained_network_says_what_keeps_it_from_being_used():
    forecaster = LSTMForecaster(sp=70, cell="gru", pretrained="only")
    told = r"with a season of 70 steps \(it knows up to 60\) and cell='gru', which asks"
    with pytest.raises(ValueError, match=told):
        forecaster.fit(load_airline(), fh=[1])


def test_a_larger_panel_is_trained_on_beside_the_pretrained_network(monkeypatch):
    monkeypatch.setattr("sklstm.forecast_training.TUNED", {**TUNED, "max_steps": 20})
    monkeypatch.setattr("sklstm.forecast_training.MIXED_TOTAL", 2000)
    rng = np.random.default_rng(0)
    season = np.sin(2 * np.pi * np.arange(60) / 12 + rng.normal(size=(60, 1)))
    y = panel_of(list(10 + season + 0.1 * rng.normal(size=(60, 60))))
    forecaster = LSTMForecaster(sp=12, random_state=0)
    forecaster.fit(y, fh=[1, 2, 3])
    assert forecaster.pretrained_share_ in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert forecaster.n_members_ == 1
    only = LSTMForecaster(sp=12, pretrained="only").fit(y, fh=[1, 2, 3])
    assert only.n_members_ == 0


def test_training_on_a_panel_goes_on_from_the_weights_of_the_package(monkeypatch):
    monkeypatch.setattr("sklstm.forecast_training.TUNED", {**TUNED, "max_steps": 2})
    monkeypatch.setattr("sklstm.forecast_training.MIXED_TOTAL", 2000)
    rng = np.random.default_rng(0)
    y = panel_of(list(rng.normal(size=(50, 50)).cumsum(axis=1)))
    fh = [1, 2, 3]
    tuned = LSTMForecaster(sp=4, random_state=0).fit(y, fh=fh)
    assert tuned.fine_tuned_
    assert tuned.n_members_ == 1
    shipped = load_pretrained()[0].state_dict()
    weights = tuned.model_.trained[0].network.state_dict()
    far = max(float((weights[name] - shipped[name]).abs().max()) for name in shipped)
    assert 0 < far < 1e-2
    scratch = LSTMForecaster(sp=4, random_state=0, pretrained=None, max_steps=2)
    assert not scratch.fit(y, fh=fh).fine_tuned_
    again = LSTMForecaster(sp=4, random_state=0).fit(y, fh=fh)
    pd.testing.assert_frame_equal(again.predict(), tuned.predict())
    twin = pickle.loads(pickle.dumps(tuned))
    pd.testing.assert_frame_equal(twin.predict(), tuned.predict())


def test_pretrain_goes_on_from_the_weights_of_the_package(monkeypatch):
    monkeypatch.setattr("sklstm.forecast_training.TUNED", {**TUNED, "max_steps": 2})
    y, rng = load_airline(), np.random.default_rng(0)
    panel = panel_of(list(rng.normal(size=(10, 30)).cumsum(axis=1)))
    forecaster = LSTMForecaster(random_state=0, update_steps=2).pretrain(
        panel, fh=[1, 2, 3]
    )
    forecaster = forecaster.clone().fit(y[:-3], fh=[1, 2, 3])
    assert forecaster.fine_tuned_
    assert forecaster.pretrained_share_ == 0.5  # ten series: too few to choose it on
    network = forecaster.model_.trained[0].network
    forecaster.update(y[-3:])
    assert forecaster.model_.trained[0].network is not network
    assert forecaster.predict().notna().all()


def test_hours_differ_by_the_day_of_the_week():
    hours = np.arange(24 * 7 * 5)
    y = 10 + 3 * np.sin(hours / 24 * 2 * np.pi) - 4.0 * (hours // 24 % 7 >= 5)
    y = pd.Series(y + 0.3 * np.random.default_rng(0).normal(size=len(y)))
    friday = 24 * (7 * 4 + 5)  # the end of the fifth
    forecaster = LSTMForecaster(sp=24).fit(y[:friday], fh=np.arange(1, 49))
    assert forecaster.pretrained_share_ == 1.0
    assert np.abs(forecaster.predict() - y[friday:]).mean() < 0.6
    assert forecaster.model_.context_length == 6 * 7 * 24
    # A horizon in blocks goes on with the week where the one before ended.
    forecaster.fit(y[:friday], fh=np.arange(1, 24 * 9 - 23))
    days = forecaster.predict().to_numpy().reshape(8, 24).mean(axis=1)
    assert days[2:7].min() > 8.5 > 7.5 > days[[0, 1, 7]].max()


def test_affine_equivariance():
    y = load_airline().astype(float)
    # Of values that are not all positive there is no logarithm: one view only.
    centred = y - y.mean()
    scaled = forecast(3e4 * centred - 50.0)
    np.testing.assert_allclose(scaled, 3e4 * forecast(centred) - 50.0, rtol=1e-4, atol=3)
    np.testing.assert_allclose(forecast(1e-6 * y), 1e-6 * forecast(y), rtol=1e-4)


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_what_varies_on_a_large_level_is_no_constant(offset):
    """A counter, say; of logarithms less is left to see."""
    y = load_airline()
    centred = y - y.mean()  # without logarithms
    expected = forecast(centred).to_numpy()
    found = forecast(centred + offset).to_numpy() - offset
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * y.std())


def test_a_series_is_forecast_alike_alone_and_in_a_panel():
    rng = np.random.default_rng(1)
    series = [rng.normal(size=n).cumsum() for n in (5, 11, 30, 60, 150)]
    together = forecast(panel_of(series), sp=4).to_numpy().reshape(5, 12)
    for one, of_panel in zip(series, together, strict=True):
        alone = forecast(panel_of([one]), sp=4).to_numpy().ravel()
        np.testing.assert_array_equal(alone, of_panel)


def test_views_of_a_network_together_equal_each_alone():
    y = load_airline()
    model = LSTMForecaster(12).fit(y).model_
    array = to_table(y.to_frame()).flatten()
    future = np.zeros((1, 12, 0))
    arguments = (array, np.array([0]), array.stops, future, torch.device("cpu"))
    both = model.forecast_of(model.pretrained, *arguments)
    each = [model.forecast_of([member], *arguments) for member in model.pretrained]
    assert (each[0] != each[1]).all()
    np.testing.assert_array_equal(both, np.mean(each, axis=0))


def test_quantiles_never_cross_and_the_median_is_the_forecast():
    y = load_airline()
    forecaster = LSTMForecaster().fit(y, fh=np.arange(1, 61))  # two blocks
    alpha = [0.001, 0.025, 0.1, 0.5, 0.8, 0.975, 0.999]
    quantiles = forecaster.predict_quantiles(alpha=alpha).to_numpy()
    assert (np.diff(quantiles, axis=1) > 0).all()
    np.testing.assert_allclose(quantiles[:, 3], forecaster.predict())


def test_extreme_series_stay_finite_and_within_reach():
    rng = np.random.default_rng(2)
    series = list(extreme_series(rng, 700))
    with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*left the range of their history")
        predicted = forecast(panel_of(series), sp=4, pretrained="only").to_numpy()
    predicted = predicted.reshape(700, 12)
    assert np.isfinite(predicted).all()
    for x, ahead in zip(series, predicted, strict=True):
        low, high = np.nanmin(x), np.nanmax(x)
        reach = 10 * (high - low) + 1e-6 * max(abs(low), abs(high))
        assert low - reach <= ahead.min()
        assert ahead.max() <= high + reach


@pytest.mark.parametrize("y", [[0.1, 20, 3, 100, 2], [3, 1], [1, 100, 3]])
def test_intervals_of_a_few_values_are_within_reach(y):
    """Their logarithms alone would reach to 1e15."""
    forecaster = LSTMForecaster().fit(pd.Series(y, dtype=float), fh=np.arange(1, 13))
    quantiles = forecaster.predict_quantiles(alpha=[0.05, 0.25, 0.5, 0.75, 0.95])
    reach = 10 * (max(y) - min(y)) + 1e-6
    assert quantiles.to_numpy().min() >= min(y) - reach
    assert quantiles.to_numpy().max() <= max(y) + reach
    assert (np.diff(quantiles.to_numpy()) >= 0).all()


def test_pickle_holds_the_weights(tmp_path):
    forecaster = LSTMForecaster().fit(load_airline(), fh=[1, 2])
    twin = pickle.loads(pickle.dumps(forecaster))
    np.testing.assert_array_equal(twin.predict(), forecaster.predict())


def test_weights_survive_the_file(tmp_path):
    network, quantiles = load_pretrained()
    path = tmp_path / "weights.safetensors"
    save_pretrained(network, quantiles, path)
    again, levels = load_pretrained(path)
    assert levels == quantiles
    assert again.config == network.config
    assert WEIGHTS.stat().st_size < 2e6


def test_damaged_or_missing_weights_are_named(tmp_path, monkeypatch):
    y = load_airline()
    damaged = tmp_path / "forecaster.safetensors"
    shutil.copy(WEIGHTS, damaged)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    for path in (damaged, tmp_path / "absent.safetensors"):
        with pytest.raises(ValueError, match="missing or damaged"):
            load_pretrained(path)
    monkeypatch.setattr("sklstm.forecast_training.load_pretrained", lambda: 1 / 0)
    quick = LSTMForecaster(pretrained=None, max_steps=2, n_members=1, hidden_size=4)
    assert quick.fit(y, fh=[1]).predict().notna().all()


def test_generated_series_are_seeded_finite_and_varied():
    period = draw_period(np.random.default_rng(3))
    first = generate(np.random.default_rng(4), 50, 80, period)
    second = generate(np.random.default_rng(4), 50, 80, period)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.period == period
    assert np.isfinite(first.values).all()
    assert len(np.unique(first.values.round(6), axis=0)) == 50


@pytest.mark.filterwarnings("ignore:.*left the range of their history")
def test_intervals_cover_generated_series():
    rng = np.random.default_rng(5)
    inside = []
    for period in (1, 4, 12):
        values = generate(rng, 150, 72, period).values
        forecaster = LSTMForecaster(sp=period, pretrained="only")
        forecaster.fit(panel_of(list(values[:, :60])), fh=np.arange(1, 13))
        interval = forecaster.predict_interval(coverage=0.8).to_numpy()
        actual = values[:, 60:].ravel()
        inside.append((interval[:, 0] <= actual) & (actual <= interval[:, 1]))
    assert 0.75 <= np.mean(inside) <= 0.85


def test_a_panel_is_calibrated_without_training():
    walks = np.random.default_rng(0).normal(size=(90, 70)).cumsum(axis=1)
    y, fh = panel_of(list(walks[:, :-6])), np.arange(1, 7)
    auto = LSTMForecaster(sp=1).fit(y, fh=fh)
    assert auto.n_members_ == 0
    offsets = auto.model_.offsets
    assert offsets[:6].any(axis=0)[[0, 1, 2, 4, 5, 6]].all()
    np.testing.assert_array_equal(offsets[6:], offsets[[5] * (len(offsets) - 6)])
    only = LSTMForecaster(sp=1, pretrained="only").fit(y, fh=fh)
    assert only.model_.offsets == 0.0
    pd.testing.assert_frame_equal(auto.predict(), only.predict())
    interval = auto.predict_interval(coverage=0.9).to_numpy()
    actual = walks[:, -6:].ravel()
    covered = (interval[:, 0] <= actual) & (actual <= interval[:, 1])
    assert 0.85 <= covered.mean() <= 0.95


def test_guard_looks_at_the_steps_asked_for_alone():
    """Growth goes far beyond its history in 48 steps, but not in 3 (warnings fail)."""
    y = pd.Series(100 * 1.25 ** np.arange(18))
    forecast = LSTMForecaster().fit(y, fh=[1, 2, 3]).predict()
    assert (forecast > y.iloc[-1]).all()
    with pytest.warns(
        UserWarning, match="left the range of their history by more than 3"
    ):
        LSTMForecaster().fit(y, fh=range(1, 41)).predict()


def test_no_step_depends_on_how_far_ahead_is_asked():
    rng = np.random.default_rng(0)
    n_limited = 0
    for _ in range(30):
        y = pd.Series(100 + np.cumsum(5 + rng.normal(size=rng.integers(2, 12))))
        forecaster = LSTMForecaster().fit(y)
        levels = {"coverage": [0.5, 0.95]}
        near = forecaster.predict_interval(fh=range(1, 7), **levels)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            far = forecaster.predict_interval(fh=range(1, 49), **levels)
        n_limited += len(caught)
        np.testing.assert_array_equal(near, far[:6])
    assert n_limited  # or there is nothing to see here


def test_rows_before_the_first_value_are_as_if_they_were_not_there():
    airline = load_airline().to_numpy()
    for n_before, n in [(1, 30), (40, 30), (100, 20), (5, 1)]:
        y = pd.Series(np.r_[np.full(n_before, np.nan), airline[:n]])
        if n == 1:  # two rows are the least
            assert np.isfinite(LSTMForecaster().fit(y).predict(fh=[1])).all()
            continue
        whole, cut = (LSTMForecaster().fit(each) for each in (y, y[n_before:]))
        assert whole.sp_ == cut.sp_
        fh = np.arange(1, 9)
        pd.testing.assert_series_equal(whole.predict(fh), cut.predict(fh))
        ends = np.arange(-5, 1)
        pd.testing.assert_series_equal(whole.predict(ends), cut.predict(ends))
        expected = cut.backtest(y[n_before:], fh=[1, 3], initial_window=12)
        found = whole.backtest(y, fh=[1, 3], initial_window=12)
        pd.testing.assert_frame_equal(found, expected)


def test_calibration_leaves_the_median_where_it_was():
    rng = np.random.default_rng(0)
    bend = np.maximum(0, np.arange(40) - 28) ** 1.5
    y = panel_of(100 + bend * rng.uniform(0.5, 2, (60, 1)) + rng.normal(size=(60, 40)))
    auto, only = (
        LSTMForecaster(pretrained=how).fit(y, fh=[1, 2, 3]) for how in ("auto", "only")
    )
    assert np.abs(auto.model_.offsets).max() > 0.5
    pd.testing.assert_frame_equal(auto.predict(), only.predict())
    quantiles = auto.predict_quantiles(alpha=[0.05, 0.25, 0.5, 0.75, 0.95])
    assert (np.diff(quantiles) >= 0).all()


def test_a_shock_of_some_series_is_no_measure_of_the_others():
    y = 100 + np.random.default_rng(0).normal(size=(60, 40))
    y[:18, -9:-6] -= 60
    forecaster = LSTMForecaster().fit(panel_of(y), fh=np.arange(1, 7))
    assert np.abs(forecaster.model_.offsets).max() == MOST_OFFSET
    interval = forecaster.predict_interval(coverage=0.9).to_numpy().reshape(60, 6, 2)
    assert (np.diff(interval[20:], axis=2) < 20).all()
