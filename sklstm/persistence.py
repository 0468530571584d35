"""save and load: an estimator as one file, without pickle.

What each of our classes consists of is written down here, and nothing else in a file is
believed: `container` reads values, `frames` those of pandas and sktime, and this room
checks that they are those of a fitted object before it makes one.
"""

from __future__ import annotations

import importlib
import os

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from sklstm.checks import (
    all_of,
    is_a,
    is_count,
    is_flag,
    is_floats,
    is_levels,
    is_natural,
    is_number,
    is_one_of,
    is_positive,
    is_scale,
    is_share,
    is_vector,
    optional,
    require,
    require_fields,
)
from sklstm.container import (
    DECODE_ERRORS,
    Codec,
    pack,
    read_whole,
    unpack,
    write_whole,
)
from sklstm.estimators import LSTMClassifier, LSTMRegressor
from sklstm.heads import REGRESSION_LOSSES, ClassificationHead, RegressionHead
from sklstm.network import CELLS, POOLINGS, ForecastNetwork, RecurrentNetwork
from sklstm.sequences import N_RESERVED_TOKENS, SequenceEncoder
from sklstm.training import History

# They belong to a session or a machine and are not written; a file that brings a path to
# write to is refused.
NOT_PARAMETERS = {"checkpoint"}
NOT_SAVED = {"_skl_callbacks", "_metadata_request", "_config_dynamic", "_tags_dynamic"}
# Attributes that are written; the others follow from them.
FITTED = {
    "n_features_in_": is_count,
    "encoder_": is_a(SequenceEncoder),
    "head_": is_a(ClassificationHead, RegressionHead),
    "network_": is_a(RecurrentNetwork),
    "loss_curve_": lambda v: all_of(is_number)(v) and len(v) > 0,
    "validation_scores_": optional(all_of(is_number)),
    "best_loss_": optional(is_number),
    "best_validation_score_": optional(is_number),
    "_optimizer_state": is_a(dict, None),
}
# The settings of networks.
CONFIG = {
    **dict.fromkeys(("hidden_size", "num_layers", "n_channels", "n_outputs"), is_count),
    **dict.fromkeys(("n_inputs", "horizon", "n_quantiles", "segment_length"), is_count),
    **dict.fromkeys(("n_tokens", "n_future", "linear_length"), is_natural),
    "cell": is_one_of(*CELLS),
    "bidirectional": is_flag,
    "dropout": lambda v: is_share(v) and v < 1,
    "stem": is_one_of(None, "linear", "conv", "embedding"),
    "pooling": is_one_of(*POOLINGS),
    "strides": lambda v: all_of(is_count, tuple)(v) and len(v) == 3,
}


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
            f"a subclass; got {type(estimator).__name__}."
        )
    try:
        data = pack(_state(estimator, include_optimizer), kind, CODECS[kind]())
        written = _estimator(*unpack(data, CODECS))  # what cannot be read is not written
    except ValueError as error:
        raise ValueError(f"This {kind} cannot be saved: {error}") from error
    lost = vars(estimator).keys() - vars(written).keys() - NOT_SAVED
    if lost:
        raise ValueError(
            f"This {kind} cannot be saved: it has the attributes {sorted(lost)}, which "
            f"are not those of a {kind}. Delete them first."
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
        Its predictions are those of the saved one, on the same machine to the last bit.

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
        raise ValueError(f"{os.fspath(path)!r} cannot be loaded: {error}.") from error


# ------------------------------------------------------------------------- estimators
def _class_of(kind):
    if kind == "LSTMForecaster":  # costs the import of sktime
        return importlib.import_module("sklstm.forecaster").LSTMForecaster
    return {"LSTMClassifier": LSTMClassifier, "LSTMRegressor": LSTMRegressor}[kind]


def _state(estimator, include_optimizer):
    """Return what is written of an estimator."""
    parameters = estimator.get_params(deep=False)
    is_forecaster = type(estimator).__name__ == "LSTMForecaster"
    names = _forecaster_fields() if is_forecaster else {**FITTED, "feature_names_in_": 0}
    fitted = {name: vars(estimator)[name] for name in names if name in vars(estimator)}
    if "_optimizer_state" in fitted and not include_optimizer:
        fitted["_optimizer_state"] = None
    return {
        "parameters": {k: v for k, v in parameters.items() if k not in NOT_PARAMETERS},
        "fitted": fitted,
    }


def _estimator(kind, state):
    """Make an estimator from what was read of it."""
    require_fields(kind, state, {"parameters": is_a(dict), "fitted": is_a(dict)})
    parameters, fitted = state["parameters"], state["fitted"]
    cls = _class_of(kind)
    # A parameter that is not there is one that came later: it has its default.
    known = set(cls().get_params(deep=False)) - NOT_PARAMETERS
    for name in parameters:
        require(name in known, f"its {kind} has the parameter {str(name)[:40]!r}")
    estimator = cls(**parameters)
    try:
        estimator._check_parameters()
    except TypeError as error:  # the forecaster's checks are of values
        raise ValueError(f"its {kind} has wrong parameters ({error})") from error
    if kind == "LSTMForecaster":
        _restore_forecaster(estimator, fitted)
    elif fitted:
        _restore(estimator, fitted)
    return estimator


def _restore(estimator, fitted):
    """Give a classifier or regressor its fitted attributes."""
    fields = FITTED
    if "feature_names_in_" in fitted:
        fields = {**FITTED, "feature_names_in_": is_vector("O")}
        estimator.feature_names_in_ = fitted["feature_names_in_"]
    require_fields(type(estimator).__name__, fitted, fields)
    encoder, head, network = (fitted[k] for k in ("encoder_", "head_", "network_"))
    config = network.config
    if encoder.tokens:
        reads = config["n_tokens"] == len(encoder.vocabulary_) + N_RESERVED_TOKENS
    else:
        reads = config["n_channels"] == encoder.n_encoded_channels_
    dtype = torch.float64 if encoder.dtype == "float64" else torch.float32
    is_classifier = isinstance(estimator, LSTMClassifier)
    require(
        reads
        and encoder.tokens == (config["stem"] == "embedding")
        and next(network.parameters()).dtype == dtype
        and config["n_outputs"] == head.n_raw
        and isinstance(head, ClassificationHead) == is_classifier,
        "its encoder, network and head do not belong together",
    )
    optimizer = fitted["_optimizer_state"]
    if optimizer is not None:
        n_weights = sum(p.numel() for p in network.parameters())
        require_fields("optimizer", optimizer, {
            "n_steps": is_natural,
            "first": lambda v: is_floats(v, n_weights),
            "second": optional(lambda v: is_floats(v, n_weights)),
        })  # fmt: skip
    history = History(
        loss_curve=fitted["loss_curve_"],
        validation_scores=fitted["validation_scores_"],
        best_loss=fitted["best_loss_"],
        best_validation_score=fitted["best_validation_score_"],
        optimizer_state=optimizer,
    )
    estimator.n_features_in_ = fitted["n_features_in_"]
    estimator._keep(encoder, head, network, history, going_on=False)


def _restore_forecaster(forecaster, fitted):
    """Give a forecaster its fitted attributes and those that sktime keeps."""
    fields = _forecaster_fields()
    require_fields(
        "LSTMForecaster", fitted, {k: v for k, v in fields.items() if k in fitted}
    )
    state = fitted.get("_state")
    needed = {"new": [], "pretrained": ["pretrained_model_", "_pretrained_attrs"]}
    required = needed.get(state, ["model_", "history_", "_cur_y", "_cur_X", "_cutoff"])
    for name in ("_state", *required):
        require(name in fitted, f"its LSTMForecaster lacks {name!r}")
    vars(forecaster).update(fitted)
    if state != "fitted":
        return
    model, y, X = forecaster.model_, forecaster._cur_y, forecaster._cur_X
    require(
        len(forecaster._cutoff) == 1
        and len(y) > 0
        and y.shape[1] == len(model.columns)
        and (0 if X is None else X.shape[1]) == len(model.exog_columns),
        "its model and its data do not belong together",
    )
    forecaster._keep_choices()


def _forecaster_fields():
    """Return the attributes of a forecaster that are written, with their checks."""
    import pandas as pd
    from sktime.forecasting.base import ForecastingHorizon

    from sklstm.forecast_model import ForecastModel

    return {
        "_state": lambda v: v in ("new", "pretrained", "fitted"),
        "_fh": is_a(ForecastingHorizon, None),
        "_cutoff": is_a(pd.Index, None),
        "_converter_store_y": is_a(dict),
        "_y_metadata": is_a(dict),
        "_y_mtype_last_seen": is_a(str),
        "_is_vectorized": lambda v: v is False,
        "_pretrained_attrs": lambda v: v == ["pretrained_model_"],
        "pretrained_model_": is_a(ForecastModel),
        "model_": is_a(ForecastModel),
        "history_": all_of(all_of(is_number)),
        "_cur_y": is_a(pd.DataFrame),
        "_cur_X": is_a(pd.DataFrame, None),
    }


# ---------------------------------------------------------------------------- networks
class _WithoutMemory(TorchFunctionMode):
    """Tensors are made on the meta device, which knows shapes and has no memory."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") is not None:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def _network_state(network):
    state = network.__getstate__()
    return {"config": state["config"], "arrays": state["arrays"]}


def _network(cls, state):
    """Build a network, once its settings are known to ask for just these arrays."""
    require_fields("network", state, {"config": is_a(dict), "arrays": is_a(dict)})
    config, arrays = state["config"], state["arrays"]
    require_fields("network", config, {k: CONFIG[k] for k in config if k in CONFIG})
    require(config.get("num_layers", 1) <= len(arrays), "its network lacks layers")
    dtypes = {a.dtype for a in arrays.values() if type(a) is np.ndarray}
    require(len(dtypes) == 1, "its network has weights of several types")
    try:
        with torch.device("meta"), _WithoutMemory():
            empty = cls(**config).state_dict()
    except DECODE_ERRORS as error:
        raise ValueError(f"its network cannot be built ({error})") from error
    require_fields("network", arrays, {
        name: lambda v, shape=tuple(tensor.shape): is_floats(v, *shape)
        for name, tensor in empty.items()
    })  # fmt: skip
    network = cls.__new__(cls)
    network.__setstate__({**state, "training": False})
    return network


# --------------------------------------------------------------------- fitted objects
def _instance(cls, state):
    made = cls.__new__(cls)
    vars(made).update(state)
    return made


def _encoder(state):
    require(type(state) is dict, "its encoder is not described")
    n_channels = state.get("n_channels_in_")
    learned = {
        "mean_": lambda v: is_floats(v, n_channels),
        "scale_": lambda v: is_scale(v, n_channels),
    }
    if state.get("tokens"):
        learned = {
            "vocabulary_": lambda v: is_vector("i")(v) and bool((np.diff(v) > 0).all())
        }
    require_fields("encoder", state, {
        "n_channels": is_count,
        "layout": is_one_of("time-major", "channel-major"),
        "standardize": is_flag,
        "missing": is_one_of("error", "mask"),
        "tokens": is_flag,
        "dtype": is_one_of("float32", "float64"),
        "flat_": is_flag,
        "n_channels_in_": is_count,
        "n_timesteps_in_": optional(is_count),
        **learned,
    })  # fmt: skip
    return _instance(SequenceEncoder, state)


def _classification_head(state):
    require_fields("head", state, {
        "multilabel_": is_flag,
        "classes_": is_vector("biufOUSMm"),
        "y_dtype_": lambda v: isinstance(v, np.dtype),
        "binary_": is_flag,
    })  # fmt: skip
    head = _instance(ClassificationHead, state)
    n_classes = len(head.classes_)
    require(
        head.binary_ == (n_classes == 2 and not head.multilabel_)
        and (not head.multilabel_ or head.y_dtype_.kind in "biuf"),
        "its head has classes that do not fit together",
    )
    return head


def _regression_head(state):
    n_outputs = state.get("n_outputs_") if type(state) is dict else None
    require_fields("head", state, {
        "loss_name": is_one_of(*REGRESSION_LOSSES),
        "epsilon": is_positive,
        "normalize_y": is_flag,
        "quantiles": optional(is_levels),
        "several_quantiles": is_flag,
        "one_d_": is_flag,
        "n_outputs_": is_count,
        "mean_": lambda v: is_floats(v, n_outputs),
        "scale_": lambda v: is_scale(v, n_outputs),
    })  # fmt: skip
    head = _instance(RegressionHead, state)
    n_quantiles = 1 if head.quantiles is None else len(head.quantiles)
    require(
        (head.loss_name == "quantile") == (head.quantiles is not None)
        and (n_quantiles == 1 or head.several_quantiles)
        and (n_outputs == 1 or not head.one_d_),
        "its head has outputs that do not fit together",
    )
    return head


def _member(cls, state):
    require_fields("member", state, {
        "network": is_a(ForecastNetwork),
        "quantiles": all_of(is_share, tuple),
        "window_length": is_count,
        "scaling": is_one_of("season", "last", "standard", "none"),
        "log": is_flag,
        "window_lengths": all_of(is_count, tuple),
    })  # fmt: skip
    config = state["network"].config
    widths = [*state["window_lengths"], state["window_length"]]
    require(
        is_levels(state["quantiles"])
        and len(state["quantiles"]) == config["n_quantiles"]
        and widths == sorted(set(widths))
        and all(width % config["segment_length"] == 0 for width in widths)
        and config["linear_length"] <= widths[0],
        "its member and its network do not belong together",
    )
    return cls(**state)


def _forecast_model(cls, member, n_channels, state):
    """Make a ForecastModel; `n_channels` are those of a window without X."""
    require(type(state) is dict, "its model is not described")
    columns = state.get("exog_columns")
    n_exog = len(columns) if type(columns) is tuple else None
    horizon, levels = state.get("horizon"), state.get("quantiles")
    require_fields("model", state, {
        "horizon": is_count,
        "period": is_count,
        "quantiles": lambda v: type(v) is tuple and is_levels(v) and sorted(v) == list(v),
        "exog_mean": lambda v: is_floats(v, n_exog),
        "exog_scale": lambda v: is_scale(v, n_exog),
        "columns": lambda v: type(v) is tuple and len(v) > 0,
        "exog_columns": is_a(tuple),
        "trained": all_of(is_a(member)),
        "pretrained": all_of(is_a(member)),
        "pretrained_share": is_share,
        "offsets": lambda v: v == 0.0 if is_number(v) else is_floats(
            v, horizon, len(levels)
        ),
    })  # fmt: skip
    members = state["trained"] + state["pretrained"]
    configs = [each.network.config for each in members]
    share = state["pretrained_share"]
    require(
        (bool(state["trained"]) or share == 1)
        and (bool(state["pretrained"]) or share == 0)
        and all(config["horizon"] >= horizon for config in configs)
        and all(config["n_inputs"] == n_channels + n_exog for config in configs)
        and all(config["n_future"] == n_exog for config in configs),
        "its model and its members do not belong together",
    )
    return cls(**state)


# ------------------------------------------------------------------------------ codecs
def _estimator_codecs():
    return (
        Codec(SequenceEncoder, vars, _encoder),
        Codec(ClassificationHead, vars, _classification_head),
        Codec(RegressionHead, vars, _regression_head),
        Codec(RecurrentNetwork, _network_state, lambda v: _network(RecurrentNetwork, v)),
    )


def _forecaster_codecs():
    from sklstm import frames
    from sklstm.forecast_model import ForecastModel, Member
    from sklstm.windows import N_CHANNELS

    def model(state):
        return _forecast_model(ForecastModel, Member, N_CHANNELS, state)

    return (
        *frames.CODECS,
        Codec(ForecastNetwork, _network_state, lambda v: _network(ForecastNetwork, v)),
        Codec(Member, vars, lambda state: _member(Member, state)),
        Codec(ForecastModel, vars, model),
    )


CODECS = {
    "LSTMClassifier": _estimator_codecs,
    "LSTMRegressor": _estimator_codecs,
    "LSTMForecaster": _forecaster_codecs,
}
