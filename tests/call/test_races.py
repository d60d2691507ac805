"""Arrays that another thread changes during a call, and calls from many threads at once.

A race may spoil numbers, or raise RuntimeError. It must not touch memory that is not the call's:
outputs lie between pages without access, and sanitizers run the same tests.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from batches import on_grid
from cases import THOROUGH
from guarded import AVAILABLE, Arena

import fastce
from fastce._call import variants


@contextlib.contextmanager
def rewritten(array, *values):
    """Fill an array with one value after the other, over and over, from another thread."""
    done = threading.Event()
    turns = [0]

    def write():
        while not done.is_set():
            for x in values:
                array[...] = x
            turns[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield turns
    finally:
        done.set()
        writer.join()


def raced(call, refusals=()):
    """A call in a race returns a result, or the checks or the kernel notice the race."""
    with contextlib.suppress(*refusals):
        try:
            call()
        except RuntimeError as error:
            assert "changed by another thread" in str(error)


@pytest.mark.skipif(not AVAILABLE, reason="mprotect is called through Linux's libc")
@pytest.mark.parametrize("classes", [10, 500])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint64"])
def test_labels_rewritten_after_their_check(dtype, classes, isa):
    """Without a second check of each label, this writes out of bounds within a few calls."""
    rows = 40_000 // classes
    arena = Arena(slots=3, pages=-(-rows * classes * 4 // 4096) + 1)
    z = arena.copy(np.zeros((rows, classes), np.float32), at_end=True)
    out = arena.empty(z.shape, z.dtype, at_end=True)
    y = arena.copy(np.zeros(rows, dtype), at_end=True)
    info = np.iinfo(dtype)
    far = [x for x in (info.max, info.min, 2**31 - 1, -(2**31)) if info.min <= x <= info.max]
    far = [x for x in far if x not in range(classes)]
    loss = fastce.SoftmaxCrossEntropy(weight=np.ones(classes), reduction="none")
    kernel = loss.kernel()
    losses = np.empty(rows, np.float32)
    with rewritten(y, *far, 0) as turns:
        calls = 0
        while calls < 20 or turns[0] < 20:  # or there was no race
            calls += 1
            raced(lambda: loss.value_and_grad(z, y, out=out), refusals=(IndexError,))
            # Past the checks, directly to the kernel.
            run = variants.core.SoftmaxRun(kernel, 1.0, z, labels=y, grad=out, loss=losses)
            raced(lambda run=run: run(0, rows))
    y[...] = far[0]
    run = variants.core.SoftmaxRun(kernel, 1.0, z, labels=y, grad=out, loss=losses)
    with pytest.raises(RuntimeError, match="target was changed by another thread"):
        run(0, rows)


@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_everything_rewritten(c, isa, rng):
    """Logits, targets, weights and masks, in calls large enough for threads of their own."""
    batch = replace(c, shape=(30_000, 10)).batch("float32")
    loss = c.build()
    hard = batch.target.dtype.kind in "iu"
    target = batch.target.copy()
    with contextlib.ExitStack() as races:
        turns = races.enter_context(rewritten(batch.logits, np.nan, np.inf, -np.inf, 1e30, 0.5))
        races.enter_context(rewritten(target, *((120, 3, 0) if hard else (np.nan, 2.0, 0.5))))
        for x in batch.call.values():
            if isinstance(x, np.ndarray) and x.flags.writeable:
                values = (True, False) if x.dtype == bool else (np.nan, -1.0, np.inf, 1.0)
                races.enter_context(rewritten(x, *values))
        calls = 0
        while calls < 4 or turns[0] < 4:  # or there was no race
            calls += 1
            raced(
                lambda: loss.value_grad_hess(batch.logits, target, **batch.call),
                refusals=(IndexError, ValueError),
            )


@pytest.mark.parametrize("c", THOROUGH, ids=str)
@pytest.mark.parametrize("rows", [33, 40_000])
def test_sixteen_callers_get_the_serial_bits(c, rows, threads):
    c = replace(c, shape=(rows, 10))
    loss = c.build()
    batches = [c.batch("float32", seed=seed) for seed in range(4)]

    def evaluate(batch):
        results = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
        return [np.asarray(x).tobytes() for x in results]

    threads(1)
    expected = [evaluate(batch) for batch in batches]
    threads(3)
    start = threading.Barrier(16)

    def caller(k):
        start.wait(timeout=60)
        return [evaluate(batches[(k + turn) % 4]) for turn in range(2)]

    with ThreadPoolExecutor(16) as pool:
        for k, results in enumerate(pool.map(caller, range(16))):
            assert results == [expected[(k + turn) % 4] for turn in range(2)]


def test_the_number_of_threads_changes_during_calls(threads, rng):
    z = on_grid(rng, (60_000, 10)).astype(np.float32)
    y = rng.integers(10, size=60_000)
    loss = fastce.SoftmaxCrossEntropy()
    expected = loss.value_and_grad(z, y)
    done = threading.Event()

    def change():
        k = 0
        while not done.is_set():
            k += 1
            threads(1 + k % 4)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            for value, grad in pool.map(lambda _: loss.value_and_grad(z, y), range(24)):
                assert value == expected[0]
                np.testing.assert_array_equal(grad, expected[1])
    finally:
        done.set()
        changer.join()


def in_turns(pool, evaluate, batches, expected, count):
    """Submit eight callers, each starting with another batch; each returns whether all is right."""
    start = threading.Barrier(8)

    def caller(first):
        start.wait(timeout=60)
        turns = [(first + turn) % len(batches) for turn in range(count)]
        return all(evaluate(batches[k]) in expected[k] for k in turns)

    return [pool.submit(caller, first) for first in range(8)]


@pytest.mark.parametrize("weighted", [False, True])
def test_one_loss_smooths_labels_of_different_numbers_of_classes_at_once(weighted, rng):
    """Each thread changes classes and precision from call to call, so that what a loss keeps of its
    last call is always another thread's. Any thread may be the one that prepares a new loss."""
    weight = np.linspace(0.5, 2.0, 9) if weighted else None
    sizes = (9,) if weighted else (2, 9, 40, 700)
    batches = [
        (on_grid(rng, (12, k)).astype(dtype), rng.integers(k, size=12))
        for k in sizes
        for dtype in (np.float32, np.float64)
    ]

    def new_loss():
        return fastce.SoftmaxCrossEntropy(label_smoothing=0.1, weight=weight)

    def evaluate(loss, batch):
        value, grad = loss.value_and_grad(*batch)
        return value, grad.tobytes()

    expected = [{evaluate(new_loss(), batch)} for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for count in (200, *(1,) * 20):
            right = in_turns(pool, partial(evaluate, new_loss()), batches, expected, count)
            assert all(x.result() for x in right)


@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_one_loss_shared_while_shapes_types_and_variants_change(c):
    """What a loss keeps between calls serves any call, and a call stays with one variant."""
    batches = [
        replace(c, shape=(rows, 10)).batch(dtype, seed=rows)
        for rows in (1, 33, 3_000)
        for dtype in ("float16", "float32", "float64")
    ]

    def evaluate(loss, batch):
        results = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
        return tuple(np.asarray(x).tobytes() for x in results)

    expected = [set() for _ in batches]
    for name in variants.available():
        with variants.using(name):
            for results, batch in zip(expected, batches, strict=True):
                results.add(evaluate(c.build(), batch))
    with variants.using(variants.selected), ThreadPoolExecutor(8) as pool:
        right = in_turns(pool, partial(evaluate, c.build()), batches, expected, 36)
        while not all(x.done() for x in right):
            for name in variants.available():
                variants.use(name)
                time.sleep(0.001)
        assert all(x.result() for x in right)
