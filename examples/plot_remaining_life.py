"""
How long will it last, and how sure is that?
============================================

Machines wear out, each at its own pace, and a noisy sensor tells how far it has come.
From what was seen so far, sequences of very unequal length, an
:class:`~sklstm.LSTMRegressor` predicts how many steps are left: quantiles, so that it
says when it does not know. The data are simulated, so that the truth is known.
"""

# %%
# The data
# --------
# Wear grows by a random amount in each step, faster in some machines than in others; at
# 1 the machine fails. The sensor shows wear with noise, and the temperature, which says
# nothing. Each machine is seen up to a random step: a list of arrays (steps, channels).

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.metrics import d2_pinball_score

from sklstm import LSTMRegressor

rng = np.random.default_rng(0)


def run_to_failure():
    """Return what the sensor shows until a machine fails, (n_steps, 2)."""
    pace = rng.uniform(0.008, 0.03)
    wear = np.cumsum(rng.gamma(shape=0.5, scale=2 * pace, size=400))
    wear = wear[: np.argmax(wear >= 1)]
    sensor = wear + rng.normal(scale=0.05, size=len(wear))
    return np.column_stack([sensor, rng.normal(20, 2, size=len(wear))])


def seen_so_far(n_machines):
    """Return sequences that end at a random step, and how many steps are left."""
    runs = [run_to_failure() for _ in range(n_machines)]
    ends = [int(rng.integers(5, len(run))) for run in runs]
    left = [len(run) - end for run, end in zip(runs, ends, strict=True)]
    return [run[:end] for run, end in zip(runs, ends, strict=True)], np.array(left)


X_train, y_train = seen_so_far(2000)
X_test, y_test = seen_so_far(300)
lengths = [len(x) for x in X_train]
print(f"{min(lengths)} to {max(lengths)} steps seen")
print(f"{y_train.min()} to {y_train.max()} steps left")

# %%
# Three quantiles at once
# -----------------------
# ``loss="quantile"`` with several levels gives predictions a last axis, lowest first;
# they never cross. Wear adds up step by step, so a plain LSTM (``stem=None``) suits it,
# with a smaller penalty than the default, which would shorten its memory.

levels = [0.1, 0.5, 0.9]
model = LSTMRegressor(
    hidden_size=32,
    stem=None,
    loss="quantile",
    quantile=levels,
    alpha=1e-3,
    max_iter=20,
    random_state=0,
)
began = time.perf_counter()
predicted = model.fit(X_train, y_train).predict(X_test)
print(f"{predicted.shape}, {time.perf_counter() - began:.0f} s")

# %%
# What it is worth
# ----------------
# D2 is the share of the pinball loss that is saved, beside the best constant: the
# quantile of the training part. 0 is the constant, 1 perfection.

for k, level in enumerate(levels):
    constant = DummyRegressor(strategy="quantile", quantile=level)
    constant = constant.fit(np.zeros((2000, 1)), y_train).predict(np.zeros((300, 1)))
    ours, its = (
        d2_pinball_score(y_test, guess, alpha=level)
        for guess in (predicted[:, k], constant)
    )
    below = np.mean(y_test <= predicted[:, k])
    print(
        f"level {level}: D2 {ours:.2f}, constant {its:.2f}; {below:.0%} of truths below"
    )

# %%
# One machine's life
# ------------------
# Early on it may be anything; the more is seen, the surer the network is.

run = run_to_failure()
steps = np.arange(5, len(run))
low, middle, high = model.predict([run[:step] for step in steps]).T
figure, (above, below) = plt.subplots(
    2, figsize=(8, 5), sharex=True, height_ratios=(1, 2), layout="constrained"
)
above.plot(run[:, 0], color="#222222", lw=1)
above.set(ylabel="sensor")
below.fill_between(steps, low, high, color="#56B4E9", alpha=0.5, label="10 % to 90 %")
below.plot(steps, middle, color="#0072B2", label="median")
below.plot(steps, len(run) - steps, "--", color="#D55E00", label="truth")
below.set(xlabel="steps seen", ylabel="steps left", ylim=(0, None))
below.legend(frameon=False)
plt.show()
