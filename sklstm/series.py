"""Leaf: many series as tables and as flat arrays, and their seasons.

Imports nothing of ours. Nothing loops over series but `last_observed`, for the few whose
window holds no value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtri

# A season that is expected is found if the autocorrelation at its lag exceeds what it is
# by chance in one of six series (of four, if they have less than two seasons): one that
# is not there costs a forecast a percent, one that is missed many.
SEASONALITY_Z = 1.0
# Without a frequency: seasons that must have been seen, and the share of the variation
# within them that they must explain.
MIN_SEASONS = 8
MIN_EXPLAINED = 0.35
PERIOD_OF_FREQUENCY = {
    "Y": 1, "A": 1, "Q": 4, "M": 12, "SM": 24, "W": 52, "B": 5, "C": 5, "D": 7,
    "h": 24, "H": 24, "min": 60, "T": 60, "s": 60, "S": 60,
    # Of business days, standard or custom.
    "BY": 1, "BA": 1, "BQ": 4, "BM": 12, "CBM": 12,
}  # fmt: skip

# How many steps of a frequency are one of the next.
LONGER = {
    "s": (60, "min"), "S": (60, "min"), "min": (60, "h"), "T": (60, "h"), "h": (24, "D"),
    "H": (24, "D"), "D": (7, "W"), "B": (5, "W"), "M": (3, "Q"), "Q": (4, "Y"),
}  # fmt: skip


@dataclass(frozen=True)
class SeriesTable:
    """One or many instances of a (multivariate) series, row after row.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_columns), float64
        NaN where missing.
    exog : ndarray of shape (n_rows, n_exog), float64
        n_exog is 0 without exogenous data.
    offsets : ndarray of shape (n_instances + 1,), int64
        Rows offsets[i] to offsets[i + 1] belong to instance i, in order of time.
    frame : DataFrame
        y in this order of rows, with its index and columns.
    """

    values: np.ndarray
    exog: np.ndarray
    offsets: np.ndarray
    frame: pd.DataFrame

    @property
    def n_instances(self) -> int:
        """Number of instances."""
        return len(self.offsets) - 1

    @property
    def n_columns(self) -> int:
        """Number of columns of y."""
        return self.values.shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each instance."""
        return np.diff(self.offsets)

    def last_times(self) -> pd.Index:
        """Time of the last row of each instance."""
        return times_of(self.frame)[self.offsets[1:] - 1]

    def instances(self) -> pd.Index | None:
        """Key of each instance, or None for a single series."""
        if self.frame.index.nlevels == 1:
            return None
        return self.frame.index.droplevel(-1)[self.offsets[:-1]]

    def flatten(self) -> SeriesArray:
        """Return the columns as univariate series that share their exogenous rows.

        A series begins with its first value: rows before it are as if they were not
        there.
        """
        n_rows = len(self.values)
        starts = (np.arange(self.n_columns)[:, None] * n_rows + self.offsets[:-1]).ravel()
        array = SeriesArray(
            values=np.ascontiguousarray(self.values.T).ravel(),
            starts=starts,
            stops=starts + np.tile(self.lengths, self.n_columns),
            exog=self.exog,
        )
        first = array.first_observed(np.arange(len(array)))
        # Two rows are the least that can be learnt from.
        first = np.maximum(np.minimum(first, array.stops - 2), starts)
        return replace(array, starts=first)


@dataclass(frozen=True)
class SeriesArray:
    """Univariate series, one after another.

    Attributes
    ----------
    values : ndarray of shape (n_values,), float64
        NaN where missing.
    starts, stops : ndarray of shape (n_series,), int64
        Series i is ``values[starts[i]:stops[i]]``.
    exog : ndarray of shape (n_rows, n_exog), float64
        Row p % n_rows belongs to the value at position p.
    """

    values: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    exog: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Length of each series."""
        return self.stops - self.starts

    def take(self, series) -> SeriesArray:
        """Return some of the series; the values are shared."""
        starts, stops = self.starts[series], self.stops[series]
        return SeriesArray(self.values, starts, stops, self.exog)

    def gather(self, series, positions) -> np.ndarray:
        """Return values at positions, NaN outside of the series.

        Parameters
        ----------
        series : ndarray of shape (n,), int64
        positions : ndarray of shape (n, k), int64
            Positions in `values`.

        Returns
        -------
        values : ndarray of shape (n, k), float64
        """
        inside = positions >= self.starts[series, None]
        inside &= positions < self.stops[series, None]
        # mode="clip" keeps positions beyond the ends legal until they are masked
        values = self.values.take(positions, mode="clip")
        return np.where(inside, values, np.nan)

    def last_observed(self, series, ends) -> np.ndarray:
        """Return the last value before positions `ends` that is not missing, else 0.

        Parameters
        ----------
        series, ends : ndarray of shape (n,), int64

        Returns
        -------
        values : ndarray of shape (n,), float64
        """
        last = np.zeros(len(series))
        for i, (start, end) in enumerate(zip(self.starts[series], ends, strict=True)):
            values = self.values[start:end]
            values = values[~np.isnan(values)]
            if len(values):
                last[i] = values[-1]
        return last

    def first_observed(self, series) -> np.ndarray:
        """Return the position of the first value that is not missing, or that of the end.

        Parameters
        ----------
        series : ndarray of shape (n,), int64

        Returns
        -------
        positions : ndarray of shape (n,), int64
        """
        observed = np.append(np.flatnonzero(~np.isnan(self.values)), len(self.values))
        first = observed[np.searchsorted(observed, self.starts[series])]
        return np.minimum(first, self.stops[series])

    def after_last_observed(self, series, ends) -> np.ndarray:
        """Return the positions after the last values before positions `ends`.

        Parameters
        ----------
        series, ends : ndarray of shape (n,), int64

        Returns
        -------
        positions : ndarray of shape (n,), int64
            `ends` where nothing is observed before.
        """
        observed = np.append(-1, np.flatnonzero(~np.isnan(self.values)))
        last = observed[np.searchsorted(observed, ends) - 1]
        return np.where(last >= self.starts[series], last + 1, ends)

    def up_to_last_observed(self) -> SeriesArray:
        """Return the series up to their last values; two rows, where there are any."""
        stops = self.after_last_observed(np.arange(len(self)), self.stops)
        shortest = np.minimum(self.starts + 2, self.stops)
        return replace(self, stops=np.maximum(stops, shortest))

    def exog_inside(self) -> np.ndarray:
        """Return the exogenous rows of some series, each once: (n, n_exog)."""
        n_rows = len(self.exog)
        steps = np.zeros(n_rows + 1, dtype=np.int64)
        np.add.at(steps, self.starts % n_rows, 1)
        np.add.at(steps, (self.stops - 1) % n_rows + 1, -1)
        return self.exog[steps[:-1].cumsum() > 0]

    def gather_exog(self, series, positions) -> np.ndarray:
        """Return exogenous rows (n, k, n_exog) at positions, NaN outside the series."""
        inside = positions >= self.starts[series, None]
        inside &= positions < self.stops[series, None]
        rows = self.exog[positions % max(len(self.exog), 1)]
        return np.where(inside[:, :, None], rows, np.nan)


def times_of(frame) -> pd.Index:
    """Return the time of each row."""
    index = frame.index
    return index if index.nlevels == 1 else index.get_level_values(-1)


def to_table(y, X=None) -> SeriesTable:
    """Lay out a frame of series.

    Parameters
    ----------
    y : DataFrame
        sktime's ``pd.DataFrame``, ``pd-multiindex`` or ``pd_multiindex_hier``.
    X : DataFrame, default=None
        Exogenous data of the same kind; rows that y has not are left out.

    Returns
    -------
    table : SeriesTable

    Raises
    ------
    ValueError
        If X lacks rows of y, or rows of y have no instance.
    """
    if y.index.nlevels > 1:
        codes = y.index.droplevel(-1).factorize()[0]
        if (codes < 0).any():
            raise ValueError(
                f"The index of y names no instance in row {int((codes < 0).argmax())}, "
                "where it is missing. Give it a name, or drop the row."
            )
        if (np.diff(codes) < 0).any():
            order = np.argsort(codes, kind="stable")
            y, codes = y.iloc[order], codes[order]
        counts = np.bincount(codes)
    else:
        counts = np.array([len(y)])
    exog = np.empty((len(y), 0))
    if X is not None:
        rows = X.index.get_indexer(y.index)
        if (rows < 0).any():
            raise ValueError(
                f"X has no row for {y.index[rows < 0][0]!r}, which is in y "
                f"({int((rows < 0).sum())} such rows). Exogenous data must cover y."
            )
        exog = X.to_numpy(dtype=np.float64)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return SeriesTable(y.to_numpy(dtype=np.float64), exog, offsets, y)


def check_same_kind(old, new, name="y"):
    """Raise where rows of one index cannot go on those of another."""
    kinds = [
        f"{index.nlevels} levels, of {_kind(index)}"
        if index.nlevels > 1
        else _kind(index)
        for index in (old, new)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{name} has an index of {kinds[1]}, but what was fitted has one of "
            f"{kinds[0]}. Give rows that go on those."
        )


def _kind(index) -> str:
    times = index if index.nlevels == 1 else index.levels[-1]
    if isinstance(times, pd.PeriodIndex):
        return f"periods of frequency {times.freqstr}"
    if isinstance(times, pd.DatetimeIndex):
        return "times" if times.tz is None else "times with a time zone"
    return "numbers" if times.dtype.kind in "iuf" else str(times.dtype)


def in_zone_of(frame, known):
    """Return a frame whose times are in the time zone of those of the index `known`."""
    times, there = (
        index if index.nlevels == 1 else index.levels[-1]
        for index in (frame.index, known)
    )
    zone, its = (getattr(each, "tz", None) for each in (there, times))
    if zone is None or its is None or str(zone) == str(its):
        return frame
    times = times.tz_convert(zone)
    if frame.index.nlevels > 1:
        times = frame.index.set_levels(times, level=-1)
    return frame.set_axis(times)


def merge(old, new):
    """Return old rows and new ones; where both have a row, the new one.

    Both have the same columns. Rows of each instance are in order of time; instances
    keep their order, also those of which every row is new.
    """
    if old is None or new is None:
        return new if old is None else old
    if (
        old.index.nlevels == 1
        and old.index.dtype == new.index.dtype
        and len(old) > 0
        and len(new) > 0
        and new.index[0] > old.index[-1]
    ):
        before, after = old.to_numpy(), new.to_numpy()
        if before.dtype == after.dtype == np.float64:  # a third of the time of concat
            values, index = np.concatenate([before, after]), old.index.append(new.index)
            return pd.DataFrame(values, index, old.columns)
        return pd.concat([old, new])
    both = pd.concat([old.loc[~old.index.isin(new.index)], new])
    if both.index.nlevels == 1:
        return both.sort_index()
    times = times_of(both)
    keys = old.index.droplevel(-1).append(both.index.droplevel(-1))
    codes = keys.factorize()[0][len(old) :]  # in the order of the old rows
    return both.iloc[np.lexsort((times.argsort().argsort(), codes))]


# ------------------------------------------------------------ what the data are like
def frequency_period(index) -> int | None:
    """Return the number of steps in the season that an index's frequency suggests."""
    name = getattr(index, "freqstr", None)
    if name is None and isinstance(index, pd.DatetimeIndex) and len(index) >= 3:
        name = pd.infer_freq(index)
    if name is None:
        return None
    head = name.split("-")[0]
    digits = "".join(c for c in head if c.isdigit())
    unit = head[len(digits) :]
    step = int(digits or 1)
    for key in (unit, unit.rstrip("ES")):  # at the end or start of a month, say
        while key in LONGER and step % LONGER[key][0] == 0:  # 24 hours are a day
            n_steps, longer = LONGER[key]
            key, step = longer, step // n_steps  # noqa: PLW2901
        if key in PERIOD_OF_FREQUENCY:
            period = PERIOD_OF_FREQUENCY[key]
            if key in ("min", "T") and step >= 5:  # of coarser ones a day, not an hour
                period = 1440
            if period == 1:
                return 1
            # Of steps that are no part of a season, or all of it, the values tell.
            return period // step if period % step == 0 and step < period else None
    return None


def _sample(array: SeriesArray, most: int) -> np.ndarray:
    """Return the last `most` values of at most 200 series, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(array) - 1, min(len(array), 200)).astype(int))
    width = min(int(array.lengths.max()), most)
    positions = array.stops[chosen, None] - width + np.arange(width)
    return array.gather(chosen, positions)


def _autocorrelation(x, max_lag: int) -> np.ndarray:
    """Return the mean autocorrelation of the rows of x, shape (max_lag + 1,)."""
    observed = ~np.isnan(x)
    x = np.where(observed, x, 0.0)
    mean = x.sum(1) / np.maximum(observed.sum(1), 1)
    x = np.where(observed, x - mean[:, None], 0.0)
    # Squares of very large values would overflow; the scale cancels below.
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = np.divide(x, largest, out=np.zeros_like(x), where=largest > 0)
    n_fft = 2 ** math.ceil(math.log2(2 * x.shape[1]))
    spectrum = np.abs(np.fft.rfft(x, n_fft)) ** 2
    covariance = np.fft.irfft(spectrum, n_fft)[:, : max_lag + 1]
    usable = covariance[:, 0] > 0
    if not usable.any():
        return np.zeros(max_lag + 1)
    return (covariance[usable] / covariance[usable, :1]).mean(axis=0)


def _highest_peaks(acf, n_peaks: int) -> list[int]:
    inner = acf[2:-1]
    lags = 2 + np.flatnonzero((inner > acf[1:-2]) & (inner >= acf[3:]))
    return lags[np.argsort(-acf[lags], kind="stable")][:n_peaks].tolist()


def _explained_by_phase(x, period: int) -> float:
    """Return the share of the variation within seasons that the phase explains.

    Adjusted for the number of phases, so that it is about 0 for any series without that
    season, random walks included.
    """
    n_seasons = x.shape[1] // period
    seasons = x[:, x.shape[1] - n_seasons * period :].reshape(len(x), n_seasons, period)
    seasons = seasons[~np.isnan(seasons).any(axis=(1, 2))]
    if not len(seasons) or n_seasons < MIN_SEASONS:
        return 0.0
    level = seasons.mean(axis=2, keepdims=True)
    # A trend repeats in every season and is none.
    slope = (level[:, -1:] - level[:, :1]) / ((n_seasons - 1) * period)
    seasons = seasons - level - slope * (np.arange(period) - (period - 1) / 2)
    largest = np.abs(seasons).max(axis=(1, 2), keepdims=True)
    seasons = np.divide(seasons, largest, out=np.zeros_like(seasons), where=largest > 0)
    total = (seasons**2).sum(axis=(1, 2))
    left = ((seasons - seasons.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    usable = total > 0
    if not usable.any():
        return 0.0
    return float(1 - (left[usable] / total[usable]).mean() * n_seasons / (n_seasons - 1))


def find_period(array: SeriesArray, index) -> int:
    """Return the seasonal period: that of the frequency, or what the values show.

    That of the frequency is kept where the series show it (`_shows_season`). Without one
    the highest peak of the autocorrelation of the differenced series is, where it is
    significant and the series are long enough to show it twice; or what is near it, or a
    part of it, and explains as much. Noise can hide a season from differences: if they
    show none, `_period_behind_noise` looks for it.
    """
    longest = int(np.median(array.lengths))
    from_frequency = frequency_period(index)
    max_lag = min(longest // 2, 400)
    if max_lag < 2 or from_frequency == 1:
        return 1
    x = _sample(array, 2000)
    n_steps = min(longest, x.shape[1])
    if from_frequency is not None:
        return from_frequency if _shows_season(x, n_steps, from_frequency) else 1
    acf = _autocorrelation(np.diff(x, axis=1), max_lag)
    period = (_highest_peaks(acf, 1) or [1])[0]
    if period > 1:
        # The highest of many lags is high by chance: at each a lower risk is allowed.
        z = ndtri(1 - 0.05 / max_lag)
        if acf[period] > max(_limit(acf, period, z, n_steps * len(x)), 0.2):
            if x.shape[1] < MIN_SEASONS * period:
                return period
            return _shortest_that_explains(x, [period], share=0.9) or period
    if x.shape[1] < 8 * MIN_SEASONS:
        return 1
    return _period_behind_noise(x, max_lag)


def _limit(acf, period, z, n) -> float:
    """Return what the autocorrelation of n values at a lag exceeds by chance, at a risk.

    Of series that are correlated at shorter lags (Bartlett, 1946).
    """
    return z * math.sqrt((1 + 2 * (acf[1:period] ** 2).sum()) / n)


def _shows_season(x, n_steps, period) -> bool:
    """Tell whether series (n, T) of about `n_steps` have a season that is expected.

    A third of it must be there twice. Of n differences n - period pairs are a period
    apart, and their products are what is averaged: with all n in their place, of two
    seasons the autocorrelation could be no more than a half.
    """
    n_differences = n_steps - 1
    n_pairs = n_differences - period
    if 3 * n_pairs < period:
        return False
    acf = _autocorrelation(np.diff(x, axis=1), period)
    limit = _limit(acf, period, SEASONALITY_Z, n_steps * len(x))
    return bool(acf[period] * n_differences / n_pairs > limit)


def _period_behind_noise(x, max_lag) -> int:
    """Return the period that explains how series (n, T) vary about their moving mean.

    The peaks of the autocorrelation of the series less that mean are tried, and the
    shortest kept that explains nearly as much as the best; 1 if none explains enough.
    """
    width = min(max_lag, x.shape[1] // 2)
    filled = np.where(np.isnan(x), np.nanmean(x, axis=1, keepdims=True), x)
    total = np.cumsum(np.pad(filled, ((0, 0), (1, 0))), axis=1)
    moving = (total[:, width:] - total[:, :-width]) / width  # of `width` values
    middle = width // 2
    level = x[:, middle : middle + moving.shape[1]] - moving
    peaks = _highest_peaks(_autocorrelation(level, max_lag), 5)
    return _shortest_that_explains(x, peaks, share=0.7) or 1


def _shortest_that_explains(x, peaks, share) -> int | None:
    """Return the shortest period that explains nearly as much as the best; None if none.

    A peak may be at several seasons, and noise moves it by a step or two.
    """
    candidates = {
        max(round(p / n) + k, 2)
        for p in peaks
        for n in (1, 2, 3, 4)
        for k in range(-2, 3)
    }
    explained = {p: _explained_by_phase(x, p) for p in candidates}
    best = max(explained.values(), default=0.0)
    if best < MIN_EXPLAINED:
        return None
    return min(p for p, much in explained.items() if much > share * best)


def grows_with_level(array: SeriesArray, period: int) -> bool:
    """Return whether variation grows with the level, so that logs even it out.

    All values must be positive. The slope of log(standard deviation) on log(mean) over
    blocks of a season (or of 8 steps) within series is near 1 for multiplicative data
    and 0 for additive (Guerrero, 1993); 0.5 divides them.
    """
    chosen = np.unique(np.linspace(0, len(array) - 1, min(len(array), 500)).astype(int))
    block = period if period > 1 else 8
    n_blocks = int(min(array.lengths[chosen].max() // block, 60))
    positions = array.stops[chosen, None] - n_blocks * block + np.arange(n_blocks * block)
    values = array.gather(chosen, positions)
    observed = ~np.isnan(values)
    if not observed.any() or (values[observed] <= 0).any() or n_blocks < 3:
        return False
    blocks = values.reshape(len(chosen), n_blocks, block)
    complete = observed.reshape(blocks.shape).all(axis=2)
    mean, deviation = blocks.mean(axis=2), blocks.std(axis=2)
    complete &= deviation > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = np.log(mean), np.log(deviation)
    weight = complete / np.maximum(complete.sum(axis=1, keepdims=True), 1)
    x = np.where(complete, x, 0.0)
    y = np.where(complete, y, 0.0)
    x = np.where(complete, x - (x * weight).sum(axis=1, keepdims=True), 0.0)
    y = np.where(complete, y - (y * weight).sum(axis=1, keepdims=True), 0.0)
    spread = (x**2).sum()
    if spread <= 1e-3 * complete.sum():
        return False  # the level hardly moves: logs would change nothing
    return bool((x * y).sum() / spread > 0.5)
