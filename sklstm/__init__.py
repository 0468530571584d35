"""LSTM estimators for scikit-learn and sktime."""

from sklstm.estimators import LSTMClassifier, LSTMRegressor

__version__ = "0.1.0.dev0"
__all__ = ["LSTMClassifier", "LSTMRegressor"]
