"""A model of what series look like: level, season, noise and mishaps, at random.

`generate` draws series that the pretrained network is trained on; nothing else teaches
it. Each series is the sum, or for two in three the exponential of the sum, of

- a level: for two in five a random walk with a drift that may be damped; for one in
  four a growth that comes and goes, as an economy's; for the others a random walk, a
  drift that may be damped or bend, a slope that wanders, a slow cycle, saturating
  growth, or a stationary AR(1) or AR(2) process. Drifts are mostly upwards, and
  strongest in series without a season, whose steps are mostly years;
- a season: an effect per phase (jagged), a few harmonics (smooth) or some special
  phases (as in calendars), which may grow and wander; now and then a second season;
- noise: Gaussian or heavy-tailed, white or AR(1), of constant or changing variance;
- mishaps: level shifts, outliers, constant stretches.

Some are counts, with many zeros, or pure random walks. Scales cover many orders of
magnitude, which the normalisation of windows takes away again.

    python benchmarks/generator.py docs/generated_series.png

draws forty of them.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd

# 0: any
PERIODS = np.array([1, 1, 1, 1, 4, 4, 4, 7, 7, 12, 12, 12, 12, 24, 24, 24, 24, 24, 0])


@dataclass(frozen=True)
class Generated:
    """Generated series of one seasonal period.

    Attributes
    ----------
    values : ndarray of shape (n_series, n_timesteps), float64
    period : int
    """

    values: np.ndarray
    period: int


def draw_period(rng) -> int:
    """Draw a seasonal period; common ones are likely."""
    period = int(rng.choice(PERIODS))
    return int(rng.integers(2, 49)) if period == 0 else period


def generate(rng, n_series: int, n_timesteps: int, period: int) -> Generated:
    """Draw series.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_series, n_timesteps : int
    period : int
        Seasonal period of all of them; 1 for none.

    Returns
    -------
    generated : Generated
    """
    n = n_series
    level = _level(rng, n, n_timesteps)
    kind = rng.random(n)
    plain, growing = kind < 0.4, kind > 0.75
    level[plain] = _plain_level(rng, n, n_timesteps, period)[plain]
    level[growing] = _growing_level(rng, n, n_timesteps, period)[growing]
    season = _season(rng, n, n_timesteps, period)
    noise = _noise(rng, n, n_timesteps)
    level += _shifts(rng, n, n_timesteps, noise)
    walk = rng.random((n, 1)) < 0.06  # nothing but a random walk
    season[walk[:, 0]], noise[walk[:, 0]] = 0.0, 0.0
    log_values = level + season + noise
    multiplicative = rng.random((n, 1)) < 0.65
    # exp() of more than a few makes one value dwarf all others.
    spread = np.abs(log_values).max(axis=1, keepdims=True)
    limited = log_values * np.minimum(1.0, 4.0 / np.maximum(spread, 1e-12))
    values = np.where(multiplicative, np.exp(limited), log_values)
    values = _outliers(rng, values)
    values = _counts(rng, values, multiplicative[:, 0])
    values = _constant_stretches(rng, values)
    return Generated(values * 10 ** rng.uniform(-3, 5, (n, 1)), period)


def _magnitude(rng, n, low, high):
    return 10 ** rng.uniform(low, high, (n, 1))


def _some(rng, n, share):
    """Return 1 for about `share` of the series, else 0."""
    return (rng.random((n, 1)) < share).astype(float)


def _filter(innovations, phi1, phi2=None):
    """AR(1) or AR(2) process of innovations (n, T); coefficients (n,)."""
    out = np.zeros_like(innovations)
    before, before2 = np.zeros(len(out)), np.zeros(len(out))
    for t in range(out.shape[1]):
        now = phi1 * before + innovations[:, t]
        if phi2 is not None:
            now = now + phi2 * before2
        before, before2 = now, before
        out[:, t] = now
    return out


def _level(rng, n, n_timesteps):
    t = np.arange(n_timesteps)
    steps = rng.standard_normal((n, n_timesteps))
    level = steps.cumsum(axis=1) * _magnitude(rng, n, -4, -1) * _some(rng, n, 0.75)
    # Drift per step: constant, damped, or bending at up to two times.
    drift = rng.choice([-1.0, 1.0, 1.0], (n, 1)) * _magnitude(rng, n, -4, -1.5)
    rate = np.repeat(drift * _some(rng, n, 0.75), n_timesteps, axis=1)
    damping = 1 - _magnitude(rng, n, -2.5, -1)
    rate = np.where(_some(rng, n, 0.3) > 0, rate * damping**t, rate)
    for _ in range(2):
        bend = rng.integers(0, n_timesteps, (n, 1))
        factor = rng.normal(0.7, 0.8, (n, 1))
        bends = (_some(rng, n, 0.15) > 0) & (t >= bend)
        rate = np.where(bends, rate * factor, rate)
    level += rate.cumsum(axis=1)
    # A slope that wanders: local linear trend.
    slope = rng.standard_normal((n, n_timesteps)).cumsum(axis=1)
    slope -= slope.mean(axis=1, keepdims=True) * _some(rng, n, 0.5)
    level += slope.cumsum(axis=1) * _magnitude(rng, n, -5.5, -3) * _some(rng, n, 0.3)
    # A slow cycle, not tied to the period.
    length = 10 ** rng.uniform(0.7, 2.2, (n, 1))
    cycle = np.sin(2 * np.pi * (t / length + rng.random((n, 1))))
    level += cycle * _magnitude(rng, n, -2.5, -0.5) * _some(rng, n, 0.2)
    # Saturating growth.
    middle = rng.uniform(-0.2, 1.2, (n, 1)) * n_timesteps
    width = n_timesteps * 10 ** rng.uniform(-1.5, -0.3, (n, 1))
    growth = 1 / (1 + np.exp(-np.clip((t - middle) / width, -30, 30)))
    level += growth * rng.uniform(-1, 2, (n, 1)) * _some(rng, n, 0.1)
    # Some are stationary instead: AR(1), or AR(2) with a cycle of 4 to 40 steps.
    radius, angle = rng.uniform(0.7, 0.99, n), 2 * np.pi / 10 ** rng.uniform(0.6, 1.6, n)
    is_cyclic = rng.random(n) < 0.5
    phi1 = np.where(is_cyclic, 2 * radius * np.cos(angle), rng.uniform(-0.3, 0.99, n))
    phi2 = np.where(is_cyclic, -(radius**2), 0.0)
    stationary = _filter(rng.standard_normal((n, n_timesteps + 40)), phi1, phi2)[:, 40:]
    stationary *= _magnitude(rng, n, -1.5, -0.3) / stationary.std(axis=1, keepdims=True)
    return np.where(_some(rng, n, 0.12) > 0, stationary, level)


def _drift(rng, n, period):
    """Drift per step (n, 1); that of series without a season is of years."""
    if period == 1:
        return rng.choice([-1.0, 1.0, 1.0, 1.0, 1.0], (n, 1)) * _magnitude(rng, n, -3, -1)
    return rng.choice([-1.0, 1.0, 1.0], (n, 1)) * _magnitude(rng, n, -4, -1.5)


def _plain_level(rng, n, n_timesteps, period):
    """A random walk with drift, which may be damped: nothing bends or shifts."""
    t = np.arange(n_timesteps)
    steps = rng.standard_normal((n, n_timesteps))
    level = steps.cumsum(axis=1) * _magnitude(rng, n, -3.5, -1)
    damping = 1 - _magnitude(rng, n, -2.5, -1) * _some(rng, n, 0.3)
    return level + (_drift(rng, n, period) * damping**t).cumsum(axis=1)


def _growing_level(rng, n, n_timesteps, period):
    """A level whose growth per step is AR(1) around a drift, as an economy's."""
    phi = rng.uniform(0.2, 0.99, n)
    growth = _filter(rng.standard_normal((n, n_timesteps + 40)), phi)[:, 40:]
    growth *= np.sqrt(1 - phi**2)[:, None] * _magnitude(rng, n, -3.5, -1.3)
    drift = _drift(rng, n, period) * _some(rng, n, 0.7)
    return (growth + drift).cumsum(axis=1)


def _season(rng, n, n_timesteps, period):
    if period == 1:
        return np.zeros((n, n_timesteps))
    season = _one_season(rng, n, n_timesteps, np.full(n, period)) * _some(rng, n, 0.8)
    # Now and then a second season: several of the first (a week, of hours), or any.
    factor = np.full(n, 7) if period == 24 else rng.choice([2, 3, 4, 5, 7], n)
    other = np.where(rng.random(n) < 0.5, period * factor, rng.integers(2, 60, n))
    second = _one_season(rng, n, n_timesteps, other)
    return season + 0.5 * second * _some(rng, n, 0.4 if period == 24 else 0.08)


def _one_season(rng, n, n_timesteps, period):
    t = np.arange(n_timesteps)
    phase = (t + rng.integers(0, period)[:, None]) % period[:, None]  # (n, T)
    widest = int(period.max())
    k = np.arange(widest)
    kind = rng.choice(3, n, p=[0.4, 0.4, 0.2])[:, None]
    jagged = rng.standard_normal((n, widest))
    smooth = np.zeros((n, widest))
    for harmonic in range(1, 5):
        weight = rng.standard_normal((n, 2)) * (rng.random((n, 1)) < 1 / harmonic)
        angle = 2 * np.pi * harmonic * k / period[:, None]
        smooth += weight[:, :1] * np.cos(angle) + weight[:, 1:] * np.sin(angle)
    special = (rng.random((n, widest)) < 0.25) * rng.normal(1.0, 0.7, (n, widest))
    pattern = np.choose(kind, [jagged, smooth, special])
    inside = k < period[:, None]
    count = inside.sum(axis=1, keepdims=True)
    pattern = pattern - (pattern * inside).sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((pattern**2 * inside).sum(axis=1, keepdims=True) / count)
    pattern = pattern / np.maximum(deviation, 1e-9)
    season = np.take_along_axis(pattern, phase, axis=1)
    # Amplitude may grow or shrink over time, and the pattern wander.
    growth = 1 + rng.uniform(-0.7, 1.5, (n, 1)) * _some(rng, n, 0.2) * t / n_timesteps
    wander = rng.standard_normal((n, 2)) * _some(rng, n, 0.2)
    angle = 2 * np.pi * t / period[:, None]
    season = season * growth
    season += (wander[:, :1] * np.cos(angle) + wander[:, 1:] * np.sin(angle)) * (
        t / n_timesteps
    )
    return season * _magnitude(rng, n, -2, -0.3)


def _noise(rng, n, n_timesteps):
    gaussian = rng.standard_normal((n, n_timesteps))
    heavy = rng.standard_t(4, (n, n_timesteps)) / np.sqrt(2)
    noise = np.where(_some(rng, n, 0.3) > 0, heavy, gaussian)
    phi = np.where(rng.random(n) < 0.3, rng.uniform(-0.6, 0.9, n), 0.0)
    noise = _filter(noise, phi) * np.sqrt(1 - phi**2)[:, None]
    # Variance that changes: slowly for some, from a moment on for others.
    volatility = (0.15 * rng.standard_normal((n, n_timesteps))).cumsum(axis=1)
    noise = noise * np.exp(np.clip(volatility, -2, 2) * _some(rng, n, 0.1))
    change = np.arange(n_timesteps) >= rng.integers(0, n_timesteps, (n, 1))
    noise = np.where(change, noise * np.exp(rng.normal(0, 0.8, (n, 1))
                     * _some(rng, n, 0.1)), noise)  # fmt: skip
    return noise * _magnitude(rng, n, -3.5, -0.6)


def _shifts(rng, n, n_timesteps, noise):
    t = np.arange(n_timesteps)
    when = rng.integers(1, n_timesteps, (n, 1))
    size = rng.normal(0, 4, (n, 1)) * noise.std(axis=1, keepdims=True)
    size += rng.normal(0, 0.1, (n, 1))
    return np.where(t >= when, size, 0.0) * _some(rng, n, 0.1)


def _outliers(rng, values):
    n = len(values)
    hit = rng.random(values.shape) < 0.02 * _some(rng, n, 0.12)
    size = rng.standard_t(3, values.shape) * 3 * values.std(axis=1, keepdims=True)
    return values + np.where(hit, size, 0.0)


def _counts(rng, values, positive):
    """Make some positive series counts; the rarest are zero most of the time."""
    n = len(values)
    is_count = positive & (rng.random(n) < 0.1)
    mean = 10 ** rng.uniform(-0.7, 2, (n, 1))
    rate = values / np.maximum(values.mean(axis=1, keepdims=True), 1e-12) * mean
    counts = rng.poisson(np.clip(rate, 0, 1e6))
    return np.where(is_count[:, None], counts, values)


def _constant_stretches(rng, values):
    n, n_timesteps = values.shape
    t = np.arange(n_timesteps)
    start = rng.integers(0, n_timesteps, n)
    stop = start + rng.integers(2, 20, n)
    inside = (t >= start[:, None]) & (t < stop[:, None]) & (rng.random(n) < 0.03)[:, None]
    return np.where(inside, values[np.arange(n), start][:, None], values)


def extreme_series(rng, n):
    """Yield constants, spikes, huge and tiny scales, sign changes, few points, gaps."""
    for i in range(n):
        length = int(rng.integers(2, 6)) if i % 4 == 0 else int(rng.integers(6, 120))
        x = rng.standard_t(2, length)
        kind = i % 7
        if kind == 1:
            x = np.full(length, rng.normal())
        elif kind == 2:
            x[rng.integers(length)] = 1e9
        elif kind == 3:
            x = x * 10.0 ** rng.integers(-200, 200)
        elif kind == 4:
            x = (-1.0) ** np.arange(length) * 1e6
        elif kind == 5:
            x = np.exp(rng.uniform(-0.5, 0.5) * np.arange(length))
        elif kind == 6 and length > 3:
            start = rng.integers(1, length - 1)
            x[start : start + rng.integers(1, length)] = np.nan
        yield x


def panel_of(series):
    """Put arrays of unequal length into an (instance, time) frame."""
    index = pd.MultiIndex.from_arrays(
        [
            np.repeat(np.arange(len(series)), [len(x) for x in series]),
            np.concatenate([np.arange(len(x)) for x in series]),
        ],
        names=["series", "time"],
    )
    return pd.DataFrame({"y": np.concatenate(series)}, index)


def draw(path, seed=0):
    """Draw generated series, eight for each of five periods."""
    import matplotlib  # noqa: PLC0415 - for drawing alone

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    figure, axes = pyplot.subplots(5, 8, figsize=(14, 7), sharex=True)
    for row, period in zip(axes, (1, 4, 7, 12, 24), strict=True):
        for axis, values in zip(row, generate(rng, 8, 144, period).values, strict=True):
            axis.plot(values, linewidth=0.8, color="#0072B2")
            axis.set_yticks([])
        row[0].set_ylabel(f"period {period}")
    figure.supxlabel("time step")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    draw(sys.argv[1])
