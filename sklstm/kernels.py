"""Leaf below all networks: their layers, both ways, and Adam.

Imports nothing of ours.

On a CPU in float32 the work is done by recurrence.c, compiled when the package is
installed; an LSTM is then 1.6 to 2.6 times as fast as `torch.nn.LSTM`, and a row comes
out the same, to the last bit, whatever the batch and the number of threads. Before the
first use of a cell in a process it is proven against torch, and all else with the LSTM;
where it is missing, fails or does not apply, callers fall back to torch, layers by
`by_torch`. ``SKLSTM_NATIVE=0`` in the environment turns it off. Processors that multiply
in bfloat16 (AVX512_BF16, AMX) do two to sixteen times as much at a time `in_bfloat16`.

The weights of a layer are a tuple as torch has them, (weight_ih, weight_hh, bias_ih,
bias_hh), and say by their shapes what its cell is: of (4 hidden_size, ...) an LSTM, gates
in the order input, forget, cell, output; with a fifth of shape (3, hidden_size), by which
the input, forget and output gate see the cell, one with peepholes (Gers & Schmidhuber,
2000); of (3 hidden_size, ...) a GRU, gates in the order reset, update, new.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import itertools
import os
import threading
import warnings
from pathlib import Path

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Rows are cut into chunks that threads share: of at least so many multiplications, to be
# worth a thread, and so many rows, since gradients of weights are added up in the cache
# once per step and chunk. Results do not depend on how many threads there are.
CHUNK_WORK, CHUNK_ROWS = 5e7, 64
LSTM, PEEPHOLE, GRU = range(3)  # as recurrence.c numbers them
VERSION = 17  # of the functions of C: a library left over from another is not called
# None for as many as torch uses.
_n_threads: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "n_threads", default=None
)
_bfloat16 = contextvars.ContextVar("bfloat16", default=False)
# Arguments of the functions of C: pointers, sizes, floats.
_TYPES = {
    "p": ctypes.c_void_p, "s": ctypes.c_ssize_t, "f": ctypes.c_float,
}  # fmt: skip
_ARGUMENTS = {
    "forward": "p" * 12,
    "backward": "p" * 9 + "ss" + "p" * 9,
    "affine": "psssspppp",
    "add": "pp",
    "sum": "pssssspp",
    "outer": "pssssspsssp",
    "convolve": "pppppp",
    "normalize": "ppppffpppppp",
    "normalize_backward": "pppfppppppppss",
    "adam": "sppppp" + "f" * 8,
    "drop": "spsfp",
    "pool": "pppppsp",
    "pool_backward": "ppppsppss",
    "lay_out_decoder": "p" * 3,
    "forecast": "psspps" + "p" * 4,
    "read": "psspss" + "p" * 4,
    "learn": "p" * 6,
    "windows": "p",
}


def _sizes(*names):
    return [(name, ctypes.c_ssize_t) for name in names]


def _pointers(*names):
    return [(name, ctypes.c_void_p) for name in names]


class Shape(ctypes.Structure):
    """Rows of a layer, as C has it."""

    _fields_ = [
        *_sizes(
            "cell", "n_steps", "n_rows", "begin", "end", "n_inputs", "hidden_size",
            "x_step", "x_row",
        ),
        *_pointers("lengths"), *_sizes("is_fresh"),
    ]  # fmt: skip


class Sequences(ctypes.Structure):
    """Rows of several steps, as C has it."""

    _fields_ = [
        *_sizes("n_rows", "n_steps", "n_columns", "x_row", "x_step"),
        *_pointers("lengths"),
    ]


class Weight(ctypes.Structure):
    """A weight (n_out, n_steps, n_columns) with strides, as C has it."""

    _fields_ = [
        *_pointers("values"),
        *_sizes("n_out", "n_steps", "n_columns", "out", "step", "column"),
    ]

    @classmethod
    def of(cls, weight, is_reversed=False):
        """Describe a tensor (n_out, n_steps, n_columns), or it with reversed steps.

        It is not kept alive.
        """
        out, step, column = weight.stride()
        first = weight[:, -1] if is_reversed else weight
        step = -step if is_reversed else step
        return cls(first.data_ptr(), *weight.shape, out, step, column)


class Block(ctypes.Structure):
    """A convolution and its normalisation in evaluation, as C has it."""

    _fields_ = [
        ("weight", Weight),
        *_pointers("scale", "bias", "mean", "variance", "sum_of_weights"),
        *_sizes("stride"), ("eps", ctypes.c_float),
    ]  # fmt: skip


class _Factors(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p)] + [
        (name, ctypes.c_ssize_t) for name in ("row", "step", "is_reversed")
    ]


def library(cell=LSTM):
    """Return the compiled kernels, proven for a cell; None where there are none.

    All else that they do is proven with the LSTM. Within `in_bfloat16` those that
    multiply so.
    """
    return _library(cell, _bfloat16.get())


@functools.cache
def _library(cell, is_bfloat16):
    if os.environ.get("SKLSTM_NATIVE") == "0":
        return None
    if cell != LSTM:
        native = _library(LSTM, is_bfloat16)
        if native is None or _agrees(native, cell):
            return native
        warn_of_disagreement(native)
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    known, otherwise = {"AVX2": ("avx2",), "AVX512": ("avx512", "avx2")}, ("neon",)
    if is_bfloat16:
        known, otherwise = {"AVX512": ("amx", "avx512_bf16")}, ()
    for variant in known.get(capability, otherwise):
        path = Path(__file__).with_name(f"kernels.{variant}.so")
        try:
            native = ctypes.CDLL(str(path))
            if native.sklstm_version() != VERSION or not native.sklstm_suits():
                continue
            _declare(native)
        except (OSError, AttributeError):  # no such file, or not all of its functions
            continue
        proofs = _convolutions_agree, _pooling_agrees, _adam_agrees, _drop_agrees
        with torch.autocast("cpu", enabled=False):  # which the caller may be under
            if _agrees(native, LSTM) and all(proof(native) for proof in proofs):
                return native
        warn_of_disagreement(native)
    return None


@contextlib.contextmanager
def in_bfloat16():
    """Let the kernels of a block round to bfloat16 what they multiply, and nothing else.

    There are such on processors with AVX512_BF16 and, under Linux, with AMX.
    """
    token = _bfloat16.set(True)
    try:
        yield
    finally:
        _bfloat16.reset(token)


def multiply_in_bfloat16() -> bool:
    """Tell whether there are kernels that do so on this machine."""
    return _library(LSTM, True) is not None


def _declare(native):
    """Tell ctypes what the functions of the library take and return."""
    native.sklstm_lanes.restype = native.sklstm_room.restype = ctypes.c_ssize_t
    native.sklstm_room.argtypes = [ctypes.c_ssize_t]
    for name, arguments in _ARGUMENTS.items():
        function = getattr(native, f"sklstm_{name}")
        function.argtypes, function.restype = [_TYPES[a] for a in arguments], None
    native.sklstm_learn.restype = ctypes.c_double
    native.sklstm_forecast.restype = native.sklstm_read.restype = ctypes.c_ssize_t


def warn_of_disagreement(native):
    """Warn that a proof of the kernels has failed."""
    warnings.warn(
        f"The compiled kernels in {Path(native._name).name} disagree with torch on this "
        "machine and are not used. Please report this.",
        RuntimeWarning,
        stacklevel=3,
    )


def _agrees(native, cell) -> bool:
    """Compare outputs and gradients of a small layer with torch's."""
    lanes = native.sklstm_lanes()
    generator = torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=generator, dtype=torch.float32)
    n_inputs, hidden_size = 3, 4 * lanes + 1  # of 19 rows: whole tiles and a rest
    n = (3 if cell == GRU else 4) * hidden_size
    shapes = [(n, n_inputs), (n, hidden_size), (n,), (n,)]
    shapes += [(3, hidden_size)] * (cell == PEEPHOLE)
    with torch.inference_mode(False), torch.enable_grad():
        weights = [(0.3 * randn(shape)).requires_grad_() for shape in shapes]
        x = randn(4, 19, n_inputs).requires_grad_()
        upstream = randn(4, 19, hidden_size)
        expected, (last, *_) = by_torch(x, None, *weights)
        pairs = [(expected, last), _Layer.apply(native, x, None, *weights)[:2]]
        gradients = [
            torch.autograd.grad((out * upstream).sum() + end.sum(), [x, *weights])
            for out, end in pairs
        ]
    return all(
        near(native, b, a)
        for a, b in zip(
            (*pairs[0], *gradients[0]), (*pairs[1], *gradients[1]), strict=True
        )
    )


def near(native, found, expected, rtol=1e-4, atol=1e-4) -> bool:
    """Tell whether tensors agree as nearly as a library multiplies."""
    if native.sklstm_pairs():
        # Of factors that are rounded by up to 2**-9 each. One term that is missing makes
        # more.
        return bool((found - expected).norm() < 0.02 * expected.norm())
    return torch.allclose(found, expected, rtol=rtol, atol=atol)


def _convolutions_agree(native) -> bool:
    """Compare outputs and gradients of a small convolution with torch's."""
    n_out = 6 * native.sklstm_lanes() + 1  # panels of four vectors, of two and of one
    (n_channels, k), stride, generator = (3, 4), 2, torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=generator, dtype=torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        x, weight, scale, bias = (
            randn(shape).requires_grad_()
            for shape in ((3, 7, n_channels), (n_out, n_channels, k), (n_out,), (n_out,))
        )
        convolved = F.conv1d(F.pad(x.transpose(1, 2), (2, 1)), weight, stride=stride)
        normal = F.batch_norm(convolved, None, None, scale, bias, True)
        expected = normal.relu().transpose(1, 2)
        mean, variance, one = *x.new_zeros(2, n_out), x.new_ones(())
        out = _Convolution.apply(
            native, x, weight, scale, bias, (mean, variance, 1.0), stride, 1e-5, None
        )
        upstream = randn(expected.shape)
        inputs = x, weight, scale, bias
        both = [
            (each, *torch.autograd.grad((each * upstream).sum(), inputs))
            for each in (expected, out)
        ]
    with torch.no_grad():
        later = F.batch_norm(convolved, mean, variance, scale, bias).relu()
        running = mean, variance, one
        found = evaluate(native, x, weight, scale, bias, running, stride=stride, eps=1e-5)
    both[0] += (later.transpose(1, 2),)
    both[1] += (found,)
    return all(near(native, b, a, rtol=1e-3) for a, b in zip(*both, strict=True))


def _pooling_agrees(native) -> bool:
    """Compare mean, maximum and gradient of a few states with torch's."""
    generator, n_columns = torch.Generator().manual_seed(0), native.sklstm_lanes() + 1
    randn = functools.partial(torch.randn, generator=generator, dtype=torch.float32)
    with torch.inference_mode(False), torch.enable_grad():
        x, factors = randn(3, 5, n_columns).requires_grad_(), randn(3, 5, n_columns)
        dropped = x * factors.flip(1)
        expected = dropped.mean(1), dropped.amax(1)
        upstream = randn(3, n_columns), randn(3, n_columns)
        total = torch.stack([
            (a * b).sum() for a, b in zip(expected, upstream, strict=True)
        ]).sum()  # fmt: skip
        (d_expected,) = torch.autograd.grad(total, x)
    found = torch.empty_like(expected[0]), torch.empty_like(expected[1])
    names = "mean", "max"
    kept = pool(
        native, x.detach(), dict(zip(names, found, strict=True)), factors=factors,
        is_reversed=True,
    )  # fmt: skip
    d_pooled = dict(zip(names, upstream, strict=True))
    d_x = pool_backward(native, kept, d_pooled, torch.empty_like(factors))
    pairs = zip((*found, d_x), (*expected, d_expected), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def _adam_agrees(native) -> bool:
    """Compare a step with the same in float64."""
    n, generator = 2 * native.sklstm_lanes() + 1, torch.Generator().manual_seed(0)
    data, grad, first, second = torch.randn(
        4, n, generator=generator, dtype=torch.float32
    )
    second, is_map = second.square(), (grad > 0).float()
    data64, grad64, first64, second64 = (a.double() for a in (data, grad, first, second))
    grad64 = grad64 + 0.1 * is_map * data64
    first64 = 0.9 * first64 + 0.1 * grad64
    second64 = 0.99 * second64 + 0.01 * grad64.square()
    expected = data64 * (1 - 0.2 * is_map)
    expected -= 0.05 / 0.5 * first64 / (second64.sqrt() / 0.7 + 1e-3)
    adam(
        native, data, grad, first, second, is_map, penalty=0.1, decay=0.2, beta1=0.9,
        beta2=0.99, eps=1e-3, rate=0.05, correction1=0.5, root_correction2=0.7,
    )  # fmt: skip
    pairs = (data, expected), (first, first64), (second, second64)
    return all(torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def _drop_agrees(native) -> bool:
    draws = torch.arange(-(2**15), 2**15, 1500).to(torch.int16)
    kept = drop(native, draws, -77, 1.25, torch.empty(len(draws), dtype=torch.float32))
    return torch.equal(kept, (draws >= -77) * 1.25)


def are_used() -> bool:
    """Tell whether our kernels are there and torch is not told to do otherwise."""
    return (
        not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and library() is not None
    )


def available(*weights: torch.Tensor) -> bool:
    """Tell whether our kernels can take weights like these, here and now.

    Those of a layer, or one of anything else.
    """
    return (
        all(w.is_cpu and w.dtype == torch.float32 for w in weights)
        and are_used()
        and (len(weights) == 1 or library(cell_of(weights)) is not None)
    )


def applies(x: torch.Tensor, *weights: torch.Tensor) -> bool:
    """Tell whether our kernels can take an input and weights like these."""
    is_like = x.is_cpu and x.dtype == torch.float32
    return is_like and x.numel() > 0 and available(*weights)


def layer(x, state, *weights, lengths=None):
    """Run one layer in one direction.

    Parameters
    ----------
    x : Tensor of shape (n_timesteps, n_rows, n_inputs), float32, on the CPU
    state : tuple of Tensor of shape (n_rows, hidden_size), or None
        What to start from, as `by_torch` has it; no gradient goes back to it.
    *weights : Tensor
        As the head of this module says.
    lengths : Tensor of shape (n_rows,), int64, descending, default=None
        Steps of each row; None for all. What comes after need not be computed, and is
        undefined in `output`; ignored where there are gradients.

    Returns
    -------
    output : Tensor of shape (n_timesteps, n_rows, hidden_size)
    state : tuple of Tensor of shape (n_rows, hidden_size)
        The last one. Gradients through its h alone cost less than through `output`;
        through its c none go.
    """
    x = readable(x)
    weights = [w.contiguous() for w in weights]
    native = library(cell_of(weights))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)):
        output, *state = _Layer.apply(native, x, state, *weights)
    else:
        (output, last), (_, c, _) = forward(
            native, x, weights, keep=False, lengths=lengths, state=state
        )
        state = last, _cell(c, last)
    return output, tuple(part for part in state if part is not None)


def _cell(c, last):
    """Return the last cell (N, H), of those that `forward` leaves; None for a GRU."""
    return None if c is None else c[-1, :, : last.shape[1]]


def by_torch(x, state, *weights):
    """Run one layer in one direction on any device and in any precision.

    Parameters
    ----------
    x : Tensor of shape (n_timesteps, n_rows, n_inputs)
    state : tuple of Tensor of shape (n_rows, hidden_size), or None
        What to start from: h, and c but for a GRU. None for zeros.
    *weights : Tensor
        As the head of this module says.

    Returns
    -------
    output : Tensor of shape (n_timesteps, n_rows, hidden_size)
    state : tuple of Tensor of shape (n_rows, hidden_size)
    """
    cell, kind = cell_of(weights), x.device.type
    if torch.is_autocast_enabled(kind):
        # Of an LSTM on the CPU it casts the weights and leaves the input, and the state.
        x = x.to(torch.get_autocast_dtype(kind))
        state = None if state is None else [s.to(x.dtype) for s in state]
        if kind == "cuda":
            # There it would take float16, whatever was asked for, in which the smaller
            # gradients of a mean are zero.
            weights = [w.to(x.dtype) for w in weights]
            with torch.autocast(kind, enabled=False):
                return by_torch(x, state, *weights)
    if kind == "cuda" and cell != PEEPHOLE:
        # cuDNN wants them alone in a piece of memory, and says so at each call.
        flat = torch.cat([w.reshape(-1) for w in weights])
        pieces = flat.split([w.numel() for w in weights])
        weights = [p.view_as(w) for p, w in zip(pieces, weights, strict=True)]
    if state is None:
        state = x.new_zeros(1 if cell == GRU else 2, x.shape[1], weights[1].shape[1])
    if cell != PEEPHOLE:
        state = [s[None] for s in state]
        # cuDNN differentiates only what ran in training mode.
        settings = (weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)
        if cell == GRU:
            output, *state = torch.gru(x, state[0], *settings)
        else:
            output, *state = torch.lstm(x, state, *settings)
        return output, tuple(s[0] for s in state)
    weight_ih, weight_hh, bias_ih, bias_hh, (to_input, to_forget, to_output) = weights
    (h, c), states = state, []
    for of_x in F.linear(x, weight_ih, bias_ih + bias_hh):
        i, f, g, o = (of_x + h @ weight_hh.t()).chunk(4, dim=1)  # each (N, H)
        i, f = torch.sigmoid(i + to_input * c), torch.sigmoid(f + to_forget * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + to_output * c) * torch.tanh(c)
        states.append(h)
    return torch.stack(states), (h, c)


def cell_of(weights):
    """Tell the cell by the shapes of its weights."""
    if len(weights) == 5:
        return PEEPHOLE
    n_sums, hidden_size = weights[1].shape
    return LSTM if n_sums == 4 * hidden_size else GRU


def readable(x):
    """Return x, or a copy, with the inputs of a step next to each other."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def affine(a, weight, bias=None):
    """Return a @ weight.T + bias; each row by itself.

    Parameters
    ----------
    a : Tensor of shape (n_outer, n_rows, n_terms), float32, on the CPU
        Its rows may overlap, as those of a convolution do.
    weight : Tensor of shape (n_out, n_terms)
    bias : Tensor of shape (n_out,), default=None

    Returns
    -------
    out : Tensor of shape (n_outer, n_rows, n_out)
    """
    return _affine(library(), a, Weight.of(weight[:, None]), bias)


def _affine(native, a, weight, bias=None):
    a = readable(a)
    (n_outer, n_rows, n_terms), n_out = a.shape, weight.n_out
    check_terms(n_terms, weight.n_steps * weight.n_columns)
    outer_stride, row_stride, _ = a.stride()
    width = padded(n_out, native.sklstm_lanes())
    out = a.new_empty(n_outer, n_rows, width)

    def job(piece):
        scratch = a.new_empty(n_terms + 1, width)
        of_piece = a[piece]
        return lambda: native.sklstm_affine(
            of_piece.data_ptr(), len(of_piece), outer_stride, n_rows, row_stride,
            ctypes.byref(weight), pointer(bias), scratch.data_ptr(),
            out[piece].data_ptr(),
        )  # fmt: skip

    share([job(piece) for piece in _pieces(n_outer, n_rows * n_terms * n_out)])
    return out if width == n_out else out[:, :, :n_out]


def spans(x, k, stride=1):
    """Return k steps from every `stride`-th on, next to each other: a view.

    (N, T, C), contiguous -> (N, (T - k) // stride + 1, k C)
    """
    n, n_timesteps, n_channels = x.shape
    n_steps = (n_timesteps - k) // stride + 1
    strides = n_timesteps * n_channels, stride * n_channels, 1
    return x.as_strided((n, n_steps, k * n_channels), strides)


def convolution(x, weight, scale, bias, running, *, stride, eps, lengths=None):
    """Convolve over time, normalise by the batch, and rectify; gradients are ours too.

    Parameters
    ----------
    x : Tensor of shape (n_rows, n_timesteps, n_inputs), float32, on the CPU
        Zero beyond the length of a row. k // 2 zeros are put in front of it and enough
        behind: output j is centred on step j * stride.
    weight : Tensor of shape (n_out, n_inputs, k)
    scale, bias : Tensor of shape (n_out,)
        Of the normalisation.
    running : tuple of Tensor of shape (n_out,), twice, and float
        Running mean and unbiased variance, contiguous, and the share of the way that they
        go to those of what is normalised.
    stride : int
    eps : float
        Added to the variance.
    lengths : Tensor of shape (n_rows,), int64, default=None
        Steps of each row of the output; None for all. It is zero beyond.

    Returns
    -------
    out : Tensor of shape (n_rows, ceil(n_timesteps / stride), n_out)
    """
    return _Convolution.apply(
        library(), x, weight, scale, bias, running, stride, eps, lengths
    )


def sum_steps(x, lengths=None):
    """Add up the steps of every row in their order.

    `Tensor.sum` takes an order that depends on the batch.

    Parameters
    ----------
    x : Tensor of shape (n_rows, n_timesteps, n_columns), float32, on the CPU
    lengths : Tensor of shape (n_rows,), int64, default=None
        Steps of each row; None for all.

    Returns
    -------
    total : Tensor of shape (n_rows, n_columns)
    """
    x = readable(x)
    n_rows, n_timesteps, n_columns = x.shape
    total = x.new_empty(n_rows, n_columns)
    library().sklstm_sum(
        x.data_ptr(), n_timesteps, x.stride(1), n_rows, x.stride(0), n_columns,
        pointer(lengths), total.data_ptr(),
    )  # fmt: skip
    return total


def pointer(tensor):
    """Return the address of a tensor, or None."""
    return None if tensor is None else tensor.data_ptr()


def pointers(weights):
    """Return five addresses: a cell without peepholes has None for the last."""
    return [w.data_ptr() for w in weights] + [None] * (5 - len(weights))


def check_terms(n_terms, n_weights):
    """Raise where an input has other columns than its weights."""
    if n_terms != n_weights:
        raise ValueError(
            f"The network was built for {n_weights} columns (channels or units) where it "
            f"was given {n_terms}."
        )


def padded(n, lanes):
    """Return n, filled up to whole vectors."""
    return -(-n // lanes) * lanes


def _first_read(x, is_reversed):
    """Return the address of the step of x (T, N, I) that is read first."""
    return x[-1].data_ptr() if is_reversed else x.data_ptr()


def count_terms(cell, n_inputs, hidden_size):
    """Count what a sum is of: a bias, inputs, the state and, with peepholes, the cell."""
    return 1 + n_inputs + hidden_size + (cell == PEEPHOLE)


def _chunks(x, cell, hidden_size, lengths, is_reversed, is_fresh=False):
    """Cut the rows into [begin, end) pieces of enough work for a thread each."""
    n_timesteps, n_rows, n_inputs = x.shape
    work = n_timesteps * n_rows * 4 * hidden_size * (n_inputs + hidden_size)
    n_chunks = max(1, min(int(work / CHUNK_WORK), n_rows // CHUNK_ROWS))
    edges = [i * n_rows // n_chunks for i in range(n_chunks + 1)]
    return [
        Shape(
            cell, n_timesteps, n_rows, begin, end, n_inputs, hidden_size,
            -x.stride(0) if is_reversed else x.stride(0), x.stride(1), pointer(lengths),
            is_fresh,
        )
        for begin, end in itertools.pairwise(edges)
    ]  # fmt: skip


def _pieces(n, work):
    """Cut n matrices of so many multiplications each into enough for a thread."""
    n_pieces = max(1, min(int(n * work / CHUNK_WORK), n))
    edges = [i * n // n_pieces for i in range(n_pieces + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def get_threads() -> int:
    """Return how many threads the kernels use: as many as torch, if not told."""
    return _n_threads.get() or torch.get_num_threads()


def set_threads(n_threads: int):
    """Let the kernels use as many threads in this thread, however many torch uses."""
    _n_threads.set(n_threads)


@contextlib.contextmanager
def threads(n_threads: int):
    """Let the kernels use as many threads for a block, however many torch uses."""
    token = _n_threads.set(n_threads)
    try:
        yield
    finally:
        _n_threads.reset(token)


def share(jobs):
    """Run jobs, which release the interpreter lock, on some threads.

    An error in any of them is raised here, once all threads have ended.
    """
    n_threads = min(get_threads(), len(jobs))
    if n_threads == 1:
        for job in jobs:
            job()
        return

    errors = []

    def run(first):
        try:
            for job in jobs[first::n_threads]:
                job()
        except BaseException as error:  # a thread would lose it: raised below
            errors.append(error)

    others = [threading.Thread(target=run, args=(i,)) for i in range(1, n_threads)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]


def forward(
    native, x, weights, *, keep, lengths=None, state=None, is_reversed=False
):  # fmt: skip
    """Run a layer: ((output, last), (h, c, gates)), the latter for `backward`.

    Parameters
    ----------
    native : the library
    x : Tensor of shape (n_timesteps, n_rows, n_inputs), contiguous in its last dimension
    weights : tuple of Tensor, contiguous
    keep : bool
        Whether to keep what `backward` needs; else c is the last one and gates None.
    lengths : Tensor of shape (n_rows,), int64, descending, default=None
        Steps of each row; None for all. What comes after is not computed, and undefined
        in `output`.
    state : tuple of Tensor, default=None
        As `layer` takes it.
    is_reversed : bool
        Whether x is read from its last step on, which takes rows of one length. The first
        output is of the step that is read first.
    """
    n_timesteps, n_rows, n_inputs = x.shape
    check_terms(n_inputs, weights[0].shape[1])
    cell, hidden_size = cell_of(weights), weights[1].shape[1]
    width = padded(hidden_size, native.sklstm_lanes())  # Hp
    h = x.new_empty(n_timesteps + 1, n_rows, width)
    c = None
    if cell != GRU:
        c = x.new_empty(n_timesteps + 1 if keep else 1, n_rows, width)
    for to, start in zip((h, c), state or (), strict=False):
        to[0] = 0  # units that fill up a vector of lanes too
        to[0, :, :hidden_size] = start
    gates = x.new_empty(n_timesteps, n_rows, 4 * width) if keep else None

    def job(shape):
        packed = x.new_empty(count_terms(cell, n_inputs, hidden_size), 4 * width)
        room = x.new_empty(native.sklstm_room(shape.end - shape.begin), 4 * width)
        arrays = (packed, room, h, c, gates)
        return lambda: native.sklstm_forward(
            ctypes.byref(shape), _first_read(x, is_reversed), *pointers(weights),
            *map(pointer, arrays),
        )  # fmt: skip

    chunks = _chunks(x, cell, hidden_size, lengths, is_reversed, state is None)
    share([job(chunk) for chunk in chunks])
    ends = -1 if lengths is None else (lengths, torch.arange(n_rows))
    return (h[1:, :, :hidden_size], h[ends][:, :hidden_size]), (h, c, gates)


def backward(
    native, x, weights, kept, d_output, d_last, gradients, *, need_x, lengths=None,
    carried=False, is_reversed=False,
):  # fmt: skip
    """Add the gradients of the weights to `gradients`; return that of x or None.

    Overwrites what was kept.

    Parameters
    ----------
    native, x, weights, lengths, is_reversed : as in `forward`
        Of reversed x the gradient that is returned is in the order of reading, too.
    kept : what `forward` returned
    d_output : Tensor of shape (n_timesteps, n_rows, hidden_size) or None
    d_last : Tensor of shape (n_rows, hidden_size) or None
    gradients : sequence of Tensor, contiguous
        One for each of the weights.
    need_x : bool
    carried : bool
        Whether `forward` was given a state to start from.
    """
    weight_ih, weight_hh, _, _, *peepholes = weights
    h, c, gates = kept
    n_timesteps, n_rows, n_inputs = x.shape
    cell, hidden_size = cell_of(weights), weight_hh.shape[1]
    lanes = native.sklstm_lanes()
    width, in_width = padded(hidden_size, lanes), padded(n_inputs, lanes)
    d_x = x.new_empty(n_timesteps, n_rows, in_width) if need_x else None
    if d_output is not None and d_output.stride(2) != 1:
        d_output = d_output.contiguous()
    strides = (0, 0) if d_output is None else d_output.stride()[:2]
    d_last = None if d_last is None else d_last.contiguous()
    d_state = x.new_empty(2, n_rows, width)
    # The packed weights and their gradients, see sklstm_backward.
    n_scratch = count_terms(cell, n_inputs, hidden_size) + width + 1
    n_scratch += in_width if need_x else 0
    chunks = _chunks(x, cell, hidden_size, lengths, is_reversed)
    # Every chunk adds up gradients of its own; they are summed in a fixed order.
    sums = [gradients]
    sums += [[torch.zeros_like(g) for g in gradients] for _ in chunks[1:]]

    def job(shape, sums):
        scratch = x.new_empty(n_scratch, 4 * width)
        peephole = peepholes[0] if peepholes else None
        before = (weight_ih, weight_hh, peephole, h, c, gates, d_output)
        after = (d_last, d_x, d_state, scratch)
        return lambda: native.sklstm_backward(
            ctypes.byref(shape), _first_read(x, is_reversed), *map(pointer, before),
            *strides, *map(pointer, after), *pointers(sums),
        )  # fmt: skip

    share([job(*pair) for pair in zip(chunks, sums, strict=True)])
    for others in sums[1:]:
        for total, other in zip(gradients, others, strict=True):
            total.add_(other)
    if carried:
        # The kernels take the first state for zero, which then says nothing of the
        # weights. Gates are now gradients of sums, (N, units / lanes, 4, lanes).
        d_sums = gates[0].view(n_rows, -1, 4, lanes).transpose(1, 2).flatten(2)
        d_sums = d_sums[:, 1 if cell == GRU else 0 :, :hidden_size].flatten(1)
        gradients[1].addmm_(d_sums.t(), h[0, :, :hidden_size])
    return None if d_x is None else d_x[:, :, :n_inputs]


def evaluate(native, x, weight, scale, bias, running, *, stride, eps, lengths=None):
    """Compute `convolution` in evaluation: each row by itself, (N, S, H).

    `running` is the running mean and variance and what both are divided by, a tensor.
    """
    x = readable(x)
    (n_rows, n_timesteps, n_channels), (n_out, n_inputs, k) = x.shape, weight.shape
    check_terms(n_channels, n_inputs)
    n_steps, width = -(-n_timesteps // stride), padded(n_out, native.sklstm_lanes())
    out = x.new_empty(n_rows, n_steps, width)
    given = [each.contiguous() for each in (scale, bias, *running)]
    block = Block(
        Weight.of(weight.transpose(1, 2)), *map(pointer, given), stride, eps
    )  # (H, C, k) -> (H, k, C)

    def job(piece):
        w = x.new_empty(k * n_channels + 1, width)
        filled = x.new_empty(n_timesteps + k - 1, n_channels)
        some, (row_stride, step_stride) = x[piece], x.stride()[:2]
        of_some = None if lengths is None else lengths[piece]
        sequences = Sequences(
            len(some), n_timesteps, n_channels, row_stride, step_stride, pointer(of_some)
        )
        return lambda: native.sklstm_convolve(
            ctypes.byref(sequences), some.data_ptr(), ctypes.byref(block), w.data_ptr(),
            filled.data_ptr(), out[piece].data_ptr(),
        )  # fmt: skip

    share([job(piece) for piece in _pieces(n_rows, n_steps * k * n_channels * n_out)])
    return out if width == n_out else out[:, :, :n_out]


def convolve(native, x, weight, scale, bias, running, *, stride, eps, lengths=None):
    """Compute `convolution`: (out, what `convolve_backward` needs)."""
    n_out, n_channels, k = weight.shape
    check_terms(x.shape[2], n_channels)
    x = F.pad(x, (0, 0, k // 2, k - 1 - k // 2)).contiguous()  # (N, T + k - 1, C)
    # (H, C, k) -> (H, k, C)
    convolved = _affine(native, spans(x, k, stride), Weight.of(weight.transpose(1, 2)))
    n_steps = convolved.shape[1]
    out = x.new_empty(len(x), n_steps, n_out)
    mean, variance, partial = x.new_empty(3, n_out)
    shape = Sequences(len(x), n_steps, n_out, *convolved.stride()[:2], pointer(lengths))
    scale, bias = scale.contiguous(), bias.contiguous()
    running_mean, running_variance, momentum = running
    after = (running_mean, running_variance, mean, variance, partial, out)
    native.sklstm_normalize(
        ctypes.byref(shape), convolved.data_ptr(), scale.data_ptr(), bias.data_ptr(),
        eps, momentum, *map(pointer, after),
    )  # fmt: skip
    return out, (x, convolved, mean, variance, out)


def convolve_backward(
    native, weight, scale, kept, d_out, gradients, *, need_x, stride, eps, lengths=None
):  # fmt: skip
    """Add the gradients of the weights to `gradients`; return that of x or None.

    Parameters
    ----------
    native, weight, scale, stride, eps, lengths : as in `convolve`
    kept : what `convolve` returned
    d_out : Tensor of shape (n_rows, n_steps, n_out)
    gradients : sequence of Tensor
        Of weight, scale and bias, the latter contiguous.
    need_x : bool
    """
    x, convolved, mean, variance, out = kept
    (n, width, n_channels), (n_out, _, k) = x.shape, weight.shape
    n_steps = out.shape[1]
    # The gradient of what was convolved, as the gradient of x is a convolution of:
    # `stride` apart, and zeros around. Vectors are read beyond the last number.
    size = n * width * n_out
    around = x.new_zeros(size + native.sklstm_lanes())[:size].view(n, width, n_out)
    first = k - 1 - k // 2
    d_convolved = around[:, first : first + (n_steps - 1) * stride + 1 : stride]
    scale, d_out = scale.contiguous(), d_out.contiguous()
    d_weight, d_scale, d_bias = gradients
    partial = x.new_empty(6, n_out)
    shape = Sequences(n, n_steps, n_out, *convolved.stride()[:2], pointer(lengths))
    before = (convolved, scale)
    after = (mean, variance, out, d_out, partial, d_scale, d_bias, d_convolved)
    native.sklstm_normalize_backward(
        ctypes.byref(shape), *map(pointer, before), eps, *map(pointer, after),
        *d_convolved.stride()[:2],
    )  # fmt: skip
    rows = spans(x, k, stride)
    n_terms = k * n_channels
    pieces = _pieces(n, n_steps * n_terms * n_out)
    sums = x.new_zeros(len(pieces), n_terms, padded(n_out, native.sklstm_lanes()))

    def job(piece, total):
        a, d = rows[piece], d_convolved[piece]
        return lambda: native.sklstm_outer(
            a.data_ptr(), len(a), a.stride(0), n_steps, a.stride(1), n_terms,
            d.data_ptr(), d.stride(0), d.stride(1), n_out, total.data_ptr(),
        )  # fmt: skip

    share([job(*pair) for pair in zip(pieces, sums, strict=True)])
    d_by_step = Weight.of(d_weight.transpose(1, 2))  # (H, k, C)
    for total in sums:
        native.sklstm_add(ctypes.byref(d_by_step), total.data_ptr())
    if not need_x:
        return None
    # (H, C, k) -> (C, k, H)
    backwards = Weight.of(weight.permute(1, 2, 0), is_reversed=True)
    return _affine(native, spans(around, k), backwards)


def adam(
    native, data, grad, first, second, is_map, *, penalty, decay, beta1, beta2, eps, rate,
    correction1, root_correction2,
):  # fmt: skip
    """Take a step of Adam, in place.

    Parameters
    ----------
    native : the library
    data, grad, first, second, is_map : Tensor of shape (n,), float32, contiguous
        Parameters, their gradients and moments; 1 for those that decay, else 0.
    penalty, decay, beta1, beta2, eps, rate, correction1, root_correction2 : float
        As sklstm_adam has them.
    """
    native.sklstm_adam(
        len(data), *map(pointer, (data, grad, first, second, is_map)), penalty, decay,
        beta1, beta2, eps, rate, correction1, root_correction2,
    )  # fmt: skip


def drop(native, draws, least, factor, out):
    """Set factors of dropout: `factor` where a draw is at least `least`, else 0.

    Parameters
    ----------
    native : the library
    draws : Tensor of at least as many int16 as `out` has elements, contiguous
    least : int
    factor : float
    out : Tensor, float32, contiguous, on the CPU

    Returns
    -------
    out
    """
    native.sklstm_drop(out.numel(), draws.data_ptr(), least, factor, out.data_ptr())
    return out


def pool(native, x, into, *, factors=None, lengths=None, is_reversed=False):
    """Write the mean or the maximum over the steps of x times factors, or both.

    Parameters
    ----------
    native : the library
    x : Tensor of shape (n_rows, n_steps, n_columns), float32, on the CPU
        As the factors, with the columns of a step next to each other.
    into : dict
        "mean" and "max", or one of them: tensors of shape (n_rows, n_columns), of the
        same strides.
    factors : Tensor of shape (n_rows, n_steps, n_columns), default=None
        Of dropout; None for ones.
    lengths : Tensor of shape (n_rows,), int64, default=None
        Steps of each row; None for all.
    is_reversed : bool
        Whether x, but not the factors, is in reverse.

    Returns
    -------
    kept : what `pool_backward` needs
    """
    n_rows, n_steps, n_columns = x.shape
    sequences = Sequences(n_rows, n_steps, n_columns, *x.stride()[:2], pointer(lengths))
    strides = (0, 0) if factors is None else factors.stride()[:2]
    of_factors = _Factors(pointer(factors), *strides, is_reversed)
    at = x.new_empty(n_rows, n_columns, dtype=torch.int32)
    native.sklstm_pool(
        ctypes.byref(sequences), x.data_ptr(), ctypes.byref(of_factors),
        *_mean_and_max(into), at.data_ptr(),
    )  # fmt: skip
    # With the tensors that the two point to.
    return sequences, of_factors, at, (lengths, factors)


def pool_backward(native, kept, d_pooled, d_x):
    """Write the gradient of what was pooled to d_x, zero beyond a sequence; return it.

    Parameters
    ----------
    native : the library
    kept : what `pool` returned
    d_pooled : dict
        As `into`.
    d_x : Tensor of shape (n_rows, n_steps, n_columns), float32
        With the columns of a step next to each other.
    """
    sequences, of_factors, at, _ = kept
    native.sklstm_pool_backward(
        ctypes.byref(sequences), ctypes.byref(of_factors), *_mean_and_max(d_pooled),
        at.data_ptr(), d_x.data_ptr(), *d_x.stride()[:2],
    )  # fmt: skip
    return d_x


def _mean_and_max(pooled):
    """Return two addresses, or None, and how far the rows are apart."""
    row_stride = next(iter(pooled.values())).stride(0)
    return pointer(pooled.get("mean")), pointer(pooled.get("max")), row_stride


class _Convolution(torch.autograd.Function):
    """`convolution`."""

    @staticmethod
    def forward(ctx, native, x, weight, scale, bias, running, stride, eps, lengths):
        out, kept = convolve(
            native, x, weight, scale, bias, running, stride=stride, eps=eps,
            lengths=lengths,
        )  # fmt: skip
        ctx.native, ctx.settings = native, {"stride": stride, "eps": eps}
        ctx.lengths = lengths
        ctx.save_for_backward(weight, scale, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        weight, scale, *kept = ctx.saved_tensors
        gradients = [torch.zeros_like(each) for each in (weight, scale, scale)]
        d_x = convolve_backward(
            ctx.native, weight, scale, kept, d_out, gradients,
            need_x=ctx.needs_input_grad[1], lengths=ctx.lengths, **ctx.settings,
        )  # fmt: skip
        return None, d_x, *gradients, None, None, None, None


class _Layer(torch.autograd.Function):
    """`layer` with gradients."""

    @staticmethod
    def forward(ctx, native, x, state, *weights):
        outputs, kept = forward(native, x, weights, keep=True, state=state)
        c = _cell(kept[1], outputs[1])
        if c is not None:
            c = c.clone()  # kept would not be freed with the graph
            ctx.mark_non_differentiable(c)
        ctx.native, ctx.carried = native, state is not None
        ctx.save_for_backward(x, *weights, *kept)
        ctx.set_materialize_grads(False)
        return *outputs, c

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, d_last, _):
        native = ctx.native
        if native is None:
            raise RuntimeError(
                "The kernels overwrite what they kept: backward() works once. Run the "
                "forward pass again, or set SKLSTM_NATIVE=0."
            )
        ctx.native = None
        x, *weights = ctx.saved_tensors[:-3]
        gradients = [torch.zeros_like(w) for w in weights]
        d_x = backward(
            native, x, weights, ctx.saved_tensors[-3:], d_output, d_last, gradients,
            need_x=ctx.needs_input_grad[1], carried=ctx.carried,
        )  # fmt: skip
        return None, d_x, None, *gradients
