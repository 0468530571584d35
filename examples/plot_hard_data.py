"""
Hard data: rare classes, missing values, outliers
=================================================

Three things that spoil a fit, each on the same simulated machine, and what helps:
``class_weight`` and a tuned threshold where one class is rare, ``missing="mask"`` where
values are missing, and a robust ``loss`` where targets are grossly wrong.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline

from sklstm import LSTMClassifier, LSTMRegressor

N_STEPS = 40

# %%
# A machine
# ---------
# Each cycle of the machine is a sequence of temperature and vibration. Peaks of both are
# common and harmless; a fault is a peak of vibration that *follows* one of temperature
# within eight steps. The order is what matters, and where in the cycle it happens is not.


def cycles(n, share_of_faults, seed):
    """Return X (n, 40, 2), whether there is a fault (n,), and the wear (n,)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(0, 0.5, (n, N_STEPS, 2))
    fault = rng.random(n) < share_of_faults
    gap = rng.integers(3, 9, n) * np.where(fault, 1, -1)
    heat = rng.integers(9, N_STEPS - 9, n)
    steps = np.arange(N_STEPS)
    for channel, at in enumerate((heat, heat + gap)):
        size = rng.uniform(1.5, 3, n)
        peak = np.exp(-(((steps - at[:, None]) / 1.2) ** 2))
        X[:, :, channel] += size[:, None] * peak
    # Each vibration wears the more, the hotter it is then and was just before.
    warmth = sum(0.6**lag * np.roll(X[:, :, 0], lag, axis=1) for lag in range(5))
    wear = (np.maximum(warmth, 0) * X[:, :, 1] ** 2)[:, 5:].mean(axis=1)
    return X, fault.astype(int), 10 * wear


def flat(X):
    """Return the table that a linear model reads."""
    return X.reshape(len(X), -1)


# So short a plan is meant: n_iter_no_change below max_iter says so.
parameters = {
    "hidden_size": 24, "max_iter": 8, "n_iter_no_change": 7, "random_state": 0
}  # fmt: skip

# %%
# One in twenty-five
# ------------------
# The plain fit is right most of the time and misses faults. ``class_weight="balanced"``
# lets each class count the same in the loss; with ``oversample=True`` besides, faults are
# met as often as the rest. A tuned threshold leaves the network as it is and changes only
# from which probability on it says "fault".

X, y, _ = cycles(1000, 0.04, seed=0)
X_test, y_test, _ = cycles(2000, 0.04, seed=1)
plain = LSTMClassifier(**parameters).fit(X, y)
balanced = LSTMClassifier(**parameters, class_weight="balanced").fit(X, y)
oversampled = LSTMClassifier(**parameters, class_weight="balanced", oversample=True)
oversampled.fit(X, y)
tuned = {
    score: TunedThresholdClassifierCV(
        LSTMClassifier(**parameters), scoring=score, cv=0.33, random_state=0
    ).fit(X, y)
    for score in ("balanced_accuracy", "f1")
}
linear = LogisticRegression(class_weight="balanced", max_iter=2000).fit(flat(X), y)
answers = {
    "LSTMClassifier": plain.predict(X_test),
    '  class_weight="balanced"': balanced.predict(X_test),
    "  threshold for balanced accuracy": tuned["balanced_accuracy"].predict(X_test),
    "  threshold for F1": tuned["f1"].predict(X_test),
    '  class_weight="balanced", oversampled': oversampled.predict(X_test),
    "logistic regression, balanced": linear.predict(flat(X_test)),
    "never a fault": np.zeros_like(y_test),
}
print(f"Rare faults: {y.sum()} of {len(y)} to learn from")
print(f"{'':39}balanced accuracy     F1")
for name, answer in answers.items():
    f1 = f1_score(y_test, answer, zero_division=0)
    print(f"{name:39}{balanced_accuracy_score(y_test, answer):17.3f} {f1:6.3f}")

# %%
# A third is missing
# ------------------
# Sensors fall silent for a while: in every cycle each channel has gaps. The mask shows
# the network what is missing; to fill in the mean tells it that all was quiet.


def with_gaps(X, seed, share=0.35):
    """Return X with runs of six steps of a channel missing."""
    rng = np.random.default_rng(seed)
    X = X.copy()
    starts = rng.random(X.shape) < share / 6
    for lag in range(6):
        X[:, lag:][starts[:, : N_STEPS - lag]] = np.nan
    return X


X, y, _ = cycles(1000, 0.5, seed=2)
X_test, y_test, _ = cycles(2000, 0.5, seed=3)
gappy, gappy_test = with_gaps(X, 4), with_gaps(X_test, 5)
imputer = SimpleImputer().fit(flat(gappy))
filled, filled_test = (
    imputer.transform(flat(rows)).reshape(rows.shape) for rows in (gappy, gappy_test)
)
masked = LSTMClassifier(**parameters, missing="mask").fit(gappy, y)
imputed = LSTMClassifier(**parameters).fit(filled, y)
linear = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=2000))
linear.fit(flat(gappy), y)
print(f"\nGaps: {np.isnan(gappy).mean():.0%} of the values missing; accuracy")
print(f'  LSTMClassifier(missing="mask"): {masked.score(gappy_test, y_test):.3f}')
print(f"  LSTMClassifier, means filled in: {imputed.score(filled_test, y_test):.3f}")
print(f"  logistic regression: {linear.score(flat(gappy_test), y_test):.3f}")

# %%
# Wrong targets
# -------------
# The wear of one cycle in twelve was noted down wrongly, far too high. The squared error
# follows such values; "huber" and "absolute_error" do not. The test targets are right.

X, _, y = cycles(1000, 0.5, seed=6)
X_test, _, y_test = cycles(2000, 0.5, seed=7)
rng = np.random.default_rng(8)
noted = np.where(rng.random(len(y)) < 1 / 12, y + rng.uniform(5, 30, len(y)), y)
regressors = {
    loss: LSTMRegressor(**parameters, loss=loss).fit(X, noted)
    for loss in ("squared_error", "huber", "absolute_error")
}
errors = {
    f'LSTMRegressor(loss="{loss}")': np.abs(model.predict(X_test) - y_test).mean()
    for loss, model in regressors.items()
}
ridge = Ridge().fit(flat(X), noted)
errors["ridge regression"] = np.abs(ridge.predict(flat(X_test)) - y_test).mean()
errors["the median"] = np.abs(np.median(noted) - y_test).mean()
print("\nOutliers: one target in twelve is wrong; mean absolute error")
for name, error in errors.items():
    print(f"  {name}: {error:.2f}")

# %%
# Two pictures
# ------------
# A threshold moves along a curve, and only another network leads off it. And wear as it
# was and as it was predicted: the squared error expects too much of everything.

X_rare, y_rare, _ = cycles(2000, 0.04, seed=1)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.3), layout="constrained")
for name, model in {"plain": plain, "balanced weights": balanced}.items():
    proba = model.predict_proba(X_rare)[:, 1]
    precision, recall, _ = precision_recall_curve(y_rare, proba)
    area = average_precision_score(y_rare, proba)
    left.plot(recall, precision, label=f"{name} (average precision {area:.2f})")
marks = {"plain, 0.5": "o", "balanced weights, 0.5": "s", "balanced accuracy": "^",
         "F1": "v"}  # fmt: skip
for (name, mark), answer in zip(marks.items(), answers.values(), strict=False):
    at = recall_score(y_rare, answer), precision_score(y_rare, answer, zero_division=0)
    left.plot(*at, mark, ms=8, mfc="none", mec="#222222", label=f"threshold: {name}")
left.set(xlabel="Recall", ylabel="Precision", title="Rare faults")
left.legend(frameon=False, loc="lower left")
limit = np.quantile(y_test, 0.99)
for loss, colour in {"squared_error": "#D55E00", "absolute_error": "#0072B2"}.items():
    predicted = regressors[loss].predict(X_test)
    right.plot(y_test, predicted, ".", ms=2, alpha=0.5, color=colour)
    right.plot([], [], "o", color=colour, label=f'loss="{loss}"')
right.plot([0, limit], [0, limit], color="#222222", lw=0.8)
right.set(xlabel="Wear", ylabel="Predicted", xlim=(0, limit), ylim=(0, 1.5 * limit),
          title="One target in twelve wrong")  # fmt: skip
right.legend(frameon=False)
plt.show()
