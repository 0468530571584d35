"""What a forecaster consists of, as it is written to a file."""

from __future__ import annotations

import pandas as pd
from sktime.forecasting.base import ForecastingHorizon

from sklstm import frames
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
    is_scale,
    is_share,
    require,
    require_fields,
)
from sklstm.container import Codec
from sklstm.forecast_model import ForecastModel, Member
from sklstm.network import ForecastNetwork
from sklstm.saved_network import codec
from sklstm.windows import N_CHANNELS

# Attributes that are written, sktime's among them; the others follow from them.
FITTED = {
    "_state": is_one_of("new", "pretrained", "fitted"),
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
# Those that no forecaster lacks that is this far.
NEEDED = {
    "pretrained": ("_pretrained_attrs", "pretrained_model_"),
    "fitted": ("_cutoff", "_fh", "_cur_y", "_cur_X", "model_", "history_",
               "_y_metadata", "_y_mtype_last_seen", "_is_vectorized"),
}  # fmt: skip

# Longer windows and seasons are refused: a forecast would take memory for them that the
# size of a file says nothing of.
MAX_STEPS = 2**17


def _is_length(value):
    return is_count(value) and value <= MAX_STEPS


def restore(forecaster, fitted):
    """Give a forecaster its fitted attributes and those that sktime keeps."""
    state = fitted.get("_state")
    required = NEEDED.get(state, ()) if isinstance(state, str) else ()
    checks = {k: v for k, v in FITTED.items() if k in fitted or k in required}
    require_fields("LSTMForecaster", fitted, checks)
    vars(forecaster).update(fitted)
    if forecaster._state != "fitted":
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


def _member(state):
    require(type(state) is dict, "its member is not described")
    state = {"n_shorter": 0} | state  # which the first files lack
    require_fields("member", state, {
        "network": is_a(ForecastNetwork),
        "quantiles": all_of(is_share, tuple),
        "window_length": _is_length,
        "scaling": is_one_of("season", "last", "standard", "none"),
        "log": is_flag,
        "window_lengths": all_of(_is_length, tuple),
        "n_shorter": is_natural,
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
    return Member(**state)


def _forecast_model(state):
    require(type(state) is dict, "its model is not described")
    state = {"fine_tuned": False} | state  # which the first files lack
    columns = state.get("exog_columns")
    n_exog = len(columns) if type(columns) is tuple else None
    horizon, levels = state.get("horizon"), state.get("quantiles")
    require_fields("model", state, {
        "horizon": is_count,
        "period": _is_length,
        "quantiles": lambda v: type(v) is tuple and is_levels(v) and sorted(v) == list(v),
        "exog_mean": lambda v: is_floats(v, n_exog),
        "exog_scale": lambda v: is_scale(v, n_exog),
        "columns": lambda v: type(v) is tuple and len(v) > 0,
        "exog_columns": is_a(tuple),
        "trained": all_of(is_a(Member)),
        "pretrained": all_of(is_a(Member)),
        "pretrained_share": is_share,
        "fine_tuned": is_flag,
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
        and all(config["n_inputs"] == N_CHANNELS + n_exog for config in configs)
        and all(config["n_future"] == n_exog for config in configs),
        "its model and its members do not belong together",
    )
    return ForecastModel(**state)


CODECS = (
    *frames.CODECS,
    codec(ForecastNetwork),
    Codec(Member, vars, _member),
    Codec(ForecastModel, vars, _forecast_model),
)
