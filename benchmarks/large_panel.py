"""A million series, a chunk at a time: time and peak memory.

    python benchmarks/large_panel.py

Simulates 1,000,000 monthly series of 50 values as a Parquet file (long format, a row
group of 10,000 series after the other), pretrains a network on every 50th row group,
and forecasts the last 6 values of all series, row group by row group, into another
Parquet file. Nothing holds more than a few row groups. Needs pyarrow.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sklstm import LSTMForecaster

N_TIMESTEPS, HORIZON = 50, 6
TIMES = pd.period_range("2020-01", periods=N_TIMESTEPS, freq="M")


def simulate(path, n_series, chunk):
    """Write random walks with a season of 12 and a trend of their own."""
    rng = np.random.default_rng(0)
    schema = pa.schema(
        [("series", pa.int32()), ("step", pa.int16()), ("y", pa.float32())]
    )
    steps = np.arange(N_TIMESTEPS)
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, n_series, chunk):
            n = min(chunk, n_series - first)
            level, trend, size, phase = rng.normal(size=(4, n, 1))
            y = 100 + 20 * level + 0.5 * trend * steps
            y += 8 * np.abs(size) * np.sin(2 * np.pi * steps / 12 + 3 * phase)
            y += rng.normal(size=(n, N_TIMESTEPS)).cumsum(axis=1)
            columns = {
                "series": np.repeat(np.arange(first, first + n), N_TIMESTEPS),
                "step": np.tile(steps, n),
                "y": y.ravel().astype(np.float32),
            }
            writer.write_table(
                pa.table(columns, schema), row_group_size=chunk * len(steps)
            )


def panel(file, row_groups):
    """Read row groups into a frame as sktime wants it."""
    table = file.read_row_groups(row_groups)
    series, step = table["series"].to_numpy(), table["step"].to_numpy()
    index = pd.MultiIndex.from_arrays([series, TIMES[step]], names=["series", "month"])
    return pd.DataFrame({"y": table["y"].to_numpy().astype(np.float64)}, index)


def split(y):
    """Return what is known and what is to be forecast."""
    known = np.arange(len(y)) % N_TIMESTEPS < N_TIMESTEPS - HORIZON
    return y[known], y[~known]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-series", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=10_000)
    arguments = parser.parse_args()
    fh = np.arange(1, HORIZON + 1)
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder) / "panel.parquet", Path(folder) / "forecasts.parquet"
        began = time.perf_counter()
        simulate(path, arguments.n_series, arguments.chunk)
        report(f"simulated {arguments.n_series} series", began)
        file = pq.ParquetFile(path)
        n_groups = file.num_row_groups

        began = time.perf_counter()
        sample = split(panel(file, range(0, n_groups, 50)))[0]
        forecaster = LSTMForecaster(random_state=0)
        forecaster.pretrain(sample, fh=fh)
        del sample
        report("pretrained on every 50th row group", began)

        began = time.perf_counter()
        writer, error, naive = None, 0.0, 0.0
        for k in range(n_groups):
            known, actual = split(panel(file, [k]))
            predicted = forecaster.fit(known, fh=fh).predict()  # nothing is trained
            error += np.abs(predicted - actual).to_numpy().sum()
            # The same month of the year before
            values = known["y"].to_numpy().reshape(-1, N_TIMESTEPS - HORIZON)
            ahead = actual["y"].to_numpy().reshape(-1, HORIZON)
            naive += np.abs(values[:, -12 : HORIZON - 12] - ahead).sum()
            series = predicted.index.get_level_values(0)
            table = pa.table({"series": series, "y": predicted["y"].to_numpy()})
            writer = writer or pq.ParquetWriter(result, table.schema)
            writer.write_table(table)
        writer.close()
        report(f"forecast {n_groups} row groups", began)
        n = pq.ParquetFile(result).metadata.num_rows
    print(f"{n} forecasts, mean absolute error {error / n:.3f} (seasonal naive "
          f"{naive / n:.3f})")  # fmt: skip


def report(what, began):
    """Print the time since `began` and the peak memory of the process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - began:.0f} s, peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
