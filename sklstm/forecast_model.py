"""The global model behind LSTMForecaster: windows in, quantiles out.

`Member` is a network with its windows, `ForecastModel` what a fitted forecaster knows,
`WindowBatches` what a member is trained on. None knows sktime or an index.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

from sklstm.devices import network_threads, threads_for, working_on
from sklstm.heads import ForecastHead
from sklstm.network import ForecastNetwork
from sklstm.series import SeriesArray
from sklstm.windows import cut_windows, seasonal_naive, week_effects

PREDICT_ROWS = 512
# Torch's kernels treat a single row, and the last rows of some batch sizes, differently.
FILL = 4
# Steps of a long horizon that a training batch looks at, and a prediction batch of that
# many rows decodes.
STEPS_AT_ONCE = 96
# Windows that are laid out at a time; bounds memory.
WINDOWS_AT_ONCE = 4096
# Windows that are laid out at a time for training: drawing them a batch at a time would
# spend longer on calls than on work.
WINDOWS_DRAWN = 1024
MAX_LOG = 700.0  # exp of more overflows
# Seasons of so many steps are days, of hours or half-hours. The pretrained network knows
# one season, so it is given series less what so many weeks say of the time of the week.
DAYS = (24, 48)
N_WEEKS = 6
# A forecast may leave the range of its window and of the seasonal naive forecast by
# this many times the width of that range, and no more.
GUARD_WIDTH = 3.0
# The same of outer quantiles: those of logarithms of a few values may reach anywhere.
OUTER_GUARD_WIDTH = 10.0
# What each further block keeps of its distance from the seasonal naive forecast.
DAMPING = 0.9
# So many blocks are forecast of what is missing at the end of a series; by then what it
# last did is damped. After that its season goes on, and nothing else changes.
BLOCKS_ON_THE_WAY = 20
# Values of series that are copied at a time, to be extended beyond a block.
COPIED_VALUES = 4_000_000
# A forecast of a constant series may miss it by this much: logarithms round.
ROUNDING = 1e-9


@dataclass
class Member:
    """A network and how windows are made for it.

    Attributes
    ----------
    network : ForecastNetwork
    quantiles : tuple of float
        Levels of its outputs.
    window_length : int
    scaling : str
        How windows are normalised, see `make_windows`.
    log : bool
        Whether windows of positive values are taken the logarithm of.
    window_lengths : tuple of int
        Shorter windows that it also knows, ascending: a series that fits into one is
        read through it, with less padding.
    n_shorter : int
        The window taken is so many sizes below the shortest that holds the series.
    """

    network: ForecastNetwork
    quantiles: tuple
    window_length: int
    scaling: str
    log: bool
    window_lengths: tuple = ()
    n_shorter: int = 0

    @property
    def horizon(self) -> int:
        """Steps that the network decodes at once."""
        return self.network.config["horizon"]

    def widths(self, array, series, ends, n_shorter=None) -> np.ndarray:
        """Return the length of the window through which each series is read.

        Given `n_shorter`, an array of shape (k, 1), in its place: (k, n).
        """
        widths = np.array([*self.window_lengths, self.window_length])
        history = np.minimum(ends - array.starts[series], self.window_length)
        n_shorter = self.n_shorter if n_shorter is None else n_shorter
        return widths[np.maximum(np.searchsorted(widths, history) - n_shorter, 0)]

    def windows(
        self, array, period, series, ends, *, horizon=None, widths=None, logs=None
    ):
        """Cut the windows that end before positions `ends`, see `cut_windows`.

        Given `horizon`, for so many steps ahead; given `widths` (k, n) and `logs` (k),
        k times n of them in the place of `window_length` and `log`.
        """
        if widths is None:
            widths = np.full(len(series), self.window_length)
        return cut_windows(
            array, series, ends, period, horizon or self.horizon, widths=widths.ravel(),
            scaling=self.scaling, logs=logs or (self.log,),
        )  # fmt: skip


def forecast_views(views, array, period, series, ends, future, device) -> np.ndarray:
    """Forecast the steps after positions `ends` through views of one network.

    Parameters
    ----------
    views : list of Member
        They differ in `log` and `n_shorter` alone.
    array : SeriesArray
    period : int
    series, ends : ndarray of shape (n,), int64
        Which series, and the positions in its values.
    device : torch.device
    future : ndarray of shape (n, n_steps, n_exog)
        At most `horizon` steps; no more are decoded.

    Returns
    -------
    quantiles : ndarray of shape (n_views, n, n_steps, n_quantiles)
    """
    with working_on(device, hidden_size=views[0].network.config["hidden_size"]):
        return _forecast_views(views, array, period, series, ends, future, device)


def _forecast_views(views, array, period, series, ends, future, device):
    network, n_quantiles = views[0].network, len(views[0].quantiles)
    out = np.empty((len(views), len(series), future.shape[1], n_quantiles))
    if device.type != "cpu":
        network = copy.deepcopy(network).to(device)
    n_shorter = np.array([[view.n_shorter] for view in views])
    logs = [view.log for view in views]
    at_once = max(WINDOWS_AT_ONCE // len(views), 1)
    for start in range(0, len(series), at_once):
        piece = slice(start, start + at_once)
        some, before = series[piece], ends[piece]
        widths = views[0].widths(array, some, before, n_shorter)
        windows, is_log = views[0].windows(
            array, period, some, before, horizon=out.shape[2], widths=widths, logs=logs
        )
        known = _filled(future[piece])
        normal = _forward(network, windows, known, widths.ravel(), device)
        values = windows.centre[:, None, None] + windows.scale[:, None, None] * normal
        values[is_log] = np.exp(np.minimum(values[is_log], MAX_LOG))
        out[:, piece] = values.reshape(len(views), len(some), *out.shape[2:])
    return out


def _filled(values):
    """Return what is not known as zero, float32."""
    return np.where(np.isnan(values), 0.0, values).astype(np.float32)


def _log(values, wanted):
    """Take logarithms where wanted; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(values > 0, np.log(values), np.nan)
    return np.where(wanted, logs, values)


@dataclass
class ForecastModel:
    """What a fitted forecaster knows: networks and how they are combined.

    The median of the trained networks and the mean of the views of the pretrained one
    are averaged.

    Attributes
    ----------
    horizon, period : int
    quantiles : tuple of float
    exog_mean, exog_scale : ndarray of shape (n_exog,), float64
        What exogenous data are standardised by.
    columns, exog_columns : tuple
        Names, as in `fit`.
    trained, pretrained : list of Member
    pretrained_share : float
        Weight of the pretrained ones, in [0, 1].
    fine_tuned : bool
        Whether the trained networks started at the pretrained weights.
    offsets : ndarray of shape (horizon, n_quantiles), float64, or 0.0
        Calibration, added to quantiles in units of the distance between the lowest and
        the highest. 0.0 where nothing was calibrated.
    """

    horizon: int
    period: int
    quantiles: tuple
    exog_mean: np.ndarray
    exog_scale: np.ndarray
    columns: tuple
    exog_columns: tuple
    trained: list = field(default_factory=list)
    pretrained: list = field(default_factory=list)
    pretrained_share: float = 0.0
    fine_tuned: bool = False
    offsets: np.ndarray | float = 0.0

    @property
    def context_length(self) -> int:
        """Values that a forecast depends on."""
        members = self.trained + self.pretrained
        longest = max(member.window_length for member in members) + self.period
        of_weeks = N_WEEKS * 7 * self.period if self.has_weeks else 0
        return max(longest, of_weeks)

    @property
    def has_weeks(self) -> bool:
        """Whether the pretrained networks are told of the time of the week."""
        return bool(self.pretrained) and self.period in DAYS

    def standardize(self, array: SeriesArray) -> SeriesArray:
        """Standardise exogenous data."""
        exog = (array.exog - self.exog_mean) / self.exog_scale
        return SeriesArray(array.values, array.starts, array.stops, exog)

    def forecast_of(self, members, array, series, ends, future, device):
        """Forecast with the trained or the pretrained: (n, n_steps, n_quantiles)."""
        if members is self.pretrained and self.has_weeks:
            n_steps = future.shape[1]
            out = np.empty((len(series), n_steps, len(self.quantiles)))
            ahead = np.arange(n_steps) % (7 * self.period)
            for start in range(0, len(series), PREDICT_ROWS):
                rows = slice(start, start + PREDICT_ROWS)
                rest, effects = self.without_weeks(array, series[rows], ends[rows])
                numbers = np.arange(len(rest))
                out[rows] = self._forecast_of(
                    members, rest, numbers, rest.stops, future[rows], device
                )
                out[rows] += effects[:, ahead, None]
            return out
        return self._forecast_of(members, array, series, ends, future, device)

    def without_weeks(self, array, series, ends):
        """Return series up to positions `ends` less their weeks, and `week_effects`."""
        width = N_WEEKS * 7 * self.period
        values = array.gather(series, ends[:, None] - width + np.arange(width))
        empty = np.isnan(values).all(axis=1)
        values[empty, 0] = array.last_observed(series[empty], ends[empty])
        effects = week_effects(values, self.period)
        values -= np.tile(effects, N_WEEKS)
        stops = (np.arange(len(series)) + 1) * width
        starts = stops - np.minimum(ends - array.starts[series], width)
        exog = np.zeros((width, array.exog.shape[1]))
        return SeriesArray(values.ravel(), starts, stops, exog), effects

    def _forecast_of(self, members, array, series, ends, future, device):
        views = {}  # of one network: they are computed together
        for member in members:
            key = {**vars(member), "network": id(member.network)}
            del key["log"], key["n_shorter"]
            views.setdefault(tuple(key.values()), []).append(member)
        each = []
        for same in views.values():
            quantiles = forecast_views(
                same, array, self.period, series, ends, future, device
            )
            if same[0].quantiles != self.quantiles:
                head = ForecastHead(same[0].quantiles)
                quantiles = head.interpolate(quantiles, self.quantiles)
            each.append(quantiles)  # (n_views, n, n_steps, n_quantiles)
        each = np.concatenate(each) if len(each) > 1 else each[0]
        if len(each) == 1:
            return each[0]
        return (np.mean if members is self.pretrained else np.median)(each, axis=0)

    def block(self, array, series, ends, future, device) -> np.ndarray:
        """Forecast the steps after `ends` that `future` has: (n, n_steps, n_quantiles).

        At most `horizon` steps.
        """
        n_steps, offsets = future.shape[1], self.offsets
        quantiles = np.zeros((len(series), n_steps, len(self.quantiles)))
        for members, share in (
            (self.trained, 1 - self.pretrained_share),
            (self.pretrained, self.pretrained_share),
        ):
            if share:
                block = self.forecast_of(members, array, series, ends, future, device)
                quantiles += share * block
        if isinstance(offsets, np.ndarray):
            offsets = offsets[:n_steps]
        middle = quantiles.shape[2] // 2
        median = quantiles[:, :, middle : middle + 1]
        spread = quantiles[:, :, -1:] - quantiles[:, :, :1]
        quantiles = quantiles + offsets * spread
        # However far they are shifted, the median stays what it was.
        below = np.minimum(quantiles[:, :, :middle], median)
        above = np.maximum(quantiles[:, :, middle + 1 :], median)
        return np.sort(np.concatenate([below, median, above], axis=2), axis=2)


class WindowBatches:
    """Batches of windows drawn at random, `n_batches` of them in an epoch.

    `n_steps` of the steps that the member decodes are trained.
    """

    def __init__(
        self, member, period, array, *, device, batch_size, n_batches, rng, n_steps
    ):  # fmt: skip
        self.member, self.period, self.array = member, period, array
        self.batch_size, self.n_batches, self.n_steps = batch_size, n_batches, n_steps
        self.rng, self.device = rng, device
        self.lengths = array.lengths
        # At least a few values before a window's end, and one after it.
        self.first = np.minimum(
            np.maximum(2, np.minimum(period + 1, self.lengths // 2)), self.lengths - 1
        )
        self.series = np.flatnonzero(self.lengths >= 2)

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        size = self.batch_size
        at_once = max(WINDOWS_DRAWN // size, 1)
        for first in range(0, self.n_batches, at_once):
            n = min(at_once, self.n_batches - first) * size
            series = self.rng.choice(self.series, size=n)
            low, high = self.first[series], self.lengths[series]
            ends = low + np.floor(self.rng.random(n) * (high - low)).astype(int)
            ends += self.array.starts[series]
            (x, *inputs), *aims = training_windows(
                self.member, self.period, self.array, series, ends, self.device
            )
            of_steps = [a[:, : self.n_steps].contiguous() for a in (*inputs, *aims)]
            parts = (a.split(size) for a in (x, *of_steps))
            for batch in zip(*parts, strict=True):
                x, base, future, target, weight = batch
                if self.n_steps <= STEPS_AT_ONCE:
                    yield (x, base, future), target, weight, size
                    continue
                steps = self.rng.choice(self.n_steps, STEPS_AT_ONCE, replace=False)
                steps = torch.from_numpy(np.sort(steps)).to(self.device)
                base, future, target, weight = (a[:, steps] for a in batch[1:])
                yield (x, base, future, steps), target, weight, size


def training_windows(member, period, array, series, ends, device):
    """Return inputs, target and weight of the windows before `ends`."""
    positions = ends[:, None] + np.arange(member.horizon)
    future = array.gather_exog(series, positions)
    windows, is_log = member.windows(array, period, series, ends)
    target = _log(array.gather(series, positions), is_log[:, None])
    divisor = np.where(windows.scale > 0, windows.scale, 1.0)
    target = (target - windows.centre[:, None]) / divisor[:, None]
    # A window that ends before anything moved says nothing of the scale.
    weight = ~np.isnan(target) & (windows.scale > 0)[:, None]
    target = np.clip(np.where(weight, target, 0.0), -50.0, 50.0)
    inputs = (windows.inputs, windows.base, _filled(future))
    inputs = tuple(torch.from_numpy(a).to(device) for a in inputs)
    target, weight = (
        torch.from_numpy(a.astype(np.float32)).to(device) for a in (target, weight)
    )
    return inputs, target, weight


def _forward(network, windows, future, widths, device) -> np.ndarray:
    """Quantiles (k * n, n_steps, n_quantiles) of normalised windows of `widths`, float64.

    `future` is of n series, k views of which follow each other.

    All are read together where the network rounds alike; else those of a length by
    themselves, in batches filled up to a multiple of 4, so that a series is rounded
    alike whatever is forecast with it.
    """
    fill, groups = 1, [np.argsort(-widths, kind="stable")]
    if device.type != "cpu" or not network.rounds_alike:
        fill, groups = FILL, [np.flatnonzero(widths == w) for w in np.unique(widths)]
    n_steps = windows.base.shape[1]
    out = np.empty((len(widths), n_steps, network.config["n_quantiles"]))
    # Fewer where the horizon is long.
    most = max(PREDICT_ROWS // math.ceil(n_steps / STEPS_AT_ONCE) // fill, 1) * fill
    for rows in groups:
        at_once = min(most, math.ceil(len(rows) / fill) * fill)
        n_threads = threads_for(at_once, widths[rows[0]], network)
        with network_threads(n_threads, network), torch.inference_mode():
            for start in range(0, len(rows), at_once):
                real = batch = rows[start : start + at_once]
                if len(real) % fill:
                    batch = real[
                        np.arange(math.ceil(len(real) / fill) * fill) % len(real)
                    ]
                lengths = widths[batch]
                x = windows.inputs[batch, : lengths[0]]
                arrays = x, windows.base[batch], future[batch % len(future)]
                inputs = [torch.from_numpy(a).to(device) for a in arrays]
                ragged = torch.from_numpy(lengths) if lengths[-1] < lengths[0] else None
                quantiles = network(*inputs, lengths=ragged)
                out[real] = quantiles[: len(real)].cpu().numpy()
    return out


class Validation:
    """Median error of a member on the last steps of some series, for early stopping."""

    def __init__(self, member, period, array, device, n_steps):
        series = np.flatnonzero(array.lengths > n_steps + 1)
        ends = array.stops[series] - n_steps
        self.inputs, self.target, self.weight = training_windows(
            member, period, array, series, ends, device
        )
        self.network, self.loss = member.network, ForecastHead(member.quantiles).loss

    def __call__(self):
        """Return the score (minus the loss) and the loss of the network as it is."""
        with torch.inference_mode():
            raw = self.network(*self.inputs)
            loss = float(self.loss(raw, self.target, self.weight).mean())
        return -loss, loss


def guarded(quantiles, array, series, ends, model):
    """Keep forecasts within reach of the window and the seasonal naive forecast.

    Medians beyond it are told of; outer quantiles may go further. Each step by itself:
    none depends on how far ahead is asked for.
    """
    width = model.context_length
    positions = ends[:, None] - width + np.arange(width)
    values = array.gather(series, positions)
    # They pass over NaN, without a warning where there is nothing else.
    least, most = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    rounding = ROUNDING * np.maximum(np.abs(least), np.abs(most))

    def limits(n_widths):
        reach = n_widths * (most - least) + rounding
        return (least - reach)[:, None, None], (most + reach)[:, None, None]

    low, high = limits(GUARD_WIDTH)
    median = quantiles[:, :, quantiles.shape[2] // 2, None]
    outside = (median < low) | (median > high)
    if outside.any():
        n_outside = int(outside.any(axis=(1, 2)).sum())
        warnings.warn(
            f"{n_outside} of {len(outside)} forecasts left the range of their history "
            f"by more than {GUARD_WIDTH:g} times its width and were limited.",
            UserWarning,
            stacklevel=2,
        )
        quantiles = np.where(outside, np.clip(quantiles, low, high), quantiles)
    low, high = limits(OUTER_GUARD_WIDTH)
    beyond = (quantiles < low) | (quantiles > high)
    if beyond.any():
        quantiles = np.where(beyond, np.clip(quantiles, low, high), quantiles)
    return quantiles


def forecast_ahead(model, array, n_steps, future, device):
    """Forecast steps after the ends of all series, block by block.

    Parameters
    ----------
    model : ForecastModel
    array : SeriesArray
    n_steps : int
    future : ndarray of shape (n, n_steps, n_exog)
        Standardised.
    device : torch.device

    Returns
    -------
    quantiles : ndarray of shape (n, n_steps, n_quantiles)
    """
    numbers, middle = np.arange(len(array)), len(model.quantiles) // 2
    observed, own, blocks, spread = array, None, [], 0.0
    for i, start in enumerate(range(0, n_steps, model.horizon)):
        ahead = future[:, start : start + model.horizon]
        quantiles = model.block(array, numbers, array.stops, ahead, device)
        median = quantiles[:, :, middle : middle + 1]
        # Errors of blocks add up as if independent and alike: windows that end in
        # forecasts have less noise than what is to come.
        own = quantiles - median if own is None else own
        gaps = own[:, : median.shape[1]]
        gaps = np.sign(gaps) * np.hypot(gaps, spread)
        spread = gaps[:, -1:]
        if i:
            median = _damped(median, array, model, DAMPING**i)
        blocks.append(guarded(median + gaps, observed, numbers, observed.stops, model))
        if start + model.horizon < n_steps:
            array = _extended_by(array, blocks[-1][:, :, middle], ahead)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def forecast_after(model, array, series, ends, n_steps, future, device):
    """Forecast the steps after positions `ends` of series, from the last values before.

    What is missing at an end is forecast on the way: of a series whose last two values
    are missing the first step is the third after its last value. Through windows that
    end with missing values the level and the season would be seen from too few.

    Parameters
    ----------
    model : ForecastModel
    array : SeriesArray
    series, ends : ndarray of shape (n,), int64
        Which series, and the positions in its values.
    n_steps : int
    future : ndarray of shape (n, n_steps, n_exog)
        Standardised.
    device : torch.device

    Returns
    -------
    quantiles : ndarray of shape (n, n_steps, n_quantiles)
    """
    stops, late = ends, np.zeros(len(ends), dtype=np.int64)
    if np.isnan(array.values[ends - 1]).any():
        stops = array.after_last_observed(series, ends)
        late = on_the_way(ends - stops, model)
    # Of those that are not late no step on the way is computed.
    n_blocks = np.where(late > 0, -(-(late + n_steps) // model.horizon), 0)
    out = np.empty((len(series), n_steps, len(model.quantiles)))
    for n in np.unique(n_blocks):
        alike = np.flatnonzero(n_blocks == n)
        total = int(late[alike].max()) + n_steps
        at_once = len(alike)
        if total > model.horizon:  # of what a forecast depends on there are copies
            at_once = max(COPIED_VALUES // (model.context_length + total), 1)
        for start in range(0, len(alike), at_once):
            rows = alike[start : start + at_once]
            some, after = series[rows], stops[rows]
            starts = np.minimum(array.starts[some], after)
            if total > model.horizon:
                starts = np.maximum(starts, after - model.context_length)
            until = SeriesArray(array.values, starts, after, array.exog)
            if total == n_steps:
                out[rows] = forecast_ahead(model, until, n_steps, future[rows], device)
                continue
            ahead = (late[rows, None] + np.arange(n_steps))[:, :, None]
            exog = array.gather_exog(some, after[:, None] + np.arange(total))
            np.put_along_axis(exog, ahead, future[rows], axis=1)
            quantiles = forecast_ahead(model, until, total, exog, device)
            out[rows] = np.take_along_axis(quantiles, ahead, axis=1)
    return out


def on_the_way(n_missing, model):
    """Return how many steps to forecast of those missing at the ends of series (n,).

    All of them, but for whole seasons (of hours, weeks) where there are enough of them
    to leave `BLOCKS_ON_THE_WAY`.
    """
    season = model.period * (7 if model.period in DAYS else 1)
    most = BLOCKS_ON_THE_WAY * model.horizon + season
    n_seasons = -(-np.maximum(n_missing - most, 0) // season)
    return n_missing - n_seasons * season


def _damped(median, array, model, share):
    """Pull what goes on from forecasts (n, n_steps, 1) to the seasonal naive forecast.

    Else a trend that was read into noise would be read in its own forecast again.
    """
    width, n_steps, of_weeks = model.context_length, median.shape[1], 0.0
    series = np.arange(len(array))
    if model.has_weeks:
        array, effects = model.without_weeks(array, series, array.stops)
        of_weeks = effects[:, np.arange(n_steps) % (7 * model.period)]
    positions = array.stops[:, None] - width + np.arange(width)
    context = array.gather(series, positions)
    naive = seasonal_naive(context, n_steps, model.period) + of_weeks
    naive = naive[:, :, None]
    return naive + share * (median - naive)


def _extended_by(array, forecast, future):
    """Return the series with a forecast appended to each."""
    n, horizon = forecast.shape
    lengths = array.lengths
    width = int(lengths.max())
    positions = array.stops[:, None] - width + np.arange(width)
    series = np.arange(n)
    values = np.concatenate([array.gather(series, positions), forecast], axis=1)
    exog = np.concatenate([array.gather_exog(series, positions), future], axis=1).reshape(
        n * (width + horizon), -1
    )
    stops = (np.arange(n) + 1) * (width + horizon)
    return SeriesArray(values.ravel(), stops - lengths - horizon, stops, exog)
