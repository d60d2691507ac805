"""A good guest in its host's process: it leaves modes, flags, threads, modules and memory alone."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cases import THOROUGH, on_grid
from processes import output_of, script

import fastce
from fastce import _isa

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
    """fenv_t of x86-64 Linux: 28 bytes of the old unit, and MXCSR."""

    _fields_ = (("x87", ctypes.c_uint8 * 28), ("mxcsr", ctypes.c_uint32))


@pytest.fixture
def libm():
    library = ctypes.CDLL("libm.so.6")
    before = Environment()
    library.fegetenv(ctypes.byref(before))
    yield library
    library.fesetenv(ctypes.byref(before))


def every_kernel():
    """Calls that raise all the flags there are: overflow, division by zero, invalid, inexact."""
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
    """Nor inexact, which the arithmetic of Python itself raises."""
    for call in every_kernel():
        libm.feclearexcept(0x3D)
        call()
        assert libm.fetestexcept(INVALID | DIVIDE_BY_ZERO | OVERFLOW | UNDERFLOW) == 0


@X86
@pytest.mark.parametrize(
    "mode", [0, FLUSH_TO_ZERO | DENORMALS_ARE_ZERO, ROUND_UPWARD << 3], ids=["plain", "flush", "up"]
)
def test_the_kernels_leave_control_word_and_flags(libm, mode, isa, rng):
    """Whatever the modes and the flags are, and neither changes a bit of the result."""
    z = on_grid(rng, (40, 10)).astype(np.float32) * np.float32(8)
    y = np.zeros(40, np.int64)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    expected = loss.value_and_grad(z, y)
    kernel, grad, value = loss.kernel(), np.empty_like(z), np.empty(40, np.float32)
    run = _isa.core.SoftmaxRun(kernel, 1.0, z, labels=y, grad=grad, loss=value)
    before, after = Environment(), Environment()
    libm.fegetenv(ctypes.byref(before))
    before.mxcsr |= mode | DIVIDE_BY_ZERO  # a flag that is up already stays up
    libm.fesetenv(ctypes.byref(before))
    run(0, 40)
    libm.fegetenv(ctypes.byref(after))
    assert after.mxcsr == before.mxcsr
    libm.fesetenv(ctypes.byref(Environment.from_buffer_copy(bytes(28) + b"\x80\x1f\x00\x00")))
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(grad, expected[1])


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
        for name in fastce._isa.available():
            fastce._isa.load(name)
        fastce.softmax(numpy.zeros((300_000, 3)))
        print(mxcsr() == before, numpy.float32(1e-40) * numpy.float32(0.5) != 0)
    """
    assert output_of(code) == ["True", "True"]


@pytest.mark.parametrize("c", THOROUGH, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_no_warning_whatever_the_values(c, dtype, isa):
    batch = c.batch(dtype)
    with np.errstate(all="ignore"):
        for x in (np.inf, -np.inf, np.nan, 6e4, 1e-45, 1e300):
            batch.logits[np.random.default_rng(1).random(batch.logits.shape) < 0.1] = x
    with np.errstate(all="raise"):
        c.build().value_grad_hess(batch.logits, batch.target, **batch.call)


# Threads and processes ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("when", ["atexit", "thread limit"])
def test_a_large_call_where_no_thread_can_start(when):
    """The caller's own thread does the work."""
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
        if WHEN == "atexit":
            atexit.register(call)
        else:
            def refuse(function, arguments):
                raise RuntimeError("can't start new thread")
            fastce._parallel.start_new_thread = refuse
            call()
    """
    assert output_of(code.replace("WHEN", repr(when))) == ["True"]


@FORKS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # where the run has imported JAX
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_computes_the_same_bits(busy, threads):
    """Also one that is forked while another thread is in a large call."""
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
    """In a process of a pool."""
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
        import sys, time
        import numpy
        import fastce
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


# Modules and memory -------------------------------------------------------------------------------


def test_import_time_is_small_beside_numpys():
    """The best of a few runs, in time of the processor, without NumPy's share."""
    best = float("inf")
    code = (
        "import numpy, time; t = time.process_time(); import fastce; print(time.process_time() - t)"
    )
    for _ in range(5):
        best = min(best, float(output_of(code)[0]))
        if best < 0.06:
            break
    assert best < 0.06


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


@LINUX
def test_a_hundred_thousand_calls_leak_nothing():
    done = calls(300)
    gc.collect()
    before, objects = resident(), len(gc.get_objects())
    while done < 100_000:
        done += calls(1000)
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    assert resident() - before < 2 << 20  # 20 bytes a call


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


@LINUX
def test_no_memory_is_a_memory_error():
    """With the address space full, calls raise MemoryError, and work again when there is room."""
    code = """
        import resource, sys
        import numpy
        import fastce
        fastce.set_num_threads(2)
        loss = fastce.SoftmaxCrossEntropy()
        focal = fastce.SigmoidFocalLoss()
        z = numpy.zeros((20_000, 500), "f4")
        y = numpy.zeros(20_000, int)
        out = numpy.zeros_like(z)
        odd = numpy.zeros((20_000, 1000), "f4")[:, ::2]
        expected = loss.value_and_grad(z, y, out=out)[0]
        loss(odd, y)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        raised = 0
        for room in (0, 1 << 16, 1 << 20, 1 << 22, 1 << 24):
            resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
            for call in (
                lambda: loss.value_and_grad(z, y),
                lambda: loss.value_grad_hess(odd, y),
                lambda: focal.value_and_grad(z, z),
                lambda: fastce.softmax(odd),
            ):
                try:
                    call()
                except MemoryError:
                    raised += 1
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            assert loss.value_and_grad(z, y, out=out)[0] == expected
        print(raised)
    """
    assert int(output_of(code)[0]) >= 4


def test_no_memory_for_the_scratch_space_of_a_kernel():
    """A row of 2⁴⁶ bytes of scratch is more than any machine has."""
    classes = 1 << 40
    z = np.broadcast_to(np.float32(0), (1, classes))
    weight = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 16, classes), (0, 0, 0))
    assert z.shape[-1] == weight.shape[-1]
    kernel = fastce.SoftmaxCrossEntropy().kernel()
    run = _isa.core.SoftmaxRun(kernel, 1.0, weight, labels=np.zeros(16, int))
    before = sys.getrefcount(weight), len(gc.get_objects())
    for _ in range(100):
        with pytest.raises(MemoryError):
            run(0, 16)
    assert sys.getrefcount(weight) == before[0]
    assert len(gc.get_objects()) - before[1] < 50
