"""save and load: an estimator as one file, without pickle.

What each of our classes consists of is written down in the rooms named saved_…, and
nothing else in a file is believed.
"""

from __future__ import annotations

import importlib
import os

from sklstm.checks import is_a, require, require_fields
from sklstm.container import pack, read_whole, unpack, write_whole

# Where each class is, and what it consists of; the forecaster's import sktime.
KINDS = {
    "LSTMClassifier": ("sklstm.estimators", "sklstm.saved_estimator"),
    "LSTMRegressor": ("sklstm.estimators", "sklstm.saved_estimator"),
    "LSTMForecaster": ("sklstm.forecaster", "sklstm.saved_forecaster"),
}
# They belong to a session or a machine and are not written. A file that brings a path to
# write to is refused.
NOT_PARAMETERS = {"checkpoint"}
NOT_SAVED = {"_skl_callbacks", "_metadata_request", "_config_dynamic", "_tags_dynamic"}
PLAIN = (type(None), bool, int, float, str)


def save(estimator, path, *, include_optimizer=False):
    """Write an estimator, fitted or not, to one file.

    A safetensors file, with the settings as JSON in its metadata: no pickle, so `load`
    can be given files that are not trusted. A file is replaced in one step; a crash
    leaves the old one or the new one. The same estimator makes the same bytes.

    Not written: callbacks, metadata routing, sktime's ``set_config``, and the parameter
    `checkpoint`; they belong to the session or the machine.

    Parameters
    ----------
    estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
        Not of a subclass.
    path : path-like
        File to write, by convention "….safetensors"; its folder must exist.
    include_optimizer : bool, default=False
        Whether to write the moments of the solver, two more numbers per weight, so that
        `partial_fit` goes on after `load` exactly as it would have before; without them
        it starts with new moments. Ignored for the forecaster, which keeps none.

    Raises
    ------
    ValueError
        If the estimator cannot be written without pickle; names what stands in the way,
        such as a RandomState as `random_state`.
    OSError
        If path cannot be written, or is a folder, a device or the like.

    See Also
    --------
    load : The way back.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from sklstm import LSTMClassifier, load, save
    >>> X = np.random.default_rng(0).normal(size=(40, 5))
    >>> y = X.sum(axis=1) > 0
    >>> model = LSTMClassifier(hidden_size=8, max_iter=20, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     save(model, path)
    ...     loaded = load(path)
    >>> bool((loaded.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    kind = type(estimator).__name__
    if kind not in CODECS or type(estimator) is not _class_of(kind):
        raise ValueError(
            "save takes an LSTMClassifier, LSTMRegressor or LSTMForecaster, and none of "
            f"a subclass; got {type(estimator).__name__}. Of a pipeline, a search or a "
            "panel estimator, save the estimator inside."
        )
    try:
        data = pack(_state(estimator, include_optimizer), kind, CODECS[kind]())
        # What cannot be read, or is not all that there was, is not written.
        written = _estimator(*unpack(data, CODECS))
    except ValueError as error:
        raise ValueError(f"This {kind} cannot be saved: {error}") from error
    lost = [
        name
        for name, value in vars(estimator).items()
        if name not in NOT_SAVED | NOT_PARAMETERS
        and (
            name not in vars(written)
            or (isinstance(value, PLAIN) and repr(vars(written)[name]) != repr(value))
        )
    ]
    if lost:
        raise ValueError(
            f"This {kind} cannot be saved: its attributes {lost} are not those of a "
            f"fitted {kind} and would be lost. Delete them first."
        )
    write_whole(path, data)


def load(path):
    """Read an estimator that `save` has written.

    Nothing in the file is executed, no class but our own is known by name, and memory is
    used in proportion to the size of the file: shapes are compared with the arrays that
    are there before a network is built. A checksum over the whole file finds all damage;
    it does not tell who wrote it.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    estimator : LSTMClassifier, LSTMRegressor or LSTMForecaster
        Its predictions are those of the saved one, on the same machine to the last bit
        (with ``dtype="float64"`` to 1e-12: torch rounds by where weights lie in memory).

    Raises
    ------
    OSError
        If there is no file, or it cannot be read.
    ValueError
        If the file is damaged, is none of ours, was written by a newer version, or holds
        anything that `save` would not have written.

    See Also
    --------
    save : How the file comes about.
    """
    try:
        return _estimator(*unpack(read_whole(path), CODECS))
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{os.fspath(path)!r} cannot be loaded: {reason}.") from error


def _class_of(kind):
    return getattr(importlib.import_module(KINDS[kind][0]), kind)


def _parts_of(kind):
    return importlib.import_module(KINDS[kind][1])


def _state(estimator, include_optimizer):
    """Return what is written of an estimator."""
    names = _parts_of(type(estimator).__name__).FITTED
    fitted = {name: vars(estimator)[name] for name in names if name in vars(estimator)}
    if "_optimizer_state" in fitted and not include_optimizer:
        fitted["_optimizer_state"] = None
    parameters = estimator.get_params(deep=False)
    return {
        "parameters": {k: v for k, v in parameters.items() if k not in NOT_PARAMETERS},
        "fitted": fitted,
    }


def _estimator(kind, state):
    """Make an estimator from what was read of it."""
    require_fields(kind, state, {"parameters": is_a(dict), "fitted": is_a(dict)})
    parameters, fitted = state["parameters"], state["fitted"]
    require(not NOT_PARAMETERS & parameters.keys(), "it brings a path to write to")
    try:  # a parameter that is not there is one that came later: it has its default
        estimator = _class_of(kind)(**parameters)
        estimator._check_parameters()
    except TypeError as error:
        raise ValueError(f"its {kind} has wrong parameters ({error})") from error
    if fitted:
        _parts_of(kind).restore(estimator, fitted)
    return estimator


CODECS = {kind: lambda kind=kind: _parts_of(kind).CODECS for kind in KINDS}
