"""Smaller models: weights rounded to 8 bits, small ones set to zero, or a student."""

from __future__ import annotations

import copy
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from sklstm.base import check_sequence_estimator
from sklstm.network import dequantize

LARGEST_CODE = 127
# A class that the teacher gives less than this is left out of what the student learns.
MIN_SHARE = 0.01


def compress(estimator, *, dtype="int8", sparsity=0.0):
    """Return a copy of a fitted estimator with smaller weights.

    Each row of a weight matrix (or of a convolution or embedding) is rounded to 255
    equally spaced values, symmetric around zero, that its largest weight spans. In
    memory weights are floats as before, so all methods and their speed stay the same;
    when pickled they are 8-bit integers and a scale per row, about a quarter of the
    size. Biases and other vectors stay as they are. What the solver remembers is
    dropped: `partial_fit` starts it anew, and what it has changed is kept in full.

    Parameters
    ----------
    estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
        Fitted; left as it is.
        Parameters of the constructor stay as they are, `embedding` too: where vectors
        of words make most of a file, ``compressed.set_params(embedding=None)`` leaves
        them out.
    dtype : {"int8", "float32"}, default="int8"
        What weights are rounded to. "float32": they are not.
    sparsity : float in [0, 1), default=0.0
        Share of each matrix that is set to zero before, its smallest weights [1]_. The
        file then shrinks further if it is written with compression, as
        ``joblib.dump(..., compress=True)`` does; prediction takes as long.

    Returns
    -------
    compressed : object
        Of the class of `estimator`.

    Raises
    ------
    ValueError
        If `dtype` or `sparsity` is not as said.
    TypeError
        If `estimator` is none of this package, or stands in a pipeline or a search.
    NotFittedError
        Before `fit`.

    References
    ----------
    .. [1] Han, S., et al. (2015). Learning both weights and connections for efficient
       neural networks. NeurIPS.

    Examples
    --------
    >>> import pickle
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier, compress
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 20, 2))
    >>> y = X[:, :, 0].mean(axis=1) > 0
    >>> model = LSTMClassifier(max_iter=20, random_state=0).fit(X, y)
    >>> small = compress(model)
    >>> bool(len(pickle.dumps(small)) < 0.35 * len(pickle.dumps(model)))
    True
    >>> bool((small.predict(X) == model.predict(X)).mean() > 0.95)
    True
    """
    if dtype not in ("int8", "float32"):
        raise ValueError(f'dtype must be "int8" or "float32"; got {dtype!r}.')
    if not isinstance(sparsity, Real) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1; got {sparsity!r}.")
    if not hasattr(estimator, "check_is_fitted"):
        check_is_fitted(estimator)
    elif not hasattr(estimator, "pretrained_model_"):  # what sktime asks is fit
        estimator.check_is_fitted()
    compressed = copy.deepcopy(estimator)
    networks = _networks(compressed)
    if not networks:
        raise TypeError(
            "Only an LSTMClassifier, LSTMRegressor or LSTMForecaster can be compressed; "
            f"got {type(estimator).__name__}. Of a pipeline or a search, compress the "
            "estimator inside."
        )
    for network in networks:
        if sparsity:
            _prune(network, sparsity)
        network.codes = _quantize(network) if dtype == "int8" else {}
    if hasattr(compressed, "_optimizer_state"):
        compressed._optimizer_state = None
    return compressed


def _networks(estimator):
    """Return the networks of an estimator, each once."""
    if hasattr(estimator, "network_"):
        return [estimator.network_]
    found = {}
    for name in ("model_", "pretrained_model_"):
        model = getattr(estimator, name, None)
        for member in () if model is None else model.trained + model.pretrained:
            found[id(member.network)] = member.network
    return list(found.values())


def _matrices(network):
    return {n: p.detach() for n, p in network.named_parameters() if p.ndim > 1}


def _prune(network, sparsity):
    """Set the smallest weights of each matrix to zero."""
    for weight in _matrices(network).values():
        flat = weight.view(-1)
        flat[flat.abs().argsort(stable=True)[: int(sparsity * len(flat))]] = 0


def _quantize(network):
    """Round weights in place; return the codes and scales of each matrix."""
    found = {}
    for name, weight in _matrices(network).items():
        exact = weight.numpy()
        rows = exact.reshape(len(exact), -1)  # (n_out, n_in)
        if rows.shape[1] * exact.itemsize <= rows.shape[1] + exact.itemsize:
            continue  # with its scale a row would be as long as before
        scales = np.abs(rows).max(axis=1) / LARGEST_CODE
        scales[scales == 0] = 1
        codes = np.rint(rows / scales[:, None]).astype(np.int8).reshape(exact.shape)
        weight.copy_(torch.from_numpy(dequantize(codes, scales)))
        found[name] = codes, scales
    return found


def distill(estimator, X, *, hidden_size):
    """Return a smaller estimator that has learned to answer as a fitted one does.

    A classifier's student learns the probabilities [1]_: each sequence counts for each
    class as much as the teacher gives it. A regressor's learns the predictions. X needs
    no labels, so it may be more than the teacher was fitted on.

    Parameters
    ----------
    estimator : LSTMClassifier or LSTMRegressor
        The teacher, fitted; not with ``loss="quantile"``, and no classifier that is
        multilabel or has ``target="sequence"``.
    X : array-like, ragged list or frame of n_samples sequences
        As in `fit`.
    hidden_size : int
        Of the student. All other parameters are the teacher's, but for `class_weight`,
        which is in what the teacher says, and a classifier's `early_stopping`, which is
        off. Answers below 1 % are left out, but for the likeliest class of each sequence
        and the likeliest sequence of each class.

    Returns
    -------
    student : object
        Of the class of `estimator`, fitted.

    Raises
    ------
    ValueError
        If the teacher is one that cannot be distilled, or `hidden_size` is below 1.
    TypeError
        If `estimator` is no LSTMClassifier or LSTMRegressor.
    NotFittedError
        Before `fit`.

    References
    ----------
    .. [1] Hinton, G., Vinyals, O., Dean, J. (2015). Distilling the knowledge in a
       neural network. arXiv:1503.02531.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMRegressor, distill
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> model = LSTMRegressor(16, max_iter=30, random_state=0).fit(X, X.sum(axis=1))
    >>> student = distill(model, X, hidden_size=8)
    >>> bool(student.score(X, model.predict(X)) > 0.8)
    True
    """
    if not isinstance(hidden_size, Integral) or hidden_size < 1:
        raise ValueError(
            f"hidden_size must be an int of at least 1; got {hidden_size!r}."
        )
    check_sequence_estimator(estimator)
    head, per_step = estimator.head_, estimator.network_.pooling is None
    student = clone(estimator).set_params(
        hidden_size=hidden_size, target="sequence" if per_step else "single"
    )
    if not hasattr(estimator, "predict_proba"):
        if head.quantiles is not None:
            raise ValueError('A regressor with loss="quantile" cannot be distilled.')
        return student.set_params(loss=head.loss_name).fit(X, estimator.predict(X))
    if head.multilabel_:
        raise ValueError("A multilabel classifier cannot be distilled.")
    if per_step:
        raise ValueError('A classifier with target="sequence" cannot be distilled.')
    if getattr(getattr(X, "index", None), "nlevels", 1) > 1:  # not by rows of time
        X = [sequence for _, sequence in X.groupby(level=0, sort=False)]
    # The log loss of a row under soft labels is that of a row per class, weighted.
    share = estimator.predict_proba(X)  # (n, n_classes)
    is_learnt = share > MIN_SHARE
    # Every row is learnt as what it most likely is, every class where it most likely is.
    is_learnt[np.arange(len(share)), share.argmax(axis=1)] = True
    is_learnt[share.argmax(axis=0), np.arange(share.shape[1])] = True
    row, label = np.nonzero(is_learnt)
    weight = np.maximum(share[row, label], np.finfo(np.float64).tiny)
    # Of class weights the teacher has seen; and a sequence in several rows, one for each
    # class, may not be trained on and held out.
    student.set_params(class_weight=None, early_stopping=False)
    return student.fit(
        _safe_indexing(X, row), estimator.classes_[label], sample_weight=weight
    )
