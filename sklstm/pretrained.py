"""The forecasting network that the package ships, trained on generated series alone.

One file: weights as safetensors, configuration as JSON in its metadata. See
docs/pretrained.md for what it was trained on.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sklstm.devices import insulated
from sklstm.network import ForecastNetwork

WEIGHTS = Path(__file__).parent / "weights" / "forecaster.safetensors"
# Seasonal periods (nearly) and windows that it was trained on.
MAX_PERIOD = 60
WINDOW_LENGTHS = (12, 24, 48, 96, 192)
# The longest window is for long seasons: on generated series of a period of 12 with a
# steady trend it did worse than the one before, on held-out hours of M4 better.
MIN_LONGEST_PERIOD = 24
# What is averaged: of the logarithms or not; and through how many sizes of windows below
# the shortest that holds the series (of long seasons, at most one: two days of hours are
# too little).
VIEWS = ((False, 0), (True, 0), (False, 1), (False, 2))


def save_pretrained(network: ForecastNetwork, quantiles, path) -> None:
    """Write a network to a file.

    Parameters
    ----------
    network : ForecastNetwork
    quantiles : sequence of float
        Levels of its outputs.
    path : path-like
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    metadata = {
        "config": json.dumps(network.config),
        "quantiles": json.dumps(list(quantiles)),
    }
    save_file(tensors, path, metadata)


@functools.lru_cache(maxsize=2)
@insulated
def load_pretrained(path=WEIGHTS) -> tuple[ForecastNetwork, tuple[float, ...]]:
    """Return the network in a file, in eval mode, and the levels of its outputs.

    Read once per process and shared: callers must not change it.

    Raises
    ------
    ValueError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            config = json.loads(metadata["config"])
            quantiles = tuple(json.loads(metadata["quantiles"]))
            network = ForecastNetwork(**config).float()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"The pretrained weights {Path(path).name!r} are missing or damaged "
            f"({error}). Install sklstm again, or set pretrained=None."
        ) from error
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.requires_grad_(False)
    return network.eval(), quantiles
