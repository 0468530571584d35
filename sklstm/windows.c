/* Windows cut from series and normalised, in double precision: what windows.py does for
   many of them a step of NumPy at a time, here for each by itself.

   Sums are added up step after step, and nothing depends on the other windows. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CHANNELS 6 /* of a window before exogenous ones */
#define STARTS 4   /* what a forecast starts at */

enum { SEASON, LAST, STANDARD, NONE };

typedef struct {
    ptrdiff_t n_series, n_windows, longest, period, horizon, scaling, n_exog, n_rows;
    /* (n_values,) and where in them series begin and end; (n_rows, n_exog), of which row
       p % n_rows belongs to position p. */
    const double *values, *exog;
    const int64_t *starts, *stops;
    /* (n_series,): the series and the position before which its windows end;
       (n_windows,): their lengths. Window i is of series i % n_series, and of logarithms,
       where they exist, if is_wanted[i / n_series]. */
    const int64_t *series, *ends, *widths;
    const uint8_t *is_wanted;
    double *scratch; /* (2 longest + 5 period,) */
    uint8_t *known;  /* (longest + period,) */
    /* (n_windows, longest, CHANNELS + n_exog), behind the steps of a shorter window zeros;
       (n_windows, horizon, STARTS); (n_windows,) the rest */
    float *inputs, *base;
    double *centre, *scale;
    uint8_t *is_log;
} Windows;

/* The last value of a series before a position, 0 where there is none. */
static double last_observed(const double *values, ptrdiff_t start, ptrdiff_t end) {
    while (end > start)
        if (!isnan(values[--end])) return values[end];
    return 0;
}

/* The change per step between the means of both halves; x is 0 where it is not known. */
static double slope_of(const double *x, const uint8_t *known, ptrdiff_t width) {
    double total[2] = {0, 0}, centre[2] = {0, 0};
    ptrdiff_t count[2] = {0, 0}, steps[2] = {0, 0};
    for (ptrdiff_t t = 0; t < width; t++)
        if (known[t]) {
            const int is_late = t >= width / 2;
            total[is_late] += x[t], count[is_late]++, steps[is_late] += t;
        }
    if (!count[0] || !count[1]) return 0;
    for (int half = 0; half < 2; half++)
        total[half] /= count[half], centre[half] = (double)steps[half] / count[half];
    return (total[1] - total[0]) / (centre[1] - centre[0]);
}

/* The mean distance of each phase from the mean of its season, less trend. Seasons are
   counted back from the end; half a season is enough to tell its mean. */
static void phase_effects(const double *x, const uint8_t *known, ptrdiff_t n, ptrdiff_t period,
                          double slope, double *effects, double *n_used) {
    for (ptrdiff_t k = 0; k < period; k++) effects[k] = n_used[k] = 0;
    for (ptrdiff_t first = n % period; first < n; first += period) {
        double total = 0;
        ptrdiff_t count = 0;
        for (ptrdiff_t k = 0; k < period; k++)
            total += x[first + k], count += known[first + k];
        if (2 * count < period) continue;
        const double mean = total / count;
        for (ptrdiff_t k = 0; k < period; k++)
            if (known[first + k]) {
                effects[k] += x[first + k] - mean - slope * (k - (period - 1) / 2.0);
                n_used[k]++;
            }
    }
    for (ptrdiff_t k = 0; k < period; k++)
        if (n_used[k]) effects[k] /= n_used[k];
}

static void cut(const Windows *w, ptrdiff_t i) {
    const ptrdiff_t of = i % w->n_series, series = w->series[of], end = w->ends[of];
    const ptrdiff_t start = w->starts[series], stop = w->stops[series];
    const ptrdiff_t period = w->period, width = w->widths[i], n = width + period;
    double *x = w->scratch, *normal = x + n, *effects = normal + n;
    double *n_used = effects + period, *naive = n_used + period;
    uint8_t *known = w->known;

    /* What is known of the window and the season before it; the rest is zero. */
    int is_log = w->is_wanted[i / w->n_series], is_empty = 1;
    for (ptrdiff_t t = 0, p = end - n; t < n; t++, p++) {
        const double value = p >= start && p < stop ? w->values[p] : NAN;
        known[t] = !isnan(value);
        x[t] = known[t] ? value : 0;
        is_log &= !(value <= 0);
        is_empty &= t < period || !known[t];
    }
    const double before = is_empty ? last_observed(w->values, start, end) : 0;
    is_log &= !is_empty || before > 0;
    w->is_log[i] = is_log;
    if (is_log)
        for (ptrdiff_t t = 0; t < n; t++)
            if (known[t]) x[t] = log(x[t]);

    /* Where the window starts from, and how far it strays. */
    const double *of_window = x + period;
    const uint8_t *observed = known + period;
    ptrdiff_t count = 0, last = -1;
    double total = 0;
    for (ptrdiff_t t = 0; t < width; t++)
        if (observed[t]) total += of_window[t], count++, last = t;
    double centre = 0, scale = 1;
    if (!count) { /* what came last before it goes on */
        centre = is_log ? log(before) : before;
    } else if (w->scaling == STANDARD || w->scaling == NONE) {
        centre = total / count;
    } else {
        ptrdiff_t n_tail = 0;
        double tail = 0;
        if (w->scaling == SEASON && period > 1)
            for (ptrdiff_t t = width < period ? 0 : width - period; t < width; t++)
                if (observed[t]) tail += of_window[t], n_tail++;
        centre = n_tail ? tail / n_tail : of_window[last];
    }
    if (w->scaling == NONE) {
        centre = 0;
    } else {
        double strays = 0, widest = 0;
        int exponent = 0;
        for (ptrdiff_t t = 0; t < width; t++)
            if (observed[t]) {
                const double deviation = fabs(of_window[t] - centre);
                strays += deviation, widest = fmax(widest, deviation);
            }
        if (w->scaling == STANDARD) {
            /* Powers of two, which do not round, keep squares from overflowing. */
            frexp(widest, &exponent), strays = 0;
            for (ptrdiff_t t = 0; t < width; t++)
                if (observed[t]) {
                    const double deviation = ldexp(of_window[t] - centre, -exponent);
                    strays += deviation * deviation;
                }
        }
        scale = count ? strays / count : 0;
        if (w->scaling == STANDARD) scale = ldexp(sqrt(scale), exponent);
    }
    /* Rounding error is no variation: such a window is constant, and so its forecast. */
    if (!(scale > 1e-12 * fabs(centre))) scale = 0;
    w->centre[i] = centre, w->scale[i] = scale;
    /* Whatever it holds, what is constant reads as zeros. */
    const double divisor = scale > 0 ? scale : INFINITY;
    for (ptrdiff_t t = 0; t < n; t++) normal[t] = known[t] ? (x[t] - centre) / divisor : 0;
    const double slope = slope_of(of_window, observed, width);
    effects[0] = 0;
    if (period > 1) {
        phase_effects(x, known, n, period, slope, effects, n_used);
        for (ptrdiff_t k = 0; k < period; k++) effects[k] /= divisor;
    }

    const ptrdiff_t n_channels = CHANNELS + w->n_exog;
    const float of_period = log(period) / 3;
    float *to = w->inputs + i * w->longest * n_channels;
    memset(to + width * n_channels, 0, (w->longest - width) * n_channels * sizeof *to);
    for (ptrdiff_t t = 0, k = (period - width % period) % period; t < width; t++) {
        to[0] = normal[period + t], to[1] = observed[t];
        to[2] = normal[t], to[3] = known[t];
        to[4] = of_period, to[5] = effects[k];
        const ptrdiff_t p = end - width + t;
        for (ptrdiff_t e = 0; e < w->n_exog; e++) {
            const double value =
                p >= start && p < stop ? w->exog[p % w->n_rows * w->n_exog + e] : 0;
            to[CHANNELS + e] = isnan(value) ? 0 : value;
        }
        to += n_channels;
        if (++k == period) k = 0;
    }

    /* The last value of each phase that is known, or of all; where there is none, zero. */
    ptrdiff_t newest = n;
    while (newest && !known[--newest]) {}
    for (ptrdiff_t k = 0; k < period; k++) {
        ptrdiff_t t = n - period + k;
        while (t >= 0 && !known[t]) t -= period;
        naive[k] = normal[t >= 0 ? t : newest];
    }
    /* The mean change per step over a season, of the last season. */
    const ptrdiff_t longer = period > 4 ? period : 4, n_last = longer < width ? longer : width;
    double recent = 0, level = 0;
    ptrdiff_t n_both = 0, n_level = 0;
    for (ptrdiff_t t = n - n_last; t < n; t++)
        if (known[t] && known[t - period]) recent += x[t] - x[t - period], n_both++;
    if (n_both) recent /= n_both;
    recent = recent / period / divisor;
    for (ptrdiff_t t = n - period; t < n; t++)
        level += normal[t], n_level += known[t];
    if (n_level) level /= n_level;
    to = w->base + i * w->horizon * STARTS;
    /* Steps from the value that the seasonal naive forecast repeats. */
    double distance = period;
    for (ptrdiff_t step = 0, k = 0; step < w->horizon; step++, to += STARTS) {
        to[0] = naive[k];
        to[1] = slope / divisor * distance, to[2] = recent * distance;
        to[3] = period > 1 ? level + effects[k] - naive[k] : 0;
        if (++k == period) k = 0, distance += period;
    }
}

void sklstm_windows(const Windows *w) {
    for (ptrdiff_t i = 0; i < w->n_windows; i++) cut(w, i);
}
