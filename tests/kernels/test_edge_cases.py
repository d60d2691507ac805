"""Every rule for edge cases, for each loss that it concerns."""

from __future__ import annotations

import numpy as np
import pytest
from batches import on_grid
from cases import DTYPES, FUNCTIONS, LOSSES, REDUCTIONS, SIGMOID, SOFTMAX, small_batch
from sizes import SIZES, rows_of_run

import fastce
from fastce import reference

INF, NAN = np.inf, np.nan
SOFTMAX_OPTIONS = [
    ("SoftmaxCrossEntropy", {}),
    ("SoftmaxCrossEntropy", {"z_loss": 0.01, "weight": [1.0, 2.0, 0.5]}),
    ("SoftmaxCrossEntropy", {"softcap": 10.0, "logit_scale": 0.5}),
    ("SoftmaxFocalLoss", {"gamma": 0}),
    ("SoftmaxFocalLoss", {"gamma": 0.5}),
    ("SoftmaxFocalLoss", {"gamma": 2.0, "alpha": [0.25, 1.0, 0.5]}),
]
SIGMOID_OPTIONS = [
    ("BCEWithLogits", {}),
    ("BCEWithLogits", {"pos_weight": 2.0, "label_smoothing": 0.1}),
    *[("SigmoidFocalLoss", {"gamma": gamma}) for gamma in (0, 0.5, 1, 2, 3.7)],
    ("SigmoidFocalLoss", {"gamma": 1.5, "label_smoothing": 0.1, "alpha": None}),
]


# Infinite and NaN logits -------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_minus_infinity_beside_the_target(loss, options, evaluate):
    z = np.array([[1, -INF, 0.5], [-INF, -INF, 2]], np.float32)
    y = np.array([0, 2])
    finite = np.array([[1, -1e30, 0.5], [-1e30, -1e30, 2]], np.float32)
    options = {**options, "reduction": "none"}
    value, grad, hess = evaluate(loss, z, y, options)
    assert np.isfinite(value).all()
    for x in (grad, hess):
        assert np.isfinite(x).all()
        assert not x[~np.isfinite(z)].any()
    if "softcap" not in options:
        # A finite row is out of exp's range here, and computed relative to its maximum.
        for a, b in zip((value, grad, hess), evaluate(loss, finite, y, options), strict=True):
            np.testing.assert_allclose(a, b, rtol=8 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_minus_infinity_at_the_target(loss, options, evaluate):
    z = np.array([[1, -INF, 0.5], [0, 1, 2]], np.float32)
    value, grad, hess = evaluate(loss, z, [1, 1], {**options, "reduction": "none"})
    assert value[0] == INF
    assert np.isfinite(value[1])
    assert np.isfinite(grad).all()
    assert np.isfinite(hess).all()
    for reduction in ("mean", "sum"):
        value, grad, _ = evaluate(loss, z, [1, 1], {**options, "reduction": reduction})
        assert value == INF
        assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    "row",
    [
        *([INF, 0, 0], [0, 1, INF], [INF, INF, 0], [INF, -INF, 0], [-INF, -INF, -INF]),
        *([NAN, 1, -1], [0.5, NAN, -1], [0.5, 1, NAN]),
    ],
)
@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_a_row_without_a_softmax_is_nan(loss, options, row, evaluate):
    """No other row is."""
    z = np.array([[0, 1, 2], row, [2, 1, 0]], np.float32)
    value, grad, hess = evaluate(loss, z, [0, 2, 1], {**options, "reduction": "none"})
    for x in (value, grad, hess):
        assert np.isnan(x[1]).all()
        assert np.isfinite(x[[0, 2]]).all()
    for reduction in ("mean", "sum"):
        value, grad, _ = evaluate(loss, z, [0, 2, 1], {**options, "reduction": reduction})
        assert np.isnan(value)
        assert np.isnan(grad[1]).all()
        assert np.isfinite(grad[[0, 2]]).all()


@pytest.mark.parametrize(("loss", "options"), SIGMOID_OPTIONS)
def test_nan_stays_in_its_element(loss, options, evaluate):
    z = np.array([0.5, NAN, -2, NAN, 3], np.float32)
    y = np.array([1.0, 0.0, 1.0, 1.0, 0.3])
    value, grad, hess = evaluate(loss, z, y, {**options, "reduction": "none"})
    for x in (value, grad, hess):
        np.testing.assert_array_equal(np.isnan(x), np.isnan(z))
    value, grad, _ = evaluate(loss, z, y, {**options, "reduction": "sum"})
    assert np.isnan(value)
    np.testing.assert_array_equal(np.isnan(grad), np.isnan(z))


@pytest.mark.parametrize("x", [INF, 1e4])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("BCEWithLogits", {}),
        *[("SigmoidFocalLoss", {"gamma": x, "alpha": None}) for x in (0, 0.5, 1, 2, 3.7)],
    ],
)
def test_a_sigmoid_loss_at_infinity_is_the_limit(loss, options, x, evaluate):
    z = np.array([x, x, -x, -x], np.float32)
    value, grad, hess = evaluate(loss, z, [1, 0, 1, 0], {"reduction": "none", **options})
    np.testing.assert_array_equal(value, [0, x, x, 0])
    np.testing.assert_array_equal(grad, [0, 1, -1, 0])
    np.testing.assert_array_equal(hess, [0, 0, 0, 0])


def test_soft_bce_at_infinity_is_the_limit(evaluate):
    z = np.array([INF, -INF], np.float32)
    value, grad, _ = evaluate("BCEWithLogits", z, [0.25, 0.25], {"reduction": "none"})
    np.testing.assert_array_equal(value, [INF, INF])
    np.testing.assert_allclose(grad, [0.75, -0.25], rtol=1e-7)


# Options that give the target (label 0, or an element of 1) a weight of 0.
WEIGHT_0 = {
    "SoftmaxCrossEntropy": {"weight": [0.0, 1.0, 1.0]},
    "SoftmaxFocalLoss": {"alpha": [0.0, 1.0, 1.0]},
    "BCEWithLogits": {"pos_weight": 0.0},
    "SigmoidFocalLoss": {"alpha": 0.0},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_zero_times_infinity(loss, evaluate):
    """A weight of 0 silences an infinite loss, and pos_weight 0 an infinite positive."""
    z, y = ([[-INF, 0, 1]], [0]) if loss in SOFTMAX else ([-INF], [1])
    options = {**WEIGHT_0[loss], "reduction": "none"}
    value, grad, hess = evaluate(loss, np.array(z, np.float32), y, options)
    assert value[0] == 0
    assert not grad.any()
    assert not hess.any()


def test_no_zero_times_infinity_of_probabilities(evaluate):
    z, q = np.array([[0, -INF], [0, 0]], np.float32), [[1.0, 0.0], [0.5, 0.5]]
    value, _, _ = evaluate("SoftmaxCrossEntropy", z, q, {"reduction": "none"})
    np.testing.assert_allclose(value, [0, np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_weight_of_zero_does_not_hide_nan(loss, evaluate):
    """Only ignored samples, masked elements and sample_weight 0 make NaN harmless."""
    z, y = ([[0, NAN, 1]], [0]) if loss in SOFTMAX else ([NAN], [1])
    options = {**WEIGHT_0[loss], "reduction": "none"}
    for x in evaluate(loss, np.array(z, np.float32), y, options):
        assert np.isnan(x).all()


def test_a_denominator_of_zero(evaluate):
    """If only class weights of 0 are left, nothing counts: NaN, and no gradient."""
    z, y = small_batch("SoftmaxCrossEntropy")
    value, grad, hess = evaluate("SoftmaxCrossEntropy", z, y, {"weight": [0.0, 0.0, 0.0]})
    assert np.isnan(value)
    assert not grad.any()
    assert not hess.any()


def test_smoothing_puts_mass_on_minus_infinity(evaluate):
    """Hence +inf, unless the class is masked."""
    z = np.array([[1, -INF, 0.5]], np.float32)
    options = {"label_smoothing": 0.1, "reduction": "none"}
    value, grad, _ = evaluate("SoftmaxCrossEntropy", z, [0], options)
    assert value[0] == INF
    assert np.isfinite(grad).all()
    masked = evaluate("SoftmaxCrossEntropy", z, [0], options, where=[True, False, True])
    fewer = evaluate("SoftmaxCrossEntropy", z[:, [0, 2]], [0], options)
    np.testing.assert_allclose(masked[0], fewer[0], rtol=1e-6)
    np.testing.assert_allclose(masked[1][:, [0, 2]], fewer[1], rtol=1e-6)
    assert masked[1][0, 1] == 0


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_masked_target_is_impossible_and_a_masked_row_is_nan(loss, evaluate):
    z = np.zeros((3, 3), np.float32)
    where = np.array([[True, False, True], [False] * 3, [True] * 3])
    value, grad, hess = evaluate(loss, z, [1, 1, 1], {"reduction": "none"}, where=where)
    assert value[0] == INF
    assert np.isnan(value[1])
    assert np.isfinite(value[2])
    assert np.isfinite(grad[[0, 2]]).all()
    assert np.isfinite(hess[[0, 2]]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("classes", "axis"), [(3, 1), (3, 0), (40, 1), (200, 1), (200, 0), (300, 1), (300, 0)]
)
@pytest.mark.parametrize(
    ("loss", "options", "target"),
    [
        (loss, options, target)
        for loss, options in SOFTMAX_OPTIONS
        for target in ("labels", "masked labels", "probabilities")
        if target != "probabilities" or loss == "SoftmaxCrossEntropy"
    ],
)
def test_a_masked_class_has_no_gradient_in_any_row(
    loss, options, classes, axis, target, dtype, evaluate, rng
):
    """Not even in one without a softmax: no loss depends on a masked logit."""
    z = on_grid(rng, (37, classes)).astype(dtype)
    where = rng.random(z.shape) < 0.7
    where[:, :2] = True
    bad = np.arange(37) % 4 == 0
    z[bad, 0] = rng.choice([NAN, INF, -INF], size=bad.sum())
    where[z[:, 0] == -INF] = [True, *[False] * (classes - 1)]  # nothing but -inf is left
    z[~where] = NAN
    y = np.where(where[:, 1], 1, 0)
    if target == "masked labels":
        y[:] = 2
        where[:, 2] = False
    if target == "probabilities":
        y = np.eye(classes, dtype=np.float32)[y]
    if axis == 0:
        z, where, y = np.asfortranarray(z).T, where.T, y.T
    options = {**options, "axis": axis, "reduction": "none"}
    for name in ("weight", "alpha"):
        if name in options:
            options[name] = np.resize(options[name], classes)
    for x in evaluate(loss, z, y, options, where=where)[1:]:
        by_row, kept = (x.T, where.T) if axis == 0 else (x, where)
        np.testing.assert_array_equal(np.isnan(by_row), kept & bad[:, None])
        assert not by_row[~kept].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 40, 100, 130, 200, 300])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_each_row_looks_at_its_own_mask(loss, classes, dtype, evaluate, rng):
    """Kernels read some rows before they write one: a row's place in the block is not its index."""
    z = on_grid(rng, (38, classes)).astype(dtype)
    where, y = rng.random(z.shape) < 0.7, np.arange(38) % classes
    where[:, 0] = True
    rows = np.arange(38)
    is_masked = ~where[rows, y]
    value, grad, _ = evaluate(loss, z, y, {"reduction": "none"}, where=where)
    np.testing.assert_array_equal(np.isinf(value), is_masked)
    alone = where.sum(axis=1) == 1
    np.testing.assert_array_equal(grad[rows, y] == 0, is_masked | alone)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_huge_finite_logits(loss, evaluate):
    z = np.array([[3e38, -3e38, 0], [3e38, 3e38, -3e38], [-3e38, 0, 3e38]], np.float32)
    value, grad, hess = evaluate(loss, z, [0, 1, 2], {"reduction": "none"})
    (of_two_equal,), *_ = evaluate(loss, np.zeros((1, 2)), [0], {"reduction": "none"})
    assert of_two_equal > 0.1
    np.testing.assert_allclose(value, [0, of_two_equal, 0], rtol=1e-6)
    for x in (grad, hess):
        assert np.isfinite(x).all()


# Ignored, empty, one class -----------------------------------------------------------------------


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("loss", "how"),
    [*[(loss, "weight 0") for loss in LOSSES], *[(loss, "ignored") for loss in SOFTMAX]],
)
def test_poison_that_does_not_count_is_harmless(loss, how, reduction, poison, evaluate):
    z, y = small_batch(loss)
    call = {}
    if how == "ignored":
        y[[1, 3]] = -100
    else:
        weight = np.array([1, 0, 2, 0, 1, 1.0])
        call["sample_weight"] = weight[:, None] if loss in SIGMOID else weight
    poisoned = z.copy()
    poisoned[[1, 3]] = poison
    clean = evaluate(loss, z, y, {"reduction": reduction}, **call)
    result = evaluate(loss, poisoned, y, {"reduction": reduction}, **call)
    for a, b in zip(clean, result, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not result[1][[1, 3]].any()
    if reduction == "none":
        assert not result[0][[1, 3]].any()


@pytest.mark.parametrize("classes", [3, 300])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_the_gradient_of_an_ignored_row_has_no_sign(loss, classes, isa, rng):
    z = on_grid(rng, (37, classes)).astype(np.float32)
    y = np.where(rng.random(37) < 0.5, -100, 0)
    made = getattr(fastce, loss)()
    for x in made.value_grad_hess(z, y, grad_output=-1.0)[1:]:
        assert not np.signbit(x[y == -100]).any()


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_an_ignored_row_forgets_the_rows_before_it(loss, classes, poison, evaluate, rng):
    """Kernels take rows block by block; what one block held must not affect the next."""
    block = max(rows_of_run(classes, "rows", "float32")[0], SIZES["block rows"])
    z = on_grid(rng, (block + 37, classes)).astype(np.float32)
    y = rng.integers(classes, size=len(z))
    z[:block] = poison
    y[block::2] = -100
    value, grad, hess = evaluate(loss, z, y, {"reduction": "none"})
    for x in (value, grad, hess):
        assert np.isnan(x[:block]).all()
        assert not x[block::2].any()
        assert np.isfinite(x[block + 1 :: 2]).all()


@pytest.mark.parametrize(
    ("loss", "how"),
    [
        *[(loss, how) for loss in LOSSES for how in ("empty", "weights")],
        *[(loss, "ignored") for loss in SOFTMAX],
        *[(loss, "where") for loss in SIGMOID],
    ],
)
def test_nothing_counts(loss, how, evaluate):
    z, y = small_batch(loss)
    call = {}
    if how == "empty":
        z, y = z[:0], y[:0]
    elif how == "weights":
        call["sample_weight"] = 0.0
    elif how == "where":
        call["where"] = False
    else:
        y = np.full_like(y, -100)
    value, grad, _ = evaluate(loss, z, y, **call)
    assert np.isnan(value)
    assert grad.shape == z.shape
    assert not grad.any()
    value, grad, _ = evaluate(loss, z, y, {"reduction": "sum"}, **call)
    assert value == 0.0
    assert not grad.any()
    value, grad, _ = evaluate(loss, z, y, {"reduction": "none"}, **call)
    assert value.shape == y.shape
    assert not value.any()
    assert not grad.any()
    value, _, _ = evaluate(loss, z, y, normalizer=3.0, **call)
    assert value == 0.0


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("x", [0.0, 1e30, -50.0])
def test_one_class(loss, x, evaluate):
    z = np.full((3, 1), x, np.float32)
    value, grad, hess = evaluate(loss, z, [0, 0, 0])
    assert value == 0
    assert not grad.any()
    assert not hess.any()


def test_ignore_index_that_is_a_class(evaluate):
    z, _ = small_batch("SoftmaxCrossEntropy")
    y = np.array([0, 1, 2, 1, 0, 2])
    options = {"ignore_index": 1, "reduction": "none"}
    value, grad, _ = evaluate("SoftmaxCrossEntropy", z, y, options)
    np.testing.assert_array_equal(value == 0, y == 1)
    np.testing.assert_array_equal(~grad.any(axis=1), y == 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_short_block_of_rows_leaves_no_trace(isa, loss, classes, masked, rng):
    """Rows whose outer axis runs backwards come in whole blocks with a short one at each end."""
    shape = 5, rows_of_run(classes, "rows", "float32")[0] + 1
    z = on_grid(rng, (*shape, classes)).astype(np.float32)
    y = np.where(rng.random(shape) < 0.05, -100, rng.integers(classes, size=shape))
    call = {}
    if masked:
        call["where"] = (np.arange(classes) == y[..., None]) | (rng.random(z.shape) < 0.8)
    made = getattr(fastce, loss)(reduction="none")
    value, grad, hess = made.value_grad_hess(z, y, **call)
    backwards = tuple(np.empty_like(z)[::-1] for _ in range(2))
    other = made.value_grad_hess(z, y, out=backwards, **call)
    for x, same in zip((value, grad, hess), other, strict=True):
        np.testing.assert_array_equal(x, same)


# All of it, in every type, reduction and method ---------------------------------------------------

DIGITS = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}
EDGE_ROWS = {
    "-inf beside the target": [1, -INF, 0.5],
    "-inf at the target": [-INF, 1, 0.5],
    "+inf at the target": [INF, 0, 1],
    "+inf beside the target": [0, INF, 1],
    "nothing but -inf": [-INF, -INF, -INF],
    "NaN": [0, NAN, 1],
    "right for sure": [500, -500, 0],
    "wrong for sure": [-500, 500, 0],
}


def assert_as_the_reference(loss, dtype, z, y, options, **call):
    """Each method and each reduction: infinite and NaN where the reference is, else near it."""
    rtol = DIGITS[dtype]
    for reduction in REDUCTIONS:
        options = {**options, "reduction": reduction}
        truth = getattr(reference, FUNCTIONS[loss])(z.astype(np.float64), y, **options, **call)
        made = getattr(fastce, loss)(**options)
        results = [
            (made(z, y, **call),),
            made.value_and_grad(z, y, **call),
            made.value_grad_hess(z, y, **call),
        ]
        for result in results:
            for actual, exact in zip(result, truth, strict=False):
                actual = np.asarray(actual).astype(np.float64)
                np.testing.assert_allclose(actual, exact, rtol=rtol, atol=rtol * 1e-3)


@pytest.mark.parametrize("row", EDGE_ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "options"), SOFTMAX_OPTIONS)
def test_rows_at_the_edge(loss, options, dtype, row, isa, rng):
    """Also in rows that are ignored or have weight 0, which change nothing."""
    for classes in (3, 300):
        z = on_grid(rng, (6, classes))
        z[[1, 3, 5]] = np.resize(EDGE_ROWS[row], classes)
        z = z.astype(DTYPES[dtype])
        y = np.array([0, 0, 1, -100, 2, 0])
        weight = np.array([1, 1, 2, 1, 1, 0])
        some = dict(options)
        for name in ("weight", "alpha"):
            if name in some:
                some[name] = np.resize(some[name], classes)
        assert_as_the_reference(loss, dtype, z, y, some, sample_weight=weight)
        keep = [0, 2, 3, 4, 5]  # nothing at the edge counts
        assert_as_the_reference(loss, dtype, z[keep], y[keep], some, sample_weight=weight[keep])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "options"), SIGMOID_OPTIONS)
def test_elements_at_the_edge(loss, options, dtype, isa):
    edges = np.repeat([INF, -INF, 500, -500, 0.5, NAN], 3).astype(DTYPES[dtype])
    targets = np.tile([0, 1, 0.25], 6)
    for i in range(edges.size):
        z, y = edges[[12, i, 13]], targets[[12, i, 13]]
        assert_as_the_reference(loss, dtype, z, y, options)
    assert_as_the_reference(loss, dtype, edges, targets, options, where=edges == 0.5)
    weight = np.where(edges == 0.5, 2.0, 0.0)
    assert_as_the_reference(loss, dtype, edges, targets, options, sample_weight=weight)
