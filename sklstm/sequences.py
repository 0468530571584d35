"""Leaf: any X -> Sequences. Imports nothing of ours.

Reading X is separate from encoding it. `SequenceEncoder.read` checks X and lays it
out as (n_samples, n_timesteps, n_channels) without copying where it can;
`SequenceEncoder.fit` learns the statistics; `SequenceEncoder.encode` makes the one
standardised copy the network sees. The encoder is a fitted object, so training and
prediction cannot drift apart.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

PADDING, UNKNOWN, N_RESERVED_TOKENS = 0, 1, 2
# Standard deviations from the mean: sums of more than that overflow float32 in a network.
MAX_DISTANCE = 1e30
ROUNDING = 1e-12  # of the mean of equal numbers
MAX_EXACT = 2**53  # float64 does not tell all integers beyond from their neighbours
CHUNK_ROWS = 256  # rows handled at once where a float64 intermediate is needed
# Deviations from the mean curve are appended where their variance is at most this share
# of that of the values.
MAX_DEVIATION = 0.01


@dataclass(frozen=True)
class Sequences:
    """Right-padded sequences.

    Attributes
    ----------
    values : ndarray of shape (n_samples, n_timesteps, n_channels), floating
        Or, for tokens, of shape (n_samples, n_timesteps), int64. Padding is 0.
    lengths : ndarray of shape (n_samples,), int64
        Number of steps of each sequence, at least 1.
    """

    values: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def n_timesteps(self) -> int:
        """Length of the padded rows."""
        return self.values.shape[1]

    def take(self, rows) -> Sequences:
        """Return the given rows, padded no further than the longest of them."""
        lengths = self.lengths[rows]
        return Sequences(self.values[rows, : lengths.max(initial=0)], lengths)

    def mask(self) -> np.ndarray:
        """Return a bool array (n_samples, n_timesteps), True where a step is real."""
        return np.arange(self.n_timesteps) < self.lengths[:, None]


class SequenceEncoder:
    """Read X and turn it into what the network reads.

    Parameters
    ----------
    n_channels : int
        Channels of a flat 2-D row. Ignored for every other kind of X.
    layout : {"time-major", "channel-major"}
        Order of a flat 2-D row, and of the last two axes of a 3-D array.
    standardize : bool
        Whether to subtract the mean and divide by the standard deviation of each
        channel over all observed steps. Ignored for tokens.
    missing : {"error", "mask"}
        "mask" reads trailing steps that are NaN in every channel as padding, puts
        the channel's mean (0 after standardisation) in place of other NaNs and
        appends one 0/1 channel per channel that tells where a value was missing.
    tokens : bool
        Whether X holds integer tokens. Token 0 at either end is padding.
    n_tokens : int or None
        If given, the tokens 1 to n_tokens - 1 are known, seen in fit or not, and no
        others. Only for tokens.
    dtype : {"float32", "float64"}
        Type of the encoded values. Ignored for tokens.
    keeps_ends : bool
        Whether trailing steps that are NaN in every channel stay steps in rows that have
        a length of their own (all but arrays).

    Attributes
    ----------
    n_channels_in_ : int
    n_timesteps_in_ : int or None
        None if the lengths vary.
    flat_ : bool
        Whether X was 2-D in fit, so that its width is fixed.
    mean_, scale_ : ndarray of shape (n_channels_in_,), float64
    curve_ : ndarray of shape (n_timesteps_in_, n_channels_in_), float64, or None
        The mean of the sequences of `fit`, where deviations from it are appended.
    deviation_scale_ : ndarray of shape (n_channels_in_,), float64
        Standard deviation from the curve. Only with one.
    vocabulary_ : ndarray of shape (n_tokens,), int64
        Known tokens, sorted. Only for tokens.
    """

    curve_: Any = None
    keeps_ends = False  # of encoders saved before there was a choice

    def __init__(
        self, n_channels, layout, standardize, missing, tokens, dtype, n_tokens=None,
        keeps_ends=False,
    ):  # fmt: skip
        self.n_channels = n_channels
        self.layout = layout
        self.standardize = standardize
        self.missing = missing
        self.tokens = tokens
        self.n_tokens = n_tokens
        self.dtype = dtype
        self.keeps_ends = keeps_ends

    @property
    def n_encoded_channels_(self) -> int:
        """Channels of the encoded values, deviations and indicators included."""
        n_groups = 1 + (self.curve_ is not None) + (self.missing == "mask")
        return self.n_channels_in_ * n_groups

    def curve(self, n_timesteps: int) -> np.ndarray:
        """Return the mean curve (n_timesteps, C); its end goes on in longer sequences."""
        return self.curve_[np.minimum(np.arange(n_timesteps), len(self.curve_) - 1)]

    # ------------------------------------------------------------------ read
    def read(self, X, estimator, *, reset: bool) -> Sequences:
        """Check X and lay it out, unscaled, with NaN still in place.

        Parameters
        ----------
        X : 2-D or 3-D array-like, ragged list, or frame
            See the ``X`` parameter of `LSTMClassifier.fit`.
        estimator : estimator instance
            Named in messages; receives `n_features_in_` and `feature_names_in_`.
        reset : bool
            Whether this is fit (True) or prediction (False).

        Returns
        -------
        sequences : Sequences
            Views of X where its memory allows.
        """
        X = unmasked(X)
        rows = _panel_rows(X)
        flat = False
        named = X if rows is None or hasattr(X, "columns") else _frame_of_rows(rows)
        if rows is not None:
            if named is not None:
                validate_data(estimator, named, reset=reset, skip_check_array=True)
            # A frame's columns are channels in either layout.
            values, lengths = self._pad(rows, by_columns=hasattr(X, "columns"))
        else:
            values, lengths, flat = self._read_array(X, estimator, reset)
        if self.tokens or rows is None or not self.keeps_ends:
            values, lengths = self._trim(values, lengths)
        if reset:
            # Padding makes token sequences of any length a table of any width.
            self.flat_ = flat and not self.tokens
            self.n_channels_in_ = 1 if self.tokens else values.shape[2]
        elif not self.tokens and values.shape[2] != self.n_channels_in_:
            raise ValueError(
                f"X has {values.shape[2]} channels, but {type(estimator).__name__} is "
                f"expecting {self.n_channels_in_} channels, as in fit."
            )
        if reset and not flat:
            estimator.n_features_in_ = self.n_channels_in_
            if not hasattr(named, "columns") and hasattr(estimator, "feature_names_in_"):
                del estimator.feature_names_in_
        return Sequences(values, lengths)

    def _read_array(self, X, estimator, reset):
        """Read a 2-D or 3-D array-like: values (n, T, C), lengths (n,), was it 2-D."""
        checks = {
            "dtype": "numeric",
            "ensure_all_finite": False,  # we say in which row
            "estimator": estimator,
            "input_name": "X",
        }
        ndim = _ndim(X)
        if self.tokens and ndim == 1 and isinstance(next(iter(X), None), str):
            raise ValueError(
                'X holds texts, but stem="embedding" reads integer tokens. Number them '
                "first: make_pipeline(TokenSequences(), "
                f'{type(estimator).__name__}(stem="embedding")).'
            )
        if self.tokens:  # scikit-learn would make floats of them
            if isinstance(X, np.ndarray) and X.dtype.kind == "O":
                X = _whole_numbers(X)
            elif hasattr(X, "iloc") and not all(map(_is_of_numpy, X.dtypes)):
                numbers = _whole_numbers(X.to_numpy(dtype=object))
                if numbers.dtype.kind == "i":
                    X = type(X)(numbers, index=X.index, columns=X.columns)
        if ndim < 3:
            # Fitted on sequences of any length, a 2-D X is read by n_channels alone.
            free_width = not reset and not self.flat_
            is_plain = _is_plain(X)
            if not free_width:
                del checks["estimator"], checks["input_name"]
                X = validate_data(
                    estimator, X, reset=reset, skip_check_array=is_plain, **checks
                )
            elif not is_plain:
                X = check_array(X, **checks)
            X = _require_real(X)
            if not is_plain and not self.tokens:
                self._check_finite(X[:, :, None])
            n_channels = 1 if self.tokens else self.n_channels
            if X.shape[1] % n_channels:
                raise ValueError(
                    f"X has {X.shape[1]} features, which is not a multiple of "
                    f"n_channels={n_channels}. A flat row holds every channel at "
                    "every time step."
                )
            n_timesteps = X.shape[1] // n_channels
            if self.layout == "time-major":
                values = X.reshape(len(X), n_timesteps, n_channels)  # (n, T, C)
            else:  # (n, C * T) -> (n, C, T) -> (n, T, C)
                values = X.reshape(len(X), n_channels, n_timesteps).transpose(0, 2, 1)
        elif ndim == 3 and not self.tokens:
            if not _is_plain(X):
                X = _require_real(check_array(X, allow_nd=True, **checks))
                self._check_finite(X)
            values = X if self.layout == "time-major" else X.transpose(0, 2, 1)
            if not values.shape[1] or not values.shape[2]:
                raise ValueError(
                    f"X has shape {X.shape}: every sequence needs at least one time "
                    "step and one channel."
                )
            if reset and self.layout == "time-major":
                self._warn_if_swapped(*values.shape[1:])
        else:
            expected = "2-D" if self.tokens else "2-D or 3-D"
            raise ValueError(
                f"Found array with dim {ndim}, while {type(estimator).__name__} "
                f"expects X to be {expected}: (n_samples, n_timesteps * n_channels)"
                + ("." if self.tokens else " or (n_samples, n_timesteps, n_channels).")
            )
        lengths = np.full(len(values), values.shape[1], dtype=np.int64)
        return values, lengths, ndim < 3

    def _warn_if_swapped(self, n_timesteps, n_channels):
        if n_channels > 16 and n_channels > n_timesteps:
            warnings.warn(
                f"X is read as {n_timesteps} time steps of {n_channels} channels. If "
                "its axes are (n_samples, n_channels, n_timesteps), as in sktime's "
                'numpy3D, set layout="channel-major".',
                UserWarning,
                stacklevel=2,
            )

    def _pad(self, rows, by_columns):
        """Pad ragged rows to values (n, T, C) and lengths (n,); name a bad row."""
        if not len(rows):
            raise ValueError(
                "Found array with 0 sample(s) while a minimum of 1 is required."
            )
        arrays = [self._row(row, i, by_columns) for i, row in enumerate(rows)]
        n_channels = arrays[0].shape[1]
        for i, array in enumerate(arrays):
            if array.shape[1] != n_channels:
                raise ValueError(
                    f"X has ragged channels: row {i} has {array.shape[1]} channels, "
                    f"but row 0 has {n_channels}. Every row must have as many."
                )
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        dtype = np.result_type(*{array.dtype for array in arrays})
        values = np.zeros((len(arrays), lengths.max(), n_channels), dtype=dtype)
        for padded, array in zip(values, arrays, strict=True):
            padded[: len(array)] = array
        self._check_finite(values)
        return values, lengths

    def _check_finite(self, values):
        """Raise for the first row with infinity, or with NaN where it is an error."""
        if values.dtype.kind != "f" or np.isfinite(values).all():
            return
        infinite = np.isinf(values).any(axis=(1, 2))
        if infinite.any():
            raise ValueError(
                f"Input X contains infinity in row {int(infinite.argmax())}."
            )
        if self.missing == "error":
            i = int(np.isnan(values).any(axis=(1, 2)).argmax())
            raise ValueError(
                f'Input X contains NaN in row {i}. Set missing="mask" to let the '
                "network see which values are missing, or impute them."
            )

    def _row(self, row, i, by_columns):
        """One ragged row as a checked 2-D array (T_i, C)."""
        _require_order(row, i)
        try:
            if hasattr(row, "columns") and hasattr(row, "dtypes"):
                _require_real_columns(row)
            array = np.asarray(unmasked(row))
            for dtype in (array.dtype, getattr(row, "dtype", None)):
                if getattr(dtype, "kind", "O") in "cmM":
                    raise TypeError(f"they are {dtype}")
            if self.tokens and array.dtype.kind == "O":
                array = _whole_numbers(array)
            if array.dtype.kind not in "buif" and hasattr(row, "to_numpy"):
                array = row.to_numpy(dtype=np.float64, na_value=np.nan)
            elif array.dtype.kind not in "buif":
                array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"X has values that are not numbers in row {i}: {error}"
            ) from error
        if self.tokens and array.dtype.kind in "buf":
            array = _as_int64(array)
        if array.ndim == 1:
            if not self.tokens and self.n_channels > 1:
                if len(array) % self.n_channels:
                    raise ValueError(
                        f"Row {i} of X has {len(array)} values, which is not a "
                        f"multiple of n_channels={self.n_channels}."
                    )
                if self.layout == "time-major":
                    array = array.reshape(-1, self.n_channels)  # (T_i, C)
                else:
                    array = array.reshape(self.n_channels, -1).T
            else:
                array = array[:, None]  # (T_i, 1)
        elif self.layout == "channel-major":
            array = array if by_columns or hasattr(row, "columns") else array.T
        if array.ndim != 2:
            found = f"has shape {array.shape}" if array.ndim else f"is {row!r}"
            raise ValueError(
                f"Row {i} of X {found}; expected (n_timesteps,) or (n_timesteps, "
                "n_channels). Drop the row if it is missing."
            )
        if not array.size:
            raise ValueError(
                f"Row {i} of X is an empty sequence, of shape {array.shape}. Every "
                "sequence needs at least one time step; drop the row."
            )
        return array

    def _trim(self, values, lengths):
        """Read trailing all-NaN steps as padding; turn tokens to int64 (n, T)."""
        if self.tokens:
            return self._read_tokens(values, lengths)
        if self.missing == "mask" and values.dtype.kind == "f":
            observed = ~np.isnan(values).all(axis=2)  # (n, T)
            observed &= np.arange(values.shape[1]) < lengths[:, None]
            lengths = _last_true(observed) + 1
            _require_steps(lengths, "missing (NaN) at every step")
            if lengths.max() < values.shape[1]:
                values = values[:, : lengths.max()]
            if (lengths < values.shape[1]).any():  # padding is 0, not NaN
                inside = np.arange(values.shape[1]) < lengths[:, None]
                values = np.where(inside[:, :, None], values, 0)
        return values, lengths

    def _read_tokens(self, values, lengths):
        # (n, T, 1) -> (n, T). Zeros in front (Keras pads there) and behind are
        # padding; what is left of a row moves to its start.
        if values.shape[2] != 1:
            raise ValueError(
                f'With stem="embedding" each step of X is one integer token, but X '
                f"has {values.shape[2]} channels."
            )
        values = values[:, :, 0]
        if values.dtype.kind == "f":
            fractional = (np.isnan(values) | (values != np.floor(values))).any(axis=1)
            if fractional.any():
                raise ValueError(
                    'With stem="embedding" X must hold integer tokens, but row '
                    f"{int(fractional.argmax())} does not."
                )
        if (values < 0).any():
            raise ValueError(
                "Tokens must be positive integers (0 is padding), but row "
                f"{int((values < 0).any(axis=1).argmax())} of X has a negative one."
            )
        if (values >= 2**63).any():
            raise ValueError(
                "Tokens must be integers below 2**63, but row "
                f"{int((values >= 2**63).any(axis=1).argmax())} of X has a larger one."
            )
        tokens = values.astype(np.int64)
        inside = (tokens != PADDING) & (np.arange(tokens.shape[1]) < lengths[:, None])
        stop = _last_true(inside) + 1
        _require_steps(stop, "padding (token 0) at every step")
        start = inside.argmax(axis=1)
        lengths = stop - start
        steps = np.arange(lengths.max())
        positions = np.minimum(start[:, None] + steps, tokens.shape[1] - 1)
        tokens = np.take_along_axis(tokens, positions, axis=1)  # (n, longest)
        return np.where(steps < lengths[:, None], tokens, PADDING), lengths

    # ---------------------------------------------------------------- encode
    def fit(
        self, sequences: Sequences, rows, weight: np.ndarray, *, deviations=False
    ) -> SequenceEncoder:
        """Learn the vocabulary, or each channel's mean and standard deviation.

        Parameters
        ----------
        sequences : Sequences
            As `read` returns them.
        rows : ndarray of shape (n_rows,), int64
            The rows to learn from, in the order in which sums are taken.
        weight : ndarray of shape (n_rows,), float64
            Weight of each of these rows in the statistics.
        deviations : bool
            Whether to append, where these rows are equally long and hardly differ from
            their mean curve (`MAX_DEVIATION`), how far each channel is from that curve:
            what tells spectra apart may be a thousandth of what they have in common.
            Ignored without `standardize` and for tokens.

        Returns
        -------
        self : SequenceEncoder

        Raises
        ------
        ValueError
            If a value is too large for the statistics.
        """
        lengths = sequences.lengths[rows]
        self.n_timesteps_in_ = int(lengths[0]) if (lengths == lengths[0]).all() else None
        if self.tokens:
            seen = np.setdiff1d(sequences.values[rows], [PADDING])
            given = self.n_tokens is not None
            self.vocabulary_ = np.arange(1, self.n_tokens) if given else seen
            return self
        n_channels = sequences.values.shape[2]
        self.mean_ = np.zeros(n_channels)
        self.scale_ = np.ones(n_channels)
        if not self.standardize:
            return self
        try:
            with np.errstate(over="raise"):
                self._measure(sequences, rows, weight, deviations)
        except FloatingPointError:
            raise _too_large(np.abs(sequences.values[rows]), sequences, rows) from None
        return self

    def _measure(self, sequences, rows, weight, deviations):
        total = functools.partial(_total, sequences, rows, weight)
        # (T, C) each; summed over time for what is of a channel.
        n_observed, sums = total()
        count = np.maximum(n_observed.sum(axis=0), np.finfo(float).tiny)
        self.mean_ = sums.sum(axis=0) / count
        variance = total(self.mean_)[1].sum(axis=0) / count
        self.scale_ = _scale(variance, self.mean_)
        if not deviations or self.n_timesteps_in_ is None:
            return
        curve = np.where(
            n_observed > 0, sums / np.where(n_observed > 0, n_observed, 1), self.mean_
        )
        apart = total(curve)[1].sum(axis=0) / count
        # Where all sequences are alike, deviations are what rounding leaves of the curve.
        height = np.abs(curve).max(axis=0)
        differs = np.sqrt(apart) > ROUNDING * height
        if differs.any() and (apart <= MAX_DEVIATION * variance).all():
            self.curve_ = curve[: self.n_timesteps_in_]  # rows left out may be longer
            self.deviation_scale_ = _scale(apart, height)

    def encode(self, sequences: Sequences, rows: np.ndarray) -> Sequences:
        """Standardise values and mark the missing ones; number tokens from 2.

        Parameters
        ----------
        sequences : Sequences
            As `read` returns them.
        rows : ndarray of shape (n_rows,), int64
            The rows to encode.

        Returns
        -------
        encoded : Sequences
            A copy, of the encoder's dtype; tokens never seen in fit are 1.

        Raises
        ------
        ValueError
            If a value is too far from the mean.
        """
        lengths = sequences.lengths[rows]
        n_timesteps = lengths.max()
        inside = np.arange(n_timesteps) < lengths[:, None]  # (n, T)
        if self.tokens:
            values = sequences.values[rows, :n_timesteps]
            position = np.searchsorted(self.vocabulary_, values)
            position = np.minimum(position, len(self.vocabulary_) - 1)
            known = self.vocabulary_[position] == values
            tokens = np.where(known, position + N_RESERVED_TOKENS, UNKNOWN)
            return Sequences(np.where(inside, tokens, PADDING), lengths)
        shape = (len(rows), n_timesteps, self.n_encoded_channels_)
        encoded = np.empty(shape, dtype=self.dtype)
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            raw = sequences.values[rows[chunk], :n_timesteps]
            with np.errstate(over="ignore"):
                self._encode_chunk(raw, inside[chunk], encoded[chunk])
                if max(encoded[chunk].max(), -encoded[chunk].min()) > MAX_DISTANCE:
                    distance = np.abs(raw - self.mean_) / self.scale_
                    raise _too_large(distance, sequences, rows[chunk])
        return Sequences(encoded, lengths)

    def _encode_chunk(self, raw, inside, encoded):
        """Write values (n, T, C), standardised, into `encoded`."""
        values = raw - self.mean_  # float64 (n, T, C)
        values /= self.scale_
        if self.curve_ is not None:
            deviations = (raw - self.curve(raw.shape[1])) / self.deviation_scale_
            values = np.concatenate([values, deviations], axis=2)
        if self.missing == "mask":
            absent = np.isnan(values)
            if absent.any():
                values[absent] = 0.0
            encoded[:, :, -raw.shape[2] :] = absent[:, :, : raw.shape[2]]
        if not inside.all():
            values *= inside[:, :, None]
        encoded[:, :, : values.shape[2]] = values


def _too_large(distance, sequences, rows):
    """Return the error that names the most distant value of rows, (n, T, C)."""
    row, step, channel = np.unravel_index(np.nanargmax(distance), distance.shape)
    value = sequences.values[rows[row], step, channel]
    return ValueError(
        f"Row {rows[row]} of X holds {value} at step {step} in channel {channel}, which "
        "is too large. If it stands for a missing value, make it NaN and set "
        'missing="mask".'
    )


def _total(sequences, rows, weight, centre=None):
    """Weighted float64 sums over rows where observed: (T, C) each.

    Of ones, and of the values, or, given `centre`, of their squared distances from it.
    """
    steps = np.arange(sequences.n_timesteps)
    shape = sequences.n_timesteps, sequences.values.shape[2]
    n_observed, total = np.zeros(shape), np.zeros(shape)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        each = sequences.values[rows[chunk]].astype(np.float64)  # (n, T, C)
        unknown = np.isnan(each)
        lengths = sequences.lengths[rows[chunk], None]
        if (lengths < len(steps)).any():
            unknown |= (steps >= lengths)[:, :, None]
        if centre is not None:
            each -= centre
        if unknown.any():
            each[unknown] = 0.0
            n_observed += np.tensordot(weight[chunk], ~unknown, axes=1)
        else:
            n_observed += weight[chunk].sum()
        if centre is not None:
            each *= each
        total += np.tensordot(weight[chunk], each, axes=1)
    return n_observed, total


def _scale(variance, mean):
    """Return the standard deviation, or 1 where it is no more than rounding error."""
    scale = np.sqrt(variance)
    return np.where(scale <= ROUNDING * np.maximum(np.abs(mean), 1e-300), 1.0, scale)


def distinct_rows(
    sequences: Sequences, rows: np.ndarray, target: np.ndarray, weight: np.ndarray
):
    """Merge equal (sequence, target) rows and order them by content.

    What `fit` sees is then a set of weighted rows: it cannot depend on the order of
    the rows, and a weight of 2 is the row twice, to the last bit, also with
    minibatches. Rounding differences would otherwise grow
    without bound over a few hundred steps of a recurrent network.

    Parameters
    ----------
    sequences : Sequences
        As `SequenceEncoder.read` returns them.
    rows : ndarray of shape (n_rows,), int64
        The rows to look at.
    target : ndarray of shape (n_rows,) or (n_rows, n_outputs), numeric
        Or an object array of n_rows arrays, as `split_steps` returns them.
    weight : ndarray of shape (n_rows,), float64, positive

    Returns
    -------
    rows : ndarray of shape (n_distinct,), int64
        The distinct ones among `rows`, in the order of their 128-bit hash.
    weight : ndarray of shape (n_distinct,), float64
        Sum of the weights of the rows that are equal to each.
    """
    if target.dtype != object:
        target = target.astype(np.float64).reshape(len(rows), -1) + 0.0
    is_inexact = sequences.values.ndim == 2 and (sequences.values > MAX_EXACT).any()
    digests = bytearray()
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        # One byte layout for every input type; adding 0.0 turns -0.0 into 0.0.
        read = sequences.values[rows[chunk]]
        values = np.asarray(read, dtype=np.float64, order="C") + 0.0
        if read.dtype.kind == "f":
            values[np.isnan(values)] = np.nan  # which may have a sign, from 0 / 0 say
        lengths = sequences.lengths[rows[chunk]]
        for i, (length, y) in enumerate(zip(lengths, target[chunk], strict=True)):
            digest = hashlib.blake2b(values[i, :length].data, digest_size=16)
            if is_inexact and (read[i] > MAX_EXACT).any():
                digest.update(read[i, :length].tobytes())
            digest.update(np.ascontiguousarray(y, dtype=np.float64).data)
            digests += digest.digest()
    keys = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    # Weights are the last key, so equal rows add up in one order only.
    order = np.lexsort((weight, keys[:, 1], keys[:, 0]))
    keys = keys[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    return rows[order][starts], np.add.reduceat(weight[order], starts)


def require_same_instances(X, y, name="y") -> None:
    """Raise where X has an (instance, time) row index and y other instances or order.

    So of an X whose cells are sequences. A y of one row per instance may also have an
    index of its own; it is read by position. `name` is what it is called in messages.
    """
    levels = getattr(getattr(y, "index", None), "nlevels", 0)
    if levels not in (1, 2) or not (hasattr(X, "columns") and hasattr(X, "index")):
        return
    if getattr(X.index, "nlevels", 1) != 2 and not (levels == 1 and _is_nested(X)):
        return
    of_X, of_y = (a.index.get_level_values(0).unique() for a in (X, y))
    if len(of_X) != len(of_y) or of_X.equals(of_y):
        return
    lacks = ~of_X.isin(of_y)
    if lacks.any() and not lacks.all() and of_X.dtype.kind not in "iu":
        raise ValueError(
            f"X and {name} are of different instances: {name} lacks "
            f"{of_X[lacks][:3].tolist()}, which X has. It is read by position only if "
            "its index is one of its own."
        )
    if levels == 2 or not lacks.any():
        raise ValueError(
            f"X and {name} have their instances in another order: "
            f"{of_X[:3].tolist()}... and {of_y[:3].tolist()}... Call {name}.loc["
            + ("X.index]." if levels == 2 else "X.index.get_level_values(0).unique()].")
        )


def read_steps(y, lengths: np.ndarray) -> np.ndarray:
    """Return the targets of all time steps of all sequences, one after the other.

    Parameters
    ----------
    y : array-like or ragged list of n_samples arrays
        Row i has shape (lengths[i],) or (lengths[i], n_outputs). Or a Series or frame
        with an (instance, time) row index.
    lengths : ndarray of shape (n_samples,), int64
        Time steps of each sequence.

    Returns
    -------
    flat : ndarray of shape (n_steps,) or (n_steps, n_outputs)

    Raises
    ------
    ValueError
        If a row has another length than its sequence; names it.
    """
    y = unmasked(y)
    if getattr(getattr(y, "index", None), "nlevels", 1) == 2:
        values = y.to_numpy()
        one_column = values.ndim == 2 and values.shape[1] == 1
        values = values[:, 0] if one_column else values
        rows = _split_by_instance(y.index, values, "y")
    else:
        rows = _panel_rows(y)
    if rows is None:
        rows = np.asarray(y)
        if rows.ndim < 2:
            raise ValueError(
                'With target="sequence" each row of y is an array with one label or '
                f"value per time step; got y of shape {rows.shape}. For one label per "
                'sequence set target="single".'
            )
    if len(rows) != len(lengths):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[len(lengths), len(rows)]}"
        )
    rows = [_plain_targets(np.asarray(unmasked(row))) for row in rows]
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if row.ndim not in (1, 2) or row.ndim != rows[0].ndim:
            raise ValueError(
                f"Row {i} of y has shape {row.shape}; expected (n_timesteps,) in every "
                "row, or (n_timesteps, n_outputs) in every row."
            )
        if len(row) != length:
            raise ValueError(
                f"Row {i} of y has {len(row)} time steps, but row {i} of X has "
                f'{length}. With target="sequence" y needs one label or value for each '
                "time step (padding not counted)."
            )
    # In one layout, whatever that of the rows is: sums round by it.
    return np.ascontiguousarray(np.concatenate(rows))


def _plain_targets(row):
    """Return targets in columns of several types, objects to NumPy, as numbers."""
    if row.dtype.kind == "O" and row.ndim == 2:
        row = _whole_numbers(row)
        with contextlib.suppress(TypeError, ValueError):
            return row.astype(np.float64) if row.dtype.kind == "O" else row
    return row


def split_steps(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return an object array (n_samples,) of arrays (lengths[i], ...) from all steps."""
    rows = np.empty(len(lengths), dtype=object)
    rows[:] = np.split(flat, np.cumsum(lengths)[:-1])
    return rows


def pad_steps(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return all steps as rows padded with zeros: (n_steps, ...) -> (n, T, ...)."""
    inside = np.arange(lengths.max()) < lengths[:, None]  # (n, T)
    padded = np.zeros((*inside.shape, *flat.shape[1:]), dtype=flat.dtype)
    padded[inside] = flat
    return padded


def is_ragged(y) -> bool:
    """Tell whether y is a list or object array of arrays of unequal shapes."""
    rows = None if hasattr(y, "columns") else _panel_rows(y)
    return rows is not None and len({np.shape(row) for row in rows}) > 1


def _panel_rows(X):
    """Return the sequences of a panel or ragged X as a list, or None if it is an array.

    A list of equally long lists of numbers is an array, as everywhere in
    scikit-learn; a list of arrays or frames, or of lists of unequal length, is ragged.
    """
    if hasattr(X, "columns") and hasattr(X, "index"):
        n_levels = getattr(X.index, "nlevels", 1)
        if n_levels > 2:
            raise ValueError(
                f"X has a row index of {n_levels} levels; a panel has two, (instance, "
                "time). Join the upper levels to one."
            )
        if n_levels == 2:
            return _split_by_instance(X.index, _require_numbers(X), "X")
        if _is_nested(X):
            return _nested_rows(X)
        return None
    if hasattr(X, "index") and hasattr(X, "dtype") and X.dtype == object:
        X = X.to_numpy()  # a Series whose cells are sequences
    if isinstance(X, np.ndarray):
        holds_sequences = X.ndim == 1 and X.dtype == object
        return list(X) if holds_sequences and any(map(_is_sequence, X)) else None
    if isinstance(X, (list, tuple)) and len(X):
        if any(hasattr(row, "shape") and np.ndim(row) for row in X):
            return list(X)
        if all(isinstance(row, (list, tuple)) for row in X):
            return list(X) if len({_sizes(row) for row in X}) > 1 else None
    return None


def _sizes(row):
    """Return the length of a list, and that of its first list if it is one of lists."""
    first = row[0] if len(row) else None
    return len(row), len(first) if isinstance(first, (list, tuple)) else None


def _frame_of_rows(rows):
    """Return the first row whose columns have names, which those of others must be."""
    first, first_names = None, None
    for i, row in enumerate(rows):
        names = list(getattr(row, "columns", ()))
        if not names or not all(isinstance(name, str) for name in names):
            continue
        if first is None:
            first, first_names = i, names
        elif names != first_names:
            raise ValueError(
                f"Row {i} of X has the columns {names}, but row {first} has "
                f"{first_names}. Every frame must have the same, in the same order."
            )
    return None if first is None else rows[first]


def _is_sequence(value) -> bool:
    if not hasattr(value, "__len__") or isinstance(value, str):
        return False
    return isinstance(value, (list, tuple)) or np.ndim(value) > 0


def _split_by_instance(index, values, name):
    """Split rows with an (instance, time) index, instances as they first appear."""
    instance = index.get_level_values(0)
    if not len(instance):
        return []
    codes = instance.factorize()[0]
    if (codes < 0).any():
        raise ValueError(
            f"The index of {name} names no instance in row {int((codes < 0).argmax())}, "
            "where it is missing. Give it a name, or drop the row."
        )
    order = np.argsort(codes, kind="stable")
    times = index.codes[1]
    if not index.levels[1].is_monotonic_increasing:
        times = index.get_level_values(1).factorize(sort=True)[0]
    backwards = (np.diff(times[order]) < 0) & (np.diff(codes[order]) == 0)
    if backwards.any():
        raise ValueError(
            f"The rows of instance {instance[order[backwards.argmax()]]} are not in "
            "the order of time. Sort them by their index."
        )
    stops = np.flatnonzero(np.diff(codes[order])) + 1
    return np.split(values[order], stops)


def unmasked(array):
    """Return a masked array with NaN for what is masked, a tensor of torch as an array.

    Anything else comes back as it is.
    """
    if hasattr(array, "detach"):  # on whatever device
        return array.detach().cpu().numpy()
    if isinstance(array, np.ma.MaskedArray):
        hides = np.ma.is_masked(array)
        return array.astype(np.float64).filled(np.nan) if hides else array.data
    return array


def _require_real_columns(frame):
    """Refuse what pandas, polars or NumPy would make numbers of without a word."""
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        is_time = getattr(dtype, "is_temporal", bool)()  # of polars
        if is_time or getattr(dtype, "kind", "O") in "cmM":
            raise ValueError(
                f"column {name!r} is of type {dtype}, which is no real number. Make "
                "numbers of it, or leave it out."
            )


def _require_numbers(frame):
    try:
        _require_real_columns(frame)
        values = frame.to_numpy()
        if values.dtype.kind == "O":
            values = _whole_numbers(values)
        if values.dtype.kind in "buif":
            return values
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"X has values that are not numbers: {error}") from error


def _require_order(row, i):
    """Raise where the times of a frame or Series, if it has any, run backwards.

    Numbers alone are no times: rows sorted by a column keep theirs.
    """
    index = getattr(row, "index", None)
    n_levels = getattr(index, "nlevels", 0)  # none of a list, whose index is a method
    if n_levels > 1:
        index = index.get_level_values(-1)
    if (n_levels > 1 or hasattr(index, "asi8")) and not index.is_monotonic_increasing:
        raise ValueError(
            f"The steps of row {i} of X are not in the order of time. Sort them by their "
            "index."
        )


def _is_nested(frame) -> bool:
    """Tell whether a cell is a sequence; looks at columns of objects only."""
    return any(
        dtype.kind == "O" and any(map(_is_sequence, frame.iloc[:, k]))
        for k, dtype in enumerate(frame.dtypes)
    )


def _nested_rows(frame):
    rows = []
    for i, cells in enumerate(frame.itertuples(index=False, name=None)):
        for cell in cells:
            _require_order(cell, i)
        channels = [np.asarray(cell) for cell in cells]
        for name, cell, channel in zip(frame.columns, cells, channels, strict=True):
            if channel.ndim != 1:
                shape = f"an array of shape {channel.shape}"
                raise ValueError(
                    f"Row {i} of X has in column {name!r} "
                    f"{shape if channel.ndim else repr(cell)}; expected a sequence "
                    "(n_timesteps,) in every cell, as there is in others. Drop the row, "
                    "or leave the column out."
                )
            if channel.dtype.kind in "mM":
                raise ValueError(
                    f"Row {i} of X has in column {name!r} times, of type "
                    f"{channel.dtype}. Make numbers of them."
                )
        if len({len(channel) for channel in channels}) > 1:
            raise ValueError(
                f"Row {i} of X has channels of different lengths: "
                f"{[len(channel) for channel in channels]}."
            )
        rows.append(np.column_stack(channels))  # (T_i, C)
    return rows


def _ndim(X) -> int:
    ndim = getattr(X, "ndim", None)
    if ndim is not None:
        return ndim
    depth = 0
    while isinstance(X, (list, tuple)) and len(X):
        X, depth = X[0], depth + 1
    return depth


def _is_plain(X) -> bool:
    """Tell whether X is an array of finite floats, which `check_array` returns as it is.

    For one sequence it takes as long to find out as a small network to answer.
    """
    if type(X) is not np.ndarray or X.dtype not in (np.float32, np.float64):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return X.ndim in (2, 3) and X.size > 0 and bool(np.isfinite(X.sum()))


def _as_int64(array):
    """Return tokens as int64, and what holds none, which is refused later, as it is.

    NumPy would make float64 of int64 rows beside others, and other tokens of large ones.
    """
    with np.errstate(invalid="ignore"):
        tokens = array.astype(np.int64)
    return tokens if ((tokens >= 0) & (tokens == array)).all() else array


def _whole_numbers(array):
    """Return objects that are whole numbers, all of them, as int64: to the last digit."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        numbers = array.astype(np.int64)
        if (numbers == array).all():
            return numbers
    return array


def _is_of_numpy(dtype) -> bool:
    """Tell whether a column's type is one of NumPy's for numbers."""
    return isinstance(dtype, np.dtype) and dtype.kind in "buif"


def _require_real(X):
    if X.dtype.kind in "iuf":
        return X
    if X.dtype.kind in "mM":
        raise ValueError(f"X holds times, of type {X.dtype}. Make numbers of them.")
    try:
        return X.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("X holds values that are not numbers.") from error


def _require_steps(lengths, what):
    if (lengths == 0).any():
        raise ValueError(
            f"Row {int((lengths == 0).argmax())} of X is an empty sequence: {what}. "
            "Every sequence needs at least one time step; drop the row."
        )


def _last_true(mask):
    """Position of the last True of each row of a 2-D mask; -1 if there is none."""
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    return np.where(mask.any(axis=1), last, -1).astype(np.int64)
