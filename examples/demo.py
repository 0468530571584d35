"""The main job on real data, each part beside a naive baseline: ``make demo``.

A scikit-learn grid search over an LSTM on sequences of unequal length, and forecasts of
monthly airline passengers through sktime: by reduction to LSTMRegressor, and by
LSTMForecaster in sktime's evaluate; and a hierarchy of sales. Takes about a minute.
"""

import logging
import time

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV
from sktime.datasets import (
    load_airline,
    load_hierarchical_sales_toydata,
    load_japanese_vowels,
)
from sktime.forecasting.compose import make_reduction
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.naive import NaiveForecaster
from sktime.forecasting.trend import PolynomialTrendForecaster
from sktime.performance_metrics.forecasting import MeanAbsoluteScaledError
from sktime.split import ExpandingWindowSplitter, temporal_train_test_split
from sktime.transformations.series.boxcox import LogTransformer
from sktime.transformations.series.detrend import Detrender

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor

# sktime 1.2 warns at every construction of a forecaster and undoes warning filters.
logging.captureWarnings(True)


def classify_speakers():
    """Which of nine speakers says a vowel: 7 to 29 steps of 12 channels."""
    X_train, y_train = load_japanese_vowels(split="train", return_type="df-list")
    X_test, y_test = load_japanese_vowels(split="test", return_type="df-list")
    search = GridSearchCV(
        LSTMClassifier(random_state=0, max_iter=30),
        {"hidden_size": [32, 64], "bidirectional": [False, True]},
        cv=3,
        n_jobs=2,
    )
    search.fit(X_train, y_train)
    baseline = DummyClassifier().fit(np.zeros((len(y_train), 1)), y_train)
    print("JapaneseVowels, accuracy on 370 test sequences")
    print(f"  LSTMClassifier {search.best_params_}: {search.score(X_test, y_test):.3f}")
    print(f"  most frequent class: {baseline.score(np.zeros((370, 1)), y_test):.3f}")


def forecast_airline():
    """Forecast the last 36 of 144 months."""
    y_train, y_test = temporal_train_test_split(load_airline(), test_size=36)
    fh = np.arange(1, 37)
    trend = Detrender(PolynomialTrendForecaster(degree=1))
    regressor = LSTMRegressor(hidden_size=32, random_state=0, max_iter=60)
    forecasters = {
        "make_reduction(LSTMRegressor())": LogTransformer()
        * trend
        * make_reduction(regressor, window_length=24),
        "seasonal naive": NaiveForecaster(strategy="last", sp=12),
    }
    mase = MeanAbsoluteScaledError(sp=12)
    print("Airline, 36 months ahead, mean absolute scaled error")
    for name, forecaster in forecasters.items():
        y_pred = forecaster.fit(y_train).predict(fh)
        print(f"  {name}: {mase(y_test, y_pred, y_train=y_train):.2f}")


def evaluate_airline():
    """Forecast a year from each of three Decembers."""
    cv = ExpandingWindowSplitter(fh=np.arange(1, 13), initial_window=108, step_length=12)
    mase = MeanAbsoluteScaledError(sp=12)
    print("Airline, 12 months ahead from three cutoffs, mean absolute scaled error")
    for name, forecaster in {
        "LSTMForecaster": LSTMForecaster(random_state=0),
        "seasonal naive": NaiveForecaster(strategy="last", sp=12),
    }.items():
        results = evaluate(forecaster, cv, load_airline(), scoring=mase)
        print(f"  {name}: {results['test_MeanAbsoluteScaledError'].mean():.2f}")


def forecast_sales():
    """Forecast the last of five years for all product lines and their sums at once."""
    y = load_hierarchical_sales_toydata()
    by_series = y.groupby(level=[0, 1])
    y_train, y_test = by_series.head(48), by_series.tail(12)
    forecaster = LSTMForecaster(random_state=0).fit(y_train, fh=np.arange(1, 13))
    y_pred = forecaster.predict().loc[y_test.index]
    coverage = 0.9
    interval = forecaster.predict_interval(coverage=coverage).loc[y_test.index]
    inside = (interval.iloc[:, 0] <= y_test.iloc[:, 0]) & (
        y_test.iloc[:, 0] <= interval.iloc[:, 1]
    )
    last = by_series.transform(lambda x: x.iloc[47]).loc[y_test.index]
    print(f"Sales of {by_series.ngroups} lines and sums, 12 months, mean absolute error")
    print(
        f"  LSTMForecaster: {np.abs(y_pred - y_test).to_numpy().mean():.1f}, "
        f"{inside.mean():.0%} within its {coverage:.0%} intervals"
    )
    print(f"  last value: {np.abs(last - y_test).to_numpy().mean():.1f}")


if __name__ == "__main__":
    start = time.perf_counter()
    classify_speakers()
    forecast_airline()
    evaluate_airline()
    forecast_sales()
    print(f"{time.perf_counter() - start:.0f} s")
