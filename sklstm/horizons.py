"""Which rows and times a forecasting horizon means, and what index is regular.

sktime's own conversions of a horizon take longer than a small forecast; these agree with
them and are left to them where they would not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sklstm.series import times_of

# What sktime and pandas raise of horizons that do not fit.
REFUSALS = AssertionError, AttributeError, TypeError, ValueError


class Plan:
    """For each row of a forecast: its instance, its step after that instance's end.

    Attributes
    ----------
    instance : ndarray of shape (n_rows,), int64
    step : ndarray of shape (n_rows,), int64
        1 is the first step after the end; 0 and less are in-sample.
    index : Index
        Of the forecast.
    """

    def __init__(self, fh, table, cutoff):
        if table.instances() is None:
            self.index = times_ahead(fh, cutoff)
            self.step = relative_steps(fh, table, cutoff)
            self.instance = np.zeros(len(self.step), dtype=np.int64)
            return
        last = table.last_times()
        ends, end_of = np.unique(last, return_inverse=True)
        ends = pd.Index(ends)
        times, steps = [], []
        for end in ends:
            at = _as_cutoff(end, cutoff)
            times.append(times_ahead(fh, at))
            steps.append(relative_steps(fh, table, at))
        n_steps = len(steps[0])
        self.instance = np.repeat(np.arange(table.n_instances), n_steps)
        self.step = np.concatenate([steps[e] for e in end_of])
        all_times = times[0].append(times[1:]) if len(times) > 1 else times[0]
        time = all_times[(end_of[:, None] * n_steps + np.arange(n_steps)).ravel()]
        keys = table.instances()[self.instance]
        levels = [keys.get_level_values(k) for k in range(keys.nlevels)]
        self.index = pd.MultiIndex.from_arrays(
            [*levels, time], names=table.frame.index.names
        )


def _as_cutoff(time, cutoff):
    """Return a time as an index of one element, with the frequency of the cutoff."""
    if isinstance(cutoff, pd.DatetimeIndex):
        return pd.DatetimeIndex([time], freq=cutoff.freq)
    if isinstance(cutoff, pd.PeriodIndex):
        return pd.PeriodIndex([time], freq=cutoff.freq)
    return pd.Index([time])


def times_ahead(fh, cutoff):
    """Return the absolute times of fh, as `fh.to_absolute_index`, which is slow."""
    steps = fh.to_pandas()
    if not fh.is_relative:
        return fh.to_absolute_index(cutoff)
    if isinstance(cutoff, pd.DatetimeIndex):
        return _dates_ahead(steps, cutoff, fh)
    if cutoff.dtype == steps.dtype == np.int64 and cutoff.name is None:
        return pd.Index(cutoff[0] + steps.to_numpy())
    if isinstance(cutoff, pd.PeriodIndex) and steps.dtype == np.int64:
        ordinals = cutoff.asi8 + cutoff.freq.n * steps.to_numpy()
        return pd.PeriodIndex(pd.arrays.PeriodArray(ordinals, dtype=cutoff.dtype))
    return cutoff[[0] * len(steps)] + steps


def _dates_ahead(steps, cutoff, fh):
    """Return the dates of steps, with a frequency where they follow each other."""
    freq = cutoff.freq
    is_plain = cutoff.tz is None and steps.dtype == np.int64 and freq is not None
    if not is_plain or fh.freq not in (None, cutoff.freqstr):
        return fh.to_absolute_index(cutoff)
    steps = steps.tolist()
    if steps == list(range(steps[0], steps[0] + len(steps))):
        dates = pd.date_range(cutoff[0] + steps[0] * freq, periods=len(steps), freq=freq)
    else:
        dates = pd.DatetimeIndex([cutoff[0] + step * freq for step in steps])
    return dates if dates.dtype == cutoff.dtype else fh.to_absolute_index(cutoff)


def relative_steps(fh, table, cutoff):
    """Return the steps of fh after the cutoff, in rows: (n_steps,), int64."""
    steps = fh.to_pandas()
    if not fh.is_relative or steps.dtype.kind not in "iu":
        steps = _steps_to(fh, cutoff)
    relative = np.asarray(steps, dtype=np.int64)
    spacing = _spacing(table)
    if spacing > 1:
        # sktime counts in labels; a label between two rows belongs to the later one.
        relative = np.ceil(relative / spacing).astype(np.int64)
    return relative


def _steps_to(fh, cutoff):
    """Return the steps to the times of fh, or by its spans of time."""
    if cutoff is None:
        raise ValueError(
            "fh must be whole numbers of steps ahead here, since there is no one cutoff "
            f"to count times from; got {fh!r}."
        )
    try:
        times = fh.to_absolute_index(cutoff) if fh.is_relative else fh.to_pandas()
        freq = getattr(cutoff, "freq", None)
        if freq is None or not isinstance(times, pd.DatetimeIndex):
            return fh.to_relative(cutoff).to_pandas()
    except REFUSALS as error:
        raise _no_rows(fh, cutoff) from error
    if isinstance(cutoff, pd.PeriodIndex):
        return (times.to_period(freq).asi8 - cutoff.asi8) // freq.n
    steps = _rows_apart(times, cutoff)
    if steps is None:
        raise _no_rows(fh, cutoff)
    return steps


def _no_rows(fh, cutoff):
    return ValueError(
        f"fh holds times that do not continue the index of y, which ends at "
        f"{cutoff[0]!r} with the frequency {getattr(cutoff, 'freqstr', None)}; got "
        f"{fh.to_pandas()[:3]!r}. Give times of that frequency, or steps ahead."
    )


def _rows_apart(times, cutoff):
    """Return how many rows dates come after the cutoff; None where they are no rows.

    Counted in time that passes, not in that of the clock, which is set in between;
    `ForecastingHorizon.to_relative` counts periods, which time zones and some
    frequencies have none of.
    """
    freq, end = cutoff.freq, cutoff[0]
    if end.tz is None and times.tz is not None:
        return None
    if times.tz is not None:
        times = times.tz_convert(end.tz)
    elif end.tz is not None:
        times = times.tz_localize(end.tz, ambiguous="NaT", nonexistent="NaT")
    if times.hasnans:
        return None
    if isinstance(freq, (pd.offsets.Tick, pd.offsets.Day)):
        unit = pd.Timedelta(days=1) if freq.name == "D" else pd.Timedelta(freq.base)
        rows, is_row = _whole_steps(times - end, freq.n * unit)
        if freq.name == "D" and end.tz is not None:
            # A day may be 24 hours or one of the calendar, where clocks are changed.
            apart = times.tz_localize(None) - end.tz_localize(None)
            of_calendar, also = _whole_steps(apart, freq.n * unit)
            rows, is_row = np.where(also, of_calendar, rows), is_row | also
    else:
        grid = pd.date_range(min(times.min(), end), max(times.max(), end), freq=freq.base)
        places, (at,) = grid.get_indexer(times), grid.get_indexer([end])
        rows, rest = np.divmod(places - at, freq.n)
        is_row = (places >= 0) & (at >= 0) & (rest == 0)
    return rows if is_row.all() else None


def _whole_steps(spans, step):
    """Return how often a step goes into spans of time, and whether nothing is left."""
    rows, rest = spans // step, spans % step
    return np.asarray(rows, dtype=np.int64), np.asarray(rest == pd.Timedelta(0))


def _spacing(table) -> int:
    """Return how far apart the labels of neighbouring rows are; 1 for times."""
    times = times_of(table.frame)
    if isinstance(times, (pd.DatetimeIndex, pd.PeriodIndex)) or table.lengths.max() < 2:
        return 1
    first = table.offsets[table.lengths.argmax()]
    return max(int(times[first + 1] - times[first]), 1)


def infer_frequency(y):
    """Return the frequency of the longest series, or None where it has none."""
    times = times_of(y)
    if y.index.nlevels > 1:
        codes = y.index.droplevel(-1).factorize()[0]
        times = times[codes == np.bincount(codes).argmax()]
    return pd.infer_freq(times) if len(times) >= 3 else None


def reference_times(table):
    """Return the times of the longest instance, with their frequency."""
    longest = table.lengths.argmax()
    times = times_of(table.frame)[table.offsets[longest] : table.offsets[longest + 1]]
    if isinstance(times, pd.DatetimeIndex) and len(times) >= 3 and times.freq is None:
        inferred = pd.infer_freq(times)
        if inferred is not None:
            return pd.DatetimeIndex(times, freq=inferred)
    return times


def breaks(times, freq, spacing):
    """Tell after which of n times another one than the next follows: (n - 1,)."""
    if isinstance(times, pd.PeriodIndex):
        return np.diff(times.asi8) != times.freq.n
    if isinstance(times, pd.DatetimeIndex):
        if len(times) == 2:  # a fifth of the time
            wrong = np.array([times[0] + freq != times[1]])
        else:
            wrong = times[:-1] + freq != times[1:]
        if times.tz is not None and wrong.any():
            # A day may be 24 hours or a day of the calendar, where clocks are changed.
            local = times.tz_localize(None)
            wrong &= local[:-1] + freq != local[1:]
        return wrong
    return np.diff(np.asarray(times)) != spacing


def check_regular(table):
    """Raise where rows of an instance are not equally far apart."""
    times, freq = times_of(table.frame), None
    if isinstance(times, pd.TimedeltaIndex):
        raise ValueError(
            "The index of y is a TimedeltaIndex, of which sktime has no forecasting "
            "horizon. Make it times: y.set_axis(pd.Timestamp(0) + y.index)."
        )
    if isinstance(times, pd.DatetimeIndex):
        freq = reference_times(table).freq
        if freq is None and table.lengths.max() >= 2:
            _check_unique(table.frame.index)
            remedy = "Call y.asfreq(...) first"
            if table.instances() is not None:
                remedy = "Make it a PeriodIndex, or number the rows"
            raise ValueError(
                "The DatetimeIndex of y has gaps or no regular frequency. "
                f"{remedy}; missing values are understood."
            )
        if freq is None or len(table.lengths) == 1:
            return
        _check_single_rows(table, times, freq)
    wrong = breaks(times, freq, _spacing(table))
    wrong[table.offsets[1:-1] - 1] = False  # between two instances
    if wrong.any():
        row = int(wrong.argmax())
        _check_unique(table.frame.index)
        raise ValueError(
            f"The index of y has a gap between {table.frame.index[row]} and "
            f"{table.frame.index[row + 1]}. Insert the missing rows, with NaN."
        )


def _check_unique(index):
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise ValueError(f"The index of y holds {twice} more than once.")


def _check_single_rows(table, times, freq):
    """Raise where an instance of one row, which has no neighbour, is off the grid."""
    rows = table.offsets[:-1][table.lengths == 1]
    for row in rows:
        if not freq.is_on_offset(times[row]):
            raise ValueError(
                f"The row {table.frame.index[row]} of y is none of the frequency "
                f"{freq.freqstr} of the longest series."
            )
