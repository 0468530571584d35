"""Leaf below `network`: one LSTM layer, forward and backward. Imports nothing of ours.

On a CPU in float32 the work is done by recurrence.c, compiled when the package is
installed; `lstm` is then 1.6 to 2.6 times as fast as `torch.nn.LSTM`, and a row comes
out the same, to the last bit, whatever the batch and the number of threads. Before its
first use in a process it is proven against `torch.nn.LSTM`; where it is missing, fails
or does not apply, callers fall back to that. ``SKLSTM_NATIVE=0`` in the environment
turns it off.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.autograd.function import once_differentiable

# Rows are cut into chunks that threads share: of at least so many multiplications, to be
# worth a thread, and so many rows, since gradients of weights are added up in the cache
# once per step and chunk. Results do not depend on how many threads there are.
CHUNK_WORK, CHUNK_ROWS = 5e7, 64


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_ssize_t)
        for name in (
            "n_steps", "n_rows", "begin", "end", "n_inputs", "hidden_size",
            "x_step", "x_row",
        )
    ] + [("lengths", ctypes.c_void_p)]  # fmt: skip


@functools.cache
def library():
    """Return the compiled kernels, proven once per process; None where there are none."""
    if os.environ.get("SKLSTM_NATIVE") == "0":
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    variants = {"AVX2": ("avx2",), "AVX512": ("avx512", "avx2")}.get(
        capability, ("neon",)
    )
    for variant in variants:
        path = Path(__file__).with_name(f"_recurrence_{variant}.so")
        try:
            native = ctypes.CDLL(str(path))
        except OSError:
            continue
        pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
        native.sklstm_lanes.restype = size
        native.sklstm_forward.argtypes = [pointer] * 10
        native.sklstm_backward.argtypes = [pointer] * 8 + [size] * 2 + [pointer] * 10
        native.sklstm_affine.argtypes = [
            pointer, size, size, size, size, size, size, pointer, pointer, ctypes.c_int,
            pointer, pointer,
        ]  # fmt: skip
        native.sklstm_sum.argtypes = [pointer] + [size] * 5 + [pointer] * 2
        for function in ("forward", "backward", "affine", "sum"):
            getattr(native, f"sklstm_{function}").restype = None
        if _agrees(native):
            return native
        warnings.warn(
            f"The compiled kernels in {path.name} disagree with torch.nn.LSTM on this "
            "machine and are not used. Please report this.",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def _agrees(native) -> bool:
    """Compare outputs and gradients of a small layer with torch.nn.LSTM's."""
    lanes = native.sklstm_lanes()
    generator = torch.Generator().manual_seed(0)
    n_inputs, hidden_size = 3, 4 * lanes + 1
    shapes = [(4 * hidden_size, *rest) for rest in ((n_inputs,), (hidden_size,), (), ())]
    with torch.inference_mode(False), torch.enable_grad():
        weights = [
            (0.3 * torch.randn(shape, generator=generator)).requires_grad_()
            for shape in shapes
        ]
        x = torch.randn(4, 13, n_inputs, generator=generator).requires_grad_()
        upstream = torch.randn(4, 13, hidden_size, generator=generator)
        zeros = torch.zeros(1, 13, hidden_size)
        expected, last, _ = torch.lstm(
            x, (zeros, zeros), weights, True, 1, 0.0, True, False, False
        )
        pairs = [(expected, last[0]), _Layer.apply(native, x, *weights)]
        gradients = [
            torch.autograd.grad((out * upstream).sum() + end.sum(), [x, *weights])
            for out, end in pairs
        ]
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-4)
        for a, b in zip(
            (*pairs[0], *gradients[0]), (*pairs[1], *gradients[1]), strict=True
        )
    )


def available(weight: torch.Tensor) -> bool:
    """Tell whether `lstm` can take weights like these, here and now."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and library() is not None
    )


def applies(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether `lstm` can take an input and weights like these."""
    return x.dtype == torch.float32 and x.numel() > 0 and available(weight)


def lstm(x, weight_ih, weight_hh, bias_ih, bias_hh):
    """Run one layer in one direction from a state of zeros.

    Parameters
    ----------
    x : Tensor of shape (n_timesteps, n_rows, n_inputs), float32, on the CPU
    weight_ih, weight_hh : Tensor of shape (4 hidden_size, n_inputs or hidden_size)
        As in `torch.nn.LSTM`: gates in the order input, forget, cell, output.
    bias_ih, bias_hh : Tensor of shape (4 hidden_size,)

    Returns
    -------
    output : Tensor of shape (n_timesteps, n_rows, hidden_size)
    last : Tensor of shape (n_rows, hidden_size)
        The output of the last step. Gradients through it alone cost less.
    """
    x = readable(x)
    weights = [w.contiguous() for w in (weight_ih, weight_hh, bias_ih, bias_hh)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)):
        return _Layer.apply(library(), x, *weights)
    return forward(library(), x, weights, keep=False)[0]


def readable(x):
    """Return x, or a copy, with the inputs of a step next to each other."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def affine(a, weight, bias=None, relu=False):
    """Return a @ weight.T + bias, maybe rectified; each row by itself.

    Parameters
    ----------
    a : Tensor of shape (n_outer, n_rows, n_terms), float32, on the CPU
        Its rows may overlap, as those of a convolution do.
    weight : Tensor of shape (n_out, n_terms)
    bias : Tensor of shape (n_out,), default=None
    relu : bool

    Returns
    -------
    out : Tensor of shape (n_outer, n_rows, n_out)
    """
    native, a, weight = library(), readable(a), weight.contiguous()
    (n_outer, n_rows, n_terms), n_out = a.shape, len(weight)
    width = _padded(n_out, native.sklstm_lanes())
    scratch, out = a.new_empty(n_terms + 1, width), a.new_empty(n_outer, n_rows, width)
    native.sklstm_affine(
        a.data_ptr(), n_outer, a.stride(0), n_rows, a.stride(1), n_terms, n_out,
        weight.data_ptr(), _pointer(bias), relu, scratch.data_ptr(), out.data_ptr(),
    )  # fmt: skip
    return out[:, :, :n_out]


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
        _pointer(lengths), total.data_ptr(),
    )  # fmt: skip
    return total


def _pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


def _padded(n, lanes):
    return -(-n // lanes) * lanes


def _chunks(x, hidden_size, lengths=None):
    """Cut the rows into [begin, end) pieces of enough work for a thread each."""
    n_timesteps, n_rows, n_inputs = x.shape
    work = n_timesteps * n_rows * 4 * hidden_size * (n_inputs + hidden_size)
    n_chunks = max(1, min(int(work / CHUNK_WORK), n_rows // CHUNK_ROWS))
    edges = [i * n_rows // n_chunks for i in range(n_chunks + 1)]
    return [
        _Shape(
            n_timesteps, n_rows, begin, end, n_inputs, hidden_size,
            x.stride(0), x.stride(1), _pointer(lengths),
        )
        for begin, end in itertools.pairwise(edges)
    ]  # fmt: skip


def _share(jobs):
    """Run jobs, which release the interpreter lock, on at most torch's threads."""
    n_threads = min(torch.get_num_threads(), len(jobs))

    def run(first):
        for job in jobs[first::n_threads]:
            job()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(1, n_threads)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()


def forward(native, x, weights, *, keep, lengths=None):
    """Run a layer: ((output, last), what `backward` needs or None).

    Parameters
    ----------
    native : the library
    x : Tensor of shape (n_timesteps, n_rows, n_inputs), contiguous in its last dimension
    weights : (weight_ih, weight_hh, bias_ih, bias_hh), contiguous
    keep : bool
    lengths : Tensor of shape (n_rows,), int64, descending, default=None
        Steps of each row; None for all. What comes after is not computed, and undefined
        in `output`.
    """
    n_timesteps, n_rows, n_inputs = x.shape
    hidden_size = weights[1].shape[1]
    width = _padded(hidden_size, native.sklstm_lanes())  # Hp
    h = x.new_empty(n_timesteps + 1, n_rows, width)
    h[0] = 0
    c = x.new_empty(n_timesteps + 1 if keep else 1, n_rows, width)
    c[0] = 0
    gates = x.new_empty(n_timesteps, n_rows, 4 * width) if keep else None

    def job(shape):
        packed = x.new_empty((1 + n_inputs + hidden_size) * 4 * width)
        arrays = (x, *weights, packed, h, c, gates)
        return lambda: native.sklstm_forward(ctypes.byref(shape), *map(_pointer, arrays))

    _share([job(shape) for shape in _chunks(x, hidden_size, lengths)])
    output = h[1:, :, :hidden_size]
    last = output[-1]
    if lengths is not None:
        last = h[lengths, torch.arange(n_rows), :hidden_size]
    return (output, last), ((h, c, gates) if keep else None)


def backward(
    native, x, weights, kept, d_output, d_last, gradients, *, need_x, lengths=None
):
    """Add the gradients of the weights to `gradients`; return that of x or None.

    Overwrites what was kept.

    Parameters
    ----------
    native, x, weights, lengths : as in `forward`
    kept : what `forward` returned
    d_output : Tensor of shape (n_timesteps, n_rows, hidden_size) or None
    d_last : Tensor of shape (n_rows, hidden_size) or None
    gradients : tuple of Tensor, contiguous
        Of weight_ih, weight_hh and of either bias.
    need_x : bool
    """
    weight_ih, weight_hh = weights[:2]
    h, c, gates = kept
    n_timesteps, n_rows, n_inputs = x.shape
    hidden_size, lanes = weight_hh.shape[1], native.sklstm_lanes()
    width, in_width = _padded(hidden_size, lanes), _padded(n_inputs, lanes)
    d_x = x.new_empty(n_timesteps, n_rows, in_width) if need_x else None
    if d_output is not None and d_output.stride(2) != 1:
        d_output = d_output.contiguous()
    strides = (0, 0) if d_output is None else d_output.stride()[:2]
    d_last = None if d_last is None else d_last.contiguous()
    dh, dc = x.new_empty(2, n_rows, width)
    chunks = _chunks(x, hidden_size, lengths)
    # Every chunk adds up gradients of its own; they are summed in a fixed order.
    sums = [gradients]
    sums += [[torch.zeros_like(g) for g in gradients] for _ in chunks[1:]]

    def job(shape, sums):
        scratch = (
            x.new_empty(4 * width, width),
            x.new_empty(4 * width, in_width) if need_x else None,
            x.new_empty(1 + n_inputs + hidden_size, 4 * width),
        )
        before = (x, weight_ih, weight_hh, h, c, gates, d_output)
        after = (d_last, d_x, dh, dc, *scratch, *sums)
        return lambda: native.sklstm_backward(
            ctypes.byref(shape), *map(_pointer, before), *strides, *map(_pointer, after)
        )

    _share([job(*pair) for pair in zip(chunks, sums, strict=True)])
    for others in sums[1:]:
        for total, other in zip(gradients, others, strict=True):
            total.add_(other)
    return None if d_x is None else d_x[:, :, :n_inputs]


class Stepper:
    """A layer that keeps its state from call to call, for inference.

    Parameters
    ----------
    weights : (weight_ih, weight_hh, bias_ih, bias_hh), as `available` wants them
        Copied.
    n_rows : int
    """

    def __init__(self, weights, n_rows):
        self.native = library()
        self.n_inputs, self.hidden_size = weights[0].shape[1], weights[1].shape[1]
        width = _padded(self.hidden_size, self.native.sklstm_lanes())
        size = (1 + self.n_inputs + self.hidden_size) * 4 * width
        self.packed = np.empty(size, dtype=np.float32)
        self.h = np.zeros((2, n_rows, width), dtype=np.float32)  # before and after
        self.c = np.zeros((n_rows, width), dtype=np.float32)
        # No rows: packs the weights and does nothing else.
        self.shape = _Shape(1, n_rows, 0, 0, self.n_inputs, self.hidden_size, 0, 0, None)
        weights = [w.detach().contiguous() for w in weights]
        self._run(None, *map(_pointer, weights))
        self.shape = _Shape(
            1, n_rows, 0, n_rows, self.n_inputs, self.hidden_size, 0, self.n_inputs, None
        )
        self.arguments = (None, None, None, None, *self._buffers())

    def _buffers(self):
        return (*(a.ctypes.data for a in (self.packed, self.h, self.c)), None)

    def _run(self, x, *weights):
        self.native.sklstm_forward(
            ctypes.byref(self.shape), x, *weights, *self._buffers()
        )

    def step(self, x):
        """(N, I) float32, contiguous -> the new state (N, H), a view."""
        self.h[0] = self.h[1]
        self.native.sklstm_forward(
            ctypes.byref(self.shape), x.ctypes.data, *self.arguments
        )
        return self.h[1, :, : self.hidden_size]

    def reset(self, rows=slice(None)):
        """Set the state of some rows to zero."""
        self.h[:, rows] = 0
        self.c[rows] = 0


class _Layer(torch.autograd.Function):
    """`lstm` with gradients."""

    @staticmethod
    def forward(ctx, native, x, *weights):
        outputs, kept = forward(native, x, weights, keep=True)
        ctx.native = native
        ctx.save_for_backward(x, *weights, *kept)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output, d_last):
        native = ctx.native
        if native is None:
            raise RuntimeError(
                "The kernels overwrite what they kept: backward() works once. Run the "
                "forward pass again, or set SKLSTM_NATIVE=0."
            )
        ctx.native = None
        x, *weights = ctx.saved_tensors[:5]
        gradients = [torch.zeros_like(w) for w in weights[:3]]
        d_x = backward(
            native, x, weights, ctx.saved_tensors[5:], d_output, d_last, gradients,
            need_x=ctx.needs_input_grad[1],
        )  # fmt: skip
        return None, d_x, *gradients, gradients[2]
