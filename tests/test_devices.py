import copy
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from sklstm import kernels
from sklstm.devices import (
    exact_on,
    network_threads,
    resolve_device,
    retained_memory,
    side_by_side,
    threads_for,
    torch_threads,
    working_on,
)
from sklstm.pretrained import load_pretrained

CPU = torch.device("cpu")


def test_device_that_is_absent_lists_those_present():
    assert resolve_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"'cuda:97' is not available here\. Available"):
        resolve_device("cuda:97")
    with pytest.raises(ValueError, match=r"'gpu' is .* cpu.*device='auto'\) takes what"):
        resolve_device("gpu")


@pytest.mark.parametrize("is_available", [False, True])
@pytest.mark.parametrize("is_forked", [False, True])
def test_auto_takes_a_gpu_only_where_it_works(is_available, is_forked, monkeypatch):
    # One is counted where its driver is too old for torch, too.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: is_forked)
    works = is_available and not is_forked
    assert resolve_device("auto") == (torch.device("cuda:0") if works else CPU)
    if works:
        assert resolve_device("cuda:1") == torch.device("cuda:1")
        return
    with pytest.raises(ValueError, match="Available devices: cpu;"):
        resolve_device("cuda:1")


def test_the_cpu_asks_no_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", None)
    assert resolve_device("cpu") == CPU


def test_work_on_cuda_is_exact_and_the_same_again(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    names = "enabled", "benchmark", "deterministic", "allow_tf32"
    before = [getattr(torch.backends.cudnn, name) for name in names]
    with working_on(torch.device("cuda:0")):
        inside = [getattr(torch.backends.cudnn, name) for name in names]
    assert inside == [True, False, True, False]
    with working_on(CPU):
        assert [getattr(torch.backends.cudnn, name) for name in names] == before
    assert [getattr(torch.backends.cudnn, name) for name in names] == before


def test_what_is_exact_where_there_is_no_float64():
    assert exact_on(CPU) == torch.float64
    assert exact_on(torch.device("mps")) == torch.float32


def test_out_of_memory_says_what_to_lower():
    message = (
        "cuda:0 ran out of memory with batch_size=64, hidden_size=512. Lower batch_size "
        "or hidden_size"
    )
    with (
        pytest.raises(MemoryError, match=message),
        working_on(torch.device("cuda:0"), batch_size=64, hidden_size=512),
    ):
        raise torch.OutOfMemoryError


def test_threads_are_restored_and_never_raised():
    before = torch.get_num_threads()
    with torch_threads(10_000):
        assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), torch_threads(1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_one_thread_outside_the_main_thread():
    seen = []

    def work():
        torch.set_num_threads(2)  # a new thread starts from the machine's default
        with torch_threads(2):
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    torch.set_num_threads(before)
    assert seen == [1, 2]


def test_memory_settings_are_left_as_glibc_would_have_them(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))

        def malloc_trim(self, pad):
            calls.append("trim")

    monkeypatch.setattr("sklstm.devices._glibc", Library)
    with retained_memory():
        assert calls == [(-4, 0), (-1, 2**31 - 1)]
    assert calls[2:] == [(-4, 65536), (-3, 2**25), (-1, 2**26), "trim"]
    monkeypatch.setenv("SKLSTM_RETAIN_MEMORY", "0")
    with retained_memory():
        pass
    assert len(calls) == 6


@pytest.mark.skipif(kernels.library() is None, reason="compiled kernels not installed")
def test_our_kernels_leave_one_thread_to_torch(monkeypatch):
    network, _ = load_pretrained()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with network_threads(3, network):
            assert torch.get_num_threads() == 1
            assert kernels.get_threads() == 2
            with network_threads(threads_for(10**6, 100, network), network):
                assert torch.get_num_threads() == 1
                assert kernels.get_threads() == 2
        assert torch.get_num_threads() == 2
        assert kernels.get_threads() == 2
        with network_threads(3, copy.deepcopy(network).double()):  # not for our kernels
            assert torch.get_num_threads() == 2
        for is_ours, of_torch in ((bool, 2), (lambda: True, 1)):
            monkeypatch.setattr(kernels, "multiply_in_bfloat16", is_ours)
            with network_threads(3, network, bfloat16=True):
                assert torch.get_num_threads() == of_torch
    finally:
        torch.set_num_threads(before)


def test_no_thread_outlives_what_interrupts_the_others():
    done = []

    def job(i):
        for _ in range(3):
            time.sleep(0.1 if i == 0 else 0.3)
            if i == 0:
                raise KeyboardInterrupt
            done.append(i)
            yield

    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with side_by_side(2, 1, torch.nn.Linear(1, 1)) as run:
            with pytest.raises(KeyboardInterrupt):
                run([job(0), job(1)])
            assert done == [1]
            time.sleep(0.4)
            assert done == [1]
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.skipif(kernels.library() is None, reason="compiled kernels not installed")
def test_jobs_side_by_side_share_the_cores(monkeypatch):
    def ask(found):
        found.append((torch.get_num_threads(), kernels.get_threads()))
        yield

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        monkeypatch.setattr(kernels, "multiply_in_bfloat16", bool)
        for bfloat16, expected in ((False, (1, 2)), (True, (2, 2))):
            with side_by_side(2, 4, torch.nn.Linear(1, 1), bfloat16) as run:
                found = []
                run([ask(found), ask(found)])
            assert found == [expected] * 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_wait_for_threads_that_are_gone():
    code = (
        "import os, pickle, torch, numpy as np, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "torch.set_num_threads(2)\n"
        "from sklstm import LSTMClassifier\n"
        "X = np.random.default_rng(0).normal(size=(60, 40))\n"
        "model = LSTMClassifier(64, max_iter=1).fit(X, X[:, 0] > 0)\n"
        "torch.ones(2**20) + torch.ones(2**20)\n"  # starts the threads
        "model = pickle.loads(pickle.dumps(model))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    model.predict(X[:1])\n"
        "    os._exit(torch.get_num_threads())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        timeout=120, env={k: v for k, v in os.environ.items() if "THREADS" not in k},
    )  # fmt: skip
    assert done.stdout.strip() == "1"
