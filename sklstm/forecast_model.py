"""The global model behind LSTMForecaster: windows in, quantiles out.

`ForecastModel` is what a fitted forecaster knows, `WindowBatches` what it is trained
on. Neither knows sktime or an index.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

from sklstm.heads import ForecastHead
from sklstm.training import threads_for, torch_threads
from sklstm.windows import SeriesArray, make_windows

PREDICT_ROWS = 512
# A forecast may leave the range of its window and of the seasonal naive forecast by
# this many times the width of that range, and no more.
GUARD_WIDTH = 3.0


@dataclass
class ForecastModel:
    """What a fitted forecaster knows: networks and how windows are made for them.

    Attributes
    ----------
    networks : list of ForecastNetwork
    scalings : tuple of str
        How the windows of each network are normalised.
    offsets : ndarray of shape (horizon, n_quantiles)
        Calibration, added to quantiles in units of the first network's scale.
    """

    window_length: int
    segment_length: int
    horizon: int
    period: int
    scalings: tuple
    log: bool
    head: ForecastHead
    exog_mean: np.ndarray
    exog_scale: np.ndarray
    columns: tuple
    exog_columns: tuple
    networks: list = field(default_factory=list)
    offsets: np.ndarray | float = 0.0

    def transform(self, array: SeriesArray) -> SeriesArray:
        """Take logs and standardise exogenous data."""
        values = np.log(array.values) if self.log else array.values
        exog = (array.exog - self.exog_mean) / self.exog_scale
        return SeriesArray(values, array.starts, array.stops, exog)

    def windows(self, array, series, ends, future=None, member=0):
        """Cut the windows that end before positions `ends` (transformed array)."""
        width = self.window_length + self.period
        positions = ends[:, None] - width + np.arange(width)
        context = array.gather(series, positions)
        exog = None
        if array.exog.shape[1]:
            exog = array.gather_exog(series, positions[:, self.period :])
        first = array.values[np.minimum(array.starts[series], len(array.values) - 1)]
        return make_windows(
            context, self.period, self.horizon, exog=exog, future=future,
            fallback=np.nan_to_num(first), scaling=self.scalings[member],
        )  # fmt: skip

    def block(self, array, series, ends, future, device) -> np.ndarray:
        """Forecast the next `horizon` steps: (n, horizon, n_quantiles), transformed."""
        members = []
        for member, network in enumerate(self.networks):
            windows = self.windows(array, series, ends, future, member)
            if device.type != "cpu":
                raw = _forward(copy.deepcopy(network).to(device), windows, device)
            else:
                raw = _forward(network, windows, device)
            scale = windows.scale[:, None, None]
            members.append(windows.centre[:, None, None] + scale * raw)
            if member == 0:
                shift = scale * self.offsets
        quantiles = np.median(members, axis=0) if len(members) > 1 else members[0]
        return np.sort(quantiles + shift, axis=2)


class WindowBatches:
    """Batches of windows drawn at random, `n_batches` of them in an epoch."""

    def __init__(
        self, model, member, array, *, device, batch_size=1, n_batches=1, rng=None,
        n_held_back=0,
    ):  # fmt: skip
        self.model, self.member, self.array = model, member, array
        self.batch_size, self.n_batches = batch_size, n_batches
        self.rng, self.device = rng, device
        lengths = array.lengths - n_held_back
        # At least a few values before a window's end, and one after it.
        self.first = np.minimum(
            np.maximum(2, np.minimum(model.period + 1, lengths // 2)), lengths - 1
        )
        self.first = np.maximum(self.first, 0)
        self.last = lengths
        self.series = np.flatnonzero(lengths >= 2)

    def __len__(self):
        return self.n_batches

    def __iter__(self):
        for _ in range(self.n_batches):
            series = self.rng.choice(self.series, size=self.batch_size)
            low, high = self.first[series], self.last[series]
            ends = low + np.floor(self.rng.random(self.batch_size) * (high - low)).astype(
                int
            )
            yield self.batch(series, self.array.starts[series] + ends, high - ends)

    def batch(self, series, ends, n_ahead):
        """Return inputs, target, weight and size of the windows before `ends`."""
        steps = np.arange(self.model.horizon)
        positions = ends[:, None] + steps
        future = None
        if self.array.exog.shape[1]:
            future = self.array.gather_exog(series, positions)
        windows = self.model.windows(self.array, series, ends, future, self.member)
        target = self.array.gather(series, positions)
        target[steps >= n_ahead[:, None]] = np.nan
        divisor = np.where(windows.scale > 0, windows.scale, 1.0)
        target = (target - windows.centre[:, None]) / divisor[:, None]
        # A window that ends before anything moved says nothing of the scale.
        weight = ~np.isnan(target) & (windows.scale > 0)[:, None]
        target = np.clip(np.where(weight, target, 0.0), -50.0, 50.0)
        inputs = _tensors(windows, self.device)
        target, weight = (
            torch.from_numpy(a.astype(np.float32)).to(self.device)
            for a in (target, weight)
        )
        return inputs, target, weight, len(series)


def _tensors(windows, device):
    return tuple(
        torch.from_numpy(a).to(device)
        for a in (windows.inputs, windows.base, windows.future)
    )


def _forward(network, windows, device) -> np.ndarray:
    """Quantiles (n, horizon, n_quantiles) of normalised windows, float64.

    In batches of at most 512 that are filled up to a multiple of 16, so that a series
    is rounded alike whatever is forecast with it.
    """
    n = len(windows.base)
    out = []
    rows = min(PREDICT_ROWS, math.ceil(n / 16) * 16)
    n_threads = threads_for(rows, windows.inputs.shape[1], network)
    with torch_threads(n_threads), torch.inference_mode():
        for start in range(0, n, PREDICT_ROWS):
            chosen = np.arange(start, min(start + PREDICT_ROWS, n))
            filled = np.resize(chosen, math.ceil(len(chosen) / 16) * 16)
            inputs = (
                torch.from_numpy(a[filled]).to(device)
                for a in (windows.inputs, windows.base, windows.future)
            )
            out.append(network(*inputs).cpu().numpy()[: len(chosen)])
    return np.concatenate(out).astype(np.float64)


class Validation:
    """Median error on the values held back, for early stopping."""

    def __init__(self, model, member, array, device):
        series = np.flatnonzero(array.lengths > model.horizon + 1)
        held = WindowBatches(model, member, array, device=device)
        ends = array.stops[series] - model.horizon
        ahead = np.full(len(series), model.horizon)
        self.inputs, self.target, self.weight, _ = held.batch(series, ends, ahead)
        self.network, self.loss = model.networks[member], model.head.loss

    def __call__(self):
        """Return the score (minus the loss) and the loss of the network as it is."""
        with torch.inference_mode():
            raw = self.network(*self.inputs)
            loss = float(self.loss(raw, self.target, self.weight).mean())
        return -loss, loss


def guarded(quantiles, array, series, model):
    """Keep forecasts within reach of the window and the seasonal naive forecast."""
    positions = (
        array.stops[series, None]
        - model.window_length
        - model.period
        + np.arange(model.window_length + model.period)
    )
    values = array.gather(series, positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing observed
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    reach = GUARD_WIDTH * (high - low)
    low, high = (low - reach)[:, None, None], (high + reach)[:, None, None]
    median = quantiles[:, :, quantiles.shape[2] // 2, None]
    outside = ((median < low) | (median > high)).any(axis=(1, 2))
    if outside.any():
        warnings.warn(
            f"{int(outside.sum())} of {len(outside)} forecasts left the range of their "
            f"history by more than {GUARD_WIDTH:g} times its width and were limited.",
            UserWarning,
            stacklevel=2,
        )
        limit = outside[:, None, None]
        quantiles = np.where(limit, np.clip(quantiles, low, high), quantiles)
    return quantiles


def extended_by(array, forecast, future):
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
