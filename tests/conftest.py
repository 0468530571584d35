import doctest
import os
import re
import sys
from importlib.util import find_spec

# scikit-learn's array API check only runs where SciPy was told so before its import.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ["MPLBACKEND"] = "Agg"  # pictures are drawn without a screen

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # the test runner has a process per core


def pytest_collection_modifyitems(items):
    """Leave out examples of scikit-learn's callbacks where it has none, before 1.9."""
    if find_spec("sklearn.callback") is not None:
        return
    for item in items:
        for example in item.dtest.examples if hasattr(item, "dtest") else ():
            if re.search("callback|Monitor", example.source):
                example.options[doctest.SKIP] = True


@pytest.fixture(autouse=True)
def _close_figures():
    """Close what a test or doctest has drawn."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def make_sequences():
    """Make labelled sequences: the class is the channel with the larger mean.

    Returns X (n, T, C) or, with `ragged`, a list of (T_i, C), and y (n,).
    """

    def make(n=60, n_timesteps=12, n_channels=2, *, ragged=False, seed=0):
        rng = np.random.default_rng(seed)
        y = rng.integers(n_channels if n_channels > 1 else 2, size=n)
        X = rng.normal(size=(n, n_timesteps, n_channels)).astype(np.float32)
        for row, label in zip(X, y, strict=True):
            row[:, label % n_channels] += 1.5 if label < n_channels else -1.5
        if ragged:
            lengths = rng.integers(3, n_timesteps + 1, size=n)
            return [row[:k] for row, k in zip(X, lengths, strict=True)], y
        return X, y

    return make
