"""The functions of the C interface give what the reference gives, or say what is wrong."""

import ctypes
import threading

import numpy as np
import pytest
from batches import labels, on_grid
from c_functions import (
    BAD_ARGUMENT,
    BAD_LABEL,
    BAD_TARGET,
    NO_MEMORY,
    OK,
    at,
    call_sigmoid,
    call_softmax,
    contiguous,
    evaluate,
    function,
    parts,
    weight_sum,
)
from cases import CASES, FUNCTIONS, LOSSES, case
from guarded import AVAILABLE, Arena

import fastce

DTYPES = ("float32", "float64")

# Values -------------------------------------------------------------------------------------------


def expressible(c):
    """Whether the C interface has all that the case needs."""
    softmax_options = {"reduction", "axis", "weight", "alpha", "ignore_index", "label_smoothing"}
    batch = c.batch()
    return (
        c.options.keys() <= softmax_options | {"z_loss", "gamma", "pos_weight"}
        and c.call.keys() <= {"sample_weight", "grad_output"}
        and np.ndim(batch.call.get("grad_output", 0.0)) == 0
        and not (c.is_softmax and batch.target.shape == batch.logits.shape)
        and (c.is_softmax or np.ndim(c.options.get("alpha", 0.0)) == 0)
    )


C_CASES = [c for c in CASES if expressible(c)]


def test_the_cases_reach_all_functions_and_options():
    assert {c.loss for c in C_CASES} == set(LOSSES)  # and test_c_divergence.py for the other one
    reached = {(FUNCTIONS[c.loss], name) for c in C_CASES for name in (*c.options, *c.call)}
    softmax = {"axis", "ignore_index", "reduction", "sample_weight"}
    sigmoid = {"label_smoothing", "reduction", "sample_weight"}
    own = {
        "softmax_cross_entropy": softmax | {"grad_output", "label_smoothing", "weight", "z_loss"},
        "softmax_focal_loss": softmax | {"alpha", "gamma"},
        "bce_with_logits": sigmoid | {"grad_output", "pos_weight"},
        "sigmoid_focal_loss": sigmoid | {"alpha", "gamma"},
    }
    assert reached == {(name, option) for name, options in own.items() for option in options}
    assert len(C_CASES) > 70


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", C_CASES, ids=str)
def test_has_the_bits_of_the_python_interface(isa, c, dtype):
    batch = c.batch(dtype)
    wants_loss = c.reduction == "none"
    value, grad = evaluate(c, batch, wants_loss=wants_loss)
    expected = c.build().value_and_grad(batch.logits, batch.target, **batch.call)
    if wants_loss or not c.is_softmax or len(parts(c.shape, c.axis)) == 1:
        np.testing.assert_array_equal(value, expected[0])
    else:  # sums of several calls
        assert value == pytest.approx(expected[0], rel=1e-14)
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(isa, dtype, rng):
    """Padded rows, rows from the last to the first, class-major, and one row of any stride."""
    z, y = on_grid(rng, (37, 70)).astype(dtype), rng.integers(70, size=37)
    expected = np.empty_like(z)
    _, total = call_softmax("softmax_cross_entropy", z, y, {}, grad=expected)

    def same(logits, target, grad, wanted):
        status, value = call_softmax("softmax_cross_entropy", logits, target, {}, grad=grad)
        assert status == OK
        np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=1e-7)
        return value

    padded = np.zeros((37, 80), dtype)
    padded[:, :70] = z
    assert same(padded[:, :70], y, np.empty((37, 99), dtype)[:, 9:79], expected) == total
    class_major = np.asfortranarray(z)
    assert same(class_major, y, np.empty_like(class_major), expected) == pytest.approx(total)
    assert same(class_major, y, np.empty_like(z), expected) == pytest.approx(total)
    reverse = np.empty_like(z)
    assert same(z[::-1], y[::-1].copy(), reverse[::-1], expected[::-1]) == pytest.approx(total)
    assert same(class_major[:1], y[:1], np.empty((1, 140), dtype)[:, ::2], expected[:1]) > 0


BY_FUNCTION = [
    case("SoftmaxCrossEntropy", "weight, smoothing, ignored"),
    case("SoftmaxFocalLoss", "ignored, alpha"),
    case("BCEWithLogits", "soft, smoothing, pos_weight"),
    case("SigmoidFocalLoss", "smoothing"),
]


def arguments_of(c, dtype="float32"):
    """A case as (function that calls it, name, logits, target, options)."""
    batch = c.batch(dtype)
    z = batch.logits
    y = contiguous(batch.target, np.int64 if c.is_softmax else z.dtype)
    return call_softmax if c.is_softmax else call_sigmoid, FUNCTIONS[c.loss], z, y, c.options


@pytest.mark.parametrize("c", BY_FUNCTION, ids=str)
def test_gradient_in_place_of_the_logits(isa, c):
    call, name, z, y, options = arguments_of(c)
    expected = np.empty_like(z)
    status, total = call(name, z, y, options, grad=expected)
    assert call(name, z, y, options, grad=z) == (status, total) == (OK, total)
    np.testing.assert_array_equal(z, expected)


@pytest.mark.parametrize("c", BY_FUNCTION, ids=str)
def test_every_output_may_be_left_out(isa, c):
    call, name, z, y, options = arguments_of(c)
    grad, other, loss = np.empty_like(z), np.empty_like(z), np.empty(y.shape, z.dtype)
    status, total = call(name, z, y, options)
    assert status == OK
    assert call(name, z, y, options, grad=grad) == (OK, pytest.approx(total, rel=1e-6))
    assert call(name, z, y, options, grad=other, loss=loss) == (OK, loss.sum(dtype=np.float64))
    assert loss.sum() == pytest.approx(total, rel=1e-6)
    np.testing.assert_array_equal(grad, other)


@pytest.mark.parametrize("c", BY_FUNCTION, ids=str)
def test_nothing_at_all(isa, c):
    call, name, z, y, options = arguments_of(c)
    options = {key: value for key, value in options.items() if key != "pos_weight"}
    assert call(name, z[:0], y[:0], options, grad=z[:0].copy(), loss=y[:0].copy()) == (OK, 0.0)
    total = ctypes.c_double(-1.0)
    if call is call_sigmoid:
        tail = (None, 2.0, 0.25) if "focal" in name else (None, None)
        null = (None, None, 0, *tail, 0.0, 1.0, None, None, ctypes.addressof(total))
        assert function(f"{name}_float32")(*null) == OK
        assert total.value == 0.0


# Statuses -----------------------------------------------------------------------------------------


def test_a_bad_label_is_reported_and_nothing_written(isa, rng):
    z, y = on_grid(rng, (40, 7)).astype(np.float32), labels(rng, np.empty((40, 7)), -1)
    cases = [(7, 0), (-1, 0), (-1, None), (-100, None), (-(2**63), 0), (2**63 - 1, 0)]
    for name in ("softmax_cross_entropy", "softmax_focal_loss"):
        for bad, index in cases:
            y_bad = y.copy()
            y_bad[39] = bad
            grad, loss = np.full_like(z, 5), np.full(40, 5, np.float32)
            options = {"ignore_index": index}
            assert call_softmax(name, z, y_bad, options, grad=grad, loss=loss) == (BAD_LABEL, -1.0)
            assert (grad == 5).all()
            assert (loss == 5).all()
            if index is not None:
                assert weight_sum(y_bad, 7, options) == (BAD_LABEL, -1.0)


def test_labels_equal_to_an_index_that_is_not_ignored_count(isa, rng):
    z, y = on_grid(rng, (40, 7)).astype(np.float32), labels(rng, np.empty((40, 7)), -1)
    y[::2] = 0
    expected = fastce.SoftmaxCrossEntropy(reduction="sum", ignore_index=-100)(z, y)
    assert call_softmax("softmax_cross_entropy", z, y, {"ignore_index": None}) == (OK, expected)


@pytest.mark.parametrize("name", ["bce_with_logits", "sigmoid_focal_loss"])
@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, np.inf])
def test_a_bad_target_is_reported_and_nothing_written(isa, name, bad, rng):
    z = on_grid(rng, 2100).astype(np.float32)
    y = rng.random(2100).astype(np.float32)
    y[2099] = bad
    grad, loss = np.full_like(z, 5), np.full_like(z, 5)
    assert call_sigmoid(name, z, y, {}, grad=grad, loss=loss) == (BAD_TARGET, -1.0)
    assert (grad == 5).all()
    assert (loss == 5).all()


def assert_bad(name, arguments, change, grad, total):
    """With the change, the status reports it and nothing is written; without it, the call works."""
    call = function(name)
    assert call(*(arguments | change).values()) == BAD_ARGUMENT
    assert total.value == -1.0
    assert (grad == 5).all()
    assert call(*arguments.values()) == OK
    assert total.value > 0


@pytest.mark.parametrize(
    "change",
    [
        {"logits": None},
        {"labels": None},
        {"total": None},
        {"rows": -1},
        {"classes": 0},
        {"classes": -1},
        {"label_smoothing": -0.1},
        {"label_smoothing": 1.1},
        {"label_smoothing": np.nan},
        {"z_loss": np.inf},
        {"grad_scale": np.nan},
        {"row_stride": 80, "class_stride": 8},
        {"grad_row_stride": 80, "grad_class_stride": 8},
        {"row_stride": 4, "class_stride": 26},
        {"grad_row_stride": 4, "grad_class_stride": 26},
    ],
    ids=str,
)
def test_bad_arguments_of_a_softmax_loss(change, rng):
    z, y = on_grid(rng, (6, 10)).astype(np.float32), np.zeros(6, np.int64)
    grad, total = np.full((6, 20), 5, np.float32), ctypes.c_double(-1.0)
    arguments = {
        "logits": at(z),
        "rows": 6,
        "classes": 10,
        "row_stride": 40,
        "class_stride": 4,
        "labels": at(y),
        "ignores": 0,
        "ignore_index": 0,
        "class_weight": None,
        "sample_weight": None,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "grad_scale": 1.0,
        "grad": at(grad),
        "grad_row_stride": 40,
        "grad_class_stride": 4,
        "loss": None,
        "total": ctypes.addressof(total),
    }
    assert_bad("softmax_cross_entropy_float32", arguments, change, grad, total)


@pytest.mark.parametrize(
    "change",
    [
        {"logits": None},
        {"target": None},
        {"total": None},
        {"count": -1},
        {"gamma": -1.0},
        {"gamma": np.inf},
        {"alpha": 1.1},
        {"alpha": np.nan},
        {"label_smoothing": 2.0},
        {"grad_scale": np.inf},
    ],
    ids=str,
)
def test_bad_arguments_of_a_sigmoid_loss(change, rng):
    z, y = on_grid(rng, 60).astype(np.float32), np.zeros(60, np.float32)
    grad, total = np.full(60, 5, np.float32), ctypes.c_double(-1.0)
    arguments = {
        "logits": at(z),
        "target": at(y),
        "count": 60,
        "sample_weight": None,
        "gamma": 2.0,
        "alpha": 0.25,
        "label_smoothing": 0.0,
        "grad_scale": 1.0,
        "grad": at(grad),
        "loss": None,
        "total": ctypes.addressof(total),
    }
    assert_bad("sigmoid_focal_loss_float32", arguments, change, grad, total)


def test_gamma_of_a_softmax_focal_loss_is_checked(rng):
    z, y = on_grid(rng, (6, 10)).astype(np.float32), np.zeros(6, np.int64)
    for gamma in (-0.5, np.nan, np.inf):
        result = call_softmax("softmax_focal_loss", z, y, {"gamma": gamma})
        assert result == (BAD_ARGUMENT, -1.0)


def test_no_memory_is_reported():
    z, y, total = np.zeros(1, np.float32), np.zeros(1, np.int64), ctypes.c_double(-1.0)
    head = (at(z), 1, 2**59, 4, 4, at(y), 0, 0, None, None, 0.1, 0.0)
    call = function("softmax_cross_entropy_float32")
    assert call(*head, 1.0, None, 0, 0, None, ctypes.addressof(total)) == NO_MEMORY
    assert total.value == -1.0


# Memory and threads -------------------------------------------------------------------------------


@pytest.mark.skipif(not AVAILABLE, reason="mprotect is Linux's")
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("c", BY_FUNCTION, ids=str)
def test_nothing_beyond_the_arrays_is_touched(isa, c, at_end):
    arena = Arena(slots=4, pages=2)
    call, name, z, y, options = arguments_of(c)
    for rows in (1, 3, 33):
        for gap in (0, 3) if c.is_softmax else (0,):
            arena.restart()
            part = {**options}
            if "pos_weight" in options:
                part["pos_weight"] = np.broadcast_to(options["pos_weight"], z[:rows].shape)
            status, total = call(
                name,
                arena.copy(z[:rows], at_end=at_end, row_gap=gap),
                arena.copy(y[:rows], at_end=at_end),
                part,
                grad=arena.empty(z[:rows].shape, z.dtype, at_end=at_end, row_gap=gap),
                loss=arena.empty(y[:rows].shape, z.dtype, at_end=at_end),
            )
            assert status == OK
            assert np.isfinite(total)


def test_threads_do_not_disturb_each_other(rng):
    logits = [on_grid(rng, (500, 50)).astype(np.float32) for _ in range(4)]
    y = rng.integers(50, size=500)
    expected = [call_softmax("softmax_cross_entropy", z, y, {}) for z in logits]
    found = [set() for _ in logits]

    def work(i):
        for _ in range(50):
            found[i].add(call_softmax("softmax_cross_entropy", logits[i], y, {}))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{result} for result in expected]
