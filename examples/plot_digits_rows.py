"""
Read digits row by row
======================

An image is a sequence of rows. The 1797 handwritten digits that come with scikit-learn
have 8 by 8 pixels: to an :class:`~sklstm.LSTMClassifier` they are 8 time steps of 8
channels, and a row of scikit-learn's table is just that, read with ``n_channels=8``.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklstm import LSTMClassifier
from sklstm.inspection import integrated_gradients

X, y = load_digits(return_X_y=True)  # (1797, 64): 8 rows of 8 pixels

# %%
# Five folds
# ----------
# The default network, with fewer epochs: convolutions over the rows, and above them an
# LSTM that reads them downwards and upwards.

model = LSTMClassifier(n_channels=8, max_iter=20, random_state=0)
baseline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
folds = StratifiedKFold(5, shuffle=True, random_state=0)
began = time.perf_counter()
results = cross_validate(
    model, X, y, cv=folds, return_estimator=True, return_indices=True
)
seconds = time.perf_counter() - began
proba = np.zeros((len(X), 10))
for fitted, rows in zip(results["estimator"], results["indices"]["test"], strict=True):
    proba[rows] = fitted.predict_proba(X[rows])
predicted = proba.argmax(axis=1)
from_baseline = cross_val_predict(baseline, X, y, cv=folds)
print("Accuracy in five shuffled folds")
print(f"  LSTMClassifier: {np.mean(predicted == y):.4f} ({seconds:.0f} s for all folds)")
print(f"  logistic regression: {np.mean(from_baseline == y):.4f}")

# %%
# What it got wrong
# -----------------
# The least likely of the true digits, and what it took them for.

doubtful = np.argsort(proba[np.arange(len(y)), y])[:16]
figure, axes = plt.subplots(2, 8, figsize=(10, 3.1), layout="constrained")
for axis, i in zip(axes.flat, doubtful, strict=True):
    axis.imshow(X[i].reshape(8, 8), cmap="gray_r", interpolation="bilinear")
    axis.set(xticks=[], yticks=[])
    title = f"{predicted[i]} ({proba[i, predicted[i]]:.0%}), true {y[i]}"
    axis.set_title(title, fontsize=9)

# %%
# Which pixels spoke
# ------------------
# Integrated gradients against an empty page: red ink speaks for the digit, blue ink
# against it. One digit of each kind, from the first fold's test part.

rows = results["indices"]["test"][0]
shown = np.array([rows[y[rows] == digit][0] for digit in range(10)])
explained = integrated_gradients(
    results["estimator"][0], X[shown], target=y[shown], baseline=0.0
)
figure, axes = plt.subplots(1, 10, figsize=(10, 1.6), layout="constrained")
for axis, values, i in zip(axes, explained.attributions, shown, strict=True):
    limit = np.abs(values).max()
    axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.contour(X[i].reshape(8, 8), levels=[8], colors="#222222", linewidths=0.7)
    axis.set(xticks=[], yticks=[], title=str(y[i]))
plt.show()
