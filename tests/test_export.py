"""What an exported model says is what the estimator says."""

import json
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor, to_onnx, to_torch
from sklstm.modules import POOLINGS
from sklstm.onnx_graph import Graph, Symbol

onnxruntime = pytest.importorskip("onnxruntime")

rng = np.random.default_rng(0)
X = (100 + 5 * rng.normal(size=(30, 12, 3))).astype(np.float32)
LABELS = np.array(["a", "b", "c"])[np.arange(30) % 3]
# Rows of any length, longer than in training ones among them.
LENGTHS = [np.array([1]), np.array([7, 1, 4, 6]), np.array([40, 25, 33])]


def fit(estimator=LSTMClassifier, X=X, y=LABELS, **settings):
    settings = {"hidden_size": 5, "max_iter": 2, "random_state": 0} | settings
    model = estimator(**settings)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    return model


def padded(lengths, draw, filler):
    """Random rows, as a list and padded with anything to two steps more than needed."""
    rows = [draw(length) for length in lengths]
    x = np.full((len(rows), max(lengths) + 2, *rows[0].shape[1:]), filler)
    for one, row in zip(x, rows, strict=True):
        one[: len(row)] = row
    return rows, x.astype(rows[0].dtype)


def numbers(length):
    return (100 + 5 * rng.normal(size=(length, 3))).astype(np.float32)


def session(model, path):
    to_onnx(model, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def check(model, tmp_path, draw=numbers, filler=7e3, tol=1e-5):
    """Hold the module and the ONNX file equal to the estimator."""
    module, onnx = to_torch(model), session(model, tmp_path / "model.onnx")
    said = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    for lengths in LENGTHS:
        rows, x = padded(lengths, draw, filler)
        expected = said(rows)
        (found,) = onnx.run(None, {"X": x, "lengths": lengths})
        np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)
        assert found.dtype == np.float32
        found = module(torch.from_numpy(x), torch.from_numpy(lengths))
        np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)
    return onnx


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "peephole", "gru"])
@pytest.mark.parametrize("stem", [None, "linear", "conv"])
def test_every_stem_cell_direction_and_pooling(stem, cell, bidirectional, tmp_path):
    settings = {"stem": stem, "cell": cell, "bidirectional": bidirectional}
    for pooling in POOLINGS:
        num_layers = 2 if pooling in ("last", "max") else 1
        check(fit(**settings, pooling=pooling, num_layers=num_layers), tmp_path)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_residual_connections_and_layer_norms(bidirectional, tmp_path):
    settings = {"num_layers": 3, "residual": True, "layer_norm": True}
    check(fit(bidirectional=bidirectional, **settings), tmp_path)


@pytest.mark.parametrize("missing", ["error", "mask"])
def test_deviations_from_the_mean_curve(missing, tmp_path):
    curve = 100 + 10 * np.cos(np.arange(12)[:, None] / [2, 3, 4])
    alike = curve + 0.1 * rng.normal(size=(30, 1, 3))
    model = fit(X=alike, missing=missing)
    assert model.network_.config["n_channels"] == (6 if missing == "error" else 9)
    ends = np.resize(curve, (50, 3)).astype(np.float32)
    check(model, tmp_path, lambda n: ends[:n] + 0.02 * (numbers(n) - 100))


@pytest.mark.parametrize("stem", [None, "conv"])
def test_several_networks(stem, tmp_path):
    settings = {"stem": stem, "n_members": 3, "missing": "mask"}
    check(fit(**settings), tmp_path)
    quantiles = {"loss": "quantile", "quantile": [0.1, 0.5, 0.9]}
    y = rng.normal(size=len(LABELS))
    check(fit(LSTMRegressor, y=y, **settings, **quantiles), tmp_path)


def test_strided_convolutions(tmp_path):
    long = rng.normal(size=(12, 900, 3))
    model = fit(X=long, y=LABELS[:12], stem="conv", bidirectional=True)
    assert np.prod(model.network_.stem.strides) > 4
    check(model, tmp_path)


def test_binary_multilabel_and_a_single_class(tmp_path):
    binary = check(fit(y=np.arange(30) % 2 == 0), tmp_path)
    assert binary.get_modelmeta().custom_metadata_map["classes"] == "[false, true]"
    check(fit(y=rng.integers(2, size=(30, 4))), tmp_path)
    check(fit(y=np.zeros(30)), tmp_path)


def test_classes_are_in_the_metadata(tmp_path):
    metadata = check(fit(), tmp_path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["a", "b", "c"]


def test_quantiles_are_in_the_metadata(tmp_path):
    def levels(estimator):
        metadata = session(estimator, tmp_path / "model.onnx").get_modelmeta()
        return json.loads(metadata.custom_metadata_map["quantiles"])

    settings = {"loss": "quantile", "quantile": [0.9, 0.2]}
    assert levels(fit(LSTMRegressor, y=X[:, 0, 0], **settings)) == [0.9, 0.2]
    forecaster = LSTMForecaster(quantiles=(0.2, 0.5, 0.7)).fit(pd.Series(np.arange(40.0)))
    assert levels(forecaster) == [0.2, 0.5, 0.7]


def test_dates_as_classes_are_in_the_metadata_as_text(tmp_path):
    days = np.array(["2026-01-02", "2026-01-03"], dtype="M8[D]")
    for labels in (days, days.astype("M8[ns]")):
        model = fit(y=labels[(LABELS != "a").astype(int)])
        metadata = check(model, tmp_path).get_modelmeta().custom_metadata_map
        found = json.loads(metadata["classes"])
        assert [text[:10] for text in found] == ["2026-01-02", "2026-01-03"]


@pytest.mark.parametrize(
    ("settings", "n_outputs"),
    [
        ({}, None),
        ({}, 3),
        ({"normalize_y": False}, 2),
        ({"loss": "quantile"}, None),
        ({"loss": "quantile", "quantile": (0.9, 0.1, 0.5)}, None),
        ({"loss": "quantile", "quantile": (0.9, 0.1)}, 2),
    ],
    ids=str,
)
def test_targets_and_quantiles(settings, n_outputs, tmp_path):
    y = 1e3 + 10 * rng.normal(size=30 if n_outputs is None else (30, n_outputs))
    check(fit(LSTMRegressor, y=y, **settings), tmp_path)


def test_quantiles_that_cross_are_put_in_order(tmp_path):
    y = rng.normal(size=30)
    model = fit(LSTMRegressor, y=y, loss="quantile", quantile=(0.2, 0.9, 0.4))
    with torch.no_grad():
        model.network_.readout.bias.copy_(torch.tensor([3.0, 1.0, 2.0]))
    check(model, tmp_path)


def test_float64_and_unstandardised(tmp_path):
    check(fit(dtype="float64"), tmp_path)
    check(fit(standardize=False, X=X / 100), tmp_path, lambda n: numbers(n) / 100)


@pytest.mark.parametrize("stem", [None, "conv"])
def test_missing_values(stem, tmp_path):
    def holes(length):
        row = numbers(length)
        row[rng.random(row.shape) < 0.3] = np.nan
        row[0, 0] = 90.0  # a row with nothing at all is an error in predict
        return row

    model = fit(X=[holes(12) for _ in range(30)], missing="mask", stem=stem)
    check(model, tmp_path, holes)
    check(model, tmp_path, holes, filler=np.nan)
    # Trailing steps without a value are padding, whatever lengths say.
    row = holes(6)
    row[4:] = np.nan
    module, expected = to_torch(model), model.predict_proba([row])
    for lengths in (4, 6):
        found = module(torch.from_numpy(row)[None], torch.tensor([lengths]))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"stem": None, "cell": "lstm"},
        {"stem": None, "cell": "gru", "bidirectional": True, "pooling": "max"},
        {"stem": "linear", "missing": "mask", "n_members": 2},
        {"stem": "conv", "cell": "gru", "missing": "mask"},
        {"estimator": LSTMRegressor, "y": X[:, 0, 0], "stem": None},
        {"estimator": LSTMRegressor, "y": X[:, 0, :2], "loss": "quantile",
         "quantile": [0.9, 0.2], "stem": None},
    ],
)  # fmt: skip
def test_values_that_predict_refuses_are_answered_with_nan(settings, tmp_path):
    model = fit(**settings)
    is_refused = settings.get("missing") != "mask"
    x, lengths = numbers(6 * 7).reshape(6, 7, 3), np.array([7, 7, 5, 5, 7, 7])
    expected = (model.predict if "y" in settings else model.predict_proba)(
        [one[:n] for one, n in zip(x, lengths, strict=True)]
    )
    x[1, 2, 1], x[5, 6] = -np.inf, [np.inf, 1e37, -1e37]
    x[2:4, 5:] = [[[np.inf]], [[np.nan]]]  # beyond their lengths
    x[4, 0 if is_refused else slice(None)] = np.nan  # where NaN is read, all of them
    expected[[1, 4, 5]] = np.nan
    onnx = session(model, tmp_path / "model.onnx")
    (found,) = onnx.run(None, {"X": x, "lengths": lengths})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    given = torch.from_numpy(x), torch.from_numpy(lengths)
    module = to_torch(model)
    program = torch.export.export(module, given).module()
    for called in (module, program):
        np.testing.assert_allclose(called(*given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"stem": None, "pooling": "last"},
        {"stem": None, "pooling": "last", "bidirectional": True},
        {"stem": None, "pooling": "mean"},
        {"stem": "conv", "pooling": "mean-max"},
        {"stem": "linear", "pooling": "max", "missing": "mask"},
        {"stem": "embedding", "pooling": "last", "bidirectional": True},
        {"stem": "embedding", "pooling": "mean"},
    ],
)
def test_lengths_end_where_the_rows_do_and_no_step_is_nan(settings, tmp_path):
    is_text = settings["stem"] == "embedding"
    x = rng.integers(1, 9, size=(30, 6)) if is_text else X[:, :6].astype(np.float32)
    model = fit(X=x, y=LABELS[: len(x)], **settings)
    expected = model.predict_proba(x[:5])
    module, onnx = to_torch(model), session(model, tmp_path / "model.onnx")
    given = torch.from_numpy(x[:5])
    found = module(given, torch.tensor([6, 9, 0, 2**40, 0]))
    expected[[2, 4]] = np.nan
    np.testing.assert_allclose(found, expected, atol=1e-5)
    lengths = np.array([6, 6, 0, 6, 0])  # onnxruntime itself refuses others
    (found,) = onnx.run(None, {"X": x[:5], "lengths": lengths})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if is_text:
        padding = torch.zeros(1, 6, dtype=torch.int64)
        assert module(padding, torch.tensor([6])).isnan().all()


@pytest.mark.parametrize("kind", ["classifier", "forecaster"])
def test_the_default_dtype_of_torch_is_no_matter(kind, tmp_path):
    if kind == "classifier":
        model = fit(stem="conv", bidirectional=True, missing="mask")
        given = X[:2], np.array([12, 4])
    else:
        model = LSTMForecaster(horizon=3).fit(series(40))
        given = (X[:, :, 0].astype(np.float64),)
    names = list(to_torch(model).inputs)
    inputs = dict(zip(names, given, strict=True))
    (expected,) = session(model, tmp_path / "model.onnx").run(None, inputs)
    torch.set_default_dtype(torch.float64)
    try:
        (found,) = session(model, tmp_path / "model.onnx").run(None, inputs)
        module = to_torch(model)(*map(torch.from_numpy, given))
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(module, expected, rtol=1e-5, atol=1e-5)


def test_the_default_device_of_torch_is_no_matter(tmp_path):
    model = fit(stem="conv")
    given = torch.from_numpy(X), torch.full((30,), 12)
    expected = to_torch(model)(*given)
    with torch.device("meta"):
        module = to_torch(model)
        to_onnx(model, tmp_path / "model.onnx")
    assert torch.equal(module(*given), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pretrained": None, "scaling": "last", "segment_length": 4},
        {"pretrained": None, "sp": 4, "window_length": 12},
        {"sp": 24},
    ],
    ids=str,
)
def test_forecasters_compute_where_they_lie(settings, monkeypatch):
    # On "meta" tensors have a device and a shape, and no numbers.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    model = LSTMForecaster(horizon=3, max_steps=2, **settings).fit(series(400))
    module = to_torch(model).to("meta")
    found = module(torch.zeros(5, 70, dtype=torch.float64, device="meta"))
    assert found.device.type == "meta"
    assert found.shape == (5, *module.output_shape[1:])


@pytest.mark.parametrize(
    "settings", [{"stem": "conv"}, {"stem": None, "cell": "gru", "bidirectional": True}]
)
def test_classifiers_compute_where_they_lie(settings, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    module = to_torch(fit(**settings)).to("meta")
    given = torch.from_numpy(X).to("meta"), torch.full((30,), 5, device="meta")
    assert module(*given).device.type == "meta"


def test_a_model_that_is_mapped_into_memory(tmp_path):
    """What is on a disk and cannot be written to is copied, without a warning."""
    model = fit()
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert not mapped.encoder_.mean_.flags.writeable
    given = torch.from_numpy(X), torch.full((30,), 12)
    assert torch.equal(to_torch(mapped)(*given), to_torch(model)(*given))


def test_tokens(tmp_path):
    words = np.array([3, 7, 11, 2**40, 5, 90])  # 90 and others only in prediction

    def text(length):
        row = rng.choice(words, size=length)
        return np.concatenate([[0] * (length // 3), row[length // 3 :]]).astype(np.int64)

    train = rng.choice(words[:5], size=(30, 9))
    for settings in ({}, {"pooling": "last", "bidirectional": True}):
        model = fit(X=train, stem="embedding", **settings)
        check(model, tmp_path, text, filler=0)
        check(model, tmp_path, text, filler=7)


def test_goes_through_torch_export():
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = ({0: batch, 1: time}, {0: batch})
    given = torch.from_numpy(X[:3]), torch.tensor([12, 5, 2])
    for settings in (
        {"cell": "gru", "pooling": "last", "stem": None, "missing": "mask"},
        {
            "cell": "peephole", "bidirectional": True, "num_layers": 2, "residual": True,
            "layer_norm": True, "stem": "conv", "pooling": "attention",
        },
    ):  # fmt: skip
        model = fit(**settings)
        program = torch.export.export(to_torch(model), given, dynamic_shapes=shapes)
        for lengths in LENGTHS:
            rows, x = padded(lengths, numbers, np.nan)
            found = program.module()(torch.from_numpy(x), torch.from_numpy(lengths))
            np.testing.assert_allclose(found, model.predict_proba(rows), atol=1e-5)


# ------------------------------------------------------------------------ forecaster
def series(n, season=12, level=50.0):
    steps = np.arange(n)
    y = level + 0.1 * steps + 5 * np.sin(2 * np.pi * steps / season)
    # A generator of its own: no series depends on the tests that ran before.
    return pd.Series(y + np.random.default_rng(n).normal(size=n))


def check_forecaster(forecaster, y, tmp_path):
    """Hold the module and the ONNX file equal to predict_quantiles."""
    horizon = forecaster.horizon_
    expected = forecaster.predict_quantiles(
        fh=range(1, horizon + 1), alpha=list(forecaster.quantiles)
    ).to_numpy()
    module, onnx = to_torch(forecaster), session(forecaster, tmp_path / "model.onnx")
    # Before a series there may be any padding; a second row is a batch.
    y = y.to_numpy(dtype=np.float64, copy=True)
    more = np.concatenate([np.full(5, np.nan), y])[None]
    two = np.stack([y, y[::-1]])
    for history in (y[None], more, two):
        (found,) = onnx.run(None, {"history": history})
        assert found.shape[1:] == (horizon, len(forecaster.quantiles))
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
        found = module(torch.from_numpy(history))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "sp"), [(3, 1), (60, 1), (11, 12), (30, 12), (144, 12), (300, 12)]
)
def test_pretrained_forecaster(n, sp, tmp_path):
    forecaster = LSTMForecaster(horizon=13, sp=sp)
    y = series(n)
    check_forecaster(forecaster.fit(y), y, tmp_path)


@pytest.mark.parametrize("n", [300, 1200])
def test_pretrained_forecaster_of_hours_that_differ_by_the_week(n, tmp_path):
    y = series(n)
    y += 5 * (np.arange(n) // 24 % 7 > 4)
    y[rng.random(n) < 0.05] = np.nan
    y.iloc[-1] = 50.0
    check_forecaster(LSTMForecaster(horizon=30, sp=24).fit(y), y, tmp_path)


@pytest.mark.parametrize("n_missing", [1, 4, 30])
@pytest.mark.parametrize("settings", [
    {"sp": 1}, {"sp": 12}, {"sp": 24},
    {"sp": 12, "max_steps": 2, "n_members": 1, "scaling": "standard", "random_state": 0},
], ids=str)  # fmt: skip
def test_what_is_missing_at_the_end_is_on_the_way(settings, n_missing, tmp_path):
    y = series(80)
    forecaster = LSTMForecaster(horizon=5, **settings).fit(y)
    steps, levels = np.arange(1, 6), list(forecaster.quantiles)
    expected = forecaster.predict_quantiles(fh=steps, alpha=levels).to_numpy()
    history = np.concatenate([y, np.full(n_missing, np.nan)])[None]
    late = forecaster.update(
        pd.Series(history[0, 80:], np.arange(80, 80 + n_missing)), update_params=False
    ).predict_quantiles(fh=steps, alpha=levels)
    (found,) = session(forecaster, tmp_path / "model.onnx").run(
        None, {"history": history}
    )
    module = to_torch(forecaster)(torch.from_numpy(history)).numpy()
    for answer in (found[0], module[0]):
        n_known = max(5 - n_missing, 0)
        np.testing.assert_allclose(answer[:n_known], expected[n_missing:], rtol=1e-5)
        np.testing.assert_allclose(answer[:n_known], late[:n_known], rtol=1e-5)
        assert np.isnan(answer[n_known:]).all()


def test_a_history_without_a_value_has_no_forecast(tmp_path):
    forecaster = LSTMForecaster(horizon=3, sp=4).fit(series(50))
    history = np.stack([np.full(50, np.nan), series(50)])
    onnx = session(forecaster, tmp_path / "model.onnx")
    for answer in (
        onnx.run(None, {"history": history})[0],
        to_torch(forecaster)(torch.from_numpy(history)).numpy(),
    ):
        assert np.isnan(answer[0]).all()
        assert np.isfinite(answer[1]).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"n_members": 3, "num_layers": 2, "cell": "gru"},
        {"cell": "peephole"},
        {"n_members": 2, "window_length": 24, "segment_length": 6, "transform": "log"},
        {"scaling": "standard", "quantiles": (0.1, 0.5, 0.9)},
        {"scaling": "last", "sp": 1, "horizon": 1},
        {"scaling": "none", "sp": 5, "window_length": 3},
    ],
    ids=str,
)
def test_trained_forecaster(settings, tmp_path):
    settings = {
        "max_steps": 5,
        "horizon": 4,
        "hidden_size": 8,
        "random_state": 0,
    } | settings
    y = series(90)
    check_forecaster(LSTMForecaster(**settings).fit(y), y, tmp_path)


def test_calibrated_mixture_with_the_pretrained_network(tmp_path):
    y = series(90)
    settings = {"horizon": 5, "quantiles": (0.1, 0.5, 0.8), "random_state": 0}
    forecaster = LSTMForecaster(max_steps=5, **settings).fit(y)
    # A panel would set these; fitting one takes long.
    model = forecaster.model_
    model.pretrained = LSTMForecaster(**settings).fit(y).model_.pretrained
    model.pretrained_share, model.offsets = 0.25, rng.normal(size=(5, 3)) / 9
    check_forecaster(forecaster, y, tmp_path)


def test_gaps_zeros_constants_and_runaway_forecasts(tmp_path):
    y = series(80)
    y[rng.random(80) < 0.3] = np.nan
    y.iloc[[0, -1]] = 50.0
    check_forecaster(LSTMForecaster(horizon=15, sp=12).fit(y), y, tmp_path)
    y = pd.Series(np.r_[np.zeros(20), np.arange(20) % 4 * 1.0])
    check_forecaster(LSTMForecaster(horizon=4, sp=4).fit(y), y, tmp_path)
    y = pd.Series(np.full(30, 7e6))
    check_forecaster(LSTMForecaster(horizon=4, sp=1).fit(y), y, tmp_path)
    y = series(40)
    settings = {"horizon": 4, "max_steps": 2, "n_members": 1, "random_state": 0}
    forecaster = LSTMForecaster(**settings).fit(y)
    with torch.no_grad():
        forecaster.model_.trained[0].network.correction.bias[3] += 50  # the median
    with pytest.warns(UserWarning, match="left the range of their history"):
        check_forecaster(forecaster, y, tmp_path)
    y = pd.Series([0.1, 20.0, 3.0, 100.0, 2.0])  # its logarithms reach far
    check_forecaster(LSTMForecaster(horizon=12).fit(y), y, tmp_path)


def test_forecaster_goes_through_torch_export():
    y = series(40)
    settings = {"horizon": 4, "max_steps": 2, "n_members": 1, "random_state": 0}
    forecaster = LSTMForecaster(sp=4, **settings).fit(y)
    shapes = ({0: torch.export.Dim("n_series"), 1: torch.export.Dim("n_timesteps")},)
    module = to_torch(forecaster)
    history = torch.from_numpy(rng.normal(size=(3, 50)))
    program = torch.export.export(module, (history,), dynamic_shapes=shapes)
    for shape in ((1, 40), (5, 200)):
        history = torch.from_numpy(rng.normal(size=shape))
        np.testing.assert_allclose(
            program.module()(history), module(history), rtol=1e-5, atol=1e-5
        )


# ---------------------------------------------------------------------------- errors
def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="can be exported; got LogisticRegression"):
        to_torch(LogisticRegression(max_iter=1000).fit(X[:, 0], LABELS))
    with pytest.raises(NotFittedError):
        to_torch(LSTMClassifier())
    y = series(40)
    exog = pd.DataFrame({"promo": rng.normal(size=40)})
    forecaster = LSTMForecaster(horizon=2, max_steps=2, random_state=0).fit(y, X=exog)
    with pytest.raises(NotImplementedError, match=r"with X of columns \['promo'\]"):
        to_torch(forecaster)

    class CustomLayer(torch.nn.LSTM):
        pass

    model = fit(stem=None)
    model.network_.recurrence.forwards[0] = CustomLayer(3, 5)
    with pytest.raises(NotImplementedError, match="CustomLayer cannot be exported"):
        to_onnx(model, tmp_path / "model.onnx")
    other = fit(y=np.tile(LABELS[:, None], 12), target="sequence")
    with pytest.raises(NotImplementedError, match='with target="sequence" cannot be'):
        to_torch(other)
    with pytest.raises(NotImplementedError, match="cosh has no translation to ONNX"):
        torch.cosh(Symbol(Graph(), "x", torch.float32))
    with pytest.raises(AttributeError, match="of an ONNX graph has no shape"):
        Symbol(Graph(), "x", torch.float32).shape  # noqa: B018
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "sklstm\[export\]"'):
        to_onnx(model, tmp_path / "model.onnx")


def test_the_file_is_small_and_the_estimator_untouched(tmp_path):
    model = fit()
    before = {k: v.clone() for k, v in model.network_.state_dict().items()}
    session(model, tmp_path / "model.onnx")
    for parameter in to_torch(model).parameters():
        parameter.mul_(0)
    after = model.network_.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    forecaster = LSTMForecaster(horizon=4).fit(series(40))
    to_onnx(forecaster, tmp_path / "model.onnx")
    network = forecaster.model_.pretrained[0].network
    n_weights = sum(p.numel() for p in network.parameters())
    # Two members and many window lengths share one copy of the weights.
    assert (tmp_path / "model.onnx").stat().st_size < 4 * n_weights + 500_000


def test_a_module_refuses_other_channels():
    X = np.random.default_rng(0).normal(size=(30, 12, 2))
    model = LSTMRegressor(6, stem=None, max_iter=11, random_state=0).fit(X, X[:, 0, 0])
    with pytest.raises(ValueError, match="X has 1 channels, but the network was fit"):
        to_torch(model)(torch.ones(1, 12, 1), torch.tensor([12]))
