"""The process around a call: floating-point modes and flags, forks, and interrupts."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from batches import on_grid
from cases import THOROUGH
from processes import output_of, script

import fastce
from fastce._call import variants

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")


def large_batch(dtype=np.float32, rows=60_000):
    rng = np.random.default_rng(3)
    return on_grid(rng, (rows, 10)).astype(dtype), rng.integers(10, size=rows)


# Floating-point modes and flags -------------------------------------------------------------------

# From <fenv.h> on x86-64.
INVALID, DIVIDE_BY_ZERO, OVERFLOW, UNDERFLOW = 1, 4, 8, 16
ROUND_UPWARD = 0x800
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 1 << 15, 1 << 6
X86 = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and os.uname().machine == "x86_64"),
    reason="reads the control word of x86-64",
)


class Environment(ctypes.Structure):
    """fenv_t of x86-64 Linux: 28 bytes of the x87 unit, and MXCSR."""

    _fields_ = (("x87", ctypes.c_uint8 * 28), ("mxcsr", ctypes.c_uint32))


@pytest.fixture
def libm():
    library = ctypes.CDLL("libm.so.6")
    before = Environment()
    library.fegetenv(ctypes.byref(before))
    yield library
    library.fesetenv(ctypes.byref(before))


def every_kernel():
    """Calls whose arithmetic raises every flag: overflow, division by zero, invalid, inexact."""
    z = np.array([[1e4, -1e4, 0], [np.inf, 0, 0], [np.nan, 1, 2], [1e-40, 88, 300]])
    losses = (fastce.SoftmaxCrossEntropy(), fastce.SoftmaxFocalLoss(gamma=0.5))
    for dtype in (np.float16, np.float32, np.float64):
        with np.errstate(all="ignore"):
            logits = z.astype(dtype)
        for rows in (logits, np.tile(logits, 100)):
            for loss in losses:
                yield lambda loss=loss, rows=rows: loss.value_grad_hess(rows, [0, 1, 2, 0])
            for loss in (fastce.BCEWithLogits(), fastce.SigmoidFocalLoss(gamma=1.5)):
                y = (np.arange(rows.size) % 2).reshape(rows.shape).astype(dtype)
                yield lambda loss=loss, rows=rows, y=y: loss.value_grad_hess(rows, y)
            yield lambda rows=rows: fastce.softmax(rows)
            yield lambda rows=rows: fastce.token_log_probs(rows, [0, 1, 2, 0])


@X86
def test_no_exception_flag_is_raised(libm, isa):
    """Inexact is not checked, because Python's own arithmetic raises it."""
    for call in every_kernel():
        libm.feclearexcept(0x3D)
        call()
        assert libm.fetestexcept(INVALID | DIVIDE_BY_ZERO | OVERFLOW | UNDERFLOW) == 0


@X86
@pytest.mark.parametrize(
    "mode", [0, FLUSH_TO_ZERO | DENORMALS_ARE_ZERO, ROUND_UPWARD << 3], ids=["plain", "flush", "up"]
)
def test_the_kernels_leave_control_word_and_flags(libm, mode, isa, rng):
    """Whatever the modes and the flags are; and neither changes a bit of the result."""
    z = on_grid(rng, (40, 10)).astype(np.float32) * np.float32(8)
    y = np.zeros(40, np.int64)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    expected = loss.value_and_grad(z, y)
    kernel, grad, value = loss.kernel(), np.empty_like(z), np.empty(40, np.float32)
    run = variants.core.SoftmaxRun(kernel, 1.0, z, labels=y, grad=grad, loss=value)
    before, after = Environment(), Environment()
    libm.fegetenv(ctypes.byref(before))
    before.mxcsr |= mode | DIVIDE_BY_ZERO  # a flag that is already raised stays so
    libm.fesetenv(ctypes.byref(before))
    run(0, 40)
    libm.fegetenv(ctypes.byref(after))
    assert after.mxcsr == before.mxcsr
    libm.fesetenv(ctypes.byref(Environment.from_buffer_copy(bytes(28) + b"\x80\x1f\x00\x00")))
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


def weighted_calls():
    """Means, whose division and weights are not the work of a kernel, and results of kernels."""
    rng = np.random.default_rng(5)
    for dtype in (np.float32, np.float64):
        for rows in (3, 7, 11, 100, 1001, 50_000):
            z, t = rng.normal(size=(2, rows, 5)).astype(dtype)
            labels, tags = rng.integers(5, size=rows), (rng.random((rows, 5)) < 0.5).astype(dtype)
            weight = rng.random(rows)
            subnormal = np.linspace(1, 2, rows) * 5e-320
            for loss, target, weights in (
                (fastce.SoftmaxCrossEntropy(), labels, (None, weight, subnormal)),
                (fastce.SoftmaxCrossEntropy(label_smoothing=0.1), labels, (weight,)),
                (fastce.SoftmaxFocalLoss(), labels, (None, weight)),
                (fastce.SoftmaxKLDivergence(), t, (None, weight)),
                (fastce.BCEWithLogits(), tags, (None, weight[:, None], subnormal[:, None])),
                (fastce.SigmoidFocalLoss(), tags, (None, weight[:, None])),
            ):
                for w in weights:
                    yield loss, z, target, w


@X86
@pytest.mark.parametrize(
    "mode",
    [FLUSH_TO_ZERO | DENORMALS_ARE_ZERO, ROUND_UPWARD << 3, 0x400 << 3, 0xC00 << 3],
    ids=["flush", "up", "down", "to zero"],
)
def test_the_callers_modes_change_no_result(libm, mode):
    changed = Environment()
    libm.fegetenv(ctypes.byref(changed))
    before = Environment.from_buffer_copy(changed)
    changed.mxcsr |= mode
    for loss, z, y, weight in weighted_calls():
        expected = loss.value_grad_hess(z, y, sample_weight=weight)
        libm.fesetenv(ctypes.byref(changed))
        found = loss.value_grad_hess(z, y, sample_weight=weight)
        libm.fesetenv(ctypes.byref(before))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@X86
def test_importing_it_leaves_the_control_word(libm):
    code = """
        import ctypes
        import numpy
        libm = ctypes.CDLL("libm.so.6")
        def mxcsr():
            room = (ctypes.c_uint32 * 8)()
            libm.fegetenv(room)
            return room[7] & ~0x3F
        before = mxcsr()
        import fastce
        for name in fastce._call.variants.available():
            fastce._call.variants.load(name)
        fastce.softmax(numpy.zeros((300_000, 3)))
        print(mxcsr() == before, numpy.float32(1e-40) * numpy.float32(0.5) != 0)
    """
    assert output_of(code) == ["True", "True"]


@pytest.mark.parametrize("c", THOROUGH, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_no_warning_whatever_the_values(c, dtype, isa, rng):
    batch = c.batch(dtype)
    with np.errstate(all="ignore"):
        for x in (np.inf, -np.inf, np.nan, 6e4, 1e-45, 1e300):
            batch.logits[rng.random(batch.logits.shape) < 0.1] = x
    with np.errstate(all="raise"):
        c.build().value_grad_hess(batch.logits, batch.target, **batch.call)


# Forks and interrupts -----------------------------------------------------------------------------


@FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # where the run has imported JAX
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_computes_the_same_bits(busy, threads):
    """Also if it is forked while another thread is in a large call."""
    z, y = large_batch()
    loss = fastce.SoftmaxCrossEntropy()
    threads(3)
    value, grad = loss.value_and_grad(z, y)  # the pool exists
    done = threading.Event()

    def keep_busy():
        while not done.is_set():
            loss.value_and_grad(z, y)

    worker = threading.Thread(target=keep_busy)
    if busy:
        worker.start()
    try:
        for _ in range(5 if busy else 1):
            child = os.fork()
            if child == 0:
                try:
                    signal.alarm(60)
                    again = loss.value_and_grad(z, y)
                    same = again[0] == value and again[1].tobytes() == grad.tobytes()
                    os._exit(0 if same else 1)
                finally:
                    os._exit(2)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        done.set()
        if busy:
            worker.join()
    assert loss(z, y) == value  # and the parent goes on


def evaluate_large(seed):
    """Runs in a process of a pool."""
    z, y = large_batch()
    value, grad = fastce.SoftmaxCrossEntropy().value_and_grad(z, (y + seed) % 10)
    return value, grad.tobytes()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # where the run has imported JAX
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(method, threads):
    threads(2)
    expected = [evaluate_large(seed) for seed in range(2)]
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map_async(evaluate_large, range(2)).get(timeout=120) == expected


@LINUX
@pytest.mark.parametrize("case", ["rows", "one thread", "labels", "strided", "sigmoid"])
def test_an_interrupt_ends_a_long_call_within_a_second(case):
    code = """
        import signal, sys, time
        import numpy
        import fastce
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
        case = CASE
        fastce.set_num_threads(1 if case == "one thread" else 2)
        if case == "sigmoid":
            z = numpy.broadcast_to(numpy.float32(0.5), 20_000_000_000)
            call = lambda: fastce.BCEWithLogits()(z, numpy.broadcast_to(numpy.float32(1), z.shape))
        else:
            rows = 60_000_000_000 if case == "labels" else 400_000_000
            z = numpy.broadcast_to(numpy.float32(0.5), (rows, 100))
            if case == "strided":
                z = numpy.broadcast_to(numpy.zeros(300, "f4")[::3], (rows, 100))
            y = numpy.broadcast_to(numpy.int64(3), rows)
            call = lambda: fastce.SoftmaxCrossEntropy()(z, y)
        print("ready", flush=True)
        try:
            call()
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
    """
    process = script(code.replace("CASE", repr(case)))
    assert process.stdout.readline().strip() == "ready"
    time.sleep(1.5)
    assert process.poll() is None, "the call was too short for the test"
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert out.strip(), err
    assert float(out) - sent < 1.0
