"""Behaviour and laws of the two estimators."""

import copy
import inspect
import io
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import (
    ConvergenceWarning,
    DataConversionWarning,
    NotFittedError,
)
from sklearn.metrics import (
    accuracy_score,
    d2_pinball_score,
    make_scorer,
    mean_pinball_loss,
    r2_score,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from sklstm import LSTMClassifier, LSTMRegressor, base, load, save
from sklstm.network import RecurrentNetwork

QUICK = {"hidden_size": 6, "max_iter": 12, "random_state": 0}
PRECISE = {"hidden_size": 6, "max_iter": 25, "random_state": 0, "batch_size": 8}


def outputs(model, X):
    if isinstance(model, LSTMClassifier):
        return model.predict_proba(X)
    return model.predict(X)


@pytest.fixture(params=[LSTMClassifier, LSTMRegressor])
def estimator(request):
    return request.param


# ---------------------------------------------------------------------------- laws
@pytest.mark.parametrize(
    "settings",
    [{}, {"bidirectional": True, "pooling": "mean"}, {"stem": None, "num_layers": 2},
     {"pooling": "attention"}, {"stem": "linear", "pooling": "max", "cell": "gru"},
     {"hidden_size": 20}, {"hidden_size": 20, "stem": None, "pooling": "attention"},
     {"cell": "peephole", "num_layers": 2, "residual": True, "layer_norm": True,
      "bidirectional": True, "stem": None}],
)  # fmt: skip
def test_a_row_alone_equals_the_row_in_a_batch_bitwise(
    estimator, make_sequences, settings
):
    X, y = make_sequences(70, 40, ragged=True)
    model = estimator(**{**QUICK, **settings}).fit(X[:50], y[:50])
    together = outputs(model, X)
    for i in (0, 33, 69):
        np.testing.assert_array_equal(outputs(model, [X[i]])[0], together[i])
    order = np.random.default_rng(0).permutation(70)
    shuffled = outputs(model, [X[i] for i in order])
    np.testing.assert_array_equal(shuffled, together[order])


def test_padding_is_nothing(estimator, make_sequences):
    X, y = make_sequences(40, 20, ragged=True)
    padded = np.full((40, 30, 2), np.nan, dtype=np.float32)
    for row, sequence in zip(padded, X, strict=True):
        row[: len(sequence)] = sequence
    ragged = estimator(missing="mask", **QUICK).fit(X, y)
    rectangular = estimator(missing="mask", **QUICK).fit(padded, y)
    np.testing.assert_array_equal(outputs(ragged, X), outputs(rectangular, padded))


def test_order_of_the_rows_does_not_matter(estimator, make_sequences):
    X, y = make_sequences(40)
    order = np.random.default_rng(1).permutation(40)
    first = estimator(**PRECISE).fit(X, y)
    second = estimator(**PRECISE).fit(X[order], y[order])
    np.testing.assert_array_equal(outputs(first, X), outputs(second, X))


@pytest.mark.parametrize(
    "settings",
    [{}, {"stem": None}, {"early_stopping": True}, {"dropout": 0.2},
     {"class_weight": "balanced"},
     {"stem": None, "dropout": 0.2, "variational_dropout": True, "num_layers": 2,
      "recurrent_dropout": 0.2, "cell": "gru"}],
)  # fmt: skip
@pytest.mark.parametrize("ragged", [False, True])
def test_weights_are_repetitions_to_the_last_bit(
    estimator, make_sequences, settings, ragged
):
    if "class_weight" in settings and estimator is LSTMRegressor:
        settings = {"loss": "absolute_error"}
    X, y = make_sequences(40, ragged=ragged)
    weight = np.random.default_rng(2).integers(0, 4, size=40)
    repeated = np.repeat(np.arange(40), weight)
    X_repeated = [X[i] for i in repeated] if ragged else X[repeated]
    weighted = estimator(**PRECISE, **settings).fit(X, y, sample_weight=weight)
    plain = estimator(**PRECISE, **settings).fit(X_repeated, y[repeated])
    np.testing.assert_array_equal(outputs(weighted, X), outputs(plain, X))


def test_same_seed_same_model_and_another_seed_another(estimator, make_sequences):
    X, y = make_sequences(40)
    first, second, other = (
        outputs(estimator(**{**QUICK, "random_state": seed}, dropout=0.1).fit(X, y), X)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_global_random_state_is_neither_read_nor_written(estimator, make_sequences):
    X, y = make_sequences(30)
    np.random.seed(7)  # noqa: NPY002 - the state that must not change
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    unseeded = {**QUICK, "random_state": None}
    predictions = []
    for _ in range(2):
        model = estimator(**unseeded, dropout=0.2, early_stopping=True).fit(X, y)
        predictions.append(outputs(model, X))
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())
    # None is a fresh seed each time, not the global state.
    assert not np.array_equal(*predictions)


def test_affine_change_of_channels_changes_nothing(estimator, make_sequences):
    X, y = make_sequences(40)
    X = X.astype(np.float64)
    model = estimator(**QUICK, dtype="float64", shuffle=False)
    first = outputs(clone(model).fit(X, y), X)
    moved = X * [1e3, 1e-3] + [5e4, -2.0]
    np.testing.assert_allclose(outputs(model.fit(moved, y), moved), first, rtol=1e-5)


@pytest.mark.parametrize("target", ["single", "sequence"])
def test_affine_change_of_y_changes_predictions_alike(make_sequences, target):
    X, y = make_sequences(80)
    y = np.stack([y, y**2], axis=1)
    if target == "sequence":
        y = X.astype(np.float64) + y[:, None]
    model = LSTMRegressor(
        **PRECISE, dtype="float64", target=target, n_members=1 + 2 * (target == "single")
    )
    factors, offsets = [1e4, 2e-3], [-7, 0.1]
    first, second = (
        np.stack(list(clone(model).fit(X, of_y).predict(X)))
        for of_y in (y, factors * y + offsets)
    )
    np.testing.assert_allclose(second, factors * first + offsets, rtol=1e-6)


def test_other_names_of_labels_change_nothing(make_sequences):
    X, y = make_sequences(40)
    labels = (y > y.mean()).astype(int)
    model = LSTMClassifier(**PRECISE)
    first = clone(model).fit(X, labels).predict_proba(X)
    for names in ([3, 7], ["no", "yes"], [-5.0, 9.0]):
        renamed = clone(model).fit(X, np.array(names)[labels])
        np.testing.assert_array_equal(renamed.predict_proba(X), first)


def test_threads_are_what_they_were(estimator, make_sequences):
    X, y = make_sequences(20)
    before = torch.get_num_threads()
    estimator(**QUICK).fit(X, y).predict(X)
    assert torch.get_num_threads() == before


# --------------------------------------------------------------------------- state
@pytest.mark.parametrize(
    "copier",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "joblib"],
    ids=["deepcopy", "pickle", "joblib"],
)
def test_copies_predict_alike(estimator, make_sequences, copier):
    X, y = make_sequences(30, ragged=True)
    model = estimator(**QUICK, bidirectional=True).fit(X, y)
    if copier == "joblib":
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        buffer.seek(0)
        twin = joblib.load(buffer)
    else:
        twin = copier(model)
    np.testing.assert_array_equal(outputs(model, X), outputs(twin, X))
    assert next(twin.network_.parameters()).device.type == "cpu"


def test_a_pickle_holds_no_tensor(make_sequences):
    X, y = make_sequences(30)
    blob = pickle.dumps(LSTMClassifier(**QUICK).fit(X, y))
    assert b"torch._utils" not in blob
    assert b"torch.nn" not in blob


def test_another_process_predicts_the_same(estimator, make_sequences, tmp_path):
    X, y = make_sequences(30)
    model = estimator(**QUICK).fit(X, y)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "X.npy", X)
    code = (
        "import pickle, numpy as np; X = np.load('X.npy'); "
        "m = pickle.load(open('model.pkl', 'rb')); np.save('out.npy', "
        "m.predict_proba(X) if hasattr(m, 'predict_proba') else m.predict(X))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), outputs(model, X))


def test_partial_fit_takes_another_solver(make_sequences):
    X, y = make_sequences(20)
    model = LSTMClassifier(hidden_size=4, solver="sgd", random_state=0)
    model.partial_fit(X, y, classes=[0, 1])
    for solver in ("adam", "sgd"):
        model.set_params(solver=solver).partial_fit(X, y)
    assert model.n_iter_ == 3


def test_warm_start_goes_on(estimator, make_sequences):
    X, y = make_sequences(40)
    model = estimator(**QUICK, warm_start=True, stem=None).fit(X, y)
    first = outputs(model, X)
    loss = model.loss_
    model.fit(X, y)
    assert model.n_iter_ == 24 == len(model.loss_curve_)
    assert model.loss_ < loss
    assert not np.array_equal(first, outputs(model, X))


CHANGED = [
    {"hidden_size": 7}, {"num_layers": 2}, {"cell": "gru"}, {"bidirectional": True},
    {"residual": True}, {"layer_norm": True}, {"dropout": 0.4}, {"stem": "linear"},
    {"variational_dropout": True}, {"recurrent_dropout": 0.1}, {"token_dropout": 0.1},
    {"pooling": "max"}, {"n_members": 3}, {"layout": "channel-major"},
    {"standardize": False}, {"missing": "mask"}, {"target": "sequence"},
    {"dtype": "float64"}, {"n_channels": 3},
]  # fmt: skip


@pytest.mark.parametrize("changed", CHANGED, ids=str)
def test_training_on_keeps_what_was_fitted(estimator, changed, make_sequences):
    X, y = make_sequences(30)
    model = estimator(**QUICK, warm_start=True, stem=None).fit(X, y)
    before = outputs(model, X)
    (name, value), (fitted,) = *changed.items(), (getattr(model, *changed),)
    fitted = {"n_members": 1, "bidirectional": False}.get(name, fitted)
    model.set_params(**changed)
    message = f"{name} is {value!r}, but what was fitted has "
    for go_on in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=message):
            go_on(X, y)
    model.set_params(**{name: fitted})
    np.testing.assert_array_equal(outputs(model, X), before)
    assert model.fit(X, y).n_iter_ == 24


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "huber"},
        {"normalize_y": False},
        {"quantile": 0.2},
        {"quantile": [0.1, 0.5]},
    ],
    ids=str,
)
def test_a_loss_is_not_changed_by_training_on(changed, make_sequences):
    X, y = make_sequences(20)
    model = LSTMRegressor(**QUICK, loss="quantile").fit(X, y).set_params(**changed)
    (name,) = changed
    with pytest.raises(ValueError, match=f"{name} is .*, but what was fitted has "):
        model.partial_fit(X, y)


def test_other_settings_may_change_before_training_on(make_sequences):
    X, y = make_sequences(20)
    model = LSTMRegressor(**QUICK, loss="quantile", quantile=[0.1, 0.5, 0.9]).fit(X, y)
    model.set_params(quantile=(0.1, 0.5, 0.9), epsilon=2.0, alpha=0.0, solver="adamw")
    model.set_params(dtype="bfloat16", augment="jitter", max_iter=3, batch_size=4)
    assert model.partial_fit(X, y).n_iter_ == 13


def test_deviations_are_not_varied_by_training_on():
    X = 0.01 * np.random.default_rng(0).normal(size=(20, 40)) + np.cos(np.arange(40))
    model = LSTMClassifier(3, max_iter=11, random_state=0).fit(X, np.arange(20) % 2)
    assert model.encoder_.curve_ is not None
    with pytest.raises(ValueError, match="augment='jitter' cannot vary sequences that"):
        model.set_params(augment="jitter").partial_fit(X, np.arange(20) % 2)


def test_numbers_of_numpy_are_numbers(estimator, make_sequences, tmp_path):
    X, y = make_sequences(20)
    settings = {"hidden_size": 4, "num_layers": 2, "n_members": 2, "max_iter": 11}
    ours, of_numpy = (
        estimator(**{k: kind(v) for k, v in settings.items()}, random_state=0).fit(X, y)
        for kind in (int, np.int64)
    )
    save(of_numpy, tmp_path / "model")
    for model in (of_numpy, load(tmp_path / "model")):
        np.testing.assert_array_equal(outputs(model, X), outputs(ours, X))


def test_partial_fit_learns(make_sequences):
    X, y = make_sequences(60)
    classifier = LSTMClassifier(hidden_size=8, random_state=0)
    for _ in range(30):
        classifier.partial_fit(X, y, classes=[0, 1, 2])
    assert classifier.score(X, y) > 0.9
    assert classifier.predict_proba(X).shape == (60, 3)
    assert classifier.n_iter_ == 30
    regressor = LSTMRegressor(hidden_size=8, random_state=0)
    for _ in range(30):
        regressor.partial_fit(X, y.astype(float))
    assert regressor.score(X, y) > 0.5


def test_a_failed_fit_leaves_the_model_as_it_was(estimator, make_sequences):
    X, y = make_sequences(30)
    model = estimator(**QUICK).fit(X, y)
    before = outputs(model, X)
    with pytest.raises(ValueError, match="X has 1 channels"):
        model.partial_fit(X[:, :, :1], y)
    np.testing.assert_array_equal(outputs(model, X), before)


def test_fitted_attributes(make_sequences):
    X, y = make_sequences(40, 12)
    model = LSTMClassifier(**QUICK, early_stopping=True).fit(X, y)
    assert (model.n_features_in_, model.n_channels_in_, model.n_timesteps_in_) == (
        2,
        2,
        12,
    )
    assert model.n_outputs_ == 1
    assert (model.stem_, model.pooling_) == ("conv", "mean-max")
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.n_iter_ == len(model.loss_curve_) == len(model.validation_scores_)
    assert not model.network_.training
    assert model.best_loss_ is None
    ragged = LSTMClassifier(**QUICK).fit(*make_sequences(40, 12, ragged=True))
    assert ragged.n_timesteps_in_ is None
    assert ragged.best_loss_ == min(ragged.loss_curve_)


def test_embed_has_the_size_it_says(make_sequences):
    X, y = make_sequences(20)
    model = LSTMClassifier(**QUICK, bidirectional=True).fit(X, y)
    embedding = model.embed(X)
    assert embedding.shape == (20, (6 * 2 + 6) * 2)
    readout = model.network_.readout
    logit = embedding @ readout.weight.detach().numpy().T + readout.bias.detach().numpy()
    np.testing.assert_allclose(logit[:, 0], model.decision_function(X), rtol=1e-5)


# ------------------------------------------------------------------------- targets
def test_labels_of_any_kind(make_sequences):
    X, y = make_sequences(30)
    for labels in (
        np.array(["no", "yes"]),
        np.array([False, True]),
        np.array([3.0, 7.0]),
    ):
        model = LSTMClassifier(**QUICK).fit(X, labels[y])
        assert model.predict(X).dtype == labels.dtype
        np.testing.assert_array_equal(model.classes_, labels)


def test_multilabel(make_sequences):
    X, y = make_sequences(60)
    labels = np.column_stack([y, 1 - y, np.ones_like(y)])
    model = LSTMClassifier(hidden_size=8, max_iter=30, random_state=0).fit(X, labels)
    assert model.score(X, labels) > 0.9
    assert model.predict_proba(X).shape == (60, 3)
    LSTMClassifier(**QUICK, class_weight="balanced").fit(X, labels)


def test_tokens(make_sequences):
    rng = np.random.default_rng(0)
    X = [rng.integers(1, 20, size=rng.integers(3, 9)) for _ in range(80)]
    y = [int(7 in row) for row in X]
    model = LSTMClassifier(16, stem="embedding", max_iter=40, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.predict([[7, 999, 12345]]).shape == (1,)
    padded = np.zeros((80, 12), dtype=int)
    for row, tokens in zip(padded, X, strict=True):
        row[: len(tokens)] = tokens
    np.testing.assert_array_equal(model.predict_proba(padded), model.predict_proba(X))


def test_missing_values_are_seen():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 10))
    y = rng.integers(2, size=80)
    X[y == 1, 4] = np.nan  # only what is missing tells the classes apart
    model = LSTMClassifier(8, missing="mask", max_iter=40, random_state=0).fit(X, y)
    assert model.score(X, y) == 1


def test_quantiles_cover_what_they_say():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 9))
    y = X[:, -1] + rng.normal(size=600)
    levels = [0.1, 0.5, 0.9]
    model = LSTMRegressor(
        8, loss="quantile", quantile=levels, max_iter=20, random_state=0
    )
    predicted = model.fit(X[:400], y[:400]).predict(X[400:])
    assert predicted.shape == (200, 3)
    assert (np.diff(predicted, axis=1) >= 0).all()
    coverage = (y[400:, None] <= predicted).mean(axis=0)
    np.testing.assert_allclose(coverage, levels, atol=0.1)
    skill = np.mean(
        [
            1 - mean_pinball_loss(y[400:], predicted[:, k], alpha=alpha)
            / mean_pinball_loss(y[400:], np.full(200, np.quantile(y[400:], alpha)),
                                alpha=alpha)
            for k, alpha in enumerate(levels)
        ]
    )  # fmt: skip
    assert model.score(X[400:], y[400:]) == pytest.approx(skill)


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "quantile"])
def test_robust_losses_shrug_off_outliers(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 9))
    y = X[:, -1].copy()
    y[::20] += 300
    model = LSTMRegressor(8, loss=loss, epsilon=0.05, max_iter=60, random_state=0)
    error = np.median(np.abs(model.fit(X, y).predict(X) - X[:, -1]))
    assert error < 0.7


def test_oversampling_moves_predictions_as_weights_do(make_sequences):
    X, y = make_sequences(60)
    rare = np.flatnonzero(y)[6:]
    X, y = np.delete(X, rare, axis=0), np.delete(y, rare)
    noisy = X + 3 * np.random.default_rng(0).normal(size=X.shape)
    share = {}
    for oversample in (False, True):
        for class_weight in (None, "balanced"):
            model = LSTMClassifier(
                **QUICK, oversample=oversample, class_weight=class_weight
            )
            proba = model.fit(noisy, y).predict_proba(noisy)[:, 1]
            share[oversample, class_weight] = proba.mean()
    assert share[True, "balanced"] > share[True, None] + 0.05
    assert share[False, "balanced"] > share[False, None] + 0.05
    assert share[True, "balanced"] == pytest.approx(share[False, "balanced"], abs=0.15)


def test_classes_that_count_nothing(make_sequences):
    X, y = make_sequences()
    model = LSTMClassifier(**QUICK, class_weight={0: 0, 1: 1}).partial_fit(X, y)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match="Every row counts nothing"):
        model.partial_fit(X[y == 0], y[y == 0])
    np.testing.assert_array_equal(model.predict_proba(X), before)


@pytest.mark.parametrize("stem", [None, "conv"])
def test_values_that_a_network_would_overflow_with(make_sequences, stem):
    X, y = make_sequences()
    model = LSTMClassifier(**QUICK, stem=stem).fit(X, y)
    far = X.copy()
    far[3, 5, 0] = 1e29
    assert np.isfinite(model.predict_proba(far)).all()
    far[3, 5, 0] = -1e33
    message = r"Row 3 of X holds -9.*e\+32 at step 5 in channel 0"
    with pytest.raises(ValueError, match=message):
        model.predict_proba(far)


def test_values_whose_squares_overflow_in_training(estimator):
    X = 1e18 * np.random.default_rng(0).normal(size=(60, 12))
    model = estimator(**QUICK, standardize=False, stem="conv", n_members=1)
    with pytest.raises(ValueError, match="overflow in the network: X is too large"):
        model.fit(X, X[:, -1] > 0)
    assert not hasattr(model, "network_")


def test_class_weight_moves_predictions(make_sequences):
    X, y = make_sequences(60)
    X *= 0.1
    heavy = LSTMClassifier(**QUICK, class_weight={0: 1000, 1: 1e-3}).fit(X, y)
    assert (heavy.predict(X) == 0).all()


# ----------------------------------------------------------------- device and dtype
def test_float64_is_a_reference_for_float32(estimator, make_sequences):
    """They start from the same weights and see the same batches and dropout."""
    X, y = make_sequences()
    settings = {**QUICK, "alpha": 0, "solver": "sgd", "stem": None}
    exact, model = (
        estimator(**settings, dtype=dtype).fit(X, y) for dtype in ("float64", "float32")
    )
    np.testing.assert_allclose(outputs(model, X), outputs(exact, X), atol=1e-4)


def test_residual_is_nothing_with_one_layer(estimator, make_sequences):
    X, y = make_sequences()
    plain, residual = (
        estimator(**QUICK, residual=residual).fit(X, y) for residual in (False, True)
    )
    np.testing.assert_array_equal(outputs(residual, X), outputs(plain, X))
    residual.set_params(warm_start=True).fit(X, y)


def test_losses_of_calls_that_go_on(estimator, make_sequences):
    X, y = make_sequences()
    model = estimator(**QUICK, warm_start=True, early_stopping=True).fit(X, y)
    assert model.best_loss_ is None
    model.set_params(early_stopping=False).fit(X, y).fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ > 20
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.validation_scores_ is None


def test_float64_is_float64_throughout(make_sequences):
    X, y = make_sequences(30)
    model = LSTMRegressor(**QUICK, dtype="float64").fit(X, y)
    assert next(model.network_.parameters()).dtype == torch.float64


@pytest.mark.parametrize(
    ("stem", "cell"),
    [("auto", "lstm"), (None, "lstm"), (None, "peephole"), (None, "gru")],
)
def test_bfloat16_learns_and_keeps_float32_weights(make_sequences, stem, cell):
    X, y = make_sequences(60)
    model = LSTMClassifier(
        8, cell=cell, stem=stem, max_iter=30, random_state=0, dtype="bfloat16"
    ).fit(X, y)
    assert next(model.network_.parameters()).dtype == torch.float32
    assert model.score(X, y) > 0.9


def states(model, X):
    return np.concatenate([row.ravel() for row in model.embed(X)])


@pytest.mark.parametrize("target", ["single", "sequence"])
@pytest.mark.parametrize("missing", [False, True])
def test_truncated_gradients(make_sequences, monkeypatch, target, missing):
    X, _ = make_sequences(24, 30, ragged=True)
    y = [row[:, 0].cumsum() for row in X]
    y = y if target == "sequence" else [row[-1] for row in y]
    if missing:
        for row in X:
            row[1, 0] = np.nan
    settings = {**QUICK, "target": target, "missing": "mask", "dropout": 0.1}

    def fitted(**others):
        model = LSTMRegressor(**{"stem": None, **settings, **others})
        return states(model.fit(X, y), X)

    whole, piecewise = fitted(bptt_steps=None), fitted(bptt_steps=4)
    longest = max(map(len, X))
    assert np.array_equal(whole, fitted(bptt_steps=longest))
    assert np.array_equal(whole, fitted())  # "auto": they are not long
    assert np.isfinite(piecewise).all()
    assert not np.array_equal(whole, piecewise)
    assert np.array_equal(piecewise, fitted(bptt_steps=4))
    monkeypatch.setattr(base, "MAX_BPTT_STEPS", longest - 1)
    monkeypatch.setattr(base, "BPTT_STEPS", 4)
    assert np.array_equal(piecewise, fitted())
    for others in ({"bidirectional": True}, {"stem": "conv"}):
        assert np.array_equal(fitted(**others), fitted(**others, bptt_steps=None))


def test_truncated_gradients_learn_what_is_near(make_sequences):
    X, _ = make_sequences(60, 40)
    y = X[:, :, 0] + 0.5 * np.roll(X[:, :, 1], 1, axis=1)
    model = LSTMRegressor(
        16, target="sequence", bptt_steps=10, alpha=0, max_iter=60, random_state=0
    )
    assert model.fit(X[:40], y[:40]).score(X[40:], y[40:]) > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(make_sequences):
    X, y = make_sequences(60, ragged=True)
    settings = {**QUICK, "dropout": 0.0}  # which is drawn where it is used
    on_cpu = LSTMClassifier(**settings, device="cpu").fit(X, y)
    on_cuda = LSTMClassifier(**settings, device="cuda").fit(X, y)
    np.testing.assert_allclose(
        on_cpu.predict_proba(X), on_cuda.predict_proba(X), atol=1e-3
    )
    assert next(on_cuda.network_.parameters()).device.type == "cpu"


# ----------------------------------------------------------------------- callbacks
@pytest.fixture
def callback():
    return pytest.importorskip("sklearn.callback", reason="new in scikit-learn 1.9")


def test_scoring_monitor_logs_every_epoch(callback, make_sequences):
    X, y = make_sequences(30)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    model = LSTMClassifier(**QUICK).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs().data_as_pandas
    epochs = log[log["task_name"] == "epoch"]
    assert len(epochs) == 12
    assert epochs["accuracy"].iloc[-1] == model.score(X, y)


def test_epochs_are_scored_before_predictions_are_drawn_to_the_mean(callback):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 12, 1))
    y = X[:, -4:].sum(axis=(1, 2)) + 2 * rng.normal(size=60)
    monitor = callback.ScoringMonitor(scoring="r2")
    model = LSTMRegressor(**QUICK | {"n_members": 2, "max_iter": 60})
    model.set_callbacks(monitor).fit(X, y)
    assert 0.01 < model.shrinkage_ < 0.99
    log = monitor.get_logs().data_as_pandas
    last = log.loc[log["task_name"] == "epoch", "r2"].iloc[-1]
    # The mean of y is the centre.
    whole = y.mean() + (model.predict(X) - y.mean()) / model.shrinkage_
    np.testing.assert_allclose(last, r2_score(y, whole), rtol=1e-5)


def test_epochs_are_scored_with_the_weights_of_fit(callback, make_sequences):
    X, y = make_sequences(30)
    weight = np.random.default_rng(0).uniform(size=30)
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        monitor = callback.ScoringMonitor(scoring={"weighted": scorer})
        model = LSTMClassifier(4, max_iter=11, random_state=0)
        model.set_fit_request(sample_weight=True).set_callbacks(monitor)
        model.fit(X, y, sample_weight=weight)
    log = monitor.get_logs().data_as_pandas
    last = log.loc[log["task_name"] == "epoch", "weighted"].iloc[-1]
    assert last == pytest.approx(model.score(X, y, sample_weight=weight))


class StopAfter:
    """A callback that asks to stop after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id == self.n_epochs - 1


@pytest.mark.usefixtures("callback")
def test_a_callback_can_stop_training(estimator, make_sequences):
    X, y = make_sequences(30)
    model = estimator(**QUICK).set_callbacks(StopAfter(4)).fit(X, y)
    assert model.n_iter_ == 4


def test_callbacks_reach_through_searches_and_pipelines(callback, make_sequences, capsys):
    pytest.importorskip("rich")
    X, y = make_sequences(30)
    pipeline = make_pipeline(LSTMClassifier(**QUICK))
    search = GridSearchCV(pipeline, {"lstmclassifier__hidden_size": [4]}, cv=2)
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=None))
    search.fit(X, y)
    assert "LSTMClassifier" in capsys.readouterr().out


# -------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": "lstn"}, "'cell' parameter of LSTM.* Did you mean 'lstm'"),
        (
            {"cell": "peepholes"},
            r"'cell' parameter .* str among \{.*'peephole'.*\}\. Got 'peepholes' "
            "instead. Did you mean 'peephole'",
        ),
        ({"recurrent_dropout": 1.0}, r"'recurrent_dropout' parameter .* range \[0"),
        ({"residual": "yes"}, "'residual' parameter .* must be an instance of 'bool'"),
        ({"stem": "convolution"}, "'stem' parameter .* Did you mean 'conv'"),
        ({"max_iter": 0}, r"'max_iter' parameter of LSTM.* must be an int in the range"),
        (
            {"device": "cuda:42"},
            r"'cuda:42' is not available here\. Available devices: cpu",
        ),
        ({"dropout": 1.0}, r"'dropout' parameter .* range \[0"),
        ({"device": "mps", "dtype": "float64"}, "has no float64"),
    ],
)
def test_bad_parameters(estimator, make_sequences, settings, message):
    with pytest.raises(ValueError, match=message):
        estimator(**settings).fit(*make_sequences(20))


def test_predict_before_fit(estimator, make_sequences):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        estimator().predict(make_sequences(5)[0])


def test_wrong_number_of_channels(estimator, make_sequences):
    X, y = make_sequences(20)
    model = estimator(**QUICK).fit(X, y)
    message = f"X has 1 channels, but {estimator.__name__} is expecting 2 channels"
    with pytest.raises(ValueError, match=message):
        model.predict(X[:, :, :1])
    with pytest.raises(ValueError, match=message):
        model.predict([row[:, :1] for row in X])


def test_y_of_another_length(estimator, make_sequences):
    X, y = make_sequences(20)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[20, 19\]"):
        estimator().fit(X, y[:-1])


@pytest.mark.parametrize("quantile", [[0.5, 1.0], [], [0.1, -0.1]])
def test_quantile_outside(make_sequences, quantile):
    with pytest.raises(ValueError, match="must lie strictly between 0 and 1"):
        LSTMRegressor(loss="quantile", quantile=quantile).fit(*make_sequences(20))


def test_quantiles_in_rows(make_sequences):
    with pytest.raises(ValueError, match="quantile must be a number or a flat list; got"):
        LSTMRegressor(loss="quantile", quantile=[[0.1, 0.5]]).fit(*make_sequences(20))
    with pytest.raises(ValueError, match=r"number or a flat list; got \{0.5\}"):
        LSTMRegressor(loss="quantile", quantile={0.5}).fit(*make_sequences(20))


def test_score_of_quantiles_of_another_number_of_targets(make_sequences):
    X, y = make_sequences(20)
    model = LSTMRegressor(**QUICK, loss="quantile", quantile=[0.1, 0.9]).fit(X, y)
    with pytest.raises(ValueError, match="y has 2 targets, but in fit it had 1"):
        model.score(X, np.column_stack([y, y]))


def test_early_stopping_needs_two_samples(estimator, make_sequences):
    X, y = make_sequences(20)
    with pytest.raises(ValueError, match="needs at least 2 distinct samples"):
        estimator(early_stopping=True).fit(X[:1], y[:1])


def test_too_few_epochs_are_warned_about(estimator, make_sequences):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        estimator(max_iter=2).fit(*make_sequences(20))


def test_other_targets_than_at_first_are_refused(make_sequences):
    X, y = make_sequences(24)
    Y = np.column_stack([y, -y, 2 * y])
    quick = {"hidden_size": 4, "max_iter": 12, "random_state": 0}
    numbers = LSTMRegressor(**quick).partial_fit(X, Y)
    with pytest.raises(ValueError, match="y has 1 targets, but the first fit"):
        numbers.partial_fit(X, y)
    one = LSTMRegressor(**quick, loss="huber", warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="y has 3 targets, but the first fit"):
        one.fit(X, Y)
    labels = (np.arange(72).reshape(24, 3) % 5 > 2).astype(int)
    several = LSTMClassifier(**quick).partial_fit(X, labels)
    for other in (labels[:, :2], labels[:, 0]):
        with pytest.raises(ValueError, match="the first fit or partial_fit was of 3 lab"):
            several.partial_fit(X, other)
    single = LSTMClassifier(**quick).partial_fit(X, labels[:, 0], classes=[0, 1])
    with pytest.raises(ValueError, match="was of one label a row"):
        single.partial_fit(X, labels)


def test_a_failed_fit_leaves_what_is_known_of_the_columns():
    values = np.random.default_rng(0).normal(size=(30, 6))
    X, y = pd.DataFrame(values, columns=list("abcdef")), np.arange(30) % 2
    model = LSTMClassifier(8, max_iter=12, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(values[:, :4], y[:3])
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X[X.columns[::-1]])


def test_a_longer_row_of_no_weight_changes_nothing():
    rng = np.random.default_rng(0)
    curve = rng.normal(size=20).cumsum()
    X = list(curve + 0.02 * rng.normal(size=(20, 20)))
    y = np.arange(20) % 2
    model = LSTMClassifier(8, max_iter=12, random_state=0).fit(X, y)
    assert model.encoder_.curve_ is not None
    weight = np.r_[np.ones(20), 0]
    longer = LSTMClassifier(8, max_iter=12, random_state=0)
    longer.fit([*X, np.zeros(23)], np.r_[y, 0], sample_weight=weight)
    beyond = [np.r_[row, row[-5:]] for row in X]  # the end of the curve goes on
    for each in (X, beyond):
        np.testing.assert_array_equal(
            longer.predict_proba(each), model.predict_proba(each)
        )


def test_integers_beyond_float64_are_classes_of_their_own():
    X = np.random.default_rng(0).normal(size=(10, 12, 2)).repeat(3, axis=0)
    labels = np.array([2**53, 2**53 + 1, 2**53 + 1] * 10)
    model = LSTMClassifier(8, max_iter=12, random_state=0).fit(X, labels)
    np.testing.assert_array_equal(model.classes_, [2**53, 2**53 + 1])
    nullable = pd.Series(labels).astype("Int64")
    assert model.fit(X, nullable).classes_.tolist() == [2**53, 2**53 + 1]
    with pytest.raises(ValueError, match=r"NaN|missing"):
        model.fit(X, nullable.where(nullable > 2**53))


def test_weights_too_large_to_be_added_up(estimator, make_sequences):
    X, y = make_sequences(20)
    with pytest.raises(ValueError, match=r"Sample weights hold 1e\+200, which is too"):
        estimator(**QUICK).fit(X, y, sample_weight=np.full(20, 1e200))


@pytest.mark.parametrize(
    "made", [np.asarray, pd.Series, pd.DataFrame, list,
             lambda dates: np.array(list(dates), dtype=object),
             lambda dates: pd.Series(dates).dt.tz_localize("UTC"),
             lambda dates: list(dates - dates[0])],
)  # fmt: skip
def test_a_regressor_takes_no_times_for_numbers(make_sequences, made):
    X, y = make_sequences(20)
    dates = made(np.datetime64("2020-01-01", "s") + y.astype("timedelta64[D]"))
    model = LSTMRegressor(**QUICK)
    with pytest.raises(ValueError, match=r"y holds times, a .* first\. Make numbers"):
        model.fit(X, dates)
    with pytest.raises(ValueError, match=r"y holds times, a .* first\. Make numbers"):
        model.fit(X, y).score(X, dates)


def test_weights_of_classes_count_in_parts_of_one_class():
    X = np.random.default_rng(0).normal(size=(60, 5))
    y = (X[:, 0] > 0).astype(int)

    def share(class_weight):
        model = LSTMClassifier(4, random_state=0, class_weight=class_weight)
        for _ in range(5):
            for label in (0, 1):
                model.partial_fit(X[y == label], y[y == label], classes=[0, 1])
        return model.predict_proba(X)[:, 1].mean()

    assert share({0: 1, 1: 1}) == share(None)
    assert share({0: 0.2, 1: 5}) > share(None) + 0.02
    assert share({0: 5, 1: 0.2}) < share(None) - 0.02


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
    ids=["inference_mode", "no_grad", "autocast", "device"],
)
@pytest.mark.parametrize(
    "settings",
    [{}, {"pooling": "attention", "layer_norm": True}, {"dtype": "float64"},
     {"dtype": "bfloat16"}, {"stem": None, "bptt_steps": 5}, {"target": "sequence"}],
    ids=str,
)  # fmt: skip
def test_the_modes_that_the_caller_is_in_change_nothing(make_sequences, settings, mode):
    X, y = make_sequences(30)
    if "target" in settings:
        y = np.repeat(y[:, None], X.shape[1], axis=1)
    model = LSTMClassifier(**QUICK, **settings)
    plain = clone(model).fit(X, y)
    expected = plain.embed(X)
    with mode():
        inside = clone(model).fit(X, y)
        twin = pickle.loads(pickle.dumps(plain))
        answers = [each.embed(X) for each in (inside, plain, twin)]
    for answer in answers:
        for row, of_plain in zip(answer, expected, strict=True):
            np.testing.assert_array_equal(row, of_plain)
    assert not any(w.is_inference() for w in twin.network_.parameters())


@pytest.mark.parametrize("kind", ["array", "rows"])
def test_what_a_mask_hides_is_missing(make_sequences, kind):
    X, _ = make_sequences(30)
    y, masked, missing = X[:, :, 0].mean(1), np.ma.masked_greater(X, 1.0), X.copy()
    missing[masked.mask] = np.nan
    masked.data[masked.mask] = 1e6
    given = (masked, missing) if kind == "array" else (list(masked), list(missing))
    a, b = (LSTMRegressor(**QUICK, missing="mask").fit(each, y) for each in given)
    np.testing.assert_array_equal(a.predict(given[0]), b.predict(given[1]))
    with pytest.raises(ValueError, match="contains NaN"):
        LSTMRegressor(**QUICK).fit(given[0], y)
    plain = np.ma.masked_array(X)
    np.testing.assert_array_equal(
        LSTMRegressor(**QUICK).fit(plain, np.ma.masked_array(y)).predict(plain),
        LSTMRegressor(**QUICK).fit(X, y).predict(X),
    )
    for model in (LSTMRegressor(**QUICK), LSTMClassifier(**QUICK)):
        labels = np.ma.masked_array((y > 0).astype(int), mask=np.arange(30) == 3)
        with pytest.raises(ValueError, match="y contains NaN"):
            model.fit(X, labels)


@pytest.mark.parametrize("target", ["single", "sequence"])
def test_targets_may_be_tensors_or_have_masks(make_sequences, target):
    X, _ = make_sequences(30)
    y = X[:, :, 0].mean(1) if target == "single" else X[:, :, 0]
    tensor, masked = torch.from_numpy(y).requires_grad_(), np.ma.masked_array(y)
    model = LSTMRegressor(**QUICK, target=target)
    expected = model.fit(X, y).embed(X)
    in_rows = list if target == "sequence" else np.asanyarray
    for each in (tensor, in_rows(tensor.detach()), masked, in_rows(masked)):
        for found, row in zip(model.fit(X, each).embed(X), expected, strict=True):
            np.testing.assert_array_equal(found, row)
    masked[3] = np.ma.masked
    for each in (masked, in_rows(masked)):
        with pytest.raises(ValueError, match="NaN"):
            model.fit(X, each)
        with pytest.raises(ValueError, match="NaN"):
            model.score(X, each)


def test_weights_behind_a_mask_are_missing(make_sequences):
    X, y = make_sequences(20)
    model = LSTMClassifier(**QUICK).fit(X, y)
    weight = np.ma.masked_array(np.ones(20), mask=np.arange(20) == 3)
    for call in (model.fit, model.score):
        with pytest.raises(ValueError, match="sample_weight contains NaN"):
            call(X, y, sample_weight=weight)


def test_a_column_of_nullable_integers_keeps_its_digits(make_sequences):
    X, y = make_sequences(20)
    ids = pd.DataFrame({"id": pd.array(2**53 + y.astype(np.int64), dtype="Int64")})
    with pytest.warns(DataConversionWarning):
        model = LSTMClassifier(**QUICK).fit(X, ids)
    assert model.classes_.tolist() == [2**53, 2**53 + 1]


def test_times_of_other_frames_are_refused():
    class Type:  # as of polars
        def is_temporal(self):
            return True

    class Frame:
        columns, dtypes, shape, ndim = ["at"], [Type()], (5, 1), 2

    with pytest.raises(ValueError, match=r"column 'at' is of type .* no real number"):
        LSTMRegressor(**QUICK).fit([Frame()] * 12, np.arange(12.0))


def test_unknown_class_in_partial_fit(make_sequences):
    X, y = make_sequences(20)
    model = LSTMClassifier(**QUICK).partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y holds classes \[5\]"):
        model.partial_fit(X, np.full(20, 5))


# ----------------------------------------------------------------------- signatures
def test_the_leaves_agree_in_what_they_share():
    classifier, regressor = (
        inspect.signature(e).parameters for e in (LSTMClassifier, LSTMRegressor)
    )
    shared = [name for name in classifier if name in regressor]
    assert shared == [name for name in regressor if name in classifier]
    assert set(classifier) - set(regressor) == {"class_weight"}
    assert set(regressor) - set(classifier) == {
        "loss", "quantile", "epsilon", "normalize_y"
    }  # fmt: skip
    # Regularisation has defaults of its own in regression.
    for name in set(shared) - {"alpha", "augment", "dropout"}:
        assert classifier[name] == regressor[name]
        assert paragraph(LSTMClassifier, name) == paragraph(LSTMRegressor, name)


def paragraph(estimator, name):
    """What the class docstring says of a parameter."""
    lines = inspect.getdoc(estimator).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{name} : "))
    stop = start + 1
    while lines[stop].startswith(" ") or not lines[stop]:
        stop += 1
    return "\n".join(lines[start:stop]).rstrip()


# ----------------------------------------------------------- what scikit-learn relies on
def test_classes_of_rows_that_count_nothing_are_known():
    X, y = np.random.default_rng(0).normal(size=(60, 6)), np.arange(60) % 3
    weight = (y != 1).astype(float)
    model = LSTMClassifier(**QUICK).fit(X, y, weight)
    assert model.classes_.tolist() == [0, 1, 2]
    proba = model.predict_proba(X)
    assert proba.shape == (60, 3)
    assert proba[:, 1].mean() < 0.2
    rare = np.zeros(60, dtype=int)
    rare[:3] = 1
    member = LSTMClassifier(4, max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        bagged = BaggingClassifier(member, 8, random_state=0).fit(X, rare)
    assert bagged.decision_function(X).shape == (60,)


def test_class_weights_may_name_classes_that_are_absent():
    X, y = np.random.default_rng(0).normal(size=(20, 6)), [0, 1] * 10
    weighted = LSTMClassifier(**QUICK, class_weight={0: 1, 1: 2, 2: 9}).fit(X, y)
    same = LSTMClassifier(**QUICK, class_weight={0: 1, 1: 2}).fit(X, y)
    np.testing.assert_array_equal(weighted.predict_proba(X), same.predict_proba(X))
    with pytest.raises(ValueError, match=r"names the classes \['1'\], which are not"):
        LSTMClassifier(class_weight={0: 1, "1": 2}).fit(X, y)


def test_score_is_of_what_was_fitted():
    X = np.random.default_rng(0).normal(size=(60, 6))
    model = LSTMRegressor(**QUICK).fit(X, X[:, 0])
    score = model.score(X, X[:, 0])
    assert (
        model.set_params(loss="quantile", quantile=[0.1, 0.9]).score(X, X[:, 0]) == score
    )
    model.fit(X, X[:, 0])
    score = model.score(X, X[:, 0])
    assert model.set_params(loss="squared_error").score(X, X[:, 0]) == score
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.score(X, X[:50, 0])


@pytest.mark.parametrize("offset", [1e8, -1e11])
def test_a_small_spread_on_a_large_offset_is_standardised(offset):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6))
    y = X[:, 0] + X[:, -1]
    model = LSTMRegressor(4, max_iter=60, n_members=1, random_state=0)
    assert model.fit(X + offset, y + offset).score(X + offset, y + offset) > 0.4
    model.fit(np.full((80, 6), offset), y)
    assert np.isfinite(model.predict(np.full((1, 6), offset))).all()


def test_targets_too_large_to_be_normalised():
    X = np.random.default_rng(0).normal(size=(20, 6))
    with pytest.raises(
        ValueError, match=r"y holds 1\.9e\+161 in absolute value, which is"
    ):
        LSTMRegressor(**QUICK).fit(X, np.arange(20) * 1e160)


def test_labels_of_a_panel_in_another_order():
    X = pd.concat({i: pd.DataFrame({"u": np.full(3, float(i))}) for i in (3, 1, 2, 0)})
    y = pd.Series([0, 1, 0, 1], index=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="instances in another order"):
        LSTMClassifier(**QUICK).fit(X, y)
    fitted = LSTMClassifier(**QUICK).fit(X, y.loc[[3, 1, 2, 0]])
    numbered = LSTMClassifier(**QUICK).fit(X, [1, 1, 0, 0]).predict_proba(X)
    np.testing.assert_array_equal(fitted.predict_proba(X), numbered)
    for model in (fitted, LSTMRegressor(**QUICK).fit(X, y.loc[[3, 1, 2, 0]])):
        with pytest.raises(ValueError, match="instances in another order"):
            model.score(X, y)
        model.score(X, y.loc[[3, 1, 2, 0]])


def test_weights_of_a_panel_in_another_order(estimator):
    X = pd.concat({i: pd.DataFrame({"u": np.full(3, float(i))}) for i in (3, 1, 2, 0)})
    y, weight = [0, 1, 0, 1], pd.Series([5.0, 1, 2, 3], index=[0, 1, 2, 3])
    model = estimator(**QUICK)
    right = weight.loc[[3, 1, 2, 0]]
    expected = outputs(model.fit(X, y, sample_weight=right.to_numpy()), X)
    np.testing.assert_array_equal(
        outputs(model.fit(X, y, sample_weight=right), X), expected
    )
    model.score(X, y, sample_weight=right)
    for use in (model.fit, model.partial_fit, model.score):
        with pytest.raises(
            ValueError, match=r"X and sample_weight have .* Call sample_weight\.loc\[X\."
        ):
            use(X, y, sample_weight=weight)


def test_a_parameter_of_a_subclass_needs_no_constraint():
    class Named(LSTMClassifier):
        def __init__(self, a_name=None, cell="lstm"):
            super().__init__(cell=cell)
            self.a_name = a_name

    with pytest.raises(ValueError, match=r"'cell' parameter .* Did you mean 'gru'\?"):
        Named("x", cell="gruu").fit(np.zeros((4, 3)), [0, 1, 0, 1])


def test_tags_say_what_tokens_may_be(estimator):
    tags = get_tags(estimator(missing="mask")).input_tags
    assert tags.three_d_array
    assert tags.allow_nan
    tags = get_tags(estimator(stem="embedding", missing="mask")).input_tags
    assert not tags.three_d_array
    assert not tags.allow_nan


def test_a_frame_without_an_index_and_a_series():
    class Table:  # as of pyarrow or polars
        columns = ("a", "b")

        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return self.values if dtype is None else self.values.astype(dtype)

        def __len__(self):
            return len(self.values)

    X = np.random.default_rng(0).normal(size=(20, 2))
    y = pd.Series(X[:, 0] > 0)
    model = LSTMClassifier(**QUICK).fit(Table(X), y)
    np.testing.assert_array_equal(
        model.predict(X), LSTMClassifier(**QUICK).fit(X, y).predict(X)
    )


@pytest.mark.parametrize("values", [(-1, 1), (0, 2)])
def test_an_indicator_of_other_numbers_is_refused(values):
    X = np.random.default_rng(0).normal(size=(20, 5))
    with pytest.raises(ValueError, match=r"label indicator holds 0 and 1; y holds \["):
        LSTMClassifier(**QUICK).fit(X, np.where(X[:, :3] > 0, *values))


def test_an_interrupted_epoch_leaves_no_trace(monkeypatch):
    X = np.random.default_rng(0).normal(size=(60, 5))
    validate, calls = base._validate, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return validate(*args)

    monkeypatch.setattr(base, "_validate", interrupted)
    model = LSTMClassifier(**QUICK, early_stopping=True)
    with pytest.warns(UserWarning, match="interrupted in epoch 4 of 12"):
        model.fit(X, X[:, 0] > 0)
    assert len(model.loss_curve_) == len(model.validation_scores_) == model.n_iter_ == 3


def test_what_fails_after_a_refit_leaves_the_refit(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(20, 7))
    model = LSTMClassifier(**QUICK, checkpoint=tmp_path / "fit")
    model.fit(X[:, :5], X[:, 0] > 0)

    def refuse(self):
        raise OSError("the file is in use")

    monkeypatch.setattr(base.Checkpoint, "remove", refuse)
    with pytest.raises(OSError, match="in use"):
        model.fit(X, X[:, 0] > 0)
    assert model.n_features_in_ == 7
    assert model.predict(X).shape == (20,)


def test_hooks_of_the_network_are_called_in_predict():
    X = np.random.default_rng(0).normal(size=(20, 5))
    model = LSTMClassifier(**QUICK).fit(X, X[:, 0] > 0)
    seen = []
    model.network_.register_forward_hook(lambda *given: seen.append(given))
    model.predict(X)
    assert len(seen) == 1


def test_a_series_of_arrays_is_read_as_a_list_of_them():
    rows = [np.random.default_rng(i).normal(size=(2, 5)) for i in range(20)]
    model = LSTMClassifier(**QUICK, layout="channel-major")
    model.fit(pd.Series(rows), [0, 1] * 10)
    assert (model.n_channels_in_, model.n_timesteps_in_) == (2, 5)


def test_frames_of_categories_and_times():
    number = pd.DataFrame({c: pd.Categorical([0, 1] * 20) for c in "ab"})
    y = [0, 1] * 20
    found = LSTMClassifier(**QUICK, missing="mask").fit(number, y).predict_proba(number)
    plain = number.astype(float)
    expected = LSTMClassifier(**QUICK, missing="mask").fit(plain, y).predict_proba(plain)
    np.testing.assert_array_equal(found, expected)
    days = pd.DataFrame({c: pd.date_range("2020", periods=40) for c in "ab"})
    with pytest.raises(ValueError, match="X holds times, of type datetime64"):
        LSTMClassifier(**QUICK).fit(days, y)


def test_read_only_settings():
    vectors = np.eye(3)
    vectors.flags.writeable = False
    tokens = np.array([[1, 2], [2, 1]] * 10)
    LSTMClassifier(**QUICK, stem="embedding", embedding=vectors).fit(tokens, [0, 1] * 10)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        LSTMClassifier(stem="embedding", embedding=np.eye(1)).fit(tokens, [0, 1] * 10)


@pytest.mark.parametrize("seed", range(5))
def test_what_weighs_nothing_is_not_held_out(seed):
    X = np.random.default_rng(0).normal(size=(40, 12))
    y = np.array(["none"] * 36 + ["a"] * 2 + ["b"] * 2)
    model = LSTMClassifier(
        2, class_weight={"none": 0}, early_stopping=True, max_iter=11, random_state=seed
    )
    assert len(model.fit(X, y).validation_scores_) == model.n_iter_


def test_training_is_given_the_parameters(monkeypatch):
    given = {
        "solver": "sgd", "learning_rate": "constant", "learning_rate_init": 0.02,
        "alpha": 0.3, "tol": 0.7, "max_grad_norm": 0.4, "n_iter_no_change": 3,
        "max_iter": 12,
    }  # fmt: skip
    train, seen = base.train, []

    def spied(network, loss, learners, **settings):
        seen.append((learners[0].batches, network.config, settings))
        return train(network, loss, learners, **settings)

    monkeypatch.setattr(base, "train", spied)
    X = np.random.default_rng(0).normal(size=(40, 5))
    dropouts = {"dropout": 0.1, "recurrent_dropout": 0.2, "variational_dropout": True}
    settings = {"batch_size": 7, "stem": None, "num_layers": 2, "random_state": 0}
    LSTMRegressor(4, **given, **settings, **dropouts).fit(X, X[:, 0])
    (batches, config, settings) = seen[0]
    assert {name: settings[name] for name in given} == given
    assert len(batches) == -(-40 // 7)
    assert {name: config[name] for name in dropouts} == dropouts
    assert not settings["bfloat16"]
    LSTMRegressor(4, max_iter=12, dtype="bfloat16").fit(X, X[:, 0])
    assert seen[1][2]["bfloat16"]


@pytest.fixture
def trainings(monkeypatch):
    """What each training was given: its learners and settings."""
    train, seen = base.train, []

    def spied(network, loss, learners, **settings):
        seen.append((learners, settings))
        return train(network, loss, learners, **settings)

    monkeypatch.setattr(base, "train", spied)
    return seen


@pytest.mark.parametrize(("n", "expected"), [(5, 5), (30, 8), (200, 25), (900, 64)])
def test_batches_are_an_eighth_of_the_rows_within_bounds(trainings, n, expected):
    X = np.random.default_rng(0).normal(size=(n, 3))
    LSTMRegressor(2, max_iter=11, random_state=0).fit(X, X[:, 0])
    (learners, _), *_ = trainings
    assert learners[0].batches.batch_size == expected


def test_partial_fit_goes_on_with_the_moments_of_the_optimizer(trainings, make_sequences):
    X, y = make_sequences(20)
    model = LSTMClassifier(4, random_state=0).partial_fit(X, y)
    kept = model._optimizer_state
    model.partial_fit(X, y)
    first, second = (settings["optimizer_state"] for _, settings in trainings)
    assert first is None
    assert second is kept
    assert kept["n_steps"] == 3  # of 20 rows in batches of 8
    assert model._optimizer_state["n_steps"] == 6


@pytest.mark.parametrize(
    ("n_timesteps", "bptt_steps", "expected"),
    [(2000, "auto", None), (2001, "auto", 500), (2001, None, None), (50, 20, 20),
     (50, 50, None)],
)  # fmt: skip
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_truncated_where_sequences_are_long(
    monkeypatch, n_timesteps, bptt_steps, expected, causal
):
    seen = []

    def noted(self, loss, n_steps, *arguments):
        seen.append(n_steps)

    monkeypatch.setattr(RecurrentNetwork, "differentiate_truncated", noted)
    X = np.random.default_rng(0).normal(size=(2, n_timesteps))
    settings = {"stem": None, "max_iter": 1, "bptt_steps": bptt_steps, "random_state": 0}
    with pytest.warns(ConvergenceWarning):
        LSTMRegressor(2, bidirectional=not causal, **settings).fit(X, [0, 1])
    assert seen == [expected] * (expected is not None and causal)


def test_what_is_varied_is_not_read_beside_its_deviations():
    X = 0.01 * np.random.default_rng(0).normal(size=(20, 40)) + np.cos(np.arange(40))
    y = np.arange(20) % 2
    for augment, expected in (("auto", True), (None, True), ("jitter", False)):
        model = LSTMClassifier(3, max_iter=11, random_state=0, augment=augment).fit(X, y)
        assert (model.encoder_.curve_ is not None) == expected


def test_a_longer_row_of_no_weight_does_not_choose_the_stem():
    X = np.cos(np.arange(6)) + 0.01 * np.random.default_rng(0).normal(size=(20, 6))
    settings = {"hidden_size": 2, "max_iter": 11, "random_state": 0}
    model = LSTMRegressor(**settings).fit(X, X[:, 0])
    longer = LSTMRegressor(**settings)
    longer.fit([*X, np.zeros(300)], np.r_[X[:, 0], 0], np.r_[np.ones(20), 0])
    assert longer.stem_ is None  # of 6 steps
    assert longer.encoder_.curve_ is None  # only convolutions read deviations
    np.testing.assert_array_equal(longer.predict(X), model.predict(X))


def test_the_width_of_the_huber_loss_is_not_changed_by_training_on():
    X = np.random.default_rng(0).normal(size=(20, 5))
    model = LSTMRegressor(**QUICK, loss="huber", epsilon=0.5).fit(X, X[:, 0])
    with pytest.raises(
        ValueError, match=r"epsilon is 2\.0, but what was fitted has 0\.5"
    ):
        model.set_params(epsilon=2.0).partial_fit(X, X[:, 0])


def test_score_of_quantiles_is_the_mean_skill_with_weights():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(60, 6)), rng.uniform(size=60)
    levels = [0.2, 0.7]
    model = LSTMRegressor(**QUICK, loss="quantile", quantile=levels).fit(X, X[:, 0])
    predicted = model.predict(X)
    for given in (None, weight):
        expected = np.mean(
            [
                d2_pinball_score(X[:, 0], column, sample_weight=given, alpha=alpha)
                for column, alpha in zip(predicted.T, levels, strict=True)
            ]
        )
        assert model.score(X, X[:, 0], sample_weight=given) == pytest.approx(expected)


def test_only_the_relation_of_weights_counts():
    rng = np.random.default_rng(0)
    X, weight = 5 + 3 * rng.normal(size=(40, 5)), rng.uniform(1, 2, size=40)
    model = LSTMRegressor(**QUICK).fit(X, X[:, 0], weight)
    small = LSTMRegressor(**QUICK).fit(X, X[:, 0], weight * 2.0**-20)
    np.testing.assert_allclose(small.predict(X), model.predict(X), rtol=1e-4)
