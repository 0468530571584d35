import numpy as np
import pytest

from sklstm import kernels, windows
from sklstm.series import SeriesArray
from sklstm.windows import cut_windows, make_windows, seasonal_naive, week_effects


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


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("native", [False, True])
def test_what_varies_a_little_is_no_constant(native, log, monkeypatch):
    if not native:
        monkeypatch.setattr(kernels, "library", lambda: None)
    for level in (1.0, 1e9):
        values = level * np.exp(1e-10 * (np.arange(9) % 3))
        array = SeriesArray(values, np.array([0]), np.array([9]), np.zeros((9, 0)))
        cut, _ = cut_windows(
            array, np.array([0]), np.array([9]), 1, 2, widths=np.array([6]),
            scaling="season", logs=(log,),
        )  # fmt: skip
        assert 0 < cut.scale[0] < 1e-9 * level


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
        assert np.array_equal(together.inputs[row, :width], alone.inputs[0])
        assert not together.inputs[row, width:].any()
        for name in ("base", "centre", "scale"):
            assert np.array_equal(getattr(together, name)[row], getattr(alone, name)[0])


def test_gaps_leave_trends_and_phases_finite():
    context = np.full((2, 10), np.nan)
    context[0, [1, 4, 9]] = [1.0, 5.0, 2.0]
    windows = make_windows(context, 3, 5)
    assert np.isfinite(windows.inputs).all()
    assert np.isfinite(windows.base).all()


def a_few_series(period):
    """Seven of them, with gaps, changes of sign, one of nothing, two of one value."""
    rng = np.random.default_rng(period)
    values = 3 + rng.normal(size=(7, 50)).cumsum(axis=1) + np.arange(50) % period
    values[0] -= 12
    values[1:4] = np.exp(values[1:4] / 3)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[4], values[5], values[6, 20:] = np.nan, 3.3, np.nan
    numbers = np.arange(7)
    exog = rng.normal(size=(350, 2))
    exog[rng.random(exog.shape) < 0.1] = np.nan
    return SeriesArray(values.ravel(), 50 * numbers, 50 * (numbers + 1), exog)


@pytest.mark.parametrize("scaling", ["season", "last", "standard", "none"])
@pytest.mark.parametrize("period", [1, 2, 5, 12, 30])
def test_the_kernels_cut_windows_as_numpy_does(period, scaling, monkeypatch):
    array, rng = a_few_series(period), np.random.default_rng(0)
    series = rng.integers(0, 7, 40)
    ends = array.starts[series] + rng.integers(0, 51, 40)
    widths = rng.choice([3, 8, 20], 80)
    request = array, series, ends, period, 7
    some = {"widths": widths, "scaling": scaling, "logs": (True, False)}
    found, found_log = cut_windows(*request, **some)
    monkeypatch.setattr(kernels, "library", lambda: None)
    expected, is_log = cut_windows(*request, **some)
    np.testing.assert_array_equal(found_log, is_log)
    assert 0 < is_log[:40].sum() < 40
    assert not is_log[40:].any()
    for name, values in vars(expected).items():
        assert getattr(found, name).dtype == values.dtype
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("native", [True, False])
def test_a_window_is_the_same_whatever_is_cut_with_it(native, monkeypatch):
    if not native:
        monkeypatch.setattr(kernels, "library", lambda: None)
    array, rng = a_few_series(5), np.random.default_rng(1)
    series = rng.integers(0, 7, 30)
    ends = array.starts[series] + rng.integers(0, 51, 30)
    widths = rng.choice([4, 12, 24], 30)
    some = {"scaling": "season", "logs": (True,)}
    together, is_log = cut_windows(array, series, ends, 5, 9, widths=widths, **some)
    for i, width in enumerate(widths):
        # Alone, from the series as they are without what follows.
        stops = np.where(np.arange(7) == series[i], ends[i], array.stops)
        until = SeriesArray(array.values, array.starts, stops, array.exog)
        alone, (alone_log,) = cut_windows(
            until, series[[i]], ends[[i]], 5, 9, widths=widths[[i]], **some
        )
        assert alone_log == is_log[i]
        assert np.array_equal(together.inputs[i, :width], alone.inputs[0])
        assert not together.inputs[i, width:].any()
        for name in ("base", "centre", "scale"):
            assert np.array_equal(getattr(together, name)[i], getattr(alone, name)[0])


@pytest.mark.parametrize("native", [True, False])
def test_cut_windows_by_hand(native, monkeypatch):
    if not native:
        monkeypatch.setattr(kernels, "library", lambda: None)
    e, nan = np.e, np.nan
    values = np.array([9, 1, e, nan, e**3, 5, 7, nan, nan, 99])
    exog = np.arange(10.0)[:, None]
    array = SeriesArray(values, np.array([1, 5]), np.array([5, 9]), exog)
    # Of the first series all but its gap; of the second what follows its last value.
    request = array, np.array([0, 1]), np.array([5, 9]), 1, 2
    some = {"widths": np.array([4, 2]), "logs": (True,), "scaling": "standard"}
    windows, is_log = cut_windows(*request, **some)
    np.testing.assert_array_equal(is_log, [True, True])
    np.testing.assert_allclose(windows.centre, [4 / 3, np.log(7)])
    deviation = np.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 3)
    np.testing.assert_allclose(windows.scale, [deviation, 0])
    value, is_observed, before, was_observed, of_period, of_phase, other = np.moveaxis(
        windows.inputs, 2, 0
    )
    normal = (np.array([0, 1, 4 / 3, 3]) - 4 / 3) / deviation
    np.testing.assert_allclose(value, [normal, [0] * 4], atol=1e-6)
    np.testing.assert_array_equal(is_observed, [[1, 1, 0, 1], [0] * 4])
    np.testing.assert_allclose(before, [[0, *normal[:3]], [0] * 4], atol=1e-6)
    np.testing.assert_array_equal(was_observed, [[0, 1, 1, 0], [1, 0, 0, 0]])
    assert not of_period.any()
    assert not of_phase.any()
    np.testing.assert_array_equal(other, [[1, 2, 3, 4], [7, 8, 0, 0]])
    naive, drift, recent, smooth = np.moveaxis(windows.base, 2, 0)
    np.testing.assert_allclose(naive, [[normal[3]] * 2, [0, 0]], atol=1e-6)
    # The halves' means, 1/2 and 3, lie two and a half steps apart.
    np.testing.assert_allclose(drift, [[1 / deviation, 2 / deviation], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(
        recent, [[1 / deviation, 2 / deviation], [0, 0]], rtol=1e-6
    )
    assert not smooth.any()


@pytest.mark.skipif(kernels.library() is None, reason="compiled kernels not installed")
def test_kernels_that_cut_otherwise_are_not_used(monkeypatch):
    array, cut_by = a_few_series(3), windows._cut_by
    request = array, np.arange(7), array.stops, 3, 4
    some = {"widths": np.full(7, 12), "scaling": "season", "logs": (False,)}
    expected, _ = windows._cut(*request, *some.values())

    def wrong(*request):
        found, is_log = cut_by(*request)
        found.centre[0] += 1
        return found, is_log

    monkeypatch.setattr(windows, "_cut_by", wrong)
    monkeypatch.setattr(windows, "_cuts_alike", windows._cuts_alike.__wrapped__)
    with pytest.warns(RuntimeWarning, match="disagree with torch on this machine"):
        found, _ = cut_windows(*request, **some)
    assert np.array_equal(found.centre, expected.centre)
