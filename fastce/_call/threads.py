"""Threads that share the work of a call, each on ranges of rows.

How a call is split into tasks depends only on its shape, and the results of the tasks are added up
exactly, so every number of threads gives the same bits. A task takes a few milliseconds at most.
Python runs between tasks, so an interrupt is noticed.

The threads are started with ``_thread``, and no lock is held while work is distributed. A call can
therefore come from a signal handler or finaliser that interrupts another call, or from a greenlet,
after gevent or eventlet has replaced the primitives of ``threading``.
"""

import ctypes
import math
import os
from _queue import SimpleQueue
from _thread import allocate_lock, start_new_thread  # as they are now, see _has_threads
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import BuiltinFunctionType

from fastce._call import checks

# The fewest elements of a task, which take 50 to 180 microseconds. A smaller call is one task
# (SINGLE_TASK of the compiled module). A thread needs 30 to 100 microseconds to wake up. A large
# call is split into at least TASKS tasks of up to LARGEST_TASK elements: each task costs a few
# microseconds of Python and cold starts (`python -m bench -k "65536x10 or 65536x100"`).
TASK_ELEMENTS = 1 << 17
LARGEST_TASK = 1 << 20
TASKS = 32

# A call with fewer elements stays on its thread. For the cheapest loss, waking another thread costs
# about as much as it saves here (`python -m bench.threshold`).
THREADED_ELEMENTS = 3 << 17

Task = tuple[int, int]
Work = Callable[[int, int], float]

_count: int | None = None


def _has_threads() -> bool:
    """Return whether threads can run in parallel with the caller and outlive its call."""
    # After monkey.patch_all() a new thread is a greenlet, which would wait for the call to end.
    if not isinstance(start_new_thread, BuiltinFunctionType):
        return False
    # An interpreter that ends before its threads causes a fatal error; the main one ends last.
    current, main = (
        ctypes.pythonapi[f"PyInterpreterState_{which}"]  # not an attribute, which would be shared
        for which in ("Get", "Main")
    )
    current.restype = main.restype = ctypes.c_void_p
    return bool(current() == main())


HAS_THREADS = _has_threads()


def get_num_threads() -> int:
    """Return the number of threads that a large call uses.

    This is the number given to `set_num_threads`, otherwise the environment variable
    FASTCE_NUM_THREADS, otherwise the number of processors that the process may use.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        FASTCE_NUM_THREADS is needed and is not a positive integer.

    Examples
    --------
    >>> import fastce
    >>> fastce.get_num_threads() >= 1
    True
    """
    return _default_count() if _count is None else _count


@lru_cache
def _default_count() -> int:
    # Kept apart from _count, so that it cannot overwrite a number that another thread has just set.
    text = os.environ.get("FASTCE_NUM_THREADS")
    if text:
        return checks.threads_of_environment(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_num_threads(threads: int) -> None:
    """Set the number of threads that a large call uses.

    It does not change the results, not even the last bit. Small calls stay on the calling thread.

    Parameters
    ----------
    threads : int
        At least 1.

    Raises
    ------
    TypeError
        `threads` is not an integer.
    ValueError
        `threads` is less than 1.

    Examples
    --------
    >>> import fastce
    >>> before = fastce.get_num_threads()
    >>> fastce.set_num_threads(1)
    >>> fastce.get_num_threads()
    1
    >>> fastce.set_num_threads(before)
    """
    global _count
    _count = checks.at_least_one("the number of threads", threads)
    _forget_pool()


def tasks_of(count: int, size: int, multiple: int) -> list[Task]:
    """Split ``count`` rows of ``size`` elements into ranges of a multiple of ``multiple`` rows."""
    if count * size <= TASK_ELEMENTS:
        return [(0, count)] if count else []
    elements = min(max(count * size // TASKS, TASK_ELEMENTS), LARGEST_TASK)
    step = max(elements // max(size, 1) // multiple, 1) * multiple
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def run(work: Work, tasks: Sequence[Task], elements: int) -> list[float]:
    """Return ``[work(start, stop) for start, stop in tasks]``; large calls use several threads."""
    threads = min(get_num_threads(), len(tasks))
    if threads <= 1 or elements < THREADED_ELEMENTS or not HAS_THREADS:
        return [work(start, stop) for start, stop in tasks]
    call = _Call(work, tasks)
    try:
        _running.add(call)
        _pool.help(call, threads - 1)
        call.drain()
    finally:
        try:
            call.close()
        except BaseException:  # an interrupt, which may have come before the first line of close()
            call.close()
            raise
    if call.errors:
        raise call.errors.pop(0)
    return call.results


def total(parts: list[float]) -> float:
    """Add up exactly, in any order. The sum of +inf and -inf, for which fsum raises, is NaN."""
    if math.inf in parts and -math.inf in parts:
        return math.nan
    try:
        return math.fsum(parts)
    except OverflowError:  # of a partial sum
        return math.fsum(part * 2.0**-64 for part in parts) * 2.0**64


class _Call:
    """The tasks of one call. Its own thread and helpers take them one after another."""

    def __init__(self, work: Work, tasks: Sequence[Task]) -> None:
        self.results = [0.0] * len(tasks)
        self.errors: list[BaseException] = []
        self._pending = deque((work, i, task) for i, task in enumerate(tasks))
        self._claims: list[_Claim] = []

    def drain(self) -> None:
        results = self.results
        while True:
            try:
                work, i, (start, stop) = self._pending.popleft()
            except IndexError:
                return
            results[i] = work(start, stop)

    def claim(self) -> "_Claim":
        """Return the claim of one helper."""
        claim = _Claim()
        self._claims.append(claim)
        return claim

    def help(self, claim: "_Claim") -> None:
        """Work on the tasks in a thread of the pool, unless the call is over."""
        try:
            if claim.by.setdefault("whom", "helper") == "helper":
                self.drain()
        except BaseException as error:
            self.errors.append(error)
        finally:
            # No Python function is called here: on entering one, the thread could be killed.
            claim.by["whom"] = "nobody"
            claim.ended.release()

    def close(self) -> None:
        """Wait until no helper writes or holds an array, and make sure that none will."""
        try:
            self._pending.clear()
            for claim in self._claims:
                claim.wait()
            _running.discard(self)
        except BaseException:  # an interrupt; another may follow
            self.close()
            raise

    def lose_helpers(self) -> None:
        """In a forked child, fail if a helper was at work, and wait for none."""
        for claim in self._claims:
            if claim.lose():
                self.errors.append(RuntimeError("the process was forked in the middle of a call"))


class _Claim:
    """Decides once whether a helper works on a call or nobody does: the first to claim it wins.

    An interrupt can come between any two steps of `wait`, even between acquiring a lock and the
    body of its ``with`` (from Python 3.14 on). So `wait` can start again: its steps are idempotent.
    """

    __slots__ = ("by", "ended")

    def __init__(self) -> None:
        self.by = {"": ""}  # leaves room for a second key, which then allocates nothing
        self.ended = allocate_lock()
        self.ended.acquire()

    def wait(self) -> None:
        """Wait until the helper has ended. If it has not begun, it will not."""
        while self.by.setdefault("whom", "nobody") == "helper":
            self.ended.acquire()

    def lose(self) -> bool:
        """In a forked child, let `wait` go on. Return whether the helper was at work."""
        lost = self.by.get("whom") == "helper"
        if lost:
            self.by["whom"] = "nobody"
        if self.ended.locked():
            self.ended.release()
        return lost


class _Pool:
    """Threads that wait for calls to help. The first large call starts them."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[_Call, _Claim] | None] = SimpleQueue()
        self._threads: list[int] = []

    def help(self, call: _Call, helpers: int) -> None:
        # Without a lock, which an interrupt could leave locked. Calls that start threads at the
        # same time may start a few too many, which stay idle.
        try:
            while len(self._threads) < helpers:
                self._threads.append(start_new_thread(_serve, (self._jobs,)))
        except RuntimeError:
            pass  # the system cannot start a thread, or the interpreter is shutting down
        try:
            for _ in range(min(helpers, len(self._threads))):
                self._jobs.put((call, call.claim()))
        except RuntimeError:
            pass  # no memory for a lock: fewer helpers

    def dismiss(self) -> None:
        """Let the threads end after the calls that they have been asked to help."""
        self._jobs.put(None)


def _serve(jobs: SimpleQueue[tuple[_Call, _Claim] | None]) -> None:
    while job := jobs.get():
        call, claim = job
        call.help(claim)
        del job, call, claim
    jobs.put(None)  # for the next thread


def _forget_pool() -> None:
    """Use a new pool, for another number of threads, or in a forked child."""
    global _pool
    old, _pool = _pool, _Pool()
    old.dismiss()


def _forget_threads() -> None:
    """Continue in a forked child, whose only thread is the one that forked."""
    for call in list(_running):
        call.lose_helpers()
    _forget_pool()


# Neither __del__ nor a weak reference's callback is used here: Python discards what a signal
# handler raises in them, and with it the user's Ctrl-C.
_pool = _Pool()
_running: set[_Call] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
