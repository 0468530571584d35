"""A fitted estimator as one torch module, or as an ONNX file, raw data in.

The modules are plain torch in few operations, none of which asks for a shape, so that
`torch.export` takes them with any batch and length, and so that calling them with a
`Symbol` in place of a tensor writes the same computation down as an ONNX graph. There
is one definition of each model here, and tests hold it equal to `predict`.

Shape legend: N sequences, T time steps, S steps after the stem, C channels, H
hidden_size, D = H or 2 H; of forecasts, W window length, P period, Z horizon, Q
quantiles.
"""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import torch
from scipy.special import ndtri
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from sklstm import kernels
from sklstm.devices import insulated
from sklstm.forecast_model import (
    GUARD_WIDTH,
    MAX_LOG,
    N_WEEKS,
    OUTER_GUARD_WIDTH,
    ROUNDING,
    ForecastModel,
)
from sklstm.heads import ClassificationHead
from sklstm.modules import CELLS, POOLINGS, ConvStem, EmbeddingStem
from sklstm.network import RecurrentNetwork
from sklstm.onnx_graph import Graph, Symbol
from sklstm.sequences import MAX_DISTANCE, N_RESERVED_TOKENS, PADDING, UNKNOWN

ONNX_OPSET = 17
# Of the file format that goes with it, so that older runtimes read it too.
ONNX_IR_VERSION = 8


@insulated
def to_torch(estimator) -> SequenceModule | ForecastModule:
    """Return a fitted estimator as a self-contained module: raw data in, answers out.

    The module standardises its input, marks missing values, and applies the head's
    link; its weights are copies, in float32. It goes through `torch.export` with
    dynamic batch and time axes (with float32 inputs on the CPU as an example).

    Parameters
    ----------
    estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
        Fitted. A forecaster must have been fitted without X.

    Returns
    -------
    module : torch.nn.Module
        Of a classifier or regressor: called with X, a float32 tensor (n_samples,
        n_timesteps, n_channels), or int64 tokens (n_samples, n_timesteps), and
        lengths, int64 (n_samples,); steps from a sequence's length on are not read.
        With ``missing="mask"`` NaN is missing. Returns float32: probabilities
        (n_samples, n_classes) as `predict_proba`, or values as `predict`; NaN of a row
        that `predict` refuses: with infinity or what is nearly so, with any other NaN,
        or without a step.

        Of a forecaster: called with history, a float64 tensor (n_series,
        n_timesteps), NaN where missing or before a series begins. Returns the
        quantiles of the next `horizon_` steps, float64 (n_series, horizon,
        n_quantiles), counted as in `predict`; those further than horizon from the last
        value are NaN. Only the last ``estimator.model_.context_length`` steps up to that
        value matter; leading NaNs do not count as part of a series.

    Raises
    ------
    NotImplementedError
        If a part of the estimator cannot be exported; names it.
    TypeError
        If it is no estimator of this package.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sklstm import LSTMClassifier, to_torch
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 10, 2)).astype("float32")
    >>> model = LSTMClassifier(max_iter=20, random_state=0).fit(X, X[:, -1, 0] > 0)
    >>> module = to_torch(model)
    >>> probability = module(torch.from_numpy(X), torch.full((40,), 10))
    >>> bool(np.allclose(probability, model.predict_proba(X), atol=1e-5))
    True
    """
    if isinstance(getattr(estimator, "model_", None), ForecastModel):
        return ForecastModule(estimator.model_).eval().requires_grad_(False)
    if isinstance(getattr(estimator, "network_", None), RecurrentNetwork):
        parts = estimator.encoder_, estimator.network_, estimator.head_
        return SequenceModule(*parts).eval().requires_grad_(False)
    if hasattr(estimator, "check_is_fitted"):  # sktime's
        estimator.check_is_fitted()
    else:
        check_is_fitted(estimator)
    raise TypeError(
        "Only a fitted LSTMClassifier, LSTMRegressor or LSTMForecaster can be "
        f"exported; got {type(estimator).__name__}. Of a pipeline or a search, "
        "export the estimator inside."
    )


@insulated
def to_onnx(estimator, path) -> None:
    """Write a fitted estimator to an ONNX file, raw data in, answers out.

    Inputs and outputs are those of `to_torch`, with the names ``X`` and ``lengths``, or
    ``history``; and ``probabilities``, ``y``, or ``quantiles``. Batch and time axes are
    dynamic. Classes and quantile levels are written to the metadata, as JSON.

    Parameters
    ----------
    estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
        Fitted. A forecaster must have been fitted without X.
    path : path-like
        File to write.

    Raises
    ------
    ImportError
        If `onnx` is not installed.
    NotImplementedError
        If a part of the estimator cannot be exported; names it.
    TypeError
        If it is no estimator of this package.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from sklstm import LSTMRegressor, to_onnx
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 10))
    >>> model = LSTMRegressor(max_iter=20, random_state=0).fit(X, X.sum(axis=1))
    >>> folder = tempfile.TemporaryDirectory()
    >>> to_onnx(model, Path(folder.name) / "model.onnx")
    >>> folder.cleanup()
    """
    try:
        import onnx  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ImportError(
            'to_onnx needs onnx. Install it with: pip install "sklstm[export]".'
        ) from error
    module = to_torch(estimator)
    graph = Graph()
    inputs = [Symbol(graph, name, dtype) for name, (dtype, _) in module.inputs.items()]
    with torch.no_grad():
        answer = module(*inputs)
    graph.add_node("Identity", [answer], name=module.output)

    def describe(name, dtype, shape):
        return onnx.helper.make_tensor_value_info(name, graph.element(dtype), shape)

    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "sklstm",
            [describe(name, *given) for name, given in module.inputs.items()],
            [describe(module.output, answer.dtype, module.output_shape)],
            [onnx.numpy_helper.from_array(a, n) for n, a in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", ONNX_OPSET)],
        ir_version=ONNX_IR_VERSION,
        producer_name="sklstm",
    )
    onnx.helper.set_model_props(model, module.metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


# ------------------------------------------------------------------ shared by both
def _frozen(values):
    if not isinstance(values, torch.Tensor):
        values = torch.tensor(values)  # a copy: an array may be of a file, and read-only
    return nn.Parameter(values.detach().clone(), requires_grad=False)


class _Linear(nn.Module):
    """A linear map, in float32."""

    def __init__(self, linear):
        super().__init__()
        self.weight = _frozen(linear.weight.float())
        self.bias = None if linear.bias is None else _frozen(linear.bias.float())

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class _Layer(nn.Module):
    """One direction of one recurrent layer: (N, S, I), lengths -> (N, S, H)."""

    def __init__(self, layer, backwards=False):
        super().__init__()
        kinds = [name for name, kind in CELLS.items() if type(layer) is kind]
        if not kinds:
            raise NotImplementedError(
                f"{type(layer).__name__} cannot be exported; cells that can are 'lstm', "
                "'peephole' and 'gru'."
            )
        self.cell, self.backwards = kinds[0], backwards
        self.hidden_size = layer.hidden_size
        self.weights = nn.ParameterList(_frozen(w.float()) for w in layer.weights)

    def forward(self, x, lengths=None, steps=None):
        if isinstance(x, Symbol):
            return x.graph.recurrence(self, x, lengths)
        if not self.backwards:
            return self._run(x)
        last = lengths[:, None] - 1  # each row reversed within its own length
        source = torch.where(steps <= last, last - steps, steps)[:, :, None]
        out = self._run(x.gather(1, source.expand(-1, -1, x.shape[2])))
        return out.gather(1, source.expand(-1, -1, self.hidden_size))

    def _run(self, x):
        x, weights = x.transpose(0, 1), list(self.weights)  # (S, N, I)
        if torch.compiler.is_compiling():
            return self._scan(x, *weights).transpose(0, 1)
        return kernels.by_torch(x, None, *weights)[0].transpose(0, 1)

    def _scan(self, x, weight_ih, weight_hh, bias_ih, bias_hh, peepholes=None):
        """Do the same step by step: torch.export fixes the length of torch.lstm."""
        from torch._higher_order_ops.scan import scan  # noqa: PLC0415 - has no other name

        def lstm(state, of_x):
            h, c = state
            i, f, g, o = (of_x + F.linear(h, weight_hh, bias_hh)).chunk(4, 1)  # (N, H)
            if peepholes is not None:
                i, f = i + peepholes[0] * c, f + peepholes[1] * c
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            if peepholes is not None:
                o = o + peepholes[2] * c
            h = torch.sigmoid(o) * torch.tanh(c)
            return (h, c), h.clone()  # scan wants what it stacks to be no alias

        def gru(state, of_x):
            (h,) = state
            r, z, n = of_x.chunk(3, 1)
            of_r, of_z, of_n = F.linear(h, weight_hh, bias_hh).chunk(3, 1)
            r, z = torch.sigmoid(r + of_r), torch.sigmoid(z + of_z)
            n = torch.tanh(n + r * of_n)
            h = n + z * (h - n)
            return (h,), h.clone()

        step, n_states = (gru, 1) if self.cell == "gru" else (lstm, 2)
        zeros = x.new_zeros(n_states, x.shape[1], self.hidden_size)
        state = tuple(zero.clone() for zero in zeros)
        return scan(step, state, F.linear(x, weight_ih, bias_ih))[1]


class _Recurrence(nn.Module):
    """A `Recurrence`: (N, S, I), lengths -> (N, S, D)."""

    def __init__(self, recurrence):
        super().__init__()
        self.forwards = nn.ModuleList(map(_Layer, recurrence.forwards))
        self.backwards = nn.ModuleList(
            _Layer(layer, backwards=True) for layer in recurrence.backwards
        )
        self.residual = recurrence.residual
        self.norms = copy.deepcopy(recurrence.norms).float()

    def forward(self, x, lengths=None, steps=None):
        for i, layer in enumerate(self.forwards):
            states = layer(x, lengths, steps)  # (N, S, H)
            if len(self.backwards):
                behind = self.backwards[i](x, lengths, steps)
                states = torch.cat([states, behind], dim=2)  # (N, S, 2 H)
            if len(self.norms):
                states = self.norms[i](states)
            x = x + states if self.residual and i > 0 else states
        return x


# --------------------------------------------------------- classifier and regressor
class _SequenceNetwork(nn.Module):
    """A network of a classifier or regressor: x, lengths, steps -> raw outputs (N, Q)."""

    def __init__(self, network):
        super().__init__()
        self.stem = _Stem(network.stem)
        self.recurrence = _Recurrence(network.recurrence)
        self.skips = network.skips
        self.pooling = network.config["pooling"]
        if self.pooling not in POOLINGS:
            raise NotImplementedError(
                'A model with target="sequence" cannot be exported: it has no pooling.'
            )
        if self.pooling == "attention":
            self.score = _Linear(network.pooling.score)
            self.query = _frozen(network.pooling.query.float())
        self.readout = _Linear(network.readout)

    def forward(self, x, lengths, steps):
        x, lengths, steps = self.stem(x, lengths, steps)
        states = self.recurrence(x, lengths, steps)
        x = torch.cat([states, x], dim=2) if self.skips else states  # (N, S, D + I)
        pool = getattr(self, "_" + self.pooling.replace("-", "_"))
        return self.readout(pool(x, lengths, steps))

    def _last(self, x, lengths, steps):
        at_last = (steps == lengths[:, None] - 1)[:, :, None]
        last = torch.where(at_last, x, 0.0).sum(1)  # (N, D)
        if not len(self.recurrence.backwards):
            return last
        half = self.recurrence.backwards[-1].hidden_size
        # The backward direction has read the whole sequence at its first step.
        return torch.cat([last[:, :half], x[:, 0, half:]], dim=1)

    def _mean(self, x, lengths, steps):
        inside = (steps < lengths[:, None])[:, :, None]
        return torch.where(inside, x, 0.0).sum(1) / lengths[:, None]

    def _max(self, x, lengths, steps):
        inside = (steps < lengths[:, None])[:, :, None]
        return torch.where(inside, x, -torch.inf).amax(1)

    def _mean_max(self, *states):
        return torch.cat([self._mean(*states), self._max(*states)], dim=1)

    def _attention(self, x, lengths, steps):
        score = (torch.tanh(self.score(x)) * self.query).sum(2)  # (N, S)
        score = torch.where(steps < lengths[:, None], score, -torch.inf)
        return (score.softmax(1)[:, :, None] * x).sum(1)


class SequenceModule(nn.Module):
    """Encoder, networks and link of a classifier or regressor.

    Parameters
    ----------
    encoder : SequenceEncoder
    network : RecurrentNetwork
    head : ClassificationHead or RegressionHead
    """

    def __init__(self, encoder, network, head):
        super().__init__()
        self.tokens, self.marks_missing = encoder.tokens, encoder.missing == "mask"
        if self.tokens:
            self.vocabulary = _frozen(encoder.vocabulary_)
            self.inputs = {"X": (torch.int64, ["n_samples", "n_timesteps"])}
        else:
            self.mean, self.scale = _frozen(encoder.mean_), _frozen(encoder.scale_)
            self.curve = None
            if encoder.curve_ is not None:
                self.curve = _frozen(encoder.curve_)
                self.deviation_scale = _frozen(encoder.deviation_scale_)
            shape = ["n_samples", "n_timesteps", encoder.n_channels_in_]
            self.inputs = {"X": (torch.float32, shape)}
        self.inputs["lengths"] = (torch.int64, ["n_samples"])
        self.members = nn.ModuleList(map(_SequenceNetwork, network.members))
        if isinstance(head, ClassificationHead):
            self.link = _Probability(head)
        else:
            self.link = _Value(head)
        self.output, self.output_shape = self.link.output, self.link.output_shape
        self.metadata = self.link.metadata

    def forward(self, x, lengths):
        """(N, T, C) or tokens (N, T), (N,) -> probabilities or values."""
        encode = self._tokens if self.tokens else self._values
        *given, doubt = encode(x, lengths)
        each = [member(*given) for member in self.members]
        if self.link.averages:
            answer = _mean([self.link(raw) for raw in each])
        else:
            answer = self.link(_mean(each))
        # NaN for what `predict` refuses: gates saturate at infinity, and onnxruntime's
        # take NaN for a number.
        return answer + doubt.reshape(-1, *[1] * (len(self.output_shape) - 1))

    def _values(self, x, lengths):
        """Standardise as `SequenceEncoder.encode`, in float64, rounded once."""
        # A file has the shape of its input, and is refused others.
        if isinstance(x, torch.Tensor) and x.shape[2] != len(self.mean):
            raise ValueError(
                f"X has {x.shape[2]} channels, but the network was fitted with "
                f"{len(self.mean)}."
            )
        absent = torch.isnan(x)
        steps = _steps(absent[:, :, 0])
        inside = (steps < lengths[:, None]).to(torch.int64)
        if self.marks_missing:  # trailing steps without any value are padding
            inside = inside * (~absent).to(torch.int64).amax(2)
        lengths = (inside * (steps + 1)).amax(1)
        raw = x.to(torch.float64)
        groups = [(raw - self.mean) / self.scale]
        if self.curve is not None:
            # Its end goes on: (N, T, C).
            curve = F.embedding(steps.clamp(max=len(self.curve) - 1), self.curve)
            groups.append((raw - curve) / self.deviation_scale)
        if self.marks_missing:
            groups = [torch.where(absent, 0.0, group) for group in groups]
            groups.append(absent.to(torch.float64))
        x = torch.cat(groups, dim=2).to(torch.float32)
        x = torch.where((steps < lengths[:, None])[:, :, None], x, 0.0)
        # (N,): 0, or NaN if not all are finite, near enough, and there.
        doubt = (torch.where(x.abs() > MAX_DISTANCE, torch.nan, x) * 0.0).sum(2).sum(1)
        doubt = torch.where(lengths == 0, torch.nan, doubt)
        return x, lengths.clamp(min=1), steps, doubt

    def _tokens(self, x, lengths):
        """Move what is between padding to the front; number tokens from 2."""
        steps = _steps(x)
        inside = (x != PADDING) & (steps < lengths[:, None])
        start = -torch.where(inside, -steps, -steps[:, -1:]).amax(1)
        stop = torch.where(inside, steps + 1, 0).amax(1)
        doubt = torch.where(stop > 0, 0.0 * stop.to(torch.float32), torch.nan)  # (N,)
        lengths = (stop - start).clamp(min=1)
        x = x.gather(1, torch.minimum(steps + start[:, None], steps[:, -1:]))
        # The place of the last known token that is not greater, bit by bit.
        place = steps * 0
        for bit in reversed(range(len(self.vocabulary).bit_length())):
            further = (place + 2**bit).clamp(max=len(self.vocabulary) - 1)
            known = torch.take(self.vocabulary, further)
            place = torch.where(known <= x, further, place)
        known = torch.take(self.vocabulary, place) == x
        numbers = torch.where(known, place + N_RESERVED_TOKENS, UNKNOWN)
        numbers = torch.where(steps < lengths[:, None], numbers, PADDING)
        return numbers, lengths, steps, doubt


def _count(x, *limits):
    """Return integers as `torch.arange` does, where x lies; a symbol lies nowhere."""
    return torch.arange(*limits, device=getattr(x, "device", None))


def _steps(x):
    """(N, T) -> number of each step, int64 (N, T)."""
    return torch.ones_like(x, dtype=torch.int64).cumsum(1) - 1


class _Stem(nn.Module):
    """Any stem: x, lengths, steps -> the same after it."""

    def __init__(self, stem):
        super().__init__()
        self.strides, self.table, self.linear = (), None, None
        if isinstance(stem, ConvStem):
            self.strides = stem.strides
            folded = [
                (layer.weight * scale[:, None, None], shift)
                for layer, norm in zip(stem.convolutions, stem.norms, strict=True)
                for scale, shift in [norm.scale_and_shift()]
            ]
            self.weights = nn.ParameterList(_frozen(w.float()) for w, _ in folded)
            self.biases = nn.ParameterList(_frozen(b.float()) for _, b in folded)
        elif isinstance(stem, EmbeddingStem):
            self.table = _frozen(stem.embedding.weight.float())
        elif stem is not None:
            self.linear = _Linear(stem.linear)

    def forward(self, x, lengths, steps):
        if self.table is not None:
            return F.embedding(x, self.table), lengths, steps
        if self.linear is not None:
            return torch.relu(self.linear(x)), lengths, steps
        if not self.strides:
            return x, lengths, steps
        x = x.transpose(1, 2)  # (N, C, T)
        layers = zip(self.strides, self.weights, self.biases, strict=True)
        for stride, weight, bias in layers:
            # Kernels are odd, so that output j is centred on j * stride.
            x = F.conv1d(x, weight, bias, stride=stride, padding=weight.shape[2] // 2)
            if stride > 1:
                lengths = (lengths + (stride - 1)) // stride
                steps = steps[:, ::stride] // stride
            inside = (steps < lengths[:, None])[:, None]  # (N, 1, S)
            x = torch.where(inside, torch.relu(x), 0.0)
        return x.transpose(1, 2), lengths, steps  # (N, S, H)


class _Probability(nn.Module):
    """Raw outputs -> what `predict_proba` says."""

    output, averages = "probabilities", True

    def __init__(self, head):
        super().__init__()
        self.multilabel, self.binary = head.multilabel_, head.binary_
        self.output_shape = ["n_samples", len(head.classes_)]
        classes = head.classes_
        if classes.dtype.kind == "M":
            classes = classes.astype(str)
        self.metadata = {"classes": json.dumps(classes.tolist(), default=str)}

    def forward(self, raw):
        if self.binary:
            return torch.sigmoid(torch.cat([-raw, raw], dim=1))
        return torch.sigmoid(raw) if self.multilabel else raw.softmax(1)


class _Value(nn.Module):
    """Raw outputs -> what `predict` of a regressor says."""

    output, averages = "y", False  # quantiles are put in order once

    def __init__(self, head):
        super().__init__()
        self.mean, self.scale = _frozen(head.mean_), _frozen(head.scale_)
        self.n_outputs, self.n_quantiles = head.n_outputs_, head.n_raw // head.n_outputs_
        self.has_outputs, self.has_quantiles = not head.one_d_, head.several_quantiles
        self.output_shape = ["n_samples"]
        self.output_shape += [head.n_outputs_] * self.has_outputs
        self.metadata = {}
        if self.has_quantiles:
            self.output_shape.append(len(head.quantiles))
            by_level = np.argsort(np.argsort(head.quantiles, kind="stable"))
            self.by_level = _frozen(by_level)
            self.metadata["quantiles"] = json.dumps(head.quantiles.tolist())

    def forward(self, raw):
        raw = raw.to(torch.float64).reshape(-1, self.n_outputs, self.n_quantiles)
        if self.has_quantiles:
            raw = raw.sort(2).values[:, :, self.by_level]
        y = (raw * self.scale[:, None] + self.mean[:, None]).to(torch.float32)
        if not self.has_quantiles:
            y = y[:, :, 0]
        return y if self.has_outputs else y[:, 0]


# ----------------------------------------------------------------------- forecaster
class ForecastModule(nn.Module):
    """The next `horizon` steps of a forecaster, as `LSTMForecaster` forecasts them.

    Of a history that ends with missing values so many steps are on the way, and as many
    at the end of the answer are NaN.

    Parameters
    ----------
    model : ForecastModel
    """

    output = "quantiles"

    def __init__(self, model):
        super().__init__()
        if model.exog_columns:
            raise NotImplementedError(
                "A forecaster with exogenous data cannot be exported; this one was "
                f"fitted with X of columns {list(model.exog_columns)}."
            )
        self.context_length, self.middle = model.context_length, len(model.quantiles) // 2
        self.inputs = {"history": (torch.float64, ["n_series", "n_timesteps"])}
        self.output_shape = ["n_series", model.horizon, len(model.quantiles)]
        self.metadata = {"quantiles": json.dumps(list(model.quantiles))}
        self.period = model.period
        networks = {}  # by identity: members may share one
        self.members, self.parts = nn.ModuleList(), []
        for members, share, combine, by_week in (
            (model.trained, 1 - model.pretrained_share, _median, False),
            (model.pretrained, model.pretrained_share, _mean, model.has_weeks),
        ):
            if not share:
                continue
            for member in members:
                key = id(member.network)
                if key not in networks:
                    networks[key] = _Network(member.network)
                self.members.append(_Member(member, networks[key], model))
            self.parts.append((share, len(members), combine, by_week))
        offsets = np.broadcast_to(model.offsets, self.output_shape[1:])
        self.offsets = _frozen(np.array(offsets, dtype=np.float64))

    def forward(self, history):
        """(N, T) -> (N, Z, Q)."""
        steps, width = _steps(history), self.context_length
        stop = torch.where(torch.isnan(history), 0, steps + 1).amax(1)  # (N,)
        n_missing = torch.where(stop > 0, steps[:, -1] + 1 - stop, 0)[:, None]
        source = steps - n_missing
        history = history.gather(1, source.clamp(min=0))
        history = torch.where(source < 0, torch.nan, history)
        context = F.pad(history, (width, 0), value=torch.nan)[:, -width:]
        quantiles, members = 0.0, iter(self.members)
        for share, size, combine, by_week in self.parts:
            read, of_weeks = context, 0.0
            if by_week:
                week = 7 * self.period
                effects = _week_effects(context[:, -N_WEEKS * week :], self.period)
                read = context - effects[:, _count(context, -width, 0) % week]
                ahead = _count(context, self.output_shape[1]) % week
                of_weeks = effects[:, ahead][:, :, None]
            through = {}  # views read through windows of the same sizes
            each = [next(members)(read, through) for _ in range(size)]
            quantiles = quantiles + share * (combine(each) + of_weeks)
        median = quantiles[:, :, self.middle, None]
        spread = quantiles[:, :, -1:] - quantiles[:, :, :1]
        quantiles = quantiles + self.offsets * spread
        below = torch.minimum(quantiles[:, :, : self.middle], median)
        above = torch.maximum(quantiles[:, :, self.middle + 1 :], median)
        quantiles = torch.cat([below, median, above], dim=2).sort(2).values
        quantiles = self._guarded(quantiles, context)
        ahead = _count(context, self.output_shape[1]) + n_missing
        ahead = ahead[:, :, None]  # (N, Z, 1)
        each = (_count(context, self.output_shape[2]) * 0)[None, None]
        there = quantiles.gather(1, ahead.clamp(max=self.output_shape[1] - 1) + each)
        return torch.where(ahead < self.output_shape[1], there, torch.nan)

    def _guarded(self, quantiles, context):
        """Keep forecasts within reach of the history, as `forecast_model.guarded`."""
        absent = torch.isnan(context)
        most = torch.where(absent, -torch.inf, context).amax(1)
        least = -torch.where(absent, -torch.inf, -context).amax(1)
        rounding = ROUNDING * torch.maximum(torch.abs(least), torch.abs(most))

        def limits(n_widths):  # (N, 1, 1) each
            reach = n_widths * (most - least) + rounding
            return (least - reach)[:, None, None], (most + reach)[:, None, None]

        def limited(low, high):
            return torch.maximum(torch.minimum(quantiles, high), low)

        low, high = limits(GUARD_WIDTH)
        median = quantiles[:, :, self.middle, None]  # (N, Z, 1)
        outside = (median < low) | (median > high)
        quantiles = torch.where(outside, limited(low, high), quantiles)
        low, high = limits(OUTER_GUARD_WIDTH)
        beyond = (quantiles < low) | (quantiles > high)  # false of NaN
        return torch.where(beyond, limited(low, high), quantiles)


class _Network(nn.Module):
    """A `ForecastNetwork`: (N, W, I), (N, Z, 4) -> (N, Z, Q)."""

    def __init__(self, network):
        super().__init__()
        self.segment_length = network.segment_length
        self.stem = None if network.stem is None else _Linear(network.stem)
        self.recurrence = _Recurrence(network.recurrence)
        self.of_state = _Linear(network.of_state)
        weight, n_position = network.of_step.weight.float(), network.n_position
        # What the position of a step adds is known: (Z, H).
        position = F.linear(network.position.weight.float(), weight[:, :n_position])
        self.of_position = _frozen(position)
        self.of_base = _frozen(weight[:, n_position:])
        self.correction = _Linear(network.correction)
        self.shares = _frozen(network.shares.float())
        self.mixing = _Linear(network.mixing)
        self.linear_length = network.linear_length
        if network.linear_length:
            self.linear = _Linear(network.linear)
        self.middle = network.config["n_quantiles"] // 2
        ones = torch.ones(self.middle, self.middle, dtype=torch.float32)
        self.up_to, self.from_on = _frozen(ones.tril()), _frozen(ones.triu())

    def forward(self, x, base, width):
        values = x[:, :, 0]  # (N, W)
        if self.stem is not None:
            n_segments, size = width // self.segment_length, self.stem.weight.shape[1]
            x = torch.relu(self.stem(x.reshape(-1, n_segments, size)))  # (N, S, H)
        state = self.recurrence(x)[:, -1]  # (N, H)
        hidden = self.of_state(state)[:, None] + F.linear(base, self.of_base)
        hidden = torch.relu(hidden + self.of_position)  # (N, Z, H)
        raw = self.correction(hidden)  # (N, Z, Q)
        shares = self.mixing(hidden) + self.shares  # (N, Z, 3)
        median = base[:, :, 0] + (shares * base[:, :, 1:]).sum(2) + raw[:, :, self.middle]
        if self.linear_length:
            median = median + self.linear(values[:, -self.linear_length :])
        # Gaps, added up outwards from the median.
        below = F.linear(F.softplus(raw[:, :, : self.middle]), self.from_on)
        above = F.linear(F.softplus(raw[:, :, self.middle + 1 :]), self.up_to)
        median = median[:, :, None]
        return torch.cat([median - below, median, median + above], dim=2)


class _Member(nn.Module):
    """A `forecast_model.Member`: context (N, W + P) -> (N, Z, Q) float64.

    `through` keeps forecasts by network, logarithms and width, for other members.
    """

    def __init__(self, member, network, model):
        super().__init__()
        self.network, self.log, self.scaling = network, member.log, member.scaling
        self.period, self.horizon = model.period, member.horizon
        self.widths = (*member.window_lengths, member.window_length)
        self.n_shorter = member.n_shorter
        self.n_steps, self.context_length = model.horizon, model.context_length
        self.left = None
        if member.quantiles != model.quantiles:  # as in ForecastHead.interpolate
            known, wanted = ndtri(member.quantiles), ndtri(model.quantiles)
            right = np.clip(np.searchsorted(known, wanted), 1, len(known) - 1)
            self.left, self.right = map(_frozen, (right - 1, right))
            gap = known[right] - known[right - 1]
            self.share = _frozen((wanted - known[right - 1]) / gap)

    def forward(self, context, through):
        out = None
        steps_back = _count(context, self.context_length, 0, -1)
        n_steps = torch.where(torch.isnan(context), 0, steps_back).amax(1)
        for i in reversed(range(len(self.widths))):
            width = self.widths[max(i - self.n_shorter, 0)]
            key = id(self.network), self.log, width
            if key not in through:
                through[key] = self._through(context, width)
            fits = (n_steps <= self.widths[i])[:, None, None]
            out = through[key] if out is None else torch.where(fits, through[key], out)
        out = out[:, : self.n_steps]
        if self.left is None:
            return out
        return (
            out[:, :, self.left] * (1 - self.share) + out[:, :, self.right] * self.share
        )

    def _through(self, context, width):
        """Forecast through the last `width` steps, normalised."""
        context = context[:, -(width + self.period) :]
        if not self.log:
            return self._normalised(context, width)
        is_log = (context <= 0).to(torch.int64).amax(1) == 0
        logs = torch.log(torch.where(context > 0, context, torch.nan))
        context = torch.where(is_log[:, None], logs, context)
        out = self._normalised(context, width)
        return torch.where(is_log[:, None, None], torch.exp(out.clamp(max=MAX_LOG)), out)

    def _normalised(self, context, width):
        """See `windows.make_windows`; all in float64 but for the network.

        A window ends with a value; without any, centre and answer are NaN.
        """
        period, horizon = self.period, self.horizon
        values = context[:, period:]  # (N, W)
        absent = torch.isnan(values)
        count = (~absent).to(torch.float64).sum(1).clamp(min=1)
        filled = torch.where(absent, 0.0, values)
        if self.scaling in ("season", "last"):
            centre = _last_observed(values, _count(values, 1, width + 1), torch.nan)
            if self.scaling == "season" and period > 1:
                seen = ~absent[:, -period:]
                n_seen = seen.to(torch.float64).sum(1)
                mean = filled[:, -period:].sum(1) / n_seen.clamp(min=1)
                centre = torch.where(n_seen > 0, mean, centre)
        else:
            observed = (~absent).to(torch.int64).amax(1) > 0
            centre = torch.where(observed, filled.sum(1) / count, torch.nan)
        deviation = torch.where(absent, 0.0, values - centre[:, None])
        if self.scaling == "standard":
            scale = torch.sqrt((deviation * deviation).sum(1) / count)
        else:
            scale = torch.abs(deviation).sum(1) / count
        if self.scaling == "none":
            centre, scale = centre * 0, scale * 0 + 1
        scale = torch.where(scale > 1e-12 * torch.abs(centre), scale, 0.0)
        divisor = torch.where(scale > 0, scale, 1.0)[:, None]  # (N, 1)
        absent = torch.isnan(context)
        normal = torch.where(absent, 0.0, (context - centre[:, None]) / divisor)
        slope = _slope(values, width)
        effects = divisor * 0
        if period > 1:
            effects = self._phase_effects(context, slope, width + period) / divisor
        of_step = effects[:, _count(values, -width, 0) % period]
        inputs = torch.stack(
            [
                normal[:, period:],
                (~absent[:, period:]).to(torch.float64),
                normal[:, :-period],
                (~absent[:, :-period]).to(torch.float64),
                of_step * 0 + math.log(period) / 3,
                of_step,
            ],
            dim=2,
        )
        naive = self._seasonal_naive(context, width + period)  # (N, Z)
        naive = (naive - centre[:, None]) / divisor
        naive = torch.where(torch.isnan(naive), 0.0, naive)
        # Steps from the value that the seasonal naive forecast repeats.
        ahead = _count(values, 1, horizon + 1)
        distance = period * torch.ceil(ahead.double() / period)
        drift = (slope[:, None] / divisor) * distance
        recent = (self._recent_slope(context, width)[:, None] / divisor) * distance
        smooth = naive * 0
        if period > 1:
            n_tail = (~absent[:, -period:]).to(torch.float64).sum(1).clamp(min=1)
            level = (normal[:, -period:].sum(1) / n_tail)[:, None]
            smooth = level + effects[:, (ahead - 1) % period] - naive
        base = torch.stack([naive, drift, recent, smooth], dim=2)  # (N, Z, 4)
        out = self.network(inputs.to(torch.float32), base.to(torch.float32), width)
        return out.to(torch.float64) * scale[:, None, None] + centre[:, None, None]

    def _seasonal_naive(self, context, width):
        """See `windows.seasonal_naive`: (N, W + P) -> (N, Z)."""
        period = self.period
        last = _last_observed(context, _count(context, 1, width + 1), torch.nan)
        seasons = F.pad(context, (-width % period, 0), value=torch.nan)
        n_seasons = -(-width // period)
        seasons = seasons.reshape(-1, n_seasons, period)
        steps = _count(context, 1, n_seasons + 1)[:, None]
        of_phase = _last_observed(seasons, steps, last[:, None])  # (N, P)
        return of_phase[:, _count(context, self.horizon) % period]

    def _recent_slope(self, context, width):
        """See `windows._recent_slope`: (N, W + P) -> (N,)."""
        period = self.period
        n_last = min(max(period, 4), width)
        change = context[:, -n_last:] - context[:, -n_last - period : -period]
        known = ~torch.isnan(change)
        total = torch.where(known, change, 0.0).sum(1)
        return total / known.to(torch.float64).sum(1).clamp(min=1) / period

    def _phase_effects(self, context, slope, width):
        """See `windows._phase_effects`: (N, W + P), (N,) -> (N, P)."""
        period = self.period
        n_seasons = width // period
        seasons = context[:, -n_seasons * period :].reshape(-1, n_seasons, period)
        observed = ~torch.isnan(seasons)
        count = observed.to(torch.float64).sum(2)[:, :, None]  # (N, seasons, 1)
        filled = torch.where(observed, seasons, 0.0)
        mean = filled.sum(2)[:, :, None] / count.clamp(min=1)
        phase = _count(context, period).double()
        climb = slope[:, None] * (phase - (period - 1) / 2)
        used = observed & (2 * count >= period)
        distance = torch.where(used, seasons - mean - climb[:, None], 0.0)
        return distance.sum(1) / used.to(torch.float64).sum(1).clamp(min=1)


def _week_effects(context, period):
    """See `windows.week_effects`: (N, weeks * 7 * P) -> (N, 7 * P)."""
    week = 7 * period
    change = context[:, week:] - context[:, :-week]
    known = ~torch.isnan(change)
    n_known = known.to(torch.float64).sum(1).clamp(min=1)
    slope = torch.where(known, change, 0.0).sum(1) / n_known / week  # (N,)
    weeks = context.reshape(-1, N_WEEKS, week)
    observed = ~torch.isnan(weeks)
    count = observed.to(torch.float64).sum(2)[:, :, None]  # (N, weeks, 1)
    mean = torch.where(observed, weeks, 0.0).sum(2)[:, :, None] / count.clamp(min=1)
    climb = slope[:, None] * (_count(context, week).double() - (week - 1) / 2)
    used = observed & (8 * count >= 7 * week)
    distance = torch.where(used, weeks - mean - climb[:, None], 0.0)
    shape = (-1, N_WEEKS, 7, period)
    days, of_days = distance.reshape(*shape), used.to(torch.float64).reshape(*shape)
    mean = days.sum(2) / of_days.sum(2).clamp(min=1)  # (N, weeks, P)
    distance = ((days - mean[:, :, None]) * of_days).reshape(-1, N_WEEKS, week)
    used = used.to(torch.float64)
    n_used = used.sum(1)  # (N, week)
    effects = distance.sum(1) / n_used.clamp(min=1)
    residual = (distance - effects[:, None]) * used
    n_free = (n_used - 1).clamp(min=0).sum(1)
    variance = (residual * residual).sum(2).sum(1) / n_free.clamp(min=1)
    inverse = (n_used > 0).to(torch.float64) / n_used.clamp(min=1)
    doubt = variance * inverse.sum(1)
    power = (effects * effects).sum(1)
    sure = (n_free > 0) & (power > doubt)
    share = torch.where(sure, (power - doubt) / torch.where(sure, power, 1.0), 0.0)
    return (share * share)[:, None] * effects


def _median(each):
    """Median of equally shaped tensors (N, Z, Q)."""
    n = len(each)
    if n == 1:
        return each[0]
    ordered = torch.stack(each, dim=3).sort(3).values
    return (ordered[:, :, :, (n - 1) // 2] + ordered[:, :, :, n // 2]) / 2


def _mean(each):
    """Mean of equally shaped tensors."""
    first, *others = each
    return sum(others, start=first) / len(each) if others else first


def _last_observed(values, steps, otherwise):
    """(N, T[, P]) -> (N[, P]): the last value that is not NaN; `otherwise` without one.

    `steps` are the numbers from 1 to T, (T[, 1]).
    """
    seen = torch.where(torch.isnan(values), 0, steps)
    last = seen.amax(1)
    # Of NaNs only step 0 would be chosen, which there is not.
    value = torch.where(seen == last[:, None], values, 0.0).sum(1)
    return torch.where(last > 0, value, otherwise)


def _slope(values, width):
    """See `windows._slope`: (N, W) -> (N,)."""
    half = width // 2
    if half == 0:
        return values[:, 0] * 0
    means, centres, counts = [], [], []
    for part in (slice(0, half), slice(half, width)):
        observed = ~torch.isnan(values[:, part])
        count = observed.to(torch.float64).sum(1)
        total = torch.where(observed, values[:, part], 0.0).sum(1)
        steps = _count(values, part.start, part.stop).double()
        means.append(total / count.clamp(min=1))
        centres.append(torch.where(observed, steps, 0.0).sum(1) / count.clamp(min=1))
        counts.append(count)
    known = (counts[0] > 0) & (counts[1] > 0)
    gap = torch.where(known, centres[1] - centres[0], 1.0)
    return torch.where(known, (means[1] - means[0]) / gap, 0.0)
