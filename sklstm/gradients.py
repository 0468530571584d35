"""Gradients without autograd, which for small networks takes longer than the work.

Each stage is run forwards, as its module does it, and returns what it gives and a
function that goes back: given the gradient of that, it adds those of its parameters to
theirs and returns that of what it read. ``d_`` is the gradient of what follows; for the
shapes see the head of `network`.

Recurrent layers, convolutions and pooling are those of `kernels`, and all of a forecast.
Where these do not apply, and for parts that are not covered here, nothing is done: it is
left to autograd.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional as F

from sklstm import kernels, laid_out
from sklstm.modules import (
    ConvStem,
    EmbeddingStem,
    LinearStem,
    reverse,
    scaled_recurrent,
    step_mask,
)
from sklstm.network import ForecastNetwork


@torch.no_grad()
def differentiate(network, loss_gradient, inputs, target, weight, generator=None):
    """Add the gradients of a mean loss to those of the parameters of a network.

    Parameters
    ----------
    network : RecurrentNetwork
        In training mode, with gradients to add to.
    loss_gradient : callable
        ``loss_gradient(raw, target, weight)`` -> mean loss and its gradient by raw.
    inputs, target, weight : a batch
    generator : torch.Generator

    Returns
    -------
    loss : Tensor of shape () or None
        None where this is not possible: attention, residual connections and normalised
        states are left to autograd, and rows that are ragged and not ordered by length.
    """
    x, lengths = inputs
    if not _covers(network, x, lengths):
        return None
    x, lengths, back_to_input = _stem(network.stem, x, lengths, generator)
    need_x = back_to_input is not None
    states, back_to_stem = _read(network, x, lengths, generator, need_x)
    raw, back_to_states = _affine(network.readout, states)  # (N, Q) or (N, S, Q)
    loss, d_raw = loss_gradient(raw, target, weight)
    d_x = back_to_stem(back_to_states(d_raw))
    if need_x:
        back_to_input(d_x)
    return loss


class ForecastGradients:
    """`differentiate` of a `ForecastNetwork` and the pinball loss of its quantiles.

    Parameters
    ----------
    network : ForecastNetwork
    alpha : sequence of float
        Levels of the quantiles.
    """

    def __init__(self, network, alpha):
        self.network, self.alpha = network, alpha
        self.learner = self.place = None

    @torch.no_grad()
    def __call__(self, inputs, target, weight, generator=None):
        """Do as `differentiate` does; None where the kernels do not apply."""
        (x, base, future, *steps), network = inputs, self.network
        shares = network.shares
        if not (x.dtype == torch.float32 and x.numel() > 0 and kernels.available(shares)):
            return None
        place = shares.data_ptr(), shares.grad.data_ptr()
        # All parameters are one vector: where these have not moved, none has.
        if self.place != place:
            cell = kernels.cell_of(network.recurrence.forwards[0].weights)
            native = kernels.library(cell)
            is_proven = native and _learning_agrees(native, network.config["cell"])
            self.learner = _learner(network, self.alpha) if is_proven else None
            self.place = place
        if self.learner is None:
            return None
        known = torch.cat([base, future], dim=2) if future.shape[2] else base
        steps = torch.arange(network.config["horizon"])[steps[0]] if steps else None
        factors = _factors_behind(network, x, generator)
        return self.learner(x, known, target, weight, steps, factors)


def _learner(network, alpha):
    return laid_out.ForecastLearner(
        kernels.library(kernels.cell_of(network.recurrence.forwards[0].weights)),
        network.parts(lambda weight: weight.detach()),
        network.parts(lambda weight: weight.grad),
        alpha,
        n_channels=network.config["n_inputs"],
        segment_length=network.segment_length,
    )


def _factors_behind(network, x, generator):
    """Draw dropout behind each layer (S, N, H), the last (N, H); None for none."""
    recurrence, n_rows = network.recurrence, len(x)
    n_segments = x.shape[1] // network.segment_length
    n_layers, size = len(recurrence.forwards), network.config["hidden_size"]
    shapes = [(n_segments, n_rows, size)] * (n_layers - 1) + [(n_rows, size)]
    factors = [recurrence.dropout.factors(x.new_empty(s), generator) for s in shapes]
    return None if factors[0] is None else factors


@functools.cache
def _learning_agrees(native, cell):
    """Compare gradients of small networks by one call with autograd's in float64."""
    generator = torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=generator, dtype=torch.float32)
    alpha, pairs = (0.1, 0.3, 0.5, 0.6, 0.9), []
    with torch.inference_mode(False), torch.enable_grad():
        for settings, shapes, _ in ForecastNetwork.examples:
            network = ForecastNetwork(**settings, hidden_size=17, cell=cell, dropout=0.0)
            for p in network.float().parameters():
                p.data = 0.3 * randn(p.shape)
                p.grad = torch.zeros_like(p)
            x, base, future = map(randn, shapes)
            target, weight = randn(base.shape[:2]), randn(base.shape[:2]).square()
            steps = torch.tensor([2, 0, 1])
            known = torch.cat([base, future], dim=2)
            loss = _learner(network, alpha)(x, known, target, weight, steps)
            found = [p.grad.double() for p in network.parameters()]
            network.double()
            given = [each.double() for each in (x, base, future)]
            error = target.double()[:, :, None] - network(*given, steps)
            levels = torch.tensor(alpha, dtype=torch.float64)
            each = torch.maximum(levels * error, (levels - 1) * error).mean(2)
            expected = 2 * (each * weight).sum(1) / weight.double().sum(1).clamp(min=1)
            expected = expected.mean()
            gradients = torch.autograd.grad(expected, network.parameters())
            pairs += [(loss.double(), expected), *zip(found, gradients, strict=True)]
    agrees = all(kernels.near(native, *pair, atol=1e-5) for pair in pairs)
    if not agrees:
        kernels.warn_of_disagreement(native)
    return agrees


def _covers(network, x, lengths):
    recurrence, pooling = network.recurrence, network.pooling
    if pooling is not None and pooling.pooling == "attention":
        return False
    if not recurrence.is_plain:
        return False
    weights = recurrence.forwards[0].weights
    if isinstance(network.stem, EmbeddingStem):
        applies = x.numel() > 0 and kernels.available(*weights)
    else:
        applies = kernels.applies(x, *weights)
    return applies and (lengths is None or not (lengths[1:] > lengths[:-1]).any())


# ------------------------------------------------------------------------- stems
def _stem(stem, x, lengths, generator):
    """(N, T, C) -> (N, S, I), lengths, and the way back or None if nothing is there."""
    if stem is None:
        return x, lengths, None
    if isinstance(stem, ConvStem):
        return _convolve(stem, x, lengths)
    if isinstance(stem, LinearStem):
        out, backward = _affine_and_relu(stem.linear, x)
    else:
        out, backward = _embed(stem, x, generator)
    return out, lengths, backward


def _affine(linear, x, need_x=True):
    """(..., I) -> (..., O), and the way back."""

    def backward(d_out):
        rows = d_out.reshape(-1, d_out.shape[-1])
        linear.weight.grad.addmm_(rows.t(), x.reshape(-1, x.shape[-1]))
        linear.bias.grad += rows.sum(0)
        return d_out @ linear.weight if need_x else None

    return F.linear(x, linear.weight, linear.bias), backward


def _affine_and_relu(linear, x):
    """(..., I) -> (..., O), and the way back to the map."""
    out, back = _affine(linear, x, need_x=False)
    out.relu_()
    return out, lambda d_out: back(d_out * (out > 0))


def _embed(stem, tokens, generator):
    """(N, T) -> (N, T, H), and the way back to the table; None if it is frozen."""
    tokens = stem.dropped(tokens, generator)
    weight = stem.embedding.weight

    def backward(d_out):
        weight.grad.index_add_(0, tokens.flatten(), d_out.flatten(0, 1))
        weight.grad[stem.embedding.padding_idx] = 0

    return F.embedding(tokens, weight), backward if weight.requires_grad else None


def _convolve(stem, x, lengths):
    """(N, T, C) -> (N, S, H), their lengths, and the way back to the weights."""
    native, passes = kernels.library(), []

    def convolve(x, *weights_and_running, **settings):
        *weights, _ = weights_and_running
        out, kept = kernels.convolve(native, x, *weights_and_running, **settings)
        passes.append((weights, kept, settings))
        return out

    x, lengths = stem.blocks(x, lengths, convolve)

    def backward(d_out):
        for i, (weights, kept, settings) in reversed([*enumerate(passes)]):
            gradients = [weight.grad for weight in weights]
            d_out = kernels.convolve_backward(
                native, *weights[:2], kept, d_out, gradients, need_x=i > 0, **settings
            )

    return x, lengths, backward


# -------------------------------------------------------------------- recurrence
def _run(recurrence, x, lengths, generator, need_x):
    """Run plain layers, in one direction or two.

    Parameters
    ----------
    recurrence : Recurrence
    x : Tensor of shape (S, N, I)
    lengths : Tensor of shape (N,), int64, descending, or None
    generator : torch.Generator
    need_x : bool

    Returns
    -------
    ends : list of (states (S, N, H), last (N, H))
        Of each direction of the last layer, in the order that it reads in; undefined
        beyond a sequence.
    backward : callable
        ``backward(d_ends)`` takes a list of the same, None for what was not used, and
        returns the gradient of x, (S, N, I), zero beyond a sequence, or None.
    """
    directions = [recurrence.forwards]
    if recurrence.bidirectional:
        directions.append(recurrence.backwards)
    native = kernels.library()
    x, layers, ends, back_to_ends = kernels.readable(x), [], [], None
    for i in range(len(recurrence.forwards)):
        if i > 0:
            x, back_to_ends = _join(recurrence, ends, lengths, generator)
        passes, ends = [], []
        for is_reversed, direction in enumerate(directions):
            layer = direction[i]
            own = layer.weights
            dropped = recurrence.recurrent_dropout.factors(own[1], generator)
            weights = scaled_recurrent(own, dropped)
            # Each sequence is reversed within its own length.
            read = reverse(x, lengths) if is_reversed and lengths is not None else x
            settings = {
                "lengths": lengths, "is_reversed": bool(is_reversed) and lengths is None,
            }  # fmt: skip
            end, kept = kernels.forward(native, read, weights, keep=True, **settings)
            ends.append(end)
            passes.append((own, read, weights, dropped, kept, settings))
        layers.append((passes, back_to_ends))

    def backward(d_ends):
        for i, (passes, back_to_ends) in reversed([*enumerate(layers)]):
            d_x = None
            for is_reversed, (one, d_end) in enumerate(zip(passes, d_ends, strict=True)):
                own, read, weights, dropped, kept, settings = one
                gradients = [parameter.grad for parameter in own]
                if dropped is not None:
                    gradients[1] = torch.zeros_like(dropped)
                d_read = kernels.backward(
                    native, read, weights, kept, *d_end, gradients,
                    need_x=need_x or i > 0, **settings,
                )  # fmt: skip
                if dropped is not None:
                    own[1].grad.addcmul_(gradients[1], dropped)
                if d_read is not None and is_reversed:
                    d_x += reverse(d_read, lengths)
                elif d_read is not None:
                    d_x = d_read
            if i > 0:
                d_ends = back_to_ends(d_x)
        if d_x is not None and lengths is not None:
            beyond = ~step_mask(lengths, d_x.shape[0]).t()  # (S, N)
            d_x = d_x.masked_fill(beyond[:, :, None], 0)
        return d_x

    return ends, backward


def _join(recurrence, ends, lengths, generator):
    """Return the states of both directions, (S, N, D), and the way back to each."""
    forwards, *backwards = [states for states, _ in ends]
    states = torch.cat([forwards, *[reverse(b, lengths) for b in backwards]], dim=2)
    factors = recurrence.dropout.factors(states, generator)

    def backward(d_states):
        d_states = d_states if factors is None else d_states * factors
        forwards, *backwards = d_states.chunk(len(ends), dim=2)
        return [(forwards, None), *[(reverse(d, lengths), None) for d in backwards]]

    return states if factors is None else states * factors, backward


def _run_to_the_end(recurrence, x, lengths, generator, need_x):
    """(N, S, I) -> the last state of each direction (N, D), and the way back to x."""
    ends, back = _run(recurrence, x.transpose(0, 1), lengths, generator, need_x)
    last = ends[0][1] if len(ends) == 1 else torch.cat([last for _, last in ends], dim=1)
    factors = recurrence.dropout.factors(last, generator)

    def backward(d_last):
        d_last = d_last if factors is None else d_last * factors
        d_ends = (d_last,) if len(ends) == 1 else d_last.chunk(len(ends), dim=1)
        d_x = back([(None, d) for d in d_ends])
        return None if d_x is None else d_x.transpose(0, 1)

    return last if factors is None else last * factors, backward


# ----------------------------------------------------------------------- pooling
def _read(network, x, lengths, generator, need_x):
    """(N, S, I) -> what is read out, (N, P) or (N, S, D [+ I]), and the way back to x."""
    if network.pooling is None:
        return _run_each_step(network, x, lengths, generator, need_x)
    if network.pooling.pooling == "last":
        return _run_to_the_end(network.recurrence, x, lengths, generator, need_x)
    return _pool(network, x, lengths, generator, need_x)


def _run_each_step(network, x, lengths, generator, need_x):
    """(N, S, I) -> (N, S, D [+ I]), zero beyond a sequence, and the way back to x."""
    recurrence, size = network.recurrence, network.recurrence.n_outputs
    ends, back = _run(recurrence, x.transpose(0, 1), lengths, generator, need_x)
    states, back_to_ends = _join(recurrence, ends, lengths, generator)
    states = states.transpose(0, 1)
    if lengths is not None:
        states = states.masked_fill(~step_mask(lengths, x.shape[1])[:, :, None], 0)

    def backward(d_read):
        d_x = back(back_to_ends(d_read[:, :, :size].transpose(0, 1)))
        if d_x is None:
            return None
        d_x = d_x.transpose(0, 1)
        return d_x + d_read[:, :, size:] if network.skips else d_x

    return torch.cat([states, x], dim=2) if network.skips else states, backward


def _pool(network, x, lengths, generator, need_x):
    """(N, S, I) -> (N, P), the mean or maximum or both, and the way back to x."""
    native, recurrence, pooling = kernels.library(), network.recurrence, network.pooling
    ends, back = _run(recurrence, x.transpose(0, 1), lengths, generator, need_x)
    (n_rows, n_steps, _), hidden_size = x.shape, ends[0][1].shape[1]
    factors = recurrence.dropout.factors(
        x.new_empty(n_steps, n_rows, len(ends) * hidden_size), generator
    )
    of_each = [None] * len(ends)
    if factors is not None:
        of_each = factors.expand(n_steps, -1, -1).transpose(0, 1).chunk(len(ends), dim=2)
    parts = [
        {"x": states.transpose(0, 1), "factors": each, "is_reversed": bool(i)}
        for i, ((states, _), each) in enumerate(zip(ends, of_each, strict=True))
    ]
    if network.skips:
        parts.append({"x": x})
    widths = [part["x"].shape[2] for part in parts]
    names = pooling.pooling.split("-")

    def cut(pooled):
        """Return views of what is pooled of each part, by name: (N, H) or (N, I)."""
        of_names = [p.split(widths, dim=1) for p in pooled.chunk(len(names), dim=1)]
        return [dict(zip(names, p, strict=True)) for p in zip(*of_names, strict=True)]

    pooled = x.new_empty(n_rows, pooling.n_outputs)
    kept = [
        kernels.pool(native, into=into, lengths=lengths, **part)
        for part, into in zip(parts, cut(pooled), strict=True)
    ]

    def backward(d_pooled):
        d_parts = [
            kernels.pool_backward(native, each, d, x.new_empty(n_rows, n_steps, width))
            for each, d, width in zip(kept, cut(d_pooled), widths, strict=True)
        ]
        d_x = back([(d.transpose(0, 1), None) for d in d_parts[: len(ends)]])
        if d_x is None:
            return None
        d_x = d_x.transpose(0, 1)  # (N, S, I)
        return d_parts[-1].add_(d_x) if network.skips else d_x

    return pooled, backward
