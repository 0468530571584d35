"""Leaf: an ONNX graph, written by calling torch code with symbols for tensors.

A `Symbol` stands for a tensor that is not known yet. Torch's functions and operators,
given one, add a node to its graph and return another (`__torch_function__`), so code
in the operations of `TRANSLATIONS` that asks for no shape need not know.
"""

from __future__ import annotations

import functools

import numpy as np
import torch


class Graph:
    """An ONNX graph while it is written: nodes and constants."""

    def __init__(self):
        self.nodes, self.constants, self._names = [], {}, {}

    @staticmethod
    def element(dtype):
        """Return ONNX's number of a torch type."""
        from onnx import TensorProto  # noqa: PLC0415 - optional

        return {
            torch.float32: TensorProto.FLOAT,
            torch.float64: TensorProto.DOUBLE,
            torch.int64: TensorProto.INT64,
            torch.int32: TensorProto.INT32,
        }[dtype]

    def name_of(self, value):
        """Return the name of a symbol, or of a constant, each of which is kept once."""
        if isinstance(value, Symbol):
            return value.name
        array = torch.as_tensor(value).detach().contiguous().numpy()
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names)}"
            self.constants[self._names[key]] = array
        return self._names[key]

    def add_node(self, kind, inputs, *, n_outputs=1, name=None, **attributes):
        """Add a node; return the names of its outputs."""
        from onnx import helper  # noqa: PLC0415 - optional

        name = name or f"{kind.lower()}_{len(self.nodes)}"
        outputs = [name, *(f"{name}_{i}" for i in range(1, n_outputs))]
        inputs = ["" if i is None else self.name_of(i) for i in inputs]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def recurrence(self, layer, x, lengths):
        """Run a layer of `export`: (N, S, I), (N,) or None -> (N, S, H)."""
        # torch: input, forget, cell, output; ONNX: input, output, forget, cell.
        # torch: reset, update, new; ONNX: update, reset, new.
        is_gru, size = layer.cell == "gru", layer.hidden_size
        order = [1, 0, 2] if is_gru else [0, 3, 1, 2]

        def reorder(weight):
            gates = weight.reshape(len(order), size, -1)
            return gates[order].reshape(weight.shape)[None]

        *weights, bias_ih, bias_hh = map(reorder, layer.weights[:4])
        x, biases = x.transpose(0, 1), torch.cat([bias_ih, bias_hh], dim=1)
        lengths = None if lengths is None else lengths.to(torch.int32)
        inputs = [x, *weights, biases, lengths]
        attributes = {"linear_before_reset": 1} if is_gru else {}
        if layer.cell == "peephole":  # torch's way: input, forget, output
            inputs += [None, None, layer.weights[4][[0, 2, 1]].reshape(1, -1)]
        states = _node(
            "GRU" if is_gru else "LSTM", *inputs, hidden_size=size,
            direction="reverse" if layer.backwards else "forward", **attributes,
        )  # fmt: skip
        return states[:, 0].transpose(0, 1)  # (S, 1, N, H) -> (N, S, H)


class Symbol:
    """A tensor of an ONNX graph; torch's functions and operators add nodes to it."""

    def __init__(self, graph, name, dtype):
        self.graph, self.name, self.dtype = graph, name, dtype

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), settings=None):
        name = function.__name__
        if name not in TRANSLATIONS:
            raise NotImplementedError(f"torch's {name} has no translation to ONNX.")
        return TRANSLATIONS[name](*arguments, **settings or {})

    def __getattr__(self, name):
        if name.startswith("_") or name not in TRANSLATIONS:
            raise AttributeError(f"A tensor of an ONNX graph has no {name}.")
        return lambda *arguments, **settings: TRANSLATIONS[name](
            self, *arguments, **settings
        )

    def __getitem__(self, key):
        x, axis = self, 0
        for part in key if isinstance(key, tuple) else (key,):
            if part is None:
                x = _node("Unsqueeze", x, torch.tensor([axis]))
            elif not isinstance(part, slice):  # an int, or a constant 1-D tensor
                x = _node("Gather", x, torch.as_tensor(part), axis=axis)
                axis -= isinstance(part, int)
            elif part != slice(None):
                stop = 2**62 if part.stop is None else part.stop
                edges = (part.start or 0, stop, axis, part.step or 1)
                start, stop, axes, step = (torch.tensor([edge]) for edge in edges)
                x = _node("Slice", x, start, stop, axes, step)
            axis += 1
        return x

    def __neg__(self):
        return _node("Neg", self)

    def __invert__(self):
        return _node("Not", self)


def _node(kind, *inputs, dtype=None, **attributes):
    """Add a node with one output, of the first input's type unless said."""
    graph = next(i.graph for i in inputs if isinstance(i, Symbol))
    (name,) = graph.add_node(kind, inputs, **attributes)
    return Symbol(graph, name, dtype or inputs[0].dtype)


def _promoted(*values):
    """Return values, some of which are plain numbers, in their common type."""
    types = [v.dtype for v in values if isinstance(v, (Symbol, torch.Tensor))]
    dtype = functools.reduce(torch.promote_types, types)
    return [_as_type(value, dtype) for value in values]


def _as_type(value, dtype):
    if not isinstance(value, Symbol):
        return torch.as_tensor(value, dtype=dtype)
    if value.dtype == dtype:
        return value
    return _node("Cast", value, dtype=dtype, to=value.graph.element(dtype))


def _operator(kind, dtype=None):
    """Translate a function of two tensors, either of which may be constant."""

    def translate(a, b):
        return _node(kind, *_promoted(a, b), dtype=dtype)

    return translate


def _swapped(translate):
    return lambda a, b: translate(b, a)


def _function(kind, dtype=None):
    return lambda x: _node(kind, x, dtype=dtype)


def _where(condition, a, b):
    a, b = _promoted(a, b)
    return _node("Where", condition, a, b, dtype=a.dtype)


def _divide(a, b):
    # ONNX divides integers to integers.
    if a.dtype == torch.int64:
        a = _as_type(a, torch.float64)
    return _operator("Div")(a, b)


def _join(tensors, dim):
    return _node("Concat", *_promoted(*tensors), axis=dim)


def _stack(tensors, dim):
    axis = torch.tensor([dim])
    return _join([_node("Unsqueeze", x, axis) for x in tensors], dim)


def _sum(x, dim):
    return _node("ReduceSum", x, torch.tensor([dim]), keepdims=0)


def _highest(x, dim):
    return _node("ReduceMax", x, axes=[dim], keepdims=0)


def _sort(x, dim):
    graph = x.graph
    size = _node("Shape", x, dtype=torch.int64, start=dim, end=dim + 1)
    values, _ = graph.add_node(
        "TopK", [x, size], n_outputs=2, axis=dim, largest=0, sorted=1
    )
    return torch.return_types.sort((Symbol(graph, values, x.dtype), None))


def _clamp(x, min=None, max=None):  # noqa: A002 - torch's names
    if min is not None:
        x = _operator("Max")(x, min)
    return x if max is None else _operator("Min")(x, max)


def _linear(x, weight, bias=None):
    out = _node("MatMul", x, weight.t())
    return out if bias is None else _node("Add", out, bias)


def _layer_norm(x, shape, weight, bias, eps):
    return _node("LayerNormalization", x, weight, bias, epsilon=eps)


def _conv1d(x, weight, bias, stride, padding):
    return _node("Conv", x, weight, bias, strides=[stride], pads=[padding, padding])


def _transpose(x, first, second):
    order = [0, 1, 2]
    order[first], order[second] = second, first
    return _node("Transpose", x, perm=order)


def _pad(x, pad, mode, value):
    (before, after), fill = pad, torch.tensor(value, dtype=x.dtype)
    return _node("Pad", x, torch.tensor([0, before, 0, after]), fill, mode=mode)


def _ones_like(x, dtype):
    from onnx import numpy_helper  # noqa: PLC0415 - optional

    one = numpy_helper.from_array(np.ones(1, dtype=np.int64))
    shape = _node("Shape", x, dtype=torch.int64)
    return _node("ConstantOfShape", shape, dtype=dtype, value=one)


def _pick(table, positions):
    """Rows of a constant table at positions."""
    return _node("Gather", table, positions)


TRANSLATIONS = {
    "add": _operator("Add"),
    "sub": _operator("Sub"),
    "mul": _operator("Mul"),
    "div": _divide,
    "floor_divide": _operator("Div"),  # of integers that are not negative
    "lt": _operator("Less", torch.bool),
    "le": _operator("LessOrEqual", torch.bool),
    "gt": _operator("Greater", torch.bool),
    "ge": _operator("GreaterOrEqual", torch.bool),
    "eq": _operator("Equal", torch.bool),
    "ne": lambda a, b: ~_operator("Equal", torch.bool)(a, b),
    "and": _operator("And"),
    "or": _operator("Or"),
    "minimum": _operator("Min"),
    "maximum": _operator("Max"),
    "clamp": _clamp,
    "where": _where,
    "isnan": _function("IsNaN", torch.bool),
    "abs": _function("Abs"),
    "exp": _function("Exp"),
    "log": _function("Log"),
    "sqrt": _function("Sqrt"),
    "relu": _function("Relu"),
    "tanh": _function("Tanh"),
    "sigmoid": _function("Sigmoid"),
    "softplus": _function("Softplus"),
    "softmax": lambda x, dim: _node("Softmax", x, axis=dim),
    "sum": _sum,
    "amax": _highest,
    "cumsum": lambda x, dim: _node("CumSum", x, torch.tensor(dim)),
    "sort": _sort,
    "cat": _join,
    "stack": _stack,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "conv1d": _conv1d,
    "embedding": lambda positions, table, **_: _pick(table, positions),
    "take": _pick,
    "gather": lambda x, dim, at: _node("GatherElements", x, at, axis=dim),
    "to": _as_type,
    "transpose": _transpose,
    "reshape": lambda x, *shape: _node("Reshape", x, torch.tensor(shape)),
    "pad": _pad,
    "ones_like": _ones_like,
}
for _name in ("add", "sub", "mul", "lt", "le", "gt", "ge", "eq", "ne", "and", "or"):
    setattr(Symbol, f"__{_name}__", TRANSLATIONS[_name])
for _name, _operation in (("truediv", "div"), ("floordiv", "floor_divide")):
    setattr(Symbol, f"__{_name}__", TRANSLATIONS[_operation])
for _name in ("add", "mul"):
    setattr(Symbol, f"__r{_name}__", _swapped(TRANSLATIONS[_name]))
