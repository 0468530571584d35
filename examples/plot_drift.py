"""
Learning on while the world drifts
==================================

A model is fitted once and used for months; meanwhile sensors age and habits change. Here
a classifier goes on learning with ``partial_fit``, and a forecaster with ``update``. Both
are judged on what comes next before they learn from it, beside a frozen copy of
themselves. A small replay buffer keeps the classifier from forgetting what comes back.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sklstm import LSTMClassifier, LSTMForecaster

# %%
# A stream of sequences
# ---------------------
# Two kinds of vibration, slow and fast, are to be told apart, on two machines that run
# in turns for twelve batches each; the second channel says which. As machine A ages both
# of its frequencies rise, until its slow vibration is as fast as the fast one was in the
# beginning. Machine B calls fast what A calls slow, and stays as it is.

N_STEPS, N_BATCHES, BATCH, RUN = 30, 96, 50, 12


def batch(t, rng):
    """Return X (50, 30, 2), y (50,) and the machine of batch t."""
    on_b = t % (2 * RUN) >= RUN
    y = rng.integers(2, size=BATCH)
    aged = 0.0 if on_b else t / N_BATCHES
    frequency = np.where((y == 1) != on_b, 0.14, 0.09) + 0.1 * aged
    frequency = frequency + rng.normal(0, 0.008, BATCH)
    phase = rng.uniform(0, 2 * np.pi, (BATCH, 1))
    wave = np.sin(2 * np.pi * frequency[:, None] * np.arange(N_STEPS) + phase)
    wave += rng.normal(0, 0.4, wave.shape)
    return np.stack([wave, np.full_like(wave, on_b)], axis=2), y, "AB"[int(on_b)]


rng = np.random.default_rng(0)
past = [batch(t, rng)[:2] for t in range(2 * RUN)]  # two runs before the stream
X, y = (np.concatenate(part) for part in zip(*past, strict=True))
model = LSTMClassifier(24, alpha=0, max_iter=12, learning_rate_init=3e-3, random_state=0)
model.fit(X, y)

# %%
# Test, then learn
# ----------------
# The buffer holds 300 sequences. A quarter of each batch takes the place of random old
# ones, so memory fades: after 24 batches, a turn of both machines, 38 % of what was there
# is left. Each new batch is learnt together with a hundred sequences of the buffer.


class Replay:
    """A buffer of sequences whose memory fades."""

    def __init__(self, X, y, size, rng):
        self.rng = rng
        rows = rng.choice(len(X), size, replace=False)
        self.X, self.y = X[rows], y[rows]

    def mixed(self, X, y, n):
        """Return a batch with n old sequences added, and keep the batch."""
        rows = self.rng.choice(len(self.X), n, replace=False)
        mixture = np.concatenate([X, self.X[rows]]), np.concatenate([y, self.y[rows]])
        places = self.rng.choice(len(self.X), len(X) // 4, replace=False)
        self.X[places], self.y[places] = X[: len(places)], y[: len(places)]
        return mixture


replay = Replay(X, y, 300, rng)
frozen, learning, replaying = (copy.deepcopy(model) for _ in range(3))
names = ("frozen", "partial_fit", "partial_fit and replay")
accuracy = {name: [] for name in names}
machines = []
for t in range(2 * RUN, N_BATCHES):
    X_new, y_new, machine = batch(t, rng)
    for name, one in zip(names, (frozen, learning, replaying), strict=True):
        accuracy[name].append(one.score(X_new, y_new))
    machines.append(machine)
    learning.partial_fit(X_new, y_new)
    replaying.partial_fit(*replay.mixed(X_new, y_new, 100))
machines = np.array(machines)
returns = np.flatnonzero(machines[1:] != machines[:-1]) + 1
print(f"{len(machines)} batches of {BATCH}, each judged before it is learnt: accuracy")
print(f"{'':24}   all  machine A  first batch after a change")
for name, scores in accuracy.items():
    score = np.array(scores)
    on_a, after = score[machines == "A"].mean(), score[returns].mean()
    print(f"{name:24} {score.mean():.3f}    {on_a:.3f}      {after:.3f}")

# %%
# A forecaster in changing times
# ------------------------------
# Thirty shops with a weekly season. What is left when it is taken out swings back from
# one day to the next at first (an autoregression of -0.6); in the course of two years
# this turns into +0.9, so that a good day is followed by more good days. Each fortnight
# the next seven days are forecast. All forecasters see the newest values; ``update``
# with ``update_params=True`` also trains on.

n_shops, n_days, n_fit, step, horizon = 30, 560, 200, 14, 7
coefficient = np.interp(np.arange(n_days), [n_fit, 420], [-0.6, 0.9])
shop = rng.normal([30, 5], [5, 1], (n_shops, 2))
week = rng.normal(0, 1, (n_shops, 7))
swing, values = np.zeros(n_shops), np.empty((n_shops, n_days))
for day in range(n_days):
    noise = np.sqrt(1 - coefficient[day] ** 2) * rng.normal(0, 3, n_shops)
    swing = coefficient[day] * swing + noise
    values[:, day] = shop[:, 0] + shop[:, 1] * week[:, day % 7] + swing
days = pd.date_range("2025-01-01", periods=n_days, freq="D")
table = pd.DataFrame(values.T, days, [f"shop {i:02d}" for i in range(n_shops)])


def panel(begin, stop):
    """Return some days of all shops as a Series over (shop, day)."""
    long = table.iloc[begin:stop].T.stack()
    long.index.names = ["shop", "day"]
    return long.to_frame("sales")


forecaster = LSTMForecaster(
    sp=7, max_steps=200, batch_size=64, update_steps=40, random_state=0
)
forecaster.fit(panel(0, n_fit), fh=np.arange(1, horizon + 1))
forecasters = {"frozen": copy.deepcopy(forecaster), "update": forecaster}
errors = {name: [] for name in ("frozen", "update", "seasonal naive")}
cutoffs = range(n_fit, n_days - horizon, step)
for cutoff in cutoffs:
    actual = table.to_numpy()[cutoff : cutoff + horizon].T
    for name, one in forecasters.items():
        if cutoff > n_fit:
            one.update(panel(cutoff - step, cutoff), update_params=name == "update")
        y_pred = one.predict()["sales"].to_numpy().reshape(actual.shape)
        errors[name].append(np.abs(y_pred - actual).mean())
    last_week = values[:, cutoff - 7 : cutoff]
    errors["seasonal naive"].append(np.abs(last_week - actual).mean())
print(f"\nSales, {horizon} days ahead from {len(cutoffs)} cutoffs, mean absolute error")
print("                  all  last ten cutoffs")
for name, error in errors.items():
    print(f"{name:16} {np.mean(error):.3f}  {np.mean(error[-10:]):.3f}")

# %%
# Two pictures
# ------------
# Below the line of the frozen model every change of machine is to be seen: whoever learns
# without replay has forgotten the other one.

figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 6.5), layout="constrained")
colours = dict(zip(names, ("#999999", "#0072B2", "#D55E00"), strict=True))
x = np.arange(2 * RUN, N_BATCHES)
for name, scores in accuracy.items():
    top.plot(x, scores, color=colours[name], label=name)
for begin in range(2 * RUN, N_BATCHES, 2 * RUN):
    top.axvspan(begin - 0.5, begin + RUN - 0.5, color="#EEEEEE", lw=0)
    top.text(begin + RUN / 2, 0.02, "A, ageing", ha="center", va="bottom")
    top.text(begin + 1.5 * RUN, 0.02, "B", ha="center", va="bottom")
top.set(xlabel="Batch", ylabel="Accuracy, before learning", ylim=(0, 1.02),
        title="partial_fit on a stream")  # fmt: skip
top.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.1))
when = days[list(cutoffs)]
forecaster_colours = ("#999999", "#D55E00", "#56B4E9")
for (name, error), colour in zip(errors.items(), forecaster_colours, strict=True):
    bottom.plot(when, error, color=colour, label=name)
bottom.set(ylabel="Mean absolute error, 7 days", ylim=(0, None),
           title="update of a forecaster every fortnight")  # fmt: skip
bottom.legend(frameon=False, loc="lower left")
plt.show()
