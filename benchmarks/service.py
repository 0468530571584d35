"""Load test of examples/service.py on loopback: requests per second, p50 and p99.

    python benchmarks/service.py [--clients 1 4 16] [--seconds 5]

A classifier of hidden size 64 without a stem, one channel; the service and the clients,
threads of one process with a kept-alive connection each, share the machine. A request
is one time step of a client's own session, or a sequence of 100 steps, or 32 of them.
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

import joblib
import numpy as np

from sklstm import LSTMClassifier

SERVICE = Path(__file__).parents[1] / "examples" / "service.py"


def start(model, folder):
    path = Path(folder) / "model.joblib"
    joblib.dump(model, path)
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


if __name__ == "__main__":
    main()
