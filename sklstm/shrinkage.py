"""How far several networks of a regressor are trusted: rows they leave out tell."""

from __future__ import annotations

import numpy as np

# With so few networks that there are more parts than networks, a part is one row of
# so many, and a network leaves out a tenth.
MIN_PARTS = 20
# Of fewer rows a part has no two.
MIN_ROWS = 40
# As if so many more rows had shown that what was learnt holds for others.
PRIOR_ROWS = 10


class LeftOutRows:
    """Which rows each of several networks is not trained on.

    The networks stand in a circle, and a part of the rows is left out by two neighbours:
    their differences tell what of a prediction is one network's own, and with it how
    much less the mean of all of them errs than one.

    Parameters
    ----------
    n_rows, n_members : int
    seed : int
        Chooses the rows.

    Attributes
    ----------
    parts : ndarray of shape (n_members, n_rows_of_part) and dtype int64
    """

    def __init__(self, n_rows, n_members, seed):
        size = n_rows // max(MIN_PARTS, n_members)
        order = np.random.default_rng(seed).permutation(n_rows)
        self.parts = order[: n_members * size].reshape(n_members, size)

    def of_member(self, member) -> np.ndarray:
        """Return the rows that a network leaves out: its part and the next."""
        return self.parts[[member, (member + 1) % len(self.parts)]].ravel()

    @property
    def rows(self) -> np.ndarray:
        """All left-out rows, (n,)."""
        return self.parts.ravel()

    def unseen(self, raw) -> np.ndarray:
        """Return what two networks say of each of `rows`, (2, n, n_outputs).

        Parameters
        ----------
        raw : ndarray of shape (n_members, 2 * n_rows_of_part, n_outputs)
            What each network says of the rows `of_member`.
        """
        # (K, 2 S, Q) -> (K, S, Q) of a network's own part and as many of the next
        own, of_next = np.split(raw, 2, axis=1)
        # Row k of both is of part k then; (2, K, S, Q) -> (2, K S, Q).
        pairs = np.stack([own, np.roll(of_next, 1, axis=0)])
        return pairs.reshape(2, -1, raw.shape[2])


def shrinkage(pairs, target, weight, n_members) -> np.ndarray:
    """Return the share of deviations from the mean that new rows bear out.

    The slope of the target on the mean of the networks, in [0, 1]: what is learnt from
    noise has the slope 0 (Copas, 1983). As if `PRIOR_ROWS` more rows had the slope 1.

    Of rows that it has not seen network k says g + e_k: what all of them learn and what
    is its own. The products of two networks' deviations are g^2 on average, half of the
    squared differences e^2, and the squares of the mean of K networks g^2 + e^2 / K.

    Parameters
    ----------
    pairs : ndarray of shape (2, n, n_outputs)
        What two networks said that had not seen the row, less the mean of the target.
    target : ndarray of shape (n, n_outputs)
        Less its mean.
    weight : ndarray of shape (n,)
    n_members : int
        K.

    Returns
    -------
    shrinkage : ndarray of shape (n_outputs,)
    """
    total = weight.sum()
    if total == 0:  # nothing is known of rows that count nothing
        return np.ones(target.shape[1])
    share = weight / total
    first, second = pairs
    of_all = np.maximum(share @ (first * second), 0.0)
    of_one = share @ (first - second) ** 2 / 2
    squares = of_all + of_one / n_members
    # The sum of squared shares is 1 / n where all rows count the same.
    prior = PRIOR_ROWS * (share @ share) * squares
    slope = share @ (pairs.mean(axis=0) * target) + prior
    squares = squares + prior
    borne_out = np.divide(slope, squares, out=np.ones_like(slope), where=squares > 0)
    return np.clip(borne_out, 0.0, 1.0)
