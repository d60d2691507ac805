"""A large call may come from anywhere that Python runs: no caller waits for another for ever."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time

import numpy as np
import pytest
from batches import on_grid
from processes import LARGE_CALL, output_of

import fastce
from fastce._call import threads


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer signals")
@pytest.mark.parametrize("change", [False, True])
def test_a_signal_handler_during_a_call(change):
    """It interrupts a call at any point, also where the call hands work to other threads."""
    code = (
        LARGE_CALL
        + """
    import signal, time
    handled = []

    def handle(number, frame):
        if CHANGE:
            fastce.set_num_threads(2 + len(handled) % 3)
        handled.append(call() == expected)
        signal.setitimer(signal.ITIMER_REAL, 0.003)  # a period would let them pile up

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    results = []
    end = time.monotonic() + 4
    while time.monotonic() < end:
        results.append(call() == expected)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    print(len(handled) > 20, all(handled), all(results))
    """
    )
    assert output_of(code.replace("CHANGE", str(change)), timeout=60) == ["True"] * 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer signals")
def test_an_interrupt_leaves_no_helper_at_work():
    """It comes when the caller has done its own tasks and is waiting for the others."""
    main, written = threading.get_ident(), []

    def work(start, stop):
        if threading.get_ident() == main:
            time.sleep(0.2)
        else:
            time.sleep(1)
            written.append(start)
        return 0.0

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = fastce.get_num_threads()
    fastce.set_num_threads(2)
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.4, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run(work, [(0, 1), (1, 2)], threads.THREADED_ELEMENTS)
        at_return = list(written)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        fastce.set_num_threads(before)
    assert at_return == [1]


def test_a_finaliser_during_a_call():
    """The garbage collector runs it wherever something is allocated."""
    code = (
        LARGE_CALL
        + """
    import gc
    gc.set_threshold(5)
    finalised, results = [], []

    class Node:
        def __init__(self):
            self.itself = self

        def __del__(self):
            finalised.append(call() == expected)

    for _ in range(100):
        Node()
        results.append(call() == expected)
    gc.collect()
    print(len(finalised), all(finalised), all(results))
    """
    )
    assert output_of(code, timeout=60) == ["100", "True", "True"]


def test_asyncio_runs_calls_in_its_threads(threads, rng):
    z = on_grid(rng, (60_000, 10)).astype(np.float32)
    y = rng.integers(10, size=60_000)
    loss = fastce.SoftmaxCrossEntropy()
    threads(1)
    value, grad = loss.value_and_grad(z, y)
    threads(3)

    async def many():
        calls = [asyncio.to_thread(loss.value_and_grad, z, y) for _ in range(8)]
        return await asyncio.wait_for(asyncio.gather(*calls), timeout=60)

    for again, grad_again in asyncio.run(many()):
        assert again == value
        np.testing.assert_array_equal(grad_again, grad)


def test_a_daemon_thread_that_calls_until_the_process_ends():
    code = (
        LARGE_CALL
        + """
    import threading, time

    def forever():
        while True:
            call()

    for _ in range(3):
        threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.5)
    print("end")
    """
    )
    for _ in range(3):
        assert output_of(code, timeout=60, quiet=True) == ["end"]


def test_an_output_is_the_callers_alone_when_the_call_returns(threads):
    """No late thread holds a reference: NumPy resizes only arrays without other references."""
    threads(3)
    z, y = np.zeros((60_000, 10), np.float32), np.zeros(60_000, int)
    before = [sys.getrefcount(x) for x in (z, y)]
    for _ in range(50):
        fastce.SoftmaxCrossEntropy().value_and_grad(z, y)
        assert [sys.getrefcount(x) for x in (z, y)] == before


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="later versions hide this module, and NumPy from its code"
)
@pytest.mark.parametrize("imported", [False, True])
def test_a_subinterpreter(imported):
    """It computes on its one thread if it imports fastce first; otherwise the import fails."""
    code = """
    import warnings
    import _xxsubinterpreters as interpreters
    if IMPORTED:
        import fastce
    code = '''
    import sys, warnings
    warnings.simplefilter("ignore")
    import numpy
    import fastce
    fastce.set_num_threads(3)
    value, grad = fastce.softmax_cross_entropy(numpy.zeros((100_000, 4)), numpy.zeros(100_000, int))
    assert abs(value - numpy.log(4)) < 1e-12
    assert len(sys._current_frames()) == 1
    '''
    import textwrap
    one = interpreters.create(isolated=False)
    try:
        interpreters.run_string(one, textwrap.dedent(code))
        print("computed")
    except interpreters.RunFailedError as error:
        print("ImportError" in str(error))
    interpreters.destroy(one)
    print("alive")
    """
    expected = ["True" if imported else "computed", "alive"]
    assert output_of(code.replace("IMPORTED", str(imported)), timeout=60) == expected
