"""Monitors write what training says of itself, wherever it runs."""

import csv
import json
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor

callback = pytest.importorskip("sklearn.callback", reason="new in scikit-learn 1.9")

from sklstm.monitors import FileMonitor, TensorBoardMonitor  # noqa: E402

QUICK = {"hidden_size": 4, "max_iter": 12, "random_state": 0}


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def test_monitors_follow_the_protocol(tmp_path):
    for monitor in (FileMonitor(tmp_path / "a.csv"), TensorBoardMonitor(tmp_path)):
        assert isinstance(monitor, callback.FitCallback)
        assert not isinstance(monitor, callback.AutoPropagatedCallback)


def test_a_row_per_epoch(tmp_path, make_sequences):
    X, y = make_sequences(40)
    path = tmp_path / "training.jsonl"
    model = LSTMClassifier(**QUICK, early_stopping=True)
    model.set_callbacks(FileMonitor(path)).fit(X, y)
    rows = read(path)
    assert [row["epoch"] for row in rows] == list(range(1, model.n_iter_ + 1))
    assert [row["loss"] for row in rows] == model.loss_curve_
    assert [row["validation_score"] for row in rows] == model.validation_scores_
    assert {row["estimator"] for row in rows} == {"LSTMClassifier"}
    assert {row["task"] for row in rows} == {"0"}
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] < 60


def test_csv_has_one_header_and_an_empty_score(tmp_path, make_sequences):
    X, y = make_sequences(40)
    path = tmp_path / "training.csv"
    path.touch()  # a file that is there, but empty, needs the header as well
    model = LSTMRegressor(**QUICK).set_callbacks(FileMonitor(path))
    model.fit(X, y).fit(X, y)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert len({row["run"] for row in rows}) == 2
    assert [float(row["loss"]) for row in rows[12:]] == model.loss_curve_
    assert {row["validation_score"] for row in rows} == {""}


def test_a_warm_start_counts_on(tmp_path, make_sequences):
    X, y = make_sequences(40)
    path = tmp_path / "training.jsonl"
    model = LSTMClassifier(**QUICK, warm_start=True, early_stopping=True)
    model.set_callbacks(FileMonitor(path)).fit(X, y)
    first = model.n_iter_
    model.fit(X, y)
    rows = read(path)
    assert [row["epoch"] for row in rows] == list(range(1, model.n_iter_ + 1))
    assert first < model.best_iter_ <= model.n_iter_


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_every_fit_of_a_grid_search_is_told_apart(n_jobs, tmp_path, make_sequences):
    X, y = make_sequences(40)
    path = tmp_path / "search.jsonl"
    model = LSTMClassifier(**QUICK).set_callbacks(FileMonitor(path))
    grid = {"alpha": [0.0, 0.1]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=n_jobs).fit(X, y)
    rows = read(path)
    assert len(rows) == 5 * 12  # 2 candidates, 2 splits, and the final fit
    fits = {}
    for row in rows:
        fits.setdefault((row["run"], row["task"]), []).append(row)
    assert len(fits) == 5
    for fit in fits.values():
        assert [row["epoch"] for row in fit] == list(range(1, 13))
    losses = [[row["loss"] for row in fit] for fit in fits.values()]
    assert search.best_estimator_.loss_curve_ in losses


@pytest.mark.parametrize("kind", [FileMonitor, TensorBoardMonitor])
def test_clone_and_pickle_take_a_monitor_along(kind, tmp_path, make_sequences):
    X, y = make_sequences(40)
    path = tmp_path / "log.jsonl"
    model = LSTMClassifier(**QUICK).set_callbacks(kind(path)).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    again.fit(X, y)
    clone(model).fit(X, y)
    if kind is FileMonitor:
        assert len({row["run"] for row in read(path)}) == 3
    else:
        assert len(list(path.iterdir())) == 3


def test_tensorboard_reads_what_was_written(tmp_path, make_sequences):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    X, y = make_sequences(40)
    model = LSTMClassifier(**QUICK, early_stopping=True)
    monitor = TensorBoardMonitor(tmp_path)
    model.set_callbacks(monitor).fit(X, y)
    (run,) = tmp_path.iterdir()
    assert run.name.startswith("LSTMClassifier-")
    events = reader.EventAccumulator(str(run)).Reload()
    for name, expected in (
        ("loss", model.loss_curve_),
        ("validation_score", model.validation_scores_),
    ):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == list(range(1, model.n_iter_ + 1))
        np.testing.assert_allclose([s.value for s in scalars], expected, rtol=1e-6)
    assert not monitor._writers  # all closed


def test_a_run_is_closed_when_fit_fails(tmp_path, make_sequences):
    pytest.importorskip("tensorboard")
    X, y = make_sequences(40)
    monitor = TensorBoardMonitor(tmp_path)
    model = LSTMRegressor(**QUICK).set_callbacks(monitor)
    model.set_params(solver="sgd", learning_rate_init=1e30, max_grad_norm=None)
    with pytest.raises(ValueError, match="training loss became"):
        model.fit(X, y)
    assert not monitor._writers


def test_errors(tmp_path, monkeypatch, make_sequences):
    with pytest.raises(ValueError, match=r'must end in "\.jsonl" or "\.csv"; got .*txt'):
        FileMonitor(tmp_path / "log.txt")
    X, y = make_sequences(40)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model = LSTMClassifier(**QUICK).set_callbacks(TensorBoardMonitor(tmp_path))
    with pytest.raises(ImportError, match=r'pip install "sklstm\[tensorboard\]"'):
        model.fit(X, y)


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    # Not among the packages that tests need: it brings eighteen others along.
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    return mlflow


def logged(mlflow, model, *classes):
    info = mlflow.sklearn.log_model(
        model, name="model", pip_requirements=["sklstm"], skops_trusted_types=[*classes]
    )
    return mlflow.sklearn.load_model(info.model_uri)


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_keeps_a_forecaster(mlflow):
    y = pd.Series(
        np.sin(np.arange(60.0)), pd.period_range("2000-01", periods=60, freq="M")
    )
    model = LSTMForecaster(pretrained="only").fit(y, fh=[1, 2])
    with mlflow.start_run():
        loaded = logged(
            mlflow,
            model,
            "sklstm.forecast_model.ForecastModel",
            "sklstm.forecast_model.Member",
            "sklstm.forecaster.LSTMForecaster",
            "sklstm.network.ForecastNetwork",
        )
    pd.testing.assert_series_equal(loaded.predict(), model.predict())


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_keeps_a_pipeline(mlflow, make_sequences):
    X, y = make_sequences(n_channels=1)
    X = X[:, :, 0]
    model = make_pipeline(StandardScaler(), LSTMClassifier(max_iter=3, random_state=0))
    mlflow.sklearn.autolog(log_models=False)
    try:
        with mlflow.start_run() as run:
            model.fit(X, y)
            loaded = logged(
                mlflow,
                model,
                "numpy.dtype",
                "sklstm.estimators.LSTMClassifier",
                "sklstm.heads.ClassificationHead",
                "sklstm.network.RecurrentNetwork",
                "sklstm.sequences.SequenceEncoder",
            )
    finally:
        mlflow.sklearn.autolog(disable=True)
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["lstmclassifier__max_iter"] == "3"
    assert data.metrics["training_score"] == pytest.approx(model.score(X, y))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
