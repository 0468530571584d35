"""LSTM estimators for scikit-learn and sktime."""

import importlib

from sklstm.estimators import LSTMClassifier, LSTMRegressor
from sklstm.streaming import stream

__version__ = "0.1.0.dev0"
__all__ = [
    "LSTMClassifier",
    "LSTMForecaster",
    "LSTMRegressor",
    "compress",
    "distill",
    "stream",
    "to_onnx",
    "to_torch",
]

# Loaded at first use (PEP 562), since they import sktime, or are seldom needed.
_GUESTS = {
    "compress": "sklstm.compression",
    "distill": "sklstm.compression",
    "LSTMForecaster": "sklstm.forecaster",
    "to_onnx": "sklstm.export",
    "to_torch": "sklstm.export",
}


def __getattr__(name):
    if name in _GUESTS:
        return getattr(importlib.import_module(_GUESTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_GUESTS]
