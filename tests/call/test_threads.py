"""Calls on any number of threads: which bits they give, and when threads start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import THOROUGH
from processes import output_of, run

import fastce
from fastce._call import threads as parallel


@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_every_thread_count_gives_the_same_bits(c, isa, threads):
    c = replace(c, shape=(60_000, *c.shape[1:]))  # large enough to be split
    batch = c.batch("float32")
    loss = c.build()
    forward = {key: x for key, x in batch.call.items() if key != "grad_output"}
    results = []
    for n in (1, 2, 3, 7):
        threads(n)
        assert fastce.get_num_threads() == n
        value, grad, hess = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
        alone = loss(batch.logits, batch.target, **forward)
        results.append([np.asarray(x).tobytes() for x in (value, grad, hess, alone)])
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("shape", [(500_000, 2), (3_000, 257), (40, 30_000), (6, 21, 70, 70)])
def test_every_thread_count_gives_the_same_bits_for_any_shape(shape, isa, threads, rng):
    axis = 1 if len(shape) == 4 else -1
    z = rng.normal(size=shape).astype(np.float32)
    y = rng.integers(shape[axis], size=np.delete(shape, axis))
    loss = fastce.SoftmaxCrossEntropy(axis=axis, label_smoothing=0.1)
    results = []
    for n in (1, 2, 5):
        threads(n)
        value, grad = loss.value_and_grad(z, y)
        results.append((value, grad.tobytes(), loss(z, y)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("bad", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_a_number_of_threads_that_is_none(bad, error, threads):
    with pytest.raises(error, match=rf"threads must be .*, got {bad!r}"):
        threads(bad)


def test_the_number_of_threads_of_the_environment():
    code = "import fastce; print(fastce.get_num_threads())"
    assert run("-c", code, FASTCE_NUM_THREADS="3").stdout.strip() == "3"
    assert run("-c", code, FASTCE_NUM_THREADS="none").returncode != 0


def test_no_thread_before_the_first_large_call():
    code = """
        import sys, time
        import numpy
        import fastce
        fastce.set_num_threads(3)
        counts = [len(sys._current_frames())]
        for rows in (1, 1000, 20_000, 100_000):
            fastce.softmax_cross_entropy(numpy.zeros((rows, 10), "f4"), numpy.zeros(rows, int))
            counts.append(len(sys._current_frames()))
        end = time.monotonic() + 30
        while len(sys._current_frames()) < 3 and time.monotonic() < end:
            time.sleep(0.001)  # a thread is there a moment after it was asked for
        print(*counts[:-1], len(sys._current_frames()))
    """
    assert output_of(code) == ["1", "1", "1", "1", "3"]


def test_a_large_call_where_no_thread_can_start():
    """As the process ends, the caller's own thread does the work."""
    code = """
        import atexit
        import numpy
        import fastce
        z = numpy.random.default_rng(0).normal(size=(100_000, 10))
        y = numpy.zeros(100_000, int)
        loss = fastce.SoftmaxCrossEntropy()
        fastce.set_num_threads(1)
        expected = loss(z, y)
        fastce.set_num_threads(3)
        def call():
            print(loss(z, y) == expected, flush=True)
        atexit.register(call)
    """
    assert output_of(code) == ["True"]


def test_sums_of_tasks_overflow_only_if_the_whole_sum_does():
    assert parallel.total([1e308, 1e308, -1e308]) == 1e308
    assert parallel.total([1e308, 1e308]) == np.inf
    assert parallel.total([np.inf, 1.0]) == np.inf
    assert np.isnan(parallel.total([np.inf, -np.inf]))
    assert np.isnan(parallel.total([1e308, 1e308, np.inf, -np.inf]))
