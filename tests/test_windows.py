import numpy as np
import pandas as pd
import pytest

from sklstm.windows import (
    SeriesArray,
    find_period,
    frequency_period,
    grows_with_level,
    make_windows,
    merge,
    seasonal_naive,
    to_table,
    week_effects,
)


def panel(*lengths, n_columns=1, seed=0):
    rng = np.random.default_rng(seed)
    frames = {
        i: pd.DataFrame(
            rng.normal(size=(n, n_columns)),
            index=pd.period_range("2000-01", periods=n, freq="M"),
            columns=[f"c{k}" for k in range(n_columns)],
        )
        for i, n in enumerate(lengths)
    }
    return pd.concat(frames, names=["instance", "time"])


def flat(*series):
    lengths = np.array([len(s) for s in series])
    stops = np.cumsum(lengths)
    values = np.concatenate(series).astype(float)
    return SeriesArray(values, stops - lengths, stops, np.empty((len(values), 0)))


def test_table_of_a_panel():
    y = panel(5, 3, n_columns=2)
    table = to_table(y)
    np.testing.assert_array_equal(table.offsets, [0, 5, 8])
    assert (table.n_instances, table.n_columns) == (2, 2)
    assert list(table.instances()) == [0, 1]
    array = table.flatten()
    assert len(array) == 4
    for i, (start, stop) in enumerate(zip(array.starts, array.stops, strict=True)):
        expected = y.loc[i % 2, f"c{i // 2}"]
        np.testing.assert_array_equal(array.values[start:stop], expected)


def test_interleaved_instances_are_sorted():
    y = panel(4, 4)
    mixed = y.iloc[[0, 4, 1, 5, 2, 6, 3, 7]]
    np.testing.assert_array_equal(to_table(mixed).values, y.to_numpy())


def test_exog_rows_follow_y():
    y, X = panel(4, 3), panel(6, 5, seed=1)
    table = to_table(y, X)
    np.testing.assert_array_equal(table.exog, X.loc[y.index].to_numpy())
    with pytest.raises(ValueError, match=r"X has no row for .* which is in y \(1 such"):
        to_table(y, X.drop(index=[(1, pd.Period("2000-03", "M"))]))


def test_gather_is_nan_outside_of_a_series():
    array = flat([1, 2, 3], [4, 5])
    positions = np.array([[-1, 0, 2, 3], [2, 3, 4, 5]])
    np.testing.assert_array_equal(
        array.gather(np.array([0, 1]), positions),
        [[np.nan, 1, 3, np.nan], [np.nan, 4, 5, np.nan]],
    )


def test_merge_prefers_new_rows_and_keeps_order():
    y = panel(3, 2)
    later = panel(5, 3, seed=9).groupby(level=0).tail(3)
    merged = merge(y, later)
    assert merged.index.is_monotonic_increasing
    assert list(merged.groupby(level=0).size()) == [5, 3]
    pd.testing.assert_frame_equal(merged.loc[later.index], later)
    assert merge(None, y) is y
    assert merge(y, None) is y


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(6),
        pd.RangeIndex(0, 12, 2, name="t"),
        pd.period_range("2000", periods=6, freq="M"),
        pd.date_range("2000", periods=6, freq="D", tz="UTC"),
    ],
    ids=lambda index: type(index).__name__,
)
def test_later_rows_are_appended_as_any_others_are_merged(index, dtype):
    y = pd.DataFrame({"a": range(6), "b": range(6, 0, -1)}, index, dtype=dtype)
    appended = merge(y[:4], y[4:])
    pd.testing.assert_frame_equal(appended, y, check_freq=False)
    overwritten = merge(y[:5], y[4:])  # one row is there already
    pd.testing.assert_frame_equal(overwritten, y, check_freq=False)


@pytest.mark.parametrize(
    ("frequency", "period"),
    [("M", 12), ("Q", 4), ("Y", 1), ("D", 7), ("h", 24), ("W", 52), ("15min", 96)],
)
def test_period_of_a_frequency(frequency, period):
    assert frequency_period(pd.period_range("2000", periods=3, freq=frequency)) == period


def test_period_of_dates_and_numbers():
    assert frequency_period(pd.date_range("2000", periods=9, freq="MS")) == 12
    assert frequency_period(pd.date_range("2000", periods=9, freq="B")) == 5
    assert frequency_period(pd.RangeIndex(9)) is None


@pytest.mark.parametrize(
    ("frequency", "period"),
    [
        (pd.offsets.MonthEnd(), 12),
        (pd.offsets.BMonthEnd(), 12),
        (pd.offsets.BMonthBegin(), 12),
        (pd.offsets.BQuarterEnd(), 4),
        (pd.offsets.QuarterBegin(), 4),
        (pd.offsets.BYearBegin(), 1),
        (pd.offsets.SemiMonthEnd(), 24),
        (pd.offsets.SemiMonthBegin(), 24),
    ],
    ids=str,
)
def test_period_of_dates_at_the_end_or_start_of_something(frequency, period):
    dates = pd.date_range("2000", periods=9, freq=frequency)
    assert frequency_period(dates) == period


def test_a_period_must_show_in_the_data():
    index = pd.period_range("2000-01", periods=96, freq="M")
    rng = np.random.default_rng(0)
    season = np.tile(rng.normal(size=12), 8)
    assert find_period(flat(season + 0.1 * rng.normal(size=96)), index) == 12
    assert find_period(flat(rng.normal(size=96).cumsum()), index) == 1
    numbers = pd.RangeIndex(96)
    assert find_period(flat(np.tile(rng.normal(size=7), 20)), numbers) == 7
    assert find_period(flat(rng.normal(size=96).cumsum()), numbers) == 1


def test_logs_where_variation_grows_with_the_level():
    rng = np.random.default_rng(0)
    level = np.exp(np.linspace(0, 3, 120))
    noise = 1 + 0.1 * rng.normal(size=120)
    assert grows_with_level(flat(level * noise), 12)
    assert not grows_with_level(flat(np.linspace(5, 60, 120) + noise), 12)
    assert not grows_with_level(flat(level * noise - 5), 12)
    assert not grows_with_level(flat(100 + noise), 12)


def test_seasonal_naive_repeats_the_last_season_or_what_is_left_of_it():
    nan = np.nan
    values = np.array([[1, 2, 3, 4, 5, 6.0], [1, 2, 3, nan, nan, 6], [nan] * 5 + [7]])
    np.testing.assert_array_equal(
        seasonal_naive(values, 4, 3), [[4, 5, 6, 4], [1, 2, 6, 1], [7, 7, 7, 7]]
    )
    np.testing.assert_array_equal(seasonal_naive(values, 2, 1), [[6, 6], [6, 6], [7, 7]])


@pytest.mark.parametrize("scaling", ["season", "last", "standard"])
def test_windows_are_affine_equivariant(scaling):
    context = np.random.default_rng(0).normal(size=(5, 20))
    context[0, :6] = np.nan
    windows = make_windows(context, 4, 3, scaling=scaling)
    moved = make_windows(1e3 * context - 50, 4, 3, scaling=scaling)
    np.testing.assert_allclose(windows.inputs, moved.inputs, atol=1e-4)
    np.testing.assert_allclose(windows.base, moved.base, atol=1e-4)
    np.testing.assert_allclose(moved.scale, 1e3 * windows.scale)


def test_window_channels_by_hand():
    context = np.array([[np.nan, 1.0, 2.0, 3.0, np.nan, 5.0]])
    windows = make_windows(context, 2, 2, scaling="none")
    np.testing.assert_allclose(
        windows.inputs[0, :, :4],
        [[2, 1, 0, 0], [3, 1, 1, 1], [0, 0, 2, 1], [5, 1, 3, 1]],
    )
    np.testing.assert_allclose(windows.base[:, :, 0], [[2, 5]])


def test_constant_window_has_no_scale():
    windows = make_windows(np.full((1, 8), 3.3), 1, 2)
    assert windows.scale == [0]
    assert windows.centre == [3.3]


def test_trends_and_phases_by_hand():
    # A line of slope 2 per step plus a season of +1, -1: over seasons of two steps.
    season = np.tile([1.0, -1.0], 5)
    context = (2.0 * np.arange(10) + season)[None]
    windows = make_windows(context, 2, 4, scaling="none")
    np.testing.assert_allclose(windows.inputs[0, :, 5], np.tile([1, -1], 4), atol=1e-6)
    naive, drift, recent, smooth = windows.base[0].T
    np.testing.assert_allclose(naive, [17, 17, 17, 17])  # 16 + 1, 18 - 1
    # Steps 1, 2 are one season from what is repeated, 3 and 4 are two.
    np.testing.assert_allclose(recent, [4, 4, 8, 8])
    np.testing.assert_allclose(drift, [4, 4, 8, 8])
    # The last season's mean is 17; plus the effect, from the naive forecast.
    np.testing.assert_allclose(smooth, [1, -1, 1, -1], atol=1e-6)


def test_what_the_time_of_the_week_adds():
    period, rng = 4, np.random.default_rng(0)
    week = rng.normal(size=(7, period))
    week -= week.mean(axis=0)  # the time of the day
    day, steps = rng.normal(size=period), np.arange(6 * 28)
    values = np.tile(week.ravel(), 6) + np.tile(day, 42) + 0.3 * steps + 5
    np.testing.assert_allclose(week_effects(values[None], period), [week.ravel()])
    # Noise is taken off, gaps are passed over, weeks before the start do not count.
    noisy = values + 0.3 * rng.normal(size=(400, 168))
    noisy[rng.random(noisy.shape) < 0.03] = np.nan
    noisy[:, :60] = np.nan
    error = week_effects(noisy, period) - week.ravel()
    assert np.abs(error).mean() < 0.3
    noise = rng.normal(size=(400, 168))
    found = week_effects(noise, period)
    assert (found == 0).all(axis=1).mean() > 0.4
    assert (found**2).mean() < 0.05  # a mean over six weeks has 1/6
    values[:-28] = np.nan
    assert not week_effects(values[None], period).any()  # a single week


@pytest.mark.parametrize("scaling", ["season", "last", "standard", "none"])
@pytest.mark.parametrize("period", [1, 3, 7])
def test_shorter_windows_among_others_equal_each_alone(period, scaling):
    widths = np.array([24, 12, 5, 2, 12])
    rng = np.random.default_rng(0)
    context = rng.normal(size=(len(widths), 24 + period)).cumsum(axis=1)
    context[rng.random(context.shape) < 0.2] = np.nan
    context[4, -12:] = np.nan
    context[np.arange(24 + period) < (24 - widths)[:, None]] = np.nan
    some = {"horizon": 9, "scaling": scaling}
    together = make_windows(context, period, fallback=3.0, widths=widths, **some)
    for row, width in enumerate(widths):
        own = context[row : row + 1, 24 - width :]
        alone = make_windows(own, period, fallback=3.0, **some)
        assert np.array_equal(together.inputs[row, 24 - width :], alone.inputs[0])
        for name in ("base", "centre", "scale"):
            assert np.array_equal(getattr(together, name)[row], getattr(alone, name)[0])


def test_gaps_leave_trends_and_phases_finite():
    context = np.full((2, 10), np.nan)
    context[0, [1, 4, 9]] = [1.0, 5.0, 2.0]
    windows = make_windows(context, 3, 5)
    assert np.isfinite(windows.inputs).all()
    assert np.isfinite(windows.base).all()


def test_a_season_that_noise_hides_from_differences_is_found():
    rng = np.random.default_rng(0)
    season = np.tile(np.sin(2 * np.pi * np.arange(48) / 48), 30)
    y = flat(*(season + 0.7 * rng.normal(size=(5, 1440))))
    assert find_period(y, pd.RangeIndex(1440)) == 48


@pytest.mark.parametrize("length", [40, 100, 400])
def test_walks_and_noise_have_no_season(length):
    rng = np.random.default_rng(length)
    noise = rng.normal(size=(40, length))
    found = [
        find_period(flat(x), pd.RangeIndex(length))
        for x in np.concatenate([noise, noise.cumsum(axis=1)])
    ]
    assert np.mean([period > 1 for period in found]) <= 0.05


def test_huge_values_do_not_overflow():
    x = 1e200 * np.tile([1.0, 2.0, 5.0], 20)
    with np.errstate(over="raise"):
        assert find_period(flat(x), pd.RangeIndex(60)) == 3
