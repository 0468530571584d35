"""Answers after every time step, without reading the past again."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch

from sklstm import kernels, laid_out
from sklstm.base import check_sequence_estimator
from sklstm.devices import insulated
from sklstm.modules import ConvStem, EmbeddingStem
from sklstm.sequences import Sequences, unmasked

METHODS = ("predict", "predict_proba", "predict_log_proba", "embed")


def stream(estimator, n_streams=None, method="predict"):
    """Return an object that is pushed one time step after the other.

    Parameters
    ----------
    estimator : LSTMClassifier or LSTMRegressor
        Fitted; not bidirectional, and without convolutions (``stem=None``, "linear" or
        "embedding"), which would need steps that are yet to come; a single network.
    n_streams : int, default=None
        Sequences that are read side by side. None means one, without an axis for it.
    method : {"predict", "predict_proba", "predict_log_proba", "embed"}, \
default="predict"
        What to answer: of the sequence so far, or with ``target="sequence"`` of the step.

    Returns
    -------
    stream : Stream

    Raises
    ------
    TypeError
        If it is a forecaster, which needs no stream, or a pipeline or the like.
    ValueError
        If the estimator cannot be streamed; says why.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMRegressor, stream
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 20, 2))
    >>> model = LSTMRegressor(stem=None, max_iter=20, random_state=0)
    >>> model = model.fit(X, X[:, :, 0].mean(axis=1))
    >>> live = stream(model)
    >>> for x_t in X[0]:
    ...     answer = live.push(x_t)
    >>> bool(np.isclose(answer, model.predict(X[:1])[0], atol=1e-5))
    True
    """
    if hasattr(estimator, "cutoff"):
        raise TypeError(
            "stream takes an LSTMClassifier or LSTMRegressor. A forecaster reads what is "
            "new by update(y, update_params=False) and answers by predict."
        )
    check_sequence_estimator(estimator)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
    if method != "embed" and not hasattr(estimator, method):
        raise ValueError(f"{type(estimator).__name__} has no {method}.")
    if n_streams is not None and not (isinstance(n_streams, Integral) and n_streams >= 1):
        raise ValueError(
            f"n_streams must be None or an integer of at least 1, got {n_streams!r}."
        )
    network = estimator.network_
    if isinstance(network.stem, ConvStem):
        raise ValueError(
            'A network with stem="conv" cannot be streamed: its convolutions read steps '
            'that are yet to come. Fit with stem=None or stem="linear".'
        )
    if network.recurrence.bidirectional:
        raise ValueError(
            "A bidirectional network cannot be streamed: it starts from the last step. "
            "Fit with bidirectional=False."
        )
    if network.others:
        raise ValueError(
            f"Only a single network can be streamed; this estimator averages "
            f"{estimator.n_members_}. Fit with n_members=1."
        )
    return Stream(estimator, n_streams, method)


class Stream:
    """Sequences being read, one step at a time; made by `stream`."""

    def __init__(self, estimator, n_streams, method):
        self._encoder, self._head = estimator.encoder_, estimator.head_
        names = getattr(estimator, "feature_names_in_", ())
        # Of a 2-D frame columns are time steps, or steps of channels.
        is_of_channels = len(names) == self._encoder.n_channels_in_ != 1
        self._names = names if is_of_channels and not self._encoder.tokens else None
        self._single = n_streams is None
        self.n_streams = n_rows = 1 if self._single else n_streams
        network = estimator.network_
        self._stem = _stem(network.stem)
        self._recurrence = network.recurrence
        self._layers = [_stepper(layer, n_rows) for layer in network.recurrence.forwards]
        self._pooling = _Pooling(network.pooling, n_rows)
        readout = network.readout
        self._weight = readout.weight.detach().double().numpy().T.copy()  # (P, Q)
        self._bias = readout.bias.detach().double().numpy()
        self._answer = {
            "predict": lambda pooled: self._head.decode(self._raw(pooled)),
            "predict_proba": lambda pooled: self._head.proba(self._raw(pooled)),
            "predict_log_proba": lambda pooled: self._head.log_proba(self._raw(pooled)),
            "embed": lambda pooled: pooled.astype(np.float64),
        }[method]
        self._lengths = np.ones(n_rows, dtype=np.int64)
        self._rows = np.arange(n_rows)

    def __reduce__(self):
        raise TypeError(
            "A stream cannot be copied or pickled. Do so with the estimator, call stream "
            "and push the steps so far."
        )

    def push(self, x):
        """Read the next step of every stream and answer.

        Parameters
        ----------
        x : array-like of shape (n_channels,) or (n_streams, n_channels)
            The latter if `n_streams` was given. With ``stem="embedding"`` a token instead
            of channels. NaN is missing where the estimator has ``missing="mask"``. A step
            that is missing in all channels, or a padding token, counts as a step here,
            whereas `predict` leaves those at the end of a sequence out, of tokens also
            those at its beginning.

        Returns
        -------
        answer : ndarray
            What `predict` (or the chosen method) says of the sequences so far: with an
            axis for the streams if there is `n_streams`, else without.

        Raises
        ------
        ValueError
            If x has another shape or other names, or does not hold numbers that are
            finite and not too large (tokens: integers from 0 on); the state is as before.
        """
        state = self._stem(self._encode(x))
        for i, layer in enumerate(self._layers):
            state = self._hand_on(i, state, layer.step(state))
        answer = self._answer(self._pooling.add(state))
        return answer[0] if self._single else answer

    def reset(self, streams=None):
        """Start anew.

        Parameters
        ----------
        streams : int or array-like of int, default=None
            Which streams, from 0. None: all.

        Raises
        ------
        IndexError
            If there is no such stream.
        """
        rows = slice(None) if streams is None else np.atleast_1d(streams)
        if streams is not None and not rows.size:
            return
        if streams is not None and (rows < 0).any():
            raise IndexError(
                f"reset expects streams from 0 to {self.n_streams - 1}; got {rows.min()}."
            )
        for layer in self._layers:
            layer.reset(rows)
        self._pooling.reset(rows)

    @insulated
    def _hand_on(self, i, x, state):
        """Return what follows layer i, which read x: (N, D)."""
        if self._recurrence.is_plain:
            return state
        with torch.inference_mode():
            x, state = torch.from_numpy(x), torch.from_numpy(state)
            return self._recurrence.hand_on(i, x, state).numpy()

    def _check_names(self, x):
        """Refuse channels of other names than in fit, or in another order."""
        # Of a frame or a series; the index of a list or tuple is a method.
        names = getattr(x, "columns", getattr(x, "index", None))
        if self._names is None or names is None or callable(names):
            return
        is_named = all(isinstance(name, str) for name in names)
        if is_named and list(names) != list(self._names):
            raise ValueError(
                f"push expects the channels {list(self._names)}, as fit had them; got "
                f"{list(names)}."
            )

    def _encode(self, x):
        """Return checked and standardised channels (N, C), or tokens (N,)."""
        encoder = self._encoder
        self._check_names(x)
        x = _numbers(x)
        n_channels = 1 if encoder.tokens else encoder.n_channels_in_
        if encoder.tokens:
            shape = () if self._single else (self.n_streams,)
        else:
            shape = (n_channels,) if self._single else (self.n_streams, n_channels)
        if x.shape != shape:
            raise ValueError(
                f"push expects one time step, an array of shape {shape}; got {x.shape}."
            )
        if encoder.tokens:
            bad = ~np.isfinite(x) | (x != np.floor(x)) | (x < 0)
            if bad.any():
                raise ValueError(
                    "push expects tokens, integers of at least 0 (padding); got "
                    f"{x[bad][0]}."
                )
        else:
            bad = np.isinf(x) if encoder.missing == "mask" else ~np.isfinite(x)
            if bad.any():
                raise ValueError(
                    f"The time step holds {x[bad][0]} in channel "
                    f"{np.argwhere(bad)[0][-1]}. Values must be finite"
                    + (" or NaN." if encoder.missing == "mask" else ".")
                )
        values = x.reshape(self.n_streams, 1, -1)  # (N, 1, C)
        if encoder.tokens:
            values = values[:, :, 0].astype(np.int64)
        return encoder.encode(Sequences(values, self._lengths), self._rows).values[:, 0]

    def _raw(self, pooled):
        return pooled.astype(np.float64) @ self._weight + self._bias


def _numbers(x):
    """Return a step as an array of integers or of float64."""
    x = unmasked(x)
    given = np.asarray(x)
    if given.dtype.kind in "iu":
        return given
    try:
        if given.dtype.kind in "cmM":  # NumPy would make numbers of them
            raise TypeError(f"{given.dtype} is no type of real numbers")
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"push expects numbers; got {x!r}.") from error


def _stem(module):
    """Return a stem as a function of one step: (N, C) or (N,) -> (N, I)."""
    if module is None:
        return np.ascontiguousarray
    if isinstance(module, EmbeddingStem):
        table = module.embedding.weight.detach().numpy().copy()
        return lambda tokens: table[tokens]
    weight = module.linear.weight.detach().numpy().T.copy()
    bias = module.linear.bias.detach().numpy().copy()
    return lambda x: np.maximum(x @ weight + bias, 0)


def _stepper(layer, n_rows):
    if kernels.available(*layer.weights):
        return laid_out.Stepper(layer.weights, n_rows)
    return _TorchStepper(layer.weights, n_rows)


class _TorchStepper:
    """`laid_out.Stepper` for any weights, by torch."""

    def __init__(self, weights, n_rows):
        self.weights = [w.detach() for w in weights]
        n_states = 1 if kernels.cell_of(weights) == kernels.GRU else 2
        self.state = weights[1].new_zeros(n_states, n_rows, weights[1].shape[1])

    @insulated
    def step(self, x):
        """(N, I) -> (N, H)."""
        x = torch.from_numpy(np.ascontiguousarray(x))[None]
        with torch.no_grad():
            output, state = kernels.by_torch(x, self.state, *self.weights)
        self.state = torch.stack(state)
        return output[0].numpy()

    def reset(self, rows):
        """Set the state of some rows to zero."""
        self.state[:, rows] = 0


class _Pooling:
    """What `modules.Pooling` says of the steps so far."""

    def __init__(self, module, n_rows):
        self.kind = "last" if module is None else module.pooling
        if self.kind == "attention":
            self.weight = module.score.weight.detach().numpy().T.copy()  # (D, D)
            self.bias = module.score.bias.detach().numpy().copy()
            self.query = module.query.detach().numpy().copy()
        self.n_steps = np.zeros((n_rows, 1))
        self.sum, self.highest = 0.0, -np.inf  # (N, D) from the first step on
        self.score, self.total = np.full((n_rows, 1), -np.inf), np.zeros((n_rows, 1))

    def add(self, state):
        """(N, D) -> (N, P)."""
        if self.kind == "last":
            return state
        shape = state.shape
        self.n_steps += 1
        if self.kind == "attention":
            # A softmax over what is yet to come: sums are kept relative to the highest
            # score so far (Milakov & Gimelshein, 2018).
            score = np.tanh(state @ self.weight + self.bias) @ self.query
            score = score[:, None].astype(np.float64)
            highest = np.maximum(self.score, score)
            decay, gain = np.exp(self.score - highest), np.exp(score - highest)
            self.sum = self.sum * decay + gain * state
            self.total = self.total * decay + gain
            self.score = highest
            return self.sum / self.total
        self.sum = np.broadcast_to(self.sum, shape) + state.astype(np.float64)
        self.highest = np.maximum(np.broadcast_to(self.highest, shape), state)
        mean = self.sum / self.n_steps
        if self.kind == "mean":
            return mean
        if self.kind == "max":
            return self.highest
        return np.concatenate([mean, self.highest], axis=1)

    def reset(self, rows):
        """Forget the steps of some rows."""
        self.n_steps[rows] = self.total[rows] = 0
        self.score[rows] = -np.inf
        for name, empty in (("sum", 0.0), ("highest", -np.inf)):
            values = getattr(self, name)
            if isinstance(values, np.ndarray):
                values[rows] = empty
