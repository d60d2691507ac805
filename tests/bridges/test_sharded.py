"""Rows whose classes are split over shards give what whole rows give, up to rounding."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from batches import confident, far_apart, on_grid
from bounds import assert_within, tolerances, ulps, working
from cases import DISTILLATION, DTYPES, SOFTMAX_CASES
from layouts import LAYOUTS
from sharding import evaluate, merged_in_every_order, splits, summaries

import fastce
from fastce import reference, sharded

SHARDABLE = [
    c for c in SOFTMAX_CASES if c.loss == DISTILLATION or np.ndim(c.batch().target) < len(c.shape)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", SHARDABLE, ids=str)
def test_equals_the_reference(c, dtype):
    batch = c.batch(dtype)
    truth, bound = c.truth(batch), tolerances(c, batch)
    for name, split in splits(batch.logits.shape[c.axis]).items():
        value, grad = evaluate(c.build(), batch.logits, batch.target, split, **batch.call)
        assert grad.dtype == batch.logits.dtype, name
        assert_within(value, truth[0], bound[0], working(batch.logits.dtype))
        bound_of_grad = bound[1]
        if c.loss == DISTILLATION:  # merging log-ratios rounds once more
            bound_of_grad = bound[1] + np.finfo(working(batch.logits.dtype)).eps * np.abs(truth[1])
        assert_within(grad, truth[1], bound_of_grad, batch.logits.dtype)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mask_whose_axes_join_in_memory_where_those_of_the_logits_do_not(axis, rng):
    """The two were once described as separate matrices, one with an axis more than the other."""
    z = on_grid(rng, (4, 5, 6)).astype(np.float32)
    y = rng.integers(z.shape[axis], size=np.delete(z.shape, axis))
    mask = rng.random(z.shape) < 0.7
    loss = fastce.SoftmaxCrossEntropy(reduction="none", axis=axis)
    expected = loss.value_and_grad(z, y, where=mask)
    for steps in itertools.product([1, -1], repeat=3):
        box = tuple(slice(None, None, step) for step in steps)
        backwards = np.ascontiguousarray(z[box])[box]
        value, grad = evaluate(loss, backwards, y, [0, 2, z.shape[axis]], where=mask)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 4), ("float64", 8)])
@pytest.mark.parametrize("logits", [on_grid, confident, far_apart])
@pytest.mark.parametrize("classes", [2, 3, 10, 33, 257, 4097])
def test_few_ulp_in_every_split(classes, logits, dtype, limit, isa, rng):
    """4 ULP, as unsplit; each merge rounds twice more in float64, which float64 results show."""
    z = logits(rng, (19, classes)).astype(dtype)
    y = np.where(rng.random(19) < 0.5, np.argmax(z, axis=1), rng.integers(classes, size=19))
    wide = z.astype(np.float64 if dtype == "float32" else np.longdouble)
    truth = reference.softmax_cross_entropy(wide, y, reduction="none")
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    for split in splits(classes).values():
        value, grad = evaluate(loss, z, y, split)
        assert ulps(value.astype(dtype), truth[0], np.dtype(dtype)) <= limit
        assert ulps(grad, truth[1], np.dtype(dtype)) <= limit


# Merging ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3, "weight": np.arange(12) % 4}])
def test_every_order_of_merging_gives_the_same(options, rng):
    loss = fastce.SoftmaxCrossEntropy(**options)
    z, y = far_apart(rng, (50, 12)), rng.integers(12, size=50)
    z[:10] = confident(rng, (10, 12))
    z[5] = -np.inf
    z[6, :9] = -np.inf
    (whole,) = summaries(loss, z, y, [0, 12])
    for merged in merged_in_every_order(summaries(loss, z, y, [0, 2, 3, 7, 7, 12])):
        np.testing.assert_array_equal(merged.maximum, whole.maximum)
        np.testing.assert_array_equal(merged.target_logit, whole.target_logit)
        for a, b in zip(merged[1:], whole[1:], strict=True):
            if b is not None:
                np.testing.assert_allclose(a, b, rtol=1e-14)


LOSSES = {  # each with the count of numbers per row that are sent
    "plain": (fastce.SoftmaxCrossEntropy(), 3),
    "smoothing": (fastce.SoftmaxCrossEntropy(label_smoothing=0.1), 5),
    "focal": (fastce.SoftmaxFocalLoss(), 3),
    "divergence": (fastce.SoftmaxKLDivergence(), 7),
}


def target_for(loss, logits, rng):
    if loss.takes_logits:
        return on_grid(rng, logits.shape).astype(logits.dtype)
    return rng.integers(logits.shape[-1], size=len(logits))


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_neutral(name, rng):
    """Merging with a shard of no classes changes no bit."""
    loss, _ = LOSSES[name]
    z = on_grid(rng, (20, 5))
    y = target_for(loss, z, rng)
    z[3] = -np.inf
    if loss.takes_logits:
        y[4] = -np.inf
    nothing, part = summaries(loss, z, y, [0, 0, 5])
    if loss.takes_logits:
        assert np.all(nothing.teacher_maximum == -np.inf)
    else:
        assert np.all(nothing.maximum == -np.inf)
        assert np.all(nothing.others == -1)
    for merged in (sharded.merge(nothing, part), sharded.merge(part, nothing)):
        for field, a, b in zip(part._fields, merged, part, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=field)


@pytest.mark.parametrize("name", LOSSES)
def test_few_numbers_a_row_move(name, rng):
    loss, count = LOSSES[name]
    z = on_grid(rng, (20, 6))
    part, _ = summaries(loss, z, target_for(loss, z, rng), [0, 3, 6])
    packed = part.packed()
    assert packed.dtype == np.float64
    assert packed.shape == (count, 20)
    for a, b in zip(type(part)(*packed), part, strict=True):
        np.testing.assert_array_equal(a, b)


# Rows over processes, too -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "rtol"),
    [
        (fastce.SoftmaxCrossEntropy(), 1e-13),
        (fastce.SoftmaxCrossEntropy(weight=np.arange(1, 11) / 4, label_smoothing=0.1), 1e-13),
        (fastce.SoftmaxKLDivergence(temperature=2.0), 1e-12),
    ],
    ids=str,
)
def test_total_weight_normalises_rows_that_are_spread(loss, rtol, rng):
    z = on_grid(rng, (40, 10))
    y = target_for(loss, z, rng)
    if not loss.takes_logits:
        y[rng.random(40) < 0.3] = -100
    weight = rng.integers(3, size=40).astype(np.float32)
    expected, expected_grad = loss.value_and_grad(z, y, sample_weight=weight)
    groups = np.array_split(np.arange(40), 3)
    normalizer = sum(
        sharded.total_weight(y[g], loss, classes=10, sample_weight=weight[g]) for g in groups
    )
    results = [
        evaluate(loss, z[g], y[g], [0, 4, 10], sample_weight=weight[g], normalizer=normalizer)
        for g in groups
    ]
    assert sum(value for value, _ in results) == pytest.approx(expected, rel=rtol / 10)
    grad = np.concatenate([grad for _, grad in results])
    np.testing.assert_allclose(grad, expected_grad, rtol=rtol, atol=1e-17)


def test_negative_weights(rng):
    z, y = on_grid(rng, (40, 10)), rng.integers(10, size=40)
    weight = rng.normal(0.3, 1, size=40)
    assert weight.sum() > 0
    for loss in (fastce.SoftmaxCrossEntropy(label_smoothing=0.1), fastce.SoftmaxFocalLoss()):
        expected, expected_grad = loss.value_and_grad(z, y, sample_weight=weight)
        value, grad = evaluate(loss, z, y, [0, 4, 10], sample_weight=weight)
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-16)
        for factor, total in ((-weight, -weight.sum()), (np.tile([1.0, -1.0], 20), 0.0)):
            with pytest.raises(ValueError, match=rf"sum of the weights.*{str(total)[:8]}"):
                evaluate(loss, z, y, [0, 4, 10], sample_weight=factor)
            part = sharded.total_weight(y, loss, classes=10, sample_weight=factor)
            assert part == pytest.approx(total)  # of a part of the rows, it may be negative
            call = {"sample_weight": factor, "normalizer": 3.0}
            value, grad = evaluate(loss, z, y, [0, 4, 10], **call)
            expected, expected_grad = loss.value_and_grad(z, y, **call)
            assert value == pytest.approx(expected, rel=1e-12)
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-16)


def test_a_sum_of_weights_that_overflows(rng):
    loss, z, y = fastce.SoftmaxCrossEntropy(), on_grid(rng, (4, 6)), np.array([0, 1, 2, -100])
    value, grad = evaluate(loss, z, y, [0, 2, 6], sample_weight=[1e308] * 4)
    assert np.isnan(value)
    assert np.isnan(grad[:3]).all()
    assert not grad[3].any()  # ignored


def test_four_million_weights_are_summed_to_the_last_digits(rng):
    z, y = rng.normal(size=(4_000_000, 2)), np.zeros(4_000_000, np.int8)
    plain, weighted = fastce.SoftmaxCrossEntropy(), fastce.SoftmaxCrossEntropy(weight=[0.1, 0.1])
    total = sharded.total_weight(y, weighted, classes=2)
    assert total == pytest.approx(math.fsum([0.1] * 4_000_000), rel=3e-16, abs=0)
    summary = sharded.summarise(z, y, 0, plain, classes=2)
    values = [sharded.finish(summary, y, loss, classes=2) for loss in (plain, weighted)]
    # NumPy adds blocks of 128 losses, 16 after another, and then the sums of 2^15 blocks in pairs.
    bound = (16 + 3 + 15) * 2.0**-53
    assert values[1] == pytest.approx(values[0], rel=bound, abs=0)
    assert values[1] == pytest.approx(plain(z, y), rel=bound, abs=0)


# Edge cases: the rules of the unsplit loss --------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_class", "options"),
    [
        (fastce.SoftmaxCrossEntropy, {}),
        (fastce.SoftmaxCrossEntropy, {"label_smoothing": 0.2}),
        (fastce.SoftmaxCrossEntropy, {"softcap": 5.0}),
        (fastce.SoftmaxFocalLoss, {}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("axis", "level"), [(0, 0), (1, 0), (0, -300), (1, -710)])
def test_infinite_and_missing_logits(axis, level, dtype, loss_class, options, isa, rng):
    loss = loss_class(reduction="none", axis=axis, **options)
    z, y = (on_grid(rng, (12, 6)) + level).astype(dtype), np.arange(12) % 6
    z[0, 3:] = -np.inf  # a whole shard of the row: once NaN if the others were far below 0
    z[1, y[1]] = -np.inf  # the target
    z[2, 0] = np.inf
    z[3, 5] = np.nan
    z[4] = -np.inf
    z[5, :] = np.nan
    y[5] = -100  # the logits of an ignored row are not used
    z[6, :3] = -np.inf
    z[7, 4] = z[7, 1] = np.inf
    z[8, 3:] = -np.inf
    y[8] = 4  # the target is in a shard of -inf alone
    z[9, 3:] = np.nan  # a shard of NaN alone was once taken for one of -inf in float32
    z[10, 3:] = np.nan, -np.inf, np.nan
    if axis == 0:
        z = np.ascontiguousarray(z.T)
    expected, expected_grad = loss.value_and_grad(z, y)
    rtol = 32 * np.finfo(dtype).eps
    for split in ([0, 3, 6], [0, 1, 2, 3, 4, 5, 6], [0, 5, 6]):
        value, grad = evaluate(loss, z, y, split)
        np.testing.assert_allclose(value, expected, rtol=rtol)
        np.testing.assert_allclose(grad, expected_grad, rtol=rtol, atol=rtol / 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [0, 1, 2, 3, 9, 40])
def test_a_shard_of_missing_logits_is_no_empty_shard(width, dtype, isa):
    """All its logits are NaN, so the row's loss and gradient are. Both memory orders."""
    z = np.zeros((50, width + 5)).astype(DTYPES[dtype])
    z[:, 3 : 3 + width] = np.nan
    y, bounds = np.full(50, 1), [0, 3, 3 + width, width + 5]
    for logits in (z, np.asfortranarray(z)):
        value, grad = evaluate(fastce.SoftmaxCrossEntropy(), logits, y, bounds)
        assert np.isnan(value) == (width > 0)
        assert (np.isnan(grad.astype(float)) == (width > 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"softcap": 5.0}])
def test_masked_targets_and_rows(options, dtype, rng):
    """A row without a class left is NaN, and leaves its neighbours alone."""
    loss = fastce.SoftmaxCrossEntropy(reduction="none", **options)
    z, y = on_grid(rng, (12, 6)).astype(dtype), np.arange(12) % 6
    where = rng.random(z.shape) < 0.7
    where[1], where[2, y[2]], where[3, :3], where[4] = False, False, False, True
    z[4, 2] = np.inf
    expected, expected_grad = loss.value_and_grad(z, y, where=where)
    for split in ([0, 3, 6], [0, 1, 2, 3, 4, 5, 6]):
        value, grad = evaluate(loss, z, y, split, where=where)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(value, expected, rtol=8 * eps)
        np.testing.assert_allclose(grad, expected_grad, rtol=16 * eps, atol=2 * eps)


def test_weights_of_0_leave_z_loss_in_a_sum(rng):
    """They remove the labels' part, but a sum is not divided by them."""
    options = {"weight": [0.0, 0.0, 1.0], "z_loss": 0.1}
    loss = fastce.SoftmaxCrossEntropy(reduction="sum", **options)
    z, y = on_grid(rng, (4, 3)), np.array([0, 1, 0, 1])
    expected, expected_grad = loss.value_and_grad(z, y)
    value, grad = evaluate(loss, z, y, [0, 1, 3])
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-13)


@pytest.mark.parametrize("dtype", [*DTYPES, ">f4"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 8.0}])
def test_classes_of_planes(options, dtype, isa, rng):
    """Shards whose classes are far apart are written many rows at a time, in either order."""
    loss = fastce.SoftmaxCrossEntropy(axis=1, reduction="sum", **options)
    z, y = on_grid(rng, (2, 300, 3, 47)).astype(dtype), rng.integers(300, size=(2, 3, 47))
    part = sharded.summarise(z, y, 0, loss, classes=300)
    expected = loss.value_and_grad(z, y)[1].astype(np.float64)
    rtol = 8 * np.finfo(working(z.dtype)).eps + (z.dtype.itemsize == 2) * 2.0**-7
    for order in "CF":
        out = np.empty(z.shape, z.dtype.newbyteorder("="), order)
        grad = sharded.gradient(z, y, 0, part, part, loss, classes=300, out=out)
        np.testing.assert_allclose(grad.astype(np.float64), expected, rtol=rtol, atol=1e-7)


def test_no_rows_and_no_weight():
    loss = fastce.SoftmaxCrossEntropy()
    value, grad = evaluate(loss, np.zeros((0, 4)), np.zeros(0, int), [0, 2, 4])
    assert np.isnan(value)
    assert grad.shape == (0, 4)
    value, grad = evaluate(loss, np.ones((3, 4)), np.full(3, -100), [0, 2, 4])
    assert np.isnan(value)
    np.testing.assert_array_equal(grad, np.zeros((3, 4)))
    value, grad = evaluate(loss, np.array([1.0, 2.0, 3.0]), 1, [0, 1, 3])  # one row, no batch axis
    expected, expected_grad = loss.value_and_grad(np.array([1.0, 2.0, 3.0]), 1)
    assert value == pytest.approx(expected, rel=1e-15)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-14)


@pytest.mark.parametrize("scale", [1 / 0.7, -1 / 0.7, 1e20])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 20.0}])
def test_scaled_logits_beyond_float32(scale, options):
    """They are computed in float64, as in the unsplit loss."""
    loss = fastce.SoftmaxCrossEntropy(logit_scale=scale, reduction="none", **options)
    z = np.array([[2.5e38, 1, 2, 3, 2.49e38], [2.5e38, -2.5e38, 0, 0, 0], [1e-5, 2, 3, 4, 5]])
    z, y = z.astype(np.float32), np.array([0, 1, 3])
    expected, expected_grad = loss.value_and_grad(z.astype(np.float64), y)
    assert np.isfinite(expected).all()
    for split in ([0, 2, 5], [0, 1, 2, 3, 4, 5]):
        value, grad = evaluate(loss, z, y, split)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("factor", [1e-300, 1e-42, 1e42, 1e300])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}])
def test_factors_beyond_float32(factor, options):
    """As in the unsplit loss: what is in range is right, and what has probability 0 is 0."""
    loss = fastce.SoftmaxCrossEntropy(reduction="sum", **options)
    z = np.array([[200, 0, -200, -300], [1, 2, 3, 4]], dtype=np.float32)
    y, weight = np.array([0, 3]), np.array([factor, factor])
    expected, expected_grad = loss.value_and_grad(z, y, sample_weight=weight)
    value, grad = evaluate(loss, z, y, [0, 2, 4], sample_weight=weight)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_layouts_give_the_same(layout, smoothing, rng):
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=smoothing)
    z, y = on_grid(rng, (37, 24)), rng.integers(24, size=37)
    args = (y, 0, loss)
    part = sharded.summarise(z, *args, classes=30)
    other = sharded.summarise(on_grid(rng, (37, 6)), y, 24, loss, classes=30)
    merged = sharded.merge(part, other)
    again = sharded.summarise(LAYOUTS[layout](z), *args, classes=30)
    np.testing.assert_allclose(again.packed(), part.packed(), rtol=1e-15)
    grad = sharded.gradient(z, y, 0, part, merged, loss, classes=30)
    grad_again = sharded.gradient(LAYOUTS[layout](z), y, 0, part, merged, loss, classes=30)
    np.testing.assert_allclose(grad_again, grad, rtol=1e-14)


@pytest.mark.parametrize(
    "loss",
    [
        *[fastce.SoftmaxCrossEntropy(label_smoothing=x, softcap=8.0) for x in (0.0, 0.1)],
        fastce.SoftmaxKLDivergence(temperature=3.0),
    ],
    ids=str,
)
def test_gradient_in_place(loss, rng):
    z = on_grid(rng, (40, 300)).astype(np.float32)
    y = target_for(loss, z, rng)
    part = sharded.summarise(z, y, 0, loss, classes=300)
    grad = sharded.gradient(z, y, 0, part, part, loss, classes=300)
    assert sharded.gradient(z, y, 0, part, part, loss, classes=300, out=z) is z
    np.testing.assert_array_equal(z, grad)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_number_of_threads_gives_the_same_bits(smoothing, threads, rng):
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=smoothing)
    z, y = on_grid(rng, (64, 9_000)).astype(np.float32), rng.integers(9_000, size=64)
    results = []
    for count in (1, 2, 5):
        threads(count)
        part = sharded.summarise(z, y, 0, loss, classes=9_000)
        results.append((part.packed(), sharded.gradient(z, y, 0, part, part, loss, classes=9_000)))
    for packed, grad in results[1:]:
        np.testing.assert_array_equal(packed, results[0][0])
        np.testing.assert_array_equal(grad, results[0][1])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_float32_gradient_of_16_bit_logits(dtype, rng):
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    z, y = on_grid(rng, (20, 30)).astype(dtype), rng.integers(30, size=20)
    wide = z.astype(np.float32)
    part = sharded.summarise(z, y, 0, loss, classes=30)
    out = np.empty((20, 30), np.float32)
    grad = sharded.gradient(z, y, 0, part, part, loss, classes=30, out=out)
    np.testing.assert_array_equal(grad, sharded.gradient(wide, y, 0, part, part, loss, classes=30))


# Errors -------------------------------------------------------------------------------------------


def test_errors():
    loss, z, y = fastce.SoftmaxCrossEntropy(), np.zeros((2, 3)), np.array([0, 5])
    with pytest.raises(ValueError, match="first_class=4 exceeds classes=6"):
        sharded.summarise(z, y, 4, loss, classes=6)
    with pytest.raises(ValueError, match="first_class=-1"):
        sharded.summarise(z, y, -1, loss, classes=6)
    with pytest.raises(IndexError, match=r"label 5 at position 1.* 0 to 4"):
        sharded.summarise(z, y, 0, loss, classes=5)
    with pytest.raises(TypeError, match="integer class labels"):
        sharded.summarise(z, y.astype(float), 0, loss, classes=6)
    for wrong in (fastce.BCEWithLogits(), fastce.SoftmaxCrossEntropy):  # the class itself
        with pytest.raises(TypeError, match="loss must be one of SoftmaxCrossEntropy, Soft"):
            sharded.summarise(z, y, 0, wrong, classes=6)
        with pytest.raises(TypeError, match="loss must be one of SoftmaxCrossEntropy, Soft"):
            sharded.total_weight(y, wrong, classes=6)
    with pytest.raises(ValueError, match="2 weights"):
        sharded.summarise(z, y, 0, fastce.SoftmaxCrossEntropy(weight=[1, 2]), classes=6)
    with pytest.raises(TypeError, match="classes must be an integer"):
        sharded.summarise(z, y, 0, loss, classes=6.5)

    part = sharded.summarise(z, y, 0, loss, classes=6)
    soft_loss = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    soft = sharded.summarise(z, y, 3, soft_loss, classes=6)
    short = sharded.summarise(z[:1], y[:1], 3, loss, classes=6)
    for other in (soft, short):
        with pytest.raises(ValueError, match="cannot be merged"):
            sharded.merge(part, other)
    with pytest.raises(ValueError, match="made without label smoothing, which the loss uses"):
        sharded.finish(part, y, soft_loss, classes=6)
    with pytest.raises(ValueError, match=r"\(1,\) does not fit a target of shape \(2,\)"):
        sharded.finish(short, y, loss, classes=6)
    with pytest.raises(ValueError, match=r"\(1,\) does not fit a target of shape \(2,\)"):
        sharded.gradient(z, y, 0, short, part, loss, classes=6)
    masked = sharded.summarise(z, y, 3, soft_loss, classes=6, where=np.ones((2, 3), bool))
    for own, mask, made in ((soft, True, "None: part .*out a"), (masked, None, "that .* with a")):
        with pytest.raises(ValueError, match=f"where must be {made} mask"):
            sharded.gradient(z, y, 3, own, own, soft_loss, classes=6, where=mask)
    for wrong in ({"sample_weight": [np.nan, 1]}, {"normalizer": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sharded.finish(part, y, loss, classes=6, **wrong)
    with pytest.raises(ValueError, match="where of shape"):
        sharded.summarise(z, y, 0, loss, classes=6, where=np.ones(6, bool))
    out = np.full((2, 3), 7.0, np.float32)
    with pytest.raises(ValueError, match="out must be float64"):
        sharded.gradient(z, y, 0, part, part, loss, classes=6, out=out)
    assert np.all(out == 7)


def test_arguments_that_are_no_summary_or_of_another_shape():
    loss, z, y = fastce.SoftmaxCrossEntropy(), np.zeros((2, 3)), np.array([0, 5])
    part = sharded.summarise(z, y, 0, loss, classes=6)
    uneven = sharded.Summary(part.maximum, part.others[:1], part.target_logit)
    for wrong, kind, text in (
        ([1, 2, 3], TypeError, "must be a Summary, got list"),
        (None, TypeError, "must be a Summary, got NoneType"),
        (uneven, ValueError, r"fields of one shape, got \(2,\), \(1,\), \(2,\)"),
        (sharded.Summary(*part[:3], part.others), ValueError, "3, 5(, 6 or 7| or 6) fields"),
        (sharded.Summary(*part[:2], "abc"), TypeError, "field must be real numbers"),
    ):
        with pytest.raises(kind, match=f"^summary.*{text}"):
            sharded.finish(wrong, y, loss, classes=6)
        with pytest.raises(kind, match=f"^part.*{text}"):
            sharded.gradient(z, y, 0, wrong, part, loss, classes=6)
        with pytest.raises(kind, match=f"^b.*{text}"):
            sharded.merge(part, wrong)
    with pytest.raises(ValueError, match="target cannot be converted to an array"):
        sharded.total_weight([[1], [1, 2]], loss, classes=6)
    with pytest.raises(TypeError, match="target is a masked array"):
        sharded.total_weight(np.ma.masked_array(y), loss, classes=6)
    with pytest.raises(ValueError, match=r"classes must be at least 0 and less than 2\*\*48"):
        sharded.summarise(z, y, 0, loss, classes=2**62)
    for shape in ((2, 1), (1, 2), (1,), ()):
        with pytest.raises(ValueError, match="target of shape"):
            sharded.summarise(z, np.zeros(shape, int), 0, loss, classes=6)
        with pytest.raises(ValueError, match="does not fit a target of shape"):
            sharded.finish(part, np.zeros(shape, int), loss, classes=6)
    one = sharded.summarise(z[:1], y[:1], 0, loss, classes=6)
    for wrong in ({"sample_weight": np.ones(3)}, {"grad_output": np.ones(2)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sharded.gradient(z[:1], y[:1], 0, one, one, loss, classes=6, **wrong)


@pytest.mark.parametrize("field", ["maximum", "others", "target_logit"])
def test_out_that_overlaps_a_summary(field):
    loss, z, y = fastce.SoftmaxCrossEntropy(), np.zeros((2, 1)), np.array([0, 0])
    part = sharded.summarise(z, y, 0, loss, classes=1)
    before = part.packed()
    out = getattr(part, field)[:, None]
    with pytest.raises(ValueError, match="out overlaps"):
        sharded.gradient(z, y, 0, part, part, loss, classes=1, out=out)
    np.testing.assert_array_equal(part.packed(), before)
