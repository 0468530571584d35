"""LSTMClassifier and LSTMRegressor, the faces towards scikit-learn.

Their parameters, and what differs between classes and numbers; the rest is `base`.
"""

from __future__ import annotations

import datetime
from numbers import Real

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    check_consistent_length,
    column_or_1d,
)

from sklstm.augmentation import AUGMENTATIONS
from sklstm.base import BaseLSTM, require_y
from sklstm.heads import (
    REGRESSION_LOSSES,
    ClassificationHead,
    RegressionHead,
    pinball_skill,
)
from sklstm.sequences import unmasked
from sklstm.shrinkage import MIN_ROWS, LeftOutRows

TIMES = datetime.date, datetime.timedelta, np.datetime64, np.timedelta64


# The parameters and attributes below stand in both classes, so that each reads by
# itself; a test holds the shared ones equal.
class LSTMClassifier(ClassifierMixin, BaseLSTM):
    """Classify sequences with a long short-term memory network.

    Reads univariate and multivariate sequences, of equal or unequal length, with or
    without missing values, and integer tokens. Predictions of a sequence do not
    depend on what else is predicted with it, and the same `random_state` gives the
    same model; global random state is neither read nor changed.

    All parameters may be left as they are. They are in groups: the network (from
    `hidden_size`), how X is read (from `n_channels`), training (from `n_members`), where
    and how to run (from `warm_start`).

    Parameters
    ----------
    hidden_size : int, default=64
        Size of the state of each recurrent layer, and of the stem's output.
    num_layers : int, default=1
        Number of recurrent layers, one upon the other.
    cell : {"lstm", "peephole", "gru"}, default="lstm"
        Recurrent cell: LSTM [1]_ with forget gates; "peephole", whose gates also see
        the cell state, for events that must be timed precisely [4]_; or GRU [5]_.
    bidirectional : bool or "auto", default="auto"
        Whether a second recurrence reads each sequence from its end. "auto" is True
        with a "conv" stem, else False.
    residual : bool, default=False
        Whether each recurrent layer but the first adds to what it reads instead of
        replacing it, which helps where there are many. Ignored with ``num_layers=1``.
    layer_norm : bool, default=False
        Whether the output of each recurrent layer is normalised over its units, step by
        step [6]_ (before it is dropped out of and added to what the layer read).
    dropout : float in [0, 1), default=0.2
        Probability with which an output of a recurrent layer is dropped in training.
    variational_dropout : bool, default=False
        Whether `dropout` drops the same units of a sequence at every time step
        ("locked" dropout [7]_) instead of others at each. Of no effect if only the
        last state of one layer is read.
    recurrent_dropout : float in [0, 1), default=0.0
        Probability with which a weight from state to state is dropped in training,
        drawn once per batch (DropConnect, "weight dropout" [8]_). In Keras the same
        name drops states instead.
    stem : {"auto", "linear", "conv", "embedding"} or None, default="auto"
        What stands before the recurrence.

        - None: nothing, a plain LSTM;
        - "linear": one linear map with ReLU for all time steps;
        - "conv": three convolutions over time with batch normalisation [2]_, strided
          so that the recurrence takes at most 160 steps (of more than 10,240, a 64th);
          they are pooled beside the states;
        - "embedding": a trained vector for each token; X holds integer tokens;
        - "auto": "conv" if the longest training sequence has at least 8 steps, else
          None.
    pooling : {"auto", "last", "mean", "max", "mean-max", "attention"}, default="auto"
        How the states of all time steps become one vector. "last" is the final state
        (of both directions); "attention" a weighted mean with learned weights [3]_;
        "auto" is "mean-max" with a "conv" or "embedding" stem, else "last".
    target : {"single", "sequence"}, default="single"
        What y holds of a sequence: one label or value (or several, see `fit`), or one
        for each time step. With "sequence" `pooling` is ignored, "conv" has no strides,
        and "auto" stands for no stem, so that unless `bidirectional` nothing depends on
        later steps.
    embedding : array-like of shape (n_tokens, n_dimensions), default=None
        Vectors that the tokens start from, row i for token i; row 0 is padding and not
        used. Tokens beyond are unknown. None: a random start, of hidden_size dimensions.
        Only used with ``stem="embedding"``, and where training does not go on from a
        model at hand.
    freeze_embedding : bool, default=False
        Whether the vectors of `embedding` stay as given. Ignored without it.
    token_dropout : float in [0, 1), default=0.0
        Probability with which a token is read as unknown in training, so that the
        network learns to do without any one. Only used with ``stem="embedding"``.
    n_channels : int, default=1
        Number of channels in a row of a 2-D X, whose columns are read as
        n_timesteps * n_channels values, or in a 1-D array of a ragged list. Ignored for
        every other kind of X.
    layout : {"time-major", "channel-major"}, default="time-major"
        "time-major": a 3-D X is (n_samples, n_timesteps, n_channels), as in torch and
        Keras, and a 2-D row holds all channels of a step together. "channel-major":
        (n_samples, n_channels, n_timesteps), as in sktime, a 2-D row holds all steps
        of a channel together, and arrays in a ragged list are (n_channels,
        n_timesteps_i). Ignored for frames that say what their rows are: in a list, with
        an (instance, time) index, or nested.
    standardize : bool, default=True
        Whether to bring each channel to mean 0 and standard deviation 1, over all
        training sequences and steps. Where convolutions read sequences of one length
        that hardly differ from their mean curve, as spectra do (1 % of the variance),
        the distance from that curve, standardised, is added as further channels, unless
        `augment` names an augmentation. Ignored for tokens.
    missing : {"error", "mask"}, default="error"
        What to do about NaN: raise an error; or take trailing steps that are NaN in
        every channel as the end of the sequence and show the network, in one more
        channel per channel, which other values are missing. Infinity is an error. With
        ``target="sequence"`` only the rows of an array end so.
    n_members : int or "auto", default="auto"
        Networks to train, each from a start and with orders of its own, side by side
        where the CPU has several cores; probabilities or predictions are averaged.
        "auto": where convolutions read at least 32 steps, 3 for up to 341 training
        sequences, 2 for up to 512; else 1. Must be 1 with ``stem="embedding"``.
    solver : {"adam", "adamw", "sgd"}, default="adam"
        "sgd" has Nesterov momentum of 0.9.
    alpha : float, default=1e-4
        Strength of the L2 penalty; with ``solver="adamw"``, of decoupled weight
        decay. Biases are spared.
    batch_size : int or "auto", default="auto"
        Sequences per step of the solver. "auto" is an eighth of the training set, at
        least 8 and at most 64.
    learning_rate : {"one-cycle", "cosine", "constant", "adaptive"}, \
default="one-cycle"
        Schedule: up to `learning_rate_init` and down to 0 over `max_iter` epochs; only
        down; constant; or divided by 5 whenever there was no improvement for
        `n_iter_no_change` epochs.
    learning_rate_init : float, default=5e-3
        Highest learning rate.
    max_iter : int, default=100
        Epochs, passes over the (distinct) training sequences.
    shuffle : bool, default=True
        Whether to visit sequences in a new order in every epoch. If True, the model
        does not depend on the order of the rows, and equal rows are merged into one
        with their weights added.
    oversample : bool, default=False
        Whether weights (of samples; a classifier's of classes too) say how often a
        sequence is drawn in an epoch, instead of how much its loss counts, so that rare
        ones are met several times rather than once with large gradients. An epoch has
        as many draws as there are distinct sequences.
    augment : str, sequence of str or None, default="auto"
        How sequences are varied at random in training, anew in every epoch: one or
        several (in any order) of

        - "jitter": noise of standard deviation 0.05 is added to every value;
        - "scaling": each channel is multiplied with a factor drawn from N(1, 0.1);
        - "time-warp": time runs faster and slower, along a smooth curve [9]_;
        - "window-slice": 90 % of the sequence, from a random place on [10]_, stretched
          to its length;
        - "mixup": two sequences of a batch are mixed, and their losses in the same
          proportion, drawn uniformly [11]_.

        All act on standardised values. What is missing stays so. Not for tokens; with a
        target for each step "jitter" and "scaling" only. "auto": a "time-warp" where
        convolutions read at least 64 steps, except where the further channels of
        `standardize` are in use; of less than 128 sequences, the first of the networks
        (see `n_members`) reads them as they are.
    tol : float, default=1e-4
        An epoch improves on the best loss if it is lower by more than this. With
        "one-cycle" and "cosine" training ends early only if the loss stays below this.
    max_grad_norm : float or None, default=1.0
        Gradients are scaled down to this norm. None: never.
    bptt_steps : int, "auto" or None, default="auto"
        Steps over which gradients are carried back (truncated backpropagation through
        time [12]_): a longer recurrence is trained piece by piece, the state carried
        on from each to the next, so that memory hardly grows with the length. None: all
        steps; "auto": 500 if the longest sequence has more than 2000 steps, else all.
        Ignored if bidirectional, and with a "conv" stem, whose strides shorten the
        recurrence.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the sequences (by class, where
        that can be done), stop after `n_iter_no_change` epochs without a better score
        on them, and keep the best epoch's weights. Of scores within `tol` of each other
        that with the lower loss on them is better; epochs in which "one-cycle" still
        raises the rate are not counted.
    validation_fraction : float in (0, 1), default=0.1
        Ignored unless `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement after which to stop (or, if "adaptive", to lower the
        rate): of the score on what is held out with `early_stopping`, else of the
        training loss. In the latter case "one-cycle" and "cosine" count only epochs
        whose loss is below `tol`.
    class_weight : dict, list of dict, "balanced" or None, default=None
        Weight of each class in the loss, {label: weight}. "balanced" weights classes
        inversely to their (weighted) frequency. For multilabel, "balanced" or one
        dict {0: weight, 1: weight} per label.
    warm_start : bool, default=False
        Whether `fit` goes on from the model at hand, standardisation and classes
        included. With `early_stopping` each fit holds out the same part of the same data
        if `random_state` is an integer.
    checkpoint : path-like or None, default=None
        File in which a long fit keeps how far it has come, written between epochs and
        in at most 5 % of the time. If it is there when `fit` begins, the fit goes on
        from it and ends in the same model, to the last bit, as if it had never been
        stopped; a file of other data or parameters is an error that says what differs.
        Removed when the fit ends; Ctrl-C and errors leave it. Each fit needs a path of
        its own, so it is not for searches and ensembles, which fit many clones. Ignored
        by `partial_fit`.
    random_state : int, RandomState instance or None, default=None
        Drives initial weights, order, dropout and the held-out part. None: a fresh
        seed from the operating system at each fit.
    device : str, default="auto"
        "auto" (CUDA if there is a GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        Only computation happens there; the fitted model lives on the CPU.
    dtype : {"float32", "float64", "bfloat16"}, default="float32"
        Precision of the computation. "bfloat16" trains in mixed precision and
        predicts in float32; it pays on hardware that has it.
    verbose : bool or int, default=False
        Whether to print a line per epoch. For progress bars see `set_callbacks`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels; for multilabel, the column numbers.
    n_features_in_ : int
        Number of columns of a 2-D X in `fit`; else the number of channels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, if X was a frame whose column names are all strings.
    n_channels_in_ : int
        Number of channels in `fit`.
    n_timesteps_in_ : int or None
        Number of time steps in `fit`; None if it varied.
    n_outputs_ : int
        Number of labels if multilabel, else 1.
    stem_, pooling_ : str or None
    bidirectional_ : bool
    n_members_ : int
        What "auto" stood for. No pooling with ``target="sequence"``.
    network_ : torch.nn.Module
        The network, in eval mode, on the CPU; called with a float tensor (n_samples,
        n_timesteps, n_channels), standardised, and lengths (n_samples,) or None.
    n_iter_ : int
        Epochs run.
    loss_curve_ : list of float
        Training loss of each epoch, weights included; with `warm_start` and
        `partial_fit` of all calls.
    loss_, best_loss_ : float
        Last and lowest of them; `best_loss_` is None if `early_stopping`.
    validation_scores_ : list of float or None
        Accuracy on the held-out part after each epoch of the last `fit`, samples and
        classes weighted as in the loss. None unless `early_stopping`.
    best_validation_score_ : float or None
        The highest of them.
    best_iter_ : int or None
        The epoch whose weights were kept, counted from 1. None unless `early_stopping`.

    See Also
    --------
    LSTMRegressor : Regression on sequences.

    References
    ----------
    .. [1] Hochreiter, S., Schmidhuber, J. (1997). Long short-term memory. Neural
       Computation 9(8). Gers, F., Schmidhuber, J., Cummins, F. (2000). Learning to
       forget. Neural Computation 12(10).
    .. [2] Karim, F., et al. (2018). LSTM fully convolutional networks for time series
       classification. IEEE Access 6.
    .. [3] Yang, Z., et al. (2016). Hierarchical attention networks for document
       classification. NAACL.
    .. [4] Gers, F., Schmidhuber, J. (2000). Recurrent nets that time and count.
       IJCNN.
    .. [5] Cho, K., et al. (2014). Learning phrase representations using RNN
       encoder-decoder for statistical machine translation. EMNLP.
    .. [6] Ba, J., Kiros, J., Hinton, G. (2016). Layer normalization. arXiv:1607.06450.
    .. [7] Gal, Y., Ghahramani, Z. (2016). A theoretically grounded application of
       dropout in recurrent neural networks. NeurIPS 29.
    .. [8] Merity, S., Keskar, N., Socher, R. (2018). Regularizing and optimizing LSTM
       language models. ICLR.
    .. [9] Um, T. T., et al. (2017). Data augmentation of wearable sensor data for
       Parkinson's disease monitoring using convolutional neural networks.
       arXiv:1706.00527; jitter and scaling too.
    .. [10] Le Guennec, A., Malinowski, S., Tavenard, R. (2016). Data augmentation for
       time series classification using convolutional neural networks. AALTD.
    .. [11] Zhang, H., et al. (2018). mixup: Beyond empirical risk minimization. ICLR.
    .. [12] Williams, R., Peng, J. (1990). An efficient gradient-based algorithm for
       on-line training of recurrent network trajectories. Neural Computation 2(4).

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(5, 15), 2)) for _ in range(60)]
    >>> y = ["up" if x[:, 0].sum() > 0 else "down" for x in X]
    >>> model = LSTMClassifier(hidden_size=8, random_state=0).fit(X, y)
    >>> model.predict([np.ones((7, 2)), -np.ones((9, 2))])
    array(['up', 'down'], dtype='<U4')

    A label for each time step:

    >>> steps = [np.where(x[:, 0] > 0, "up", "down") for x in X]
    >>> model = LSTMClassifier(8, target="sequence", max_iter=30, random_state=0)
    >>> model.fit(X, steps).predict([[[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]])[0]
    array(['up', 'down', 'up'], dtype='<U4')
    """

    _parameter_constraints = {
        **BaseLSTM._parameter_constraints,
        "augment": [StrOptions({"auto", *AUGMENTATIONS}), list, tuple, None],
        "class_weight": [StrOptions({"balanced"}), dict, list, tuple, None],
    }

    def __init__(
        self,
        hidden_size=64,
        *,
        num_layers=1,
        cell="lstm",
        bidirectional="auto",
        residual=False,
        layer_norm=False,
        dropout=0.2,
        variational_dropout=False,
        recurrent_dropout=0.0,
        stem="auto",
        pooling="auto",
        target="single",
        embedding=None,
        freeze_embedding=False,
        token_dropout=0.0,
        n_channels=1,
        layout="time-major",
        standardize=True,
        missing="error",
        n_members="auto",
        solver="adam",
        alpha=1e-4,
        batch_size="auto",
        learning_rate="one-cycle",
        learning_rate_init=5e-3,
        max_iter=100,
        shuffle=True,
        oversample=False,
        augment="auto",
        tol=1e-4,
        max_grad_norm=1.0,
        bptt_steps="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        class_weight=None,
        warm_start=False,
        checkpoint=None,
        random_state=None,
        device="auto",
        dtype="float32",
        verbose=False,
    ):
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.residual = residual
        self.layer_norm = layer_norm
        self.dropout = dropout
        self.variational_dropout = variational_dropout
        self.recurrent_dropout = recurrent_dropout
        self.stem = stem
        self.pooling = pooling
        self.target = target
        self.embedding = embedding
        self.freeze_embedding = freeze_embedding
        self.token_dropout = token_dropout
        self.n_channels = n_channels
        self.layout = layout
        self.standardize = standardize
        self.missing = missing
        self.n_members = n_members
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.oversample = oversample
        self.augment = augment
        self.tol = tol
        self.max_grad_norm = max_grad_norm
        self.bptt_steps = bptt_steps
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def _check_y(self, y):
        require_y(self, y)
        y = unmasked(y)
        column = y.iloc[:, 0] if hasattr(y, "iloc") and y.shape[1:] == (1,) else y
        of_pandas = hasattr(column, "to_numpy") and hasattr(column, "dtype")
        if (
            of_pandas
            and getattr(column.dtype, "kind", "O") in "iu"
            and not column.isna().any()
        ):
            # Nullable integers would become floats.
            y = column.to_numpy().reshape(y.shape)
        y = check_array(
            y, accept_sparse=True, ensure_2d=False, dtype=None, input_name="y"
        )
        if type_of_target(y, input_name="y") == "multilabel-indicator":
            y = y.toarray() if hasattr(y, "toarray") else y
            if not np.isin(y, (0, 1)).all():
                raise ValueError(
                    "A label indicator holds 0 and 1; y holds "
                    f"{np.unique(y).tolist()}. Make it y == label."
                )
            return y
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return y

    def _fit_head(self, y, weight, classes):
        return ClassificationHead().fit(y, classes)

    def _row_weight(self, head, target, weight, in_parts):
        of_row = head.row_weight(self.class_weight, target, weight)
        # A part may hold one class: by a mean of its own that class would weigh 1.
        return self._scaled(of_row, weight.mean() if in_parts else of_row.mean())

    def _keep_head(self, head):
        self.classes_ = head.classes_
        self.n_outputs_ = len(head.classes_) if head.multilabel_ else 1

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go on training for one pass over X, at a constant learning rate.

        The first call fixes the standardisation and the classes. `max_iter`,
        `learning_rate`, `early_stopping` and `n_iter_no_change` are not used, and
        ``n_members="auto"`` is one network. Weights of classes that `class_weight` gives
        count as they are, whatever classes a call brings; "balanced" counts the classes
        of each call by itself.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        classes : array-like of shape (n_classes,), default=None
            All classes that any call will bring; used at the first call only. None
            means those of that call's y.
        sample_weight : array-like of shape (n_samples,), default=None
            Counts within the call: weights of each are scaled to a mean of 1.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As in `fit`; or if a setting that training on does not change differs.
        """
        return self._partial_fit(X, y, sample_weight, classes)

    def decision_function(self, X):
        """Return the logits.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `predict`.

        Returns
        -------
        logits : ndarray of shape (n_samples,) or (n_samples, n_classes), float64
            One column per class, of several networks (`n_members`) logarithms of their
            mean probabilities; 1-D for two classes, where positive means
            ``classes_[1]``. With ``target="sequence"`` an array of arrays, as in
            `predict`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used, or has other channels than in `fit`.
        """
        return self._answer(X, "decision")

    def predict_proba(self, X):
        """Return class probabilities.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `predict`.

        Returns
        -------
        probability : ndarray of shape (n_samples, n_classes), float64
            Columns as in `classes_`; for multilabel, each label's own probability. With
            ``target="sequence"`` an object array of arrays (n_timesteps_i, n_classes).

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used, or has other channels than in `fit`.
        """
        return self._answer(X, "proba")

    def predict_log_proba(self, X):
        """Return the logarithm of class probabilities, exact for tiny ones too.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `predict`.

        Returns
        -------
        log_probability : ndarray of shape (n_samples, n_classes), float64
            As in `predict_proba`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used, or has other channels than in `fit`.
        """
        return self._answer(X, "log_proba")

    def score(self, X, y, sample_weight=None):
        """Return the accuracy; with ``target="sequence"`` over all time steps.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            As in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            Share of labels (multilabel: of rows of labels) predicted rightly.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y cannot be used, or X has other channels than in `fit`.
        """
        self._check_before_score(X, y, sample_weight)
        if not self._per_step:
            return super().score(X, unmasked(y), unmasked(sample_weight))
        y, predicted, weight = self._flat_steps(X, y, sample_weight)
        return float(accuracy_score(y, predicted, sample_weight=weight))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class LSTMRegressor(RegressorMixin, BaseLSTM):
    """Predict numbers from sequences with a long short-term memory network.

    Reads univariate and multivariate sequences, of equal or unequal length, with or
    without missing values, and integer tokens. Predictions of a sequence do not
    depend on what else is predicted with it, and the same `random_state` gives the
    same model; global random state is neither read nor changed.

    All parameters may be left as they are. They are in groups: the network (from
    `hidden_size`), how X is read (from `n_channels`), the loss (from `loss`), training
    (from `n_members`), where and how to run (from `warm_start`).

    Parameters
    ----------
    hidden_size : int, default=64
        Size of the state of each recurrent layer, and of the stem's output.
    num_layers : int, default=1
        Number of recurrent layers, one upon the other.
    cell : {"lstm", "peephole", "gru"}, default="lstm"
        Recurrent cell: LSTM [1]_ with forget gates; "peephole", whose gates also see
        the cell state, for events that must be timed precisely [4]_; or GRU [5]_.
    bidirectional : bool or "auto", default="auto"
        Whether a second recurrence reads each sequence from its end. "auto" is True
        with a "conv" stem, else False.
    residual : bool, default=False
        Whether each recurrent layer but the first adds to what it reads instead of
        replacing it, which helps where there are many. Ignored with ``num_layers=1``.
    layer_norm : bool, default=False
        Whether the output of each recurrent layer is normalised over its units, step by
        step [6]_ (before it is dropped out of and added to what the layer read).
    dropout : float in [0, 1), default=0.0
        Probability with which an output of a recurrent layer is dropped in training.
    variational_dropout : bool, default=False
        Whether `dropout` drops the same units of a sequence at every time step
        ("locked" dropout [7]_) instead of others at each. Of no effect if only the
        last state of one layer is read.
    recurrent_dropout : float in [0, 1), default=0.0
        Probability with which a weight from state to state is dropped in training,
        drawn once per batch (DropConnect, "weight dropout" [8]_). In Keras the same
        name drops states instead.
    stem : {"auto", "linear", "conv", "embedding"} or None, default="auto"
        What stands before the recurrence.

        - None: nothing, a plain LSTM;
        - "linear": one linear map with ReLU for all time steps;
        - "conv": three convolutions over time with batch normalisation [2]_, strided
          so that the recurrence takes at most 160 steps (of more than 10,240, a 64th);
          they are pooled beside the states;
        - "embedding": a trained vector for each token; X holds integer tokens;
        - "auto": "conv" if the longest training sequence has at least 8 steps, else
          None.
    pooling : {"auto", "last", "mean", "max", "mean-max", "attention"}, default="auto"
        How the states of all time steps become one vector. "last" is the final state
        (of both directions); "attention" a weighted mean with learned weights [3]_;
        "auto" is "mean-max" with a "conv" or "embedding" stem, else "last".
    target : {"single", "sequence"}, default="single"
        What y holds of a sequence: one label or value (or several, see `fit`), or one
        for each time step. With "sequence" `pooling` is ignored, "conv" has no strides,
        and "auto" stands for no stem, so that unless `bidirectional` nothing depends on
        later steps.
    embedding : array-like of shape (n_tokens, n_dimensions), default=None
        Vectors that the tokens start from, row i for token i; row 0 is padding and not
        used. Tokens beyond are unknown. None: a random start, of hidden_size dimensions.
        Only used with ``stem="embedding"``, and where training does not go on from a
        model at hand.
    freeze_embedding : bool, default=False
        Whether the vectors of `embedding` stay as given. Ignored without it.
    token_dropout : float in [0, 1), default=0.0
        Probability with which a token is read as unknown in training, so that the
        network learns to do without any one. Only used with ``stem="embedding"``.
    n_channels : int, default=1
        Number of channels in a row of a 2-D X, whose columns are read as
        n_timesteps * n_channels values, or in a 1-D array of a ragged list. Ignored for
        every other kind of X.
    layout : {"time-major", "channel-major"}, default="time-major"
        "time-major": a 3-D X is (n_samples, n_timesteps, n_channels), as in torch and
        Keras, and a 2-D row holds all channels of a step together. "channel-major":
        (n_samples, n_channels, n_timesteps), as in sktime, a 2-D row holds all steps
        of a channel together, and arrays in a ragged list are (n_channels,
        n_timesteps_i). Ignored for frames that say what their rows are: in a list, with
        an (instance, time) index, or nested.
    standardize : bool, default=True
        Whether to bring each channel to mean 0 and standard deviation 1, over all
        training sequences and steps. Where convolutions read sequences of one length
        that hardly differ from their mean curve, as spectra do (1 % of the variance),
        the distance from that curve, standardised, is added as further channels, unless
        `augment` names an augmentation. Ignored for tokens.
    missing : {"error", "mask"}, default="error"
        What to do about NaN: raise an error; or take trailing steps that are NaN in
        every channel as the end of the sequence and show the network, in one more
        channel per channel, which other values are missing. Infinity is an error. With
        ``target="sequence"`` only the rows of an array end so.
    loss : {"squared_error", "absolute_error", "huber", "quantile"}, \
default="squared_error"
        What is minimised. The median follows from "absolute_error"; "huber" [13]_ is
        squared near 0 and absolute beyond `epsilon`. With "squared_error", several
        networks (`n_members`) and 40 distinct sequences or more, each network leaves out
        a tenth of them, and predictions are drawn to the mean as far as these ask for
        [15]_: what is learnt from noise is not predicted. Not with `early_stopping`.
    quantile : float in (0, 1) or sequence of them, default=0.5
        Quantiles to predict. Only used with ``loss="quantile"`` [14]_. With a sequence,
        predictions have one more axis and never cross.
    epsilon : float, default=1.35
        Where "huber" turns linear, in standard deviations of y (in units of y without
        `normalize_y`). Only used with ``loss="huber"``.
    normalize_y : bool, default=True
        Whether targets are brought to mean 0 and standard deviation 1 in training.
    n_members : int or "auto", default="auto"
        Networks to train, each from a start and with orders of its own, side by side
        where the CPU has several cores; probabilities or predictions are averaged.
        "auto": where convolutions read at least 32 steps, 3 for up to 341 training
        sequences, 2 for up to 512; else 1. Must be 1 with ``stem="embedding"``.
    solver : {"adam", "adamw", "sgd"}, default="adam"
        "sgd" has Nesterov momentum of 0.9.
    alpha : float, default=0.03
        Strength of the L2 penalty; with ``solver="adamw"``, of decoupled weight
        decay. Biases are spared.
    batch_size : int or "auto", default="auto"
        Sequences per step of the solver. "auto" is an eighth of the training set, at
        least 8 and at most 64.
    learning_rate : {"one-cycle", "cosine", "constant", "adaptive"}, \
default="one-cycle"
        Schedule: up to `learning_rate_init` and down to 0 over `max_iter` epochs; only
        down; constant; or divided by 5 whenever there was no improvement for
        `n_iter_no_change` epochs.
    learning_rate_init : float, default=5e-3
        Highest learning rate.
    max_iter : int, default=100
        Epochs, passes over the (distinct) training sequences.
    shuffle : bool, default=True
        Whether to visit sequences in a new order in every epoch. If True, the model
        does not depend on the order of the rows, and equal rows are merged into one
        with their weights added.
    oversample : bool, default=False
        Whether weights (of samples; a classifier's of classes too) say how often a
        sequence is drawn in an epoch, instead of how much its loss counts, so that rare
        ones are met several times rather than once with large gradients. An epoch has
        as many draws as there are distinct sequences.
    augment : str, sequence of str or None, default=None
        How sequences are varied at random in training, anew in every epoch: one or
        several (in any order) of

        - "jitter": noise of standard deviation 0.05 is added to every value;
        - "scaling": each channel is multiplied with a factor drawn from N(1, 0.1);
        - "time-warp": time runs faster and slower, along a smooth curve [9]_;
        - "window-slice": 90 % of the sequence, from a random place on [10]_, stretched
          to its length;
        - "mixup": two sequences of a batch are mixed, and their losses in the same
          proportion, drawn uniformly [11]_.

        All act on standardised values. What is missing stays so. Not for tokens; with a
        target for each step "jitter" and "scaling" only.
    tol : float, default=1e-4
        An epoch improves on the best loss if it is lower by more than this. With
        "one-cycle" and "cosine" training ends early only if the loss stays below this.
    max_grad_norm : float or None, default=1.0
        Gradients are scaled down to this norm. None: never.
    bptt_steps : int, "auto" or None, default="auto"
        Steps over which gradients are carried back (truncated backpropagation through
        time [12]_): a longer recurrence is trained piece by piece, the state carried
        on from each to the next, so that memory hardly grows with the length. None: all
        steps; "auto": 500 if the longest sequence has more than 2000 steps, else all.
        Ignored if bidirectional, and with a "conv" stem, whose strides shorten the
        recurrence.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the sequences (by class, where
        that can be done), stop after `n_iter_no_change` epochs without a better score
        on them, and keep the best epoch's weights. Of scores within `tol` of each other
        that with the lower loss on them is better; epochs in which "one-cycle" still
        raises the rate are not counted.
    validation_fraction : float in (0, 1), default=0.1
        Ignored unless `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement after which to stop (or, if "adaptive", to lower the
        rate): of the score on what is held out with `early_stopping`, else of the
        training loss. In the latter case "one-cycle" and "cosine" count only epochs
        whose loss is below `tol`.
    warm_start : bool, default=False
        Whether `fit` goes on from the model at hand, standardisation and classes
        included. With `early_stopping` each fit holds out the same part of the same data
        if `random_state` is an integer.
    checkpoint : path-like or None, default=None
        File in which a long fit keeps how far it has come, written between epochs and
        in at most 5 % of the time. If it is there when `fit` begins, the fit goes on
        from it and ends in the same model, to the last bit, as if it had never been
        stopped; a file of other data or parameters is an error that says what differs.
        Removed when the fit ends; Ctrl-C and errors leave it. Each fit needs a path of
        its own, so it is not for searches and ensembles, which fit many clones. Ignored
        by `partial_fit`.
    random_state : int, RandomState instance or None, default=None
        Drives initial weights, order, dropout and the held-out part. None: a fresh
        seed from the operating system at each fit.
    device : str, default="auto"
        "auto" (CUDA if there is a GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        Only computation happens there; the fitted model lives on the CPU.
    dtype : {"float32", "float64", "bfloat16"}, default="float32"
        Precision of the computation. "bfloat16" trains in mixed precision and
        predicts in float32; it pays on hardware that has it.
    verbose : bool or int, default=False
        Whether to print a line per epoch. For progress bars see `set_callbacks`.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns of a 2-D X in `fit`; else the number of channels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, if X was a frame whose column names are all strings.
    n_channels_in_ : int
        Number of channels in `fit`.
    n_timesteps_in_ : int or None
        Number of time steps in `fit`; None if it varied.
    n_outputs_ : int
        Number of targets.
    shrinkage_ : ndarray of shape (`n_outputs_`,)
        What is left of how far the networks' predictions are from the mean (see `loss`):
        0 where nothing was learnt that holds for others; 1 where nothing was left out,
        as with ``target="sequence"``, and again once training has gone on (`warm_start`,
        `partial_fit`).
    stem_, pooling_ : str or None
    bidirectional_ : bool
    n_members_ : int
        What "auto" stood for. No pooling with ``target="sequence"``.
    network_ : torch.nn.Module
        The network, in eval mode, on the CPU; called with a float tensor (n_samples,
        n_timesteps, n_channels), standardised, and lengths (n_samples,) or None.
    n_iter_ : int
        Epochs run.
    loss_curve_ : list of float
        Training loss of each epoch, weights included; with `warm_start` and
        `partial_fit` of all calls.
    loss_, best_loss_ : float
        Last and lowest of them; `best_loss_` is None if `early_stopping`.
    validation_scores_ : list of float or None
        R2 (with quantiles, D2 pinball score) on the held-out part after each epoch.
        None unless `early_stopping`.
    best_validation_score_ : float or None
        The highest of them.
    best_iter_ : int or None
        The epoch whose weights were kept, counted from 1. None unless `early_stopping`.

    See Also
    --------
    LSTMClassifier : Classification of sequences.

    References
    ----------
    .. [1] Hochreiter, S., Schmidhuber, J. (1997). Long short-term memory. Neural
       Computation 9(8). Gers, F., Schmidhuber, J., Cummins, F. (2000). Learning to
       forget. Neural Computation 12(10).
    .. [2] Karim, F., et al. (2018). LSTM fully convolutional networks for time series
       classification. IEEE Access 6.
    .. [3] Yang, Z., et al. (2016). Hierarchical attention networks for document
       classification. NAACL.
    .. [4] Gers, F., Schmidhuber, J. (2000). Recurrent nets that time and count.
       IJCNN.
    .. [5] Cho, K., et al. (2014). Learning phrase representations using RNN
       encoder-decoder for statistical machine translation. EMNLP.
    .. [6] Ba, J., Kiros, J., Hinton, G. (2016). Layer normalization. arXiv:1607.06450.
    .. [7] Gal, Y., Ghahramani, Z. (2016). A theoretically grounded application of
       dropout in recurrent neural networks. NeurIPS 29.
    .. [8] Merity, S., Keskar, N., Socher, R. (2018). Regularizing and optimizing LSTM
       language models. ICLR.
    .. [9] Um, T. T., et al. (2017). Data augmentation of wearable sensor data for
       Parkinson's disease monitoring using convolutional neural networks.
       arXiv:1706.00527; jitter and scaling too.
    .. [10] Le Guennec, A., Malinowski, S., Tavenard, R. (2016). Data augmentation for
       time series classification using convolutional neural networks. AALTD.
    .. [11] Zhang, H., et al. (2018). mixup: Beyond empirical risk minimization. ICLR.
    .. [12] Williams, R., Peng, J. (1990). An efficient gradient-based algorithm for
       on-line training of recurrent network trajectories. Neural Computation 2(4).
    .. [13] Huber, P. J. (1964). Robust estimation of a location parameter. Annals of
       Mathematical Statistics 35(1).
    .. [14] Koenker, R., Bassett, G. (1978). Regression quantiles. Econometrica 46(1).
    .. [15] Copas, J. B. (1983). Regression, prediction and shrinkage. Journal of the
       Royal Statistical Society B 45(3).

    Examples
    --------
    >>> import numpy as np
    >>> from sklstm import LSTMRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 10))  # 200 sequences of 10 time steps
    >>> y = X[:, -3:].sum(axis=1)
    >>> model = LSTMRegressor(hidden_size=16, random_state=0).fit(X[:150], y[:150])
    >>> bool(model.score(X[150:], y[150:]) > 0.9)
    True
    """

    _parameter_constraints = {
        **BaseLSTM._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION_LOSSES))],
        "quantile": [Interval(Real, 0, 1, closed="neither"), "array-like"],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "normalize_y": ["boolean"],
    }

    def __init__(
        self,
        hidden_size=64,
        *,
        num_layers=1,
        cell="lstm",
        bidirectional="auto",
        residual=False,
        layer_norm=False,
        dropout=0.0,
        variational_dropout=False,
        recurrent_dropout=0.0,
        stem="auto",
        pooling="auto",
        target="single",
        embedding=None,
        freeze_embedding=False,
        token_dropout=0.0,
        n_channels=1,
        layout="time-major",
        standardize=True,
        missing="error",
        loss="squared_error",
        quantile=0.5,
        epsilon=1.35,
        normalize_y=True,
        n_members="auto",
        solver="adam",
        alpha=0.03,
        batch_size="auto",
        learning_rate="one-cycle",
        learning_rate_init=5e-3,
        max_iter=100,
        shuffle=True,
        oversample=False,
        augment=None,
        tol=1e-4,
        max_grad_norm=1.0,
        bptt_steps="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        checkpoint=None,
        random_state=None,
        device="auto",
        dtype="float32",
        verbose=False,
    ):
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.residual = residual
        self.layer_norm = layer_norm
        self.dropout = dropout
        self.variational_dropout = variational_dropout
        self.recurrent_dropout = recurrent_dropout
        self.stem = stem
        self.pooling = pooling
        self.target = target
        self.embedding = embedding
        self.freeze_embedding = freeze_embedding
        self.token_dropout = token_dropout
        self.n_channels = n_channels
        self.layout = layout
        self.standardize = standardize
        self.missing = missing
        self.loss = loss
        self.quantile = quantile
        self.epsilon = epsilon
        self.normalize_y = normalize_y
        self.n_members = n_members
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.oversample = oversample
        self.augment = augment
        self.tol = tol
        self.max_grad_norm = max_grad_norm
        self.bptt_steps = bptt_steps
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        try:
            quantiles = np.asarray(self.quantile, dtype=np.float64)
        except (TypeError, ValueError):
            quantiles = np.empty((0, 0))
        if quantiles.ndim > 1:
            raise ValueError(
                f"quantile must be a number or a flat list; got {self.quantile!r}."
            )
        if not quantiles.size or not ((quantiles > 0) & (quantiles < 1)).all():
            raise ValueError(
                f"quantile must lie strictly between 0 and 1; got {self.quantile!r}."
            )

    def _fixed_settings(self):
        head = self.head_
        fixed = super()._fixed_settings()
        fixed |= {"loss": head.loss_name, "normalize_y": head.normalize_y}
        if head.loss_name == "huber":
            fixed["epsilon"] = head.epsilon
        if head.quantiles is not None:
            several = head.several_quantiles
            fixed["quantile"] = head.quantiles.tolist() if several else head.quantiles[0]
        return fixed

    def _check_y(self, y):
        require_y(self, y)
        y = unmasked(y)
        _refuse_times(y)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return y

    def _fit_head(self, y, weight, classes):
        head = RegressionHead(self.loss, self.quantile, self.epsilon, self.normalize_y)
        return head.fit(y, weight)

    def _keep_head(self, head):
        self.n_outputs_, self.shrinkage_ = head.n_outputs_, np.ones(head.n_outputs_)

    def _leave_out(self, n_rows, n_members, random):
        shrinks = self.loss == "squared_error" and self.target == "single"
        if not shrinks or n_members == 1 or n_rows < max(MIN_ROWS, n_members):
            return None
        return LeftOutRows(n_rows, n_members, random.split_seed)

    def partial_fit(self, X, y, sample_weight=None):
        """Go on training for one pass over X, at a constant learning rate.

        The first call fixes the standardisation of X and y. `max_iter`,
        `learning_rate`, `early_stopping` and `n_iter_no_change` are not used, and
        ``n_members="auto"`` is one network.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Counts within the call: weights of each are scaled to a mean of 1.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As in `fit`; or if a setting that training on does not change differs.
        """
        return self._partial_fit(X, y, sample_weight)

    def score(self, X, y, sample_weight=None):
        """Return R2, or with ``loss="quantile"`` the mean D2 pinball score.

        With ``target="sequence"`` over all time steps.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            As in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            At most 1; 0 is what a constant prediction reaches.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X or y cannot be used, or X has other channels than in `fit`.
        """
        self._check_before_score(X, y, sample_weight)
        if self._per_step:
            y, predicted, sample_weight = self._flat_steps(X, y, sample_weight)
        else:
            predicted, y = self.predict(X), unmasked(y)
            sample_weight = unmasked(sample_weight)
            check_consistent_length(predicted, y, sample_weight)
        _refuse_times(y)
        if self.head_.quantiles is None:
            return float(r2_score(y, predicted, sample_weight=sample_weight))
        y = np.asarray(y, dtype=np.float64).reshape(len(predicted), -1)
        if y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {y.shape[1]} targets, but in fit it had {self.n_outputs_}."
            )
        predicted = predicted.reshape(*y.shape, -1)  # (n, n_outputs, n_quantiles)
        return pinball_skill(y, predicted, self.head_.quantiles, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _refuse_times(y):
    """Raise where y holds dates or spans of time, which NumPy makes numbers of."""
    is_frame = hasattr(y, "columns") and hasattr(y, "dtypes")
    for column in [y[name] for name in y.columns] if is_frame else [np.asarray(y)]:
        for first in np.ravel(column)[:1]:
            if isinstance(first, TIMES):
                kind = type(first).__name__
                raise ValueError(f"y holds times, a {kind} first. Make numbers of them.")
