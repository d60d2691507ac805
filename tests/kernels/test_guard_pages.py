"""Nothing is read or written past either end of any array: the page behind it allows neither."""

from __future__ import annotations

import mmap
import sys
from functools import partial

import numpy as np
import pytest
from batches import on_grid
from cases import DTYPES
from guarded import AVAILABLE, Arena
from processes import run
from sizes import CHUNK, LONG_PLANES, SIZES, class_counts, long_planes, rows_of_run

import fastce
from fastce.evaluation import evaluate

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="mprotect is called through Linux's libc")

# Every remainder of every vector width.
CLASSES = [*range(1, 41), 64, 100, 200]
ELEMENTS = sorted(
    {*range(36), 255, 1000, *(n * CHUNK // 2 + d for n in (1, 2, 4) for d in (-1, 0, 1, 16))}
)
MOST_ELEMENTS = 1 << 15  # of an array on both sides of a threshold
ROWS = (1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 33)
LAYOUTS = ("rows", "rows with gaps", "gathered", "planes")


def shapes(layout, dtype):
    """Few rows of each number of classes; then a run and a row more, around each threshold."""
    found = [(0, 3), *((ROWS[turn % len(ROWS)], classes) for turn, classes in enumerate(CLASSES))]
    kind = layout if layout == "planes" else "rows"
    for classes in class_counts(kind, dtype):
        rows, _ = rows_of_run(classes, kind, dtype)
        found.append((min(rows, MOST_ELEMENTS // classes) + 1, classes))
    if layout == "gathered":  # two blocks
        found.append((SIZES["gathered elements"] // 33 + 2, 33))
    return found


def placed(arena, array, layout, at_end):
    """A copy of an array in the arena, next to one of its pages without access."""
    if array.ndim != 2 or layout == "rows":
        return arena.copy(array, at_end=at_end)
    if layout == "planes":
        return arena.copy(np.ascontiguousarray(array.T), at_end=at_end).T
    if layout == "rows with gaps":
        return arena.copy(array, at_end=at_end, row_gap=3)
    records = arena.empty(array.shape, [("pad", np.int8), ("x", array.dtype)], at_end=at_end)
    records["x"] = array
    return records["x"]


def class_numbers(classes):
    return 0.25 + np.arange(classes) % 4


SOFTMAX = {
    "cross-entropy": lambda k: fastce.SoftmaxCrossEntropy(),
    "cross-entropy, all options": lambda k: fastce.SoftmaxCrossEntropy(
        weight=class_numbers(k), label_smoothing=0.1, z_loss=0.01, softcap=9.0, logit_scale=0.5
    ),
    "probabilities": lambda k: fastce.SoftmaxCrossEntropy(),
    "probabilities, all options": lambda k: fastce.SoftmaxCrossEntropy(
        weight=class_numbers(k), label_smoothing=0.1, reduction="none"
    ),
    "focal": lambda k: fastce.SoftmaxFocalLoss(alpha=class_numbers(k), reduction="none"),
    "divergence, all": lambda k: fastce.SoftmaxKLDivergence(temperature=2.0, reduction="none"),
}
SIGMOID = {
    "bce": lambda n: fastce.BCEWithLogits(),
    "bce, all options": lambda n: fastce.BCEWithLogits(
        pos_weight=class_numbers(n), label_smoothing=0.1, reduction="none"
    ),
    "focal": lambda n: fastce.SigmoidFocalLoss(gamma=1.5),
}


@pytest.fixture(scope="module")
def arena():
    return Arena(slots=10, pages=80)


def all_methods(loss, logits, target, call, outs):
    forward = {key: x for key, x in call.items() if key != "grad_output"}
    loss(logits, target, **forward)
    loss.value_and_grad(logits, target, out=outs[0], **call)
    loss.value_grad_hess(logits, target, out=tuple(outs), **call)
    loss.value_and_grad(logits, target, out=logits, **call)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_losses(name, layout, dtype, isa, arena, rng):
    for turn, shape in enumerate(shapes(layout, dtype)):
        rows, classes = shape
        loss = SOFTMAX[name](classes)
        z = on_grid(rng, shape).astype(DTYPES[dtype])
        label_types = ("i1", "u1", "i2", "i4", "i8") if classes <= 128 else ("i2", "u8")
        y = rng.integers(classes, size=rows).astype(label_types[turn % len(label_types)])
        if name.startswith("probabilities"):
            y = rng.dirichlet(np.ones(classes), rows).astype(np.float32 if turn % 2 else np.float64)
        if name.startswith("divergence"):
            y = on_grid(rng, shape).astype(DTYPES[dtype])
        call = {}
        if "all" in name or name == "focal":
            call = {
                "sample_weight": rng.integers(3, size=rows).astype(np.float32),
                "where": rng.random(shape) < 0.9,
            }
            if loss.reduction == "none":
                call["grad_output"] = rng.normal(size=rows)
        for at_end in (True, False):
            arena.restart()
            place = partial(placed, arena, layout=layout, at_end=at_end)
            guarded = {key: place(x) for key, x in call.items()}
            outs = [place(np.zeros_like(z)) for _ in range(2)]
            all_methods(loss, place(z), place(y), guarded, outs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIGMOID)
def test_sigmoid_losses(name, dtype, isa, arena, rng):
    for turn, count in enumerate(ELEMENTS):
        loss = SIGMOID[name](count)
        z = on_grid(rng, count).astype(DTYPES[dtype])
        y = rng.integers(2, size=count).astype(("?", "u1", "f4", "f8", dtype)[turn % 5])
        call = {}
        if "all" in name:
            call = {
                "sample_weight": rng.integers(3, size=count).astype(
                    (np.float32, np.float64)[turn % 2]
                ),
                "where": rng.random(count) < 0.9,
                "grad_output": rng.normal(size=count).astype(np.float32),
            }
        for at_end in (True, False):
            arena.restart()
            guarded = {key: arena.copy(x, at_end=at_end) for key, x in call.items()}
            outs = [arena.empty(z.shape, z.dtype, at_end=at_end) for _ in range(2)]
            logits, target = arena.copy(z, at_end=at_end), arena.copy(y, at_end=at_end)
            all_methods(loss, logits, target, guarded, outs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_functions(layout, dtype, isa, arena, rng):
    for rows, classes in shapes(layout, dtype):
        z = on_grid(rng, (rows, classes)).astype(DTYPES[dtype])
        y = rng.integers(classes, size=rows)
        for at_end in (True, False):
            arena.restart()
            place = partial(placed, arena, layout=layout, at_end=at_end)
            logits, target, out = place(z), place(y), place(np.zeros_like(z))
            fastce.softmax(logits, out=out)
            fastce.log_softmax(logits, out=out)
            working = np.float64 if dtype == "float64" else np.float32
            fastce.logsumexp(logits, out=arena.empty((rows,), working, at_end=at_end))
            fastce.token_log_probs(logits, target)
            evaluate(logits, target)


@pytest.mark.parametrize("dtype", [*DTYPES, ">f4", ">f8"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name in SOFTMAX if name[0] in "pd"])
def test_no_classes(name, layout, dtype, isa, arena):
    """Labels would be wrong, but probabilities and a teacher's logits fit."""
    loss = SOFTMAX[name](0)
    for rows in (0, 1, 33, 129, 1000):
        z = np.zeros((rows, 0), DTYPES.get(dtype, dtype))
        for at_end in (True, False):
            arena.restart()
            place = partial(placed, arena, layout=layout, at_end=at_end)
            logits, *outs = (place(z) for _ in range(3))
            for target in (z, z.astype(bool) if name[0] == "p" else z):
                all_methods(loss, logits, place(target), {}, outs)
            losses = np.zeros(rows, np.float64 if z.itemsize == 8 else np.float32)
            if loss.reduction == "none":
                loss(logits, place(z), loss_out=place(losses))
            fastce.softmax(logits, out=outs[0])
            assert (fastce.logsumexp(logits, out=place(losses)) == -np.inf).all()


@pytest.mark.parametrize(("scratch", "most", "least"), LONG_PLANES)
def test_long_planes(scratch, most, least, isa, rng):
    """A full run and a row more, around each threshold: more memory than the tests above have."""
    for rows, classes in long_planes(scratch, most, least):
        arena = Arena(slots=4, pages=rows * classes * 4 // mmap.PAGESIZE + 1)
        z = rng.normal(size=(rows, classes)).astype(np.float32)
        y = rng.integers(classes, size=rows)
        loss = fastce.SoftmaxCrossEntropy(logit_scale=0.5 if scratch else 1.0)
        for at_end in (True, False):
            arena.restart()
            logits, grad, hess = (placed(arena, x, "planes", at_end) for x in (z, z, z))
            loss.value_and_grad(logits, y, out=grad)
            loss.value_grad_hess(logits, y, out=(grad, hess))


@pytest.mark.parametrize("place", ["array[array.size]", "array[-1]"])
@pytest.mark.parametrize("at_end", [True, False])
def test_one_element_too_far_is_a_fault(place, at_end):
    """Unless the guard works, the tests above prove nothing."""
    code = f"""
import ctypes, sys
sys.path[:0] = {sys.path!r}
import numpy as np
from guarded import Arena
arena = Arena(2, 1)
array = arena.empty((5,), np.float32, at_end={at_end})
index = 5 if "size" in {place!r} else -1
ctypes.c_float.from_address(array.ctypes.data + 4 * index).value
print("alive")
"""
    done = run("-c", code)
    if at_end == (place == "array[array.size]"):
        assert done.returncode < 0, done.stderr
    else:
        assert done.stdout.strip() == "alive", done.stderr
