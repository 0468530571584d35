"""What a job is given of the machine: a device, threads, memory.

The names of devices, and how torch and our kernels share the cores.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from sklstm import kernels

# Work (rows x steps x weights of a step) of a batch from which two threads pay.
MIN_PARALLEL_WORK = 1e8
# Options of glibc's mallopt, and what its own adjustment of them ends at.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MMAP_THRESHOLD, MMAP_MAX = 32 * 2**20, 65536
AUTOCAST_DEVICES = "cpu", "cuda", "mps"
# In a process that is forked the threads of OpenMP are gone, and torch waits for them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def resolve_device(device: str) -> torch.device:
    """Return the torch device that a `device` parameter names.

    Parameters
    ----------
    device : str
        "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    ValueError
        If the device is absent; lists those that are there.
    """
    if device == "cpu":  # the driver of a GPU takes its time to answer
        return torch.device("cpu")
    # Devices are counted where the driver is too old for torch, and in a process that was
    # forked from one that uses them: in neither do they work.
    works = torch.cuda.is_available() and not torch.cuda._is_in_bad_fork()
    present = ["cpu"]
    present += [f"cuda:{i}" for i in range(torch.cuda.device_count() if works else 0)]
    if torch.backends.mps.is_available():
        present.append("mps")
    if device == "auto":
        return torch.device("cuda:0" if "cuda:0" in present else "cpu")
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in present:
        raise ValueError(
            f"device={device!r} is not available here. Available devices: "
            f"{', '.join(present)}; set_params(device='auto') takes what there is."
        )
    return torch.device(wanted)


def exact_on(device: torch.device) -> torch.dtype:
    """Return the type in which a device adds up float32 exactly; MPS has but float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def insulated(function):
    """Make a function run outside of the caller's modes of torch.

    What somebody wraps around a loop of his own (`torch.inference_mode`, `no_grad`,
    `autocast`, a default device) would change answers, or end them.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        if (
            torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
            and not any(map(torch.is_autocast_enabled, AUTOCAST_DEVICES))
            and torch.empty(0).device.type == "cpu"  # the quickest way to ask
        ):
            return function(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            for kind in AUTOCAST_DEVICES:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.device("cpu"))
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def torch_threads(n_threads: int):
    """Run a block with at most `n_threads` torch threads, then restore the setting.

    Never more than were allowed before: in a joblib worker process that is its share
    of the cores. Outside the main thread somebody else is already parallel (joblib's
    threading backend), so one.
    """
    before = torch.get_num_threads()
    if threading.current_thread() is not threading.main_thread():
        n_threads = 1
    n_threads = min(n_threads, before)
    try:
        if n_threads != before:
            torch.set_num_threads(n_threads)
        yield
    finally:
        if n_threads != before:
            torch.set_num_threads(before)


@contextlib.contextmanager
def network_threads(n_threads, network, bfloat16=False):
    """Run a block with our kernels on at most `n_threads`, and torch on one.

    What they leave to torch is small, and torch's threads spin while they wait for each
    other: beside another busy process that took up to seven times as long. Without our
    kernels, as in bfloat16 on most machines, torch has the threads.
    """
    with torch_threads(n_threads):
        if n_threads == 1:
            with kernels.threads(1):
                yield
            return
        is_ours = kernels.available(next(network.parameters()))
        if not is_ours or (bfloat16 and not kernels.multiply_in_bfloat16()):
            yield
            return
        # Within another such block torch's number, one, says nothing of ours.
        n_threads = min(n_threads, kernels.get_threads())
        with torch_threads(1), kernels.threads(n_threads):
            yield


def threads_for(n_rows: int, n_timesteps: int, network) -> int:
    """Return how many threads a batch is worth: one unless it is large."""
    n_threads = kernels.get_threads()
    if n_threads == 1:
        return 1
    work = n_rows * n_timesteps * network.n_weights
    return n_threads if work >= MIN_PARALLEL_WORK else 1


def take_turns(jobs) -> None:
    """Take the steps of some jobs, iterators, in turns until all have ended."""
    _take_turns(collections.deque(jobs), threading.Event())


def _take_turns(waiting, is_over):
    """Do so beside other threads: whoever is free takes a step of who has waited most."""
    try:
        while not is_over.is_set():
            try:
                job = waiting.popleft()
            except IndexError:  # those that are left are in the hands of others
                return
            with contextlib.suppress(StopIteration):
                next(job)
                waiting.append(job)
    except BaseException:
        is_over.set()
        raise


@contextlib.contextmanager
def side_by_side(n_jobs: int, n_threads: int, network, bfloat16=False):
    """Share the cores among jobs that do not depend on each other.

    Parameters
    ----------
    n_jobs : int
    n_threads : int
        What a job by itself is worth.
    network : torch.nn.Module
        What the jobs run.
    bfloat16 : bool

    Yields
    ------
    run : callable
        As `take_turns`; steps are taken at the same time where the device is a CPU of
        several threads, so no core is idle while there are more jobs than cores.
    """
    n_all, n_workers = torch.get_num_threads(), 1
    on_cpu = next(network.parameters()).device.type == "cpu"
    if on_cpu and threading.current_thread() is threading.main_thread():
        n_workers = min(n_jobs, n_all)
    n_threads = min(n_threads, n_all // n_workers)
    with network_threads(n_threads, network, bfloat16), contextlib.ExitStack() as stack:
        run = take_turns
        if n_workers > 1:  # a thread starts without the numbers of this one
            numbers = torch.get_num_threads(), kernels.get_threads()
            pool = ThreadPoolExecutor(
                n_workers, initializer=_set_threads, initargs=numbers
            )
            run = functools.partial(
                _take_turns_in_threads, stack.enter_context(pool), n_workers
            )
        yield run


def _set_threads(n_of_torch, n_of_kernels):
    torch.set_num_threads(n_of_torch)
    kernels.set_threads(n_of_kernels)


def _take_turns_in_threads(pool, n_workers, jobs):
    """Whatever happens in this thread or one of them, no other goes on after it."""
    waiting, is_over = collections.deque(jobs), threading.Event()
    futures = []
    try:
        for _ in range(n_workers):
            futures.append(pool.submit(_take_turns, waiting, is_over))
        for future in futures:
            future.result()
    finally:
        is_over.set()
        wait(futures)


@functools.cache
def _glibc():
    """Return the C library if it is glibc, else None."""
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(None)
        names = "gnu_get_libc_version", "mallopt", "malloc_trim"
        if all(hasattr(library, name) for name in names):
            return library
    return None


@contextlib.contextmanager
def retained_memory():
    """Keep freed memory in the process for a block, so that it is not faulted in anew.

    glibc gives large blocks back to the system as soon as they are freed; a training
    step then spends up to 40 % of its time on page faults. Process-wide; afterwards the
    thresholds are what glibc's own adjustment ends at, and free memory is given back.
    Does nothing without glibc, or with the environment variable
    ``SKLSTM_RETAIN_MEMORY=0``.
    """
    glibc = None if os.environ.get("SKLSTM_RETAIN_MEMORY") == "0" else _glibc()
    if glibc is None:
        yield
        return
    glibc.mallopt(M_MMAP_MAX, 0)
    glibc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        glibc.mallopt(M_MMAP_MAX, MMAP_MAX)
        glibc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        glibc.mallopt(M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD)
        glibc.malloc_trim(0)


@contextlib.contextmanager
def working_on(device, **sizes):
    """Compute on a device for a block.

    On CUDA float32 is float32, not the 10 bits (TF32) that cuDNN takes by itself, and the
    same again in another run. An out-of-memory error says what to lower.
    """
    exactly = contextlib.nullcontext()
    if device.type == "cuda":
        exactly = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
    try:
        with exactly:
            yield
    except torch.OutOfMemoryError as error:
        settings = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise MemoryError(
            f"The device {device} ran out of memory with {settings}. Lower "
            f"{' or '.join(sizes)}, shorten the sequences, or set device='cpu'."
        ) from error
