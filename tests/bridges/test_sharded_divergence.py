"""The divergence of rows whose classes, and their teacher's, are split over shards."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from distillation import assert_eight_ulp, both
from sharding import evaluate, shards_of, splits

import fastce
from fastce import reference, sharded

INF = np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_eight_ulp_where_both_are_nearly_equal(classes, noise, offset, dtype, isa, rng):
    """The bound is that of whole rows."""
    noise = max(noise, 1e-3) if offset else noise  # the student's logits have no more digits
    student, teacher = both(noise, (3, classes), dtype, rng, offset)
    for temperature in (1.0, 2.0):
        kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
        for split in splits(classes).values():
            found = evaluate(kl, student, teacher, split)
            assert_eight_ulp(kl, student, teacher, offset=offset, found=found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 1.0, 30.0])
def test_never_negative(noise, dtype, isa, rng):
    student, teacher = both(noise, (200, 24), dtype, rng)
    loss, grad = evaluate(
        fastce.SoftmaxKLDivergence(reduction="none"), student, teacher, [0, 5, 6, 24]
    )
    assert np.all(loss >= 0)
    if noise == 0:
        assert not loss.any()
        assert not grad.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [20.3, 27.7, 60.1])
def test_a_confident_pair_keeps_its_tail(margin, dtype, isa):
    """All but a tail lies in one class, whose gradient is what other shards leave."""
    student, teacher = np.array([[margin, 0, -1]], dtype), np.array([[margin + 1.3, 0, -1]], dtype)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    loss, grad = evaluate(kl, student, teacher, [0, 1, 2, 3])
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    truth = reference.softmax_kl_divergence(*wide, reduction="none")
    np.testing.assert_allclose(grad, truth[1].astype(float), rtol=16 * np.finfo(dtype).eps)
    np.testing.assert_allclose(loss, truth[0].astype(float), rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_are_those_of_whole_rows(dtype, isa, rng):
    student, teacher = 4 * rng.normal(size=(2, 16, 6)).astype(dtype)
    student[0, 3:] = teacher[0, 3:] = -INF  # a whole shard that both exclude
    student[1, 1] = -INF  # a class that the teacher allows
    teacher[2, 1] = -INF  # and the other way round
    teacher[3, :3] = -INF  # a shard without the teacher
    student[4, :3] = -INF  # a shard without the student: infinite
    teacher[5, :3] = student[5, 3:] = -INF  # neither is where the other one is
    student[6], teacher[7] = -INF, -INF  # no softmax
    student[8, 5], teacher[9, 0] = np.nan, np.nan
    student[10, 0], teacher[11, 5] = INF, INF
    student[12, 0], teacher[12, 5] = 1e15, 1e15
    student[13], teacher[13] = [2000, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2000]
    student[14], teacher[14] = [0, 0, 0, 0, 0, -900], [0, -800, 0, 0, 0, 0]
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    expected, expected_grad = kl.value_and_grad(student, teacher)
    for split in ([0, 3, 6], [0, 1, 2, 3, 4, 5, 6], [0, 5, 6], [0, 6]):
        loss, grad = evaluate(kl, student, teacher, split)
        np.testing.assert_allclose(loss.astype(dtype), expected, rtol=30 * np.finfo(dtype).eps)
        np.testing.assert_allclose(
            grad, expected_grad, rtol=60 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps
        )


def test_every_order_of_merging_gives_the_same(rng):
    student, teacher = both(0.1, (50, 12), np.float64, rng)
    student[:5], teacher[5:10] = rng.normal(scale=40, size=(2, 5, 12))
    student[10:20, :4] -= 80
    student[20, :2], teacher[20, :2], teacher[21, :3] = -INF, -INF, -INF
    kl = fastce.SoftmaxKLDivergence()
    bounds = [0, 2, 3, 7, 7, 12]
    parts = [
        sharded.summarise(z, t, first, kl, classes=12)
        for (first, z), (_, t) in zip(
            shards_of(student, 1, bounds), shards_of(teacher, 1, bounds), strict=True
        )
    ]
    whole = sharded.summarise(student, teacher, 0, kl, classes=12)
    for order in itertools.permutations(parts):
        left = functools.reduce(sharded.merge, order)
        right = functools.reduce(lambda a, b: sharded.merge(b, a), reversed(order))
        for merged in (left, right):
            np.testing.assert_array_equal(merged.teacher_maximum, whole.teacher_maximum)
            np.testing.assert_array_equal(merged.student_maximum, whole.student_maximum)
            for name in ("teacher_sum", "student_sum", "divergence"):
                a, b = getattr(merged, name), getattr(whole, name)
                np.testing.assert_allclose(a, b, rtol=1e-13, err_msg=name)
            np.testing.assert_allclose(merged.log_ratio, whole.log_ratio, rtol=1e-13, atol=1e-15)


def test_nothing_is_neutral(rng):
    student, teacher = both(1.0, (20, 5), np.float64, rng)
    student[3], teacher[4] = -INF, -INF
    kl = fastce.SoftmaxKLDivergence()
    nothing = sharded.summarise(student[:, :0], teacher[:, :0], 0, kl, classes=5)
    part = sharded.summarise(student, teacher, 0, kl, classes=5)
    assert np.all(nothing.teacher_maximum == -INF)
    for merged in (sharded.merge(nothing, part), sharded.merge(part, nothing)):
        for name, a, b in zip(part._fields, merged, part, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_seven_numbers_a_row_move(rng):
    student, teacher = both(1.0, (4, 5, 6), np.float32, rng)
    part = sharded.summarise(student, teacher, 0, fastce.SoftmaxKLDivergence(axis=1), classes=5)
    packed = part.packed()
    assert packed.dtype == np.float64
    assert packed.shape == (7, 4, 6)
    for a, b in zip(sharded.DivergenceSummary(*packed), part, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_over_processes_too(rng):
    student, teacher = both(1.0, (40, 10), np.float64, rng)
    weight = rng.integers(3, size=40).astype(np.float32)
    kl = fastce.SoftmaxKLDivergence(temperature=2.0)
    expected, expected_grad = kl.value_and_grad(student, teacher, sample_weight=weight)
    groups = np.array_split(np.arange(40), 3)
    totals = [
        sharded.total_weight(teacher[g, :4], kl, classes=10, sample_weight=weight[g])
        for g in groups
    ]
    assert sharded.total_weight(teacher[:, :4], kl, classes=10) == 40
    results = [
        evaluate(
            kl,
            student[g],
            teacher[g],
            [0, 4, 10],
            sample_weight=weight[g],
            normalizer=sum(totals),
        )
        for g in groups
    ]
    assert sum(value for value, _ in results) == pytest.approx(expected, rel=1e-13)
    grad = np.concatenate([grad for _, grad in results])
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-11, atol=1e-16)


def test_in_place_and_of_other_types(rng):
    kl = fastce.SoftmaxKLDivergence(temperature=3.0)
    student, teacher = both(1.0, (40, 300), np.float32, rng)
    part = sharded.summarise(student, teacher, 0, kl, classes=300)
    grad = sharded.gradient(student, teacher, 0, part, part, kl, classes=300)
    for swapped in (student.astype(">f4"), np.asfortranarray(student)):
        again = sharded.gradient(swapped, teacher, 0, part, part, kl, classes=300)
        np.testing.assert_array_equal(again, grad)
    assert (
        sharded.gradient(student, teacher, 0, part, part, kl, classes=300, out=student) is student
    )
    np.testing.assert_array_equal(student, grad)


def test_errors(rng):
    kl, ce = fastce.SoftmaxKLDivergence(), fastce.SoftmaxCrossEntropy()
    student, teacher = both(1.0, (2, 3), np.float64, rng)
    part = sharded.summarise(student, teacher, 0, kl, classes=6)
    of_labels = sharded.summarise(student, [0, 1], 0, ce, classes=6)
    with pytest.raises(TypeError, match="target must be a teacher's logits"):
        sharded.summarise(student, [0, 1], 0, kl, classes=6)
    with pytest.raises(ValueError, match=r"target of shape \(2, 2\) does not fit"):
        sharded.summarise(student, teacher[:, :2], 0, kl, classes=6)
    with pytest.raises(ValueError, match="cannot be merged"):
        sharded.merge(part, of_labels)
    with pytest.raises(ValueError, match="summary must have 7 fields"):
        sharded.finish(of_labels, teacher, kl, classes=6)
    with pytest.raises(ValueError, match="summary must have 3, 5 or 6 fields"):
        sharded.finish(part, [0, 1], ce, classes=6)
    with pytest.raises(ValueError, match=r"\(2,\) does not fit a target of shape \(1,\)"):
        sharded.finish(part, teacher[:1], kl, classes=6)
    with pytest.raises(ValueError, match="out overlaps"):
        sharded.gradient(student, teacher, 0, part, part, kl, classes=6, out=teacher)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_missing_logit_makes_the_gradient_of_excluded_classes_nan_too(dtype, isa):
    nan, out = np.nan, -INF
    student = np.array([[0, nan, out, 1], [0, 2, out, 1], [nan, out, 1, 2], [0, 1, out, 2]], dtype)
    teacher = np.array([[0, 1, out, 1], [0, nan, out, 0], [0, out, 1, 2], [1, 2, out, 0]], dtype)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    for split in ([0, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        loss, grad = evaluate(kl, student, teacher, split)
        assert np.isnan(loss[:3]).all()
        assert np.isnan(grad[:3]).all()
        assert np.isfinite(loss[3])
        assert grad[3, 2] == 0
