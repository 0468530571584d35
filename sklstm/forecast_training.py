"""How a forecaster trains: what "auto" means, networks, shares, calibration.

`_train_model` is the table of contents.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings

import numpy as np
import torch

from sklstm.checkpoints import (
    Checkpoint,
    CheckpointOfMember,
    NumpyGenerator,
    identity,
)
from sklstm.devices import (
    insulated,
    network_threads,
    resolve_device,
    retained_memory,
    threads_for,
    torch_threads,
    working_on,
)
from sklstm.forecast_model import (
    ForecastModel,
    Member,
    Validation,
    WindowBatches,
)
from sklstm.gradients import ForecastGradients
from sklstm.heads import ForecastHead
from sklstm.horizons import reference_times, relative_steps
from sklstm.network import ForecastNetwork, initialize
from sklstm.pretrained import (
    MAX_PERIOD,
    MIN_LONGEST_PERIOD,
    VIEWS,
    WINDOW_LENGTHS,
    load_pretrained,
)
from sklstm.series import find_period, grows_with_level
from sklstm.training import Learner, Randomness, to_arrays, to_tensors, train
from sklstm.windows import N_CHANNELS

STEPS_PER_EPOCH = 25  # entries of the history are means over so many
# A panel of at least this many series sets a fifth of them aside, to choose on.
MIN_ASIDE_SERIES = 40
MAX_ASIDE_SERIES = 500
# Values of y up to which data count as short and as medium, and what is then chosen.
SHORT_TOTAL, MEDIUM_TOTAL = 2000, 100_000
SHORT = {"hidden_size": 32, "n_members": 4, "max_steps": 300, "batch_size": 32}
MEDIUM = {"hidden_size": 64, "n_members": 1, "max_steps": 1000, "batch_size": 256}
LARGE = {"hidden_size": "wide", "n_members": 1, "max_steps": 1500, "batch_size": 256}
# Whoever sets one of these otherwise wants a network trained.
TRAINING_PARAMETERS = {
    "window_length": "auto", "segment_length": "auto", "hidden_size": "auto",
    "num_layers": 1, "cell": "lstm", "n_members": "auto", "max_steps": "auto",
    "batch_size": "auto", "scaling": "auto", "transform": "auto",
}  # fmt: skip
# From the pretrained weights on, where seasons are shorter than these steps: longer ones
# ask for longer windows. At that share of the learning rate.
TUNED = {"max_steps": 150, "batch_size": 128}
TUNED_PERIOD, TUNED_RATE = 24, 0.1
# By how many widths of the outer quantiles calibration shifts one at most.
MOST_OFFSET = 1.5
LONGEST_WINDOW = 720  # of two weeks of hours, say, but not of minutes
# Shares of the pretrained network that are tried; beside a fine-tuned one, from a half
# on: series set aside lie at the same times as those trained on, which flatters it.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Values of short seasons up to which nothing is trained, and where the pretrained network
# is not apt, more steps than for short data only overfit. Without series to try shares
# on, it has half up to here.
MIXED_TOTAL = 20_000


def entries_of(max_steps):
    """Return the entries of the history and the steps of each, divided evenly."""
    n_entries = max(1, round(max_steps / STEPS_PER_EPOCH))
    return n_entries, math.ceil(max_steps / n_entries)


class ForecastTraining:
    """The part of `LSTMForecaster` that trains; reads its parameters, sets nothing."""

    @insulated
    def _train_model(self, table, X, fh, always=False):
        """Choose what is "auto", train, calibrate; return the model and its losses."""
        began = time.perf_counter()
        self._check_parameters()
        # What is missing at the end is nothing to hold back, or to be judged by.
        array = table.flatten().up_to_last_observed()
        model = self._new_model(table, array, X, fh)
        self._report(
            f"read {len(array)} series, {int(array.lengths.sum())} values, season of "
            f"{model.period}",
            began,
        )
        shipped, is_short_season = self._shipped(model, X), model.period < TUNED_PERIOD
        n_values = int(array.lengths.sum())
        is_short = n_values <= (MIXED_TOTAL if is_short_season else SHORT_TOTAL)
        if shipped and (self.pretrained == "only" or (is_short and not always)):
            self._take_shipped(model, shipped, array, began)
            return model, []
        if shipped and model.horizon > shipped[0].horizon:
            shipped = []
        model.fine_tuned = bool(shipped) and is_short_season
        model.fine_tuned &= always or n_values <= MEDIUM_TOTAL
        random, checkpoint = self._begin()
        if model.fine_tuned:
            model.trained = [_unfrozen(shipped[0], array)]
        else:
            model.trained = self._new_members(model, array, random)
        array = model.standardize(array)
        training, aside = self._set_aside(array, random)
        history = self._train_networks(model, training, random, aside, checkpoint)
        del model.trained[len(history) :]  # which an interrupt left untrained
        began = time.perf_counter()
        if shipped:
            model.pretrained = shipped
            model.pretrained_share = self._best_share(model, array, aside)
        if aside is not None:
            n_judged = self._calibrate(model, aside, model.horizon)
            self._report(
                f"calibrated on {n_judged} windows; share of the pretrained network "
                f"{model.pretrained_share:g}",
                began,
            )
        return model, history

    def _new_model(self, table, array, X, fh):
        """Return a model that knows its season, its horizon and what X looks like."""
        longest = int(array.lengths.max())
        if longest < 2:
            raise ValueError(
                f"LSTMForecaster needs at least 2 time points in some series; got "
                f"{longest}."
            )
        period = self.sp
        if period == "auto":
            period = find_period(array, reference_times(table))
        period, exog = int(period), array.exog_inside()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column without a value
            mean, scale = np.nanmean(exog, axis=0), np.nanstd(exog, axis=0)
        return ForecastModel(
            horizon=self._horizon(table, array, fh, period),
            period=period,
            quantiles=tuple(self.quantiles),
            exog_mean=np.nan_to_num(mean),
            exog_scale=np.where(scale > 0, scale, 1.0),
            columns=tuple(table.frame.columns),
            exog_columns=() if X is None else tuple(X.columns),
        )

    def _take_shipped(self, model, shipped, array, began):
        """Make a model of the pretrained network alone."""
        max_horizon = shipped[0].horizon
        n_steps = min(model.horizon, max_horizon)
        model.horizon = int(min(self.horizon or max_horizon, max_horizon))
        model.pretrained, model.pretrained_share = shipped, 1.0
        self._report("took the pretrained network", began)
        if self.pretrained == "auto" and len(array) >= MIN_ASIDE_SERIES:
            # It was trained on none of them.
            n_judged = self._calibrate(model, array, n_steps)
            self._report(f"calibrated on {n_judged} windows", began)

    def _begin(self):
        """Return the source of randomness, and the checkpoint or None."""
        if self.checkpoint is None:
            return self._random(), None
        checkpoint = Checkpoint(self.checkpoint)
        return self._random(checkpoint.seed), checkpoint

    def _random(self, seed=None):
        return Randomness(self.random_state, torch.device("cpu"), 0, seed)

    def _report(self, line, began):
        if self.verbose:
            seconds = time.perf_counter() - began
            print(f"LSTMForecaster: {line} ({seconds:.1f} s)")  # noqa: T201 - asked for

    @property
    def _stops_early(self):
        """Whether `early_stopping` is True, be it NumPy's."""
        return self.early_stopping != "auto" and bool(self.early_stopping)

    def _horizon(self, table, array, fh, period):
        steps_ahead = max(2 * period, 8)
        if fh is not None:
            steps_ahead = int(relative_steps(fh, table, self._cutoff).max())
        if self.horizon is not None:
            return int(self.horizon)
        return max(1, min(steps_ahead, int(array.lengths.max()) // 3))

    def _shipped(self, model, X):
        """Return the views of the pretrained network, or nothing where it is not apt."""
        if self.pretrained is None:
            return []
        obstacles = self._obstacles(model.period, X)
        if obstacles and self.pretrained == "only":
            raise ValueError(
                f"pretrained='only' cannot be used with {' and '.join(obstacles)}. "
                "Leave that out, or set pretrained='auto'."
            )
        if obstacles:
            return []
        network, quantiles = load_pretrained()
        is_long = model.period >= MIN_LONGEST_PERIOD
        *shorter, longest = WINDOW_LENGTHS if is_long else WINDOW_LENGTHS[:-1]
        return [
            Member(network, quantiles, longest, "season", log, tuple(shorter), n_shorter)
            for log, n_shorter in VIEWS
            if n_shorter < 2 or not is_long
        ]

    def _obstacles(self, period, X):
        """Return what keeps the pretrained network from being used, in words."""
        found = ["X"] if X is not None else []
        if period > MAX_PERIOD:
            found.append(f"a season of {period} steps (it knows up to {MAX_PERIOD})")
        found += [
            f"{name}={getattr(self, name)!r}, which asks for training"
            for name, usual in TRAINING_PARAMETERS.items()
            if getattr(self, name) != usual
        ]
        if self._stops_early:
            found.append("early_stopping=True, which asks for training")
        return found

    def _new_members(self, model, array, random):
        """Return networks to be trained, and how windows are made for them."""
        period = model.period
        choices = self._choices(model, array)
        window_length, segment = self._window(model, int(array.lengths.max()))
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
            network.to(torch.float32)  # whatever is torch's default
            with torch_threads(1):  # orthogonalisation rounds by the number of threads
                initialize(network, random.start)
            scaling = "season" if self.scaling == "auto" else self.scaling
            members.append(
                Member(network.eval(), model.quantiles, window_length, scaling, log)
            )
        return members

    def _window(self, model, longest):
        """Return the length of windows of series up to `longest`, and of segments."""
        period = model.period
        wanted = 24 if period == 1 else 4 * period
        if period >= 24:
            wanted = max(min(14 * period, LONGEST_WINDOW), 3 * period)
        if model.horizon <= 96:
            wanted = max(wanted, model.horizon)
        window_length = self._auto("window_length", min(wanted, longest))
        segment = 1
        if window_length > 64:
            segment = period if 8 <= period <= 48 else 24
        segment = self._auto("segment_length", segment)
        # Whole segments: the window grows at its far end, where it is padded.
        return math.ceil(window_length / segment) * segment, segment

    @insulated
    def _train_networks(
        self, model, array, random, aside=None, checkpoint=None, *, update=False
    ):
        """Train each network of a model in place; return the losses of those trained.

        After an interrupt no further ones are.
        """
        device = resolve_device(self.device)
        held = aside if self.early_stopping == "auto" or self._stops_early else None
        if held is not None and held.lengths.max() < model.horizon + 2:
            held = None  # too short to hold back what is forecast
        if held is None and self._stops_early:
            # Nothing was set aside: the last values of each series are held back.
            array, held = self._without_last(array, model.horizon), array
        # Each update draws windows of its own, as the rows that it knows are more.
        first = len(model.trained) * int(array.lengths.sum()) if update else 0
        draws = [random.of_fit(first + i, device) for i in range(len(model.trained))]
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
                network.load_state_dict(to_tensors(ended[i]["network"]))
                history.append(ended[i]["loss_curve"])
                continue
            of_member = None
            if checkpoint is not None:
                of_member = CheckpointOfMember(checkpoint, list(ended), i == n_ended)
            trained, n_windows = self._train_member(
                member, model, array, held, device, drawn, rng, of_member, update=update
            )
            history.append(trained.loss_curve)
            self._report(
                f"trained network {i + 1} of {len(model.trained)}: {n_windows} windows, "
                f"loss {trained.loss_curve[-1]:.4f}",
                began,
            )
            if trained.interrupted:
                return history  # the file of a checkpoint stays as it is
            if checkpoint is not None:
                weights = to_arrays(network.state_dict())
                ended.append({"network": weights, "loss_curve": trained.loss_curve})
        if checkpoint is not None:
            checkpoint.remove()
        return history

    @staticmethod
    def _without_last(array, horizon):
        """Return series without their last `horizon` values."""
        longest, needed = int(array.lengths.max()), horizon + 2
        if longest < needed:
            raise ValueError(
                f"early_stopping=True holds back the last {horizon} values of each "
                f"series, but the longest has {longest}. Give series of at least "
                f"{needed} values, forecast fewer steps, or set early_stopping=False."
            )
        stops = np.maximum(array.stops - horizon, array.starts)
        return dataclasses.replace(array, stops=stops)

    def _train_member(
        self, member, model, array, held, device, drawn, rng, checkpoint, *, update
    ):
        """Train one network in place; return its history and how many windows it saw."""
        network, choices = member.network, self._choices(model, array)
        batch_size = choices["batch_size"]
        max_steps = self.update_steps if update else choices["max_steps"]
        n_epochs, n_steps = entries_of(max_steps)
        rate = 0.1 if update else 1.0
        if model.fine_tuned:
            rate *= TUNED_RATE
        batches = WindowBatches(
            member, model.period, array, device=device, batch_size=batch_size,
            n_batches=n_steps, rng=rng, n_steps=model.horizon,
        )  # fmt: skip
        by_hand = ForecastGradients(network, member.quantiles)
        bfloat16 = self.dtype == "bfloat16"
        n_threads = threads_for(batch_size, member.window_length, network)
        with (
            working_on(
                device, batch_size=batch_size, hidden_size=network.config["hidden_size"]
            ),
            network_threads(n_threads, network, bfloat16),
            retained_memory(),
        ):
            network.to(device)
            validate = None
            if held is not None:
                validation = Validation(member, model.period, held, device, model.horizon)
                validate = validation if validation.weight.any() else None
            history = train(
                network,
                ForecastHead(member.quantiles).loss,
                [Learner(network, batches, drawn.dropout, by_hand)],
                solver="adamw",
                learning_rate="one-cycle",
                learning_rate_init=self.learning_rate_init * rate,
                alpha=self.alpha,
                max_iter=n_epochs,
                tol=0.0,
                max_grad_norm=self.max_grad_norm,
                # "auto" only keeps the best weights: the error is still high while
                # the learning rate is.
                n_iter_no_change=10 if self._stops_early else n_epochs,
                bfloat16=bfloat16,
                validate=validate,
                checkpoint=checkpoint,
            )
        network.cpu()
        return history, history.n_iter * batches.n_batches * batch_size

    def _take_up(self, checkpoint, model, arrays, random, draws, generators):
        """Open the checkpoint; return the state of each network that it has finished."""
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
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
        is that quantile of the errors, in units of how far the outer quantiles are apart,
        and at most `MOST_OFFSET`. The median is not shifted. Later steps are shifted as
        the last of `n_steps`. Returns on how many windows; of fewer than 8 nothing is
        shifted.
        """
        series, ends = self._held_out(model, array, n_steps)
        if len(series) < 8:
            return 0
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
                    # The rank of alpha (n + 1): the next error is one of n + 1 alike.
                    np.nanquantile(error[:, :, q], alpha, axis=0, method="weibull")
                    for q, alpha in enumerate(model.quantiles)
                ],
                axis=1,
            )
        offsets[:, len(model.quantiles) // 2] = 0.0
        offsets[n_steps:] = offsets[n_steps - 1]
        # What happens to some series is no measure of how uncertain the others are.
        model.offsets = np.clip(np.nan_to_num(offsets), -MOST_OFFSET, MOST_OFFSET)
        return len(series)

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


def _unfrozen(member, array):
    """Return a copy of a pretrained member to be trained on, for series of an array."""
    network = copy.deepcopy(member.network).requires_grad_(True)
    widths = (*member.window_lengths, member.window_length)
    longest = int(np.searchsorted(widths[:-1], array.lengths.max()))
    return dataclasses.replace(
        member, network=network, window_length=widths[longest],
        window_lengths=widths[:longest],
    )  # fmt: skip
