"""The compiled layers say what torch and their equations say."""

import copy
import functools
import os
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sklstm import LSTMClassifier, kernels, laid_out
from sklstm.devices import torch_threads
from sklstm.gradients import ForecastGradients, _learning_agrees, differentiate
from sklstm.heads import (
    ClassificationHead,
    ForecastHead,
    RegressionHead,
    step_gradient,
    step_loss,
)
from sklstm.modules import (
    CELLS,
    ConvStem,
    LSTMLayer,
    Recurrence,
    conv_kernel_sizes,
    conv_strides,
    step_mask,
)
from sklstm.network import ForecastNetwork, RecurrentNetwork, _one_call_agrees, initialize

needs_library = pytest.mark.skipif(
    kernels.library() is None, reason="compiled kernels are not installed"
)
# (n_timesteps, n_rows, n_inputs, hidden_size): whole vectors and not, few rows and many.
SHAPES = [(1, 1, 1, 1), (7, 5, 3, 10), (11, 13, 9, 16), (6, 33, 2, 40), (5, 20, 17, 64)]


def make(shape, cell="lstm", seed=0):
    n_timesteps, n_rows, n_inputs, hidden_size = shape
    torch.manual_seed(seed)
    layer = torch.nn.LSTM(n_inputs, hidden_size)
    if cell != "lstm":
        layer = CELLS[cell](n_inputs, hidden_size)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(n_timesteps, n_rows, n_inputs, requires_grad=True)
    return layer, x, torch.randn(n_timesteps, n_rows, hidden_size)


def gradients(loss, x, layer):
    return torch.autograd.grad(loss, [x, *layer.parameters()])


def distance(a, b):
    """Relative to the size of b."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-3))


@needs_library
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("use", ["output", "last", "both"])
def test_agrees_with_torch_and_float64(shape, use):
    layer, x, upstream = make(shape)

    def loss(output, last):
        total = 0
        if use != "last":
            total = total + (output * upstream.to(output.dtype)).sum()
        if use != "output":
            total = total + (last * upstream[0].to(last.dtype)).sum()
        return total

    output, (last, _) = layer(x)
    ours, state = kernels.layer(x, None, *layer.parameters())
    ours = ours, state[0]
    exact_layer = torch.nn.LSTM(*layer.weight_ih_l0.shape[1:], layer.hidden_size).double()
    exact_layer.load_state_dict(layer.state_dict())
    exact_x = x.detach().double().requires_grad_()
    exact, (exact_last, _) = exact_layer(exact_x)
    assert distance(ours[0], exact) < 1e-6
    assert distance(ours[1], exact_last[0]) < 1e-6
    got = gradients(loss(*ours), x, layer)
    for a, b, c in zip(
        got,
        gradients(loss(output, last[0]), x, layer),
        gradients(loss(exact, exact_last[0]), exact_x, exact_layer),
        strict=True,
    ):
        assert distance(a, b) < 1e-6
        assert distance(a, c) < 1e-5


def peephole_equations(x, w_ih, w_hh, b_ih, b_hh, w_ch):
    """Gers & Schmidhuber (2000): one row, x (T, I) -> states (T, H)."""
    h = c = x.new_zeros(w_hh.shape[1])
    states = []
    for x_t in x:
        i, f, g, o = (w_ih @ x_t + b_ih + w_hh @ h + b_hh).split(len(h))
        c_before = c
        c = torch.sigmoid(f + w_ch[1] * c_before) * c_before
        c = c + torch.sigmoid(i + w_ch[0] * c_before) * torch.tanh(g)
        h = torch.sigmoid(o + w_ch[2] * c) * torch.tanh(c)
        states.append(h)
    return torch.stack(states)


def gru_equations(x, w_ih, w_hh, b_ih, b_hh):
    """Cho et al. (2014), in torch's form: one row, x (T, I) -> states (T, H)."""
    h = x.new_zeros(w_hh.shape[1])
    states = []
    for x_t in x:
        r_x, z_x, n_x = (w_ih @ x_t + b_ih).split(len(h))
        r_h, z_h, n_h = (w_hh @ h + b_hh).split(len(h))
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        h = (1 - z) * torch.tanh(n_x + r * n_h) + z * h
        states.append(h)
    return torch.stack(states)


EQUATIONS = {"peephole": peephole_equations, "gru": gru_equations}


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", EQUATIONS)
def test_cells_equal_their_equations_in_float64(cell, shape, native):
    layer, x, upstream = make(shape, cell)
    exact_x = x.detach().double().requires_grad_()
    exact_weights = [w.detach().double().requires_grad_() for w in layer.parameters()]
    rows = exact_x.unbind(1)
    exact = torch.stack([EQUATIONS[cell](row, *exact_weights) for row in rows], dim=1)
    if native:
        output, (last, *_) = kernels.layer(x, None, *layer.parameters())
    else:
        output, (last, *_) = kernels.by_torch(x, None, *layer.parameters())
    assert distance(output, exact) < 1e-6
    assert distance(last, exact[-1]) < 1e-6
    loss = (exact * upstream).sum() + (exact[-1] * upstream[0]).sum()
    for a, b in zip(
        gradients((output * upstream).sum() + (last * upstream[0]).sum(), x, layer),
        torch.autograd.grad(loss, [exact_x, *exact_weights]),
        strict=True,
    ):
        assert distance(a, b) < 1e-5


@needs_library
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_stacked_ragged_network_agrees_with_torch(cell, bidirectional, monkeypatch):
    recurrence = Recurrence(3, 12, 2, cell, bidirectional, 0.0)
    initialize(recurrence, torch.Generator().manual_seed(0))
    x, lengths = torch.randn(6, 9, 3, requires_grad=True), torch.arange(4, 10)
    upstream = torch.randn(6, 9, recurrence.n_outputs)
    mask = (torch.arange(9) < lengths[:, None])[:, :, None]
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(kernels, "applies", lambda *_: False)
        loss = (recurrence(x, lengths) * upstream * mask).sum()
        found.append(torch.autograd.grad(loss, [x, *recurrence.parameters()]))
    for a, b in zip(*found, strict=True):
        assert distance(a, b) < 1e-6


@needs_library
def test_strided_input_and_expanded_gradient():
    layer, x, _ = make((7, 5, 3, 10))
    batch_first = x.detach().transpose(0, 1).contiguous().requires_grad_()
    output, _ = kernels.layer(batch_first.transpose(0, 1), None, *layer.parameters())
    got = gradients(output.sum(), batch_first, layer)  # every gradient is one number
    expected = gradients(layer(x)[0].sum(), x, layer)
    assert distance(got[0].transpose(0, 1), expected[0]) < 1e-6
    backwards = torch.randn(7, 3, 5).transpose(1, 2)  # channels are not contiguous
    with torch.no_grad():
        a = kernels.layer(backwards, None, *layer.parameters())[0]
        assert distance(a, layer(backwards)[0]) < 1e-6


@needs_library
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("n_inputs", [3, 40])
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_is_computed_alike_in_any_batch(cell, n_inputs, train):
    layer, x, _ = make((9, 40, n_inputs, 21), cell)
    with torch.set_grad_enabled(train):
        whole = kernels.layer(x, None, *layer.parameters())[0].detach()
        for rows in (slice(0, 1), slice(3, 7), slice(11, 40)):
            part = kernels.layer(x[:, rows], None, *layer.parameters())[0].detach()
            assert torch.equal(part, whole[:, rows])


@needs_library
@pytest.mark.parametrize("n_inputs", [3, 40])
@pytest.mark.parametrize("cell", CELLS)
def test_few_ragged_rows_end_in_the_state_after_their_own_steps(cell, n_inputs):
    layer, x, _ = make((17, 3, n_inputs, 21), cell)
    lengths = torch.tensor([17, 6, 1])
    with torch.no_grad():
        output, end = kernels.layer(x, None, *layer.parameters(), lengths=lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = x[:length, row : row + 1]
            expected, state = kernels.layer(alone, None, *layer.parameters())
            assert torch.equal(output[:length, row], expected[:, 0])
            for part, of_row in zip(end, state, strict=True):
                assert torch.equal(part[row], of_row[0])


@needs_library
@pytest.mark.parametrize("cell", CELLS)
def test_chunks_of_rows_change_nothing_whatever_the_threads(cell, monkeypatch):
    layer, x, upstream = make((9, 40, 3, 21), cell)

    def run():
        output = kernels.layer(x, None, *layer.parameters())[0]
        return output, gradients((output * upstream).sum(), x, layer)

    whole, one_chunk = run()
    monkeypatch.setattr(kernels, "CHUNK_WORK", 1e4)
    monkeypatch.setattr(kernels, "CHUNK_ROWS", 8)
    found = []
    for n_threads, of_torch in ((1, 1), (2, 2), (2, 1)):
        with torch_threads(of_torch), kernels.threads(n_threads):
            found.append(run())
    for output, _ in found:
        assert torch.equal(output, whole)
    for a, b, c, d in zip(*(each for _, each in found), one_chunk, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert distance(a, d) < 1e-6


@needs_library
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_finite_stays_so(cell):
    layer, x, _ = make((5, 4, 3, 10), cell)
    broken = x.detach().clone()
    broken[2, 1, 0] = torch.nan
    with torch.no_grad():
        output, (last, *_) = kernels.layer(broken, None, *layer.parameters())
    assert last[1].isnan().all()
    assert output[:, [0, 2, 3]].isfinite().all()
    huge = torch.full_like(broken, 1e30)
    with torch.no_grad():
        expected = kernels.by_torch(huge, None, *layer.parameters())[0]
        output, _ = kernels.layer(huge, None, *layer.parameters())
        assert distance(output, expected) < 1e-6


@needs_library
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_goes_on_from_a_state(cell, shape):
    layer, x, upstream = make(shape, cell)
    weights = list(layer.parameters())
    state = [torch.randn(shape[1], shape[3]) for _ in range(1 if cell == "gru" else 2)]
    found = []
    for run, kind in ((kernels.layer, torch.float32), (kernels.by_torch, torch.float64)):
        given = x.detach().to(kind).requires_grad_()
        own = [w.detach().to(kind).requires_grad_() for w in weights]
        output, end = run(given, [part.to(kind) for part in state], *own)
        loss = (output * upstream).sum() + (end[0] * upstream[0]).sum()
        found.append((output, *end, *torch.autograd.grad(loss, [given, *own])))
    for a, b in zip(*found, strict=True):
        assert distance(a, b) < 1e-5
    with torch.no_grad():  # in two pieces, to the last bit
        whole, end = kernels.layer(x, None, *weights)
        first, middle = kernels.layer(x[:3], None, *weights)
        if len(x) > 3:
            second, last = kernels.layer(x[3:], middle, *weights)
            assert torch.equal(torch.cat([first, second]), whole)
            assert all(map(torch.equal, last, end))


@needs_library
def test_second_backward_is_refused():
    layer, x, _ = make((5, 4, 3, 10))
    total = kernels.layer(x, None, *layer.parameters())[0].sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward\\(\\) works once"):
        total.backward()


def test_falls_back_where_it_does_not_apply():
    layer = LSTMLayer(3, 4)
    initialize(torch.nn.ModuleList([layer]), torch.Generator().manual_seed(0))
    x = torch.randn(5, 2, 3)
    assert not kernels.applies(x.double(), layer.weight_hh_l0)
    assert not kernels.applies(x[:, :0], layer.weight_hh_l0)
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels.applies(x, layer.weight_hh_l0)
    output, (last, _) = layer.double()(x.double())
    assert torch.equal(output[-1], last)


@needs_library
@pytest.mark.parametrize(
    "proof",
    [
        "_agrees",
        "_convolutions_agree",
        "_pooling_agrees",
        "_adam_agrees",
    ],
)
def test_a_library_that_fails_a_proof_is_not_used(proof, monkeypatch):
    monkeypatch.setattr(kernels, proof, lambda *_: False)
    kernels._library.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert kernels.library() is None
        assert "disagree with torch on" in str(caught[0].message)
        assert kernels.library(kernels.GRU) is None
    finally:
        kernels._library.cache_clear()


@needs_library
def test_proofs_do_not_depend_on_the_default_dtype():
    kernels._library.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert kernels.library() is not None
        assert kernels.library(kernels.GRU) is not None
    finally:
        torch.set_default_dtype(torch.float32)


@needs_library
def test_shapes_that_do_not_fit_are_refused():
    weights = [torch.randn(shape) for shape in ((12, 2), (12, 3), (12,), (12,))]
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"2 columns .* it was given 4"):
            kernels.layer(torch.randn(5, 2, 4), None, *weights)
        with pytest.raises(ValueError, match=r"3 columns .* it was given 4"):
            kernels.affine(torch.randn(2, 5, 4), weights[1])


@needs_library
def test_a_cell_that_fails_its_proof_is_left_to_torch(monkeypatch):
    agrees = kernels._agrees
    monkeypatch.setattr(
        kernels, "_agrees", lambda n, cell: cell != kernels.GRU and agrees(n, cell)
    )
    kernels._library.cache_clear()
    try:
        layer, x, _ = make((5, 4, 3, 10), "gru")
        with pytest.warns(RuntimeWarning, match="disagree with torch on this machine"):
            assert not kernels.available(*layer.weights)
        output, (last,) = layer(x)
        expected, (state,) = kernels.by_torch(x, None, *layer.weights)
        assert torch.equal(output, expected)
        assert torch.equal(last, state)
        assert kernels.available(*make((5, 4, 3, 10), "peephole")[0].weights)
    finally:
        kernels._library.cache_clear()


def test_switched_off_by_the_environment_gives_nearly_the_same_model():
    code = (
        "import numpy as np, sklstm\n"
        "from sklstm import kernels\n"
        "X = np.random.default_rng(0).normal(size=(40, 12, 2))\n"
        "model = sklstm.LSTMClassifier(max_iter=30, random_state=0)\n"
        "model.fit(X, X[:, :, 0].mean(1) > 0)\n"
        "print(kernels.library() is None, *model.predict_proba(X)[:, 1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"SKLSTM_NATIVE": "0"},
    )  # fmt: skip
    absent, *probabilities = done.stdout.split()
    assert absent == "True"
    X = np.random.default_rng(0).normal(size=(40, 12, 2))
    model = LSTMClassifier(max_iter=30, random_state=0).fit(X, X[:, :, 0].mean(1) > 0)
    np.testing.assert_allclose(
        model.predict_proba(X)[:, 1], np.array(probabilities, dtype=float), atol=1e-3
    )


HEADS = {
    "binary": (ClassificationHead().fit(np.array([0, 1])), (2,)),
    "multiclass": (ClassificationHead().fit(np.arange(3)), (3,)),
    "multilabel": (ClassificationHead().fit(np.eye(4, dtype=int)), (2, 4)),
    "squared_error": (RegressionHead("squared_error", 0.5, 1.0, False), (2,)),
    "quantile": (RegressionHead("quantile", [0.1, 0.5, 0.9], 1.0, False), (2,)),
}


def target_for(name, n_rows, generator):
    if name in ("squared_error", "quantile"):
        head, target = HEADS[name][0], torch.randn(n_rows, 2, generator=generator)
        return head.fit(target.double().numpy(), np.ones(n_rows)), target
    head, (high, *rest) = HEADS[name]
    return head, torch.randint(0, high, (n_rows, *rest), generator=generator)


PLAIN = {
    "n_channels": 2, "hidden_size": 11, "num_layers": 1, "cell": "lstm",
    "bidirectional": False, "stem": None, "pooling": "last", "strides": (),
    "dropout": 0.0, "n_tokens": 0,
}  # fmt: skip
LENGTHS = torch.tensor([6, 6, 5, 5, 4, 3, 3, 1, 1])


def check_gradients_without_autograd(name, lengths, **settings):
    generator = torch.Generator().manual_seed(0)
    head, target = target_for(name, 9, generator)
    network = RecurrentNetwork(n_outputs=head.n_raw, **PLAIN | settings).train()
    initialize(network, generator)
    with torch.no_grad():
        for p in network.parameters():  # zeros have maxima at several steps
            if p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    x = torch.randn(9, 6, 2, generator=generator)
    if settings.get("stem") == "embedding":
        x = torch.randint(1, 7, (9, 6), generator=generator)
    if lengths is not None:
        x[torch.arange(6) >= lengths[:, None]] = 0
    weight = torch.rand(
        target.shape if name == "multilabel" else (9,), generator=generator
    )
    loss, loss_gradient = head.loss, head.loss_gradient
    if network.pooling is None:
        loss, loss_gradient = (
            partial(step_loss, loss),
            partial(step_gradient, loss_gradient),
        )
        target, weight = (
            a[:, None] * torch.ones(1, 6, dtype=a.dtype) for a in (target, weight)
        )
        weight *= step_mask(lengths if lengths is not None else torch.full((9,), 6), 6)
    found = []
    for by_hand in (True, False):
        dropout = torch.Generator().manual_seed(1)
        trained = [p for p in network.parameters() if p.requires_grad]
        for p in trained:
            p.grad = torch.zeros_like(p)
        if by_hand:
            value = differentiate(
                network, loss_gradient, (x, lengths), target, weight, dropout
            )
        else:
            value = loss(network(x, lengths, dropout), target, weight).mean()
            value.backward()
        found.append([value, *(p.grad for p in trained)])
    for a, b in zip(*found, strict=True):
        assert distance(a, b) < 1e-6


@needs_library
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_without_autograd_are_autograd_s(name, num_layers, ragged):
    # Of ragged rows autograd drops every state, not the last ones alone.
    check_gradients_without_autograd(
        name, LENGTHS if ragged else None, num_layers=num_layers,
        dropout=0.0 if ragged else 0.3,
    )  # fmt: skip


@needs_library
@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "peephole"},
        {"cell": "gru"},
        {"recurrent_dropout": 0.3},
        {"cell": "gru", "recurrent_dropout": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_without_autograd_of_every_cell(settings, ragged):
    lengths = LENGTHS if ragged else None
    check_gradients_without_autograd("multiclass", lengths, num_layers=2, **settings)


CONV = {"stem": "conv", "kernel_sizes": (4, 3, 2), "strides": (1, 2, 1)}
EMBEDDING = {"stem": "embedding", "n_tokens": 7, "embedding_size": 5}


@needs_library
@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "mean-max"},
        {"pooling": "mean", "bidirectional": True},
        {"pooling": "max", "bidirectional": True, "num_layers": 2},
        {"bidirectional": True, "num_layers": 3, "dropout": 0.0},
        {"pooling": "max", "cell": "gru", "recurrent_dropout": 0.3},
        {"pooling": "mean-max", "bidirectional": True, "variational_dropout": True},
        {"stem": "linear"},
        {"stem": "linear", "pooling": "mean-max", "bidirectional": True},
        CONV | {"dropout": 0.0, "bidirectional": True},
        CONV | {"pooling": "mean-max", "bidirectional": True},
        CONV | {"pooling": "max", "num_layers": 2},
        EMBEDDING | {"pooling": "mean-max", "token_dropout": 0.3},
        EMBEDDING | {"pooling": "mean", "freeze_embedding": True},
        {"pooling": None, "num_layers": 2},
        {"pooling": None, "bidirectional": True, "cell": "gru"},
        CONV | {"pooling": None, "bidirectional": True, "strides": (1, 1, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_without_autograd_of_stems_and_poolings(settings, ragged):
    settings = {"dropout": 0.3} | settings
    if settings.get("pooling", "last") == "last" and not settings.get("bidirectional"):
        settings["dropout"] = 0.0 if ragged else 0.3  # see above
    lengths = LENGTHS if ragged else None
    check_gradients_without_autograd("multiclass", lengths, **settings)


@needs_library
def test_gradients_without_autograd_of_locked_dropout():
    settings = {"num_layers": 3, "dropout": 0.3, "variational_dropout": True}
    check_gradients_without_autograd("multiclass", None, **settings)


def test_gradients_without_autograd_are_declined():
    head, target = target_for("binary", 9, torch.Generator().manual_seed(0))
    x, weight = torch.randn(9, 8, 2), torch.ones(9)
    for setting in (
        {"pooling": "attention"}, {"layer_norm": True},
        {"residual": True, "num_layers": 2},
    ):  # fmt: skip
        network = RecurrentNetwork(n_outputs=1, **PLAIN | setting)
        args = (head.loss_gradient, (x, None), target, weight)
        assert differentiate(network, *args) is None
    network = RecurrentNetwork(n_outputs=1, **PLAIN)
    ascending = torch.arange(9).clamp(min=1)
    args = (head.loss_gradient, (x, ascending), target, weight)
    assert differentiate(network, *args) is None


FORECAST = {
    "n_inputs": 3, "n_future": 1, "horizon": 5, "n_quantiles": 3, "segment_length": 1,
    "linear_length": 0, "hidden_size": 11, "num_layers": 1, "cell": "lstm",
    "dropout": 0.3,
}  # fmt: skip


def forecast_network(settings):
    generator = torch.Generator().manual_seed(0)
    network = ForecastNetwork(**FORECAST | settings)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    return network, generator


def inputs_of(network, n_rows, generator):
    config = network.config
    n_steps, n_future = config["horizon"], config["n_future"]
    shapes = (8, config["n_inputs"]), (n_steps, 4), (n_steps, n_future)
    return [torch.randn(n_rows, *shape, generator=generator) for shape in shapes]


@needs_library
@pytest.mark.parametrize("steps", [(), (0, 2, 4)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_layers": 2, "linear_length": 8},
        {"segment_length": 4, "linear_length": 4, "n_quantiles": 7},
        {"cell": "gru", "n_future": 0},
        {"cell": "peephole"},
        {"hidden_size": 33, "n_quantiles": 21},
        {"hidden_size": 4, "n_quantiles": 1},
    ],
    ids=str,
)
def test_gradients_of_a_forecast_without_autograd(settings, steps):
    network, generator = forecast_network(settings)
    for p in network.train().parameters():
        p.grad = torch.zeros_like(p)
    n_quantiles, n_future = (network.config[k] for k in ("n_quantiles", "n_future"))
    head = ForecastHead(np.arange(1, n_quantiles + 1) / (n_quantiles + 1))
    n_steps = len(steps) or 5
    x, base, future, target = (
        torch.randn(shape, generator=generator)
        for shape in ((9, 8, 3), (9, n_steps, 4), (9, n_steps, n_future), (9, n_steps))
    )
    weight = torch.randint(0, 2, (9, n_steps), generator=generator).float()
    inputs = (x, base, future, *((torch.tensor(steps),) if steps else ()))
    raw = network(*inputs, generator=torch.Generator().manual_seed(1))
    loss = head.loss(raw, target, weight).mean()
    expected = torch.autograd.grad(loss, network.parameters())
    dropout = torch.Generator().manual_seed(1)
    found = ForecastGradients(network, head.quantiles)(inputs, target, weight, dropout)
    assert distance(found, loss) < 1e-6
    for p, gradient in zip(network.parameters(), expected, strict=True):
        assert distance(p.grad, gradient) < 1e-6


def forecast_batch(network, n_rows, generator):
    network.train()
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    inputs = inputs_of(network, n_rows, generator)
    target, weight = torch.randn(2, n_rows, 5, generator=generator)
    return inputs, target, weight.abs()


@needs_library
def test_chunks_of_a_step_of_learning_change_nothing_whatever_the_threads(monkeypatch):
    network, generator = forecast_network({"num_layers": 2, "segment_length": 2})
    batch = forecast_batch(network, 11, generator)
    found = []
    for chunk_rows, n_threads in ((64, 1), (3, 1), (3, 2)):
        monkeypatch.setattr(kernels, "CHUNK_WORK", 1)
        monkeypatch.setattr(kernels, "CHUNK_ROWS", chunk_rows)
        for p in network.parameters():
            p.grad.zero_()
        with kernels.threads(n_threads):
            loss = ForecastGradients(network, (0.1, 0.5, 0.9))(
                *batch, torch.Generator().manual_seed(1)
            )
        found.append([loss, *(p.grad.clone() for p in network.parameters())])
    whole, in_turn, side_by_side = found
    assert all(map(torch.equal, in_turn, side_by_side))
    assert all(distance(*pair) < 1e-6 for pair in zip(in_turn, whole, strict=True))


@needs_library
def test_a_learner_follows_weights_that_are_moved():
    network, generator = forecast_network({"dropout": 0.0})
    batch = forecast_batch(network, 4, generator)
    gradients = ForecastGradients(network, (0.1, 0.5, 0.9))
    first, before = gradients(*batch), [p.grad for p in network.parameters()]
    for p in network.parameters():
        p.data, p.grad = p.data.clone(), torch.zeros_like(p)
    assert torch.equal(gradients(*batch), first)
    assert all(map(torch.equal, (p.grad for p in network.parameters()), before))


@needs_library
def test_a_learner_refuses_what_does_not_fit():
    network, generator = forecast_network({"segment_length": 4})
    (x, base, future), target, weight = forecast_batch(network, 4, generator)
    learn = ForecastGradients(network, (0.1, 0.5, 0.9))
    for inputs, error in (
        ((x[:, :6], base, future), r"Windows \(4, 6, 3\), .* segments of 4 and 5 steps"),
        ((x, base[:, :3], future[:, :3]), r"known \(4, 3, 5\), targets \(4, 5\)"),
        ((x[:2], base, future), r"Windows \(2, 8, 3\), what is known \(4, 5, 5\)"),
        ((x[:, :, :2], base, future), "for 3 columns .* it was given 2"),
        ((x, base, future[:, :, :0]), "for 5 columns .* it was given 4"),
    ):
        with pytest.raises(ValueError, match=error):
            learn(inputs, target, weight)
    assert learn((x.double(), base, future), target, weight) is None


@needs_library
def test_a_learner_that_fails_its_proof_is_left_to_autograd(monkeypatch):
    network, generator = forecast_network({})
    batch = forecast_batch(network, 4, generator)
    monkeypatch.setattr(
        laid_out.ForecastLearner, "__call__", lambda *_, **__: torch.tensor(0.0)
    )
    _learning_agrees.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="disagree with torch on this machine"):
            assert ForecastGradients(network, (0.1, 0.5, 0.9))(*batch) is None
    finally:
        _learning_agrees.cache_clear()


@needs_library
def test_numbers_too_small_to_be_normal_are_zero_in_the_kernels_alone():
    tiny, x = torch.full((4, 3), 1e-40), torch.ones(1, 2, 3)
    with torch.no_grad():
        assert not kernels.affine(x, tiny).any()
    data, moments = torch.full((5,), 1e-40), torch.full((2, 5), 1e-40)
    kernels.adam(
        kernels.library(), data, torch.zeros(5), *moments, torch.ones(5), penalty=0.1,
        decay=0.1, beta1=0.9, beta2=0.99, eps=1e-8, rate=0.1, correction1=1.0,
        root_correction2=1.0,
    )  # fmt: skip
    assert not data.any()
    assert not moments.any()
    assert (tiny * 2).all()  # the caller's mode is what it was


@needs_library
@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_size": 33, "n_quantiles": 21},
        {"n_quantiles": 1, "n_future": 0},
        {"num_layers": 3, "linear_length": 8, "hidden_size": 16},
        {"segment_length": 4, "linear_length": 5, "cell": "gru"},
        {"num_layers": 2, "cell": "peephole", "horizon": 21},
    ],
    ids=str,
)
def test_a_forecast_is_decoded_as_in_float64_and_alike_in_any_batch(settings, scale):
    network, generator = forecast_network(settings)
    network.eval()
    with torch.no_grad():
        network.correction.bias *= scale  # gaps of next to nothing, and far ones
    inputs = inputs_of(network, 9, generator)
    with torch.no_grad():
        found = network(*inputs)
        assert torch.equal(network(*(each[4:6] for each in inputs)), found[4:6])
        for steps in (slice(2), torch.tensor([1, 4, 2]), slice(1, None, 2)):
            some = network(inputs[0], *(a[:, steps] for a in inputs[1:]), steps=steps)
            assert torch.equal(some, found[:, steps])
        with pytest.raises(IndexError, match="out of bounds"):
            network(*(a[:, :1] for a in inputs), steps=torch.tensor([99]))
    expected = network.double()(*(each.double() for each in inputs))
    assert distance(found, expected) < 1e-6
    assert (found.diff(dim=2) >= 0).all()


@needs_library
@pytest.mark.parametrize(
    "settings",
    [{"num_layers": 2}, {"segment_length": 2, "linear_length": 2}],
    ids=str,
)
def test_a_shorter_window_is_forecast_as_if_alone(settings, monkeypatch):
    network, generator = forecast_network(settings)
    network.eval()
    # Chunks of two rows: several, for two threads.
    monkeypatch.setattr(kernels, "CHUNK_WORK", 1)
    monkeypatch.setattr(kernels, "CHUNK_ROWS", 2)
    x, base, future = inputs_of(network, 7, generator)
    lengths = torch.tensor([8, 8, 6, 4, 4, 2, 0], dtype=torch.int32)
    for i, length in enumerate(lengths):
        x[i, length:] = torch.nan
    with torch.no_grad(), kernels.threads(2):
        found = network(x, base, future, lengths=lengths)
        for i, length in enumerate(lengths[:-1]):
            row = slice(i, i + 1)
            alone = network(x[row, :length], base[row], future[row])
            assert torch.equal(found[row], alone)
    assert found.isfinite().all()


@needs_library
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forecast_follows_its_weights(mode):
    with torch.inference_mode(mode is torch.inference_mode):
        network, generator = forecast_network({"num_layers": 2, "linear_length": 4})
    network.eval()
    inputs = inputs_of(network, 3, generator)
    with mode():
        before = network(*inputs)
        for parameter in network.parameters():
            parameter.mul_(1.5)
            found = network(*inputs)
            assert not torch.equal(found, before)
            assert torch.equal(found, copy.deepcopy(network)(*inputs))
            before = found
    network.position = torch.nn.Embedding.from_pretrained(torch.zeros(5, 16))
    with mode():
        assert not torch.equal(network(*inputs), before)


@needs_library
def test_weights_of_a_forecast_are_laid_out_once_until_it_is_trained():
    network, generator = forecast_network({})
    inputs = inputs_of(network.eval(), 3, generator)
    with torch.no_grad():
        before, laid_out = network(*inputs), network.laid_out()
        assert network.laid_out() is laid_out
        # As the optimiser writes: torch does not know.
        network.shares.numpy()[:] += 1.0
        network.train().eval()
        assert network.laid_out() is not laid_out
        assert not torch.equal(network(*inputs), before)


@needs_library
def test_a_forecast_that_fails_its_proof_is_left_to_torch(monkeypatch):
    network, generator = forecast_network({"num_layers": 2})
    inputs = inputs_of(network.eval(), 3, generator)
    with torch.no_grad():
        expected = network(*inputs)
        broken = lambda self, x, known, *_: known[:, :, :1] * torch.ones(5)  # noqa: E731
        monkeypatch.setattr(laid_out.Forecaster, "__call__", broken)
        _one_call_agrees.cache_clear()
        try:
            network.eval()  # weights are laid out anew, and that is proven
            with pytest.warns(RuntimeWarning, match="disagree with torch on this"):
                found = network(*inputs)
        finally:
            _one_call_agrees.cache_clear()
    assert distance(found, expected) < 1e-6


@needs_library
def test_forecasts_of_other_shapes_are_refused():
    network, generator = forecast_network({"segment_length": 3, "n_inputs": 2})
    x, base, future = inputs_of(network.eval(), 4, generator)
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"for 2 columns .* it was given 3"):
            network(x[:, :6, :1].expand(-1, -1, 3), base, future)
        with pytest.raises(ValueError, match="reads segments of 3 steps and knows 5"):
            network(x, base, future)
        with pytest.raises(ValueError, match="of 3 rows and 5 steps, the windows are of"):
            network(x[:, :6], base[:3], future[:3])
        network, _ = forecast_network({"linear_length": 6})
        with pytest.raises(ValueError, match="the windows are of 4 rows and 5 steps"):
            network.eval()(torch.zeros(4, 5, 3), base, future)


@needs_library
@pytest.mark.parametrize("n_terms", [1, 9, 40])
@pytest.mark.parametrize("n_out", [1, 8, 16, 51])
def test_affine_maps_each_row_by_itself(n_terms, n_out):
    torch.manual_seed(0)
    weight, bias = torch.randn(n_out, n_terms), torch.randn(n_out)
    a = torch.randn(2, 17, n_terms)
    whole = kernels.affine(a, weight, bias)
    assert distance(whole, F.linear(a, weight, bias)) < 1e-6
    assert torch.equal(kernels.affine(a[:, 4:5], weight, bias), whole[:, 4:5])
    without = kernels.affine(a, weight)
    assert distance(without, F.linear(a, weight)) < 1e-6


def of_convolutions(test):
    """Run a test for convolutions of several shapes."""
    names = "n_timesteps", "n_channels", "n_out", "k"
    shapes = (9, 1, 8, 3), (20, 6, 32, 4), (11, 33, 40, 7), (5, 2, 17, 9), (30, 16, 64, 5)
    test = pytest.mark.parametrize(names, shapes)(test)
    test = pytest.mark.parametrize("stride", [1, 2])(test)
    return pytest.mark.parametrize("ragged", [False, True])(test)


def ragged_rows(x, stride):
    """Return six rows of several lengths, zero beyond, and the lengths of an output."""
    lengths = torch.tensor([x.shape[1], 1, 2, 3, 4, 5])
    inside = step_mask(lengths, x.shape[1])[:, :, None]
    return x * inside, (lengths + stride - 1) // stride


def convolved(x, weight, scale, bias, stride, lengths):
    """What `kernels.convolution` says it does, by torch."""
    k = weight.shape[2]
    padded = F.pad(x.transpose(1, 2), (k // 2, k - 1 - k // 2))
    out = F.conv1d(padded, weight, stride=stride).transpose(1, 2)  # (N, S, H)
    mask = torch.ones_like(out[:, :, :1])
    if lengths is not None:
        mask = step_mask(lengths, out.shape[1])[:, :, None].to(x.dtype)
    n_steps = mask.sum()
    mean = (out * mask).sum((0, 1)) / n_steps
    variance = ((out - mean) * mask).square().sum((0, 1)) / n_steps
    normal = (out - mean) * torch.rsqrt(variance + 1e-5) * scale + bias
    return normal.relu() * mask, mean, variance * n_steps / (n_steps - 1)


@needs_library
@of_convolutions
def test_convolution_agrees_with_float64(
    n_timesteps, n_channels, n_out, k, stride, ragged
):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    lengths, x = None, draw(6, n_timesteps, n_channels)
    n_steps = -(-n_timesteps // stride)
    if ragged:
        x, lengths = ragged_rows(x, stride)
    inputs = x, draw(n_out, n_channels, k), draw(n_out), draw(n_out)
    upstream, results = draw(6, n_steps, n_out), []
    for dtype in (torch.float64, torch.float32):
        each = [t.to(dtype).requires_grad_() for t in inputs]
        if dtype == torch.float64:
            found = convolved(*each, stride, lengths)
        else:
            mean, variance = torch.zeros(n_out), torch.zeros(n_out)
            settings = {"stride": stride, "eps": 1e-5, "lengths": lengths}
            out = kernels.convolution(*each, (mean, variance, 1.0), **settings)
            found = out, mean, variance
        loss = (found[0] * upstream).sum()
        results.append((*found, *torch.autograd.grad(loss, each)))
    for expected, found in zip(*results, strict=True):
        assert distance(found, expected) < 1e-5


@needs_library
@of_convolutions
def test_convolution_in_evaluation_agrees_with_float64_and_alike_in_any_batch(
    n_timesteps, n_channels, n_out, k, stride, ragged
):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    # Channels of a wider array, as those of a pipeline may be.
    lengths, x = None, draw(6, n_timesteps, n_channels + 1)[:, :, 1:]
    if ragged:
        x, lengths = ragged_rows(x, stride)
    inputs = x, draw(n_out, n_channels, k), draw(n_out), draw(n_out)
    running = draw(n_out), draw(n_out).square(), torch.tensor(0.3)
    x64, weight, scale, bias, mean, variance, total = (
        each.double() for each in (*inputs, *running)
    )
    padded = F.pad(x64.transpose(1, 2), (k // 2, k - 1 - k // 2))
    convolved = F.conv1d(padded, weight, stride=stride)
    expected = F.batch_norm(convolved, mean / total, variance / total, scale, bias)
    expected = expected.relu().transpose(1, 2)
    if ragged:
        expected *= step_mask(lengths, expected.shape[1])[:, :, None]
    settings = {"stride": stride, "eps": 1e-5}
    evaluate = functools.partial(kernels.evaluate, kernels.library())
    found = evaluate(*inputs, running, **settings, lengths=lengths)
    assert distance(found, expected) < 1e-5
    some = slice(3, 5)
    of_some = None if lengths is None else lengths[some]
    alone = evaluate(x[some], *inputs[1:], running, **settings, lengths=of_some)
    assert torch.equal(alone, found[some])


@needs_library
def test_pieces_of_a_convolution_change_nothing_whatever_the_threads(monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(s) for s in ((13, 20, 5), (24, 5, 7), (24,), (24,))]
    upstream = torch.randn(13, 20, 24)

    def run(n_threads):
        each = [t.clone().requires_grad_() for t in inputs]
        with kernels.threads(n_threads):
            running = torch.zeros(24), torch.zeros(24), 0.1
            settings = {"stride": 1, "eps": 1e-5}
            out = kernels.convolution(*each, running, **settings)
            running = *running[:2], torch.ones(())
            later = kernels.evaluate(kernels.library(), *inputs, running, **settings)
            return later, out, *torch.autograd.grad((out * upstream).sum(), each)

    whole = run(1)
    monkeypatch.setattr(kernels, "CHUNK_WORK", 5e4)
    one, three = run(1), run(3)
    for a, b, c in zip(whole, one, three, strict=True):
        assert torch.equal(b, c)
        assert distance(a, b) < 1e-6


@needs_library
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("n_timesteps", [1, 40, 500])
def test_a_stem_learns_the_same_from_our_kernels(n_timesteps, ragged, monkeypatch):
    torch.manual_seed(0)
    kernel_sizes, strides = conv_kernel_sizes(n_timesteps), conv_strides(n_timesteps)
    stem = ConvStem(3, 12, kernel_sizes, strides)
    initialize(stem, torch.Generator().manual_seed(0))
    x, lengths = torch.randn(4, n_timesteps, 3), None
    if ragged:
        lengths = torch.tensor([n_timesteps, *[-(-n_timesteps // 2)] * 3])
        x *= step_mask(lengths, n_timesteps)[:, :, None]
    results = []
    for applies in (kernels.applies, lambda *_: False):
        monkeypatch.setattr(kernels, "applies", applies)
        each = copy.deepcopy(stem)
        for _ in range(3):
            out, n_steps = each(x, lengths)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in each.parameters()), *each.buffers()])
        results[-1] += [n_steps] * ragged
    for found, expected in zip(*results, strict=True):
        assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("train", [False, True])
def test_normalisation_may_be_in_another_mode_than_its_stem(train):
    stem = ConvStem(2, 8, (3, 3, 3), (1, 1, 1))
    initialize(stem, torch.Generator().manual_seed(0))
    x = torch.randn(4, 10, 2, generator=torch.Generator().manual_seed(0))
    stem.train()(x, None)
    stem.train(train)
    for norm in stem.norms:
        norm.train(not train)
    before = [each.clone() for each in stem.buffers()]
    with torch.no_grad():
        out, _ = stem(x, None)
    assert torch.isfinite(out).all()
    kept = [torch.equal(a, b) for a, b in zip(stem.buffers(), before, strict=True)]
    assert all(kept) if train else not any(kept)


@pytest.mark.parametrize("n_columns", [1, 20, 24, 100])
def test_steps_are_added_up_in_their_order(n_columns):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, 37, n_columns, generator=generator)
    lengths = torch.randint(1, 38, (70,), generator=generator)
    total = torch.zeros(70, n_columns)
    for t in range(37):
        total += torch.where(t < lengths[:, None], x[:, t], 0)
    assert torch.equal(kernels.sum_steps(x, lengths), total)
    time_major = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(kernels.sum_steps(time_major, lengths), total)
    assert torch.equal(kernels.sum_steps(x[3:4], lengths[3:4]), total[3:4])


@needs_library
def test_lengths_beyond_what_there_is_are_not_followed():
    x, weight, scale = torch.ones(3, 9, 2), torch.ones(8, 2, 3), torch.ones(8)
    running = torch.zeros(8), torch.ones(8), torch.ones(())
    evaluate = functools.partial(
        kernels.evaluate, kernels.library(), x, weight, scale, scale, running, eps=0.0
    )
    beyond, inside = torch.tensor([10**9, 4, -(10**9)]), torch.tensor([9, 4, 0])
    assert torch.equal(kernels.sum_steps(x, beyond), kernels.sum_steps(x, inside))
    found, expected = (evaluate(stride=1, lengths=n) for n in (beyond, inside))
    assert torch.equal(found, expected)


@needs_library
def test_a_library_of_another_version_is_not_called(monkeypatch):
    monkeypatch.setattr(kernels, "VERSION", kernels.VERSION + 1)
    kernels._library.cache_clear()
    try:
        assert kernels.library() is None
    finally:
        monkeypatch.undo()
        kernels._library.cache_clear()
    assert kernels.library() is not None


def test_an_error_in_any_thread_is_raised():
    ended = []

    def fail():
        raise MemoryError("no room")

    with kernels.threads(2):
        for jobs in ([fail, lambda: ended.append(1)], [lambda: ended.append(2), fail]):
            with pytest.raises(MemoryError, match="no room"):
                kernels.share(jobs)
    assert sorted(ended) == [1, 2]


@needs_library
def test_the_library_is_proven_under_autocast_too():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels._library.__wrapped__(kernels.LSTM, False) is not None


@needs_library
def test_what_lies_elsewhere_or_is_of_another_type_is_left_to_torch():
    weights = [*torch.nn.LSTM(3, 5).parameters()]
    x = torch.randn(4, 2, 3)
    assert kernels.applies(x, *weights)
    assert not kernels.applies(x.to("meta"), *weights)
    assert not kernels.applies(x, weights[0], weights[1].double(), *weights[2:])
