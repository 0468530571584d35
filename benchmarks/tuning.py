"""How long searches take: grid, halving, and a forecaster's grid, on one core and two.

python benchmarks/tuning.py
"""

import time
import warnings

import numpy as np
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sktime.datasets import load_airline, load_japanese_vowels
from sktime.forecasting.model_selection import ForecastingGridSearchCV
from sktime.split import ExpandingWindowSplitter

from sklstm import LSTMClassifier, LSTMForecaster

GRID = {"learning_rate_init": [1e-3, 5e-3, 2e-2], "alpha": [1e-3, 1e-2, 1e-1]}


def report(name, search, began, best):
    print(f"{name}: {time.perf_counter() - began:.0f} s, {best} {search.best_params_}")


def main():
    warnings.filterwarnings("ignore", category=FutureWarning)
    X, y = load_japanese_vowels(split="train", return_type="df-list")
    X_test, y_test = load_japanese_vowels(split="test", return_type="df-list")
    model = LSTMClassifier(max_iter=36, random_state=0)
    halving = {
        "resource": "max_iter",
        "min_resources": 12,
        "max_resources": 36,
        "random_state": 0,
    }
    for name, kind, settings in (
        ("grid", GridSearchCV, {}),
        ("halving", HalvingGridSearchCV, halving),
    ):
        for n_jobs in (1, 2):
            search = kind(
                model, GRID, cv=2, n_jobs=n_jobs, scoring="neg_log_loss", **settings
            )
            began = time.perf_counter()
            search.fit(X, y)
            accuracy = search.best_estimator_.score(X_test, y_test)
            report(f"{name}, n_jobs={n_jobs}", search, began, f"accuracy {accuracy:.3f}")

    cv = ExpandingWindowSplitter(np.arange(1, 13), initial_window=96, step_length=12)
    grid = [
        {"pretrained": ["auto"]},
        {"pretrained": [None], "max_steps": [100, 300], "n_members": [1]},
    ]
    for backend in (None, "loky"):
        search = ForecastingGridSearchCV(
            LSTMForecaster(random_state=0), cv, grid, backend=backend,
            backend_params=None if backend is None else {"n_jobs": 2},
        )  # fmt: skip
        began = time.perf_counter()
        search.fit(load_airline())
        report(
            f"forecaster, backend={backend}", search, began, f"{search.best_score_:.3f}"
        )


if __name__ == "__main__":
    main()
