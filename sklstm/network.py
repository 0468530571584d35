"""Leaf: the network, plain torch but for what `kernels` computes where they apply.

    stem -> recurrence -> pooling -> readout
       `------------------^

Shape legend: N sequences, T time steps, S steps after the stem, C channels,
I inputs of a layer, H hidden_size, D = H or 2 H (bidirectional), P pooled size,
Q raw outputs. Every stage takes `lengths`, an int64 tensor (N,), or None when every
sequence fills its row; padding never changes what a stage says of a sequence.

Networks are built with uninitialised memory and filled by `initialize` from a
generator, so neither construction nor training touches torch's global random state.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as nn_module

from sklstm import kernels, laid_out

# A recurrence longer than this many steps is shortened by striding the convolutions.
MAX_RECURRENT_STEPS = 160
# From this length on, stem="auto" puts convolutions before the recurrence.
MIN_CONV_TIMESTEPS = 8
# Steps that each convolution sees at once, of short sequences and of long ones.
MIN_KERNEL_SIZES, MAX_KERNEL_SIZES = (7, 5, 3), (31, 15, 7)
# Shares of a window's trend, of its last season's trend, and of the way from its last to
# its mean season that a forecast starts with.
INITIAL_SHARES = (0.5, 0.0, 0.5)


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
        bias = None if bias is None else bias.double()
        return F.linear(x.double(), weight.double(), bias).to(x.dtype)


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
        weights = self.weights_times(factors)
        if kernels.applies(x, *weights):
            return kernels.layer(x, state, *weights, lengths=lengths)
        return kernels.by_torch(x, state, *weights)

    @property
    def weights(self):
        """Weights and biases, as `kernels` takes them."""
        return self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0

    def weights_times(self, factors):
        """Return the weights, the recurrent ones times factors unless these are None."""
        if factors is None:
            return self.weights
        weight_ih, weight_hh, *others = self.weights
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
        self.residual = residual
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
        """Whether there is nothing but layers and dropout."""
        return not (self.bidirectional or self.residual or self.norms)

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
        return x.sum(1, dtype=torch.float64 if is_inference else None).to(x.dtype)

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


# ----------------------------------------------------------------------- network
def _log_of_sum(logs):
    """(K, ...) -> (...): of few, where `Tensor.logsumexp` takes ten times as long.

    `torch.logaddexp` rounds the last elements of a batch differently.
    """
    total, *others = logs.unbind()
    for each in others:
        gap = (total - each).abs()
        total = torch.maximum(total, each) + torch.log1p(torch.exp(-gap))
    return total


def dequantize(codes, scales):
    """Weights of shape (n_out, ...) from int8 codes of that shape and scales (n_out,)."""
    return codes * scales.reshape(-1, *[1] * (codes.ndim - 1))


def split_codes(arrays):
    """Return the codes among arrays, {name: (codes, scales)}, and all as floats."""
    arrays = dict(arrays)
    names = [name for name, array in arrays.items() if array.dtype == np.int8]
    codes = {name: (arrays[name], arrays.pop(name + "_scale")) for name in names}
    return codes, arrays | {name: dequantize(*pair) for name, pair in codes.items()}


class _Portable:
    """Pickle a network as its configuration and numpy arrays.

    Never as pickled modules or tensors, so any torch version and any device can read it
    back. Weights that `compress` has rounded are kept as what they were rounded to, in
    two arrays, the second with "_scale" after its name.
    """

    codes = {}  # name of a weight: (int8 codes, scales); replaced, never changed

    @functools.cached_property
    def n_weights(self) -> int:
        """Number of weights, biases not counted."""
        return sum(p.numel() for p in self.parameters() if p.ndim > 1)

    def __getstate__(self):
        arrays = {
            name: tensor.detach().cpu().numpy().copy()
            for name, tensor in self.state_dict().items()
        }
        for name, (codes, scales) in self.codes.items():
            if np.array_equal(arrays[name], dequantize(codes, scales)):  # not trained on
                arrays[name], arrays[name + "_scale"] = codes, scales
        return {"config": self.config, "arrays": arrays, "training": self.training}

    def __setstate__(self, state):
        self.__init__(**state["config"])
        self.codes, arrays = split_codes(state["arrays"])
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
        self.to(dtype=dtype).load_state_dict(tensors)
        self.train(state["training"])


class _LaidOut:
    """A network that the kernels compute by one call, its weights laid out once.

    `lay_out` makes what is called, `say_by` what the network says of what that returns;
    `examples` are settings, shapes of inputs and lengths to prove it with.

    What changes by torch, training and `train` are noticed; values written to the memory
    of weights by other ways (``parameter.data``, NumPy) are not.
    """

    _laid_out = None, None

    def train(self, mode=True):
        """Set the mode; weights that training changes are laid out anew."""
        self._laid_out = None, None
        return super().train(mode)

    def laid_out(self):
        """Return `laid_out.Reader` or `laid_out.Forecaster`, the same while weights are.

        None where a module is in training or has hooks, or the kernels do not apply.
        """
        if (
            torch.is_grad_enabled()
            or nn_module._global_forward_hooks
            or nn_module._global_forward_pre_hooks
            or not kernels.are_used()
        ):
            return None
        key = []
        _add_versions(self, key)
        if self._laid_out[0] != key:
            self._laid_out = key, self._lay_out_anew(key)
        return self._laid_out[1]

    def _lay_out_anew(self, key):
        # The kernels would read weights of another type as if they were of theirs.
        weights = self.recurrence.forwards[0].weights
        if (
            True in key
            or not kernels.available(*weights)
            or not all(map(kernels.available, self.state_dict().values()))
            or not _one_call_agrees(type(self), self.config["cell"])
        ):
            return None
        return self.lay_out(kernels.library(kernels.cell_of(weights)))


def _add_versions(module, key):
    """Add of each module whether it must be called, and what its weights and buffers are.

    Not of other members. Quicker than by `modules` and `parameters`.
    """
    has_hooks = module._forward_hooks or module._forward_pre_hooks
    key.append(module.training or bool(has_hooks))
    for kept in (module._parameters, module._buffers):
        for tensor in kept.values():
            if tensor is not None:
                # A tensor of inference mode has no version: it is never the same.
                version = object() if tensor.is_inference() else tensor._version
                key.append((tensor.data_ptr(), version))
    for name, child in module._modules.items():
        if child is not None and name != "others":
            _add_versions(child, key)


class RecurrentNetwork(_LaidOut, _Portable, nn.Module):
    """stem -> recurrence -> pooling -> readout; or the mean of several such members.

    Parameters
    ----------
    n_channels : int
        Channels of the input. Ignored with ``stem="embedding"``.
    n_outputs : int
        Raw outputs of the readout.
    hidden_size, num_layers : int
    cell : {"lstm", "peephole", "gru"}
    bidirectional : bool
    dropout : float
        Probability that an output of a recurrent layer is dropped in training.
    stem : {None, "linear", "conv", "embedding"}
    pooling : {"last", "mean", "max", "mean-max", "attention"} or None
        None: every state is read out, so there are raw outputs for each step.
    kernel_sizes, strides : tuple of int
        Of the convolutions. Only used with ``stem="conv"``.
    n_tokens, embedding_size : int
        Rows and columns of the embedding. Only used with ``stem="embedding"``.
    freeze_embedding : bool
        Whether the embedding stays as it is in training.
    token_dropout : float
        Probability that a token is read as unknown in training.
    variational_dropout, recurrent_dropout, residual, layer_norm
        As `Recurrence` takes them.
    n_members : int
        Networks that differ in nothing but their weights. The stem, recurrence, pooling
        and readout of this module are the first; the others are whole ones, in `others`.
    link : {"identity", "sigmoid", "softmax"}
        What makes of raw outputs what members average: raw outputs are those of the mean
        of the members' values or probabilities. Ignored with one member.
    """

    _sizes = {"n_channels": 2, "n_outputs": 3, "num_layers": 2, "n_tokens": None}
    examples = (
        (_sizes | {"bidirectional": True, "stem": "conv", "pooling": "mean-max",
                   "strides": (2, 1, 1)}, [(3, 8, 2)], (5, 8, 3)),
        (_sizes | {"bidirectional": False, "stem": "linear", "pooling": "last",
                   "strides": None}, [(3, 8, 2)], None),
    )  # fmt: skip

    def __init__(
        self, *, n_channels, n_outputs, hidden_size, num_layers, cell, bidirectional,
        dropout, stem, pooling, strides, n_tokens, kernel_sizes=MIN_KERNEL_SIZES,
        embedding_size=None,
        freeze_embedding=False, token_dropout=0.0, variational_dropout=False,
        recurrent_dropout=0.0, residual=False, layer_norm=False, n_members=1,
        link="identity",
    ):  # fmt: skip
        super().__init__()
        variants = {
            "variational_dropout": variational_dropout,
            "recurrent_dropout": recurrent_dropout,
            "residual": residual, "layer_norm": layer_norm,
        }  # fmt: skip
        self.config = {
            "n_channels": n_channels, "n_outputs": n_outputs,
            "hidden_size": hidden_size, "num_layers": num_layers, "cell": cell,
            "bidirectional": bidirectional, "dropout": dropout, "stem": stem,
            "pooling": pooling, "kernel_sizes": kernel_sizes, "strides": strides,
            "n_tokens": n_tokens, "embedding_size": embedding_size,
            "freeze_embedding": freeze_embedding,
            "token_dropout": token_dropout, **variants, "n_members": n_members,
            "link": link,
        }  # fmt: skip
        stems = {
            "linear": lambda: LinearStem(n_channels, hidden_size),
            "conv": lambda: ConvStem(n_channels, hidden_size, kernel_sizes, strides),
            "embedding": lambda: EmbeddingStem(
                n_tokens, embedding_size or hidden_size, freeze_embedding, token_dropout
            ),
        }
        self.stem = None if stem is None else stems[stem]()
        n_inputs = n_channels if stem is None else self.stem.n_outputs
        self.recurrence = Recurrence(
            n_inputs, hidden_size, num_layers, cell, bidirectional, dropout, **variants
        )
        # What convolutions see is read out beside what the recurrence makes of it, as in
        # LSTM-FCN (Karim et al., 2018).
        self.skips = stem == "conv" and pooling != "last"
        n_read = self.recurrence.n_outputs + (n_inputs if self.skips else 0)
        self.pooling = None
        if pooling is not None:
            self.pooling = Pooling(pooling, n_read, bidirectional)
            n_read = self.pooling.n_outputs
        # Its gradient costs less than that of one step out of all.
        self.reads_final = pooling == "last" and not bidirectional
        self.readout = RowLinear(n_read, n_outputs)
        alone = self.config | {"n_members": 1}
        self.others = nn.ModuleList(
            RecurrentNetwork(**alone) for _ in range(n_members - 1)
        )

    @property
    def members(self):
        """The networks that are averaged; the first is this one alone."""
        return [self, *self.others]

    @property
    def rounds_alike(self):
        """Whether a row comes out alike in batches of any size, to the last bit.

        So it is where our own kernels run all products; not with torch's.
        """
        return kernels.available(*self.recurrence.forwards[0].weights)

    def embed(self, x, lengths, generator=None):
        """(N, T, C) -> pooled state (N, P); without pooling every state (N, S, D).

        Those of all members, side by side.
        """
        states = self._embed(x, lengths, generator)
        if not self.others:
            return states
        others = [other.embed(x, lengths, generator) for other in self.others]
        return torch.cat([states, *others], dim=-1)

    @staticmethod
    def say_by(reader, x, lengths):
        """Return raw outputs."""
        return reader(x, lengths)[1]

    def _by_one_call(self, x, lengths):
        """Return what is pooled and raw outputs; None where this is not possible."""
        recurrence, pooling, stem = self.recurrence, self.pooling, self.stem
        if pooling is None or pooling.pooling == "attention":
            return None
        if recurrence.residual or recurrence.norms:
            return None
        reader = self.laid_out()
        if reader is None or x.numel() == 0:
            return None
        if isinstance(stem, EmbeddingStem):
            x, lengths = stem(x, lengths)
        return reader(x, lengths) if x.dtype == torch.float32 else None

    def lay_out(self, native):
        """Return `laid_out.Reader` of the first member."""
        recurrence, stem = self.recurrence, self.stem
        directions = [recurrence.forwards]
        if recurrence.bidirectional:
            directions.append(recurrence.backwards)
        layers = [
            layer.weights for pair in zip(*directions, strict=True) for layer in pair
        ]
        linear, convolutions, n_channels = (), [], layers[0][0].shape[1]
        if isinstance(stem, LinearStem):
            linear = stem.linear.weight, stem.linear.bias
            n_channels = stem.linear.in_features
        elif isinstance(stem, ConvStem):
            convolutions = [
                (c.weight, norm.weight, norm.bias, norm.running(), *c.stride, norm.eps)
                for c, norm in zip(stem.convolutions, stem.norms, strict=True)
            ]
            n_channels = stem.convolutions[0].in_channels
        return laid_out.Reader(
            native, convolutions=convolutions, stem=linear, layers=layers,
            n_directions=len(directions), pooling=self.pooling.pooling, skips=self.skips,
            readout=(self.readout.weight, self.readout.bias), n_channels=n_channels,
        )  # fmt: skip

    def _embed(self, x, lengths, generator=None):
        if lengths is not None:  # our kernels read them from memory
            lengths = lengths.to(torch.int64).contiguous()
        at_once = self._by_one_call(x, lengths)
        if at_once is not None:
            return at_once[0]
        if self.stem is not None:
            x, lengths = self.stem(x, lengths, generator)  # (N, S, I)
        return self.pool(x, lengths, generator)

    def pool(self, x, lengths, generator=None):
        """Pool the states of what the stem gives: (N, S, I) -> (N, P)."""
        if self.reads_final and lengths is None:
            return self.recurrence.final(x, generator)
        states = self.states(x, lengths, generator)
        return states if self.pooling is None else self.pooling(states, lengths)

    def states(self, x, lengths, generator=None):
        """Return what is pooled, of what the stem gives: (N, S, I) -> (N, S, D [+ I])."""
        states = self.recurrence(x, lengths, generator)
        return torch.cat([states, x], dim=2) if self.skips else states

    def forward(self, x, lengths=None, generator=None):
        """(N, T, C) -> raw outputs (N, Q); without pooling (N, S, Q)."""
        raw = self.alone(x, lengths, generator)
        if not self.others:
            return raw
        others = [other(x, lengths, generator) for other in self.others]
        return self._averaged(torch.stack([raw, *others]))

    def alone(self, x, lengths=None, generator=None):
        """Return the raw outputs of the first member."""
        if lengths is not None:  # our kernels read them from memory
            lengths = lengths.to(torch.int64).contiguous()
        at_once = self._by_one_call(x, lengths)
        if at_once is not None:
            return at_once[1]
        return self.readout(self._embed(x, lengths, generator))

    def _averaged(self, raw):
        """(K, N, ..., Q) -> raw outputs of the mean, by logarithms: none underflow."""
        if self.config["link"] == "identity":
            return raw.mean(0)
        if self.config["link"] == "softmax":
            return _log_of_sum(raw.log_softmax(-1)) - math.log(len(raw))
        # The logit of the mean of sigmoid(r), which is 1 - sigmoid(-r).
        of_both = F.logsigmoid(torch.stack([raw, -raw], dim=1))  # (K, 2, N, ..., Q)
        mean, rest = _log_of_sum(of_both)
        return mean - rest

    @property
    def reads_on(self):
        """Whether sequences can be read piece by piece: nothing looks ahead."""
        return not self.recurrence.bidirectional and not isinstance(self.stem, ConvStem)

    def differentiate_truncated(
        self, loss, bptt_steps, inputs, target, weight, generator=None
    ):
        """Add the gradients of a mean loss, carried back over `bptt_steps` at most.

        Sequences are read piece by piece, and the state at the end of a piece is a given
        for the next (Williams & Peng, 1990). With an output for each step, pieces are
        differentiated as they come. Else all are read without gradients first; then it
        is known what the loss asks of each state, and pieces are read again, with the
        same draws, to pass it on.

        Parameters
        ----------
        loss : callable
            ``loss(raw, target, weight)`` -> losses of the rows (N,).
        bptt_steps : int
        inputs, target, weight : a batch
        generator : torch.Generator

        Returns
        -------
        loss : Tensor of shape () or None
            The loss itself is exact. None if sequences are not longer than `bptt_steps`.
        """
        x, lengths = inputs
        n_timesteps = x.shape[1]
        if self.pooling is None:  # the batch may be padded further than its targets
            n_timesteps = min(n_timesteps, target.shape[1])
        if n_timesteps <= bptt_steps:
            return None
        n_pieces = -(-n_timesteps // bptt_steps)
        edges = [i * n_timesteps // n_pieces for i in range(n_pieces + 1)]
        pieces = [slice(*pair) for pair in itertools.pairwise(edges)]  # of equal size
        if self.pooling is None:
            total, state = x.new_zeros((), dtype=weight.dtype), None
            for piece in pieces:
                states, state = self._read_on(x[:, piece], state, generator)
                raw = self.readout(states).to(weight.dtype)
                value = loss(raw, target[:, piece], weight[:, piece]).mean()
                value.backward()
                total += value.detach()
            return total
        starts, draws, states = [None], [], []
        with torch.no_grad():
            for piece in pieces:
                draws.append(None if generator is None else generator.get_state())
                part, end = self._read_on(x[:, piece], starts[-1], generator)
                starts.append(end)
                states.append(part)
        states = torch.cat(states, dim=1).requires_grad_()
        raw = self.readout(self.pooling(states, lengths))
        value = loss(raw.to(self.readout.weight.dtype), target, weight).mean()
        value.backward()
        after = None if generator is None else generator.get_state()
        for piece, start, drawn in zip(pieces, starts, draws, strict=False):
            d_states = states.grad[:, piece]
            if not d_states.any():  # pooling="last", before the last piece
                continue
            if generator is not None:
                generator.set_state(drawn)
            self._read_on(x[:, piece], start, generator)[0].backward(d_states)
        if generator is not None:
            generator.set_state(after)
        return value.detach()

    def _read_on(self, x, state, generator):
        if self.stem is not None:
            x, _ = self.stem(x, None, generator)
        return self.recurrence.go_on(x, state, generator)


class ForecastNetwork(_LaidOut, _Portable, nn.Module):
    """A window of a series -> quantiles of its next steps.

    Segments of the window are read by the recurrence; its final state, joined with the
    position and the base forecast of each step and what is known of the future, is
    decoded for all steps at once. The output starts at the base forecast: its
    correction is initialised to zero.

    Parameters
    ----------
    n_inputs : int
        Channels of the window.
    n_future : int
        Exogenous channels known for the steps to forecast.
    horizon : int
        Steps decoded at once.
    n_quantiles : int
        An odd number; the middle one is the median.
    segment_length : int
        Steps that are read together; it divides the window length.
    linear_length : int
        Last values of the window that also have a linear map to the steps, which
        starts at zero; 0 for none.
    hidden_size, num_layers : int
    cell : {"lstm", "peephole", "gru"}
    dropout : float
    """

    n_position = 16
    rounds_alike = RecurrentNetwork.rounds_alike
    _sizes = {"n_inputs": 2, "n_future": 1, "horizon": 3, "n_quantiles": 5}
    _shapes = (3, 8, 2), (3, 3, 4), (3, 3, 1)
    examples = (
        (_sizes | {"num_layers": 3, "segment_length": 1, "linear_length": 0}, _shapes,
         (8, 6, 2)),
        (_sizes | {"num_layers": 1, "segment_length": 2, "linear_length": 4}, _shapes,
         None),
    )  # fmt: skip

    def __init__(
        self, *, n_inputs, n_future, horizon, n_quantiles, segment_length,
        linear_length, hidden_size, num_layers, cell, dropout,
    ):  # fmt: skip
        super().__init__()
        self.config = {
            "n_inputs": n_inputs, "n_future": n_future, "horizon": horizon,
            "n_quantiles": n_quantiles, "segment_length": segment_length,
            "linear_length": linear_length, "hidden_size": hidden_size,
            "num_layers": num_layers, "cell": cell, "dropout": dropout,
        }  # fmt: skip
        self.segment_length = segment_length
        self.linear_length = linear_length
        self.stem = None
        if segment_length > 1:
            self.stem = RowLinear(n_inputs * segment_length, hidden_size)
        n_read = n_inputs if self.stem is None else hidden_size
        self.recurrence = Recurrence(
            n_read, hidden_size, num_layers, cell, False, dropout
        )
        self.position = Embedding(horizon, self.n_position)
        self.of_state = RowLinear(hidden_size, hidden_size)
        n_step = self.n_position + 4 + n_future
        self.of_step = RowLinear(n_step, hidden_size, bias=False)
        self.correction = RowLinear(hidden_size, n_quantiles)
        self.shares = nn.Parameter(torch.empty(horizon, 3))
        self.mixing = RowLinear(hidden_size, 3, bias=False)
        self.linear = None
        if linear_length:
            self.linear = RowLinear(linear_length, horizon, bias=False)

    def forward(self, x, base, future, steps=None, generator=None, lengths=None):
        """(N, W, I), (N, Z, 4), (N, Z, F) -> quantiles (N, Z, Q).

        Of the first Z steps, or of those that `steps`, an index, says: a step is decoded
        by itself, so training may look at some of a long horizon, and a forecast need
        not go further than is asked.
        Windows may be of several lengths (N,), multiples of a segment, that descend.
        """
        if x.dtype == torch.float32 and x.numel() > 0:
            forecaster = self.laid_out()
            if forecaster is not None:
                return self.say_by(forecaster, x, base, future, lengths, steps)
        steps = slice(base.shape[1]) if steps is None else steps
        values = x[:, :, 0]  # (N, W)
        if self.stem is not None:
            x = x.reshape(len(x), -1, self.segment_length * x.shape[2])  # (N, S, G I)
            x = F.relu(self.stem(x))  # (N, S, H)
        state = self.recurrence.final(x, generator, self._segments_of(lengths))  # (N, H)
        linear = None
        if self.linear is not None:
            if lengths is None:
                last = values[:, -self.linear_length :]
            else:
                back = torch.arange(self.linear_length, 0, -1, device=x.device)
                last = values.gather(1, lengths[:, None] - back)
            linear = self.linear(last)[:, steps]  # (N, Z)
        state, shares = self.of_state(state), self.shares[steps]
        known = torch.cat([base, future], dim=2)
        position = self.position.weight[steps]  # (Z, n_position)
        position = position.expand(len(x), -1, -1)  # (N, Z, n_position)
        step = torch.cat([position, known], dim=2)
        hidden = F.relu(state[:, None] + self.of_step(step))  # (N, Z, H)
        raw = self.correction(hidden)  # (N, Z, Q)
        middle = raw.shape[2] // 2
        naive, change = base[:, :, 0], base[:, :, 1:]  # (N, Z), (N, Z, 3)
        shares = shares + self.mixing(hidden)  # (N, Z, 3): what the series asks for
        median = naive + (shares * change).sum(2) + raw[:, :, middle]
        if linear is not None:
            median = median + linear
        # Positive gaps, added up outwards from the median: quantiles cannot cross. Where
        # elements are not contiguous, a row is rounded alike in any batch.
        below = F.softplus(raw[:, :, :middle]).flip(2).cumsum(2).flip(2)
        above = F.softplus(raw[:, :, middle + 1 :]).cumsum(2)
        median = median[:, :, None]
        return torch.cat([median - below, median, median + above], dim=2)

    def _segments_of(self, lengths):
        """Return lengths in segments, as kernels read them."""
        if lengths is None:
            return None
        if self.segment_length > 1:
            lengths = lengths // self.segment_length
        return lengths.to(torch.int64).contiguous()

    def say_by(self, forecaster, x, base, future, lengths, steps=None):
        """Return quantiles of some steps."""
        known = torch.cat([base, future], dim=2) if future.shape[2] else base
        if steps is not None:
            steps = torch.arange(self.config["horizon"])[steps].contiguous()
        return forecaster(x, known, self._segments_of(lengths), steps)

    def lay_out(self, native):
        """Return `laid_out.Forecaster` of the network."""
        parts = self.parts()
        of_position = kernels.affine(parts["position"][None], parts.pop("of_position"))
        return laid_out.Forecaster(
            native, **parts | {"position": of_position[0]},
            n_channels=self.config["n_inputs"], segment_length=self.segment_length,
        )  # fmt: skip

    def parts(self, of=lambda weight: weight):
        """Return what `of` makes of the weights, as `laid_out.Forecaster` has them.

        What makes hidden units of the position of a step is the same for all rows.
        """
        of_step, n = of(self.of_step.weight), self.n_position
        correction = self.correction
        stem, linear, layers = self.stem, self.linear, self.recurrence.forwards
        return {
            "layers": [tuple(map(of, layer.weights)) for layer in layers],
            "stem": () if stem is None else (of(stem.weight), of(stem.bias)),
            "of_state": (of(self.of_state.weight), of(self.of_state.bias)),
            "position": of(self.position.weight),
            "of_position": of_step[:, :n],
            "shares": of(self.shares),
            "decoder": (
                of_step[:, n:], of(correction.weight), of(self.mixing.weight),
                of(correction.bias),
            ),
            "linear": () if linear is None else (of(linear.weight),),
        }  # fmt: skip


@functools.cache
def _one_call_agrees(cls, cell):
    """Compare what small networks of a class say by one call with torch in float64."""
    generator = torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=generator, dtype=torch.float32)
    pairs = []
    with torch.inference_mode(False), torch.no_grad():
        for settings, shapes, given in cls.examples:
            network = cls(**settings, hidden_size=17, cell=cell, dropout=0.0)
            network.float().eval()
            for tensor in network.state_dict().values():
                tensor.copy_(0.3 * randn(tensor.shape))
                if tensor.ndim < 2:  # variances are positive
                    tensor.abs_()
            inputs = [randn(shape) for shape in shapes]
            lengths = None if given is None else torch.tensor(given)
            native = kernels.library(
                kernels.cell_of(network.recurrence.forwards[0].weights)
            )
            found = network.say_by(network.lay_out(native), *inputs, lengths=lengths)
            network, inputs = network.double(), [each.double() for each in inputs]
            pairs.append((network(*inputs, lengths=lengths), found.double()))
    agrees = all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in pairs)
    if not agrees:
        kernels.warn_of_disagreement(native)
    return agrees


@torch.no_grad()
def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter of a network, reading only the given generator.

    Input weights are Glorot uniform per gate and recurrent weights orthogonal per
    gate; the forget gate of an LSTM has bias 1, so that it starts by remembering
    (Jozefowicz et al., 2015), and peepholes are zero: at the start, a plain LSTM.
    Convolutions are He normal, other maps Glorot uniform.

    Parameters
    ----------
    network : torch.nn.Module
    generator : torch.Generator
        On the CPU, so that the start is the same on every device.
    """
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            _initialize_recurrent(module, generator)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(
                module.weight, nonlinearity="relu", generator=generator
            )
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1, generator=generator)
            if module.padding_idx is not None:
                module.weight[:2] = 0  # padding and unknown tokens
        elif isinstance(module, Pooling) and module.pooling == "attention":
            nn.init.normal_(
                module.query, std=len(module.query) ** -0.5, generator=generator
            )
        elif isinstance(module, MaskedBatchNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ForecastNetwork):
            nn.init.zeros_(module.correction.weight)
            nn.init.constant_(module.correction.bias, -2.0)  # narrow intervals
            module.correction.bias[module.config["n_quantiles"] // 2] = 0.0
            nn.init.zeros_(module.mixing.weight)
            module.shares[:] = torch.tensor(INITIAL_SHARES)
            if module.linear is not None:
                nn.init.zeros_(module.linear.weight)


def _initialize_recurrent(layer, generator):
    hidden_size = layer.hidden_size
    for gate in layer.weight_ih_l0.split(hidden_size):  # each (H, I)
        nn.init.xavier_uniform_(gate, generator=generator)
    for gate in layer.weight_hh_l0.split(hidden_size):  # each (H, H)
        nn.init.orthogonal_(gate, generator=generator)
    nn.init.zeros_(layer.bias_ih_l0)
    nn.init.zeros_(layer.bias_hh_l0)
    if isinstance(layer, nn.LSTM):
        layer.bias_ih_l0[hidden_size : 2 * hidden_size] = 1  # gates i, f, g, o
    if isinstance(layer, PeepholeLayer):
        nn.init.zeros_(layer.weight_ch_l0)


def resolve_auto(stem, pooling, bidirectional, n_timesteps: int):
    """Choose the stem, pooling and directions that "auto" stands for.

    Parameters
    ----------
    stem, pooling, bidirectional : str, bool or None
        As the estimators take them.
    n_timesteps : int
        Length of the longest training sequence.

    Returns
    -------
    stem, pooling : str or None
    bidirectional : bool
        Without "auto": with convolutions or an embedding, the mean and maximum over
        time are pooled; a recurrence alone is read at its last state. What convolutions
        see is read in both directions.
    """
    if stem == "auto":
        stem = "conv" if n_timesteps >= MIN_CONV_TIMESTEPS else None
    if pooling == "auto":
        pooling = "mean-max" if stem in ("conv", "embedding") else "last"
    if bidirectional == "auto":
        bidirectional = stem == "conv"
    return stem, pooling, bidirectional
