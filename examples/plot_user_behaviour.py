"""
What users do next: rising items and the next item
==================================================

From a log of events (user, item, timestamp) come two questions. How often will each
series be watched in the next weeks, and which ones rise? That is forecasting: counts per
week, one :class:`~sklstm.LSTMForecaster` for all series and users together. And what
will this user want next? That is a label per time step: an
:class:`~sklstm.LSTMClassifier` over the items in their order.

The events are simulated, because no event log may be passed on with the package. For
your own, run ``python plot_user_behaviour.py events.csv``; the file needs the columns
user, item and timestamp. A column category says what to count by week; without one each
item is counted by itself.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sklstm import LSTMClassifier, LSTMForecaster

N_WEEKS_AHEAD = 4
N_CUTOFFS = 7  # from which it is forecast, every second week
SEASON = 4  # weeks: the time between two salaries
N_STEPS = 40  # of a sequence of items


def simulate(n_users=250, n_weeks=72, n_series=40, n_episodes=6, seed=0):
    """Return events (user, item, category, timestamp) of people who watch series.

    - Interests drift: what a user cares for, and what is in fashion with everybody, are
      random walks over the series.
    - A user has two or three series under way and takes the next episode of one of them,
      in turns; now and then one is given up for another, chosen by interest.
    - Activity has a season of four weeks, highest after pay day, and a level per user
      that drifts too; most weeks of most users hold few events or none.
    - Outliers: in one user-week in 200 somebody watches six times as much, and in one
      user-week in 100 nothing, whatever the season.
    """
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, 0.10, (n_weeks, n_series)).cumsum(axis=0)
    momentum = rng.normal(0, 0.006, (n_weeks, n_series)).cumsum(axis=0).cumsum(axis=0)
    fashion = rng.normal(0, 0.7, n_series) + drift + momentum
    taste = rng.normal(0, 1.0, (n_users, n_series))
    log_rate = rng.normal(0.6, 0.6, n_users)
    under_way = [[] for _ in range(n_users)]  # [series, episodes seen] each
    events = []
    for week in range(n_weeks):
        taste += rng.normal(0, 0.1, taste.shape)
        log_rate += rng.normal(0, 0.05, n_users)
        season = (0.5, 0.2, -0.2, -0.5)[week % SEASON]
        factor = rng.choice([0, 1, 6], n_users, p=[0.01, 0.985, 0.005])
        for user, count in enumerate(rng.poisson(np.exp(log_rate + season) * factor)):
            for second in np.sort(rng.integers(7 * 86400, size=count)):
                mine = under_way[user]
                while len(mine) < 2 or (len(mine) < 3 and rng.random() < 0.1):
                    p = np.exp(taste[user] + fashion[week])
                    p[[series for series, _ in mine]] = 0
                    mine.append([rng.choice(n_series, p=p / p.sum()), 0])
                chosen = mine[rng.integers(len(mine))]
                names = f"S{chosen[0]:02d}E{chosen[1] + 1:02d}", f"S{chosen[0]:02d}"
                events.append((f"{user:03d}", *names, 7 * 86400 * week + second))
                chosen[1] += 1
                if chosen[1] == n_episodes or rng.random() < 0.02:
                    mine.remove(chosen)
    events = pd.DataFrame(events, columns=["user", "item", "category", "timestamp"])
    start = pd.Timestamp("2025-01-06")  # a Monday
    events["timestamp"] = start + pd.to_timedelta(events["timestamp"], unit="s")
    return events


if sys.argv[1:] and sys.argv[1].endswith(".csv"):
    events = pd.read_csv(sys.argv[1], parse_dates=["timestamp"])
else:
    events = simulate()
if "category" not in events:
    events["category"] = events["item"]
columns = ["user", "item", "category"]
events[columns] = events[columns].astype(str)
events = events.sort_values("timestamp", kind="stable", ignore_index=True)
week = events["timestamp"].dt.to_period("W")
# Only whole weeks count; the last one ends where the log does.
last = week.max() if events["timestamp"].max() >= week.max().end_time.floor("D") else (
    week.max() - 1
)  # fmt: skip
cutoff = last - N_WEEKS_AHEAD  # what is later is only used to score
cutoffs = [cutoff - 2 * i for i in reversed(range(N_CUTOFFS))]
print(
    f"{len(events)} events of {events['user'].nunique()} users and "
    f"{events['item'].nunique()} items; last forecast from {cutoff} on"
)


# %%
# A regular panel
# ---------------
# Counts per week, with a zero where nothing happened. Categories (here series) and users
# are rows of the same panel: they share seasons and the shape of trends.


def weekly_counts(events, name):
    """Return events per week of users or categories: a Series over (who, week)."""
    weeks = pd.period_range(week.min(), last, freq=week.dt.freq)
    table = pd.crosstab(week, f"{name} " + events[name]).reindex(weeks, fill_value=0)
    # Others are too rare for a trend.
    table = table.loc[:, table[: cutoffs[0]].sum() >= 10]
    counts = table.unstack()
    counts.index.names = ["who", "week"]
    return counts


counts = pd.concat([weekly_counts(events, name) for name in ("category", "user")])
counts = counts.astype(float).to_frame("count").sort_index()
weeks = counts.index.get_level_values("week")
names = counts.index.get_level_values("who").unique()
n_zero = (counts["count"] == 0).mean()
print(f"{len(names)} series, {n_zero:.0%} of the weeks without an event")

# %%
# The forecast, and what rises
# ----------------------------
# The network that comes with the package forecasts all of them, without training: so few
# categories beside so many users would be forecast worse by a network trained on both.
# Growth is the mean of the next four weeks less that of the last eight; a ranking by the
# growth that is forecast is good if it is correlated with that by the true one. One
# month says little about forty categories, so it is done from seven cutoffs.


def tail(frame, n, skip=0):
    """Return n weeks of every series, the last `skip` left out: (n_series, n)."""
    values = frame["count"].unstack("week").to_numpy()
    return values[:, values.shape[1] - n - skip : values.shape[1] - skip]


is_category = names.str.startswith("category ")
groups = {"categories": is_category, "users": ~is_category}
forecaster = LSTMForecaster(sp=SEASON, pretrained="only")
error = {"LSTMForecaster": [], "seasonal naive": []}
correlation = []
for at in cutoffs:
    past = counts[weeks <= at]
    actual = tail(counts[(weeks > at) & (weeks <= at + N_WEEKS_AHEAD)], N_WEEKS_AHEAD)
    forecaster.fit(past, fh=np.arange(1, N_WEEKS_AHEAD + 1))
    expected = tail(forecaster.predict().clip(lower=0), N_WEEKS_AHEAD)
    naive = np.resize(tail(past, SEASON).T, actual.T.shape).T
    for name, values in zip(error, (expected, naive), strict=True):
        error[name].append(np.abs(values - actual).mean())
    level = tail(past, 2 * SEASON).mean(axis=1)
    growth = pd.DataFrame({
        "LSTMForecaster": expected.mean(axis=1) - level,
        "seasonal naive": naive.mean(axis=1) - level,
        "what rose lately": level - tail(past, 2 * SEASON, 2 * SEASON).mean(axis=1),
    })  # fmt: skip
    true_growth = pd.Series(actual.mean(axis=1) - level)
    correlation.append(
        {
            group: growth[rows].corrwith(true_growth[rows], method="spearman")
            for group, rows in groups.items()
        }
    )
print(f"Events per week, {N_WEEKS_AHEAD} weeks ahead, mean absolute error")
for name, values in error.items():
    print(f"  {name}: {np.mean(values):.3f}")

# %%
# Who was busy last month is less so in the next: the network knows how far to fall back,
# the others do not. Whole categories drift like a walk, and no ranking is better than
# another.

print("Rank correlation of the growth forecast with the true growth")
print(f"  {'':18}{'categories':>12}{'users':>8}")
for name in growth:
    mean = {g: np.mean([one[g][name] for one in correlation]) for g in groups}
    print(f"  {name:18}{mean['categories']:+12.2f}{mean['users']:+8.2f}")

# %%
# The next item
# -------------
# The sequence of each user's items up to the cutoff is cut into pieces; the target of
# each step is the item one step later.

is_past_event = (week <= cutoff).to_numpy()
vocabulary = np.unique(events.loc[is_past_event, "item"])
tokens = np.searchsorted(vocabulary, events["item"]).clip(max=len(vocabulary) - 1)
known = vocabulary[tokens] == events["item"]
tokens = np.where(known, tokens + 1, len(vocabulary) + 1)  # 0 is padding; last: unknown
X, y, histories = [], [], []
for _, rows in events.groupby("user").indices.items():
    sequence, n_past = tokens[rows], int(is_past_event[rows].sum())
    histories.append((sequence, n_past))
    for start in range(0, n_past - 1, N_STEPS):
        piece = sequence[start : min(start + N_STEPS + 1, n_past)]
        if len(piece) > 1:
            X.append(piece[:-1])
            y.append(piece[1:])

model = LSTMClassifier(
    64,
    stem="embedding",
    target="sequence",
    alpha=0,
    dropout=0.2,
    token_dropout=0.1,
    batch_size=16,
    learning_rate_init=0.01,
    max_iter=4,
    n_iter_no_change=3,  # so short a plan is meant
    random_state=0,
)
model.fit(X, y)

# %%
# Every event after the cutoff is predicted from the forty before it, by the LSTM, by how
# often items follow the last item (ties by popularity), and by popularity.

n_items = len(vocabulary) + 1
counted = np.bincount(np.concatenate(y), minlength=n_items + 1)
follows = np.zeros((n_items + 1, n_items + 1))
np.add.at(follows, (np.concatenate(X), np.concatenate(y)), 1)
contexts, truth = [], []
for sequence, n_past in histories:
    for at in range(max(n_past, 1), len(sequence)):
        contexts.append(sequence[max(0, at - N_STEPS) : at])
        truth.append(sequence[at])
truth = np.array(truth)
final = np.array([context[-1] for context in contexts])
scores = np.zeros((len(truth), n_items + 1))
scores[:, model.classes_] = [proba[-1] for proba in model.predict_proba(contexts)]
rankings = {
    "LSTMClassifier": scores,
    "last item (Markov)": follows[final] + counted / (counted.max() + 1),
    "popularity": np.broadcast_to(counted.astype(float), scores.shape),
}
print(f"The next item, {len(truth)} events after the cutoff, {n_items - 1} items")
found = {}
for name, value in rankings.items():
    its = value[np.arange(len(truth)), truth]
    rank = 1 + (value > its[:, None]).sum(axis=1)  # counts items that are put before it
    rank = np.where(its > 0, rank, n_items + 1)  # never seen
    found[name] = rank
    print(f"  {name}: recall@20 {np.mean(rank <= 20):.3f}, MRR {np.mean(1 / rank):.3f}")

# %%
# Two pictures
# ------------
# On the left the six categories that are forecast to rise most; on the right how often
# the next item is among the first k.

order = np.argsort(-growth["LSTMForecaster"].to_numpy())
rising = order[is_category[order]][:6]
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.5), width_ratios=[1.6, 1], layout="constrained"
)
shown = 24
ahead = np.arange(-shown + 1, N_WEEKS_AHEAD + 1)
offset = 0.0
for i in rising[::-1]:
    seen = np.concatenate([tail(past, shown)[i], actual[i]])
    left.fill_between(ahead, offset, offset + seen, color="#BBBBBB", lw=0, step="mid")
    left.plot(ahead[shown:], offset + expected[i], color="#D55E00", lw=2)
    left.axhline(offset, color="#222222", lw=0.5)
    left.text(ahead[0], offset + 0.1, names[i], va="bottom", fontsize=9)
    offset += 1.15 * max(seen.max(), expected[i].max())
left.axvline(0.5, color="#222222", lw=0.8, ls=":")
left.set(xlabel="Week after the cutoff", ylabel="Events per week, one above the other",
         title="Forecast to rise (orange), and what came (grey)")  # fmt: skip
k = np.arange(1, 51)
for name, rank in found.items():
    right.plot(k, [(rank <= first).mean() for first in k], label=name)
right.set(xlabel="k", ylabel="recall@k", ylim=(0, 1), title="The next item")
right.legend(frameon=False)
plt.show()
