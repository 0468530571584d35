"""LSTMForecaster: one global LSTM behind sktime's forecaster interface.

`_fit` is the table of contents: lay out the series, choose what was left to "auto",
train, calibrate. `_forecast` is the way back.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from dataclasses import replace
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sktime.datatypes import get_cutoff
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
from sktime.utils.validation.forecasting import check_fh

from sklstm.devices import insulated, resolve_device
from sklstm.forecast_model import COPIED_VALUES, forecast_after
from sklstm.forecast_training import (
    STEPS_PER_EPOCH,
    ForecastTraining,
    entries_of,
)
from sklstm.frames import from_plain, to_plain
from sklstm.heads import ForecastHead
from sklstm.horizons import (
    Plan,
    breaks,
    check_regular,
    infer_frequency,
    reference_times,
    relative_steps,
)
from sklstm.modules import CELLS
from sklstm.pretrained import MAX_PERIOD
from sklstm.series import (
    check_same_kind,
    find_period,
    frequency_period,
    in_zone_of,
    merge,
    times_of,
    to_table,
)

AUTO_OR_COUNT = [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")]
MAX_VALUE = 1e300  # sums of such do not overflow
# Attributes that hold what skops cannot write as it is: dates, frames, kinds of columns.
NOT_PLAIN = ("_fh", "_cutoff", "_cur_y", "_cur_X", "_y_metadata")


class LSTMForecaster(ForecastTraining, BaseForecaster):
    """Forecast one series or thousands with one long short-term memory network.

    All series, and all columns of a multivariate series, share one network, trained on
    random windows of all of them. A window is normalised, read by the recurrence, and
    all steps are decoded at once from its final state; the network learns a correction
    to the seasonal naive forecast. It is trained on quantiles. Short series are
    forecast without training, by a network that comes with the package.

    All parameters may be left as they are. They are in groups: what is read and how far
    ahead (from `horizon`), the network (from `segment_length`), what it learns (from
    `scaling`), training (from `n_members`), where and how to run (from `device`).

    Parameters
    ----------
    horizon : int or None, default=None
        Steps decoded at once. A longer horizon is reached in blocks. None: the largest
        step of `fh` in `fit`, else two seasons (at least 8); at most a third of the
        longest series. Where nothing is trained at most 48, and 48 for None.
    window_length : int or "auto", default="auto"
        Steps the network sees, rounded up to whole segments. "auto": for seasons of 24
        steps or more 14 of them, but no more than the larger of 720 steps and 3 seasons;
        4 shorter ones; 24 steps without a season; at least the horizon where that is at
        most 96; at most the longest series. Kept in `window_length_`.
    sp : int or "auto", default="auto"
        Seasonal period in steps; 1 for none. "auto": what the frequency of the index
        suggests, if about one and a half seasons or more show signs of it; without a
        frequency the highest peak of the autocorrelation, if that is significant. In
        `sp_`.
    segment_length : int or "auto", default="auto"
        Steps that the recurrence reads at once. "auto": 1 for windows up to 64 steps,
        else a season of 8 to 48 steps, else 24. In `segment_length_`.
    hidden_size : int or "auto", default="auto"
        "auto": 32 for up to 2000 observations, 64 for up to 100,000 or without
        segments, else 128. In `hidden_size_`.
    num_layers : int, default=1
        Recurrent layers, one upon the other.
    cell : {"lstm", "peephole", "gru"}, default="lstm"
        Recurrent cell, as in `LSTMClassifier`.
    dropout : float in [0, 1), default=0.2
        Probability with which an output of a recurrent layer is dropped in training.
        Ignored where that starts from the pretrained weights.
    scaling : {"auto", "season", "last", "standard", "none"}, default="auto"
        What a window is normalised by: the mean of its last season and the mean
        absolute deviation from it ("season"; without a season, the last value), its
        last value, or its mean and standard deviation. "auto": "season".
    transform : {"auto", "log", "none"}, default="auto"
        Taken before all else. "auto": "log" if all values are positive and variation
        grows with the level. In `transform_`.
    quantiles : tuple of float, default=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
        Levels to train, ascending, an odd number with 0.5 in the middle. Others are
        interpolated.
    n_members : int or "auto", default="auto"
        Networks to train, whose median is the forecast. "auto": 4 where there are at
        most 2000 observations, else 1. In `n_members_`.
    max_steps : int or "auto", default="auto"
        Training steps, rounded to whole entries of `history_`. "auto": 300 for up to
        2000 observations, and for up to 20,000 with a season of less than 24 steps; 1000
        up to 100,000, else 1500.
    batch_size : int or "auto", default="auto"
        Windows per step. "auto": 32 for up to 2000 observations, else 256.
    learning_rate_init : float, default=3e-3
        Highest rate of the one-cycle schedule.
    alpha : float, default=0.01
        Decoupled weight decay (AdamW).
    max_grad_norm : float or None, default=1.0
        Gradients are scaled down to this norm. None: never.
    early_stopping : bool or "auto", default="auto"
        Whether to keep the weights that forecast best what is not trained on. With 40
        series or more a fifth of them is set aside for that. With fewer, "auto" does
        nothing; True holds the last `horizon` values of each series back. With True
        training stops when 250 steps bring no gain.
    pretrained : {"auto", "only", None}, default="auto"
        Use of the network that comes with the package, which was trained on generated
        series. None: never used. "only": it forecasts, and nothing is ever trained.
        "auto", by what there is:

        - at most 2000 values, or 20,000 with seasons of less than 24 steps: it forecasts
          by itself, nothing is trained;
        - up to 100,000 values with such seasons, and in `pretrain` with such seasons: a
          network is trained from its weights on (`fine_tuned_`), 150 steps of 128
          windows at a tenth of `learning_rate_init`;
        - more, or longer seasons: a network is trained from random weights on;
        - what was trained is averaged with it, with the share `pretrained_share_` that
          was best on series set aside (with fewer than 40 series: half if fine-tuned or
          for up to 20,000 values, else nothing);
        - it is not used with X, which needs a network that was trained with it, with
          seasons of more than 60 steps, for horizons of more than 48 steps beside a
          trained network, or where one of these is given: `window_length`,
          `segment_length`, `hidden_size`, `num_layers`, `cell`, `scaling`, `transform`,
          `n_members`, `max_steps`, `batch_size`, ``early_stopping=True``.

        Columns of a multivariate y are series of it. Of hours and half-hours up to six
        weeks are read, for the time of the week.
    update_steps : int, default=50
        Training steps of ``update(update_params=True)``, on windows of old and new data
        at a tenth of the learning rate. Ignored where nothing was trained.
    device : str, default="auto"
        "auto" (CUDA if there is a GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps".
    dtype : {"float32", "bfloat16"}, default="float32"
        "bfloat16" trains in mixed precision and forecasts in float32; it pays on
        hardware that has it. Ignored where nothing is trained.
    random_state : int, RandomState instance or None, default=None
        Drives initial weights, windows, dropout and the series set aside. None: a fresh
        seed from the operating system at each fit. Ignored where nothing is trained.
    checkpoint : path-like or None, default=None
        File in which training that takes long, in `fit` and `pretrain`, keeps how far it
        has come, written in at most 5 % of the time. If it is there at the beginning,
        training goes on from it and ends in the same networks as if it had never been
        stopped; a file of other data or parameters is an error that says what differs.
        Removed at the end; Ctrl-C and errors leave it. Each fit needs a path of its own.
        Ignored by `update`, and where nothing is trained.
    verbose : bool, default=False
        Whether to print a line per stage of `fit`.

    Attributes
    ----------
    model_ : ForecastModel
        Networks and how windows are made for them.
    horizon_, window_length_, sp_, segment_length_, hidden_size_ : int
        What was chosen. Where nothing is trained, windows, segments, hidden size and
        `transform_` are those of the first of the pretrained network's views.
    n_members_ : int
        Networks that were trained; 0 if none was.
    fine_tuned_ : bool
        Whether the trained network started at the pretrained weights.
    pretrained_share_ : float
        Weight of the pretrained network in the forecast, 0 to 1.
    transform_ : str
        What was chosen.
    history_ : list of list of float
        Training loss of each member, an entry per `steps_per_entry_` steps.
    steps_per_entry_ : int
        25, or near it where that divides `max_steps` evenly.

    References
    ----------
    .. [1] Hochreiter, S., Schmidhuber, J. (1997). Long short-term memory. Neural
       Computation 9(8).
    .. [2] Lin, S., et al. (2023). SegRNN: segment recurrent neural network for
       long-term time series forecasting. arXiv:2308.11200.
    .. [3] Smyl, S. (2020). A hybrid method of exponential smoothing and recurrent
       neural networks for time series forecasting. Int. J. of Forecasting 36(1).

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> y = load_airline()
    >>> forecaster = LSTMForecaster(max_steps=50, random_state=0)
    >>> y_pred = forecaster.fit(y, fh=[1, 2, 3]).predict()
    >>> y_pred.index[-1]
    Period('1961-03', 'M')
    """

    _tags = {
        "authors": ["sklstm developers"],
        "maintainers": ["sklstm developers"],
        "python_dependencies": "torch",
        "y_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "X_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "capability:multivariate": True,
        "capability:exogenous": True,
        "requires-fh-in-fit": False,
        "X-y-must-have-same-index": False,
        "capability:insample": True,
        "capability:pred_int": True,
        "capability:pred_int:insample": True,
        "capability:missing_values": True,
        "capability:categorical_in_X": False,
        "capability:non_contiguous_X": True,
        "capability:unequal_length": True,
        "capability:update": True,
        "capability:pretrain": True,
        "pretrain:fitted_params": ["pretrained_model_"],
        "capability:random_state": True,
        "property:randomness": "derandomized",
    }
    _parameter_constraints = {
        "horizon": [Interval(Integral, 1, None, closed="left"), None],
        "window_length": AUTO_OR_COUNT,
        "sp": AUTO_OR_COUNT,
        "segment_length": AUTO_OR_COUNT,
        "hidden_size": AUTO_OR_COUNT,
        "n_members": AUTO_OR_COUNT,
        "max_steps": AUTO_OR_COUNT,
        "batch_size": AUTO_OR_COUNT,
        "num_layers": [Interval(Integral, 1, None, closed="left")],
        "cell": [StrOptions(set(CELLS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "scaling": [StrOptions({"auto", "season", "last", "standard", "none"})],
        "transform": [StrOptions({"auto", "log", "none"})],
        "quantiles": ["array-like"],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "pretrained": [StrOptions({"auto", "only"}), None],
        "update_steps": [Interval(Integral, 0, None, closed="left")],
        "device": [str],
        "dtype": [StrOptions({"float32", "bfloat16"})],
        "random_state": ["random_state"],
        "checkpoint": [str, os.PathLike, None],
        "verbose": ["verbose"],
    }
    # sktime 1.2 warns at every construction unless this is set.
    _config = {"remember_data": False}

    def __init__(
        self,
        horizon=None,
        *,
        window_length="auto",
        sp="auto",
        segment_length="auto",
        hidden_size="auto",
        num_layers=1,
        cell="lstm",
        dropout=0.2,
        scaling="auto",
        transform="auto",
        quantiles=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
        n_members="auto",
        max_steps="auto",
        batch_size="auto",
        learning_rate_init=3e-3,
        alpha=0.01,
        max_grad_norm=1.0,
        early_stopping="auto",
        pretrained="auto",
        update_steps=50,
        device="auto",
        dtype="float32",
        random_state=None,
        checkpoint=None,
        verbose=False,
    ):
        self.horizon = horizon
        self.window_length = window_length
        self.sp = sp
        self.segment_length = segment_length
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.dropout = dropout
        self.scaling = scaling
        self.transform = transform
        self.quantiles = quantiles
        self.n_members = n_members
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.max_grad_norm = max_grad_norm
        self.early_stopping = early_stopping
        self.pretrained = pretrained
        self.update_steps = update_steps
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.verbose = verbose
        super().__init__()
        self._y = self._X = None

    def __getstate__(self):
        """Return the attributes for pickle, copy and skops: arrays instead of frames."""
        state = vars(self).copy()
        return state | {
            name: to_plain(state[name]) for name in NOT_PLAIN if name in state
        }

    def __setstate__(self, state):
        vars(self).update(state)
        for name in NOT_PLAIN:
            if name in state:
                setattr(self, name, from_plain(state[name]))

    def __sklearn_clone__(self):
        return self.clone()  # sktime's, which keeps what was pretrained

    # ------------------------------------------------------------------------- fit
    def _fit(self, y, X, fh):
        table = self._read(y, X)
        if "pretrained_model_" in getattr(self, "_pretrained_attrs", []):
            model = self.pretrained_model_
            self._check_columns(table.frame, X, model, needed_by="fit")
            self.model_, self.history_ = self._of_season(model, table), []
        else:
            self.model_, self.history_ = self._train_model(table, X, fh)
        # Copies: what the caller does to his data later is no news of them.
        self._cur_y, self._cur_X = y.copy(), None if X is None else X.copy()
        self._keep_choices()
        return self

    def _of_season(self, model, table):
        """Return a pretrained model with the season of y, if its frequency has another.

        The network of the package knows any; one that was trained anew only its own.
        """
        times = reference_times(table)
        suggested = frequency_period(times)
        if self.sp != "auto" or suggested in (None, model.period):
            return model
        is_new = bool(model.trained) and not model.fine_tuned
        if is_new and model.period == 1:  # none was seen, whatever the frequency was
            return model
        period = find_period(table.flatten().up_to_last_observed(), times)
        if is_new or period > MAX_PERIOD:
            warnings.warn(
                f"What was pretrained knows a season of {model.period} steps, but the "
                f"frequency of y suggests one of {suggested}. Pretrain on "
                f"series of that frequency, or set sp={model.period} if that is right.",
                UserWarning,
                stacklevel=4,
            )
            return model
        model = replace(model, period=period)
        if model.pretrained:
            model.pretrained = self._shipped(model, None)
        return model

    def _pretrain(self, y, X=None, fh=None):
        """Train on a panel what later fits only supply with context."""
        table = self._read(y, X)
        self.pretrained_model_ = self._train_model(table, X, fh, always=True)[0]
        return self

    def _pretrain_update(self, y, X=None, fh=None):
        """Go on training the trained networks on another panel."""
        table = self._read(y, X)
        model = copy.deepcopy(self.pretrained_model_)
        self._check_columns(table.frame, X, model, needed_by="pretrain")
        if model.trained:
            array = model.standardize(table.flatten().up_to_last_observed())
            random, checkpoint = self._begin()
            self._train_networks(model, array, random, checkpoint=checkpoint)
        self.pretrained_model_ = model
        return self

    def _read(self, y, X):
        """Lay out the data and name what cannot be used."""
        if not len(y):
            raise ValueError("y has no rows.")
        table = to_table(y, X)
        check_regular(table)
        _check_finite(table.frame)
        _check_finite(X, "X")
        finite = ~np.isnan(table.values)
        counts = np.add.reduceat(finite, table.offsets[:-1], axis=0)
        if (counts == 0).any():
            i, column = np.argwhere(counts == 0)[0]
            key = table.instances()
            where = "" if key is None else f" of instance {key[i]!r}"
            raise ValueError(
                f"Column {table.frame.columns[column]!r}{where} has no value that is "
                "not missing. Drop it."
            )
        return table

    def update(self, y, X=None, update_params=True):
        """Take new data, as every forecaster of sktime.

        Parameters
        ----------
        y : Series or DataFrame in an sktime format
            Rows that go on what is known, or replace some of it. Rows that were missed
            in between are rows of NaN. An array, which has no index, is the rows 0, 1,
            ... as in all of sktime; there is a warning where nothing is new of it.
        X : DataFrame, default=None
            Exogenous data for all rows of y. Required if `fit` had X.
        update_params : bool, default=True
            Whether to continue training, for `update_steps` steps; else the data are
            read as context of later forecasts alone.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the data do not fit what was fitted. The forecaster is then what it was.
        """
        with self._restored_if_refused():
            if self._is_like_before(y) and self._may_stay(X):
                # As sktime does it, which asks seven times what type y is: that takes
                # as long as a forecast.
                y = pd.DataFrame(y.to_numpy(), y.index, self._cur_y.columns)
                self._set_cutoff_from_y(y)
                self._update(y, X, update_params)
            else:
                self._warn_of_rows_known(y)
                super().update(y, X=X, update_params=update_params)
        return self

    def _warn_of_rows_known(self, y):
        """Warn of an array that replaces what it was most likely meant to go on."""
        if not self.is_fitted or not isinstance(y, np.ndarray):
            return
        last = self._cur_y.index[-1]
        if isinstance(last, Integral) and 0 < len(y) <= last:
            warnings.warn(
                f"y is an array, without an index: its {len(y)} rows are read as the "
                f"first of the series, which is known to row {last}, and forecasts start "
                f"there. To go on from row {last}, pass a Series or frame whose index "
                f"starts at {last + 1}.",
                UserWarning,
                stacklevel=3,
            )

    def update_predict_single(self, y=None, fh=None, X=None, update_params=True):
        """Take new data and forecast from where they end: `update`, then `predict`.

        Parameters
        ----------
        y : Series or DataFrame in an sktime format, default=None
            As in `update`. None: nothing new.
        fh : int, sequence of int or ForecastingHorizon, default=None
            As in `predict`.
        X : DataFrame, default=None
            Exogenous data for all rows of y and the steps of fh. Required if `fit` had X.
        update_params : bool, default=True
            As in `update`.

        Returns
        -------
        y_pred : Series or DataFrame, of the type of y

        Raises
        ------
        ValueError
            If the data or fh do not fit what was fitted. The forecaster is then what it
            was.
        """
        with self._restored_if_refused():
            self.update(y, X=X, update_params=update_params)
            return self.predict(fh=fh, X=X)

    def update_predict(
        self, y, cv=None, X=None, update_params=True, reset_forecaster=True
    ):  # fmt: skip
        """Forecast from many cutoffs, as every forecaster of sktime.

        Parameters
        ----------
        y : Series or DataFrame in an sktime format
            Rows that go on what is known; cutoffs lie among them.
        cv : splitter of sktime, default=None
            Says where, and how far ahead to forecast. None: after each row, one step.
        X : DataFrame, default=None
            Exogenous data for all rows of y. Required if `fit` had X.
        update_params : bool, default=True
            As in `update`, at each cutoff.
        reset_forecaster : bool, default=True
            Whether the forecaster is what it was before, also if all went well.

        Returns
        -------
        y_pred : Series or DataFrame
            Forecasts if each time is forecast once, else a frame with a column of each
            time and a row of each cutoff.

        Raises
        ------
        ValueError
            If the data do not fit what was fitted. The forecaster is then what it was.
        """
        settings = {"cv": cv, "X": X, "update_params": update_params}
        if reset_forecaster:
            return super(LSTMForecaster, self._aside()).update_predict(y, **settings)
        with self._restored_if_refused():
            return super().update_predict(y, **settings, reset_forecaster=False)

    def predict_residuals(self, y=None, X=None):
        """Return how far y is above its forecasts, as every forecaster of sktime.

        Parameters
        ----------
        y : Series or DataFrame in an sktime format, default=None
            What came, at times that are forecast. None: what was fitted, where sktime's
            config ``remember_data`` is on.
        X : DataFrame, default=None
            As in `predict`.

        Returns
        -------
        y_res : Series or DataFrame, of the type of y

        Raises
        ------
        ValueError
            If the data do not fit what was fitted.
        """
        return super(LSTMForecaster, self._aside()).predict_residuals(y=y, X=X)

    def _aside(self):
        """Return a copy that may note the type of what it checks, as sktime does."""
        twin = copy.copy(self)
        twin._converter_store_y = dict(self._converter_store_y)
        return twin

    @contextlib.contextmanager
    def _restored_if_refused(self):
        """Make the forecaster what it was if what follows raises.

        sktime keeps what it has learnt of the type of y before we can refuse.
        """
        before = {k: dict(v) if type(v) is dict else v for k, v in vars(self).items()}
        try:
            yield
        except BaseException:
            for name in vars(self).keys() - before.keys():
                del vars(self)[name]
            vars(self).update(before)
            raise

    def _update(self, y, X=None, update_params=True):
        """Add the data to the context; with `update_params`, train on."""
        self._check_columns(y, X, needed_by="update")
        known = self._cur_y.index
        y = in_zone_of(self._in_order(y), known)
        _check_finite(y)
        _check_finite(X, "X")
        if X is not None:
            check_same_kind(self._cur_X.index, X.index, "X")
            X = in_zone_of(X, self._cur_X.index)
        self._cur_y, self._cur_X = merge(self._cur_y, y), merge(self._cur_X, X)
        if not self._goes_on(known, len(y)):
            self._keep_frequency(self._read(self._cur_y, self._cur_X))
        if update_params and self.update_steps and self.model_.trained:
            table = self._read(self._cur_y, self._cur_X)
            model = copy.deepcopy(self.model_)
            array = model.standardize(table.flatten().up_to_last_observed())
            random = self._random()
            self._train_networks(model, array, random, update=True)
            self.model_ = model
        return self

    def _keep_frequency(self, table):
        """Keep another frequency of the cutoff, where the rows have shown that it is.

        Of a few business days pandas thinks that they are days, and a month may begin
        off the grid that it took from those before.
        """
        times, freq = reference_times(table), getattr(self._cutoff, "freq", None)
        if not isinstance(times, pd.DatetimeIndex) or len(times) < 2:
            return
        if freq is None or breaks(times, freq, 1).any():
            cutoff = pd.DatetimeIndex(self._cutoff, freq=None)
            with contextlib.suppress(ValueError):  # old rows, off the grid
                cutoff.freq = times.freq
            self._cutoff = cutoff

    def _goes_on(self, known, n_new):
        """Tell whether rows were only added to one series, without a gap; or not sure."""
        index, freq = self._cur_y.index, getattr(self._cutoff, "freq", None)
        is_one, n_known = index.nlevels == 1 and self._cur_X is None, len(known)
        if not is_one or n_known < 2 or len(index) != n_known + n_new:
            return False
        if index[n_known - 1] != known[-1]:  # some came before
            return False
        if isinstance(index, pd.DatetimeIndex) and freq is None:
            return False
        spacing = 1
        if not isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
            spacing = int(index[1] - index[0])
        return not breaks(index[n_known - 1 :], freq, spacing).any()

    def _is_like_before(self, y):
        """Tell whether y is a series of numbers that goes on the one that was fitted."""
        return (
            self.is_fitted
            and type(y) is pd.Series
            and len(y) > 0
            and not self.get_config()["remember_data"]
            and self._y_metadata["mtype"] == "pd.Series"
            and [0 if y.name is None else y.name] == self._y_metadata["feature_names"]
            and y.dtype.kind == "f"
            and type(y.index) is type(self._cur_y.index)
            and y.index.dtype == self._cur_y.index.dtype
            and y.index.is_monotonic_increasing
            and y.index.is_unique
        )

    def _may_stay(self, X):
        """Tell whether X is as sktime would hand it on: numbers, if any, as in `fit`."""
        before = self._cur_X
        if X is None or before is None:
            return X is None
        return (
            type(X) is pd.DataFrame
            and len(X) > 0
            and X.columns.equals(before.columns)
            and all(dtype.kind == "f" for dtype in X.dtypes)
            and type(X.index) is type(before.index)
            and X.index.is_monotonic_increasing
            and X.index.is_unique
        )

    def _in_order(self, y):
        """Return y with the columns that were fitted, in their order."""
        columns = self._cur_y.columns
        if y.columns.equals(columns):
            return y
        if len(columns) == 1:
            return y.set_axis(columns, axis=1)
        if set(y.columns) != set(columns):
            raise ValueError(
                f"y has the columns {list(y.columns)}, but {list(columns)} were fitted."
            )
        return y[columns]

    def _set_cutoff_from_y(self, y):
        """Keep the last time of y, and the frequency seen before or that of y.

        sktime asks again what type y is, which takes as long as a forecast, forgets the
        frequency when a row without one is added, and does not look for that of a panel.
        """
        # What was fitted before `pretrain` is no matter to a fit after it.
        before, known = self._cutoff, self._cur_y if self.is_fitted else None
        if known is not None:
            check_same_kind(known.index, y.index)
            y = in_zone_of(y, known.index)
        if y.index.nlevels == 1 and not isinstance(y.index, pd.DatetimeIndex):
            self._cutoff = y.index[-1:]
            return
        if y.index.nlevels == 1:
            cutoff = y.index[-1:]
        else:
            cutoff = get_cutoff(y, before, return_index=True, convert_input=False)
            if known is not None and before is not None and cutoff[0] < before[0]:
                # New rows of some instances do not undo those of the others.
                there = set(y.index.droplevel(-1))
                if not there.issuperset(known.index.droplevel(-1)):
                    cutoff = before
        if isinstance(cutoff, pd.DatetimeIndex):
            frequency = None if known is None else getattr(before, "freq", None)
            frequency = frequency or cutoff.freq or infer_frequency(y)
            cutoff = pd.DatetimeIndex(cutoff, freq=None)
            with contextlib.suppress(ValueError):  # the time does not conform to it
                cutoff.freq = frequency
        self._cutoff = cutoff

    # --------------------------------------------------------------------- predict
    def predict(self, fh=None, X=None):
        """Forecast, as every forecaster of sktime.

        Parameters
        ----------
        fh : int, sequence of int or ForecastingHorizon, default=None
            Steps ahead of the last row, or times. None: the last one given.
        X : DataFrame, default=None
            Exogenous data for the steps of fh. Required if `fit` had X, else ignored.

        Returns
        -------
        y_pred : Series or DataFrame, of the type of y
            The median of each step.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If fh does not continue the index of y, or X lacks rows or columns.
        """
        is_series = self.is_fitted and self._y_metadata["mtype"] == "pd.Series"
        if is_series and self._may_stay(X):
            return self._predict(self._check_fh(fh), X)
        return super().predict(fh=fh, X=X)

    def _check_fh(self, fh, pred_int=False):
        """Check fh as sktime does; the steps of before at once.

        Once fitted, another is kept when it has been forecast.
        """
        before = self._fh
        if (
            type(fh) is list
            and all(type(step) is int for step in fh)
            and before is not None
            and before.is_relative
            and before.freq == getattr(self._cutoff, "freqstr", None)
            and before.to_pandas().tolist() == fh
        ):
            return before
        checked = super()._check_fh(fh, pred_int)
        if self.is_fitted:
            self._fh = before
        return checked

    def _predict(self, fh, X):
        quantiles, index = self._forecast(fh, X)
        median = quantiles[:, :, len(self.model_.quantiles) // 2]
        if self._y_metadata["mtype"] == "pd.Series":
            name = self._converter_store_y.get("name")
            return pd.Series(median[:, 0], index=index, name=name)
        names, columns = list(self._get_varnames()), self._cur_y.columns
        # To make an Index of a list takes as long as the rest of the frame.
        names = columns if names == columns.tolist() else names
        return pd.DataFrame(median, index=index, columns=names)

    def _predict_quantiles(self, fh, X, alpha):
        quantiles, index = self._forecast(fh, X)  # (n_rows, n_columns, Q)
        values = ForecastHead(self.model_.quantiles).interpolate(quantiles, alpha)
        columns = self._get_columns("predict_quantiles", alpha=alpha)
        # (n_rows, n_columns, n_alpha) -> a column per variable and alpha
        return pd.DataFrame(values.reshape(len(values), -1), index=index, columns=columns)

    @insulated
    def _forecast(self, fh, X):
        """Forecast every row of fh: (n_rows, n_columns, n_quantiles) and their index."""
        model = self.model_
        y, past = self._context()
        table = to_table(y, past)
        array = model.standardize(table.flatten())
        plan = Plan(fh, table, self._cutoff)
        is_late = bool(np.isnan(array.values[array.stops - 1]).any())
        known = self._known_exog(X, plan, table, is_late)
        device = resolve_device(self.device)
        out = np.empty((len(plan.step), table.n_columns, len(model.quantiles)))
        for column in range(table.n_columns):
            first = column * table.n_instances
            self._ahead(model, array, plan, first, known, device, out[:, column])
            self._behind(model, array, plan, first, device, out[:, column])
        names, columns = list(self._get_varnames()), y.columns
        if len(names) > 1 and names != list(columns) and set(names) == set(columns):
            out = out[:, columns.get_indexer(names)]  # as the y of `update` has them
        self._fh = fh
        return out, plan.index

    def _context(self):
        """Return the data up to the cutoff; later rows must not be seen."""
        y, X = self._cur_y, self._cur_X
        cutoff = self._cutoff[0]
        if y.index.nlevels == 1 and y.index[-1] <= cutoff:
            return y, X
        seen = times_of(y) <= cutoff
        return (y if seen.all() else y[seen]), X

    def _ahead(self, model, array, plan, first, known, device, out):
        """Fill the rows of steps after each series' end."""
        rows = np.flatnonzero(plan.step > 0)
        if not len(rows):
            return
        last = int(plan.step[rows].max())
        series = np.unique(plan.instance[rows])
        place = np.full(plan.instance.max() + 1, -1)
        place[series] = np.arange(len(series))
        future = np.full((len(series), last, array.exog.shape[1]), np.nan)
        if known is not None:
            on_way, values = known
            there = (on_way.step > 0) & (on_way.step <= last)
            there &= place[on_way.instance] >= 0
            future[place[on_way.instance[there]], on_way.step[there] - 1] = values[there]
        series = first + series
        quantiles = forecast_after(
            model, array, series, array.stops[series], last, future, device
        )
        out[rows] = quantiles[place[plan.instance[rows]], plan.step[rows] - 1]

    def _behind(self, model, array, plan, first, device, out):
        """Fill in-sample rows, each forecast one step ahead from what came before it."""
        rows = np.flatnonzero(plan.step <= 0)
        if not len(rows):
            return
        series = first + plan.instance[rows]
        ends = array.stops[series] + plan.step[rows] - 1
        # What no value comes before is forecast from the first one.
        ends = np.maximum(ends, array.first_observed(series) + 1)
        future = array.gather_exog(series, ends[:, None])
        quantiles = forecast_after(model, array, series, ends, 1, future, device)
        out[rows] = quantiles[:, 0]

    def _known_exog(self, X, plan, table, is_late):
        """Return a plan of the steps ahead and their exogenous rows, standardised.

        NaN where it is a step on the way to those of fh that X does not have. `is_late`
        says whether there are steps on the way before those.
        """
        model, ahead = self.model_, plan.step > 0
        if not model.exog_columns or not ahead.any():
            return None
        self._check_columns(None, X, needed_by="predict")
        _check_finite(X, "X")
        rows = X.index.get_indexer(plan.index)
        missing = ahead & (rows < 0)
        if missing.any():
            raise ValueError(
                f"X lacks {int(missing.sum())} rows of the forecasting horizon, the "
                f"first for {plan.index[missing][0]!r}."
            )
        last = int(plan.step.max())
        if last > model.horizon or is_late:  # what later blocks go on from
            steps = ForecastingHorizon(np.arange(1, last + 1), is_relative=True)
            plan = Plan(steps, table, self._cutoff)
            rows = X.index.get_indexer(plan.index)
        values = X.to_numpy(dtype=np.float64)[rows]
        values[rows < 0] = np.nan
        return plan, (values - model.exog_mean) / model.exog_scale

    def backtest(self, y, X=None, fh=None, step=1, initial_window=None):
        """Forecast from every cutoff of y in one pass, without refitting.

        Equal to ``evaluate`` with ``strategy="no-update_params"`` and an expanding
        window, but batched over all cutoffs and series. (Of X, ``evaluate`` hands on the
        rows of fh alone; here those of the steps on the way are known, too.)

        Parameters
        ----------
        y : Series or DataFrame in an sktime format
            Series to forecast, of the kind seen in `fit`.
        X : DataFrame, default=None
            Exogenous data for all of y. Required if `fit` had X.
        fh : int, sequence of int or relative ForecastingHorizon, default=None
            Steps ahead, positive. None: the last one given.
        step : int, default=1
            Distance between cutoffs, in rows.
        initial_window : int, default=None
            Rows of each series, from its first value on, before the first cutoff. None:
            a season and one.

        Returns
        -------
        forecasts : DataFrame
            A row for each (instance, cutoff, time), where the time is in y, of a
            hierarchy with its own levels in place of the instance; a column per variable.

        Raises
        ------
        ValueError
            If y or X cannot be used, or an argument is out of its range.
        """
        self.check_is_fitted()
        if y is None:
            raise ValueError("backtest needs y, the series to forecast; got None.")
        fh = check_fh(self.fh if fh is None else fh)
        if not fh.is_relative:
            raise ValueError(f"backtest takes steps ahead; got the absolute fh {fh!r}.")
        for name, value in {"step": step, "initial_window": initial_window}.items():
            if value is not None and not (isinstance(value, Integral) and value >= 1):
                raise ValueError(
                    f"{name} must be an integer of at least 1; got {value!r}."
                )
        model = self.model_
        X_inner, y_inner = self._aside()._check_X_y(X=X, y=y)
        self._check_columns(y_inner, X_inner, needed_by="backtest")
        table = self._read(y_inner, X_inner)
        array = model.standardize(table.flatten())
        steps = np.unique(relative_steps(fh, table, None))
        if steps.min() < 1:
            raise ValueError(f"backtest takes steps ahead; got {steps.tolist()}.")
        device = resolve_device(self.device)
        if initial_window is None:
            initial_window = model.period + 1
        # Rows before the first value of an instance do not count.
        n_before = array.starts.reshape(table.n_columns, -1).min(axis=0)
        n_before = n_before - table.offsets[:-1]
        cutoffs = [
            np.arange(before + initial_window, length - steps.min() + 1, step)
            for before, length in zip(n_before, table.lengths, strict=True)
        ]
        instance = np.repeat(np.arange(table.n_instances), [len(c) for c in cutoffs])
        position = np.concatenate(cutoffs)
        columns = []
        for column in range(table.n_columns):
            series = column * table.n_instances + instance
            ends = array.stops[series] - table.lengths[instance] + position
            medians = self._backtest(model, array, series, ends, steps, device)
            # A column that begins later than others has nothing to forecast from.
            medians[ends <= array.first_observed(series)] = np.nan
            columns.append(medians)
        values = np.stack(columns, axis=2)  # (n_cutoffs, n_steps, n_columns)
        inside = position[:, None] + steps - 1 < table.lengths[instance, None]
        index = _index_of_backtest(table, instance, position, steps, inside)
        return pd.DataFrame(values[inside], index=index, columns=table.frame.columns)

    @insulated
    def _backtest(self, model, array, series, ends, steps, device):
        """Return the median after each position `ends`: (n_cutoffs, n_steps)."""
        last = int(steps.max())
        # All quantiles of all steps are many numbers, of which few are kept.
        at_once = max(COPIED_VALUES // (last * len(model.quantiles)), 1)
        medians = [np.empty((0, len(steps)))]
        for start in range(0, len(series), at_once):
            some = series[start : start + at_once]
            until = ends[start : start + at_once]
            future = array.gather_exog(some, until[:, None] + np.arange(last))
            quantiles = forecast_after(model, array, some, until, last, future, device)
            medians.append(quantiles[:, steps - 1, len(model.quantiles) // 2])
        return np.concatenate(medians)

    # ---------------------------------------------------------------------- checks
    def _keep_choices(self):
        model = self.model_
        first = (model.trained or model.pretrained)[0]
        self.horizon_, self.window_length_ = model.horizon, first.window_length
        self.sp_, self.segment_length_ = model.period, first.network.segment_length
        self.hidden_size_ = first.network.config["hidden_size"]
        self.n_members_ = len(model.trained)
        self.pretrained_share_ = model.pretrained_share
        self.fine_tuned_ = model.fine_tuned
        max_steps = STEPS_PER_EPOCH if self.max_steps == "auto" else self.max_steps
        _, self.steps_per_entry_ = entries_of(max_steps)
        self.transform_ = "log" if first.log else "none"

    def _check_parameters(self):
        """Validate the parameters as scikit-learn does."""
        validate_parameter_constraints(
            self._parameter_constraints, self.get_params(deep=False), type(self).__name__
        )
        quantiles = np.asarray(self.quantiles, dtype=np.float64)
        ascending = quantiles.ndim == 1 and (np.diff(quantiles) > 0).all()
        inside = ((quantiles > 0) & (quantiles < 1)).all()
        if not inside:
            raise ValueError(
                f"quantiles must lie strictly between 0 and 1; got {self.quantiles!r}."
            )
        if (
            not ascending
            or len(quantiles) % 2 == 0
            or len(quantiles) < 3
            or (quantiles[len(quantiles) // 2] != 0.5)
        ):
            raise ValueError(
                "quantiles must be ascending, at least 3 and an odd number, with 0.5 in "
                f"the middle; got {self.quantiles!r}."
            )

    def _check_columns(self, y, X, model=None, *, needed_by):
        """Refuse columns other than those of fit, and no X where a method needs it."""
        model = model or self.model_
        if X is None and model.exog_columns:
            of = "steps of fh" if needed_by == "predict" else "rows of y"
            raise ValueError(
                f"LSTMForecaster was fitted with X, so {needed_by} needs X for the {of}; "
                "got None."
            )
        # Names may differ: what was pretrained on one panel forecasts another.
        if y is not None and len(y.columns) != len(model.columns):
            raise ValueError(
                f"y has the columns {list(y.columns)}, but {list(model.columns)} were "
                "fitted."
            )
        if X is not None and not model.exog_columns:
            raise ValueError(
                f"X has the columns {list(X.columns)}, but LSTMForecaster was fitted "
                "without X. Leave it out, or fit with X."
            )
        if X is not None and tuple(X.columns) != model.exog_columns:
            raise ValueError(
                f"X has the columns {list(X.columns)}, but {list(model.exog_columns)} "
                "were fitted."
            )

    @classmethod
    def get_test_params(cls, parameter_set="default"):
        """Return settings for sktime's checks.

        Parameters
        ----------
        parameter_set : str, default="default"

        Returns
        -------
        params : list of dict
        """
        tiny = {"hidden_size": 4, "max_steps": 2, "batch_size": 4, "update_steps": 2}
        return [
            {**tiny, "n_members": 1},
            {**tiny, "n_members": 2, "horizon": 2, "window_length": 6, "sp": 3,
             "segment_length": 2, "cell": "gru", "scaling": "standard"},
        ]  # fmt: skip


def _check_finite(frame, name="y"):
    if frame is None:
        return
    size = np.abs(frame.to_numpy(dtype=np.float64))
    too_large = size > MAX_VALUE  # NaN is not
    if too_large.any():
        row = int(too_large.any(axis=1).argmax())
        if np.isinf(size[row]).any():
            raise ValueError(f"{name} contains infinity at {frame.index[row]}.")
        raise ValueError(
            f"{name} contains {np.nanmax(size[row]):.3g} in absolute value at "
            f"{frame.index[row]}, which is too large. Divide {name} by a power of ten."
        )


def _index_of_backtest(table, instance, position, steps, inside):
    """Return an index (instance, cutoff, time), or (cutoff, time) of a single series.

    Of a hierarchy its levels take the place of the instance.

    Cutoffs lie before rows `position` of instances; `inside` (n_cutoffs, n_steps) says
    which of the steps after them there are.
    """
    rows = table.offsets[instance] + position
    n_inside, times = inside.sum(axis=1), times_of(table.frame)
    keys = {
        "cutoff": times[(rows - 1).repeat(n_inside)],
        "time": times[(rows[:, None] + steps - 1)[inside]],
    }
    arrays, names = list(keys.values()), list(keys)
    of_rows = table.instances()
    if of_rows is not None:
        of_rows = of_rows[instance.repeat(n_inside)]
        n_levels = of_rows.nlevels
        arrays = [of_rows.get_level_values(k) for k in range(n_levels)] + arrays
        names = [*(["instance"] if n_levels == 1 else of_rows.names), *names]
    return pd.MultiIndex.from_arrays(arrays, names=names)
