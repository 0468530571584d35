"""The example service answers as the model does, refuses clearly, and ends cleanly."""

import http.client
import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor, save

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
SERVICE = Path(__file__).parents[1] / "examples" / "service.py"
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 12, 2))


@pytest.fixture(scope="module")
def model():
    settings = {"stem": None, "hidden_size": 8, "missing": "mask", "random_state": 0}
    labels = np.where(X[:, :, 0].mean(axis=1) > 0, "up", "down")
    return LSTMClassifier(max_iter=12, **settings).fit(X, labels)


class Server:
    """The service in a process of its own, on a free port."""

    def __init__(self, model, path, *options):
        save(model, path)
        command = [sys.executable, str(SERVICE), str(path), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                return
        self.process.communicate()
        raise RuntimeError("".join(self.log))

    def ask(self, method, path, body=None):
        """Return the status and the content of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content else None

    def stop(self):
        """Ask the process to end; return what it has said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.log.append(self.process.communicate(timeout=30)[1])
        return "".join(self.log)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("service") / "model.safetensors"
    server = Server(model, path, "--max-sessions", "3")
    yield server
    server.stop()


def test_batches_of_any_length(server, model):
    rows = [X[0].tolist(), X[1, :5].tolist(), [[None, 0.5], [1.0, None], [0.0, 0.0]]]
    status, said = server.ask("POST", "/predict", {"sequences": rows})
    rows = [np.array(row, dtype=float) for row in rows]
    assert status == 200
    assert said["classes"] == ["down", "up"]
    np.testing.assert_array_equal(said["probabilities"], model.predict_proba(rows))
    assert server.ask("GET", "/health")[1]["n_channels"] == 2


def test_channels_before_steps(tmp_path):
    """Rows are of steps, however the model was fitted, as /streams reads them."""
    model = LSTMRegressor(
        4, stem=None, layout="channel-major", max_iter=12, random_state=0
    )
    model.fit(X.transpose(0, 2, 1), X[:, :, 0].mean(axis=1))
    server = Server(model, tmp_path / "model.safetensors")
    try:
        rows = [X[0, :2].tolist(), X[1].tolist()]
        said = server.ask("POST", "/predict", {"sequences": rows})[1]
        expected = model.predict([X[0, :2].T, X[1].T])
        np.testing.assert_array_equal(said["predictions"], expected)
        for step in rows[0]:
            said = server.ask("POST", "/streams/a", {"step": step})[1]
        np.testing.assert_allclose(said["prediction"], expected[0], rtol=1e-5)
    finally:
        server.stop()


def test_a_label_per_step_and_tokens(tmp_path):
    per_step = LSTMClassifier(
        4, stem=None, target="sequence", max_iter=12, random_state=0
    )
    per_step.fit(X, (X[:, :, 0] > 0).astype(int))
    server = Server(per_step, tmp_path / "per_step.safetensors")
    try:
        rows = [X[0].tolist(), X[1, :5].tolist()]
        said = server.ask("POST", "/predict", {"sequences": rows})[1]
        expected = per_step.predict_proba([X[0], X[1, :5]])
        for found, row in zip(said["probabilities"], expected, strict=True):
            np.testing.assert_array_equal(found, row)
        said = server.ask("POST", "/predict", {"sequences": [[[1e300, 0.0]]]})
        assert said[0] == 422
        assert "which is too large" in said[1]["detail"]
    finally:
        server.stop()
    tokens = rng.integers(1, 5, size=(40, 6))
    text = LSTMClassifier(4, stem="embedding", max_iter=12, random_state=0)
    text.fit(tokens, tokens[:, 0] > 2)
    server = Server(text, tmp_path / "text.safetensors")
    try:
        for token in tokens[0].tolist():
            said = server.ask("POST", "/streams/a", {"step": [token]})[1]
        assert said["prediction"] == text.predict(tokens[:1])[0]
        for step in ([1.5], [None], [-3], [1, 2]):
            assert server.ask("POST", "/streams/a", {"step": step})[0] == 422
        rows = [[[token] for token in tokens[0].tolist()]]
        said = server.ask("POST", "/predict", {"sequences": rows})[1]
        np.testing.assert_array_equal(
            said["probabilities"], text.predict_proba(tokens[:1])
        )
    finally:
        server.stop()


def test_labels_that_are_texts_in_an_array_of_objects(tmp_path):
    y = pd.Series(np.where(X[:, 0, 0] > 0, "up", "down"), dtype=object)
    model = LSTMClassifier(4, stem=None, max_iter=12, random_state=0).fit(X, y)
    assert model.classes_.dtype == object
    server = Server(model, tmp_path / "model.safetensors")
    try:
        status, said = server.ask("POST", "/streams/a", {"step": X[0, 0].tolist()})
    finally:
        server.stop()
    assert status == 200
    assert said["prediction"] == model.predict(X[:1, :1])[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LSTMForecaster(), "LSTMForecaster cannot be served so"),
        (LSTMRegressor(), "is not fitted yet"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(model, message, tmp_path):
    with pytest.raises(RuntimeError, match=message):
        Server(model, tmp_path / "model.safetensors")


def test_many_at_once(server, model):
    def ask(i):
        return server.ask("POST", "/predict", {"sequences": [X[i].tolist()]})[1]

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(ask, range(40)))
    found = np.concatenate([one["probabilities"] for one in said])
    np.testing.assert_array_equal(found, model.predict_proba(X))


def test_streams_by_session(server, model):
    for t in range(12):
        for i, session in enumerate(["first", "second"]):
            step = {"step": X[i, t].tolist()}
            status, said = server.ask("POST", f"/streams/{session}", step)
            assert status == 200
            assert said["n_steps"] == t + 1
            assert said["prediction"] == model.predict(X[i : i + 1, : t + 1])[0]
    assert server.ask("POST", "/streams/third", step)[0] == 200
    status, said = server.ask("POST", "/streams/fourth", step)
    assert status == 503
    assert said["detail"].startswith("All 3 sessions are in use.")
    assert server.ask("DELETE", "/streams/first") == (204, None)
    status, said = server.ask("DELETE", "/streams/first")
    assert (status, said["detail"]) == (404, "There is no session 'first'.")
    assert server.ask("POST", "/streams/fourth", step)[1]["n_steps"] == 1
    for session in ("second", "third", "fourth"):
        server.ask("DELETE", f"/streams/{session}")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/predict", "{", "JSON decode error"),
        ("/predict", {"sequences": []}, "at least 1 item"),
        ("/predict", {"sequences": [[]]}, "at least 1 item"),
        ("/predict", {"sequences": [[["high", 1.0]]]}, "valid number"),
        ("/predict", '{"sequences": [[[1e999, 1.0]]]}', "finite number"),
        ("/predict", {"rows": []}, "Field required"),
        ("/predict", {"sequences": [[[1.0]]]}, "expecting 2 channels"),
        ("/predict", {"sequences": [[[1.0, 2.0], [1.0]]]}, "Sequence 0 has steps of"),
        ("/predict", {"sequences": [[[None, None]]]}, "missing \\(NaN\\) at every step"),
        ("/streams/s", {"step": [1.0, 2.0, 3.0]}, r"array of shape \(2,\); got \(3,\)"),
        ("/streams/s", {"step": 1.0}, "valid list"),
        ("/streams/a%20b", {"step": [1.0, 2.0]}, "match pattern"),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_the_reason(path, body, message, server):
    status, said = server.ask("POST", path, body)
    assert status == 422
    assert re.search(message, json.dumps(said))
    assert server.ask("GET", "/health")[1]["n_sessions"] == 0


def test_ends_cleanly(server):
    log = server.stop()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log
