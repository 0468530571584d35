"""More than one machine: searches and evaluations on local clusters of Dask and Ray."""

import itertools
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from dask.distributed import Client, LocalCluster
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sktime.datasets import load_airline
from sktime.forecasting.model_evaluation import evaluate
from sktime.split import ExpandingWindowSplitter

from sklstm import LSTMClassifier, LSTMForecaster

# Of dask, of tornado and of processes that the test kills.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client():
    """Make a cluster of two worker processes that talk over loopback."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_evaluate_on_dask_equals_evaluate_here(client):
    cv = ExpandingWindowSplitter(fh=[1, 2, 3], initial_window=120, step_length=6)
    forecaster = LSTMForecaster(hidden_size=8, max_steps=20, n_members=1, random_state=0)
    settings = {"cv": cv, "y": load_airline(), "error_score": "raise"}
    here = evaluate(forecaster, **settings)
    there = evaluate(forecaster, **settings, backend="dask")
    score = "test_MeanAbsolutePercentageError"
    np.testing.assert_allclose(there[score], here[score], rtol=1e-6)
    assert any(client.run(lambda: "sklstm.forecaster" in sys.modules).values())


def kill_once_busy(client, victim, killed):
    """Kill a worker process as soon as it is at work on a task."""
    pid = client.run(os.getpid, workers=[victim])[victim]
    while not client.processing([victim])[victim]:
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


def test_search_completes_when_a_worker_is_killed(client, make_sequences):
    X, y = make_sequences(300, 10)
    # Arrays of more than 1 kB live on one worker, and are lost with it, unless they are
    # named in `scatter`: the data, and the rows of each split. Dask drops copies that it
    # takes for needless unless its memory manager is stopped.
    client.amm.stop()
    splits = list(StratifiedKFold(2).split(X, y))
    search = GridSearchCV(
        LSTMClassifier(hidden_size=4, max_iter=4, random_state=0),
        {"alpha": [1e-4, 1e-3, 1e-2], "stem": [None, "linear"]},
        cv=splits,
        error_score="raise",
    )
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    victim = next(iter(client.scheduler_info()["workers"]))
    killed = []
    killer = threading.Thread(
        target=kill_once_busy, args=(client, victim, killed), daemon=True
    )
    killer.start()
    with parallel_config("dask", scatter=[X, y, *itertools.chain(*splits)]):
        search.fit(X, y)
    killer.join(timeout=30)
    assert killed
    assert victim not in client.scheduler_info()["workers"]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone)


@pytest.fixture
def ray_cluster(monkeypatch):
    """Start Ray with two processors on this machine."""
    ray = pytest.importorskip("ray", reason="ray is no part of the extra 'test'")
    joblib_of_ray = pytest.importorskip("ray.util.joblib")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    joblib_of_ray.register_ray()
    yield ray
    ray.shutdown()


def test_search_completes_on_ray_when_a_worker_is_killed(
    ray_cluster, make_sequences, tmp_path
):
    X, y = make_sequences(60, 10)
    search = GridSearchCV(
        LSTMClassifier(hidden_size=4, max_iter=4, random_state=0),
        {"alpha": [1e-4, 1e-2], "stem": [None, "linear"]},
        cv=2,
        error_score="raise",
    )
    alone = search.fit(X, y).cv_results_["mean_test_score"]
    here, note = os.getpid(), tmp_path / "killed"

    def deadly(estimator, X, y):  # pickled by value, since it is no global name
        if os.getpid() != here and not note.exists():
            note.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return estimator.score(X, y)

    again = {"max_restarts": 3, "max_task_retries": 3}
    with parallel_config("ray", n_jobs=2, ray_remote_args=again):
        search.set_params(scoring=deadly).fit(X, y)
    assert int(note.read_text()) != here
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone)
