import numpy as np
import pytest
import torch
from scipy.special import ndtri
from sklearn.metrics import log_loss, mean_pinball_loss

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
