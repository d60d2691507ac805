"""Arrays in every memory layout that NumPy allows give the same results."""

from __future__ import annotations

import numpy as np
import pytest
from batches import on_grid
from cases import THOROUGH, Batch
from layouts import LAYOUTS, zero_strides

import fastce


def assert_same(results, others):
    for a, b in zip(results, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=4e-6, atol=1e-7)


def relaid(batch, make):
    """The batch with every array of two or more dimensions laid out by `make`."""
    call = {key: make(x) if np.ndim(x) >= 2 else x for key, x in batch.call.items()}
    target = make(batch.target) if batch.target.ndim >= 2 else batch.target
    return Batch(make(batch.logits), target, call)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("c", THOROUGH, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_any_layout(c, layout, dtype, isa):
    batch = c.batch(dtype)
    loss = c.build()
    expected = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    other = relaid(batch, LAYOUTS[layout])
    np.testing.assert_array_equal(other.logits, batch.logits)
    before = other.logits.tobytes()
    result = loss.value_grad_hess(other.logits, other.target, **other.call)
    assert result[1].dtype.newbyteorder("=") == batch.logits.dtype
    if dtype == "float16":
        eps = float(np.finfo(np.float16).eps)
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=eps, atol=2.0**-24)
    else:
        assert_same(result, expected)
    assert other.logits.tobytes() == before


@pytest.mark.parametrize("orders", ["CCF", "CFC", "CFF", "FCC", "FCF", "FFC"])
@pytest.mark.parametrize("classes", [2, 5, 13, 70])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_each_array_in_an_order_of_its_own(dtype, classes, orders, isa, rng):
    """The rows of logits, target and outputs end within a vector."""
    z = on_grid(rng, (71, classes)).astype(dtype)
    q = rng.dirichlet(np.ones(classes), 71).astype(dtype)
    loss = fastce.SoftmaxCrossEntropy(reduction="none", label_smoothing=0.1)
    for target in (q, np.argmax(q, axis=1)):
        expected = loss.value_grad_hess(z, target)
        laid = np.array(target, order=orders[1])
        out = tuple(np.full_like(z, 12345, order=orders[2]) for _ in range(2))
        result = loss.value_grad_hess(np.array(z, order=orders[0]), laid, out=out)
        tolerance = 1e-3 if dtype == "float16" else 4e-6
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
@pytest.mark.parametrize("layout", ["C", "fortran", "every_third_element", "byte_swapped"])
@pytest.mark.parametrize("classes", [100, 40_000])
def test_probabilities_of_a_type_and_layout_of_their_own(classes, layout, dtype, isa, rng):
    """Those of a long row were once read as contiguous numbers of the logits' type."""
    z = on_grid(rng, (3, classes)).astype(np.float32)
    q = rng.integers(3, size=z.shape).astype(dtype)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    expected = loss.value_grad_hess(z, q.astype(np.float32))
    found = loss.value_grad_hess(z, {"C": np.copy, **LAYOUTS}[layout](q))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 40, 300])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_planes_of_packed_records(rows, classes, isa, rng):
    """Rows are contiguous, and the distance between classes is no multiple of a logit's size."""
    records = np.zeros(classes, [("pad", "i1"), ("z", "f4", (rows,))])
    records["z"] = on_grid(rng, (classes, rows))
    z, y = records["z"].T, rng.integers(classes, size=rows)
    loss = fastce.SoftmaxCrossEntropy()
    assert_same(loss.value_grad_hess(z, y), loss.value_grad_hess(z.copy(), y))
    np.testing.assert_array_equal(fastce.softmax(z), fastce.softmax(z.copy()))


@pytest.mark.parametrize("layout", [*sorted(LAYOUTS.keys() - {"read_only"}), "one block"])
def test_an_output_of_any_layout_changes_no_bit(layout, isa, rng):
    """Neither of what is written to it nor of the losses, whatever the layout of the logits."""
    for z in (on_grid(rng, (70, 9, 5)), np.moveaxis(on_grid(rng, (9, 5, 70)), 2, 0)):
        z = z.astype(np.float32)
        y = rng.integers(5, size=z.shape[:2])
        loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1, reduction="none")
        expected = loss.value_grad_hess(z, y)
        np.testing.assert_array_equal(loss(z, y), loss.value_and_grad(z, y)[0])
        out = tuple(np.asarray({"one block": np.copy, **LAYOUTS}[layout](z)) for _ in range(2))
        found = loss.value_grad_hess(z, y, out=out)
        assert found[1] is out[0]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_zero_strides(c, isa):
    batch = c.batch("float32")
    other = Batch(zero_strides(batch.logits), batch.target, batch.call)
    expected = c.build().value_grad_hess(other.logits.copy(), batch.target, **batch.call)
    assert_same(c.build().value_grad_hess(other.logits, batch.target, **batch.call), expected)


@pytest.mark.parametrize("layout", ["every_other_row", "byte_swapped", "unaligned", "read_only"])
def test_labels_of_any_layout(layout, isa, rng):
    z = on_grid(rng, (4, 9, 10)).astype(np.float32)
    y = rng.integers(10, size=(4, 9))
    loss = fastce.SoftmaxCrossEntropy()
    assert_same(loss.value_and_grad(z, LAYOUTS[layout](y)), loss.value_and_grad(z, y))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_alignment_does_not_change_a_bit(c, dtype, isa):
    batch = c.batch(dtype)
    loss = c.build()
    expected = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    other = LAYOUTS["misaligned_for_vectors"](batch.logits)
    result = loss.value_grad_hess(other, batch.target, **batch.call)
    for a, b in zip(result, expected, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_huge_dimensions_through_zero_strides():
    """2.8·10⁹ elements that occupy four bytes: an error costs no copy, and no time."""
    z = np.broadcast_to(np.float32(0.0), (20_000_000, 140))
    y = np.zeros(20_000_000, np.uint8)
    y[-1] = 140
    with pytest.raises(IndexError, match="19999999"):
        fastce.SoftmaxCrossEntropy()(z, y)


SIGMOID = ["BCEWithLogits", "SigmoidFocalLoss"]
REPEATS = {
    "elements": lambda a: a[:1, :1],
    "rows": lambda a: a[:1],
    "columns": lambda a: a[:, :1],
    "every other of a row": lambda a: np.repeat(a[:1], 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("layout", [*LAYOUTS, *REPEATS])
@pytest.mark.parametrize("argument", ["logits", "target", "both", "sample_weight", "where", "all"])
@pytest.mark.parametrize("loss", SIGMOID)
def test_layout_does_not_change_a_bit_of_an_element(loss, argument, layout, threads, rng):
    """A call mixes blocks that are read in place, gathered once, or gathered each time."""
    threads(2)
    shape = (7, 60_000)  # enough for threads
    arrays = {
        "logits": on_grid(rng, shape).astype(np.float32),
        "target": rng.random(shape).astype(np.float32),
        "sample_weight": rng.integers(3, size=shape).astype(np.float32),
        "where": rng.random(shape) < 0.9,
    }
    names = {"both": ["logits", "target"], "all": list(arrays)}.get(argument, [argument])
    other = dict(arrays)
    for name in names:
        if layout in REPEATS:
            other[name] = np.broadcast_to(REPEATS[layout](arrays[name]), shape)
            arrays[name] = np.array(other[name], order="C")
        else:
            other[name] = LAYOUTS[layout](arrays[name])
    out = fastce.BCEWithLogits().value_grad_hess(**arrays)[1:]
    made = getattr(fastce, loss)(reduction="none")
    for outputs in (None, tuple(np.asfortranarray(a) for a in out)):
        expected = made.value_grad_hess(**arrays)
        for a, b in zip(made.value_grad_hess(**other, out=outputs), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", [*LAYOUTS, *REPEATS])
@pytest.mark.parametrize("loss", SIGMOID)
def test_a_bad_target_is_named_in_any_layout(loss, layout, rng):
    y = np.zeros((6, 5, 7_000), np.float32)
    y[4, 2, 6_100] = 1.5
    make, at = LAYOUTS.get(layout), r"\(4, 2, 6100\)"
    if layout in REPEATS:
        make, at = zero_strides, r"\(0, 2, 6100\)"
        y = y[4:5].repeat(6, axis=0)
    z = on_grid(rng, y.shape).astype(np.float32)
    for logits in (z, z[::-1]):
        with pytest.raises(ValueError, match=rf"got 1\.5 at position {at}"):
            getattr(fastce, loss)()(logits, make(y))


def test_a_gradient_of_repeated_rows_lies_by_rows():
    z = np.broadcast_to(np.zeros(5, np.float32), (3, 5))
    assert fastce.softmax_cross_entropy(z, [0, 1, 2])[1].flags.c_contiguous
    for array in fastce.bce_with_logits(z, np.zeros((3, 5)), reduction="none"):
        assert array.flags.c_contiguous
