"""What a forecaster hands to training, what it is trained on, and what it chooses."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from generator import panel_of

from sklstm import LSTMForecaster, forecast_training
from sklstm.forecast_model import (
    ForecastModel,
    Member,
    Validation,
    WindowBatches,
    forecast_ahead,
    training_windows,
)
from sklstm.forecast_training import MAX_ASIDE_SERIES, MOST_OFFSET
from sklstm.network import ForecastNetwork, initialize
from sklstm.series import SeriesArray
from sklstm.training import History, Randomness

CPU = torch.device("cpu")


@pytest.fixture
def trained(monkeypatch):
    """Note what each training is given, and leave networks as they are."""
    calls = []

    def noted(network, loss, learners, **settings):
        settings |= {"network": network, "batches": learners[0].batches}
        calls.append(SimpleNamespace(**settings))
        return History(loss_curve=[1.0] * settings["max_iter"])

    monkeypatch.setattr(forecast_training, "train", noted)
    return calls


def wave(n, period=4):
    """A season and noise, of n steps."""
    noise = np.random.default_rng(0).normal(size=n)
    return pd.Series(5 * np.sin(2 * np.pi * np.arange(n) / period) + 0.1 * noise)


def to_array(*series, exog=None):
    stops = np.cumsum([len(each) for each in series])
    starts = stops - [len(each) for each in series]
    exog = np.zeros((stops[-1], 0)) if exog is None else exog
    return SeriesArray(np.concatenate(series).astype(float), starts, stops, exog)


def to_member(horizon=3, window_length=8, *, log=False, n_future=0):
    network = ForecastNetwork(
        n_inputs=6 + n_future, n_future=n_future, horizon=horizon, n_quantiles=3,
        segment_length=1, linear_length=0, hidden_size=4, num_layers=1, cell="lstm",
        dropout=0.0,
    )  # fmt: skip
    initialize(network, torch.Generator().manual_seed(0))
    return Member(network.eval(), (0.1, 0.5, 0.9), window_length, "season", log)


# --------------------------------------------------------------- what training is given
def test_parameters_reach_training(trained):
    forecaster = LSTMForecaster(
        hidden_size=4, n_members=3, max_steps=100, batch_size=7, alpha=0.3,
        max_grad_norm=4.5, learning_rate_init=0.02, dropout=0.4, scaling="standard",
        window_length=10, num_layers=2, cell="gru", sp=4, random_state=0,
    )  # fmt: skip
    forecaster.fit(wave(60), fh=[1, 2])
    assert len(trained) == 3
    for each, member in zip(trained, forecaster.model_.trained, strict=True):
        assert (each.alpha, each.max_grad_norm) == (0.3, 4.5)
        assert each.learning_rate_init == 0.02
        assert each.batches.batch_size == 7
        assert each.max_iter * each.batches.n_batches == 100
        assert each.network is member.network
        assert each.network.config["dropout"] == 0.4
        assert each.network.config["num_layers"] == 2
        assert each.network.config["cell"] == "gru"
        assert (member.scaling, member.window_length) == ("standard", 10)


@pytest.mark.parametrize(
    ("n", "sp", "expected"),
    [
        (2000, 4, (32, 4, 300, 32)),
        (2001, 4, (64, 1, 300, 256)),
        (20_000, 4, (64, 1, 300, 256)),
        (20_001, 4, (64, 1, 1000, 256)),
        (2000, 24, (32, 4, 300, 32)),
        (2001, 24, (64, 1, 1000, 256)),
        (100_000, 24, (64, 1, 1000, 256)),
        (100_001, 24, (128, 1, 1500, 256)),  # in segments
        (100_001, 4, (64, 1, 1500, 256)),
    ],
)
def test_what_the_number_of_values_asks_for(trained, n, sp, expected):
    LSTMForecaster(sp=sp, pretrained=None, random_state=0).fit(wave(n, sp), fh=[1])
    hidden_size, n_members, max_steps, batch_size = expected
    assert len(trained) == n_members
    for each in trained:
        assert each.network.config["hidden_size"] == hidden_size
        assert each.max_iter * each.batches.n_batches == max_steps
        assert each.batches.batch_size == batch_size


@pytest.mark.parametrize(
    ("n", "sp", "share", "fine_tuned"),
    [
        (20_000, 23, 1.0, False),  # nothing is trained
        (20_001, 23, 0.5, True),
        (100_000, 4, 0.5, True),
        (100_001, 4, 0.0, False),
        (2000, 24, 1.0, False),
        (2001, 24, 0.5, False),
        (20_000, 24, 0.5, False),
        (20_001, 24, 0.0, False),
    ],
)
def test_what_the_pretrained_network_is_used_for(trained, n, sp, share, fine_tuned):
    forecaster = LSTMForecaster(sp=sp, random_state=0).fit(wave(n, sp), fh=[1])
    assert forecaster.pretrained_share_ == share
    assert forecaster.fine_tuned_ is fine_tuned
    assert forecaster.n_members_ == len(trained) == (0 if share == 1 else 1)
    if fine_tuned:
        assert trained[0].max_iter * trained[0].batches.n_batches == 150
        assert trained[0].batches.batch_size == 128
        assert trained[0].learning_rate_init == pytest.approx(0.1 * 0.003)


def test_pretrain_goes_on_from_the_package_however_much_there_is(trained):
    forecaster = LSTMForecaster(sp=4, random_state=0)
    forecaster.pretrain(panel_of([wave(60_000).to_numpy()] * 2), fh=[1])
    assert forecaster.pretrained_model_.fine_tuned
    assert forecaster.pretrained_model_.pretrained_share == 0.5


def test_a_horizon_beyond_that_of_the_package_is_learnt_anew(trained):
    forecaster = LSTMForecaster(sp=4, random_state=0)
    forecaster.fit(wave(20_001), fh=np.arange(1, 50))
    assert not forecaster.fine_tuned_
    assert forecaster.pretrained_share_ == 0.0
    assert trained[0].network.config["horizon"] == 49


def test_updates_take_smaller_steps(trained):
    y = wave(130)
    forecaster = LSTMForecaster(
        hidden_size=4, n_members=1, max_steps=5, update_steps=50, sp=4, random_state=0
    ).fit(y[:120], fh=[1])
    forecaster.update(y[120:])
    assert trained[1].learning_rate_init == pytest.approx(
        0.1 * trained[0].learning_rate_init
    )
    assert trained[1].max_iter * trained[1].batches.n_batches == 50


@pytest.mark.parametrize(
    ("settings", "n_series", "horizon"),
    [
        ({}, 1, 10),  # a third of 30
        ({"horizon": 20}, 1, 20),
        ({"sp": 4}, 50, 8),
    ],
)
def test_horizon(trained, settings, n_series, horizon):
    settings = {"hidden_size": 4, "random_state": 0, "sp": 1} | settings
    y = panel_of([wave(30).to_numpy()] * n_series)
    fh = np.arange(1, 21) if n_series == 1 else None
    forecaster = LSTMForecaster(**settings).fit(y, fh=fh)
    assert forecaster.horizon_ == horizon


# --------------------------------------------------------------------- early stopping
@pytest.mark.parametrize(
    ("early_stopping", "patience"), [("auto", 4), (True, 10), (False, 4)]
)
def test_early_stopping_on_series_set_aside(trained, early_stopping, patience):
    y = panel_of(list(np.random.default_rng(0).normal(size=(50, 30))))
    LSTMForecaster(
        n_members=1, max_steps=100, sp=1, early_stopping=early_stopping, random_state=0
    ).fit(y, fh=[1, 2])
    (only,) = trained
    assert only.n_iter_no_change == patience
    assert len(only.batches.array) == 40
    if not early_stopping:
        assert only.validate is None
    else:
        assert len(only.validate.target) == 10


def test_early_stopping_without_series_to_set_aside_holds_the_last_values_back(trained):
    y = wave(40)
    LSTMForecaster(
        hidden_size=4, n_members=1, sp=4, early_stopping=True, random_state=0
    ).fit(y, fh=[1, 2, 3])
    (only,) = trained
    assert only.batches.array.lengths.tolist() == [37]
    array = to_array(y.to_numpy())
    *_, target, _ = training_windows(
        Member(only.network, (0.1, 0.5, 0.9), 16, "season", False), 4, array,
        np.array([0]), np.array([37]), CPU,
    )  # fmt: skip
    torch.testing.assert_close(only.validate.target[:, :3], target[:, :3])
    assert only.validate.weight[:, :3].all()


def test_validation_takes_series_with_something_before_what_is_held_back():
    series = [np.arange(float(n)) % 3 for n in (4, 5, 6, 20)]
    member = to_member(horizon=3)
    validation = Validation(member, 1, to_array(*series), CPU, 3)
    # Of 5 values 3 are held back, and 2 come before them.
    assert len(validation.target) == 3
    score, loss = validation()
    assert score == -loss < 0


# ----------------------------------------------------------------- windows and targets
@pytest.mark.parametrize("log", [False, True])
def test_targets_are_what_follows_in_units_of_the_window(log):
    values = np.exp(0.1 * np.random.default_rng(0).normal(size=30).cumsum())
    array, member = to_array(values), to_member(log=log)
    ends = np.array([10, 28])
    series = np.zeros(2, dtype=int)
    _, target, weight = training_windows(member, 4, array, series, ends, CPU)
    windows, _ = member.windows(array, 4, series, ends)
    assert weight.tolist() == [[1, 1, 1], [1, 1, 0]]  # 2 values after the second
    found = windows.centre[:, None] + windows.scale[:, None] * target.numpy()
    expected = np.stack([values[10:13], [*values[28:30], np.nan]])
    expected = np.log(expected) if log else expected
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1, :2], expected[1, :2], rtol=1e-5)


def test_what_a_window_without_a_scale_says_nothing_of_is_not_trained_on():
    array = to_array([*np.zeros(10), 1, 2, 3, 4, 5, 6])
    ends = np.array([8, 14])
    member = to_member()
    *_, target, weight = training_windows(
        member, 1, array, np.zeros(2, dtype=int), ends, CPU
    )
    assert weight.tolist() == [[0, 0, 0], [1, 1, 0]]
    assert target[0].tolist() == [0, 0, 0]


def test_targets_are_bounded():
    noise = 0.01 * np.random.default_rng(0).normal(size=20)
    array = to_array([*noise, 1e6, -1e6, 0])
    *_, target, _ = training_windows(
        to_member(), 1, array, np.array([0]), np.array([20]), CPU
    )
    assert target[0, :2].tolist() == [50, -50]


def ends_drawn(lengths, period, monkeypatch, **settings):
    """Return (series, position in it) of all windows of many batches."""
    array = to_array(*[np.random.default_rng(n).normal(size=n) for n in lengths])
    settings = {"batch_size": 64, "n_batches": 60, "n_steps": 3} | settings
    seen, real = [], training_windows

    def noted(member, period, array, series, ends, device):
        seen.append(np.stack([series, ends - array.starts[series]]))
        return real(member, period, array, series, ends, device)

    monkeypatch.setattr("sklstm.forecast_model.training_windows", noted)
    batches = WindowBatches(
        to_member(horizon=settings["n_steps"]), period, array, device=CPU,
        rng=np.random.default_rng(0), **settings,
    )  # fmt: skip
    drawn = list(batches)
    assert len(drawn) == len(batches)
    return np.concatenate(seen, axis=1), drawn


def test_windows_end_after_a_season_and_before_the_last_value(monkeypatch):
    lengths = [1, 2, 3, 6, 9, 30]
    (series, ends), _ = ends_drawn(lengths, 4, monkeypatch)
    found = {i: sorted(set(ends[series == i].tolist())) for i in np.unique(series)}
    assert found == {
        1: [1],  # one value to read, one to forecast
        2: [2],
        3: [3, 4, 5],  # half the series, where that is less than a season and one
        4: list(range(4, 9)),
        5: list(range(5, 30)),
    }


def test_all_steps_of_a_long_horizon_are_trained(monkeypatch):
    _, drawn = ends_drawn([300], 1, monkeypatch, n_steps=120, batch_size=8, n_batches=40)
    steps = [inputs[3] for inputs, *_ in drawn]
    assert {len(each) for each in steps} == {96}
    assert set(torch.cat(steps).tolist()) == set(range(120))
    for (_, base, future, _), target, weight, n in drawn:
        for each in (base[:, :, 0], future[:, :, :1], target, weight):
            assert each.shape[:2] == (8, 96)
        assert n == 8


def test_exogenous_data_are_standardised():
    X = pd.DataFrame({"x": 1e4 + 50 * np.random.default_rng(0).normal(size=60), "c": 3.0})
    y = wave(60)
    settings = {"hidden_size": 4, "max_steps": 2, "random_state": 0, "sp": 4}
    model = LSTMForecaster(**settings).fit(y, X=X, fh=[1]).model_
    array = model.standardize(to_array(y.to_numpy(), exog=X.to_numpy()))
    np.testing.assert_allclose(array.exog.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(array.exog.std(axis=0), [1, 0])


# ------------------------------------------------------------------ shares, calibration
def of_share(monkeypatch, wrong_by, **settings):
    """Fit a panel whose networks are `wrong_by` (trained, pretrained) each step.

    Half of its series move in steps of 1000 times those of the others.
    """
    rng = np.random.default_rng(0)
    factors = np.where(np.arange(60) % 2, 1.0, 1000.0)
    y = rng.normal(size=(60, 60)).cumsum(axis=1) * factors[:, None]

    def forecast_of(model, members, array, series, ends, future, device):
        truth = array.gather(series, ends[:, None] + np.arange(future.shape[1]))
        is_large = np.abs(array.gather(series, ends[:, None] - 1 - np.arange(20)))
        is_large = is_large.max(axis=1) > 100
        wrong = wrong_by[members is model.pretrained]
        wrong = np.where(is_large, wrong[1], wrong[0])
        return np.repeat((truth + wrong[:, None])[:, :, None], 7, axis=2)

    monkeypatch.setattr(ForecastModel, "forecast_of", forecast_of)
    forecaster = LSTMForecaster(random_state=0, **settings)
    return forecaster.fit(panel_of(list(y)), fh=[1, 2, 3]).pretrained_share_


@pytest.mark.parametrize(
    ("wrong_by", "share"),
    [
        (((0, 0), (1, 1)), 0.0),
        (((1, 1), (0, 0)), 1.0),
        (((1, 1), (-1, -1)), 0.5),
        (((1, 1), (-3, -3)), 0.25),
        # Errors count by how much a series moves: 0.01 of large ones is less than 1 of
        # the small ones, though it is 10.
        (((0, 10), (1, 0)), 0.0),
        (((1, 0), (0, 10)), 1.0),
    ],
)
def test_the_share_of_the_package_is_what_is_best_on_series_set_aside(
    trained, monkeypatch, wrong_by, share
):
    monkeypatch.setattr(forecast_training, "MIXED_TOTAL", 2000)
    monkeypatch.setattr(forecast_training, "TUNED_PERIOD", 1)  # trained from scratch
    assert of_share(monkeypatch, wrong_by, sp=1) == share


def test_what_starts_at_the_package_has_at_most_half(trained, monkeypatch):
    monkeypatch.setattr(forecast_training, "MIXED_TOTAL", 2000)
    assert of_share(monkeypatch, ((0, 0), (1, 1)), sp=1) == 0.5


@pytest.mark.parametrize(("n", "aside"), [(39, 0), (40, 8), (2499, 499), (4000, 500)])
def test_a_fifth_of_the_series_is_set_aside(n, aside):
    array = to_array(*np.arange(2.0 * n).reshape(n, 2))
    training, chosen = LSTMForecaster()._set_aside(array, Randomness(0, CPU, 0))
    if not aside:
        assert chosen is None
        assert training is array
        return
    assert len(chosen) == aside <= MAX_ASIDE_SERIES
    firsts = np.concatenate([training.starts, chosen.starts])
    assert sorted(firsts.tolist()) == array.starts.tolist()


def test_calibration_shifts_by_the_quantiles_of_the_errors():
    """Of one known error per window, in units of the outer quantiles' distance."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 12))
    array, levels = to_array(*values), (0.1, 0.5, 0.9)

    def block(array, series, ends, future, device):
        raw = np.broadcast_to([-1.0, 0.5, 1.0], (len(series), 3, 3)).copy()
        raw[:, 1] *= 1e-3  # far too narrow at the second step
        return raw

    model = SimpleNamespace(horizon=3, period=1, quantiles=levels, block=block)
    n_judged = LSTMForecaster()._calibrate(model, array, 2)
    # Thrice the last 2 values; the last time, what lies beyond the end has no value.
    assert n_judged == 90
    truth = np.stack([values[:, [10, 11]], values[:, [8, 9]], values[:, [6, 7]]], axis=1)
    truth = truth.reshape(-1, 2)
    # The 9.1th and the 81.9th of 90 errors, so that the next one is as likely beyond.
    errors = np.sort((truth[:, :1] - [-1, 1]) / 2, axis=0)
    of_first = [0.9 * errors[8, 0] + 0.1 * errors[9, 0]]
    of_first += [0.1 * errors[80, 1] + 0.9 * errors[81, 1]]
    np.testing.assert_allclose(model.offsets[0], [of_first[0], 0.0, of_first[1]])
    np.testing.assert_allclose(model.offsets[1], [-MOST_OFFSET, 0.0, MOST_OFFSET])
    np.testing.assert_array_equal(model.offsets[2], model.offsets[1])


# -------------------------------------------------------------------- beyond the horizon
def bare_model(horizon, block):
    """What `forecast_ahead` asks of a model, whose blocks are given."""
    return SimpleNamespace(
        horizon=horizon, period=1, quantiles=(0.1, 0.5, 0.9), block=block,
        context_length=30, has_weeks=False,
    )  # fmt: skip


def test_blocks_beyond_the_horizon_grow_wider_and_return_to_the_naive_forecast():
    """Of a model that says 10 with quantiles 1 apart, of a series that was always 0."""
    quantiles = np.array([9.0, 10.0, 11.0])

    def block(array, series, ends, future, device):
        return np.broadcast_to(quantiles, (len(series), future.shape[1], 3))

    model = bare_model(2, block)
    array = to_array([*([-50.0, 50.0] * 10), 0.0])
    found = forecast_ahead(model, array, 6, np.zeros((1, 6, 0)), CPU)[0]
    np.testing.assert_allclose(found[:2], [quantiles] * 2)
    # The naive forecast is what the block before it ended with.
    np.testing.assert_allclose(found[2:4, 1], 10)
    for i in range(3):
        width = math.sqrt(i + 1)
        np.testing.assert_allclose(found[2 * i, [0, 2]], [10 - width, 10 + width])


def test_blocks_are_as_uncertain_as_the_first_though_forecasts_have_no_noise():
    def block(array, series, ends, future, device):
        n_steps = future.shape[1]
        width = 9.0 if array.lengths[0] == 21 else 1e-3  # of a history, of forecasts
        return np.tile([-width, 0.0, width], (len(series), n_steps, 1))

    # Of 30 steps that are read all but a few are forecasts in the end: a range of 0.
    array = to_array([*([-50.0, 50.0] * 10), 0.0])
    found = forecast_ahead(bare_model(5, block), array, 60, np.zeros((1, 60, 0)), CPU)[0]
    expected = 9 * np.sqrt(np.repeat(np.arange(1, 13), 5))
    np.testing.assert_allclose(found[:, 2] - found[:, 1], expected)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected)


def test_each_block_keeps_less_of_its_distance_from_the_naive_forecast():
    def block(array, series, ends, future, device):
        last = array.values[ends - 1][:, None, None]
        return last + np.ones((len(series), future.shape[1], 3))

    model = bare_model(1, block)
    array = to_array(np.arange(30.0) % 7)
    found = forecast_ahead(model, array, 4, np.zeros((1, 4, 0)), CPU)[0, :, 1]
    steps = np.diff([array.values[-1], *found])
    np.testing.assert_allclose(steps, 0.9 ** np.arange(4))


def test_outer_quantiles_stay_within_ten_widths():
    def block(array, series, ends, future, device):
        return np.broadcast_to([-1e9, 0.5, 1e9], (1, 1, 3))

    model = bare_model(1, block)
    array = to_array([0.0, 1.0] * 10)
    found = forecast_ahead(model, array, 1, np.zeros((1, 1, 0)), CPU)
    np.testing.assert_allclose(found[0, 0], [-10, 0.5, 11], rtol=1e-6)
