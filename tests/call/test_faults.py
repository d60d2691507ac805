"""Faults of the machine during a call: memory that runs out, interrupts, threads that die, forks.

Each ends in an error or in the right result, never in a hang; then everything works as before.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap

import numpy as np
import pytest
from processes import LARGE_CALL, SUPPORT, output_of, run

import fastce

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="replaces malloc of glibc")
TIMERS = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")

# Memory -------------------------------------------------------------------------------------------

CALLS = """
    import ctypes, sys
    import numpy
    import fastce
    from fastce.evaluation import evaluate
    hook = ctypes.CDLL(None)
    rng = numpy.random.default_rng(0)

    def arrays(rows, classes):
        z = rng.normal(size=(rows, classes)).astype("f4")
        return z, rng.integers(classes, size=rows)

    z, y = arrays(40, 10)
    wide, labels = arrays(3, 5000)
    planes, of_planes = arrays(21, 200)[0], rng.integers(21, size=200)
    large, of_large = arrays(60_000, 10)
    soft = rng.dirichlet(numpy.ones(10), 40)
    hard = (z > 0).astype("f4")
    CE = fastce.SoftmaxCrossEntropy
    options = dict(weight=numpy.ones(10), label_smoothing=0.1, softcap=9.0)
    everything = CE(**options)
    calls = {
        "rows": lambda: CE(reduction="none").value_grad_hess(z, y),
        "all options": lambda: everything.value_grad_hess(z, y, sample_weight=numpy.ones(40)),
        "options anew": lambda: CE(**options)(z, y),
        "probabilities": lambda: everything.value_and_grad(z, soft, where=z < 9),
        "a row in chunks": lambda: CE().value_grad_hess(wide, labels),
        "planes": lambda: CE(axis=0).value_grad_hess(planes, of_planes),
        "gathered": lambda: CE(reduction="none").value_and_grad(z.astype(">f4"), y),
        "checked": lambda: CE().value_and_grad(z.tolist(), y.tolist()),
        "focal": lambda: fastce.SoftmaxFocalLoss(gamma=0.5).value_grad_hess(z, y),
        "divergence": lambda: fastce.SoftmaxKLDivergence().value_grad_hess(z, 2 * z),
        "bce": lambda: fastce.BCEWithLogits(pos_weight=2.0).value_grad_hess(z, hard),
        "sigmoid focal": lambda: fastce.SigmoidFocalLoss().value_and_grad(z.T, hard.T),
        "softmax": lambda: (fastce.softmax(z), fastce.log_softmax(z, axis=(0, 1))),
        "tokens": lambda: fastce.token_log_probs(z, y),
        "evaluation": lambda: evaluate(z, y).perplexity,
        "threads": lambda: CE().value_and_grad(large, of_large),
    }

    def bits(result):
        results = result if isinstance(result, tuple) else (result,)
        return [numpy.asarray(x).tobytes() for x in results]
"""

# In CPython 3.12 and 3.13, a function that cannot be made for want of memory takes a reference from
# its code object, also if it is a lambda or a generator expression (python/cpython#122752). A code
# object without references is freed in spite of its users, so each one is given spare ones.
SPARE_REFERENCES = """
    import gc, types

    def inner(code):
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield constant
                yield from inner(constant)

    functions = [found for found in gc.get_objects() if isinstance(found, types.FunctionType)]
    for code in {id(code): code for f in functions for code in inner(f.__code__)}.values():
        for _ in range(20):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))
"""


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """The environment that loads a library whose allocations fail on demand."""
    library = tmp_path_factory.mktemp("faults") / "allocations.so"
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    command = [*compiler.split(), "-shared", "-fPIC", "-O1", "-o", str(library)]
    subprocess.run([*command, str(SUPPORT / "allocations.c")], check=True)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # which has an allocator of its own
        return {"LD_PRELOAD": str(library)}
    return {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}


@GLIBC
def test_each_allocation_of_a_call_fails_in_turn(preloaded):
    """Python objects, NumPy arrays and the kernels' scratch alike; one at a time, then none."""
    code = (
        CALLS
        + SPARE_REFERENCES
        + """
    fastce.set_num_threads(3)
    expected = {name: bits(call()) for name, call in calls.items()}  # and warm
    failures = errors = 0
    for name, call in calls.items():
        number = 0
        while True:
            number += 1
            error = result = None
            hook.arm(number)
            try:
                result = call()
            except (MemoryError, SystemError) as raised:  # NumPy's reductions end in the latter
                error = raised
            finally:
                hook.disarm()
            if not hook.has_failed():
                break
            failures += 1
            errors += error is not None
            assert "exception" in str(error) or not isinstance(error, SystemError), error
            assert error is not None or bits(result) == expected[name], (name, number)
            assert bits(call()) == expected[name], (name, number)
        assert number > 3, (name, number)
    print(failures, errors)
    """
    )
    failures, errors = map(int, output_of(code, timeout=300, **preloaded))
    print(f"{failures} allocations failed, {errors} of the calls raised")
    assert failures > 200
    assert errors > failures // 2  # calls can do without the others


# Interrupts ---------------------------------------------------------------------------------------


@TIMERS
@pytest.mark.parametrize("kind", ["in tasks", "at once"])
def test_interrupts_at_random_points(kind):
    """Whatever they interrupt: nothing is written afterwards, and the next call is as usual."""
    code = (
        LARGE_CALL
        + """
    import random, signal, time

    class Interrupt(BaseException):
        pass

    def interrupt(number, frame):
        raise Interrupt

    random.seed(0)
    signal.signal(signal.SIGALRM, interrupt)
    if SMALL:
        z, y = z[:3000], y[:3000]
        fastce.set_num_threads(1)
        expected = call()
    out = numpy.empty_like(z)
    took = time.monotonic()
    loss.value_and_grad(z, y, out=out)
    took = time.monotonic() - took
    interrupted = whole = 0
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        done = False
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1.5 * took + 1e-4))
            loss.value_and_grad(z, y, out=out)
            done = True
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        interrupted += not done
        whole += done
        if done:
            assert out.tobytes() == expected[1]
        elif interrupted % 8 == 0:
            before = out.tobytes()
            time.sleep(0.002)
            assert out.tobytes() == before, "a helper has written after the call"
        if (interrupted + whole) % 8 == 0:
            assert call() == expected
    print(interrupted, call() == expected)
    """
    )
    found = output_of(code.replace("SMALL", str(kind == "at once")), timeout=60)
    print(f"{found[0]} calls interrupted")
    assert int(found[0]) > 10
    assert found[1] == "True"


def test_an_interrupt_at_each_step_of_a_call():
    """Where Python looks for signals: as a function begins, and after each call of a C function.

    None is lost, as it would be in a callback of a weak reference, and no helper keeps working. The
    call also starts its threads; if it has not started all of them, the next call does.
    """
    code = (
        LARGE_CALL
        + """
    import itertools, time

    class Interrupt(BaseException):
        pass

    def interrupt(frame, event, argument):
        global remaining
        remaining -= event in ("call", "c_return")
        if remaining == 0:
            raise Interrupt

    out = numpy.empty_like(z)
    loss.value_and_grad(z, y, out=out)
    for number in itertools.count(1):
        fastce.set_num_threads(3)
        remaining, came_through = number, False
        try:
            sys.setprofile(interrupt)
            loss.value_and_grad(z, y, out=out)
            sys.setprofile(None)
        except Interrupt:
            came_through = True
        if remaining > 0:
            break
        assert came_through, number
        before = out.tobytes()
        time.sleep(0.004)
        assert out.tobytes() == before, f"a helper has written after the call: {number}"
        assert not fastce._call.threads._running, number
        out[:] = 0.0
        assert call() == expected, number
        assert len(fastce._call.threads._pool._threads) == 2, number
    print(number)
    """
    )
    steps = int(output_of(code, timeout=60, quiet=True)[0])
    print(f"{steps} steps")
    assert steps > 20


@pytest.mark.parametrize("interrupted", ["target", "sample_weight"])
def test_an_interrupt_while_a_list_is_converted(interrupted):
    """A signal handler may raise anything, a time limit for example. The call ends with it."""

    class TimeLimit(Exception):
        pass

    class Interrupted:
        times = 0

        def __array__(self, dtype=None, copy=None):
            self.times += 1
            if self.times == 1:
                raise TimeLimit
            return np.asarray(1)

    logits = np.zeros((2, 3), "f4")
    given = {"target": [1, 0], "sample_weight": [1.0, 1.0], interrupted: [Interrupted(), 1]}
    with pytest.raises(TimeLimit):
        fastce.SoftmaxCrossEntropy()(logits, **given)


@TIMERS
def test_a_process_that_exits_in_the_middle_of_a_call():
    """By SystemExit from a signal handler, while helpers are at work."""
    code = (
        LARGE_CALL
        + """
    import signal

    def leave(number, frame):
        sys.exit(7)

    signal.signal(signal.SIGALRM, leave)
    call()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while True:
        assert call() == expected
    """
    )
    for _ in range(3):
        done = run("-c", textwrap.dedent(code))
        assert (done.returncode, done.stderr) == (7, "")


# Threads ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a stack that Linux refuses")
@pytest.mark.parametrize("threads_before", [0, 1])
def test_threads_that_the_system_refuses(threads_before):
    """All of them, or all but the first: the threads that exist do the work."""
    code = (
        LARGE_CALL
        + """
    import threading, _thread
    if BEFORE:
        start = fastce._call.threads.start_new_thread

        def start_one(function, arguments):
            fastce._call.threads.start_new_thread = start
            identity = start(function, arguments)
            threading.stack_size(1 << 46)
            return identity

        fastce._call.threads.start_new_thread = start_one
    else:
        threading.stack_size(1 << 46)
    results = [call() == expected for _ in range(5)]
    refused = False
    try:
        _thread.start_new_thread(print, ())
    except RuntimeError:
        refused = True
    print(all(results), refused, len(sys._current_frames()) <= 1 + BEFORE)
    """
    )
    assert output_of(code.replace("BEFORE", str(threads_before))) == ["True"] * 3


def test_helpers_that_are_killed():
    """By an exception from outside, at work or waiting: a call raises it, or does without them."""
    code = (
        LARGE_CALL
        + """
    import ctypes, threading, time
    call()
    raised = right = 0
    end = time.monotonic() + 1.5
    while time.monotonic() < end and raised + right < 400:
        stop = threading.Event()
        helpers = list(fastce._call.threads._pool._threads)

        def kill():
            for helper in helpers:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(helper), ctypes.py_object(SystemExit)
                )

        killer = threading.Timer(0.0005, kill)
        killer.start()
        try:
            right += call() == expected
        except SystemExit:
            raised += 1
        killer.join()
        if (raised + right) % 10 == 0:
            fastce.set_num_threads(3)  # others in their place
    print(right > 0, call() == expected)
    """
    )
    assert output_of(code, timeout=60) == ["True", "True"]


# Forks --------------------------------------------------------------------------------------------

FORK = """
    import os, signal, time, warnings
    warnings.simplefilter("ignore")
    parent, children = os.getpid(), []

    def fork(number, frame):
        child = os.fork()
        if child:
            children.append(child)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
"""


@TIMERS
@FORKS
@pytest.mark.parametrize("at", [0.05, 0.3, 0.9])
def test_a_fork_in_the_middle_of_a_call(at):
    """The child continues inside the call without its helper: it raises, and does not wait.

    Tasks take the caller 0.2 s and the helper 0.5 s, so that the caller ends the last of its four
    at 0.8 s and the helper the second of its two at 1 s. The fork comes in the caller's first task,
    in its second, or when it waits. Whatever could coincide is 0.1 s apart.
    """
    code = (
        LARGE_CALL
        + FORK
        + """
    import threading
    from fastce._call import threads
    main = threading.get_ident()

    def work(start, stop):
        helper = threading.get_ident() != main
        end = time.monotonic() + (0.5 if helper else 0.2)
        while time.monotonic() < end:
            time.sleep(0.01)
        return float(stop)

    fastce.set_num_threads(2)
    call()  # the helper is there
    signal.signal(signal.SIGALRM, fork)
    signal.setitimer(signal.ITIMER_REAL, AT)
    tasks = [(i, i + 1) for i in range(6)]
    try:
        results = threads.run(work, tasks, threads.THREADED_ELEMENTS)
    except RuntimeError as error:
        results = str(error)
    if os.getpid() == parent:
        code = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
        print(results == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], code, call() == expected)
    else:
        lost = results == "the process was forked in the middle of a call"
        os._exit(7 if lost and call() == expected else 1)
    """
    )
    assert output_of(code.replace("AT)", f"{at})"), timeout=60) == ["True", "7", "True"]


@TIMERS
@FORKS
def test_forks_at_random_points():
    """The child continues inside the call without its helpers: it computes the rest, or raises."""
    code = (
        LARGE_CALL
        + FORK
        + """
    signal.signal(signal.SIGALRM, fork)
    end = time.monotonic() + 1.5
    while time.monotonic() < end and len(children) < 25:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00003 * len(children))
        result = None
        try:
            result = call()
        except RuntimeError as error:
            assert os.getpid() != parent, error
            assert "fork" in str(error), error
        if os.getpid() == parent:
            signal.setitimer(signal.ITIMER_REAL, 0)  # no fork from here on
        if os.getpid() != parent:
            same = result is None or result == expected
            again = call() == expected
            os._exit(0 if same and again else 1 if same else 2)
        assert result == expected
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(len(codes), set(codes))
    """
    )
    found = output_of(code, timeout=120)
    print(f"{found[0]} forks")
    assert int(found[0]) > 5
    assert found[1:] == ["{0}"]
