"""Memory: what a call needs beyond its outputs, what it leaves behind, and lack of memory."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from batches import on_grid
from cases import DTYPES
from layouts import LAYOUTS
from processes import ROOT, SUPPORT, output_of, peak

import fastce
from fastce._call import variants
from fastce.evaluation import evaluate

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
MIB = 1 << 20


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        *itertools.product(
            ("rows", "axis 1", "fortran", "every_third_element", "unaligned"),
            ("float32", "bfloat16"),
        ),
        ("byte_swapped", "float32"),
        ("byte_swapped", "float16"),
        ("rows", "float64"),
        ("axis 1", "float64"),
    ],
)
def test_peak_memory_is_the_outputs_and_little_more(layout, dtype, rng):
    z = rng.normal(size=(2048, 1024)).astype(np.float32).astype(DTYPES[dtype])
    axis = -1
    if layout == "axis 1":
        z, axis = z.reshape(8, 256, 32, 32), 1
    elif layout != "rows":
        z = LAYOUTS[layout](z)
    y = rng.integers(z.shape[axis], size=np.delete(z.shape, axis))
    loss = fastce.SoftmaxCrossEntropy(axis=axis, label_smoothing=0.1, reduction="none")
    loss.value_and_grad(z, y)  # the first large call imports and starts the thread pool
    per_row = 8 * y.size
    assert peak(lambda: loss(z, y)) < per_row + MIB
    assert peak(lambda: loss.value_and_grad(z, y)) < z.nbytes + per_row + MIB
    assert peak(lambda: loss.value_grad_hess(z, y)) < 2 * z.nbytes + per_row + MIB
    if layout == "rows":
        assert peak(lambda: loss.value_and_grad(z, y, out=z)) < per_row + MIB


@pytest.mark.parametrize("name", ["BCEWithLogits", "SigmoidFocalLoss"])
@pytest.mark.parametrize("soft", [False, True])
def test_peak_memory_of_the_sigmoid_family(name, soft, rng):
    """The small arguments are broadcast without being expanded in memory."""
    z = rng.normal(size=(2048, 1024)).astype(np.float32)
    y = rng.random(z.shape) if soft else rng.integers(2, size=z.shape).astype(np.uint8)
    call = {
        "sample_weight": rng.random((2048, 1)),
        "where": rng.random(1024) < 0.5,
    }
    options = {"pos_weight": rng.random(1024)} if name == "BCEWithLogits" else {"gamma": 1.5}
    loss = getattr(fastce, name)(**options)
    loss.value_and_grad(z, y)  # the first large call imports and starts the thread pool
    assert peak(lambda: loss(z, y, **call)) < MIB
    assert peak(lambda: loss.value_and_grad(z, y, **call)) < z.nbytes + MIB
    assert peak(lambda: loss.value_grad_hess(z, y, **call)) < 2 * z.nbytes + MIB
    assert peak(lambda: loss.value_and_grad(z, y, out=z, **call)) < MIB


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_peak_memory_of_the_functions(dtype, rng):
    z = on_grid(rng, (1024, 2048)).astype(dtype)
    y = rng.integers(2048, size=1024)
    fastce.softmax(z)  # the first large call imports and starts the thread pool
    for name in ("softmax", "log_softmax"):
        assert peak(lambda name=name: getattr(fastce, name)(z)) < z.nbytes + MIB
        assert peak(lambda name=name: getattr(fastce, name)(z, out=z)) < MIB
    assert peak(lambda: fastce.logsumexp(z)) < MIB
    assert peak(lambda: fastce.token_log_probs(z, y)) < MIB
    assert peak(lambda: evaluate(z, y)) < MIB


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def small_calls():
    """Each kind of call once, small; some of them end in an error."""
    z = np.zeros((5, 7), np.float32)
    y = np.array([0, 1, 2, 3, 4])
    bad = np.array([0, 1, 2, 3, 7])
    out = np.empty_like(z)
    soft = np.full(z.shape, 0.5)
    ce = fastce.SoftmaxCrossEntropy(weight=np.ones(7), label_smoothing=0.1)
    bce = fastce.BCEWithLogits(pos_weight=2.0)

    def construct():
        fastce.SoftmaxFocalLoss(alpha=np.ones(7))(z, y)

    good = [
        lambda: ce(z, y),
        lambda: ce.value_and_grad(z, y, out=out),
        lambda: ce.value_grad_hess(z[:, ::-1], soft),
        lambda: bce.value_grad_hess(z, soft, sample_weight=0.5),
        lambda: fastce.SigmoidFocalLoss()(z.T, soft.T.astype(">f8")),
        lambda: fastce.token_log_probs(z, y),
        lambda: fastce.softmax(z, out=out),
        construct,
    ]
    failing = [
        lambda: ce(z, bad),
        lambda: ce.value_and_grad(z, y, out=out[:3]),
        lambda: ce(z, y, sample_weight=-1),
        lambda: bce(z, soft + 1),
        lambda: fastce.SoftmaxCrossEntropy(weight=[-1.0]),
        lambda: fastce.token_log_probs(z, bad),
        lambda: fastce.softmax(None),
    ]
    return good, failing


def calls(turns):
    good, failing = small_calls()
    for _ in range(turns):
        for call in good:
            call()
        for call in failing:
            try:
                call()
            except (IndexError, TypeError, ValueError):
                continue
            raise AssertionError("no error")
    return turns * (len(good) + len(failing))


def assert_calls_leak_nothing():
    done = calls(300)
    gc.collect()
    before, objects = resident(), len(gc.get_objects())
    while done < 100_000:
        done += calls(1000)
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    assert resident() - before < 2 << 20  # 20 bytes per call


@LINUX
def test_a_hundred_thousand_calls_leak_nothing():
    """In a process of its own, without the threads and the memory of other tests."""
    path = os.pathsep.join((ROOT, str(SUPPORT), str(Path(__file__).parent)))
    output_of("import test_memory; test_memory.assert_calls_leak_nothing()", PYTHONPATH=path)


def test_no_reference_is_kept_to_an_argument():
    z, y = np.zeros((5, 7), np.float32), np.array([0, 1, 2, 3, 6])
    bad, weight, out = np.array([0, 1, 2, 3, 7]), np.ones(5), np.empty((5, 7), np.float32)
    loss = fastce.SoftmaxCrossEntropy()
    arrays = (z, y, bad, weight, out)
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(50):
        loss.value_and_grad(z, y, sample_weight=weight, out=out)
        loss(z[::2], y[::2])
        with pytest.raises(IndexError):
            loss.value_and_grad(z, bad, sample_weight=weight, out=out)
    assert [sys.getrefcount(array) for array in arrays] == before


@pytest.mark.parametrize(
    ("dtype", "power"), [("float16", 48), ("float16", 61), (">f4", 60), ("float64", 59)]
)
def test_rows_that_no_memory_can_hold(power, dtype, isa):
    """Sizes of scratch would overflow. Such rows are broadcast from a number."""
    z = np.broadcast_to(np.zeros(1, dtype), (1, 1 << power))
    for call in (
        lambda: fastce.SoftmaxCrossEntropy()(z, [0]),
        lambda: fastce.SoftmaxFocalLoss()(z, [0]),
        lambda: fastce.SoftmaxKLDivergence()(z, z),
        lambda: fastce.logsumexp(z),
        lambda: fastce.token_log_probs(z, [0]),
    ):
        with pytest.raises(MemoryError):
            call()


def test_no_memory_for_the_scratch_space_of_a_kernel():
    """A row of 2⁴⁶ bytes of scratch is more than any machine has."""
    classes = 1 << 40
    z = np.broadcast_to(np.float32(0), (1, classes))
    weight = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 16, classes), (0, 0, 0))
    assert z.shape[-1] == weight.shape[-1]
    kernel = fastce.SoftmaxCrossEntropy().kernel()
    run = variants.core.SoftmaxRun(kernel, 1.0, weight, labels=np.zeros(16, int))
    before = sys.getrefcount(weight), len(gc.get_objects())
    for _ in range(100):
        with pytest.raises(MemoryError):
            run(0, 16)
    assert sys.getrefcount(weight) == before[0]
    assert len(gc.get_objects()) - before[1] < 50
