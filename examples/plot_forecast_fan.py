"""
Forecasts with their uncertainty
================================

A forecast is more than a line. We forecast the last three years of the airline
passengers and draw the intervals, look at forecasts from many cutoffs, check on a panel
that quantiles mean what they say, and ask the forecaster which past months it used.
"""

# %%
# A fan chart
# -----------
# 144 values are few: the forecaster uses the network that comes with the package, and
# nothing is trained.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sktime.datasets import load_airline
from sktime.performance_metrics.forecasting import mean_absolute_scaled_error

from sklstm import LSTMForecaster
from sklstm.inspection import forecast_components, forecast_effects
from sklstm.plotting import (
    BacktestDisplay,
    ForecastDisplay,
    QuantileCalibrationDisplay,
)

y = load_airline()
y_train, y_test = y[:-36], y[-36:]
forecaster = LSTMForecaster(random_state=0).fit(y_train, fh=np.arange(1, 37))
ForecastDisplay.from_estimator(forecaster, y_true=y_test)

# %%
# Forecasts from many cutoffs
# ---------------------------
# ``backtest`` forecasts from every month on, in one pass and without seeing what comes
# later. The lower chart shows where it went wrong.
year_ahead = LSTMForecaster(random_state=0).fit(y_train, fh=np.arange(1, 13))
display = BacktestDisplay.from_estimator(year_ahead, y, initial_window=84)

# %%
# Which months moved which step?
# ------------------------------
# The effect of a month is the forecast less the forecast without it. On the diagonal a
# month of next year rests on the same month of this one.
effects = forecast_effects(year_ahead, lags=36)
shown = effects.effects[:, 0]
limit = np.abs(shown).max()
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto",
                  extent=(0.5, 36.5, 12.5, 0.5))  # fmt: skip
ax.set(xlabel="Lag (months before the cutoff)", ylabel="Month ahead")
plt.colorbar(image, label="Effect (passengers)")

# %%
# The seasonal naive forecast, what is added for the trend, and the LSTM's own part add
# up to the forecast.
parts = forecast_components(year_ahead)
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
times = effects.index.to_timestamp()
ax.bar(times, parts.trend[:, 0], width=12, color="#56B4E9", label="trend and mean season")
ax.bar(times + pd.Timedelta(days=12), parts.lstm[:, 0], width=12, color="#D55E00",
       label="LSTM")  # fmt: skip
ax.axhline(0, color="#222222", lw=0.8)
ax.set(xlabel="Period (M)", ylabel="Added to last year's value\n(passengers)")
ax.legend(frameon=False)

# %%
# Do the quantiles mean what they say?
# ------------------------------------
# On 60 generated series of daily sales: of all values, a tenth should be below the
# quantile 0.1, and so on.
rng = np.random.default_rng(0)
n_series, n_days = 60, 120
days = np.arange(n_days)
level, size, phase = rng.normal([30, 6, 0], [6, 1, 2], size=(n_series, 3)).T
season = size[:, None] * np.sin(2 * np.pi * (days + phase[:, None]) / 7)
walk = rng.normal(0, 0.5, size=(n_series, n_days)).cumsum(axis=1)
noise = rng.normal(0, 2, size=(n_series, n_days))
index = pd.MultiIndex.from_product(
    [
        [f"shop {i}" for i in range(n_series)],
        pd.date_range("2026-01-01", periods=n_days, freq="D"),
    ],
    names=["shop", "day"],
)
sales = pd.DataFrame({"sales": (level[:, None] + season + walk + noise).ravel()}, index)
is_test = index.get_level_values("day") > index[n_days - 15][1]
panel = LSTMForecaster(random_state=0, max_steps=200)
panel.fit(sales[~is_test], fh=np.arange(1, 15))
ForecastDisplay.from_estimator(panel, y_true=sales[is_test])
QuantileCalibrationDisplay.from_estimator(panel, None, sales[is_test])
plt.show()

# %%
# Beside a baseline
# -----------------
# The last season repeated.
naive = pd.Series(np.resize(y_train[-12:], 36), index=y_test.index)
for name, y_pred in {
    "LSTMForecaster": forecaster.predict(),
    "seasonal naive": naive,
}.items():
    error = mean_absolute_scaled_error(y_test, y_pred, y_train=y_train, sp=12)
    print(f"Airline, 36 months ahead, MASE of {name}: {error:.2f}")
before = sales[~is_test].groupby("shop", sort=False).tail(7)
last_week = np.tile(before.to_numpy().reshape(n_series, 1, 7), (1, 2, 1))
for name, y_pred in {
    "LSTMForecaster": panel.predict(),
    "seasonal naive": pd.DataFrame(last_week.reshape(-1, 1), sales[is_test].index),
}.items():
    error = np.abs(y_pred.to_numpy() - sales[is_test].to_numpy()).mean()
    print(f"Sales, 14 days ahead, mean absolute error of {name}: {error:.2f}")
