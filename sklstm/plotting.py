"""Pictures of fitted models, as scikit-learn Display objects.

Each has ``from_estimator`` and, where numbers may come from elsewhere,
``from_predictions``; `plot` draws once more. Matplotlib is imported when something is
drawn. Colours are those of Okabe and Ito, which the colour-blind can tell apart, and
maps of even lightness.
"""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.utils.multiclass import type_of_target

from sklstm.base import check_sequence_estimator
from sklstm.inspection import gate_activations, integrated_gradients

__all__ = [
    "AttributionDisplay",
    "BacktestDisplay",
    "EmbeddingDisplay",
    "ForecastDisplay",
    "GateDisplay",
    "QuantileCalibrationDisplay",
    "TrainingDisplay",
]

BLACK, BLUE, VERMILLION = "#222222", "#0072B2", "#D55E00"
# Without their yellow, faint on white: seven, which with eight markers make 56 pairs.
COLORS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", VERMILLION, BLACK)
MARKERS = "osD^vP*X"
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
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


def _pyplot():
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "sklstm[plot]".') from error
    return plt


def _axes(ax, n_rows=1, n_columns=1, *, size, titled=False, **settings):
    """Return axes (n_rows, n_columns), in a new figure or in the place of `ax`."""
    plt = _pyplot()
    if ax is None:
        figure = plt.figure(figsize=size, layout="constrained")
        return figure.add_gridspec(n_rows, n_columns, **settings).subplots(squeeze=False)
    if n_rows == n_columns == 1:
        return np.array([[ax]])
    ax.set_axis_off()
    if titled and ax.figure.get_layout_engine() is None:
        settings |= {"hspace": 0.45, "wspace": 0.3}  # nothing else makes room
    place = ax.get_subplotspec()
    if place is None:
        edges = ("left", "bottom", "right", "top")
        settings |= dict(zip(edges, ax.get_position().extents, strict=True))
        grid = ax.figure.add_gridspec(n_rows, n_columns, **settings)
    else:
        grid = place.subgridspec(n_rows, n_columns, **settings)
    return grid.subplots(squeeze=False)


def _light(ax):
    """Take away what is not data."""
    ax.spines[["top", "right"]].set_visible(False)


def _lone(values):
    """Return settings to mark values between missing ones, which no line shows."""
    seen = np.concatenate([[False], ~pd.isna(values), [False]])
    lone = seen[1:-1] & ~seen[:-2] & ~seen[2:]
    return {"marker": ".", "markevery": lone} if lone.any() else {}


def _legend(axes, ax):
    """Name what is drawn: below a new figure, or in given axes where the least is."""
    handles = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    if ax is None:
        figure = axes[0].figure
        n_rows = math.ceil(1.6 * len(handles) / figure.get_figwidth())  # 1.6 inches each
        figure.legend(
            handles.values(), handles, loc="outside lower center", frameon=False,
            ncols=math.ceil(len(handles) / n_rows),
        )  # fmt: skip
    else:
        axes[0].legend(handles.values(), handles, loc="best", frameon=False)


def _is_forecaster(estimator):
    """Tell a fitted forecaster from an estimator of sequences; refuse anything else."""
    if hasattr(estimator, "_forecast"):
        estimator.check_is_fitted()
        return True
    check_sequence_estimator(estimator)
    return False


def _check_forecaster(estimator):
    if not hasattr(estimator, "_forecast"):
        raise TypeError(
            f"Expected a fitted LSTMForecaster, got {type(estimator).__name__}. Use "
            "from_predictions for forecasts of others."
        )


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
        if _is_forecaster(estimator):
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
        ax = _axes(ax, size=(6.4, 4))[0, 0]
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
        ax.xaxis.get_major_locator().set_params(integer=True)
        _light(ax)
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
        if len(lines) > 1:
            # Above the axes, where no curve is.
            ax.legend(
                handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
                frameon=False,
            )  # fmt: skip
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
            As in `inspection.integrated_gradients`.
        ax : Axes, default=None
            None: a new figure. Divided if there are several channels.

        Returns
        -------
        display : AttributionDisplay
        """
        check_sequence_estimator(estimator)
        sequences = estimator.encoder_.read(X, estimator, reset=False)
        sample = _checked_sample(sample, len(sequences))
        length = sequences.lengths[sample]
        values = sequences.values[sample, :length]
        row = [values.T if estimator.layout == "channel-major" else values]
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
        # A few extreme values would leave the rest pale.
        sizes = np.abs(attributions)
        limit = np.quantile(sizes, 0.99, method="higher") or sizes.max() or 1.0
        beyond = (attributions < -limit).any() + 2 * (attributions > limit).any()
        shading = {
            "cmap": DIVERGING, "vmin": -limit, "vmax": limit, "aspect": "auto",
            "interpolation": "nearest",
        }  # fmt: skip
        curves = n_channels <= MAX_CURVES
        n_rows = n_channels if curves else 1
        height = 1.2 + (1.3 * n_rows if curves else 0.25 * n_channels)
        axes = _axes(ax, n_rows, size=(7, max(height, 2.6)), hspace=0.08)[:, 0]
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
            points = {"marker": "."} if n_timesteps < 40 else _lone(series)
            # A white rim keeps the curve readable on dark shades.
            axis.plot(series, color="white", lw=3, ms=8, **points)
            axis.plot(series, color=BLACK, lw=1.3, **points)
            # 14 small letters an inch: names do not reach into the next row.
            width = max(int(14 * axis.bbox.height / axis.figure.dpi), 1)
            name = textwrap.fill(str(names[channel]), width, break_long_words=False)
            axis.set_ylabel(name, fontsize="small" if n_channels > 1 else None)
            axis.set(ylim=extent[2:], xlim=extent[:2])
            _light(axis)
            if channel + 1 < n_channels:
                axis.tick_params(labelbottom=False)
        axes[-1].set_xlabel("Time step")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
        figure = axes[0].figure
        figure.align_ylabels(list(axes))
        figure.colorbar(
            image, ax=list(axes), label=f"Attribution\n({self.response_name})",
            pad=0.02, aspect=30, extend=("neither", "min", "max", "both")[beyond],
        )  # fmt: skip
        self.ax_ = axes if len(axes) > 1 else axes[0]
        self.figure_ = figure
        return self

    def _plot_tokens(self, tokens, attributions, ax):
        n_tokens = len(tokens)
        ax = _axes(ax, size=(np.clip(0.45 * n_tokens, 4, 12), 2.8))[0, 0]
        colors = np.where(attributions > 0, VERMILLION, BLUE)
        ax.bar(np.arange(n_tokens), attributions, color=colors)
        ax.axhline(0, color=BLACK, lw=0.8)
        ax.margins(x=0.01)
        room = ax.bbox.width / ax.figure.dpi / n_tokens  # inches
        if room > 0.15:  # the height of a word
            upright = 0.1 * max(len(str(token)) for token in tokens) > room
            ax.set_xticks(np.arange(n_tokens), tokens, rotation=90 if upright else 0)
        ax.set(xlabel="Token", ylabel=f"Attribution\n({self.response_name})")
        _light(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _checked_sample(sample, n_samples):
    if not -n_samples <= sample < n_samples:
        raise ValueError(
            f"sample must be from {-n_samples} to {n_samples - 1}, since there are "
            f"{n_samples} sequences; got {sample}."
        )
    return sample


class GateDisplay:
    """Gates and states of a recurrent layer over time, a row per unit.

    Use `from_estimator`, or the constructor with what
    `inspection.gate_activations` returns.

    Parameters
    ----------
    activations : dict of str to ndarray of shape (n_states, hidden_size)
        Of one sequence.
    stride : int, default=1
        Time steps between states.

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
        """
        gates = gate_activations(estimator, X, layer=layer, direction=direction)
        sample = _checked_sample(sample, len(gates.lengths))
        length = gates.lengths[sample]
        shown = ["input_gate", "forget_gate", "output_gate", "cell_state"]
        if "cell_state" not in gates:
            shown = ["reset_gate", "update_gate", "hidden_state"]
        activations = {name: gates[name][sample, :length] for name in shown}
        return cls(activations, stride=gates.stride).plot(ax=ax)

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
        axes = _axes(ax, n, size=(7, 0.8 + 1.5 * n), titled=True, hspace=0.1)[:, 0]
        # Units in the order of their last state, so that rows that go together meet.
        order = np.argsort([*self.activations.values()][-1].mean(axis=0))
        for axis, (name, values) in zip(axes, self.activations.items(), strict=True):
            limit = np.abs(values).max() or 1.0
            shading = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}
            if name.endswith("gate"):
                shading = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": 1}
            n_states, hidden_size = values.shape
            edge = self.stride / 2
            image = axis.imshow(
                values[:, order].T, aspect="auto", interpolation="nearest", **shading,
                extent=(-edge, n_states * self.stride - edge, hidden_size - 0.5, -0.5),
            )  # fmt: skip
            axis.set_title(GATE_TITLES.get(name, name), loc="left", fontsize="medium")
            axis.set_ylabel("Unit")
            axis.set_yticks([])
            axis.figure.colorbar(image, ax=axis, pad=0.02, aspect=8)
            if axis is not axes[-1]:
                axis.tick_params(labelbottom=False)
        axes[-1].set_xlabel("Time step")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
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

    def __init__(self, components, explained, *, y=None):
        self.components = components
        self.explained = explained
        self.y = y

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, ax=None):
        """Embed sequences with a fitted estimator and draw them.

        Parameters
        ----------
        estimator : LSTMClassifier or LSTMRegressor
            Fitted.
        X : array-like, ragged list or frame of n_samples sequences
        y : array-like of shape (n_samples,), default=None
            Labels, or numbers, to colour by.
        ax : Axes, default=None

        Returns
        -------
        display : EmbeddingDisplay
        """
        check_sequence_estimator(estimator)
        return cls.from_predictions(estimator.embed(X), y=y, ax=ax)

    @classmethod
    def from_predictions(cls, embedding, *, y=None, ax=None):
        """Draw embedded sequences.

        Parameters
        ----------
        embedding : array-like of shape (n_samples, n_embedding)
        y : array-like of shape (n_samples,), default=None
        ax : Axes, default=None

        Returns
        -------
        display : EmbeddingDisplay
        """
        embedding = np.asarray(embedding, dtype=np.float64)
        if min(embedding.shape) < 2:
            raise ValueError(
                "The embedding needs at least 2 samples and 2 dimensions; got the shape "
                f"{embedding.shape}."
            )
        y = None if y is None else np.asarray(y)
        if y is not None and y.shape != embedding.shape[:1]:
            raise ValueError(
                "y must have one label, or number, for each of the "
                f"{len(embedding)} embedded sequences; got the shape {y.shape}."
            )
        centred = embedding - embedding.mean(axis=0)
        left, size, _ = np.linalg.svd(centred, full_matrices=False)
        explained = size[:2] ** 2 / max((size**2).sum(), np.finfo(float).tiny)
        return cls(left[:, :2] * size[:2], explained, y=y).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : EmbeddingDisplay
        """
        ax = _axes(ax, size=(5.6, 4.4))[0, 0]
        x, y = self.components.T
        style = {"s": 28, "alpha": 0.85, "edgecolors": "white", "linewidths": 0.5}
        if self.y is None:
            ax.scatter(x, y, color=BLUE, **style)
        elif type_of_target(self.y) in ("binary", "multiclass"):
            labels = np.unique(self.y)
            for k, label in enumerate(labels):
                of = self.y == label
                ax.scatter(
                    x[of], y[of], color=COLORS[k % len(COLORS)],
                    marker=MARKERS[k % len(MARKERS)], label=label, **style,
                )  # fmt: skip
            ax.legend(
                loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False,
                ncols=1 + len(labels) // 16,
            )  # fmt: skip
        else:
            drawn = ax.scatter(x, y, c=self.y, cmap=SEQUENTIAL, **style)
            ax.figure.colorbar(drawn, ax=ax, label="y", pad=0.02)
        for axis, number, share in zip("xy", (1, 2), self.explained, strict=True):
            ax.set(**{f"{axis}label": f"Component {number} ({share:.0%} of variance)"})
        _light(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self


# ----------------------------------------------------------------------- forecasts
def _parts(frame, index=None):
    """Return {key of the instance: frame over time}; the key of a single series is ().

    An array has the steps of `index`.
    """
    if isinstance(frame, np.ndarray) and index is not None:
        frame = pd.DataFrame(frame, index=index)
    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"Expected a pandas Series or DataFrame, got {type(frame).__name__}."
        )
    if frame.index.nlevels == 1:
        return {(): frame}
    keys = list(range(frame.index.nlevels - 1))
    # pandas 2 warns of a list of one level.
    groups = frame.groupby(level=keys if len(keys) > 1 else 0, sort=False)
    return {
        key if isinstance(key, tuple) else (key,): part.droplevel(keys)
        for key, part in groups
    }


def _series_of(frame, index=None):
    """Return {(*instance, column): Series} of data of sktime; of one column, 0."""
    return {
        (*key, column if part.shape[1] > 1 else 0): part.iloc[:, k]
        for key, part in _parts(frame, index).items()
        for k, column in enumerate(part.columns)
    }


def _quantiles_of(frame):
    """Return {(*instance, variable): frame with a column per level}; of one, 0."""
    out = {}
    for key, part in _parts(frame).items():
        variables = part.columns.unique(0)
        for variable in variables:
            out[(*key, variable if len(variables) > 1 else 0)] = part[variable]
    return out


def _times(index):
    """Return an index as matplotlib draws it."""
    return index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index


def _line(ax, series, **style):
    """Draw a series over time."""
    ax.plot(_times(series.index), series, **style, **_lone(series))


def _label_time(ax, index):
    """Name the time axis, with its frequency, and keep dates short."""
    name = index.name or "Time"
    if isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        from matplotlib import dates  # noqa: PLC0415 - an optional package

        tz = getattr(index, "tz", None)
        # Fewest and most, such that matplotlib has an interval for any span.
        n_ticks = (3, 8) if ax.bbox.width / ax.figure.dpi > 2.6 else (2, 5)
        locator = dates.AutoDateLocator(tz, *n_ticks)
        # Every fourth day would be the 29th, beside the first of the next month.
        locator.intervald[dates.DAILY] = [1, 2, 7, 14]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=tz))
        if getattr(index, "freqstr", None):
            name = f"{name} ({index.freqstr})"
    ax.set_xlabel(name)


def _value_name(series):
    """Return what to call the values of a series."""
    return "y" if series.name in (None, 0) else str(series.name)


def _intervals(fan):
    """Return [(low, high)] of levels that add up to 1, the widest first."""
    levels = sorted(fan.columns)
    pairs = [(low, high) for low in levels for high in levels if low < high]
    return [(low, high) for low, high in pairs if abs(low + high - 1) < 1e-6]


def _mixed(color, share):
    """Return a share of a colour with white."""
    from matplotlib.colors import to_rgb  # noqa: PLC0415 - an optional package

    return 1 - share * (1 - np.array(to_rgb(color)))


class ForecastDisplay:
    """Fan chart: history, median forecast and intervals, a panel as a grid.

    Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y, y_pred : Series or DataFrame in an sktime format
        History and forecast.
    y_quantiles : DataFrame, default=None
        As `predict_quantiles` returns it. Levels that add up to 1 are the ends of one
        interval.
    y_true : like y_pred, default=None
        What came. An array has the steps of y_pred.
    n_history : int, default=None
        Last steps of the history that are shown. None: three times the forecast, at
        least 24.
    max_series : int, default=6
        Series of a panel, and columns, that are shown.

    Attributes
    ----------
    ax_ : Axes or ndarray of Axes
        One per series if there are several.
    figure_ : Figure

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> from sklstm.plotting import ForecastDisplay
    >>> forecaster = LSTMForecaster().fit(load_airline(), fh=range(1, 13))
    >>> display = ForecastDisplay.from_estimator(forecaster)
    >>> display.ax_.get_xlabel()
    'Period (M)'
    """

    def __init__(
        self, y, y_pred, *, y_quantiles=None, y_true=None, n_history=None, max_series=6
    ):
        self.y = y
        self.y_pred = y_pred
        self.y_quantiles = y_quantiles
        self.y_true = y_true
        self.n_history = n_history
        self.max_series = max_series

    @classmethod
    def from_estimator(
        cls, forecaster, fh=None, X=None, *, y_true=None, coverage=(0.5, 0.8, 0.9),
        n_history=None, max_series=6, ax=None,
    ):  # fmt: skip
        """Forecast with a fitted forecaster and draw it.

        Parameters
        ----------
        forecaster : LSTMForecaster
            Fitted. Its history is what it has seen.
        fh, X :
            As in `predict`.
        y_true : Series, DataFrame or ndarray, default=None
            What came, to draw over the forecast. An array has the steps of fh.
        coverage : sequence of float in (0, 1), default=(0.5, 0.8, 0.9)
            Of the intervals.
        n_history, max_series :
            As in the class.
        ax : Axes, default=None
            None: a new figure. Divided if there are several series.

        Returns
        -------
        display : ForecastDisplay
        """
        _check_forecaster(forecaster)
        coverage = np.atleast_1d(coverage)
        alpha = np.concatenate([(1 - coverage) / 2, [0.5], (1 + coverage) / 2])
        y_quantiles = forecaster.predict_quantiles(
            fh=fh, X=X, alpha=np.sort(alpha).round(10).tolist()
        )
        # A frame with times even where `predict` returns an array.
        y_pred = y_quantiles.xs(0.5, axis=1, level=1)
        history = forecaster._context()[0]
        if set(history.columns) != set(y_pred.columns):  # those of an array
            history = history.set_axis(y_pred.columns, axis=1)
        return cls.from_predictions(
            history, y_pred, y_quantiles=y_quantiles, y_true=y_true,
            n_history=n_history, max_series=max_series, ax=ax,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y, y_pred, *, y_quantiles=None, y_true=None, n_history=None, max_series=6,
        ax=None,
    ):  # fmt: skip
        """Draw a forecast that any forecaster made.

        Parameters
        ----------
        y, y_pred, y_quantiles, y_true, n_history, max_series :
            As in the class.
        ax : Axes, default=None

        Returns
        -------
        display : ForecastDisplay
        """
        return cls(
            y, y_pred, y_quantiles=y_quantiles, y_true=y_true, n_history=n_history,
            max_series=max_series,
        ).plot(ax=ax)  # fmt: skip

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : ForecastDisplay
        """
        history, forecasts = _series_of(self.y), _series_of(self.y_pred)
        fans = {} if self.y_quantiles is None else _quantiles_of(self.y_quantiles)
        truths = {} if self.y_true is None else _series_of(self.y_true, self.y_pred.index)
        names = [*forecasts][: self.max_series]
        unknown = [name for name in names if name not in history]
        if unknown:
            raise ValueError(f"y_pred has the series {unknown[0]}, which y has not.")
        n_columns = min(len(names), 3 if len(names) > 4 else 2)
        n_rows = -(-len(names) // n_columns)
        size = (7, 3.8) if len(names) == 1 else (3.8 * n_columns, 2.7 * n_rows)
        axes = _axes(ax, n_rows, n_columns, size=size, titled=True).ravel()
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        several_columns = len({name[-1] for name in names}) > 1
        for k, (axis, name) in enumerate(zip(axes, names, strict=False)):
            truth = truths.get(name)
            if truth is not None:
                truth = truth[truth.index.isin(forecasts[name].index)]
            self._draw(axis, history[name], forecasts[name], fans.get(name), truth)
            if len(names) > 1:
                title = name if several_columns else name[:-1]
                axis.set_title(", ".join(map(str, title)), fontsize="medium")
                axis.tick_params(labelsize="small")
                if several_columns or k % n_columns:
                    axis.set_ylabel("")
                if k + n_columns < len(names):
                    axis.set_xlabel("")
        axes = axes[: len(names)]
        if ax is None or len(axes) == 1:
            _legend(axes, ax)
        self.ax_ = axes if len(axes) > 1 else axes[0]
        self.figure_ = axes[0].figure
        return self

    def _draw(self, ax, past, forecast, fan, truth):
        n_history = self.n_history or max(24, 3 * len(forecast))
        past = past.iloc[-n_history:]
        times = _times(forecast.index)
        intervals = [] if fan is None else _intervals(fan)
        for k, (low, high) in enumerate(intervals):
            # Blue mixed with white, the less the narrower the interval.
            share = 0.15 + 0.4 * (k + 1) / len(intervals)
            ends = fan[low].astype(float), fan[high].astype(float)
            style = {"color": _mixed(BLUE, share), "label": f"{high - low:.0%} interval"}
            if len(fan) > 1:
                ax.fill_between(times, *ends, lw=0, **style)
            else:  # which would have no width
                ax.vlines(times, *ends, lw=9 * (1 - k / len(intervals)), **style)
        _line(ax, past, color=BLACK, lw=1.2, label="history")
        # The forecast starts where the history ends.
        joined = pd.concat([past.iloc[-1:], forecast])
        gap = len(forecast) and forecast.index[0] > past.index[-1]
        drawn = joined if gap else forecast
        _line(ax, drawn, color=BLUE, lw=1.8, label="median forecast")
        if truth is not None:
            _line(ax, truth, color=VERMILLION, lw=1.2, ls="--", label="actual")
        ax.set_ylabel(_value_name(past))
        ax.margins(x=0.02)
        _label_time(ax, past.index)
        _light(ax)


class BacktestDisplay:
    """Forecasts from many cutoffs over the series, and their error by cutoff.

    Use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y : Series, DataFrame or ndarray in an sktime format
    forecasts : DataFrame
        As `LSTMForecaster.backtest` returns it.
    instance : key or None, default=None
        Which series of a panel. None: the first.
    column : int, default=0
        Which column of y.
    max_cutoffs : int, default=12
        Cutoffs, evenly chosen, whose forecasts are drawn. Errors are of all.

    Attributes
    ----------
    ax_ : ndarray of shape (2,) of Axes
        Forecasts; mean absolute error by cutoff.
    figure_ : Figure
    errors_ : Series
        Mean absolute error of the forecasts from each cutoff.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from sklstm import LSTMForecaster
    >>> from sklstm.plotting import BacktestDisplay
    >>> y = load_airline()
    >>> forecaster = LSTMForecaster().fit(y[:96], fh=range(1, 7))
    >>> display = BacktestDisplay.from_estimator(forecaster, y, initial_window=96)
    >>> len(display.errors_)
    48
    """

    def __init__(self, y, forecasts, *, instance=None, column=0, max_cutoffs=12):
        self.y = y
        self.forecasts = forecasts
        self.instance = instance
        self.column = column
        self.max_cutoffs = max_cutoffs

    @classmethod
    def from_estimator(
        cls, forecaster, y, X=None, *, fh=None, step=1, initial_window=None,
        instance=None, column=0, max_cutoffs=12, ax=None,
    ):  # fmt: skip
        """Backtest a fitted forecaster and draw it.

        Parameters
        ----------
        forecaster : LSTMForecaster
            Fitted.
        y, X, fh, step, initial_window :
            As in `LSTMForecaster.backtest`.
        instance, column, max_cutoffs :
            As in the class.
        ax : Axes, default=None
            None: a new figure. Divided otherwise.

        Returns
        -------
        display : BacktestDisplay
        """
        _check_forecaster(forecaster)
        forecasts = forecaster.backtest(
            y, X, fh=fh, step=step, initial_window=initial_window
        )
        return cls.from_predictions(
            y, forecasts, instance=instance, column=column, max_cutoffs=max_cutoffs,
            ax=ax,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y, forecasts, *, instance=None, column=0, max_cutoffs=12, ax=None
    ):
        """Draw forecasts from many cutoffs.

        Parameters
        ----------
        y, forecasts, instance, column, max_cutoffs :
            As in the class.
        ax : Axes, default=None

        Returns
        -------
        display : BacktestDisplay
        """
        return cls(
            y, forecasts, instance=instance, column=column, max_cutoffs=max_cutoffs
        ).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : BacktestDisplay
        """
        actual, forecasts = self._chosen()
        times = forecasts.index.get_level_values("time")
        error = (forecasts - actual.reindex(times).to_numpy()).abs()
        self.errors_ = error.groupby(level="cutoff").mean()
        cutoffs = self.errors_.index
        axes = _axes(ax, 2, size=(7, 4.8), height_ratios=[3, 1], hspace=0.08)
        upper, lower = axes[:, 0]
        first = np.searchsorted(actual.index, cutoffs[0])
        shown = actual.iloc[max(first - (len(actual) - first) // 2, 0) :]
        _line(upper, shown, color=BLACK, lw=1.2, label="actual", zorder=3)
        n_drawn = min(self.max_cutoffs, len(cutoffs))
        drawn = np.unique(np.linspace(0, len(cutoffs) - 1, n_drawn).astype(int))
        for k, cutoff in enumerate(cutoffs[drawn]):
            path = forecasts.xs(cutoff, level="cutoff")
            start = actual.loc[[cutoff]]
            joined = pd.concat([start, path])
            color = (BLUE, COLORS[1])[k % 2]
            label = None if k else "forecasts"
            _line(upper, joined, color=color, lw=1.5, label=label)
            upper.plot(
                _times(start.index), start, "o", ms=4.5, color=color, zorder=4,
                label=None if k else "cutoffs",
            )  # fmt: skip
        errors = self.errors_
        lower.plot(_times(errors.index), errors, color=BLUE, lw=1, marker=".", ms=4)
        mean = float(errors.mean())
        label = f"mean error: {mean:.3g}"
        lower.axhline(mean, color=VERMILLION, lw=1, ls="--", label=label)
        for axis in (upper, lower):
            axis.set_xlim(*_times(shown.index[[0, -1]]))
            _light(axis)
            _label_time(axis, actual.index)
        upper.set(xlabel="", ylabel=_value_name(actual))
        upper.tick_params(labelbottom=False)
        lower.set(xlabel=f"Cutoff, {lower.get_xlabel()}", ylabel="Mean abs.\nerror")
        lower.set_ylim(bottom=0)
        upper.figure.align_ylabels([upper, lower])
        _legend([upper, lower], ax)
        self.ax_, self.figure_ = np.array([upper, lower]), upper.figure
        return self

    def _chosen(self):
        """Return the actual values and the forecasts of one series."""
        parts, forecasts = _parts(self.y, pd.RangeIndex(len(self.y))), self.forecasts
        key = next(iter(parts)) if self.instance is None else self.instance
        key = key if isinstance(key, tuple) else (key,)
        if key not in parts:
            raise ValueError(f"instance={self.instance!r} is not among those of y.")
        if forecasts.index.nlevels == 3:
            forecasts = forecasts.xs(key if len(key) > 1 else key[0], level="instance")
        return parts[key].iloc[:, self.column], forecasts.iloc[:, self.column]


class QuantileCalibrationDisplay:
    """How often what came was below each predicted quantile.

    On the diagonal quantiles say what they mean. Use `from_estimator` or
    `from_predictions`.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
    observed : ndarray of shape (n_levels,)
        Share of the values at or below the quantile.
    n_values : int
        Values that were predicted; the bars are 95 % Wilson intervals [1]_ of as many
        independent ones. Errors of neighbouring steps depend on each other, so truly
        they are wider.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure

    References
    ----------
    .. [1] E. B. Wilson (1927). Probable inference, the law of succession, and
       statistical inference. Journal of the American Statistical Association 22.

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm.plotting import QuantileCalibrationDisplay
    >>> y = np.arange(10.0)
    >>> display = QuantileCalibrationDisplay.from_predictions(
    ...     y, np.tile([1.5, 8.5], (10, 1)), levels=[0.2, 0.9]
    ... )
    >>> display.observed
    array([0.2, 0.9])
    """

    def __init__(self, levels, observed, n_values):
        self.levels = levels
        self.observed = observed
        self.n_values = n_values

    @classmethod
    def from_estimator(cls, estimator, X, y, *, fh=None, levels=None, ax=None):
        """Predict quantiles with a fitted estimator and compare them with what came.

        Parameters
        ----------
        estimator : LSTMRegressor or LSTMForecaster
            Fitted; the regressor with ``loss="quantile"`` and several quantiles.
        X : array-like of sequences, or DataFrame or None
            Sequences for the regressor; for the forecaster, exogenous data of the
            steps of fh.
        y : array-like of shape (n_samples,), Series or DataFrame
            What came. For a forecaster, an array has the steps of fh.
        fh : int, sequence or ForecastingHorizon, default=None
            Of the forecaster. None: that of `fit`.
        levels : sequence of float in (0, 1), default=None
            Quantiles to look at. None: those that the forecaster was trained on.
            Ignored for a regressor, which has its own.
        ax : Axes, default=None

        Returns
        -------
        display : QuantileCalibrationDisplay
        """
        if _is_forecaster(estimator):
            levels = list(estimator.model_.quantiles if levels is None else levels)
            quantiles = estimator.predict_quantiles(fh=fh, X=X, alpha=levels)
            return cls.from_predictions(y, quantiles, ax=ax)
        if getattr(estimator, "loss", None) != "quantile":
            raise ValueError(
                'The calibration of a regressor needs loss="quantile" and quantiles to '
                "predict, such as quantile=[0.1, 0.5, 0.9]."
            )
        levels = np.atleast_1d(estimator.quantile)
        n_samples = len(y)
        quantiles = estimator.predict(X).reshape(n_samples, -1, len(levels))
        y = np.asarray(y, dtype=np.float64).reshape(n_samples, -1)
        quantiles = quantiles.reshape(-1, len(levels))
        return cls.from_predictions(y.ravel(), quantiles, levels=levels, ax=ax)

    @classmethod
    def from_predictions(cls, y, quantiles, *, levels=None, ax=None):
        """Compare predicted quantiles with what came.

        Parameters
        ----------
        y : array-like of shape (n_values,), or Series or DataFrame of sktime
        quantiles : array-like of shape (n_values, n_levels), or DataFrame
            The latter as `predict_quantiles` returns it: it is lined up with y.
        levels : sequence of float in (0, 1), default=None
            Levels of an array. Ignored for a frame, which has its own.
        ax : Axes, default=None

        Returns
        -------
        display : QuantileCalibrationDisplay
        """
        if hasattr(quantiles, "columns"):
            actual = _series_of(y, quantiles.index)
            found, values = [], []
            for name, part in _quantiles_of(quantiles).items():
                if name in actual:
                    came = actual[name].reindex(part.index).to_numpy(dtype=float)
                    values.append(came)
                    found.append(part.to_numpy(dtype=float))
                levels = part.columns.to_list()
            if not values:
                raise ValueError("y and quantiles have no series in common.")
            y, quantiles = np.concatenate(values), np.concatenate(found)
        y, quantiles = np.asarray(y, dtype=float), np.asarray(quantiles, dtype=float)
        if levels is None or quantiles.shape != (len(y), len(levels)):
            raise ValueError(
                f"quantiles of the shape {quantiles.shape} do not fit {len(y)} values of "
                f"y and levels={levels!r}."
            )
        known = ~np.isnan(y)
        if not known.any():
            raise ValueError("y has no value for any step of the quantiles.")
        observed = (y[known, None] <= quantiles[known]).mean(axis=0)
        return cls(np.asarray(levels), observed, int(known.sum())).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None

        Returns
        -------
        display : QuantileCalibrationDisplay
        """
        ax = _axes(ax, size=(4.6, 4.4))[0, 0]
        ax.plot([0, 1], [0, 1], color=BLACK, lw=0.8, ls=":", label="calibrated")
        order = np.argsort(self.levels)
        levels, observed = np.take([self.levels, self.observed], order, axis=1)
        # Wilson's interval has a length even where all values are on one side.
        spread = 1.96**2 / self.n_values
        middle = (observed + spread / 2) / (1 + spread)
        half = np.sqrt(spread * (observed * (1 - observed) + spread / 4)) / (1 + spread)
        ax.errorbar(
            levels, observed, yerr=np.abs(middle - observed + half * [[-1], [1]]),
            fmt="o-", color=BLUE, ms=5, lw=1.3, capsize=2.5,
            label=f"{self.n_values} values",
        )  # fmt: skip
        # A little more than from 0 to 1, so that no marker is cut.
        ax.set(
            xlabel="Level of the quantile", ylabel="Share of values below it",
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
        )  # fmt: skip
        ax.legend(loc="upper left", frameon=False)
        _light(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self
