"""BaseLSTM: what LSTMClassifier and LSTMRegressor share, over the leaves.

`BaseLSTM._fit` is the table of contents: read, encode, build, train, keep.
"""

from __future__ import annotations

import copy
import difflib
import functools
import itertools
import os
import warnings
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
)

from sklstm.augmentation import (
    AUGMENTATIONS,
    OF_VALUES,
    AugmentedBatches,
    mixed_gradient,
    mixed_loss,
)
from sklstm.checkpoints import Checkpoint, identity
from sklstm.devices import (
    insulated,
    resolve_device,
    retained_memory,
    side_by_side,
    threads_for,
    torch_threads,
    working_on,
)
from sklstm.gradients import differentiate
from sklstm.heads import (
    ClassificationHead,
    step_gradient,
    step_loss,
)
from sklstm.modules import CELLS, POOLINGS, conv_kernel_sizes, conv_strides
from sklstm.network import RecurrentNetwork, initialize, resolve_auto
from sklstm.sequences import (
    N_RESERVED_TOKENS,
    SequenceEncoder,
    Sequences,
    distinct_rows,
    is_ragged,
    pad_steps,
    read_steps,
    require_same_instances,
    split_steps,
    unmasked,
)
from sklstm.shrinkage import shrinkage
from sklstm.training import (
    Learner,
    Randomness,
    SequenceBatches,
    forward,
    train,
)

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9 has no callbacks
    # mypy sees both definitions; only one of them is ever made.
    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stand-in that accepts no callbacks."""

    def with_callbacks(method):
        """Return the method as it is."""
        return method


# bptt_steps="auto": sequences of more steps than MAX_BPTT_STEPS are trained on pieces of
# at most BPTT_STEPS.
BPTT_STEPS, MAX_BPTT_STEPS = 500, 2000
# augment="auto" warps time in sequences of at least MIN_WARPED_TIMESTEPS; of fewer rows
# than MIN_WARPED_ROWS not for the first network, which reads them as they are.
MIN_WARPED_ROWS, MIN_WARPED_TIMESTEPS = 128, 64
# n_members="auto": at most MAX_MEMBERS networks, which read at most MEMBERS_TIMES_ROWS
# sequences in all, of at least MIN_AVERAGED_TIMESTEPS.
MAX_MEMBERS, MEMBERS_TIMES_ROWS, MIN_AVERAGED_TIMESTEPS = 3, 1024, 32
# What no later fit changes: settings of the network and of how X is read.
NETWORK_SETTINGS = (
    "hidden_size", "num_layers", "cell", "bidirectional", "residual", "layer_norm",
    "dropout", "variational_dropout", "recurrent_dropout", "token_dropout", "stem",
    "pooling", "n_members",
)  # fmt: skip
ENCODER_SETTINGS = "n_channels", "layout", "standardize", "missing"
MAX_WEIGHT = 1e150  # of a row: sums of products with it do not overflow
PREDICT_CHUNK = 8192  # rows encoded at once in prediction, to bound its memory
PREDICT_VALUES = 2**25  # and raw outputs at once, where every time step has some
TRAIN_SETTINGS = (
    "solver", "learning_rate_init", "alpha", "tol", "max_grad_norm",
    "n_iter_no_change", "verbose",
)  # fmt: skip


class BaseLSTM(CallbackSupportMixin, BaseEstimator, ABC):
    """What LSTMClassifier and LSTMRegressor share; not for use by itself.

    The leaves differ in how y is checked, in the head, and in what they predict.
    """

    _parameter_constraints = {
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "num_layers": [Interval(Integral, 1, None, closed="left")],
        "cell": [StrOptions(set(CELLS))],
        "bidirectional": ["boolean", StrOptions({"auto"})],
        "residual": ["boolean"],
        "layer_norm": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "variational_dropout": ["boolean"],
        "recurrent_dropout": [Interval(Real, 0, 1, closed="left")],
        "stem": [StrOptions({"auto", "linear", "conv", "embedding"}), None],
        "pooling": [StrOptions({"auto", *POOLINGS})],
        "target": [StrOptions({"single", "sequence"})],
        "embedding": ["array-like", None],
        "freeze_embedding": ["boolean"],
        "token_dropout": [Interval(Real, 0, 1, closed="left")],
        "n_channels": [Interval(Integral, 1, None, closed="left")],
        "layout": [StrOptions({"time-major", "channel-major"})],
        "standardize": ["boolean"],
        "missing": [StrOptions({"error", "mask"})],
        "n_members": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "solver": [StrOptions({"adam", "adamw", "sgd"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "one-cycle", "cosine", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "oversample": ["boolean"],
        "augment": [StrOptions(set(AUGMENTATIONS)), list, tuple, None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "bptt_steps": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "checkpoint": [str, os.PathLike, None],
        "random_state": ["random_state"],
        "device": [str],
        "dtype": [StrOptions({"float32", "float64", "bfloat16"})],
        "verbose": ["verbose"],
    }

    # ------------------------------------------------------- for the two estimators
    @abstractmethod
    def _check_y(self, y):
        """Return y as an array: (n,) or (n, n_outputs)."""

    @abstractmethod
    def _fit_head(self, y, weight, classes):
        """Return a fitted head."""

    def _row_weight(self, head, target, weight, in_parts):
        """Return what each row counts in the loss: 1 on average.

        `in_parts` says that they are some of many rows: weights of classes, which say
        how these relate to the others, are then not scaled away.
        """
        return self._scaled(weight, weight.mean())

    @staticmethod
    def _scaled(weight, mean):
        if not weight.any():
            raise ValueError(
                "Every row counts nothing: its weight, or that of its class, is 0. Give "
                "one of the classes that y holds here a class_weight above 0."
            )
        # Scaled once over all rows: a scale per batch would undo the weights.
        return weight / mean

    @abstractmethod
    def _keep_head(self, head):
        """Set the fitted attributes that the head knows."""

    def _leave_out(self, n_rows, n_members, random):
        """Return the `LeftOutRows` of the networks; None where none are left out."""

    # ------------------------------------------------------------------------- fit
    @with_callbacks
    def fit(self, X, y, sample_weight=None):
        """Fit the model.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            One of

            - (n_samples, n_timesteps * n_channels), array or DataFrame: see
              `n_channels` and `layout`;
            - (n_samples, n_timesteps, n_channels), with the last two axes exchanged
              for ``layout="channel-major"``;
            - a list or object array of n_samples arrays or DataFrames of shape
              (n_timesteps_i, n_channels) or (n_timesteps_i,); arrays the other way
              round for ``layout="channel-major"``;
            - a DataFrame with an (instance, time) row index, a column per channel;
            - a nested DataFrame whose cells are Series or arrays over time;
            - with ``stem="embedding"``, integer tokens: (n_samples, n_timesteps) or
              ragged. Token 0 at either end is padding, elsewhere an unknown token.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels or a 0/1 label indicator for the classifier; numbers for the
            regressor. With ``target="sequence"`` one of these for each time step: a
            list or object array of n_samples arrays (n_timesteps_i,) or
            (n_timesteps_i, n_outputs), or one array (n_samples, n_timesteps[,
            n_outputs]).
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, not negative. With ``shuffle=True`` a weight of 2 is the same as the
            row twice, exactly; a weight of 0 is the same as its absence, but that a
            classifier knows of its class. None means 1 for every row.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X, y, a parameter or the device cannot be used, or the loss becomes
            infinite or NaN.
        """
        self._check_parameters()
        goes_on = self.warm_start and hasattr(self, "network_")
        history = self._fit(
            X,
            y,
            sample_weight,
            goes_on=goes_on,
            leaves_out=not (goes_on or self.early_stopping),
            n_members=self.n_members,
            max_iter=self.max_iter,
            learning_rate=self.learning_rate,
            early_stopping=self.early_stopping,
            on_epoch=_EpochCallbacks(self, X, y, sample_weight),
            checkpoint=self.checkpoint,
        )
        if not history.converged:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached "
                "and the optimization hasn't converged yet. Increase max_iter.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    @insulated
    def _fit(self, X, y, sample_weight, **settings):
        """Fit; if that fails, what is known of the columns of X is what it was."""
        names = "n_features_in_", "feature_names_in_"
        before = {name: vars(self)[name] for name in names if name in vars(self)}
        encoder = vars(self).get("encoder_")
        try:
            return self._fit_anew_or_on(X, y, sample_weight, **settings)
        except BaseException:
            if vars(self).get("encoder_") is not encoder:
                raise  # after all was kept: a callback at the end, say
            for name in names:
                vars(self).pop(name, None)
            vars(self).update(before)
            raise

    def _fit_anew_or_on(
        self, X, y, sample_weight, *, goes_on, n_members, max_iter, learning_rate,
        early_stopping, leaves_out=False, classes=None, in_parts=False,
        optimizer_state=None, on_epoch=None, checkpoint=None,
    ):  # fmt: skip
        """Fit anew, or go on from what has been fitted."""
        device = resolve_device(self.device)
        if goes_on:
            self._check_fixed_settings()
        n_iter, seed = self.n_iter_ if goes_on else 0, None
        if checkpoint is not None:
            checkpoint = Checkpoint(checkpoint)
            seed = checkpoint.seed
        random = Randomness(self.random_state, device, n_iter, seed)
        encoder, head, training = self._read(
            X, y, sample_weight, goes_on, classes, in_parts
        )
        if goes_on:
            network = copy.deepcopy(self.network_)
        else:
            network = self._make_network(
                encoder, training.encoded, head, random, n_members
            )
        n_members, validation, left_out = len(network.members), None, None
        if early_stopping:
            training, validation = self._split(training, random)
        if leaves_out:
            left_out = self._leave_out(len(training), n_members, random)
        draws = random.of_members(n_members)
        if checkpoint is not None:
            fit = self._identity(network, training, validation, random, n_iter)
            checkpoint.begin(fit, [*itertools.chain(*draws)])
        if on_epoch is not None:
            on_epoch.begin(encoder, head, network, goes_on)
        history = self._train(
            network, head, training, validation, left_out, draws, encoder,
            max_iter=max_iter, learning_rate=learning_rate,
            optimizer_state=optimizer_state, on_epoch=on_epoch, checkpoint=checkpoint,
        )  # fmt: skip
        network.cpu()
        borne_out = None
        if left_out is not None:
            borne_out = _shrink(network, training, left_out, device)
        self._keep(encoder, head, network, history, goes_on, borne_out)
        if checkpoint is not None and not history.interrupted:
            checkpoint.remove()
        if on_epoch is not None:
            on_epoch.finish()
        return history

    def _read(self, X, y, sample_weight, goes_on, classes, in_parts):
        """Return the encoder and the head, fitted, and what to train on, `_Rows`."""
        encoder = self.encoder_ if goes_on else self._make_encoder()
        sequences = encoder.read(X, self, reset=not goes_on)
        require_same_instances(X, y)
        require_same_instances(X, sample_weight, "sample_weight")
        all_y, rows, weight = self._distinct_rows(sequences, y, sample_weight)
        y = all_y[rows]
        if not goes_on:
            stem, *_ = self._resolve_auto(int(sequences.lengths[rows].max()))
            deviations = stem == "conv" and self.augment in (None, "auto")
            encoder.fit(sequences, rows, weight, deviations=deviations)
        encoded = encoder.encode(sequences, rows)
        per_step, n_rows = self.target == "sequence", len(rows)
        if per_step:  # to the head, every step is a row
            y, weight = np.concatenate(y), np.repeat(weight, encoded.lengths)
            all_y = np.concatenate(all_y)
        if classes is None:  # those of rows that count nothing as well
            classes = all_y
        head = self.head_ if goes_on else self._fit_head(y, weight, classes)
        target = head.encode(y)
        weight = self._row_weight(head, target, weight, in_parts)
        if per_step:  # every step counts the same, and the rows 1 on average
            weight = pad_steps(weight * (n_rows / len(weight)), encoded.lengths)
            target = pad_steps(target, encoded.lengths)
        return encoder, head, _Rows(encoded, target, weight)

    def _train(
        self, network, head, training, validation, left_out, draws, encoder, **settings
    ):
        device, validate = draws[1][0].device, None
        if validation is not None:
            of_rows = _validate_steps if self.target == "sequence" else _validate
            validate = functools.partial(of_rows, network, head, validation, device)
        own = {name: getattr(self, name) for name in TRAIN_SETTINGS}
        batch_size, bfloat16 = self._batch_size(len(training)), self.dtype == "bfloat16"
        # The first of several is all of them together; by the last one alone is counted.
        n_threads = threads_for(
            batch_size, training.encoded.n_timesteps, network.members[-1]
        )
        with (
            working_on(device, batch_size=batch_size, hidden_size=self.hidden_size),
            retained_memory(),
        ):
            loss, learners = self._learners(
                network.to(device), head, training, left_out, draws, encoder
            )
            with side_by_side(len(learners), n_threads, network, bfloat16) as run:
                return train(
                    network, loss, learners, run=run, bfloat16=bfloat16,
                    validate=validate, **own, **settings,
                )  # fmt: skip

    def _learners(self, network, head, training, left_out, draws, encoder):
        """Return the loss, and what trains each member by it."""
        orders, dropouts = draws
        batches = self._batches(training, left_out, orders, dropouts[0].device)
        augmentations = self._augmentations(network, encoder, training.encoded)
        batches = [
            AugmentedBatches(each, names, encoder.n_channels_in_, dropout)
            if names
            else each
            for each, names, dropout in zip(batches, augmentations, dropouts, strict=True)
        ]
        loss, loss_gradient = self._losses(head, "mixup" in augmentations[0])
        bptt_steps = self._bptt_steps(training.encoded.n_timesteps, network)

        def differentiate_of(member):
            if bptt_steps is not None:
                return functools.partial(member.differentiate_truncated, loss, bptt_steps)
            return functools.partial(differentiate, member, loss_gradient)

        return loss, [
            Learner(member.alone, *drawn, differentiate_of(member))
            for member, *drawn in zip(network.members, batches, dropouts, strict=True)
        ]

    def _losses(self, head, mixes):
        """Return the loss of a batch, and what differentiates it in closed form."""
        loss, loss_gradient = head.loss, head.loss_gradient
        if self.target == "sequence":
            loss = functools.partial(step_loss, loss)
            loss_gradient = functools.partial(step_gradient, loss_gradient)
        if mixes:
            loss = functools.partial(mixed_loss, loss)
            loss_gradient = functools.partial(mixed_gradient, loss_gradient)
        return loss, loss_gradient

    def _batches(self, training, left_out, orders, device):
        """Return the batches of each member."""
        batches = SequenceBatches(
            *training,
            batch_size=self._batch_size(len(training)),
            shuffle=self.shuffle,
            oversample=self.oversample,
            generator=orders[0],
            device=device,
            dtype=torch.float64 if self.dtype == "float64" else torch.float32,
        )
        if left_out is None:
            return [batches.of_network(order) for order in orders]
        return [
            batches.of_network(order, left_out.of_member(member))
            for member, order in enumerate(orders)
        ]

    def _identity(self, network, training, validation, random, n_iter):
        """Return what a fit must share with a checkpoint to go on from it."""
        start = [tensor.numpy() for tensor in network.state_dict().values()]
        parts = [rows for rows in (training, validation) if rows is not None]
        arrays = [array for rows in parts for array in rows.arrays()]
        return identity(
            self, random.dropout.device, random.seed, [np.array(n_iter), *start], arrays,
            "X, y and sample_weight",
        )  # fmt: skip

    def _make_encoder(self):
        if self.stem == "embedding":
            self._read_embedding()
        return SequenceEncoder(
            n_channels=self.n_channels,
            layout=self.layout,
            standardize=self.standardize,
            missing=self.missing,
            tokens=self.stem == "embedding",
            n_tokens=None if self.embedding is None else len(self.embedding),
            dtype="float64" if self.dtype == "float64" else "float32",
            keeps_ends=self.target == "sequence",
        )

    def _distinct_rows(self, sequences, y, sample_weight):
        """Check y and the weights; return y, positions and weights of the rows to use.

        With `shuffle` these are the distinct rows in an order of their own.
        """
        lengths = sequences.lengths
        per_step = self.target == "sequence"
        if per_step:
            require_y(self, y)
            y = split_steps(self._check_y(read_steps(y, lengths)), lengths)
        elif is_ragged(y):
            raise ValueError(
                'y holds arrays of unequal lengths, but target="single" takes one label '
                'or value per sequence. For one per time step set target="sequence".'
            )
        else:
            y = self._check_y(y)
            if len(y) == lengths.sum() > len(lengths):
                raise ValueError(
                    f"X was read as {len(lengths)} sequences of {len(y)} time steps "
                    "together, and y has a row for each step. For targets of steps set "
                    'target="sequence"; if each row of X is a sequence, pass '
                    "X.to_numpy()."
                )
            check_consistent_length(lengths, y)
        weight = _check_sample_weight(
            unmasked(sample_weight),
            lengths,
            dtype=np.float64,
            ensure_non_negative=True,
        )
        if not weight.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        if weight.max() > MAX_WEIGHT:
            raise ValueError(
                f"Sample weights hold {weight.max():.3g}, which is too large to be added "
                "up. Divide them by a power of ten."
            )
        rows = np.flatnonzero(weight)
        weight = weight[rows]
        if self.shuffle:
            labels = _ranks(np.concatenate(y[rows]) if per_step else y[rows])
            if per_step:
                labels = split_steps(labels, lengths[rows])
            rows, weight = distinct_rows(sequences, rows, labels, weight)
        return y, rows, weight

    def _split(self, rows, random):
        """Hold out a part for early stopping; stratified by class where it can be.

        Of the rows that count something: the others say nothing of how good a model is.
        """
        candidates = np.flatnonzero(rows.weight.reshape(len(rows), -1).any(axis=1))
        n = len(candidates)
        n_held_out = max(1, round(self.validation_fraction * n))
        if n_held_out >= n:
            raise ValueError(
                "early_stopping=True needs at least 2 distinct samples, one of them to "
                f"train on; got {n} sample{'s' * (n != 1)} and "
                f"validation_fraction={self.validation_fraction}."
            )
        stratify = None
        if isinstance(self, ClassifierMixin) and rows.target.ndim == 1:
            classes = rows.target[candidates]
            counts = np.unique(classes, return_counts=True)[1]
            if counts.min() >= 2 and min(n_held_out, n - n_held_out) >= len(counts):
                stratify = classes
        held_out = train_test_split(
            candidates,
            test_size=n_held_out,
            # Of a fit that goes on as of the first: what was trained on is no test.
            random_state=random.of_fit(0).split_seed,
            stratify=stratify,
        )[1]
        kept = np.delete(np.arange(len(rows)), held_out)
        return rows.take(kept), rows.take(np.sort(held_out))

    def _resolve_auto(self, n_timesteps):
        # Convolutions see steps to come: with labels for them, only where asked for.
        is_sequence = self.target == "sequence"
        return resolve_auto(
            None if is_sequence and self.stem == "auto" else self.stem,
            None if is_sequence else self.pooling,
            self.bidirectional,
            n_timesteps,
        )

    def _make_network(self, encoder, encoded, head, random, n_members):
        stem, pooling, bidirectional = self._resolve_auto(encoded.n_timesteps)
        is_sequence = self.target == "sequence"
        strides = (1, 1, 1) if is_sequence else conv_strides(encoded.n_timesteps)
        n_tokens = len(encoder.vocabulary_) + N_RESERVED_TOKENS if encoder.tokens else 0
        vectors = self._read_embedding() if encoder.tokens else None
        if n_members == "auto":
            n_members = self._auto_members(stem, encoded)
        network = RecurrentNetwork(
            n_channels=encoder.n_encoded_channels_,
            n_outputs=head.n_raw,
            hidden_size=int(self.hidden_size),
            num_layers=int(self.num_layers),
            cell=self.cell,
            bidirectional=bidirectional,
            dropout=self.dropout,
            stem=stem,
            pooling=pooling,
            kernel_sizes=conv_kernel_sizes(encoded.n_timesteps),
            strides=strides,
            n_tokens=n_tokens,
            embedding_size=None if vectors is None else vectors.shape[1],
            freeze_embedding=self.freeze_embedding and vectors is not None,
            token_dropout=self.token_dropout,
            variational_dropout=self.variational_dropout,
            recurrent_dropout=self.recurrent_dropout,
            residual=self.residual,
            layer_norm=self.layer_norm,
            n_members=int(n_members),
            link=head.link,
        )
        network.to(torch.float32)  # whatever is torch's default
        with torch_threads(1):  # orthogonalisation rounds by the number of threads
            initialize(network, random.start)
        if self.dtype == "float64":  # from the weights that float32 starts from
            network.to(torch.float64)
        if vectors is not None:  # token i is number i + 1 of the encoder
            with torch.no_grad():
                network.stem.embedding.weight[2:] = torch.tensor(vectors[1:])
        return network

    def _auto_members(self, stem, encoded):
        """Return the number of networks that "auto" stands for."""
        if (
            stem != "conv"
            or self.target == "sequence"
            or encoded.n_timesteps < MIN_AVERAGED_TIMESTEPS
        ):
            return 1
        return min(max(MEMBERS_TIMES_ROWS // len(encoded), 1), MAX_MEMBERS)

    def _read_embedding(self):
        """Return the given vectors of tokens, checked; None for none."""
        if self.embedding is None:
            return None
        return check_array(
            self.embedding, dtype=np.float64, ensure_min_samples=2, input_name="embedding"
        )

    def _augmentations(self, network, encoder, encoded):
        """Return the names of what varies the training sequences of each member."""
        n_members = len(network.members)
        if self.augment != "auto":
            return [self._named_augmentations()] * n_members
        # Deviations are of sequences that are aligned, step by step.
        if (
            network.config["stem"] != "conv"
            or self.target == "sequence"
            or encoder.curve_ is not None
            or encoded.n_timesteps < MIN_WARPED_TIMESTEPS
        ):
            return [()] * n_members
        of_first = ("time-warp",) if len(encoded) >= MIN_WARPED_ROWS else ()
        return [of_first, *[("time-warp",)] * (n_members - 1)]

    def _named_augmentations(self):
        return (self.augment,) if isinstance(self.augment, str) else self.augment or ()

    def _bptt_steps(self, n_timesteps, network):
        """Return over how many steps to carry gradients back; None for all."""
        bptt_steps = self.bptt_steps
        if bptt_steps == "auto":
            bptt_steps = BPTT_STEPS if n_timesteps > MAX_BPTT_STEPS else None
        if bptt_steps is None or bptt_steps >= n_timesteps or not network.is_causal:
            return None
        return bptt_steps

    def _batch_size(self, n_samples):
        if self.batch_size == "auto":
            return min(n_samples, max(8, min(64, n_samples // 8)))
        return min(n_samples, self.batch_size)

    def _keep(self, encoder, head, network, history, goes_on, borne_out=None):
        """Set the fitted attributes, all together once training has succeeded."""
        self.encoder_, self.head_, self.network_ = encoder, head, network
        self.n_channels_in_ = encoder.n_channels_in_
        self.n_timesteps_in_ = encoder.n_timesteps_in_
        self.stem_, self.pooling_ = network.config["stem"], network.config["pooling"]
        self.bidirectional_ = network.config["bidirectional"]
        self.n_members_ = network.config["n_members"]
        self._keep_head(head)
        if borne_out is not None:
            self.shrinkage_ = borne_out
        earlier = self.loss_curve_ if goes_on else []
        self.loss_curve_ = earlier + history.loss_curve
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = len(self.loss_curve_)
        self.validation_scores_ = history.validation_scores
        self.best_validation_score_ = history.best_validation_score
        self.best_loss_ = None if history.best_loss is None else min(self.loss_curve_)
        self.best_iter_ = history.best_iter
        if history.best_iter is not None:
            self.best_iter_ += len(earlier)
        self._optimizer_state = history.optimizer_state

    def _partial_fit(self, X, y, sample_weight, classes=None):
        self._check_parameters()
        is_fitted = hasattr(self, "network_")
        self._fit(
            X,
            y,
            sample_weight,
            goes_on=is_fitted,
            # How many rows are yet to come is not known.
            n_members=1 if self.n_members == "auto" else self.n_members,
            max_iter=1,
            learning_rate="constant",
            early_stopping=False,
            classes=classes,
            in_parts=True,
            optimizer_state=self._optimizer_state if is_fitted else None,
        )
        return self

    def _check_parameters(self):
        """Validate the parameters as scikit-learn does; hint at misspelt options."""
        params = self.get_params(deep=False)
        name = type(self).__name__
        try:
            validate_parameter_constraints(self._parameter_constraints, params, name)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"{error}{self._hint(params)}") from None
        if self.augment not in (None, "auto"):
            self._check_augment()
        if self.stem == "embedding" and self.n_members not in (1, "auto"):
            raise ValueError(
                f'n_members={self.n_members} is not for stem="embedding". Set '
                "n_members=1; voting of scikit-learn averages any estimators."
            )
        if self.dtype == "float64" and self.device == "mps":
            raise ValueError('device="mps" has no float64; set dtype="float32".')

    def _check_fixed_settings(self):
        """Refuse settings that differ from those of what was fitted and is trained on."""
        for name, fitted in self._fixed_settings().items():
            given = getattr(self, name)
            is_auto = isinstance(given, str) and given == "auto"
            if not is_auto and not np.array_equal(given, fitted):
                raise ValueError(
                    f"{name} is {given!r}, but what was fitted has {fitted!r}, and "
                    "training on does not change it. Set it back, or fit a new estimator."
                )
        if self.encoder_.curve_ is not None and self.augment not in (None, "auto"):
            raise ValueError(
                f"augment={self.augment!r} cannot vary sequences that are read beside "
                "their deviations (see standardize), as the first fit chose. Set "
                'augment="auto", or fit a new estimator.'
            )

    def _fixed_settings(self):
        """Return the settings that fitted parts hold."""
        config, encoder = self.network_.config, self.encoder_
        fixed = {name: config[name] for name in NETWORK_SETTINGS}
        fixed |= {name: getattr(encoder, name) for name in ENCODER_SETTINGS}
        fixed["target"] = "sequence" if self._per_step else "single"
        if self._per_step:
            del fixed["pooling"]  # there is none
        if self.embedding is not None:
            fixed["freeze_embedding"] = config["freeze_embedding"]
        if "float64" in (encoder.dtype, self.dtype):
            fixed["dtype"] = encoder.dtype
        return fixed

    def _check_augment(self):
        names = self._named_augmentations()
        for name in names:
            if name not in AUGMENTATIONS:
                raise InvalidParameterError(
                    f"augment must hold names among {list(AUGMENTATIONS)}; got {name!r}."
                )
        if self.stem == "embedding":
            raise ValueError(
                f'augment={self.augment!r} varies numbers; with stem="embedding" X holds '
                "tokens. Set augment=None; token_dropout varies tokens."
            )
        if self.target == "sequence" and not set(names) <= set(OF_VALUES):
            raise ValueError(
                f"augment={self.augment!r} moves or mixes time steps, each of which has "
                'a target of its own with target="sequence"; only '
                f"{list(OF_VALUES)} leave them where they are."
            )

    def _hint(self, params):
        for name, value in params.items():
            for constraint in self._parameter_constraints.get(name, ()):
                if not isinstance(constraint, StrOptions) or not isinstance(value, str):
                    continue
                options = sorted(constraint.options)
                close = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
                if close and value not in options:
                    return f" Did you mean {close[0]!r}?"
        return ""

    # --------------------------------------------------------------------- predict
    @insulated
    def _answer(self, X, decode, method="__call__"):
        """Return what the head's `decode` makes of the network's raw outputs for X.

        A row per sequence; with a target per time step, an object array of arrays.
        """
        check_is_fitted(self)
        device = resolve_device(self.device)
        sequences = self.encoder_.read(X, self, reset=False)
        per_step, n_rows = self._per_step, PREDICT_CHUNK
        if per_step:
            n_rows = _rows_at_once(sequences.n_timesteps, self.network_)
        chunks = []
        for start in range(0, len(sequences), n_rows):
            rows = np.arange(start, min(start + n_rows, len(sequences)))
            encoded = self.encoder_.encode(sequences, rows)
            raw = forward(self.network_, encoded, device, method)
            if per_step:
                raw = raw[encoded.mask()]  # (n, T, Q) -> (n_steps, Q)
            chunks.append(getattr(self.head_, decode)(raw) if decode else raw)
        answer = np.concatenate(chunks)
        return split_steps(answer, sequences.lengths) if per_step else answer

    @property
    def _per_step(self):
        """Whether the fitted network says something of each time step."""
        return self.network_.config["pooling"] is None

    def _check_before_score(self, X, y, sample_weight):
        """Raise before `fit`, and where y or weights have instances in another order."""
        check_is_fitted(self)
        require_same_instances(X, y)
        require_same_instances(X, sample_weight, "sample_weight")

    def _flat_steps(self, X, y, sample_weight):
        """Return y, predictions and weights of all time steps, for `score`."""
        predicted = self.predict(X)
        lengths = np.array([len(row) for row in predicted])
        y = read_steps(y, lengths)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(unmasked(sample_weight), lengths)
            sample_weight = np.repeat(sample_weight, lengths)
        return y, np.concatenate(predicted), sample_weight

    def predict(self, X):
        """Predict labels, or values.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `fit`; the number of time steps may differ, but for a 2-D X.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels of the classifier, of the dtype of y in fit; float64 values of the
            regressor, with one more axis of size n_quantiles if `quantile` is a
            sequence. With ``target="sequence"`` an object array (n_samples,) of arrays
            (n_timesteps_i, ...): ``np.stack`` makes one array of sequences of equal
            length, ``np.concatenate`` of any.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used, or has other channels than in `fit`.
        """
        return self._answer(X, "decode")

    def embed(self, X):
        """Return the pooled state of the recurrence, before the readout.

        Parameters
        ----------
        X : array-like, ragged list or frame of n_samples sequences
            As in `predict`.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_embedding), float64
            n_embedding is hidden_size, twice that if bidirectional; with a "conv" stem
            and any `pooling` but "last" hidden_size more; twice that with
            ``pooling="mean-max"``; and all that for each of `n_members_`. With
            ``target="sequence"`` an object array of the states of all time steps,
            (n_timesteps_i, n_embedding).

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If X cannot be used, or has other channels than in `fit`.
        """
        return self._answer(X, None, "embed")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        has_tokens = self.stem == "embedding"
        tags.input_tags.three_d_array = not has_tokens
        tags.input_tags.allow_nan = self.missing == "mask" and not has_tokens
        return tags


class _Rows(NamedTuple):
    """Encoded sequences, their targets and what each counts in the loss."""

    encoded: Sequences
    target: np.ndarray
    weight: np.ndarray

    def __len__(self):
        return len(self.target)

    def arrays(self):
        return self.encoded.values, self.encoded.lengths, self.target, self.weight

    def take(self, rows):
        return _Rows(self.encoded.take(rows), self.target[rows], self.weight[rows])


def _validate(network, head, rows, device):
    """Return the score and the mean loss of a network on some rows."""
    raw = forward(network, rows.encoded, device)
    return tuple(f(raw, rows.target, rows.weight) for f in (head.score, head.mean_loss))


def _validate_steps(network, head, rows, device):
    """Return score and mean loss over all time steps, some rows at a time.

    Accuracy and loss are means, so those of parts can be averaged. R2 and D2 are not:
    the raw outputs of a regressor, which are few, are kept and scored together.
    """
    in_parts = isinstance(head, ClassificationHead)
    parts, size = [], _rows_at_once(rows.encoded.n_timesteps, network)
    for start in range(0, len(rows), size):
        part = rows.take(np.arange(start, min(start + size, len(rows))))
        inside = part.encoded.mask()
        raw = forward(network, part.encoded, device)[inside]
        steps = raw, *(a[:, : inside.shape[1]][inside] for a in part[1:])
        parts.append(_measured(head, *steps) if in_parts else steps)
    if not in_parts:
        parts = [_measured(head, *map(np.concatenate, zip(*parts, strict=True)))]
    total, score, n_steps, loss = np.transpose(parts)
    return (
        float(np.average(score, weights=total)),
        float(np.average(loss, weights=n_steps)),
    )


def _measured(head, raw, target, weight):
    """Return weight, score, number and mean loss of steps."""
    score, loss = head.score(raw, target, weight), head.mean_loss(raw, target, weight)
    return weight.sum(), score, len(raw), loss


def _shrink(network, rows, left_out, device):
    """Draw predictions to the mean as far as the left-out rows ask for; return it."""
    raw = [
        forward(member, rows.encoded.take(left_out.of_member(k)), device, "alone")
        for k, member in enumerate(network.members)
    ]
    centre = np.average(rows.target, axis=0, weights=rows.weight)
    out = left_out.rows
    borne_out = shrinkage(
        left_out.unseen(np.stack(raw)) - centre,
        rows.target[out] - centre,
        rows.weight[out],
        len(raw),
    )
    network.shrink(torch.from_numpy(borne_out), torch.from_numpy(centre))
    return borne_out


def _rows_at_once(n_timesteps, network) -> int:
    """Return how many sequences to ask for their time steps at once."""
    n_values = n_timesteps * max(network.readout.weight.shape)
    return int(np.clip(PREDICT_VALUES // n_values, 1, PREDICT_CHUNK))


class _EpochCallbacks:
    """Feeds scikit-learn's callbacks (1.9) from the training loop.

    Does nothing where scikit-learn is older. Called after every epoch; returns whether
    a callback asked to stop.
    """

    def __init__(self, estimator, X, y, sample_weight):
        self.estimator = estimator
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.context = None

    def begin(self, encoder, head, network, goes_on):
        if not hasattr(self.estimator, "_init_callback_context"):
            return
        self.encoder, self.head, self.network = encoder, head, network
        self.goes_on = goes_on
        self.context = self.estimator._init_callback_context(
            max_subtasks=self.estimator.max_iter
        )
        self.context.call_on_fit_task_begin(**self.arguments)

    def __call__(self, history) -> bool:
        if self.context is None:
            return False
        epoch = self.context.subcontext(task_name="epoch")
        epoch.call_on_fit_task_begin(**self.arguments)
        return epoch.call_on_fit_task_end(
            **self.arguments,
            reconstruction_attributes=functools.partial(self._reconstruct, history),
        )

    def _reconstruct(self, history):
        """Attributes of the estimator as if training had stopped now."""
        fitted = copy.copy(self.estimator)
        network = copy.deepcopy(self.network).cpu().eval()
        fitted._keep(self.encoder, self.head, network, history, self.goes_on)
        return vars(fitted)

    def finish(self):
        if self.context is not None:
            self.context.call_on_fit_task_end(
                **self.arguments, reconstruction_attributes={}
            )


def _ranks(y):
    """Return the rank of each value among those of its column, (n, n_columns).

    What is the same of labels by other names, and of targets in other units.
    """
    columns = y.reshape(len(y), -1).T
    return np.stack([np.unique(c, return_inverse=True)[1] for c in columns], axis=1)


def require_y(estimator, y):
    """Raise where y is None."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but "
            "the target y is None."
        )


def is_forecaster(estimator) -> bool:
    """Tell a fitted forecaster from a classifier or regressor; refuse anything else."""
    if hasattr(estimator, "_forecast"):
        estimator.check_is_fitted()
        return True
    check_sequence_estimator(estimator)
    return False


def check_forecaster(estimator, hint="") -> None:
    """Raise unless this is a fitted LSTMForecaster."""
    if not hasattr(estimator, "_forecast"):
        raise TypeError(
            f"Expected a fitted LSTMForecaster, got {type(estimator).__name__}.{hint}"
        )
    estimator.check_is_fitted()


def check_counts(**numbers) -> None:
    """Raise unless all are integers of at least 1; names the first that is not."""
    for name, value in numbers.items():
        if not isinstance(value, Integral) or int(value) < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")


def check_sequence_estimator(estimator) -> None:
    """Raise unless this is a fitted LSTMClassifier or LSTMRegressor."""
    if not isinstance(estimator, BaseLSTM):
        raise TypeError(
            "Expected a fitted LSTMClassifier or LSTMRegressor, got "
            f"{type(estimator).__name__}. Of a pipeline, a search or a panel estimator, "
            "pass the estimator inside."
        )
    check_is_fitted(estimator)
