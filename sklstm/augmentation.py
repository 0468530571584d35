"""Leaf: batches varied at random in training. Imports nothing of ours.

Shape legend: N rows of a batch, T time steps, C channels of X, M = C indicator channels
with ``missing="mask"``, else 0. Strengths are fixed: they are those of the sources, in
units of what the network sees, and small enough to do little harm where they do not help.
"""

from __future__ import annotations

import torch

AUGMENTATIONS = ("jitter", "scaling", "time-warp", "window-slice", "mixup")
OF_VALUES = ("jitter", "scaling")  # they leave each step where it is

NOISE = 0.05  # standard deviation of what "jitter" adds
FACTOR = 0.1  # standard deviation of what "scaling" multiplies with
# Knots of the curve of speeds of "time-warp", standard deviation of their logarithms.
N_KNOTS, SPEED = 6, 0.2
SLICE = 0.9  # share of a sequence that "window-slice" keeps


class AugmentedBatches:
    """Batches with every row varied, differently each time.

    Parameters
    ----------
    batches : iterable with a length
        Yields ``((values, lengths), target, weight, n_rows)`` with values (N, T, C + M),
        lengths (N,) or None.
    names : sequence of str
        Some of `AUGMENTATIONS`. With "mixup" targets and weights become pairs, to be
        taken apart by `mixed_loss`.
    n_channels : int
        C.
    generator : torch.Generator
        On the device of the batches.
    """

    def __init__(self, batches, names, n_channels, generator):
        self.batches = batches
        self.names = frozenset(names)
        self.n_channels = n_channels
        self.generator = generator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        """Yield what `batches` yields, varied."""
        for (x, lengths), target, weight, n_rows in self.batches:
            varied = self._vary(x, lengths)
            if "mixup" in self.names:
                varied, *pairs = self._mix(varied, lengths, target, weight)
                yield (varied, lengths), *pairs, n_rows
            else:
                yield (varied, lengths), target, weight, n_rows

    def _vary(self, x, lengths):
        """(N, T, C + M) -> the same; padding and what is missing stay zero."""
        n_rows, n_channels = len(x), self.n_channels
        if not self.names.isdisjoint(("time-warp", "window-slice")):
            share, last = shares(x, lengths)
            if "time-warp" in self.names:
                share = warped(share, (SPEED * self._normal(x, n_rows, N_KNOTS)).exp())
            if "window-slice" in self.names:
                share = SLICE * share + (1 - SLICE) * self._uniform(x, n_rows, 1)
            x = resampled(x, share * last, n_channels)
        values, absent = x[:, :, :n_channels], x[:, :, n_channels:]
        if "scaling" in self.names:
            values = values * (1 + FACTOR * self._normal(x, n_rows, 1, n_channels))
        if "jitter" in self.names:
            values = values + NOISE * self._normal(x, *values.shape)
        return joined(values, absent, lengths)

    def _mix(self, x, lengths, target, weight):
        """Mix each row with another one of the batch, which is stretched to its length.

        Of a pair the row itself has the larger share, and says what is missing.
        """
        n_rows, n_channels = len(x), self.n_channels
        share = (1 + self._uniform(x, n_rows)) / 2  # Beta(1, 1), the larger part
        # Some rows further on, in the random order of the batch, so never itself.
        shift = torch.randint(
            1, max(n_rows, 2), (), generator=self.generator, device=x.device
        )
        partner = (torch.arange(n_rows, device=x.device) + shift) % n_rows
        other = x[partner]
        if lengths is not None:
            position, _ = shares(x, lengths)
            last = lengths[partner, None] - 1
            other = resampled(other, position * last, n_channels)
        values, absent = x[:, :, :n_channels], x[:, :, n_channels:]
        of_other = (1 - share)[:, None, None]
        if absent.shape[2]:  # where the other one has no value, there is nothing to mix
            of_other = of_other * (1 - other[:, :, n_channels:])
        x = joined(values.lerp(other[:, :, :n_channels], of_other), absent, lengths)
        share = share.view(-1, *[1] * (weight.ndim - 1)).to(weight.dtype)
        weights = share * weight, (1 - share) * weight[partner]
        return x, (target, target[partner]), weights

    def _normal(self, x, *shape):
        return x.new_empty(shape).normal_(generator=self.generator)

    def _uniform(self, x, *shape):
        return x.new_empty(shape).uniform_(generator=self.generator)


def joined(values, absent, lengths):
    """Return values (N, T, C) and indicators (N, T, M) as the network takes them.

    Zero where a value is missing and where there is padding.
    """
    x = values
    if absent.shape[2]:
        x = torch.cat([values * (1 - absent), absent], dim=2)
    if lengths is not None:
        steps = torch.arange(x.shape[1], device=x.device)
        x = x * (steps < lengths[:, None])[:, :, None]
    return x


def shares(x, lengths):
    """Return how far each step is through its row, 0 to 1: (N, T), and the last step."""
    steps = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    if lengths is None:
        last = steps.new_full((len(x), 1), x.shape[1] - 1)
    else:
        last = (lengths[:, None] - 1).to(x.dtype)
    return (steps / last.clamp(min=1)).clamp(max=1), last


def warped(share, speeds):
    """Return where one is after shares of the time, of the way: (N, T), (N, K) -> (N, T).

    The speed is linear between K knots, so the way is its integral, quadratic.
    """
    n_pieces = speeds.shape[1] - 1
    before, after = speeds[:, :-1], speeds[:, 1:]
    ends = ((before + after) / 2).cumsum(1)  # of the pieces (N, K - 1)
    piece = (share * n_pieces).long().clamp(max=n_pieces - 1)
    inside = share * n_pieces - piece
    start = (ends - (before + after) / 2).gather(1, piece)
    before, after = before.gather(1, piece), after.gather(1, piece)
    way = start + before * inside + (after - before) * inside.square() / 2
    return (way / ends[:, -1:]).clamp(max=1)


def resampled(x, positions, n_channels):
    """Return rows at fractional positions: (N, T, C + M), (N, S) -> (N, S, C + M).

    Between two steps linearly; missing is what is missing at the nearer one.
    """
    left = positions.long()
    right = (left + 1).clamp(max=x.shape[1] - 1)
    share = (positions - left)[:, :, None]
    x_left, x_right = (
        x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
        for index in (left, right)
    )
    if x.shape[2] == n_channels:
        return x_left.lerp(x_right, share)
    (left, no_left), (right, no_right) = (
        end.split(n_channels, 2) for end in (x_left, x_right)
    )
    of_left, of_right = (1 - share) * (1 - no_left), share * (1 - no_right)
    absent = torch.where(share < 0.5, no_left, no_right)
    tiny = torch.finfo(x.dtype).tiny
    values = (of_left * left + of_right * right) / (of_left + of_right).clamp(min=tiny)
    return torch.cat([values * (1 - absent), absent], dim=2)


def mixed_loss(loss, raw, targets, weights):
    """Return the loss of both targets of each row, (N,)."""
    return sum(map(loss, (raw, raw), targets, weights))


def mixed_gradient(loss_gradient, raw, targets, weights):
    """Return the mean loss of both targets and its gradient by raw."""
    losses, gradients = zip(
        *map(loss_gradient, (raw, raw), targets, weights), strict=True
    )
    return sum(losses), sum(gradients)
