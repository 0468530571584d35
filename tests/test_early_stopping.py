"""Which rows early stopping sets aside, how they are judged, and that nothing leaks."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from sklstm import LSTMClassifier, LSTMRegressor, base

QUICK = {"hidden_size": 4, "max_iter": 12, "random_state": 0, "early_stopping": True}


@pytest.fixture
def judged(monkeypatch):
    """Note the rows that are judged, and the scores."""
    calls, validate = [], base._validate

    def noted(network, head, rows, device):
        score, loss = validate(network, head, rows, device)
        calls.append((rows, score, loss))
        return score, loss

    monkeypatch.setattr(base, "_validate", noted)
    return calls


def numbered(n=60, seed=0):
    """Sequences each of which is told by its y, the mean of its first channel."""
    X = np.random.default_rng(seed).normal(size=(n, 9, 2)).astype(np.float32)
    return X, X[:, :, 0].mean(axis=1, dtype=np.float64)


def held_out(model, calls, y):
    """Return the positions in y of the rows that a regressor's calls judged."""
    of_rows = model.head_.decode(calls[0][0].target)
    return np.abs(of_rows[:, None] - y).argmin(axis=1)


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_rows_are_judged_as_they_are_and_by_the_metric_of_score(judged, fraction):
    X, y = numbered()
    model = LSTMRegressor(
        **QUICK, augment=["jitter", "scaling"], dropout=0.3, validation_fraction=fraction
    )
    weight = np.random.default_rng(1).uniform(0.2, 3, size=60)
    model.fit(X, y, weight)
    rows = held_out(model, judged, y)
    assert len(set(rows)) == len(rows) == 60 * fraction
    assert [score for _, score, _ in judged] == model.validation_scores_
    # The best weights came back, and say of these rows what was said then.
    expected = r2_score(y[rows], model.predict(X[rows]), sample_weight=weight[rows])
    assert model.best_validation_score_ == pytest.approx(expected)
    best = model.validation_scores_[model.best_iter_ - 1]
    assert best == pytest.approx(expected)


def test_rows_set_aside_are_not_trained_on(judged, monkeypatch):
    X, y = numbered()
    seen, train = [], base.train

    def noted(network, loss, learners, **settings):
        seen.append(learners[0].batches)
        return train(network, loss, learners, **settings)

    monkeypatch.setattr(base, "train", noted)
    model = LSTMRegressor(**QUICK).fit(X, y)
    aside = held_out(model, judged, y)
    trained_on = model.head_.decode(seen[0].target.double().numpy())
    used = np.abs(trained_on[:, None] - y).argmin(axis=1)
    assert sorted([*used, *aside]) == list(range(60))


@pytest.mark.parametrize("estimator", [LSTMClassifier, LSTMRegressor])
def test_a_fit_that_goes_on_sets_the_same_rows_aside(judged, estimator):
    X, y = numbered()
    labels = y > 0 if estimator is LSTMClassifier else y
    model = estimator(**QUICK, warm_start=True)
    targets = []
    for _ in range(3):
        judged.clear()
        model.fit(X, labels)
        targets.append(judged[0][0])
    for rows in targets[1:]:
        for found, expected in zip(rows.arrays(), targets[0].arrays(), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_another_seed_sets_other_rows_aside(judged):
    X, y = numbered()
    found = []
    for seed in (0, 1, 0):
        judged.clear()
        model = LSTMRegressor(**{**QUICK, "random_state": seed}).fit(X, y)
        found.append(sorted(held_out(model, judged, y)))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(("n_rare", "expected"), [(10, 2), (1, None)])
def test_classes_are_set_aside_in_proportion_where_each_has_two_rows(
    judged, n_rare, expected
):
    X, _ = numbered(100)
    y = np.zeros(100, dtype=int)
    y[:n_rare] = 1
    counts = []
    for seed in range(6):
        judged.clear()
        settings = {**QUICK, "random_state": seed, "validation_fraction": 0.2}
        LSTMClassifier(**settings).fit(X, y)
        target = judged[0][0].target
        assert len(target) == 20
        counts.append(int(target.sum()))
    if expected is None:
        assert max(counts) <= 1
    else:
        assert counts == [expected] * 6
