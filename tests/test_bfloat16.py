"""Products of pairs in bfloat16: what float32 says, as far as 8 bits go."""

import contextlib
import functools

import numpy as np
import pandas as pd
import pytest
import torch

from sklstm import LSTMClassifier, LSTMForecaster, LSTMRegressor, kernels
from sklstm.gradients import ForecastGradients, differentiate
from sklstm.modules import CELLS
from sklstm.network import ForecastNetwork, RecurrentNetwork, initialize

needs_pairs = pytest.mark.skipif(
    not kernels.multiply_in_bfloat16(),
    reason="this processor does not multiply in bfloat16",
)
# (n_timesteps, n_rows, n_inputs, hidden_size): odd numbers of terms and of rows, and
# more of both than are rounded at a time.
SHAPES = [
    (3, 9, 1, 1), (5, 13, 3, 17), (4, 70, 50, 33), (3, 131, 300, 20), (2, 3, 7, 290),
]  # fmt: skip


def distance(a, b):
    """Relative to the size of b."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-3))


def make(shape, cell, seed=0):
    n_timesteps, n_rows, n_inputs, hidden_size = shape
    generator = torch.Generator().manual_seed(seed)
    layer = CELLS[cell](n_inputs, hidden_size)
    for parameter in layer.parameters():
        torch.nn.init.normal_(
            parameter, std=parameter.shape[-1] ** -0.5, generator=generator
        )
    x = torch.randn(n_timesteps, n_rows, n_inputs, generator=generator)
    return layer, x, torch.randn(n_timesteps, n_rows, hidden_size, generator=generator)


def in_both(run):
    """Return what a function says in float32 and in bfloat16."""
    found = [run()]
    with kernels.in_bfloat16():
        assert kernels.library().sklstm_pairs()
        found.append(run())
    assert not kernels.library().sklstm_pairs()
    return found


@needs_pairs
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_layers_and_their_gradients_are_those_of_float32(cell, shape):
    layer, x, upstream = make(shape, cell)
    x.requires_grad_()

    def run():
        output, (last, *_) = kernels.layer(x, None, *layer.weights)
        loss = (output * upstream).sum() + last.sum()
        return output, last, *torch.autograd.grad(loss, [x, *layer.weights])

    for exact, found in zip(*in_both(run), strict=True):
        assert found.dtype == torch.float32
        assert distance(found, exact) < 0.015


@needs_pairs
@pytest.mark.parametrize("shape", SHAPES)
def test_what_needs_no_rounding_is_exact(shape):
    # Products of two numbers of 8 bits have 16, and their sums are of floats.
    _, x, _ = make(shape, "lstm")
    weight = torch.randn(shape[3], shape[2], generator=torch.Generator().manual_seed(1))
    x, weight = x.bfloat16().float(), weight.bfloat16().float()
    with torch.no_grad(), kernels.in_bfloat16():
        found = kernels.affine(x, weight)
    assert distance(found, x.double() @ weight.double().t()) < 1e-6


@needs_pairs
@pytest.mark.parametrize("cell", CELLS)
def test_activations_are_those_of_float32(cell):
    # Without weights nothing is rounded but them: sums are of biases and peepholes.
    layer, x, upstream = make((3, 40, 5, 16), cell)
    with torch.no_grad():
        for parameter in layer.weights[:2]:
            parameter.zero_()
        layer.weights[2].copy_(torch.linspace(-9, 9, len(layer.weights[2])))

    def run():
        output = kernels.layer(x, None, *layer.weights)[0]
        return output, *torch.autograd.grad((output * upstream).sum(), layer.weights[2:])

    for exact, found in zip(*in_both(run), strict=True):
        assert distance(found, exact) < 2e-6


@needs_pairs
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_is_computed_alike_in_any_batch(cell):
    layer, x, _ = make((6, 40, 19, 32), cell)
    with kernels.in_bfloat16():
        whole = kernels.layer(x, None, *layer.weights)[0]
        for rows in (slice(0, 1), slice(3, 7), slice(11, 40)):
            part = kernels.layer(x[:, rows], None, *layer.weights)[0]
            assert torch.equal(part, whole[:, rows])


@needs_pairs
@pytest.mark.parametrize("n_inputs", [1, 5, 33])
def test_what_lies_beside_the_numbers_is_not_read(n_inputs):
    layer, x, upstream = make((4, 9, n_inputs, 21), "lstm")
    wide = torch.full((4, 10, n_inputs + 40), torch.nan)
    view = wide[:, :9, :n_inputs].copy_(x).requires_grad_()

    def run():
        output = kernels.layer(view, None, *layer.weights)[0]
        return output, *torch.autograd.grad(
            (output * upstream).sum(), [view, *layer.weights]
        )

    for exact, found in zip(*in_both(run), strict=True):
        assert distance(found, exact) < 0.015


NETWORKS = [
    {"stem": "conv", "strides": (1, 2, 1), "bidirectional": True, "pooling": "mean-max"},
    {"stem": "conv", "strides": (1, 1, 1), "n_channels": 1, "num_layers": 2},
    {"stem": "linear", "cell": "gru", "num_layers": 2, "bidirectional": True},
    {"cell": "peephole", "recurrent_dropout": 0.3},
]


@needs_pairs
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_networks_and_their_gradients_are_those_of_float32(settings, ragged):
    generator = torch.Generator().manual_seed(0)
    base = {
        "n_channels": 3, "n_outputs": 2, "hidden_size": 21, "num_layers": 1,
        "cell": "lstm", "bidirectional": False, "dropout": 0.3, "stem": None,
        "pooling": "last", "strides": (), "n_tokens": 0,
    }  # fmt: skip
    network = RecurrentNetwork(**base | settings)
    initialize(network, generator)
    lengths = torch.tensor([11, 9, 9, 8, 5, 3, 1]) if ragged else None
    x = torch.randn(7, 11, network.config["n_channels"], generator=generator)
    if ragged:
        x[torch.arange(11) >= lengths[:, None]] = 0
    target = torch.randn(7, 2, generator=generator)

    def gradient(raw, target, _):
        return (raw - target).square().mean(), 2 * (raw - target) / raw.numel()

    def run():
        for p in network.train().parameters():
            p.grad = torch.zeros_like(p)
        dropout = torch.Generator().manual_seed(1)
        loss = differentiate(network, gradient, (x, lengths), target, None, dropout)
        return loss, *(p.grad for p in network.parameters())

    # What changes sides of a rectifier or a maximum has another gradient.
    limit = 0.15 if network.config["stem"] == "conv" else 0.03
    for exact, found in zip(*in_both(run), strict=True):
        assert distance(found, exact) < limit

    def answer():
        with torch.no_grad():
            return network.train().eval()(x, lengths)  # laid out anew

    exact, found = in_both(answer)
    assert not torch.equal(found, exact)
    assert distance(found, exact) < 0.01


@needs_pairs
@pytest.mark.parametrize("settings", [{}, {"segment_length": 4, "linear_length": 3}])
def test_forecasts_and_their_gradients_are_those_of_float32(settings):
    generator = torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=generator)
    base = {
        "n_inputs": 3, "n_future": 1, "horizon": 5, "n_quantiles": 7, "hidden_size": 21,
        "segment_length": 1, "linear_length": 0, "num_layers": 2, "cell": "lstm",
        "dropout": 0.0,
    }  # fmt: skip
    network = ForecastNetwork(**base | settings)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    inputs = randn(9, 8, 3), randn(9, 5, 4), randn(9, 5, 1)
    target, weight = randn(9, 5), randn(9, 5).square()

    def run():
        for p in network.train().parameters():
            p.grad = torch.zeros_like(p)
        loss = ForecastGradients(network, np.arange(1, 8) / 8)(inputs, target, weight)
        return loss, *(p.grad for p in network.parameters())

    for exact, found in zip(*in_both(run), strict=True):
        # A number that changes sides of a quantile has another slope.
        assert distance(found, exact) < 0.06

    def answer():
        with torch.no_grad():
            return network.train().eval()(*inputs)

    exact, found = in_both(answer)
    assert distance(found, exact) < 0.01


@pytest.fixture
def steps_taken(monkeypatch):
    """Of each pass of a layer whether it is kept for the way back, and of pairs."""
    forward, seen = kernels.forward, []

    def spied(native, *args, keep, **kwargs):
        seen.append((keep, bool(native.sklstm_pairs())))
        return forward(native, *args, keep=keep, **kwargs)

    monkeypatch.setattr(kernels, "forward", spied)
    return seen


@needs_pairs
def test_training_multiplies_so_and_nothing_else(steps_taken, make_sequences):
    X, y = make_sequences(40)
    settings = {"hidden_size": 8, "stem": None, "max_iter": 30, "random_state": 0}
    model = LSTMClassifier(**settings, dtype="bfloat16", early_stopping=True).fit(X, y)
    assert steps_taken
    assert all(of_pairs == is_training for is_training, of_pairs in steps_taken)
    expected = model.predict_proba(X)
    np.testing.assert_array_equal(
        model.set_params(dtype="float32").predict_proba(X), expected
    )


@pytest.mark.parametrize("is_there", [pytest.param(True, marks=needs_pairs), False])
def test_a_machine_without_it_leaves_it_to_torch(is_there, monkeypatch, make_sequences):
    X, _ = make_sequences(40)
    y, used = X[:, :, 0].mean(1), []
    monkeypatch.setattr(kernels, "multiply_in_bfloat16", lambda: is_there)
    autocast = torch.autocast

    @contextlib.contextmanager
    def spied(*args, **kwargs):
        used.append(args)
        with autocast(*args, **kwargs):
            yield

    monkeypatch.setattr(torch, "autocast", spied)
    settings = {"hidden_size": 8, "max_iter": 30, "random_state": 0}
    model = LSTMRegressor(**settings, dtype="bfloat16").fit(X, y)
    assert (("cpu", torch.bfloat16) in used) != is_there
    assert all(p.dtype == torch.float32 for p in model.network_.parameters())
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("is_there", [pytest.param(True, marks=needs_pairs), False])
def test_a_forecaster_trains_so_and_forecasts_in_float32(is_there, monkeypatch):
    if not is_there:
        monkeypatch.setattr(kernels, "multiply_in_bfloat16", lambda: False)
    noise = np.random.default_rng(0).normal(size=300)
    y = pd.Series(np.sin(np.arange(300) / 3) + 0.1 * noise)
    settings = {"hidden_size": 8, "max_steps": 200, "random_state": 0}
    exact, model = (
        LSTMForecaster(**settings, dtype=dtype).fit(y[:280], fh=range(1, 21))
        for dtype in ("float32", "bfloat16")
    )
    errors = [np.abs(each.predict() - y[280:]).mean() for each in (exact, model)]
    assert errors[0] != errors[1]
    assert max(errors) < 0.2
    expected = model.predict()
    model.dtype = "float32"  # by `set_params` it would be unfitted
    pd.testing.assert_series_equal(model.predict(), expected)
