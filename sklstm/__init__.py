"""LSTM estimators for scikit-learn and sktime."""

import importlib
from typing import TYPE_CHECKING

from sklstm.estimators import LSTMClassifier, LSTMRegressor
from sklstm.generation import generate
from sklstm.streaming import stream
from sklstm.text import TokenSequences

if TYPE_CHECKING:  # for editors: at run time they come by `__getattr__`
    from sklstm import inspection, monitors, plotting
    from sklstm.compression import compress, distill
    from sklstm.export import to_onnx, to_torch
    from sklstm.forecaster import LSTMForecaster
    from sklstm.panel import LSTMTimeSeriesClassifier, LSTMTimeSeriesRegressor
    from sklstm.persistence import load, save

__version__ = "0.1.0"
__all__ = [
    "LSTMClassifier",
    "LSTMForecaster",
    "LSTMRegressor",
    "LSTMTimeSeriesClassifier",
    "LSTMTimeSeriesRegressor",
    "TokenSequences",
    "compress",
    "distill",
    "generate",
    "inspection",
    "load",
    "monitors",
    "plotting",
    "save",
    "stream",
    "to_onnx",
    "to_torch",
]

# Loaded at first use (PEP 562): those for sktime import it, and others are not always
# needed.
_GUESTS = {
    "LSTMForecaster": "sklstm.forecaster",
    "LSTMTimeSeriesClassifier": "sklstm.panel",
    "LSTMTimeSeriesRegressor": "sklstm.panel",
    "compress": "sklstm.compression",
    "distill": "sklstm.compression",
    "load": "sklstm.persistence",
    "save": "sklstm.persistence",
    "to_onnx": "sklstm.export",
    "to_torch": "sklstm.export",
}
# Rooms with several public names, imported at first use as well.
_ROOMS = ("inspection", "monitors", "plotting")


def __getattr__(name):
    if name in _GUESTS:
        return getattr(importlib.import_module(_GUESTS[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"sklstm.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
