import numpy as np
import pytest
import torch
from scipy.special import ndtri
from sklearn.metrics import (
    accuracy_score,
    d2_pinball_score,
    log_loss,
    mean_pinball_loss,
    r2_score,
)
from sklearn.utils.class_weight import compute_class_weight

from sklstm.heads import ClassificationHead, ForecastHead, RegressionHead

RAW = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
ONE = np.ones(2)


def test_multiclass_loss_and_proba():
    head = ClassificationHead().fit(np.array(["a", "b", "c"]))
    target = head.encode(np.array(["c", "b"]))
    np.testing.assert_array_equal(target, [2, 1])
    expected = log_loss([2, 1], head.proba(RAW), labels=[0, 1, 2])
    assert head.mean_loss(RAW, target, ONE) == pytest.approx(expected)
    np.testing.assert_allclose(np.exp(head.log_proba(RAW)), head.proba(RAW))
    np.testing.assert_array_equal(head.decode(RAW), ["a", "b"])


def test_binary_has_one_logit():
    head = ClassificationHead().fit(np.array([True, False]))
    raw = np.array([[0.0], [2.0]])
    assert head.n_raw == 1
    np.testing.assert_allclose(head.proba(raw)[:, 1], [0.5, 1 / (1 + np.exp(-2))])
    # log 2 for the coin toss, log(1 + e^2) for a certain mistake
    loss = head.mean_loss(raw, head.encode(np.array([True, False])), ONE)
    assert loss == pytest.approx((np.log(2) + np.log1p(np.exp(2))) / 2)
    assert head.log_proba(np.array([[800.0]]))[0, 0] == -800
    np.testing.assert_array_equal(head.decode(raw), [False, True])


def test_multilabel_logits_are_independent():
    y = np.array([[1, 0, 1], [0, 1, 0]])
    head = ClassificationHead().fit(y)
    probability = head.proba(RAW)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-RAW)))
    expected = -np.log(np.where(y == 1, probability, 1 - probability)).mean()
    assert head.mean_loss(RAW, y, np.ones(y.shape)) == pytest.approx(expected)
    np.testing.assert_array_equal(head.decode(RAW), [[1, 0, 1], [0, 1, 0]])
    assert head.decode(RAW).dtype == y.dtype


def test_single_class_is_certain():
    head = ClassificationHead().fit(np.array([3, 3]))
    np.testing.assert_array_equal(head.proba(np.array([[5.0]])), [[1.0]])
    assert head.mean_loss(np.array([[5.0]]), np.array([0]), np.ones(1)) == 0


def test_class_weights():
    head = ClassificationHead().fit(np.array([0, 1]))
    target, weight = np.array([0, 0, 0, 1]), np.array([1.0, 1, 2, 4])
    # Both classes weigh 4 of 8: balanced already.
    np.testing.assert_allclose(head.row_weight("balanced", target, weight), weight)
    ones = head.row_weight("balanced", target, np.ones(4))
    np.testing.assert_allclose(ones, [2 / 3, 2 / 3, 2 / 3, 2])
    given = head.row_weight({1: 10}, target, np.ones(4))
    np.testing.assert_allclose(given, [1, 1, 1, 10])


def test_class_weights_of_multilabel_are_per_entry():
    y = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
    head = ClassificationHead().fit(y)
    weight = head.row_weight("balanced", y, np.ones(4))
    np.testing.assert_allclose(weight[:, 0], [2, 2 / 3, 2 / 3, 2 / 3])
    weight = head.row_weight([{1: 5}, {}], y, np.ones(4))
    np.testing.assert_allclose(weight, [[5, 1], [1, 1], [1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({7: 2.0}, r"names the classes \[7\], which are not among \[0, 1\]"),
        ([1, 2], "must be 'balanced', a dict"),
        ({0: -1.0}, "must hold finite numbers of at least 0; got -1.0 for 0"),
        ({0: 1, 1: np.nan}, "finite numbers of at least 0; got nan for 1"),
        ({0: None}, "finite numbers of at least 0; got None for 0"),
    ],
)
def test_bad_class_weight(class_weight, message):
    head = ClassificationHead().fit(np.array([0, 1]))
    with pytest.raises(ValueError, match=message):
        head.row_weight(class_weight, np.array([0, 1]), ONE)


def test_bad_multilabel_class_weight():
    head = ClassificationHead().fit(np.eye(2, dtype=int))
    with pytest.raises(ValueError, match="a list of 2 dicts, one per label"):
        head.row_weight({1: 2}, np.eye(2, dtype=int), ONE)


def test_unknown_class():
    head = ClassificationHead().fit(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"y holds classes \[5\] that are not among"):
        head.encode(np.array([0, 5]))


def regression(loss="squared_error", quantile=0.5, epsilon=1.0, normalize_y=False):
    return RegressionHead(loss, quantile, epsilon, normalize_y)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("squared_error", [0.125, 4.5]),  # errors 0.5 and -3
        ("absolute_error", [0.5, 3.0]),
        ("huber", [0.125, 2.5]),  # epsilon * (|e| - epsilon / 2) beyond epsilon = 1
        ("quantile", [0.1, 2.4]),  # alpha 0.8: 0.2 * 0.5 above, 0.8 * 3 below
    ],
)
def test_regression_losses(loss, expected):
    head = regression(loss, quantile=0.8).fit(np.zeros(2), ONE)
    raw, target = torch.tensor([[1.5], [0.0]]), torch.tensor([[1.0], [3.0]])
    np.testing.assert_allclose(head.loss(raw, target, torch.ones(2)), expected, rtol=1e-6)


def test_normalisation_is_weighted_and_inverted():
    head = regression(normalize_y=True)
    y = np.array([[0.0, 5], [3, 5]])
    head.fit(y, np.array([1.0, 2]))
    np.testing.assert_allclose(head.mean_, [2, 5])
    np.testing.assert_allclose(head.scale_, [np.sqrt(2), 1])  # constant: scale 1
    np.testing.assert_allclose(head.decode(head.encode(y)), y)


def test_quantiles_never_cross_and_keep_their_order():
    head = regression("quantile", quantile=[0.9, 0.1, 0.5]).fit(np.zeros(2), ONE)
    assert head.n_raw == 3
    predicted = head.decode(np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]]))
    np.testing.assert_array_equal(predicted, [[3, 1, 2], [5, 0, 0]])


def test_quantile_loss_is_scikit_learns():
    levels = [0.1, 0.5, 0.9]
    head = regression("quantile", quantile=levels).fit(np.zeros((2, 2)), ONE)
    rng = np.random.default_rng(0)
    raw, target = rng.normal(size=(2, 6)), rng.normal(size=(2, 2))
    expected = np.mean(
        [
            mean_pinball_loss(target, raw.reshape(2, 2, 3)[:, :, k], alpha=alpha)
            for k, alpha in enumerate(levels)
        ]
    )
    assert head.mean_loss(raw, target, ONE) == pytest.approx(expected)


def test_forecast_loss_by_hand():
    head = ForecastHead((0.1, 0.5, 0.9))
    raw = torch.tensor([[[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]])
    target, weight = torch.tensor([[3.0, 9.0]]), torch.tensor([[1.0, 0.0]])
    # Errors 3, 2, 1 at levels 0.1, 0.5, 0.9: twice the mean of 0.3, 1.0, 0.9.
    np.testing.assert_allclose(head.loss(raw, target, weight), [2 * 2.2 / 3], rtol=1e-6)


def test_quantiles_between_and_beyond_are_those_of_a_normal():
    levels = np.array([0.1, 0.5, 0.9])
    head = ForecastHead(levels)
    known = 3 + 2 * ndtri(levels)
    wanted = [0.01, 0.1, 0.3, 0.5, 0.8, 0.99]
    np.testing.assert_allclose(head.interpolate(known, wanted), 3 + 2 * ndtri(wanted))


def test_quantiles_that_cross_by_rounding_do_not_afterwards():
    head = ForecastHead((0.1, 0.5, 0.9))
    crossed = np.array([1.0, np.nextafter(1, 0), 2.0])
    # Levels in any order.
    values = head.interpolate(crossed, [0.9, 0.1, 0.5, 0.7])
    assert (np.diff(values[[1, 2, 3, 0]]) >= 0).all()


WEIGHT = np.array([0.0, 1.0, 2.5, 4.0, 0.5])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_accuracy_is_weighted_as_scikit_learns(n_classes):
    head = ClassificationHead().fit(np.arange(n_classes))
    rng = np.random.default_rng(3)
    raw = rng.normal(size=(5, head.n_raw))
    target = rng.integers(n_classes, size=5)
    expected = accuracy_score(target, head.decode(raw), sample_weight=WEIGHT)
    assert head.score(raw, target, WEIGHT) == pytest.approx(expected)
    assert expected != accuracy_score(target, head.decode(raw))


def test_accuracy_of_labels_is_that_of_whole_rows_weighted():
    y = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]])
    head = ClassificationHead().fit(y)
    raw = np.where(y == 1, 1.0, -1.0)
    raw[[1, 3], 0] *= -1
    # What its labels weigh on average is what a row weighs.
    weight = WEIGHT[:, None] * [0.5, 1.5]
    expected = accuracy_score(y, raw > 0, sample_weight=WEIGHT)
    assert head.score(raw, y, weight) == pytest.approx(expected) == 3 / 8


def test_r2_is_weighted_as_scikit_learns():
    head = regression().fit(np.zeros((5, 2)), np.ones(5))
    rng = np.random.default_rng(0)
    target = rng.normal(size=(5, 2))
    raw = target + 0.3 * rng.normal(size=(5, 2))
    expected = r2_score(target, raw, sample_weight=WEIGHT)
    assert head.score(raw, target, WEIGHT) == pytest.approx(expected)


def test_skill_of_quantiles_is_weighted_and_of_those_that_predict_gives():
    levels = np.array([0.9, 0.5])
    head = regression("quantile", quantile=levels).fit(np.zeros((5, 2)), np.ones(5))
    rng = np.random.default_rng(0)
    target, raw = rng.normal(size=(5, 2)), rng.normal(size=(5, 4))
    predicted = head.decode(raw)  # (5, 2, 2), in order
    expected = np.mean(
        [
            d2_pinball_score(target, predicted[:, :, k], sample_weight=WEIGHT, alpha=q)
            for k, q in enumerate(levels)
        ]
    )
    assert head.score(raw, target, WEIGHT) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["squared_error", "quantile"])
def test_the_score_of_one_row_is_0(loss):
    head = regression(loss).fit(np.zeros(1), np.ones(1))
    assert head.score(np.array([[0.0]]), np.array([[3.0]]), np.ones(1)) == 0.0


def test_balanced_weights_are_scikit_learns_where_a_class_is_absent():
    head = ClassificationHead().fit(np.arange(3), classes=np.arange(4))
    target = np.array([0, 0, 3, 3, 3, 1])
    expected = compute_class_weight("balanced", classes=np.unique(target), y=target)
    weight = head.row_weight("balanced", target, np.ones(6))
    table = dict(zip([0, 1, 3], expected, strict=True))
    np.testing.assert_allclose(weight, [table[t] for t in target])


@pytest.mark.parametrize("value", [0.3, 1e-9, -3e7, 0.7])
@pytest.mark.parametrize("n", [7, 11])
def test_a_mean_that_rounds_is_no_spread(value, n):
    y = np.full(n, value)
    head = regression(normalize_y=True).fit(y, np.random.default_rng(n).random(n))
    np.testing.assert_array_equal(head.scale_, [1.0])


def test_probabilities_of_labels_are_never_0_or_1():
    head = ClassificationHead().fit(np.eye(2, dtype=int))
    probability = head.proba(np.array([[-2000.0, 2000.0]]))
    assert 0 < probability[0, 0] < probability[0, 1] < 1
    np.testing.assert_array_equal(
        head.log_proba(np.array([[-2000.0, 2000.0]])), [[-2000.0, 0.0]]
    )
