"""In evaluation a network is one call of the kernels, which says what its parts say."""

import copy
import itertools

import pytest
import torch

from sklstm import kernels, laid_out
from sklstm.network import RecurrentNetwork, _one_call_agrees, initialize

pytestmark = pytest.mark.skipif(
    kernels.library() is None, reason="compiled kernels are not installed"
)
BASE = {
    "n_channels": 3, "n_outputs": 2, "hidden_size": 10, "num_layers": 1, "cell": "lstm",
    "bidirectional": False, "dropout": 0.3, "stem": None, "pooling": "last",
    "strides": (1, 1, 1), "n_tokens": 7,
}  # fmt: skip
CONV = {"stem": "conv", "bidirectional": True, "pooling": "mean-max"}
NETWORKS = [
    {},
    CONV,
    {**CONV, "strides": (2, 1, 2), "num_layers": 3, "hidden_size": 16, "n_channels": 1},
    {**CONV, "pooling": "last", "n_members": 3, "link": "softmax"},
    {**CONV, "bidirectional": False, "cell": "gru", "kernel_sizes": (1, 9, 3)},
    {"stem": "linear", "pooling": "mean", "num_layers": 2, "cell": "peephole"},
    {"stem": "linear", "pooling": "max", "bidirectional": True, "hidden_size": 33},
    {"stem": "embedding", "embedding_size": 5, "pooling": "mean-max", "num_layers": 2},
    {"pooling": "last", "bidirectional": True, "num_layers": 2, "cell": "gru"},
]  # fmt: skip


def make(settings, n_timesteps=12, n_rows=9):
    generator = torch.Generator().manual_seed(0)
    network = RecurrentNetwork(**BASE | settings)
    initialize(network, generator)
    for name, tensor in network.state_dict().items():
        if "running" in name:  # as after some training
            tensor.uniform_(0.5, 1.5, generator=generator)
    shape = n_rows, n_timesteps, network.config["n_channels"]
    x = torch.randn(shape, generator=generator)
    if network.config["stem"] == "embedding":
        x = torch.randint(0, 7, shape[:2], generator=generator)
    return network.eval(), x


def part_by_part(network, x, lengths):
    """What the modules say one after another."""
    raw = []
    for member in network.members:
        states, of_states = x, lengths
        if member.stem is not None:
            states, of_states = member.stem(x, lengths)
        raw.append(member.readout(member.pool(states, of_states)))
    return network._averaged(torch.stack(raw)) if len(raw) > 1 else raw[0]


@pytest.mark.parametrize("order", ["full", "any", "descending"])
@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_says_what_the_parts_say(settings, order, monkeypatch):
    network, x = make(settings)
    lengths = None
    if order != "full":
        lengths = torch.tensor([7, 12, 1, 5, 12, 3, 8, 2, 9], dtype=torch.int32)
        lengths = lengths if order == "any" else lengths.sort(descending=True)[0]
        x = x * (torch.arange(12) < lengths[:, None]).reshape(9, 12, *[1] * (x.ndim - 2))
    monkeypatch.setattr(kernels, "CHUNK_ROWS", 4)  # three pieces, for two threads
    with torch.no_grad():
        given = None if lengths is None else lengths.to(torch.int64)
        expected = part_by_part(network, x, given)
        with kernels.threads(2):
            found = network(x, lengths)
        assert torch.equal(found, expected)
        some = slice(5, 6)
        alone = network(x[some], None if lengths is None else lengths[some])
        assert torch.equal(alone, expected[some])
        embedded = network.embed(x, lengths)
        of_members = [
            m.pool(*((x, given) if m.stem is None else m.stem(x, given)))
            for m in network.members
        ]
        assert torch.equal(embedded, torch.cat(of_members, dim=1))
        if x.is_floating_point():
            x = x.double()
        in_float64 = network.double()(x, lengths)
    torch.testing.assert_close(found.double(), in_float64, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, CONV], ids=str)
def test_reads_arrays_however_they_lie_in_memory(settings):
    network, x = make(settings)
    with torch.no_grad():
        expected = network(x)
        strided = torch.stack([x, x], dim=1).transpose(0, 2)[:, 1].transpose(0, 1)
        assert strided.stride() != x.stride()
        for same in (strided, x.transpose(1, 2).contiguous().transpose(1, 2)):
            assert torch.equal(same, x)
            assert torch.equal(network(same), expected)
        assert torch.equal(network(x[::2]), expected[::2])
        with pytest.raises(ValueError, match=r"built for 3 columns .* it was given 2"):
            network(x[:, :, :2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_follows_its_weights_and_statistics(mode):
    with torch.inference_mode(mode is torch.inference_mode):
        network, x = make({**CONV, "num_layers": 2})
    tensors = itertools.chain(network.parameters(), network.buffers())
    with mode():
        before = network(x)
        for tensor in tensors:
            tensor.add_(0.1)
            found = network(x)
            assert not torch.equal(found, before)
            assert torch.equal(found, copy.deepcopy(network)(x))
            before = found
    with torch.no_grad():
        other = copy.deepcopy(network)
        other(x)
        other.readout.weight = torch.nn.Parameter(torch.zeros(2, other.pooling.n_outputs))
        assert torch.equal(other(x), other.readout.bias.expand(9, -1))
        other.stem.norms[1] = copy.deepcopy(network.stem.norms[2])
        assert torch.equal(other.embed(x, None), copy.deepcopy(other).embed(x, None))


def test_weights_of_several_types_are_left_to_torch():
    network, x = make(CONV)
    with torch.no_grad():
        expected = network(x)
        network.readout.double()
        torch.testing.assert_close(network(x), expected)


def test_parts_in_training_are_in_training():
    network, x = make(CONV)
    with torch.no_grad():
        expected = network(x)
        network.recurrence.dropout.train()  # as for samples of what is uncertain
        generator = torch.Generator().manual_seed(0)
        samples = [network(x, generator=generator) for _ in range(2)]
        assert not torch.equal(*samples)
        network.recurrence.dropout.eval()
        assert torch.equal(network(x), expected)
        for norm in network.stem.norms:
            norm.train()
        by_batch = network(x)
        assert not torch.equal(by_batch, expected)
        for norm in network.stem.norms:  # whose statistics have moved
            norm.eval()
        after = network(x)
        assert not torch.equal(after, expected)
        assert torch.equal(after, copy.deepcopy(network)(x))


def test_hooks_of_parts_are_called():
    network, x = make(CONV)
    with torch.no_grad():
        expected, seen = network(x), []
        for name, part in (("forward", network.stem), ("forward_pre", network.readout)):
            register = getattr(part, f"register_{name}_hook")
            handle = register(lambda *given: seen.append(given))
            assert torch.equal(network(x), expected)
            handle.remove()
            network(x)
        assert len(seen) == 2
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda *given: seen.append(given)
        )
        assert torch.equal(network(x), expected)
        handle.remove()
    assert len(seen) >= 10


@pytest.mark.parametrize("pooling", ["last", "max"])
def test_a_row_without_steps_is_what_a_state_starts_at(pooling):
    network, x = make({"pooling": pooling, "bidirectional": True})
    with torch.no_grad():
        embedded = network.embed(x, torch.tensor([0] * 9))
    assert (embedded == (-torch.inf if pooling == "max" else 0)).all()


def test_gradients_go_through_the_parts():
    network, x = make(CONV)
    gradient = torch.autograd.grad(network(x.requires_grad_()).sum(), x)[0]
    assert (gradient != 0).any()


def test_a_network_that_fails_its_proof_is_left_to_its_parts(monkeypatch):
    network, x = make(CONV)
    with torch.no_grad():
        expected = network(x)
        wrong = lambda self, x, lengths=None: (None, torch.zeros(len(x), 2))  # noqa: E731
        monkeypatch.setattr(laid_out.Reader, "__call__", wrong)
        monkeypatch.setattr(RecurrentNetwork, "examples", RecurrentNetwork.examples[:1])
        monkeypatch.setattr(
            RecurrentNetwork, "output_by", lambda *_, lengths: torch.zeros(3, 3)
        )
        _one_call_agrees.cache_clear()
        try:
            network.eval()  # weights are laid out anew, and that is proven
            with pytest.warns(RuntimeWarning, match="disagree with torch on this"):
                found = network(x)
        finally:
            _one_call_agrees.cache_clear()
    assert torch.equal(found, expected)
