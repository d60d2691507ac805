"""Python in another process, which imports the package under test; peak memory of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import fastce

ROOT = str(Path(fastce.__file__).parents[1])
SUPPORT = Path(__file__).parent  # programs that tests run are there


# What a process needs to make a call that is spread over threads, and its bits from one thread.
LARGE_CALL = """
    import sys
    import numpy
    import fastce
    z = numpy.random.default_rng(0).normal(size=(50_000, 10)).astype("f4")
    y = numpy.arange(50_000) % 10
    loss = fastce.SoftmaxCrossEntropy()

    def call():
        value, grad = loss.value_and_grad(z, y)
        return value, grad.tobytes()

    fastce.set_num_threads(1)
    expected = call()
    fastce.set_num_threads(3)
"""


def environment(**changes):
    """The environment of a process that imports this very package."""
    path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "MYPYPATH": ROOT, **changes}


def finish(*command, directory=None, timeout=300, **changes):
    """Run a command to its end and capture its output, in the environment of this very package."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def printed_by(*command, **options):
    """Return what a command prints; the command has to succeed."""
    finished = finish(*command, **options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def run(*arguments, **options):
    """Run Python with these arguments to its end; every warning is an error."""
    return finish(sys.executable, "-P", "-W", "error", *arguments, **options)


def script(code, **changes):
    """Start Python in a process of its own, which imports this very package."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(code, *, timeout=120, quiet=False, **changes):
    """Return the words that the code prints; `quiet`: it may print nothing on standard error."""
    with script(code, **changes) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, err
    assert not (quiet and err), err
    return out.split()


def peak(call):
    """The peak of the memory that NumPy and Python allocate during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
