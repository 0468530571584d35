"""Fitted model -> arrays: what moved a prediction, and what the network did meanwhile.

Nothing here draws; `sklstm.plotting` does. All computation is on the CPU, where fitted
networks live.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.utils import Bunch, check_random_state

from sklstm.base import check_counts, check_sequence_estimator, is_forecaster
from sklstm.devices import insulated, threads_for, torch_threads
from sklstm.forecast_inspection import forecast_components, forecast_effects
from sklstm.modules import ConvStem, GRULayer, reverse, step_mask
from sklstm.sequences import PADDING, Sequences, require_same_instances
from sklstm.series import to_table

__all__ = [
    "attention_weights",
    "channel_importance",
    "forecast_components",
    "forecast_effects",
    "gate_activations",
    "integrated_gradients",
    "window_importance",
]

# Sequences that go through a network at once; bounds memory.
ROWS_AT_ONCE = 512
# How often the steps of integrated gradients are doubled where they are too few.
MAX_DOUBLINGS = 4
LSTM_GATES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")
GRU_GATES = ("reset_gate", "update_gate", "candidate")


# -------------------------------------------------------------------- attributions
@insulated
def integrated_gradients(
    estimator,
    X,
    *,
    target=None,
    baseline=None,
    n_steps=64,
    response_method="decision_function",
    tol=0.01,
):
    """Attribute predictions to time steps and channels by integrated gradients.

    The attribution of a value is its distance from the baseline times the mean gradient
    of the response on the straight line from the baseline to the sequence [1]_. The
    attributions of a sequence add up to its response less that of the baseline
    (completeness), but for the error of the quadrature, `gap`. The line is integrated by
    Gauss-Legendre quadrature.

    Parameters
    ----------
    estimator : LSTMClassifier or LSTMRegressor
        Fitted.
    X : array-like, ragged list or frame of n_samples sequences
        As in `predict`, in its own units.
    target : label, array-like of shape (n_samples,), int or None, default=None
        Classifier: the class to explain, one for all or one per sequence; None is the
        predicted one. For multilabel, the column of y. Regressor: the position in the
        prediction of a sequence, flattened if it has outputs and quantiles (quantiles
        as the network gives them, before crossing ones are put in order); None if
        there is but one.
    baseline : float or array-like of shape (n_channels,), default=None
        A sequence of this value at every step is what X is compared with, in units of X.
        None: each channel's mean in training (0 with ``standardize=False``), at each
        step where `fit` learnt the mean curve (see `standardize`). With
        ``stem="embedding"`` always None: the embedding of padding.
    n_steps : int, default=64
        Nodes of the quadrature; up to 16 times as many for sequences whose gap is more
        than `tol` allows (gradients jump where a maximum or a ReLU switches).
    response_method : {"decision_function", "predict_proba"}, default="decision_function"
        The response of a classifier: the logit of the class (for two classes, that of
        ``classes_[0]`` is minus that of ``classes_[1]``; see `decision_function` for
        several networks) or its probability. Ignored
        for a regressor, whose response is its prediction.
    tol : float, default=0.01
        Largest gap, as a share of the absolute sum of a sequence's attributions.

    Returns
    -------
    result : Bunch
        attributions : ndarray of shape (n_samples, n_timesteps, n_channels), float64
            In units of the response; exactly 0 where a sequence has ended. What the
            network made of a missing value (``missing="mask"``) counts for its channel.
            For tokens (n_samples, n_timesteps): summed over the embedding.
        response, baseline_response : ndarray of shape (n_samples,), float64
            Of each sequence, and of its baseline.
        gap : ndarray of shape (n_samples,), float64
            Sum of the attributions, less response, plus baseline_response.
        lengths : ndarray of shape (n_samples,), int64
            Steps of each sequence.
        target : ndarray of shape (n_samples,), int64
            Column of the response that was explained.

    Raises
    ------
    ValueError
        If the target or the baseline does not fit the estimator, or a target for each
        sequence has them in another order than X.
    TypeError
        If `estimator` is no LSTMClassifier or LSTMRegressor.
    NotFittedError
        If it is not fitted.

    Warns
    -----
    ConvergenceWarning
        If a gap is still larger.

    References
    ----------
    .. [1] Sundararajan, M., Taly, A., Yan, Q. (2017). Axiomatic attribution for deep
       networks. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMRegressor
    >>> from sklstm.inspection import integrated_gradients
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> y = 3 * X[:, 4]
    >>> model = LSTMRegressor(hidden_size=8, max_iter=30, random_state=0).fit(X, y)
    >>> result = integrated_gradients(model, X)
    >>> int(np.abs(result.attributions).mean(axis=(0, 2)).argmax())
    4
    >>> bool(np.abs(result.gap).max() < 1e-4)
    True
    """
    check_sequence_estimator(estimator)
    if estimator._per_step:
        raise ValueError(
            "integrated_gradients explains one answer for a sequence, but the estimator "
            'was fitted with target="sequence".'
        )
    check_counts(n_steps=n_steps)
    encoded = _encode(estimator, X)
    respond, n_responses = _response(estimator, response_method)
    columns = _target_columns(estimator, X, target, len(encoded), n_responses)
    origin = _encoded_baseline(estimator, baseline, encoded.n_timesteps)
    lengths = encoded.lengths
    attributions = np.zeros((*encoded.values.shape[:2], estimator.n_channels_in_))
    ends = np.empty((len(encoded), 2))  # responses to the baseline and the sequence
    rows = np.arange(len(encoded))
    for doubling in range(MAX_DOUBLINGS + 1):
        integral = _PathIntegral(estimator, respond, origin, n_steps * 2**doubling)
        for batch, x, length in _batches(encoded.take(rows), integral.n_rows):
            some = rows[batch]
            each, ends[some] = integral(x, length, columns[some])
            attributions[some, : each.shape[1]] = each
        gap = attributions.sum(axis=(1, 2)) - (ends[:, 1] - ends[:, 0])
        excess = np.abs(gap) - tol * np.abs(attributions).sum(axis=(1, 2))
        rows = np.flatnonzero(excess > 0)
        if not len(rows):
            break
    else:
        worst = int(excess.argmax())
        warnings.warn(
            f"The attributions of {len(rows)} sequences miss their sum by more than "
            f"tol={tol} of their absolute sum even with {integral.n_steps} steps, those "
            f"of sequence {worst} by {gap[worst]:.3g}. Raise n_steps (now {n_steps}).",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Bunch(
        attributions=attributions[:, :, 0] if estimator.encoder_.tokens else attributions,
        response=ends[:, 1],
        baseline_response=ends[:, 0],
        gap=gap,
        lengths=lengths,
        target=columns,
    )


class _PathIntegral:
    """Integrated gradients of a batch with a fixed number of steps."""

    def __init__(self, estimator, respond, origin, n_steps):
        self.network, self.respond = estimator.network_, respond
        self.tokens = estimator.encoder_.tokens
        self.n_channels, self.origin = estimator.n_channels_in_, origin
        self.n_steps, self.n_rows = n_steps, max(1, ROWS_AT_ONCE // n_steps)
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)  # on [-1, 1]
        self.places, self.weights = map(torch.as_tensor, ((nodes + 1) / 2, weights / 2))

    def __call__(self, x, lengths, columns):
        """Return attributions (N, W, C) and responses to both ends (N, 2).

        x : Tensor (N, W, I), or (N, W) of tokens; lengths : Tensor (N,) or None.
        """
        columns = torch.from_numpy(columns)
        if self.tokens:
            with torch.no_grad():
                x = self.network.stem(x, None)[0]  # (N, W) -> (N, W, H)
        start = torch.zeros_like(x)
        if not self.tokens:
            start += torch.as_tensor(self.origin[: x.shape[1]], dtype=x.dtype)
        if lengths is not None:
            start *= step_mask(lengths, x.shape[1])[:, :, None]
        path = x - start
        mean = torch.zeros(path.shape, dtype=torch.float64)
        at_once = ROWS_AT_ONCE // len(x)
        parts = self.places.to(x.dtype).split(at_once), self.weights.split(at_once)
        for places, weights in zip(*parts, strict=True):
            points = start + places[:, None, None, None] * path  # (K, N, W, I)
            gradient = self._gradient(points, lengths, columns)
            mean += torch.einsum("k,knwi->nwi", weights, gradient)
        each = mean * path.double()
        if lengths is not None:
            each *= step_mask(lengths, each.shape[1])[:, :, None]
        if self.tokens:
            each = each.sum(2, keepdim=True)
        else:  # deviations and indicators of missing values count for their channel
            each = each.unflatten(2, (-1, self.n_channels)).sum(2)
        with torch.no_grad():
            ends = [self._respond(at, lengths, columns) for at in (start, x)]
        return each.numpy(), torch.stack(ends, dim=1).numpy()

    def _gradient(self, points, lengths, columns):
        """Return that of the responses with respect to points: (K, N, W, I), float64."""
        n_nodes, n_samples, n_timesteps, _ = points.shape
        n_threads = threads_for(n_nodes * n_samples, n_timesteps, self.network)
        with (
            torch_threads(n_threads),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            rows = points.flatten(0, 1).requires_grad_()  # (K N, W, I)
            repeated = None if lengths is None else lengths.repeat(n_nodes)
            out = self._respond(rows, repeated, columns.repeat(n_nodes))
            gradient = torch.autograd.grad(out.sum(), rows)[0]
        return gradient.double().unflatten(0, (n_nodes, n_samples))

    def _respond(self, x, lengths, columns):
        if self.tokens:  # x is embedded already
            raw = self.network.readout(self.network.pool(x, lengths))
        else:
            raw = self.network(x, lengths)
        return self.respond(raw).gather(1, columns[:, None])[:, 0]


def _response(estimator, response_method):
    """Return raw (N, Q) -> responses (N, K), and K."""
    head = estimator.head_
    if not is_classifier(estimator):
        scale, mean = (
            torch.as_tensor(np.repeat(a, head.n_raw // head.n_outputs_))
            for a in (head.scale_, head.mean_)
        )
        return lambda raw: raw.double() * scale + mean, head.n_raw
    if response_method not in ("decision_function", "predict_proba"):
        raise ValueError(
            "response_method must be 'decision_function' or 'predict_proba', got "
            f"{response_method!r}."
        )
    independent = head.binary_ or head.multilabel_

    def respond(raw):
        logits = raw.double()
        if head.binary_:
            logits = torch.cat([-logits, logits], dim=1)
        if response_method == "decision_function":
            return logits
        return torch.sigmoid(logits) if independent else torch.softmax(logits, dim=1)

    return respond, len(head.classes_)


def _target_columns(estimator, X, target, n_samples, n_responses):
    """Return the column of the response to explain for each sequence."""
    require_same_instances(X, target, "target")
    head = estimator.head_
    is_single_label = is_classifier(estimator) and not head.multilabel_
    if target is None:
        if is_single_label:
            target = estimator.predict(X)
        elif n_responses == 1:
            target = 0
        else:
            raise ValueError(
                f"{type(estimator).__name__} predicts {n_responses} numbers for a "
                f"sequence: say which to explain, target=0 to target={n_responses - 1}."
            )
    if np.ndim(target) not in (0, 1) or (np.ndim(target) and len(target) != n_samples):
        raise ValueError(
            f"target must be one value, or one for each of {n_samples} sequences; got "
            f"the shape {np.shape(target)}."
        )
    if is_single_label:
        target = np.atleast_1d(np.asarray(target))
        unknown = np.setdiff1d(target, head.classes_)
        if len(unknown):
            raise ValueError(
                f"target holds {unknown.tolist()}, which is not among the classes "
                f"{head.classes_.tolist()}."
            )
        columns = head.encode(target)
    else:
        columns = np.atleast_1d(np.asarray(target))
        if (
            columns.dtype.kind not in "iu"
            or not ((columns >= 0) & (columns < n_responses)).all()
        ):
            raise ValueError(
                f"target must be an integer from 0 to {n_responses - 1}; got {target!r}."
            )
    return np.broadcast_to(columns.astype(np.int64), n_samples).copy()


def _encoded_baseline(estimator, baseline, n_timesteps):
    """Return the baseline as the network reads it: (n_timesteps, n_encoded_channels)."""
    encoder = estimator.encoder_
    if encoder.tokens:
        if baseline is not None:
            raise ValueError("baseline must be None for tokens: it is that of padding.")
        return None
    n_channels = encoder.n_channels_in_
    if baseline is None:
        has_curve = encoder.curve_ is not None
        baseline = encoder.curve(n_timesteps) if has_curve else encoder.mean_
    else:
        baseline = np.asarray(baseline, dtype=np.float64)
        if baseline.shape not in ((), (n_channels,)) or not np.isfinite(baseline).all():
            raise ValueError(
                f"baseline must be a finite number, or one for each of {n_channels} "
                f"channels; got {baseline.tolist()!r}."
            )
    values = np.broadcast_to(baseline, (1, n_timesteps, n_channels))
    sequence = Sequences(values, np.array([n_timesteps]))
    return encoder.encode(sequence, np.array([0])).values[0]


# ---------------------------------------------------------------------- importance
def window_importance(
    estimator,
    X,
    y,
    *,
    n_windows=10,
    n_repeats=5,
    scoring=None,
    sample_weight=None,
    random_state=None,
):
    """Return how much the score falls when a window of time is shuffled.

    The values of all channels in a window are exchanged between sequences, which keeps
    their distribution and their course within the window, but not what they say of the
    target [1]_. Where lengths differ, a sequence gets the window of one that is long
    enough to fill its own; padding is never touched.

    Parameters
    ----------
    estimator : LSTMClassifier or LSTMRegressor
        Fitted.
    X : array-like, ragged list or frame of n_samples sequences
        Best of data that were not trained on.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    n_windows : int, default=10
        Windows of (nearly) equal length; at most as many as there are time steps.
    n_repeats : int, default=5
        Times that each window is shuffled.
    scoring : str, callable or None, default=None
        None: the estimator's `score`.
    sample_weight : array-like of shape (n_samples,), default=None
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    result : Bunch
        importances : ndarray of shape (n_windows, n_repeats), float64
            Score of X as it is, less that after shuffling.
        importances_mean, importances_std : ndarray of shape (n_windows,), float64
            Over the repeats.
        windows : ndarray of shape (n_windows, 2), int64
            First step of each window, and the first after it.

    Raises
    ------
    ValueError
        If a number is below 1, scoring is several, or X or y cannot be used.
    TypeError
        If `estimator` is no LSTMClassifier or LSTMRegressor.
    NotFittedError
        Before `fit`.

    See Also
    --------
    channel_importance : The same for channels.

    References
    ----------
    .. [1] Breiman, L. (2001). Random forests. Machine Learning 45(1).

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.inspection import window_importance
    >>> X = np.random.default_rng(0).normal(size=(100, 6))
    >>> y = X[:, :2].sum(axis=1) > 0
    >>> model = LSTMClassifier(hidden_size=8, max_iter=30, random_state=0).fit(X, y)
    >>> result = window_importance(model, X, y, n_windows=3, random_state=0)
    >>> int(result.importances_mean.argmax()), result.windows[0].tolist()
    (0, [0, 2])
    """
    sequences = _read(estimator, X)
    n_timesteps = int(sequences.lengths.max())
    if n_windows < 1:
        raise ValueError(f"n_windows must be at least 1; got {n_windows}.")
    n_windows = min(n_windows, n_timesteps)
    edges = np.linspace(0, n_timesteps, n_windows + 1).round().astype(np.int64)
    windows = np.column_stack([edges[:-1], edges[1:]])
    blocks = [(start, stop, slice(None)) for start, stop in windows.tolist()]
    result = _importance(
        estimator, X, sequences, y, blocks, n_repeats, scoring, sample_weight,
        random_state,
    )  # fmt: skip
    return Bunch(**result, windows=windows)


def channel_importance(
    estimator,
    X,
    y,
    *,
    n_repeats=5,
    scoring=None,
    sample_weight=None,
    random_state=None,
):
    """Return how much the score falls when a channel is shuffled.

    A channel's whole course is exchanged between sequences; where lengths differ, a
    sequence gets the beginning of one that is at least as long.

    Parameters
    ----------
    estimator : LSTMClassifier or LSTMRegressor
        Fitted, not on tokens.
    X : array-like, ragged list or frame of n_samples sequences
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
    n_repeats : int, default=5
    scoring : str, callable or None, default=None
        None: the estimator's `score`.
    sample_weight : array-like of shape (n_samples,), default=None
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    result : Bunch
        importances : ndarray of shape (n_channels, n_repeats), float64
            Score of X as it is, less that after shuffling.
        importances_mean, importances_std : ndarray of shape (n_channels,), float64
            Over the repeats.

    Raises
    ------
    ValueError
        If a number is below 1, scoring is several, or X holds tokens, which have no
        channels.
    TypeError
        If `estimator` is no LSTMClassifier or LSTMRegressor.
    NotFittedError
        Before `fit`.

    See Also
    --------
    window_importance : The same for windows of time, with the reference.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.inspection import channel_importance
    >>> X = np.random.default_rng(0).normal(size=(100, 6, 2))
    >>> y = X[:, :, 1].sum(axis=1) > 0
    >>> model = LSTMClassifier(hidden_size=8, max_iter=20, random_state=0).fit(X, y)
    >>> result = channel_importance(model, X, y, random_state=0)
    >>> int(result.importances_mean.argmax())
    1
    """
    sequences = _read(estimator, X)
    blocks = [(0, sequences.n_timesteps, c) for c in range(estimator.n_channels_in_)]
    if estimator.encoder_.tokens:
        raise ValueError("Tokens have no channels; use window_importance.")
    return Bunch(
        **_importance(
            estimator, X, sequences, y, blocks, n_repeats, scoring, sample_weight,
            random_state,
        )
    )  # fmt: skip


def _importance(
    estimator, X, sequences, y, blocks, n_repeats, scoring, sample_weight, random_state
):
    require_same_instances(X, y)
    require_same_instances(X, sample_weight, "sample_weight")
    check_counts(n_repeats=n_repeats)
    if isinstance(scoring, (list, tuple, set, dict)):
        raise ValueError(f"scoring must be one metric, or None; got {scoring!r}.")
    scorer = check_scoring(estimator, scoring)
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    # Not the global state, which no method of ours moves.
    rng = np.random.RandomState() if random_state is None else random_state
    rng = check_random_state(rng)

    def score(values):
        return scorer(estimator, _rows_of(estimator, values, sequences.lengths), y,
                      **weights)  # fmt: skip

    reference = score(sequences.values)
    importances = np.empty((len(blocks), n_repeats))
    for b, block in enumerate(blocks):
        for r in range(n_repeats):
            importances[b, r] = reference - score(_shuffled(sequences, block, rng))
    return {
        "importances": importances,
        "importances_mean": importances.mean(axis=1),
        "importances_std": importances.std(axis=1),
    }


def _shuffled(sequences, block, rng):
    """Return the values with a block (start, stop, channels) exchanged between rows.

    Rows that would be left without a single observed value keep theirs: nobody can say
    anything of them.
    """
    start, stop, channels = block
    lengths, n = sequences.lengths, len(sequences)
    ends = np.minimum(stop, lengths)
    if (ends == stop).all():
        donors = rng.permutation(n)
    else:
        by_length = np.argsort(-lengths, kind="stable")
        # As many sequences are at least as long as row i's part of the window needs.
        n_donors = np.searchsorted(-lengths[by_length], -ends, side="right")
        donors = by_length[np.floor(rng.random_sample(n) * n_donors).astype(np.int64)]
    where = (slice(None), slice(start, stop))
    if sequences.values.ndim == 3:
        where = (*where, channels)
    values = sequences.values.copy()
    inside = np.arange(start, stop) < lengths[:, None]  # (n, stop - start)
    inside = inside.reshape(*inside.shape, *[1] * (values[where].ndim - 2))
    values[where] = np.where(inside, values[donors][where], values[where])
    if values.dtype.kind == "f":
        inside = np.arange(values.shape[1]) < lengths[:, None]
        observed = ~np.isnan(values).all(axis=2) & inside
        silent = ~observed.any(axis=1)
        values[silent] = sequences.values[silent]
    return values


# ---------------------------------------------------- what the network did meanwhile
@insulated
def attention_weights(estimator, X):
    """Return how much each time step counts in the pooled state.

    Parameters
    ----------
    estimator : LSTMClassifier or LSTMRegressor
        Fitted with ``pooling="attention"``. Of several networks, the first.
    X : array-like, ragged list or frame of n_samples sequences
        As in `predict`.

    Returns
    -------
    weights : ndarray of shape (n_samples, n_timesteps), float64
        Not negative; the weights of a sequence sum to 1, and are exactly 0 after its
        end. Where convolutions have strides, a state's weight is shared equally by the
        input steps that are nearest to its centre.

    Raises
    ------
    ValueError
        If the estimator pools otherwise.
    TypeError
        If `estimator` is no LSTMClassifier or LSTMRegressor.
    NotFittedError
        If it is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.inspection import attention_weights
    >>> X = np.random.default_rng(0).normal(size=(40, 12))
    >>> model = LSTMClassifier(pooling="attention", max_iter=11, random_state=0)
    >>> weights = attention_weights(model.fit(X, X[:, 0] > 0), X)
    >>> weights.shape, bool(np.allclose(weights.sum(axis=1), 1))
    ((40, 12), True)
    """
    check_sequence_estimator(estimator)
    if estimator.pooling_ != "attention":
        raise ValueError(
            f'attention_weights needs pooling="attention"; the estimator was fitted with '
            f'pooling="{estimator.pooling_}".'
        )
    encoded, network = _encode(estimator, X), estimator.network_
    stride = _stride(network)
    weights = np.zeros((len(encoded), encoded.n_timesteps))
    for rows, x, lengths in _batches(encoded):
        with torch.inference_mode(), _threads(network, x):
            states, n_states = x, lengths
            if network.stem is not None:
                states, n_states = network.stem(x, lengths)
            states = network.states(states, n_states)
            of_state = network.pooling.attention(states, n_states).double().numpy()
        # Output j of the convolutions is centred on step j * stride.
        steps = np.arange(x.shape[1])
        last = (encoded.lengths[rows, None] - 1) // stride  # (N, 1)
        nearest = np.minimum((steps + stride // 2) // stride, last)  # (N, W)
        inside = steps < encoded.lengths[rows, None]
        count = np.zeros_like(of_state)
        row = np.broadcast_to(np.arange(len(x))[:, None], nearest.shape)
        np.add.at(count, (row[inside], nearest[inside]), 1)
        share = of_state[row, nearest] / np.maximum(count[row, nearest], 1)
        weights[rows, : x.shape[1]] = np.where(inside, share, 0.0)
    return weights


@insulated
def gate_activations(estimator, X=None, *, layer=0, direction="forward"):
    """Return what the gates and states of a recurrent layer were at every step.

    Computed in float64 from the layer's equations [1]_; the hidden states agree with the
    network's own up to rounding.

    Parameters
    ----------
    estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
        Fitted. Of several networks the first; a forecaster's while it reads the window
        before the cutoff.
    X : array-like, ragged list or frame of n_samples sequences
        As in `predict`. Ignored for a forecaster, whose samples are its series: all
        instances of the first column of y, then of the next.
    layer : int, default=0
        0 is the layer nearest to the input.
    direction : {"forward", "backward"}, default="forward"
        "backward" reads from each sequence's own end; its values at a step are those
        after it has read that step. Only for bidirectional estimators.

    Returns
    -------
    result : Bunch
        Arrays of shape (n_samples, n_states, hidden_size), float64, exactly 0 after a
        sequence has ended: for an LSTM, with or without peepholes, input_gate,
        forget_gate, cell_candidate (tanh, before the input gate), output_gate,
        cell_state, hidden_state; for a GRU reset_gate, update_gate, candidate,
        hidden_state (before any layer norm). And

        lengths : ndarray of shape (n_samples,), int64
            States of each sequence.
        stride : int
            Time steps between states; more than 1 where convolutions have strides (state
            j stands for the steps around j * stride) and where a forecaster reads
            segments (state j is that after segment j).

    Raises
    ------
    ValueError
        If there is no such layer or direction.
    TypeError
        If `estimator` is no LSTMClassifier, LSTMRegressor or LSTMForecaster.
    NotFittedError
        If it is not fitted.

    References
    ----------
    .. [1] Gers, F., Schmidhuber, J., Cummins, F. (2000). Learning to forget. Neural
       Computation 12(10). For the GRU, Cho, K., et al. (2014), in torch's variant,
       where the reset gate acts after the recurrent map.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.inspection import gate_activations
    >>> X = np.random.default_rng(0).normal(size=(20, 6))
    >>> model = LSTMClassifier(hidden_size=4, max_iter=11, random_state=0)
    >>> gates = gate_activations(model.fit(X, X[:, 0] > 0), X)
    >>> gates.forget_gate.shape
    (20, 6, 4)
    """
    if is_forecaster(estimator):
        network, n_states, stride, batches = _forecast_states(estimator)
    else:
        network, n_states, stride, batches = _sequence_states(estimator, X)
    recurrence = network.recurrence
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction must be 'forward' or 'backward', got {direction!r}.")
    if direction == "backward" and not recurrence.bidirectional:
        raise ValueError("The estimator is not bidirectional: it has no backward layer.")
    n_layers = len(recurrence.forwards)
    if not 0 <= layer < n_layers:
        raise ValueError(
            f"layer must be from 0 to {n_layers - 1}, since the estimator has "
            f"num_layers={n_layers}; got {layer}."
        )
    backward = direction == "backward"
    module = (recurrence.backwards if backward else recurrence.forwards)[layer]
    compute = _gru_gates if isinstance(module, GRULayer) else _lstm_gates
    out = {}
    for rows, x, lengths in batches:
        with torch.inference_mode(), _threads(network, x):
            inputs = _layer_inputs(recurrence, layer, x, lengths)  # (S, N, I)
            if backward:
                gates = compute(module, reverse(inputs, lengths))
                gates = {name: reverse(values, lengths) for name, values in gates.items()}
            else:
                gates = compute(module, inputs)
        n_steps = len(inputs)
        inside = np.arange(n_steps) < n_states[rows, None]  # (N, S)
        for name, values in gates.items():
            shape = (len(n_states), n_states.max(), values.shape[2])
            into = out.setdefault(name, np.zeros(shape))
            into[rows, :n_steps] = values.numpy().transpose(1, 0, 2) * inside[:, :, None]
    return Bunch(**out, lengths=n_states, stride=stride)


def _sequence_states(estimator, X):
    """Return the network, its numbers of states, their distance, and batches.

    A batch is (rows, x, lengths): what the recurrence reads, (N, S, I), and (N,) or None.
    """
    encoded, network = _encode(estimator, X), estimator.network_

    def batches():
        for rows, x, lengths in _batches(encoded):
            if network.stem is None:
                yield rows, x, lengths
            else:
                with torch.inference_mode(), _threads(network, x):
                    read = network.stem(x, lengths)
                yield rows, *read

    stride = _stride(network)
    return network, -(-encoded.lengths // stride), stride, batches()


def _forecast_states(forecaster):
    """Return the same of a forecaster's first network and the windows it reads."""
    model = forecaster.model_
    member = (model.trained + model.pretrained)[0]
    network, segment = member.network, member.network.segment_length
    table = to_table(*forecaster._context())
    array = model.standardize(table.flatten().up_to_last_observed())
    series = np.arange(len(array))
    if not model.trained and model.has_weeks:
        array = model.without_weeks(array, series, array.stops)[0]
    widths = member.widths(array, series, array.stops)

    def batches():
        for width in np.unique(widths):
            rows = np.flatnonzero(widths == width)
            windows, _ = member.windows(
                array, model.period, rows, array.stops[rows], widths=widths[rows]
            )
            x = torch.from_numpy(windows.inputs)  # (N, W, I)
            if network.stem is not None:
                with torch.inference_mode():
                    x = network.stem(x.reshape(len(x), -1, segment * x.shape[2])).relu()
            yield rows, x, None

    return network, widths // segment, segment, batches()


def _layer_inputs(recurrence, layer, x, lengths):
    """Return what a layer reads, (S, N, I), of what the first one reads, (N, S, I)."""
    x = x.transpose(0, 1)
    for below in range(layer):
        states = recurrence.forwards[below](x)[0]
        if recurrence.bidirectional:
            behind = recurrence.backwards[below](reverse(x, lengths))[0]
            states = torch.cat([states, reverse(behind, lengths)], dim=2)
        x = recurrence.hand_on(below, x, states)
    return x


def _lstm_gates(layer, x):
    """(S, N, I) -> {name: (S, N, H)}, float64."""
    weight_ih, weight_hh, bias_ih, bias_hh, *peepholes = (
        w.detach().double() for w in layer.weights
    )
    # Of the input, forget and output gate; zero without a sight of the cell.
    of_cell = peepholes[0] if peepholes else weight_hh.new_zeros(3, 1)
    given = x.double() @ weight_ih.T + bias_ih + bias_hh  # (S, N, 4 H)
    h = c = given.new_zeros(x.shape[1], layer.hidden_size)
    steps = []
    for at_step in given:
        i, f, g, o = (at_step + h @ weight_hh.T).chunk(4, dim=1)
        i, f = (i + of_cell[0] * c).sigmoid(), (f + of_cell[1] * c).sigmoid()
        g = g.tanh()
        c = f * c + i * g
        o = (o + of_cell[2] * c).sigmoid()
        h = o * c.tanh()
        steps.append((i, f, g, o, c, h))
    names = (*LSTM_GATES, "cell_state", "hidden_state")
    return dict(zip(names, map(torch.stack, zip(*steps, strict=True)), strict=True))


def _gru_gates(layer, x):
    """(S, N, I) -> {name: (S, N, H)}, float64."""
    weight_ih, weight_hh, bias_ih, bias_hh = (w.detach().double() for w in layer.weights)
    given = x.double() @ weight_ih.T + bias_ih  # (S, N, 3 H)
    h = given.new_zeros(x.shape[1], layer.hidden_size)
    steps = []
    for at_step in given:
        reset, update, new = at_step.chunk(3, dim=1)
        of_h = (h @ weight_hh.T + bias_hh).chunk(3, dim=1)
        reset, update = (reset + of_h[0]).sigmoid(), (update + of_h[1]).sigmoid()
        new = (new + reset * of_h[2]).tanh()
        h = (1 - update) * new + update * h
        steps.append((reset, update, new, h))
    names = (*GRU_GATES, "hidden_state")
    return dict(zip(names, map(torch.stack, zip(*steps, strict=True)), strict=True))


# ------------------------------------------------------------ reading X once more
def _read(estimator, X) -> Sequences:
    check_sequence_estimator(estimator)
    return estimator.encoder_.read(X, estimator, reset=False)


def _encode(estimator, X) -> Sequences:
    sequences = _read(estimator, X)
    return estimator.encoder_.encode(sequences, np.arange(len(sequences)))


def _rows_of(estimator, values, lengths):
    """Return sequences as a ragged X that the estimator reads as they are."""
    if estimator.encoder_.tokens:
        # Inside a row 0 is a token that is not known; at an end it would be padding.
        known = estimator.encoder_.vocabulary_
        unknown = np.setdiff1d(np.arange(1, len(known) + 2), known)[0]
        values = np.where(values == PADDING, unknown, values)
    rows = [row[:length] for row, length in zip(values, lengths, strict=True)]
    if estimator.encoder_.layout == "channel-major" and not estimator.encoder_.tokens:
        return [row.T for row in rows]
    return rows


def _batches(encoded, n_rows=ROWS_AT_ONCE):
    """Yield (rows, x, lengths or None) of sequences of similar length."""
    order = np.argsort(encoded.lengths, kind="stable")
    for first in range(0, len(order), n_rows):
        rows = order[first : first + n_rows]
        batch = encoded.take(rows)
        is_full = (batch.lengths == batch.n_timesteps).all()
        lengths = None if is_full else torch.from_numpy(batch.lengths)
        yield rows, torch.from_numpy(np.ascontiguousarray(batch.values)), lengths


def _stride(network) -> int:
    """Return how many input steps apart the states of the recurrence are."""
    return math.prod(network.stem.strides) if isinstance(network.stem, ConvStem) else 1


def _threads(network, x):
    return torch_threads(threads_for(len(x), x.shape[1], network))
