"""How far a fit has come, kept in a file, so that it can go on after it was killed."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from sklstm.checks import is_a, is_natural, require, require_fields
from sklstm.container import pack, read_whole, unpack, write_whole

KIND = "checkpoint"
# A write waits until it takes at most this share of the time since the last one.
MAX_WRITING_SHARE = 0.05


class Checkpoint:
    """The file of one fit, read when it is made.

    Parameters
    ----------
    path : path-like
        Need not exist.

    Attributes
    ----------
    seed : int or None
        Of the fit that wrote the file.

    Raises
    ------
    ValueError
        If the file is damaged or is no checkpoint, or could not be written, since its
        folder does not exist or it is one.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.seed = self._saved = None
        self._written_at, self._cost = -np.inf, 0.0
        if not self.path.parent.is_dir():
            raise ValueError(
                f"The folder of the checkpoint {os.fspath(path)!r} does not exist. "
                "Create it, or give another path."
            )
        if self.path.is_dir():
            raise ValueError(
                f"The checkpoint {os.fspath(path)!r} is a folder. Give the path of a "
                "file, which need not exist."
            )
        if not self.path.exists():
            return
        try:
            self._saved = unpack(read_whole(path), {KIND: tuple})[1]
            require_fields("checkpoint", self._saved, {
                "identity": is_a(dict), "generators": is_a(list), "training": is_a(dict),
            })  # fmt: skip
            self.seed = self._saved["identity"].get("seed")
            require(is_natural(self.seed), "it has no seed")
        except ValueError as error:
            raise ValueError(
                f"The checkpoint {os.fspath(path)!r} cannot be read: {error}. Delete it "
                "to start anew."
            ) from error

    def begin(self, identity, generators):
        """Say what the fit is and with what it draws; take up that of the file.

        Parameters
        ----------
        identity : dict of str to str or int
            Under names that tell users what it is.
        generators : list of torch.Generator or NumpyGenerator
            Their states are kept, and set to what they were.

        Raises
        ------
        ValueError
            If the file is of a fit of other data or parameters; says what differs.
        """
        self.identity, self.generators = identity, generators
        if self._saved is None:
            return
        theirs = self._saved["identity"]
        for name in [*identity, *(theirs.keys() - identity.keys())]:
            ours, other = (each.get(name, "absent") for each in (identity, theirs))
            if ours != other:
                raise ValueError(
                    f"The checkpoint {os.fspath(self.path)!r} is of another fit: {name} "
                    f"was {other}, now it is {ours}. Delete it to start anew, or give "
                    "each fit a path of its own."
                )
        states = self._saved["generators"]
        require(len(states) == len(generators), "the checkpoint lacks a random state")
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(torch.from_numpy(state))

    def read(self) -> dict | None:
        """Return what was last written by `write`; None where there is no file yet."""
        return None if self._saved is None else self._saved["training"]

    def is_due(self) -> bool:
        """Tell whether the last write is long enough ago for another."""
        elapsed = time.monotonic() - self._written_at
        return self._cost <= MAX_WRITING_SHARE * elapsed

    def write(self, training) -> None:
        """Write, in one step, the state of a training loop.

        If that fails, as on a full disk, it warns, and the last file stays.

        Parameters
        ----------
        training : dict
            Of values and arrays.
        """
        began = time.monotonic()
        states = [generator.get_state().numpy() for generator in self.generators]
        value = {
            "identity": self.identity, "generators": states, "training": training,
        }  # fmt: skip
        try:
            write_whole(self.path, pack(value, KIND))
        except OSError as error:
            warnings.warn(
                f"The checkpoint {os.fspath(self.path)!r} was not written ({error}); "
                "the fit goes on.",
                UserWarning,
                stacklevel=2,
            )
        self._written_at = time.monotonic()
        self._cost = self._written_at - began

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


class CheckpointOfMember:
    """What `train` is given of the checkpoint of networks that are trained in turn.

    Parameters
    ----------
    checkpoint : Checkpoint
    ended : list of dict
        Of the networks before, what is needed to leave them out; kept as it is now.
    is_next : bool
        Whether it is the network that the file has got to.
    """

    def __init__(self, checkpoint, ended, is_next):
        self.checkpoint, self.ended, self.is_due = checkpoint, ended, checkpoint.is_due
        self.saved = checkpoint.read() if is_next else None

    def read(self) -> dict | None:
        """Return what was last written for this network."""
        return None if self.saved is None else self.saved["training"]

    def write(self, training) -> None:
        """Write the state of this network's training, and what has ended."""
        self.checkpoint.write({"ended": self.ended, "training": training})


class NumpyGenerator:
    """A random generator of NumPy whose state is read and set as of one of torch."""

    def __init__(self, generator):
        self.generator = generator

    def get_state(self) -> torch.Tensor:
        """Return the state as bytes."""
        state = json.dumps(self.generator.bit_generator.state).encode()
        return torch.from_numpy(np.frombuffer(state, dtype=np.uint8).copy())

    def set_state(self, state) -> None:
        """Go on from a state."""
        self.generator.bit_generator.state = json.loads(state.numpy().tobytes())


def identity(estimator, device, seed, start, data, name) -> dict:
    """Return what a fit must share with a checkpoint to go on from it.

    Parameters
    ----------
    estimator : object with `get_params`
    device : torch.device
    seed : int
        What `random_state` has come to.
    start, data : sequence of ndarray
        What the networks start from, and what they are trained on.
    name : str
        Of the data, for users.

    Returns
    -------
    identity : dict of str to str or int
    """
    irrelevant = {"checkpoint", "verbose", "random_state", "device"}
    found = {"the estimator": type(estimator).__name__}
    for parameter, value in estimator.get_params(deep=False).items():
        if parameter not in irrelevant:
            found[parameter] = repr(_canonical(value))
    return found | {
        "device": device.type,
        "seed": seed,
        "the hash of the initial network": digest(*start),
        f"the hash of {name}": digest(*data),
    }


def _canonical(value):
    """Return a setting such that equal ones are written in the same way."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim < 2:
        value = value.tolist()
    if isinstance(value, dict):
        pairs = [(_canonical(key), _canonical(each)) for key, each in value.items()]
        return dict(sorted(pairs, key=repr))
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def digest(*arrays) -> str:
    """Return a hash of arrays, their shapes and types."""
    made = hashlib.blake2b(digest_size=16)
    for array in arrays:
        made.update(f"{array.shape}{array.dtype.str}".encode())
        made.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return made.hexdigest()
