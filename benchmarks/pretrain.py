"""Train the network that LSTMForecaster ships with, on generated series alone.

    python benchmarks/pretrain.py DIRECTORY [--steps 12000] [--threads 1] [--relative]

Writes DIRECTORY/checkpoint.pt every 250 steps, goes on from it when started again with
the same arguments, and writes DIRECTORY/pretrained.safetensors at the end. What is kept
is an average of the weights; the loss on generated series that are not trained on is
printed as it falls, relative to the seasonal naive forecast.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from generator import draw_period, generate
from safetensors.torch import load_file

from sklstm.devices import resolve_device, retained_memory, torch_threads
from sklstm.heads import ForecastHead
from sklstm.network import ForecastNetwork, initialize
from sklstm.pretrained import save_pretrained
from sklstm.training import FlatParameters, Optimizer, scheduled_rate
from sklstm.windows import N_CHANNELS, make_windows

HORIZON = 48
QUANTILES = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
WINDOWS = (12, 24, 48, 96, 192)
WINDOW_SHARES = (0.1, 0.2, 0.3, 0.3, 0.1)
AVERAGE_DECAY = 0.9985
N_VALIDATION = 24  # batches


def draw_batch(rng, n_series=256):
    """Return the windows, targets and weights of freshly generated series."""
    period = draw_period(rng)
    width = int(rng.choice(WINDOWS, p=WINDOW_SHARES))
    n_context = width + period
    values = generate(rng, n_series, n_context + HORIZON, period).values
    context, target = values[:, :n_context].copy(), values[:, n_context:].copy()
    # Half of the histories are shorter than the window; a few have gaps.
    shortest = 2 if width == min(WINDOWS) else max(2, width // 3)
    lengths = rng.integers(shortest, width + 1, (n_series, 1))
    lengths = np.where(rng.random((n_series, 1)) < 0.5, n_context, lengths)
    context[np.arange(n_context, 0, -1) > lengths] = np.nan
    gappy = rng.random((n_series, 1)) < 0.08
    gaps = gappy & (rng.random(context.shape) < rng.uniform(0, 0.4, (n_series, 1)))
    gaps[:, -1] &= rng.random(n_series) < 0.3
    context[gaps] = np.nan
    # Near steps matter in every use, far ones in some.
    n_ahead = np.exp(rng.uniform(np.log(4), np.log(HORIZON + 1), (n_series, 1)))
    scaling = "season"
    windows = make_windows(context, period, HORIZON, scaling=scaling)
    usable = (windows.scale > 0)[:, None] & np.isfinite(target)
    divisor = np.where(windows.scale > 0, windows.scale, 1.0)[:, None]
    target = np.clip((target - windows.centre[:, None]) / divisor, -30, 30)
    weight = usable & (np.arange(HORIZON) < n_ahead)
    arrays = (
        windows.inputs,
        windows.base,
        np.zeros((n_series, HORIZON, 0)),
        target,
        weight,
    )
    arrays = (*arrays, _importance(windows.inputs))
    return [torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in arrays]


def _importance(inputs):
    """Weight of each series: errors count relative to its seasonal differences.

    As in the MASE, but bounded, so that series without noise do not count for all.
    """
    both = inputs[:, :, 1] * inputs[:, :, 3]  # observed, and observed a season ago
    difference = (np.abs(inputs[:, :, 0] - inputs[:, :, 2]) * both).sum(1)
    return 1 / (difference / np.maximum(both.sum(1), 1) + 0.1)


def _certainty(quantiles, weight, importance):
    """Weight of each series by how exactly it can be forecast, with a mean of 1.

    One over the root of the width of its own quartiles, which know nothing of the target:
    weights that did would bend the quantiles.
    """
    middle = len(QUANTILES) // 2
    width = (quantiles[:, :, middle + 1] - quantiles[:, :, middle - 1]).detach()
    width = (width * weight).sum(1) / weight.sum(1).clamp(min=1)
    certainty = 1 / torch.sqrt(width * importance + 0.05)
    return certainty / certainty.mean()


def relative_error(network, batches):
    """Mean absolute error of the median, over that of the seasonal naive forecast."""
    ratios = []
    network.eval()
    with torch.inference_mode():
        for x, base, future, target, weight, importance in batches:
            counts = weight * importance[:, None]
            median = network(x, base, future)[:, :, len(QUANTILES) // 2]
            error = ((median - target).abs() * counts).sum()
            ratios.append(error / ((base[:, :, 0] - target).abs() * counts).sum())
    return float(torch.stack(ratios).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument(
        "--relative", action="store_true", help="weigh series by their own quartiles"
    )
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.directory / "checkpoint.pt"
    device = resolve_device(arguments.device)
    network = ForecastNetwork(
        n_inputs=N_CHANNELS, n_future=0, horizon=HORIZON, n_quantiles=len(QUANTILES),
        segment_length=1, linear_length=0, hidden_size=arguments.hidden_size,
        num_layers=arguments.num_layers, cell="lstm", dropout=0.0,
    )  # fmt: skip
    initialize(network, torch.Generator().manual_seed(arguments.seed))
    if arguments.start is not None:
        network.load_state_dict(load_file(arguments.start))
    network.to(device)
    head = ForecastHead(QUANTILES)
    flat = FlatParameters(network)
    average, state, start = flat.data.clone(), None, 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        flat.data.copy_(saved["weights"])
        average, state, start = (
            saved["average"].to(device),
            saved["optimizer"],
            saved["n"],
        )
    optimizer = Optimizer(flat, "adamw", 0.01, state)
    held_out = np.random.default_rng([arguments.seed, 1])
    validation = [
        [a.to(device) for a in draw_batch(held_out)] for _ in range(N_VALIDATION)
    ]
    began, losses = time.perf_counter(), []
    with torch_threads(arguments.threads), retained_memory():
        for n in range(start, arguments.steps):
            network.train()
            # A batch depends on its number alone: a resumed run sees what it would have.
            rng = np.random.default_rng([arguments.seed, 2, n])
            x, base, future, target, weight, importance = (
                a.to(device) for a in draw_batch(rng)
            )
            flat.grad.zero_()
            quantiles = network(x, base, future)
            loss = head.loss(quantiles, target, weight)
            if arguments.relative:
                importance = importance * _certainty(quantiles, weight, importance)
            loss = (loss * importance).mean()
            loss.backward()
            norm = torch.linalg.vector_norm(flat.grad)
            flat.grad.mul_(torch.clamp(1.0 / (norm + 1e-12), max=1.0))
            rate = scheduled_rate("one-cycle", n / arguments.steps)
            optimizer.step(arguments.learning_rate * rate)
            # Early on an average of everything so far would lag behind.
            decay = min(AVERAGE_DECAY, (1 + n) / (10 + n))
            average.lerp_(flat.data, 1 - decay)
            losses.append(loss.detach())
            if (n + 1) % 250 == 0 or n + 1 == arguments.steps:
                current = flat.data.clone()
                flat.data.copy_(average)
                relative = relative_error(network, validation)
                flat.data.copy_(current)
                print(
                    f"step {n + 1}  loss {float(torch.stack(losses).mean()):.4f}  "
                    f"held out {relative:.4f} of seasonal naive  "
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )
                losses = []
                partial = checkpoint.with_suffix(".partial")
                torch.save(
                    {"weights": current.cpu(), "average": average.cpu(),
                     "optimizer": optimizer.state(), "n": n + 1},
                    partial,
                )  # fmt: skip
                partial.replace(checkpoint)
                if not math.isfinite(relative):
                    raise SystemExit("The loss is not finite.")
    flat.data.copy_(average)
    save_pretrained(
        network.cpu(), QUANTILES, arguments.directory / "pretrained.safetensors"
    )


if __name__ == "__main__":
    main()
