"""Leaf: the networks of the three estimators, of what is in `modules`.

    stem -> recurrence -> pooling -> readout
       `------------------^

Shape legend: as in `modules`, and Q raw outputs.

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
from sklstm.modules import (
    MIN_KERNEL_SIZES,
    ConvStem,
    Embedding,
    EmbeddingStem,
    LinearStem,
    MaskedBatchNorm,
    PeepholeLayer,
    Pooling,
    Recurrence,
    RowLinear,
)

# From this length on, stem="auto" puts convolutions before the recurrence.
MIN_CONV_TIMESTEPS = 8
# Shares of a window's trend, of its last season's trend, and of the way from its last to
# its mean season that a forecast starts with.
INITIAL_SHARES = (0.5, 0.0, 0.5)


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


class _Portable(nn.Module):
    """Pickle a network as its configuration and numpy arrays.

    Never as pickled modules or tensors, so any torch version and any device can read it
    back. Weights that `compress` has rounded are kept as what they were rounded to, in
    two arrays, the second with "_scale" after its name.
    """

    # Name of a weight: (int8 codes, scales); replaced, never changed.
    codes: dict[str, tuple] = {}

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
        # Of tensors made in inference mode nothing tells that they have not changed.
        with torch.inference_mode(False), torch.device("cpu"):
            self.__init__(**state["config"])
            self.codes, arrays = split_codes(state["arrays"])
            tensors = {name: torch.tensor(array) for name, array in arrays.items()}
            dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
            self.to(dtype=dtype).load_state_dict(tensors)
            self.train(state["training"])


class _LaidOut(nn.Module):
    """A network that the kernels compute by one call, its weights laid out once.

    `lay_out` makes what is called, `output_by` makes outputs of what that returns;
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


class RecurrentNetwork(_LaidOut, _Portable):
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

    def embed(self, x, lengths):
        """(N, T, C) -> pooled state (N, P); without pooling every state (N, S, D).

        Those of all members, side by side.
        """
        states, _ = self._read(x, lengths, None)
        if not self.others:
            return states
        others = [other.embed(x, lengths) for other in self.others]
        return torch.cat([states, *others], dim=-1)

    @staticmethod
    def output_by(reader, x, lengths):
        """Return raw outputs."""
        return reader(x, lengths)[1]

    def _by_one_call(self, x, lengths):
        """Return what is pooled and raw outputs; None where this is not possible."""
        recurrence, pooling, stem = self.recurrence, self.pooling, self.stem
        if pooling is None or pooling.pooling == "attention":
            return None
        if not recurrence.is_plain:
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

    def _read(self, x, lengths, generator):
        """Return what the first member pools, and raw outputs where it has them."""
        if lengths is not None:  # our kernels read them from memory
            lengths = lengths.to(torch.int64).contiguous()
        at_once = self._by_one_call(x, lengths)
        return at_once or (self._by_modules(x, lengths, generator), None)

    def _by_modules(self, x, lengths, generator):
        """(N, T, C) -> pooled state (N, P), module after module."""
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
        pooled, raw = self._read(x, lengths, generator)
        return self.readout(pooled) if raw is None else raw

    @torch.no_grad()
    def shrink(self, factor, centre):
        """Multiply how far raw outputs are from a centre, (n_outputs,) each."""
        factor, centre = factor.to(self.readout.weight), centre.to(self.readout.weight)
        for member in self.members:
            member.readout.weight.mul_(factor[:, None])
            member.readout.bias.sub_(centre).mul_(factor).add_(centre)

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
    def is_causal(self):
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


class ForecastNetwork(_LaidOut, _Portable):
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
                return self.output_by(forecaster, x, base, future, lengths, steps)
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

    def output_by(self, forecaster, x, base, future, lengths, steps=None):
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
            found = network.output_by(network.lay_out(native), *inputs, lengths=lengths)
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
