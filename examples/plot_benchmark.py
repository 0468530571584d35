"""
Benchmarks of sktime, with LSTMs beside sktime's own
====================================================

sktime's benchmarks refit every estimator on every fold of every task and put the errors
into one table. Our estimators are sktime estimators, so they are added like any other.
"""

# %%
# Forecasting
# -----------
# Two monthly series and a hierarchy of sales; half a year is forecast from each of three
# cutoffs. `LSTMForecaster` forecasts series as short as these with the network that
# comes with the package. The error is the mean absolute scaled error: 1 is as far off
# as the same month of the year before was in the past.

import logging

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold
from sktime.benchmarking.classification import ClassificationBenchmark
from sktime.benchmarking.forecasting import ForecastingBenchmark
from sktime.classification.distance_based import KNeighborsTimeSeriesClassifier
from sktime.classification.feature_based import SummaryClassifier
from sktime.classification.interval_based import TimeSeriesForestClassifier
from sktime.datasets import (
    load_airline,
    load_arrow_head,
    load_hierarchical_sales_toydata,
    load_shampoo_sales,
    load_unit_test,
)
from sktime.forecasting.naive import NaiveForecaster
from sktime.forecasting.theta import ThetaForecaster
from sktime.forecasting.trend import STLForecaster
from sktime.performance_metrics.forecasting import MeanAbsoluteScaledError
from sktime.split import ExpandingWindowSplitter

from sklstm import LSTMForecaster, LSTMTimeSeriesClassifier

# sktime 1.2 warns at every construction of a forecaster and undoes warning filters.
logging.captureWarnings(True)

forecasting = ForecastingBenchmark()
forecasting.add_estimator(LSTMForecaster(random_state=0), "LSTMForecaster")
forecasting.add_estimator(NaiveForecaster(sp=12), "NaiveForecaster")
forecasting.add_estimator(ThetaForecaster(sp=12), "ThetaForecaster")
forecasting.add_estimator(STLForecaster(sp=12), "STLForecaster")
tasks = {
    "airline (144 months)": (load_airline, 132),
    "shampoo (36 months)": (load_shampoo_sales, 24),
    "sales (hierarchy, 60 months)": (load_hierarchical_sales_toydata, 48),
}
for name, (load, initial_window) in tasks.items():
    cv = ExpandingWindowSplitter(np.arange(1, 7), initial_window, step_length=3)
    forecasting.add_task(load, cv, [MeanAbsoluteScaledError(sp=12)], task_id=name)


def table_of(results, column):
    """Return a row per model and a column per task, in the order of the benchmark."""
    table = results.pivot(index="model_id", columns="validation_id", values=column)
    order = results["model_id"].unique(), results["validation_id"].unique()
    return table.loc[order].astype(float)


error = table_of(forecasting.run(), "MeanAbsoluteScaledError_mean")
print(error.round(2).to_string())

# %%
# Classification
# --------------
# The same for classifiers, with two folds. Fewer epochs than the default of 100 are for
# the speed of this page.

classification = ClassificationBenchmark()
classification.add_estimator(
    LSTMTimeSeriesClassifier(max_iter=40, random_state=0), "LSTMTimeSeriesClassifier"
)
classification.add_estimator(
    KNeighborsTimeSeriesClassifier(distance="euclidean"), "KNeighborsTimeSeries"
)
classification.add_estimator(SummaryClassifier(random_state=0), "SummaryClassifier")
classification.add_estimator(
    TimeSeriesForestClassifier(random_state=0), "TimeSeriesForest"
)
folds = KFold(2, shuffle=True, random_state=0)
for name, load in {"ArrowHead": load_arrow_head, "UnitTest": load_unit_test}.items():
    classification.add_task(load, folds, [accuracy_score], task_id=name)
accuracy = table_of(classification.run(), "accuracy_score_mean")
print(accuracy.round(3).to_string())

# %%
# Side by side
# ------------
# `run` takes the name of a file to keep results in and to go on from, and the benchmark
# a `backend`, such as "loky", to use every core.

figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for ax, table, label in (
    (axes[0], error, "mean absolute scaled error"),
    (axes[1], accuracy, "accuracy"),
):
    table.T.plot.barh(ax=ax, width=0.8, xlabel=label, ylabel="").invert_yaxis()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
plt.show()
