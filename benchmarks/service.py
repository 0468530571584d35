"""Load test of examples/service.py on loopback: requests per second, p50 and p99.

    python benchmarks/service.py [--clients 1 4 16] [--seconds 5]

A classifier of hidden size 64 without a stem, one channel; the service and the clients,
threads of one process with a kept-alive connection each, share the machine. A request
is one time step of a client's own session, or a sequence of 100 steps, or 32 of them.

Then what a forecaster takes to read a new value and forecast the next, in process, beside
a forecaster that does nothing: what sktime itself takes.
"""

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from sktime.forecasting.base import BaseForecaster

from sklstm import LSTMClassifier, LSTMForecaster, save

SERVICE = Path(__file__).parents[1] / "examples" / "service.py"


def start(model, folder):
    path = Path(folder) / "model.safetensors"
    save(model, path)
    process = subprocess.Popen(
        [sys.executable, str(SERVICE), str(path), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            return process, int(found.group(1))
    raise RuntimeError("The service did not start.")


def client(port, path, body, seconds):
    """Ask until time is up; return how long each answer took, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers, times = {"Content-Type": "application/json"}, []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(content)
        times.append(time.perf_counter() - now)
    connection.close()
    return times


class Nothing(BaseForecaster):
    """Forecasts zero."""

    _tags = {
        "y_inner_mtype": "pd.DataFrame",
        "capability:multivariate": True,
        "requires-fh-in-fit": False,
    }
    _config = {"remember_data": False}

    def __init__(self):
        super().__init__()
        self._y = self._X = None

    def _fit(self, y, X, fh):
        return self

    def _update(self, y, X=None, update_params=True):
        return self

    def _predict(self, fh, X):
        index = fh.to_absolute_index(self.cutoff)
        return pd.DataFrame(np.zeros(len(fh)), index, self._get_varnames())


def time_forecasters():
    rng = np.random.default_rng(0)
    y = pd.Series(50 + rng.normal(size=500).cumsum())
    X = pd.DataFrame(rng.normal(size=(501, 2)), columns=["a", "b"])
    trained = {"sp": 12, "max_steps": 5, "n_members": 1, "random_state": 0}
    forecasters = {
        "sktime alone": (Nothing(), None),
        "one trained network, hidden 32, window 48": (
            LSTMForecaster(12, **trained),
            None,
        ),
        "the same with two columns of X": (LSTMForecaster(12, **trained), X),
        "the pretrained network": (LSTMForecaster(12, sp=12), None),
    }
    times = {name: [] for name in forecasters}
    for forecaster, exog in forecasters.values():
        forecaster.fit(y[:300], X=None if exog is None else exog[:300])
    # In turn, so that what else the machine does is the same for all.
    for t in range(300, len(y)):
        for name, (forecaster, exog) in forecasters.items():
            now, ahead = (None if exog is None else exog[i : i + 1] for i in (t, t + 1))
            start = time.thread_time()
            forecaster.update(y[t : t + 1], X=now, update_params=False)
            forecaster.predict(fh=[1], X=ahead)
            times[name].append(1000 * (time.thread_time() - start))
    print("\n| update + predict | median, ms of a core | lowest |\n|---|---|---|")
    for name, each in times.items():
        print(f"| {name} | {np.median(each):.1f} | {min(each):.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 100))
    model = LSTMClassifier(stem=None, max_iter=12, random_state=0)
    model.fit(X, X[:, -10:].mean(axis=1) > 0)
    rows = X[:32, :, None].round(4).tolist()
    requests = {
        "one step of a stream": ("/streams/{}", {"step": [0.5]}),
        "a sequence of 100 steps": ("/predict", {"sequences": rows[:1]}),
        "32 sequences of 100 steps": ("/predict", {"sequences": rows}),
    }
    print("| request | clients | per second | p50, ms | p99, ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        process, port = start(model, folder)
        try:
            for name, (path, body) in requests.items():
                for n in options.clients:
                    jobs = [(port, path.format(i), json.dumps(body)) for i in range(n)]
                    with ThreadPoolExecutor(n) as pool:
                        each = pool.map(lambda job: client(*job, options.seconds), jobs)
                        times = np.concatenate(list(each))
                    p50, p99 = 1000 * np.percentile(times, [50, 99])
                    rate = len(times) / options.seconds
                    print(f"| {name} | {n} | {rate:.0f} | {p50:.2f} | {p99:.2f} |",
                          flush=True)  # fmt: skip
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    time_forecasters()


if __name__ == "__main__":
    main()
