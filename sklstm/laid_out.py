"""Whole networks by one call of the kernels, their weights laid out once.

What the modules of a network say, in the same order of operations: for few rows, most of
the time goes by between the calls that each of them makes.
"""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import torch
from torch.nn import functional as F

from sklstm import kernels
from sklstm.kernels import (
    Block,
    Sequences,
    Shape,
    Weight,
    cell_of,
    check_terms,
    count_terms,
    library,
    padded,
    pointer,
    pointers,
    readable,
    share,
)

POOLED = "last", "mean", "max"


class _Decoder(ctypes.Structure):
    _fields_ = [("n_rows", ctypes.c_ssize_t), ("n_steps", ctypes.c_ssize_t)] + [
        (name, Weight) for name in ("of_known", "correction", "mixing")
    ]

    @classmethod
    def of(cls, of_known, correction, mixing):
        """Describe a decoder, of no rows yet, by its weights of two dimensions."""
        weights = (Weight.of(w[:, None]) for w in (of_known, correction, mixing))
        return cls(0, 0, *weights)


class _Network(ctypes.Structure):
    _fields_ = (
        [
            (name, ctypes.c_ssize_t)
            for name in (
                "cell", "n_layers", "n_channels", "segment_length", "hidden_size",
                "linear_length", "horizon",
            )
        ]
        + [
            (name, ctypes.c_void_p)
            for name in (
                "layers", "stem", "of_state", "linear", "position", "shares", "w_decoder",
            )
        ]
        + [("decoder", _Decoder)]
    )  # fmt: skip


class _Reader(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_ssize_t)
        for name in (
            "cell", "n_layers", "n_directions", "n_channels", "hidden_size", "n_blocks",
            "n_outputs", "is_last", "has_mean", "has_max", "skips",
        )
    ] + [
        (name, ctypes.c_void_p)
        for name in ("blocks", "w_blocks", "layers", "stem", "readout")
    ]  # fmt: skip


class _Parts(ctypes.Structure):
    _fields_ = (
        [(name, Weight) for name in ("stem", "of_state", "of_position", "linear")]
        + [("decoder", _Decoder)]
        + [
            (name, ctypes.c_void_p)
            for name in (
                "stem_bias",
                "state_bias",
                "bias",
                "position",
                "shares",
                "layers",
            )
        ]
    )


class _Batch(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_ssize_t)
        for name in ("n_rows", "n_batch", "n_segments", "n_steps", "factors_step")
    ] + [
        (name, ctypes.c_void_p)
        for name in ("x", "known", "target", "weight", "alpha", "steps", "factors")
    ]


def _filled_up(x, width):
    """(N, H) -> (N, width), contiguous, with zeros behind."""
    missing = width - x.shape[1]
    return F.pad(x, (0, missing)) if missing else x.contiguous()


def _packed_layer(native, weights):
    """Return the weights of a layer as `sklstm_forward` packs them."""
    weights = [w.detach().contiguous() for w in weights]
    cell, n_inputs, hidden_size = (
        cell_of(weights),
        weights[0].shape[1],
        weights[1].shape[1],
    )
    width = padded(hidden_size, native.sklstm_lanes())
    packed = weights[0].new_empty(count_terms(cell, n_inputs, hidden_size), 4 * width)
    # No rows: it does nothing else.
    nothing = Shape(cell, 1, 0, 0, 0, n_inputs, hidden_size, 0, 0, None, False)
    native.sklstm_forward(
        ctypes.byref(nothing), None, *pointers(weights), packed.data_ptr(), *[None] * 4
    )
    return packed


def _packed_map(native, weight, bias=None):
    """Return a weight (n_out, n_terms) and a bias as `sklstm_affine` lays them out."""
    n_out, n_terms = weight.shape
    width = padded(n_out, native.sklstm_lanes())
    packed = weight.new_empty(n_terms + 1, width)
    native.sklstm_affine(
        None, 0, 0, 0, 0, ctypes.byref(Weight.of(weight[:, None])), pointer(bias),
        packed.data_ptr(), None,
    )  # fmt: skip
    return packed


def _packed_block(native, block):
    """Return the weights of a convolution in evaluation as `lay_out` of C does it."""
    weight = block.weight
    width = padded(weight.n_out, native.sklstm_lanes())
    packed = torch.empty(
        weight.n_steps * weight.n_columns + 1, width, dtype=torch.float32, device="cpu"
    )
    filled = torch.empty(
        weight.n_steps * weight.n_columns, dtype=torch.float32, device="cpu"
    )
    nothing = Sequences(0, 1, weight.n_columns, 0, 0, None)
    native.sklstm_convolve(
        ctypes.byref(nothing), None, ctypes.byref(block), packed.data_ptr(),
        filled.data_ptr(), None,
    )  # fmt: skip
    block.weight.values = None  # it has been laid out
    return packed


def _pointers(addresses):
    """Return an array of pointers and its address."""
    pointers = (ctypes.c_void_p * len(addresses))(*addresses)
    return pointers, ctypes.cast(pointers, ctypes.c_void_p)


def _addresses(tensors):
    """Return an array of pointers to tensors and its address."""
    return _pointers([pointer(each) for each in tensors])


def _address(tensor, index, dim=0):
    """Return where what an index says begins; slicing takes several times as long."""
    return tensor.data_ptr() + index * tensor.stride(dim) * tensor.element_size()


class Reader:
    """A network that reads sequences by one call, its weights copied and laid out once.

    Parameters
    ----------
    native : the library
    convolutions : sequence of tuple
        What `evaluate` takes but for x and lengths: (weight, scale, bias, running,
        stride, eps) of each convolution in front of the layers.
    stem : tuple of Tensor
        Weight and bias of a rectified map in their place; empty for none.
    layers : sequence of tuple of Tensor
        Weights of the recurrent layers, all directions of one after another.
    n_directions : int
    pooling : {"last", "mean", "max", "mean-max"}
    skips : bool
        Whether what the layers read is pooled, too.
    readout : tuple of Tensor
        Weight and bias of what makes raw outputs of what is pooled.
    n_channels : int
    """

    def __init__(
        self, native, *, convolutions, stem, layers, n_directions, pooling, skips,
        readout, n_channels,
    ):  # fmt: skip
        blocks, kept = (Block * len(convolutions))(), []
        for i, (weight, scale, bias, running, stride, eps) in enumerate(convolutions):
            given = [each.contiguous() for each in (scale, bias, *running)]
            shape = Weight.of(weight.transpose(1, 2))  # (H, C, k) -> (H, k, C)
            blocks[i] = Block(shape, *map(pointer, given), stride, eps)
            kept.append(_packed_block(native, blocks[i]))
        packed = [_packed_layer(native, weights) for weights in layers]
        maps = [_packed_map(native, *each) if each else None for each in (stem, readout)]
        (of_blocks, w_blocks), (of_layers, w_layers) = map(_addresses, (kept, packed))
        self._kept_alive = blocks, kept, packed, maps, of_blocks, of_layers
        n_outputs, self.n_pooled = readout[0].shape
        self.width = padded(n_outputs, native.sklstm_lanes())
        kinds = pooling.split("-")
        self.native, self.reader = native, _Reader(
            cell_of(layers[0]), len(packed) // n_directions, n_directions, n_channels,
            layers[0][1].shape[1], len(kept), n_outputs, *(k in kinds for k in POOLED),
            skips, ctypes.cast(blocks, ctypes.c_void_p), w_blocks, w_layers,
            *map(pointer, maps),
        )  # fmt: skip

    def __call__(self, x, lengths=None):
        """(N, T, C) -> what is pooled (N, P) and raw outputs (N, Q).

        lengths: Tensor of shape (N,), int64, contiguous, at least 1; None for T.
        """
        x = readable(x)
        n_rows, n_timesteps, n_channels = x.shape
        check_terms(n_channels, self.reader.n_channels)
        pooled = x.new_empty(n_rows, self.n_pooled)
        raw = x.new_empty(n_rows, self.width)
        read, reader = self.native.sklstm_read, ctypes.byref(self.reader)

        def job(piece):
            some = x[piece]
            of_some = None if lengths is None else lengths[piece].data_ptr()
            arguments = (
                reader,
                len(some),
                n_timesteps,
                some.data_ptr(),
                *some.stride()[:2],
                of_some,
            )
            out = pooled[piece].data_ptr(), raw[piece].data_ptr()

            def run():
                arena = x.new_empty(read(*arguments, None, *out))
                read(*arguments, arena.data_ptr(), *out)

            return run

        edges = [*range(0, n_rows, kernels.CHUNK_ROWS), n_rows]
        share([job(slice(*pair)) for pair in itertools.pairwise(edges)])
        return pooled, raw[:, : self.reader.n_outputs]


class Forecaster:
    """The network of a forecast by one call, its weights copied and laid out once.

    Parameters
    ----------
    native : the library
    layers : sequence of tuple of Tensor
        Weights of the recurrent layers, float32, on the CPU, as all others.
    stem : tuple of Tensor
        Weight (hidden_size, segment_length * n_channels) and bias of what reads segments;
        empty for nothing.
    of_state : tuple of Tensor
        Weight and bias of what the last state adds to the hidden units of the decoder.
    position : Tensor of shape (horizon, hidden_size)
        What the position of a step adds to the hidden units.
    shares : Tensor of shape (horizon, 3)
    decoder : sequence of Tensor
        Of what is known (H, K), of the correction (Q, H), of the mixing (3, H), and the
        bias of the correction (Q,); see the equations at `Decoder` of recurrence.c.
    linear : tuple of Tensor
        Weight (horizon, linear_length) of what the last values add to the median; empty
        for nothing.
    n_channels, segment_length : int
    """

    def __init__(
        self, native, *, layers, stem, of_state, position, shares, decoder, linear,
        n_channels, segment_length,
    ):  # fmt: skip
        *maps, bias = decoder
        of_known, correction, _ = maps
        hidden_size, n_known = of_known.shape
        n_quantiles, horizon = len(correction), len(position)
        lanes = native.sklstm_lanes()
        width, n_read = padded(hidden_size, lanes), padded(n_quantiles + 3, lanes)
        w_decoder = position.new_empty(n_known * width + (hidden_size + 1) * n_read)
        sizes, bias = _Decoder.of(*maps), bias.contiguous()
        native.sklstm_lay_out_decoder(
            ctypes.byref(sizes), bias.data_ptr(), w_decoder.data_ptr()
        )
        packed = [_packed_layer(native, weights) for weights in layers]
        others = [
            *(
                _packed_map(native, *each) if each else None
                for each in (stem, of_state, linear)
            ),
            _filled_up(position, width),
            shares.clone(),
            w_decoder,
        ]
        pointers, w_layers = _addresses(packed)
        self._kept_alive = packed, others, pointers
        self.network = _Network(
            cell_of(layers[0]), len(packed), n_channels, segment_length, hidden_size,
            linear[0].shape[1] if linear else 0, horizon,
            w_layers, *map(pointer, others), sizes,
        )  # fmt: skip
        self.native, self.n_known, self.n_quantiles = native, n_known, n_quantiles
        self.work = sum(map(torch.numel, packed))  # of a row and step

    def __call__(self, x, known, lengths=None, steps=None):
        """(N, W, I), (N, Z, K) -> quantiles (N, Z, Q).

        `lengths` (N,), in segments, int64, descend; without them all rows are full.
        `steps` (Z,), int64, are those that are decoded; without them the first.
        """
        sizes = self.network
        (n_rows, n_timesteps, n_channels), n_steps = x.shape, known.shape[1]
        check_terms(n_channels, sizes.n_channels)
        check_terms(known.shape[2], self.n_known)
        n_segments, rest = divmod(n_timesteps, sizes.segment_length)
        fits = known.shape[0] == n_rows and 0 < n_steps <= sizes.horizon
        if rest or not fits or sizes.linear_length > n_timesteps:
            raise ValueError(
                f"What is known is of {known.shape[0]} rows and {n_steps} steps, the "
                f"windows are of {n_rows} rows and {n_timesteps} steps; the network "
                f"reads segments of {sizes.segment_length} steps and knows "
                f"{sizes.horizon} steps."
            )
        x, known = x.contiguous(), known.contiguous()
        quantiles = known.new_empty(n_rows, n_steps, self.n_quantiles)

        def job(piece):
            of_piece = x[piece], known[piece], quantiles[piece]
            of_x, of_known, to = map(pointer, of_piece)
            arguments = (
                ctypes.byref(sizes), len(of_piece[0]), n_segments, of_x,
                None if lengths is None else lengths[piece].data_ptr(), n_steps,
                pointer(steps), of_known,
            )  # fmt: skip

            def run():
                arena = x.new_empty(self.native.sklstm_forecast(*arguments, None, to))
                self.native.sklstm_forecast(*arguments, pointer(arena), to)

            return run

        n_chunks = int(n_rows * n_segments * self.work / kernels.CHUNK_WORK)
        n_chunks = max(1, min(n_chunks, n_rows // kernels.CHUNK_ROWS))
        edges = [i * n_rows // n_chunks for i in range(n_chunks + 1)]
        share([job(slice(*edge)) for edge in itertools.pairwise(edges)])
        return quantiles


def _parts(tensors):
    """Describe the weights of the network of a forecast, or their gradients.

    Parameters
    ----------
    tensors : dict
        As `ForecastLearner` takes weights.

    Returns
    -------
    parts : _Parts
    kept_alive : what it points to
    """
    none = torch.empty(0, 0)
    stem, stem_bias = tensors["stem"] or (none, None)
    of_state, state_bias = tensors["of_state"]
    *maps, bias = tensors["decoder"]
    linear = tensors["linear"][0] if tensors["linear"] else none
    of_layers = [w for layer in tensors["layers"] for w in (*layer, None)[:5]]
    pointers, layers = _addresses(of_layers)
    maps_and_vectors = (
        *(Weight.of(w[:, None]) if w is not none else Weight()
          for w in (stem, of_state, tensors["of_position"], linear)),
        _Decoder.of(*maps),
        *map(pointer, (stem_bias, state_bias, bias, tensors["position"],
                        tensors["shares"])),
        layers,
    )  # fmt: skip
    return _Parts(*maps_and_vectors), (pointers, tensors)


def _zeros_like(tensors):
    """Return zeros like tensors in tuples, lists and dicts."""
    if isinstance(tensors, torch.Tensor):
        return torch.zeros_like(tensors)
    if isinstance(tensors, dict):
        return {name: _zeros_like(each) for name, each in tensors.items()}
    return [_zeros_like(each) for each in tensors]


def _leaves(tensors):
    """Return tensors in tuples, lists and dicts one after another."""
    if isinstance(tensors, torch.Tensor):
        return [tensors]
    each = tensors.values() if isinstance(tensors, dict) else tensors
    return [leaf for some in each for leaf in _leaves(some)]


class ForecastLearner:
    """Gradients of the network of a forecast, from a batch to all weights by one call.

    Parameters
    ----------
    native : the library
    weights, gradients : dict
        Tensors, float32, on the CPU, that stay where they are: "position" (horizon,
        n_position) and the map "of_position" (hidden_size, n_position) of it, all others
        as `Forecaster` takes them.
    alpha : sequence of float
        Levels of the quantiles.
    n_channels, segment_length : int
    """

    def __init__(self, native, weights, gradients, alpha, *, n_channels, segment_length):
        self.native, self.weights, self.gradients = native, weights, gradients
        self.alpha = torch.tensor(alpha, dtype=torch.float32)
        layers, horizon = weights["layers"], len(weights["position"])
        linear = weights["linear"]
        self.sizes = _Network(
            cell_of(layers[0]), len(layers), n_channels, segment_length,
            layers[0][1].shape[1], linear[0].shape[1] if linear else 0, horizon,
        )  # fmt: skip
        self.parts = _parts(weights), _parts(gradients)
        self.n_known = weights["decoder"][0].shape[1]
        # Of a row and segment.
        self.work = sum(w[0].numel() + w[1].numel() for w in layers)

    def __call__(self, x, known, target, weight, steps=None, factors=None):
        """Add the gradients of the mean pinball loss of a batch; return the loss.

        Parameters
        ----------
        x : Tensor of shape (N, W, C)
        known : Tensor of shape (N, Z, K)
        target, weight : Tensor of shape (N, Z)
        steps : Tensor of shape (Z,), int64, default=None
            Which steps are decoded; None for the first Z.
        factors : list of Tensor, default=None
            Of dropout behind each layer (S, N, H), behind the last (N, H).
        """
        sizes = self.sizes
        (n_rows, n_timesteps, n_channels), n_steps = x.shape, known.shape[1]
        n_segments, rest = divmod(n_timesteps, sizes.segment_length)
        check_terms(n_channels, sizes.n_channels)
        check_terms(known.shape[2], self.n_known)
        fits = len(known) == n_rows and target.shape == weight.shape == known.shape[:2]
        fits = fits and 0 < n_steps <= sizes.horizon
        if rest or not fits or sizes.linear_length > n_timesteps:
            raise ValueError(
                f"Windows {tuple(x.shape)}, what is known {tuple(known.shape)}, targets "
                f"{tuple(target.shape)} and weights {tuple(weight.shape)} do not fit a "
                f"network of segments of {sizes.segment_length} and {sizes.horizon} "
                "steps."
            )
        of_rows = x, known, target, weight
        of_rows = [each.to(torch.float32).contiguous() for each in of_rows]
        if steps is not None:
            steps = steps.to(torch.int64).contiguous()
        n_chunks = int(n_rows * n_segments * self.work / kernels.CHUNK_WORK)
        n_chunks = max(1, min(n_chunks, n_rows // kernels.CHUNK_ROWS))
        edges = [i * n_rows // n_chunks for i in range(n_chunks + 1)]
        (weights, _), (gradients, _) = self.parts
        # Every chunk adds up gradients of its own; they are summed in a fixed order.
        others = [_zeros_like(self.gradients) for _ in range(n_chunks - 1)]
        into = [gradients, *(_parts(each)[0] for each in others)]
        losses = [0.0] * n_chunks

        def job(i, to):
            first, last = edges[i : i + 2]
            kept_alive = of_factors = None
            if factors is not None:
                kept_alive, of_factors = _pointers(
                    [_address(each, first, -2) for each in factors]
                )
            batch = _Batch(
                last - first, n_rows, n_segments, n_steps, n_rows * sizes.hidden_size,
                *[_address(each, first) for each in of_rows], self.alpha.data_ptr(),
                pointer(steps), of_factors,
            )  # fmt: skip
            size = ctypes.c_ssize_t()
            given = [ctypes.byref(each) for each in (sizes, weights, to, batch)]

            def run(_=kept_alive):
                learn = self.native.sklstm_learn
                learn(*given, None, ctypes.byref(size))
                arena = x.new_empty(size.value)
                losses[i] = learn(*given, arena.data_ptr(), ctypes.byref(size))

            return run

        share([job(i, to) for i, to in enumerate(into)])
        for each in others:
            for total, other in zip(_leaves(self.gradients), _leaves(each), strict=True):
                total.add_(other)
        return x.new_tensor(sum(losses))


class Stepper:
    """A layer that keeps its state from call to call, for inference.

    Parameters
    ----------
    weights : tuple of Tensor, as `available` wants them
        Copied.
    n_rows : int
    """

    def __init__(self, weights, n_rows):
        cell = cell_of(weights)
        self.native = library(cell)
        n_inputs, self.hidden_size = weights[0].shape[1], weights[1].shape[1]
        width = padded(self.hidden_size, self.native.sklstm_lanes())
        self.packed = _packed_layer(self.native, weights)
        self.h = np.zeros((2, n_rows, width), dtype=np.float32)  # before and after
        self.c = np.zeros((n_rows, width), dtype=np.float32)
        sizes = (n_inputs, self.hidden_size, 0, n_inputs, None, False)
        self.shape = Shape(cell, 1, n_rows, 0, n_rows, *sizes)
        states = self.h.ctypes.data, self.c.ctypes.data
        self.arguments = (*[None] * 5, self.packed.data_ptr(), None, *states, None)

    def step(self, x):
        """(N, I) float32 -> the new state (N, H), a view."""
        # What a layer in front returns has gaps between its rows.
        x = np.ascontiguousarray(x)
        self.h[0] = self.h[1]
        self.native.sklstm_forward(
            ctypes.byref(self.shape), x.ctypes.data, *self.arguments
        )
        return self.h[1, :, : self.hidden_size]

    def reset(self, rows):
        """Set the state of some rows to zero."""
        self.h[:, rows] = 0
        self.c[rows] = 0
