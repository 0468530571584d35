"""What a classifier or regressor consists of, as it is written to a file."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import ClassifierMixin

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
    is_vector,
    optional,
    require,
    require_fields,
)
from sklstm.container import Codec
from sklstm.heads import REGRESSION_LOSSES, ClassificationHead, RegressionHead
from sklstm.network import RecurrentNetwork
from sklstm.saved_network import codec
from sklstm.sequences import N_RESERVED_TOKENS, SequenceEncoder
from sklstm.training import History

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
    "feature_names_in_": is_vector("O"),
    "best_iter_": optional(is_count),
    "shrinkage_": lambda v: is_vector("f")(v) and ((v >= 0) & (v <= 1)).all(),
}
OPTIONAL = {"feature_names_in_", "best_iter_", "shrinkage_"}


def restore(estimator, fitted):
    """Give a classifier or regressor its fitted attributes."""
    checks = {k: v for k, v in FITTED.items() if k in fitted or k not in OPTIONAL}
    require_fields(type(estimator).__name__, fitted, checks)
    encoder, head, network = (fitted[k] for k in ("encoder_", "head_", "network_"))
    config = network.config
    if encoder.tokens:
        reads = config["n_tokens"] == len(encoder.vocabulary_) + N_RESERVED_TOKENS
    else:
        reads = config["n_channels"] == encoder.n_encoded_channels_
    dtype = torch.float64 if encoder.dtype == "float64" else torch.float32
    is_classifier = isinstance(estimator, ClassifierMixin)
    n_shrunk = None if is_classifier else head.n_outputs_
    require(
        reads
        and encoder.tokens == (config["stem"] == "embedding")
        and next(network.parameters()).dtype == dtype
        and config["n_outputs"] == head.n_raw
        and (config["n_members"] == 1 or config["link"] == head.link)
        and isinstance(head, ClassificationHead) == is_classifier
        and ("shrinkage_" not in fitted or len(fitted["shrinkage_"]) == n_shrunk),
        "its encoder, network and head do not belong together",
    )
    optimizer = fitted["_optimizer_state"]
    if optimizer is not None:
        n_weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
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
    estimator._keep(encoder, head, network, history, goes_on=False)
    for name in {"n_features_in_"} | OPTIONAL & fitted.keys():
        setattr(estimator, name, fitted[name])


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
    if "curve_" in state:
        n_timesteps = state.get("n_timesteps_in_")
        learned |= {
            "curve_": lambda v: is_floats(v, n_timesteps, n_channels),
            "deviation_scale_": lambda v: is_scale(v, n_channels),
        }
    if state.get("tokens"):
        learned = {
            "vocabulary_": lambda v: is_vector("i")(v) and bool((np.diff(v) > 0).all())
        }
    if "keeps_ends" in state:  # files from before there was a choice have it not
        learned["keeps_ends"] = is_flag
    require_fields("encoder", state, {
        "n_channels": is_count,
        "layout": is_one_of("time-major", "channel-major"),
        "standardize": is_flag,
        "missing": is_one_of("error", "mask"),
        "tokens": is_flag,
        "n_tokens": optional(is_count),
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


CODECS = (
    Codec(SequenceEncoder, vars, _encoder),
    Codec(ClassificationHead, vars, _classification_head),
    Codec(RegressionHead, vars, _regression_head),
    codec(RecurrentNetwork),
)
