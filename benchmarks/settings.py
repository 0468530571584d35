"""What settings gain where data are small, long, ragged, and so on.

python benchmarks/settings.py [ROW ...]

Each row has problems, made or from the training parts that sktime bundles, in several
splits; on each split every setting is fitted to the same rows and scored on the same
others. Printed are the mean score of each setting, the mean of its paired differences
from the first one with their standard error, and the seconds per fit.
"""

import sys
import time
import warnings

import numpy as np
from sklearn.ensemble import VotingClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedShuffleSplit, TunedThresholdClassifierCV
from sktime.datasets import (
    load_basic_motions,
    load_italy_power_demand,
    load_japanese_vowels,
)

from sklstm import LSTMClassifier, LSTMRegressor

PLAIN = {"stem": None, "alpha": 0}


# -------------------------------------------------------------------------- problems
def shapes(n, seed, *, n_timesteps=60, noise=1.0, n_channels=1):
    """Return cylinders, bells and funnels (Saito 1994) of channel 0, and their kind.

    X is (n, n_timesteps, n_channels); the other channels are noise.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    X = noise * rng.normal(size=(n, n_timesteps, n_channels))
    for row, kind in zip(X, y, strict=True):
        first = rng.integers(n_timesteps // 8, n_timesteps // 4)
        length = rng.integers(n_timesteps // 4, 5 * n_timesteps // 8)
        ramp = np.arange(length) / length
        form = (np.ones(length), ramp, ramp[::-1])[kind]
        row[first : first + length, 0] += (6 + rng.normal()) * form
    return X, y


def split(X, y, n_train, seed, n_test=None):
    """Return X_train, y_train, X_test, y_test, stratified; X an array or a list."""
    splitter = StratifiedShuffleSplit(
        1, train_size=n_train, test_size=n_test, random_state=seed
    )
    train, test = next(splitter.split(np.zeros(len(y)), y))
    if isinstance(X, list):
        return [X[i] for i in train], y[train], [X[i] for i in test], y[test]
    return X[train], y[train], X[test], y[test]


def bundled(load, n_train, seed):
    """Return a split of the training part of a problem of sktime, as (n, T, C)."""
    X, y = load(split="train", return_type="numpy3D")
    return split(X.transpose(0, 2, 1), y, n_train, seed)


def made(n_train, seed, **settings):
    """Return a split of made shapes, 500 of them to test on."""
    X, y = shapes(n_train + 500, seed, **settings)
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:]


def marked(seed, n=800, n_timesteps=60):
    """Return the adding problem: the sum of the two values that channel 1 marks."""
    rng = np.random.default_rng(seed)
    X = np.zeros((n, n_timesteps, 2))
    X[:, :, 0] = rng.uniform(size=(n, n_timesteps))
    for row in X:
        row[rng.choice(n_timesteps, 2, replace=False), 1] = 1
    y = (X[:, :, 0] * X[:, :, 1]).sum(axis=1)
    return X[: n // 2], y[: n // 2], X[n // 2 :], y[n // 2 :]


def vowels(seed):
    """Return a split of JapaneseVowels' training part: lists of (T, 12), T 7 to 26."""
    frames, y = load_japanese_vowels(split="train", return_type="df-list")
    return split([frame.to_numpy() for frame in frames], y, 135, seed)


def rare(seed):
    """Return shapes in noise, where one in twenty is a cylinder, all others no."""
    X, y = shapes(6000, seed, noise=4.0, n_timesteps=30)
    chosen = np.random.default_rng(seed).uniform(size=6000) < 0.1
    keep = np.flatnonzero((y != 0) | chosen)
    X, y = X[keep], (y[keep] == 0).astype(int)
    return X[:250], y[:250], X[250:2250], y[250:2250]


def mislabelled(seed):
    """Return shapes a fifth of whose training labels are another class's."""
    X_train, y_train, X_test, y_test = made(60, seed, n_timesteps=30)
    rng = np.random.default_rng(seed)
    wrong = rng.uniform(size=60) < 0.2
    y_train = np.where(wrong, (y_train + rng.integers(1, 3, 60)) % 3, y_train)
    return X_train, y_train, X_test, y_test


def outlying(seed):
    """Return a target, a tenth of whose training values are far off."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(600, 20, 2))
    y = X[:, 10:, 0].mean(axis=1) - X[:, :10, 1].max(axis=1) / 2
    y_train = y[:200] + (rng.uniform(size=200) < 0.1) * 10 * rng.normal(size=200)
    return X[:200], y_train, X[200:], y[200:]


def gappy(seed):
    """Return shapes of which 40 % of the values are missing."""
    X_train, y_train, X_test, y_test = made(60, seed, n_timesteps=30)
    rng = np.random.default_rng(seed)
    for X in (X_train, X_test):
        X[rng.uniform(size=X.shape) < 0.4] = np.nan
    return X_train, y_train, X_test, y_test


# -------------------------------------------------------------------------- settings
def classifier(**settings):
    return lambda seed: LSTMClassifier(**settings, random_state=seed)


def regressor(**settings):
    return lambda seed: LSTMRegressor(**settings, random_state=seed)


def vote(seed):
    members = [(str(k), LSTMClassifier(random_state=10 * seed + k)) for k in range(5)]
    return VotingClassifier(members, voting="soft")


class Prepared:
    """A model and what is done to X before."""

    def __init__(self, model, prepare):
        self.model, self.prepare = model, prepare

    def fit(self, X, y):
        self.model.fit(self.prepare(X), y)
        return self

    def predict(self, X):
        return self.model.predict(self.prepare(X))

    def score(self, X, y):
        return self.model.score(self.prepare(X), y)


def zero_padded(sequences):
    X = np.zeros((len(sequences), 29, sequences[0].shape[1]))
    for row, sequence in zip(X, sequences, strict=True):
        row[: len(sequence)] = sequence
    return X


def filled(X):
    return np.nan_to_num(X)  # the mean of the noise; a channel's would take a fit


def prepared(prepare, **settings):
    return lambda seed: Prepared(LSTMClassifier(**settings, random_state=seed), prepare)


def thresholded(seed):
    return TunedThresholdClassifierCV(
        LSTMClassifier(random_state=seed), scoring="balanced_accuracy", cv=2
    )


def balanced(model, X, y):
    return balanced_accuracy_score(y, model.predict(X))


CAUTIOUS = {
    "default": classifier(),
    "dropout=0.5": classifier(dropout=0.5),
    "alpha=0.01": classifier(alpha=0.01),
    "max_iter=30": classifier(max_iter=30),
    "early_stopping": classifier(early_stopping=True),
    "vote of 5": vote,
}
# name: ({problem: seed -> split}, {setting: seed -> model}, number of splits)
ROWS = {
    "small": ({
        "shapes, 15 rows": lambda seed: made(15, seed, n_timesteps=30),
        "ItalyPowerDemand, 20 rows": lambda s: bundled(load_italy_power_demand, 20, s),
    }, {**CAUTIOUS, "max_iter=300": classifier(max_iter=300)}, 5),
    "long": ({"shapes, 30 rows of 600 steps": lambda s: made(30, s, n_timesteps=600)}, {
        "default": classifier(),
        "stem=None": classifier(stem=None),
        "stem=None, pooling": classifier(stem=None, pooling="mean-max"),
    }, 3),
    "far back": ({"adding problem, 60 steps, 400 rows": marked}, {
        "default": regressor(),
        "alpha=1e-4": regressor(alpha=1e-4),
        "stem=None, alpha=0": regressor(**PLAIN),
    }, 3),
    "ragged": ({"JapaneseVowels, 135 rows": vowels}, {
        "default, a list": classifier(),
        "padded with zeros": prepared(zero_padded),
        "pooling='last'": classifier(pooling="last"),
        "stem=None": classifier(stem=None),
    }, 3),
    "multivariate": ({
        "shapes in 1 of 20 channels, 60 rows": lambda s: made(60, s, n_channels=20),
        "BasicMotions, 20 rows": lambda seed: bundled(load_basic_motions, 20, seed),
    }, {
        "default": classifier(),
        "alpha=0.01": classifier(alpha=0.01),
        "dropout=0.5": classifier(dropout=0.5),
        "hidden_size=128": classifier(hidden_size=128),
    }, 3),
    "imbalanced": ({"one in twenty": rare}, {
        "default": classifier(),
        "class_weight": classifier(class_weight="balanced"),
        "threshold": thresholded,
    }, 3),
    "noisy": ({"shapes, strong noise, 60 rows": lambda s: made(
        60, s, noise=4.0, n_timesteps=30
    )}, CAUTIOUS, 3),
    "mislabelled": ({"a fifth of labels wrong, 60 rows": mislabelled}, CAUTIOUS, 3),
    "outliers": ({"a tenth of y far off, 200 rows": outlying}, {
        "default": regressor(),
        "absolute_error": regressor(loss="absolute_error"),
        "huber": regressor(loss="huber"),
    }, 3),
    "missing": ({"40 % of the values, 60 rows": gappy}, {
        "filled with the mean": prepared(filled),
        "missing='mask'": classifier(missing="mask"),
    }, 3),
}  # fmt: skip


def run(name):
    problems, settings, n_splits = ROWS[name]
    score = balanced if name == "imbalanced" else lambda model, X, y: model.score(X, y)
    for problem, make in problems.items():
        scores = np.empty((n_splits, len(settings)))
        seconds = np.empty_like(scores)
        for seed in range(n_splits):
            X_train, y_train, X_test, y_test = make(seed)
            for k, build in enumerate(settings.values()):
                began = time.perf_counter()
                model = build(seed).fit(X_train, y_train)
                seconds[seed, k] = time.perf_counter() - began
                scores[seed, k] = score(model, X_test, y_test)
        gains = scores - scores[:, :1]
        error = gains.std(axis=0, ddof=1) / np.sqrt(n_splits)
        print(f"\n{name}: {problem}, {n_splits} splits")
        for k, setting in enumerate(settings):
            gain = f"{gains[:, k].mean():+.3f} +- {error[k]:.3f}" if k else ""
            print(f"  {setting:24} {scores[:, k].mean():.3f}  {gain:16} "
                  f"{seconds[:, k].mean():6.1f} s", flush=True)  # fmt: skip


def main():
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in sys.argv[1:] or ROWS:
        run(name)


if __name__ == "__main__":
    main()
