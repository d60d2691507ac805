"""Ranges of rows over threads.

A call is cut into tasks by its shape alone, never by the number of threads, and the results of the
tasks are added up exactly: so every number of threads gives the same bits. Between tasks, some
milliseconds of work at most, Python runs, and an interrupt is seen.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from fastce import _checks

# Elements of a task at least: 50 to 180 microseconds. What is no more is one task, on which the
# short way of the kernels counts. A thread is woken 30 to 100 microseconds late, and takes what is
# left then (softmax CE of 4096 x 100 on two threads: 0.62 ns an element, and 0.75 in tasks of half
# the size; 65536 x 10: 0.89, and 0.93). A large call has at least TASKS, of up to LARGEST_TASK:
# each costs some microseconds of Python and of cold starts.
TASK_ELEMENTS = 1 << 17
LARGEST_TASK = 1 << 20
TASKS = 32

# Below this many elements a call stays on its thread. Waking another one costs as much as it saves
# about here, for the loss that is cheapest (`python -m bench.threshold`).
THREADED_ELEMENTS = 3 << 17

Task = tuple[int, int]

_lock = threading.Lock()
_pool: Any = None  # a concurrent.futures.ThreadPoolExecutor, from the first large call on
_count: int | None = None


def get_num_threads() -> int:
    """Return the number of threads that a large call runs on.

    It is what `set_num_threads` has set, else the environment variable FASTCE_NUM_THREADS, else the
    number of processors that the process may use.

    Returns
    -------
    int

    Examples
    --------
    >>> import fastce
    >>> fastce.get_num_threads() >= 1
    True
    """
    global _count
    if _count is None:
        text = os.environ.get("FASTCE_NUM_THREADS")
        if text:
            _count = _checks.threads_of_environment(text)
        elif hasattr(os, "sched_getaffinity"):
            _count = len(os.sched_getaffinity(0))
        else:
            _count = os.cpu_count() or 1
    return _count


def set_num_threads(threads: int) -> None:
    """Set the number of threads that a large call runs on.

    The results do not depend on it, to the last bit. Small calls stay on the caller's thread.

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
    count = _checks.threads(threads)
    with _lock:
        _count = count
        _drop_pool()


def tasks_of(count: int, size: int, multiple: int) -> list[Task]:
    """Cut ``count`` rows of ``size`` elements into ranges of a multiple of ``multiple`` rows."""
    if count * size <= TASK_ELEMENTS:
        return [(0, count)] if count else []
    elements = min(max(count * size // TASKS, TASK_ELEMENTS), LARGEST_TASK)
    step = max(elements // max(size, 1) // multiple, 1) * multiple
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def run(work: Callable[[int, int], float], tasks: Sequence[Task], elements: int) -> list[float]:
    """Return ``[work(start, stop) for start, stop in tasks]``, on several threads if it is much."""
    threads = min(get_num_threads(), len(tasks))
    if threads <= 1 or elements < THREADED_ELEMENTS:
        return [work(start, stop) for start, stop in tasks]
    results = [0.0] * len(tasks)
    pending = deque(enumerate(tasks))

    def drain() -> None:
        while True:
            try:
                i, (start, stop) = pending.popleft()
            except IndexError:
                return
            results[i] = work(start, stop)

    helpers: list[Any] = []
    try:
        try:
            for _ in range(threads - 1):
                helpers.append(_submit(drain))
        except RuntimeError:
            pass  # the system has no thread left, or the interpreter is on its way out
        drain()
    finally:
        # After an error or an interrupt nothing new is begun, and nobody writes when this returns.
        # A helper that no thread has taken up yet is not waited for: nested calls cannot lock up.
        pending.clear()
        started = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in started]
    for error in errors:
        if error is not None:
            raise error
    return results


def _submit(function: Callable[[], None]) -> Any:
    global _pool
    with _lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor  # 10 ms: not before it is needed

            _pool = ThreadPoolExecutor(max(get_num_threads() - 1, 1), thread_name_prefix="fastce")
        return _pool.submit(function)


def _drop_pool() -> None:
    global _pool
    if _pool is not None:
        _pool.shutdown(wait=False)
        _pool = None


def _forget_pool() -> None:
    """Start afresh in a forked child, where no thread of the pool exists to release the lock."""
    global _pool, _lock
    _pool = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
