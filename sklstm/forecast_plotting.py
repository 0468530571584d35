"""Pictures of forecasts: the part of `sklstm.plotting` that is about time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d

from sklstm.base import check_counts, check_forecaster, is_forecaster
from sklstm.drawing import (
    BLACK,
    BLUE,
    COLORS,
    VERMILLION,
    legend,
    light,
    lone,
    name_values,
    new_axes,
)
from sklstm.sequences import require_same_instances

INSTEAD = " Use from_predictions for forecasts of others."


def _parts(frame, n_times=1):
    """Return {key of the instance: frame over time}; the key of a single series is ().

    The last `n_times` levels of the index are times.
    """
    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"Expected a pandas Series or DataFrame, got {type(frame).__name__}."
        )
    if frame.index.nlevels == n_times:
        return {(): frame}
    keys = list(range(frame.index.nlevels - n_times))
    # pandas 2 warns of a list of one level.
    groups = frame.groupby(level=keys if len(keys) > 1 else 0, sort=False)
    return {
        key if isinstance(key, tuple) else (key,): part.droplevel(keys)
        for key, part in groups
    }


def _framed(values, index, columns):
    """Return an array as a frame of these rows and columns; anything else as it is."""
    if not isinstance(values, np.ndarray):
        return values
    rows = values[:, None] if values.ndim == 1 else values
    if rows.shape != (len(index), len(columns)):
        raise ValueError(
            f"An array must have {len(index)} rows, one for each time, and "
            f"{len(columns)} columns; got the shape {values.shape}. Give a Series or "
            "DataFrame instead."
        )
    return pd.DataFrame(rows, index=index, columns=columns)


def _series_of(frame):
    """Return {(*instance, column): Series} of data of sktime."""
    return {
        (*key, column): part.iloc[:, k]
        for key, part in _parts(frame).items()
        for k, column in enumerate(part.columns)
    }


def _quantiles_of(frame):
    """Return {(*instance, variable): frame with a column per level}."""
    columns = frame.columns if isinstance(frame, pd.DataFrame) else pd.Index([])
    if columns.nlevels != 2 or columns.dtypes.iloc[-1].kind != "f":
        raise ValueError(
            "Expected quantiles as predict_quantiles returns them, a frame whose columns "
            f"are (variable, level); got {type(frame).__name__} with the columns "
            f"{list(columns[:3])}."
        )
    return {
        (*key, variable): part[variable]
        for key, part in _parts(frame).items()
        for variable in part.columns.unique(0)
    }


def _named_as(others, found):
    """Return what was found; where both have a single column, by the name of the others.

    So names count only where there are several.
    """
    theirs, ours = ({name[-1] for name in each} for each in (others, found))
    if not len(theirs) == len(ours) == 1:
        return found
    return {(*name[:-1], *theirs): part for name, part in found.items()}


def _at_times_of(forecasts, found, what):
    """Return what was found, at the times of the forecasts."""
    found = {
        name: found[name].reindex(forecast.index)
        for name, forecast in forecasts.items()
        if name in found
    }
    if not any(part.notna().to_numpy().any() for part in found.values()):
        raise ValueError(
            f"{what} has no value for any time of the forecasts that are shown. It must "
            "have instances, columns and times of y_pred."
        )
    return found


def _times(index):
    """Return an index as matplotlib draws it."""
    return index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index


def _line(ax, series, **style):
    """Draw a series over time."""
    ax.plot(_times(series.index), series, **style, **lone(series))


def _label_time(ax, index):
    """Name the time axis, with its frequency, and keep dates short."""
    name = index.name or "Time"
    if isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        from matplotlib import dates  # noqa: PLC0415 - an optional package

        tz = getattr(index, "tz", None)
        # Fewest and most, such that matplotlib has an interval for any span.
        n_ticks = (3, 8) if ax.bbox.width / ax.figure.dpi > 2.6 else (2, 5)
        locator = dates.AutoDateLocator(tz, *n_ticks)
        # Every fourth day would be the 29th, beside the first of the next month.
        locator.intervald[dates.DAILY] = [1, 2, 7, 14]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=tz))
        if getattr(index, "freqstr", None):
            name = f"{name} ({index.freqstr})"
    ax.set_xlabel(name)


def _value_name(series):
    """Return what to call the values of a series."""
    return "y" if series.name in (None, 0) else str(series.name)


def _intervals(fan):
    """Return [(low, high)] of levels that add up to 1, the widest first."""
    levels = sorted(fan.columns)
    pairs = [(low, high) for low in levels for high in levels if low < high]
    return [(low, high) for low, high in pairs if abs(low + high - 1) < 1e-6]


def _mixed(color, share):
    """Return a share of a colour with white."""
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - an optional package

    return 1 - share * (1 - np.array(to_rgb(color)))


class ForecastDisplay:
    """Fan chart: history, forecast and intervals, a panel as a grid.

    Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y, y_pred : Series or DataFrame in an sktime format
        History and forecast.
    y_quantiles : DataFrame, default=None
        As `predict_quantiles` returns it, lined up with y_pred. Levels that add up to 1
        are the ends of one interval.
    y_true : Series, DataFrame or ndarray, default=None
        What came. An array has the rows and columns of y_pred.
    n_history : int, default=None
        Last steps of the history that are shown. None: three times the forecast, at
        least 24.
    max_series : int, default=6
        Series of a panel, and columns, that are shown.

    Attributes
    ----------
    ax_ : Axes or ndarray of Axes
        One per series if there are several.
    figure_ : Figure

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> from sklstm.plotting import ForecastDisplay
    >>> forecaster = LSTMForecaster().fit(load_airline(), fh=range(1, 13))
    >>> display = ForecastDisplay.from_estimator(forecaster)
    >>> display.ax_.get_xlabel()
    'Period (M)'
    """

    def __init__(
        self, y, y_pred, *, y_quantiles=None, y_true=None, n_history=None, max_series=6
    ):
        self.y = y
        self.y_pred = y_pred
        self.y_quantiles = y_quantiles
        self.y_true = y_true
        self.n_history = n_history
        self.max_series = max_series

    @classmethod
    def from_estimator(
        cls, forecaster, fh=None, X=None, *, y_true=None, coverage=(0.5, 0.8, 0.9),
        n_history=None, max_series=6, ax=None,
    ):  # fmt: skip
        """Forecast with a fitted forecaster and draw it.

        Parameters
        ----------
        forecaster : LSTMForecaster
            Fitted. Its history is what it has seen.
        fh, X :
            As in `predict`.
        y_true : Series, DataFrame or ndarray, default=None
            What came, to draw over the forecast. An array has a row for each step of
            fh.
        coverage : sequence of float in (0, 1), default=(0.5, 0.8, 0.9)
            Of the intervals.
        n_history, max_series :
            As in the class.
        ax : Axes, default=None
            None: a new figure. Divided if there are several series.

        Returns
        -------
        display : ForecastDisplay

        Raises
        ------
        TypeError, NotFittedError
            If this is no forecaster of this package, or it is not fitted.
        ValueError
            If fh, X or coverage do not fit it, or as in `plot`.
        """
        check_forecaster(forecaster, INSTEAD)
        coverage = np.atleast_1d(coverage)
        alpha = np.concatenate([(1 - coverage) / 2, [0.5], (1 + coverage) / 2])
        # Of a copy: what `predict` forecasts next is not changed by a picture.
        y_quantiles = forecaster._aside().predict_quantiles(
            fh=fh, X=X, alpha=np.sort(alpha).round(10).tolist()
        )
        # A frame with times even where `predict` returns an array.
        y_pred = y_quantiles.xs(0.5, axis=1, level=1)
        history = forecaster._context()[0]
        if set(history.columns) != set(y_pred.columns):  # those of an array
            history = history.set_axis(y_pred.columns, axis=1)
        return cls.from_predictions(
            history, y_pred, y_quantiles=y_quantiles, y_true=y_true,
            n_history=n_history, max_series=max_series, ax=ax,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y, y_pred, *, y_quantiles=None, y_true=None, n_history=None, max_series=6,
        ax=None,
    ):  # fmt: skip
        """Draw a forecast that any forecaster made.

        Parameters
        ----------
        y, y_pred, y_quantiles, y_true, n_history, max_series :
            As in the class.
        ax : Axes, default=None

        Returns
        -------
        display : ForecastDisplay

        Raises
        ------
        TypeError, ValueError
            As in `plot`.
        """
        return cls(
            y, y_pred, y_quantiles=y_quantiles, y_true=y_true, n_history=n_history,
            max_series=max_series,
        ).plot(ax=ax)  # fmt: skip

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : ForecastDisplay

        Raises
        ------
        TypeError
            If y, y_pred or y_true are no Series or frames.
        ValueError
            If y_pred has series that y has not, y_quantiles are no quantiles, they or
            y_true have nothing at the times of the forecasts that are shown, or
            n_history or max_series is less than 1.
        """
        check_counts(max_series=self.max_series)
        if self.n_history is not None:
            check_counts(n_history=self.n_history)
        forecasts = _series_of(self.y_pred)
        history = _named_as(forecasts, _series_of(self.y))
        names = [*forecasts][: self.max_series]
        unknown = [name for name in names if name not in history]
        if unknown:
            raise ValueError(f"y_pred has the series {unknown[0]}, which y has not.")
        shown, fans, truths = {name: forecasts[name] for name in names}, {}, {}
        if self.y_quantiles is not None:
            fans = _named_as(forecasts, _quantiles_of(self.y_quantiles))
            fans = _at_times_of(shown, fans, "y_quantiles")
        if self.y_true is not None:
            columns = [*dict.fromkeys(name[-1] for name in forecasts)]
            y_true = _framed(self.y_true, self.y_pred.index, columns)
            truths = _named_as(forecasts, _series_of(y_true))
            truths = _at_times_of(shown, truths, "y_true")
        n_columns = min(len(names), 3 if len(names) > 4 else 2)
        n_rows = -(-len(names) // n_columns)
        size = (7, 3.8) if len(names) == 1 else (3.8 * n_columns, 2.7 * n_rows)
        axes = new_axes(ax, n_rows, n_columns, size=size, titled=True).ravel()
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        several_columns = len({name[-1] for name in names}) > 1
        for k, (axis, name) in enumerate(zip(axes, names, strict=False)):
            self._draw(axis, history[name], shown[name], fans.get(name), truths.get(name))
            if len(names) > 1:
                title = name if several_columns else name[:-1]
                axis.set_title(", ".join(map(str, title)), fontsize="medium")
                axis.tick_params(labelsize="small")
                if several_columns or k % n_columns:
                    axis.set_ylabel("")
                if k + n_columns < len(names):
                    axis.set_xlabel("")
        axes = axes[: len(names)]
        if ax is None or len(axes) == 1:
            legend(axes, ax)
        self.ax_ = axes if len(axes) > 1 else axes[0]
        self.figure_ = axes[0].figure
        return self

    def _draw(self, ax, past, forecast, fan, truth):
        n_history = self.n_history or max(24, 3 * len(forecast))
        past = past.iloc[-n_history:]
        times = _times(forecast.index)
        intervals = [] if fan is None else _intervals(fan)
        for k, (low, high) in enumerate(intervals):
            # Blue mixed with white, the less the narrower the interval.
            share = 0.15 + 0.4 * (k + 1) / len(intervals)
            ends = fan[low].astype(float), fan[high].astype(float)
            style = {
                "color": _mixed(BLUE, share),
                "label": f"{100 * (high - low):.4g}% interval",
            }
            if len(fan) > 1:
                ax.fill_between(times, *ends, lw=0, **style)
            else:  # which would have no width
                ax.vlines(times, *ends, lw=9 * (1 - k / len(intervals)), **style)
        _line(ax, past, color=BLACK, lw=1.2, label="history")
        # The forecast starts where the history ends.
        joined = pd.concat([past.iloc[-1:], forecast])
        gap = len(forecast) and forecast.index[0] > past.index[-1]
        drawn = joined if gap else forecast
        label = "forecast" if self.y_quantiles is None else "median forecast"
        _line(ax, drawn, color=BLUE, lw=1.8, label=label)
        if truth is not None:
            _line(ax, truth, color=VERMILLION, lw=1.2, ls="--", label="actual")
        name_values(ax, _value_name(past))
        ax.margins(x=0.02)
        _label_time(ax, past.index)
        light(ax)


class BacktestDisplay:
    """Forecasts from many cutoffs over the series, and their error by cutoff.

    Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y : Series, DataFrame or ndarray
        An array is one series, (n_timesteps,) or (n_timesteps, n_columns).
    forecasts : DataFrame
        As `LSTMForecaster.backtest` returns it.
    instance : key or None, default=None
        Which series of a panel. None: the first that has forecasts.
    column : int, default=0
        Which column of y; that of the forecasts has the same name, if one has, else the
        same place.
    max_cutoffs : int, default=12
        Cutoffs, evenly chosen, whose forecasts are drawn. Errors are of all.

    Attributes
    ----------
    ax_ : ndarray of shape (2,) of Axes
        Forecasts; mean absolute error by cutoff.
    figure_ : Figure
    errors_ : Series
        Mean absolute error of the forecasts from each cutoff.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> from sklstm.plotting import BacktestDisplay
    >>> y = load_airline()
    >>> forecaster = LSTMForecaster().fit(y[:96], fh=range(1, 7))
    >>> display = BacktestDisplay.from_estimator(forecaster, y, initial_window=96)
    >>> len(display.errors_)
    48
    """

    def __init__(self, y, forecasts, *, instance=None, column=0, max_cutoffs=12):
        self.y = y
        self.forecasts = forecasts
        self.instance = instance
        self.column = column
        self.max_cutoffs = max_cutoffs

    @classmethod
    def from_estimator(
        cls, forecaster, y, X=None, *, fh=None, step=1, initial_window=None,
        instance=None, column=0, max_cutoffs=12, ax=None,
    ):  # fmt: skip
        """Backtest a fitted forecaster and draw it.

        Parameters
        ----------
        forecaster : LSTMForecaster
            Fitted.
        y, X, fh, step, initial_window :
            As in `LSTMForecaster.backtest`.
        instance, column, max_cutoffs :
            As in the class.
        ax : Axes, default=None
            None: a new figure. Divided otherwise.

        Returns
        -------
        display : BacktestDisplay

        Raises
        ------
        TypeError, NotFittedError
            If this is no forecaster of this package, or it is not fitted.
        ValueError
            As in `LSTMForecaster.backtest` and `plot`.
        """
        check_forecaster(forecaster, INSTEAD)
        forecasts = forecaster.backtest(
            y, X, fh=fh, step=step, initial_window=initial_window
        )
        return cls.from_predictions(
            y, forecasts, instance=instance, column=column, max_cutoffs=max_cutoffs,
            ax=ax,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y, forecasts, *, instance=None, column=0, max_cutoffs=12, ax=None
    ):
        """Draw forecasts from many cutoffs.

        Parameters
        ----------
        y, forecasts, instance, column, max_cutoffs :
            As in the class.
        ax : Axes, default=None

        Returns
        -------
        display : BacktestDisplay

        Raises
        ------
        TypeError, ValueError
            As in `plot`.
        """
        return cls(
            y, forecasts, instance=instance, column=column, max_cutoffs=max_cutoffs
        ).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : BacktestDisplay

        Raises
        ------
        TypeError
            If y or forecasts are no Series or frames.
        ValueError
            If there is no forecast, `instance` or `column` is not among those of y, an
            array is not one series, or max_cutoffs is less than 1.
        """
        check_counts(max_cutoffs=self.max_cutoffs)
        actual, forecasts = self._chosen()
        if not len(forecasts):
            raise ValueError(
                f"There is no forecast to draw: of {len(actual)} rows of y none is left "
                "after initial_window. Lower it, or give more rows."
            )
        times = forecasts.index.get_level_values("time")
        error = (forecasts - actual.reindex(times).to_numpy()).abs()
        self.errors_ = error.groupby(level="cutoff").mean()
        cutoffs = self.errors_.index
        axes = new_axes(ax, 2, size=(7, 4.8), height_ratios=[3, 1], hspace=0.08)
        upper, lower = axes[:, 0]
        first = np.searchsorted(actual.index, cutoffs[0])
        shown = actual.iloc[max(first - (len(actual) - first) // 2, 0) :]
        _line(upper, shown, color=BLACK, lw=1.2, label="actual", zorder=3)
        n_drawn = min(self.max_cutoffs, len(cutoffs))
        drawn = np.unique(np.linspace(0, len(cutoffs) - 1, n_drawn).astype(int))
        for k, cutoff in enumerate(cutoffs[drawn]):
            path = forecasts.xs(cutoff, level="cutoff")
            start = actual[actual.index == cutoff]
            joined = pd.concat([start, path])
            color = (BLUE, COLORS[1])[k % 2]
            label = None if k else "forecasts"
            _line(upper, joined, color=color, lw=1.5, label=label)
            upper.plot(
                _times(start.index), start, "o", ms=4.5, color=color, zorder=4,
                label=None if k else "cutoffs",
            )  # fmt: skip
        errors = self.errors_
        lower.plot(_times(errors.index), errors, color=BLUE, lw=1, marker=".", ms=4)
        mean = float(errors.mean())
        label = f"mean over cutoffs: {mean:.3g}"
        lower.axhline(mean, color=VERMILLION, lw=1, ls="--", label=label)
        for axis in (upper, lower):
            axis.set_xlim(*_times(shown.index[[0, -1]]))
            light(axis)
            _label_time(axis, actual.index)
        upper.set_xlabel("")
        name_values(upper, _value_name(actual))
        upper.tick_params(labelbottom=False)
        lower.set(xlabel=f"Cutoff, {lower.get_xlabel()}", ylabel="Mean abs.\nerror")
        lower.set_ylim(bottom=0)
        upper.figure.align_ylabels([upper, lower])
        legend([upper, lower], ax)
        self.ax_, self.figure_ = np.array([upper, lower]), upper.figure
        return self

    def _chosen(self):
        """Return the actual values and the forecasts of one series."""
        forecasts = _parts(self.forecasts, n_times=2)
        theirs = list(self.forecasts.columns)
        parts = _parts(_framed(self.y, pd.RangeIndex(len(self.y)), theirs))
        key = next((key for key in parts if key in forecasts), next(iter(parts)))
        if self.instance is not None:
            key = self.instance if isinstance(self.instance, tuple) else (self.instance,)
        if key not in parts:
            raise ValueError(f"instance={self.instance!r} is not among those of y.")
        actual, forecast = parts[key], forecasts.get(key, self.forecasts[:0])
        ours, column = list(actual.columns), self.column
        if column not in range(len(ours)):
            raise ValueError(
                f"column must be from 0 to {len(ours) - 1}, one of the columns {ours} of "
                f"y; got {column!r}."
            )
        if ours[column] not in theirs and len(ours) != len(theirs):
            raise ValueError(
                f"The forecasts have no column {ours[column]!r} of y, but {theirs}."
            )
        name = ours[column] if ours[column] in theirs else theirs[column]
        return actual[ours[column]], forecast[name]


class QuantileCalibrationDisplay:
    """How often what came was below each predicted quantile.

    On the diagonal quantiles say what they mean. Use `from_estimator` or
    `from_predictions`.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
    observed : ndarray of shape (n_levels,)
        Share of the values at or below the quantile.
    n_values : int
        Values that were predicted; the bars are 95 % Wilson intervals [1]_ of as many
        independent ones. Errors of neighbouring steps depend on each other, so truly
        they are wider.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure

    References
    ----------
    .. [1] E. B. Wilson (1927). Probable inference, the law of succession, and
       statistical inference. Journal of the American Statistical Association 22.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm.plotting import QuantileCalibrationDisplay
    >>> y = np.arange(10.0)
    >>> display = QuantileCalibrationDisplay.from_predictions(
    ...     y, np.tile([1.5, 8.5], (10, 1)), levels=[0.2, 0.9]
    ... )
    >>> display.observed
    array([0.2, 0.9])
    """

    def __init__(self, levels, observed, n_values):
        self.levels = levels
        self.observed = observed
        self.n_values = n_values

    @classmethod
    def from_estimator(cls, estimator, X, y, *, fh=None, levels=None, ax=None):
        """Predict quantiles with a fitted estimator and compare them with what came.

        Parameters
        ----------
        estimator : LSTMRegressor or LSTMForecaster
            Fitted; the regressor with ``loss="quantile"`` and several quantiles.
        X : array-like of sequences, or DataFrame or None
            Sequences for the regressor; for the forecaster, exogenous data of the
            steps of fh.
        y : array-like of shape (n_samples,), Series or DataFrame
            What came. For a forecaster a Series, a DataFrame, or an array with a row for
            each step of fh.
        fh : int, sequence or ForecastingHorizon, default=None
            Of the forecaster. None: the last one given.
        levels : sequence of float in (0, 1), default=None
            Quantiles to look at. None: those that the forecaster was trained on.
            Ignored for a regressor, which has its own.
        ax : Axes, default=None

        Returns
        -------
        display : QuantileCalibrationDisplay

        Raises
        ------
        ValueError
            If the regressor has no quantiles, X or fh do not fit, y has its instances
            in another order than X, or has no value for any step.
        """
        if is_forecaster(estimator):
            levels = list(estimator.model_.quantiles if levels is None else levels)
            # Of a copy: what `predict` forecasts next is not changed by a picture.
            twin = estimator._aside()
            quantiles = twin.predict_quantiles(fh=fh, X=X, alpha=levels)
            return cls.from_predictions(y, quantiles, ax=ax)
        levels = getattr(estimator.head_, "quantiles", None)
        if levels is None:
            raise ValueError(
                'The calibration of a regressor needs loss="quantile" and quantiles to '
                "predict, such as quantile=[0.1, 0.5, 0.9]."
            )
        require_same_instances(X, y)
        if estimator._per_step:
            y, quantiles, _ = estimator._flat_steps(X, y, None)
        else:
            quantiles = estimator.predict(X)
        y = np.asarray(y, dtype=np.float64).ravel()
        quantiles = quantiles.reshape(-1, len(levels))
        return cls.from_predictions(y, quantiles, levels=levels, ax=ax)

    @classmethod
    def from_predictions(cls, y, quantiles, *, levels=None, ax=None):
        """Compare predicted quantiles with what came.

        Parameters
        ----------
        y : array-like of shape (n_values,)
            Of a frame of quantiles a Series, a DataFrame, or an array with its rows.
        quantiles : array-like of shape (n_values, n_levels), or DataFrame
            The latter as `predict_quantiles` returns it: it is lined up with y.
        levels : sequence of float in (0, 1), default=None
            Levels of an array. Ignored for a frame, which has its own.
        ax : Axes, default=None

        Returns
        -------
        display : QuantileCalibrationDisplay

        Raises
        ------
        ValueError
            If quantiles and levels do not fit y, or y has no value for any of them.
        """
        if hasattr(quantiles, "columns"):
            parts = _quantiles_of(quantiles)
            y = _framed(y, quantiles.index, quantiles.columns.unique(0))
            actual = _named_as(parts, _series_of(y))
            parts = {name: part for name, part in parts.items() if name in actual}
            if not parts:
                raise ValueError("y and quantiles have no series in common.")
            levels = sorted(next(iter(parts.values())).columns)
            for (*_, variable), part in parts.items():
                if sorted(part.columns) != levels:
                    raise ValueError(
                        f"The quantiles of {variable!r} have the levels "
                        f"{sorted(part.columns)}, those before them {levels}. Give all "
                        "variables the same."
                    )
            came = [actual[name].reindex(part.index) for name, part in parts.items()]
            y = np.concatenate([each.to_numpy(dtype=float) for each in came])
            quantiles = np.concatenate([part[levels] for part in parts.values()])
        y, quantiles = column_or_1d(y, dtype=float), np.asarray(quantiles, dtype=float)
        if levels is None or quantiles.shape != (len(y), len(levels)):
            raise ValueError(
                f"quantiles of the shape {quantiles.shape} do not fit {len(y)} values of "
                f"y and levels={levels!r}."
            )
        known = ~np.isnan(np.column_stack([y, quantiles])).any(axis=1)
        if not known.any():
            raise ValueError("y has no value for any step of the quantiles.")
        observed = (y[known, None] <= quantiles[known]).mean(axis=0)
        return cls(np.asarray(levels), observed, int(known.sum())).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : QuantileCalibrationDisplay
        """
        ax = new_axes(ax, size=(4.6, 4.4))[0, 0]
        ax.plot([0, 1], [0, 1], color=BLACK, lw=0.8, ls=":", label="calibrated")
        order = np.argsort(self.levels)
        levels, observed = np.take([self.levels, self.observed], order, axis=1)
        # Wilson's interval has a length even where all values are on one side.
        spread = 1.96**2 / self.n_values
        middle = (observed + spread / 2) / (1 + spread)
        half = np.sqrt(spread * (observed * (1 - observed) + spread / 4)) / (1 + spread)
        ax.errorbar(
            levels, observed, yerr=np.abs(middle - observed + half * [[-1], [1]]),
            fmt="o-", color=BLUE, ms=5, lw=1.3, capsize=2.5,
            label=f"{self.n_values} values",
        )  # fmt: skip
        # A little more than from 0 to 1, so that no marker is cut.
        ax.set(
            xlabel="Level of the quantile", ylabel="Share of values below it",
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
        )  # fmt: skip
        ax.legend(loc="best", frameon=False)
        light(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self
