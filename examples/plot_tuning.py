"""
Tuning: halving, Optuna, and forecasters on every core
======================================================

The defaults are meant to be used as they are. Where a few points matter, tune the
learning rate, `alpha` and `hidden_size` first; ranges for these and the other parameters
are in the tuning guide.
"""

# %%
# Halving by epochs
# -----------------
# `HalvingGridSearchCV` gives all candidates a few epochs and the best third three times
# as many, until some have had them all. The one-cycle schedule is planned over
# `max_iter`, so a short training is a whole one and not the beginning of a long one.
# With few sequences many candidates have the same accuracy: the log loss tells them
# apart.

import logging
import time

import matplotlib.pyplot as plt
import numpy as np
import optuna
from sklearn.datasets import load_digits
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    HalvingGridSearchCV,
    StratifiedKFold,
    train_test_split,
)
from sktime.datasets import load_airline
from sktime.forecasting.model_selection import ForecastingGridSearchCV
from sktime.split import ExpandingWindowSplitter

from sklstm import LSTMClassifier, LSTMForecaster

# sktime 1.2 warns at every construction of a forecaster and undoes warning filters.
logging.captureWarnings(True)

images, labels = load_digits(return_X_y=True)
sequences = images.reshape(-1, 8, 8)  # the rows of an image, from the top
X_train, X_test, y_train, y_test = train_test_split(
    sequences, labels, train_size=200, stratify=labels, random_state=0
)
folds = StratifiedKFold(2, shuffle=True, random_state=0)
scores = {}

default = LSTMClassifier(max_iter=36, random_state=0).fit(X_train, y_train)
scores["default"] = default.score(X_test, y_test)

began = time.perf_counter()
halving = HalvingGridSearchCV(
    LSTMClassifier(random_state=0),
    {
        "learning_rate_init": [1e-3, 5e-3, 2e-2],
        "alpha": [1e-4, 1e-2],
    },
    resource="max_iter",
    min_resources=12,
    max_resources=36,
    scoring="neg_log_loss",
    cv=folds,
    random_state=0,
).fit(X_train, y_train)
scores["halving"] = halving.best_estimator_.score(X_test, y_test)
print(f"halving: {halving.n_candidates_} candidates of {halving.n_resources_} epochs, "
      f"{time.perf_counter() - began:.0f} s: {halving.best_params_}")  # fmt: skip

# %%
# Optuna
# ------
# Optuna draws candidates where earlier ones did well, and here gives one up as soon as
# its first folds are worse than the median of the others. It needs
# ``pip install "sklstm[tune]"``.


def cross_validated_loss(trial):
    """Return the cross-validated log loss of the parameters that a trial suggests."""
    model = LSTMClassifier(
        learning_rate_init=trial.suggest_float(
            "learning_rate_init", 1e-3, 2e-2, log=True
        ),
        alpha=trial.suggest_float("alpha", 1e-4, 1e-1, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
        pooling=trial.suggest_categorical("pooling", ["last", "mean-max", "attention"]),
        max_iter=24,
        random_state=0,
    )
    of_folds = []
    for train, test in folds.split(X_train, y_train):
        model.fit(X_train[train], y_train[train])
        of_folds.append(log_loss(y_train[test], model.predict_proba(X_train[test])))
        trial.report(np.mean(of_folds), len(of_folds))
        if trial.should_prune():
            raise optuna.TrialPruned
    return np.mean(of_folds)


optuna.logging.set_verbosity(optuna.logging.WARNING)
began = time.perf_counter()
study = optuna.create_study(
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
)
study.optimize(cross_validated_loss, n_trials=8)
best = LSTMClassifier(**study.best_params, max_iter=36, random_state=0)
scores["Optuna"] = best.fit(X_train, y_train).score(X_test, y_test)
n_pruned = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
print(f"Optuna: {len(study.trials)} trials, {n_pruned} of them given up early, "
      f"{time.perf_counter() - began:.0f} s: {study.best_params}")  # fmt: skip
print("accuracy on 1597 test images:", {k: round(v, 3) for k, v in scores.items()})

# %%
# A forecaster, on every core
# ---------------------------
# ``backend="loky"`` gives each candidate to a process. Note what is compared: with
# parameters of the network or its training set, the forecaster trains a network of its
# own; with none set it forecasts series as short as this with the network that comes
# with the package. The first candidate here is the default.

began = time.perf_counter()
search = ForecastingGridSearchCV(
    LSTMForecaster(random_state=0),
    ExpandingWindowSplitter(np.arange(1, 13), initial_window=96, step_length=12),
    [
        {"pretrained": ["auto"]},
        {"pretrained": [None], "max_steps": [100, 200], "n_members": [1]},
    ],
    backend="loky",
    backend_params={"n_jobs": -1},
).fit(load_airline())
table = search.cv_results_.filter(regex="^params|^mean_test_")
print(table.to_string(index=False))
print(f"forecaster: {time.perf_counter() - began:.0f} s: {search.best_params_}")

# %%
# What Optuna tried
# -----------------
# Trials over the learning rate and `alpha`; crosses were given up early.

losses = np.array([trial.value for trial in study.trials])
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for state, marker in ((optuna.trial.TrialState.COMPLETE, "o"),
                      (optuna.trial.TrialState.PRUNED, "x")):  # fmt: skip
    trials = [trial for trial in study.trials if trial.state == state]
    points = ax.scatter(
        [trial.params["learning_rate_init"] for trial in trials],
        [trial.params["alpha"] for trial in trials],
        c=[trial.value for trial in trials],
        marker=marker,
        vmin=losses.min(),
        vmax=losses.max(),
    )
    if marker == "o":
        figure.colorbar(points, label="cross-validated log loss")
ax.set(xscale="log", yscale="log", xlabel="learning_rate_init", ylabel="alpha")
rates = [0.001, 0.002, 0.005, 0.01, 0.02]
ax.set_xticks(rates, rates)
ax.minorticks_off()
plt.show()
