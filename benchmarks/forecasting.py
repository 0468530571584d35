"""LSTMForecaster at its defaults beside published scores.

    python benchmarks/forecasting.py [--scratch | --zero-shot] [TABLE ...]

TABLE is one or more of airline short walks m3_yearly m3_monthly m4_hourly etth1 ettm1
many intervals extremes latency far seasons. --scratch: without the pretrained network;
--zero-shot: with nothing else. M3, M4 and ETT are read from ../shared/data, the short
series from statsmodels; each is skipped with a message where it is absent. Official
splits; the network never sees a test part.
"""

import itertools
import resource
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from generator import draw_period, extreme_series, generate, panel_of
from sktime.datasets import load_airline, load_lynx

from sklstm import LSTMForecaster, forecast_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETTINGS = {}
if "--scratch" in sys.argv:
    SETTINGS = {"pretrained": None}
elif "--zero-shot" in sys.argv:
    SETTINGS = {"pretrained": "only"}
HORIZONS = (96, 192, 336, 720)
# MSE at these horizons, look-back 720 (SegRNN, PatchTST, DLinear; arXiv:2308.11200).
PUBLISHED = {
    "ETTh1": {
        "SegRNN": (0.351, 0.392, 0.423, 0.466),
        "PatchTST": (0.375, 0.418, 0.462, 0.495),
        "DLinear": (0.381, 0.419, 0.454, 0.499),
    },
    "ETTm1": {
        "SegRNN": (0.293, 0.328, 0.357, 0.410),
        "PatchTST": (0.300, 0.339, 0.368, 0.420),
        "DLinear": (0.307, 0.337, 0.371, 0.416),
    },
}


def scores(train, test, forecast, period):
    """Mean sMAPE in percent and mean MASE over series."""
    smape = 200 * np.abs(forecast - test) / (np.abs(forecast) + np.abs(test))
    scale = [np.abs(x[period:] - x[:-period]).mean() for x in train]
    mase = np.abs(forecast - test).mean(axis=1) / scale
    return smape.mean(), mase.mean()


def read_archive(path):
    """Return the training parts, a list of arrays, and the test parts (n, n_steps)."""
    archive = np.load(DATA / path)
    offsets = archive["train_offsets"]
    values = archive["train_values"].astype(float)
    train = [values[a:b] for a, b in itertools.pairwise(offsets)]
    return train, archive["test"].astype(float)


def run_archive(path, period, n_steps, seed=0):
    """Fit one model on all series of an archive and forecast each."""
    train, test = read_archive(path)
    forecaster = LSTMForecaster(sp=period, random_state=seed, **SETTINGS)
    start = time.perf_counter()
    fh = np.arange(1, n_steps + 1)
    # Integer time in `panel_of` starts at 0 for every series, so cutoffs differ.
    predicted = forecaster.fit(panel_of(train), fh=fh).predict()
    seconds = time.perf_counter() - start
    smape, mase = scores(train, test, predicted.to_numpy().reshape(test.shape), period)
    return smape, mase, seconds


def run_m3_yearly():
    smape, mase, seconds = run_archive("m3/m3_yearly.npz", 1, 6)
    return f"sMAPE {smape:.2f}  MASE {mase:.3f}  (Theta 16.97, 2.806)  {seconds:.0f} s"


def run_m3_monthly():
    smape, mase, seconds = run_archive("m3/m3_monthly.npz", 12, 18)
    return f"sMAPE {smape:.2f}  MASE {mase:.3f}  (Theta 13.89, 0.858)  {seconds:.0f} s"


def run_m4_hourly():
    smape, mase, seconds = run_archive("m4/m4_hourly.npz", 24, 48)
    owa = (smape / 18.383 + mase / 2.395) / 2
    return (
        f"sMAPE {smape:.2f}  MASE {mase:.3f}  OWA {owa:.3f}  (ES-RNN 9.328, 0.893, "
        f"0.440)  {seconds:.0f} s"
    )


def run_seasons():
    """Single short series of training parts: with the season found, given, and none."""
    walks = list(np.random.default_rng(0).normal(size=(200, 72)).cumsum(axis=1))
    monthly, _ = read_archive("m3/m3_monthly.npz")
    hourly, _ = read_archive("m4/m4_hourly.npz")
    lines = []
    for name, series, freq, period, lengths in (
        ("M3 Monthly", monthly[::4], "M", 12, (1.5, 2, 3, 5)),
        ("M4 Hourly", hourly[::4], "h", 24, (1.5, 2, 3, 7)),
        ("walks", walks, "M", 12, (1.5, 2, 3, 5)),
    ):
        for n in [int(length * period) for length in lengths]:
            kept = [x[-n - period :] for x in series if len(x) >= n + period]
            index = pd.period_range("2000-01-01", periods=n, freq=freq)
            errors, n_found = np.zeros(3), 0
            for x in kept:
                y, scale = pd.Series(x[:n], index), np.abs(np.diff(x[:n])).mean()
                for k, sp in enumerate(("auto", period, 1)):
                    forecaster = LSTMForecaster(sp=sp, pretrained="only").fit(y)
                    forecast = forecaster.predict(fh=np.arange(1, period + 1))
                    errors[k] += np.abs(forecast - x[n:]).mean() / (scale or 1.0)
                    n_found += sp == "auto" and forecaster.sp_ == period
            found, given, none = errors / len(kept)
            lines.append(
                f"{name}, {n} values: {found:.3f} with the season found "
                f"({n_found / len(kept):.0%}), {given:.3f} given, {none:.3f} without"
            )
    return "error in mean steps\n  " + "\n  ".join(lines)


def run_airline():
    y = load_airline()
    train, test = y[:-36], y[-36:]
    scale = np.abs(train.to_numpy()[12:] - train.to_numpy()[:-12]).mean()
    naive = np.resize(train.to_numpy()[-12:], 36)
    mase, seconds = [], []
    for seed in range(3):
        start = time.perf_counter()
        forecaster = LSTMForecaster(random_state=seed, **SETTINGS)
        forecaster.fit(train, fh=np.arange(1, 37))
        seconds.append(time.perf_counter() - start)
        mase.append(np.abs(forecaster.predict() - test).mean() / scale)
    relative = np.mean(mase) / (np.abs(naive - test).mean() / scale)
    return (
        f"MASE {np.round(mase, 2)} for seeds 0, 1, 2; {relative:.2f} of seasonal naive; "
        f"{np.mean(seconds):.1f} s a fit"
    )


def run_walks():
    """Random walks cannot be forecast better than by their last value."""
    walks = np.random.default_rng(0).normal(size=(60, 120)).cumsum(axis=1)
    train, test = walks[:, :108], walks[:, 108:]
    forecaster = LSTMForecaster(random_state=0, **SETTINGS)
    predicted = forecaster.fit(panel_of(list(train)), fh=np.arange(1, 13)).predict()
    error = np.abs(predicted.to_numpy().reshape(60, 12) - test).mean(axis=0)
    naive = np.abs(train[:, -1:] - test).mean(axis=0)
    return (
        f"error over naive: {error[0] / naive[0]:.2f} at step 1, "
        f"{error.mean() / naive.mean():.2f} over 12 steps"
    )


def short_series():
    """Name -> (series, seasonal period, steps to forecast)."""
    from statsmodels.datasets import co2, elnino, macrodata, nile  # noqa: PLC0415

    months = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    temperature = elnino.load_pandas().data.iloc[:, 1:].to_numpy().ravel()
    gdp = macrodata.load_pandas().data["realgdp"]
    return {
        "airline": (load_airline().to_numpy(), 12, 12),
        "co2": (months.to_numpy(), 12, 12),
        "elnino": (temperature, 12, 12),
        "lynx": (load_lynx().to_numpy(), 1, 10),
        "nile": (nile.load_pandas().data["volume"].to_numpy(), 1, 10),
        "realgdp": (gdp.to_numpy(), 4, 8),
    }


def run_short():
    """Six short series, three origins each, beside damped exponential smoothing."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing  # noqa: PLC0415

    rows, began = {}, time.perf_counter()
    for name, (values, period, n_steps) in short_series().items():
        errors = []
        for back in (3, 2, 1):
            cut = len(values) - back * n_steps
            train, test = values[:cut], values[cut : cut + n_steps]
            forecaster = LSTMForecaster(sp=period, random_state=0, **SETTINGS)
            fh = np.arange(1, n_steps + 1)
            ours = forecaster.fit(pd.Series(train), fh=fh).predict().to_numpy()
            smoothing = ExponentialSmoothing(
                train, trend="add", damped_trend=True,
                seasonal="add" if period > 1 else None, seasonal_periods=period,
            ).fit()  # fmt: skip
            naive = np.resize(train[-period:], n_steps)
            forecasts = (ours.ravel(), smoothing.forecast(n_steps), naive)
            errors.append([np.abs(each - test).mean() for each in forecasts])
        ours, smoothing, naive = np.mean(errors, axis=0)
        rows[name] = ours / naive, smoothing / naive
    means = np.exp(np.log(list(rows.values())).mean(axis=0))
    each = "  ".join(f"{name} {a:.2f} ({b:.2f})" for name, (a, b) in rows.items())
    return (
        f"error over seasonal naive {means[0]:.3f} (damped ETS {means[1]:.3f}): {each}  "
        f"{time.perf_counter() - began:.0f} s"
    )


def run_ett(name):
    """Channels share one network; every test window, standardised by the train part."""
    data = pd.read_csv(DATA / f"ltsf/{name}.csv.gz").iloc[:, 1:]
    n = 8640 * (4 if name == "ETTm1" else 1)
    data = (data - data[:n].mean()) / data[:n].std(ddof=0)
    start, stop = n // 3 * 4, n // 3 * 5
    for i, horizon in enumerate(HORIZONS):
        began = time.perf_counter()
        forecaster = LSTMForecaster(random_state=0, **SETTINGS)
        fh = np.arange(1, horizon + 1)
        forecaster.fit(data[:n], fh=fh)
        seconds = time.perf_counter() - began
        context = forecaster.window_length_ + forecaster.sp_
        squared, absolute, n_values = 0.0, 0.0, 0
        # A piece of the cutoffs at a time: all forecasts at once are many.
        for first in range(start, stop - horizon + 1, 500):
            last = min(first + 500, stop - horizon + 1)
            y = data[first - context : last + horizon - 1].reset_index(drop=True)
            forecast = forecaster.backtest(y, fh=fh, initial_window=context)
            cutoff = forecast.index.get_level_values("cutoff")
            forecast = forecast[cutoff < len(y) - horizon]
            actual = y.to_numpy()[forecast.index.get_level_values("time")]
            error = forecast.to_numpy() - actual
            squared += (error**2).sum()
            absolute += np.abs(error).sum()
            n_values += error.size
        published = "  ".join(
            f"{method} {scores[i]:.3f}" for method, scores in PUBLISHED[name].items()
        )
        line = (
            f"    {horizon:3d}: MSE {squared / n_values:.3f}  MAE "
            f"{absolute / n_values:.3f}  (MSE of {published})  fit {seconds:.0f} s"
        )
        print(line, flush=True)
    return "done"


def run_many():
    """10,000 series of 100 points: time of each stage, peak memory of the process."""
    rng = np.random.default_rng(0)
    season = np.sin(2 * np.pi * (np.arange(100) / 12 + rng.random((10_000, 1))))
    values = rng.normal(size=(10_000, 100)).cumsum(axis=1) + 5 * season + 100
    y = panel_of(list(values))
    began = time.perf_counter()
    forecaster = LSTMForecaster(sp=12, random_state=0, **SETTINGS)
    forecaster.fit(y, fh=np.arange(1, 13))
    fitted = time.perf_counter()
    forecaster.predict()
    predicted = time.perf_counter()
    forecaster.predict_interval()
    intervals = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"fit {fitted - began:.0f} s  predict {predicted - fitted:.1f} s  "
        f"predict_interval {intervals - predicted:.1f} s  peak memory of the process "
        f"{peak:.0f} MB"
    )


def run_intervals():
    """Coverage of 80 % and 95 % intervals without training."""
    archive = np.load(DATA / "m3/m3_monthly.npz")
    series = [
        archive["train_values"][a:b].astype(float)
        for a, b in itertools.pairwise(archive["train_offsets"])
    ]
    rng = np.random.default_rng(1)
    data = {"M3 Monthly": [(12, series, archive["test"])], "generated": []}
    for _ in range(20):
        period = draw_period(rng)
        values = generate(rng, 100, 114, period).values
        data["generated"].append((period, list(values[:, :96]), values[:, 96:]))
    lines = []
    for name, sets in data.items():
        inside = {0.8: [], 0.95: []}
        for period, train, test in sets:
            forecaster = LSTMForecaster(sp=period, pretrained="only")
            forecaster.fit(panel_of(train), fh=np.arange(1, test.shape[1] + 1))
            for coverage, hits in inside.items():
                interval = forecaster.predict_interval(coverage=coverage).to_numpy()
                actual = test.ravel()
                hits.append((interval[:, 0] <= actual) & (actual <= interval[:, 1]))
        each = "  ".join(
            f"{coverage:.0%}: {np.concatenate(hits).mean():.1%}"
            for coverage, hits in inside.items()
        )
        lines.append(f"{name} {each}")
    return "; ".join(lines)


def run_far():
    """Training parts held out far ahead, in blocks: MASE of the second and last block.

    Without damping (see `forecast_model.DAMPING`), with it, of seasonal naive forecasts.
    """
    archives = {}
    for name, period, n_steps in (("m4/m4_hourly", 24, 336), ("m3/m3_monthly", 12, 72)):
        archive = np.load(DATA / f"{name}.npz")
        values = archive["train_values"].astype(float)
        series = [values[a:b] for a, b in itertools.pairwise(archive["train_offsets"])]
        series = [x for x in series if len(x) > n_steps + 3 * period]
        archives[name] = series[:: 1 + len(series) // 300], period, n_steps
    ett = pd.read_csv(DATA / "ltsf" / "ETTh1.csv.gz").iloc[:8000, 1:].to_numpy()
    parts = [part for k in (0, 3000, 5000) for part in ett[k : k + 2000].T]
    archives["ETTh1"] = parts, 24, 480
    noise = np.random.default_rng(0).normal(size=(2, 60, 630))
    archives["walks"] = list((noise[0] + 0.1).cumsum(axis=1) + 30), 1, 480
    archives["lines"] = list(5 + 0.3 * np.arange(630) + noise[1]), 1, 480
    lines = []
    for name, (series, period, n_steps) in archives.items():
        train = [x[:-n_steps] for x in series]
        test = np.stack([x[-n_steps:] for x in series])
        scale = [np.abs(x[period:] - x[:-period]).mean() for x in train]
        naive = np.stack([np.resize(x[-period:], n_steps) for x in train])
        forecaster = LSTMForecaster(sp=period, pretrained="only")
        forecaster.fit(panel_of(train), fh=np.arange(1, n_steps + 1))
        errors = []
        for damping in (1.0, forecast_model.DAMPING):
            with mock.patch.object(forecast_model, "DAMPING", damping):
                predicted = forecaster.predict().to_numpy().reshape(test.shape)
            errors.append(np.abs(predicted - test))
        errors.append(np.abs(naive - test))
        second, last = (
            ", ".join(
                f"{(e[:, at] / np.array(scale)[:, None]).mean():.2f}" for e in errors
            )
            for at in (slice(48, 96), slice(-48, None))
        )
        lines.append(f"{name} second block {second}; last {last}")
    return " | ".join(lines)


def run_extremes(n=20_000):
    """Extreme series: every forecast finite and within 10 ranges of its history."""
    series = list(extreme_series(np.random.default_rng(0), n))
    forecaster = LSTMForecaster(sp=4, pretrained="only")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*left the range of their history")
        predicted = forecaster.fit(panel_of(series), fh=np.arange(1, 25)).predict()
    predicted = predicted.to_numpy().reshape(n, 24)
    low, high = (np.array([f(x) for x in series]) for f in (np.nanmin, np.nanmax))
    reach = 10 * (high - low) + 1e-6 * np.maximum(np.abs(low), np.abs(high))
    outside = (predicted.min(axis=1) < low - reach) | (predicted.max(1) > high + reach)
    return (
        f"{(~np.isfinite(predicted)).any(axis=1).sum()} of {n} not finite, "
        f"{outside.sum()} beyond 10 ranges of their history"
    )


def run_latency():
    """One series of 144 points, fitted and forecast without training."""
    y, fh = load_airline(), np.arange(1, 13)
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        LSTMForecaster(**SETTINGS).fit(y, fh=fh).predict()
        seconds.append(time.perf_counter() - start)
    return (
        f"fit and predict {1e3 * np.median(seconds[5:]):.0f} ms (first of the process "
        f"{1e3 * seconds[0]:.0f} ms)"
    )


TABLES = {
    "airline": run_airline,
    "short": run_short,
    "walks": run_walks,
    "m3_yearly": run_m3_yearly,
    "m3_monthly": run_m3_monthly,
    "m4_hourly": run_m4_hourly,
    "etth1": lambda: run_ett("ETTh1"),
    "ettm1": lambda: run_ett("ETTm1"),
    "many": run_many,
    "intervals": run_intervals,
    "extremes": run_extremes,
    "latency": run_latency,
    "far": run_far,
    "seasons": run_seasons,
}

if __name__ == "__main__":
    unknown = {*sys.argv[1:]} - {*TABLES, "--zero-shot", "--scratch"}
    if unknown:
        sys.exit(f"No table or option {sorted(unknown)[0]!r}.\n{__doc__}")
    for name in [a for a in sys.argv[1:] if a[0] != "-"] or TABLES:
        try:
            print(f"{name:12s} {TABLES[name]()}", flush=True)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            print(f"{name:12s} skipped: {error}", flush=True)
