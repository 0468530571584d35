"""LSTM estimators for scikit-learn and sktime."""

import importlib

from sklstm.estimators import LSTMClassifier, LSTMRegressor
from sklstm.streaming import stream

__version__ = "0.1.0.dev0"
__all__ = [
    "LSTMClassifier",
    "LSTMForecaster",
    "LSTMRegressor",
    "inspection",
    "monitors",
    "plotting",
    "stream",
]

# Loaded at first use (PEP 562), since they import sktime.
_GUESTS = {"LSTMForecaster": "sklstm.forecaster"}
# Rooms with several public names, imported at first use as well.
_ROOMS = ("inspection", "monitors", "plotting")


def __getattr__(name):
    if name in _GUESTS:
        return getattr(importlib.import_module(_GUESTS[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"sklstm.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_GUESTS, *_ROOMS]
