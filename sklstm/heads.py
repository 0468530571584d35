"""What is predicted. Imports nothing of ours.

A head owns the meaning of the network's raw output: it encodes y, says how many raw
outputs there are, scores raw outputs against encoded targets, and decodes them.
Losses are per row; weights are already scaled to a mean of 1 over the training rows.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from numbers import Real

import numpy as np
import torch
from scipy.special import expit, log_softmax, ndtri, softmax
from sklearn.metrics import accuracy_score, d2_pinball_score, r2_score
from torch.nn import functional as F


def step_loss(loss, raw, target, weight):
    """Return the loss of each sequence, the sum over its steps, from that of each step.

    Parameters
    ----------
    loss : callable
        ``loss(raw, target, weight)`` of rows, as a head has it.
    raw : Tensor of shape (N, S, Q)
    target, weight : Tensor of shape (N, T) or (N, T, K)
        Weights are 0 where there is padding. S and T may differ by padding.

    Returns
    -------
    loss : Tensor of shape (N,)
    """
    n_steps = min(raw.shape[1], target.shape[1])
    # (N, S, ...) -> (N S, ...): to the head every step is a row.
    each = loss(*(a[:, :n_steps].flatten(0, 1) for a in (raw, target, weight)))
    return each.view(-1, n_steps).sum(1)


def step_gradient(loss_gradient, raw, target, weight):
    """Return the mean over sequences of `step_loss` and its gradient by raw.

    Parameters
    ----------
    loss_gradient : callable
        ``loss_gradient(raw, target, weight)`` of rows, as a head has it.
    raw, target, weight : as in `step_loss`

    Returns
    -------
    loss : Tensor of shape ()
    gradient : Tensor of shape (N, S, Q)
    """
    n_steps = min(raw.shape[1], target.shape[1])
    rows = (a[:, :n_steps].flatten(0, 1) for a in (raw, target, weight))
    loss, d_rows = loss_gradient(*rows)  # of the mean over N n_steps rows
    gradient = torch.zeros_like(raw)
    gradient[:, :n_steps] = d_rows.view(len(raw), n_steps, -1) * n_steps
    return loss * n_steps, gradient


class _Head(ABC):
    """What classification and regression share."""

    @abstractmethod
    def loss(self, raw, target, weight):
        """Return the loss of each row."""

    def loss_gradient(self, raw, target, weight):
        """Return the mean loss of raw outputs and its gradient, by autograd or better."""
        with torch.enable_grad():
            raw = raw.detach().requires_grad_()
            loss = self.loss(raw, target, weight).mean()
        return loss.detach(), torch.autograd.grad(loss, raw)[0]

    def mean_loss(self, raw, target, weight) -> float:
        """Return the mean loss of raw outputs, arrays (n, n_raw), on a target."""
        raw, target, weight = map(torch.from_numpy, (raw, target, weight))
        return float(self.loss(raw, target, weight).mean())


class ClassificationHead(_Head):
    """Binary, multiclass and multilabel classification.

    Two classes have one raw output, a logit; more classes (or a single one) have one
    per class under a softmax; multilabel has one independent logit per label.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted. For multilabel, the column numbers.
    multilabel_ : bool
    """

    def fit(self, y, classes=None):
        """Learn the classes.

        Parameters
        ----------
        y : ndarray of shape (n_samples,) or label indicator (n_samples, n_labels)
        classes : array-like of shape (n_classes,), default=None
            All the classes there will ever be. None means those of y.
        """
        self.multilabel_ = y.ndim == 2
        if self.multilabel_:
            self.classes_ = np.arange(y.shape[1])
        else:
            self.classes_ = np.unique(y if classes is None else classes)
        self.y_dtype_ = y.dtype
        self.binary_ = not self.multilabel_ and len(self.classes_) == 2
        return self

    @property
    def n_raw(self) -> int:
        """Raw outputs of the network."""
        return 1 if self.binary_ else len(self.classes_)

    @property
    def link(self) -> str:
        """What makes probabilities of raw outputs."""
        return "sigmoid" if self.binary_ or self.multilabel_ else "softmax"

    def encode(self, y) -> np.ndarray:
        """Return the target: class numbers (n,), or 0/1 for multilabel (n, n_labels)."""
        fitted = (len(self.classes_),) if self.multilabel_ else ()
        if np.shape(y)[1:] != fitted:
            raise ValueError(
                f"y has the shape {np.shape(y)}, but the first fit or partial_fit was of "
                + (
                    f"{fitted[0]} labels, a column each."
                    if fitted
                    else "one label a row."
                )
            )
        if self.multilabel_:
            return np.asarray(y, dtype=np.int64)
        target = np.searchsorted(self.classes_, y)
        known = self.classes_[np.minimum(target, len(self.classes_) - 1)] == y
        if not np.all(known):
            unknown = np.unique(np.asarray(y)[~known])
            raise ValueError(
                f"y holds classes {unknown.tolist()} that are not among the classes "
                f"{self.classes_.tolist()} of the first fit or partial_fit."
            )
        return target

    def row_weight(self, class_weight, target, weight) -> np.ndarray:
        """Return what each row (multilabel: each entry) counts, classes included.

        Parameters
        ----------
        class_weight : "balanced", dict, list of dict, or None
        target : ndarray of shape (n_samples,) or (n_samples, n_labels)
        weight : ndarray of shape (n_samples,)
            Sample weights; "balanced" counts with them.

        Returns
        -------
        row_weight : ndarray of the shape of target
            Not scaled.
        """
        weight = weight.reshape(-1, *[1] * (target.ndim - 1))
        if class_weight is None:
            return np.broadcast_to(weight, target.shape)
        if not self.multilabel_:
            table = self._weight_table(
                class_weight, self.classes_, target, weight, "class_weight"
            )
            return table[target] * weight
        balanced = isinstance(class_weight, str)
        if not balanced and (
            not isinstance(class_weight, (list, tuple))
            or len(class_weight) != target.shape[1]
        ):
            raise ValueError(
                f"With {target.shape[1]} labels class_weight must be 'balanced' or a "
                f"list of {target.shape[1]} dicts, one per label; got "
                f"{class_weight!r}."
            )
        factor = np.empty(target.shape)
        for k, column in enumerate(target.T):
            given = class_weight if balanced else class_weight[k]
            table = self._weight_table(
                given, np.arange(2), column, weight[:, 0], f"class_weight[{k}]"
            )
            factor[:, k] = table[column]
        return factor * weight

    @staticmethod
    def _weight_table(class_weight, classes, target, weight, name):
        if isinstance(class_weight, str):
            count = np.bincount(target, weights=weight, minlength=len(classes))
            present = count > 0
            table = np.ones(len(classes))
            table[present] = weight.sum() / (present.sum() * count[present])
            return table
        if not isinstance(class_weight, dict):
            raise ValueError(
                f"{name} must be 'balanced', a dict {{class: weight}} or None; got "
                f"{class_weight!r}."
            )
        known = classes.tolist()
        unknown = [label for label in class_weight if label not in known]
        # Classes that are absent here may be named, if those that are there are.
        if unknown and not set(known) <= set(class_weight):
            raise ValueError(
                f"{name} names the classes {unknown}, which are not among {known}."
            )
        for label, given in class_weight.items():
            # NaN compares as False.
            if not isinstance(given, Real) or not 0 <= given < np.inf:
                raise ValueError(
                    f"{name} must hold finite numbers of at least 0; got {given!r} for "
                    f"{label!r}."
                )
        return np.array([float(class_weight.get(label, 1.0)) for label in known])

    def loss(self, raw, target, weight):
        """Log loss of each row: (N, Q), (N,) or (N, Q), weights alike -> (N,)."""
        if self.binary_:
            entropy = F.binary_cross_entropy_with_logits(
                raw[:, 0], target.to(raw.dtype), reduction="none"
            )
            return entropy * weight
        if self.multilabel_:
            entropy = F.binary_cross_entropy_with_logits(
                raw, target.to(raw.dtype), reduction="none"
            )
            return (entropy * weight).mean(1)
        return F.cross_entropy(raw, target, reduction="none") * weight

    def loss_gradient(self, raw, target, weight):
        """Return the mean loss and its gradient: probability less truth, weighted."""
        if self.binary_ or self.multilabel_:
            # Every entry has a weight with labels, every row without.
            truth, weight = target.view_as(raw).to(raw.dtype), weight.view_as(raw)
            loss = F.binary_cross_entropy_with_logits(raw, truth, weight)
            gradient = torch.sigmoid(raw).sub_(truth)
            return loss, gradient.mul_(weight / raw.numel())
        log_proba, target = torch.log_softmax(raw, dim=1), target[:, None]
        weight = weight[:, None] / len(raw)
        loss = -(log_proba.gather(1, target) * weight).sum()
        gradient = log_proba.exp_().mul_(weight)
        return loss, gradient.scatter_add_(1, target, -weight)

    def decision(self, raw) -> np.ndarray:
        """Return logits: (n,) for two classes, else (n, n_classes)."""
        return raw[:, 0] if self.binary_ else raw

    def proba(self, raw) -> np.ndarray:
        """Return probabilities (n, n_classes), strictly positive."""
        tiny = np.finfo(np.float64).tiny
        if self.multilabel_:
            return np.clip(expit(raw), tiny, 1 - np.finfo(np.float64).eps)
        if self.binary_:
            return np.column_stack([expit(-raw[:, 0]), expit(raw[:, 0])])
        return softmax(raw, axis=1)

    def log_proba(self, raw) -> np.ndarray:
        """Return log-probabilities (n, n_classes), exact where they are tiny."""
        if self.multilabel_:
            return -np.logaddexp(0, -raw)
        if self.binary_:
            return np.column_stack(
                [-np.logaddexp(0, raw[:, 0]), -np.logaddexp(0, -raw[:, 0])]
            )
        return log_softmax(raw, axis=1)

    def decode(self, raw) -> np.ndarray:
        """Return the predicted labels."""
        if self.multilabel_:
            return (raw > 0).astype(self.y_dtype_)
        if self.binary_:
            return self.classes_[(raw[:, 0] > 0).astype(int)]
        return self.classes_[raw.argmax(axis=1)]

    def score(self, raw, target, weight) -> float:
        """Return the (subset) accuracy of raw outputs on an encoded target."""
        if self.multilabel_:
            predicted, weight = (raw > 0).astype(np.int64), weight.mean(axis=1)
        elif self.binary_:
            predicted = (raw[:, 0] > 0).astype(np.int64)
        else:
            predicted = raw.argmax(axis=1)
        return float(accuracy_score(target, predicted, sample_weight=weight))


def _squared_error(error, epsilon):
    return error.square() / 2


def _absolute_error(error, epsilon):
    return error.abs()


def _huber(error, epsilon):
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=epsilon)


ROUNDING = 1e-12  # of the mean of equal numbers
REGRESSION_LOSSES = {
    "squared_error": _squared_error,
    "absolute_error": _absolute_error,
    "huber": _huber,
    "quantile": None,  # written out in RegressionHead.loss, where the quantiles are
}


class RegressionHead(_Head):
    """Regression of one or several targets.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "huber", "quantile"}
    quantile : float or sequence of float
        Only used with ``loss="quantile"``.
    epsilon : float
        Where the Huber loss turns linear, in units the network sees. Only used with
        ``loss="huber"``.
    normalize_y : bool
        Whether the network sees targets of mean 0 and standard deviation 1.

    Attributes
    ----------
    mean_, scale_ : ndarray of shape (n_outputs,)
    one_d_ : bool
        Whether y was one-dimensional.
    """

    link = "identity"

    def __init__(self, loss, quantile, epsilon, normalize_y):
        self.loss_name = loss
        self.epsilon = epsilon
        self.normalize_y = normalize_y
        self.quantiles = None
        self.several_quantiles = False
        if loss == "quantile":
            self.quantiles = np.atleast_1d(np.array(quantile, dtype=np.float64))
            self.several_quantiles = np.ndim(quantile) > 0

    def fit(self, y, weight):
        """Learn the mean and scale of y (n,) or (n, n_outputs) under weights (n,)."""
        self.one_d_ = y.ndim == 1
        y = y.reshape(len(y), -1)
        self.n_outputs_ = y.shape[1]
        self.mean_, self.scale_ = np.zeros(self.n_outputs_), np.ones(self.n_outputs_)
        if self.normalize_y:
            with np.errstate(over="ignore", invalid="ignore"):
                self.mean_ = np.average(y, axis=0, weights=weight)
                scale = np.sqrt(np.average((y - self.mean_) ** 2, axis=0, weights=weight))
            if not np.isfinite(scale).all():
                raise ValueError(
                    f"y holds {np.abs(y).max():.3g} in absolute value, which is too "
                    "large to be normalised. Divide y by a power of ten."
                )
            constant = scale <= ROUNDING * np.maximum(np.abs(self.mean_), 1e-300)
            self.scale_ = np.where(constant, 1.0, scale)
        return self

    @property
    def n_raw(self) -> int:
        """Raw outputs of the network."""
        n_quantiles = 1 if self.quantiles is None else len(self.quantiles)
        return self.n_outputs_ * n_quantiles

    def encode(self, y) -> np.ndarray:
        """Return the target (n, n_outputs), normalised."""
        y = np.reshape(y, (len(y), -1))
        if y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {y.shape[1]} targets, but the first fit or partial_fit had "
                f"{self.n_outputs_}."
            )
        return (y - self.mean_) / self.scale_

    def loss(self, raw, target, weight):
        """Loss of each row: (N, Q), (N, n_outputs), (N,) -> (N,)."""
        if self.quantiles is None:
            error = REGRESSION_LOSSES[self.loss_name](raw - target, self.epsilon)
            return error.mean(1) * weight
        alpha = torch.tensor(self.quantiles, dtype=raw.dtype, device=raw.device)
        # (N, n_outputs * n_quantiles) -> (N, n_outputs, n_quantiles)
        error = target[:, :, None] - raw.view(len(raw), self.n_outputs_, -1)
        return torch.maximum(alpha * error, (alpha - 1) * error).mean((1, 2)) * weight

    def loss_gradient(self, raw, target, weight):
        """Return the mean loss and its gradient, of the squared error in closed form."""
        if self.loss_name != "squared_error":
            return super().loss_gradient(raw, target, weight)
        loss = self.loss(raw, target, weight).mean()
        return loss, (raw - target) * weight[:, None] / raw.numel()

    def decode(self, raw) -> np.ndarray:
        """Return predictions (n[, n_outputs][, n_quantiles])."""
        y = self._in_order(raw) * self.scale_[:, None] + self.mean_[:, None]
        if not self.several_quantiles:
            y = y[:, :, 0]
        return y[:, 0] if self.one_d_ else y

    def score(self, raw, target, weight) -> float:
        """Return R2, or with quantiles the mean D2 pinball score."""
        if self.quantiles is None:
            return _defined(r2_score, target, raw, sample_weight=weight)
        return pinball_skill(target, self._in_order(raw), self.quantiles, weight)

    def _in_order(self, raw):
        """(n, n_raw) -> (n, n_outputs, n_quantiles), those that cross put in order.

        That never worsens the pinball loss (Chernozhukov et al., 2010).
        """
        raw = raw.reshape(len(raw), self.n_outputs_, -1)
        if not self.several_quantiles:
            return raw
        by_level = np.argsort(np.argsort(self.quantiles, kind="stable"))
        return np.sort(raw, axis=2)[:, :, by_level]


def pinball_skill(y, predicted, quantiles, weight=None) -> float:
    """Return the mean D2 pinball score over quantiles, at most 1.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_outputs)
    predicted : ndarray of shape (n_samples, n_outputs, n_quantiles)
    quantiles : ndarray of shape (n_quantiles,)
    weight : ndarray of shape (n_samples,), default=None
    """
    return float(
        np.mean(
            [
                _defined(
                    d2_pinball_score, y, predicted[:, :, k], sample_weight=weight, alpha=q
                )
                for k, q in enumerate(quantiles)
            ]
        )
    )


def _defined(score, y, predicted, **kwargs) -> float:
    # R2 and D2 are not defined for one sample; 0 then, so that early stopping on a
    # single validation row compares losses.
    return float(score(y, predicted, **kwargs)) if len(y) > 1 else 0.0


class ForecastHead:
    """Quantiles of the steps of a forecast, scored where the future was observed.

    Parameters
    ----------
    quantiles : sequence of float
        Ascending.
    """

    def __init__(self, quantiles):
        self.quantiles = tuple(quantiles)

    def loss(self, raw, target, weight):
        """Pinball loss of each row: (N, Z, Q), (N, Z), weight (N, Z) -> (N,)."""
        alpha = torch.tensor(self.quantiles, dtype=raw.dtype, device=raw.device)
        error = target[:, :, None] - raw
        each = torch.maximum(alpha * error, (alpha - 1) * error).mean(2)  # (N, Z)
        # Twice the pinball loss of the median is the absolute error.
        return 2 * (each * weight).sum(1) / weight.sum(1).clamp(min=1)

    def interpolate(self, quantiles, alpha) -> np.ndarray:
        """Return quantiles at any levels, from those at `self.quantiles`.

        Linear in the normal score of the level: exact for a normal distribution, and
        with exponential-like tails beyond the outermost levels.

        Parameters
        ----------
        quantiles : ndarray of shape (..., n_quantiles)
        alpha : sequence of float in (0, 1)

        Returns
        -------
        quantiles : ndarray of shape (..., len(alpha))
        """
        left, share = _between(tuple(self.quantiles), tuple(alpha))
        lower, upper = quantiles[..., left], quantiles[..., left + 1]
        # From the nearer end, which is met exactly, and where both are equal as well.
        gap = upper - lower
        values = np.where(share < 0.5, lower + share * gap, upper - (1 - share) * gap)
        order = np.argsort(alpha, kind="stable")
        values[..., order] = np.maximum.accumulate(values[..., order], axis=-1)
        return values


@functools.lru_cache(maxsize=64)
def _between(levels, alpha):
    """Return after which of `levels` each `alpha` lies, and what share of the way on."""
    known, wanted = ndtri(levels), ndtri(alpha)
    left = np.clip(np.searchsorted(known, wanted), 1, len(known) - 1) - 1
    return left, (wanted - known[left]) / (known[left + 1] - known[left])
