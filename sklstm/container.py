"""Leaf: a tree of values and arrays as one file, written whole or not at all.

The file is a safetensors file. Its arrays stand there as they are; the tree they belong
to is JSON in the metadata, where whatever is not JSON's own carries a tag: an object
with one key, ``{"tuple": [...]}``. A tag means one of a fixed set of decoders. Reading
looks no name up anywhere else and executes nothing, and it needs memory in proportion
to the file alone: each array is checked against the bytes that are there and used once.

The SHA-256 of the file, computed with zeros in its own place, stands in the metadata,
so that every damage is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT, FORMAT_VERSION = "sklstm", 1
# More than this is not read as JSON, which takes some 25 bytes for one of the text.
MAX_HEADER = 8 * 2**20
MAX_DEPTH = 40
# Keys that are not strings: numbers can be chosen so that a dict takes n ** 2 steps.
MAX_KEYS = 10_000
ZEROS = "0" * 64  # what the checksum is computed with
DTYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Types that safetensors lacks are stored as numbers of this type.
STORED_AS = {"U": "<u4", "S": "|u1", "M": "<i8", "m": "<i8"}
MIN_PACKED = 16  # from this length on, lists of floats or strings are stored as arrays
# What decoders, ours and those of pandas and torch, raise at values they cannot use.
DECODE_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    AssertionError,
)  # fmt: skip


class Codec(NamedTuple):
    """How instances of a class become a value that can be packed, and back.

    Attributes
    ----------
    cls : type
        Its name is the tag.
    to_value, from_value : callable
        `from_value` raises one of `DECODE_ERRORS` for a value that makes no instance.
    """

    cls: type
    to_value: Callable
    from_value: Callable


# ------------------------------------------------------------------------- writing
def pack(value, kind, codecs=()) -> bytes:
    """Return the content of a file.

    Parameters
    ----------
    value : None, bool, int, float, str, list, tuple, dict, ndarray, numpy scalar, \
dtype, or an instance that one of `codecs` is for
    kind : str
        What the file holds.
    codecs : sequence of Codec
        Subclasses go through the codec of the class above them.

    Returns
    -------
    data : bytes
        The same for the same value.

    Raises
    ------
    ValueError
        If something in `value` cannot be written; says where it stands.
    """
    writer = _Writer(codecs)
    content = writer.encode(value, "")
    # The widest first, so that every array is aligned.
    arrays = sorted(writer.arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    header = {
        "__metadata__": {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "kind": kind,
            "sha256": ZEROS,
            "content": json.dumps(content, separators=(",", ":"), allow_nan=False),
        }
    }
    stop = 0
    for name, array in arrays:
        start, stop = stop, stop + array.nbytes
        header[name] = {
            "dtype": NAMES[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"{len(text)} bytes of names and settings are more than the {MAX_HEADER} "
            "that a file may have."
        )
    parts = [struct.pack("<Q", len(text)), text]
    data = b"".join([*parts, *(array.tobytes() for _, array in arrays)])
    checksum = hashlib.sha256(data).hexdigest()
    place = data.index(ZEROS.encode())
    return b"".join([data[:place], checksum.encode(), data[place + len(ZEROS) :]])


class _Writer:
    def __init__(self, codecs):
        self.codecs = {codec.cls: codec for codec in codecs}
        self.arrays = {}
        self.written = {}  # id of an instance -> its number, and itself to keep the id

    def encode(self, value, where):
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return self._list(value, where)
        if kind is tuple:
            return {"tuple": self._items(value, where)}
        if kind is dict:
            pairs = [
                [self.encode(key, f"{where}.keys"), self.encode(v, _join(where, key))]
                for key, v in value.items()
            ]
            return {"dict": pairs}
        if kind in (np.ndarray, np.memmap):  # others have more than their values
            return self._array(value, where)
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), where)}
        if isinstance(value, np.dtype):
            return {"dtype": value.newbyteorder("<").str}  # as arrays of it are written
        if id(value) in self.written:
            return {"same": self.written[id(value)][0]}
        for cls in kind.__mro__:
            if cls in self.codecs:
                encoded = self.encode(self.codecs[cls].to_value(value), where)
                self.written[id(value)] = (len(self.written), value)
                return {cls.__name__: encoded}
        raise ValueError(
            f"{where} is a {kind.__name__}, which cannot be written without pickle."
        )

    def _list(self, value, where):
        kinds = set(map(type, value))
        if len(value) >= MIN_PACKED and kinds == {float}:
            return {"floats": self._array(np.array(value), where)}
        if len(value) >= MIN_PACKED and kinds == {str}:
            texts = [text.encode("utf-8", "surrogatepass") for text in value]
            lengths = np.array([len(text) for text in texts])
            text = np.frombuffer(b"".join(texts), dtype=np.uint8)
            return {
                "strings": [
                    self._array(text, where),
                    self._array(lengths, f"{where}.lengths"),
                ]
            }
        return self._items(value, where)

    def _items(self, values, where):
        return [self.encode(v, _join(where, i)) for i, v in enumerate(values)]

    def _array(self, array, where):
        dtype = array.dtype.newbyteorder("<")
        if dtype.kind == "O":
            return {
                "objects": [list(array.shape), self._list(array.ravel().tolist(), where)]
            }
        if dtype.kind in STORED_AS and dtype.itemsize:
            numbers = np.ravel(array).astype(dtype).view(STORED_AS[dtype.kind])
            width = dtype.itemsize // numbers.dtype.itemsize
            array = numbers.reshape(*array.shape, width)
        elif dtype.str in NAMES:
            array = np.asarray(array, dtype=dtype, order="C")
        else:
            raise ValueError(
                f"{where} is an array of {array.dtype}, which cannot be written."
            )
        name = where
        while name in self.arrays or not name:
            name += "'"
        self.arrays[name] = array
        tag = {"array": name}
        return {"typed": [tag, dtype.str]} if dtype.kind in STORED_AS else tag


def _join(where, key):
    return f"{where}.{key}" if where else str(key)


# ------------------------------------------------------------------------- reading
def unpack(data: bytes, kinds: dict):
    """Return what `pack` was given.

    Parameters
    ----------
    data : bytes
        Content of a file, from whomever.
    kinds : dict
        What may be in it: {kind: function that returns its codecs}.

    Returns
    -------
    kind : str
    value : object

    Raises
    ------
    ValueError
        If the content is not whole, not of this format, of a newer version, or cannot be
        what `pack` has written.
    """
    if len(data) < 8:
        raise ValueError(f"it has {len(data)} bytes, too few for any sklstm file")
    n_header = int.from_bytes(data[:8], "little")
    if n_header > len(data) - 8:
        raise ValueError("it is no sklstm file, or was cut off")
    if n_header > MAX_HEADER:
        raise ValueError(f"its header has {n_header} bytes, more than {MAX_HEADER}")
    header = _parse(data[8 : 8 + n_header])
    metadata = header.pop("__metadata__", None) if type(header) is dict else None
    if type(metadata) is not dict or metadata.get("format") != FORMAT:
        raise ValueError("it is no sklstm file")
    version = metadata.get("format_version")
    if type(version) is not str or not re.fullmatch("[1-9][0-9]{0,5}", version):
        raise ValueError(f"its format version is {version!r}")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"it was written by a newer sklstm, in version {version} of the format; this "
            f"one reads up to {FORMAT_VERSION}. Install a newer sklstm"
        )
    _check_sum(data, n_header, metadata.get("sha256"))
    kind = metadata.get("kind")
    if type(kind) is not str or kind not in kinds:
        raise ValueError(f"it holds {kind!r}, and not one of {', '.join(kinds)}")
    content = metadata.get("content")
    if type(content) is not str:
        raise ValueError("it has no content")
    reader = _Reader(_arrays(header, data, 8 + n_header), kinds[kind]())
    try:
        value = reader.decode(_parse(content), 0)
    except DECODE_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if reader.arrays:
        raise ValueError(f"nothing uses its array {next(iter(reader.arrays))!r}")
    return kind, value


def _parse(text):
    """Parse JSON strictly: no key twice, no number that is not finite."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is damaged ({error})") from error


def _distinct(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not finite")
    return value


def _check_sum(data, n_header, stated):
    stated = stated if type(stated) is str else ""
    place = data.find(stated.encode("utf-8", "replace"), 8, 8 + n_header)
    if not re.fullmatch("[0-9a-f]{64}", stated) or place < 0:
        raise ValueError("it has no checksum")
    found = hashlib.sha256(data[:place])
    found.update(ZEROS.encode())
    found.update(memoryview(data)[place + len(ZEROS) :])
    if found.hexdigest() != stated:
        raise ValueError("its checksum is wrong: the file is damaged")


def _arrays(header, data, first):
    """Return {name: read-only view of `data`}, all checked against the data."""
    arrays, expected = {}, 0
    for name, entry in header.items():
        if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"its array {name!r} is not described")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(dtype) is not str or dtype not in DTYPES:
            raise ValueError(f"its array {name!r} is of the unknown type {dtype!r}")
        if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
            raise ValueError(f"its array {name!r} has a wrong shape or place")
        dtype, (start, stop) = np.dtype(DTYPES[dtype]), offsets
        n_values = math.prod(shape)
        if start != expected or stop != start + n_values * dtype.itemsize:
            raise ValueError(f"its array {name!r} has a size that is not its shape's")
        arrays[name] = (dtype, shape, n_values, first + start)
        expected = stop
    if first + expected != len(data):
        raise ValueError(
            f"its arrays take {first + expected} bytes, but it has {len(data)}"
        )
    return {
        name: np.frombuffer(data, dtype, n_values, start if n_values else 0).reshape(
            shape
        )
        for name, (dtype, shape, n_values, start) in arrays.items()
    }


def _are_sizes(values):
    return (
        type(values) is list
        and len(values) <= 32
        and all(type(v) is int and 0 <= v < 2**48 for v in values)
    )


class _Reader:
    """Decodes tagged JSON; an array is copied out of the file once, where it is used."""

    def __init__(self, arrays, codecs):
        self.arrays = arrays
        self.codecs = {codec.cls.__name__: codec for codec in codecs}
        self.read = []  # instances, by number
        self.n_keys = 0

    def decode(self, value, depth):
        if depth > MAX_DEPTH:
            raise ValueError(f"its content is nested more than {MAX_DEPTH} deep")
        if type(value) is list:
            return [self.decode(v, depth + 1) for v in value]
        if type(value) is not dict:
            return value
        if len(value) != 1:
            raise ValueError("its content has an object that is no tag")
        ((tag, content),) = value.items()
        if tag in self.codecs:
            made = self.codecs[tag].from_value(self.decode(content, depth + 1))
            self.read.append(made)
            return made
        if tag not in DECODERS:
            raise ValueError(f"its content has the unknown tag {tag[:80]!r}")
        return DECODERS[tag](self, content, depth + 1)

    def _sequence(self, content, depth):
        if type(content) is not list:
            raise ValueError("its content has a tag that is not followed by a list")
        return [self.decode(v, depth) for v in content]

    def _tuple(self, content, depth):
        return tuple(self._sequence(content, depth))

    def _dict(self, content, depth):
        pairs = [(k, v) for k, v in self._sequence(content, depth)]
        self.n_keys += sum(type(key) is not str for key, _ in pairs)
        if self.n_keys > MAX_KEYS:
            raise ValueError(f"its dicts have more than {MAX_KEYS} keys of other types")
        return _distinct(pairs)

    def _float(self, content, depth):
        if content not in ("nan", "inf", "-inf"):
            raise ValueError(f"its content has the number {content!r}")
        return float(content)

    def _same(self, content, depth):
        if type(content) is not int or not 0 <= content < len(self.read):
            raise ValueError(f"its content has no instance {content!r}")
        return self.read[content]

    def _array(self, content, depth):
        if type(content) is not str or content not in self.arrays:
            raise ValueError(f"its content asks for the array {content!r}, or twice")
        return self.arrays.pop(content).copy()

    def _typed(self, content, depth):
        stored, text = self._sequence(content, depth)
        dtype = _dtype(text)
        *shape, width = stored.shape
        if (
            stored.dtype.str != STORED_AS.get(dtype.kind)
            or width * stored.itemsize != dtype.itemsize
        ):
            raise ValueError(f"its content has an array that cannot be of {text!r}")
        if dtype.kind == "U" and stored.size and stored.max() >= 0x110000:
            raise ValueError("its content has characters that do not exist")
        return stored.ravel().view(dtype).reshape(shape)

    def _scalar(self, content, depth):
        array = self.decode(content, depth)
        if array.size != 1:
            raise ValueError("its content has a number that is an array")
        return array.ravel()[0]

    def _objects(self, content, depth):
        shape, items = self._sequence(content, depth)
        if not _are_sizes(shape) or math.prod(shape) != len(items):
            raise ValueError("its content has an array with a wrong shape")
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array.reshape(shape)

    def _floats(self, content, depth):
        array = self.decode(content, depth)
        if array.dtype != np.float64 or array.ndim != 1:
            raise ValueError("its content has floats of another type")
        return array.tolist()

    def _strings(self, content, depth):
        text, lengths = self._sequence(content, depth)
        stops = np.cumsum(lengths).tolist()
        if (
            text.dtype != np.uint8
            or lengths.dtype != np.int64
            or lengths.ndim != 1
            or (lengths.size and (lengths.min() < 0 or lengths.max() > text.size))
            or (stops or [0])[-1] != text.size
        ):
            raise ValueError("its content has strings of wrong lengths")
        text = text.tobytes()
        return [
            text[stop - n : stop].decode("utf-8", "surrogatepass")
            for n, stop in zip(lengths.tolist(), stops, strict=True)
        ]


def _dtype(text):
    """Return a dtype of a kind that is written."""
    pattern = r"[<|=][biuf][1248]|[<|][US][1-9][0-9]{0,8}|<[mM]8\[[a-zA-Z]{1,2}\]|\|O"
    if type(text) is not str or not re.fullmatch(pattern, text):
        raise ValueError(f"its content has the type {str(text)[:40]!r}")
    return np.dtype(text)


DECODERS = {
    "tuple": _Reader._tuple, "dict": _Reader._dict, "float": _Reader._float,
    "same": _Reader._same, "array": _Reader._array, "typed": _Reader._typed,
    "scalar": _Reader._scalar, "objects": _Reader._objects, "floats": _Reader._floats,
    "strings": _Reader._strings,
    "dtype": lambda reader, content, depth: _dtype(content),
}  # fmt: skip


# --------------------------------------------------------------------------- files
def write_whole(path, data: bytes) -> None:
    """Write a file so that, whatever happens, the old or the new one is there, whole.

    The bytes go to a new file in the same folder, down to the disk, which then takes the
    place of the old one and has its permissions. A link is followed. A crash can leave
    that new file behind, whose name starts with a dot and ends with ".tmp".

    Parameters
    ----------
    path : path-like
    data : bytes

    Raises
    ------
    OSError
        If path is a folder, a device or the like, lies in no folder, or cannot be
        written.
    """
    path = Path(path).resolve()
    # Else the error would name the new file.
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        reason = "It is no regular file and would be replaced by one; give another path"
        raise OSError(errno.EINVAL, reason, str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(unfinished, "xb") as file:
            if path.exists():
                shutil.copymode(path, unfinished)  # who may read it may read it as before
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_whole(path) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is something else, such as a device, that need not end.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is not a file")
    return Path(path).read_bytes()
