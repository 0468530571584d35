import numpy as np
import pandas as pd
import pytest

from sklstm.series import (
    SeriesArray,
    _explained_by_phase,
    find_period,
    frequency_period,
    grows_with_level,
    merge,
    to_table,
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


def test_the_last_value_before_a_position_is_one_of_the_series():
    nan = np.nan
    array = flat([1, nan, nan], [nan, nan, 2, nan], [3, 4])
    series = np.array([0, 0, 1, 1, 1, 2])
    ends = np.array([1, 3, 5, 6, 7, 9])
    # Before the second series' value there is none, whatever the first one had.
    expected = [1, 1, 5, 6, 6, 9]
    np.testing.assert_array_equal(array.after_last_observed(series, ends), expected)


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


@pytest.mark.parametrize(("frequency", "period"), [
    ("24h", 7), ("7D", 52), ("14D", 26), ("168h", 52), ("3MS", 4),
    ("2h", 12), ("4QS", 1), ("12MS", 1), ("2D", None), ("7h", None), ("52W", None),
    ("min", 60), ("2min", 30), ("4min", 15), ("5min", 288), ("15min", 96), ("60min", 24),
    ("7min", None), ("11min", None), ("100min", None), ("2s", 30), ("7s", None),
])  # fmt: skip
def test_period_of_multiples(frequency, period):
    """What is another frequency has its season; what is no part of one is looked at."""
    assert frequency_period(pd.date_range("2000", periods=9, freq=frequency)) == period


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


@pytest.mark.parametrize(
    ("power", "expected"), [(0.2, False), (0.35, False), (0.65, True), (0.8, True)]
)
def test_logs_where_variation_grows_by_more_than_the_root_of_the_level(power, expected):
    rng = np.random.default_rng(0)
    level = np.exp(np.linspace(0, 4, 100)).repeat(12)  # no trend within a season
    varied = [level + 0.05 * level**power * rng.normal(size=1200) for _ in range(5)]
    assert grows_with_level(flat(*varied), 12) == expected


def test_a_season_that_noise_hides_from_differences_is_found():
    rng = np.random.default_rng(0)
    season = np.tile(np.sin(2 * np.pi * np.arange(48) / 48), 30)
    y = flat(*(season + 0.7 * rng.normal(size=(5, 1440))))
    assert find_period(y, pd.RangeIndex(1440)) == 48


@pytest.mark.parametrize("period", [12, 30, 60])
def test_of_a_season_and_its_multiples_the_shortest_is_found(period):
    rng = np.random.default_rng(0)
    season = np.tile(np.sin(2 * np.pi * np.arange(period) / period), 1560 // period)
    y = flat(*(season + 0.7 * rng.normal(size=(5, len(season)))))
    assert find_period(y, pd.RangeIndex(len(season))) == period


@pytest.mark.parametrize("n", [100, 150, 300, 600])
def test_of_a_clear_season_no_neighbour_and_no_multiple_is_taken(n):
    rng = np.random.default_rng(0)
    waves = 5 * np.sin(2 * np.pi * (np.arange(n) / 12 + rng.random((40, 1))))
    found = [
        find_period(flat(x), pd.RangeIndex(n)) for x in waves + rng.normal(size=(40, n))
    ]
    assert np.mean(np.array(found) == 12) > 0.95


@pytest.mark.parametrize("period", [168, 390])
def test_a_long_season_is_found(period):
    rng = np.random.default_rng(0)
    season = np.tile(rng.normal(size=period), 4)
    y = flat(season + 0.3 * rng.normal(size=len(season)))
    assert find_period(y, pd.RangeIndex(len(season))) == period


@pytest.mark.parametrize("period", [5, 12])
def test_a_trend_is_no_season_and_hides_none(period):
    rng = np.random.default_rng(0)
    trend = np.array([[3.0], [-50.0]]) * np.arange(120)
    noise = rng.normal(size=(2, 120))
    assert abs(_explained_by_phase(trend + noise, period)) < 0.1
    season = 10 * np.sin(2 * np.pi * np.arange(120) / period)
    assert _explained_by_phase(trend + noise + season, period) > 0.9


@pytest.mark.parametrize("n_seasons", [1.75, 2, 3])
def test_two_seasons_show_the_one_that_the_frequency_names(n_seasons):
    rng = np.random.default_rng(0)
    for period, freq in [(4, "Q"), (7, "D"), (12, "M"), (24, "h")]:
        n = int(n_seasons * period)
        index = pd.period_range("2000", periods=n, freq=freq)
        season = np.tile(3 * np.sin(2 * np.pi * np.arange(period) / period), 3)[:n]
        noisy = season + 0.3 * rng.normal(size=(40, n))
        assert np.mean([find_period(flat(x), index) == period for x in noisy]) > 0.6
        walks = rng.normal(size=(200, n)).cumsum(axis=1)
        assert np.mean([find_period(flat(x), index) == period for x in walks]) < 0.25


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


def test_instances_keep_their_order_when_all_rows_of_one_are_new():
    times = pd.period_range("2000-01", periods=4, freq="M")
    old = pd.concat(
        {
            "b": pd.Series([1.0, 2.0], times[:2]),
            "a": pd.Series([5.0, 6.0, 7.0], times[:3]),
        },
        names=["shop", "time"],
    ).to_frame("y")
    new = pd.concat(
        {"c": pd.Series([9.0], times[:1]), "a": pd.Series([8.0], times[2:3]),
         "b": pd.Series([3.0, 4.0], times[:2])}
    ).to_frame("y")  # fmt: skip
    found = merge(old, new)
    assert found.index.get_level_values(0).tolist() == [*"bb", *"aaa", "c"]
    assert found.y.tolist() == [3, 4, 5, 6, 8, 9]


def test_rows_of_no_instance_are_named():
    index = pd.MultiIndex.from_arrays([["a", "a", None, None], [0, 1, 0, 1]])
    with pytest.raises(ValueError, match=r"names no instance in row 2, where it is miss"):
        to_table(pd.DataFrame({"y": np.arange(4.0)}, index))
