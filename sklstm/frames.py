"""Leaf: how pandas objects and what sktime keeps of them are written to a file.

Every codec restores what it was given or raises: types, names, frequencies, time zones.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset
from sktime.datatypes._dtypekind import DtypeKind
from sktime.forecasting.base import ForecastingHorizon

from sklstm.container import DECODE_ERRORS, Codec

MAX_FREQUENCY = 40  # characters
INDEX_DTYPES = ("object", "str", "string", "Int64", "Int32", "UInt64", "UInt32")

# pandas 2.2 gave frequencies other names, and knows the old ones no longer from 3.0 on.
# Files hold the new ones: {old: new}, of offsets and of periods, where pandas is older.
TICKS = {"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns"}
OFFSETS = {
    **TICKS, "M": "ME", "Q": "QE", "A": "YE", "BM": "BME", "BQ": "BQE", "BA": "BYE",
    "CBM": "CBME", "SM": "SME", "AS": "YS", "BAS": "BYS", "BH": "bh", "CBH": "cbh",
}  # fmt: skip
PERIODS = {**TICKS, "A": "Y"}
if pd.offsets.MonthEnd().freqstr == "ME":
    OFFSETS = PERIODS = {}


def _rename(text, names):
    """Return a frequency, such as "2Q-NOV", with the word in it replaced if named."""
    number, word, rest = re.fullmatch(r"(-?\d*)([A-Za-z]*)(.*)", text, re.DOTALL).groups()
    return number + names.get(word, word) + rest


def _old(names):
    return {new: old for old, new in names.items()}


def _fields(state, *names):
    """Return the values of a dict that has these keys and no other."""
    if type(state) is not dict or set(state) != set(names):
        raise ValueError(f"its content lacks one of {names}, or has others")
    return tuple(state[name] for name in names)


def _array(values, dtype):
    if type(values) is not np.ndarray or values.dtype != dtype or values.ndim != 1:
        raise ValueError(f"its content has no array of {dtype}")
    return values


# ------------------------------------------------------------------------ frequencies
def _offset_to_value(offset):
    text = _rename(offset.freqstr, OFFSETS)
    if _offset(text) != offset:
        raise ValueError(f"The frequency {offset!r} cannot be written.")
    return text


def _offset(text):
    if type(text) is not str or len(text) > MAX_FREQUENCY:
        raise ValueError(f"its content has the frequency {str(text)[:40]!r}")
    return to_offset(_rename(text, _old(OFFSETS)))


def _zone_to_value(zone):
    if zone is None:
        return None
    text = str(zone)
    if _zone(text).utcoffset(None) != zone.utcoffset(None):
        raise ValueError(f"The time zone {zone!r} cannot be written.")
    return text


def _zone(text):
    """Return a time zone by its name; never a file elsewhere, as dateutil would."""
    fixed = re.fullmatch(r"UTC(?:([+-])(\d\d):(\d\d))?", text)
    if fixed:
        sign, hours, minutes = fixed.groups("0")
        offset = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        return datetime.timezone(-offset if sign == "-" else offset)
    if not re.fullmatch(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,2}", text):
        raise ValueError(f"its content has the time zone {text[:40]!r}")
    zoneinfo.ZoneInfo(text)  # raises where there is none of this name
    return pd.DatetimeTZDtype(tz=text).tz  # the one that this pandas takes for the name


# ---------------------------------------------------------------------------- indexes
def _index_to_value(index):
    if type(index) is not pd.Index:
        raise ValueError(f"An index of type {type(index).__name__} cannot be written.")
    if isinstance(index.dtype, np.dtype) and index.dtype != object:
        return {"values": index.to_numpy(), "dtype": None, "name": index.name}
    dtype = str(index.dtype)
    if dtype not in INDEX_DTYPES or pd.Index([], dtype=dtype).dtype != index.dtype:
        raise ValueError(f"An index of type {index.dtype!r} cannot be written.")
    return {"values": index.tolist(), "dtype": dtype, "name": index.name}


def _index(state):
    values, dtype, name = _fields(state, "values", "dtype", "name")
    if dtype is None and type(values) is np.ndarray and values.dtype.kind in "biuf":
        return pd.Index(values, name=name)
    if type(values) is not list or dtype not in INDEX_DTYPES:
        raise ValueError(f"its content has an index of type {dtype!r}")
    return pd.Index(values, dtype=dtype, name=name, tupleize_cols=False)


def _range_to_value(index):
    return {"values": index.to_numpy(dtype=np.int64), "step": index.step,
            "name": index.name}  # fmt: skip


def _range(state):
    # Its values are there, so that none is longer than the file.
    values, step, name = _fields(state, "values", "step", "name")
    _array(values, np.int64)
    if type(step) is not int:
        raise ValueError("its content has a range without a step")
    start = int(values[0]) if len(values) else 0
    index = pd.RangeIndex(start, start + step * len(values), step, name=name)
    if not np.array_equal(index.to_numpy(dtype=np.int64), values):
        raise ValueError("its content has a range that is none")
    return index


def _times_to_value(index):
    return {
        "values": index.asi8,
        "unit": index.unit,
        "zone": _zone_to_value(getattr(index, "tz", None)),
        "freq": None if index.freq is None else _offset_to_value(index.freq),
        "name": index.name,
    }


def _times(cls, letter, state):
    values, unit, zone, freq, name = _fields(
        state, "values", "unit", "zone", "freq", "name"
    )
    if unit not in ("s", "ms", "us", "ns"):
        raise ValueError(f"its content has times in {str(unit)[:40]!r}")
    index = cls(_array(values, np.int64).view(f"{letter}8[{unit}]"), name=name)
    if zone is not None:
        index = index.tz_localize("UTC").tz_convert(_zone(zone))
    if freq is not None:
        index.freq = _offset(freq)
    return index


def _periods_to_value(index):
    freq = _rename(index.freqstr, PERIODS)
    if _periods_type(freq) != index.dtype:
        raise ValueError(f"The frequency {index.freq!r} cannot be written.")
    return {"values": index.asi8, "freq": freq, "name": index.name}


def _periods_type(text):
    if type(text) is not str or len(text) > MAX_FREQUENCY:
        raise ValueError(f"its content has the frequency {str(text)[:40]!r}")
    return pd.PeriodDtype(_rename(text, _old(PERIODS)))


def _periods(state):
    values, freq, name = _fields(state, "values", "freq", "name")
    array = pd.arrays.PeriodArray(_array(values, np.int64), dtype=_periods_type(freq))
    return pd.PeriodIndex(array, name=name)


def _categories_to_value(index):
    return {"codes": index.codes.astype(np.int64), "categories": index.categories,
            "ordered": index.ordered, "name": index.name}  # fmt: skip


def _categories(state):
    codes, categories, ordered, name = _fields(
        state, "codes", "categories", "ordered", "name"
    )
    if not isinstance(categories, pd.Index) or type(ordered) is not bool:
        raise ValueError("its content has categories that are no index")
    values = pd.Categorical.from_codes(_array(codes, np.int64), categories, ordered)
    return pd.CategoricalIndex(values, name=name)


def _multi_to_value(index):
    return {
        "levels": list(index.levels),
        "codes": [np.asarray(codes, dtype=np.int64) for codes in index.codes],
        "names": list(index.names),
    }


def _multi(state):
    levels, codes, names = _fields(state, "levels", "codes", "names")
    if not all(isinstance(level, pd.Index) for level in levels):
        raise ValueError("its content has a level that is no index")
    for each in codes:
        _array(each, np.int64)
    return pd.MultiIndex(levels=levels, codes=codes, names=names)


# ----------------------------------------------------------------------------- frames
def _frame_to_value(frame):
    columns = [frame.iloc[:, k].to_numpy() for k in range(frame.shape[1])]
    for name, column, dtype in zip(frame.columns, columns, frame.dtypes, strict=True):
        if not isinstance(dtype, np.dtype) or column.dtype.kind not in "biuf":
            raise ValueError(f"The column {name!r}, of type {dtype}, cannot be written.")
    return {"index": frame.index, "columns": frame.columns, "values": columns}


def _frame(state):
    index, columns, values = _fields(state, "index", "columns", "values")
    if not isinstance(index, pd.Index) or not isinstance(columns, pd.Index):
        raise ValueError("its content has a frame without an index")
    for column in values:
        if type(column) is not np.ndarray or column.shape != (len(index),):
            raise ValueError("its content has a frame whose column is no such array")
    frame = pd.DataFrame(dict(enumerate(values)), index=index)
    frame.columns = columns
    return frame


def _horizon_to_value(fh):
    freq = getattr(fh, "_freq", None)
    return {"values": fh._values, "is_relative": fh.is_relative, "freq": freq}


def _horizon(state):
    values, is_relative, freq = _fields(state, "values", "is_relative", "freq")
    if not isinstance(values, pd.Index) or type(is_relative) is not bool:
        raise ValueError("its content has a forecasting horizon of no values")
    if freq is not None and not isinstance(freq, BaseOffset):
        raise ValueError("its content has a forecasting horizon of no frequency")
    fh = ForecastingHorizon(values, is_relative=is_relative)
    fh._freq = freq
    return fh


CODECS = (
    Codec(BaseOffset, _offset_to_value, _offset),
    Codec(pd.Index, _index_to_value, _index),
    Codec(pd.RangeIndex, _range_to_value, _range),
    Codec(pd.DatetimeIndex, _times_to_value, lambda s: _times(pd.DatetimeIndex, "M", s)),
    Codec(
        pd.TimedeltaIndex, _times_to_value, lambda s: _times(pd.TimedeltaIndex, "m", s)
    ),
    Codec(pd.PeriodIndex, _periods_to_value, _periods),
    Codec(pd.CategoricalIndex, _categories_to_value, _categories),
    Codec(pd.MultiIndex, _multi_to_value, _multi),
    Codec(pd.DataFrame, _frame_to_value, _frame),
    Codec(ForecastingHorizon, _horizon_to_value, _horizon),
    Codec(DtypeKind, lambda kind: kind.name, lambda name: DtypeKind[name]),
)


# ------------------------------------------------------------------------ plain values
_BY_CLASS = {codec.cls: codec for codec in CODECS}
_BY_NAME = {codec.cls.__name__: codec for codec in CODECS}


def to_plain(value):
    """Return what is written of a value: numbers, texts and arrays, no object of pandas.

    ``{name of the class: state}`` for an instance of a class above, and so on within the
    state. A value that cannot be written is returned as it is.
    """
    codec = next((_BY_CLASS[c] for c in type(value).__mro__ if c in _BY_CLASS), None)
    if codec is not None:
        try:
            return {codec.cls.__name__: to_plain(codec.to_value(value))}
        except DECODE_ERRORS:
            return value
    if type(value) is dict:
        return {key: to_plain(each) for key, each in value.items()}
    if type(value) is list:
        return [to_plain(each) for each in value]
    return value


def from_plain(value):
    """Return the value that `to_plain` was given."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # joblib makes memory maps of large ones
    if type(value) is list:
        return [from_plain(each) for each in value]
    if type(value) is not dict:
        return value
    state = {key: from_plain(each) for key, each in value.items()}
    if len(state) == 1:
        ((name, content),) = state.items()
        if name in _BY_NAME:
            return _BY_NAME[name].from_value(content)
    return state
