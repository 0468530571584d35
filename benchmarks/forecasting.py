"""LSTMForecaster at its defaults beside published scores.

    python benchmarks/forecasting.py [airline walks m3_yearly m3_monthly m4_hourly]

M3 and M4 are read from ../shared/data and skipped with a message where it is absent.
Official splits; the network never sees a test part.
"""

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sktime.datasets import load_airline

from sklstm import LSTMForecaster

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def panel_of(series):
    """Put arrays of unequal length into an (instance, time) frame."""
    index = pd.MultiIndex.from_arrays(
        [
            np.repeat(np.arange(len(series)), [len(x) for x in series]),
            np.concatenate([np.arange(len(x)) for x in series]),
        ],
        names=["series", "time"],
    )
    return pd.DataFrame({"y": np.concatenate(series)}, index)


def scores(train, test, forecast, period):
    """Mean sMAPE in percent and mean MASE over series."""
    smape = 200 * np.abs(forecast - test) / (np.abs(forecast) + np.abs(test))
    scale = [np.abs(x[period:] - x[:-period]).mean() for x in train]
    mase = np.abs(forecast - test).mean(axis=1) / scale
    return smape.mean(), mase.mean()


def run_archive(path, period, n_steps, seed=0):
    """Fit one model on all series of an archive and forecast each."""
    archive = np.load(DATA / path)
    offsets = archive["train_offsets"]
    values = archive["train_values"].astype(float)
    train = [values[a:b] for a, b in itertools.pairwise(offsets)]
    test = archive["test"].astype(float)
    forecaster = LSTMForecaster(sp=period, random_state=seed)
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


def run_airline():
    y = load_airline()
    train, test = y[:-36], y[-36:]
    scale = np.abs(train.to_numpy()[12:] - train.to_numpy()[:-12]).mean()
    naive = np.resize(train.to_numpy()[-12:], 36)
    mase, seconds = [], []
    for seed in range(3):
        start = time.perf_counter()
        forecaster = LSTMForecaster(random_state=seed).fit(train, fh=np.arange(1, 37))
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
    forecaster = LSTMForecaster(random_state=0)
    predicted = forecaster.fit(panel_of(list(train)), fh=np.arange(1, 13)).predict()
    error = np.abs(predicted.to_numpy().reshape(60, 12) - test).mean(axis=0)
    naive = np.abs(train[:, -1:] - test).mean(axis=0)
    return (
        f"error over naive: {error[0] / naive[0]:.2f} at step 1, "
        f"{error.mean() / naive.mean():.2f} over 12 steps"
    )


TABLES = {
    "airline": run_airline,
    "walks": run_walks,
    "m3_yearly": run_m3_yearly,
    "m3_monthly": run_m3_monthly,
    "m4_hourly": run_m4_hourly,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        try:
            print(f"{name:12s} {TABLES[name]()}", flush=True)
        except FileNotFoundError as error:
            print(f"{name:12s} skipped: {error.filename} is not there", flush=True)
