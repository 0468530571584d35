"""Time and memory beside what a user would run instead.

    python benchmarks/speed.py [TABLE ...]

TABLE is one or more of fit bfloat16 peers grid cold ragged predict memory forecaster
week peak cells files. All on the CPU, one thread (grid and predict say where not). Arms
run interleaved in one process, or in alternating processes where a framework brings its
own threads, warmed up; medians, and the spread from the fastest to the slowest. A peer
that is not installed (`pip install sklstm[bench]`) is skipped with a message.
"""

import importlib.util
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import joblib
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sklstm import LSTMClassifier, kernels, load, save
from sklstm.modules import CELLS
from sklstm.network import initialize

REPEATS = 5


def is_installed(module):
    if importlib.util.find_spec(module) is None:
        print(f"  {module} is not installed: skipped")
        return False
    return True


def interleave(arms, repeats=REPEATS):
    """Run each arm once to warm up, then all in turn; seconds of each run by name."""
    seconds = {name: [] for name in arms}
    for arm in arms.values():
        arm()
    for i in range(repeats):
        # A B, B A, ...: neither always comes after the other.
        for name in list(arms)[:: 1 if i % 2 == 0 else -1]:
            start = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title, seconds, results=None):
    """Print medians, spreads and how many times the time of "ours" each takes."""
    ours = np.median(seconds["ours"])
    print(f"{title} (load {os.getloadavg()[0]:.1f})")
    for name, each in seconds.items():
        note = "" if results is None or name not in results else f"  {results[name]}"
        spread = f"({min(each):.3f} to {max(each):.3f})"
        ratio = f"{np.median(each) / ours:6.2f} x ours{note}"
        print(f"  {name:24s} {np.median(each):8.3f} s {spread}  {ratio}", flush=True)


# ---------------------------------------------------------------------------- networks
def make_data(n, n_timesteps, n_channels, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    X = rng.standard_normal((n, n_timesteps, n_channels)).astype(np.float32)
    return X + 0.3 * y[:, None, None].astype(np.float32), y


class LastState(nn.Module):
    """What most people write: an LSTM, its last state, a linear map."""

    def __init__(self, n_channels=1, hidden_size=32, n_classes=3):
        super().__init__()
        self.lstm = nn.LSTM(n_channels, hidden_size, batch_first=True)
        self.out = nn.Linear(hidden_size, n_classes)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


class ConvRecurrent(nn.Module):
    """The default network of LSTMClassifier in plain torch, for sequences of 100."""

    def __init__(self, n_channels, hidden_size, n_classes=3):
        super().__init__()
        sizes = (n_channels, hidden_size, hidden_size)
        self.stem = nn.Sequential(
            *itertools.chain.from_iterable(
                (
                    nn.Conv1d(n, hidden_size, k, 1, k // 2, bias=False),
                    nn.BatchNorm1d(hidden_size),
                    nn.ReLU(),
                )
                for n, k in zip(sizes, (11, 5, 3), strict=True)
            )
        )
        self.lstm = nn.LSTM(
            hidden_size, hidden_size, batch_first=True, bidirectional=True
        )
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(6 * hidden_size, n_classes)

    def forward(self, x):
        x = self.stem(x.transpose(1, 2)).transpose(1, 2)
        x = torch.cat([self.dropout(self.lstm(x)[0]), x], dim=2)
        return self.out(torch.cat([x.mean(1), x.amax(1)], dim=1))


def fit_with_dataloader(network, X, y, batch_size, n_epochs):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
    for _ in range(n_epochs):
        total = 0.0
        for x, target in loader:
            optimizer.zero_grad()
            loss = loss_of(network(x), target)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
    return total / len(X)


def fit_lean(network, X, y, batch_size, n_epochs):
    """No DataLoader, no waiting for the loss, a fused optimiser."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(n_epochs):
        losses = []
        for rows in torch.randperm(len(X)).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            output = network(X.index_select(0, rows))
            loss = nn.functional.cross_entropy(output, y.index_select(0, rows))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach() * len(rows))
        total = float(torch.stack(losses).sum())
    return total / len(X)


def start_like_ours(network):
    """Give the recurrent weights of a torch network the start that ours have."""
    for name, parameter in network.lstm.named_parameters():
        hidden_size = network.lstm.hidden_size
        with torch.no_grad():
            if parameter.ndim == 1:
                parameter.zero_()
                if "bias_ih" in name:
                    parameter[hidden_size : 2 * hidden_size] = 1
                continue
            for gate in parameter.split(hidden_size):
                if "hh" in name:
                    nn.init.orthogonal_(gate)
                else:
                    nn.init.xavier_uniform_(gate)
    return network


def plain_classifier(hidden_size, batch_size, n_epochs, **settings):
    """LSTMClassifier doing what the loops above do, no more and no less."""
    settings = {
        "stem": None, "pooling": "last", "dropout": 0.0, "augment": None, "n_members": 1,
    } | settings  # fmt: skip
    return LSTMClassifier(
        hidden_size=hidden_size, batch_size=batch_size, max_iter=n_epochs, alpha=0.0,
        learning_rate="constant", learning_rate_init=1e-3, max_grad_norm=None, tol=0.0,
        n_iter_no_change=n_epochs, random_state=0, **settings,
    )  # fmt: skip


def skorch_classifier(module, batch_size, n_epochs, **settings):
    from skorch import NeuralNetClassifier  # noqa: PLC0415

    return NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=1e-3,
        batch_size=batch_size, max_epochs=n_epochs, train_split=None, verbose=0,
        iterator_train__shuffle=True, **settings,
    )  # fmt: skip


# ------------------------------------------------------------------------------ tables
def compare_fits(hidden_size, n_timesteps, n_channels, batch_size, n_epochs=4):
    X, y = make_data(32 * batch_size, n_timesteps, n_channels)
    task, losses = (X, y, batch_size, n_epochs), {}

    def network():
        return start_like_ours(LastState(n_channels, hidden_size))

    def ours():
        model = plain_classifier(hidden_size, batch_size, n_epochs).fit(X, y)
        losses["ours"] = f"loss {model.loss_curve_[-1]:.3f}"

    def dataloader():
        loss = fit_with_dataloader(network(), *task)
        losses["torch, DataLoader"] = f"loss {loss:.3f}"

    def lean():
        losses["torch, lean loop"] = f"loss {fit_lean(network(), *task):.3f}"

    def skorch():
        model = skorch_classifier(network, batch_size, n_epochs).fit(X, y)
        losses["skorch"] = f"loss {model.history[-1, 'train_loss']:.3f}"

    arms = {"ours": ours, "torch, DataLoader": dataloader, "torch, lean loop": lean}
    if importlib.util.find_spec("skorch"):
        arms["skorch"] = skorch
    title = f"fit: hidden {hidden_size}, {n_timesteps} steps, batch {batch_size}"
    report(title, interleave(arms), losses)


def table_fit():
    """Whole fits with as many updates, from the same kind of start."""
    is_installed("skorch")
    for sizes in ((16, 50, 1, 32), (32, 50, 8, 32), (64, 100, 8, 64), (128, 50, 16, 128)):
        compare_fits(*sizes)
    X, y = make_data(1024, 100, 8)
    model = plain_classifier(64, 64, 4, stem="conv", pooling="mean-max", dropout=0.2)
    arms = {
        "ours": lambda: model.fit(X, y),
        "torch, DataLoader": lambda: fit_with_dataloader(
            ConvRecurrent(8, 64), X, y, 64, 4
        ),
    }
    report("fit: default stem and pooling, hidden 64, 100 steps", interleave(arms))


def compare_precisions(title, network, sizes, **settings):
    hidden_size, n_timesteps, n_channels, batch_size = sizes
    X, y = make_data(32 * batch_size, n_timesteps, n_channels)
    losses = {}

    def ours(name, dtype):
        model = plain_classifier(hidden_size, batch_size, 4, dtype=dtype, **settings)
        losses[name] = f"loss {model.fit(X, y).loss_curve_[-1]:.3f}"

    arms = {
        "ours": lambda: ours("ours", "bfloat16"),
        "ours, float32": lambda: ours("ours, float32", "float32"),
        "torch, DataLoader": lambda: fit_with_dataloader(
            network(n_channels, hidden_size), X, y, batch_size, 4
        ),
    }
    report(f"bfloat16: {title}", interleave(arms), losses)


def table_bfloat16():
    """Whole fits with products in half the precision, beside float32."""
    compare_precisions("hidden 64", LastState, (64, 100, 8, 64))
    compare_precisions("hidden 128", LastState, (128, 50, 16, 128))
    compare_precisions(
        "default stem and pooling, hidden 64", ConvRecurrent, (64, 100, 8, 64),
        stem="conv", pooling="mean-max", dropout=0.2,
    )  # fmt: skip


def reference_task():
    """The classification task that peers are measured on: 320 updates."""
    X, y = make_data(2000, 100, 8, n_classes=4)
    return X, y


def fit_sktime(X, y):
    from sktime.classification.deep_learning import GRUClassifier  # noqa: PLC0415

    model = GRUClassifier(
        hidden_dim=64, n_layers=1, batch_size=64, num_epochs=10, bidirectional=False,
        random_state=0, verbose=False,
    )  # fmt: skip
    model.fit(X.transpose(0, 2, 1), y)


def fit_keras(X, y):
    import keras  # noqa: PLC0415

    model = keras.Sequential([keras.layers.LSTM(64), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    model.fit(X, y, batch_size=64, epochs=10, verbose=0)


def fit_skorch(X, y):
    skorch_classifier(lambda: LastState(8, 64, 4), 64, 10).fit(X, y)


def fit_ours(X, y):
    plain_classifier(64, 64, 10).fit(X, y)


def fit_our_gru(X, y):
    plain_classifier(64, 64, 10, cell="gru").fit(X, y)


PEERS = {
    "ours": (fit_ours, "sklstm", {}),
    "ours, GRU": (fit_our_gru, "sklstm", {}),
    "skorch": (fit_skorch, "skorch", {}),
    "Keras, tensorflow": (fit_keras, "tensorflow", {"KERAS_BACKEND": "tensorflow"}),
    "Keras, torch": (fit_keras, "keras", {"KERAS_BACKEND": "torch"}),
    "sktime GRUClassifier": (fit_sktime, "sktime", {}),
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


def run_arm(table, name, extra=()):
    """Run one arm in a process of its own; return what it prints."""
    environment = PEERS[name][2] if table == "peers" else {}
    done = subprocess.run(
        [sys.executable, __file__, "--arm", table, name, *extra],
        env=os.environ | ONE_THREAD | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"  {name} failed: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def alternate(table, names, repeats):
    """Run the arms in turn, each in a process of its own; skip those that fail."""
    found = {name: [] for name in names}
    for _ in range(repeats):
        for name in list(found):
            result = run_arm(table, name)
            if result is None:
                del found[name]
            else:
                found[name].append(result)
    return found


def table_peers():
    """The task of 2000 sequences, each framework in processes of its own."""
    names = [name for name, (_, module, _) in PEERS.items() if is_installed(module)]
    found = alternate("peers", names, 3)
    for title, key in (("first fit", "first"), ("warm fit", "warm")):
        seconds = {name: [r[key] for r in runs] for name, runs in found.items()}
        report(f"peers: {title}, 2000 x 100 x 8, hidden 64, 320 updates", seconds)


def arm_peers(name):
    fit = PEERS[name][0]
    X, y = reference_task()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        fit(X, y)
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "warm": min(seconds[1:])}


def table_grid():
    """GridSearchCV: 12 candidates, 3 folds, 500 x 50 x 4, hidden 32, 10 epochs."""
    from sklearn.model_selection import GridSearchCV  # noqa: PLC0415

    X, y = make_data(500, 50, 4)
    rates, sizes = [3e-4, 1e-3, 3e-3, 1e-2], [32, 64, 128]
    ours = GridSearchCV(
        plain_classifier(32, 32, 10),
        {"learning_rate_init": rates, "batch_size": sizes},
        cv=3,
    )
    arms = {"ours": lambda: ours.fit(X, y)}
    if is_installed("skorch"):
        theirs = GridSearchCV(
            skorch_classifier(LastState, 32, 10, module__n_channels=4),
            {"lr": rates, "batch_size": sizes},
            cv=3,
        )
        arms["skorch"] = lambda: theirs.fit(X, y)
    report("grid: 12 candidates, 3 folds", interleave(arms, 3))
    X, y = make_data(4000, 50, 4)
    torch.set_num_threads(2)
    arms = {}
    for name, n_jobs in (("ours", 1), ("n_jobs=2", 2)):
        search = GridSearchCV(
            plain_classifier(32, 32, 20),
            {"learning_rate_init": rates, "batch_size": sizes},
            cv=3,
            n_jobs=n_jobs,
        )
        arms[name] = lambda search=search: search.fit(X, y)
    report("grid: 4000 sequences, 20 epochs, two cores", interleave(arms, 1))
    torch.set_num_threads(1)


def table_cold():
    """The first fit of a process, torch and scikit-learn being imported."""
    found = alternate("cold", ["ours", "torch, DataLoader"], REPEATS)
    report("cold: first fit, 200 x 50 x 4, hidden 32, 5 epochs", found)


def arm_cold(name):
    X, y = make_data(200, 50, 4)
    start = time.perf_counter()
    if name == "ours":
        plain_classifier(32, 32, 5).fit(X, y)
    else:
        fit_with_dataloader(LastState(4, 32), X, y, 32, 5)
    return time.perf_counter() - start


def table_ragged():
    """Lengths 20 to 100 beside as many steps in rows of 60, and a PackedSequence."""
    rng = np.random.default_rng(0)
    n, hidden_size = 1024, 64
    lengths = rng.integers(20, 101, n)
    X, y = make_data(n, 100, 8)
    ragged = [x[:length] for x, length in zip(X, lengths, strict=True)]
    n_equal = round(lengths.sum() / 60)
    equal = make_data(n_equal, 60, 8)

    def packed():
        network = LastState(8, hidden_size)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        values, targets = torch.from_numpy(X), torch.from_numpy(y)
        for rows in torch.randperm(n).split(32):
            optimizer.zero_grad()
            together = nn.utils.rnn.pack_padded_sequence(
                values[rows], torch.from_numpy(lengths)[rows], True, False
            )
            last = network.lstm(together)[1][0][0]
            loss = nn.functional.cross_entropy(network.out(last), targets[rows])
            loss.backward()
            optimizer.step()

    arms = {
        "ours": lambda: plain_classifier(hidden_size, 32, 1).fit(ragged, y),
        "ours, equal lengths": lambda: plain_classifier(hidden_size, 32, 1).fit(*equal),
        "torch, PackedSequence": packed,
    }
    report("ragged: lengths 20 to 100, as many steps, one epoch", interleave(arms))


def fit_quickly(**settings):
    X, y = make_data(64, 100, 8)
    return plain_classifier(64, 64, 1, **settings).fit(X, y)


def table_predict():
    """predict beside the bare inference kernels; one sequence; peak memory."""
    model = fit_quickly()
    X, _ = make_data(10_000, 100, 8)
    layer, x = nn.LSTM(8, 64), torch.randn(100, 128, 8)

    def bare(run):
        with torch.inference_mode():
            for _ in range(math.ceil(len(X) / 128)):
                run()

    arms = {
        "ours": lambda: model.predict(X),
        "torch.nn.LSTM alone": lambda: bare(lambda: layer(x)),
    }
    if kernels.library() is not None:
        arms["our kernel alone"] = lambda: bare(
            lambda: kernels.layer(x, None, *layer.parameters())
        )
    report("predict: 10,000 x 100 x 8, hidden 64", interleave(arms))
    default = {"stem": "conv", "pooling": "mean-max"}
    for title, settings in (
        ("plain", {}),
        ("default stem", default),
        ("three networks of it, the default for few rows", default | {"n_members": 3}),
    ):
        model = fit_quickly(**settings)
        seconds = []
        for _ in range(200):
            start = time.perf_counter()
            model.predict(X[:1])
            seconds.append(time.perf_counter() - start)
        print(f"predict: one sequence, {title}: {1e3 * np.median(seconds):.2f} ms")
    result = run_arm("memory", "predict")
    print(f"predict: 100,000 x 100 x 8 (320 MB): {result}")


def table_memory():
    """Peak memory of a process that fits 640 MB of sequences."""
    print(f"memory: fit of 200,000 x 100 x 8 (640 MB): {run_arm('memory', 'fit')}")


def arm_memory(name):
    rng = np.random.default_rng(0)
    if name == "predict":
        model = fit_quickly()
        X = rng.standard_normal((100_000, 100, 8), dtype=np.float32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        model.predict(X)
    else:
        X = rng.standard_normal((200_000, 100, 8), dtype=np.float32)
        y = rng.integers(0, 2, len(X))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        plain_classifier(16, 256, 1).fit(X, y)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        f"{seconds:.1f} s, peak {peak / 1e3:.0f} MB, {(peak - before) / 1e3:.0f} MB more"
    )


FORECASTERS = {
    "ours": "sklstm",
    "ours, bfloat16": "sklstm",
    "neuralforecast LSTM": "neuralforecast",
    "darts BlockRNN": "darts",
}


def table_forecaster():
    """500 steps of 32 windows of 48, hidden 64, on 200 series of 300; horizon 24."""
    compare_forecasters("forecaster", "windows of 48 steps")


def table_week():
    """The same with windows of a week of hours, which ours reads a day at a time."""
    compare_forecasters("week", "windows of 168 steps, ours in its segments of 24")


def compare_forecasters(table, title):
    names = [name for name, module in FORECASTERS.items() if is_installed(module)]
    found = alternate(table, names, 3)
    for key in ("first", "warm"):
        seconds = {name: [r[key] for r in runs] for name, runs in found.items()}
        report(f"{table}: {key} fit, 500 steps of 32 {title}, hidden 64", seconds)


def arm_forecaster(name):
    return fit_forecaster(name, window_length=48, segment_length=1)


def arm_week(name):
    return fit_forecaster(name, window_length=168, segment_length="auto")


def fit_forecaster(name, window_length, segment_length):
    import pandas as pd  # noqa: PLC0415

    rng = np.random.default_rng(0)
    t = np.arange(300)
    phase = rng.random((200, 1)) * 6
    values = 5 + np.sin(2 * np.pi * t / 24 + phase) + 0.2 * rng.normal(size=(200, 300))
    if name.startswith("ours"):
        from generator import panel_of  # noqa: PLC0415

        from sklstm import LSTMForecaster  # noqa: PLC0415

        panel = panel_of(list(values))
        dtype = "bfloat16" if "bfloat16" in name else "float32"

        def fit():
            LSTMForecaster(
                sp=24, window_length=window_length, segment_length=segment_length,
                hidden_size=64, num_layers=1, max_steps=500, batch_size=32, n_members=1,
                pretrained=None, early_stopping=False, random_state=0, dtype=dtype,
            ).fit(panel, fh=np.arange(1, 25))  # fmt: skip

    elif name.startswith("neuralforecast"):
        from neuralforecast import NeuralForecast  # noqa: PLC0415
        from neuralforecast.models import LSTM  # noqa: PLC0415

        frame = pd.DataFrame(
            {"unique_id": np.repeat(np.arange(200), 300), "ds": np.tile(t, 200),
             "y": values.ravel()}
        )  # fmt: skip
        quiet = {"enable_progress_bar": False, "logger": False,
                 "enable_checkpointing": False, "accelerator": "cpu"}  # fmt: skip

        def fit():
            model = LSTM(
                h=24, input_size=window_length, encoder_hidden_size=64,
                encoder_n_layers=1, decoder_hidden_size=64, max_steps=500, batch_size=32,
                windows_batch_size=32, scaler_type="standard", recurrent=False, **quiet,
            )  # fmt: skip
            NeuralForecast([model], freq=1).fit(frame)

    else:
        from darts import TimeSeries  # noqa: PLC0415
        from darts.models import BlockRNNModel  # noqa: PLC0415

        series = [TimeSeries.from_values(v.astype(np.float32)) for v in values]

        def fit():
            # At least 80 windows in each of 200 series: 500 batches of 32 in one epoch.
            BlockRNNModel(
                input_chunk_length=window_length, output_chunk_length=24, model="LSTM",
                hidden_dim=64, n_rnn_layers=1, batch_size=32, n_epochs=1, random_state=0,
                pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False,
                                   "max_steps": 500},
            ).fit(series, max_samples_per_ts=80, verbose=False)  # fmt: skip

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        fit()
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "warm": min(seconds[1:])}


def table_peak():
    """Share of the matrix peak that a forward and backward pass reaches."""
    a = torch.randn(1024, 1024)
    seconds = interleave({"ours": lambda: torch.mm(a, a)}, 20)["ours"]
    peak = 2 * 1024**3 / np.median(seconds)
    print(f"peak: matrix product of 1024 x 1024: {peak / 1e9:.0f} GFLOP/s")
    for hidden_size, n_timesteps, n_channels, n_rows in (
        (16, 50, 1, 32), (32, 50, 8, 32), (64, 100, 8, 64), (128, 50, 16, 128),
    ):  # fmt: skip
        layer = nn.LSTM(n_channels, hidden_size)
        x = torch.randn(n_timesteps, n_rows, n_channels)

        def ours(layer=layer, x=x):
            kernels.layer(x, None, *layer.parameters())[1][0].sum().backward()

        def theirs(layer=layer, x=x):
            layer(x)[1][0].sum().backward()

        arms = {"torch.nn.LSTM": theirs}
        if kernels.library() is not None:
            arms["ours"] = ours
        seconds = interleave(arms, 30)
        # Forward 8 H (I + H) a step and row, backward as much and 8 H^2 on top.
        flops = 8 * hidden_size * (2 * n_channels + 3 * hidden_size)
        flops *= n_rows * n_timesteps
        for name, each in seconds.items():
            rate = flops / np.median(each)
            print(
                f"  hidden {hidden_size:3d}  {name:14s} {1e3 * np.median(each):7.2f} ms  "
                f"{rate / 1e9:4.0f} GFLOP/s, {100 * rate / peak:.0f} % of the peak"
            )


def table_cells():
    """Ten passes of each cell beside torch's; torch has no peepholes, so equations."""
    n_channels, hidden_size = 8, 64
    x = torch.randn(100, 64, n_channels)
    training, inference = {}, {}
    for cell, kind in CELLS.items():
        layer = kind(n_channels, hidden_size)
        initialize(nn.ModuleList([layer]), torch.Generator().manual_seed(0))

        def ours(layer=layer):
            return kernels.layer(x, None, *layer.weights)[1][0]

        def by_torch(layer=layer):
            return kernels.by_torch(x, None, *layer.weights)[1][0]

        arms = {"ours" if cell == "lstm" else cell: ours, f"{cell}, torch": by_torch}
        for name, run in arms.items():
            training[name] = lambda run=run: [run().sum().backward() for _ in range(10)]
            inference[name] = torch.no_grad()(lambda run=run: [run() for _ in range(10)])
    report("cells: 10 x forward and backward, hidden 64", interleave(training, 9))
    report("cells: 10 x forward, hidden 64", interleave(inference, 9))


def table_files():
    """Saving and loading a classifier of hidden size 64, and the size of its file."""
    X, y = make_data(100, 50, 1)
    print("files: a classifier of hidden size 64")
    with tempfile.TemporaryDirectory() as folder:
        path, pickled = f"{folder}/model", f"{folder}/pickled"
        for stem in (None, "conv"):
            model = LSTMClassifier(stem=stem, max_iter=100, n_members=1, random_state=0)
            model.fit(X, y)
            n_bytes = 4 * sum(p.numel() for p in model.network_.parameters())
            joblib.dump(model, pickled)
            arms = {
                "save": lambda model=model: save(model, path),
                "load": lambda: load(path),
                "joblib.load": lambda: joblib.load(pickled),
            }
            for name, seconds in interleave(arms, 50).items():
                print(f"  stem={stem!s:5s} {name:12s} {1e3 * np.median(seconds):6.2f} ms")
            for name, file in (("save", path), ("joblib", pickled)):
                ratio = os.path.getsize(file) / n_bytes
                print(f"  stem={stem!s:5s} file of {name}: {ratio:.2f} of the weights")


TABLES = (
    "fit",
    "bfloat16",
    "peers",
    "grid",
    "cold",
    "ragged",
    "predict",
    "memory",
    "forecaster",
    "week",
    "peak",
    "cells",
    "files",
)


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a few epochs are no convergence
    os.environ["PYTHONWARNINGS"] = "ignore"
    if sys.argv[1:2] == ["--arm"]:
        table, name = sys.argv[2:4]
        result = globals()[f"arm_{table}"](name)
        print(json.dumps(result))
        return
    for table in sys.argv[1:] or TABLES:
        if table not in TABLES:
            raise SystemExit(f"No table {table!r}; tables are {', '.join(TABLES)}.")
        globals()[f"table_{table}"]()


if __name__ == "__main__":
    main()
