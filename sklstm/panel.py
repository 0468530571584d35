"""Guest: LSTMClassifier and LSTMRegressor behind sktime's panel interfaces.

No logic of their own: sktime checks and converts the panel, the wrapped estimator, kept
in `estimator_`, does all else.
"""

from __future__ import annotations

import numpy as np
from sktime.classification.base import BaseClassifier
from sktime.regression.base import BaseRegressor

from sklstm.estimators import LSTMClassifier, LSTMRegressor
from sklstm.sequences import require_same_instances

TAGS = {
    "authors": ["sklstm developers"],
    "maintainers": ["sklstm developers"],
    "python_dependencies": "torch",
    # numpy3D, where that is what came; a list of frames has no need of equal lengths.
    "X_inner_mtype": ["df-list", "numpy3D"],
    "capability:multivariate": True,
    "capability:unequal_length": True,
    "capability:missing_values": True,
    "capability:categorical_in_X": False,
    "capability:random_state": True,
    "property:randomness": "derandomized",
}


class _WithInstances:
    """What stands before sktime's `fit`, which forgets what instances y is of."""

    def fit(self, X, y):
        """Fit to a panel.

        Parameters
        ----------
        X : panel in an sktime format
            n_instances series.
        y : array-like of shape (n_instances,) or (n_instances, n_outputs)
            Class labels, or numbers. Where it and X are pandas objects, its index has
            the instances in the order of X, or is one of its own.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If y has the instances of X in another order, or either or a parameter cannot
            be used.
        """
        require_same_instances(X, y)
        return super().fit(X, y)

    def score(self, X, y, **settings):
        """Score predictions of a panel, as sktime does: accuracy, or R2.

        Parameters
        ----------
        X : panel in an sktime format
            n_instances series.
        y : array-like of shape (n_instances,) or (n_instances, n_outputs)
            As in `fit`.
        **settings
            Of a regressor `multioutput`, as `sklearn.metrics.r2_score` takes it.

        Returns
        -------
        score : float

        Raises
        ------
        ValueError
            If y has the instances of X in another order, or either cannot be used.
        """
        require_same_instances(X, y)
        return super().score(X, y, **settings)

    def _as_read(self, X):
        """Return a panel as `estimator_` takes it: tokens have no axis of channels."""
        is_array = isinstance(X, np.ndarray) and X.ndim == 3
        return X[:, 0] if is_array and self.stem == "embedding" else X


class LSTMTimeSeriesClassifier(_WithInstances, BaseClassifier):
    """Classify time series in sktime with a long short-term memory network.

    `LSTMClassifier` for sktime's panels, pipelines, searches and benchmarks: series
    with one or many channels, of equal or unequal length, with or without missing
    values. Its parameters are those of `LSTMClassifier`, less `n_channels` and `layout`,
    which the panel tells, `target`, as sktime has a label per series, and `warm_start`,
    as its `fit` always starts anew. Tokens come in one column or channel.

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
    standardize : bool, default=True
        Whether to bring each channel to mean 0 and standard deviation 1, over all
        training sequences and steps. Where convolutions read sequences of one length
        that hardly differ from their mean curve, as spectra do (1 % of the variance),
        the distance from that curve, standardised, is added as further channels, unless
        `augment` names an augmentation. Ignored for tokens.
    missing : {"error", "mask"}, default="mask"
        What to do about NaN: raise an error; or take trailing steps that are NaN in
        every channel as the end of the sequence and show the network, in one more
        channel per channel, which other values are missing. Infinity is an error.
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
    checkpoint : path-like or None, default=None
        File in which a long fit keeps how far it has come, written between epochs and
        in at most 5 % of the time. If it is there when `fit` begins, the fit goes on
        from it and ends in the same model, to the last bit, as if it had never been
        stopped; a file of other data or parameters is an error that says what differs.
        Removed when the fit ends; Ctrl-C and errors leave it. Each fit needs a path of
        its own, so it is not for searches and ensembles, which fit many clones.
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
        Whether to print a line per epoch.

    Attributes
    ----------
    estimator_ : LSTMClassifier
        What was fitted, with all its attributes and methods, `embed` for one; absent if
        y had one class only. Its ``layout`` is "channel-major".
    classes_ : ndarray of shape (n_classes,)
        Class labels.

    See Also
    --------
    LSTMClassifier : The same for scikit-learn.

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
    >>> from sktime.datasets import load_unit_test
    >>> from sklstm import LSTMTimeSeriesClassifier
    >>> X_train, y_train = load_unit_test(split="train")
    >>> X_test, y_test = load_unit_test(split="test")
    >>> classifier = LSTMTimeSeriesClassifier(8, max_iter=30, random_state=0)
    >>> classifier.fit(X_train, y_train).predict(X_test[:3])
    array(['1', '1', '1'], dtype='<U1')
    """

    _tags = {
        **TAGS,
        "capability:predict_proba": True,
        "capability:class_weight": True,
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
        embedding=None,
        freeze_embedding=False,
        token_dropout=0.0,
        standardize=True,
        missing="mask",
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
        self.embedding = embedding
        self.freeze_embedding = freeze_embedding
        self.token_dropout = token_dropout
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
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose
        super().__init__()
        self.set_tags(**{"capability:missing_values": missing == "mask"})

    def _fit(self, X, y):
        settings = self.get_params(deep=False)
        self.estimator_ = LSTMClassifier(layout="channel-major", **settings)
        self.estimator_.fit(self._as_read(X), y)
        return self

    def _predict(self, X):
        return self.estimator_.predict(self._as_read(X))

    def _predict_proba(self, X):
        return self.estimator_.predict_proba(self._as_read(X))

    @classmethod
    def get_test_params(cls, parameter_set="default"):
        """Return settings for sktime's checks.

        Parameters
        ----------
        parameter_set : str, default="default"

        Returns
        -------
        params : list of dict
        """
        tiny = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
        return [
            tiny,
            {**tiny, "stem": None, "bidirectional": True, "class_weight": "balanced"},
        ]


class LSTMTimeSeriesRegressor(_WithInstances, BaseRegressor):
    """Predict numbers from time series in sktime with a long short-term memory network.

    `LSTMRegressor` for sktime's panels, pipelines, searches and benchmarks: series with
    one or many channels, of equal or unequal length, with or without missing values; one
    or several targets, which share a network. Its parameters are those of
    `LSTMRegressor`, less `n_channels` and `layout`, which the panel tells, `target`, as
    sktime's targets are of whole series, and `warm_start`, as its `fit` always starts
    anew. Tokens come in one column or channel.

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
    standardize : bool, default=True
        Whether to bring each channel to mean 0 and standard deviation 1, over all
        training sequences and steps. Where convolutions read sequences of one length
        that hardly differ from their mean curve, as spectra do (1 % of the variance),
        the distance from that curve, standardised, is added as further channels, unless
        `augment` names an augmentation. Ignored for tokens.
    missing : {"error", "mask"}, default="mask"
        What to do about NaN: raise an error; or take trailing steps that are NaN in
        every channel as the end of the sequence and show the network, in one more
        channel per channel, which other values are missing. Infinity is an error.
    loss : {"squared_error", "absolute_error", "huber", "quantile"}, \
default="squared_error"
        What is minimised. The median follows from "absolute_error"; "huber" [13]_ is
        squared near 0 and absolute beyond `epsilon`. With "squared_error", several
        networks (`n_members`) and 40 distinct sequences or more, each network leaves out
        a tenth of them, and predictions are drawn to the mean as far as these ask for
        [15]_: what is learnt from noise is not predicted. Not with `early_stopping`.
    quantile : float in (0, 1), default=0.5
        Quantile to predict. Only used with ``loss="quantile"`` [14]_.
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
    checkpoint : path-like or None, default=None
        File in which a long fit keeps how far it has come, written between epochs and
        in at most 5 % of the time. If it is there when `fit` begins, the fit goes on
        from it and ends in the same model, to the last bit, as if it had never been
        stopped; a file of other data or parameters is an error that says what differs.
        Removed when the fit ends; Ctrl-C and errors leave it. Each fit needs a path of
        its own, so it is not for searches and ensembles, which fit many clones.
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
        Whether to print a line per epoch.

    Attributes
    ----------
    estimator_ : LSTMRegressor
        What was fitted, with all its attributes and methods, `embed` for one. Its
        ``layout`` is "channel-major".

    See Also
    --------
    LSTMRegressor : The same for scikit-learn.

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
    >>> from sktime.datasets import load_unit_test
    >>> from sklstm import LSTMTimeSeriesRegressor
    >>> X, _ = load_unit_test(split="train", return_type="numpy3D")
    >>> y = X[:, 0, -1]
    >>> regressor = LSTMTimeSeriesRegressor(8, max_iter=30, random_state=0)
    >>> regressor.fit(X, y).predict(X[:3]).shape
    (3,)
    """

    _tags = {
        **TAGS,
        "y_inner_mtype": "numpy2D",
        "capability:multioutput": True,
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
        embedding=None,
        freeze_embedding=False,
        token_dropout=0.0,
        standardize=True,
        missing="mask",
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
        self.embedding = embedding
        self.freeze_embedding = freeze_embedding
        self.token_dropout = token_dropout
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
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose
        super().__init__()
        self.set_tags(**{"capability:missing_values": missing == "mask"})

    def _fit(self, X, y):
        settings = self.get_params(deep=False)
        if np.ndim(self.quantile):
            raise ValueError(
                "sktime's regressors predict one value of each target, so quantile must "
                f"be a number; got {self.quantile!r}. LSTMRegressor takes several."
            )
        y = y[:, 0] if y.shape[1] == 1 else y
        self.estimator_ = LSTMRegressor(layout="channel-major", **settings)
        self.estimator_.fit(self._as_read(X), y)
        return self

    def _predict(self, X):
        return self.estimator_.predict(self._as_read(X))

    @classmethod
    def get_test_params(cls, parameter_set="default"):
        """Return settings for sktime's checks.

        Parameters
        ----------
        parameter_set : str, default="default"

        Returns
        -------
        params : list of dict
        """
        tiny = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
        return [tiny, {**tiny, "stem": None, "cell": "gru", "loss": "quantile"}]
