"""Pictures of fitted models, as scikit-learn Display objects.

Each has ``from_estimator`` and, where numbers may come from elsewhere,
``from_predictions``; `plot` draws once more.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.multiclass import type_of_target

from sklstm.base import check_sequence_estimator, is_forecaster
from sklstm.drawing import (
    BLACK,
    BLUE,
    COLORS,
    DIVERGING,
    MARKERS,
    SEQUENTIAL,
    VERMILLION,
    legend,
    light,
    lone,
    name_values,
    new_axes,
    symmetric,
    whole_steps,
)
from sklstm.forecast_plotting import (
    BacktestDisplay,
    ForecastDisplay,
    QuantileCalibrationDisplay,
)
from sklstm.inspection import gate_activations, integrated_gradients
from sklstm.sequences import require_same_instances

__all__ = [
    "AttributionDisplay",
    "BacktestDisplay",
    "EmbeddingDisplay",
    "ForecastDisplay",
    "GateDisplay",
    "QuantileCalibrationDisplay",
    "TrainingDisplay",
]

# Channels that are drawn one below the other; of more, only the attributions are shown.
MAX_CURVES = 8
GATE_TITLES = {
    "input_gate": "Input gate",
    "forget_gate": "Forget gate",
    "output_gate": "Output gate",
    "cell_state": "Cell state",
    "reset_gate": "Reset gate",
    "update_gate": "Update gate",
    "hidden_state": "Hidden state",
}


# ------------------------------------------------------------------------ training
class TrainingDisplay:
    """Loss and validation score over the epochs of a fit.

    Use `from_estimator`.

    Parameters
    ----------
    losses : list of list of float
        A curve for each network.
    validation_scores : list of float or None, default=None
        Of the last epochs, with ``early_stopping=True``.
    best_iter : int, default=None
        The epoch to mark, counted from 1: the one whose weights were kept.
    steps_per_entry : int, default=1
        Distance between entries of `losses`.
    unit : str, default="Epoch"
        What steps are.
    score_name : str, default="Validation score"

    Attributes
    ----------
    ax_ : Axes
        Of the losses.
    score_ax_ : Axes or None
        Of the validation scores.
    figure_ : Figure

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier
    >>> from sklstm.plotting import TrainingDisplay
    >>> X = np.random.default_rng(0).normal(size=(60, 5))
    >>> model = LSTMClassifier(hidden_size=4, early_stopping=True, random_state=0)
    >>> display = TrainingDisplay.from_estimator(model.fit(X, X[:, 0] > 0))
    >>> display.ax_.get_xlabel()
    'Epoch'
    """

    def __init__(
        self,
        losses,
        validation_scores=None,
        *,
        best_iter=None,
        steps_per_entry=1,
        unit="Epoch",
        score_name="Validation score",
    ):
        self.losses = losses
        self.validation_scores = validation_scores
        self.best_iter = best_iter
        self.steps_per_entry = steps_per_entry
        self.unit = unit
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the training of a fitted estimator.

        Parameters
        ----------
        estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
            Fitted.
        ax : Axes, default=None
            None: a new figure.

        Returns
        -------
        display : TrainingDisplay

        Raises
        ------
        ValueError
            If nothing was trained.
        """
        if is_forecaster(estimator):
            if not estimator.history_:
                raise ValueError(
                    "The forecaster uses the pretrained network alone: nothing was "
                    "trained."
                )
            display = cls(
                estimator.history_,
                steps_per_entry=estimator.steps_per_entry_,
                unit="Training step",
            )
        else:
            score = "accuracy" if is_classifier(estimator) else "score"
            display = cls(
                [estimator.loss_curve_],
                estimator.validation_scores_,
                best_iter=estimator.best_iter_,
                score_name=f"Validation {score}",
            )
        return display.plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : TrainingDisplay
        """
        given = ax
        ax = new_axes(ax, size=(6.4, 4))[0, 0]
        lines = []
        for i, losses in enumerate(self.losses):
            label = "training loss"
            if len(self.losses) > 1:
                label = f"network {i + 1}"
            color = COLORS[i % len(COLORS)]
            steps = self.steps_per_entry * np.arange(1, len(losses) + 1)
            lines += ax.plot(steps, losses, color=color, label=label)
        ax.set(xlabel=self.unit, ylabel="Training loss")
        ax.margins(x=0.02)
        whole_steps(ax)
        light(ax)
        self.score_ax_ = None
        if self.validation_scores:
            self.score_ax_ = ax.twinx()
            self.score_ax_.spines[["top", "left"]].set_visible(False)
            scores = np.asarray(self.validation_scores)
            # A warm start has the losses of all fits, but the scores of the last.
            epochs = len(self.losses[0]) - len(scores) + np.arange(1, len(scores) + 1)
            lines += self.score_ax_.plot(
                epochs, scores, color=VERMILLION, ls="--", label=self.score_name.lower()
            )
            self.score_ax_.set_ylabel(self.score_name, color=VERMILLION)
            ax.yaxis.label.set_color(BLUE)
            if self.best_iter is not None:
                best = scores[epochs == self.best_iter][0]
                ax.axvline(self.best_iter, color=BLACK, lw=0.8, ls=":")
                lines += self.score_ax_.plot(
                    [self.best_iter], [best], "o", color=VERMILLION, clip_on=False,
                    label=f"best epoch: {self.best_iter}, {best:.3f}",
                )  # fmt: skip
        if len(lines) > 1 and given is None:
            # Above the axes, where no curve is.
            ax.legend(
                handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
                frameon=False,
            )  # fmt: skip
        elif len(lines) > 1:  # there is the title of the given axes
            (self.score_ax_ or ax).legend(handles=lines, loc="best", fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self


# -------------------------------------------------------------------- explanations
class AttributionDisplay:
    """Attributions as a heat map behind the sequence that they explain.

    Use `from_estimator`, or the constructor for attributions from elsewhere.

    Parameters
    ----------
    values : ndarray of shape (n_timesteps, n_channels)
        The sequence; or tokens (n_timesteps,).
    attributions : ndarray of the shape of values
    channel_names : sequence of str, default=None
    response_name : str, default="response"
        What the attributions are in units of.

    Attributes
    ----------
    ax_ : Axes or ndarray of Axes
        One per channel, if there are several (and at most 8: else one, with a heat map
        of all channels and no curves).
    figure_ : Figure

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm.plotting import AttributionDisplay
    >>> t = np.linspace(0, 6, 50)[:, None]
    >>> display = AttributionDisplay(np.sin(t), np.cos(t), channel_names=["x"]).plot()
    >>> display.ax_.get_ylabel()
    'x'
    """

    def __init__(
        self, values, attributions, *, channel_names=None, response_name="response"
    ):
        self.values = values
        self.attributions = attributions
        self.channel_names = channel_names
        self.response_name = response_name

    @classmethod
    def from_estimator(
        cls, estimator, X, *, sample=0, target=None, baseline=None, n_steps=64, ax=None
    ):
        """Explain one sequence by `inspection.integrated_gradients` and draw it.

        Parameters
        ----------
        estimator : LSTMClassifier or LSTMRegressor
            Fitted.
        X : array-like, ragged list or frame of n_samples sequences
        sample : int, default=0
            Which sequence of X.
        target, baseline, n_steps :
            As in `inspection.integrated_gradients`. Of a target for each sequence, that
            of the sample counts.
        ax : Axes, default=None
            None: a new figure. Divided if there are several channels.

        Returns
        -------
        display : AttributionDisplay

        Raises
        ------
        TypeError, NotFittedError
            If this is no classifier or regressor of this package, or it is not fitted.
        ValueError
            As in `inspection.integrated_gradients`, or if X has no such sample.
        """
        values, row, n_samples = _one_of(estimator, X, sample)
        require_same_instances(X, target, "target")
        if np.ndim(target) == 1 and len(target) == n_samples:
            target = np.asarray(target)[sample]
        result = integrated_gradients(
            estimator, row, target=target, baseline=baseline, n_steps=n_steps
        )
        column = int(result.target[0])
        name = "prediction"
        if is_classifier(estimator):
            name = f"logit of class {estimator.classes_[column]}"
        elif estimator.head_.n_raw > 1:
            name = f"prediction {column}"
        names = getattr(estimator, "feature_names_in_", ())
        names = names if len(names) == estimator.n_channels_in_ else None
        display = cls(
            values, result.attributions[0], channel_names=names, response_name=name
        )
        return display.plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : AttributionDisplay
        """
        values, attributions = np.asarray(self.values), np.asarray(self.attributions)
        if values.ndim == 1:
            return self._plot_tokens(values, attributions, ax)
        n_timesteps, n_channels = values.shape
        names = self.channel_names
        if names is None:
            names = [f"channel {c}" for c in range(n_channels)]
            names = names if n_channels > 1 else ["value"]
        limits, extend = symmetric(attributions, 0.99)
        shading = {
            "cmap": DIVERGING, "aspect": "auto", "interpolation": "nearest", **limits,
        }  # fmt: skip
        curves = n_channels <= MAX_CURVES
        n_rows = n_channels if curves else 1
        height = 1.2 + (1.3 * n_rows if curves else 0.25 * n_channels)
        axes = new_axes(ax, n_rows, size=(7, max(height, 2.6)), hspace=0.08)[:, 0]
        if not curves:
            image = axes[0].imshow(attributions.T, **shading)
            axes[0].set_yticks(np.arange(n_channels), names)
        for channel in range(n_channels if curves else 0):
            axis, series = axes[channel], values[:, channel]
            seen = series[~np.isnan(series)]
            low, high = (seen.min(), seen.max()) if len(seen) else (0.0, 0.0)
            margin = 0.08 * (high - low) or 1.0
            extent = (-0.5, n_timesteps - 0.5, low - margin, high + margin)
            image = axis.imshow(attributions[None, :, channel], extent=extent, **shading)
            points = {"marker": "."} if n_timesteps < 40 else lone(series)
            # A white rim keeps the curve readable on dark shades.
            axis.plot(series, color="white", lw=3, ms=8, **points)
            axis.plot(series, color=BLACK, lw=1.3, **points)
            fontsize = "small" if n_channels > 1 else "medium"
            name_values(axis, names[channel], fontsize=fontsize)
            axis.set(ylim=extent[2:], xlim=extent[:2])
            light(axis)
            if channel + 1 < n_channels:
                axis.tick_params(labelbottom=False)
        axes[-1].set_xlabel("Time step")
        whole_steps(axes[-1])
        figure = axes[0].figure
        figure.align_ylabels(list(axes))
        figure.colorbar(
            image, ax=list(axes), label=f"Attribution\n({self.response_name})",
            pad=0.02, aspect=30, extend=extend,
        )  # fmt: skip
        self.ax_ = axes if len(axes) > 1 else axes[0]
        self.figure_ = figure
        return self

    def _plot_tokens(self, tokens, attributions, ax):
        n_tokens = len(tokens)
        ax = new_axes(ax, size=(np.clip(0.45 * n_tokens, 4, 12), 2.8))[0, 0]
        colors = np.where(attributions > 0, VERMILLION, BLUE)
        ax.bar(np.arange(n_tokens), attributions, color=colors)
        ax.axhline(0, color=BLACK, lw=0.8)
        ax.margins(x=0.01)
        room = ax.bbox.width / ax.figure.dpi / n_tokens  # inches
        if room > 0.15:  # the height of a word
            upright = 0.1 * max(len(str(token)) for token in tokens) > room
            ax.set_xticks(np.arange(n_tokens), tokens, rotation=90 if upright else 0)
        ax.set(xlabel="Token", ylabel=f"Attribution\n({self.response_name})")
        light(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _one_of(estimator, X, sample):
    """Return a sequence of X, it alone as an X, and how many there are."""
    check_sequence_estimator(estimator)
    sequences = estimator.encoder_.read(X, estimator, reset=False)
    _check_sample(sample, len(sequences))
    values = sequences.values[sample, : sequences.lengths[sample]]
    row = values.T if estimator.encoder_.layout == "channel-major" else values
    return values, [row], len(sequences)


def _check_sample(sample, n_samples):
    if not -n_samples <= sample < n_samples:
        raise ValueError(
            f"sample must be from {-n_samples} to {n_samples - 1}, since there are "
            f"{n_samples} sequences; got {sample}."
        )


class GateDisplay:
    """Gates and states of a recurrent layer over time, a row per unit.

    Use `from_estimator`, or the constructor with what
    `inspection.gate_activations` returns.

    Parameters
    ----------
    activations : dict of str to ndarray of shape (n_states, hidden_size)
        Of one sequence.
    stride : int, default=1
        Time steps between states; state j is drawn around step j * stride.

    Attributes
    ----------
    ax_ : ndarray of Axes
        One per gate or state.
    figure_ : Figure

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm.plotting import GateDisplay
    >>> gate = np.random.default_rng(0).uniform(size=(12, 5))
    >>> display = GateDisplay({"forget_gate": gate, "cell_state": gate - 0.5}).plot()
    >>> [ax.get_title("left") for ax in display.ax_]
    ['Forget gate', 'Cell state']
    """

    def __init__(self, activations, *, stride=1):
        self.activations = activations
        self.stride = stride

    @classmethod
    def from_estimator(
        cls, estimator, X=None, *, sample=0, layer=0, direction="forward", ax=None
    ):
        """Draw the gates of a fitted estimator while it reads one sequence.

        Parameters
        ----------
        estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
            Fitted.
        X : array-like, ragged list or frame of n_samples sequences
            Ignored for a forecaster, which reads the window before its cutoff.
        sample : int, default=0
            Which sequence of X, or series of the forecaster.
        layer, direction :
            As in `inspection.gate_activations`.
        ax : Axes, default=None
            None: a new figure. Divided otherwise.

        Returns
        -------
        display : GateDisplay

        Raises
        ------
        TypeError, NotFittedError, ValueError
            As in `inspection.gate_activations`; ValueError if there is no such sample.
        """
        of_forecaster = is_forecaster(estimator)
        if not of_forecaster:
            _, X, _ = _one_of(estimator, X, sample)
            sample = 0
        gates = gate_activations(estimator, X, layer=layer, direction=direction)
        _check_sample(sample, len(gates.lengths))
        length, stride = gates.lengths[sample], gates.stride
        shown = ["input_gate", "forget_gate", "output_gate", "cell_state"]
        if "cell_state" not in gates:
            shown = ["reset_gate", "update_gate", "hidden_state"]
        activations = {name: gates[name][sample, :length] for name in shown}
        if of_forecaster:  # a state comes after a segment, and is not around a step
            of_steps = {k: a.repeat(stride, axis=0) for k, a in activations.items()}
            activations, stride = of_steps, 1
        return cls(activations, stride=stride).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : GateDisplay
        """
        n = len(self.activations)
        axes = new_axes(ax, n, size=(7, 0.8 + 1.5 * n), titled=True, hspace=0.1)[:, 0]
        # Units in the order of their last state, so that rows that go together meet.
        order = np.argsort([*self.activations.values()][-1].mean(axis=0))
        for axis, (name, values) in zip(axes, self.activations.items(), strict=True):
            if name.endswith("gate"):
                shading, extend = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": 1}, "neither"
            else:  # of a few units the state grows far beyond that of the others
                limits, extend = symmetric(values, 0.95)
                shading = {"cmap": DIVERGING, **limits}
            n_states, hidden_size = values.shape
            edge = self.stride / 2
            image = axis.imshow(
                values[:, order].T, aspect="auto", interpolation="nearest", **shading,
                extent=(-edge, n_states * self.stride - edge, hidden_size - 0.5, -0.5),
            )  # fmt: skip
            axis.set_title(GATE_TITLES.get(name, name), loc="left", fontsize="medium")
            axis.set_ylabel("Unit")
            axis.set_yticks([])
            axis.figure.colorbar(image, ax=axis, pad=0.02, aspect=8, extend=extend)
            if axis is not axes[-1]:
                axis.tick_params(labelbottom=False)
        axes[-1].set_xlabel("Time step")
        whole_steps(axes[-1])
        self.ax_, self.figure_ = axes, axes[0].figure
        return self


class EmbeddingDisplay:
    """Embedded sequences on their first two principal components.

    Use `from_estimator`, or `from_predictions` for embeddings that are at hand.

    Parameters
    ----------
    components : ndarray of shape (n_samples, 2)
    explained : ndarray of shape (2,)
        Share of the variance along each.
    y : ndarray of shape (n_samples,), default=None
        Labels, or numbers, to colour by.
    is_numeric : bool, default=None
        Whether y are numbers, on a scale of colours, rather than labels. None: as
        scikit-learn's `type_of_target` says.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm.plotting import EmbeddingDisplay
    >>> embedding = np.random.default_rng(0).normal(size=(20, 8))
    >>> display = EmbeddingDisplay.from_predictions(embedding, y=["a", "b"] * 10)
    >>> display.components.shape
    (20, 2)
    """

    def __init__(self, components, explained, *, y=None, is_numeric=None):
        self.components = components
        self.explained = explained
        self.y = y
        self.is_numeric = is_numeric

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, ax=None):
        """Embed sequences with a fitted estimator and draw them.

        Parameters
        ----------
        estimator : LSTMClassifier or LSTMRegressor
            Fitted.
        X : array-like, ragged list or frame of n_samples sequences
        y : array-like of shape (n_samples,), default=None
            Labels to colour by, or, of a regressor, numbers.
        ax : Axes, default=None

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        TypeError, NotFittedError
            If this is no classifier or regressor of this package, or it is not fitted.
        ValueError
            If it was fitted with ``target="sequence"``, or X or y cannot be used.
        """
        check_sequence_estimator(estimator)
        if estimator._per_step:
            raise ValueError(
                "EmbeddingDisplay draws a point per sequence, but the estimator was "
                'fitted with target="sequence", which embeds every step. Pass those '
                "that you choose of np.concatenate(estimator.embed(X)) to "
                "from_predictions."
            )
        require_same_instances(X, y)
        is_numeric = is_regressor(estimator) and np.asarray(y).dtype.kind in "buif"
        return cls.from_predictions(
            estimator.embed(X), y=y, is_numeric=is_numeric or None, ax=ax
        )

    @classmethod
    def from_predictions(cls, embedding, *, y=None, is_numeric=None, ax=None):
        """Draw embedded sequences.

        Parameters
        ----------
        embedding : array-like of shape (n_samples, n_embedding)
        y : array-like of shape (n_samples,), default=None
        is_numeric : bool, default=None
            As in the class.
        ax : Axes, default=None

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ValueError
            If there are fewer than two sequences or dimensions, a value is not finite, or
            y has not one label, or number, for each.
        """
        embedding = np.asarray(embedding, dtype=np.float64)
        if embedding.ndim != 2 or min(embedding.shape) < 2:
            raise ValueError(
                "The embedding needs at least 2 samples and 2 dimensions; got the shape "
                f"{embedding.shape}."
            )
        finite = np.isfinite(embedding).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"The embedding holds NaN or infinity in row {finite.argmin()}. Leave "
                "such rows out of it and of y."
            )
        y = None if y is None else np.asarray(y)
        if y is not None and y.shape != embedding.shape[:1]:
            raise ValueError(
                "y must have one label, or number, for each of the "
                f"{len(embedding)} embedded sequences; got the shape {y.shape}."
            )
        missing = pd.isna([] if y is None else y)
        if missing.any():
            raise ValueError(
                f"y has no label, or number, in row {missing.argmax()}. Leave such rows "
                "out of both, or give them a label."
            )
        centred = embedding - embedding.mean(axis=0)
        left, size, _ = np.linalg.svd(centred, full_matrices=False)
        explained = size[:2] ** 2 / max((size**2).sum(), np.finfo(float).tiny)
        components = left[:, :2] * size[:2]
        return cls(components, explained, y=y, is_numeric=is_numeric).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : EmbeddingDisplay
        """
        given = ax
        ax = new_axes(ax, size=(5.6, 4.4))[0, 0]
        x, y = self.components.T
        style = {"s": 28, "alpha": 0.85, "edgecolors": "white", "linewidths": 0.5}
        if self.y is None:
            ax.scatter(x, y, color=BLUE, **style)
        elif not self._has_numbers():
            labels = np.unique(self.y)
            for k, label in enumerate(labels):
                of = self.y == label
                ax.scatter(
                    x[of], y[of], color=COLORS[k % len(COLORS)],
                    marker=MARKERS[k % len(MARKERS)], label=label, **style,
                )  # fmt: skip
            legend([ax], given)
        else:
            drawn = ax.scatter(x, y, c=self.y.astype(float), cmap=SEQUENTIAL, **style)
            ax.figure.colorbar(drawn, ax=ax, label="y", pad=0.02)
        for axis, number, share in zip("xy", (1, 2), self.explained, strict=True):
            ax.set(**{f"{axis}label": f"Component {number} ({share:.0%} of variance)"})
        light(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _has_numbers(self):
        if self.is_numeric is not None:
            return self.is_numeric
        return type_of_target(self.y) not in ("binary", "multiclass")
