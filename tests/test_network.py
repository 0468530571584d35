import copy
import pickle

import numpy as np
import pytest
import torch

from sklstm.modules import (
    POOLINGS,
    ConvStem,
    Dropout,
    MaskedBatchNorm,
    Pooling,
    Recurrence,
    conv_kernel_sizes,
    conv_strides,
)
from sklstm.network import ForecastNetwork, RecurrentNetwork, initialize, resolve_auto

CONFIG = {
    "n_channels": 3, "n_outputs": 2, "hidden_size": 5, "num_layers": 2, "cell": "lstm",
    "bidirectional": True, "dropout": 0.0, "stem": None, "pooling": "last",
    "strides": (1, 2, 1), "n_tokens": 0,
}  # fmt: skip


def build(seed=0, dtype=torch.float64, **settings):
    network = RecurrentNetwork(**{**CONFIG, **settings}).to(dtype)
    initialize(network, torch.Generator().manual_seed(seed))
    return network.eval()


def inputs(n=4, n_timesteps=9, n_channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, n_timesteps, n_channels, generator=generator, dtype=dtype)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference_lstm(x, w_ih, w_hh, b_ih, b_hh):
    """Hochreiter & Schmidhuber (1997) with forget gates: x (T, I) -> states (T, H)."""
    h = c = np.zeros(w_hh.shape[1])
    states = []
    for x_t in x:
        i, f, g, o = np.split(w_ih @ x_t + b_ih + w_hh @ h + b_hh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def reference_gru(x, w_ih, w_hh, b_ih, b_hh):
    """Cho et al. (2014), in torch's form: x (T, I) -> states (T, H)."""
    h = np.zeros(w_hh.shape[1])
    states = []
    for x_t in x:
        r_x, z_x, n_x = np.split(w_ih @ x_t + b_ih, 3)
        r_h, z_h, n_h = np.split(w_hh @ h + b_hh, 3)
        r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
        h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
        states.append(h)
    return np.array(states)


def reference_peephole(x, w_ih, w_hh, b_ih, b_hh, w_ch):
    """Gers & Schmidhuber (2000): x (T, I) -> states (T, H)."""
    h = c = np.zeros(w_hh.shape[1])
    states = []
    for x_t in x:
        i, f, g, o = np.split(w_ih @ x_t + b_ih + w_hh @ h + b_hh, 4)
        i, f = sigmoid(i + w_ch[0] * c), sigmoid(f + w_ch[1] * c)
        c = f * c + i * np.tanh(g)
        h = sigmoid(o + w_ch[2] * c) * np.tanh(c)
        states.append(h)
    return np.array(states)


REFERENCES = {
    "lstm": reference_lstm,
    "peephole": reference_peephole,
    "gru": reference_gru,
}


@pytest.mark.parametrize("cell", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recurrence_equals_its_equations(cell, dtype):
    network, reference = build(dtype=dtype, cell=cell), REFERENCES[cell]
    for name, parameter in network.named_parameters():
        if "weight_ch" in name:  # they start at zero
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    lengths = [9, 1, 4, 6]
    x = inputs(dtype=dtype)
    with torch.no_grad():
        states = network.recurrence(x, torch.tensor(lengths)).numpy()
    for row, length, got in zip(x.double().numpy(), lengths, states, strict=True):
        expected = row[:length]
        for ahead, behind in zip(
            network.recurrence.forwards, network.recurrence.backwards, strict=True
        ):
            weights = [[p.detach().double().numpy() for p in m.parameters()]
                       for m in (ahead, behind)]  # fmt: skip
            expected = np.hstack(
                [
                    reference(expected, *weights[0]),
                    reference(expected[::-1], *weights[1])[::-1],
                ]
            )
        tolerance = 1e-12 if dtype == torch.float64 else 2e-6
        np.testing.assert_allclose(got[:length], expected, atol=tolerance)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrence_equals_torch_lstm_on_copied_weights(bidirectional):
    ours = Recurrence(3, 5, 2, "lstm", bidirectional, 0.0)
    initialize(ours, torch.Generator().manual_seed(0))
    theirs = torch.nn.LSTM(3, 5, 2, bidirectional=bidirectional, batch_first=True)
    with torch.no_grad():
        for i in range(2):
            layers = [(ours.forwards[i], "")]
            if bidirectional:
                layers.append((ours.backwards[i], "_reverse"))
            for layer, suffix in layers:
                for own, parameter in layer.named_parameters():
                    name = own.replace("_l0", f"_l{i}{suffix}")
                    getattr(theirs, name).copy_(parameter)
        x = inputs(dtype=torch.float32)
        torch.testing.assert_close(ours(x, None), theirs(x)[0])


@pytest.mark.parametrize("stem", [None, "linear", "conv"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_and_neighbours_do_not_matter(stem, pooling, bidirectional):
    network = build(stem=stem, pooling=pooling, bidirectional=bidirectional)
    lengths = torch.tensor([9, 1, 4, 6])
    x = inputs()
    padded = torch.cat([x, torch.full((4, 5, 3), 1e3, dtype=x.dtype)], dim=1)
    for row, length in enumerate(lengths):
        padded[row, length:] = 0
    with torch.no_grad():
        # Running statistics away from their start.
        network.train()(x, None)
        network.eval()
        together = network(padded, lengths)
        alone = [network(x[i : i + 1, :k], None) for i, k in enumerate(lengths)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stem", [None, "conv"])
def test_lengths_may_be_any_integers_anywhere(stem):
    network = build(dtype=torch.float32, stem=stem, pooling="mean-max")
    x = inputs(3, dtype=torch.float32)
    with torch.no_grad():
        network.train()(x, None)  # so that there are running statistics
    network.eval()
    lengths = torch.tensor([9, 5, 2])
    with torch.no_grad():
        expected = network(x, lengths)
        for other in (lengths.int(), lengths.repeat_interleave(2)[::2]):
            assert torch.equal(network(x, other), expected)


def test_recurrence_ignores_what_stands_in_the_padding():
    network = build(pooling="mean-max")
    x, lengths = inputs(), torch.tensor([9, 1, 4, 6])
    other = x.clone()
    for row, length in enumerate(lengths):
        other[row, length:] = 99.0
    with torch.no_grad():
        torch.testing.assert_close(network(x, lengths), network(other, lengths))


@pytest.mark.parametrize("cell", REFERENCES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_residual_and_normalised_layers_equal_their_equations(cell, bidirectional):
    network = build(
        cell=cell, bidirectional=bidirectional, num_layers=3, residual=True,
        layer_norm=True, pooling="mean-max",
    )  # fmt: skip
    recurrence, x, lengths = network.recurrence, inputs(), torch.tensor([9, 1, 4, 6])
    for norm in recurrence.norms:
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        states = recurrence(x, lengths)
        padded = network(torch.cat([x, 99 * x], dim=1), lengths)
        torch.testing.assert_close(padded, network(x, lengths), rtol=1e-12, atol=1e-12)
        for row, length, got in zip(x, lengths, states, strict=True):
            stream = row[None, :length]
            for i, norm in enumerate(recurrence.norms):
                ahead = stream.transpose(0, 1)
                out = recurrence.forwards[i](ahead)[0]
                if bidirectional:
                    behind = recurrence.backwards[i](ahead.flip(0))[0].flip(0)
                    out = torch.cat([out, behind], dim=2)
                centred = out - out.mean(2, keepdim=True)
                scale = (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
                out = (centred / scale * norm.weight + norm.bias).transpose(0, 1)
                stream = out if i == 0 else stream + out
            torch.testing.assert_close(got[:length], stream[0], rtol=1e-12, atol=1e-12)
    if not bidirectional:
        with torch.no_grad():
            last = recurrence.final(x)
            torch.testing.assert_close(last, recurrence(x, None)[:, -1])


def test_residual_connections_need_a_layer_below():
    plain, residual = (build(num_layers=1, residual=r) for r in (False, True))
    with torch.no_grad():
        assert torch.equal(plain(inputs()), residual(inputs()))


def test_locked_dropout_drops_the_same_units_at_every_step():
    recurrence = Recurrence(3, 50, 1, "lstm", True, 0.5, variational_dropout=True).train()
    initialize(recurrence, torch.Generator().manual_seed(0))
    x = inputs(dtype=torch.float32)
    states = recurrence(x, None, torch.Generator().manual_seed(1))
    kept = (states != 0).float()  # (N, S, D)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert not torch.equal(kept[0], kept[1])
    assert abs(kept[:, 0].mean() - 0.5) < 0.1
    expected = recurrence.eval()(x, None) * kept * 2
    torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("cell", REFERENCES)
def test_recurrent_dropout_is_a_network_with_fewer_weights(cell):
    recurrence = Recurrence(3, 20, 2, cell, True, 0.0, recurrent_dropout=0.4).train()
    initialize(recurrence, torch.Generator().manual_seed(0))
    x = inputs(dtype=torch.float32)
    states = recurrence(x, None, torch.Generator().manual_seed(1))
    assert not torch.equal(states, recurrence(x, None, torch.Generator().manual_seed(2)))
    fewer = copy.deepcopy(recurrence).eval()
    torch.testing.assert_close(recurrence.eval()(x, None), fewer(x, None))
    generator, dropout = torch.Generator().manual_seed(1), Dropout(0.4).train()
    with torch.no_grad():
        for layers in zip(fewer.forwards, fewer.backwards, strict=True):
            for layer in layers:
                factors = dropout.factors(layer.weight_hh_l0, generator)
                assert abs((factors > 0).float().mean() - 0.6) < 0.05
                layer.weight_hh_l0.mul_(factors)
    torch.testing.assert_close(states, fewer(x, None))


def test_conv_stem_training_statistics_ignore_padding():
    x, lengths = inputs(n=2), torch.tensor([9, 4])
    x[1, 4:] = 0
    padded = torch.cat([x, torch.zeros(2, 7, 3, dtype=x.dtype)], dim=1)
    outputs = []
    for values in (x, padded):
        stem = ConvStem(3, 5, (7, 5, 3), (1, 2, 1)).double()
        initialize(stem, torch.Generator().manual_seed(0))
        states, lengths_after = stem(values, lengths)
        np.testing.assert_array_equal(lengths_after, [5, 2])
        outputs.append((states[:, :5], stem.norms[2].running_var))
    torch.testing.assert_close(outputs[0], outputs[1])


def test_batch_norm_masked_equals_plain():
    x = inputs().transpose(1, 2)
    mask = torch.ones(4, 1, 9, dtype=torch.bool)
    plain, masked = (MaskedBatchNorm(3).double() for _ in range(2))
    for norm, given in ((plain, None), (masked, mask)):
        initialize(norm, None)
        norm(x, given)
    torch.testing.assert_close(plain(x, None), masked(x, mask))
    torch.testing.assert_close(plain.running_var, masked.running_var)
    # After one kind of batch only, evaluation uses just its statistics.
    torch.testing.assert_close(
        plain.eval()(x, None).var((0, 2)), torch.ones(3, dtype=x.dtype), rtol=1e-4, atol=0
    )


def test_attention_weights_sum_to_one_over_real_steps():
    pooling = Pooling("attention", 3, False).double()
    initialize(pooling, torch.Generator().manual_seed(0))
    weights = pooling.attention(inputs(), torch.tensor([9, 1, 4, 6]))
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=weights.dtype))
    assert weights[2, 4:].eq(0).all()


def test_initialisation():
    network = build(num_layers=1, bidirectional=False)
    layer = network.recurrence.forwards[0]
    np.testing.assert_array_equal(
        layer.bias_ih_l0.detach(), np.repeat([0, 1, 0, 0], 5).astype(float)
    )
    for gate in layer.weight_hh_l0.detach().split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5, dtype=gate.dtype))


def test_initialisation_is_seeded_and_leaves_global_state_alone():
    before = torch.get_rng_state()
    first, second, other = (build(seed, stem="conv") for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    x = inputs()
    first.train(), second.train(), other.train()
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("stem", ["conv", "embedding"])
@pytest.mark.parametrize("variant", [{}, {"cell": "peephole", "layer_norm": True}])
def test_copies_are_equal_and_hold_arrays_only(copier, stem, variant):
    network = build(stem=stem, n_tokens=9, **variant)
    x = inputs() if stem == "conv" else torch.arange(6).reshape(2, 3)
    with torch.no_grad():
        network.train()(x)
        network.eval()
        assert torch.equal(copier(network)(x), network(x))
    state = network.__getstate__()
    assert all(isinstance(array, np.ndarray) for array in state["arrays"].values())


@pytest.mark.parametrize("n_timesteps", [8, 160, 161, 500, 1000, 20_000])
def test_strides_bring_long_sequences_near_160_steps(n_timesteps):
    n_steps = int(np.ceil(n_timesteps / np.prod(conv_strides(n_timesteps))))
    assert n_steps <= 160 or n_timesteps > 160 * 64
    assert n_steps >= 80 or n_timesteps <= 160


def test_kernels_are_long_where_sequences_are():
    assert conv_kernel_sizes(8) == conv_kernel_sizes(71) == (7, 5, 3)
    assert conv_kernel_sizes(176) == (21, 11, 5)
    assert conv_kernel_sizes(256) == conv_kernel_sizes(5000) == (31, 15, 7)
    sizes = [conv_kernel_sizes(n_timesteps) for n_timesteps in range(1, 300)]
    assert all(size % 2 == 1 for each in sizes for size in each)
    assert sizes == sorted(sizes)


def test_auto():
    assert resolve_auto("auto", "auto", "auto", 7) == (None, "last", False)
    assert resolve_auto("auto", "auto", "auto", 8) == ("conv", "mean-max", True)
    assert resolve_auto("embedding", "auto", "auto", 7) == (
        "embedding",
        "mean-max",
        False,
    )
    assert resolve_auto(None, "max", True, 500) == (None, "max", True)


def test_dropout_keeps_the_mean_and_the_share():
    dropout = Dropout(0.3).train()
    x = torch.ones(333, 77, dtype=torch.float64)
    dropped = dropout(x, torch.Generator().manual_seed(0))
    kept = dropped > 0
    assert abs(kept.double().mean() - 0.7) < 0.01
    torch.testing.assert_close(dropped[kept], x[kept] / 0.7)
    again = dropout(x, torch.Generator().manual_seed(0))
    assert torch.equal(dropped, again)
    # In float32 it is the compiled kernels that say what is kept.
    single = dropout(x.float(), torch.Generator().manual_seed(0))
    assert torch.equal(single, dropped.float())
    assert torch.equal(dropout.eval()(x), x)


def test_the_final_state_is_the_last_of_all_states():
    recurrence = Recurrence(3, 4, 2, "gru", False, 0.0)
    initialize(recurrence, torch.Generator().manual_seed(0))
    x = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(recurrence.final(x), recurrence(x, None)[:, -1])


def forecast_network(generator, **settings):
    network = ForecastNetwork(
        n_inputs=6, n_future=2, horizon=9, n_quantiles=3, segment_length=2,
        linear_length=4, hidden_size=5, cell="lstm", dropout=0.0,
        **{"num_layers": 1, **settings},
    )  # fmt: skip
    initialize(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    x, base, future = (
        torch.randn(4, *shape, generator=generator) for shape in ((8, 6), (9, 4), (9, 2))
    )
    return network, x, base, future


def test_some_steps_of_a_forecast_are_those_of_the_whole():
    network, x, base, future = forecast_network(torch.Generator().manual_seed(0))
    steps = torch.tensor([1, 4, 8])
    some = network(x, base[:, steps], future[:, steps], steps)
    torch.testing.assert_close(some, network(x, base, future)[:, steps])


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_shorter_window_is_forecast_alike_beside_longer_ones(num_layers):
    generator = torch.Generator().manual_seed(0)
    network, x, base, future = forecast_network(generator, num_layers=num_layers)
    lengths = torch.tensor([8, 8, 6, 4])
    together = network(x, base, future, lengths=lengths)
    for n, length in enumerate(lengths):
        row = slice(n, n + 1)
        alone = network(x[row, :length], base[row], future[row])
        torch.testing.assert_close(together[row], alone)


# ---------------------------------------------------- truncated backpropagation in time
def row_loss(raw, target, weight):
    return (raw[:, 0] - target).square() * weight


def flat_gradient(network):
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def truncated(network, *arguments, seed=0):
    network.zero_grad(set_to_none=False)
    generator = torch.Generator().manual_seed(seed)
    loss = network.differentiate_truncated(*arguments, generator)
    return loss, flat_gradient(network), generator


def test_truncated_gradients_are_those_of_an_lstm_whose_state_is_detached():
    network = build(bidirectional=False, pooling=None, n_outputs=1)
    layers = [torch.nn.LSTM(n, 5).double() for n in (3, 5)]
    for ours, theirs in zip(network.recurrence.forwards, layers, strict=True):
        theirs.load_state_dict(ours.state_dict())
    x, target = inputs(), torch.randn(4, 9, dtype=torch.float64)
    arguments = (x, None), target, torch.ones(4, 9, dtype=torch.float64)

    def of_steps(raw, target, weight):
        return ((raw[..., 0] - target).square() * weight).sum(1)

    loss, gradient, _ = truncated(network, of_steps, 3, *arguments)
    total, states = 0, [None, None]
    for start in (0, 3, 6):
        h = x[:, start : start + 3].transpose(0, 1)
        for i, layer in enumerate(layers):
            h, end = layer(h, states[i])
            states[i] = [part.detach() for part in end]
        raw = torch.nn.functional.linear(h, network.readout.weight, network.readout.bias)
        error = raw[..., 0].t() - target[:, start : start + 3]
        total = total + error.square().sum(1).mean()
    weights = [p for layer in layers for p in layer.parameters()]
    expected = torch.autograd.grad(total, [*weights, *network.readout.parameters()])
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected]))
    with torch.no_grad():
        exact = of_steps(network(x), *arguments[1:]).mean()
    torch.testing.assert_close(loss, exact)
    assert truncated(network, of_steps, 9, *arguments)[0] is None


@pytest.mark.parametrize("cell", ["lstm", "peephole", "gru"])
@pytest.mark.parametrize("stem", [None, "linear"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_reading_twice_gives_the_gradients_of_reading_once(cell, stem, pooling):
    network = build(
        bidirectional=False, pooling=pooling, stem=stem, cell=cell, dropout=0.3,
        recurrent_dropout=0.2, n_outputs=1,
    ).train()  # fmt: skip
    x, lengths = inputs(), torch.tensor([9, 7, 4, 2])
    target, weight = torch.randn(2, 4, dtype=torch.float64)
    loss, gradient, after = truncated(network, row_loss, 3, (x, lengths), target, weight)
    generator = torch.Generator().manual_seed(0)
    network.zero_grad(set_to_none=False)
    state, states = None, []
    for start in (0, 3, 6):
        part, state = network._read_on(x[:, start : start + 3], state, generator)
        states.append(part)
    raw = network.readout(network.pooling(torch.cat(states, dim=1), lengths))
    expected = row_loss(raw, target, weight).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, flat_gradient(network))
    assert torch.equal(after.get_state(), generator.get_state())


def test_padding_changes_no_truncated_gradient():
    network = build(bidirectional=False, pooling=None, n_outputs=1)
    x, target = inputs(), torch.randn(4, 9, dtype=torch.float64)
    lengths, weight = torch.tensor([9, 7, 4, 2]), torch.ones(4, 9, dtype=torch.float64)
    weight[torch.arange(9) >= lengths[:, None]] = 0

    def of_steps(raw, target, weight):
        return ((raw[..., 0] - target).square() * weight).sum(1)

    found = []
    for filler in (0.0, 7.0):
        padded = torch.where(weight[:, :, None] > 0, x, filler)
        padded = torch.cat([padded, padded[:, :2]], dim=1)  # further than the targets
        batch = (padded, lengths), target, weight
        found.append(truncated(network, of_steps, 4, *batch)[1])
    assert torch.equal(*found)
