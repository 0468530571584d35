"""What settings gain where data are few, many, long, ragged, multivariate, noisy, alike.

python benchmarks/settings.py [ROW ...]

Each row has problems, made or from the training parts that sktime bundles, in several
splits; on each split every setting is fitted to the same rows and scored on the same
others. Printed are the mean score of each setting (accuracy or R2), the mean of its
paired differences from the first one with their standard error, and the seconds per fit.
Few and many rows, spectra and counts are read from ../shared/data, and skipped where it
is absent. Rare classes, gaps and
outliers are in examples/plot_hard_data.py.
"""

import functools
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sktime.datasets import (
    load_basic_motions,
    load_italy_power_demand,
    load_japanese_vowels,
)

from sklstm import LSTMClassifier, LSTMRegressor

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# -------------------------------------------------------------------------- problems
def shapes(n_train, seed, *, n_timesteps=30, noise=1.0, n_channels=1, n_test=500):
    """Make cylinders, bells and funnels (Saito 1994) in channel 0; the others are noise.

    Returns X_train, y_train, X_test, y_test; X is (n, n_timesteps, n_channels).
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n_train + n_test)
    X = noise * rng.normal(size=(len(y), n_timesteps, n_channels))
    for row, kind in zip(X, y, strict=True):
        first = rng.integers(n_timesteps // 8, n_timesteps // 4)
        length = rng.integers(n_timesteps // 4, 5 * n_timesteps // 8)
        ramp = np.arange(length) / length
        form = (np.ones(length), ramp, ramp[::-1])[kind]
        row[first : first + length, 0] += (6 + rng.normal()) * form
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:]


def mislabelled(seed):
    """Make shapes, a fifth of whose training labels are those of another class."""
    X_train, y_train, X_test, y_test = shapes(32, seed)
    rng = np.random.default_rng(seed)
    wrong = rng.uniform(size=32) < 0.2
    y_train = np.where(wrong, (y_train + rng.integers(1, 3, 32)) % 3, y_train)
    return X_train, y_train, X_test, y_test


def marked(seed, n=600, n_timesteps=40):
    """Make the adding problem: the sum of the two values that channel 1 marks."""
    rng = np.random.default_rng(seed)
    X = np.zeros((n, n_timesteps, 2))
    X[:, :, 0] = rng.uniform(size=(n, n_timesteps))
    for row in X:
        row[rng.choice(n_timesteps, 2, replace=False), 1] = 1
    y = X.prod(axis=2).sum(axis=1)
    return X[: n // 2], y[: n // 2], X[n // 2 :], y[n // 2 :]


def bundled(load, n_train, seed):
    """Split the training part of a problem of sktime; X is a list of (T_i, C)."""
    frames, y = load(split="train", return_type="df-list")
    X = [frame.to_numpy() for frame in frames]
    splits = StratifiedShuffleSplit(1, train_size=n_train, random_state=seed)
    train, test = next(splits.split(y, y))
    return [X[i] for i in train], y[train], [X[i] for i in test], y[test]


def ucr(name, seed):
    """Split the training part of a problem of the UCR archive: three rows of four."""
    with np.load(DATA / "ucr" / f"{name}.npz") as file:
        X, y = file["X_train"], file["y_train"]
    train, test = next(StratifiedShuffleSplit(1, random_state=seed, test_size=0.25)
                       .split(X, y))  # fmt: skip
    return X[train], y[train], X[test], y[test]


def covid(seed):
    """Split the training part of Covid3Month, daily counts: three rows of four."""
    with np.load(DATA / "tser" / "Covid3Month.npz") as file:
        X, y = file["X_train"][:, 0].astype(float), file["y_train"]
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, random_state=seed
    )
    return X_train, y_train, X_test, y_test


def numbers(name, noise, seed):
    """Take the labels of a problem of the archive as numbers; add noise to them."""
    with np.load(DATA / "ucr" / f"{name}.npz") as file:
        X, y = file["X_train"], np.unique(file["y_train"], return_inverse=True)[1]
    y = (y - y.mean()) / y.std() + noise * np.random.default_rng(7).normal(size=len(y))
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=seed)
    return X[train], y[train], X[test], y[test]


# -------------------------------------------------------------------------- settings
class Trusting(LSTMRegressor):
    """Networks that all learn from all rows, and are believed."""

    def _leave_out(self, n_rows, n_members, random):
        return None


def classifier(**settings):
    return lambda seed: LSTMClassifier(**settings, random_state=seed)


def regressor(**settings):
    return lambda seed: LSTMRegressor(**settings, random_state=seed)


def zero_padded(sequences):
    X = np.zeros((len(sequences), 29, sequences[0].shape[1]))
    for row, sequence in zip(X, sequences, strict=True):
        row[: len(sequence)] = sequence
    return X


def padding(seed):
    model = LSTMClassifier(random_state=seed)
    return make_pipeline(FunctionTransformer(zero_padded), model)


def of_logarithms(model):
    return lambda seed: make_pipeline(FunctionTransformer(np.log1p), model(seed))


def convolved(X, seed, n_kernels=3000):
    """Maximum and share above 0 of random convolutions (Dempster et al., 2020)."""
    rng = np.random.default_rng(seed)
    X = (X - X.mean(axis=1, keepdims=True)) / (X.std(axis=1, keepdims=True) + 1e-8)
    columns = []
    for _ in range(n_kernels):
        length = rng.choice([7, 9, 11])
        kernel = rng.normal(size=length)
        kernel -= kernel.mean()
        step = int(2 ** rng.uniform(0, np.log2((X.shape[1] - 1) / (length - 1))))
        reach = (length - 1) * step
        padded = np.pad(X, ((0, 0), (rng.integers(2) * (reach // 2),) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach + 1, axis=1)
        out = windows[:, :, ::step] @ kernel + rng.uniform(-1, 1)
        columns += [out.max(axis=1), (out > 0).mean(axis=1)]
    return np.column_stack(columns)


def of_convolutions(seed):
    """Make a ridge of random convolutions, as ROCKET is."""
    return make_pipeline(
        FunctionTransformer(convolved, kw_args={"seed": seed}),
        StandardScaler(),
        RidgeCV(np.logspace(-3, 6, 19)),
    )


def scaled(seed):
    return make_pipeline(StandardScaler(), LSTMClassifier(random_state=seed))


CAUTIOUS = {
    "default": classifier(),
    "dropout=0.5": classifier(dropout=0.5),
    "max_iter=30": classifier(max_iter=30),
    "early_stopping": classifier(early_stopping=True),
    "n_members=3": classifier(n_members=3),
}
# name: ({problem: seed -> split}, {setting: seed -> model}, number of splits)
ROWS = {
    "small": ({
        "shapes, 15 rows": lambda s: shapes(15, s),
        "ItalyPowerDemand, 20 rows": lambda s: bundled(load_italy_power_demand, 20, s),
    }, {**CAUTIOUS, "max_iter=300": classifier(max_iter=300)}, 4),
    "noisy": ({"shapes, noise of 4, 32 rows": lambda s: shapes(32, s, noise=4.0)},
              CAUTIOUS, 4),
    "mislabelled": ({"shapes, a fifth wrong, 32 rows": mislabelled}, CAUTIOUS, 4),
    "ragged": ({
        "JapaneseVowels, 45 rows": lambda s: bundled(load_japanese_vowels, 45, s),
    }, {
        "default, a list": classifier(),
        "padded with zeros": padding,
        "pooling='last'": classifier(pooling="last"),
    }, 4),
    "multivariate": ({
        "shapes in 1 of 20 channels, 32 rows": lambda s: shapes(32, s, n_channels=20),
        "BasicMotions, 20 rows": lambda s: bundled(load_basic_motions, 20, s),
    }, {
        "default": classifier(),
        "dropout=0.5": classifier(dropout=0.5),
        "hidden_size=128": classifier(hidden_size=128),
    }, 3),
    "long": ({"shapes, 24 rows of 400 steps": lambda s: shapes(24, s, n_timesteps=400)}, {
        "default": classifier(),
        "stem=None": classifier(stem=None),
    }, 3),
    "far back": ({"adding problem, 40 steps, 300 rows": marked}, {
        "default": regressor(),
        "stem=None, alpha=0": regressor(stem=None, alpha=0),
    }, 3),
    "few": ({
        f"{name}, three rows of four": functools.partial(ucr, name)
        for name in ("FaceFour", "MoteStrain", "ArrowHead", "Lightning7", "ECG200")
    }, {
        "n_members=1": classifier(n_members=1),
        "three, no warp": classifier(augment=None),
        "default, two warp": classifier(),
    }, 4),
    "many": ({
        f"{name}, three rows of four": functools.partial(ucr, name)
        for name in ("Fish", "MedicalImages", "WordSynonyms", "Adiac", "CricketX")
    }, {
        "augment=None": classifier(augment=None),
        "default, a warp": classifier(),
    }, 2),
    "spectra": ({
        "OliveOil, 22 rows": lambda s: ucr("OliveOil", s),
        "Coffee, 21 rows": lambda s: ucr("Coffee", s),
    }, {
        "default": classifier(),
        # These rows have mean 0 and variance 1 each.
        "standardize=False": classifier(standardize=False),
        "StandardScaler": scaled,
    }, 6),
    "counts": ({"Covid3Month, 105 rows": covid}, {
        "mean": lambda seed: DummyRegressor(),
        "default": regressor(),
        "nothing left out": lambda seed: Trusting(random_state=seed),
        "of logarithms": of_logarithms(regressor()),
        "plain, of logarithms": of_logarithms(regressor(stem=None, alpha=0.1)),
        "neighbours, the same": of_logarithms(lambda seed: KNeighborsRegressor(10)),
        "convolutions, the same": of_logarithms(of_convolutions),
        "trees, the same": of_logarithms(
            lambda seed: ExtraTreesRegressor(
                200, max_features=0.3, min_samples_leaf=2, random_state=seed
            )
        ),
    }, 4),
    "numbers": ({
        f"{name}, noise of {noise}": functools.partial(numbers, name, noise)
        for name, noise in (
            ("ECG200", 0), ("ECG200", 1), ("ECG200", 3), ("PowerCons", 0),
            ("PowerCons", 3), ("ItalyPowerDemand", 0), ("ItalyPowerDemand", 1),
            ("Lightning7", 0), ("Lightning7", 1), ("Plane", 0), ("Plane", 1),
        )
    }, {
        "nothing left out": lambda seed: Trusting(random_state=seed),
        "default": regressor(),
    }, 2),
}  # fmt: skip


def run(problem, make, settings, n_splits):
    scores = np.empty((n_splits, len(settings)))
    seconds = np.empty_like(scores)
    for seed in range(n_splits):
        X_train, y_train, X_test, y_test = make(seed)
        for k, build in enumerate(settings.values()):
            began = time.perf_counter()
            model = build(seed).fit(X_train, y_train)
            seconds[seed, k] = time.perf_counter() - began
            scores[seed, k] = model.score(X_test, y_test)
    gains = scores - scores[:, :1]
    error = gains.std(axis=0, ddof=1) / np.sqrt(n_splits)
    print(f"\n{problem}, {n_splits} splits")
    for k, setting in enumerate(settings):
        gain = f"{gains[:, k].mean():+.3f} +- {error[k]:.3f}" if k else ""
        print(f"  {setting:22} {scores[:, k].mean():.3f}  {gain:16} "
              f"{seconds[:, k].mean():6.1f} s", flush=True)  # fmt: skip


def main():
    warnings.simplefilter("ignore")
    unknown = sorted({*sys.argv[1:]} - {*ROWS})
    if unknown:
        sys.exit(f"No table {unknown[0]!r}.\n{__doc__}")
    for name in sys.argv[1:] or ROWS:
        if name in ("few", "many", "spectra", "counts", "numbers") and not DATA.exists():
            print(f"\n{name}: {DATA} is absent")
            continue
        problems, settings, n_splits = ROWS[name]
        for problem, make in problems.items():
            run(f"{name}: {problem}", make, settings, n_splits)


if __name__ == "__main__":
    main()
