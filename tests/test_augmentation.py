"""What varies a batch in training, and what it must leave alone."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from sklstm import LSTMClassifier, LSTMRegressor
from sklstm.augmentation import (
    AUGMENTATIONS,
    AugmentedBatches,
    mixed_gradient,
    mixed_loss,
    resampled,
    warped,
)
from sklstm.heads import ClassificationHead, RegressionHead

ALL = list(AUGMENTATIONS)
QUICK = {"hidden_size": 6, "max_iter": 12, "random_state": 0}
LENGTHS = torch.tensor([12, 9, 5, 1])


def batch(missing=False):
    """Four rows of 12 steps and 2 channels, ragged; zero where padded or missing."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 12, 2, generator=generator)
    inside = (torch.arange(12) < LENGTHS[:, None])[:, :, None]
    if missing:
        absent = torch.rand(x.shape, generator=generator) < 0.3
        absent[3] = False  # it is one step long
        x = torch.cat([x * ~absent, absent.float()], dim=2)
    return x * inside, inside


def varied(names, x, lengths=LENGTHS, seed=0, n_channels=2):
    target, weight = torch.arange(len(x)), torch.ones(len(x))
    batches = [((x, lengths), target, weight, len(x))]
    generator = torch.Generator().manual_seed(seed)
    augmented = AugmentedBatches(batches, names, n_channels, generator)
    assert len(augmented) == 1
    return next(iter(augmented))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", [*AUGMENTATIONS, None])
def test_rows_vary_within_their_length_and_nothing_else(name, missing):
    x, inside = batch(missing)
    before = x.clone()
    names = ALL if name is None else [name]
    (out, lengths), *_ = varied(names, x)
    assert torch.equal(x, before)  # batches may be views of the data
    assert lengths is LENGTHS
    assert out.shape == x.shape
    assert not out[~inside.expand_as(out)].any()
    assert (out[:3] != x[:3]).flatten(1).any(1).all()
    again, other = (varied(names, x, seed=seed)[0][0] for seed in (0, 1))
    assert torch.equal(out, again)
    assert not torch.equal(out, other)
    if missing:
        values, absent = out.split(2, 2)
        assert set(absent.unique().tolist()) <= {0.0, 1.0}
        assert not values[absent == 1].any()  # what is missing has no value
        if name in ("jitter", "scaling", "mixup"):
            assert torch.equal(absent, x[:, :, 2:])


def test_a_row_does_not_depend_on_padding():
    x, _ = batch(missing=True)
    wider = torch.cat([x, torch.zeros(4, 4, 4)], dim=1)
    names = ["scaling", "time-warp", "window-slice", "mixup"]
    narrow, wide = (varied(names, a)[0][0] for a in (x, wider))
    torch.testing.assert_close(narrow, wide[:, :12])


def test_strengths():
    x = torch.ones(5000, 4, 2)
    jittered = varied(["jitter"], x, None)[0][0]
    assert float(jittered.std()) == pytest.approx(0.05, rel=0.05)
    assert (jittered[:, :, 0] != jittered[:, :, 1]).all(1).float().mean() > 0.9
    scaled = varied(["scaling"], x, None)[0][0]
    assert float(scaled.std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(scaled, scaled[:, :1].expand_as(scaled))  # a factor for all steps
    of_channels = np.corrcoef(scaled[:, 0].T)
    assert abs(of_channels[0, 1]) < 0.1
    # A line sliced and stretched is a line, nine tenths as long.
    line = torch.arange(101.0)[None, :, None].expand(200, -1, 2)
    sliced = varied(["window-slice"], line, None)[0][0][:, :, 0]
    torch.testing.assert_close(sliced[:, -1] - sliced[:, 0], torch.full((200,), 90.0))
    torch.testing.assert_close(sliced.diff(n=2), torch.zeros(200, 99), atol=1e-4, rtol=0)
    assert sliced[:, 0].min() >= 0
    assert sliced[:, 0].max() > 9
    # A line warped rises from end to end.
    bent = varied(["time-warp"], line, None)[0][0][:, :, 0]
    assert (bent.diff() > 0).all()
    torch.testing.assert_close(bent[:, [0, -1]], line[:, [0, -1], 0])
    rng = np.random.default_rng(0)
    speeds = np.exp(0.2 * rng.normal(size=(4000, 6)))
    fine = np.linspace(0, 1, 101)
    way = np.array([np.interp(fine, np.linspace(0, 1, 6), row) for row in speeds])
    way = np.cumsum(way, axis=1)
    expected = 100 * np.abs(way / way[:, -1:] - fine).max(axis=1).mean()
    far = float((bent - line[:, :, 0]).abs().amax(1).mean())
    assert far == pytest.approx(expected, rel=0.1)


def test_warping_with_even_speed_is_the_identity_and_integrates_the_speed():
    share = torch.linspace(0, 1, 50, dtype=torch.float64).expand(3, -1)
    even = torch.full((3, 6), 0.7, dtype=torch.float64)
    torch.testing.assert_close(warped(share, even), share)
    speeds = torch.rand(3, 6, dtype=torch.float64) + 0.5
    fine = torch.linspace(0, 1, 20001, dtype=torch.float64)
    at = np.array([np.interp(fine, np.linspace(0, 1, 6), row) for row in speeds])
    way = np.concatenate([np.zeros((3, 1)), (at[:, 1:] + at[:, :-1]).cumsum(1)], axis=1)
    expected = [np.interp(share[0], fine, row / row[-1]) for row in way]
    np.testing.assert_allclose(warped(share, speeds), expected, atol=1e-6)


def test_missing_is_what_is_missing_at_the_nearer_step():
    x = torch.tensor([[[2.0, 0], [0, 1], [4, 0]]])  # 2, missing, 4
    positions = torch.tensor([[0.0, 0.4, 0.6, 1.0, 1.4, 1.6, 2.0]])
    out = resampled(x, positions, 1)[0]
    assert out[:, 0].tolist() == [2, 2, 0, 0, 0, 4, 4]
    assert out[:, 1].tolist() == [0, 0, 1, 1, 1, 0, 0]
    full = resampled(x[:, [0, 2], :1], torch.tensor([[0.25]]), 1)
    assert full.tolist() == [[[2.5]]]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_mixed_rows_have_the_loss_of_both_targets(kind):
    rng = np.random.default_rng(0)
    y = {
        "binary": np.arange(6) % 2, "multiclass": np.arange(6) % 3,
        "multilabel": rng.integers(2, size=(6, 3)), "regression": rng.normal(size=6),
    }[kind]  # fmt: skip
    if kind == "regression":
        head = RegressionHead("squared_error", 0.5, 1.35, True).fit(y, np.ones(6))
    else:
        head = ClassificationHead().fit(y)
    target = torch.from_numpy(head.encode(y))
    weight = torch.from_numpy(rng.uniform(size=target.shape if y.ndim > 1 else 6))
    x = torch.from_numpy(rng.normal(size=(6, 4, 2)))
    batches = [((x, None), target, weight, 6)]
    generator = torch.Generator().manual_seed(0)
    (mixed, _), targets, weights, _ = next(
        iter(AugmentedBatches(batches, ["mixup"], 2, generator))
    )
    share = (weights[0] / weight).reshape(6, -1)[:, 0]
    assert ((share >= 0.5) & (share <= 1)).all()
    partner = [
        next(j for j in range(6) if torch.allclose(
            mixed[i], share[i] * x[i] + (1 - share[i]) * x[j]
        ))
        for i in range(6)
    ]  # fmt: skip
    assert torch.equal(targets[0], target)
    assert torch.equal(targets[1], target[partner])
    raw = torch.from_numpy(rng.normal(size=(6, head.n_raw))).requires_grad_()
    loss = mixed_loss(head.loss, raw, targets, weights)
    own = head.loss(raw, target, weight)
    other = head.loss(raw, target[partner], weight[partner])
    torch.testing.assert_close(loss, share * own + (1 - share) * other)
    value, gradient = mixed_gradient(head.loss_gradient, raw.detach(), targets, weights)
    torch.testing.assert_close(value, loss.mean().detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(loss.mean(), raw)[0])


def test_a_row_is_mixed_with_another_and_keeps_what_that_one_misses():
    x = torch.tensor([[[1.0, 0], [1, 0], [0, 1]], [[5, 0], [0, 1], [5, 0]]])
    for seed in range(20):
        (mixed, _), (_, partner), (own, _), _ = varied(["mixup"], x, None, seed, 1)
        assert partner.tolist() == [1, 0]
        first = 1 * own[0] + 5 * (1 - own[0])
        second = 5 * own[1] + 1 * (1 - own[1])
        expected = [[[first, 0], [1, 0], [0, 1]], [[second, 0], [0, 1], [5, 0]]]
        torch.testing.assert_close(mixed, torch.tensor(expected))


@pytest.mark.parametrize("stem", [None, "conv"])
@pytest.mark.parametrize("estimator", [LSTMClassifier, LSTMRegressor])
def test_estimators_train_on_varied_ragged_rows_with_gaps(
    make_sequences, estimator, stem
):
    X, y = make_sequences(40, ragged=True)
    for row in X[::3]:
        row[1, 0] = np.nan
    model = estimator(**QUICK, stem=stem, missing="mask", augment=ALL)
    state = torch.random.get_rng_state()
    said = [model.fit(X, y).predict(X) for _ in range(2)]
    np.testing.assert_array_equal(*said)
    assert torch.equal(torch.random.get_rng_state(), state)
    plain = estimator(**QUICK, stem=stem, missing="mask").fit(X, y)
    assert not np.array_equal(plain.embed(X), model.embed(X))
    model.partial_fit(X, y)
    assert np.isfinite(model.loss_)


def test_weights_and_order_hold_with_augmentation(make_sequences):
    X, y = make_sequences(20)
    weight = np.arange(20) % 3
    rng = np.random.default_rng(0)
    repeated = rng.permutation(np.repeat(np.arange(20), weight))
    for oversample in (False, True):
        model = LSTMClassifier(**QUICK, augment=ALL, oversample=oversample)
        weighted = model.fit(X, y, weight).decision_function(X)
        again = model.fit(X[repeated], y[repeated]).decision_function(X)
        np.testing.assert_array_equal(weighted, again)


def long_rows(n=128, n_timesteps=64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, n_timesteps, 1)), np.arange(n) % 2


@pytest.mark.parametrize(
    ("change", "settings", "same"),
    [
        ({}, {}, "time-warp"),
        ({"n": 127}, {"n_members": 1}, None),
        ({"n_timesteps": 63}, {}, None),
        ({}, {"stem": None}, None),
        ({}, {"stem": "conv", "target": "sequence"}, None),
    ],
)
def test_auto_warps_many_long_sequences_that_convolutions_read(change, settings, same):
    X, y = long_rows(**change)
    if "target" in settings:
        y = np.repeat(y[:, None], X.shape[1], axis=1)
    settings = {"hidden_size": 3, "max_iter": 1, "random_state": 0} | settings
    losses = []
    for augment in ("auto", same):
        with pytest.warns(ConvergenceWarning):
            model = LSTMClassifier(**settings, augment=augment).fit(X, y)
        losses.append(model.loss_)
    assert losses[0] == losses[1]


def test_of_few_sequences_the_first_network_reads_them_as_they_are():
    X, y = long_rows(n=127)
    warped, as_they_are, by_default = (
        LSTMClassifier(3, max_iter=11, random_state=0, n_members=3, augment=augment)
        .fit(X, y)
        .network_.members
        for augment in ("time-warp", None, "auto")
    )
    alike = as_they_are[0], warped[1], warped[2]
    for member, same, other in zip(by_default, alike, warped, strict=True):
        weight = member.readout.weight
        assert torch.equal(weight, same.readout.weight)
        assert torch.equal(weight, other.readout.weight) == (same is other)


def test_spectra_are_not_warped():
    X, y = long_rows()
    X = 0.01 * X + np.cos(np.arange(64))[:, None]
    losses = []
    for augment in ("auto", None):
        model = LSTMClassifier(3, max_iter=1, random_state=0, augment=augment)
        with pytest.warns(ConvergenceWarning):
            losses.append(model.fit(X, y).loss_)
        assert model.encoder_.curve_ is not None
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "jiter"}, "Did you mean 'jitter'\\?"),
        ({"augment": ["jitter", "flip"]}, "augment must hold names among .*got 'flip'"),
        ({"augment": "mixup", "stem": "embedding"}, "varies numbers; .*token_dropout"),
        ({"augment": ["mixup"], "target": "sequence"}, "moves or mixes time steps"),
        ({"augment": "time-warp", "target": "sequence"}, "leave them where they are"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LSTMClassifier(**settings).fit(np.ones((4, 9), dtype=int), [0, 1, 0, 1])


def test_jitter_and_scaling_serve_targets_per_step(make_sequences):
    X, _ = make_sequences(20)
    model = LSTMRegressor(
        **QUICK, target="sequence", augment=("scaling", "jitter"), missing="mask"
    )
    assert model.fit(X, X[:, :, 0]).predict(X).shape == (20,)
