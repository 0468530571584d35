"""Experiments of Hochreiter & Schmidhuber (1997), with a plain LSTM.

    python benchmarks/hochreiter1997.py [adding] [order] [reber]

Each prints the test error on fresh sequences and the training time.
"""

import sys
import time

import numpy as np

from sklstm import LSTMClassifier, LSTMRegressor

PLAIN = {
    "stem": None, "pooling": "last", "standardize": False, "alpha": 0.0,
    "random_state": 0,
}  # fmt: skip


def adding_problem(n, n_timesteps, rng):
    """Two channels: values in [0, 1] and two markers; the target is the marked sum."""
    X = np.zeros((n, n_timesteps, 2), dtype=np.float32)
    X[:, :, 0] = rng.uniform(size=(n, n_timesteps))
    first = rng.integers(0, n_timesteps // 2, size=n)
    second = rng.integers(n_timesteps // 2, n_timesteps, size=n)
    X[np.arange(n), first, 1] = X[np.arange(n), second, 1] = 1
    return X, (X[:, :, 0] * X[:, :, 1]).sum(axis=1)


def temporal_order(n, n_timesteps, rng):
    """Two symbols X or Y among four distractors; the class is their order."""
    symbols = rng.integers(2, 6, size=(n, n_timesteps))
    tenth = n_timesteps // 10
    first = rng.integers(tenth, 2 * tenth, size=n)
    second = rng.integers(5 * tenth, 6 * tenth, size=n)
    choice = rng.integers(0, 2, size=(n, 2))
    symbols[np.arange(n), first] = choice[:, 0]
    symbols[np.arange(n), second] = choice[:, 1]
    return np.eye(6, dtype=np.float32)[symbols], 2 * choice[:, 0] + choice[:, 1]


# State of the Reber grammar -> (symbol, next state), with equal odds.
REBER = {
    0: [("T", 1), ("P", 2)],
    1: [("S", 1), ("X", 3)],
    2: [("T", 2), ("V", 4)],
    3: [("X", 2), ("S", 5)],
    4: [("P", 3), ("V", 5)],
}
ALPHABET = "BTPSXVE"


def embedded_reber(rng):
    """One string, and for each of its prefixes the symbols that may come next."""
    first = rng.choice(["T", "P"])
    string, following = ["B"], [{"T", "P"}]
    string += [first]
    following += [{"B"}]
    string += ["B"]
    state = 0
    while state != 5:
        following.append({symbol for symbol, _ in REBER[state]})
        symbol, state = REBER[state][rng.integers(2)]
        string.append(symbol)
    following.append({"E"})
    string.append("E")
    following.append({first})  # what was said at the start must be repeated
    string.append(first)
    following.append({"E"})
    return string, following


def reber_prefixes(n_strings, rng):
    """Prefixes, the symbol that followed each, and those that might have."""
    X, y, allowed = [], [], []
    for _ in range(n_strings):
        string, following = embedded_reber(rng)
        numbers = [ALPHABET.index(symbol) for symbol in string] + [ALPHABET.index("E")]
        one_hot = np.eye(len(ALPHABET), dtype=np.float32)[numbers]
        for t in range(1, len(numbers)):
            X.append(one_hot[:t])
            y.append(numbers[t])
            allowed.append({ALPHABET.index(symbol) for symbol in following[t - 1]})
    return X, np.array(y), allowed


def run_adding(n_train=4000, n_timesteps=100, max_iter=60):
    rng = np.random.default_rng(0)
    X, y = adding_problem(n_train, n_timesteps, rng)
    X_test, y_test = adding_problem(1000, n_timesteps, rng)
    model = LSTMRegressor(64, max_iter=max_iter, learning_rate_init=0.01, **PLAIN)
    error = np.mean((model.fit(X, y).predict(X_test) - y_test) ** 2)
    return f"adding problem, T={n_timesteps}: MSE {error:.5f} (target < 0.001)"


def run_order(n_train=2000, n_timesteps=100, max_iter=40):
    rng = np.random.default_rng(0)
    X, y = temporal_order(n_train, n_timesteps, rng)
    X_test, y_test = temporal_order(1000, n_timesteps, rng)
    settings = {**PLAIN, "pooling": "max"}
    model = LSTMClassifier(32, max_iter=max_iter, learning_rate_init=0.01, **settings)
    accuracy = model.fit(X, y).score(X_test, y_test)
    return f"temporal order, T={n_timesteps}: accuracy {accuracy:.4f} (target > 0.99)"


def run_reber(n_strings=256, max_iter=60):
    rng = np.random.default_rng(0)
    X, y, _ = reber_prefixes(n_strings, rng)
    X_test, _, allowed = reber_prefixes(256, rng)
    model = LSTMClassifier(32, max_iter=max_iter, learning_rate_init=0.02, **PLAIN)
    probability = model.fit(X, y).predict_proba(X_test)
    # Solved: all symbols that may follow are likelier than all that may not.
    classes = model.classes_
    right = [
        min(p[np.isin(classes, list(may))]) > max(p[~np.isin(classes, list(may))])
        for p, may in zip(probability, allowed, strict=True)
    ]
    return f"embedded Reber grammar: {np.mean(right):.4f} of prefixes solved"


EXPERIMENTS = {"adding": run_adding, "order": run_order, "reber": run_reber}

if __name__ == "__main__":
    unknown = sorted({*sys.argv[1:]} - {*EXPERIMENTS})
    if unknown:
        sys.exit(f"No table {unknown[0]!r}.\n{__doc__}")
    for name in sys.argv[1:] or EXPERIMENTS:
        start = time.perf_counter()
        print(EXPERIMENTS[name](), f"in {time.perf_counter() - start:.0f} s", flush=True)
