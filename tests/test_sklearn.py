"""scikit-learn's own contract, with no exemption, and composition with its tools."""

import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - sklearn's switch
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklstm import LSTMClassifier, LSTMRegressor

ESTIMATORS = (LSTMClassifier, LSTMRegressor)
# A smaller network than the default: what is checked is the setting beside it.
SMALL = {"hidden_size": 12, "stem": None, "max_iter": 60, "learning_rate_init": 0.02}
SETTINGS = [
    {},
    {**SMALL, "bidirectional": True},
    {**SMALL, "num_layers": 2, "dropout": 0.1},
    {**SMALL, "early_stopping": True},
    {**SMALL, "batch_size": 8},
    {**SMALL, "solver": "adamw"},
    {**SMALL, "solver": "sgd", "learning_rate_init": 0.2},
    {**SMALL, "missing": "mask"},
    *(
        {**SMALL, "pooling": pooling}
        for pooling in ("last", "mean", "max", "mean-max", "attention")
    ),
    {**SMALL, "stem": "linear"},
    {**SMALL, "stem": "conv"},
    {**SMALL, "cell": "gru"},
    {**SMALL, "dtype": "float64"},
]


@parametrize_with_checks(
    [estimator(**settings) for settings in SETTINGS for estimator in ESTIMATORS],
    xfail_strict=True,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "name",
    [
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
        "check_param_validation",
    ],
)
def test_checks_that_scikit_learn_runs_on_itself(estimator, name):
    getattr(estimator_checks, name)(estimator.__name__, estimator(**SMALL))
