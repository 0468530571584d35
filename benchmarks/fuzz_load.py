"""Load mutated files: each must be refused with a ValueError, or be a sound estimator.

    python benchmarks/fuzz_load.py [--n 20000] [--seed 0]

Half of the files are damaged as bytes: flipped bits, cut, lengthened, blocks moved. The
other half are edited as an attacker would, with the checksum made right again: values of
the header and of the content are replaced by hostile ones, removed, doubled, exchanged;
arrays are filled with noise. For each file the time, the peak of the memory that Python
and numpy use (tracemalloc) and the growth of the process are watched; the address space
is limited, so that whatever asks for gigabytes fails. What can be loaded must predict, or
refuse with an error, a ValueError from classifiers and regressors.
"""

import argparse
import collections
import copy
import faulthandler
import hashlib
import json
import resource
import struct
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sklstm import (
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    compress,
    load,
    save,
)

ZEROS = "0" * 64
MAX_SECONDS = 2.0
# tracemalloc's peak of one load: objects of Python take up to 30 times their text.
MEMORY_FLOOR, MEMORY_FACTOR = 2 * 2**20, 60
HEADROOM = 1 << 30  # bytes of address space beyond what is in use at the start
HOSTILE = [
    None, True, False, -1, 0, 1, 2, 3, 7, 64, 2**31 - 1, 2**31, 10**9, 10**18, 2**63,
    10**400, 0.5, -0.5, 1e308, 1e-320, "", "a", "os.system", "__class__",
    "../../etc/passwd", "/dev/zero", "dateutil//etc/passwd", "lstm", "gru", "nan", "inf",
    "F32", "|O",
    "<U999999999", "x" * 5000, "\u0000", [], {}, [[]], [0], [1, 2, 3], [2**40, 2**40],
    [0, 2**47, 2**47], {"a": 1}, {"tuple": []}, {"tuple": 3}, {"dict": []},
    {"dict": [[1, 2], [1, 3]]}, {"dict": [[{"dict": []}, 1]]}, {"float": "nan"},
    {"float": "inf"}, {"float": "1"}, {"same": 0}, {"same": 10**9}, {"dtype": "|O"},
    {"dtype": "<U999999999"}, {"array": "x"}, {"scalar": 3}, {"typed": [3, "<U1"]},
    {"objects": [[10**9], []]}, {"objects": [[2], [1, 2]]}, {"strings": [1, 2]},
    {"floats": []}, {"eval": "1+1"}, {"LSTMClassifier": {}}, {"RecurrentNetwork": {}},
    {"BaseOffset": "1000000000D"}, {"BaseOffset": "x" * 100}, {"Index": {"dict": []}},
]  # fmt: skip


# ----------------------------------------------------------------------------- originals
def originals(folder):
    """Save small estimators of all kinds; return [(bytes, data to predict from)]."""
    rng = np.random.default_rng(0)
    X, labels = (
        rng.normal(size=(24, 10)),
        np.array(["no", "yes", "so"])[np.arange(24) % 3],
    )
    tokens = rng.integers(1, 9, size=(24, 6))
    small = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
    quantiles = {"loss": "quantile", "quantile": [0.1, 0.5, 0.9], "dtype": "float64"}
    models = [
        (LSTMClassifier(**small).fit(X, labels), X),
        (LSTMClassifier(**small, stem="embedding").fit(tokens, labels), tokens),
        (
            LSTMRegressor(
                **small, **quantiles, bidirectional=True, pooling="attention", cell="gru"
            ).fit(X, X[:, :2]),
            X,
        ),
    ]
    trained = {"hidden_size": 4, "max_steps": 2, "batch_size": 4, "n_members": 2}
    series = pd.Series(
        rng.normal(size=30), index=pd.period_range("2000-01", periods=30, freq="M")
    )
    times = pd.date_range("2000-01-01", periods=20, freq="D")
    panel = pd.DataFrame(
        rng.normal(size=(40, 2)),
        index=pd.MultiIndex.from_product([["a", "b"], times]),
        columns=["u", "v"],
    )
    for y in (series, panel):
        forecaster = LSTMForecaster(**trained, random_state=0).fit(y, fh=[1, 2])
        models.append((forecaster, None))
    per_step = LSTMClassifier(
        **small, target="sequence", residual=True, layer_norm=True, num_layers=2,
        missing="mask",
    ).fit(X[:, :4], np.resize(labels, (24, 4)))  # fmt: skip
    gaps = np.where(X[:, :4] > 1, np.nan, X[:, :4])
    models += [
        (compress(models[0][0], sparsity=0.5), X),
        (per_step, gaps),
        (compress(forecaster), None),
    ]
    made = []
    for i, (model, X) in enumerate(models):
        save(model, folder / str(i), include_optimizer=i == 0)
        made.append(((folder / str(i)).read_bytes(), X))
    return made


# ----------------------------------------------------------------------------- mutations
def damaged(rng, data):
    """Return the bytes of a file, damaged."""
    data = bytearray(data)
    kind = rng.choice(["flip", "cut", "longer", "header length", "block", "swap"])
    place = int(rng.integers(len(data)))
    if kind == "flip":
        for at in rng.integers(len(data), size=rng.integers(1, 9)):
            data[at] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[place:]
    elif kind == "longer":
        data += rng.bytes(int(rng.integers(1, 100)))
    elif kind == "header length":
        n = int(rng.choice([0, 1, 2**31, 2**63, len(data), len(data) - 8, place]))
        data[:8] = struct.pack("<Q", n)
    elif kind == "block":
        data[place : place + 64] = rng.bytes(len(data[place : place + 64]))
    else:
        other = int(rng.integers(len(data)))
        a, b = data[place : place + 32], data[other : other + 32]
        n = min(len(a), len(b))
        data[place : place + n], data[other : other + n] = b[:n], a[:n]
    return kind, bytes(data)


def sealed(text, body):
    """Return a file whose checksum is right, whatever its header says."""
    text = text.encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + body
    return data.replace(ZEROS.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def opened(data):
    """Return the header, its content parsed, and the bytes of the arrays."""
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    metadata = header["__metadata__"]
    metadata["sha256"], metadata["content"] = ZEROS, json.loads(metadata["content"])
    return header, bytearray(data[8 + n :])


def places(tree):
    """Return [(container, key)] of all values in a tree of lists and dicts."""
    found, open_ = [], [tree]
    while open_:
        node = open_.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            found.append((node, key))
            if isinstance(value, (dict, list)):
                open_.append(value)
    return found


def edited(rng, data):
    """Return a file that was edited on purpose, with a checksum that is right."""
    header, body = opened(data)
    everywhere = places(header)
    content = places(header["__metadata__"]["content"])
    kind = rng.choice(
        ["replace", "number", "delete", "swap", "copy", "rename", "deep", "noise", "text"]
    )
    # Mostly in the content, where there is most to get wrong.
    where = content if rng.random() < 0.7 else everywhere
    node, key = where[rng.integers(len(where))]
    if kind == "replace":
        node[key] = copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
    elif kind == "number":
        numbers = [p for p in everywhere if type(p[0][p[1]]) in (int, float)]
        node, key = numbers[rng.integers(len(numbers))]
        change = (lambda v: v + 1, lambda v: -v, lambda v: v * 10**9, lambda v: v // 2)
        node[key] = change[rng.integers(4)](node[key])
    elif kind == "delete":
        del node[key]
    elif kind == "swap":
        other, at = where[rng.integers(len(where))]
        node[key], other[at] = copy.deepcopy((other[at], node[key]))
    elif kind == "copy":  # an array, an instance or a part of the tree a second time
        other, at = where[rng.integers(len(where))]
        copied = copy.deepcopy(other[at])
        if isinstance(node, list):
            node.extend([copied] * int(rng.integers(1, 1000)))
        else:
            node[key] = [copied] * int(rng.integers(1, 1000))
    elif kind == "rename":
        named = [p for p in everywhere if isinstance(p[0], dict)]
        node, key = named[rng.integers(len(named))]
        name = HOSTILE[rng.integers(len(HOSTILE))]
        node[name if isinstance(name, str) else "array"] = node.pop(key)
    elif kind == "deep":
        depth, value = int(rng.choice([10, 50, 300])), 1
        for _ in range(depth):
            value = [value] if rng.random() < 0.5 else {"tuple": [value]}
        node[key] = value
    elif kind == "noise" and body:
        start = int(rng.integers(len(body)))
        noise = np.array([np.nan, np.inf, -1, 1e300], "<f8").tobytes() + rng.bytes(32)
        body[start : start + 64] = noise[: len(body) - start]
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and "content" in metadata:
        metadata["content"] = json.dumps(metadata["content"])
    text = json.dumps(header)
    if kind == "text":  # what json.dumps would not write
        changes = [
            (": 1", ": NaN"), (": 0", ": 1e999"), ("{", '{"a": 1, "a": 2, '),
            ("[", "[" * 100_000), ('"sha256"', '"sha256": "", "sha256"'), (":", ""),
            ("\\\"dict\\\"", "\\\"dict\\\": [], \\\"dict\\\""), ("false", "-Infinity"),
        ]  # fmt: skip
        old, new = changes[rng.integers(len(changes))]
        text = text.replace(old, new, int(rng.integers(1, 4)))
    return kind, sealed(text, bytes(body))


# ------------------------------------------------------------------------------- checking
def check(path, X):
    """Load a file and predict; return what happened. Raises what is no ValueError."""
    try:
        model = load(path)
    except ValueError as error:
        if not str(error).endswith(".") or "cannot be loaded: " not in str(error):
            raise AssertionError(f"unclear message: {error}") from error
        return "refused"
    try:
        model.predict(fh=[1, 2]) if X is None else model.predict(X[:3])
    except MemoryError:
        raise
    except Exception as error:
        # Times that make no sense meet errors of many kinds in pandas and sktime.
        if X is not None and not isinstance(error, ValueError):
            raise
        return "loaded, refuses to predict"
    return "loaded and predicts"


def fuzz(n, seed, folder):
    """Load `n` mutated files; return counts, the seconds and the peaks of memory."""
    rng = np.random.default_rng(seed)
    made = originals(folder)
    for i, (_, X) in enumerate(made):  # what is imported and prepared once
        check(folder / str(i), X)
    outcomes, seconds, memory = collections.Counter(), [], []
    path = folder / "mutated"
    tracemalloc.start()
    try:
        for i in range(n):
            data, X = made[i % len(made)]
            kind, mutated = (damaged if i % 2 else edited)(rng, data)
            if mutated == data:
                continue
            path.write_bytes(mutated)
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                outcome = check(path, X)
            except BaseException as error:
                error.add_note(f"file {i} of seed {seed}, mutated by {kind!r}")
                raise
            seconds.append(time.process_time() - began)
            memory.append(tracemalloc.get_traced_memory()[1] - before)
            if seconds[-1] > MAX_SECONDS:
                raise AssertionError(f"file {i} of seed {seed}: {seconds[-1]:.1f} s")
            if memory[-1] > MEMORY_FLOOR + MEMORY_FACTOR * len(mutated):
                raise AssertionError(f"file {i} of seed {seed}: {memory[-1]} bytes")
            outcomes["damaged" if i % 2 else "edited", outcome] += 1
    finally:
        tracemalloc.stop()
    if outcomes["damaged", "refused"] != sum(
        count for (how, _), count in outcomes.items() if how == "damaged"
    ):
        raise AssertionError("a damaged file was loaded")
    return outcomes, seconds, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        originals(Path(folder))
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (in_use + HEADROOM,) * 2)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcomes, seconds, memory = fuzz(args.n, args.seed, Path(folder))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown
    for (how, outcome), count in sorted(outcomes.items()):
        print(f"{how:8} {outcome:28} {count:7}")
    times, kib = 1e3 * np.array(seconds), np.array(memory) / 1024
    print(
        f"ms of one core per file: median {np.median(times):.2f}, most {times.max():.1f}"
    )
    print(f"KiB at the peak of a load: median {np.median(kib):.0f}, most {kib.max():.0f}")
    print(f"MiB by which the process grew: {grown / 1024:.0f}")


if __name__ == "__main__":
    main()
