"""How many elements make a second thread pay: THREADED_ELEMENTS of fastce/_call/threads.py.

Run: python -m bench.threshold, on an idle machine of at least two CPUs. It calls each loss on one
thread and on two, whatever the size, in turns, and prints the medians in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np

import fastce
from bench.timing import Budget, interleave
from fastce._call import threads

ROUNDS = 50
SIZES = [1 << 18, 5 << 16, 3 << 17, 1 << 19, 1 << 20, 1 << 21]  # smaller calls are one task


def calls(elements: int) -> dict[str, Callable[[], object]]:
    """Return calls of the losses that are cheapest and most expensive per element."""
    rng = np.random.default_rng(0)
    classes = 1000
    logits = rng.normal(size=(elements // classes, classes)).astype(np.float32)
    labels = rng.integers(classes, size=len(logits))
    flat = rng.normal(size=elements).astype(np.float32)
    binary = rng.integers(2, size=elements).astype(np.float32)
    cross_entropy, focal = fastce.SoftmaxCrossEntropy(), fastce.SigmoidFocalLoss(gamma=0.5)
    grad, flat_grad = np.empty_like(logits), np.empty_like(flat)
    return {
        "softmax CE": lambda: cross_entropy.value_and_grad(logits, labels, out=grad),
        "sigmoid focal": lambda: focal.value_and_grad(flat, binary, out=flat_grad),
    }


def microseconds(call: Callable[[], object], counts: tuple[int, ...]) -> list[float]:
    """Return the median time of a call on each number of threads, taken in turns."""
    runs = dict.fromkeys(counts, call)
    times = interleave(runs, Budget(0, ROUNDS), before_turn=fastce.set_num_threads)
    return [median(times[count]) * 1e6 for count in counts]


def main() -> None:
    threads.THREADED_ELEMENTS = 0
    for elements in SIZES:
        for name, call in calls(elements).items():
            one, two = microseconds(call, (1, 2))
            print(f"{elements:8d} elements, {name:13s}  one thread {one:7.1f}  two {two:7.1f}")


if __name__ == "__main__":
    main()
