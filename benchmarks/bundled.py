"""Accuracy at the defaults, one seed, on data that sktime and scikit-learn bundle.

    python benchmarks/bundled.py [--seeds 0 1 2] [--dtype bfloat16]

Official splits; digits as 8 rows of 8 pixels in shuffled, stratified 3-fold
cross-validation.
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sktime.datasets import (
    load_basic_motions,
    load_covid_3month,
    load_gunpoint,
    load_italy_power_demand,
    load_japanese_vowels,
)

from sklstm import LSTMClassifier, LSTMRegressor

TARGETS = {
    "BasicMotions": (load_basic_motions, "accuracy >= 1.00"),
    "ItalyPowerDemand": (load_italy_power_demand, "accuracy >= 0.96"),
    "GunPoint": (load_gunpoint, "accuracy >= 0.95"),
    "JapaneseVowels": (load_japanese_vowels, "accuracy >= 0.97"),
    "Covid3Month": (load_covid_3month, "RMSE <= 0.044"),
}


def evaluate(name, load, **settings):
    """Return the test score and the seconds that fitting took."""
    X_train, y_train = load(split="train")
    X_test, y_test = load(split="test")
    if name == "Covid3Month":
        model, y_train, y_test = (
            LSTMRegressor,
            y_train.astype(float),
            y_test.astype(float),
        )
    else:
        model = LSTMClassifier
    start = time.perf_counter()
    fitted = model(**settings).fit(X_train, y_train)
    seconds = time.perf_counter() - start
    if name == "Covid3Month":
        return root_mean_squared_error(y_test, fitted.predict(X_test)), seconds
    return fitted.score(X_test, y_test), seconds


def evaluate_digits(**settings):
    X, y = load_digits(return_X_y=True)
    start = time.perf_counter()
    model = LSTMClassifier(n_channels=8, **settings)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(model, X, y, cv=folds)
    return scores.mean(), time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    settings = [{"random_state": seed, "dtype": given.dtype} for seed in given.seeds]
    total = 0.0
    for name, (load, target) in TARGETS.items():
        runs = [evaluate(name, load, **each) for each in settings]
        scores, seconds = zip(*runs, strict=True)
        total += np.mean(seconds)
        print(f"{name:18s} {np.round(scores, 4)}  {target}  {np.mean(seconds):.1f} s")
    runs = [evaluate_digits(**each) for each in settings]
    scores, seconds = zip(*runs, strict=True)
    print(f"{'digits, 3 folds':18s} {np.round(scores, 4)}  accuracy >= 0.975  "
          f"{np.mean(seconds):.1f} s")  # fmt: skip
    print(f"all fits of one seed: {total + np.mean(seconds):.0f} s")


if __name__ == "__main__":
    main()
