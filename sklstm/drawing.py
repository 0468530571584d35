"""What pictures share: colours, axes, legends.

Colours are those of Okabe and Ito, which the colour-blind can tell apart, and maps of
even lightness. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

BLACK, BLUE, VERMILLION = "#222222", "#0072B2", "#D55E00"
# Without their yellow, faint on white: seven, which with eight markers make 56 pairs.
COLORS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", VERMILLION, BLACK)
MARKERS = "osD^vP*X"
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"


def pyplot():
    """Import matplotlib; say how to install it where it is absent."""
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "sklstm[plot]".') from error
    return plt


def new_axes(ax, n_rows=1, n_columns=1, *, size, titled=False, **settings):
    """Return axes (n_rows, n_columns), in a new figure or in the place of `ax`."""
    plt = pyplot()
    if ax is None:
        figure = plt.figure(figsize=size, layout="constrained")
        return figure.add_gridspec(n_rows, n_columns, **settings).subplots(squeeze=False)
    if n_rows == n_columns == 1:
        return np.array([[ax]])
    ax.set_axis_off()
    if titled and ax.figure.get_layout_engine() is None:
        settings |= {"hspace": 0.45, "wspace": 0.3}  # nothing else makes room
    place = ax.get_subplotspec()
    if place is None:
        edges = ("left", "bottom", "right", "top")
        settings |= dict(zip(edges, ax.get_position().extents, strict=True))
        grid = ax.figure.add_gridspec(n_rows, n_columns, **settings)
    else:
        grid = place.subgridspec(n_rows, n_columns, **settings)
    return grid.subplots(squeeze=False)


def symmetric(values, share):
    """Return limits of colours about 0, and the ends where the colour bar has arrows.

    Beyond them lie values of 1 - `share`: a few extreme ones would leave the rest pale.
    """
    sizes = np.abs(values)
    limit = np.quantile(sizes, share, method="higher") or sizes.max() or 1.0
    beyond = (values < -limit).any() + 2 * (values > limit).any()
    return {"vmin": -limit, "vmax": limit}, ("neither", "min", "max", "both")[beyond]


def whole_steps(ax):
    """Put no tick between steps, unless somebody else chose where ticks are."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an optional package

    locator = ax.xaxis.get_major_locator()
    if isinstance(locator, MaxNLocator):
        locator.set_params(integer=True)


def name_values(ax, name, **style):
    """Name the y axis, in lines that are no longer than it is."""
    ax.set_ylabel("", **style)
    # Letters are 0.6 of their size wide: names do not reach into the next row.
    size = 0.6 * ax.yaxis.label.get_size() / 72
    width = ax.bbox.height / ax.figure.dpi / size
    lines = [""]
    for part in re.split(r"(?<=[\s_-])", str(name)):
        if lines[-1] and len(f"{lines[-1]}{part}".rstrip()) > width:
            lines.append("")
        lines[-1] += part
    ax.yaxis.label.set_text("\n".join(line.rstrip() for line in lines))


def light(ax):
    """Take away what is not data."""
    ax.spines[["top", "right"]].set_visible(False)


def lone(values):
    """Return settings to mark values between missing ones, which no line shows."""
    seen = np.concatenate([[False], ~pd.isna(values), [False]])
    between = seen[1:-1] & ~seen[:-2] & ~seen[2:]
    return {"marker": ".", "markevery": between} if between.any() else {}


def legend(axes, ax):
    """Name what is drawn: below a new figure, or in given axes where the least is."""
    handles = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    if ax is None:
        figure = axes[0].figure
        n_columns = _legend_columns(handles, figure.get_figwidth())
        drawn = figure.legend(
            handles.values(), handles, loc="outside lower center", frameon=False,
            ncols=n_columns,
        )  # fmt: skip
        # Room is made for it, or many names would leave none to the axes.
        width, height = drawn.get_window_extent().size / figure.dpi
        figure.set_size_inches(
            max(figure.get_figwidth(), width), figure.get_figheight() + height
        )
    else:
        axes[0].legend(handles.values(), handles, loc="best", frameon=False)


def _legend_columns(labels, width):
    """Return the most columns that fit beside each other, in inches."""
    widths = [0.7 + 0.085 * len(label) for label in labels]
    n_rows = 1
    while n_rows < len(widths):
        columns = [widths[k : k + n_rows] for k in range(0, len(widths), n_rows)]
        if sum(map(max, columns)) <= width:
            break
        n_rows += 1
    return math.ceil(len(widths) / n_rows)
