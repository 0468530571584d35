"""How networks are written to a file, as settings and arrays, and built again."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from sklstm.checks import (
    all_of,
    is_a,
    is_count,
    is_flag,
    is_floats,
    is_natural,
    is_one_of,
    is_scale,
    is_share,
    optional,
    require,
    require_fields,
)
from sklstm.container import DECODE_ERRORS, Codec
from sklstm.modules import CELLS, POOLINGS
from sklstm.network import split_codes


def is_triple(value):
    """Whether it has a count for each convolution."""
    return all_of(is_count, tuple)(value) and len(value) == 3


# Settings of networks of either class.
CONFIG = {
    **dict.fromkeys(("hidden_size", "num_layers", "n_channels", "n_outputs"), is_count),
    "n_members": is_count,
    **dict.fromkeys(("n_inputs", "horizon", "n_quantiles", "segment_length"), is_count),
    **dict.fromkeys(("n_tokens", "n_future", "linear_length"), is_natural),
    "embedding_size": optional(is_count),
    "cell": is_one_of(*CELLS),
    **dict.fromkeys(
        (
            "bidirectional",
            "variational_dropout",
            "residual",
            "layer_norm",
            "freeze_embedding",
        ),
        is_flag,
    ),
    **dict.fromkeys(
        ("dropout", "recurrent_dropout", "token_dropout"),
        lambda v: is_share(v) and v < 1,
    ),
    "stem": is_one_of(None, "linear", "conv", "embedding"),
    "pooling": is_one_of(None, *POOLINGS),
    "link": is_one_of("identity", "sigmoid", "softmax"),
    "kernel_sizes": lambda v: is_triple(v) and all(size % 2 for size in v),
    "strides": is_triple,
}


class _WithoutMemory(TorchFunctionMode):
    """Tensors are made on the meta device, which knows shapes and has no memory."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") is not None:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def _state(network):
    state = network.__getstate__()
    return {"config": state["config"], "arrays": state["arrays"]}


def _network(cls, state):
    """Build a network, once its settings are known to ask for just these arrays."""
    require_fields("network", state, {"config": is_a(dict), "arrays": is_a(dict)})
    config, arrays = state["config"], state["arrays"]
    require_fields("network", config, {k: CONFIG[k] for k in config if k in CONFIG})
    n_layers = config.get("num_layers", 1) * config.get("n_members", 1)
    require(n_layers <= len(arrays), "its network lacks layers")
    dtypes = {a.dtype for a in arrays.values() if type(a) is np.ndarray}
    dtypes -= {np.dtype(np.int8)}  # weights that compress has rounded
    require(len(dtypes) == 1, "its network has weights of several types")
    try:
        with torch.device("meta"), _WithoutMemory():
            network = cls(**config)
    except DECODE_ERRORS as error:
        raise ValueError(f"its network cannot be built ({error})") from error
    checks = {}
    for name, tensor in network.state_dict().items():
        shape = tuple(tensor.shape)
        checks[name] = functools.partial(_is_weight, shape=shape)
        if getattr(arrays.get(name), "dtype", None) == np.int8:
            n_rows = shape[0] if len(shape) > 1 else -1  # vectors are never rounded
            checks[name + "_scale"] = functools.partial(_is_scale, n_rows=n_rows)
    require_fields("network", arrays, checks)
    network.codes, arrays = split_codes(arrays)
    # Of tensors made in inference mode nothing tells that they have not changed.
    with torch.inference_mode(False):
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        network.load_state_dict(tensors, assign=True)
    return network.eval()


def _is_weight(value, shape):
    is_rounded = type(value) is np.ndarray and value.dtype == np.int8
    return (is_rounded and value.shape == shape) or is_floats(value, *shape)


def _is_scale(value, n_rows):
    # Codes times scales must be finite too.
    return is_scale(value, n_rows) and bool((value < 1e30).all())


def codec(cls) -> Codec:
    """Return the codec of a class of networks."""
    return Codec(cls, _state, lambda state: _network(cls, state))
