"""Leaf: what networks are made of: stems, recurrences, poolings, dropout.

Shape legend: N sequences, T time steps, S steps after the stem, C channels,
I inputs of a layer, H hidden_size, D = H or 2 H (bidirectional), P pooled size.
Every stage takes `lengths`, an int64 tensor (N,), or None when every sequence fills its
row; padding never changes what a stage says of a sequence. Plain torch, but for what
`kernels` computes where they apply.

Modules are built with uninitialised memory, which `network.initialize` fills.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import nn
from torch.nn import functional as F

from sklstm import kernels
from sklstm.devices import exact_on

# A recurrence longer than this many steps is shortened by striding the convolutions.
MAX_RECURRENT_STEPS = 160
# Steps that each convolution sees at once, of short sequences and of long ones.
MIN_KERNEL_SIZES, MAX_KERNEL_SIZES = (7, 5, 3), (31, 15, 7)


def step_mask(lengths: torch.Tensor, n_steps: int) -> torch.Tensor:
    """Return a bool tensor (N, S), True where a step is real."""
    return torch.arange(n_steps, device=lengths.device) < lengths[:, None]


class Dropout(nn.Module):
    """Inverted dropout that draws from the generator it is given.

    With `locked`, one draw for all time steps, the first of three dimensions (Gal &
    Ghahramani, 2016).
    """

    def __init__(self, p, locked=False):
        super().__init__()
        self.p = p
        self.locked = locked

    def forward(self, x, generator=None):
        """Zero each element with probability `p` in training."""
        factors = self.factors(x, generator)
        return x if factors is None else x * factors

    def factors(self, x, generator=None):
        """Return what to multiply x with, 0 or 1 / (1 - p); None for nothing to do."""
        if not self.training or self.p == 0:
            return None
        if self.locked and x.ndim == 3:
            x = x[:1]
        if x.device.type != "cpu":
            keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=generator)
            return keep / (1 - self.p)
        # A 64-bit draw serves four elements: 8 times faster than bernoulli_.
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        draws.random_(-(2**63), None, generator=generator)
        least, factor = round(self.p * 2**16) - 2**15, 1 / (1 - self.p)
        if kernels.available(x):
            out = torch.empty(x.shape, dtype=x.dtype)
            return kernels.drop(kernels.library(), draws, least, factor, out)
        uniform = draws.view(torch.int16)[: x.numel()].view(x.shape)
        return ((uniform >= least) * factor).to(x.dtype)

    def extra_repr(self):
        """Show p."""
        return f"p={self.p}"


class _Unfilled:
    """A module whose memory is left unfilled.

    `torch.nn.utils.skip_init` imports a symbolic algebra, or a compiler: one to two
    seconds in the first fit of a process.
    """

    def reset_parameters(self):
        """Do nothing: `initialize` fills the parameters."""


class Convolution(_Unfilled, nn.Conv1d):
    """`torch.nn.Conv1d`."""


class Embedding(_Unfilled, nn.Embedding):
    """`torch.nn.Embedding`."""


class RowLinear(_Unfilled, nn.Linear):
    """A linear map that rounds a row alike wherever it stands in a batch.

    Matrix kernels treat the last rows of an odd-sized batch differently; our own do not.
    Without them the product is, in evaluation, taken in float64 and rounded once, which
    hides the difference.
    """

    def forward(self, x):
        """(..., I) -> (..., O)."""
        if self.training:
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if kernels.applies(x, weight) and not torch.is_grad_enabled():
            out = kernels.affine(x.reshape(1, -1, x.shape[-1]), weight, bias)
            return out.reshape(*x.shape[:-1], -1)
        dtype = exact_on(x.device)
        bias = None if bias is None else bias.to(dtype)
        return F.linear(x.to(dtype), weight.to(dtype), bias).to(x.dtype)


# ------------------------------------------------------------------------- stems
class LinearStem(nn.Module):
    """The same linear map and ReLU at every step."""

    def __init__(self, n_channels, hidden_size):
        super().__init__()
        self.linear = RowLinear(n_channels, hidden_size)
        self.n_outputs = hidden_size

    def forward(self, x, lengths, generator=None):
        """(N, T, C) -> (N, T, H)."""
        return F.relu(self.linear(x)), lengths


class EmbeddingStem(nn.Module):
    """A vector for every token; padding (0) and unknown tokens (1) start at zero.

    In training a share of the tokens is read as unknown.
    """

    def __init__(self, n_tokens, n_outputs, frozen, dropout):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.embedding = Embedding(n_tokens, n_outputs, padding_idx=0)
        self.embedding.weight.requires_grad_(not frozen)
        self.n_outputs = n_outputs

    def forward(self, x, lengths, generator=None):
        """(N, T) int64 -> (N, T, H)."""
        return self.embedding(self.dropped(x, generator)), lengths

    def dropped(self, x, generator=None):
        """Return tokens (N, T), in training a share of them unknown."""
        factors = self.dropout.factors(x, generator)
        if factors is None:
            return x
        return x.masked_fill((factors == 0) & (x != 0), 1)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the real steps of a batch (Ioffe & Szegedy, 2015).

    The running statistics are exponential means that start from zero and are divided
    by their sum of weights, as Adam's moments are, so that they can be used after a
    single step.
    """

    momentum, eps = 0.1, 1e-5

    def __init__(self, n_features):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_features))
        self.bias = nn.Parameter(torch.empty(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.zeros(n_features))
        self.register_buffer("running_weight", torch.zeros(()))

    def scale_and_shift(self):
        """Return what evaluation multiplies with and adds: (C,), (C,)."""
        mean = self.running_mean / self.running_weight
        variance = self.running_var / self.running_weight
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale

    def forward(self, x, mask):
        """(N, C, S) -> (N, C, S); mask is a bool tensor (N, 1, S) or None."""
        if not self.training:
            scale, shift = self.scale_and_shift()
            return x * scale[:, None] + shift[:, None]
        running_mean, running_var, momentum = self.running()
        if mask is None and len(x) * x.shape[2] > 1:
            return F.batch_norm(
                x, running_mean, running_var, self.weight, self.bias, training=True,
                momentum=momentum, eps=self.eps,
            )  # fmt: skip
        if mask is None:
            mask = torch.ones_like(x[:, :1], dtype=torch.bool)
        n_steps = mask.sum()
        mean = (x * mask).sum((0, 2)) / n_steps  # (C,)
        centred = (x - mean[:, None]) * mask
        variance = centred.square().sum((0, 2)) / n_steps
        with torch.no_grad():
            unbiased = variance * (n_steps / (n_steps - 1).clamp(min=1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        scale = (self.weight * torch.rsqrt(variance + self.eps))[:, None]
        return centred * scale + self.bias[:, None]

    def running(self):
        """Return running mean and unbiased variance, (C,), and what to do with them.

        In training their momentum, for the statistics of one batch to be added, whose
        weight is added here; in evaluation their sum of weights.
        """
        if not self.training:
            return self.running_mean, self.running_var, self.running_weight
        self.running_weight.mul_(1 - self.momentum).add_(self.momentum)
        return self.running_mean, self.running_var, self.momentum


class ConvStem(nn.Module):
    """Convolutions over time, strided so that the recurrence stays short.

    Three blocks of convolution, batch normalisation and ReLU, as in the
    convolutional branch of LSTM-FCN (Karim et al., 2018).
    """

    def __init__(self, n_channels, hidden_size, kernel_sizes, strides):
        super().__init__()
        self.strides = strides
        inputs = (n_channels, hidden_size, hidden_size)
        self.convolutions = nn.ModuleList(
            Convolution(n, hidden_size, k, stride=stride, bias=False)
            for n, k, stride in zip(inputs, kernel_sizes, strides, strict=True)
        )
        self.norms = nn.ModuleList(MaskedBatchNorm(hidden_size) for _ in inputs)
        self.n_outputs = hidden_size

    def forward(self, x, lengths, generator=None):
        """(N, T, C) -> (N, S, H), S = ceil(T / product of strides)."""
        of_one_mode = all(norm.training == self.training for norm in self.norms)
        if of_one_mode and kernels.applies(x, self.convolutions[0].weight):
            if self.training:
                return self.blocks(x, lengths, kernels.convolution)
            if not torch.is_grad_enabled():
                evaluate = functools.partial(kernels.evaluate, kernels.library())
                return self.blocks(x, lengths, evaluate)
        x = x.transpose(1, 2)  # (N, C, T)
        mask = None
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            (k,), (stride,) = convolution.kernel_size, convolution.stride
            # k // 2 zeros in front and enough behind: output j is centred on j * stride
            # and a sequence of length L has ceil(L / stride) outputs, however padded.
            x = convolution(F.pad(x, (k // 2, k - 1 - k // 2)))
            if lengths is not None:
                lengths = torch.div(lengths + stride - 1, stride, rounding_mode="floor")
                mask = step_mask(lengths, x.shape[2])[:, None]  # (N, 1, S)
            x = F.relu(norm(x, mask))
            if mask is not None:
                x = x * mask  # so that the next convolution sees zeros, as at the end
        return x.transpose(1, 2), lengths  # (N, S, H)

    def blocks(self, x, lengths, convolve):
        """Do the same with our kernels, which keep all channels of a step together.

        `convolve` is `kernels.convolution`, or what else does the same; in evaluation
        `kernels.evaluate`.
        """
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            (stride,) = convolution.stride
            if lengths is not None:
                lengths = torch.div(lengths + stride - 1, stride, rounding_mode="floor")
            x = convolve(
                x, convolution.weight, norm.weight, norm.bias, norm.running(),
                stride=stride, eps=norm.eps, lengths=lengths,
            )  # fmt: skip
        return x, lengths


def conv_kernel_sizes(n_timesteps: int) -> tuple[int, ...]:
    """Kernel sizes of `ConvStem`: an eighth, a 16th and a 32nd of a sequence, in bounds.

    Odd, so that an output has as many steps before it as behind it.
    """
    return tuple(
        max(least, min(most, (n_timesteps // 2 ** (i + 3) - 1) | 1))
        for i, (least, most) in enumerate(
            zip(MIN_KERNEL_SIZES, MAX_KERNEL_SIZES, strict=True)
        )
    )


def conv_strides(n_timesteps: int) -> tuple[int, ...]:
    """Strides of `ConvStem` that bring the steps near `MAX_RECURRENT_STEPS`."""
    strides = [1, 1, 1]
    for i in range(2 * len(strides)):
        if math.ceil(n_timesteps / math.prod(strides)) <= MAX_RECURRENT_STEPS:
            break
        strides[i % len(strides)] *= 2
    return tuple(strides)


# -------------------------------------------------------------------- recurrence
class _Layer(_Unfilled):
    """One direction of one recurrent layer."""

    def forward(self, x, factors=None, state=None, lengths=None):
        """(S, N, I) -> h of every step (S, N, H), and the state after the last.

        `factors`, if any, are what the recurrent weights are multiplied with; `state`
        is what to start from. Steps beyond `lengths` (N,), descending, need not be read.
        """
        weights = scaled_recurrent(self.weights, factors)
        if kernels.applies(x, *weights):
            return kernels.layer(x, state, *weights, lengths=lengths)
        return kernels.by_torch(x, state, *weights)

    @property
    def weights(self):
        """Weights and biases, as `kernels` takes them."""
        return self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0


def scaled_recurrent(weights, factors):
    """Return weights of a layer, the recurrent ones times factors, None for no change."""
    if factors is None:
        return weights
    weight_ih, weight_hh, *others = weights
    return weight_ih, weight_hh * factors, *others


class LSTMLayer(_Layer, nn.LSTM):
    """`torch.nn.LSTM`."""


class GRULayer(_Layer, nn.GRU):
    """`torch.nn.GRU`."""


class PeepholeLayer(_Layer, nn.LSTM):
    """An LSTM whose gates see the cell (Gers & Schmidhuber, 2000).

    Unit by unit: the input and the forget gate the cell before, the output gate the new
    one.
    """

    def __init__(self, n_inputs, hidden_size):
        super().__init__(n_inputs, hidden_size)
        self.weight_ch_l0 = nn.Parameter(torch.empty(3, hidden_size))

    @property
    def weights(self):
        """Weights, biases and peepholes, as `kernels` takes them."""
        return *super().weights, self.weight_ch_l0


CELLS = {"lstm": LSTMLayer, "peephole": PeepholeLayer, "gru": GRULayer}


def reverse(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Reverse each sequence within its own length: (S, N, I) -> (S, N, I)."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]  # (S, 1)
    # Step t of a sequence of length L comes from L - 1 - t; padding stays in place.
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (S, N)
    return x.gather(0, source[:, :, None].expand_as(x))


class Recurrence(nn.Module):
    """Stacked recurrent layers, in one direction or two.

    The states of a layer are normalised (`layer_norm`), dropped out of, and added to
    what it read (`residual`, from the second layer on: the first reads something else).

    Parameters
    ----------
    n_inputs, hidden_size, num_layers : int
    cell : {"lstm", "peephole", "gru"}
    bidirectional : bool
    dropout : float
    variational_dropout : bool
    recurrent_dropout : float
    residual, layer_norm : bool
    """

    def __init__(
        self, n_inputs, hidden_size, num_layers, cell, bidirectional, dropout, *,
        variational_dropout=False, recurrent_dropout=0.0, residual=False,
        layer_norm=False,
    ):  # fmt: skip
        super().__init__()
        self.bidirectional = bidirectional
        self.residual = residual and num_layers > 1
        self.n_outputs = hidden_size * (2 if bidirectional else 1)
        sizes = [n_inputs] + [self.n_outputs] * (num_layers - 1)
        layer = CELLS[cell]
        self.forwards = nn.ModuleList(layer(size, hidden_size) for size in sizes)
        self.backwards = nn.ModuleList(
            layer(size, hidden_size) for size in sizes if bidirectional
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(self.n_outputs) for _ in sizes if layer_norm
        )
        self.dropout = Dropout(dropout, variational_dropout)
        self.recurrent_dropout = Dropout(recurrent_dropout)

    @property
    def is_plain(self):
        """Whether there is nothing between the layers but dropout."""
        return not (self.residual or self.norms)

    def forward(self, x, lengths, generator=None):
        """(N, S, I) -> (N, S, D)."""
        x = x.transpose(0, 1)  # (S, N, I)
        for i, layer in enumerate(self.forwards):
            states = self._run(layer, x, generator)[0]  # (S, N, H)
            if self.bidirectional:
                backwards = reverse(x, lengths)
                behind = self._run(self.backwards[i], backwards, generator)[0]
                states = torch.cat([states, reverse(behind, lengths)], dim=2)
            x = self.hand_on(i, x, states, generator)
        return x.transpose(0, 1)

    def final(self, x, generator=None, lengths=None):
        """(N, S, I) -> last state of the last layer (N, H); one direction.

        `lengths` (N,), if any, descend.
        """
        x = x.transpose(0, 1)  # (S, N, I)
        *others, top = self.forwards
        for i, layer in enumerate(others):
            states = self._run(layer, x, generator, lengths=lengths)[0]
            x = self.hand_on(i, x, states, generator)
        states, (last, *_) = self._run(top, x, generator, lengths=lengths)
        read = x[-1]
        if lengths is not None:
            at = lengths - 1, torch.arange(x.shape[1], device=x.device)
            read, last = x[at], states[at]
        return self.hand_on(len(others), read, last, generator)

    def go_on(self, x, state, generator=None):
        """Read a piece of sequences; one direction.

        Parameters
        ----------
        x : Tensor of shape (N, S, I)
        state : list, a state for each layer, or None to start
        generator : torch.Generator

        Returns
        -------
        states : Tensor of shape (N, S, D)
        state : list
            After the piece; no gradient goes back to it.
        """
        x, ends = x.transpose(0, 1), []  # (S, N, I)
        for i, layer in enumerate(self.forwards):
            states, end = self._run(layer, x, generator, state and state[i])
            # As what it will be read beside: autocast gives states of its own precision.
            ends.append([part.detach().to(x.dtype) for part in end])
            x = self.hand_on(i, x, states, generator)
        return x.transpose(0, 1), ends

    def _run(self, layer, x, generator, state=None, lengths=None):
        # One draw for all rows and steps of a batch (Merity et al., 2018).
        factors = self.recurrent_dropout.factors(layer.weight_hh_l0, generator)
        return layer(x, factors, state, lengths)

    def hand_on(self, i, x, states, generator=None):
        """Return what follows layer i, which read x: (..., D)."""
        if self.norms:
            states = self.norms[i](states)
        states = self.dropout(states, generator)
        return x + states if self.residual and i > 0 else states


# ----------------------------------------------------------------------- pooling
class Pooling(nn.Module):
    """Summarise the states of a sequence: (N, S, D) -> (N, P)."""

    def __init__(self, pooling, n_inputs, bidirectional):
        super().__init__()
        self.pooling = pooling
        self.bidirectional = bidirectional
        self.n_outputs = 2 * n_inputs if pooling == "mean-max" else n_inputs
        if pooling == "attention":
            self.score = RowLinear(n_inputs, n_inputs)
            self.query = nn.Parameter(torch.empty(n_inputs))

    def forward(self, x, lengths):
        """Pool over the real steps."""
        return getattr(self, "_" + self.pooling.replace("-", "_"))(x, lengths)

    def _last(self, x, lengths):
        if lengths is None:
            last = x[:, -1]
        else:
            rows = torch.arange(len(x), device=x.device)
            last = x[rows, lengths - 1]  # (N, D)
        if not self.bidirectional:
            return last
        half = x.shape[2] // 2
        # The backward direction has read the whole sequence at its first step.
        return torch.cat([last[:, :half], x[:, 0, half:]], dim=1)

    def _sum(self, x, lengths):
        is_inference = not (self.training or torch.is_grad_enabled())
        if is_inference and kernels.applies(x, x):
            return kernels.sum_steps(x, lengths)
        if lengths is not None:
            x = x * step_mask(lengths, x.shape[1])[:, :, None]
        # As in `RowLinear`: torch adds up in an order that depends on the batch.
        return x.sum(1, dtype=exact_on(x.device) if is_inference else None).to(x.dtype)

    def _mean(self, x, lengths):
        n_steps = x.shape[1] if lengths is None else lengths[:, None]
        return self._sum(x, lengths) / n_steps

    def _max(self, x, lengths):
        if lengths is not None:
            mask = step_mask(lengths, x.shape[1])[:, :, None]
            x = x.masked_fill(~mask, -torch.inf)
        return x.amax(1)

    def _mean_max(self, x, lengths):
        return torch.cat([self._mean(x, lengths), self._max(x, lengths)], dim=1)

    def _attention(self, x, lengths):
        return self._sum(self.attention(x, lengths)[:, :, None] * x, lengths)

    def attention(self, x, lengths):
        """Return the weight of each step, (N, S), summing to 1 (Yang et al., 2016)."""
        # A product and a sum: a matrix-vector kernel rounds by position in the batch.
        score = (torch.tanh(self.score(x)) * self.query).sum(2)  # (N, S)
        if lengths is not None:
            score = score.masked_fill(~step_mask(lengths, x.shape[1]), -torch.inf)
        share = (score - score.detach().amax(1, keepdim=True)).exp()
        return share / self._sum(share[:, :, None], lengths)


POOLINGS = ("last", "mean", "max", "mean-max", "attention")
