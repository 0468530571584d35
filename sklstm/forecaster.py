"""LSTMForecaster: one global LSTM behind sktime's forecaster interface.

`_fit` is the table of contents: lay out the series, choose what was left to "auto",
train, calibrate. `_forecast` is the way back.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import time
import warnings
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sktime.datatypes import get_cutoff
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
from sktime.utils.validation.forecasting import check_fh

from sklstm.checkpoints import (
    Checkpoint,
    CheckpointOfMember,
    NumpyGenerator,
    identity,
)
from sklstm.devices import (
    explain_out_of_memory,
    network_threads,
    resolve_device,
    retained_memory,
    threads_for,
    torch_threads,
)
from sklstm.forecast_model import (
    ForecastModel,
    Member,
    Validation,
    WindowBatches,
    extended_by,
    guarded,
)
from sklstm.frames import from_plain, to_plain
from sklstm.gradients import ForecastGradients
from sklstm.heads import ForecastHead
from sklstm.network import CELLS, ForecastNetwork, initialize
from sklstm.pretrained import (
    MAX_PERIOD,
    MIN_LONGEST_PERIOD,
    VIEWS,
    WINDOW_LENGTHS,
    load_pretrained,
)
from sklstm.series import (
    SeriesArray,
    find_period,
    grows_with_level,
    merge,
    times_of,
    to_table,
)
from sklstm.training import Learner, Randomness, train
from sklstm.windows import N_CHANNELS

AUTO_OR_COUNT = [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")]
STEPS_PER_EPOCH = 25  # entries of the history are means over so many
# A panel of at least this many series sets a fifth of them aside, to choose on.
MIN_ASIDE_SERIES = 40
MAX_ASIDE_SERIES = 500
# Values of y up to which data count as short and as medium, and what is then chosen.
SHORT_TOTAL, MEDIUM_TOTAL = 2000, 100_000
SHORT = {"hidden_size": 32, "n_members": 4, "max_steps": 300, "batch_size": 32}
MEDIUM = {"hidden_size": 64, "n_members": 1, "max_steps": 1000, "batch_size": 256}
LARGE = {"hidden_size": "wide", "n_members": 1, "max_steps": 1500, "batch_size": 256}
# Whoever sets one of these wants a network trained.
TRAINING_PARAMETERS = (
    "window_length", "segment_length", "hidden_size", "n_members", "max_steps",
    "batch_size", "scaling", "transform",
)  # fmt: skip
# From the pretrained weights on, where seasons are shorter than these steps: longer ones
# ask for longer windows. At that share of the learning rate.
TUNED = {"hidden_size": "auto", "n_members": 1, "max_steps": 150, "batch_size": 128}
TUNED_PERIOD, TUNED_RATE = 24, 0.1
LONGEST_WINDOW = 720  # of two weeks of hours, say, but not of minutes
# Shares of the pretrained network that are tried; beside a fine-tuned one, from a half
# on: series set aside lie at the same times as those trained on, which flatters it.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Values of short seasons up to which nothing is trained, and where the pretrained network
# is not apt, more steps than for short data only overfit. Without series to try shares
# on, it has half up to here.
MIXED_TOTAL = 20_000
# Attributes that hold what skops cannot write as it is: dates, frames, kinds of columns.
NOT_PLAIN = ("_fh", "_cutoff", "_cur_y", "_cur_X", "_y_metadata")


class LSTMForecaster(BaseForecaster):
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
        longest series.
    window_length : int or "auto", default="auto"
        Steps the network sees. "auto": 14 seasons of at least 24 steps (but no more
        than 720 steps or 3 seasons), or 4 shorter ones, or 24 steps without a season;
        at least the horizon where that is at most 96; at most the longest series. Kept
        in `window_length_`.
    sp : int or "auto", default="auto"
        Seasonal period in steps; 1 for none. "auto": what the frequency of the index
        suggests, else the highest peak of the autocorrelation; kept if the data are
        long enough and the autocorrelation at that lag is significant. In `sp_`.
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
        Training steps. "auto": 300 for up to 2000 observations, and for up to 20,000
        with a season of less than 24 steps; 1000 up to 100,000, else 1500.
    batch_size : int or "auto", default="auto"
        Windows per step. "auto": 32 for up to 2000 observations, else 256.
    learning_rate_init : float, default=3e-3
        Highest rate of the one-cycle schedule.
    alpha : float, default=0.01
        Decoupled weight decay (AdamW).
    max_grad_norm : float or None, default=1.0
        Gradients are scaled down to this norm. None: never.
    early_stopping : bool or "auto", default="auto"
        Whether to keep the weights that forecast best what is not trained on: a fifth
        of the series, set aside, from 40 series on. "auto": only then; True: else the
        last `horizon` values of each series are held back, and training stops when 250
        steps bring no gain.
    pretrained : {"auto", "only", None}, default="auto"
        Use of the network that comes with the package, which was trained on generated
        series. "auto": with at most 2000 values, or 20,000 with seasons of less than 24
        steps, it forecasts by itself, nothing is trained. With up to 100,000 and such
        seasons, and in `pretrain`, the trained network starts from its weights
        (`fine_tuned_`): 150 steps of 128 windows at a tenth of `learning_rate_init`;
        else from random ones.
        Both are averaged, with the share `pretrained_share_` that was best on series set
        aside (with fewer than 40 series: half if fine-tuned or for up to 20,000 values,
        else nothing). Columns of a multivariate y are series of it. Of hours and
        half-hours up to six weeks are read, for the time of the week. It is not used
        with X, which needs a network that was trained with it, with seasons of more
        than 60 steps, for horizons of more than 48 steps beside a trained network, or
        where a parameter of the network or its training is given
        (`window_length`, `segment_length`, `hidden_size`, `num_layers`, `cell`,
        `scaling`, `transform`, `n_members`, `max_steps`, `batch_size`,
        ``early_stopping=True``). "only": nothing is ever trained. None: never used.
    update_steps : int, default=50
        Training steps of ``update(update_params=True)``, on windows of old and new data
        at a tenth of the learning rate. Ignored where nothing was trained.
    device : str, default="auto"
        "auto" (CUDA if there is a GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps".
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
        What was chosen.
    n_members_ : int
        Networks that were trained; 0 if none was.
    fine_tuned_ : bool
        Whether the trained network started at the pretrained weights.
    pretrained_share_ : float
        Weight of the pretrained network in the forecast, 0 to 1.
    transform_ : str
        What was chosen.
    history_ : list of list of float
        Training loss of each member, an entry per 25 steps.

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

    # ------------------------------------------------------------------------- fit
    def _fit(self, y, X, fh):
        table = self._read(y, X)
        if "pretrained_model_" in getattr(self, "_pretrained_attrs", []):
            self.model_, self.history_ = self.pretrained_model_, []
            self._check_columns(table.frame, X)
        else:
            self.model_, self.history_ = self._train_model(table, X, fh)
        # Copies: what the caller does to his data later is no news of them.
        self._cur_y, self._cur_X = y.copy(), None if X is None else X.copy()
        self._keep_choices()
        return self

    def _pretrain(self, y, X=None, fh=None):
        """Train on a panel what later fits only supply with context."""
        table = self._read(y, X)
        self.pretrained_model_ = self._train_model(table, X, fh, always=True)[0]
        return self

    def _pretrain_update(self, y, X=None, fh=None):
        """Go on training the trained networks on another panel."""
        table = self._read(y, X)
        model = copy.deepcopy(self.pretrained_model_)
        self._check_columns(table.frame, X, model)
        array = model.standardize(table.flatten())
        random, checkpoint = self._begin()
        self._train_networks(model, array, random, checkpoint=checkpoint)
        self.pretrained_model_ = model
        return self

    def _read(self, y, X):
        """Lay out the data and name what cannot be used."""
        table = to_table(y, X)
        _check_regular(table)
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

    def _train_model(self, table, X, fh, always=False):
        """Choose what is "auto", train, calibrate; return the model and its losses."""
        began = time.perf_counter()
        self._check_parameters()
        array = table.flatten()
        longest = int(array.lengths.max())
        if longest < 2:
            raise ValueError(
                f"LSTMForecaster needs at least 2 time points in some series; got "
                f"{longest}."
            )
        period = self.sp
        if period == "auto":
            period = find_period(array, _reference_times(table))
        period = int(period)
        exog = array.exog
        mean = np.nanmean(exog, axis=0) if exog.size else np.zeros(exog.shape[1])
        scale = np.nanstd(exog, axis=0) if exog.size else np.ones(exog.shape[1])
        model = ForecastModel(
            horizon=self._horizon(table, fh, period),
            period=period,
            quantiles=tuple(self.quantiles),
            exog_mean=np.nan_to_num(mean),
            exog_scale=np.where(scale > 0, scale, 1.0),
            columns=tuple(table.frame.columns),
            exog_columns=() if X is None else tuple(X.columns),
        )
        self._report(
            f"read {len(array)} series, {int(array.lengths.sum())} values, season of "
            f"{period}",
            began,
        )
        shipped = self._shipped(array, period, X)
        if self.pretrained == "only" and not shipped:
            raise ValueError(
                "pretrained='only' cannot use X, seasons of more than "
                f"{MAX_PERIOD} steps (here {period}), or parameters that ask for "
                f"training ({', '.join(TRAINING_PARAMETERS)}, cell, num_layers, "
                "early_stopping=True)."
            )
        most = MIXED_TOTAL if period < TUNED_PERIOD else SHORT_TOTAL
        is_short = array.lengths.sum() <= most and not always
        if shipped and (is_short or self.pretrained == "only"):
            most = shipped[0].horizon
            n_steps = min(model.horizon, most)
            model.horizon = int(min(self.horizon or most, most))
            model.pretrained, model.pretrained_share = shipped, 1.0
            self._report("took the pretrained network", began)
            if self.pretrained == "auto" and len(array) >= MIN_ASIDE_SERIES:
                self._calibrate(model, array, n_steps)  # it was trained on none of them
                self._report(f"calibrated on {len(array)} series", began)
            return model, []
        if shipped and model.horizon > shipped[0].horizon:
            shipped = []
        model.fine_tuned = bool(shipped) and period < TUNED_PERIOD
        model.fine_tuned &= always or array.lengths.sum() <= MEDIUM_TOTAL
        random, checkpoint = self._begin()
        if model.fine_tuned:
            model.trained = [_unfrozen(shipped[0], array)]
        else:
            model.trained = self._new_members(model, array, random)
        array = model.standardize(array)
        training, aside = self._set_aside(array, random)
        history = self._train_networks(model, training, random, aside, checkpoint)
        began = time.perf_counter()
        if shipped:
            model.pretrained = shipped
            model.pretrained_share = self._best_share(model, array, aside)
        if aside is not None:
            self._calibrate(model, aside, model.horizon)
            self._report(
                f"calibrated on {len(aside)} series; share of the pretrained network "
                f"{model.pretrained_share:g}",
                began,
            )
        return model, history

    def _begin(self):
        """Return what is drawn from and where it is written how far training has come."""
        checkpoint = None if self.checkpoint is None else Checkpoint(self.checkpoint)
        seed = None if checkpoint is None else checkpoint.seed
        return Randomness(self.random_state, torch.device("cpu"), 0, seed), checkpoint

    def _report(self, line, began):
        if self.verbose:
            seconds = time.perf_counter() - began
            print(f"LSTMForecaster: {line} ({seconds:.1f} s)")  # noqa: T201 - asked for

    def _horizon(self, table, fh, period):
        steps_ahead = 1
        if fh is not None:
            steps_ahead = int(max(_relative_steps(fh, table, self._cutoff).max(), 1))
        elif self.horizon is None:
            steps_ahead = max(2 * period, 8)
        if self.horizon is not None:
            return int(self.horizon)
        return max(1, min(steps_ahead, int(table.lengths.max()) // 3))

    def _shipped(self, array, period, X):
        """Return the views of the pretrained network, or nothing where it is not apt."""
        asked = any(getattr(self, name) != "auto" for name in TRAINING_PARAMETERS)
        asked |= (
            self.cell != "lstm" or self.num_layers != 1 or self.early_stopping is True
        )
        apt = X is None and period <= MAX_PERIOD
        if self.pretrained is None or not apt or asked:
            return []
        network, quantiles = load_pretrained()
        n_lengths = len(WINDOW_LENGTHS) - (period < MIN_LONGEST_PERIOD)
        *shorter, longest = WINDOW_LENGTHS[:n_lengths]
        return [
            Member(network, quantiles, longest, "season", log, tuple(shorter), n_shorter)
            for log, n_shorter in VIEWS
            if n_shorter < 2 or period < MIN_LONGEST_PERIOD
        ]

    def _new_members(self, model, array, random):
        """Return networks to be trained, and how windows are made for them."""
        period = model.period
        choices = self._choices(model, array)
        longest = int(array.lengths.max())
        wanted = 24 if period == 1 else 4 * period
        if period >= 24:
            wanted = max(min(14 * period, LONGEST_WINDOW), 3 * period)
        if model.horizon <= 96:
            wanted = max(wanted, model.horizon)
        window_length = self._auto("window_length", min(max(wanted, 8), longest))
        segment = 1
        if window_length > 64:
            segment = period if 8 <= period <= 48 else 24
        segment = self._auto("segment_length", segment)
        # Whole segments: the window grows at its far end, where it is padded.
        window_length = math.ceil(window_length / segment) * segment
        log = self.transform == "log" or (
            self.transform == "auto" and grows_with_level(array, period)
        )
        if self.transform == "log" and (array.values[~np.isnan(array.values)] <= 0).any():
            raise ValueError('transform="log" needs positive values; y has others.')
        hidden_size = choices["hidden_size"]
        if hidden_size == "wide":  # segments leave few steps to read
            hidden_size = 128 if segment > 1 else 64
        members = []
        for i in range(choices["n_members"]):
            network = ForecastNetwork(
                n_inputs=N_CHANNELS + array.exog.shape[1],
                n_future=array.exog.shape[1],
                horizon=model.horizon,
                n_quantiles=len(self.quantiles),
                segment_length=segment,
                # Members differ in more than their seed: every other has a linear map.
                linear_length=window_length if i % 2 == 0 else 0,
                hidden_size=hidden_size,
                num_layers=int(self.num_layers),
                cell=self.cell,
                dropout=self.dropout,
            )
            with torch_threads(1):  # orthogonalisation rounds by the number of threads
                initialize(network, random.start)
            scaling = "season" if self.scaling == "auto" else self.scaling
            members.append(
                Member(network.eval(), model.quantiles, window_length, scaling, log)
            )
        return members

    def _train_networks(
        self, model, array, random, aside=None, checkpoint=None, *, update=False
    ):
        """Train each network of a model in place; return their losses."""
        device = resolve_device(self.device)
        choices = self._choices(model, array)
        batch_size = choices["batch_size"]
        max_steps = self.update_steps if update else choices["max_steps"]
        learning_rate_init = self.learning_rate_init * (0.1 if update else 1.0)
        if model.fine_tuned:
            learning_rate_init *= TUNED_RATE
        n_epochs = max(1, round(max_steps / STEPS_PER_EPOCH))
        held = aside if self.early_stopping in (True, "auto") else None
        if held is None and self.early_stopping is True:
            # Nothing was set aside: the last values of each series are held back.
            longest, needed = int(array.lengths.max()), model.horizon + 2
            if longest < needed:
                raise ValueError(
                    f"early_stopping=True holds back the last {model.horizon} values of "
                    f"each series, but the longest has {longest}. Give series of at "
                    f"least {needed} values, forecast fewer steps, or set "
                    "early_stopping=False."
                )
            stops = np.maximum(array.stops - model.horizon, array.starts)
            held, array = (
                array,
                SeriesArray(array.values, array.starts, stops, array.exog),
            )
        draws = [random.of_fit(i, device) for i in range(len(model.trained))]
        generators = [np.random.default_rng(each.split_seed) for each in draws]
        ended = []  # networks of a fit that was stopped
        if checkpoint is not None:
            arrays = [each for each in (array, aside) if each is not None]
            ended = self._take_up(checkpoint, model, arrays, random, draws, generators)
        history, n_ended = [], len(ended)
        for i, (member, drawn, rng) in enumerate(
            zip(model.trained, draws, generators, strict=True)
        ):
            began, network = time.perf_counter(), member.network
            if i < n_ended:
                network.load_state_dict(
                    {k: torch.from_numpy(v) for k, v in ended[i]["network"].items()}
                )
                history.append(ended[i]["loss_curve"])
                continue
            of_member = None
            if checkpoint is not None:
                of_member = CheckpointOfMember(checkpoint, list(ended), i == n_ended)
            batches = WindowBatches(
                member, model.period, array, device=device, batch_size=batch_size,
                n_batches=math.ceil(max_steps / n_epochs), rng=rng,
                n_steps=model.horizon,
            )  # fmt: skip
            validate = None
            if held is not None:
                validate = Validation(member, model.period, held, device, model.horizon)
            n_threads = threads_for(batch_size, member.window_length, network)
            network.to(device)
            with (
                network_threads(n_threads, network),
                retained_memory(),
                explain_out_of_memory(
                    device, batch_size=batch_size, hidden_size=self.hidden_size
                ),
            ):
                head = ForecastHead(member.quantiles)
                by_hand = ForecastGradients(network, member.quantiles)
                trained = train(
                    network,
                    head.loss,
                    [Learner(network, batches, drawn.dropout, by_hand)],
                    solver="adamw",
                    learning_rate="one-cycle",
                    learning_rate_init=learning_rate_init,
                    alpha=self.alpha,
                    max_iter=n_epochs,
                    tol=0.0,
                    max_grad_norm=self.max_grad_norm,
                    # "auto" only keeps the best weights: the error is still high while
                    # the learning rate is.
                    n_iter_no_change=10 if self.early_stopping is True else n_epochs,
                    validate=validate,
                    checkpoint=of_member,
                )
            network.cpu()
            history.append(trained.loss_curve)
            if trained.interrupted:
                checkpoint = None  # the file stays as it is
            elif checkpoint is not None:
                weights = {k: v.numpy() for k, v in network.state_dict().items()}
                ended.append({"network": weights, "loss_curve": trained.loss_curve})
            self._report(
                f"trained network {i + 1} of {len(model.trained)}: "
                f"{trained.n_iter * batches.n_batches} steps of {batch_size} windows, "
                f"loss {trained.loss_curve[-1]:.4f}",
                began,
            )
        if checkpoint is not None:
            checkpoint.remove()
        return history

    def _take_up(self, checkpoint, model, arrays, random, draws, generators):
        """Begin a checkpoint; return the networks that were trained before it."""
        states = [m.network.state_dict().values() for m in model.trained]
        start = [tensor.numpy() for state in states for tensor in state]
        names = "values", "starts", "stops", "exog"
        data = [getattr(array, name) for array in arrays for name in names]
        dropouts = [drawn.dropout for drawn in draws]
        fit = identity(self, dropouts[0].device, random.seed, start, data, "y and X")
        # What "auto" has come to by fh, the index and other data.
        windows = [(m.window_length, m.scaling, m.log) for m in model.trained]
        fit |= {
            "the horizon": model.horizon, "the season": model.period,
            "the windows": repr(windows), "fine-tuning": str(model.fine_tuned),
        }  # fmt: skip
        checkpoint.begin(fit, [*dropouts, *map(NumpyGenerator, generators)])
        saved = checkpoint.read()
        return [] if saved is None else saved["ended"]

    def _set_aside(self, array, random):
        """Set series of a panel aside, to choose and to calibrate on."""
        n = len(array)
        if n < MIN_ASIDE_SERIES:
            return array, None
        order = np.random.default_rng(random.of_fit(1).split_seed).permutation(n)
        n_aside = min(n // 5, MAX_ASIDE_SERIES)
        return array.take(np.sort(order[n_aside:])), array.take(np.sort(order[:n_aside]))

    @staticmethod
    def _held_out(model, aside, n_steps):
        """Return where the last `n_steps` of long enough series begin, thrice over."""
        shortest = np.arange(1, 4) * n_steps + model.period + 1
        series, back = np.nonzero(aside.lengths[:, None] > shortest)
        if not len(series):
            series = np.flatnonzero(aside.lengths > n_steps)
            back = np.zeros(len(series), dtype=int)
        return series, aside.stops[series] - (back + 1) * n_steps

    def _best_share(self, model, array, aside):
        """Choose the share of the pretrained networks on series not trained on."""
        if aside is None:
            few = array.lengths.sum() <= MIXED_TOTAL
            return 0.5 if few or model.fine_tuned else 0.0
        horizon, period = model.horizon, model.period
        series, ends = self._held_out(model, aside, horizon)
        if len(series) < 8:
            return 0.5
        actual = aside.gather(series, ends[:, None] + np.arange(horizon))
        width = 4 * max(period, 8)
        positions = ends[:, None] - width + np.arange(width)
        past, before = (aside.gather(series, positions - lag) for lag in (0, period))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # nothing observed
            difference = np.nanmean(np.abs(past - before), axis=1)
        difference = np.where(difference > 0, difference, np.nan)
        arguments = (aside, series, ends, np.zeros((len(series), horizon, 0)))
        device = resolve_device(self.device)
        middle = len(model.quantiles) // 2
        trained, shipped = (
            model.forecast_of(members, *arguments, device)[:, :, middle]
            for members in (model.trained, model.pretrained)
        )
        shares = [share for share in SHARES if share >= 0.5 or not model.fine_tuned]
        errors = [
            np.nanmean(
                np.abs(share * shipped + (1 - share) * trained - actual)
                / difference[:, None]
            )
            for share in shares
        ]
        return (
            float(shares[int(np.nanargmin(errors))]) if np.isfinite(errors).any() else 0.5
        )

    def _calibrate(self, model, array, n_steps):
        """Shift quantiles so that each covers what it says on series not trained on.

        Split conformal prediction, per step and level (Romano et al., 2019): the shift
        is that quantile of the errors. The median is not shifted. Later steps are shifted
        as the last of `n_steps`.
        """
        series, ends = self._held_out(model, array, n_steps)
        if len(series) < 8:
            return
        device = resolve_device(self.device)
        positions = ends[:, None] + np.arange(model.horizon)
        future = array.gather_exog(series, positions)
        raw = model.block(array, series, ends, future, device)  # (n, Z, Q)
        spread = raw[:, :, -1:] - raw[:, :, :1]
        error = array.gather(series, positions)[:, :, None] - raw
        error = np.divide(
            error, spread, out=np.full_like(error, np.nan), where=spread > 0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # steps without a value
            offsets = np.stack(
                [
                    np.nanquantile(error[:, :, q], alpha, axis=0)
                    for q, alpha in enumerate(self.quantiles)
                ],
                axis=1,
            )
        offsets[:, len(self.quantiles) // 2] = 0.0
        offsets[n_steps:] = offsets[n_steps - 1]
        model.offsets = np.nan_to_num(offsets)

    def update(self, y, X=None, update_params=True):
        """Take new data, as every forecaster of sktime.

        Parameters
        ----------
        y : Series or DataFrame in an sktime format
            Rows that go on what is known, or replace some of it. Rows that were missed
            in between are rows of NaN.
        X : DataFrame, default=None
            Exogenous data for all rows of y. Required if `fit` had X.
        update_params : bool, default=True
            Whether to train on, for `update_steps` steps; else the data are read as
            context of later forecasts alone.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the data do not fit what was fitted. The forecaster is then what it was.
        """
        # sktime keeps what it has learnt of the type of y before `_update` can refuse.
        before = {k: dict(v) if type(v) is dict else v for k, v in vars(self).items()}
        is_done = False
        try:
            if self._is_like_before(y) and self._may_stay(X):
                # As sktime does it, which asks seven times what type y is: that takes
                # as long as a forecast.
                y = pd.DataFrame(y.to_numpy(), y.index, self._cur_y.columns)
                self._set_cutoff_from_y(y)
                self._update(y, X, update_params)
            else:
                super().update(y, X=X, update_params=update_params)
            is_done = True
        finally:
            if not is_done:
                vars(self).clear()
                vars(self).update(before)
        return self

    def _update(self, y, X=None, update_params=True):
        """Add the data to the context; with `update_params`, train on."""
        self._check_columns(y, X)
        y = self._in_order(y)
        _check_finite(y)
        if X is None and self.model_.exog_columns:
            raise ValueError(
                "LSTMForecaster was fitted with X, so update needs X for the rows of y; "
                "got None."
            )
        _check_finite(X, "X")
        known = self._cur_y.index
        self._cur_y, self._cur_X = merge(self._cur_y, y), merge(self._cur_X, X)
        if not self._goes_on(known, len(y)):
            _check_regular(to_table(self._cur_y, self._cur_X))
        if update_params and self.update_steps and self.model_.trained:
            table = self._read(self._cur_y, self._cur_X)
            model = copy.deepcopy(self.model_)
            array = model.standardize(table.flatten())
            random = Randomness(self.random_state, torch.device("cpu"), 0)
            self._train_networks(model, array, random, update=True)
            self.model_ = model
        return self

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
        return not _breaks(index[n_known - 1 :], freq, spacing).any()

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
        """Keep the last time of y, and its frequency or that seen before.

        sktime asks again what type y is, which takes as long as a forecast, forgets the
        frequency when a row without one is added, and does not look for that of a panel.
        """
        if y.index.nlevels == 1 and not isinstance(y.index, pd.DatetimeIndex):
            self._cutoff = y.index[-1:]
            return
        before = self._cutoff
        if y.index.nlevels == 1:
            cutoff = y.index[-1:]
        else:
            cutoff = get_cutoff(y, before, return_index=True, convert_input=False)
        if isinstance(cutoff, pd.DatetimeIndex) and cutoff.freq is None:
            frequency = getattr(before, "freq", None) or _frequency(y)
            with contextlib.suppress(ValueError):  # the time does not conform to it
                cutoff.freq = frequency
        self._cutoff = cutoff

    # --------------------------------------------------------------------- predict
    def predict(self, fh=None, X=None):
        """Forecast, as every forecaster of sktime.

        Parameters
        ----------
        fh : int, sequence of int or ForecastingHorizon, default=None
            Steps ahead of the last row, or times. None: that of `fit`.
        X : DataFrame, default=None
            Exogenous data for the steps of fh. Required if `fit` had X.

        Returns
        -------
        y_pred : Series or DataFrame, of the type of y
            The median of each step.
        """
        is_series = self.is_fitted and self._y_metadata["mtype"] == "pd.Series"
        if is_series and self._may_stay(X):
            return self._predict(self._check_fh(fh), X)
        return super().predict(fh=fh, X=X)

    def _check_fh(self, fh, pred_int=False):
        """Check fh as sktime does; the steps of before at once."""
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
        return super()._check_fh(fh, pred_int)

    def _predict(self, fh, X):
        quantiles, index = self._forecast(fh, X)
        median = quantiles[:, :, len(self.quantiles) // 2]
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

    def _forecast(self, fh, X):
        """Forecast every row of fh: (n_rows, n_columns, n_quantiles) and their index."""
        model = self.model_
        y, past = self._context()
        table = to_table(y, past)
        array = model.standardize(table.flatten())
        plan = _Plan(fh, table, self._cutoff)
        known = self._known_exog(X, plan, table)
        device = resolve_device(self.device)
        out = np.empty((len(plan.step), table.n_columns, len(self.quantiles)))
        with explain_out_of_memory(device, hidden_size=self.hidden_size_):
            for column in range(table.n_columns):
                first = column * table.n_instances
                self._ahead(model, array, plan, first, known, device, out[:, column])
                self._behind(model, array, plan, first, device, out[:, column])
        names, columns = list(self._get_varnames()), y.columns
        if len(names) > 1 and names != list(columns) and set(names) == set(columns):
            out = out[:, columns.get_indexer(names)]  # as the y of `update` has them
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
        """Fill the rows of steps after each series' end, block by block."""
        rows = np.flatnonzero(plan.step > 0)
        if not len(rows):
            return
        last = int(plan.step[rows].max())
        n_blocks = math.ceil(last / model.horizon)
        series = np.unique(plan.instance[rows])
        place = np.full(plan.instance.max() + 1, -1)
        place[series] = np.arange(len(series))
        extended = array.take(first + series)
        spread = 0.0
        for block in range(n_blocks):
            done = block * model.horizon
            ends = extended.stops
            n_steps = min(model.horizon, last - done)
            future = np.full((len(series), n_steps, array.exog.shape[1]), np.nan)
            inside = (plan.step > done) & (plan.step <= done + n_steps)
            if known is not None:
                on_way, values = known
                there = (on_way.step > done) & (on_way.step <= done + n_steps)
                there &= place[on_way.instance] >= 0
                at = place[on_way.instance[there]], on_way.step[there] - done - 1
                future[at] = values[there]
            numbers = np.arange(len(series))
            quantiles = model.block(extended, numbers, ends, future, device)
            middle = quantiles.shape[2] // 2
            median = quantiles[:, :, middle : middle + 1]
            # Errors of blocks add up as if independent.
            gaps = quantiles - median
            gaps = np.sign(gaps) * np.hypot(gaps, spread)
            quantiles = median + gaps
            spread = gaps[:, -1:]
            quantiles = guarded(quantiles, extended, numbers, ends, model)
            out[inside] = quantiles[
                place[plan.instance[inside]], plan.step[inside] - done - 1
            ]
            if block + 1 < n_blocks:
                extended = extended_by(extended, quantiles[:, :, middle], future)

    def _behind(self, model, array, plan, first, device, out):
        """Fill in-sample rows, each forecast one step ahead from what came before it."""
        rows = np.flatnonzero(plan.step <= 0)
        if not len(rows):
            return
        series = first + plan.instance[rows]
        ends = np.maximum(array.stops[series] + plan.step[rows] - 1, array.starts[series])
        future = array.gather_exog(series, ends[:, None])
        quantiles = model.block(array, series, ends, future, device)
        out[rows] = guarded(quantiles, array, series, ends, model)[:, 0]

    def _known_exog(self, X, plan, table):
        """Return a plan of the steps ahead and their exogenous rows, standardised.

        NaN where it is a step on the way to those of fh that X does not have.
        """
        model, ahead = self.model_, plan.step > 0
        if not model.exog_columns or not ahead.any():
            return None
        if X is None:
            raise ValueError(
                "LSTMForecaster was fitted with X, so predict needs X for the steps of "
                "fh; got None."
            )
        self._check_columns(None, X)
        _check_finite(X, "X")
        rows = X.index.get_indexer(plan.index)
        missing = ahead & (rows < 0)
        if missing.any():
            raise ValueError(
                f"X lacks {int(missing.sum())} rows of the forecasting horizon, the "
                f"first for {plan.index[missing][0]!r}."
            )
        last = int(plan.step.max())
        if last > model.horizon:  # what later blocks go on from
            steps = ForecastingHorizon(np.arange(1, last + 1), is_relative=True)
            plan = _Plan(steps, table, self._cutoff)
            rows = X.index.get_indexer(plan.index)
        values = X.to_numpy(dtype=np.float64)[rows]
        values[rows < 0] = np.nan
        return plan, (values - model.exog_mean) / model.exog_scale

    def backtest(self, y, X=None, fh=None, step=1, initial_window=None):
        """Forecast from every cutoff of y in one pass, without refitting.

        Equal to ``evaluate`` with ``strategy="no-update_params"`` and an expanding
        window, but batched over all cutoffs and series.

        Parameters
        ----------
        y : Series or DataFrame in an sktime format
            Series to forecast, of the kind seen in `fit`.
        X : DataFrame, default=None
            Exogenous data for all of y. Required if `fit` had X.
        fh : int, sequence of int or relative ForecastingHorizon, default=None
            Steps ahead, positive. None: that of `fit`.
        step : int, default=1
            Distance between cutoffs, in rows.
        initial_window : int, default=None
            Rows of each series before the first cutoff. None: a season and one.

        Returns
        -------
        forecasts : DataFrame
            A row for each (instance, cutoff, time), where the time is in y; a column
            per variable.

        Raises
        ------
        ValueError
            If y or X cannot be used, or an argument is out of its range.
        """
        self.check_is_fitted()
        fh = check_fh(self.fh if fh is None else fh)
        if not fh.is_relative:
            raise ValueError(f"backtest takes steps ahead; got the absolute fh {fh!r}.")
        for name, value in {"step": step, "initial_window": initial_window}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        model = self.model_
        if X is None and model.exog_columns:
            raise ValueError(
                "LSTMForecaster was fitted with X, so backtest needs X for the rows of "
                "y; got None."
            )
        # sktime notes the type of what it checks, which is for what was fitted alone.
        checker = copy.copy(self)
        checker._converter_store_y = dict(self._converter_store_y)
        X_inner, y_inner = checker._check_X_y(X=X, y=y)
        self._check_columns(y_inner, X_inner)
        table = self._read(y_inner, X_inner)
        array = model.standardize(table.flatten())
        steps = np.unique(_relative_steps(fh, table, None))
        if steps.min() < 1 or steps.max() > model.horizon:
            raise ValueError(
                f"backtest takes steps from 1 to the trained horizon {model.horizon}; "
                f"got {steps.tolist()}."
            )
        device = resolve_device(self.device)
        if initial_window is None:
            initial_window = model.period + 1
        cutoffs = [
            np.arange(initial_window, length - steps.min() + 1, step)
            for length in table.lengths
        ]
        instance = np.repeat(np.arange(table.n_instances), [len(c) for c in cutoffs])
        position = np.concatenate(cutoffs)
        columns = []
        for column in range(table.n_columns):
            series = column * table.n_instances + instance
            ends = array.starts[series] + position
            future = array.gather_exog(series, ends[:, None] + np.arange(steps.max()))
            block = model.block(array, series, ends, future, device)
            block = guarded(block, array, series, ends, model)
            columns.append(block[:, steps - 1, len(self.quantiles) // 2])
        values = np.stack(columns, axis=2)  # (n_cutoffs, n_steps, n_columns)
        inside = position[:, None] + steps - 1 < table.lengths[instance, None]
        row = table.offsets[instance, None] + position[:, None] + steps - 1
        times = times_of(table.frame)
        keys = [times[(table.offsets[instance] + position - 1).repeat(inside.sum(1))],
                times[row[inside]]]  # fmt: skip
        names = ["cutoff", "time"]
        if table.instances() is not None:
            keys.insert(0, table.instances()[instance.repeat(inside.sum(1))])
            names.insert(0, "instance")
        values = values[inside]
        return pd.DataFrame(
            values,
            index=pd.MultiIndex.from_arrays(keys, names=names),
            columns=table.frame.columns,
        )

    # ---------------------------------------------------------------------- checks
    def _auto(self, name, value):
        given = getattr(self, name)
        return value if given == "auto" else int(given)

    def _choices(self, model, array):
        """Return what size of network and training the number of values asks for."""
        if model.fine_tuned:
            return TUNED
        n, period = int(array.lengths.sum()), model.period
        sizes = SHORT if n <= SHORT_TOTAL else MEDIUM if n <= MEDIUM_TOTAL else LARGE
        if SHORT_TOTAL < n <= MIXED_TOTAL and period < TUNED_PERIOD:
            sizes = {**sizes, "max_steps": SHORT["max_steps"]}
        return {name: self._auto(name, value) for name, value in sizes.items()}

    def _keep_choices(self):
        model = self.model_
        first = (model.trained or model.pretrained)[0]
        self.horizon_, self.window_length_ = model.horizon, first.window_length
        self.sp_, self.segment_length_ = model.period, first.network.segment_length
        self.hidden_size_ = first.network.config["hidden_size"]
        self.n_members_ = len(model.trained)
        self.pretrained_share_ = model.pretrained_share
        self.fine_tuned_ = model.fine_tuned
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

    def _check_columns(self, y, X, model=None):
        model = model or self.model_
        # Names may differ: what was pretrained on one panel forecasts another.
        if y is not None and len(y.columns) != len(model.columns):
            raise ValueError(
                f"y has the columns {list(y.columns)}, but {list(model.columns)} were "
                "fitted."
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


def _unfrozen(member, array):
    """Return a copy of a pretrained member to be trained on, for series of an array."""
    network = copy.deepcopy(member.network).requires_grad_(True)
    widths = (*member.window_lengths, member.window_length)
    longest = int(np.searchsorted(widths[:-1], array.lengths.max()))
    return dataclasses.replace(
        member, network=network, window_length=widths[longest],
        window_lengths=widths[:longest],
    )  # fmt: skip


class _Plan:
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
            self.index = _times_ahead(fh, cutoff)
            self.step = _steps(fh, table, cutoff)[0]
            self.instance = np.zeros(len(self.step), dtype=np.int64)
            return
        last = table.last_times()
        ends, end_of = np.unique(last, return_inverse=True)
        ends = pd.Index(ends)
        times, steps = [], []
        for end in ends:
            at = _as_cutoff(end, cutoff)
            times.append(_times_ahead(fh, at))
            steps.append(_steps(fh, table, at)[0])
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


def _times_ahead(fh, cutoff):
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


def _steps(fh, table, cutoff):
    """Return the steps of fh after the cutoff, and the step of an integer index."""
    if not fh.is_relative:
        fh = fh.to_relative(cutoff)
    relative = np.asarray(fh.to_pandas(), dtype=np.int64)
    spacing = _spacing(table)
    if spacing > 1:
        # sktime counts in labels; a label between two rows belongs to the later one.
        relative = np.ceil(relative / spacing).astype(np.int64)
    return relative, spacing


def _spacing(table) -> int:
    times = times_of(table.frame)
    if isinstance(times, (pd.DatetimeIndex, pd.PeriodIndex)) or table.lengths.max() < 2:
        return 1
    first = table.offsets[table.lengths.argmax()]
    return max(int(times[first + 1] - times[first]), 1)


def _relative_steps(fh, table, cutoff):
    return _steps(fh, table, cutoff)[0]


def _frequency(y):
    """Return the frequency of the longest series, or None where it has none."""
    times = times_of(y)
    if y.index.nlevels > 1:
        codes = y.index.droplevel(-1).factorize()[0]
        times = times[codes == np.bincount(codes).argmax()]
    return pd.infer_freq(times) if len(times) >= 3 else None


def _check_finite(frame, name="y"):
    if frame is None:
        return
    infinite = np.isinf(frame.to_numpy(dtype=np.float64))
    if infinite.any():
        row = int(infinite.any(axis=1).argmax())
        raise ValueError(f"{name} contains infinity at {frame.index[row]}.")


def _reference_times(table):
    """Return the times of the longest instance, with their frequency."""
    longest = table.lengths.argmax()
    times = times_of(table.frame)[table.offsets[longest] : table.offsets[longest + 1]]
    if isinstance(times, pd.DatetimeIndex) and len(times) >= 3 and times.freq is None:
        inferred = pd.infer_freq(times)
        if inferred is not None:
            return pd.DatetimeIndex(times, freq=inferred)
    return times


def _breaks(times, freq, spacing):
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


def _check_regular(table):
    """Raise where rows of an instance are not equally far apart."""
    times, freq = times_of(table.frame), None
    if isinstance(times, pd.DatetimeIndex):
        freq = _reference_times(table).freq
        if freq is None and table.lengths.max() >= 2:
            raise ValueError(
                "The DatetimeIndex of y has gaps or no regular frequency. Call "
                "y.asfreq(...) first; the missing values that this makes are understood."
            )
        if freq is None or len(table.lengths) == 1:
            return
    wrong = _breaks(times, freq, _spacing(table))
    wrong[table.offsets[1:-1] - 1] = False  # between two instances
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"The index of y has a gap between {table.frame.index[row]} and "
            f"{table.frame.index[row + 1]}. Insert the missing rows, with NaN."
        )
