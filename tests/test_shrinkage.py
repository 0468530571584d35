"""Rows left out, and how far they say that a regressor's networks are trusted."""

import numpy as np
import pytest

from sklstm.shrinkage import PRIOR_ROWS, LeftOutRows, shrinkage


@pytest.mark.parametrize(
    ("n_rows", "n_members", "size"), [(47, 2, 2), (47, 3, 2), (400, 3, 20), (90, 30, 3)]
)
def test_every_left_out_row_is_unseen_by_two_networks(n_rows, n_members, size):
    left_out = LeftOutRows(n_rows, n_members, 0)
    assert len(np.unique(left_out.rows)) == len(left_out.rows) == n_members * size
    each = [left_out.of_member(member) for member in range(n_members)]
    assert [len(np.unique(rows)) for rows in each] == [2 * size] * n_members
    times = np.bincount(np.concatenate(each), minlength=n_rows)
    np.testing.assert_array_equal(times[left_out.rows], 2)
    assert times.sum() == 2 * len(left_out.rows)


@pytest.mark.parametrize("n_members", [2, 3, 7])
def test_what_two_networks_say_stands_at_its_row(n_members):
    left_out = LeftOutRows(100, n_members, 0)
    # Network k says 1000 k + row.
    raw = [1000 * k + left_out.of_member(k) for k in range(n_members)]
    pairs = left_out.unseen(np.stack(raw)[:, :, None])
    assert pairs.shape == (2, len(left_out.rows), 1)
    np.testing.assert_array_equal(pairs[0, :, 0] % 1000, left_out.rows)
    np.testing.assert_array_equal(pairs[1, :, 0] % 1000, left_out.rows)
    assert (pairs[0] != pairs[1]).all()  # two networks


def test_shrinkage_is_the_slope_of_the_target_on_the_mean():
    agreed = np.array([[1.0, 2.0, -1.0], [-1.0, 1.0, 1.0]] * 10)
    target = agreed * [0.5, 3.0, -2.0]
    # 20 rows of the slopes 0.5, 3 and -2, and some of the slope 1.
    prior = PRIOR_ROWS / 20
    wanted = [(0.5 + prior) / (1 + prior), 1.0, 0.0]
    pairs = np.stack([agreed, agreed])
    got = shrinkage(pairs, target, np.full(20, 0.3), 3)
    np.testing.assert_allclose(got, wanted)
    # Rows that count nothing are as if they were not there.
    more = np.concatenate([pairs, 9 * pairs], axis=1)
    weight = np.repeat([0.3, 0.0], 20)
    got = shrinkage(more, np.concatenate([target, target]), weight, 3)
    np.testing.assert_allclose(got, wanted)


def test_shrinkage_is_that_of_the_mean_of_all_networks():
    rng = np.random.default_rng(0)
    n_rows, n_members = 200_000, 5
    learnt = rng.normal(size=(n_rows, 1))
    said = learnt + 1.5 * rng.normal(size=(n_members, n_rows, 1))
    target = 0.8 * learnt + rng.normal(size=(n_rows, 1))
    of_all = said.mean(axis=0)
    wanted = (of_all * target).mean() / (of_all**2).mean()
    got = shrinkage(said[:2], target, np.ones(n_rows), n_members)
    np.testing.assert_allclose(got, wanted, atol=0.01)
    assert abs(wanted - 0.8 / (1 + 1.5**2 / 5)) < 0.01


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_where_nothing_is_known_nothing_is_shrunk(weight):
    nothing = np.zeros((2, 4, 1)) + (weight == 0)
    got = shrinkage(nothing, np.ones((4, 1)), np.full(4, weight), 3)
    np.testing.assert_array_equal(got, [1.0])


def test_networks_that_contradict_each_other_are_not_believed():
    first = np.random.default_rng(0).normal(size=(50, 1))
    target = np.random.default_rng(1).normal(size=(50, 1))
    got = shrinkage(np.stack([first, -first]), target, np.ones(50), 3)
    np.testing.assert_allclose(got, PRIOR_ROWS / 50 / (1 + PRIOR_ROWS / 50))
