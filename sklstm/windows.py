"""Leaf: windows cut from series and normalised.

By windows.c, compiled with the kernels, where those are there, else by NumPy. Memory is
linear in the data, never in the number of windows: a window is a position in a flat
array until the batch that it is in is cut.
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass

import numpy as np

from sklstm import kernels
from sklstm.series import SeriesArray

# Channels of a window before exogenous ones.
N_CHANNELS = 6


@dataclass(frozen=True)
class Windows:
    """Normalised windows and what a forecast from them starts at.

    Attributes
    ----------
    inputs : ndarray of shape (n, window_length, 6 + n_exog), float32
        Value, whether it was observed, value a season ago, whether that exists,
        log(period) / 3, and the mean effect of the step's phase; then exogenous data.
        Zeros follow the steps of a shorter window.
    base : ndarray of shape (n, horizon, 4), float32
        The seasonal naive forecast; how far the window's trend and the trend of its last
        season go on from there; and from the first to the mean of the last season plus
        the effect of the phase.
    centre, scale : ndarray of shape (n,), float64
        A value is centre + scale * normalised.
    """

    inputs: np.ndarray
    base: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


def seasonal_naive(values: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Return for each step the last observed value of its phase, or the last of all.

    Parameters
    ----------
    values : ndarray of shape (n, n_timesteps)
        NaN where missing; NaN forecasts where nothing is observed.

    Returns
    -------
    forecast : ndarray of shape (n, horizon)
    """
    n, n_timesteps = values.shape
    last = _last_observed(values)  # (n,)
    if period == 1:
        return np.repeat(last[:, None], horizon, axis=1)
    # Seasons counted back from the end, so that phase 0 is that of the first step ahead.
    missing = np.full((n, -n_timesteps % period), np.nan)
    seasons = np.concatenate([missing, values], axis=1).reshape(n, -1, period)
    phases = seasons.transpose(0, 2, 1).reshape(n * period, -1)
    of_phase = _last_observed(phases).reshape(n, period)
    of_phase = np.where(np.isnan(of_phase), last[:, None], of_phase)
    return of_phase[:, np.arange(horizon) % period]


def _last_observed(values):
    """(n, T) -> (n,): the last of each row that is not NaN."""
    n, n_timesteps = values.shape
    if n_timesteps == 0:
        return np.full(n, np.nan)
    last = n_timesteps - 1 - np.isnan(values)[:, ::-1].argmin(axis=1)
    return values[np.arange(n), last]


def _sum(x):
    """(..., T) -> (...), added up step after step: zeros in front change no bit."""
    return x.cumsum(axis=-1)[..., -1]


def _slope(values, observed, widths):
    """Return the change per step between the means of both halves of each window.

    Here and below `values` are 0 where they are not `observed`.
    """
    steps = np.arange(-values.shape[1], 0)
    is_late = steps >= (widths // 2 - widths)[:, None]
    halves = np.array([observed & ~is_late, observed & is_late])  # (2, n, T)
    count = halves.sum(axis=2)
    divisor = np.maximum(count, 1)
    means = _sum(values * halves) / divisor
    centres = (halves * steps).sum(axis=2) / divisor
    known = (count > 0).all(axis=0)
    gap = np.where(known, centres[1] - centres[0], 1.0)
    return np.where(known, (means[1] - means[0]) / gap, 0.0)


def _recent_slope(values, known, observed, period):
    """Return the mean change per step over a season, of the last season (n,).

    Of steps that are `observed`, from values that are `known`.
    """
    n_last = min(max(period, 4), observed.shape[1])
    last, before = slice(-n_last, None), slice(-n_last - period, -period)
    both = observed[:, last] & known[:, before]
    total = _sum(np.where(both, values[:, last] - values[:, before], 0.0))
    return total / np.maximum(both.sum(axis=1), 1) / period


def _phase_effects(values, observed, period, slope, widths):
    """Return the mean distance of each phase from the mean of its season, less trend.

    Phase 0 is that of the first step ahead: (n, period).
    """
    n, width = values.shape
    n_seasons = width // period
    # Seasons are counted back from the end: (n, n_seasons, period)
    seasons, observed = (
        a[:, width - n_seasons * period :].reshape(n, n_seasons, period)
        for a in (values, observed)
    )
    # Of a shorter window a season that it has not from its start is left out, too.
    has = np.arange(n_seasons, 0, -1) <= (widths // period + 1)[:, None]
    observed = observed & has[:, :, None]
    count = observed.sum(axis=2, keepdims=True)
    mean = seasons.sum(axis=2, keepdims=True) / np.maximum(count, 1)
    climb = slope[:, None] * (np.arange(period) - (period - 1) / 2)  # (n, period)
    # Half a season is enough to tell its mean.
    used = observed & (2 * count >= period)
    distance = np.where(used, seasons - mean - climb[:, None], 0.0)
    return distance.sum(axis=1) / np.maximum(used.sum(axis=1), 1)


def week_effects(values, period):
    """Return what the time of the week adds to that of the day, as far as it is sure.

    It is the mean over weeks of what is left of a value without the mean of its week,
    the trend, and the mean of its time of the day in that week. It is multiplied with
    the square of the share of its variance that is not the noise of a mean of so many
    weeks: nothing is left where weeks do not agree. The share itself (James & Stein,
    1961, the positive part) is too sure where what disturbs an hour lasts for days. A
    week counts if seven eighths of it are observed.

    Parameters
    ----------
    values : ndarray of shape (n, n_weeks * 7 * period), float64
        The last values before the forecast, NaN where missing or before the start.
    period : int
        Steps of a day.

    Returns
    -------
    effects : ndarray of shape (n, 7 * period), float64
        The first is that of the first step ahead.
    """
    n, week = len(values), 7 * period
    change = values[:, week:] - values[:, :-week]
    known = ~np.isnan(change)
    slope = np.where(known, change, 0.0).sum(1) / np.maximum(known.sum(1), 1) / week
    weeks = values.reshape(n, -1, week)
    observed = ~np.isnan(weeks)
    count = observed.sum(axis=2, keepdims=True)
    mean = np.where(observed, weeks, 0.0).sum(2, keepdims=True) / np.maximum(count, 1)
    climb = slope[:, None] * (np.arange(week) - (week - 1) / 2)  # (n, week)
    used = observed & (8 * count >= 7 * week)
    distance = np.where(used, weeks - mean - climb[:, None], 0.0)
    # (n, n_weeks, 7, period): less the mean over the days
    days, of_days = (a.reshape(n, -1, 7, period) for a in (distance, used))
    mean = days.sum(2, keepdims=True) / np.maximum(of_days.sum(2, keepdims=True), 1)
    distance = np.where(of_days, days - mean, 0.0).reshape(weeks.shape)
    n_used = used.sum(axis=1)  # (n, week)
    effects = distance.sum(axis=1) / np.maximum(n_used, 1)
    residual = np.where(used, distance - effects[:, None], 0.0)
    n_free = np.maximum(n_used - 1, 0).sum(axis=1)
    variance = (residual**2).sum(axis=(1, 2)) / np.maximum(n_free, 1)
    doubt = variance * np.where(n_used > 0, 1 / np.maximum(n_used, 1), 0.0).sum(axis=1)
    power = (effects**2).sum(axis=1)
    sure = (n_free > 0) & (power > doubt)
    share = np.where(sure, 1 - doubt / np.where(sure, power, 1.0), 0.0)
    return share[:, None] ** 2 * effects


def make_windows(
    context, period, horizon, *, exog=None, fallback=0.0, scaling="season", widths=None,
) -> Windows:  # fmt: skip
    """Normalise windows.

    Parameters
    ----------
    context : ndarray of shape (n, window_length + period), float64
        The last values before the forecast, NaN where missing or before the start (of a
        shorter window with its season before). The first `period` of them only serve
        as values a season ago.
    period, horizon : int
    exog : ndarray of shape (n, window_length, n_exog), default=None
    fallback : float or ndarray of shape (n,)
        Centre where nothing is observed.
    scaling : {"season", "last", "standard", "none"}
        What is subtracted: the mean of the last season (the last value without one),
        the last value, or the mean of the window. Divided by is the mean absolute
        deviation from it; with "standard", the standard deviation.
    widths : ndarray of shape (n,), int64, default=None
        Steps of each window, the last ones of `window_length`. A window comes out the
        same, to the last bit, whatever the length of the longest. None: all are of that
        length.

    Returns
    -------
    windows : Windows
    """
    n, n_timesteps = len(context), context.shape[1] - period
    known = ~np.isnan(context)
    observed = known[:, period:]  # (n, W)
    if widths is None:
        widths = np.full(n, n_timesteps)
    else:
        starts = (n_timesteps - widths)[:, None]
        observed = observed & (np.arange(n_timesteps) >= starts)
    filled = np.where(known, context, 0.0)
    values = np.where(observed, filled[:, period:], 0.0)
    n_observed = observed.sum(axis=1)
    count = np.maximum(n_observed, 1)
    if scaling in ("season", "last"):
        n_tail, centre = np.zeros(n), np.zeros(n)
        if scaling == "season" and period > 1:
            n_tail = observed[:, -period:].sum(axis=1)
            centre = _sum(values[:, -period:]) / np.maximum(n_tail, 1)
        if not n_tail.all():
            last = _last_observed(np.where(observed, values, np.nan))
            centre = np.where(n_tail > 0, centre, last)
    else:
        centre = _sum(values) / count
    centre = np.where(n_observed > 0, centre, fallback)
    deviation = np.where(observed, values - centre[:, None], 0.0)
    if scaling == "standard":
        # Powers of two, which do not round, keep squares from overflowing.
        exponent = np.frexp(np.abs(deviation).max(axis=1, initial=0.0))[1]
        squares = np.ldexp(deviation, -exponent[:, None]) ** 2
        scale = np.ldexp(np.sqrt(_sum(squares) / count), exponent)
    else:
        scale = _sum(np.abs(deviation)) / count
    if scaling == "none":
        centre, scale = np.zeros(n), np.ones(n)
    # Rounding error is no variation: such a window is constant, and so its forecast.
    scale = np.where(scale > 1e-12 * np.abs(centre), scale, 0.0)
    # Whatever it holds, what is constant reads as zeros.
    divisor = np.where(scale > 0, scale, np.inf)[:, None]
    normal = np.where(known, (filled - centre[:, None]) / divisor, 0.0)
    slope = _slope(values, observed, widths)
    effects = np.zeros((n, 1))
    if period > 1:
        effects = _phase_effects(filled, known, period, slope, widths) / divisor
    n_exog = 0 if exog is None else exog.shape[2]
    inputs = np.empty((n, n_timesteps, N_CHANNELS + n_exog), dtype=np.float32)
    inputs[:, :, 0] = normal[:, period:]
    inputs[:, :, 1] = observed
    inputs[:, :, 2] = normal[:, :-period]
    inputs[:, :, 3] = known[:, :-period]
    inputs[:, :, 4] = math.log(period) / 3
    inputs[:, :, 5] = effects[:, np.arange(-n_timesteps, 0) % period]
    if n_exog:
        inputs[:, :, N_CHANNELS:] = np.where(np.isnan(exog), 0.0, exog)
    for width in set(widths.tolist()) - {n_timesteps}:
        rows = widths == width
        inputs[rows, :width] = inputs[rows, n_timesteps - width :]
        inputs[rows, width:] = 0.0
    base = seasonal_naive(context, horizon, period)
    base = np.where(np.isnan(base), 0.0, (base - centre[:, None]) / divisor)
    # Steps from the value that the seasonal naive forecast repeats.
    distance = period * np.ceil(np.arange(1, horizon + 1) / period)
    drift = (slope / divisor[:, 0])[:, None] * distance
    recent = _recent_slope(filled, known, observed, period) / divisor[:, 0]
    recent = recent[:, None] * distance
    smooth = np.zeros_like(base)
    if period > 1:
        n_last = np.maximum(known[:, -period:].sum(axis=1), 1)
        level = (normal[:, -period:].sum(axis=1) / n_last)[:, None]
        smooth = level + effects[:, np.arange(horizon) % period] - base
    channels = np.empty((n, horizon, 4), dtype=np.float32)
    for i, channel in enumerate((base, drift, recent, smooth)):
        channels[:, :, i] = channel
    return Windows(inputs, channels, centre, scale)


_SCALINGS = "season", "last", "standard", "none"  # as windows.c numbers them


class _Request(ctypes.Structure):
    """What windows.c is asked for, as it has it."""

    _fields_ = [
        (name, ctypes.c_ssize_t)
        for name in (
            "n_series", "n_windows", "longest", "period", "horizon", "scaling", "n_exog",
            "n_rows",
        )
    ] + [
        (name, ctypes.c_void_p)
        for name in (
            "values", "exog", "starts", "stops", "series", "ends", "widths", "is_wanted",
            "scratch", "known", "inputs", "base", "centre", "scale", "is_log",
        )
    ]  # fmt: skip


def cut_windows(array, series, ends, period, horizon, *, widths, scaling, logs):
    """Cut the windows that end before some positions, and normalise them.

    Where a window holds nothing, what came last before it goes on.

    Parameters
    ----------
    array : SeriesArray
    series, ends : ndarray of shape (n,), int64
        Which series, and the positions in its values.
    period, horizon, scaling
        See `make_windows`.
    widths : ndarray of shape (k * n,), int64
        Steps of each window: of all n, k times.
    logs : sequence of k bool
        Whether windows of positive values are taken the logarithm of.

    Returns
    -------
    windows : Windows
        k * n of them.
    is_log : ndarray of shape (k * n,), bool
        Which of them are of logarithms.
    """
    request = array, series, ends, period, horizon, widths, scaling, logs
    native = kernels.library()
    if native is None or not _cuts_alike(native):
        return _cut(*request)
    return _cut_by(native, *request)


def _cut_by(native, array, series, ends, period, horizon, widths, scaling, logs):
    n, longest = len(widths), int(widths.max())
    n_rows, n_exog = array.exog.shape
    given = [
        np.ascontiguousarray(a, dtype=np.float64) for a in (array.values, array.exog)
    ]
    given += [
        np.ascontiguousarray(a, dtype=np.int64)
        for a in (array.starts, array.stops, series, ends, widths)
    ]
    given.append(np.array(logs, dtype=bool))
    scratch = np.empty(2 * longest + 5 * period), np.empty(longest + period, dtype=bool)
    inputs = np.empty((n, longest, N_CHANNELS + n_exog), dtype=np.float32)
    base = np.empty((n, horizon, 4), dtype=np.float32)
    centre, scale, is_log = np.empty(n), np.empty(n), np.empty(n, dtype=bool)
    arrays = *given, *scratch, inputs, base, centre, scale, is_log
    request = _Request(
        len(series), n, longest, period, horizon, _SCALINGS.index(scaling), n_exog,
        n_rows, *(a.__array_interface__["data"][0] for a in arrays),
    )  # fmt: skip
    native.sklstm_windows(ctypes.byref(request))
    return Windows(inputs, base, centre, scale), is_log


def _cut(array, series, ends, period, horizon, widths, scaling, logs):
    """Do what `_cut_by` does, by NumPy."""
    longest = int(widths.max())
    steps, starts = np.arange(longest + period), (longest - widths)[:, None]
    positions = ends[:, None] - longest - period + steps
    context = _again(array.gather(series, positions), logs)
    context[steps < starts] = np.nan
    exog = _again(array.gather_exog(series, positions[:, period:]), logs)
    last = np.zeros(len(context))
    empty = (np.isnan(context[:, period:]) | (steps[:longest] < starts)).all(axis=1)
    where = np.flatnonzero(empty) % len(series)
    last[empty] = array.last_observed(series[where], ends[where])
    is_log = np.repeat(logs, len(series)) & ~(context <= 0).any(axis=1)
    is_log &= ~empty | (last > 0)
    context[is_log] = np.log(context[is_log])
    last[is_log & empty] = np.log(last[is_log & empty])
    windows = make_windows(
        context, period, horizon, exog=exog, fallback=last, scaling=scaling,
        widths=widths,
    )  # fmt: skip
    return windows, is_log


def _again(values, logs):
    """Repeat rows, all of them once for each of `logs`."""
    return values if len(logs) == 1 else np.concatenate([values] * len(logs))


@functools.cache
def _cuts_alike(native) -> bool:
    """Compare windows of a few series with those of NumPy."""
    rng, n = np.random.default_rng(0), 6
    values = np.exp(rng.normal(size=(n, 40)).cumsum(axis=1))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[0, 20:], values[1], values[2, 30] = np.nan, np.nan, -1.0
    values[3, 20:], values[3, 19] = np.nan, -2.0
    numbers = np.arange(n)
    array = SeriesArray(
        values.ravel(), 40 * numbers, 40 * (numbers + 1), rng.normal(size=(40 * n, 2))
    )
    widths = np.array([16, 12, 16, 5, 2, 16] * 2)
    for period, scaling in zip((1, 3, 7, 4), _SCALINGS, strict=True):
        request = numbers, array.stops - 2, period, 9, widths, scaling, (False, True)
        both = _cut(array, *request), _cut_by(native, array, *request)
        pairs = zip(*([*vars(w).values(), is_log] for w, is_log in both), strict=True)
        if not all(np.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in pairs):
            kernels.warn_of_disagreement(native)
            return False
    return True
