"""
Prices and their volatility
===========================

Can the price of a share be forecast? Mostly not: the best guess of tomorrow's price is
today's, and a network that is scored fairly finds no more than that. How much the price
will move is another matter. Both are shown here on a simulated market, scored by a
rolling evaluation: forecasts from many days, each made of what was known on that day.

**Nothing here is advice.** The market is simulated without any trend to be found, as far
as its mean goes, so that the right answer is known.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sklstm import LSTMForecaster

N_SHARES, N_DAYS, N_TEST = 20, 1000, 300
N_TRADES = 39  # returns in a day, of ten minutes each
FH = np.arange(1, 11)

# %%
# A market
# --------
# Stochastic volatility with two factors, one that stays for months and one that is gone
# in days (as in Chernov et al., 2003, J. of Econometrics 116), and returns that have
# heavy tails and are independent given the volatility. The realised volatility of a day
# is the root of the sum of its squared returns of ten minutes (Andersen et al., 2003,
# Econometrica 71); its logarithm is close to normal.

rng = np.random.default_rng(0)
persistence, spread = np.array([0.985, 0.6]), np.array([0.35, 0.35])
factors = np.empty((N_SHARES, N_DAYS, 2))
factor = rng.normal(0, spread, (N_SHARES, 2))
for day in range(N_DAYS):
    shock = rng.normal(0, spread * np.sqrt(1 - persistence**2), (N_SHARES, 2))
    factor = persistence * factor + shock
    factors[:, day] = factor
log_volatility = np.log(0.015) + factors.sum(axis=2)
shocks = rng.standard_t(5, (N_SHARES, N_DAYS, N_TRADES)) * np.sqrt(3 / 5 / N_TRADES)
returns = np.exp(log_volatility)[:, :, None] * shocks
index = pd.MultiIndex.from_product(
    [
        [f"share {i:02d}" for i in range(N_SHARES)],
        pd.date_range("2022-01-03", periods=N_DAYS, freq="B"),
    ],
    names=["share", "day"],
)
log_price = np.log(100) + returns.sum(axis=2).cumsum(axis=1)
log_realised = np.log(np.sqrt((returns**2).sum(axis=2)))
data = pd.DataFrame(
    {"log_price": log_price.ravel(), "log_volatility": log_realised.ravel()}, index
)
first_test_day = index[N_DAYS - N_TEST][1]
is_past = index.get_level_values("day") < first_test_day


# %%
# A rolling evaluation
# --------------------
# ``backtest`` forecasts from every second day of the last 300, up to ten days ahead,
# from the days before only. The network has seen the days before the first of them.


def rolling_forecasts(column, **parameters):
    """Return forecasts (n_shares, n_cutoffs, n_steps) of one column."""
    forecaster = LSTMForecaster(sp=1, max_steps=300, random_state=0, **parameters)
    forecaster.fit(data.loc[is_past, [column]], fh=FH)
    found = forecaster.backtest(
        data[[column]], step=2, initial_window=N_DAYS - N_TEST
    )  # rows by share, cutoff and time; the last cutoffs have fewer steps
    whole = found.groupby(level=["instance", "cutoff"]).transform("size") == len(FH)
    return found[whole].to_numpy().reshape(N_SHARES, -1, len(FH))


price_forecast = rolling_forecasts("log_price")
volatility_forecast = rolling_forecasts("log_volatility")
n_cutoffs = price_forecast.shape[1]
# Positions of the last day known, and of the days to be forecast.
known = N_DAYS - N_TEST - 1 + 2 * np.arange(n_cutoffs)
ahead = known[:, None] + FH

# %%
# The price
# ---------
# The walk says that nothing changes. The standard error is over shares.

price_error = np.abs(price_forecast - log_price[:, ahead])
walk_error = np.abs(log_price[:, known, None] - log_price[:, ahead])
gain = 100 * (1 - price_error.mean(axis=(1, 2)) / walk_error.mean(axis=(1, 2)))
standard_error = gain.std(ddof=1) / np.sqrt(N_SHARES)
print(f"Log price, {FH[0]} to {FH[-1]} days ahead, mean absolute error")
print(f"  LSTMForecaster: {price_error.mean():.5f}")
print(f"  naive walk: {walk_error.mean():.5f}")
print(f"  gain {gain.mean():+.2f} % (standard error {standard_error:.2f} %)")
if gain.mean() < 2 * standard_error:
    print("  The network does not beat the walk: there is nothing in the mean to find.")

# %%
# The volatility
# --------------
# Beside the constant, the mean of each share's past; today's value; and an exponentially
# weighted mean, as in RiskMetrics, its decay chosen on the past. The last line is out of
# reach: it knows the equations of the market and today's factors.


def weighted_mean(decay):
    """Return the exponentially weighted mean of every day and those before it."""
    frame = pd.DataFrame(log_realised.T)
    return frame.ewm(alpha=1 - decay).mean().to_numpy().T


def past_error(decay):
    """Return the mean absolute error of a decay over the days before the test."""
    smooth, stop = weighted_mean(decay), N_DAYS - N_TEST
    return np.mean(
        [
            np.abs(smooth[:, 50 : stop - h] - log_realised[:, 50 + h : stop]).mean()
            for h in FH
        ]
    )


decay = min((0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97), key=past_error)
constant = log_realised[:, : N_DAYS - N_TEST].mean(axis=1)[:, None, None]
truth = log_realised[:, ahead]
# What is left of each factor h days later, and the mean of what is measured.
left_over = (factors[:, known, None] * persistence ** FH[:, None]).sum(axis=3)
best_possible = left_over + np.mean(log_realised - factors.sum(axis=2))
forecasts = {
    "LSTMForecaster": volatility_forecast,
    f"weighted mean, decay {decay}": weighted_mean(decay)[:, known, None],
    "today's volatility": log_realised[:, known, None],
    "constant": constant,
    "best possible": best_possible,
}
print(f"Log realised volatility, {FH[0]} to {FH[-1]} days ahead, mean absolute error")
error = {name: np.abs(value - truth) for name, value in forecasts.items()}
for name, value in error.items():
    print(f"  {name}: {value.mean():.4f}")
best = np.stack([value.mean(axis=(1, 2)) for value in list(error.values())[1:4]]).min(0)
gain = 100 * (1 - error["LSTMForecaster"].mean(axis=(1, 2)) / best)
print(f"  gain over the best of the others, for each share: {gain.mean():+.1f} % "
      f"(standard error {gain.std(ddof=1) / np.sqrt(N_SHARES):.1f} %)")  # fmt: skip

# %%
# Two pictures
# ------------
# The error by how far ahead: of the price it is that of the walk at every step; of the
# volatility it is lowest at one day, where the network gains most. And one share: the
# band is where the price of the next day is expected, two volatilities to each side.

figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(12, 4), width_ratios=[1, 1, 1.6], layout="constrained"
)
left.plot(FH, 100 * walk_error.mean(axis=(0, 1)), color="#222222", lw=4, alpha=0.3,
          label="naive walk")  # fmt: skip
left.plot(FH, 100 * price_error.mean(axis=(0, 1)), color="#D55E00", label="LSTM")
left.set(title="Price", xlabel="Days ahead", ylabel="Mean absolute error (%)",
         ylim=(0, None))  # fmt: skip
left.legend(frameon=False)
colours = ("#D55E00", "#0072B2", "#999999", "#222222", "#009E73")
for (name, value), colour in zip(error.items(), colours, strict=True):
    middle.plot(FH, value.mean(axis=(0, 1)), color=colour, label=name)
middle.set(title="Log volatility", xlabel="Days ahead", ylabel="Mean absolute error",
           ylim=(0, None))  # fmt: skip
middle.legend(frameon=False, loc="lower right")

share = int(np.argmax(np.ptp(log_realised[:, -N_TEST:], axis=1)))
day = known + 1
change = 100 * (log_price[share, day] - log_price[share, known])
band = 200 * np.exp(volatility_forecast[share, :, 0])
right.fill_between(day, -band, band, color="#D55E00", alpha=0.25, lw=0)
right.plot(day, change, ".", color="#222222", ms=4)
inside = np.mean(
    np.abs(log_price[:, day] - log_price[:, known])
    < 2 * np.exp(volatility_forecast[:, :, 0])
)
right.set(
    title=f"{inside:.0%} of all next days are within two forecast volatilities",
    xlabel=f"Day (share {share:02d})",
    ylabel="Return of the next day (%)",
)
plt.show()
