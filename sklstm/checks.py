"""Leaf: what values that were read from a file must be, before they are used."""

from __future__ import annotations

import math
import reprlib
from numbers import Integral, Real

import numpy as np


def require(holds, reason) -> None:
    """Raise a ValueError with this reason unless it holds."""
    if not holds:
        raise ValueError(reason)


def require_fields(name, state, checks) -> None:
    """Require a dict with exactly these keys, whose values pass their checks."""
    require(type(state) is dict, f"its {name} is not described")
    lacking, odd = checks.keys() - state.keys(), state.keys() - checks.keys()
    require(not lacking, f"its {name} lacks {', '.join(sorted(lacking)[:3])}")
    require(not odd, f"its {name} has a {str(next(iter(odd), ''))[:40]!r}")
    for key, check in checks.items():
        if not check(state[key]):
            raise ValueError(f"its {name} has {key}={_brief(state[key])}")


def _brief(value):
    if type(value) is np.ndarray:
        return f"an array of shape {value.shape} and type {value.dtype}, or its values"
    return reprlib.repr(value)


def is_natural(value) -> bool:
    """Tell whether a value is an integer from 0 to 2**31 - 1, and no bool."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    return is_integer and 0 <= value < 2**31


def is_count(value) -> bool:
    """Tell whether a value is an integer from 1 to 2**31 - 1."""
    return is_natural(value) and value >= 1


def is_flag(value) -> bool:
    """Tell whether a value is a bool."""
    return isinstance(value, (bool, np.bool_))


def is_number(value) -> bool:
    """Tell whether a value is a real number; NaN and infinity are."""
    return isinstance(value, Real) and not is_flag(value)


def is_share(value) -> bool:
    """Tell whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_positive(value) -> bool:
    """Tell whether a value is a finite number above 0."""
    return is_number(value) and math.isfinite(value) and value > 0


def is_floats(value, *shape) -> bool:
    """Tell whether a value is an array of finite floats of this shape."""
    return (
        type(value) is np.ndarray
        and value.dtype in (np.float32, np.float64)
        and value.shape == shape
        and bool(np.isfinite(value).all())
    )


def is_scale(value, *shape) -> bool:
    """Tell whether a value is an array of finite floats above 0 of this shape."""
    return is_floats(value, *shape) and bool((value > 0).all())


def is_levels(value) -> bool:
    """Tell whether a value is an array or tuple of numbers strictly between 0 and 1."""
    if type(value) is np.ndarray:
        value = value.tolist() if value.ndim == 1 else ()
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(is_number(v) and 0 < v < 1 for v in value)
    )


def is_vector(kinds):
    """Return a check for a 1-D array, not empty, of one of these kinds of dtype."""

    def check(value):
        is_array = type(value) is np.ndarray and value.ndim == 1 and value.size > 0
        return is_array and value.dtype.kind in kinds

    return check


def is_one_of(*options):
    """Return a check for strings, or None, that are among the options."""
    return lambda value: isinstance(value, (str, type(None))) and value in options


def is_a(*classes):
    """Return a check for instances of classes; None among them stands for None."""
    classes = tuple(type(None) if cls is None else cls for cls in classes)
    return lambda value: isinstance(value, classes)


def optional(check):
    """Return a check that also lets None pass."""
    return lambda value: value is None or check(value)


def all_of(check, cls=list):
    """Return a check for a list, or tuple, whose items all pass a check."""
    return lambda value: type(value) is cls and all(map(check, value))
