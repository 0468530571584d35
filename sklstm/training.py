"""The training loop and the forward pass.

`train` receives a network, a loss and learners, and knows none of their classes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.utils import check_random_state

from sklstm import kernels
from sklstm.devices import (
    exact_on,
    network_threads,
    take_turns,
    threads_for,
    working_on,
)

# Rows of every prediction batch, where kernels round alike for a row wherever and with
# whatever others it stands in a batch of one size, but not in batches of other sizes.
PREDICT_ROWS = 32
# Rows at most of a batch where they round alike in batches of any size, and time steps of
# all of them, which bounds the memory that long sequences take.
MAX_PREDICT_ROWS, MAX_PREDICT_STEPS = 256, 2**20
# Rows of those on a GPU, each of which is waited for; fewer where sequences are long.
GPU_PREDICT_ROWS = 256
# "adaptive" stops once the learning rate is at most this, as in MLPClassifier.
MIN_ADAPTIVE_RATE = 1e-6
# Share of the steps over which "one-cycle" warms up.
WARM_UP = 0.15


# --------------------------------------------------------------------- randomness
class Randomness:
    """Every random choice of one fit, from one seed; global state stays untouched."""

    def __init__(self, random_state, device, n_iter, seed=None):
        if random_state is not None:
            seed = int(check_random_state(random_state).randint(2**31 - 1))
        elif seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        self.seed = seed
        # n_iter: a fit that goes on draws otherwise than the one before it.
        seeds = np.random.SeedSequence([seed, n_iter]).generate_state(4).tolist()
        self.start = torch.Generator().manual_seed(seeds[0])
        self.order = torch.Generator().manual_seed(seeds[1])
        self.dropout = torch.Generator(device).manual_seed(seeds[2])
        self.split_seed = seeds[3]
        self._drawn_from = [seed, n_iter]

    def of_fit(self, n_iter, device=None):
        """Return what another fit with the same seed draws from."""
        return Randomness(None, device or self.dropout.device, n_iter, self.seed)

    def of_members(self, n_members):
        """Return orders and dropouts of several networks; the first has those of one."""
        orders, dropouts = [self.order], [self.dropout]
        for i in range(1, n_members):
            seeds = np.random.SeedSequence([*self._drawn_from, i]).generate_state(2)
            orders.append(torch.Generator().manual_seed(int(seeds[0])))
            dropout = torch.Generator(self.dropout.device).manual_seed(int(seeds[1]))
            dropouts.append(dropout)
        return orders, dropouts


# ------------------------------------------------------------------------ batches
def padded_length(n_timesteps: int) -> int:
    """Return the length to which a sequence is padded: at most 1/16 longer.

    A function of the sequence's own length, so that what it is padded to does not
    depend on its neighbours, with few distinct values, since kernels are prepared
    for each.
    """
    grain = 2 ** max(0, math.floor(math.log2(max(n_timesteps, 1))) - 4)
    return math.ceil(n_timesteps / grain) * grain


def _fit_width(values: torch.Tensor, width: int) -> torch.Tensor:
    """Cut or zero-pad (N, T, ...) to (N, width, ...)."""
    if values.shape[1] == width:
        return values
    if values.shape[1] > width:
        return values[:, :width]
    shape = (len(values), width - values.shape[1], *values.shape[2:])
    return torch.cat([values, values.new_zeros(shape)], dim=1)


class SequenceBatches:
    """Minibatches of sequences that live on the device.

    Batches have equal sizes, give or take a row. Where lengths vary, rows of similar
    length share a batch, in a new order every epoch, so padding costs little.

    Parameters
    ----------
    sequences : object with `values` (n, T, ...) and `lengths` (n,)
    target : ndarray of shape (n, ...)
    weight : ndarray of shape (n, ...)
        Scaled to a mean of 1.
    batch_size : int
    shuffle : bool
    generator : torch.Generator
        On the CPU; orders the rows.
    device : torch.device
    dtype : torch.dtype
        Of floating targets and weights.
    oversample : bool, default=False
        Whether rows are drawn in proportion to their weight and then all count the same.
    """

    def __init__(
        self, sequences, target, weight, *, batch_size, shuffle, generator, device,
        dtype, oversample=False,
    ):  # fmt: skip
        def resident(array):
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        self.values = resident(sequences.values)  # (n, T, C)
        self.lengths = resident(sequences.lengths)
        self.target = resident(target)
        self.chances = None
        if oversample:
            self.chances = of_row = weight.reshape(len(weight), -1).mean(axis=1)
            of_row = of_row.reshape(-1, *[1] * (weight.ndim - 1))
            weight = weight / np.where(of_row > 0, of_row, 1) * of_row.mean()
        self.weight = resident(weight)
        self._lengths = sequences.lengths
        self.ragged = bool((self._lengths < sequences.values.shape[1]).any())
        self.rows = np.arange(len(self._lengths))
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self):
        """Yield (inputs of the network, target, weight, number of rows)."""
        order = self.rows if self.chances is None else self._drawn()
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=self.generator).numpy()]
        if self.ragged and self.shuffle:
            order = self._by_similar_length(order)
        whole = len(self) == 1 and np.array_equal(order, np.arange(len(self._lengths)))
        for rows in np.array_split(order, len(self)):
            index = torch.from_numpy(rows).to(self.values.device)
            lengths, width = None, self.values.shape[1]
            if self.ragged:
                width = padded_length(int(self._lengths[rows].max()))
                if (self._lengths[rows] < width).any():
                    lengths = self.lengths.index_select(0, index)
            values = self.values if whole else self.values.index_select(0, index)
            yield (
                (_fit_width(values, width), lengths),
                self.target.index_select(0, index),
                self.weight.index_select(0, index),
                len(rows),
            )

    def of_network(self, generator, left_out=()):
        """Return batches of the rows that are not left out, in an order of their own."""
        other = copy.copy(self)  # they share memory
        other.generator = generator
        other.rows = np.delete(self.rows, left_out)
        return other

    def _drawn(self):
        """Return n rows, each as often as its weight says, rounded up or down."""
        n, chances = len(self.rows), self.chances[self.rows]
        start = torch.rand((), generator=self.generator, dtype=torch.float64).item()
        # Even steps through the shares of the rows, from a random place on.
        ends = np.cumsum(chances) / chances.sum()
        at = np.searchsorted(ends, (start + np.arange(n)) / n, side="right")
        return self.rows[np.minimum(at, n - 1)]

    def _by_similar_length(self, order):
        # Sorting 8 batches of shuffled rows at a time by length, then shuffling the
        # batches: neighbours have similar lengths but differ from epoch to epoch.
        n_batches = len(self)
        size = math.ceil(len(order) / n_batches) * 8
        runs = [order[start : start + size] for start in range(0, len(order), size)]
        order = np.concatenate(
            [run[np.argsort(-self._lengths[run], kind="stable")] for run in runs]
        )
        batches = np.array_split(order, n_batches)
        shuffled = torch.randperm(n_batches, generator=self.generator)
        # Equal sizes first, as np.array_split cuts them.
        batches = sorted((batches[i] for i in shuffled.tolist()), key=len, reverse=True)
        return np.concatenate(batches)


# --------------------------------------------------------------------- optimisers
class FlatParameters:
    """A network's parameters and gradients as two flat vectors it shares memory with.

    One vector operation then replaces a loop over tensors in clipping and stepping.
    """

    def __init__(self, network):
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.data = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.grad = torch.zeros_like(self.data)
        # Weight decay shrinks maps, not biases or normalisation.
        self.is_map = torch.cat(
            [self.data.new_full((p.numel(),), p.ndim > 1) for p in parameters]
        )
        start = 0
        for p in parameters:
            stop = start + p.numel()
            p.data = self.data[start:stop].view_as(p)
            p.grad = self.grad[start:stop].view_as(p)
            start = stop


class Optimizer:
    """Adam, AdamW or SGD with Nesterov momentum, on flat parameters.

    `alpha` is an L2 penalty in the loss for "adam" and "sgd", as in MLPClassifier (but
    not divided by the rows of a batch), and decoupled weight decay for "adamw"
    (Loshchilov & Hutter, 2019). The parameters are `n_parts` of one size, each of which
    takes steps of its own.
    """

    beta1, beta2, eps, momentum = 0.9, 0.999, 1e-8, 0.9

    def __init__(
        self, flat: FlatParameters, solver: str, alpha: float, state=None, n_parts=1
    ):  # fmt: skip
        self.solver = solver
        self.alpha = alpha
        # Moments of another solver are not those of this one.
        if state is None or (state["second"] is None) != (solver == "sgd"):
            n_steps = 0
            self.first = torch.zeros_like(flat.data)
            self.second = None if solver == "sgd" else torch.zeros_like(flat.data)
        else:
            n_steps, second = state["n_steps"], state["second"]
            self.first = torch.tensor(state["first"]).to(flat.data)
            self.second = None if second is None else torch.tensor(second).to(flat.data)
        self.n_steps = [n_steps] * n_parts
        vectors = flat.data, flat.grad, flat.is_map, self.first, self.second
        self._parts: list[list] = [
            [None if v is None else v.view(n_parts, -1)[part] for v in vectors]
            for part in range(n_parts)
        ]

    def state(self) -> dict:
        """Return the moments as arrays, to go on from later."""
        second = None if self.second is None else self.second.cpu().numpy().copy()
        first = self.first.cpu().numpy().copy()
        # Of an epoch that was interrupted some parts may be a step ahead.
        return {"n_steps": max(self.n_steps), "first": first, "second": second}

    @torch.no_grad()
    def step(self, learning_rate: float, part: int = 0) -> None:
        """Update one of the parts from its gradients."""
        data, grad, is_map, first, second = self._parts[part]
        self.n_steps[part] += 1
        correction1 = 1 - self.beta1 ** self.n_steps[part]
        root_correction2 = math.sqrt(1 - self.beta2 ** self.n_steps[part])
        if self.solver != "sgd" and kernels.available(data):
            is_decay = self.solver == "adamw"
            kernels.adam(
                kernels.library(), data, grad, first, second, is_map,
                penalty=0.0 if is_decay else self.alpha,
                decay=learning_rate * self.alpha if is_decay else 0.0,
                beta1=self.beta1, beta2=self.beta2, eps=self.eps, rate=learning_rate,
                correction1=correction1, root_correction2=root_correction2,
            )  # fmt: skip
            return
        if self.alpha and self.solver == "adamw":
            data.addcmul_(data, is_map, value=-learning_rate * self.alpha)
        elif self.alpha:
            grad.addcmul_(data, is_map, value=self.alpha)
        if self.solver == "sgd":
            first.mul_(self.momentum).add_(grad)
            data.sub_(grad.add(first, alpha=self.momentum), alpha=learning_rate)
            return
        first.lerp_(grad, 1 - self.beta1)
        second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        root = second.sqrt().div_(root_correction2).add_(self.eps)
        data.addcdiv_(first, root, value=-learning_rate / correction1)


def scheduled_rate(schedule: str, progress: float) -> float:
    """Return the factor on learning_rate_init at `progress` in [0, 1] of the steps.

    "one-cycle" (Smith & Topin, 2018) rises to 1 and falls to 0 along cosines;
    "cosine" only falls; the others leave 1.
    """
    if schedule == "one-cycle" and progress < WARM_UP:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / WARM_UP))
    if schedule == "one-cycle":
        progress = (progress - WARM_UP) / (1 - WARM_UP)
    elif schedule != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * progress))


# ----------------------------------------------------------------------- training
@dataclass
class Learner:
    """A network that learns by itself, or one of several whose answers are averaged.

    Each of several has its own loss: that of their mean would let each be wrong where
    others make up for it. So each becomes what it would be alone.

    Attributes
    ----------
    forward : callable
        ``forward(*inputs, generator=generator)`` -> raw outputs of it alone.
    batches : iterable with a length
        Yields ``(inputs, target, weight, n_rows)``, once through per epoch.
    generator : torch.Generator
        Drives dropout, on the network's device; handed on to `differentiate`.
    differentiate : callable, default=None
        ``differentiate(inputs, target, weight, generator)`` -> the mean loss, with its
        gradients added to the parameters'; or None, which leaves it to autograd.
    """

    forward: Callable
    batches: Iterable
    generator: torch.Generator | None
    differentiate: Callable | None = None


@dataclass
class History:
    """What happened in training, one entry per epoch."""

    loss_curve: list = field(default_factory=list)
    validation_scores: list | None = None
    best_loss: float | None = None
    best_validation_score: float | None = None
    best_iter: int | None = None
    optimizer_state: dict | None = None
    converged: bool = True
    interrupted: bool = False

    @property
    def n_iter(self) -> int:
        """Epochs run."""
        return len(self.loss_curve)


def to_arrays(state):
    """Return tensors by their names as arrays; None as it is."""
    return None if state is None else {k: v.cpu().numpy() for k, v in state.items()}


def to_tensors(state):
    """Return arrays by their names as tensors that share their memory; None as it is."""
    return None if state is None else {k: torch.from_numpy(v) for k, v in state.items()}


class _Epoch:
    """Once through the batches of a learner, a step at a time; adds up the loss."""

    def __init__(self, learner, loss, grad, bfloat16, max_grad_norm, update):
        self.learner, self.loss, self.grad = learner, loss, grad
        self.bfloat16, self.max_grad_norm, self.update = bfloat16, max_grad_norm, update
        self.total = torch.zeros((), device=grad.device, dtype=exact_on(grad.device))
        self.n_rows = 0

    def __iter__(self):
        """Yield None after each step, so that learners can take turns."""
        for step, (*batch, n) in enumerate(self.learner.batches):
            self.grad.zero_()
            value = self._differentiate(*batch)
            if self.max_grad_norm is not None:
                self._clip()
            self.update(step)
            self.total.add_(value.detach(), alpha=n)
            self.n_rows += n
            yield

    def _clip(self):
        """Bound the norm of the gradients."""
        norm = torch.linalg.vector_norm(self.grad)
        if self.grad.device.type != "cpu":
            self.grad.mul_(torch.clamp(self.max_grad_norm / (norm + 1e-12), max=1.0))
            return
        # Scalars of NumPy, which do the same, take a tenth of the time of tensors, and
        # mostly nothing is to be clipped; other devices would be waited for.
        inverse = np.float32(1) / (np.float32(norm.item()) + np.float32(1e-12))
        factor = np.float32(self.max_grad_norm) * inverse
        if not factor >= 1:
            self.grad.mul_(float(factor))

    def _precision(self):
        # Set for each step: it may be taken in another thread.
        if not self.bfloat16:
            return contextlib.nullcontext()
        if self.grad.device.type == "cpu" and kernels.multiply_in_bfloat16():
            return kernels.in_bfloat16()
        return torch.autocast(self.grad.device.type, torch.bfloat16)

    def _differentiate(self, inputs, target, weight):
        """Return the mean loss, its gradients added."""
        learner = self.learner
        if self.bfloat16:
            # Within a caller's autocast copies of weights would outlive the step.
            torch.clear_autocast_cache()
        with self._precision():
            if learner.differentiate is not None:
                value = learner.differentiate(inputs, target, weight, learner.generator)
                if value is not None:
                    return value
            raw = learner.forward(*inputs, generator=learner.generator)
        value = self.loss(raw.to(self.grad.dtype), target, weight).mean()
        value.backward()
        return value


class _Steps:
    """The steps of all learners, an epoch at a time, and the learning rate they take."""

    def __init__(self, network, loss, learners, *, solver, alpha, schedule, rate,
                 max_iter, max_grad_norm, bfloat16, run, optimizer_state):  # fmt: skip
        flat = FlatParameters(network)
        self.network, self.learners, self.run = network, learners, run
        self.grads = flat.grad.view(len(learners), -1)
        self.loss, self.bfloat16, self.max_grad_norm = loss, bfloat16, max_grad_norm
        self.optimizer = Optimizer(flat, solver, alpha, optimizer_state, len(learners))
        self.schedule, self.rate = schedule, rate
        self.n_batches = len(learners[0].batches)
        self.n_steps, self.n_done = max_iter * self.n_batches, 0

    @property
    def is_warming_up(self):
        """Whether the learning rate still rises."""
        return self.schedule == "one-cycle" and self.n_done < WARM_UP * self.n_steps

    def run_epoch(self) -> float:
        """Take each learner once through its batches; return their mean loss."""
        self.network.train()
        epochs = [
            _Epoch(
                learner, self.loss, grad, self.bfloat16, self.max_grad_norm,
                functools.partial(self._update, part),
            )
            for part, (learner, grad) in enumerate(
                zip(self.learners, self.grads, strict=True)
            )
        ]  # fmt: skip
        self.run([iter(each) for each in epochs])
        self.n_done += self.n_batches
        losses = [float(each.total / each.n_rows) for each in epochs]
        return sum(losses) / len(losses)

    def _update(self, part, step):
        progress = (self.n_done + step) / self.n_steps
        rate = self.rate * scheduled_rate(self.schedule, progress)
        self.optimizer.step(rate, part)


class _Best:
    """The best weights so far, and for how many epochs nothing has gained on them."""

    def __init__(self, network, tol):
        self.network, self.tol = network, tol
        self.weights, self.score, self.loss, self.n_stale = None, -math.inf, math.inf, 0

    def update(self, score, loss) -> bool:
        """Keep the weights there are now if they are better; return whether they are.

        Of scores within tol of each other, the lower loss is better; only a gain of
        more than tol in either puts off the end.
        """
        gained = score > self.score + self.tol
        better = gained or (score >= self.score - self.tol and loss < self.loss)
        improved = gained or (better and loss < self.loss - self.tol)
        if better:
            state = self.network.state_dict()
            self.weights = {name: tensor.clone() for name, tensor in state.items()}
            self.score, self.loss = max(score, self.score), loss
        self.n_stale = 0 if improved else self.n_stale + 1
        return better

    def bring_back(self):
        """Give the network its best weights, where there are some."""
        if self.weights is not None:
            self.network.load_state_dict(self.weights)


def train(
    network, loss, learners, *, solver, learning_rate, learning_rate_init, alpha,
    max_iter, tol, max_grad_norm, n_iter_no_change, run=take_turns, bfloat16=False,
    validate=None, optimizer_state=None, on_epoch=None, checkpoint=None, verbose=False,
):  # fmt: skip
    """Train a network in place and return the history.

    Parameters
    ----------
    network : torch.nn.Module
        Left in eval mode.
    loss : callable
        ``loss(raw, target, weight)`` -> losses of the rows, a tensor (N,).
    learners : sequence of Learner
        The network, or those that it consists of: of one size, the parameters of each
        after those of the one before.
    solver : {"adam", "adamw", "sgd"}
    learning_rate : {"constant", "one-cycle", "cosine", "adaptive"}
    learning_rate_init, alpha, tol, max_grad_norm : float
        `max_grad_norm` may be None: no clipping.
    max_iter, n_iter_no_change : int
        In epochs.
    run : callable
        What takes the steps of the learners, as `take_turns`.
    bfloat16 : bool
        Whether to compute in bfloat16, with parameters and gradients in float32.
    validate : callable, default=None
        Returns (score, loss) of the network on the validation part. When given,
        training stops after `n_iter_no_change` epochs without a better score (of
        scores within `tol` the lower loss is better) and the best weights come back.
    optimizer_state : dict, default=None
        `History.optimizer_state` of an earlier call to go on from.
    on_epoch : callable, default=None
        ``on_epoch(history)``, called after each epoch; returns True to stop.
    checkpoint : object with `read`, `is_due` and `write`, default=None
        Is given the state of the loop between two epochs. Training goes on from what
        `read` returns, unless that is None.
    verbose : bool

    Returns
    -------
    history : History

    Raises
    ------
    ValueError
        If the loss is not finite.
    """
    history = History(validation_scores=None if validate is None else [])
    best = _Best(network, tol)
    saved = None if checkpoint is None else checkpoint.read()
    if saved is not None:
        network.load_state_dict(to_tensors(saved["network"]))
        optimizer_state = saved["optimizer"]
        history = History(**saved["history"])
    steps = _Steps(
        network, loss, learners, solver=solver, alpha=alpha, schedule=learning_rate,
        rate=learning_rate_init, max_iter=max_iter, max_grad_norm=max_grad_norm,
        bfloat16=bfloat16, run=run, optimizer_state=optimizer_state,
    )  # fmt: skip
    if saved is not None:
        best.weights = to_tensors(saved["best"])
        steps.rate, best.n_stale, best.score, best.loss, steps.n_done = saved["progress"]
    planned = learning_rate in ("one-cycle", "cosine")
    try:
        for epoch in range(history.n_iter + 1, max_iter + 1):
            loss_of_epoch = steps.run_epoch()
            _require_finite(loss_of_epoch, epoch, learning_rate_init)
            score, monitored = 0.0, loss_of_epoch
            if validate is not None:
                network.eval()
                score, monitored = validate()
                history.validation_scores.append(score)
            # Only now: of an epoch that is interrupted nothing is kept.
            history.loss_curve.append(loss_of_epoch)
            if best.update(score, monitored) and validate is not None:
                history.best_iter = epoch
            if verbose:
                _report(epoch, history)
            if on_epoch is not None and on_epoch(history):
                break
            # A plan runs to its end, unless there is nothing left to learn.
            goes_on = planned and validate is None and history.loss_curve[-1] >= tol
            if goes_on or steps.is_warming_up:
                best.n_stale = 0
            if best.n_stale > n_iter_no_change:
                if learning_rate != "adaptive" or steps.rate <= MIN_ADAPTIVE_RATE:
                    break
                steps.rate, best.n_stale = steps.rate / 5, 0
            if checkpoint is not None and checkpoint.is_due():
                checkpoint.write(_state_between_epochs(network, steps, best, history))
        else:
            # A plan that was run to its end has converged, unless it was too short to
            # tell.
            history.converged = planned and max_iter > n_iter_no_change
        if validate is not None:
            best.bring_back()
    except KeyboardInterrupt:
        if not history.loss_curve:
            raise  # before there was anything to keep
        history.interrupted = True
        best.bring_back()
        warnings.warn(
            f"Training interrupted in epoch {history.n_iter + 1} of {max_iter}; the "
            "best model so far is kept.",
            UserWarning,
            stacklevel=4,
        )
    if not all(buffer.isfinite().all() for buffer in network.buffers()):
        raise ValueError(
            "Statistics of the training data overflow in the network: X is too large. "
            "Standardise it, or divide it by a power of ten."
        )
    network.eval()
    network.zero_grad(set_to_none=True)
    if history.validation_scores:
        history.best_validation_score = max(history.validation_scores)
    elif validate is None:
        history.best_loss = min(history.loss_curve)
    history.optimizer_state = steps.optimizer.state()
    return history


def _state_between_epochs(network, steps, best, history):
    """Return what `train` goes on from, as arrays and plain values."""
    return {
        "network": to_arrays(network.state_dict()),
        "optimizer": steps.optimizer.state(),
        "best": to_arrays(best.weights),
        "history": vars(history),
        "progress": (steps.rate, best.n_stale, best.score, best.loss, steps.n_done),
    }


def _require_finite(loss, epoch, learning_rate_init):
    """Raise where the loss of an epoch is not finite."""
    if not math.isfinite(loss):
        raise ValueError(
            f"The training loss became {loss} in epoch {epoch}. Lower "
            f"learning_rate_init (now {learning_rate_init}) or max_grad_norm, and "
            "check that X and y hold no extreme values."
        )


def _report(epoch, history):
    line = f"Iteration {epoch}, loss = {history.loss_curve[-1]:.8f}"
    if history.validation_scores:
        line += f", validation score = {history.validation_scores[-1]:.6f}"
    print(line)  # noqa: T201 - asked for by verbose


# ------------------------------------------------------------------------ forward
def forward(network, sequences, device, method="__call__"):
    """Return what a network says of sequences, one row each, on the CPU.

    Rows are computed in batches of one size (of any, where the network's `rounds_alike`
    is true), with others that are padded to the same length, a length that
    depends on the row alone: what a row gets cannot depend on what else is asked for,
    to the last bit, in float32 (in float64 torch rounds products by where rows lie).

    Parameters
    ----------
    network : RecurrentNetwork
        In eval mode, on the CPU; it is copied to any other device.
    sequences : object with `values` (n, T, ...) and `lengths` (n,)
    device : torch.device
    method : str
        Method of the network to call with (values, lengths).

    Returns
    -------
    raw : ndarray of shape (n, n_outputs) or (n, T, n_outputs), float64
        The latter, padded with zeros, if the network says something of each step.
    """
    with working_on(device, hidden_size=network.config["hidden_size"]):
        return _forward(network, sequences, device, method)


def _forward(network, sequences, device, method):
    n = len(sequences.lengths)
    if device.type != "cpu":
        network = copy.deepcopy(network).to(device)
    call = getattr(network, method)
    values = torch.from_numpy(np.ascontiguousarray(sequences.values))
    raw = None
    any_size = device.type == "cpu" and network.rounds_alike
    n_rows = PREDICT_ROWS
    if any_size:
        n_rows = min(n, MAX_PREDICT_ROWS, MAX_PREDICT_STEPS // values.shape[1] or 1)
    n_threads = threads_for(n_rows, values.shape[1], network)
    with network_threads(n_threads, network), torch.inference_mode():
        for same, width, full in _alike(sequences.lengths):
            if device.type != "cpu":
                n_rows = min(GPU_PREDICT_ROWS, MAX_PREDICT_STEPS // width or 1)
            for start in range(0, len(same), n_rows):
                filled = rows = same[start : start + n_rows]
                if not any_size:
                    # Fill up the batch with copies of its first row.
                    repeated = np.repeat(rows[:1], n_rows - len(rows))
                    filled = np.concatenate([rows, repeated])
                if len(filled) == n == len(same):
                    x = values
                else:
                    x = values.index_select(0, torch.from_numpy(filled))
                x = _fit_width(x, width).to(device)
                lengths = None
                if not full:
                    lengths = torch.from_numpy(sequences.lengths[filled]).to(device)
                out = call(x, lengths).cpu().numpy()
                if raw is None:
                    steps = values.shape[1:2] if out.ndim == 3 else ()
                    raw = np.zeros((n, *steps, out.shape[-1]), dtype=np.float64)
                out = out[: len(rows), : raw.shape[1]]
                raw[rows, : out.shape[1]] = out
    return raw


def _alike(lengths):
    """Return [(rows, padded length, whether they fill it)], grouping all rows."""
    if lengths.min() == lengths.max():
        padded = padded_length(int(lengths[0]))
        return [(np.arange(len(lengths)), padded, padded == lengths[0])]
    distinct, which = np.unique(lengths, return_inverse=True)
    padded = [padded_length(length) for length in distinct.tolist()]
    key = np.array(padded) * 2 + (np.array(padded) == distinct)
    key = key[which]
    return [(np.flatnonzero(key == k), k // 2, k % 2 == 1) for k in np.unique(key)]
