"""What moved a forecast: the part of `sklstm.inspection` that is about forecasters."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from sklearn.utils import Bunch

from sklstm.base import check_forecaster
from sklstm.series import to_table


def forecast_effects(forecaster, fh=None, X=None, *, lags=None):
    """Return which past values and which columns of X moved which step of a forecast.

    By occlusion [1]_: the effect of a value is the forecast less the forecast made with
    that value missing, which the forecaster understands. Goes through everything
    between data and forecast (normalisation, logarithms, seasonal naive forecast, all
    networks, trained and pretrained), on the scale of y. Effects do not add up to the
    forecast: neighbours of a missing value stand in for it.

    Parameters
    ----------
    forecaster : LSTMForecaster
        Fitted.
    fh : int, sequence or ForecastingHorizon, default=None
        Steps ahead, none of them in-sample. None: the last one given.
    X : DataFrame, default=None
        As in `predict`.
    lags : int or sequence of int, default=None
        Which past values: 1 is the last one of each series. An int means 1 to that.
        None: two seasons, at least 24, at most the longest series.

    Returns
    -------
    result : Bunch
        effects : ndarray of shape (n_rows, n_columns, n_lags), float64
            In units of y; a row for each row of the forecast. 0 where a series is
            shorter than the lag.
        exog_effects : ndarray of shape (n_rows, n_columns, n_exog), float64
            The forecast less that with this column of X at its mean in training, in the
            past and the future.
        forecast : ndarray of shape (n_rows, n_columns), float64
            As `predict` returns it.
        lags : ndarray of shape (n_lags,), int64
            Steps back from the end of each series.
        columns, exog_columns : list
            Names of the columns of y and of X.
        index : Index
            Of the forecast.

    Raises
    ------
    ValueError
        If fh has in-sample steps, or a lag is less than 1.

    References
    ----------
    .. [1] Zeiler, M., Fergus, R. (2014). Visualizing and understanding convolutional
       networks. ECCV.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> from sklstm.inspection import forecast_effects
    >>> forecaster = LSTMForecaster().fit(load_airline(), fh=[1, 6])
    >>> result = forecast_effects(forecaster)
    >>> lag = result.lags[abs(result.effects[:, 0]).argmax(axis=1)]
    >>> lag.tolist()  # July 1960 says most of June 1961's forecast
    [12, 7]
    """
    twin, fh, X = _twin(forecaster, fh, X)
    y, past = twin._context()
    table = to_table(y, past)
    if not fh.is_all_out_of_sample(twin.cutoff):
        raise ValueError("fh has in-sample steps; lags count back from a series' end.")
    longest = int(table.lengths.max())
    if lags is None:
        lags = min(max(24, 2 * forecaster.model_.period), longest)
    given = lags
    lags = np.arange(1, lags + 1) if np.ndim(lags) == 0 else np.asarray(lags)
    if not len(lags) or lags.dtype.kind not in "iu" or lags.min() < 1:
        raise ValueError(f"lags must be integers of at least 1, got {given!r}.")
    forecast, index = _median(twin, fh, X)
    values = table.frame.to_numpy(dtype=np.float64)
    effects = np.zeros((*forecast.shape, len(lags)))
    for k, lag in enumerate(lags):
        rows = table.offsets[1:][table.lengths >= lag] - lag
        if not len(rows):
            continue
        occluded = values.copy()
        occluded[rows] = np.nan
        twin._cur_y = _like(table.frame, occluded)
        effects[:, :, k] = forecast - _median(twin, fh, X)[0]
    twin._cur_y = table.frame
    exog_columns = list(forecaster.model_.exog_columns)
    exog_effects = np.zeros((*forecast.shape, len(exog_columns)))
    for k in range(len(exog_columns)):
        # A missing value of X is read as its mean in training.
        twin._cur_X, future = (_without_column(frame, k) for frame in (past, X))
        exog_effects[:, :, k] = forecast - _median(twin, fh, future)[0]
    return Bunch(
        effects=effects,
        exog_effects=exog_effects,
        forecast=forecast,
        lags=lags,
        columns=_columns(forecaster),
        exog_columns=exog_columns,
        index=index,
    )


def forecast_components(forecaster, fh=None, X=None):
    """Split a forecast into its base and what the LSTM adds to it.

    The network of a forecaster corrects a base: the seasonal naive forecast, plus fixed
    shares of the window's trend and of the way to the mean season, plus, in every other
    network that is trained, a linear map of the window. `base` is the forecast with
    the correction left out, through everything that follows (logarithms, the mean or
    median over networks, limits), and `lstm` what is then missing, so that they add up
    to `predict`. X acts through the LSTM alone. For steps beyond the horizon, `base`
    builds on itself.

    Parameters
    ----------
    forecaster : LSTMForecaster
        Fitted.
    fh : int, sequence or ForecastingHorizon, default=None
        None: the last one given.
    X : DataFrame, default=None
        As in `predict`.

    Returns
    -------
    result : Bunch
        forecast : ndarray of shape (n_rows, n_columns), float64
            As `predict` returns it: base + lstm.
        base, lstm : ndarray of shape (n_rows, n_columns), float64
            Without the correction, and what it adds.
        seasonal_naive, trend : ndarray of shape (n_rows, n_columns), float64
            What `base` is made of: the last season repeated, and all else.
        columns : list
            Names of the columns of y.
        index : Index
            Of the forecast.

    Raises
    ------
    TypeError
        If `forecaster` is no LSTMForecaster.

    Examples
    --------
    >>> import numpy as np
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> from sklstm.inspection import forecast_components
    >>> y = load_airline()
    >>> forecaster = LSTMForecaster().fit(y, fh=range(1, 13))
    >>> parts = forecast_components(forecaster)
    >>> bool(np.allclose(parts.seasonal_naive[:, 0], y[-12:]))
    True
    >>> bool(np.allclose(parts.base + parts.lstm, forecaster.predict().to_frame()))
    True
    """
    twin, fh, X = _twin(forecaster, fh, X)
    model = twin.model_
    forecast, index = _median(twin, fh, X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `predict` warns of its own limits
        twin.model_ = _without_correction(model, keep_trend=True)
        base = _median(twin, fh, X)[0]
        twin.model_ = _without_correction(model, keep_trend=False)
        seasonal_naive = _median(twin, fh, X)[0]
    return Bunch(
        forecast=forecast,
        base=base,
        lstm=forecast - base,
        seasonal_naive=seasonal_naive,
        trend=base - seasonal_naive,
        columns=_columns(forecaster),
        index=index,
    )


def _twin(forecaster, fh, X):
    """Return a copy to change, and fh and X as sktime hands them to `_predict`."""
    check_forecaster(forecaster)
    twin = copy.copy(forecaster)
    return twin, twin._check_fh(fh), twin._check_X(X=X)


def _columns(forecaster):
    """Return the columns of its forecasts, in the order that `predict` has them."""
    names, columns = list(forecaster._get_varnames()), list(forecaster._cur_y.columns)
    return names if set(names) == set(columns) else columns


def _median(forecaster, fh, X):
    """Return the forecast (n_rows, n_columns) and its index."""
    quantiles, index = forecaster._forecast(fh, X)
    return quantiles[:, :, quantiles.shape[2] // 2], index


def _like(frame, values):
    """Return a frame with the index and columns of another."""
    return type(frame)(values, index=frame.index, columns=frame.columns)


def _without_column(frame, column):
    if frame is None:
        return None
    values = frame.to_numpy(dtype=np.float64, copy=True)
    values[:, column] = np.nan
    return _like(frame, values)


def _without_correction(model, *, keep_trend):
    """Return a model whose networks forecast their base, or the last season alone."""
    bare = {}

    def strip(member):
        member = copy.copy(member)
        if id(member.network) not in bare:
            network = copy.deepcopy(member.network)
            middle = network.config["n_quantiles"] // 2
            with torch.no_grad():
                network.mixing.weight.zero_()
                network.correction.weight[middle] = 0
                network.correction.bias[middle] = 0
                if not keep_trend:
                    network.shares.zero_()
                if not keep_trend and network.linear is not None:
                    network.linear.weight.zero_()
            bare[id(member.network)] = network
        member.network = bare[id(member.network)]
        return member

    model = copy.copy(model)
    model.trained = [strip(member) for member in model.trained]
    model.pretrained = [strip(member) for member in model.pretrained]
    return model
