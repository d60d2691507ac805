"""Train a softmax classifier with its rows or its classes distributed over MPI processes.

In a checkout: pip install . mpi4py mpich;
mpiexec -n 4 python examples/mpi_trainer.py [rows | classes]

rows:    each process has all weights and some rows; the gradient with respect to the weights is
         added up over the processes (data-parallel training).
classes: each process has all rows and the weights of some classes; it sends three numbers per row
         instead of logits (vocabulary-parallel training).

At the end, each process evaluates some rows, and the evaluations are added up.
"""

import functools
import sys

import numpy as np
from mpi4py import MPI

import fastce
from fastce import sharded
from fastce.evaluation import evaluate

ROWS, FEATURES, CLASSES, STEPS, LEARNING_RATE = 256, 16, 1000, 20, 20.0
BYTES = np.dtype(np.float64).itemsize


def data(rows):
    """Return rows of noisy class features, and their classes: the same on every process."""
    rng = np.random.default_rng(7)
    y = rng.integers(CLASSES, size=rows)
    return rng.normal(size=(CLASSES, FEATURES))[y] + 0.1 * rng.normal(size=(rows, FEATURES)), y


def share(count, comm):
    """Return the slice of `count` items that this process has."""
    return slice(count * comm.rank // comm.size, count * (comm.rank + 1) // comm.size)


def train_on_rows(comm, loss, x, y):
    mine = share(len(y), comm)
    x, y = x[mine], y[mine]
    weights = np.zeros((FEATURES, CLASSES))
    normalizer = comm.allreduce(sharded.total_weight(y, loss, classes=CLASSES))
    for _ in range(STEPS):
        value, grad = loss.value_and_grad(x @ weights, y, normalizer=normalizer)
        step = x.T @ grad
        comm.Allreduce(MPI.IN_PLACE, step)
        weights -= LEARNING_RATE * step
        yield comm.allreduce(value), step.nbytes
    yield weights


def train_on_classes(comm, loss, x, y):
    mine = share(CLASSES, comm)
    weights = np.zeros((FEATURES, mine.stop - mine.start))
    for _ in range(STEPS):
        logits = x @ weights
        part = sharded.summarise(logits, y, mine.start, loss, classes=CLASSES)
        sent = part.packed()
        received = np.empty((comm.size, *sent.shape))
        comm.Allgather(sent, received)
        summary = functools.reduce(sharded.merge, (sharded.Summary(*fields) for fields in received))
        value = sharded.finish(summary, y, loss, classes=CLASSES)
        grad = sharded.gradient(
            logits, y, mine.start, part, summary, loss, classes=CLASSES, out=logits
        )
        weights -= LEARNING_RATE * (x.T @ grad)
        yield value, sent.nbytes
    yield np.concatenate(comm.allgather(weights), axis=1)


def main(split="classes", path=None):
    comm = MPI.COMM_WORLD
    loss = fastce.SoftmaxCrossEntropy(z_loss=1e-4)
    train = {"rows": train_on_rows, "classes": train_on_classes}[split]
    x, y = data(ROWS)
    *steps, weights = train(comm, loss, x, y)
    mine = share(ROWS, comm)
    evaluation = comm.allreduce(evaluate(x[mine] @ weights, y[mine]))
    if comm.rank == 0:
        sent = steps[0][1]
        print(f"{comm.size} processes, {ROWS} rows, {CLASSES} classes, split over {split}")
        print(f"loss {steps[0][0]:.12f} at first, {steps[-1][0]:.12f} after {len(steps)} steps")
        print(f"a process sends {sent} bytes per step, {sent / ROWS / BYTES:g} numbers per row")
        print(evaluation)
        if path:
            losses = [value for value, _ in steps]
            said = evaluation.to_json()
            np.savez(path, losses=losses, weights=weights, sent=sent, evaluation=said)


if __name__ == "__main__":
    main(*sys.argv[1:])
